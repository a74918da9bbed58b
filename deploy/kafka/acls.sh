#!/bin/sh
# Grants what Weir's processes and the tools of one tenant may do on a Kafka cluster with ACLs.
#
#   deploy/kafka/acls.sh weir                # Weir's own principal, User:weir
#   deploy/kafka/acls.sh door acme User:acme # what writes to the door of the tenant acme
#
# BOOTSTRAP (host:port,…) names the cluster, COMMAND_CONFIG a file of client properties of a principal
# that may change ACLs, PREFIX the prefix of topics and groups (weir), PRINCIPAL Weir's principal
# (User:weir). kafka-acls.sh of Apache Kafka must be in PATH. Running it again does no harm. Nothing is
# granted on Weir's own topics to anybody else: on a cluster whose brokers have
# allow.everyone.if.no.acl.found=false, nobody else can read or write them.
set -eu

: "${BOOTSTRAP:?set BOOTSTRAP to the address of the cluster}"
prefix=${PREFIX:-weir}
principal=${PRINCIPAL:-User:weir}

grant() {
    if [ -n "${COMMAND_CONFIG:-}" ]; then
        set -- --command-config "$COMMAND_CONFIG" "$@"
    fi
    kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --add "$@"
}

case ${1:-} in
weir)
    # Topics of the pipeline: made by `weir migrate`, written and read by the processes.
    for topic in usage rated; do
        grant --allow-principal "$principal" --topic "$prefix.$topic" \
            --operation Create --operation Describe --operation DescribeConfigs --operation Read --operation Write
    done
    # Doors are made and read.
    grant --allow-principal "$principal" --topic "$prefix.in." --resource-pattern-type prefixed \
        --operation Create --operation Describe --operation DescribeConfigs --operation Read
    grant --allow-principal "$principal" --group "$prefix." --resource-pattern-type prefixed \
        --operation Describe --operation Read
    grant --allow-principal "$principal" --cluster --operation IdempotentWrite --operation Describe
    ;;
door)
    tenant=${2:?name the tenant}
    writer=${3:?name the principal, such as User:$tenant}
    grant --allow-principal "$writer" --topic "$prefix.in.$tenant" --operation Describe --operation Write
    ;;
*)
    sed -n '2,5p' "$0" >&2
    exit 2
    ;;
esac
