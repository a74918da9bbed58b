//! All SQL of the binary: setting up a database, tenants and API keys.

pub mod books;
pub mod confirmed;
pub mod keys;
pub mod measures;
pub mod plain;
pub mod private;
pub mod roles;
pub mod schema;
pub mod secrets;
pub mod stored;
pub mod tenants;
