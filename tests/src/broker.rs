//! A real Kafka broker for tests: one JVM in a folder of its own, gone with the value, and gone
//! too when the test's process dies in any way.
//!
//! The jars come from `deploy/setup/kafka.sh`.

use std::{
    fs,
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use runtime::config::variable;

use crate::{postgres::TestFolder, process::freeze, proxy::Proxy};

/// The version that `deploy/setup/kafka.sh` fetches.
const VERSION: &str = "4.1.1";
/// Any 16 bytes in base64; a broker alone needs no other.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// A start takes about 5 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const JVM: &[&str] = &["-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A running (or killed, or paused) broker.
#[derive(Debug)]
pub struct Broker {
    running: Option<Running>,
    port: u16,
    /// What it tells clients to connect to: its own port, or that of a proxy.
    advertised: u16,
    /// Where clients must sign in.
    secure: Option<u16>,
    /// Further ports, each for those that come by one proxy.
    apart: Vec<u16>,
    /// The ports of the other nodes of its cluster.
    others: Vec<u16>,
    folder: TestFolder,
}

#[derive(Debug)]
struct Running {
    java: Child,
    watchdog: Child,
}

impl Broker {
    /// Starts a broker on free ports and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(None, false, &[])
    }

    /// [`Broker::start`], with a second address where clients sign in by SCRAM over TLS, and where only
    /// what an ACL allows is allowed. Whoever comes by the first address may do everything.
    pub fn start_secure() -> Result<Self> {
        Self::start_with(None, true, &[])
    }

    /// `host:port` for clients that sign in.
    pub fn secure_bootstrap(&self) -> Result<String> {
        Ok(format!("127.0.0.1:{}", self.secure.context("nobody signs in to this broker")?))
    }

    /// The certificate that clients who sign in must trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// [`Broker::start`], with all clients going through `proxy`.
    pub fn start_behind(proxy: &Proxy) -> Result<Self> {
        Self::start_behind_each(proxy, &[])
    }

    /// [`Broker::start_behind`], where each proxy of `apart` is a way of its own: whoever came by it
    /// once stays with it.
    pub fn start_behind_each(proxy: &Proxy, apart: &[&Proxy]) -> Result<Self> {
        let ports: Vec<u16> = apart.iter().map(|proxy| proxy.port()).collect();
        let broker = Self::start_with(Some(proxy.port()), false, &ports)?;
        proxy.forward_to(broker.port);
        for (proxy, port) in apart.iter().zip(&broker.apart) {
            proxy.forward_to(*port);
        }
        Ok(broker)
    }

    /// Starts a cluster of three, each a broker and a controller, and waits until they answer. What is
    /// written is on two of them before it is acknowledged.
    pub fn start_three() -> Result<[Self; 3]> {
        let ports = free_ports(6)?;
        let (ports, controllers) = ports.split_at(3);
        let make = |node: usize| -> Result<Self> {
            let folder = TestFolder::new("kafka")?;
            let (port, controller) = (ports[node], controllers[node]);
            let mut properties = properties(&folder, port, port, controller);
            properties.push_str(&properties_of_three(node, controllers));
            fs::write(folder.path().join("server.properties"), properties)?;
            fs::write(folder.path().join("log4j2.properties"), LOGGING)?;
            format(&folder, false)?;
            let others = ports.iter().copied().filter(|other| *other != port).collect();
            // None answers before two of them run.
            let running = Some(Running::start(folder.path())?);
            Ok(Self {
                running,
                port,
                advertised: port,
                secure: None,
                apart: Vec::new(),
                others,
                folder,
            })
        };
        let mut nodes = [make(0)?, make(1)?, make(2)?];
        for node in &mut nodes {
            node.wait_until_it_answers()?;
        }
        Ok(nodes)
    }

    /// How many copies of everything its cluster can keep.
    pub fn replication(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether each copy of each partition has all that was written.
    pub fn is_in_sync(&self) -> Result<bool> {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create()?;
        let metadata = client.fetch_metadata(None, ANSWER_TIMEOUT)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        Ok(partitions.all(|partition| partition.isr().len() == partition.replicas().len()))
    }

    fn start_with(advertised: Option<u16>, secure: bool, by: &[u16]) -> Result<Self> {
        let folder = TestFolder::new("kafka")?;
        let mut apart = free_ports(3 + by.len())?;
        let ports: Vec<u16> = apart.drain(..3).collect();
        let (port, controller, secure_port) = (ports[0], ports[1], ports[2]);
        let secure = secure.then_some(secure_port);
        let advertised = advertised.unwrap_or(port);
        let mut properties = properties(&folder, port, advertised, controller);
        if let Some(secure) = secure {
            make_certificate(&folder)?;
            properties.push_str(&secure_properties(&folder, (port, controller, secure)));
        }
        if !apart.is_empty() {
            let main = (port, advertised, controller);
            properties.push_str(&properties_of_ways(main, &apart, by));
        }
        fs::write(folder.path().join("server.properties"), properties)?;
        fs::write(folder.path().join("log4j2.properties"), LOGGING)?;
        format(&folder, secure.is_some())?;
        let others = Vec::new();
        let mut broker = Self { running: None, port, advertised, secure, apart, others, folder };
        broker.restart()?;
        Ok(broker)
    }

    /// `host:port` for clients, of every node.
    pub fn bootstrap(&self) -> String {
        let ports = std::iter::once(&self.advertised).chain(&self.others);
        ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// One of Kafka's own tools, by the name of its class; its folder is the broker's.
    pub fn tool(&self, class: &str) -> Result<Command> {
        let mut command = java(self.folder.path())?;
        command.arg(class).stdin(Stdio::null());
        Ok(command)
    }

    /// Its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }

    /// Its process id.
    pub fn id(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("the broker was killed")?.java.id())
    }

    /// Whether it has ended, by itself or not.
    pub fn has_ended(&mut self) -> Result<bool> {
        match &mut self.running {
            Some(running) => Ok(running.java.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it again on the same data and ports, ending it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.running = None;
        self.running = Some(Running::start(self.folder.path())?);
        self.wait_until_it_answers().with_context(|| {
            let log = fs::read_to_string(self.folder.path().join("broker.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            format!("its log ends with\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, nothing answers.
    pub fn pause(&self) -> Result<()> {
        freeze(self.running.as_ref().context("the broker was killed")?.java.id())
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref().context("the broker was killed")?;
        Ok(kill(Pid::from_raw(i32::try_from(running.java.id())?), signal)?)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while answers(self.port).is_err() {
            let running = self.running.as_mut().context("the broker was killed")?;
            if let Some(status) = running.java.try_wait()? {
                bail!("the broker ended with {status}");
            }
            ensure!(Instant::now() < deadline, "the broker did not answer in {START_TIMEOUT:?}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Running {
    fn start(folder: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(folder.join("broker.log"))?;
        let java = java(folder)?
            .args(["kafka.Kafka", "server.properties"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting java")?;
        // Its standard input ends when this process does, even by SIGKILL. (A parent-death signal
        // would be tied to the thread that started the broker.)
        let watchdog = Command::new("sh")
            .args(["-c", r#"read -r _; kill -9 "$1"; rm -rf "$2""#, "watchdog"])
            .arg(java.id().to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting sh")?;
        Ok(Self { java, watchdog })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.java.kill();
        let _ = self.java.wait();
    }
}

/// The folder of Kafka's jars.
fn jars() -> Result<PathBuf> {
    let cache = || -> Result<PathBuf> {
        match variable("XDG_CACHE_HOME") {
            Some(cache) => Ok(PathBuf::from(cache)),
            None => Ok(Path::new(&variable("HOME").context("HOME is not set")?).join(".cache")),
        }
    };
    let tools = match variable("WEIR_TOOLS") {
        Some(tools) => PathBuf::from(tools),
        None => cache()?.join("weir"),
    };
    let lib = tools.join(format!("kafka-{VERSION}-tools/lib"));
    ensure!(lib.is_dir(), "Kafka is not in {}: run deploy/setup/kafka.sh", lib.display());
    Ok(lib)
}

fn java(folder: &Path) -> Result<Command> {
    let mut command = Command::new("java");
    command
        .args(JVM)
        .arg("-Dlog4j2.configurationFile=log4j2.properties")
        .arg("-cp")
        .arg(jars()?.join("*"))
        .current_dir(folder);
    Ok(command)
}

/// Names and passwords of those who may sign in.
pub const USERS: [(&str, &str); 2] = [("weir", "weir-secret"), ("acme", "acme-secret")];

fn make_certificate(folder: &TestFolder) -> Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=broker",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder.path())
        .output()
        .context("starting openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    let mut store = fs::read(folder.path().join("key.pem"))?;
    store.extend(fs::read(folder.path().join("certificate.pem"))?);
    Ok(fs::write(folder.path().join("keystore.pem"), store)?)
}

/// Later lines of a file of properties stand.
fn secure_properties(folder: &TestFolder, (port, controller, secure): (u16, u16, u16)) -> String {
    let keystore = folder.path().join("keystore.pem");
    format!(
        "listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
         sasl.enabled.mechanisms=SCRAM-SHA-256\n\
         listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={}\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\n",
        keystore.display()
    )
}

fn format(folder: &TestFolder, secure: bool) -> Result<()> {
    let users =
        USERS.map(|(name, password)| format!("SCRAM-SHA-256=[name={name},password={password}]"));
    let users = users.iter().filter(|_| secure).flat_map(|user| ["--add-scram", user.as_str()]);
    let output = java(folder.path())?
        .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties"])
        .args(users)
        .output()
        .context("starting java: run deploy/setup/kafka.sh, which installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "formatting the broker's folder failed: {said}");
    Ok(())
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are bound before any is let go, so that they differ.
    let bind = |_| TcpListener::bind("127.0.0.1:0");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(|one| Ok(one.local_addr()?.port())).collect::<std::io::Result<_>>()?)
}

/// Later lines of a file of properties stand. Each way has a listener of its own, which tells clients
/// to come by its proxy.
fn properties_of_ways(
    (port, advertised, controller): (u16, u16, u16),
    apart: &[u16],
    by: &[u16],
) -> String {
    let ways = |ports: &[u16]| {
        let way = |(place, port): (usize, &u16)| format!(",WAY{place}://127.0.0.1:{port}");
        ports.iter().enumerate().map(way).collect::<String>()
    };
    let plain = (0..apart.len()).map(|place| format!(",WAY{place}:PLAINTEXT")).collect::<String>();
    format!(
        "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}{}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{plain}\n\
         num.network.threads=1\n",
        ways(apart),
        ways(by)
    )
}

/// Later lines of a file of properties stand. A node that says nothing loses its partitions after 2 s.
fn properties_of_three(node: usize, controllers: &[u16]) -> String {
    let voter = |(place, port): (usize, &u16)| format!("{}@127.0.0.1:{port}", place + 1);
    let voters = controllers.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
    format!(
        "node.id={}\n\
         controller.quorum.voters={voters}\n\
         offsets.topic.replication.factor=3\n\
         transaction.state.log.replication.factor=3\n\
         transaction.state.log.min.isr=2\n\
         share.coordinator.state.topic.replication.factor=3\n\
         share.coordinator.state.topic.min.isr=2\n\
         broker.heartbeat.interval.ms=500\n\
         broker.session.timeout.ms=2000\n",
        node + 1
    )
}

/// Asks for the API versions, the request that every broker answers to everyone.
fn answers(port: u16) -> Result<()> {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&REQUEST)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    ensure!(answer[4..] == [0, 0, 0, 7], "not the answer to our request");
    Ok(())
}

fn properties(folder: &TestFolder, port: u16, advertised: u16, controller: u16) -> String {
    let data = folder.path().join("data");
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.num.partitions=4\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n",
        data.display()
    )
}

const LOGGING: &str = "\
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c: %m%n
";
