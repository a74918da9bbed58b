//! Appends: one idempotent producer, whose delivery reports answer each message on a thread of
//! its own.
//!
//! A producer whose idempotence is lost (librdkafka calls that a fatal error) sends nothing any
//! more. It is replaced, and what it still held is unknown.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    client::ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Message as _},
    producer::{
        BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig,
        ThreadedProducer,
    },
};
use tokio::sync::oneshot;

use super::{
    context::{log_error, log_line, unmade},
    options::KafkaOptions,
    reader::append_time_us,
};
use crate::log::{AppendError, Appended, LogError, MESSAGE_BYTES_MAX};

type Answer = oneshot::Sender<Result<Appended, AppendError>>;
pub(crate) type Client = ThreadedProducer<Reports>;

/// Answers messages by their delivery reports.
pub(crate) struct Reports {
    fatal: Arc<AtomicBool>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Release);
        }
        log_error(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Answer>;

    fn delivery(&self, report: &DeliveryResult<'_>, answer: Box<Answer>) {
        let _ = answer.send(outcome(report));
    }
}

/// What a delivery report says about its message.
fn outcome(report: &DeliveryResult<'_>) -> Result<Appended, AppendError> {
    match report {
        Ok(message) if message.offset() >= 0 => Ok(Appended {
            position: message.offset(),
            append_time_us: append_time_us(message.timestamp()),
        }),
        // The broker has it already from an earlier attempt, and does not say where.
        Ok(_) => Err(AppendError::Unknown("the broker gave no position".to_owned())),
        Err((error, _)) => Err(failed(error)),
    }
}

/// Once a message was handed to librdkafka an attempt may have reached the broker, whatever the
/// last one ended with. Only a size the broker never takes is certain.
fn failed(error: &KafkaError) -> AppendError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::Refused(error.to_string()),
        _ => AppendError::Unknown(error.to_string()),
    }
}

/// How long the last handle waits for what is still on its way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The producer in use.
pub(crate) struct Producer {
    options: KafkaOptions,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    fatal: Arc<AtomicBool>,
}

impl Producer {
    pub(crate) fn create(options: &KafkaOptions) -> Result<Self, LogError> {
        let current = Mutex::new(Current::create(options)?);
        Ok(Self { options: options.clone(), current })
    }

    /// The client in use, for inspections; cheap to clone.
    pub(crate) fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Hands a message to librdkafka, or answers at once why not.
    pub(crate) fn send(&self, topic: &str, partition: u32, payload: &Bytes, answer: Answer) {
        if payload.len() > MESSAGE_BYTES_MAX {
            let fault = format!("{} bytes are more than {MESSAGE_BYTES_MAX}", payload.len());
            let _ = answer.send(Err(AppendError::Refused(fault)));
            return;
        }
        // Held while sending, so that the order of appends survives a replacement.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.fatal.load(Ordering::Acquire)
            && let Err(error) = current.replace(&self.options)
        {
            let _ = answer.send(Err(AppendError::Refused(error.to_string())));
            return;
        }
        let record = BaseRecord::<(), [u8], Box<Answer>>::with_opaque_to(topic, Box::new(answer))
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .payload(payload.as_ref());
        if let Err((error, record)) = current.client.send(record) {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                current.fatal.store(true, Ordering::Release);
            }
            let refused = AppendError::Refused(error.to_string());
            let _ = record.delivery_opaque.send(Err(refused));
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.client().flush(DRAIN_TIMEOUT);
    }
}

impl Current {
    fn create(options: &KafkaOptions) -> Result<Self, LogError> {
        let fatal = Arc::new(AtomicBool::new(false));
        let reports = Reports { fatal: Arc::clone(&fatal) };
        let client = ThreadedProducer::from_config_and_context(&options.producer(), reports)
            .map_err(|error| LogError::Broken(format!("the Kafka producer: {}", unmade(&error))))?;
        Ok(Self { client, fatal })
    }

    fn replace(&mut self, options: &KafkaOptions) -> Result<(), LogError> {
        let old = std::mem::replace(self, Self::create(options)?);
        tracing::warn!("the Kafka producer lost its idempotence and was replaced");
        // What it still holds is reported as purged, which is unknown.
        old.client.purge(PurgeConfig::default().queue().inflight());
        std::thread::Builder::new()
            .name("log-replaced".into())
            .spawn(move || drop(old))
            .map(drop)
            .map_err(|error| LogError::Broken(format!("starting a thread failed: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, time::Duration};

    use rdkafka::{bindings, types::RDKafkaRespErr};

    use super::*;
    use crate::log::Topic;

    /// Loses the client's idempotence, as librdkafka offers it for tests.
    #[expect(unsafe_code, reason = "librdkafka's test hook has no safe binding")]
    fn lose_idempotence(client: &Client) {
        let reason = CString::new("a test").unwrap();
        let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        // SAFETY: the client outlives the call, and librdkafka copies the reason.
        let answer = unsafe {
            bindings::rd_kafka_test_fatal_error(client.client().native_ptr(), code, reason.as_ptr())
        };
        assert_eq!(answer, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    }

    fn send(producer: &Producer) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, pending) = oneshot::channel();
        producer.send("weir.one", 0, &Bytes::from_static(b"x"), answer);
        pending
    }

    #[test]
    fn a_producer_that_lost_its_idempotence_is_replaced_and_what_it_held_is_unknown() {
        // Nobody listens there: what is sent waits in the client.
        let mut options = KafkaOptions::new("127.0.0.1:1", &[Topic("one")]);
        options.properties.insert("message.timeout.ms".to_owned(), "1000".to_owned());
        let producer = Producer::create(&options).unwrap();
        let held = send(&producer);
        let before = producer.client();
        lose_idempotence(&before);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let after = loop {
            let after = send(&producer);
            let replaced = producer.client().client().native_ptr() != before.client().native_ptr();
            if replaced {
                break after;
            }
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        };
        for pending in [held, after] {
            let outcome = pending.blocking_recv().unwrap();
            assert!(matches!(outcome, Err(AppendError::Unknown(_))), "{outcome:?}");
        }
    }
}
