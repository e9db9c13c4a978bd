//! The page and its API on localhost: plain files without anything from elsewhere, and what
//! `POST /v1/search` answers.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use crate::answer::{KnowledgeBase, SearchRequest, Searcher};
use crate::page;
use crate::progress::{Progress, Status};

/// Bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;
/// Questions that are computed at a time; others wait.
const CONCURRENT: usize = 2;
/// Ports that are tried one after the other.
const PORTS: u16 = 20;
/// Nothing but what this program serves itself; no script or style within the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the server answers with.
pub(crate) struct Served {
    pub(crate) searcher: Arc<Searcher>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) root: PathBuf,
    pub(crate) questions: Semaphore,
}

impl Served {
    pub(crate) fn new(searcher: Arc<Searcher>, progress: Arc<Progress>, root: PathBuf) -> Self {
        Self {
            searcher,
            progress,
            root,
            questions: Semaphore::new(CONCURRENT),
        }
    }
}

/// Listens on localhost, on this port or one of those after it.
pub(crate) async fn listen(port: u16) -> Result<TcpListener> {
    let mut result = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    for next in (1..PORTS).filter_map(|more| port.checked_add(more)) {
        if result.is_ok() || port == 0 {
            break;
        }
        result = TcpListener::bind((Ipv4Addr::LOCALHOST, next)).await;
    }
    result.with_context(|| format!("listening on localhost:{port}"))
}

/// Serves until the program ends.
pub(crate) async fn serve(listener: TcpListener, served: Served) -> Result<()> {
    Ok(axum::serve(listener, router(served)).await?)
}

fn router(served: Served) -> Router {
    let file = |kind: &'static str, content: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, kind)], content) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", page::INDEX))
        .route("/page.css", file("text/css; charset=utf-8", page::STYLE))
        .route("/page.js", file(SCRIPT, page::SCRIPT))
        .route("/api.js", file(SCRIPT, include_str!("page/api.js")))
        .route("/icon.svg", file("image/svg+xml", page::ICON))
        .route("/v1/search", post(search))
        .route("/v1/status", get(status))
        .route("/v1/files/{file}/pages/{page}/image", get(image))
        .route("/v1/files/{file}/original", get(original))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "nothing is here") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(guard))
        .with_state(Arc::new(served))
}

/// Answers only those who ask for this machine by its own name: another site's name that points
/// here must not read the documents. Adds what browsers have to keep to.
async fn guard(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let mut response = if host.is_some_and(is_local) {
        next.run(request).await
    } else {
        problem(StatusCode::FORBIDDEN, "use the address that was printed")
    };
    let headers = response.headers_mut();
    let mut add = |name: HeaderName, value: &'static str| {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    };
    add(CONTENT_SECURITY_POLICY, POLICY);
    add(X_CONTENT_TYPE_OPTIONS, "nosniff");
    add(REFERRER_POLICY, "no-referrer");
    add(CACHE_CONTROL, "no-store");
    add(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    response
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1")
}

async fn search(
    State(served): State<Arc<Served>>,
    request: Result<Json<SearchRequest>, JsonRejection>,
) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(error) => return problem(error.status(), &error.body_text()),
    };
    if let Err(error) = served.searcher.check(&request) {
        return problem(StatusCode::BAD_REQUEST, &error.to_string());
    }
    // It is never closed.
    let _permit = served.questions.acquire().await;
    let searcher = Arc::clone(&served.searcher);
    match tokio::task::spawn_blocking(move || searcher.search(&request)).await {
        Ok(Ok(answer)) => axum::Json(answer).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.into()),
    }
}

#[derive(Serialize)]
struct StatusAnswer {
    #[serde(flatten)]
    status: Status,
    knowledge_bases: Vec<KnowledgeBase>,
}

async fn status(State(served): State<Arc<Served>>) -> Response {
    axum::Json(StatusAnswer {
        status: served.progress.status(),
        knowledge_bases: served.searcher.knowledge_bases(),
    })
    .into_response()
}

