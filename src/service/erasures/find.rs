//! Which disclosures are a person's (docs/format/erasure.md §1).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::super::holds::each_match;
use super::super::{Error, Service};
use crate::event::Body;
use crate::event::catalog::action;
use crate::query::QueryText;
use crate::retention::Hold;
use crate::store::log::{Log, Sequenced};
use crate::tlog::chain::FLAG_HELD;

/// An identifier of so many bytes is looked for inside strings too; a shorter one stands in too many by chance.
const MIN_INSIDE_BYTES: usize = 6;

/// Who is to be erased.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Person {
    /// `type` of the actor or target.
    #[serde(rename = "type")]
    pub(in crate::service) kind: String,
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
    /// Paths, by index.
    pub(in crate::service) disclosures: BTreeMap<u64, Vec<String>>,
    /// Indexes of records that are the person's and held, ascending.
    pub(in crate::service) held: Vec<u64>,
    /// Records with something to erase.
    pub(in crate::service) records: u64,
}

impl Service {
    /// Finds what is a person's among the entries of a log that are there now.
    pub(in crate::service) fn find(&self, log: &Log, person: &Person) -> Result<Found, Error> {
        let holds = self.0.holds.of(log.identity.number);
        let mut found = Found::default();
        let mut held = Vec::new();
        let store = &self.0.store;
        let by_actor = QueryText { actor: Some(person.id.clone()), ..QueryText::default() };
        let by_target = QueryText { target: Some(person.id.clone()), ..QueryText::default() };
        for text in [by_actor, by_target] {
            each_match(store, log, &text, &mut |record| {
                let Some(Ok(body)) = record.record.body() else { return Ok(()) };
                let paths = paths_of(&body, person);
                if paths.is_empty() {
                } else if is_held(&holds, record) {
                    held.push(record.index);
                } else {
                    found.disclosures.insert(record.index, paths);
                }
                Ok(())
            })?;
        }
        // A hold that was released names in its sealed filter whom it was about.
        let placed = QueryText { action: Some(action::HOLD_PLACED.to_owned()), ..QueryText::default() };
        each_match(store, log, &placed, &mut |record| {
            let is_in_force = holds.iter().any(|hold| hold.index == record.index);
            if let (false, false, Some(Ok(body))) =
                (is_in_force, is_held(&holds, record), record.record.body())
            {
                let paths = holding(&body, &[person.id.as_str()], &[]);
                if !paths.is_empty() {
                    found.disclosures.insert(record.index, paths);
                }
            }
            Ok(())
        })?;
        held.sort_unstable();
        held.dedup();
        found.records = found.disclosures.len() as u64;
        found.held = held;
        Ok(found)
    }
}

fn is_held(holds: &[Arc<Hold>], record: &Sequenced) -> bool {
    let is_flagged = record.record.flags & FLAG_HELD != 0;
    holds.iter().any(|hold| hold.holds(record.index, is_flagged))
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
        if !is_party || kind_at(place) != Some(person.kind.as_str()) {
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
        Value::String(text) => is_it(text),
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
        let mut paths = paths_of(&body(text), &Person { kind: kind.to_owned(), id: id.to_owned() });
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
        assert_eq!(gone(EVENT, "user", "u-1"), ["/actor", "/changes", "/context", "/reason"]);
    }

    #[test]
    fn a_target_leaves_the_context_of_another() {
        assert_eq!(gone(EVENT, "user", "user-7700"), ["/changes", "/targets/0"]);
        assert_eq!(gone(EVENT, "role", "u-1"), ["/changes", "/targets/1"]);
    }

    #[test]
    fn another_type_or_id_is_another_person() {
        assert!(gone(EVENT, "role", "user-7700").is_empty());
        assert!(gone(EVENT, "user", "u-17").is_empty(), "only in metadata: no party to the record");
        assert!(gone(EVENT, "user", "").is_empty());
    }

    #[test]
    fn a_short_identifier_is_a_whole_string() {
        assert!(is_in("u-1", "u-1") && !is_in("u-17", "u-1"));
        assert!(is_in("see user-7700.", "user-7700"));
    }
}
