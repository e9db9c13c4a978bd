//! LAYRA's model server: the paths, fields and shapes of its own, without a token. Errors have the
//! form that its framework gives them.

use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Multipart, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use layra_embedding::MultiVector;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempPath;
use tokio_util::task::AbortOnDropHandle;

use super::body;
use super::embeddings::{self, Encoding, Form};
use super::refusal::Refusal;
use super::service::Service;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::traces;

/// Largest body with texts, in bytes.
const TEXT_BYTES: usize = 2 << 20;
/// Texts of a request.
const TEXTS: usize = 256;
/// Characters of a question.
pub(super) const CHARACTERS: usize = 8_000;
/// Images of a request. LAYRA sends all pages of a document, and its own model server accepts no
/// more.
const IMAGES: usize = 1_000;
/// Largest image, in bytes.
const IMAGE_BYTES: usize = 64 << 20;
/// Images of a request that are opened and embedded while further ones are read.
const IMAGES_AHEAD: usize = 8;

pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/embed_text", post(embed_text))
        .route("/embed_image", post(embed_image))
        .route("/healthy-check", get(healthy_check))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async {
            refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        // Bodies are limited where they are read.
        .layer(DefaultBodyLimit::disable())
        .with_state(service)
}

fn refused(status: StatusCode, detail: &str) -> Response {
    Refusal::new(status, "", detail).detail()
}

async fn healthy_check(State(service): State<Arc<Service>>) -> Response {
    let stuck = service.health.stuck(std::time::Instant::now());
    let problem = match service.model() {
        Err(_) => Some("the model is not loaded"),
        Ok(_) => stuck,
    };
    match problem {
        None => {
            Json(json!({ "status": "UP", "details": "All systems operational" })).into_response()
        }
        Some(problem) => {
            let down = Json(json!({ "status": "DOWN", "details": problem }));
            (StatusCode::SERVICE_UNAVAILABLE, down).into_response()
        }
    }
}

#[derive(Deserialize)]
struct Texts {
    queries: Vec<String>,
}

async fn embed_text(
    State(service): State<Arc<Service>>,
    query: Result<Query<Form>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let request = service.measured.begin("POST", "/embed_text", &headers);
    let response = match request.run(texts(&service, query, body)).await {
        Ok((vectors, encoding)) => embeddings::respond(vectors, encoding),
        Err(refusal) => refusal.detail(),
    };
    request.answered(response.status().as_u16());
    response
}

async fn texts(
    service: &Service,
    query: Result<Query<Form>, QueryRejection>,
    body: Body,
) -> Result<(Vec<MultiVector>, Encoding), Refusal> {
    let may_enter = || {
        let encoding = embeddings::encoding(query)?;
        Ok::<_, Refusal>((encoding, service.model()?, service.enter_text()?))
    };
    let (encoding, model, _entered) = match may_enter() {
        Ok(entered) => entered,
        Err(refusal) => {
            body::discard_body(body).await;
            return Err(refusal);
        }
    };
    let Texts { queries } = body::json(body, TEXT_BYTES).await?;
    if queries.len() > TEXTS {
        return Err(Refusal::field(
            "queries",
            format!("more than {TEXTS} texts"),
        ));
    }
    let is_long = |text: &String| text.chars().nth(CHARACTERS).is_some();
    if queries.iter().any(is_long) {
        let detail = format!("a text has more than {CHARACTERS} characters");
        return Err(Refusal::field("queries", detail));
    }
    let vectors = traces::timed("embed", model.questions(&queries)).await;
    let vectors = vectors.map_err(|failure| service.refuse(failure))?;
    Ok((vectors, encoding))
}

async fn embed_image(
    State(service): State<Arc<Service>>,
    query: Result<Query<Form>, QueryRejection>,
    headers: HeaderMap,
    multipart: Result<Multipart, MultipartRejection>,
) -> Response {
    let request = service.measured.begin("POST", "/embed_image", &headers);
    let response = match multipart {
        Ok(multipart) => match request.run(embedded(&service, query, multipart)).await {
            Ok((vectors, encoding)) => embeddings::respond(vectors, encoding),
            Err(refusal) => refusal.detail(),
        },
        Err(rejection) => Refusal::field("images", rejection.body_text()).detail(),
    };
    request.answered(response.status().as_u16());
    response
}

