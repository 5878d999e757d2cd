//! What runs beside the write path: heartbeats, merges of the id table, seals of closed layers, the clock's watch.

#![expect(clippy::disallowed_methods, reason = "its one thread, and when a heartbeat is due")]

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::{Inner, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};
use crate::store::seal::{SEAL_FILE, Seal};

/// How often the housekeeper looks around.
const ROUND: Duration = Duration::from_millis(500);

/// The running housekeeper; it ends when this is dropped.
pub(super) struct Housekeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    /// Starts it. It holds the service weakly: a service that is dropped without `stop` ends it too.
    pub(super) fn start(service: &Service, heartbeat_seconds: u64) -> std::io::Result<Housekeeper> {
        let (stop, stopped) = bounded::<()>(0);
        let weak = Arc::downgrade(&service.0);
        let thread = thread::Builder::new().name("varve-housekeeper".to_owned()).spawn(move || {
            let mut beat = Instant::now();
            let mut anomaly_written = false;
            loop {
                match stopped.recv_timeout(ROUND) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                let Some(inner) = weak.upgrade() else { return };
                let service = Service(inner);
                if heartbeat_seconds != 0 && beat.elapsed() >= Duration::from_secs(heartbeat_seconds) {
                    beat = Instant::now();
                    if let Err(error) = service.heartbeat(heartbeat_seconds) {
                        tracing::warn!(%error, "the heartbeat was not written");
                    }
                }
                merge_ids(&service.0);
                seal_closed_layers(&service.0);
                anomaly_written = anomaly_written || service.report_clock_anomaly();
            }
        })?;
        Ok(Housekeeper { stop: Some(stop), thread: Some(thread) })
    }
}

/// Merges runs of the id table while there are enough of a size. Nothing is dropped: every id is kept as long
/// as its class keeps the record, and classes do not expire yet.
fn merge_ids(inner: &Inner) {
    loop {
        match inner.store.ids.merge_once(&|_| true) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "the id table was not merged; look-ups go on with more runs");
                return;
            }
        }
    }
}

/// Seals layers whose month is over: the applier has written and synced all of a layer before it makes the next.
fn seal_closed_layers(inner: &Inner) {
    let dirs = inner.store.layers.dirs();
    let Some((_, closed)) = dirs.split_last() else { return };
    for (id, dir) in closed {
        if dir.join(SEAL_FILE).exists() {
            continue;
        }
        let sealed = inner.store.layers.get(*id).map_err(|error| error.to_string()).and_then(|layer| {
            Seal::of(&layer).and_then(|seal| seal.write(dir)).map_err(|error| error.to_string())
        });
        if let Err(error) = sealed {
            tracing::error!(layer = %id, %error, "the layer was not sealed");
            continue;
        }
        tracing::info!(layer = %id, "the layer is sealed");
        if let Err(error) = inner.store.layers.renew(*id) {
            tracing::error!(layer = %id, %error, "the layer was closed after its month and does not open");
        }
    }
}

impl Service {
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
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
