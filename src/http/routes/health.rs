//! `/healthz` (the process answers) and `/readyz` (the store takes writes and acknowledges them). Neither needs a key,
//! and neither says more than that.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::super::App;
use super::super::error::Answer;
use super::super::openapi::{BARE, Content, Operation, of};
use crate::service::ErrorCode;

#[derive(schemars::JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "a schema alone")]
struct Health {
    status: String,
}

pub(crate) const HEALTHZ: Operation = Operation {
    id: "isAlive",
    summary: "Says that the process answers.",
    answers: &[(200, "It does.", Content::Json(of::<Health>))],
    ..BARE
};

/// `GET /healthz`
pub(crate) async fn healthz() -> Response {
    super::json(StatusCode::OK, &json!({"status": "ok"}))
}

pub(crate) const READYZ: Operation = Operation {
    id: "isReady",
    summary: "Says whether the store takes writes and acknowledges them.",
    answers: &[(200, "It does.", Content::Json(of::<Health>))],
    refusals: &[ErrorCode::ReadOnly, ErrorCode::StorageFull, ErrorCode::Busy],
    ..BARE
};

/// `GET /readyz`: 503 `read_only` once the store has stopped or is stopping, 507 `storage_full`, 503 `busy` when the
/// queue has no room or nothing becomes durable. Why stands in the server's log: this route is open to all.
pub(crate) async fn readyz(State(app): State<App>) -> Answer {
    app.service.ready()?;
    Ok(super::json(StatusCode::OK, &json!({"status": "ready"})))
}