async fn embedded(
    service: &Arc<Service>,
    query: Result<Query<Form>, QueryRejection>,
    mut multipart: Multipart,
) -> Result<(Vec<MultiVector>, Encoding), Refusal> {
    let vectors = async {
        let encoding = embeddings::encoding(query)?;
        service.model()?;
        let _entered = service.enter_images().await?;
        Ok::<_, Refusal>((images(service, &mut multipart).await?, encoding))
    };
    let vectors = vectors.await;
    if vectors.is_err() {
        body::discard_parts(multipart).await;
    }
    vectors
}

/// The vectors of each image, in order. Images are read from the connection only as fast as they
/// are embedded.
async fn images(
    service: &Arc<Service>,
    multipart: &mut Multipart,
) -> Result<Vec<MultiVector>, Refusal> {
    let mut vectors = Vec::new();
    let mut ahead = FuturesOrdered::new();
    let mut count = 0;
    while let Some(field) = body::in_time(multipart.next_field())
        .await?
        .map_err(|error| unreadable(&error))?
    {
        if field.name() != Some("images") {
            continue;
        }
        count += 1;
        if count > IMAGES {
            let detail = format!("Too many files. Maximum number of files is {IMAGES}.");
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "TooManyFiles",
                detail,
            ));
        }
        let file = saved(service, field).await?;
        let service = Arc::clone(service);
        // Its own task: it goes on while the client takes its time with the next image.
        let task = tokio::spawn(traces::inherited(async move {
            image(&service, file, count).await
        }));
        ahead.push_back(AbortOnDropHandle::new(task));
        if ahead.len() >= IMAGES_AHEAD
            && let Some(embedded) = ahead.next().await
        {
            vectors.push(ended(embedded)?);
        }
    }
    if count == 0 {
        return Err(Refusal::field("images", "Field required"));
    }
    while let Some(embedded) = ahead.next().await {
        vectors.push(ended(embedded)?);
    }
    Ok(vectors)
}

async fn image(service: &Service, file: TempPath, number: usize) -> Result<MultiVector, Refusal> {
    let embedded = traces::timed("embed", service.model()?.image(&file)).await;
    embedded.map_err(|failure| {
        let refusal = service.refuse(failure);
        Refusal {
            detail: format!("image {number}: {}", refusal.detail),
            field: Some("images".to_owned()),
            ..refusal
        }
    })
}

fn ended(
    embedded: Result<Result<MultiVector, Refusal>, tokio::task::JoinError>,
) -> Result<MultiVector, Refusal> {
    embedded.unwrap_or_else(|error| {
        Err(Failure::fatal(Stage::Embed, Reason::EmbeddingFailed, error).into())
    })
}

/// Writes an image into a file, which is removed when the path is dropped.
async fn saved(service: &Service, mut field: Field<'_>) -> Result<TempPath, Refusal> {
    let unwritable = |error: std::io::Error| {
        service.refuse(Failure::transient(
            Stage::Fetch,
            Reason::CacheUnwritable,
            error,
        ))
    };
    let file = service.model()?.new_file();
    let mut file = file.map_err(|failure| service.refuse(failure))?;
    let mut bytes = 0;
    while let Some(chunk) = body::in_time(field.chunk())
        .await?
        .map_err(|error| unreadable(&error))?
    {
        bytes += chunk.len();
        if bytes > IMAGE_BYTES {
            let detail = format!("an image has more than {IMAGE_BYTES} bytes");
            return Err(body::too_large(&detail));
        }
        // Small pieces, into the page cache.
        file.write_all(&chunk).map_err(unwritable)?;
    }
    if bytes == 0 {
        return Err(Refusal::field("images", "an image is empty"));
    }
    Ok(file.into_temp_path())
}

fn unreadable(error: &MultipartError) -> Refusal {
    match error.status() {
        StatusCode::BAD_REQUEST => body::incomplete(),
        status => Refusal::new(status, "InvalidRequest", error.body_text()),
    }
}
