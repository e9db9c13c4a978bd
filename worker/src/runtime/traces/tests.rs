//! Spans against a collector in the test, which takes what OTLP over HTTP posts.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as Kind;
use prost::Message as _;
use rdkafka::message::OwnedHeaders;
use tokio::net::TcpListener;

use super::delivery::{ENDPOINT, TRACES_ENDPOINT, Wanted, exporter, provider, wanted};
use super::*;
use crate::document::{headers, trace_context};
use crate::runtime::failure::Stage;
use crate::runtime::work::{self, Work};
use crate::runtime::{span, traces};

const SENDERS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDERS_SPAN: &str = "b7ad6b7169203331";

/// A collector. It can refuse what it gets.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    refuses: Arc<Mutex<bool>>,
}

impl Collector {
    /// Starts it, and returns where it takes spans.
    async fn start(&self) -> reqwest::Url {
        let collector = self.clone();
        let take = move |headers: HeaderMap, body: Bytes| {
            let answer = collector.take(&headers, body);
            async move { answer }
        };
        let router = Router::new().route("/v1/traces", post(take));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/v1/traces").parse().unwrap()
    }

    fn take(&self, headers: &HeaderMap, body: Bytes) -> StatusCode {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        if *self.refuses.lock().unwrap() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        self.requests.lock().unwrap().push(request);
        StatusCode::OK
    }

