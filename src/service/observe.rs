//! What may be asked about a running store: its metrics, and whether it is ready.
//!
//! Both are open to all at the HTTP door, so neither names a tenant, a key, a path or a cause.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::append::{MAX_BATCH_EVENTS, MAX_SUBMISSION_BYTES};
use super::{Error, ErrorCode, Service};
use crate::process::watchdog::SYNC_LIMIT;
use crate::telemetry::{Reading, Telemetry};

/// For how long something may wait while nothing becomes durable until the store is not ready: 10 s, a third of what the
/// watchdog gives a sync. A healthy disk takes milliseconds.
pub const STALL_LIMIT: Duration = Duration::from_secs(SYNC_LIMIT.as_secs() / 3);

impl Service {
    /// The metrics of this service.
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    /// All metrics in Prometheus text form. Blocks: reads directories at most every 10 s, and looks at every log.
    pub fn metrics(&self) -> String {
        self.0.telemetry.scrape(|| self.reading())
    }

    /// From now on the store is not ready, while it goes on taking what comes: for whoever stops in order, before the
    /// door is closed.
    pub fn begin_stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Whether the store takes the largest request now and can be expected to acknowledge it. Cheap: a few atomics, and
    /// the free space at most ten times a second.
    ///
    /// # Errors
    /// `read_only` when it has stopped or is stopping; `storage_full`; `busy` when the queue is full, or something
    /// has waited for [`STALL_LIMIT`] while nothing became durable.
    pub fn ready(&self) -> Result<(), Error> {
        self.ready_within(STALL_LIMIT)
    }

    fn ready_within(&self, patience: Duration) -> Result<(), Error> {
        let refused = |code, detail: &str| Err(Error::new(code, detail));
        if self.0.store.poison.reason().is_some() {
            return refused(
                ErrorCode::ReadOnly,
                "the store has stopped taking writes and the process is about to exit; see the server's log",
            );
        }
        let queue = &self.0.pipeline.queue;
        if self.0.stopping.load(Ordering::Acquire) || queue.is_closing() {
            return refused(ErrorCode::ReadOnly, "the server is stopping; what was taken is finished");
        }
        self.refuse_when_full()?;
        if queue.stalled() > patience {
            return refused(
                ErrorCode::Busy,
                "nothing has become durable for a while though events wait: the disk is slow or does not answer",
            );
        }
        let (max_events, max_bytes) = queue.room();
        let has_room = queue.depth() + MAX_BATCH_EVENTS <= max_events
            && queue.bytes() + MAX_SUBMISSION_BYTES <= max_bytes;
        if !has_room {
            return refused(ErrorCode::Busy, "the queue has no room for the largest request");
        }
        Ok(())
    }

    /// What the gauges show.
    fn reading(&self) -> Reading {
        let store = &self.0.store;
        let queue = &self.0.pipeline.queue;
        let progress = &self.0.pipeline.progress;
        let (watchdog_calls, left) = self.0.pipeline.watchdog.armed();
        let logs = store.logs();
        Reading {
            ready: u64::from(self.ready().is_ok()),
            poisoned: u64::from(store.poison.reason().is_some()),
            queue_events: queue.depth() as u64,
            queue_bytes: queue.bytes() as u64,
            queue_limit_events: queue.room().0 as u64,
            queue_limit_bytes: queue.room().1 as u64,
            stalled_seconds: queue.stalled().as_secs_f64(),
            applier_lag_frames: progress.applier_lag_frames(),
            replay_frames: progress.replay_frames(),
            head_age_seconds: progress.since_head_move().as_secs_f64(),
            entries: logs.iter().map(|log| log.size()).sum(),
            logs: logs.len() as u64,
            layers: store.layers.list().len() as u64,
            layers_open: store.layers.open_count() as u64,
            erasures_open: store.erasures().len() as u64,
            erasures_failing: u64::from(self.erasures_fail()),
            dedupe_entries: store.ids.len(),
            dedupe_runs: store.ids.run_count() as u64,
            dedupe_recent_entries: store.recent.len() as u64,
            clock_stepped: u64::from(self.0.stamps.anomaly().is_some()),
            clock_drift_seconds: seconds(self.0.stamps.drift_micros()),
            disk_free_bytes: self.0.space.free_bytes().unwrap_or(0),
            disk_low_water_bytes: self.0.space.low_water_bytes(),
            watchdog_calls: watchdog_calls as u64,
            watchdog_left_seconds: left.unwrap_or(SYNC_LIMIT).as_secs_f64(),
            store_bytes: self.0.measure.bytes(),
        }
    }
}

