//! The rules of Weir, pure: no input or output, no clock, no randomness, no async.
//!
//! Reading order: [`money`] and [`quantity`] (exact numbers), [`time`], [`event`] (what a client
//! reports and how it is identified), [`token`] (what an app may sign), [`llm_usage`] (what a
//! provider's usage object says), [`formula`], [`meter`], [`rate_card`], [`period`], [`pricing`], [`offer`] and
//! [`catalog`] (what counts and what it costs), [`resolve`] (which price applies), [`rating`] (an event
//! becomes lines), [`exchange`] (what an amount is shown as in another currency), [`wallet`] (which lot pays for them), [`chain`] (which rated batches count), and
//! [`wire`] (the formats between processes, defined in `docs/FORMATS.md`).

pub mod catalog;
pub mod chain;
pub mod event;
pub mod exchange;
pub mod formula;
pub mod llm_usage;
pub mod meter;
pub mod money;
pub mod offer;
pub mod partition;
pub mod period;
pub mod planted;
pub mod preview;
pub mod pricing;
pub mod quantity;
pub mod rate_card;
pub mod rating;
pub mod resolve;
pub mod time;
pub mod token;
pub mod wallet;
pub mod wire;
