//! The holds in force, read out of the logs when a store is opened.

use std::sync::Arc;

use super::super::Error;
use super::super::read::each_match;
use super::asked::{What, facts_of, what_of};
use super::{Holds, not_a_hold};
use crate::event::Micros;
use crate::event::catalog::action;
use crate::query::QueryText;
use crate::retention::{Hold, HoldKind, PlacedHold, ResolvedHold};
use crate::store::log::Log;
use crate::store::matcher::Matcher;
use crate::store::read::Store;

/// Holds of a store that was just opened, and what the sequencer is to look for.
pub(in crate::service) struct Restored {
    pub(in crate::service) holds: Holds,
    pub(in crate::service) matchers: Vec<(u32, u64, Matcher)>,
}

/// Reads the holds in force of all logs. One that cannot be read holds everything in its log and all that comes: nothing
/// may leave past a hold that is not known, and no log may keep another from being served.
pub(in crate::service) fn restore(store: &Store) -> Result<Restored, Error> {
    let mut restored = Restored { holds: Holds::default(), matchers: Vec::new() };
    for log in store.logs() {
        let number = log.identity.number;
        let mut holds = Vec::new();
        let mut oldest = None;
        for index in log.holds() {
            // A page that cannot be read is damage of one log: it keeps all of that one, and no other from being served.
            let record = store.record(&log, index).unwrap_or_else(|error| {
                tracing::error!(%error, "the entry of a hold cannot be read; everything in its log is held");
                None
            });
            oldest = oldest.or(record.as_ref().map(|record| record.record.recorded_at));
            let placed = record.as_deref().and_then(facts_of);
            let what = placed.and_then(|placed| what_of(record.as_deref()?, placed.kind));
            if what.is_none() {
                not_a_hold(index);
            }
            let everything = PlacedHold { kind: HoldKind::Tenant, extends: true };
            let (placed, what) = (placed.unwrap_or(everything), what.unwrap_or(What::Tenant));
            if placed.extends {
                let matcher = match &what {
                    What::Filter(filter, _) => filter.matcher(&log.identity.index_key),
                    _ => Matcher::default(),
                };
                restored.matchers.push((number, index, matcher));
            }
            holds.push(Hold::new(index, placed));
        }
        if !holds.is_empty() {
            if let Err(error) = read_lists(store, &log, oldest, &mut holds) {
                tracing::error!(%error, "lists of holds cannot be read; what was there when they were placed is held");
            }
            restored.holds.change(number, |all| all.extend(holds.into_iter().map(Arc::new)));
        }
    }
    Ok(restored)
}

/// Reads the lists of holds out of the log, from the time of the first of them on.
fn read_lists(store: &Store, log: &Log, since: Option<u64>, holds: &mut [Hold]) -> Result<(), Error> {
    let filter = QueryText {
        action: Some(action::HOLD_RESOLVED.to_owned()),
        since: since.map(|since| Micros(since).to_string()),
        ..QueryText::default()
    };
    each_match(store, log, log.size(), &filter, &mut |record| {
        let facts = record.record.body().and_then(Result::ok).and_then(|body| body.facts());
        let resolved = facts.and_then(|facts| ResolvedHold::from_facts(&facts).ok());
        // What cannot be read, or is out of its order, leaves its hold unresolved: it holds more, never less.
        let taken = resolved.and_then(|resolved| {
            let hold = holds.iter_mut().find(|hold| hold.index == resolved.hold)?;
            hold.resolve(&resolved).err()
        });
        if taken.is_some() {
            not_a_hold(record.index);
        }
        Ok(())
    })
}
