//! The threads of the write path and how they start and end.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{bounded, unbounded};
use parking_lot::Mutex;

use super::apply::{ApplierThread, Pace};
use super::clock::Stamps;
use super::commit::Committer;
use super::plan::Planner;
use super::progress::Progress;
use super::queue::Queue;
use super::sequencer::Sequencer;
use crate::journal::Writer;
use crate::process::watchdog::Watchdog;
use crate::store::apply::Applier;
use crate::store::keyfile::LogSigner;
use crate::store::matcher::Matcher;
use crate::store::poison::Poison;
use crate::store::read::Store;
use crate::telemetry::Telemetry;

/// Groups that are signed and wait for the disk. Two keep both cores and the disk busy.
const SIGNED_AHEAD: usize = 2;

/// Groups that are published and wait for the applier: 32 of 1 MiB cover a sync of a layer.
const APPLY_AHEAD: usize = 32;

/// A write path that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A thread could not be started.
    #[error("a thread of the write path cannot be started: {0}")]
    Spawn(std::io::Error),
    /// The store was poisoned.
    #[error("the store stopped: {0}; what was acknowledged is in the journal, the next start replays it")]
    Stopped(String),
}

/// The running write path.
pub struct Pipeline {
    /// The entrance.
    pub queue: Queue,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// What waits for its syncs.
    pub watchdog: Watchdog,
    poison: Poison,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pipeline {
    /// Starts the three threads. They count into `telemetry`. `holds` are those in force that extend: log, index, what they look for.
    #[expect(clippy::too_many_arguments, reason = "one of each part of a store that was opened")]
    pub fn start(
        store: &Arc<Store>,
        holds: Vec<(u32, u64, Matcher)>,
        applier: Applier,
        journal: Writer,
        signers: &HashMap<[u8; 32], Arc<LogSigner>>,
        stamps: &Arc<Stamps>,
        pace: Pace,
        telemetry: &Telemetry,
    ) -> Result<Pipeline, PipelineError> {
        let poison = store.poison.clone();
        let named = (journal.head().applied, journal.head().state_digest);
        let newest_frame = journal.newest().map_or(named.0, |(frame, _)| frame);
        let progress = Arc::new(Progress::new(newest_frame, named.0));
        let (queue, queued) = Queue::new(poison.clone(), progress.clone());
        let (signed_to, signed) = bounded(SIGNED_AHEAD);
        let (applied_to, applied) = bounded(APPLY_AHEAD);
        let (moves_to, head_moves) = unbounded();
        let mut planner = Planner::new(&store.instance);
        for log in store.logs() {
            let head = log.head();
            if let Some(signer) = signers.get(&head.key) {
                planner.add(log, &head, signer.clone());
            }
        }
        for (log, hold, matcher) in holds {
            planner.add_hold(log, hold, matcher);
        }
        let sequencer = Sequencer {
            store: store.clone(),
            planner,
            stamps: stamps.clone(),
            queue: queued,
            committer: signed_to,
            next_frame: newest_frame + 1,
            newest_layer: store.layers.newest(),
            poison: poison.clone(),
            closing: queue.closing(),
        };
        let watchdog = Watchdog::aborting();
        let committer = Committer {
            store: store.clone(),
            journal,
            groups: signed,
            head_moves,
            applier: applied_to,
            poison: poison.clone(),
            watchdog: watchdog.clone(),
            progress: progress.clone(),
            telemetry: telemetry.clone(),
            buffer: Vec::new(),
            wiping: None,
        };
        let applier = ApplierThread {
            store: store.clone(),
            applier,
            stamps: stamps.clone(),
            applied,
            head_moves: moves_to,
            frame: newest_frame,
            named,
            pace,
            poison: poison.clone(),
            watchdog: watchdog.clone(),
            progress: progress.clone(),
        };
        let threads = vec![
            spawn("varve-sequencer", &poison, move || sequencer.run())?,
            spawn("varve-committer", &poison, move || committer.run())?,
            spawn("varve-applier", &poison, move || applier.run())?,
        ];
        Ok(Pipeline { queue, progress, watchdog, poison, threads: Mutex::new(threads) })
    }

    /// Takes nothing more in, finishes what was taken, makes the last checkpoint. Idempotent.
    pub fn stop(&self) -> Result<(), PipelineError> {
        self.queue.close();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                self.poison.set("a thread of the write path panicked");
            }
        }
        match self.poison.reason() {
            Some(reason) => Err(PipelineError::Stopped(reason.to_owned())),
            None => Ok(()),
        }
    }
}

/// The threads end before whoever owns the pipeline gives up the lock of the directory.
impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A panic in a thread of the write path poisons the store: what that thread owned is not to be trusted.
#[expect(clippy::disallowed_methods, reason = "the one place where threads of the write path start")]
fn spawn(
    name: &str,
    poison: &Poison,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, PipelineError> {
    struct Alarm(Poison, String);
    impl Drop for Alarm {
        fn drop(&mut self) {
            if thread::panicking() {
                self.0.set(format!("thread {} panicked", self.1));
            }
        }
    }
    let alarm = Alarm(poison.clone(), name.to_owned());
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _alarm = alarm;
            body();
        })
        .map_err(PipelineError::Spawn)
}
