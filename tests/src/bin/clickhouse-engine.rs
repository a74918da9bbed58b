//! The engine's process for tests that do not need the whole of `weir`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use runtime::clickhouse::{EngineOptions, engine};

fn main() -> Result<()> {
    let (mut library, mut data, mut listen, mut connections) = (None, None, None, 4);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--library" => library = Some(PathBuf::from(value)),
            "--data" => data = Some(PathBuf::from(value)),
            "--listen" => listen = Some(value.parse::<SocketAddr>()?),
            "--connections" => connections = value.parse()?,
            _ => bail!("unknown argument {name}"),
        }
    }
    engine::serve(EngineOptions {
        library: library.context("--library is missing")?,
        data: data.context("--data is missing")?,
        listen: listen.context("--listen is missing")?,
        connections,
    })?;
    Ok(())
}
