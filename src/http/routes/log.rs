//! `/v1/tenants/{tenant}/log`

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::Caller;
use super::super::error::Answer;
use super::super::extract::{Params, Segments};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct Consistency {
    from: u64,
    to: u64,
    proof: Vec<String>,
}

/// `GET …/log/checkpoint`: a C2SP checkpoint.
pub(crate) async fn checkpoint(
    State(app): State<App>,
    Caller(by): Caller,
    tenant: Segments<String>,
) -> Answer {
    Ok(super::text(app.blocking(move |service| service.checkpoint(&by, &tenant.0)).await?))
}

/// `GET …/log/consistency?from=&to=`: RFC 6962 consistency proof between two tree sizes.
pub(crate) async fn consistency(
    State(app): State<App>,
    Caller(by): Caller,
    Segments(tenant): Segments<String>,
    Params(Range { from, to }): Params<Range>,
) -> Answer {
    let proof = app.blocking(move |service| service.consistency(&by, &tenant, from, to)).await?;
    Ok(super::json(StatusCode::OK, &Consistency { from, to, proof }))
}
