//! The server that every process with an address uses.
//!
//! [`serve`] wraps a router with what no handler should have to think of: a request id, a total
//! time, limits on headers and connections, a caught panic, and problem documents for unknown
//! paths. [`Attempts`] limits guessing. [`Problem`] is the one error body. [`health_routes`] answers `/health`, `/ready` and
//! `/metrics`; a [`Heartbeat`] tells `/ready` of what hangs. Limits on bodies belong to the routes: [`read_body`]. [`Path`] reads
//! parameters in a path.

mod attempts;
mod body;
mod health;
mod heartbeat;
mod path;
mod problem;
mod request;
mod security;
mod server;

pub use attempts::Attempts;
pub use body::read_body;
pub use health::{Readiness, State, health_routes};
pub use heartbeat::Heartbeat;
pub use path::Path;
pub use problem::Problem;
pub use request::{REQUEST_ID_HEADER, request_id, with_request_id};
pub use security::{allow_origins, is_origin};
pub use server::{Routes, ServeError, ServeOptions, bind, finish, serve, serve_routes};

#[cfg(test)]
mod tests;
