//! Lets web pages of other origins call `/v1`, those that are listed. A browser sends neither
//! cookies nor anything else by itself: the page has to have a token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

/// Reads an origin of the command line.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    let is_origin = |url: &reqwest::Url| {
        let is_http = matches!(url.scheme(), "http" | "https");
        is_http && url.origin().ascii_serialization() == text
    };
    if text == "*" || reqwest::Url::parse(text).is_ok_and(|url| is_origin(&url)) {
        return HeaderValue::from_str(text).map_err(|error| error.to_string());
    }
    Err("it is neither `*` nor of the form https://example.com or http://example.com:8080".into())
}

/// The same paths, which pages of these origins may call below `/v1`.
pub(super) fn allow(router: Router, origins: &[HeaderValue]) -> Router {
    if origins.is_empty() {
        return router;
    }
    let origins: Arc<[HeaderValue]> = origins.into();
    router.layer(from_fn_with_state(origins, answer))
}

async fn answer(
    State(origins): State<Arc<[HeaderValue]>>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let asked = request.headers().get(ORIGIN);
    let listed = origins
        .iter()
        .find(|origin| *origin == "*" || asked == Some(*origin));
    let allowed = asked.and(listed).cloned();
    let is_preflight = request.method() == Method::OPTIONS
        && asked.is_some()
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    let Some(allowed) = allowed else {
        return response;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    let further = if is_preflight {
        &[
            (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ][..]
    } else {
        &[(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            "retry-after, www-authenticate",
        )]
    };
    for (name, value) in further {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_no_path_and_no_default_port() {
        for text in ["*", "https://a.example.com", "http://localhost:8080"] {
            assert_eq!(origin(text).unwrap(), text);
        }
        for text in [
            "",
            "null",
            "a.example.com",
            "https://a.example.com/",
            "https://a.example.com/page",
            "https://a.example.com:443",
            "https://*.example.com/",
            "ftp://a.example.com",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
