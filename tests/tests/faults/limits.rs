//! F22 and F23: little memory, no descriptors left, and clients that take what others need.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use benches::measure;
use tests::harness::{contained::contained, disk::LogFrom, oracle::Usage, world::World};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// As fast as clients are answered.
const RATE: u64 = 1_000_000;
/// What `weir up` may take beyond what it has at rest, as `docs/OPERATIONS.md` says.
const ROOM_MIB: u64 = 512;
/// Descriptors that ingest may still take: more than its usual clients, who keep their connections.
const SPARE: usize = 400;
/// Connections that want each of them; fewer may wait than a listener's queue holds.
const WANTED_BY: usize = 2;
/// Nobody answers, when nothing has come for so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clients that send a byte a second, at each address; half of them in a request's body.
const SLOW: usize = 100;
/// Longer than a request may take.
const SLOW_TIME: Duration = Duration::from_secs(45);
/// Descriptors that come and go by themselves.
const USUAL: usize = 100;
/// Descriptors that the test needs for itself, and all processes for each other.
const OURS: usize = 2_000;

#[test]
#[ignore = "make test-deep does it"]
fn of_memory() -> Result<()> {
    contained("limits::of_memory", |run| async move {
        let mut world = World::embedded(&run, 4).await?;
        memory_is_limited(&mut world).await?;
        let before = world.snapshot().await?;
        no_more_memory(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

#[test]
#[ignore = "make test-deep does it"]
fn of_descriptors() -> Result<()> {
    contained("limits::of_descriptors", |run| async move {
        let mut world = World::on_kafka(&run, 8).await?;
        no_descriptors_are_left(&mut world).await?;
        let before = world.snapshot().await?;
        clients_say_nothing_or_little(&mut world).await?;
        let mut rest = world.rest().await?;
        rest.check(Some(&before)).await
    })
}

/// Sets a limit of a process that runs, such as `--nofile=64:`.
fn limit(process: u32, what: &str) -> Result<()> {
    let output = Command::new("prlimit")
        .args(["--pid", &process.to_string(), what])
        .stdin(Stdio::null())
        .output()
        .context("prlimit (util-linux) is not installed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "prlimit {what}: {said}");
    Ok(())
}

/// What a process may have at most, now and ever: `Max open files`.
fn limits(process: u32, what: &str) -> Result<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/limits"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).context("no such limit")?;
    let mut words = line.split_whitespace().map(str::to_owned);
    Ok((words.next().context("no limit")?, words.next().context("no limit")?))
}

/// Memory that a process may write to and has to itself, in KiB: what the limit counts.
fn own_memory_kib(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:"));
    Ok(line.context("no VmData")?.split_whitespace().next().context("no number")?.parse()?)
}

/// F22: as much load as clients can make, with the memory that the documents name: it lives.
async fn memory_is_limited(world: &mut World) -> Result<()> {
    world.moment().await?;
    let up = world.system.process("up")?.id();
    let most = (own_memory_kib(up)? + (ROOM_MIB << 10)) << 10;
    limit(up, &format!("--data={most}:"))?;
    ensure!(limits(up, "Max data size")?.0 == most.to_string(), "the limit was not set");
    let before = world.traffic.tally();
    let (began, mut held) = (Instant::now(), 0);
    world.traffic.send_at(RATE);
    while began.elapsed() < Duration::from_secs(world.tier.overload_s) {
        held = held.max(measure::tree_memory_kib(&measure::tree(up, &measure::processes())));
        sleep(Duration::from_millis(500)).await;
    }
    world.traffic.send_at(world.tier.rate);
    let process = world.system.process("up")?;
    ensure!(process.is_running()?, "it ended:\n{}", process.log_tail());
    let now = world.traffic.tally();
    let rate = (now.accepted - before.accepted) as f64 / began.elapsed().as_secs_f64();
    world.story.count("F22", 1);
    world.story.tell(format!(
        "F22: {rate:.0} events/s, {} times 503; {} MiB of {} MiB allowed; with Postgres and the engine {} MiB were held",
        now.unavailable - before.unavailable,
        own_memory_kib(up)? >> 10,
        most >> 20,
        held >> 10
    ));
    world.traffic.flow(world.plan.window).await
}

/// F22: one that has just started gets no more than it has: it lives with that, or ends and is started
/// again. What was acknowledged is there in any case.
async fn no_more_memory(world: &mut World) -> Result<()> {
    let (code, _) = world.system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "SIGTERM ended weir up with {code:?}");
    world.system.start("up").await?;
    let (up, before) = (world.system.process("up")?.id(), world.traffic.tally().accepted);
    limit(up, "--data=0:")?;
    world.traffic.send_at(RATE);
    let (began, end) = (Instant::now(), Duration::from_secs(world.tier.overload_s));
    while world.system.process("up")?.is_running()? && began.elapsed() < end {
        sleep(Duration::from_millis(50)).await;
    }
    world.traffic.send_at(world.tier.rate);
    let accepted = world.traffic.tally().accepted - before;
    let lived = world.system.process("up")?.is_running()?;
    world.story.count("F22", 1);
    world.story.tell(format!(
        "F22: without more memory {accepted} events were accepted in {:?}; it lived: {lived}",
        began.elapsed()
    ));
    ensure!(accepted > 0 || !lived, "it lives and accepts nothing");
    if lived {
        limit(up, "--data=unlimited:")?;
    } else {
        let _ = world.system.take("up")?;
        world.system.start("up").await?;
    }
    world.traffic.flow(world.plan.window).await
}

/// Where a process listens, `host:port`.
fn address(world: &World, name: &str) -> Result<String> {
    Ok(world.system.base(name)?.trim_start_matches("http://").to_owned())
}

/// Connections on which nothing is said.
async fn idle(address: &str, count: usize) -> Result<Vec<TcpStream>> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(timeout(PATIENCE, TcpStream::connect(address)).await??);
    }
    Ok(sockets)
}

/// Whether a new connection is answered.
async fn answers(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        stream.read_u8().await
    };
    matches!(timeout(PATIENCE, ask).await, Ok(Ok(_)))
}

