//! Which disclosures are a person's (docs/format/erasure.md §1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::super::read::{disclosed, each_match};
use super::super::{Error, ErrorCode, Service};
use crate::event::Body;
use crate::event::catalog::action;
use crate::query::QueryText;
use crate::retention::Hold;
use crate::store::log::{Log, Sequenced};
use crate::tlog::chain::FLAG_HELD;

/// An identifier of so many bytes is looked for inside strings too; a shorter one stands in too many by chance.
const MIN_INSIDE_BYTES: usize = 6;

/// Most records of one erasure, held ones included. Whoever has more is a machine, and its ids are not a person's: 8 bytes a
/// disclosure, three of a record, come to 100 MB.
const MAX_RECORDS: usize = 4_000_000;

/// Who is to be erased.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Person {
    /// `type` of the actor or target; absent, it is those that have none.
    #[serde(rename = "type", default)]
    pub(in crate::service) kind: Option<String>,
    /// Its `id`.
    pub(in crate::service) id: String,
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Person")
    }
}

/// What is a person's.
#[derive(Default)]
pub(in crate::service) struct Found {
    /// Indexes by path, in no set order, perhaps twice.
    pub(in crate::service) disclosures: BTreeMap<String, Vec<u64>>,
    /// Indexes of records that are the person's and held.
    pub(in crate::service) held: BTreeSet<u64>,
    /// Records with something to erase, the request itself left aside.
    pub(in crate::service) records: u64,
    /// Records that have the id under another type, or under none.
    pub(in crate::service) other_types: u64,
    seen: BTreeSet<u64>,
}

impl Found {
    fn add(&mut self, index: u64, paths: Vec<String>) -> Result<(), Error> {
        if !paths.is_empty() && self.seen.insert(index) {
            paths.into_iter().for_each(|path| self.disclosures.entry(path).or_default().push(index));
        }
        self.demand_bound()
    }

    fn hold_back(&mut self, index: u64) -> Result<(), Error> {
        self.held.insert(index);
        self.demand_bound()
    }

    fn demand_bound(&self) -> Result<(), Error> {
        if self.seen.len() + self.held.len() <= MAX_RECORDS {
            return Ok(());
        }
        let detail = format!(
            "over {MAX_RECORDS} records have this actor or target: that is no person, and is not erased; nothing was changed"
        );
        Err(Error::new(ErrorCode::TooLarge, detail))
    }
}

impl Service {
    /// Finds what is a person's among the entries of a log below `end`. Of entries that ask for an erasure only those that
    /// `asked` names are looked at: another one is still to be read. `go_on` is asked at each record, and ends it.
    pub(in crate::service) fn find(
        &self,
        log: &Log,
        end: u64,
        person: &Person,
        asked: &dyn Fn(&Sequenced) -> bool,
        go_on: &dyn Fn() -> Result<(), Error>,
    ) -> Result<Found, Error> {
        let holds = self.0.holds.of(log.identity.number);
        let mut found = Found::default();
        let store = &self.0.store;
        let by_actor = QueryText { actor: Some(person.id.clone()), ..QueryText::default() };
        let by_target = QueryText { target: Some(person.id.clone()), ..QueryText::default() };
        for (text, is_first) in [(by_actor, true), (by_target, false)] {
            each_match(store, log, end, &text, &mut |record| {
                go_on()?;
                let body = body_of(record)?;
                let is_request = body.action() == Some(action::ERASURE_REQUESTED);
                if body.is_own() && !(is_request && asked(record)) {
                    return Ok(());
                }
                let mut paths = paths_of(&body, person);
                // Which key asked stays.
                paths.retain(|path| !is_request || ["/targets/0", "/reason"].contains(&path.as_str()));
                if paths.is_empty() {
                    // Whoever is both was counted as the actor.
                    found.other_types += u64::from(is_first || !is_actor(&body, person));
                    Ok(())
                } else if is_held(&holds, record) {
                    found.hold_back(record.index)
                } else {
                    found.records += u64::from(!is_request && !found.seen.contains(&record.index));
                    found.add(record.index, paths)
                }
            })?;
        }
        // A hold names in its sealed filter whom it is about.
        let placed = QueryText { action: Some(action::HOLD_PLACED.to_owned()), ..QueryText::default() };
        each_match(store, log, end, &placed, &mut |record| {
            go_on()?;
            let body = body_of(record)?;
            let mut paths = holding(&body, &[person.id.as_str()], &[]);
            paths.retain(|path| ["/metadata", "/reason"].contains(&path.as_str()));
            if !paths.is_empty() && is_held(&holds, record) {
                return found.hold_back(record.index);
            }
            found.add(record.index, paths)
        })?;
        Ok(found)
    }
}

/// A body that must be read: what cannot be read may be the person's.
fn body_of(record: &Sequenced) -> Result<Body, Error> {
    record.record.body().and_then(Result::ok).ok_or_else(|| {
        let detail = format!(
            "the record at index {} cannot be read, and may be the person's: nothing was erased. Run `varve verify`.",
            record.index
        );
        Error::new(ErrorCode::Internal, detail)
    })
}

fn is_held(holds: &[Arc<Hold>], record: &Sequenced) -> bool {
    let is_flagged = record.record.flags & FLAG_HELD != 0;
    holds.iter().any(|hold| hold.holds(record.index, is_flagged))
}

/// Whether the actor of a record has the person's id, of whatever type.
fn is_actor(body: &Body, person: &Person) -> bool {
    let actor = disclosed(body, "/actor");
    actor.is_some_and(|actor| actor.get("id").and_then(Value::as_str) == Some(person.id.as_str()))
}

