//! Traces: one sampled request is followed from its caller through gateway, rater, ledger and archive
//! to a real collector's protocol; what is not sampled leaves no trace, and a collector that is away
//! disturbs nobody.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result, ensure};
use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value as AnyValue,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tests::{broker::Broker, process::Http, system::System, wait::eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

type Spans = Arc<Mutex<Vec<(String, Span)>>>;

/// A collector: spans with the service that sent them.
struct Collector {
    url: String,
    spans: Spans,
    server: tokio::task::JoinHandle<()>,
}

impl Collector {
    async fn start() -> Result<Collector> {
        let spans = Spans::default();
        let routes =
            Router::new().route("/v1/traces", post(collect)).with_state(Arc::clone(&spans));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Collector { url, spans, server })
    }

    fn of_trace(&self, trace: &str) -> BTreeMap<String, Span> {
        let spans = self.spans.lock().unwrap();
        let own = spans.iter().filter(|(_, span)| hexadecimal(&span.trace_id) == trace);
        own.map(|(_, span)| (span.name.clone(), span.clone())).collect()
    }

    fn traces(&self) -> Vec<String> {
        let spans = self.spans.lock().unwrap();
        let mut traces: Vec<_> =
            spans.iter().map(|(_, span)| hexadecimal(&span.trace_id)).collect();
        traces.sort_unstable();
        traces.dedup();
        traces
    }
}

async fn collect(State(spans): State<Spans>, body: Bytes) -> Vec<u8> {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    for resource in request.resource_spans {
        let attributes = resource.resource.expect("a resource").attributes;
        let service = attributes.iter().find(|attribute| attribute.key == "service.name");
        let service = service.and_then(|service| service.value.as_ref()?.value.clone());
        let Some(AnyValue::StringValue(service)) = service else { panic!("no service.name") };
        let own = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.lock().unwrap().extend(own.map(|span| (service.clone(), span)));
    }
    ExportTraceServiceResponse::default().encode_to_vec()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(span: &Span, name: &str) -> Option<i64> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value {
        Some(AnyValue::IntValue(number)) => Some(number),
        _ => None,
    }
}

async fn send(http: &Http, id: &str, traceparent: Option<&str>) -> Result<String> {
    let body = format!(
        r#"{{"id":"{id}","type":"llm.tokens.v1","source":"t","subject":"team-1","data":{{"provider":"openai","model":"gpt-4-turbo","inputTokens":3,"outputTokens":1}}}}"#
    );
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.post(format!("{}/v1/events", http.base)).bearer_auth(http.key());
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let answer = request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?
        .error_for_status()?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
    Ok(answer["results"][0]["receipt"].as_str().context("no receipt")?.to_owned())
}

/// The service that tells of each span, of roles that are processes of their own.
const SERVICES: [(&str, &str); 5] = [
    ("POST /v1/events", "weir-ingest"),
    ("append", "weir-ingest"),
    ("archive", "weir-archiver"),
    ("post", "weir-ledger-writer"),
    ("rate", "weir-rater"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_request_is_followed_to_the_ledger_and_the_archive() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = settings(&collector);
    let system = System::embedded_with(&settings, &[], &[]).await?;
    follow(&collector, &system).await?;

    // Without a collector everything goes on.
    collector.server.abort();
    let traceparent = format!("00-{}-{CALLER}-01", "2".repeat(32));
    send(&system.ingest()?, "without", Some(&traceparent)).await?;
    let counts = system.settled(Some(4)).await?;
    assert_eq!(counts["rated"], 4, "{counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_followed_through_processes_of_their_own() -> Result<()> {
    let collector = Collector::start().await?;
    let broker = Broker::start()?;
    let system = System::kafka_with(&broker, 2, &settings(&collector)).await?;
    follow(&collector, &system).await?;
    {
        let spans = collector.spans.lock().unwrap();
        let of_trace = spans.iter().filter(|(_, span)| hexadecimal(&span.trace_id) == TRACE);
        let services: BTreeMap<&str, &str> =
            of_trace.map(|(service, span)| (span.name.as_str(), service.as_str())).collect();
        assert_eq!(services, BTreeMap::from(SERVICES));
    }
    // To Postgres they are called the same.
    let mut postgres = system.postgres().await?;
    let names: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT application_name FROM pg_stat_activity")
            .fetch_all(&mut postgres)
            .await?;
    for (_, service) in SERVICES {
        assert!(names.iter().any(|name| name == service), "{service} is not among {names:?}");
    }
    Ok(())
}

/// Only what the caller has sampled is followed.
fn settings(collector: &Collector) -> [(&str, &str); 2] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("WEIR_TELEMETRY__TRACES__ONE_IN", "0"),
    ]
}

