//! `/v1/tenants`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::Caller;
use super::super::error::Answer;
use super::super::extract::{Segments, read_json};
use crate::service::TenantInfo;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    tenant: String,
}

#[derive(Serialize)]
struct Created<'a> {
    tenant: &'a str,
    origin: &'a str,
    public_key: &'a str,
}

#[derive(Serialize)]
struct Tenants {
    tenants: Vec<TenantInfo>,
}

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

/// `GET /v1/tenants`
pub(crate) async fn list(State(app): State<App>, Caller(by): Caller) -> Answer {
    let tenants = app.blocking(move |service| service.list_tenants(&by)).await?;
    Ok(super::json(StatusCode::OK, &Tenants { tenants }))
}

/// `GET /v1/tenants/{tenant}`
pub(crate) async fn show(State(app): State<App>, Caller(by): Caller, tenant: Segments<String>) -> Answer {
    let shown = app.blocking(move |service| service.tenant(&by, &tenant.0)).await?;
    Ok(super::json(StatusCode::OK, &shown))
}