async fn image(
    State(served): State<Arc<Served>>,
    Path((file, page)): Path<(u64, u32)>,
) -> Response {
    let Some(page) = page.checked_sub(1) else {
        return problem(StatusCode::NOT_FOUND, "pages are counted from 1");
    };
    let store = Arc::clone(&served.searcher.store);
    match tokio::task::spawn_blocking(move || store.picture(file, page)).await {
        Ok(Ok(Some(picture))) => ([(CONTENT_TYPE, "image/webp")], picture).into_response(),
        Ok(Ok(None)) => problem(StatusCode::NOT_FOUND, "the page is gone"),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.into()),
    }
}

/// The document itself, if the folder still has it.
async fn original(State(served): State<Arc<Served>>, Path(file): Path<u64>) -> Response {
    let gone = || problem(StatusCode::NOT_FOUND, "the file is gone");
    let files = served.searcher.store.files();
    let Some((name, _)) = files.into_iter().find(|(_, record)| record.id == file) else {
        return gone();
    };
    let path = served.root.join(&name);
    // A link that has taken the file's place may lead out of the folder.
    let metadata = tokio::fs::symlink_metadata(&path).await;
    if !metadata.is_ok_and(|metadata| metadata.is_file()) {
        return gone();
    }
    let Ok(mut document) = tokio::fs::File::open(&path).await else {
        return gone();
    };
    let mut start = Vec::with_capacity(1024);
    let read = (&mut document).take(1024).read_to_end(&mut start).await;
    if read.is_err() || document.rewind().await.is_err() {
        return gone();
    }
    let mut headers = HeaderMap::new();
    // What a browser might run is only ever saved.
    let kind = shown_as(&start);
    let shown = if kind.is_some() {
        "inline"
    } else {
        "attachment"
    };
    let kind = kind.unwrap_or("application/octet-stream");
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Browsers' viewers of PDF need more than the page's policy allows.
    let policy = HeaderValue::from_static("frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    let file_name: String = name
        .rsplit('/')
        .next()
        .unwrap_or("document")
        .chars()
        .map(safe)
        .collect();
    let disposition = format!("{shown}; filename=\"{file_name}\"");
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    (headers, Body::from_stream(ReaderStream::new(document))).into_response()
}

fn safe(letter: char) -> char {
    if letter.is_ascii_alphanumeric() || " .-_()".contains(letter) {
        letter
    } else {
        '_'
    }
}

/// The type of documents that browsers show without running anything of them.
fn shown_as(start: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| start.starts_with(magic);
    if start.windows(5).any(|part| part == b"%PDF-") {
        Some("application/pdf")
    } else if starts(b"\x89PNG") {
        Some("image/png")
    } else if starts(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if starts(b"GIF8") {
        Some("image/gif")
    } else if starts(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        None
    }
}

/// An error as RFC 9457 has it.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem {
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
    };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
}

fn failed(error: &anyhow::Error) -> Response {
    tracing::error!(error = format!("{error:#}"), "a request failed");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "see the program's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "localhost:7979", "127.0.0.1:80"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:7979",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn what_could_run_in_a_browser_is_not_shown() {
        assert_eq!(shown_as(b"junk %PDF-1.4"), Some("application/pdf"));
        assert_eq!(shown_as(b"\x89PNG\r\n"), Some("image/png"));
        for start in [&b"<svg onload=..."[..], b"<html>", b""] {
            assert_eq!(shown_as(start), None);
        }
    }

    #[test]
    fn the_page_fetches_nothing_from_elsewhere_and_has_no_script_inside() {
        let files = [
            page::INDEX,
            page::SCRIPT,
            page::STYLE,
            include_str!("page/api.js"),
        ];
        for file in files {
            for forbidden in [
                "https://",
                "http://",
                "innerHTML",
                "onclick",
                "style=",
                "eval(",
            ] {
                assert!(!file.contains(forbidden), "{forbidden}");
            }
        }
    }
}
