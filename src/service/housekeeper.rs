//! What runs beside the write path. One thread writes heartbeats and refused uses of keys, and watches the clock; another, which may take
//! minutes over one thing, measures the room, merges the id table, seals layers whose month is over, begins compactions and
//! erasures; a third, which may read a log whole, lists the members of holds.

#![expect(clippy::disallowed_methods, reason = "its three threads, and when a heartbeat is due")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Inner, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};
use crate::store::layer_id::LayerId;
use crate::store::seal::{SEAL_FILE, Seal, SealError};

/// How often each looks around.
const ROUND: Duration = Duration::from_millis(500);

/// How often the layers are measured: a layer grows by at most 2.5 GB meanwhile, at 60,000 events of 700 bytes a second.
const MEASURED_EVERY: Duration = Duration::from_secs(60);

/// How long a store that is opened for one act waits for its layer; the watchdog ends a sync that takes as long.
const APPLIED_WITHIN: Duration = Duration::from_secs(30);

/// How long before the members of a hold are listed again where that failed.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// The running threads; they end when this is dropped.
pub(super) struct Housekeeper {
    stop: Option<Sender<()>>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a thread looks at once a round.
struct Rounds {
    stopped: Receiver<()>,
    service: Weak<Inner>,
}

impl Rounds {
    /// Waits for the next round; `None` ends the thread. The service is held weakly: one that is dropped without `stop` ends it too.
    fn next(&self) -> Option<Service> {
        match self.stopped.recv_timeout(ROUND) {
            Err(RecvTimeoutError::Timeout) => self.service.upgrade().map(Service),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Housekeeper {
    /// Starts all three.
    pub(super) fn start(
        service: &Service,
        heartbeat_seconds: u64,
        compaction_hours: u64,
    ) -> std::io::Result<Housekeeper> {
        let (stop, stopped) = bounded::<()>(0);
        let stopping = Arc::new(AtomicBool::new(false));
        let mut housekeeper =
            Housekeeper { stop: Some(stop), stopping: stopping.clone(), threads: Vec::new() };
        let rounds = || Rounds { stopped: stopped.clone(), service: Arc::downgrade(&service.0) };
        let (pulse, upkeep, holds) = (rounds(), rounds(), rounds());
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(body)
        };
        housekeeper
            .threads
            .push(spawn("varve-heartbeat", Box::new(move || keep_pulse(&pulse, heartbeat_seconds)))?);
        housekeeper
            .threads
            .push(spawn("varve-upkeep", Box::new(move || keep_up(&upkeep, compaction_hours, &stopping)))?);
        housekeeper.threads.push(spawn("varve-holds", Box::new(move || keep_listed(&holds)))?);
        Ok(housekeeper)
    }
}

/// A heartbeat that is refused, say by a full queue, is written as soon as it is taken.
fn keep_pulse(rounds: &Rounds, heartbeat_seconds: u64) {
    let mut beat = Instant::now();
    let mut is_late = false;
    let mut are_refusals_late = false;
    let mut anomaly_written = false;
    while let Some(service) = rounds.next() {
        if heartbeat_seconds != 0 && beat.elapsed() >= Duration::from_secs(heartbeat_seconds) {
            let due = Instant::now();
            match service.heartbeat(heartbeat_seconds) {
                Ok(()) => {
                    beat = due;
                    is_late = false;
                }
                Err(error) if !is_late => {
                    is_late = true;
                    tracing::warn!(%error, "the heartbeat was not written yet");
                }
                Err(_) => {}
            }
        }
        match service.write_refused_uses(false) {
            Ok(()) => are_refusals_late = false,
            Err(error) if !are_refusals_late => {
                are_refusals_late = true;
                tracing::warn!(%error, "refused uses of keys were not written yet");
            }
            Err(_) => {}
        }
        anomaly_written = anomaly_written || service.report_clock_anomaly();
    }
}

fn keep_up(rounds: &Rounds, compaction_hours: u64, stopping: &AtomicBool) {
    let mut unsealable = HashSet::new();
    let mut compacted = None;
    let mut measured = Instant::now();
    let wait = compaction_wait(compaction_hours);
    while let Some(service) = rounds.next() {
        if measured.elapsed() >= MEASURED_EVERY {
            measured = Instant::now();
            service.keep_room();
        }
        merge_ids(&service.0, stopping);
        seal_closed_layers(&service.0, stopping, &mut unsealable);
        service.0.store.layers.sweep();
        service.begin_erasures();
        // A clock that has not held is waited for; nothing is missed by that.
        let now = service.0.stamps.clock().steady_micros();
        let due = *compacted.get_or_insert(now) + wait.unwrap_or(u64::MAX / 2);
        if now >= due && service.clock_held() {
            compacted = Some(now);
            if let Err(error) = service.begin_compaction(None) {
                tracing::error!(%error, "the compaction was not begun; it is tried again when it is due next");
            }
        }
    }
}

/// Lists the members of holds that are listed behind their answer.
fn keep_listed(rounds: &Rounds) {
    let mut failed: Option<Instant> = None;
    while let Some(service) = rounds.next() {
        if failed.is_some_and(|at| at.elapsed() < LIST_AGAIN) {
            continue;
        }
        failed = service.resolve_holds().err().map(|error| {
            tracing::warn!(%error, "the members of a hold are not listed yet; until then it holds all that was there");
            Instant::now()
        });
    }
}

/// Microseconds of the boot clock between compactions: the hours, and up to a twelfth of them more, so that a fleet does
/// not compact as one.
fn compaction_wait(hours: u64) -> Option<u64> {
    let mut random = [0; 2];
    super::random(&mut random);
    let seconds = hours * 3600;
    let jitter = seconds / 12 * u64::from(u16::from_be_bytes(random)) / u64::from(u16::MAX);
    (hours > 0).then_some((seconds + jitter) * 1_000_000)
}

/// Merges runs of the id table while there are enough of a size. Nothing is dropped: an id that came twice is known
/// even after the body of the first has left.
fn merge_ids(inner: &Inner, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        match inner.store.ids.merge_once(&|_| true) {
            Ok(true) => inner.telemetry.write().merged(),
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "the id table was not merged; look-ups go on with more runs");
                return;
            }
        }
    }
}

