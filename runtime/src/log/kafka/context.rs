//! What all our clients share: librdkafka's log lines become ours, and waiting for its answers.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use rdkafka::{
    client::ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
};

/// Forwards librdkafka's log lines and errors; nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for Logging {}

/// A log line of librdkafka.
pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // A property of the configuration reaches every client, and each ignores those of other kinds.
    let expected = facility == "CONFWARN" && message.contains("property and will be ignored");
    match level {
        _ if expected => tracing::debug!(kafka.facility = facility, "{message}"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(kafka.facility = facility, "{message}"),
        _ => tracing::debug!(kafka.facility = facility, "{message}"),
    }
}

/// An error that concerns a whole client, such as a broker that went away; it heals by itself.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    tracing::warn!(kafka.error = %error, "Kafka client: {reason}");
}

/// Why a client cannot be made. The value of a property that is refused stays untold: under a name that
/// is misspelt it may be a password.
pub(crate) fn unmade(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, reason, key, _) => format!("the property {key}: {reason}"),
        error => error.to_string(),
    }
}

/// Waits for an answer of librdkafka's own threads from a plain thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
