//! What a schedule leaves, in plain words: which events are there, which may be gone or erased, and which must be.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Months, Utc};
use serde_json::{Value, json};

/// An event that was acknowledged.
pub(super) struct Known {
    pub(super) person: u64,
    pub(super) class: &'static str,
    pub(super) recorded_at: DateTime<Utc>,
    /// Whether a hold that extends matched when it was appended.
    pub(super) is_flagged: bool,
    /// The person was erased, or may have been.
    pub(super) may_be_erased: bool,
    pub(super) must_be_erased: bool,
    pub(super) may_be_gone: bool,
    pub(super) must_be_gone: bool,
}

#[derive(Clone)]
pub(super) struct ModelHold {
    pub(super) id: u64,
    /// Whose events, where it is a filter.
    pub(super) person: Option<u64>,
    /// Which entries, where it is that.
    pub(super) indexes: Option<BTreeSet<u64>>,
    /// Of the person's events, those that may have been erased when it was placed: such a one has no actor to be found by.
    pub(super) uncertain: BTreeSet<u64>,
}

/// Whether something is held, as far as that can be known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    No,
    Maybe,
    Yes,
}

impl ModelHold {
    pub(super) fn extends(&self) -> bool {
        self.indexes.is_none()
    }

    /// By the words of the format: listed, or in front of a hold of all, or flagged behind one that extends.
    fn holds(&self, index: u64, known: &Known) -> Held {
        let is_held = if index > self.id {
            self.extends() && known.is_flagged
        } else {
            match (&self.indexes, self.person) {
                (Some(indexes), _) => indexes.contains(&index),
                (None, Some(_)) if self.uncertain.contains(&index) => return Held::Maybe,
                (None, Some(person)) => person == known.person && !known.must_be_erased,
                (None, None) => true,
            }
        };
        if is_held { Held::Yes } else { Held::No }
    }
}

/// An erasure that was asked for and is not known to be done: it may go on at any time.
pub(super) struct Erasing {
    pub(super) person: u64,
    /// Once its certificate is known to be in the log: events from here on are none of its.
    pub(super) end: Option<u64>,
}

/// What was seen, at each look anew.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Seen {
    pub(super) kills: u64,
    pub(super) expired: u64,
    pub(super) erased: u64,
    /// There, and due but for a hold.
    pub(super) kept: u64,
    pub(super) verified_after_kills: u64,
}

impl Seen {
    pub(super) fn add(&mut self, more: Seen) {
        self.kills += more.kills;
        self.expired += more.expired;
        self.erased += more.erased;
        self.kept += more.kept;
        self.verified_after_kills += more.verified_after_kills;
    }
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) events: BTreeMap<u64, Known>,
    pub(super) holds: Vec<ModelHold>,
    /// A compaction of the running store was begun, and may still run.
    pub(super) is_compacting: bool,
    /// By the index of the entry that asked.
    pub(super) erasing: BTreeMap<u64, Erasing>,
    /// All that were ever asked for.
    pub(super) asked: BTreeSet<u64>,
    /// Index of each policy, and its months by class.
    pub(super) policies: Vec<(u64, BTreeMap<&'static str, u32>)>,
}

pub(super) const CLASSES: [&str; 3] = ["security", "processing", "long-evidence"];

impl Model {
    fn held(&self, index: u64) -> Held {
        let known = &self.events[&index];
        self.holds.iter().map(|hold| hold.holds(index, known)).max().unwrap_or(Held::No)
    }

    /// The most months of the policy in force and of all behind it; the first binds what came before.
    fn months(&self, index: u64) -> Option<u32> {
        let in_force = self.policies.iter().rposition(|(at, _)| *at < index).unwrap_or(0);
        let class = self.events[&index].class;
        self.policies.get(in_force..)?.iter().map(|(_, months)| months[class]).max()
    }

    fn is_due(&self, index: u64, now: DateTime<Utc>) -> bool {
        let at = self.events[&index].recorded_at;
        self.months(index).is_some_and(|months| at.checked_add_months(Months::new(months)).unwrap() <= now)
    }

