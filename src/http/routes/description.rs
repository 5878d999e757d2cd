//! `/openapi.json` and `/docs`: the interface describes itself, to everybody.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;

use super::super::openapi::{BARE, Content, Operation, PAGE, document, of};
use super::super::router::table;

/// Any object.
#[derive(JsonSchema)]
#[schemars(inline)]
struct Object {}

pub(crate) const DOCUMENT: Operation = Operation {
    id: "describe",
    summary: "Answers this description.",
    answers: &[(200, "OpenAPI 3.1.", Content::Json(of::<Object>))],
    ..BARE
};

/// `GET /openapi.json`
pub(crate) async fn openapi() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document(&table()).to_string());
    super::ready_json(TEXT.clone())
}

pub(crate) const BROWSE: Operation = Operation {
    id: "browse",
    summary: "Shows the description as a page.",
    answers: &[(200, "HTML.", Content::Text("text/html; charset=utf-8"))],
    ..BARE
};

/// `GET /docs`
pub(crate) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        // The page loads nothing but the document, and nobody frames it.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
            ),
        ),
    ];
    (headers, PAGE).into_response()
}
