//! Traces: the spans of a message or request and of its stages, sent to an OpenTelemetry collector.
//!
//! Off unless the environment names a collector. The span that is worked on is OpenTelemetry's current
//! context. Where there is none, the functions here do nothing. A collector that is away costs spans,
//! never documents.

mod delivery;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    FutureExt, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub(crate) use delivery::{start, stop};

/// What creates spans. Unset: traces are off.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A span that is open: of a message, or of a request.
#[derive(Clone, Default)]
pub(crate) struct Trace(Context);

/// A message, as its span describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When it was written.
    pub(crate) written: Option<SystemTime>,
}

fn set_provider(provider: &SdkTracerProvider) {
    // Set once: a process has one collector.
    let _ = TRACER.set(provider.tracer("layra-worker"));
}

/// The context that `headers` carry in `traceparent` and `tracestate`. Without a valid one: an empty
/// context, below which a new trace begins.
pub(crate) fn extract(headers: &dyn Extractor) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
}

/// Puts the context of the span that is worked on into `headers`.
pub(crate) fn inject(headers: &mut dyn Injector) {
    TraceContextPropagator::new().inject(headers);
}

/// Begins the span of a message, below its sender's. What it waited for its turn, in Kafka and here,
/// becomes a span of its own.
pub(crate) fn message(sender: &Context, message: Received<'_>) -> Trace {
    let Received {
        topic,
        partition,
        offset,
        written,
    } = message;
    let attributes = [
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        KeyValue::new("messaging.kafka.offset", offset),
    ];
    let name = format!("process {topic}");
    let trace = begin(name, SpanKind::Consumer, attributes, sender);
    let now = SystemTime::now();
    if let Some(waited) = written.and_then(|written| now.duration_since(written).ok()) {
        ended(&trace.0, "queue", waited, now);
    }
    trace
}

/// Begins the span of an HTTP request, below its caller's.
pub(crate) fn request(caller: &Context, method: &'static str, path: &'static str) -> Trace {
    let attributes = [
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", path),
    ];
    begin(
        format!("{method} {path}"),
        SpanKind::Server,
        attributes,
        caller,
    )
}

fn begin(
    name: String,
    kind: SpanKind,
    attributes: impl IntoIterator<Item = KeyValue>,
    parent: &Context,
) -> Trace {
    let Some(tracer) = TRACER.get() else {
        return Trace::default();
    };
    let span = SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_attributes(attributes);
    let span = tracer.build_with_context(span, parent);
    Trace(parent.with_span(span))
}

impl Trace {
    /// The id of the trace, for logs. `None`: traces are off.
    pub(crate) fn id(&self) -> Option<String> {
        let has_span = self.0.has_active_span();
        has_span.then(|| self.0.span().span_context().trace_id().to_string())
    }

    /// Runs `work` in the span.
    pub(crate) async fn run<F: Future>(&self, work: F) -> F::Output {
        work.with_context(self.0.clone()).await
    }

    /// The request is answered with this HTTP status.
    pub(crate) fn answered(&self, status: u16) {
        let span = self.0.span();
        let code = KeyValue::new("http.response.status_code", i64::from(status));
        span.set_attribute(code);
        if status >= 500 {
            span.set_status(Status::error(""));
        }
    }

    /// The work has ended. Without this call it ends when nobody works in it any more.
    pub(crate) fn end(&self) {
        self.0.span().end();
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.id()).finish()
    }
}

/// Adds an attribute to the span that is worked on.
pub(crate) fn describe(key: &'static str, value: impl Into<opentelemetry::Value>) {
    if let Some(current) = current() {
        current.span().set_attribute(KeyValue::new(key, value));
    }
}

/// The message that is worked on has failed, or was put off, for this reason.
pub(crate) fn failed(reason: &str) {
    if let Some(current) = current() {
        current.span().set_status(Status::error(reason.to_owned()));
    }
}

/// A step of the span that is worked on took this long, and has just ended.
pub(crate) fn step(name: &'static str, took: Duration) {
    steps(&[(name, took)]);
}

/// Steps of the span that is worked on, one after the other, have just ended.
pub(crate) fn steps(steps: &[(&'static str, Duration)]) {
    if let Some(current) = current() {
        let mut end = SystemTime::now();
        for (name, took) in steps.iter().rev() {
            end = ended(&current, name, *took, end);
        }
    }
}

/// Runs a step of the span that is worked on.
pub(crate) async fn timed<F: Future>(name: &'static str, work: F) -> F::Output {
    let began = Instant::now();
    let result = work.await;
    step(name, began.elapsed());
    result
}

/// Runs `send`, which sends a message to a topic, in a span below the one that is worked on.
pub(crate) async fn sending<F: Future>(topic: &str, send: F) -> F::Output {
    let Some(current) = current() else {
        return send.await;
    };
    let attributes = [
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.operation.name", "send"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
    ];
    let name = format!("send {topic}");
    let trace = begin(name, SpanKind::Producer, attributes, &current);
    let result = trace.run(send).await;
    trace.end();
    result
}

/// The span that is worked on, if there is one.
fn current() -> Option<Context> {
    let current = Context::current();
    current.has_active_span().then_some(current)
}

/// Runs the work of a task that is spawned now, in the span that is worked on.
pub(crate) fn inherited<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_context(Context::current())
}

/// Records a span that has ended, and returns when it began.
fn ended(parent: &Context, name: &'static str, took: Duration, end: SystemTime) -> SystemTime {
    let began = end.checked_sub(took).unwrap_or(end);
    if let Some(tracer) = TRACER.get() {
        let span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(began);
        let span = tracer.build_with_context(span, parent);
        parent.with_span(span).span().end_with_timestamp(end);
    }
    began
}
