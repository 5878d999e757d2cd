//! Planning: what of a closed layer is due, and what stays until when. Changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::append::internal;
use super::super::{Error, Service};
use crate::event::catalog::Class;
use crate::retention::{Due, History, Hold, IndexSet, SetsBuilder, is_exempt};
use crate::store::layer_id::LayerId;
use crate::store::log::Log;
use crate::store::record::Record;
use crate::store::rewrite::each_record;
use crate::tlog::chain::{FLAG_HELD, FLAG_OWN};

/// Log number and class code.
pub(super) type Place = (u32, u16);

/// What one reading of a layer found.
pub(super) struct Scan {
    pub(super) layer: LayerId,
    pub(super) leaving: BTreeMap<Place, Leaving>,
    pub(super) staying: BTreeMap<Place, Staying>,
    /// Due, and under a legal hold.
    pub(super) held: BTreeMap<Place, Staying>,
    /// Due, and what asks for an erasure that is not done: it says whom to erase.
    pub(super) asking: BTreeMap<Place, Staying>,
    /// When the first of what is not due yet is.
    pub(super) next_due: Option<u64>,
    /// The holds that it rests on, by log.
    pub(super) holds: HashMap<u32, Arc<Vec<Arc<Hold>>>>,
    /// The policies that it rests on, by log: index of the entry in force.
    pub(super) policies: HashMap<u32, Option<u64>>,
}

/// What of a layer is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Logs that have a policy: in others nothing is due.
    WhatLeaves,
    /// All logs: what stays is to be shown.
    WhatStaysToo,
}

/// What a scan holds the records of one log against.
struct Against<'a> {
    log: &'a Log,
    history: Option<&'a History>,
    holds: &'a [Arc<Hold>],
    /// Entries that ask for an erasure which is not done.
    asking: BTreeSet<u64>,
    now: u64,
    /// Newest entry before `now`.
    upto: u64,
}

/// Bodies of one log and class that are due.
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) sets: Vec<IndexSet>,
    filling: SetsBuilder,
    pub(super) bodies: u64,
    pub(super) bytes: u64,
    /// The most months that any of them was kept for.
    pub(super) months: u16,
    /// The least.
    pub(super) least_months: u16,
}

/// Bodies of one log and class that are not.
#[derive(Clone, Copy, Default)]
pub(super) struct Staying {
    pub(super) bodies: u64,
    pub(super) bytes: u64,
    /// When the last of them is due, microseconds; `None` where one never is.
    pub(super) until: Option<u64>,
}

impl Leaving {
    fn add(&mut self, index: u64, bytes: u64, months: u16) {
        self.bodies += 1;
        self.bytes += bytes;
        self.least_months = if self.bodies == 1 { months } else { self.least_months.min(months) };
        self.months = self.months.max(months);
        self.filling.push(index);
    }

    fn close(&mut self) {
        self.sets = std::mem::take(&mut self.filling).finish();
    }

    /// Whether a hold that stands behind all of them holds one.
    fn is_held_by(&self, hold: &Hold) -> bool {
        self.sets.iter().any(|set| set.iter().any(|index| hold.holds(index, false)))
    }

    /// Whether the body at `index` leaves. Sets ascend.
    pub(super) fn has(&self, index: u64) -> bool {
        let at = self.sets.partition_point(|set| set.last() < index);
        self.sets.get(at).is_some_and(|set| set.contains(index))
    }
}

impl Staying {
    fn add(&mut self, bytes: u64, until: Option<u64>) {
        self.until =
            if self.bodies == 0 { until } else { self.until.zip(until).map(|(one, other)| one.max(other)) };
        self.bodies += 1;
        self.bytes += bytes;
    }
}

