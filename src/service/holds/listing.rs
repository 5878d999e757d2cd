//! The members of a hold are listed in the log, behind its entry.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::append::internal;
use super::super::read::each_match;
use super::super::system::{BETWEEN_TRIES, TRIES, in_parts, own};
use super::super::{Error, ErrorCode, Service};
use super::asked::{What, filter_text, what_of};
use super::{is_open, not_a_hold};
use crate::event::Outcome;
use crate::event::catalog::{Builder, action};
use crate::ingest::prepare::Prepared;
use crate::retention::{Hold, IndexSet, ResolvedHold, SetsBuilder};
use crate::store::log::{Log, Sequenced};

/// How long a hold waits for another one that is being listed before it is listed behind its answer.
const LISTING_WAIT: Duration = Duration::from_secs(1);

impl Service {
    /// Lists the members of holds that have no complete list yet: those of long logs, and those that a stop cut off.
    ///
    /// # Errors
    /// The first fault; the others are listed all the same.
    pub(in crate::service) fn resolve_holds(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for log in self.0.store.logs() {
            if log.holds().is_empty() {
                continue;
            }
            for hold in self.0.holds.of(log.identity.number).iter().filter(|hold| is_open(hold)) {
                let record = self.0.store.record(&log, hold.index).map_err(|error| internal(&error));
                let listed = record.and_then(|record| {
                    let what = record.as_deref().and_then(|record| what_of(record, hold.placed.kind));
                    let what = what.ok_or_else(|| not_a_hold(hold.index))?;
                    self.resolve(&log, hold.index, &what).map(drop)
                });
                first = first.and(listed);
            }
        }
        first
    }

    /// Lists what a hold holds of what is there, durably. Answers what it names that is gone. Nothing that it lists leaves
    /// meanwhile: until it is resolved it holds everything below it.
    pub(super) fn resolve(&self, log: &Log, index: u64, what: &What) -> Result<Vec<u64>, Error> {
        let Some(_one) = self.0.holds.listing.try_lock_for(LISTING_WAIT) else {
            let detail =
                "the members of another hold are being listed; this one is in force and listed behind it";
            return Err(Error::new(ErrorCode::Busy, detail));
        };
        if !self.hold_named(log, &index.to_string()).is_ok_and(|hold| is_open(&hold)) {
            return Ok(Vec::new());
        }
        let store = &self.0.store;
        let (mut whole, mut reduced, mut gone) = (SetsBuilder::default(), SetsBuilder::default(), Vec::new());
        let mut take = |record: &Sequenced| match record.record.body() {
            // Of a whole tenant nobody asked for these by name.
            None if matches!(what, What::Tenant) => {}
            None => gone.push(record.index),
            Some(Ok(body)) if body.withheld().is_ok_and(|withheld| !withheld.is_empty()) => {
                reduced.push(record.index);
            }
            Some(_) => whole.push(record.index),
        };
        match what {
            What::Indexes(indexes) => {
                for &index in indexes {
                    let record = store.record(log, index).map_err(|error| internal(&error))?;
                    record.iter().for_each(|record| take(record));
                }
            }
            What::Filter(_, text) => {
                let text = filter_text(text).ok_or_else(|| not_a_hold(index))?;
                each_match(store, log, index, &text, &mut |record| {
                    take(record);
                    self.stop_listing()
                })?;
            }
            What::Tenant => {
                let mut stopped = Ok(());
                store
                    .range(log, 0, index, &mut |record| {
                        take(record);
                        stopped = self.stop_listing();
                        stopped.is_ok()
                    })
                    .map_err(|error| internal(&error))?;
                stopped?;
            }
        }
        self.write_lists(log, index, &whole.finish(), &reduced.finish())?;
        Ok(gone)
    }

    fn stop_listing(&self) -> Result<(), Error> {
        if self.0.stopping.load(Ordering::Acquire) {
            let detail = "the server is stopping; the hold is in force and holds all that was there";
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        Ok(())
    }

    fn write_lists(
        &self,
        log: &Log,
        index: u64,
        whole: &[IndexSet],
        reduced: &[IndexSet],
    ) -> Result<(), Error> {
        let hold = self.hold_named(log, &index.to_string())?;
        let parts = ResolvedHold::of(index, whole, reduced);
        // What is in the log already was made of the same records: all of them are held since.
        let written = usize::try_from(hold.parts_read()).unwrap_or(usize::MAX);
        let entries = parts.iter().skip(written).map(|part| {
            let event = Builder::new(action::HOLD_RESOLVED, Outcome::Success);
            Ok((own(log, event.facts(part.to_facts()))?, part))
        });
        in_parts(entries, &mut |items, parts, _| self.write_parts(log, index, items, parts))
    }

    /// Writes lists of a hold, and takes them into what is known of it: after a failure it goes on behind them.
    fn write_parts(
        &self,
        log: &Log,
        index: u64,
        items: Vec<Prepared>,
        parts: Vec<&ResolvedHold>,
    ) -> Result<(), Error> {
        for _ in 0..TRIES {
            self.stop_listing()?;
            // Under the lock, so that no list comes behind the release of its hold.
            if let Ok(_gate) = self.hold_gate() {
                let Ok(hold) = self.hold_named(log, &index.to_string()) else { return Ok(()) };
                match self.write_own(items.clone(), Vec::new()) {
                    Err(error) if error.code == ErrorCode::Busy => {}
                    written => {
                        written?;
                        let mut hold = Hold::clone(&hold);
                        let taken = parts.iter().try_for_each(|part| hold.resolve(part));
                        taken.map_err(|_| not_a_hold(index))?;
                        let hold = Arc::new(hold);
                        self.0.holds.change(log.identity.number, |holds| {
                            let other = holds.iter_mut().find(|other| other.index == index);
                            other.into_iter().for_each(|other| *other = hold.clone());
                        });
                        return Ok(());
                    }
                }
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        let detail = "the queue stayed full, or a layer was going over, for all the time; the hold is in force and its members are listed later";
        Err(Error::new(ErrorCode::Busy, detail))
    }
}
