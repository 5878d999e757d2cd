//! `/v1/tenants/{tenant}/retention`: what is kept how long.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;

use super::super::App;
use super::super::auth::{OfTenant, ToRetain};
use super::super::error::Answer;
use super::super::extract::read_json_body;
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use crate::retention::MAX_CHANGE_BYTES;
use crate::service::{ErrorCode, RetentionView};

/// A change of the policy. A class that is not named keeps what it has.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone: the text is read strictly elsewhere")]
struct RetentionChange {
    /// By name: `security`, `processing`, `privacy-request`, `long-evidence`, or a class of the tenant's own.
    classes: Option<std::collections::BTreeMap<String, Months>>,
    /// Which class an event has that names none; replaces all rules.
    #[schemars(length(max = 256))]
    rules: Option<Vec<RuleWanted>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone")]
struct Months {
    #[schemars(range(min = 1, max = 1200))]
    months: u16,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone")]
struct RuleWanted {
    /// An action, or a prefix and `.*`.
    action: String,
    /// A class of the policy.
    class: String,
}

pub(crate) const SHOW: Operation = Operation {
    id: "showRetention",
    summary: "Shows what a tenant's log keeps how long.",
    answers: &[(200, "The policy.", Content::Json(of::<RetentionView>))],
    ..BARE
};

/// `GET …/retention`
pub(crate) async fn show(State(app): State<App>, of: OfTenant<ToRetain>) -> Answer {
    let shown = app.blocking(move |service| service.retention(&of.by, &of.tenant)).await?;
    Ok(super::json(StatusCode::OK, &shown))
}

pub(crate) const SET: Operation = Operation {
    id: "setRetention",
    summary: "Changes what a tenant's log keeps how long; the change is an entry of the log.",
    bodies: &[(JSON, of::<RetentionChange>)],
    answers: &[(200, "The policy as it is now.", Content::Json(of::<RetentionView>))],
    refusals: &[ErrorCode::OutcomeUnknown, ErrorCode::ReadOnly],
    ..BARE
};

/// `PUT …/retention`
pub(crate) async fn set(
    State(app): State<App>,
    of: OfTenant<ToRetain>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let change = read_json_body(&app, &headers, body, MAX_CHANGE_BYTES).await?;
    let set = app.blocking(move |service| service.set_retention(&of.by, &of.tenant, change.bytes())).await?;
    Ok(super::json(StatusCode::OK, &set))
}
