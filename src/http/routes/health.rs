//! `/healthz` (the process answers) and `/readyz` (the store takes writes and acknowledges them). Neither needs a key,
//! and neither says more than that.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::super::App;
use super::super::error::Answer;

/// `GET /healthz`
pub(crate) async fn healthz() -> Response {
    super::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// `GET /readyz`: 503 `read_only` once the store has stopped or is stopping, 507 `storage_full`, 503 `busy` when the
/// queue has no room or nothing becomes durable. Why stands in the server's log: this route is open to all.
pub(crate) async fn readyz(State(app): State<App>) -> Answer {
    app.service.ready()?;
    Ok(super::json(StatusCode::OK, &json!({"status": "ready"})))
}
