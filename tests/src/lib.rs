//! tests

pub mod postgres;

pub mod engine;

pub mod broker;
