//! `/healthz` (the process answers) and `/readyz` (the store takes writes). Neither needs a key.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::super::App;
use super::super::error::{Answer, Problem};
use crate::service::ErrorCode;

/// `GET /healthz`
pub(crate) async fn healthz() -> Response {
    super::json(StatusCode::OK, &json!({"status": "ok"}))
}

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