    /// All spans of a trace, by name.
    fn spans(&self, trace_id: &str) -> HashMap<String, Vec<Span>> {
        let mut by_name: HashMap<String, Vec<Span>> = HashMap::new();
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        for span in scopes.flat_map(|scope| &scope.spans) {
            if hex(&span.trace_id) == trace_id {
                let named = by_name.entry(span.name.clone()).or_default();
                named.push(span.clone());
            }
        }
        by_name
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn text(span: &Span, key: &str) -> Option<String> {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn with_parent(trace_id: &str, span_id: &str) -> OwnedHeaders {
    let parent = format!("00-{trace_id}-{span_id}-01");
    let headers = headers::with(OwnedHeaders::new(), "user", "alice");
    let headers = headers::with(headers, "traceparent", &parent);
    headers::with(headers, "tracestate", "vendor=1")
}

fn received(topic: &str) -> Received<'_> {
    Received {
        topic,
        partition: 2,
        offset: 41,
        written: SystemTime::now().checked_sub(Duration::from_secs(5)),
    }
}

fn values(headers: &OwnedHeaders, key: &str) -> Vec<String> {
    rdkafka::message::Headers::iter(headers)
        .filter(|header| header.key == key)
        .map(|header| String::from_utf8(header.value.unwrap().to_vec()).unwrap())
        .collect()
}

/// Processes a message as a worker does, and returns the headers of one that it sends.
async fn process(topic: &str, headers: &OwnedHeaders) -> (Trace, OwnedHeaders) {
    let trace = traces::message(&trace_context::of(Some(headers)), received(topic));
    let work = work::process(Arc::new(Work::begin(Instant::now())), async {
        span::name_document("file-1", Some("task-1"));
        work::timed(Stage::Fetch, tokio::task::yield_now()).await;
        work::record_time(Stage::Render, Duration::from_millis(40));
        let own = headers.clone();
        let carried = async { trace_context::carried(own) };
        let carried = traces::sending("tasks.ranges", carried).await;
        traces::failed("Encrypted");
        carried
    });
    let sent = trace.run(work).await;
    trace.end();
    (trace, sent)
}

/// One test: a process has one collector.
#[tokio::test]
async fn a_message_continues_its_senders_trace_and_passes_it_on() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let collector = Collector::default();
    let url = collector.start().await;
    // Without a collector, headers stay as they are, and logs have no trace.
    let original = with_parent(SENDERS_TRACE, SENDERS_SPAN);
    let (off, same) = process("tasks", &original).await;
    assert_eq!(off.id(), None);
    assert_eq!(
        values(&same, "traceparent"),
        values(&original, "traceparent")
    );

    *collector.refuses.lock().unwrap() = true;
    let provider = provider(exporter(&url).unwrap(), "layra-worker");
    set_provider(&provider);
    let flush = || {
        let provider = provider.clone();
        tokio::task::spawn_blocking(move || provider.force_flush())
    };
    // What a collector refuses is dropped, and no error reaches the work.
    let (refused, _) = process("tasks", &OwnedHeaders::new()).await;
    assert!(flush().await.unwrap().is_ok());
    *collector.refuses.lock().unwrap() = false;

    let (trace, sent) = process("tasks", &original).await;
    let (of_range, _) = process("tasks.ranges", &sent).await;
    let (own, _) = process("tasks", &OwnedHeaders::new()).await;
    assert!(flush().await.unwrap().is_ok());
    assert_eq!(trace.id().as_deref(), Some(SENDERS_TRACE));
    assert_eq!(of_range.id().as_deref(), Some(SENDERS_TRACE));

    let spans = collector.spans(SENDERS_TRACE);
    let only = |name: &str| match spans.get(name).map(Vec::as_slice) {
        Some([span]) => span,
        found => panic!("{name}: {found:?}"),
    };
    let message = only("process tasks");
    assert_eq!(hex(&message.parent_span_id), SENDERS_SPAN);
    assert_eq!(message.kind, Kind::Consumer as i32);
    assert_eq!(message.trace_state, "vendor=1");
    for (key, value) in [
        ("file_id", "file-1"),
        ("task_id", "task-1"),
        ("messaging.destination.name", "tasks"),
        ("messaging.kafka.offset", "41"),
    ] {
        assert_eq!(text(message, key).as_deref(), Some(value), "{key}");
    }
    let status = message.status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "Encrypted"));

    let sends = &spans["send tasks.ranges"];
    let producer = sends
        .iter()
        .find(|send| send.parent_span_id == message.span_id);
    let producer = producer.unwrap();
    assert_eq!(producer.kind, Kind::Producer as i32);
    let range = only("process tasks.ranges");
    assert_eq!(range.parent_span_id, producer.span_id);
    let carried = format!("00-{SENDERS_TRACE}-{}-01", hex(&producer.span_id));
    assert_eq!(values(&sent, "traceparent"), [carried]);
    assert_eq!(values(&sent, "tracestate"), ["vendor=1"]);
    assert_eq!(values(&sent, "user"), ["alice"]);

    for (name, least) in [("queue", 4_900), ("fetch", 0), ("render", 40)] {
        let steps = &spans[name];
        let step = steps
            .iter()
            .find(|step| step.parent_span_id == message.span_id);
        let step = step.unwrap_or_else(|| panic!("{name} of {steps:?}"));
        let took = (step.end_time_unix_nano - step.start_time_unix_nano) / 1_000_000;
        assert!(took >= least, "{name} took {took} ms");
    }

    let own = collector.spans(&own.id().unwrap());
    assert_eq!(own["process tasks"][0].parent_span_id, Vec::<u8>::new());
    assert!(collector.spans(&refused.id().unwrap()).is_empty());
    let requests = collector.requests.lock().unwrap();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    let service = resource
        .attributes
        .iter()
        .find(|of| of.key == "service.name");
    assert!(service.is_some(), "{resource:?}");
}

#[test]
fn the_standard_variables_turn_traces_on_and_off() {
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
    let of = |variables: &[(&str, &str)]| {
        wanted(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    let to = |url: &str| Wanted::To(url.parse().unwrap());
    let collector = (ENDPOINT, "http://collector:4318/");
    assert_eq!(of(&[]), Wanted::No);
    assert_eq!(of(&[(ENDPOINT, "")]), Wanted::No);
    assert_eq!(of(&[collector]), to("http://collector:4318/v1/traces"));
    let other = (TRACES_ENDPOINT, "https://t/x");
    assert_eq!(of(&[collector, other]), to("https://t/x"));
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        assert_eq!(of(&[collector, off]), Wanted::No, "{off:?}");
    }
    let spoken = (PROTOCOL, "http/protobuf");
    assert_eq!(of(&[collector, spoken]), of(&[collector]));
    for unusable in [
        &[collector, (PROTOCOL, "grpc")][..],
        &[(ENDPOINT, "collector:4318")],
    ] {
        assert!(matches!(of(unusable), Wanted::Unusable(_)), "{unusable:?}");
    }
}
