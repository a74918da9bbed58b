//! One file per command.

pub mod bench;
pub mod catalog;
pub mod clickhouse_engine;
pub mod config;
pub mod doctor;
pub mod hints;
pub mod keys;
pub mod migrate;
pub mod rejected;
pub mod replay;
pub mod role;
pub mod status;
pub mod tenants;
pub mod up;
pub mod verify;
