//! Why a request is not answered, in the form of RFC 9457 and in that of LAYRA's model server.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::runtime::failure::{Class, Failure, Reason, Stage};

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// A word that stays the same.
    pub(super) reason: &'static str,
    /// For people. Says nothing about what the client may not see.
    pub(super) detail: String,
    /// The field of the body that is wrong.
    pub(super) field: Option<String>,
    /// Seconds after which the same request may succeed.
    pub(super) retry_after: Option<u32>,
}

/// The body of a refusal, as RFC 9457 has it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: `reason` tells what it is.
    r#type: &'static str,
    /// The phrase of the status code.
    title: String,
    /// The status code.
    status: u16,
    /// What is wrong, for people.
    detail: String,
    /// What is wrong, as a word that stays the same.
    reason: &'static str,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            field: None,
            retry_after: None,
        }
    }

    /// A field of the body has a value that cannot be used.
    pub(super) fn field(field: &str, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "InvalidRequest",
                detail.into(),
            )
        }
    }

    /// The same request may succeed later.
    pub(super) fn later(reason: &'static str, seconds: u32, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail)
        }
    }

    pub(super) fn busy() -> Self {
        Self::later(
            "Busy",
            1,
            "too many requests are in progress: send this one again later",
        )
    }

    pub(super) fn loading() -> Self {
        Self::later("Loading", 5, "the model is being loaded")
    }

    /// A token has asked too often, and may ask again after `wait`.
    pub(super) fn too_often(per_minute: NonZeroU32, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
        let detail = format!("this token may send {per_minute} requests a minute");
        Self {
            retry_after: Some(seconds.max(1)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", detail)
        }
    }

    pub(super) fn knowledge_base_not_found() -> Self {
        let detail = "no such knowledge base, or the token is not for it";
        Self::new(
            StatusCode::NOT_FOUND,
            Reason::KnowledgeBaseNotFound.as_str(),
            detail,
        )
    }

    /// The answer in the form of RFC 9457.
    pub(super) fn problem(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let problem = Problem {
            r#type: "about:blank",
            title: title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            reason: self.reason,
            field: self.field,
        };
        let mut response = (self.status, Json(problem)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        with_retry_after(response, self.retry_after)
    }

    /// The answer in the form of LAYRA's model server: a text, or for a wrong body a list.
    pub(super) fn detail(self) -> Response {
        let detail = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => {
                let place = [Some("body".to_owned()), self.field];
                let place: Vec<String> = place.into_iter().flatten().collect();
                json!([{ "type": self.reason, "loc": place, "msg": self.detail }])
            }
            _ => json!(self.detail),
        };
        let response = (self.status, Json(json!({ "detail": detail }))).into_response();
        with_retry_after(response, self.retry_after)
    }
}

fn with_retry_after(mut response: Response, seconds: Option<u32>) -> Response {
    if let Some(seconds) = seconds {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

impl From<Failure> for Refusal {
    /// Details of the servers go to the log only.
    fn from(failure: Failure) -> Self {
        let reason = failure.reason.as_str();
        let refusal = match (failure.class, failure.stage) {
            _ if failure.reason == Reason::KnowledgeBaseNotFound => {
                return Self::knowledge_base_not_found();
            }
            _ if matches!(
                failure.reason,
                Reason::KnowledgeBaseArchived | Reason::DimensionMismatch | Reason::ModelMismatch
            ) =>
            {
                return Self::new(StatusCode::CONFLICT, reason, failure.message);
            }
            // What was sent cannot be read or embedded. The message may quote it: not in the log.
            (Class::Permanent | Class::Poison, Stage::Render | Stage::Embed) => {
                tracing::warn!(stage = %failure.stage, reason, "request refused");
                return Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason, failure.message);
            }
            (Class::Transient, stage) => {
                Self::later(reason, 5, format!("{stage} is not available at the moment"))
            }
            (Class::Stopped, _) => Self::later(reason, 5, "the server is stopping"),
            (_, stage) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                reason,
                format!("{stage} failed: the log of the server has more"),
            ),
        };
        tracing::warn!(%failure, status = refusal.status.as_u16(), "request refused");
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_servers_are_not_shown() {
        let message = "10.0.0.7:19530: connection refused, token abc";
        for (failure, status) in [
            (
                Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, message),
                503,
            ),
            (
                Failure::fatal(Stage::Mongodb, Reason::MongodbForbidden, message),
                500,
            ),
            (
                Failure::permanent(Stage::Milvus, Reason::CollectionGone, message),
                500,
            ),
        ] {
            let refusal = Refusal::from(failure);
            assert_eq!(refusal.status.as_u16(), status);
            assert!(!refusal.detail.contains("10.0"), "{}", refusal.detail);
            assert_eq!(refusal.retry_after.is_some(), status == 503);
        }
    }
}
