//! tests

pub mod postgres;

pub mod engine;
