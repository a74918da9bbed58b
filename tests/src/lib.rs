//! tests

pub mod postgres;

pub mod engine;

pub mod forged;

pub mod harness;

pub mod believers;

pub mod broker;

pub mod canaries;

pub mod nobody;
pub mod oracle;
pub mod owed;

pub mod process;

pub mod proxy;

pub mod seed;

pub mod signed;

pub mod simulation;

pub mod system;

pub mod wait;
