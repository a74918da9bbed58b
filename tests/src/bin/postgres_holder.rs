//! Starts a private Postgres in the folder given, prints its process id and URL, and waits to be
//! killed: the test of what a killed parent leaves behind needs a parent.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use runtime::postgres::server::{Server, ServerOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: postgres_holder FOLDER")?;
    let options = ServerOptions { shared_buffers_mb: 16, ..ServerOptions::new(folder) };
    let server = Server::start(options).await?;
    let mut output = std::io::stdout();
    writeln!(output, "{}\n{}", server.pid(), server.superuser_url().expose())?;
    output.flush()?;
    server.ended().await;
    Ok(())
}
