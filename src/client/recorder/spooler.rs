//! The thread that saves: what waits too long or fills the queue goes to the spool, the count of drops to its file.
//!
//! Apart from the sender, because a request may hang for as long as its time allows. What it does is done by others too:
//! `record_durable`, the sender after a try that failed, and `close`.

#![expect(
    clippy::disallowed_methods,
    reason = "the recorder owns this thread, names it, stops it and joins it; what has waited too long is spooled"
)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::append::MAX_BATCH_EVENTS;
use super::super::new_event::NewEvent;
use super::super::spool::{Spool, SpoolError, SpoolSync};
use super::PERSIST_INTERVAL;
use super::shared::{Shared, from_now, lock, wait};

/// What the spooler does next.
pub(super) struct ToDo {
    pub(super) spill: bool,
    pub(super) write_drops: bool,
}

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("varve-spooler".to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
            lock(&shared.state).stats.has_defect = true;
        }
    })
}

fn run(shared: &Shared) {
    while let Some(to_do) = shared.wait_to_spool() {
        // Whether all of it was done; the stats say why it was not.
        let is_spilled = !to_do.spill || shared.spill().unwrap_or(false);
        if to_do.write_drops {
            shared.write_drops();
        }
        if to_do.write_drops || !is_spilled {
            shared.wait_a_little();
        }
    }
}

impl Shared {
    /// Waits until something has to be spooled or written down. `None` when it is time to stop.
    pub(super) fn wait_to_spool(&self) -> Option<ToDo> {
        let mut state = lock(&self.state);
        loop {
            if !state.is_spooler_wanted {
                return None;
            }
            let now = Instant::now();
            let oldest = state.in_flight.as_ref().map(|sent| sent.since);
            let oldest = oldest.or_else(|| state.queue.front().map(|queued| queued.at));
            let due_in = oldest.map(|at| self.options.spool_after.saturating_sub(now - at));
            let is_due = due_in == Some(Duration::ZERO) || self.is_half_full(&state);
            if is_due || state.has_new_drops {
                return Some(ToDo { spill: is_due, write_drops: state.has_new_drops });
            }
            state = wait(&self.to_spool, state, due_in);
        }
    }

    /// Waits a little: what could not be spooled now may be later, and a flood of drops is written down in parts.
    pub(super) fn wait_a_little(&self) {
        let end = from_now(PERSIST_INTERVAL);
        let mut state = lock(&self.state);
        while state.is_spooler_wanted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = wait(&self.to_spool, state, Some(left));
        }
    }

    /// Moves what is on its way and what is queued into the spool, in this order. Whether all of it is there.
    ///
    /// # Errors
    /// When the spool takes nothing more; what is in memory stays there.
    pub(super) fn spill(&self) -> Result<bool, SpoolError> {
        let Some(spool) = &self.spool else { return Ok(false) };
        let mut spool = lock(spool);
        let outcome = self.spill_into(&mut spool);
        let mut state = lock(&self.state);
        state.spooled_events = spool.events();
        state.stats.spool_fault = outcome.as_ref().err().map(ToString::to_string);
        drop((state, spool));
        self.to_send.notify_one();
        if self.options.spool_sync == Some(SpoolSync::EachWrite) && outcome.is_ok() {
            self.make_durable()?;
        }
        outcome
    }

    fn spill_into(&self, spool: &mut Spool) -> Result<bool, SpoolError> {
        let in_flight = lock(&self.state).in_flight.as_ref().map(|sent| texts(sent.events.iter()));
        if let Some(events) = in_flight {
            // Half of a batch in the spool would be sent again for nothing.
            if !spool.has_room_for(&events) || spool.append(&events)? < events.len() {
                return Ok(false);
            }
            lock(&self.state).in_flight = None;
        }
        let mut left = lock(&self.state).queue.len();
        while left > 0 {
            let chunk = {
                let state = lock(&self.state);
                texts(state.queue.iter().take(left.min(MAX_BATCH_EVENTS)).map(|queued| &queued.event))
            };
            let written = spool.append(&chunk)?;
            let mut state = lock(&self.state);
            (0..written).for_each(|_| drop(state.pop()));
            if written < chunk.len() {
                return Ok(false);
            }
            left -= written;
        }
        Ok(true)
    }

    /// Waits until the disk has all that was spooled before.
    ///
    /// # Errors
    /// When a sync failed, now or before.
    pub(super) fn make_durable(&self) -> Result<(), SpoolError> {
        let Some(spool) = &self.spool else { return Ok(()) };
        let mark = lock(spool).appended_bytes();
        let _turn = lock(&self.sync_turn);
        let what = {
            let spool = lock(spool);
            if spool.is_durable(mark) {
                return Ok(());
            }
            if spool.has_failed() {
                return Err(SpoolError::SyncFailed);
            }
            spool.to_sync()
        };
        let Some(what) = what else { return Ok(()) };
        let outcome = what.sync();
        let mut spool = lock(spool);
        spool.was_synced(&what, &outcome);
        outcome.map_err(|source| SpoolError::Io { path: spool.dir().to_owned(), source })
    }

    /// Writes the count of drops down, where there is a file for it. A failure leaves it to be written.
    pub(super) fn write_drops(&self) -> bool {
        let Some(file) = &self.drop_file else {
            lock(&self.state).has_new_drops = false;
            return false;
        };
        let mut file = lock(file);
        let drops = {
            let mut state = lock(&self.state);
            if !std::mem::take(&mut state.has_new_drops) {
                return true;
            }
            state.drops
        };
        let outcome = file.write(&drops);
        let mut state = lock(&self.state);
        match outcome {
            Ok(()) => true,
            Err(error) => {
                state.has_new_drops = true;
                state.stats.spool_fault = Some(error.to_string());
                false
            }
        }
    }

    pub(super) fn end_spooler(&self) {
        lock(&self.state).is_spooler_wanted = false;
        self.to_spool.notify_all();
    }

    /// Spools what is left in memory, counts what finds no place, and waits for the disk. The threads have ended.
    pub(super) fn put_away(&self) {
        // What went wrong is told by what is left.
        let _ = self.spill();
        let is_durable = self.make_durable().is_ok();
        {
            let mut state = lock(&self.state);
            let in_flight = state.in_flight.take().map_or(0, |sent| sent.events.len());
            let lost = (in_flight + state.queue.len()) as u64;
            state.queue.clear();
            state.queue_bytes = 0;
            state.drop_events(lost);
            state.closed.lost = lost;
            state.closed.spooled = state.spooled_events;
        }
        let is_counted = self.write_drops() || !self.has_spool();
        lock(&self.state).closed.is_durable = self.has_spool() && is_durable && is_counted;
    }
}

fn texts<'a>(events: impl Iterator<Item = &'a NewEvent>) -> Vec<Arc<str>> {
    events.map(NewEvent::shared_json).collect()
}
