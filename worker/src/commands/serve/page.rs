//! The page: the one of `layra-worker try`, which asks this server. It shows nothing without a token
//! and has no secret; pictures come from the object store.

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;
use layra_try::page;

/// No script or style within the page, and nothing of other origins but pictures.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' http: https:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const API: &str = include_str!("page/api.js");

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let file = |kind: &'static str, content: &'static str| {
        let headers: [(HeaderName, &'static str); 5] = [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // Links to pictures and originals are signed.
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-cache"),
        ];
        get(move || async move { (headers, content) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", page::INDEX))
        .route("/page.css", file("text/css; charset=utf-8", page::STYLE))
        .route("/page.js", file(SCRIPT, page::SCRIPT))
        .route("/api.js", file(SCRIPT, API))
        .route("/icon.svg", file("image/svg+xml", page::ICON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_asks_is_on_this_server_and_no_markup() {
        for forbidden in ["https://", "http://", "innerHTML", "eval("] {
            assert!(!API.contains(forbidden), "{forbidden}");
        }
    }
}