/// Seals layers whose month is over, or that were closed before: the applier has written and synced all of a layer before it makes the next.
/// A layer that cannot be sealed is damaged: it is said once, and `varve verify` says where.
pub(super) fn seal_closed_layers(inner: &Inner, stopping: &AtomicBool, unsealable: &mut HashSet<LayerId>) {
    let _one = inner.sealing.lock();
    let dirs = inner.store.layers.dirs();
    let Some((_, closed)) = dirs.split_last() else { return };
    for (id, dir) in closed {
        if unsealable.contains(id) || dir.join(SEAL_FILE).exists() {
            continue;
        }
        let seal = || -> Result<bool, String> {
            let layer = inner.store.layers.get(*id).map_err(|error| error.to_string())?;
            let stop = || stopping.load(Ordering::Relaxed);
            let text = |error: SealError| error.to_string();
            let Some(seal) = Seal::of(&layer, &stop).map_err(text)? else { return Ok(false) };
            seal.write(dir).map_err(text).map(|()| true)
        };
        match seal() {
            Ok(true) => {
                inner.telemetry.write().sealed();
                tracing::info!(layer = %id, "the layer is sealed");
            }
            Ok(false) => return,
            Err(error) => {
                unsealable.insert(*id);
                tracing::error!(layer = %id, %error, "the layer was not sealed");
                continue;
            }
        }
        if let Err(error) = inner.store.layers.renew(*id) {
            tracing::error!(layer = %id, %error, "the layer was closed after its month and does not open");
        }
    }
}

impl Service {
    /// Seals what the next round would, at once: a store that is opened for one act has no next round. Waits for
    /// what was written before to be in its layer.
    pub(super) fn seal_now(&self) {
        let started = Instant::now();
        while self.0.pipeline.progress.applier_lag_frames() > 0 && started.elapsed() < APPLIED_WITHIN {
            thread::sleep(Duration::from_millis(2));
        }
        seal_closed_layers(&self.0, &AtomicBool::new(false), &mut HashSet::new());
    }

    /// Writes `varve.clock.anomaly` once the wall clock and the boot clock have parted. Answers whether it is
    /// written.
    fn report_clock_anomaly(&self) -> bool {
        let Some(anomaly) = self.0.stamps.anomaly() else { return false };
        tracing::error!(
            ?anomaly,
            "the wall clock was stepped; stamps go on with the steady clock until a restart"
        );
        let event = Builder::new(action::CLOCK_ANOMALY, Outcome::Failure)
            .fact("wall", Micros(anomaly.wall_micros))
            .fact("steady", Micros(anomaly.steady_micros));
        self.write_system(event).is_ok()
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // The last clone of the service may be dropped by one of them.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
