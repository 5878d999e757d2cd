//! Refused uses of known API keys, as entries of `_system`.
//!
//! A refusal costs its sender nothing, so it must not cost a sync each. Refusals are gathered by key and reason: the
//! first is written at the next round of the housekeeper, within a second; what follows within [`WINDOW_MICROS`] is
//! one more entry at the end of that time, with its count. At a stop what is left is written.
//!
//! Bounds: [`MAX_WINDOWS`] pairs of key and reason are told apart, all others are counted together; so whatever is sent,
//! at most 257 entries are written in 60 s, four a second, and those of one round go into one submission. Nothing that was sent is
//! kept: a key id is one that the store gave out.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::system::own;
use super::{Error, ErrorCode, Principal, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};

/// How long refusals of one key for one reason are gathered: 60 s.
const WINDOW_MICROS: u64 = 60_000_000;

/// Pairs of key and reason that are told apart at once: 256 of some 100 bytes.
const MAX_WINDOWS: usize = 256;

/// The reason of an entry that counts what had no window of its own.
const VARIOUS: &str = "various";

/// Why a known key was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RefusedUse {
    /// The id is known, the secret is another one.
    WrongSecret,
    /// It was revoked.
    Revoked,
    /// It has expired.
    Expired,
    /// It belongs to one tenant and was used on another name.
    OtherTenant,
    /// It lacks the scope.
    Scope,
}

impl RefusedUse {
    const ALL: [RefusedUse; 5] = [
        RefusedUse::WrongSecret,
        RefusedUse::Revoked,
        RefusedUse::Expired,
        RefusedUse::OtherTenant,
        RefusedUse::Scope,
    ];

    /// The word in entries and metrics.
    fn as_str(self) -> &'static str {
        match self {
            RefusedUse::WrongSecret => "wrong_secret",
            RefusedUse::Revoked => "revoked",
            RefusedUse::Expired => "expired",
            RefusedUse::OtherTenant => "other_tenant",
            RefusedUse::Scope => "scope",
        }
    }
}

/// Reasons of refusals that are counted and in no entry: text that is no key, and an id that was never given out.
pub(super) const MALFORMED: &str = "malformed";
pub(super) const UNKNOWN: &str = "unknown";

/// All words that the metric of refusals has.
pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
    [MALFORMED, UNKNOWN].into_iter().chain(RefusedUse::ALL.into_iter().map(RefusedUse::as_str))
}

/// Whose refusals a window counts: a key's for one reason; `None` all others'.
type Whose = Option<(String, RefusedUse)>;

/// Refusals that one entry will tell of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Counted {
    whose: Whose,
    count: u64,
    /// Stamps of the first and the last, microseconds.
    from: u64,
    until: u64,
}

struct Window {
    /// Since the last entry; zero while the window only waits for its end.
    count: u64,
    from: u64,
    until: u64,
    /// When an entry is due, or the window ends, by the steady clock, microseconds.
    due: u64,
}

/// What was refused and is not written yet. Written by whoever refuses, emptied by the housekeeper.
#[derive(Default)]
pub(super) struct RefusedUses(Mutex<BTreeMap<Whose, Window>>);

impl RefusedUses {
    /// Counts one refusal.
    fn note(&self, key_id: &str, reason: RefusedUse, stamp: u64, steady: u64) {
        let mut windows = self.0.lock();
        let mut whose = Some((key_id.to_owned(), reason));
        if !windows.contains_key(&whose) && windows.len() >= MAX_WINDOWS {
            whose = None;
        }
        let window = windows.entry(whose).or_insert(Window { count: 0, from: 0, until: 0, due: steady });
        window.add(1, stamp, stamp);
    }

    /// Takes what is due: each window begins anew, and ends when nothing came in it. `all` takes everything.
    fn take(&self, steady: u64, all: bool) -> Vec<Counted> {
        let mut taken = Vec::new();
        self.0.lock().retain(|whose, window| {
            if !all && window.due > steady {
                return true;
            }
            if window.count == 0 {
                return false;
            }
            taken.push(Counted {
                whose: whose.clone(),
                count: std::mem::take(&mut window.count),
                from: window.from,
                until: window.until,
            });
            window.due = steady.saturating_add(WINDOW_MICROS);
            !all
        });
        taken
    }

    /// Takes back what could not be written; the next round tries again.
    fn put_back(&self, all: Vec<Counted>, steady: u64) {
        let mut windows = self.0.lock();
        for Counted { whose, count, from, until } in all {
            let window = windows.entry(whose).or_insert(Window { count: 0, from, until, due: steady });
            window.add(count, from, until);
            window.due = steady;
        }
    }
}

impl Window {
    fn add(&mut self, count: u64, from: u64, until: u64) {
        if self.count == 0 {
            (self.from, self.until) = (from, until);
        }
        self.count = self.count.saturating_add(count);
        self.from = self.from.min(from);
        self.until = self.until.max(until);
    }
}

