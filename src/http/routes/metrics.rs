//! `/metrics`: what the service counts, in Prometheus text form. Needs no key, and holds nothing of a tenant.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;

use super::super::error::Answer;
use super::super::openapi::{BARE, Content, Operation};
use super::super::{App, busy};
use crate::service::{Error, ErrorCode};
use crate::telemetry::TEXT_FORMAT;

/// How long a scrape waits for the one before it, which takes milliseconds. The place is not one of those for blocking
/// calls: metrics are wanted most when these are taken.
const SCRAPE_WAIT: Duration = Duration::from_secs(5);

pub(crate) const SCRAPE: Operation = Operation {
    id: "scrape",
    summary: "Answers metrics in Prometheus text form; with `metrics_listen`, at that address alone.",
    answers: &[(200, "Metrics.", Content::Text(TEXT_FORMAT))],
    refusals: &[ErrorCode::Busy, ErrorCode::Internal],
    ..BARE
};

/// `GET /metrics`
pub(crate) async fn scrape(State(app): State<App>) -> Answer {
    let acquire = app.service.telemetry().http().scrapes().acquire_owned();
    let Ok(Ok(place)) = tokio::time::timeout(SCRAPE_WAIT, acquire).await else {
        return Err(busy("another scrape is under way").into());
    };
    let places = app.limits.max_blocking_calls;
    let taken = places.saturating_sub(app.blocking.available_permits());
    app.service.telemetry().http().set_blocking(taken, places);
    let service = app.service.clone();
    let text = tokio::task::spawn_blocking(move || {
        let _place = place;
        service.metrics()
    });
    let text = text
        .await
        .map_err(|_| Error::new(ErrorCode::Internal, "the scrape ended in a defect; see the server's log"))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], text).into_response())
}
