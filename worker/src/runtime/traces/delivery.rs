//! Delivers spans to the collector, as the standard variables of OpenTelemetry say.
//!
//! A thread of the library sends them in batches. Its queue is bounded: while the collector is away,
//! spans are dropped, and the log says so once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter as Exporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use reqwest::Url;
use tokio::runtime::Handle;

use super::set_provider;

/// The collector of all signals, and the one of traces alone.
pub(super) const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
pub(super) const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// Longest time of a request to the collector, like the library's.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the last spans at the end of the process.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// What the environment says about traces.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    No,
    /// The address that spans are posted to.
    To(Url),
    /// Why there are none, although a collector is named.
    Unusable(String),
}

/// Starts to deliver spans of a service if the environment names a collector. The result must be
/// passed to [`stop`] at the end. Must be called in the async runtime.
pub(crate) fn start(service: &'static str) -> Option<SdkTracerProvider> {
    let problem = match wanted(&|name| std::env::var(name).ok()) {
        Wanted::No => return None,
        Wanted::Unusable(problem) => problem,
        Wanted::To(url) => match exporter(&url) {
            Ok(exporter) => {
                tracing::info!(collector = ?url.host_str(), port = ?url.port_or_known_default(), "traces are on");
                let provider = provider(exporter, service);
                set_provider(&provider);
                return Some(provider);
            }
            Err(error) => format!("{error:#}"),
        },
    };
    tracing::error!(problem, "traces are off");
    None
}

/// Delivers the last spans. Must not be called in the async runtime, which delivers them.
pub(crate) fn stop(provider: Option<SdkTracerProvider>) {
    if let Some(provider) = provider
        && let Err(error) = provider.shutdown_with_timeout(LAST_SPANS)
    {
        tracing::debug!(%error, "the last spans were not delivered");
    }
}

/// What the environment, read with `variable`, says about traces.
pub(super) fn wanted(variable: &dyn Fn(&str) -> Option<String>) -> Wanted {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is = |name: &str, value: &str| set(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Wanted::No;
    }
    let (name, address) = match (set(TRACES_ENDPOINT), set(ENDPOINT)) {
        (Some(address), _) => (TRACES_ENDPOINT, address),
        (None, Some(base)) => {
            let address = format!("{}/v1/traces", base.trim_end_matches('/'));
            (ENDPOINT, address)
        }
        (None, None) => return Wanted::No,
    };
    let protocol =
        set("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|protocol| protocol != "http/protobuf") {
        return Wanted::Unusable(format!(
            "the protocol is {other}, and workers speak http/protobuf alone. Set \
             OTEL_EXPORTER_OTLP_PROTOCOL to it, and the collector's port for HTTP, usually 4318"
        ));
    }
    match Url::parse(&address) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Wanted::To(url),
        _ => Wanted::Unusable(format!("{name} is not a URL with http or https")),
    }
}

/// An exporter that posts to `url`. Must be called in the async runtime.
pub(super) fn exporter(url: &Url) -> anyhow::Result<Exporter> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let http = Http {
        client,
        runtime: Handle::current(),
    };
    let exporter = Exporter::builder()
        .with_http()
        .with_http_client(http)
        .with_endpoint(url.as_str());
    Ok(exporter.build()?)
}

/// Batches, sampling and limits are those of the standard variables.
pub(super) fn provider(exporter: Exporter, service: &'static str) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_resource(resource(service))
        .with_batch_exporter(Delivery {
            exporter,
            dropped: AtomicU64::new(0),
        })
        .build()
}

/// What all spans say about this process. The standard variables have the last word.
fn resource(service: &'static str) -> Resource {
    let own = [
        ("service.name", Some(service.to_owned())),
        (
            "service.version",
            Some(env!("CARGO_PKG_VERSION").to_owned()),
        ),
        ("k8s.pod.name", std::env::var("POD_NAME").ok()),
        ("k8s.namespace.name", std::env::var("POD_NAMESPACE").ok()),
    ];
    let own = own.into_iter().filter_map(|(key, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some(KeyValue::new(key, value))
    });
    let named = std::env::var("OTEL_SERVICE_NAME").ok();
    let named = named.filter(|name| !name.is_empty());
    Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ])
        .with_attributes(named.map(|name| KeyValue::new("service.name", name)))
        .build()
}

/// Passes spans on. While that fails, they are dropped, and the log says so once.
#[derive(Debug)]
struct Delivery {
    exporter: Exporter,
    /// Spans dropped since the last that were delivered.
    dropped: AtomicU64,
}

impl SpanExporter for Delivery {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        match self.exporter.export(batch).await {
            Ok(()) => {
                let dropped = self.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    tracing::info!(dropped, "the collector takes spans again");
                }
            }
            Err(error) => {
                if self.dropped.fetch_add(spans, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, "the collector takes no spans, dropping them");
                }
            }
        }
        Ok(())
    }

    fn shutdown(&mut self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends requests in the async runtime: the thread that sends the batches is not part of it.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = async move {
            let request: reqwest::Request = request.try_into()?;
            let answer = client.execute(request).await?;
            let status = answer.status();
            Ok(Response::builder()
                .status(status)
                .body(answer.bytes().await?)?)
        };
        self.runtime.spawn(sent).await?
    }
}
