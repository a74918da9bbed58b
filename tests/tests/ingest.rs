//! Ingest: bodies in every form, limits, credentials, shared blocks and a log that hangs, on a real
//! local log and a real Postgres.

#![expect(clippy::disallowed_methods, reason = "requests run beside the test, which awaits them")]

#[path = "ingest/answers.rs"]
mod answers;
#[path = "ingest/forms.rs"]
mod forms;
#[path = "ingest/keys.rs"]
mod keys;
#[path = "ingest/limits.rs"]
mod limits;
#[path = "ingest/log.rs"]
mod log;
#[path = "ingest/whole.rs"]
mod whole;
#[path = "ingest/world.rs"]
mod world;
