//! `/v1/tenants/{tenant}/events` and `/v1/events`: append, query, one record, its proof.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::{Caller, OfTenant, ToIngest, ToRead, ToVerify};
use super::super::error::{Answer, ProblemView};
use super::super::extract::{At, Index, MAX_APPEND_BYTES, Params, media_type, read_body};
use super::super::openapi::{
    AnyEvent, AnyRecord, BARE, Content, JSON, NDJSON, Operation, PLAIN, of, parameters,
};
use super::batch::{batch_mode, idempotency_key, split};
use crate::query::QueryText;
use crate::service::{BatchMode, Error, ErrorCode, Principal, QueryPage, Receipt, Submitted};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppendParams {
    /// `skip` takes each event of the batch on its own; without it a batch is stored whole or not at all.
    #[serde(default)]
    #[schemars(with = "OnError")]
    on_error: Option<String>,
    /// Answer what the client needs to check what was committed to.
    #[serde(default)]
    verifiable: bool,
}

/// The only value of `on_error`.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "a schema alone")]
enum OnError {
    Skip,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordParams {
    /// Add the entry, the exact bytes hashed, the salt and the disclosures.
    #[serde(default)]
    verifiable: bool,
}

/// What an append takes and answers, whichever tenant it is for.
const APPENDS: Operation = Operation {
    query: Some(parameters::<AppendParams>),
    answers: &[
        (
            201,
            "Durable: the receipt of one event, or of each event of a batch.",
            Content::Json(of::<Appended>),
        ),
        (200, "With `on_error=skip`: a receipt or a problem for each event.", Content::Json(of::<Results>)),
    ],
    refusals: &[
        ErrorCode::InvalidEvent,
        ErrorCode::NotFound,
        ErrorCode::IdConflict,
        ErrorCode::Gone,
        ErrorCode::RateLimited,
        ErrorCode::OutcomeUnknown,
        ErrorCode::ReadOnly,
        ErrorCode::StorageFull,
    ],
    ..BARE
};

pub(crate) const APPEND: Operation = Operation {
    id: "appendEvents",
    summary: "Appends one event, or up to 1,000, to a tenant's log.",
    takes_idempotency_key: true,
    bodies: &[(JSON, of::<OneOrMany<AnyEvent>>), (NDJSON, of::<Lines>)],
    ..APPENDS
};

/// `POST …/events`
pub(crate) async fn append(
    State(app): State<App>,
    to: OfTenant<ToIngest>,
    Params(params): Params<AppendParams>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    take_in(&app, &to.by, Some(&to.tenant), &params, &headers, body).await
}

pub(crate) const APPEND_ADDRESSED: Operation = Operation {
    id: "appendEventsOfTenants",
    summary: "Appends events that each name their `tenant`; the key needs `ingest` on each.",
    takes_idempotency_key: true,
    bodies: &[(NDJSON, of::<Lines>), (JSON, of::<OneOrMany<AddressedEvent>>)],
    ..APPENDS
};

/// `POST /v1/events`
pub(crate) async fn append_addressed(
    State(app): State<App>,
    Caller(by): Caller,
    Params(params): Params<AppendParams>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    take_in(&app, &by, None, &params, &headers, body).await
}

/// Takes a batch in; without a tenant each event names its own.
async fn take_in(
    app: &App,
    by: &Principal,
    tenant: Option<&str>,
    params: &AppendParams,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let mode = batch_mode(params.on_error.as_deref())?;
    let media = media_type(headers)?;
    let key = idempotency_key(headers)?;
    // Whether there is room is said before the body is read, not after.
    app.service.may_append()?;
    app.rates.may_send(&by.key_id)?;
    let held = read_body(app, headers, body, MAX_APPEND_BYTES).await?;
    let (raws, is_batch) = split(held.bytes(), media)?;
    if key.is_some() && is_batch {
        let detail = "`Idempotency-Key` names a single event; in a batch each event carries its own `id`";
        return Err(Error::new(ErrorCode::BadRequest, detail).into());
    }
    app.rates.sent(&by.key_id, raws.len());
    let events: Vec<Submitted<'_>> =
        raws.iter().map(|raw| Submitted { raw, idempotency_key: key.as_deref() }).collect();

    let service = &app.service;
    let outcomes = match tenant {
        Some(tenant) => service.append(by, tenant, &events, mode, params.verifiable).await,
        None => service.append_addressed(by, &events, mode, params.verifiable).await,
    };
    match (mode, is_batch) {
        (BatchMode::Skip, _) => Ok(results(outcomes?)),
        (BatchMode::Atomic, true) => Ok(receipts(outcomes?.into_iter().collect::<Result<_, _>>()?)),
        (BatchMode::Atomic, false) => single(outcomes),
    }
}

pub(crate) const QUERY: Operation = Operation {
    id: "queryEvents",
    summary: "Searches a tenant's events, newest first unless asked otherwise.",
    query: Some(parameters::<QueryText>),
    answers: &[(200, "A page of records.", Content::Json(of::<Page>))],
    refusals: &[ErrorCode::QueryTimeout],
    ..BARE
};

/// `GET …/events`
pub(crate) async fn query(
    State(app): State<App>,
    of: OfTenant<ToRead>,
    Params(params): Params<QueryText>,
) -> Answer {
    let page = app
        .blocking(move |service| service.query(&of.by, &of.tenant, &params).map(|page| page_json(&page)))
        .await?;
    Ok(super::ready_json(page))
}

pub(crate) const RECORD: Operation = Operation {
    id: "readRecord",
    summary: "Reads one record.",
    query: Some(parameters::<RecordParams>),
    answers: &[(200, "The record.", Content::Json(of::<AnyRecord>))],
    ..BARE
};

/// `GET …/events/{index}`
pub(crate) async fn record(
    State(app): State<App>,
    of: OfTenant<ToRead>,
    At(Index(index)): At<Index>,
    Params(RecordParams { verifiable }): Params<RecordParams>,
) -> Answer {
    let record = app.blocking(move |service| service.record(&of.by, &of.tenant, index, verifiable)).await?;
    Ok(super::ready_json(record.json))
}

pub(crate) const PROOF: Operation = Operation {
    id: "proveEntry",
    summary: "Proves that an entry is in the log (C2SP tlog-proof).",
    answers: &[(200, "The proof.", Content::Text(PLAIN))],
    ..BARE
};

/// `GET …/events/{index}/proof`: a C2SP `tlog-proof`.
pub(crate) async fn proof(
    State(app): State<App>,
    of: OfTenant<ToVerify>,
    At(Index(index)): At<Index>,
) -> Answer {
    Ok(super::text(app.blocking(move |service| service.proof(&of.by, &of.tenant, index)).await?))
}

/// One event, or up to 1,000.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "a schema alone")]
enum OneOrMany<T> {
    One(T),
    Many(#[schemars(length(min = 1, max = 1000))] Vec<T>),
}

/// An event a line; blank lines do not count.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "a schema alone")]
struct Lines(String);

/// An event with the member `tenant`.
struct AddressedEvent;

impl JsonSchema for AddressedEvent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressedEvent".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut event = AnyEvent::json_schema(generator);
        if let Some(members) = event.as_object_mut() {
            members["properties"]["tenant"] = serde_json::json!({"type": "string"});
            members["required"] = serde_json::json!(["tenant", "action", "outcome"]);
        }
        event
    }
}

