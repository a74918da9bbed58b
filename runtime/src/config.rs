//! Configuration: one commented TOML that is compiled in, then a file, then the environment.
//!
//! `WEIR_SECTION__KEY=value` overrides `key` of `[section]`; deeper keys take more `__`. A few
//! names that everybody knows work as well: see [`WELL_KNOWN`]. A misspelt name is a fault, not a
//! silence. [`Faults`] collects what is wrong with the values, so that a start lists all of it.
//!
//! ```ignore
//! let config: Config = config::load(include_str!("../default.toml"), file.as_deref())?;
//! let mut faults = Faults::default();
//! faults.check(config.drain_s > 0, "server.drain_s", "is 0; give at least one second");
//! faults.finish()?;
//! ```
//!
//! No other module reads the environment.

use std::{collections::BTreeMap, fmt, path::Path};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::de::DeserializeOwned;

mod environment;
mod secret;
mod sections;

pub use environment::{RESERVED, WELL_KNOWN, variable};
pub use secret::Secret;
pub use sections::{
    ClickHouseConfig, KafkaConfig, LocalLogConfig, LogConfig, PostgresConfig, TracesConfig,
};

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key or the variable, such as `postgres.url`; empty when it cannot be told.
    pub key: String,
    /// What is wrong; what to do.
    pub problem: String,
}

/// The configuration cannot be used. Lists everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// All faults, in the order in which they were found; never empty.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the configuration has {} fault(s):", self.faults.len())?;
        for fault in &self.faults {
            match fault.key.as_str() {
                "" => write!(formatter, "\n  - {}", fault.problem)?,
                key => write!(formatter, "\n  - {key}: {}", fault.problem)?,
            }
        }
        Ok(())
    }
}

/// Collects faults, so that they are reported together.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Records a fault of `key` unless `holds`.
    pub fn check(&mut self, holds: bool, key: &str, problem: &str) {
        if !holds {
            self.add(key, problem);
        }
    }

    /// Records a fault of `key`: what is wrong; what to do.
    pub fn add(&mut self, key: &str, problem: impl Into<String>) {
        self.0.push(Fault { key: key.to_owned(), problem: problem.into() });
    }

    /// Takes over the faults of another check.
    pub fn merge(&mut self, checked: Result<(), ConfigError>) {
        if let Err(error) = checked {
            self.0.extend(error.faults);
        }
    }

    /// `Ok` when nothing was recorded.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigError { faults: self.0 }) }
    }
}

/// Loads `T` from `default_toml`, then `file`, then the environment of the process.
///
/// `default_toml` names every section, because a variable of an unknown section is a fault; `T`
/// and its parts carry `#[serde(deny_unknown_fields)]`, so that a misspelt key is one as well.
pub fn load<T: DeserializeOwned>(
    default_toml: &'static str,
    file: Option<&Path>,
) -> Result<T, ConfigError> {
    load_from(default_toml, file, &environment::process())
}

/// [`load`] with the environment given.
fn load_from<T: DeserializeOwned>(
    default_toml: &str,
    file: Option<&Path>,
    variables: &BTreeMap<String, String>,
) -> Result<T, ConfigError> {
    let mut faults = Faults::default();
    let mut figment = Figment::from(Toml::string(default_toml));
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => figment = figment.merge(Toml::string(&text)),
            Err(error) => faults.add(
                "",
                format!("cannot read {}: {error}; name a file that exists", path.display()),
            ),
        }
    }
    let figment = environment::merge(figment, variables, &mut faults);
    let extracted = figment.extract::<T>();
    match (extracted, faults) {
        (Ok(config), faults) => faults.finish().map(|()| config),
        (Err(error), mut faults) => {
            for one in error {
                faults.add(&one.path.join("."), environment::explain(&one));
            }
            Err(ConfigError { faults: faults.0 })
        }
    }
}

#[cfg(test)]
mod tests;
