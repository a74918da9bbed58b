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
jar=$target/lib/kafka_$scala-$version.jar

# Brokers of this version need Java 17.
java_is_new_enough() {
    java_version=$(java -XshowSettings:properties -version 2>&1 |
        sed -n 's/^ *java\.specification\.version = \([0-9]*\)$/\1/p')
    [ "${java_version:-0}" -ge 17 ]
}

missing=
java_is_new_enough || missing="openjdk-17-jre-headless|openjdk-21-jre-headless"
if [ ! -f "$jar" ]; then
    command -v mvn >/dev/null || missing="$missing maven"
fi
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    "$(dirname "$0")/apt.sh" $missing
fi
if ! java_is_new_enough; then
    echo "java is older than 17: $(command -v java); put a newer one first in PATH" >&2
    exit 1
fi

if [ -f "$jar" ]; then
    echo "$target/lib"
    exit 0
fi

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
if ! mv -T "$work/kafka" "$target" 2>/dev/null && [ ! -f "$jar" ]; then
    echo "cannot move $work/kafka to $target" >&2
    exit 1
fi
echo "$target/lib"
