//! tests

pub mod postgres;

pub mod engine;

pub mod broker;

pub mod oracle;

pub mod process;

pub mod proxy;

pub mod system;
