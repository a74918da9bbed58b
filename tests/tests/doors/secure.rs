//! A cluster where everybody signs in, by SCRAM over TLS, and may do what
//! `deploy/kafka/acls.sh` grants, with topics of `deploy/kafka/topics.sh`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    client::ClientContext,
    config::{ClientConfig, FromClientConfigAndContext as _},
    error::RDKafkaErrorCode,
    message::DeliveryResult,
    producer::{BaseRecord, NoCustomPartitioner, ProducerContext, ThreadedProducer},
};
use tests::{
    broker::{Broker, USERS},
    system::System,
};

const PREFIX: &str = "secure";
const PARTITIONS: u32 = 2;

/// Passes on what became of each message.
struct Outcomes(SyncSender<Option<RDKafkaErrorCode>>);

impl ClientContext for Outcomes {}

impl ProducerContext<NoCustomPartitioner> for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        let error = report.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code());
        let _ = self.0.send(error);
    }
}

/// The properties of a client that signs in.
fn properties(broker: &Broker, user: &str) -> Result<Vec<(&'static str, String)>> {
    let (_, password) = USERS.iter().find(|(name, _)| *name == user).context("nobody")?;
    let certificate = broker.certificate();
    Ok(vec![
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
        ("sasl.username", user.to_owned()),
        ("sasl.password", (*password).to_owned()),
        ("ssl.ca.location", certificate.to_str().context("a path that is text")?.to_owned()),
    ])
}

/// Makes Kafka's own tools, as the scripts know them; answers their folder.
fn tools(broker: &Broker, folder: &Path) -> Result<PathBuf> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for (name, class) in [("kafka-acls.sh", "AclCommand"), ("kafka-topics.sh", "TopicCommand")] {
        let tool = broker.tool(&format!("org.apache.kafka.tools.{class}"))?;
        let words = std::iter::once(tool.get_program()).chain(tool.get_args());
        let words: Vec<String> =
            words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let work = tool.get_current_dir().context("no folder")?.display();
        let text = format!("#!/bin/sh\ncd '{work}' && exec {} \"$@\"\n", words.join(" "));
        let program = bin.join(name);
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(bin)
}

/// Runs a script of `deploy/kafka` as whoever may do everything.
fn run(broker: &Broker, tools: &Path, script: &str, arguments: &[&str]) -> Result<()> {
    let path = format!("{}:{}", tools.display(), std::env::var("PATH")?);
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka").join(script);
    let output = Command::new("sh")
        .arg(place)
        .args(arguments)
        .env("PATH", path)
        .env("BOOTSTRAP", broker.bootstrap())
        .env("PREFIX", PREFIX)
        .env("PARTITIONS", PARTITIONS.to_string())
        .env("REPLICATION", "1")
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_writes_the_own_door_and_nothing_else() -> Result<()> {
    let broker = Broker::start_secure()?;
    let folder = tests::postgres::TestFolder::new("acls")?;
    let tools = tools(&broker, folder.path())?;
    // Twice does no harm. `weir migrate` finds its topics, and one of the doors, as they must be.
    for script in ["topics.sh", "acls.sh", "topics.sh", "acls.sh"] {
        run(&broker, &tools, script, &["weir"])?;
    }
    run(&broker, &tools, "topics.sh", &["door", "default"])?;
    let own: Vec<String> = properties(&broker, "weir")?
        .iter()
        .map(|(name, value)| format!("\"{name}\" = \"{value}\""))
        .collect();
    let own = format!("{{{}}}", own.join(", "));
    let address = broker.secure_bootstrap()?;
    let settings = [
        ("WEIR_KAFKA_BROKERS", address.as_str()),
        ("WEIR_LOG__KAFKA__PROPERTIES", own.as_str()),
        ("WEIR_LOG__KAFKA__PREFIX", PREFIX),
    ];
    let system = System::kafka_with(&broker, PARTITIONS, &settings).await?;
    let doors = ["migrate", "--replication", "1", "--door", "default", "--door", "other"];
    system.run("doors", &doors).await?;
    run(&broker, &tools, "acls.sh", &["door", "default", "User:acme"])?;

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &address).set("message.timeout.ms", "30000");
    for (name, value) in properties(&broker, "acme")? {
        config.set(name, value);
    }
    let (sender, outcomes) = sync_channel(16);
    let producer = ThreadedProducer::from_config_and_context(&config, Outcomes(sender))?;
    let event = br#"{"id": "1", "type": "llm.tokens.v1", "subject": "team-01",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 3, "outputTokens": 0}}"#;
    let send = |topic: &str| -> Result<Option<RDKafkaErrorCode>> {
        let topic = format!("{PREFIX}.{topic}");
        let record = BaseRecord::<(), [u8]>::to(&topic).payload(event);
        match producer.send(record) {
            Ok(()) => Ok(outcomes.recv_timeout(Duration::from_secs(60))?),
            Err((error, _)) => Ok(error.rdkafka_error_code()),
        }
    };
    ensure!(send("in.default")?.is_none(), "the own door takes it");
    for topic in ["in.other", "usage", "rated"] {
        let refused = send(topic)?;
        ensure!(
            refused == Some(RDKafkaErrorCode::TopicAuthorizationFailed),
            "{topic}: {refused:?}"
        );
    }
    let counts = system.settled(Some(1)).await?;
    ensure!(counts["rated"] == 1, "{counts:?}");
    Ok(())
}
