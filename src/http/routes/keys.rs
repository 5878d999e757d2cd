//! `/v1/tenants/{tenant}/keys`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::{OfTenant, ToAdminister};
use super::super::error::Answer;
use super::super::extract::{At, Id, read_json};
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use crate::service::{Error, ErrorCode, KeyInfo, NewKey};

/// A key to be made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyWanted {
    /// What its maker calls it; no control characters.
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// admin ingest read verify export retention hold erase
    #[schemars(with = "Vec<ScopeName>", length(min = 1))]
    scopes: Vec<String>,
    /// RFC 3339, in the future.
    #[serde(default)]
    expires_at: Option<String>,
}

/// What a tenant's key may do.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", rename = "Scope")]
#[expect(dead_code, reason = "a schema alone")]
enum ScopeName {
    Admin,
    Ingest,
    Read,
    Verify,
    Export,
    Retention,
    Hold,
    Erase,
}

#[derive(Serialize, JsonSchema)]
struct Keys {
    keys: Vec<KeyInfo>,
}

/// What a write of Varve's own can meet.
pub(super) const WRITES: &[ErrorCode] = &[ErrorCode::OutcomeUnknown, ErrorCode::ReadOnly];

pub(crate) const CREATE: Operation = Operation {
    id: "createKey",
    summary: "Makes a key of a tenant; its text is in this answer and nowhere else.",
    bodies: &[(JSON, of::<KeyWanted>)],
    answers: &[(201, "The key.", Content::Json(of::<NewKey>))],
    refusals: WRITES,
    ..BARE
};

/// `POST /v1/tenants/{tenant}/keys`: the key is in this answer and nowhere else.
pub(crate) async fn create(
    State(app): State<App>,
    at: OfTenant<ToAdminister>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let KeyWanted { name, scopes, expires_at } = read_json(&app, &headers, body).await?;
    let made = app
        .blocking(move |service| {
            service.create_key(&at.by, &at.tenant, &name, &scopes, expires_at.as_deref())
        })
        .await?;
    Ok(super::json(StatusCode::CREATED, &made))
}

pub(crate) const LIST: Operation = Operation {
    id: "listKeys",
    summary: "Lists the keys of a tenant, revoked ones included.",
    answers: &[(200, "The keys, without their secrets.", Content::Json(of::<Keys>))],
    ..BARE
};

/// `GET /v1/tenants/{tenant}/keys`
pub(crate) async fn list(State(app): State<App>, at: OfTenant<ToAdminister>) -> Answer {
    let keys = app.blocking(move |service| service.list_keys(&at.by, &at.tenant)).await?;
    Ok(super::json(StatusCode::OK, &Keys { keys }))
}

pub(crate) const SHOW: Operation = Operation {
    id: "showKey",
    summary: "Shows one key of a tenant.",
    answers: &[(200, "The key, without its secret.", Content::Json(of::<KeyInfo>))],
    ..BARE
};

/// `GET /v1/tenants/{tenant}/keys/{id}`
pub(crate) async fn show(State(app): State<App>, at: OfTenant<ToAdminister>, At(Id(id)): At<Id>) -> Answer {
    let found = app
        .blocking(move |service| {
            let keys = service.list_keys(&at.by, &at.tenant)?;
            let found = keys.into_iter().find(|key| key.id == id);
            found.ok_or_else(|| Error::new(ErrorCode::NotFound, "the tenant has no key of this id"))
        })
        .await?;
    Ok(super::json(StatusCode::OK, &found))
}

pub(crate) const REVOKE: Operation = Operation {
    id: "revokeKey",
    summary: "Revokes a key: it is refused from the moment of the answer.",
    answers: &[(204, "It is revoked, or was before.", Content::Nothing)],
    refusals: WRITES,
    ..BARE
};

/// `DELETE /v1/tenants/{tenant}/keys/{id}`
pub(crate) async fn revoke(State(app): State<App>, at: OfTenant<ToAdminister>, At(Id(id)): At<Id>) -> Answer {
    app.blocking(move |service| service.revoke_key(&at.by, &at.tenant, &id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
