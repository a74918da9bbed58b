//! Tests of [`super`].

use super::*;

const DEFAULT: &str = r#"
[server]
listen = "127.0.0.1:0"
drain_s = 20
json = true

[postgres]
url = ""
connections = 8

[clickhouse]
url = ""
database = "weir"
user = "default"
password = ""

[log]
partitions = 16
[log.local]
segment_bytes = 4096
trim = false
retention_hours = 24
[log.kafka]
brokers = ""
prefix = "weir."
"#;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    listen: String,
    drain_s: u32,
    json: bool,
    workers: Option<u32>,
    tags: Option<Vec<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    server: Server,
    postgres: PostgresConfig,
    clickhouse: ClickHouseConfig,
    log: LogConfig,
}

fn from(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    load_from(DEFAULT, None, &variables.collect())
}

#[test]
fn the_default_alone_is_enough() {
    let config = from(&[]).unwrap();
    assert_eq!(config.server.drain_s, 20);
    assert_eq!(config.log.partitions, 16);
    assert_eq!(config.log.directory, None);
    assert!(config.log.kafka.properties.is_empty());
}

#[test]
fn the_environment_overrides_with_the_type_of_the_default() {
    let config = from(&[
        ("WEIR_SERVER__LISTEN", "12345"),
        ("WEIR_SERVER__DRAIN_S", "3"),
        ("WEIR_SERVER__JSON", "false"),
        ("WEIR_SERVER__WORKERS", "4"),
        ("WEIR_SERVER__TAGS", "[\"a\", \"b\"]"),
        ("WEIR_CLICKHOUSE__PASSWORD", "0012"),
        ("WEIR_LOG__DIRECTORY", "/somewhere"),
        ("WEIR_LOG__KAFKA__PREFIX", "x."),
        ("DATABASE_URL", "postgres://a:b@c/d"),
        ("CLICKHOUSE_URL", ""),
        ("WEIR_KAFKA_BROKERS", "one:9092,two:9092"),
        ("WEIR_MASTER_KEY", "reserved"),
        ("HOME", "/"),
    ])
    .unwrap();
    assert_eq!(config.server.listen, "12345");
    assert_eq!((config.server.drain_s, config.server.json), (3, false));
    assert_eq!(config.server.workers, Some(4));
    assert_eq!(config.server.tags.unwrap(), ["a", "b"]);
    assert_eq!(config.clickhouse.password.expose(), "0012");
    assert_eq!(config.clickhouse.url, "");
    assert_eq!(config.log.directory.unwrap(), Path::new("/somewhere"));
    assert_eq!(config.log.kafka.prefix, "x.");
    assert_eq!(config.log.kafka.brokers, "one:9092,two:9092");
    assert_eq!(config.postgres.url.expose(), "postgres://a:b@c/d");
}

#[test]
fn the_file_is_between_the_default_and_the_environment() {
    let path = std::env::temp_dir().join(format!("weir-config-{}.toml", uuid::Uuid::now_v7()));
    std::fs::write(
        &path,
        "[server]\ndrain_s = 7\nlisten = \"a\"\n[log.kafka.properties]\n\"security.protocol\" = \"ssl\"\n",
    )
    .unwrap();
    let variables = BTreeMap::from([("WEIR_SERVER__LISTEN".to_owned(), "b".to_owned())]);
    let config = load_from::<Config>(DEFAULT, Some(&path), &variables);
    std::fs::remove_file(&path).unwrap();
    let config = config.unwrap();
    assert_eq!((config.server.drain_s, config.server.listen.as_str()), (7, "b"));
    assert_eq!(config.log.kafka.properties["security.protocol"], "ssl");
    let missing = load_from::<Config>(DEFAULT, Some(&path), &variables).unwrap_err();
    assert!(missing.to_string().contains("name a file that exists"), "{missing}");
}

#[test]
fn faults_are_reported_together_and_without_values() {
    let error = from(&[
        ("WEIR_SEVER__LISTEN", "x"),
        ("WEIR_LISTEN", "x"),
        ("WEIR_SERVER__DRAIN_S", "hunter2"),
        ("WEIR_SERVER__TYPO", "1"),
    ])
    .unwrap_err();
    let text = error.to_string();
    for expected in ["WEIR_SEVER__LISTEN", "WEIR_LISTEN", "clickhouse, log, postgres, server"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(text.contains("drain_s") || text.contains("typo"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");

    let mut faults = Faults::default();
    faults.check(true, "a", "is fine");
    faults.check(false, "b", "is 0; give one");
    faults.add("c", "is empty; set it");
    faults.merge(Err(error.clone()));
    let all = faults.finish().unwrap_err();
    assert_eq!(all.faults.len(), 2 + error.faults.len());
    assert!(all.to_string().contains("\n  - b: is 0; give one\n  - c: is empty; set it"), "{all}");
    assert_eq!(Faults::default().finish(), Ok(()));
}

#[test]
fn an_unknown_key_names_the_known_ones() {
    let text = from(&[("WEIR_SERVER__DRAIN", "1")]).unwrap_err().to_string();
    assert!(text.contains("drain") && text.contains("drain_s"), "{text}");
}

#[test]
fn a_secret_is_not_printed() {
    let config = from(&[("DATABASE_URL", "postgres://a:hunter2@c/d")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let wrong = from(&[("WEIR_POSTGRES__URL", "x"), ("WEIR_CLICKHOUSE__PASSWORD", "hunter2")]);
    assert!(!format!("{wrong:?}").contains("hunter2"));
    #[derive(Debug, serde::Deserialize)]
    struct One {
        #[expect(dead_code, reason = "only its error matters")]
        key: Secret,
    }
    let error = load_from::<One>("key = 1.5", None, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("must be text") && !error.contains("1.5"), "{error}");
}
