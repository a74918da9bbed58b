//! log/local
