//! `/v1/tenants/{tenant}/verify`: verification as a job.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};

use super::super::App;
use super::super::auth::{OfTenant, ToVerify};
use super::super::error::Answer;
use super::super::extract::{At, Id};
use super::super::openapi::{BARE, Content, Operation, of};
use crate::service::VerificationView;

pub(crate) const START: Operation = Operation {
    id: "startVerification",
    summary: "Begins to verify a tenant's log; one at a time, so a second call answers the one that runs.",
    answers: &[(202, "It runs.", Content::Json(of::<VerificationView>))],
    ..BARE
};

/// `POST …/verify`
pub(crate) async fn start(State(app): State<App>, of: OfTenant<ToVerify>) -> Answer {
    let tenant = of.tenant.clone();
    let job = app.blocking(move |service| service.start_verification(&of.by, &of.tenant)).await?;
    let location = HeaderValue::try_from(format!("/v1/tenants/{tenant}/verify/{}", job.id));
    let mut answer = super::json(StatusCode::ACCEPTED, &job);
    if let Ok(location) = location {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

pub(crate) const SHOW: Operation = Operation {
    id: "showVerification",
    summary: "Shows how a verification stands, and what it found.",
    answers: &[(200, "Its state.", Content::Json(of::<VerificationView>))],
    ..BARE
};

/// `GET …/verify/{id}`
pub(crate) async fn show(State(app): State<App>, of: OfTenant<ToVerify>, At(Id(id)): At<Id>) -> Answer {
    let job = app.blocking(move |service| service.verification(&of.by, &of.tenant, &id)).await?;
    Ok(super::json(StatusCode::OK, &job))
}
