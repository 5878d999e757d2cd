//! `/v1/tenants/{tenant}/erasures`: what was sealed about a person leaves.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::App;
use super::super::auth::{OfTenant, ToErase};
use super::super::error::Answer;
use super::super::extract::{At, Id, read_json_body};
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use super::approvals::Asking;
use crate::service::{Asked, ErasureView, ErrorCode, MAX_ERASURE_BYTES};

/// An erasure to be made.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone: the text is read strictly elsewhere")]
struct ErasureWanted {
    /// Who is to be erased, as actor or as target.
    subject: Subject,
    /// By which right, such as `GDPR Art. 17`; kept sealed in the log.
    #[schemars(length(min = 1, max = 1024))]
    basis: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "a schema alone")]
struct Subject {
    /// `type` of the actor or target; absent, it is those that have none.
    r#type: Option<String>,
    /// Its `id`.
    id: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a schema alone")]
enum Accepted {
    Erasure(ErasureView),
    Asking(Asking),
}

#[derive(Serialize, JsonSchema)]
struct Erasures {
    erasures: Vec<ErasureView>,
}

pub(crate) const REQUEST: Operation = Operation {
    id: "requestErasure",
    summary: "Asks for the erasure of a person; where the operator wants two keys, another one must approve it.",
    bodies: &[(JSON, of::<ErasureWanted>)],
    answers: &[(202, "It is on its way, or waits for another key.", Content::Json(of::<Accepted>))],
    refusals: &[ErrorCode::Held, ErrorCode::OutcomeUnknown, ErrorCode::ReadOnly],
    ..BARE
};

/// `POST …/erasures`
pub(crate) async fn request(
    State(app): State<App>,
    at: OfTenant<ToErase>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let wanted = read_json_body(&app, &headers, body, MAX_ERASURE_BYTES).await?;
    let tenant = at.tenant.clone();
    let asked =
        app.blocking(move |service| service.request_erasure(&at.by, &at.tenant, wanted.bytes())).await?;
    match asked {
        Asked::Approval(approval) => Ok(super::json(StatusCode::ACCEPTED, &Asking { approval })),
        Asked::Erasure(erasure) => {
            let location = HeaderValue::try_from(format!("/v1/tenants/{tenant}/erasures/{}", erasure.id));
            let mut answer = super::json(StatusCode::ACCEPTED, &erasure);
            if let Ok(location) = location {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            Ok(answer)
        }
    }
}

pub(crate) const LIST: Operation = Operation {
    id: "listErasures",
    summary: "Lists the erasures of a tenant, newest first; the last 1,000.",
    answers: &[(200, "The erasures.", Content::Json(of::<Erasures>))],
    ..BARE
};

/// `GET …/erasures`
pub(crate) async fn list(State(app): State<App>, at: OfTenant<ToErase>) -> Answer {
    let erasures = app.blocking(move |service| service.erasures(&at.by, &at.tenant)).await?;
    Ok(super::json(StatusCode::OK, &Erasures { erasures }))
}

pub(crate) const SHOW: Operation = Operation {
    id: "showErasure",
    summary: "Shows how an erasure stands.",
    answers: &[(200, "Its state.", Content::Json(of::<ErasureView>))],
    ..BARE
};

/// `GET …/erasures/{id}`
pub(crate) async fn show(State(app): State<App>, at: OfTenant<ToErase>, At(Id(id)): At<Id>) -> Answer {
    let erasure = app.blocking(move |service| service.erasure(&at.by, &at.tenant, &id)).await?;
    Ok(super::json(StatusCode::OK, &erasure))
}