impl Service {
    /// Notes that a request of `by` was refused with `error`, by whoever refused it before the service could. What
    /// concerns neither tenant nor scope is no refused use and is left out.
    pub fn note_refused_use(&self, by: &Principal, error: &Error) {
        match error.code {
            ErrorCode::Forbidden => self.refused_use(&by.key_id, RefusedUse::Scope),
            ErrorCode::NotFound => self.refused_use(&by.key_id, RefusedUse::OtherTenant),
            _ => {}
        }
    }

    /// Counts one refused use of a known key.
    pub(super) fn refused_use(&self, key_id: &str, reason: RefusedUse) {
        self.0.telemetry.keys().refused(reason.as_str());
        let stamps = &self.0.stamps;
        self.0.refused.note(key_id, reason, stamps.now(), stamps.clock().steady_micros());
    }

    /// Writes what is due, or all there is. What is not written is kept for the next call.
    ///
    /// # Errors
    /// The queue is full, or the store has stopped.
    pub(super) fn write_refused_uses(&self, all: bool) -> Result<(), Error> {
        let steady = self.0.stamps.clock().steady_micros();
        let taken = self.0.refused.take(steady, all);
        if taken.is_empty() {
            return Ok(());
        }
        let log = self.system_log()?;
        let items: Result<Vec<_>, Error> =
            taken.iter().map(|counted| own(&log, self.refused_event(counted))).collect();
        let written = items.and_then(|items| self.write_own(items, Vec::new()));
        match written {
            Ok(_) => Ok(()),
            Err(error) => {
                if self.0.store.poison.reason().is_some() {
                    let lost = taken.iter().map(|counted| counted.count).sum();
                    self.0.telemetry.keys().lost(lost);
                } else {
                    self.0.refused.put_back(taken, steady);
                }
                Err(error)
            }
        }
    }

    /// The entry (FORMAT §5). Who proved to hold the key is its actor; who only named it is not.
    fn refused_event(&self, counted: &Counted) -> Builder {
        let reason = counted.whose.as_ref().map_or(VARIOUS, |(_, reason)| reason.as_str());
        let mut event = Builder::new(action::API_KEY_REFUSED, Outcome::Denied)
            .fact("reason", reason)
            .fact("count", counted.count)
            .fact("from", Micros(counted.from))
            .fact("until", Micros(counted.until));
        let Some((id, reason)) = &counted.whose else { return event };
        event = event.fact("id", id.as_str()).target("api_key", id);
        if let Some(tenant) = self.0.store.api_key(id).and_then(|key| key.tenant) {
            event = event.fact("tenant", tenant);
        }
        if *reason == RefusedUse::WrongSecret { event } else { event.actor("api_key", id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn counted(key: &str, count: u64, from: u64, until: u64) -> Counted {
        Counted { whose: Some((key.to_owned(), RefusedUse::Scope)), count, from, until }
    }

    #[test]
    fn the_first_is_due_at_once_and_the_rest_at_the_end_of_the_window() {
        let uses = RefusedUses::default();
        uses.note("k", RefusedUse::Scope, 100, 0);
        assert_eq!(uses.take(0, false), [counted("k", 1, 100, 100)]);
        for number in 0..10_000 {
            uses.note("k", RefusedUse::Scope, 200 + number, SECOND);
        }
        assert_eq!(uses.take(59 * SECOND, false), []);
        assert_eq!(uses.take(60 * SECOND, false), [counted("k", 10_000, 200, 10_199)]);
        assert_eq!(uses.take(119 * SECOND, false), []);
        // A window in which nothing came ends; the next refusal is the first of another one.
        assert_eq!(uses.take(120 * SECOND, false), []);
        assert!(uses.0.lock().is_empty());
        uses.note("k", RefusedUse::Scope, 300, 121 * SECOND);
        assert_eq!(uses.take(121 * SECOND, false), [counted("k", 1, 300, 300)]);
    }

    #[test]
    fn what_cannot_be_written_is_kept_and_added_to() {
        let uses = RefusedUses::default();
        uses.note("k", RefusedUse::Scope, 5, 0);
        let taken = uses.take(0, false);
        uses.note("k", RefusedUse::Scope, 9, 1);
        uses.put_back(taken, 1);
        assert_eq!(uses.take(1, false), [counted("k", 2, 5, 9)]);
        uses.note("k", RefusedUse::Scope, 11, 2);
        assert_eq!(uses.take(2, true), [counted("k", 1, 11, 11)], "a stop takes what is not due yet");
        assert!(uses.0.lock().is_empty());
    }

    #[test]
    fn keys_beyond_the_bound_are_counted_together() {
        let uses = RefusedUses::default();
        for number in 0..MAX_WINDOWS + 1_000 {
            uses.note(&format!("{number:016x}"), RefusedUse::Revoked, 7, 0);
        }
        assert_eq!(uses.0.lock().len(), MAX_WINDOWS + 1);
        let taken = uses.take(0, false);
        assert_eq!(taken.len(), MAX_WINDOWS + 1);
        assert_eq!(taken[0], Counted { whose: None, count: 1_000, from: 7, until: 7 });
    }
}
