//! `/v1/tenants`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::{Caller, OfTenant, ToAdminister, ToLook};
use super::super::error::Answer;
use super::super::extract::read_json;
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use super::approvals::Asking;
use crate::service::{ErrorCode, TenantInfo};

/// A tenant to be made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    tenant: String,
}

/// A tenant that was made.
#[derive(Serialize, JsonSchema)]
struct Created<'a> {
    tenant: &'a str,
    /// `<instance>/<tenant>`.
    origin: &'a str,
    /// C2SP vkey.
    public_key: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct Tenants {
    tenants: Vec<TenantInfo>,
}

pub(crate) const CREATE: Operation = Operation {
    id: "createTenant",
    summary: "Makes a tenant, with a log and a signing key of its own.",
    bodies: &[(JSON, of::<NewTenant>)],
    answers: &[(201, "It is durable.", Content::Json(of::<Created<'static>>))],
    refusals: &[
        ErrorCode::AlreadyExists,
        ErrorCode::OutcomeUnknown,
        ErrorCode::ReadOnly,
        ErrorCode::StorageFull,
    ],
    ..BARE
};

/// `POST /v1/tenants`
pub(crate) async fn create(
    State(app): State<App>,
    Caller(by): Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let NewTenant { tenant } = read_json(&app, &headers, body).await?;
    let made = app.blocking(move |service| service.create_tenant(&by, &tenant)).await?;
    let created = Created { tenant: &made.tenant, origin: &made.origin, public_key: &made.public_key };
    Ok(super::json(StatusCode::CREATED, &created))
}

pub(crate) const LIST: Operation = Operation {
    id: "listTenants",
    summary: "Lists all tenants, by name.",
    answers: &[(200, "The tenants.", Content::Json(of::<Tenants>))],
    ..BARE
};

/// `GET /v1/tenants`
pub(crate) async fn list(State(app): State<App>, Caller(by): Caller) -> Answer {
    let tenants = app.blocking(move |service| service.list_tenants(&by)).await?;
    Ok(super::json(StatusCode::OK, &Tenants { tenants }))
}

pub(crate) const SHOW: Operation = Operation {
    id: "showTenant",
    summary: "Shows a tenant: origin, public key, size, head.",
    answers: &[(200, "The tenant.", Content::Json(of::<TenantInfo>))],
    ..BARE
};

/// `GET /v1/tenants/{tenant}`
pub(crate) async fn show(State(app): State<App>, of: OfTenant<ToLook>) -> Answer {
    let shown = app.blocking(move |service| service.tenant(&of.by, &of.tenant)).await?;
    Ok(super::json(StatusCode::OK, &shown))
}

/// A log to be closed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Closing {
    /// Size of the log when it was taken away whole; what it is must still be so much.
    size: u64,
}

pub(crate) const CLOSE: Operation = Operation {
    id: "closeTenant",
    summary: "Asks for the end of a tenant's log: no event is taken any more; another key must approve it.",
    bodies: &[(JSON, of::<Closing>)],
    answers: &[(202, "It waits for another key.", Content::Json(of::<Asking>))],
    refusals: &[ErrorCode::Gone, ErrorCode::OutcomeUnknown, ErrorCode::ReadOnly],
    ..BARE
};

/// `POST /v1/tenants/{tenant}/close`
pub(crate) async fn close(
    State(app): State<App>,
    at: OfTenant<ToAdminister>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Closing { size } = read_json(&app, &headers, body).await?;
    let approval = app.blocking(move |service| service.close_tenant(&at.by, &at.tenant, size)).await?;
    Ok(super::json(StatusCode::ACCEPTED, &Asking { approval }))
}
