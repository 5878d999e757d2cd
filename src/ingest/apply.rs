//! The applier's thread: takes published groups in order, and every few seconds or megabytes makes a
//! checkpoint of the journal.
//!
//! A checkpoint, step by step, and what a crash after each step leaves: partial pages and ids written (more
//! than HEAD knows of: replay compares), layer synced (the same), state snapshot written under its own name
//! (nobody names it yet), HEAD moved (the checkpoint is true), old snapshot and segments removed (room).

#![expect(clippy::disallowed_methods, reason = "checkpoints of the journal are due by time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::clock::Stamps;
use super::progress::Progress;
use crate::process::watchdog::{SYNC_LIMIT, Watchdog};
use crate::store::apply::{AppliedRun, Applier};
use crate::store::layer_id::LayerId;
use crate::store::poison::Poison;
use crate::store::read::Store;
use crate::store::state::{LogState, State};
use crate::tlog::hash::Hash;

/// When a checkpoint of the journal is due.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of records after which one is due: replay after a crash reads three times that at most.
    pub bytes: usize,
    /// Time after which one is due when anything was applied.
    pub interval: Duration,
    /// Memory of partial pages and unfinished postings; above it they are dropped after a checkpoint and read
    /// back when their log goes on.
    pub warm_bytes: usize,
}

impl Default for Pace {
    /// 32 MiB, 5 seconds, 48 MiB: 5 KiB for each of 10,000 logs.
    fn default() -> Self {
        Pace { bytes: 32 << 20, interval: Duration::from_secs(5), warm_bytes: 48 << 20 }
    }
}

impl Pace {
    /// Time after which a checkpoint is due when `bytes` were applied. A trickle, under 1/32 of `bytes`, waits
    /// six times as long: a snapshot of 10,000 logs is 10 MiB, too much to write every five seconds.
    fn due(&self, bytes: usize) -> Duration {
        if bytes < self.bytes / 32 { self.interval * 6 } else { self.interval }
    }
}

/// How long a checkpoint may take: it syncs a layer, a run of the id table, a manifest and a snapshot.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(4 * SYNC_LIMIT.as_secs());

/// One frame's worth of published records.
pub(super) struct Applied {
    pub(super) frame: u64,
    pub(super) layer: LayerId,
    pub(super) runs: Vec<AppliedRun>,
    /// Whether a checkpoint is due now, after which the journal keeps nothing of what was before the frame.
    pub(super) wipes_journal: bool,
}

/// Up to `frame` everything is durable in layers, and the state of that moment has `digest`.
pub(super) struct HeadMove {
    pub(super) frame: u64,
    pub(super) digest: Hash,
    pub(super) clean: bool,
    /// Lets every segment go that holds no frame behind it, not only the older generation.
    pub(super) wipes_journal: bool,
}

pub(super) struct ApplierThread {
    pub(super) store: Arc<Store>,
    pub(super) applier: Applier,
    pub(super) stamps: Arc<Stamps>,
    pub(super) applied: Receiver<Applied>,
    pub(super) head_moves: Sender<HeadMove>,
    /// Newest frame applied.
    pub(super) frame: u64,
    /// The frame that HEAD says is applied, and the digest of its snapshot.
    pub(super) named: (u64, Hash),
    pub(super) pace: Pace,
    pub(super) poison: Poison,
    pub(super) watchdog: Watchdog,
    pub(super) progress: Arc<Progress>,
}

impl ApplierThread {
    /// Runs until its input is closed, then makes the last, clean checkpoint.
    pub(super) fn run(mut self) {
        if let Err(reason) = self.serve() {
            self.poison.set(reason);
        }
    }

    fn serve(&mut self) -> Result<(), String> {
        let mut since = Instant::now();
        let mut bytes = 0;
        let mut dirty = false;
        loop {
            let mut wipes_journal = false;
            match self.applied.recv_timeout(self.pace.interval / 10) {
                Ok(applied) => {
                    self.frame = applied.frame;
                    bytes += applied
                        .runs
                        .iter()
                        .flat_map(|run| &run.records)
                        .map(|record| record.record.encoded_len())
                        .sum::<usize>();
                    dirty = true;
                    wipes_journal = applied.wipes_journal;
                    self.applier.apply(applied.layer, applied.runs).map_err(|error| error.to_string())?;
                    self.progress.applied(self.frame);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return if self.poison.reason().is_none() {
                        self.checkpoint(true, false)
                    } else {
                        Ok(())
                    };
                }
            }
            let is_due = bytes >= self.pace.bytes || since.elapsed() >= self.pace.due(bytes);
            if dirty && (is_due || wipes_journal) {
                self.checkpoint(false, wipes_journal)?;
                bytes = 0;
                dirty = false;
                since = Instant::now();
            }
        }
    }

    fn checkpoint(&mut self, clean: bool, wipes_journal: bool) -> Result<(), String> {
        let frame = self.frame;
        let _armed = self.watchdog.arm(CHECKPOINT_LIMIT, "a checkpoint of the journal");
        self.applier.flush(frame, self.pace.warm_bytes).map_err(|error| error.to_string())?;
        let store = self.store.clone();
        store.recent.forget(frame, |location| {
            store.log(location.log).is_none_or(|log| location.index < log.stored())
        });
        // The snapshot that HEAD names is never written over: nothing was applied since, so it still tells all.
        if self.named.0 != frame {
            let state = snapshot(&self.store, &self.stamps);
            let digest =
                state.write(&self.store.data.join("state"), frame).map_err(|error| error.to_string())?;
            self.named = (frame, digest);
        }
        let digest = self.named.1;
        self.head_moves
            .send(HeadMove { frame, digest, clean, wipes_journal })
            .map_err(|_| "the committer has ended".to_owned())
    }
}

/// The state as published now. It may be ahead of the frame it is written for: whatever is published is
/// durable in the journal, and replay skips what a head already has.
pub(super) fn snapshot(store: &Store, stamps: &Stamps) -> State {
    State {
        instance: store.instance.clone(),
        cursor_key: store.cursor_key,
        newest_stamp: stamps.newest(),
        logs: store
            .logs()
            .into_iter()
            .map(|log| (log.identity.number, LogState { identity: log.identity.clone(), head: log.head() }))
            .collect(),
        api_keys: store.api_keys().into_iter().map(|key| (key.id.clone(), key)).collect(),
        erasures: store.erasures(),
    }
}
