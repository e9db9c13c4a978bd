//! A model on the Hugging Face hub, or on a server with the same API (`HF_ENDPOINT`). The revision
//! is resolved to a commit first, so that all files are of one version. Every file has a digest.

use std::time::Duration;

use futures::TryStreamExt as _;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use super::cache::{Body, RemoteDigest, RemoteFile, Source, chunks};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secret;

const ENDPOINT: &str = "https://huggingface.co";

/// One commit of a repository.
pub(super) struct Hub {
    client: Client,
    endpoint: String,
    repository: String,
    token: Option<Secret>,
    pub(super) commit: String,
    files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: u64,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

impl Hub {
    /// Asks the hub for the commit of `revision` and for its files.
    pub(super) async fn resolve(
        repository: &str,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<Self, Failure> {
        let endpoint = std::env::var("HF_ENDPOINT").ok();
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(ENDPOINT);
        Self::resolve_at(endpoint, repository, revision, token).await
    }

    async fn resolve_at(
        endpoint: &str,
        repository: &str,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<Self, Failure> {
        let client = Client::builder()
            .user_agent(concat!("layra-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_mins(1))
            .build()
            .map_err(|error| Failure::fatal(Stage::Model, Reason::HttpClient, error))?;
        let mut hub = Self {
            client,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            repository: repository.to_owned(),
            token: token.cloned(),
            commit: String::new(),
            files: Vec::new(),
        };
        let revision = revision.replace('/', "%2F");
        let path = format!("api/models/{repository}/revision/{revision}?blobs=true");
        let info: Info = hub
            .get(&path, 0)
            .await?
            .json()
            .await
            .map_err(|error| hub.unavailable(&error))?;
        hub.commit = info.sha;
        // Files in subdirectories are not part of a checkpoint.
        let files = info.siblings.into_iter();
        hub.files = files
            .filter(|file| !file.rfilename.contains(['/', '\\']))
            .map(Sibling::into_file)
            .collect();
        Ok(hub)
    }

    async fn get(&self, path: &str, from: u64) -> Result<Response, Failure> {
        let mut request = self.client.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            // The client drops it when the hub redirects to another host.
            request = request.bearer_auth(token.reveal());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unavailable(&error))?;
        let (endpoint, repository) = (&self.endpoint, &self.repository);
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!(
                    "{endpoint} refuses hf://{repository} ({status}): check its name, accept \
                     its terms on the hub, and name a Secret with a token in \
                     embedding.model.tokenSecretRef"
                );
                Err(Failure::fatal(
                    Stage::Model,
                    Reason::ModelForbidden,
                    message,
                ))
            }
            StatusCode::NOT_FOUND => {
                let message = format!(
                    "{endpoint} has no hf://{repository} with this revision, or no {path} in it"
                );
                Err(Failure::fatal(Stage::Model, Reason::ModelNotFound, message))
            }
            _ => {
                let message = format!("{endpoint} answered {status} for hf://{repository}");
                Err(Failure::transient(
                    Stage::Model,
                    Reason::HubUnavailable,
                    message,
                ))
            }
        }
    }

    fn unavailable(&self, error: &reqwest::Error) -> Failure {
        unavailable(&self.endpoint, error)
    }
}

/// The hub did not respond, or the connection broke. The error's own URL may contain a signature and
/// is therefore omitted.
fn unavailable(endpoint: &str, error: &reqwest::Error) -> Failure {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.unwrap_or_else(|| "no response".to_owned());
    let message = format!("request to {endpoint} failed: {cause}");
    Failure::transient(Stage::Model, Reason::HubUnavailable, message)
}

impl Sibling {
    fn into_file(self) -> RemoteFile {
        let digest = match (self.lfs, self.blob_id) {
            (Some(lfs), _) => Some(RemoteDigest::Sha256(lfs.sha256)),
            (None, Some(blob)) => Some(RemoteDigest::GitBlob(blob)),
            (None, None) => None,
        };
        let version = match &digest {
            Some(RemoteDigest::Sha256(digest) | RemoteDigest::GitBlob(digest)) => digest.clone(),
            None => String::new(),
        };
        RemoteFile {
            name: self.rfilename,
            bytes: self.size,
            version,
            digest,
        }
    }
}

impl Source for Hub {
    async fn list(&self) -> Result<Vec<RemoteFile>, Failure> {
        Ok(self.files.clone())
    }

