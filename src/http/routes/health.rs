//! `/healthz` (the process answers) and `/readyz` (the store takes writes). Neither needs a key.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::super::App;
use super::super::error::{Answer, Problem};
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
    summary: "Says whether the store takes writes.",
    answers: &[(200, "It does.", Content::Json(of::<Health>))],
    refusals: &[ErrorCode::ReadOnly],
    ..BARE
};

/// `GET /readyz`: 503 `read_only` once the store has stopped taking writes. Why stands in the server's log: this
/// route is open to all.
pub(crate) async fn readyz(State(app): State<App>) -> Answer {
    if app.service.poisoned().is_some() {
        let detail =
            "the store has stopped taking writes and the process is about to exit; see the server's log";
        return Err(Problem::new(ErrorCode::ReadOnly, detail));
    }
    Ok(super::json(StatusCode::OK, &json!({"status": "ready"})))
}