    /// A compaction ran, or may have: what is due and not held may be gone; where it ran to its end, must be, if its
    /// layer was closed.
    pub(super) fn compacted(&mut self, now: DateTime<Utc>, is_sure: bool) {
        let month = |at: DateTime<Utc>| (at.year(), at.month());
        let going: Vec<u64> = self
            .events
            .keys()
            .copied()
            .filter(|index| self.is_due(*index, now) && self.held(*index) != Held::Yes)
            .collect();
        for index in going {
            let is_sure = is_sure && self.held(index) == Held::No;
            let known = self.events.get_mut(&index).unwrap();
            known.may_be_gone = true;
            known.must_be_gone |= is_sure && month(known.recorded_at) < month(now);
        }
    }

    /// What is under way may take what is due, or a person's, and not held at the time.
    pub(super) fn pass_time(&mut self, now: DateTime<Utc>) {
        if self.is_compacting {
            self.compacted(now, false);
        }
        let erasing: Vec<_> = self.erasing.values().map(|one| (one.person, one.end)).collect();
        for (person, end) in erasing {
            self.erased(person, end.unwrap_or(u64::MAX), false);
        }
    }

    /// An erasure of what is below `end` ran, or may have.
    pub(super) fn erased(&mut self, person: u64, end: u64, is_sure: bool) {
        let theirs: Vec<u64> = self
            .events
            .range(..end)
            .filter(|(index, known)| known.person == person && self.held(**index) != Held::Yes)
            .map(|(index, _)| *index)
            .collect();
        for index in theirs {
            let is_sure = is_sure && self.held(index) == Held::No;
            let known = self.events.get_mut(&index).unwrap();
            known.may_be_erased = true;
            known.must_be_erased |= is_sure;
        }
    }

    /// Takes in how the erasures stand. What is certified takes nothing that comes from now on, and what is done nothing more.
    pub(super) fn erasures(&mut self, listed: &Value) {
        let end = self.events.keys().next_back().map_or(0, |last| last + 1);
        for one in listed.as_array().unwrap() {
            let id: u64 = one["id"].as_str().unwrap().parse().unwrap();
            match one["state"].as_str().unwrap() {
                "done" => drop(self.erasing.remove(&id)),
                "rewriting" => {
                    if let Some(erasing) = self.erasing.get_mut(&id) {
                        erasing.end.get_or_insert(end);
                    }
                }
                state => assert_eq!(state, "pending"),
            }
        }
    }

    /// Holds the records of the store against it.
    pub(super) fn check(&self, records: &Value, now: DateTime<Utc>, context: &str) -> Seen {
        let mut seen = Seen::default();
        let records: BTreeMap<u64, &Value> = records
            .as_array()
            .unwrap()
            .iter()
            .map(|record| (record["index"].as_u64().unwrap(), record))
            .collect();
        for (index, known) in &self.events {
            let record = records.get(index).unwrap_or_else(|| panic!("{context}: {index} is lost"));
            let state = record["body"].as_str().unwrap();
            let (may, must) = match state {
                "present" => (!known.must_be_erased && !known.must_be_gone, true),
                "erased" => (known.may_be_erased && !known.must_be_gone, true),
                "expired" => (known.may_be_gone, true),
                other => panic!("{other}"),
            };
            assert!(
                may && must,
                "{context}: {index} is {state}; held {}, gone {}/{} erased {}/{} flagged {} class {} at {}",
                self.held(*index) as u8,
                known.may_be_gone,
                known.must_be_gone,
                known.may_be_erased,
                known.must_be_erased,
                known.is_flagged,
                known.class,
                known.recorded_at,
            );
            match state {
                "expired" => seen.expired += 1,
                "erased" => seen.erased += 1,
                _ => {
                    let is_kept = self.held(*index) == Held::Yes && self.is_due(*index, now);
                    seen.kept += u64::from(is_kept);
                    let name = json!(name_of(known.person));
                    assert_eq!(record["event"]["actor"]["id"], name, "{context}: {index}");
                }
            }
        }
        seen
    }
}

pub(super) fn name_of(person: u64) -> String {
    format!("person-number-{person}")
}
