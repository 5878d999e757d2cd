//! The handlers, one file a noun.

pub(crate) mod approvals;
mod batch;
pub(crate) mod compactions;
pub(crate) mod description;
pub(crate) mod erasures;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod holds;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod retention;
pub(crate) mod tenants;
pub(crate) mod verifications;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// `value` as JSON with `status`.
fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    (status, Json(value)).into_response()
}

/// Text that is JSON already.
fn ready_json(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// A C2SP text: a checkpoint or a proof.
fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}