/// F23: ingest has no descriptors left; clients go to the other one, and when they leave it serves again.
async fn no_descriptors_are_left(world: &mut World) -> Result<()> {
    world.moment().await?;
    let (ingest, address) = (world.system.process("ingest")?.id(), address(world, "ingest")?);
    let log = LogFrom::now(&world.system.folder().join("ingest.log"))?;
    let (usual, _) = limits(ingest, "Max open files")?;
    let most = Usage::of(ingest)?.descriptors + SPARE;
    limit(ingest, &format!("--nofile={most}:"))?;
    most_descriptors()?;
    let sockets = idle(&address, WANTED_BY * SPARE).await?;
    let silent = async |_: &World| Ok((!answers(&address).await).then_some(()));
    world.until("nobody is answered any more", silent).await?;
    let said = async |_: &World| log.line_with("could not be accepted");
    let said = world.until("ingest says why", said).await?;
    world.traffic.flow(4 * world.plan.window).await?;
    let open = Usage::of(ingest)?.descriptors;
    drop(sockets);
    let healed = Instant::now();
    let again = async |_: &World| Ok(answers(&address).await.then_some(()));
    world.until("new connections are answered again", again).await?;
    world.story.count("F23", 1);
    world.story.tell(format!(
        "F23: {open} of {most} descriptors of ingest in use: {said:?}; answers again after {:?}",
        healed.elapsed()
    ));
    limit(ingest, &format!("--nofile={usual}:"))
}

/// The test may open as many files as this machine lets it.
fn most_descriptors() -> Result<usize> {
    let ourselves = std::process::id();
    let (_, hard) = limits(ourselves, "Max open files")?;
    limit(ourselves, &format!("--nofile={hard}:"))?;
    Ok(hard.parse().unwrap_or(usize::MAX))
}

/// F23: thousands of connections that say nothing, and clients that send a byte a second.
async fn clients_say_nothing_or_little(world: &mut World) -> Result<()> {
    world.moment().await?;
    let names = ["ingest", "ingest.2", "api"];
    let each =
        (most_descriptors()?.saturating_sub(OURS) / names.len()).min(world.tier.idle_sockets);
    let (mut before, mut sockets, mut slow) = (Vec::new(), Vec::new(), JoinSet::new());
    for name in names {
        let address = address(world, name)?;
        before.push(Usage::of(world.system.process(name)?.id())?.descriptors);
        sockets.extend(idle(&address, each).await?);
        for number in 0..SLOW {
            let head = slow_request(&address, &world.tenants[0].key, number % 2 == 0);
            slow.spawn(a_byte_a_second(address.clone(), head));
        }
    }
    let good = |world: &World| world.prober.seen().statuses.get(&200).copied().unwrap_or_default();
    let (began, answered) = (Instant::now(), good(world));
    while began.elapsed() < SLOW_TIME {
        world.traffic.flow(world.plan.window).await?;
    }
    let asked = good(world) - answered;
    ensure!(asked > 0, "the api answered nobody else");
    let mut open = Vec::new();
    for name in names {
        open.push(Usage::of(world.system.process(name)?.id())?.descriptors);
    }
    ensure!(open.iter().all(|open| *open > each), "{open:?} descriptors for {each} connections");
    let given_up = cut_short(&mut slow);
    ensure!(given_up > 0, "nobody who was slow was given up");
    drop((sockets, slow));
    world.story.count("F23", names.len() as u64);
    world.story.tell(format!(
        "F23: {each} idle and {SLOW} slow clients at each of {names:?}, {open:?} descriptors; \
         {given_up} slow ones were given up; meanwhile the api answered {asked} others"
    ));
    descriptors_are_back(world, &names, &before).await
}

/// The beginning of a request that will not end soon: in its head, or in its body.
fn slow_request(address: &str, key: &str, in_body: bool) -> String {
    let head =
        format!("POST /v1/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n");
    let end = "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n[";
    if in_body { head + end } else { head + "X-Slow: " }
}

/// Sends it, then a byte a second until the other side has had enough.
async fn a_byte_a_second(address: String, head: String) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    while timeout(Duration::from_secs(1), stream.read_u8()).await.is_err() {
        stream.write_all(b" ").await?;
    }
    Ok(())
}

/// How many of them have ended.
fn cut_short(slow: &mut JoinSet<Result<()>>) -> usize {
    let mut ended = 0;
    while slow.try_join_next().is_some() {
        ended += 1;
    }
    ended
}

async fn descriptors_are_back(world: &mut World, names: &[&str], before: &[usize]) -> Result<()> {
    let mut processes = Vec::new();
    for name in names {
        processes.push(world.system.process(name)?.id());
    }
    let closed = async |_: &World| {
        let open: Result<Vec<Usage>> = processes.iter().map(|pid| Usage::of(*pid)).collect();
        let back = |(open, before): (&Usage, &usize)| open.descriptors <= before + USUAL;
        Ok(open?.iter().zip(before).all(back).then_some(()))
    };
    world.until("connections are closed", closed).await
}
