//! What a request for a hold asks for, and the same read back from the hold's entry.

use serde::Deserialize;

use super::super::read::disclosed;
use super::super::{Error, ErrorCode};
use crate::query::{Filter, QueryText};
use crate::retention::{HoldKind, PlacedHold};
use crate::store::log::Sequenced;

/// Most indexes that a request names: with 13 digits and a space each they fit the entry of the hold.
const MAX_INDEXES: usize = 4_000;

/// Longest reason and case, in bytes.
const MAX_REASON_BYTES: usize = 4_096;
const MAX_CASE_BYTES: usize = 256;

/// What a request for a hold says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) reason: String,
    #[serde(default)]
    pub(super) case: Option<String>,
    #[serde(default)]
    pub(super) tenant: Option<bool>,
    #[serde(default)]
    pub(super) filter: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) indexes: Option<Vec<u64>>,
}

/// What is to be held.
pub(super) enum What {
    Tenant,
    Filter(Box<Filter>, String),
    Indexes(Vec<u64>),
}

impl What {
    pub(super) fn kind(&self) -> HoldKind {
        match self {
            What::Tenant => HoldKind::Tenant,
            What::Filter(..) => HoldKind::Filter,
            What::Indexes(_) => HoldKind::Indexes,
        }
    }
}

pub(super) fn refused(pointer: &str, what: &str) -> Error {
    let error = Error::new(ErrorCode::BadRequest, format!("{what}; nothing more is held"));
    if pointer.is_empty() { error } else { error.at(pointer) }
}

pub(super) fn parse(body: &[u8], size: u64) -> Result<(Wanted, What), Error> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        // The text of the error may quote what was sent.
        refused(
            "",
            &format!(
                "not a hold at line {} column {}: `reason`, and one of `tenant`, `filter`, `indexes`",
                error.line(),
                error.column()
            ),
        )
    })?;
    if wanted.reason.is_empty() || wanted.reason.len() > MAX_REASON_BYTES {
        return Err(refused("/reason", "`reason` has 1 to 4,096 bytes"));
    }
    if wanted.case.as_ref().is_some_and(|case| case.is_empty() || case.len() > MAX_CASE_BYTES) {
        return Err(refused("/case", "`case` has 1 to 256 bytes"));
    }
    let what = match (wanted.tenant, &wanted.filter, &wanted.indexes) {
        (Some(true), None, None) => What::Tenant,
        (None, Some(filter), None) => {
            let text = filter.to_string();
            let query = filter_text(&text).ok_or_else(|| {
                refused("/filter", "`filter` has the members of a query's filter, as strings")
            })?;
            let filter = Filter::parse(&query)
                .map_err(|error| refused(&format!("/filter/{}", error.member), &error.to_string()))?;
            if filter == Filter::default() {
                return Err(refused("/filter", "a filter that finds everything: say `\"tenant\": true`"));
            }
            What::Filter(Box::new(filter), text)
        }
        (None, None, Some(indexes)) => {
            if indexes.is_empty() || indexes.len() > MAX_INDEXES {
                return Err(refused("/indexes", "`indexes` are 1 to 4,000"));
            }
            let mut indexes = indexes.clone();
            indexes.sort_unstable();
            indexes.dedup();
            if indexes.last().is_some_and(|last| *last >= size) {
                return Err(refused("/indexes", &format!("the log has {size} entries")));
            }
            What::Indexes(indexes)
        }
        _ => return Err(refused("", "a hold says one of `\"tenant\": true`, `filter` and `indexes`")),
    };
    Ok((wanted, what))
}

/// The filter of a hold; `None` where it says more than a filter does.
pub(super) fn filter_text(text: &str) -> Option<QueryText> {
    let query: QueryText = serde_json::from_str(text).ok()?;
    let is_filter =
        query.order.is_none() && query.limit.is_none() && query.cursor.is_none() && !query.verifiable;
    is_filter.then_some(query)
}

pub(super) fn indexes_text(indexes: &[u64]) -> String {
    let mut text = String::new();
    for index in indexes {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&index.to_string());
    }
    text
}

/// What the entry of a hold says in clear.
pub(super) fn facts_of(record: &Sequenced) -> Option<PlacedHold> {
    PlacedHold::from_facts(&record.record.body()?.ok()?.facts()?).ok()
}

/// What the entry of a hold says sealed: what is to be held.
pub(super) fn what_of(record: &Sequenced, kind: HoldKind) -> Option<What> {
    let body = record.record.body()?.ok()?;
    let metadata = disclosed(&body, "/metadata");
    let text = |name: &str| metadata.as_ref()?.get(name)?.as_str().map(str::to_owned);
    Some(match kind {
        HoldKind::Tenant => What::Tenant,
        HoldKind::Filter => {
            let text = text("filter")?;
            What::Filter(Box::new(Filter::parse(&filter_text(&text)?).ok()?), text)
        }
        HoldKind::Indexes => {
            What::Indexes(text("indexes")?.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?)
        }
    })
}
