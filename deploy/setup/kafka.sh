#!/bin/sh
# Fetches Apache Kafka, broker and command-line tools, from its published jars and prints the folder
# that holds them.
#
#   deploy/setup/kafka.sh        # -> ~/.cache/weir/kafka-4.1.1-tools/lib
#
# Set WEIR_TOOLS to keep tools elsewhere. Running it again, or twice at once, does no harm.
# Installs a Java runtime and Maven with apt where they are missing.
set -eu

version=4.1.1
scala=2.13
tools=${WEIR_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
target=$tools/kafka-$version-tools

if [ -f "$target/lib/kafka_$scala-$version.jar" ]; then
    echo "$target/lib"
    exit 0
fi

install_with_apt() {
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    export DEBIAN_FRONTEND=noninteractive
    if ! $as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >&2; then
        $as_root apt-get -o DPkg::Lock::Timeout=300 update >&2
        $as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >&2
    fi
}

command -v java >/dev/null || install_with_apt openjdk-17-jre-headless
command -v mvn >/dev/null || install_with_apt maven

mkdir -p "$tools"
work=$(mktemp -d "$tools/.kafka-XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>weir</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_$scala</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.1</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>2.25.1</version>
    </dependency>
  </dependencies>
</project>
POM

mvn -B -q -f "$work/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$work/kafka/lib" >&2

# The folder appears whole or not at all; who comes second leaves the first one's in place.
if ! mv -T "$work/kafka" "$target" 2>/dev/null && [ ! -f "$target/lib/kafka_$scala-$version.jar" ]; then
    echo "cannot move $work/kafka to $target" >&2
    exit 1
fi
echo "$target/lib"
