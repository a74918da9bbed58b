//! Ports at which nobody answers.

use anyhow::Result;
use tokio::net::TcpSocket;

/// A port that is kept, so that no other process gets it, and at which nobody listens: connections are
/// refused. Free again when this is dropped.
#[derive(Debug)]
pub struct Nobody(TcpSocket);

impl Nobody {
    /// At any port.
    pub fn new() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self(socket))
    }

    /// Its port.
    pub fn port(&self) -> Result<u16> {
        Ok(self.0.local_addr()?.port())
    }
}
