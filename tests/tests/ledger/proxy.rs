//! A proxy before Postgres that can swallow the answer of a COMMIT, or the COMMIT itself.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use runtime::config::Secret;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What happens to the next COMMITs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None = 0,
    /// It reaches Postgres, its answer reaches nobody.
    LoseAnswer = 1,
    /// It does not reach Postgres.
    LoseCommit = 2,
}

pub struct Proxy {
    port: u16,
    fault: Arc<AtomicU8>,
    hits: Arc<AtomicU32>,
}

impl Proxy {
    /// Listens before the Postgres at `port`.
    pub async fn start(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let (fault, hits) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicU32::new(0)));
        let (faults, counted) = (Arc::clone(&fault), Arc::clone(&hits));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (faults, counted) = (Arc::clone(&faults), Arc::clone(&counted));
                tokio::spawn(async move {
                    let _ = carry(client, port, &faults, &counted).await;
                });
            }
        });
        Ok(Proxy { port: own, fault, hits })
    }

    /// The same database through this proxy.
    pub fn through(&self, url: &Secret, port: u16) -> Result<Secret> {
        let (before, after) = url.expose().split_once(&format!(":{port}/")).context("a port")?;
        Ok(Secret::new(format!("{before}:{}/{after}", self.port)))
    }

    /// Sets what happens from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// How many COMMITs were hit.
    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::SeqCst)
    }
}

/// Ends, and with it both connections, when either side does or a fault hits.
async fn carry(mut client: TcpStream, port: u16, fault: &AtomicU8, hits: &AtomicU32) -> Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            length = client.read(&mut asked) => {
                let chunk = &asked[..length?];
                if chunk.is_empty() {
                    return Ok(());
                }
                let commit = chunk.windows(6).any(|window| window == b"COMMIT");
                let fault = fault.load(Ordering::SeqCst);
                if commit && fault != Fault::None as u8 {
                    hits.fetch_add(1, Ordering::SeqCst);
                    if fault == Fault::LoseAnswer as u8 {
                        server.write_all(chunk).await?;
                        // Its answer says that it happened; nobody else hears of it.
                        let _ = server.read(&mut answered).await?;
                    }
                    return Ok(());
                }
                server.write_all(chunk).await?;
            }
            length = server.read(&mut answered) => {
                let chunk = &answered[..length?];
                if chunk.is_empty() {
                    return Ok(());
                }
                client.write_all(chunk).await?;
            }
        }
    }
}
