#!/bin/sh
# Makes Weir's topics, or the door of a tenant, where `weir migrate` may not make topics.
#
#   deploy/kafka/topics.sh weir            # the topics of the pipeline
#   deploy/kafka/topics.sh door acme       # the door of the tenant acme
#
# BOOTSTRAP (host:port,…) names the cluster, COMMAND_CONFIG a file of client properties of a principal
# that may make topics, PREFIX the prefix of topics (weir), PARTITIONS how many they get (16, as
# log.partitions; for the pipeline it is fixed then), REPLICATION how many replicas (3). kafka-topics.sh
# of Apache Kafka must be in PATH. A topic that exists is left as it is; `weir migrate` and
# `weir doctor` judge those of the pipeline.
set -eu

: "${BOOTSTRAP:?set BOOTSTRAP to the address of the cluster}"
prefix=${PREFIX:-weir}
replication=${REPLICATION:-3}
in_sync=1
if [ "$replication" -ge 3 ]; then
    in_sync=2
fi

# make TOPIC BYTES [--config NAME=VALUE]
make() {
    topic=$1 bytes=$2
    shift 2
    if [ -n "${COMMAND_CONFIG:-}" ]; then
        set -- --command-config "$COMMAND_CONFIG" "$@"
    fi
    # The log's clock decides about times; seven days are what a start may read again.
    kafka-topics.sh --bootstrap-server "$BOOTSTRAP" --create --if-not-exists --topic "$prefix.$topic" \
        --partitions "${PARTITIONS:-16}" --replication-factor "$replication" \
        --config message.timestamp.type=LogAppendTime --config cleanup.policy=delete \
        --config retention.ms=604800000 --config "max.message.bytes=$bytes" \
        --config "min.insync.replicas=$in_sync" --config unclean.leader.election.enable=false "$@"
}

case ${1:-} in
weir)
    for topic in usage rated; do
        make "$topic" 16842752 --config compression.type=producer
    done
    ;;
door)
    make "in.${2:?name the tenant}" 4259840
    ;;
*)
    sed -n '2,5p' "$0" >&2
    exit 2
    ;;
esac