/// Sends three requests, one of which is sampled, and looks at its spans.
async fn follow(collector: &Collector, system: &System) -> Result<()> {
    let http = system.ingest()?;
    send(&http, "unsampled", Some(&format!("00-{}-{CALLER}-00", "1".repeat(32)))).await?;
    send(&http, "undecided", None).await?;
    let receipt = send(&http, "sampled", Some(&format!("00-{TRACE}-{CALLER}-01"))).await?;
    let names = ["POST /v1/events", "append", "archive", "post", "rate"];
    eventually("all spans of the request", async || {
        let spans = collector.of_trace(TRACE);
        Ok(names.iter().all(|name| spans.contains_key(*name)))
    })
    .await?;

    let spans = collector.of_trace(TRACE);
    ensure!(spans.keys().eq(names.iter()), "{:?}", spans.keys());
    let parent = |name: &str| hexadecimal(&spans[name].parent_span_id);
    let own = |name: &str| hexadecimal(&spans[name].span_id);
    assert_eq!(parent("POST /v1/events"), CALLER);
    assert_eq!(parent("append"), own("POST /v1/events"));
    assert_eq!(parent("rate"), own("POST /v1/events"));
    assert_eq!(parent("post"), own("rate"));
    assert_eq!(parent("archive"), own("rate"));
    for span in spans.values() {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    assert_eq!(spans["POST /v1/events"].kind, SpanKind::Server as i32);
    assert_eq!(number(&spans["POST /v1/events"], "http.response.status_code"), Some(200));

    // The spans say where the event went: the receipt's partition and position, and beyond.
    let receipt: Vec<i64> = receipt.split(':').map(str::parse).collect::<Result<_, _>>()?;
    for name in ["append", "rate", "post", "archive"] {
        assert_eq!(number(&spans[name], "weir.partition"), Some(receipt[0]), "{name}");
    }
    assert_eq!(number(&spans["append"], "weir.position"), Some(receipt[1]));
    for name in ["post", "archive"] {
        assert!(number(&spans[name], "weir.position") >= Some(receipt[1]), "{name}");
    }
    assert_eq!(collector.traces(), [TRACE], "only what is sampled leaves a trace");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_undecided_requests_one_in_so_many_is_followed() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = [
        ("WEIR_TELEMETRY__TRACES__ENDPOINT", collector.url.as_str()),
        ("WEIR_TELEMETRY__TRACES__ONE_IN", "4"),
    ];
    let system = System::embedded_with(&settings, &[], &[]).await?;
    let http = system.ingest()?;
    for number in 0..16 {
        send(&http, &number.to_string(), None).await?;
    }
    // The spans of what had been asked before, of which there is no count, are among them.
    eventually("four requests with all their spans", async || {
        let complete = |trace: &String| {
            let spans = collector.of_trace(trace);
            spans.contains_key("POST /v1/events") && spans.contains_key("post")
        };
        Ok(collector.traces().iter().filter(|trace| complete(trace)).count() >= 3)
    })
    .await?;
    let posts = |trace: &String| collector.of_trace(trace).contains_key("POST /v1/events");
    let followed = collector.traces().iter().filter(|trace| posts(trace)).count();
    assert!((3..=5).contains(&followed), "{followed} of 16");
    Ok(())
}