/// Microseconds as seconds, exact to 2^53: 285 years.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test owns its threads")]
mod tests {
    use super::*;
    use crate::ingest::queue::MAX_QUEUED_EVENTS;
    use std::sync::Arc;

    use crate::event::Outcome;
    use crate::event::catalog::{Builder, action};
    use crate::service::OpenOptions;
    use crate::store::memory::MemoryBackend;

    fn opened(dir: &std::path::Path) -> Service {
        let options = OpenOptions {
            backend: Arc::new(MemoryBackend::default()),
            heartbeat_seconds: 0,
            ..OpenOptions::default()
        };
        Service::init(dir, Some("test.example"), None, &options).unwrap();
        Service::open(dir, &options).unwrap()
    }

    fn code(service: &Service) -> Option<ErrorCode> {
        let code = service.ready().err().map(|error| error.code);
        let line = format!("\nvarve_ready {}\n", u8::from(code.is_none()));
        assert!(service.metrics().contains(&line), "{code:?}");
        code
    }

    #[test]
    fn a_full_disk_and_a_stop_are_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let service = opened(&dir.path().join("store"));
        assert_eq!(code(&service), None);
        service.0.space.set_floor_bytes(u64::MAX);
        assert_eq!(code(&service), Some(ErrorCode::StorageFull));
        assert!(service.ready().unwrap_err().retry_after.is_some());
        service.0.space.set_floor_bytes(0);
        assert_eq!(code(&service), None);
        service.begin_stop();
        assert_eq!(code(&service), Some(ErrorCode::ReadOnly));
        service.stop().unwrap();
        assert_eq!(code(&service), Some(ErrorCode::ReadOnly));
    }

    #[test]
    fn a_poisoned_store_is_not_ready_and_does_not_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let service = opened(&dir.path().join("store"));
        service.0.store.poison.set("the disk of acme said no");
        assert_eq!(code(&service), Some(ErrorCode::ReadOnly));
        assert!(!service.ready().unwrap_err().detail.contains("acme"));
        assert!(service.metrics().contains("\nvarve_poisoned 1\n"));
    }

    #[test]
    fn a_queue_that_does_not_move_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let service = opened(&dir.path().join("store"));
        let patience = Duration::from_millis(50);
        std::thread::sleep(2 * patience);
        assert!(service.ready_within(patience).is_ok(), "an empty queue is not stalled, however old");
        std::thread::scope(|scope| {
            // The sequencer needs this lock to plan: nothing goes on while it is held.
            let held = service.0.store.recent.lock();
            let written = scope.spawn(|| {
                service.write_system(Builder::new(action::SERVICE_DEGRADED, Outcome::Success)).map(drop)
            });
            while service.0.pipeline.queue.depth() == 0 {
                std::thread::yield_now();
            }
            assert!(service.ready_within(patience).is_ok(), "it has only just begun to wait");
            std::thread::sleep(2 * patience);
            let refused = service.ready_within(patience).unwrap_err();
            assert_eq!(refused.code, ErrorCode::Busy);
            assert!(refused.retry_after.is_some());
            assert!(service.ready().is_ok(), "ten seconds are not over");
            drop(held);
            written.join().unwrap().unwrap();
        });
        assert!(service.ready_within(patience).is_ok());
        service.stop().unwrap();
    }

    #[test]
    fn a_queue_without_room_for_a_request_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let service = opened(&dir.path().join("store"));
        std::thread::scope(|scope| {
            let held = service.0.store.recent.lock();
            let log = service.system_log().unwrap();
            let item = || {
                super::super::system::own(&log, Builder::new(action::SERVICE_DEGRADED, Outcome::Success))
                    .unwrap()
            };
            let mut tickets = Vec::new();
            while service.ready().is_ok() {
                let items = (0..MAX_BATCH_EVENTS).map(|_| item()).collect();
                let submission =
                    crate::ingest::queue::Submission { items, controls: vec![], atomic: true, epoch: None };
                tickets.push(service.0.pipeline.queue.admit(submission).unwrap());
            }
            assert_eq!(service.ready().unwrap_err().code, ErrorCode::Busy);
            assert_eq!(tickets.len(), MAX_QUEUED_EVENTS / MAX_BATCH_EVENTS);
            drop(held);
            scope.spawn(move || tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap())));
        });
        assert_eq!(code(&service), None);
        service.stop().unwrap();
    }
}
