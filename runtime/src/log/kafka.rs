//! log/kafka
