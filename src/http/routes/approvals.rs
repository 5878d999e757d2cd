//! `/v1/approvals/{id}`: the second of two keys.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::App;
use super::super::auth::Caller;
use super::super::error::Answer;
use super::super::extract::{At, Id};
use super::super::openapi::{BARE, Content, Operation, of};
use crate::service::{ApprovalView, ErrorCode};

/// An act that waits, or has waited, for a second key.
#[derive(Serialize, JsonSchema)]
pub(super) struct Asking {
    pub(super) approval: ApprovalView,
}

pub(crate) const APPROVE: Operation = Operation {
    id: "approve",
    summary: "Approves an act that another key asked for, and does it; the key needs the scope of the act.",
    answers: &[(200, "It is done, or on its way.", Content::Json(of::<Asking>))],
    refusals: &[ErrorCode::Gone, ErrorCode::OutcomeUnknown, ErrorCode::ReadOnly],
    ..BARE
};

/// `POST /v1/approvals/{id}`
pub(crate) async fn approve(State(app): State<App>, Caller(by): Caller, At(Id(id)): At<Id>) -> Answer {
    let approval = app.blocking(move |service| service.approve(&by, &id)).await?;
    Ok(super::json(StatusCode::OK, &Asking { approval }))
}