/// The paths of a record's disclosures that go; none where it is not the person's.
fn paths_of(body: &Body, person: &Person) -> Vec<String> {
    let Ok(event) = serde_json::from_slice::<Value>(&body.canonical) else { return Vec::new() };
    let kind_at = |place: &str| event.pointer(place).and_then(|part| part.get("type")?.as_str());
    let mut paths = Vec::new();
    let mut identifiers = vec![person.id.clone()];
    for disclosure in &body.disclosures {
        let place = disclosure.path.as_str();
        let is_party = place == "/actor" || place.starts_with("/targets/");
        if !is_party || kind_at(place) != person.kind.as_deref() {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&disclosure.value) else { continue };
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("id") != Some(person.id.as_str()) {
            continue;
        }
        paths.push(place.to_owned());
        identifiers.extend(["email", "name"].into_iter().filter_map(text).map(str::to_owned));
        if place == "/actor" && body.disclosures.iter().any(|other| other.path == "/context") {
            paths.push("/context".to_owned());
        }
    }
    if !paths.is_empty() {
        let identifiers: Vec<&str> = identifiers.iter().map(String::as_str).collect();
        paths.extend(holding(body, &identifiers, &paths));
    }
    paths
}

/// Paths, but for `known`, of disclosures that hold one of the identifiers.
fn holding(body: &Body, identifiers: &[&str], known: &[String]) -> Vec<String> {
    let holds = |text: &str| identifiers.iter().any(|identifier| is_in(text, identifier));
    let others = body.disclosures.iter().filter(|disclosure| !known.contains(&disclosure.path));
    let found = others.filter(|disclosure| {
        serde_json::from_slice::<Value>(&disclosure.value).is_ok_and(|value| any_string(&value, &holds))
    });
    found.map(|disclosure| disclosure.path.clone()).collect()
}

fn is_in(text: &str, identifier: &str) -> bool {
    if identifier.is_empty() {
        false
    } else if identifier.len() < MIN_INSIDE_BYTES {
        text == identifier
    } else {
        text.contains(identifier)
    }
}

fn any_string(value: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match value {
        // The filter of a hold is JSON inside a string.
        Value::String(text) => {
            let inner = || serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
            is_it(text) || text.starts_with('{') && inner().is_some_and(|inner| any_string(&inner, is_it))
        }
        Value::Array(values) => values.iter().any(|value| any_string(value, is_it)),
        Value::Object(members) => members.iter().any(|(name, value)| is_it(name) || any_string(value, is_it)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn body(text: &str) -> Body {
        let mut event = Event::parse(text.as_bytes()).unwrap();
        event.set_id("a");
        event.set_class("security");
        event.seal(&mut |salts| salts.fill(1))
    }

    fn gone(text: &str, kind: &str, id: &str) -> Vec<String> {
        let mut paths = paths_of(&body(text), &Person { kind: Some(kind.to_owned()), id: id.to_owned() });
        paths.sort();
        paths
    }

    const EVENT: &str = r#"{"action":"iam.role.granted","outcome":"success",
        "actor":{"type":"user","id":"u-1","name":"Ada Lovelace","email":"ada@example.org"},
        "targets":[{"type":"user","id":"user-7700"},{"type":"role","id":"u-1"}],
        "context":{"ip":"192.0.2.1"},
        "changes":[{"field":"owner","from":"u-1","to":"user-7700 and others"}],
        "reason":"asked by ada@example.org","metadata":{"note":"nobody","u-17":"x"}}"#;

    #[test]
    fn an_actor_takes_its_context_and_what_holds_an_identifier() {
        assert_eq!(gone(EVENT, "user", "u-1"), ["/actor", "/changes", "/context", "/reason", "/targets/1"]);
    }

    #[test]
    fn a_target_leaves_the_context_of_another() {
        assert_eq!(gone(EVENT, "user", "user-7700"), ["/changes", "/targets/0"]);
        assert_eq!(
            gone(EVENT, "role", "u-1"),
            ["/actor", "/changes", "/targets/1"],
            "the id stands there too"
        );
    }

    #[test]
    fn another_type_or_id_is_another_person() {
        assert!(gone(EVENT, "role", "user-7700").is_empty());
        assert!(gone(EVENT, "user", "u-17").is_empty(), "only in metadata: no party to the record");
        assert!(gone(EVENT, "user", "").is_empty());
    }

    #[test]
    fn a_party_without_a_type_is_found_without_one() {
        let text = r#"{"action":"a","outcome":"success","actor":{"id":"u-1"}}"#;
        assert!(gone(text, "user", "u-1").is_empty());
        assert_eq!(paths_of(&body(text), &Person { kind: None, id: "u-1".to_owned() }), ["/actor"]);
        assert!(paths_of(&body(EVENT), &Person { kind: None, id: "u-1".to_owned() }).is_empty());
    }

    #[test]
    fn the_filter_inside_a_string_is_looked_into() {
        let text = r#"{"action":"a","outcome":"success","metadata":{"filter":"{\"actor\":\"u\\\"1\"}"}}"#;
        assert_eq!(holding(&body(text), &["u\"1"], &[]), ["/metadata"]);
        assert!(holding(&body(text), &["u"], &[]).is_empty());
    }

    #[test]
    fn a_short_identifier_is_a_whole_string() {
        assert!(is_in("u-1", "u-1") && !is_in("u-17", "u-1"));
        assert!(is_in("see user-7700.", "user-7700"));
    }
}
