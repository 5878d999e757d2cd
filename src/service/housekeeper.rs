//! What runs beside the write path: heartbeats, merges of the id table.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::{Inner, Service};

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
