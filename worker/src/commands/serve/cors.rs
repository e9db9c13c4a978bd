//! Lets web pages of other origins call `/v1`, those that are listed. A browser sends neither
//! cookies nor anything else by itself: the page has to have a token.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember that a page may call.
const REMEMBERED: Duration = Duration::from_mins(10);

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
    let listed = move |asked: &HeaderValue, request: &Parts| {
        let is_listed = |origin: &HeaderValue| origin == "*" || origin == asked;
        request.uri.path().starts_with("/v1/") && origins.iter().any(is_listed)
    };
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(listed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
        .max_age(REMEMBERED)
        .vary([ORIGIN]);
    router.layer(layer)
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