/// What is answered where all events were stored.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, clippy::large_enum_variant, reason = "a schema alone")]
enum Appended {
    One(Receipt),
    Batch(Receipts),
}

#[derive(Serialize, JsonSchema)]
struct Receipts {
    receipts: Vec<Receipt>,
}

/// What became of one event of a batch.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Outcome<'a> {
    Receipt(&'a Receipt),
    Problem(ProblemView<'a>),
}

#[derive(Serialize, JsonSchema)]
struct Results<'a> {
    results: Vec<Outcome<'a>>,
}

/// A page of records.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema alone: a page is written as text")]
struct Page {
    events: Vec<AnyRecord>,
    /// The cursor of the next page.
    next: Option<String>,
    log: LogState,
}

/// The log when the page was read.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema alone")]
struct LogState {
    size: u64,
    link: Option<String>,
    checkpoint: String,
}

/// The receipt of one event, or its refusal, which then needs no index.
fn single(outcomes: Result<Vec<Result<Receipt, Error>>, Error>) -> Answer {
    let receipt = outcomes.and_then(|mut all| match all.pop() {
        Some(outcome) if all.is_empty() => outcome,
        _ => Err(Error::new(ErrorCode::Internal, "one event went in and not one outcome came out")),
    });
    match receipt {
        Ok(receipt) => Ok(super::json(StatusCode::CREATED, &receipt)),
        Err(mut error) => {
            error.index_in_batch = None;
            Err(error.into())
        }
    }
}

fn receipts(receipts: Vec<Receipt>) -> Response {
    super::json(StatusCode::CREATED, &Receipts { receipts })
}

fn results(outcomes: Vec<Result<Receipt, Error>>) -> Response {
    let results = outcomes.iter().map(|outcome| match outcome {
        Ok(receipt) => Outcome::Receipt(receipt),
        Err(error) => Outcome::Problem(ProblemView::of(error)),
    });
    super::json(StatusCode::OK, &Results { results: results.collect() })
}

/// `{"events":[…],"next":…,"log":{…}}`; records are JSON text already and are not parsed again.
fn page_json(page: &QueryPage) -> String {
    let records: usize = page.records.iter().map(|record| record.json.len() + 1).sum();
    let mut out = String::with_capacity(records + page.checkpoint.len() + 256);
    out.push_str("{\"events\":[");
    for (nth, record) in page.records.iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        out.push_str(&record.json);
    }
    let rest =
        serde_json::json!({"size": page.log_size, "link": page.log_link, "checkpoint": page.checkpoint});
    let next = serde_json::Value::from(page.next.as_deref());
    out.push_str(&format!("],\"next\":{next},\"log\":{rest}}}"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::RecordView;

    #[test]
    fn a_page_is_the_json_of_the_contract() {
        let record = |json: &str| RecordView { json: json.to_owned() };
        let page = QueryPage {
            records: vec![record("{\"index\":2}"), record("{\"index\":1}")],
            next: Some("c\"1".to_owned()),
            log_size: 3,
            log_link: None,
            checkpoint: "a\n3\n".to_owned(),
        };
        let value: serde_json::Value = serde_json::from_str(&page_json(&page)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"events": [{"index": 2}, {"index": 1}], "next": "c\"1",
                "log": {"size": 3, "link": null, "checkpoint": "a\n3\n"}})
        );
        let empty =
            QueryPage { records: vec![], next: None, log_size: 0, log_link: None, checkpoint: String::new() };
        assert!(page_json(&empty).starts_with("{\"events\":[],\"next\":null,"));
    }
}