impl Service {
    /// Whether what a scan lets go is due still, and held by nothing that came since. Asked where neither policies nor
    /// holds can change until the bodies are gone.
    pub(super) fn still_leaves(&self, scan: &Scan) -> Result<bool, Error> {
        for (&(number, class), leaving) in &scan.leaving {
            let Some(log) = self.0.store.log(number) else { return Ok(false) };
            if scan.policies.get(&number) != Some(&log.policy()) {
                let history = self.history(&log)?;
                let first = leaving.sets.first().map_or(0, IndexSet::first);
                let asked = history.and_then(|history| history.months(class, first, log.size()));
                if asked.is_none_or(|months| months > leaving.least_months) {
                    return Ok(false);
                }
            }
            let known = scan.holds.get(&number);
            let is_new = |hold: &&Arc<Hold>| {
                known.is_none_or(|known| known.iter().all(|known| known.index != hold.index))
            };
            if self.0.holds.of(number).iter().filter(is_new).any(|hold| leaving.is_held_by(hold)) {
                return Ok(false);
            }
            if self.asking(number).into_iter().any(|index| leaving.has(index)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Scan {
    /// Whether the body leaves.
    pub(super) fn leaves(&self, log: u32, class: u16, index: u64) -> bool {
        self.leaving.get(&(log, class)).is_some_and(|leaving| leaving.has(index))
    }
}

impl Service {
    /// What of `layer` is due at `now`. `step` is told the bytes read, may wait, and answers false to stop.
    pub(super) fn scan_layer(
        &self,
        layer: LayerId,
        now: u64,
        wanted: Wanted,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Scan, Error> {
        let store = &self.0.store;
        let mut scan = Scan {
            layer,
            leaving: BTreeMap::new(),
            staying: BTreeMap::new(),
            held: BTreeMap::new(),
            asking: BTreeMap::new(),
            next_due: None,
            holds: HashMap::new(),
            policies: HashMap::new(),
        };
        let open = store.layers.get(layer).map_err(|error| internal(&error))?;
        let mut numbers = Vec::new();
        open.carries(&mut |number, _| numbers.push(number)).map_err(|error| internal(&error))?;
        for number in numbers {
            let Some(log) = store.log(number) else { continue };
            // The policies first: one that is set while the layer is read is noticed before anything leaves.
            let (policy, upto) = (log.policy(), log.size() - 1);
            let history = self.history(&log)?;
            scan.policies.insert(number, policy);
            let holds = self.0.holds.of(number);
            scan.holds.insert(number, holds.clone());
            if history.is_none() && wanted == Wanted::WhatLeaves {
                continue;
            }
            let (history, asking) = (history.as_deref(), self.asking(number));
            let against = Against { log: &log, history, holds: &holds, asking, now, upto };
            let mut look = |index, record: &Record, bytes: usize| {
                if bytes > 0 {
                    scan.add(&against, index, record, bytes as u64);
                }
            };
            each_record(&open, &log, &mut look, step)
                .map_err(|error| super::super::rewriting::failed(&error))?;
            // A finished set is 32 KiB at most; one that is being made takes far more.
            scan.leaving.range_mut((number, 0)..=(number, u16::MAX)).for_each(|(_, leaving)| leaving.close());
        }
        Ok(scan)
    }

    /// Indexes of a log's entries that ask for an erasure which is not done.
    fn asking(&self, number: u32) -> BTreeSet<u64> {
        let open = self.0.store.erasures();
        open.range((number, 0)..=(number, u64::MAX)).map(|((_, index), _)| *index).collect()
    }
}

impl Scan {
    fn add(&mut self, against: &Against<'_>, index: u64, record: &Record, bytes: u64) {
        let place = (against.log.identity.number, record.class);
        let is_exempt = record.flags & FLAG_OWN != 0
            && match record.body() {
                Some(Ok(body)) => body.action().is_none_or(is_exempt),
                // What cannot be read is not for a policy to judge.
                _ => true,
            };
        let due = against.history.map_or(Due::Never, |history| {
            history.due_at(record.class, is_exempt, index, record.recorded_at, against.upto)
        });
        let is_flagged = record.flags & FLAG_HELD != 0;
        match due {
            Due::At { micros, .. } if micros > against.now => {
                self.next_due = Some(self.next_due.map_or(micros, |next| next.min(micros)));
                self.staying.entry(place).or_default().add(bytes, Some(micros));
            }
            Due::At { .. } if against.holds.iter().any(|hold| hold.holds(index, is_flagged)) => {
                self.held.entry(place).or_default().add(bytes, None);
            }
            Due::At { .. } if against.asking.contains(&index) => {
                self.asking.entry(place).or_default().add(bytes, None);
            }
            Due::At { months, .. } => self.leaving.entry(place).or_default().add(index, bytes, months),
            Due::Never => self.staying.entry(place).or_default().add(bytes, None),
        }
    }
}

/// Name of a class in a log, for people and certificates.
pub(super) fn class_name(history: Option<&History>, code: u16) -> String {
    let newest = history.and_then(History::newest).and_then(|(_, policy)| policy.class_with(code));
    match (Class::from_code(code), newest) {
        (Some(class), _) => class.name().to_owned(),
        (None, Some(term)) => term.name.clone(),
        (None, None) => format!("class-{code}"),
    }
}