    async fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure> {
        let path = format!("{}/resolve/{}/{}", self.repository, self.commit, file.name);
        let response = self.get(&path, from).await?;
        // A server that cannot resume sends the whole file.
        let resumes = response.status() == StatusCode::PARTIAL_CONTENT
            && response.headers().contains_key(CONTENT_RANGE);
        let endpoint = self.endpoint.clone();
        let body = futures::stream::try_unfold(response, async |mut response| {
            let chunk = response.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, response)))
        });
        Ok(Body {
            from: if resumes { from } else { 0 },
            chunks: chunks(
                body.map_err(move |error: reqwest::Error| unavailable(&endpoint, &error)),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::Path;
    use axum::http::HeaderMap;
    use axum::http::header::AUTHORIZATION;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::json;

    use super::super::cache::Cache;
    use super::*;

    const CONTENT: &str = "hello\n";

    /// A hub with one file. It needs a token and can resume.
    async fn serve() -> String {
        let allowed = |headers: &HeaderMap| {
            headers
                .get(AUTHORIZATION)
                .is_some_and(|value| value == "Bearer let-me-in")
        };
        let info = async move |Path(revision): Path<String>, headers: HeaderMap| {
            if !allowed(&headers) {
                return StatusCode::UNAUTHORIZED.into_response();
            }
            if revision != "refs/pr/1" {
                return StatusCode::NOT_FOUND.into_response();
            }
            let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
            Json(json!({"sha": "c0ffee", "siblings": [
                {"rfilename": "config.json", "size": CONTENT.len(), "blobId": blob},
                {"rfilename": "onnx/model.onnx", "size": 1, "blobId": blob},
            ]}))
            .into_response()
        };
        let file = async move |headers: HeaderMap| match headers.get(RANGE) {
            Some(range) => {
                assert_eq!(range, "bytes=2-");
                let headers = [(CONTENT_RANGE, "bytes 2-5/6")];
                (StatusCode::PARTIAL_CONTENT, headers, &CONTENT[2..]).into_response()
            }
            None => CONTENT.into_response(),
        };
        let router = Router::new()
            .route("/api/models/acme/tiny/revision/{revision}", get(info))
            .route("/acme/tiny/resolve/c0ffee/config.json", get(file));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/")
    }

    async fn resolve(endpoint: &str, revision: &str, token: &str) -> Result<Hub, Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let token = Secret::new(token);
        Hub::resolve_at(endpoint, "acme/tiny", revision, Some(&token)).await
    }

    #[tokio::test]
    async fn a_revision_is_resolved_and_its_files_are_verified() {
        let endpoint = serve().await;
        let hub = resolve(&endpoint, "refs/pr/1", "let-me-in").await.unwrap();
        assert_eq!(hub.commit, "c0ffee");
        let files = hub.list().await.unwrap();
        assert_eq!(files.len(), 1, "subdirectories are left out");

        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().to_owned()).await.unwrap();
        // An earlier attempt was interrupted after two bytes.
        std::fs::write(directory.path().join(".config.json.partial"), "he").unwrap();
        let note = directory.path().join(".config.json.version");
        std::fs::write(note, &files[0].version).unwrap();
        cache.ensure(&hub, &files[0]).await.unwrap();
        let content = std::fs::read_to_string(directory.path().join("config.json"));
        assert_eq!(content.unwrap(), CONTENT);
    }

    #[tokio::test]
    async fn an_error_explains_the_refusal_without_the_token() {
        let endpoint = serve().await;
        let refused = |result: Result<Hub, Failure>| result.err().unwrap();
        let forbidden = refused(resolve(&endpoint, "refs/pr/1", "wrong-token").await);
        assert_eq!(forbidden.reason, Reason::ModelForbidden);
        assert!(forbidden.message.contains("tokenSecretRef"), "{forbidden}");
        assert!(!forbidden.message.contains("wrong-token"));
        let missing = refused(resolve(&endpoint, "v9", "let-me-in").await);
        assert_eq!(missing.reason, Reason::ModelNotFound);
        let unavailable = refused(resolve("http://127.0.0.1:1", "main", "x").await);
        assert_eq!(unavailable.class, crate::runtime::failure::Class::Transient);
    }
}
