//! Reads the bodies of requests, up to a size and not from clients that stop sending.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Multipart;
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// Longest wait for the next bytes of a body. Tests do not want to wait as long.
const PAUSE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 30 });
/// Longest time for a body of JSON.
const JSON: Duration = Duration::from_mins(1);
/// How much of a refused body is read and thrown away, in bytes, and for how long: many clients look
/// for the answer only after they have sent everything.
const DISCARDED: usize = 64 << 20;
const DISCARDING: Duration = Duration::from_secs(10);

/// Reads a body of JSON of at most `limit` bytes.
pub(super) async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Refusal> {
    let bytes = tokio::time::timeout(JSON, bytes(body, limit));
    let bytes = bytes.await.map_err(|_| too_slow())??;
    serde_json::from_slice(&bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "InvalidRequest",
            without_content(&error),
        ),
        _ => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "NotJson",
            format!("the body is not JSON: {error}"),
        ),
    })
}

/// The message of an error. It quotes a value of a wrong type; nobody needs all of it.
fn without_content(error: &serde_json::Error) -> String {
    error.to_string().chars().take(200).collect()
}

async fn bytes(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = in_time(stream.next()).await? {
        let chunk = chunk.map_err(|_| incomplete())?;
        if bytes.len() + chunk.len() > limit {
            discard(stream.map(|chunk| chunk.ok().map(|chunk| chunk.len()))).await;
            return Err(too_large(&format!("the body has more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Throws away the rest of the body of a refused request.
pub(super) async fn discard_body(body: Body) {
    let chunks = body.into_data_stream();
    discard(chunks.map(|chunk| chunk.ok().map(|chunk| chunk.len()))).await;
}

/// The same for one that was read in part. `sizes` are those of the pieces; `None`: it is broken.
async fn discard(sizes: impl Stream<Item = Option<usize>>) {
    let mut sizes = pin!(sizes);
    let mut bytes = 0;
    let all = async {
        while let Some(Some(size)) = sizes.next().await
            && bytes <= DISCARDED
        {
            bytes += size;
        }
    };
    let _ = tokio::time::timeout(DISCARDING, all).await;
}

/// The same for one with several parts.
pub(super) async fn discard_parts(mut parts: Multipart) {
    let mut bytes = 0;
    let all = async {
        while let Ok(Some(mut part)) = parts.next_field().await {
            while let Ok(Some(chunk)) = part.chunk().await {
                bytes += chunk.len();
                if bytes > DISCARDED {
                    return;
                }
            }
        }
    };
    let _ = tokio::time::timeout(DISCARDING, all).await;
}

/// The next part of a body, unless the client has stopped sending.
pub(super) async fn in_time<T>(part: impl Future<Output = T>) -> Result<T, Refusal> {
    let part = tokio::time::timeout(PAUSE, part).await;
    part.map_err(|_| too_slow())
}

pub(super) fn too_large(detail: &str) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", detail)
}

pub(super) fn incomplete() -> Refusal {
    Refusal::new(
        StatusCode::BAD_REQUEST,
        "Incomplete",
        "the body is incomplete",
    )
}

fn too_slow() -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "TooSlow",
        "the body did not arrive in time",
    )
}
