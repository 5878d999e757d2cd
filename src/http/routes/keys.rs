//! `/v1/tenants/{tenant}/keys`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::Caller;
use super::super::error::Answer;
use super::super::extract::{Segments, read_json};
use crate::service::{Error, ErrorCode, KeyInfo};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyWanted {
    name: String,
    scopes: Vec<String>,
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<KeyInfo>,
}

/// `POST /v1/tenants/{tenant}/keys`: the key is in this answer and nowhere else.
pub(crate) async fn create(
    State(app): State<App>,
    Caller(by): Caller,
    Segments(tenant): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let KeyWanted { name, scopes, expires_at } = read_json(&app, &headers, body).await?;
    let made = app
        .blocking(move |service| service.create_key(&by, &tenant, &name, &scopes, expires_at.as_deref()))
        .await?;
    Ok(super::json(StatusCode::CREATED, &made))
}

/// `GET /v1/tenants/{tenant}/keys`
pub(crate) async fn list(State(app): State<App>, Caller(by): Caller, tenant: Segments<String>) -> Answer {
    let keys = app.blocking(move |service| service.list_keys(&by, &tenant.0)).await?;
    Ok(super::json(StatusCode::OK, &Keys { keys }))
}

/// `GET /v1/tenants/{tenant}/keys/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    Caller(by): Caller,
    Segments((tenant, id)): Segments<(String, String)>,
) -> Answer {
    let found = app
        .blocking(move |service| {
            let keys = service.list_keys(&by, &tenant)?;
            let found = keys.into_iter().find(|key| key.id == id);
            found.ok_or_else(|| Error::new(ErrorCode::NotFound, "the tenant has no key of this id"))
        })
        .await?;
    Ok(super::json(StatusCode::OK, &found))
}

/// `DELETE /v1/tenants/{tenant}/keys/{id}`
pub(crate) async fn revoke(
    State(app): State<App>,
    Caller(by): Caller,
    Segments((tenant, id)): Segments<(String, String)>,
) -> Answer {
    app.blocking(move |service| service.revoke_key(&by, &tenant, &id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
