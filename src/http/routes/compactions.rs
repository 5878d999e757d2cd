//! `/v1/compactions`: bodies whose time is up leave.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::App;
use super::super::auth::Caller;
use super::super::error::Answer;
use super::super::extract::{At, Id, read_json};
use super::super::openapi::{BARE, Content, JSON, Operation, of};
use crate::event::Micros;
use crate::service::{CompactionPlan, CompactionView, CompactionsView, ConfirmClock, Error, ErrorCode};

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Only say what would leave; `true` unless said otherwise.
    #[serde(default = "yes")]
    dry_run: bool,
    /// That the server's clock is right: `true`, or the time it is. Asked for while the clock has not held for 24 hours.
    #[serde(default)]
    confirm_clock: Option<Confirmed>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Confirmed {
    Right(bool),
    At(String),
}

fn yes() -> bool {
    true
}

pub(crate) const START: Operation = Operation {
    id: "compact",
    summary: "Plans a compaction, or begins one; one at a time, so a second call answers the one that runs.",
    bodies: &[(JSON, of::<Wanted>)],
    answers: &[
        (200, "The plan.", Content::Json(of::<CompactionPlan>)),
        (202, "It runs.", Content::Json(of::<CompactionView>)),
    ],
    refusals: &[ErrorCode::ReadOnly],
    ..BARE
};

/// `POST /v1/compactions`
pub(crate) async fn start(
    State(app): State<App>,
    Caller(by): Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let wanted: Wanted = read_json(&app, &headers, body).await?;
    let confirm = match wanted.confirm_clock {
        None | Some(Confirmed::Right(false)) => ConfirmClock::No,
        Some(Confirmed::Right(true)) => ConfirmClock::Yes,
        Some(Confirmed::At(text)) => ConfirmClock::At(
            Micros::parse(&text)
                .map_err(|_| {
                    let detail = "`confirm_clock` is true or an RFC 3339 time; nothing was changed";
                    Error::new(ErrorCode::BadRequest, detail).at("/confirm_clock")
                })?
                .0,
        ),
    };
    if wanted.dry_run {
        let plan = app.blocking(move |service| service.plan_compaction(&by)).await?;
        return Ok(super::json(StatusCode::OK, &plan));
    }
    let job = app.blocking(move |service| service.start_compaction(&by, confirm)).await?;
    let location = HeaderValue::try_from(format!("/v1/compactions/{}", job.id));
    let mut answer = super::json(StatusCode::ACCEPTED, &job);
    if let Ok(location) = location {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

pub(crate) const SHOW: Operation = Operation {
    id: "showCompaction",
    summary: "Shows how a compaction stands.",
    answers: &[(200, "Its state.", Content::Json(of::<CompactionView>))],
    ..BARE
};

/// `GET /v1/compactions/{id}`
pub(crate) async fn show(State(app): State<App>, Caller(by): Caller, At(Id(id)): At<Id>) -> Answer {
    let job = app.blocking(move |service| service.compaction(&by, &id)).await?;
    Ok(super::json(StatusCode::OK, &job))
}

pub(crate) const LIST: Operation = Operation {
    id: "listCompactions",
    summary: "Lists the compactions since the start, and whether they are paused.",
    answers: &[(200, "The compactions.", Content::Json(of::<CompactionsView>))],
    ..BARE
};

/// `GET /v1/compactions`
pub(crate) async fn list(State(app): State<App>, Caller(by): Caller) -> Answer {
    let all = app.blocking(move |service| service.compactions(&by)).await?;
    Ok(super::json(StatusCode::OK, &all))
}

/// Whether compactions wait.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// `true`: that of now waits, and those to come; `false`: they go on.
    paused: bool,
}

pub(crate) const PAUSE: Operation = Operation {
    id: "pauseCompactions",
    summary: "Lets compactions wait, or go on; a restart ends the wait.",
    bodies: &[(JSON, of::<Pause>)],
    answers: &[(200, "It is so.", Content::Json(of::<CompactionsView>))],
    ..BARE
};

/// `PUT /v1/compactions`
pub(crate) async fn pause(
    State(app): State<App>,
    Caller(by): Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Pause { paused } = read_json(&app, &headers, body).await?;
    let pause = move |service: &crate::service::Service| {
        service.pause_compactions(&by, paused)?;
        service.compactions(&by)
    };
    let all = app.blocking(pause).await?;
    Ok(super::json(StatusCode::OK, &all))
}
