//! `/v1/tenants/{tenant}/holds`: what stays, whatever a policy says.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::App;
use super::super::auth::{OfTenant, ToHold};
use super::super::error::Answer;
use super::super::extract::{At, Id, read_json_body};
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use super::approvals::Asking;
use super::keys::WRITES;
use crate::query::QueryText;
use crate::service::{HoldView, MAX_HOLD_BYTES};

/// A hold to be placed. It says one of `tenant`, `filter` and `indexes`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone: the text is read strictly elsewhere")]
struct HoldWanted {
    /// Why; kept sealed in the log.
    #[schemars(length(min = 1, max = 4096))]
    reason: String,
    /// The case it belongs to.
    #[schemars(length(min = 1, max = 256))]
    case: Option<String>,
    /// `true`: everything in the log, and all that is appended.
    tenant: Option<bool>,
    /// What this finds, now and of all that is appended: the members of a query's filter.
    filter: Option<QueryText>,
    /// These entries.
    #[schemars(length(min = 1, max = 4000))]
    indexes: Option<Vec<u64>>,
}

#[derive(Serialize, JsonSchema)]
struct Holds {
    holds: Vec<HoldView>,
}

pub(crate) const PLACE: Operation = Operation {
    id: "placeHold",
    summary: "Places a legal hold: what it holds does not leave, from this answer on.",
    bodies: &[(JSON, of::<HoldWanted>)],
    answers: &[(201, "It is in force.", Content::Json(of::<HoldView>))],
    refusals: WRITES,
    ..BARE
};

/// `POST …/holds`
pub(crate) async fn place(
    State(app): State<App>,
    at: OfTenant<ToHold>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let wanted = read_json_body(&app, &headers, body, MAX_HOLD_BYTES).await?;
    let hold = app.blocking(move |service| service.place_hold(&at.by, &at.tenant, wanted.bytes())).await?;
    Ok(super::json(StatusCode::CREATED, &hold))
}

pub(crate) const LIST: Operation = Operation {
    id: "listHolds",
    summary: "Lists the holds in force; those that were released are in the log.",
    answers: &[(200, "The holds.", Content::Json(of::<Holds>))],
    ..BARE
};

/// `GET …/holds`
pub(crate) async fn list(State(app): State<App>, at: OfTenant<ToHold>) -> Answer {
    let holds = app.blocking(move |service| service.holds(&at.by, &at.tenant)).await?;
    Ok(super::json(StatusCode::OK, &Holds { holds }))
}

pub(crate) const RELEASE: Operation = Operation {
    id: "releaseHold",
    summary: "Asks for the release of a hold; another key with the scope must approve it.",
    answers: &[(202, "It waits for another key.", Content::Json(of::<Asking>))],
    refusals: WRITES,
    ..BARE
};

/// `DELETE …/holds/{id}`
pub(crate) async fn release(State(app): State<App>, at: OfTenant<ToHold>, At(Id(id)): At<Id>) -> Answer {
    let approval = app.blocking(move |service| service.release_hold(&at.by, &at.tenant, &id)).await?;
    Ok(super::json(StatusCode::ACCEPTED, &Asking { approval }))
}
