//! Traces: a collector in the test takes the spans of a worker. The worker's image is checked, too.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use kube::ResourceExt;
use layra_e2e::cluster::eventually;
use layra_e2e::{pdf, processes};
use layra_testbed::settings::NODE_IP;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use crate::image_contents;
use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

/// Spans, as they come.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Takes spans at the address that it returns.
    async fn start(&self) -> Result<String> {
        let spans = Arc::clone(&self.0);
        let take = move |body: Bytes| {
            let status = take(&spans, body);
            async move { status }
        };
        let router = Router::new().route("/v1/traces", post(take));
        let listener = TcpListener::bind((NODE_IP, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(format!("http://{address}"))
    }

    /// The spans of the test's trace so far.
    fn of_trace(&self) -> Vec<Span> {
        let spans = self.0.lock().map(|spans| spans.clone());
        let spans = spans.unwrap_or_default().into_iter();
        spans.filter(|span| hex(&span.trace_id) == TRACE).collect()
    }
}

fn take(spans: &Mutex<Vec<Span>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let resources = request.resource_spans.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    if let Ok(mut spans) = spans.lock() {
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn has_attribute(span: &Span, key: &str, value: &str) -> bool {
    span.attributes.iter().any(|attribute| {
        let found = attribute.value.as_ref().and_then(|of| of.value.as_ref());
        attribute.key == key && found == Some(&Any::StringValue(value.to_owned()))
    })
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_document_is_one_trace_from_its_sender_to_its_last_page() -> Result<()> {
    on_stage("otlp", async |stage| {
        let collector = Collector::default();
        let endpoint = collector.start().await?;
        let variables = json!([
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint},
            {"name": "OTEL_BSP_SCHEDULE_DELAY", "value": "500"},
        ]);
        let containers = json!([{"name": "worker", "env": variables}]);
        stage
            .apply_until_ready(&json!({"spec": {
                "documents": {"rangePages": 2},
                "scaling": {"mode": "Manual", "replicas": 1},
                "worker": {"podTemplate": {"spec": {"containers": containers}}},
            }}))
            .await?;
        let parent = format!("00-{TRACE}-{SENDER}-01");
        let user = stage.user().await?;
        let user = user.sending_with_header("traceparent", &parent);
        let encrypted = include_bytes!("encrypted.pdf").to_vec();
        let locked = user.upload_bytes("locked.pdf", encrypted).await?;
        let good = pdf::with_pages(&["Bread.", "Copper.", "Rivers.", "Ships."]);
        let good = user.upload_bytes("good.pdf", good).await?;
        let limit = 2 * MINUTE;
        stage
            .wait_tasks(std::slice::from_ref(&good), "completed", limit)
            .await?;
        stage
            .wait_tasks(std::slice::from_ref(&locked), "failed", limit)
            .await?;

        let topic = stage.topic();
        let (tasks, ranges) = (
            format!("process {topic}"),
            format!("process {topic}.ranges"),
        );
        let spans = eventually("the spans of both documents", MINUTE, async || {
            let spans = collector.of_trace();
            let is_complete = named(&spans, &tasks).len() >= 2 && named(&spans, &ranges).len() >= 2;
            Ok(is_complete.then_some(spans))
        })
        .await?;
        for upload in [&good, &locked] {
            let of_document = named(&spans, &tasks).into_iter().find(|span| {
                has_attribute(span, "file_id", &upload.file_id)
                    && has_attribute(span, "task_id", &upload.task_id)
            });
            let span = of_document.with_context(|| format!("{spans:?}"))?;
            ensure!(hex(&span.parent_span_id) == SENDER, "{span:?}");
        }
        let sends = named(&spans, &format!("send {topic}.ranges"));
        for range in named(&spans, &ranges) {
            let mut senders = sends.iter();
            let is_sent = senders.any(|send| send.span_id == range.parent_span_id);
            ensure!(is_sent, "{range:?} of {sends:?}");
            for stage in [
                "queue", "render", "embed", "objects", "mongodb", "milvus", "settle",
            ] {
                let steps = named(&spans, stage);
                let mut steps = steps.iter();
                let has_stage = steps.any(|step| step.parent_span_id == range.span_id);
                ensure!(has_stage, "{stage} of {range:?}");
            }
        }
        ensure!(!named(&spans, "fetch").is_empty(), "{spans:?}");
        let letters = stage.records(&format!("{topic}.dlq"))?;
        let carried = letters
            .first()
            .and_then(|letter| letter.header("traceparent"));
        let carried = carried.context("a dead letter with its trace")?;
        ensure!(carried.starts_with(&format!("00-{TRACE}-")), "{carried}");
        ensure!(carried != parent, "the worker's span is missing: {carried}");

        let pods = stage.scene.worker_pods(&stage.name).await?;
        let mut uids = pods.iter().filter_map(ResourceExt::uid);
        let pid = uids.find_map(|uid| processes::in_pod("layra-worker", &uid));
        let parts = ["zlib1g", "pdfium", "fonts-dejavu-core", "fonts-noto-core"];
        match pid {
            Some(pid) => image_contents::check(pid, "layra-worker", &parts),
            None => Ok(()),
        }
    })
    .await
}
