//! A TCP proxy that fails where a test wants it to, and counts what it did.
//!
//! It knows nothing of the protocol. Its worst faults: requests arrive and their answers do not
//! ([`Fault::DropAnswers`]), requests arrive long after whoever sent them has given them up
//! ([`Fault::HoldRequests`], then [`Proxy::cut_and_keep`] and [`Proxy::deliver`]), and everything ends right before or
//! after a certain request ([`Fault::Before`], [`Fault::After`]).

mod pace;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::WriteHalf},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    time::timeout,
};

use self::pace::{Arrived, be_late, piece_of, wait_after_a_piece};

/// What a connection holds at most; beyond it the sender waits.
const HELD_BYTES_MAX: usize = 64 << 20;
/// How long the server may take over requests that were delivered late.
const LATE_TIME_MAX: Duration = Duration::from_secs(5);

/// What happens from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: everything passes.
    None,
    /// Requests arrive, answers do not. A connection that lost some of an answer is reset when
    /// this ends.
    DropAnswers,
    /// Requests wait, what was answered before passes.
    HoldRequests,
    /// Whatever arrives, in either direction, passes this much later.
    Delay(Duration),
    /// New connections are reset at once, those that exist work.
    Refuse,
    /// A request with these bytes does not arrive: it strikes, which resets every connection and
    /// refuses others from then on.
    Before(&'static str),
    /// A request with these bytes arrives, and when it is answered it strikes; the answer is lost.
    After(&'static str),
    /// A request with these bytes waits until this ends.
    Hold(&'static str),
    /// New connections are accepted and nothing is ever said on them; those that exist work.
    HalfOpen,
    /// One way is dead: requests vanish, answers pass. A connection that lost some of a request is
    /// reset when this ends.
    DropRequests,
    /// One byte a second, either way.
    Trickle,
    /// So many bytes a second pass on each connection, either way.
    Narrow(usize),
    /// So many more bytes of answers pass on each connection, then it is reset.
    Truncate(usize),
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections carried.
    pub connections: u64,
    /// Bytes of answers that reached nobody.
    pub dropped_bytes: u64,
    /// Bytes of requests that arrived while their answers were dropped.
    pub unanswered_bytes: u64,
    /// Bytes of requests that arrived after their connection was cut.
    pub late_bytes: u64,
    /// Pieces that were delayed.
    pub delayed: u64,
    /// Connections reset.
    pub cut: u64,
    /// Connections refused.
    pub refused: u64,
    /// Times that [`Fault::Before`] or [`Fault::After`] struck.
    pub struck: u64,
    /// Connections accepted and left alone.
    pub half_open: u64,
    /// Bytes of requests that reached nobody.
    pub vanished_bytes: u64,
    /// Bytes that passed by themselves, a second apart.
    pub trickled: u64,
    /// Pieces after which the next one had to wait, because only so many bytes a second pass.
    pub narrowed: u64,
    /// Answers cut off.
    pub truncated: u64,
}

impl Counts {
    /// What was done after `before`.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            connections: self.connections - before.connections,
            dropped_bytes: self.dropped_bytes - before.dropped_bytes,
            unanswered_bytes: self.unanswered_bytes - before.unanswered_bytes,
            late_bytes: self.late_bytes - before.late_bytes,
            delayed: self.delayed - before.delayed,
            cut: self.cut - before.cut,
            refused: self.refused - before.refused,
            struck: self.struck - before.struck,
            half_open: self.half_open - before.half_open,
            vanished_bytes: self.vanished_bytes - before.vanished_bytes,
            trickled: self.trickled - before.trickled,
            narrowed: self.narrowed - before.narrowed,
            truncated: self.truncated - before.truncated,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    dropped_bytes: AtomicU64,
    unanswered_bytes: AtomicU64,
    late_bytes: AtomicU64,
    delayed: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    struck: AtomicU64,
    half_open: AtomicU64,
    vanished_bytes: AtomicU64,
    trickled: AtomicU64,
    narrowed: AtomicU64,
    truncated: AtomicU64,
}

/// How all connections are cut.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    /// The how manieth.
    number: u64,
    /// Whether the requests that are held are kept.
    keep: bool,
}

#[derive(Clone)]
struct Shared {
    target: Arc<AtomicU16>,
    fault: watch::Sender<Fault>,
    cut: watch::Sender<Cut>,
    /// Up to which cut what was kept has been delivered.
    deliveries: watch::Sender<u64>,
    counters: Arc<Counters>,
}

impl Shared {
    fn cut_with(&self, keep: bool) {
        self.cut.send_modify(|cut| *cut = Cut { number: cut.number + 1, keep });
    }

    /// Lets nothing through any more. The error resets the connection that it happened on.
    fn strike(&self) -> anyhow::Error {
        self.fault.send_replace(Fault::Refuse);
        self.cut_with(false);
        count(&self.counters.struck, 1);
        anyhow::anyhow!("struck")
    }
}

/// Whether a piece of a request has these bytes. One that is torn right there is not seen.
fn has(piece: &[u8], bytes: &str) -> bool {
    piece.windows(bytes.len()).any(|window| window == bytes.as_bytes())
}

/// A proxy on a port of its own. Its connections end with it.
pub struct Proxy {
    port: u16,
    shared: Shared,
    // Of its own, so that it works on while a test blocks.
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Listens. Connections are reset until [`Proxy::forward_to`] was called.
    pub fn listen() -> Result<Proxy> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Shared {
            target: Arc::default(),
            fault: watch::Sender::new(Fault::None),
            cut: watch::Sender::new(Cut::default()),
            deliveries: watch::Sender::default(),
            counters: Arc::default(),
        };
        let listening = shared.clone();
        runtime.spawn(async move {
            if let Ok(listener) = TcpListener::from_std(listener) {
                accept(&listener, &listening).await;
            }
        });
        Ok(Proxy { port, shared, runtime: Some(runtime) })
    }

    /// Listens before the server at `port`.
    pub fn before(port: u16) -> Result<Proxy> {
        let proxy = Proxy::listen()?;
        proxy.forward_to(port);
        Ok(proxy)
    }

    /// Where clients go.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's `url` by way of this proxy.
    pub fn through(&self, url: &str) -> Result<String> {
        let target = format!(":{}", self.shared.target.load(Ordering::SeqCst));
        let (host, path) = url.split_once(&target).context("a URL of another server")?;
        Ok(format!("{host}:{}{path}", self.port))
    }

    /// Where connections go from now on.
    pub fn forward_to(&self, port: u16) {
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// Sets what happens from now on.
    pub fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// Resets every connection; requests that are held are lost.
    pub fn cut(&self) {
        self.shared.cut_with(false);
    }

    /// Resets every connection for its client; the requests that are held are kept.
    pub fn cut_and_keep(&self) {
        self.shared.cut_with(true);
    }

    /// The server gets the requests that were kept, and its answers reach nobody.
    pub fn deliver(&self) {
        self.shared.deliveries.send_replace(self.shared.cut.borrow().number);
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counts {
            connections: read(&counters.connections),
            dropped_bytes: read(&counters.dropped_bytes),
            unanswered_bytes: read(&counters.unanswered_bytes),
            late_bytes: read(&counters.late_bytes),
            delayed: read(&counters.delayed),
            cut: read(&counters.cut),
            refused: read(&counters.refused),
            struck: read(&counters.struck),
            half_open: read(&counters.half_open),
            vanished_bytes: read(&counters.vanished_bytes),
            trickled: read(&counters.trickled),
            narrowed: read(&counters.narrowed),
            truncated: read(&counters.truncated),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::SeqCst);
}

async fn accept(listener: &TcpListener, shared: &Shared) {
    while let Ok((client, _)) = listener.accept().await {
        let target = shared.target.load(Ordering::SeqCst);
        if *shared.fault.borrow() == Fault::Refuse || target == 0 {
            count(&shared.counters.refused, 1);
            let _ = client.set_zero_linger();
            continue;
        }
        if *shared.fault.borrow() == Fault::HalfOpen {
            count(&shared.counters.half_open, 1);
            tokio::spawn(keep_silent(client, shared.fault.subscribe()));
            continue;
        }
        count(&shared.counters.connections, 1);
        let shared = shared.clone();
        // Before anything is awaited, so that no cut is missed.
        let (cut, deliveries) = (shared.cut.subscribe(), shared.deliveries.subscribe());
        tokio::spawn(async move { carry(client, target, &shared, cut, deliveries).await });
    }
}

/// Holds a connection until the fault is another one, then resets it.
async fn keep_silent(client: TcpStream, mut changes: watch::Receiver<Fault>) {
    let _ = changes.wait_for(|fault| *fault != Fault::HalfOpen).await;
    let _ = client.set_zero_linger();
}

/// Carries a connection until both sides have closed it, or it is cut or damaged.
async fn carry(
    mut client: TcpStream,
    target: u16,
    shared: &Shared,
    mut cut: watch::Receiver<Cut>,
    mut deliveries: watch::Receiver<u64>,
) {
    let _ = client.set_nodelay(true);
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = server.set_nodelay(true);
    let mut held = Vec::new();
    let last_request = AtomicBool::new(false);
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (to_requests, arrived_requests) = pace::pieces();
        let (to_answers, arrived_answers) = pace::pieces();
        tokio::select! {
            // First, so that a fault that ends right after a cut lets nothing through.
            biased;
            _ = cut.changed() => Err(anyhow::anyhow!("cut")),
            all = async { tokio::try_join!(
                pace::take(from_client, to_requests),
                requests(arrived_requests, to_server, &mut held, &last_request, shared),
                pace::take(from_server, to_answers),
                answers(arrived_answers, to_client, &last_request, shared),
            ) } => all.map(|_| ()),
        }
    };
    if ended.is_ok() {
        return;
    }
    count(&shared.counters.cut, 1);
    let _ = client.set_zero_linger();
    drop(client);
    let Cut { number, keep } = *cut.borrow();
    if keep && !held.is_empty() && deliveries.wait_for(|to| *to >= number).await.is_ok() {
        let _ = deliver(server, &held, shared).await;
    }
}

/// Writes what was held, and waits until the server has seen the end of it.
async fn deliver(mut server: TcpStream, held: &[u8], shared: &Shared) -> Result<()> {
    count(&shared.counters.late_bytes, held.len());
    server.write_all(held).await?;
    server.shutdown().await?;
    let mut answer = [0; 1024];
    let drained = async { while matches!(server.read(&mut answer).await, Ok(1..)) {} };
    timeout(LATE_TIME_MAX, drained).await.context("the server has not closed")
}

/// Passes requests on through `held`, where they stay when the connection is cut.
async fn requests(
    mut arrived: mpsc::Receiver<Arrived>,
    mut to: WriteHalf<'_>,
    held: &mut Vec<u8>,
    last_request: &AtomicBool,
    shared: &Shared,
) -> Result<()> {
    let mut changes = shared.fault.subscribe();
    let (mut open, mut damaged) = (true, false);
    while open || !held.is_empty() {
        tokio::select! {
            piece = arrived.recv(), if open && held.len() < HELD_BYTES_MAX => match piece {
                None => open = false,
                Some(piece) => {
                    let fault = *changes.borrow();
                    be_late(&piece, fault, &shared.counters).await;
                    held.extend_from_slice(&piece.bytes);
                }
            },
            changed = changes.changed() => changed?,
        }
        let fault = *changes.borrow_and_update();
        if damaged && fault != Fault::DropRequests {
            bail!("the rest of a torn request means nothing");
        }
        match fault {
            Fault::HoldRequests => continue,
            Fault::DropRequests => {
                damaged |= !held.is_empty();
                count(&shared.counters.vanished_bytes, held.len());
                held.clear();
                continue;
            }
            Fault::Hold(bytes) if has(held, bytes) => continue,
            Fault::Before(bytes) if has(held, bytes) => return Err(shared.strike()),
            Fault::After(bytes) if has(held, bytes) => last_request.store(true, Ordering::SeqCst),
            Fault::DropAnswers => count(&shared.counters.unanswered_bytes, held.len()),
            _ => {}
        }
        // Not `write_all`: a cut in the midst of it must know what has arrived.
        while !held.is_empty() {
            let fault = *changes.borrow();
            let length = to.write(&held[..piece_of(fault, held.len())]).await?;
            held.drain(..length);
            wait_after_a_piece(fault, &mut changes, &shared.counters).await;
        }
    }
    Ok(to.shutdown().await?)
}

/// Passes answers on; fails when the connection is to be reset.
async fn answers(
    mut arrived: mpsc::Receiver<Arrived>,
    mut to: WriteHalf<'_>,
    last_request: &AtomicBool,
    shared: &Shared,
) -> Result<()> {
    let mut changes = shared.fault.subscribe();
    let (mut damaged, mut passed) = (false, 0);
    loop {
        let piece = tokio::select! {
            piece = arrived.recv() => Some(piece),
            changed = changes.changed() => { changed?; passed = 0; None }
        };
        let fault = *changes.borrow_and_update();
        if damaged && fault != Fault::DropAnswers {
            bail!("the rest of a torn answer means nothing");
        }
        let Some(piece) = piece else { continue };
        if last_request.load(Ordering::SeqCst) {
            return Err(shared.strike());
        }
        let Some(piece) = piece else { return Ok(to.shutdown().await?) };
        be_late(&piece, fault, &shared.counters).await;
        match fault {
            Fault::DropAnswers => {
                damaged = true;
                count(&shared.counters.dropped_bytes, piece.bytes.len());
                continue;
            }
            Fault::Truncate(bytes) if passed + piece.bytes.len() > bytes => {
                to.write_all(&piece.bytes[..bytes - passed]).await?;
                count(&shared.counters.truncated, 1);
                bail!("cut off");
            }
            _ => {}
        }
        passed += piece.bytes.len();
        let mut rest = piece.bytes.as_slice();
        while !rest.is_empty() {
            let fault = *changes.borrow();
            let (now, more) = rest.split_at(piece_of(fault, rest.len()));
            to.write_all(now).await?;
            rest = more;
            wait_after_a_piece(fault, &mut changes, &shared.counters).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net, thread,
        time::Instant,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Sends back whatever it gets, and remembers it.
    fn echo() -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, seen) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, sender) = (stream.unwrap(), sender.clone());
                thread::spawn(move || {
                    let mut chunk = [0; 100];
                    while let Ok(length @ 1..) = stream.read(&mut chunk) {
                        let _ = sender.send(chunk[..length].to_vec());
                        let _ = stream.write_all(&chunk[..length]);
                    }
                });
            }
        });
        (port, seen)
    }

    fn connect(proxy: &Proxy) -> net::TcpStream {
        let stream = net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(stream: &mut net::TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Twenty pieces, sent one after the other, arrive one after the other: not each after the one before has arrived.
    fn pieces_are_late_together(
        proxy: &Proxy,
        stream: &mut net::TcpStream,
        seen: &std::sync::mpsc::Receiver<Vec<u8>>,
    ) {
        let late = Duration::from_millis(400);
        proxy.set(Fault::Delay(late));
        let before = proxy.counts().delayed;
        let began = Instant::now();
        for _ in 0..20 {
            stream.write_all(b"0123456789").unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        stream.read_exact(&mut [0; 200]).unwrap();
        assert!(began.elapsed() >= late * 2, "both ways are slow");
        // Were the next one taken only after the one before, all but the first would be one.
        let pieces = proxy.counts().delayed - before;
        assert!(pieces >= 10, "{pieces} pieces");
        let mut arrived = 0;
        while arrived < 200 {
            arrived += seen.recv_timeout(PATIENCE).unwrap().len();
        }
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let proxy = Proxy::listen().unwrap();
        let mut early = connect(&proxy);
        assert!(ask(&mut early, b"x").is_err(), "there is nowhere to go yet");
        let (port, seen) = echo();
        proxy.forward_to(port);
        let mut first = connect(&proxy);
        assert_eq!(ask(&mut first, b"hello").unwrap(), b"hello");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"hello");

        proxy.set(Fault::Delay(Duration::from_millis(100)));
        let began = Instant::now();
        assert_eq!(ask(&mut first, b"slow").unwrap(), b"slow");
        assert!(began.elapsed() >= Duration::from_millis(200), "both ways are slow");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"slow");
        pieces_are_late_together(&proxy, &mut first, &seen);

        proxy.set(Fault::DropAnswers);
        first.write_all(b"lost").unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"lost");
        while proxy.counts().dropped_bytes < 4 {
            thread::yield_now();
        }
        proxy.set(Fault::None);
        assert!(first.read(&mut [0; 10]).is_err(), "a torn connection is reset");

        proxy.set(Fault::Refuse);
        assert!(ask(&mut connect(&proxy), b"x").is_err());
        proxy.set(Fault::None);

        let mut second = connect(&proxy);
        assert_eq!(ask(&mut second, b"again").unwrap(), b"again");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"again");
        proxy.set(Fault::HoldRequests);
        second.write_all(b"late").unwrap();
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err(), "it waits");
        proxy.cut_and_keep();
        proxy.set(Fault::None);
        assert!(second.read(&mut [0; 10]).is_err());
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err(), "it is kept");
        proxy.deliver();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"late");

        let mut third = connect(&proxy);
        assert_eq!(ask(&mut third, b"end").unwrap(), b"end");
        proxy.cut();
        assert!(third.read(&mut [0; 10]).is_err());

        let mut fourth = connect(&proxy);
        proxy.set(Fault::Hold("stay"));
        assert_eq!(ask(&mut fourth, b"go").unwrap(), b"go");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"end");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"go");
        fourth.write_all(b"stay").unwrap();
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err(), "it waits");
        proxy.set(Fault::Before("stop"));
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"stay");
        fourth.read_exact(&mut [0; 4]).unwrap();
        fourth.write_all(b"stop").unwrap();
        assert!(fourth.read(&mut [0; 10]).is_err());
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err(), "it does not arrive");
        assert!(ask(&mut connect(&proxy), b"x").is_err(), "nothing does any more");

        proxy.set(Fault::After("last"));
        let mut fifth = connect(&proxy);
        fifth.write_all(b"last").unwrap();
        assert!(fifth.read(&mut [0; 10]).is_err());
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"last");
        let counts = proxy.counts();
        let expected = Counts {
            half_open: 0,
            vanished_bytes: 0,
            trickled: 0,
            narrowed: 0,
            truncated: 0,
            connections: 5,
            dropped_bytes: 4,
            unanswered_bytes: 4,
            late_bytes: 4,
            delayed: counts.delayed,
            cut: 5,
            refused: 3,
            struck: 2,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn half_a_connection_is_none() {
        let (port, seen) = echo();
        let proxy = Proxy::before(port).unwrap();
        let short = Duration::from_millis(200);
        let mut first = connect(&proxy);
        assert_eq!(ask(&mut first, b"hello").unwrap(), b"hello");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"hello");

        proxy.set(Fault::HalfOpen);
        let mut silent = connect(&proxy);
        silent.set_read_timeout(Some(short)).unwrap();
        assert!(ask(&mut silent, b"anybody?").is_err(), "nobody answers");
        assert_eq!(ask(&mut first, b"works").unwrap(), b"works");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"works");

        proxy.set(Fault::DropRequests);
        first.write_all(b"vanishes").unwrap();
        assert!(seen.recv_timeout(short).is_err(), "it does not arrive");
        while proxy.counts().vanished_bytes < 8 {
            thread::yield_now();
        }
        proxy.set(Fault::None);
        assert!(first.read(&mut [0; 10]).is_err(), "a torn connection is reset");
        assert!(ask(&mut silent, b"x").is_err(), "and so is one that was left alone");

        let mut second = connect(&proxy);
        proxy.set(Fault::Truncate(3));
        second.write_all(b"abcdef").unwrap();
        let mut cut_off = Vec::new();
        let _ = second.read_to_end(&mut cut_off);
        assert!(cut_off.len() <= 3, "{cut_off:?}");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"abcdef");

        proxy.set(Fault::Trickle);
        let mut third = connect(&proxy);
        let began = Instant::now();
        assert_eq!(ask(&mut third, b"ab").unwrap(), b"ab");
        assert!(began.elapsed() > Duration::from_secs(1), "a second lies between two bytes");

        proxy.set(Fault::Narrow(200));
        let mut fourth = connect(&proxy);
        let began = Instant::now();
        assert_eq!(ask(&mut fourth, &[b'x'; 100]).unwrap(), [b'x'; 100]);
        // Nine pauses either way, of which some pass at the same time.
        assert!(began.elapsed() >= Duration::from_millis(450), "100 bytes take half a second");
        let counts = proxy.counts();
        assert!(counts.narrowed >= 18, "{counts:?}");
        assert_eq!((counts.half_open, counts.vanished_bytes, counts.truncated), (1, 8, 1));
        assert!(counts.trickled >= 3, "{counts:?}");
    }
}
