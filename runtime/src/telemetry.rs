//! Logs for machines, metrics for Prometheus, and a hook that logs panics.
//!
//! Every process calls [`init`] first, makes its metrics in one documented struct from
//! [`Metrics`], and serves them at `/metrics` (`http::health_routes`).

use std::{
    any::Any,
    collections::HashMap,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use prometheus::{Encoder, HistogramOpts, Opts, Registry, TextEncoder, core::Collector};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// Buckets for durations from half a millisecond to half a minute, in seconds.
pub const DURATION_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log filter {filter:?} is not one; write it like info,sqlx=warn")]
    Filter {
        /// The filter given.
        filter: String,
    },
    /// A metric is declared wrongly, or twice with another type.
    #[error("metric {name}: {reason}")]
    Metric {
        /// Name of the metric.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Starts logging to stderr: JSON, or lines for people. Later calls in the same process change
/// nothing. Panics are logged as errors, whatever catches them.
pub fn init(json: bool, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|_| TelemetryError::Filter { filter: filter.to_owned() })?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        let layer = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
        registry.with(layer).try_init()
    } else {
        registry.with(fmt::layer().compact().with_writer(io::stderr)).try_init()
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        place,
        error = crate::task::panic_text(panic.payload()),
        "panic"
    );
}

/// A registry of metrics. Asking twice for the same name gives the same metric, so that two
/// roles in one process, or two tests, do not collide.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
    known: Arc<Mutex<HashMap<String, Box<dyn Any + Send>>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// An empty registry, for tests and for a process with several.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry of this process.
    pub fn process() -> Self {
        static PROCESS: OnceLock<Metrics> = OnceLock::new();
        PROCESS.get_or_init(Self::new).clone()
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, TelemetryError> {
        self.register(name, || IntCounter::new(name, help))
    }

    /// Counters told apart by `labels`, whose values must be few.
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, TelemetryError> {
        self.register(name, || IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, TelemetryError> {
        self.register(name, || IntGauge::new(name, help))
    }

    /// Gauges told apart by `labels`, whose values must be few.
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, TelemetryError> {
        self.register(name, || IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// Gauges of things that are not counted, told apart by `labels`, whose values must be few.
    pub fn amounts(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, TelemetryError> {
        self.register(name, || GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram; [`DURATION_BUCKETS_S`] fits durations.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, TelemetryError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(name, || Histogram::with_opts(options))
    }

    /// Histograms told apart by `labels`, whose values must be few.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, TelemetryError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(name, || HistogramVec::new(options, labels))
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    fn register<M: Collector + Clone + 'static>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<M, prometheus::Error>,
    ) -> Result<M, TelemetryError> {
        let fault = |reason: String| TelemetryError::Metric { name: name.to_owned(), reason };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = known.get(name) {
            let same = metric.downcast_ref::<M>().cloned();
            return same.ok_or_else(|| fault("is declared with two types".to_owned()));
        }
        let metric = make().map_err(|error| fault(error.to_string()))?;
        self.registry
            .register(Box::new(metric.clone()))
            .map_err(|error| fault(error.to_string()))?;
        known.insert(name.to_owned(), Box::new(metric.clone()));
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_metric_twice_is_one_and_another_type_is_refused() {
        let metrics = Metrics::new();
        metrics.counter("things_total", "Things.").unwrap().inc();
        metrics.counter("things_total", "Things.").unwrap().inc();
        metrics
            .counters("kinds_total", "Kinds.", &["kind"])
            .unwrap()
            .with_label_values(&["a"])
            .inc();
        let text = metrics.render();
        assert!(text.contains("\nthings_total 2\n"), "{text}");
        assert!(text.contains("kinds_total{kind=\"a\"} 1"), "{text}");
        assert!(metrics.gauge("things_total", "Things.").is_err());
        assert!(metrics.counter("not a name", "?").is_err());
    }
}
