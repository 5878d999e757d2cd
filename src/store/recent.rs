//! Ids that the durable id table does not have yet: of events planned, on their way to disk, or published
//! since the last checkpoint of the journal.
//!
//! Written by the sequencer (`take`), by recovery, and by the applier, which forgets what a checkpoint made
//! durable. What holds under the lock: an id that is not in the table as of `epoch` is here. So a caller that
//! looked into the table, found nothing and still sees the same epoch may rely on `look`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use super::idtable::{Location, Token};
use super::log::IndexKeys;

/// What `look` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The id is free.
    New,
    /// The id was taken a moment ago, or the id table changed since the caller looked: look again. What took it
    /// is published by the time the caller is answered, so the caller can hold the two contents side by side.
    LookAgain,
}

/// The ids. One lock for all: it is held for a group at a time, microseconds.
#[derive(Default)]
pub struct Recent(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    epoch: u64,
    ids: HashMap<Token, Taken>,
    request_ids: HashMap<Token, Vec<Location>>,
}

struct Taken {
    location: Location,
    group: u64,
}

/// The lock held for one group.
pub struct Claims<'a>(parking_lot::MutexGuard<'a, Inner>);

impl Recent {
    /// Which state of the id table a caller is about to look into. Ask before looking.
    pub fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Locks for a group.
    pub fn lock(&self) -> Claims<'_> {
        Claims(self.0.lock())
    }

    /// Records with that event id or request id.
    pub fn find(&self, token: &Token, found: &mut Vec<Location>) {
        let inner = self.0.lock();
        found.extend(inner.ids.get(token).map(|taken| taken.location));
        found.extend(inner.request_ids.get(token).into_iter().flatten());
    }

    /// Adds a record that recovery found in the journal.
    pub fn restore(&self, keys: &IndexKeys, location: Location, group: u64) {
        let mut inner = self.0.lock();
        inner.ids.insert(keys.id, Taken { location, group });
        if let Some(request_id) = keys.request_id {
            inner.request_ids.entry(request_id).or_default().push(location);
        }
    }

    /// The id table has everything of the groups up to `group` now.
    pub fn forget(&self, group: u64, is_durable: impl Fn(&Location) -> bool) {
        let mut inner = self.0.lock();
        inner.epoch += 1;
        inner.ids.retain(|_, taken| taken.group > group);
        inner.request_ids.retain(|_, locations| {
            locations.retain(|location| !is_durable(location));
            !locations.is_empty()
        });
    }

    /// Number of event ids held.
    pub fn len(&self) -> usize {
        self.0.lock().ids.len()
    }

    /// Whether no id is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Claims<'_> {
    /// Looks an id up. `epoch` is what the caller saw before it looked into the id table; `None` when it had no
    /// need to look, because the id was drawn at random a moment ago.
    pub fn look(&self, token: &Token, epoch: Option<u64>) -> Claim {
        let is_known_absent = epoch.is_none_or(|epoch| self.0.epoch == epoch);
        if is_known_absent && !self.0.ids.contains_key(token) { Claim::New } else { Claim::LookAgain }
    }

    /// Takes an id for a planned record.
    pub fn take(&mut self, keys: &IndexKeys, location: Location, group: u64) {
        if let Entry::Vacant(free) = self.0.ids.entry(keys.id) {
            free.insert(Taken { location, group });
        }
        if let Some(request_id) = keys.request_id {
            self.0.request_ids.entry(request_id).or_default().push(location);
        }
    }
}
