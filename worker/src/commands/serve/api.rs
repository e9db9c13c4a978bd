//! The search over HTTP, its page, its description, metrics and probes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use layra_crds::{QueryCounts, WORKER_COUNTS_PATH};
use schemars::JsonSchema;
use serde::Serialize;

use super::refusal::Refusal;
use super::search::{Answer, search};
use super::service::Service;
use super::{body, openapi, page};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::mongo::ShownBase;

/// Largest body of a search, in bytes: an image of some 6 MB.
const SEARCH_BYTES: usize = 8 << 20;
/// Longest time of a search after its body has arrived.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .merge(page::router())
        .route("/v1/search", post(answer))
        .route("/v1/knowledge_bases", get(knowledge_bases))
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .route("/metrics", get(metrics))
        .route(WORKER_COUNTS_PATH, get(counts))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(|| async {
            Refusal::new(StatusCode::NOT_FOUND, "NotFound", "no such path").problem()
        })
        .method_not_allowed_fallback(|| async {
            let detail = "this path has another method";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", detail).problem()
        })
        .with_state(service)
}

async fn answer(State(service): State<Arc<Service>>, headers: HeaderMap, body: Body) -> Response {
    let request = service.measured.begin("POST", "/v1/search", &headers);
    let response = match request.run(found(&service, &headers, body)).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.problem(),
    };
    request.answered(response.status().as_u16());
    response
}

async fn found(service: &Service, headers: &HeaderMap, body: Body) -> Result<Answer, Refusal> {
    // Before a byte of the body is read.
    let grant = service.access.grant(headers)?;
    let _entered = service.enter_search()?;
    let wanted = body::json(body, SEARCH_BYTES).await?;
    let answer = tokio::time::timeout(LONGEST, search(service, &grant, wanted));
    answer.await.unwrap_or_else(|_| {
        let detail = format!("the search took longer than {} s", LONGEST.as_secs());
        Err(Refusal::later("TimedOut", 5, detail))
    })
}

/// The knowledge bases that can be searched.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct KnowledgeBases {
    knowledge_bases: Vec<KnowledgeBase>,
}

/// A knowledge base.
#[derive(Debug, Serialize, JsonSchema)]
struct KnowledgeBase {
    id: String,
    /// The name that its user gave it.
    name: String,
}

async fn knowledge_bases(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let request = service
        .measured
        .begin("GET", "/v1/knowledge_bases", &headers);
    let response = match covered(&service, &headers).await {
        Ok(found) => Json(found).into_response(),
        Err(refusal) => refusal.problem(),
    };
    request.answered(response.status().as_u16());
    response
}

/// Those that the token is for.
async fn covered(service: &Service, headers: &HeaderMap) -> Result<KnowledgeBases, Refusal> {
    let grant = service.access.grant(headers)?;
    let found = tokio::time::timeout(LONGEST, service.library()?.knowledge_bases()).await;
    let found = found.unwrap_or_else(|_| {
        let message = "no answer in time";
        Err(Failure::transient(
            Stage::Mongodb,
            Reason::MongodbUnavailable,
            message,
        ))
    });
    let found = found.map_err(|failure| service.refuse(failure))?;
    let covered = found.into_iter().filter(|base| grant.covers(&base.id));
    Ok(KnowledgeBases {
        knowledge_bases: covered
            .map(|ShownBase { id, name }| KnowledgeBase { id, name })
            .collect(),
    })
}

async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    (
        [("content-type", "text/plain; version=0.0.4")],
        service.metrics.render() + &service.measured.render(),
    )
}

/// What the operator asks for.
async fn counts(State(service): State<Arc<Service>>) -> Json<QueryCounts> {
    Json(QueryCounts {
        in_flight: service.measured.requests_in_flight(),
    })
}

async fn livez(State(service): State<Arc<Service>>) -> (StatusCode, String) {
    match service.health.stuck(Instant::now()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn readyz(State(service): State<Arc<Service>>) -> (StatusCode, String) {
    let problems = service.problems();
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}
