//! What must be over before a body can be gone for good: the layer that holds it is closed, though its month goes on,
//! and the journal holds no frame that had it.
//!
//! Both end with an entry of Varve's own, a heartbeat: the month goes on in a new layer only with a record, and the
//! journal never lets go of the segment that holds its newest frame.

#![expect(clippy::disallowed_methods, reason = "waits, within bounds, for threads of the write path")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::housekeeper::seal_closed_layers;
use super::system::own;
use super::{Error, ErrorCode, Service};
use crate::ingest::queue::Control;
use crate::store::layer_id::LayerId;
use crate::store::log::Sequenced;
use crate::store::manifest::MAX_PARTS;
use crate::store::seal::SEAL_FILE;

/// How long a layer is waited for: what is on its way into it, 32 groups of 1 MiB at most, and one sync of 30 s, after
/// which the watchdog ends the process.
const APPLIED_WITHIN: Duration = Duration::from_secs(60);

/// How long the journal is waited for: a checkpoint of 120 s, after which the watchdog ends the process, and zeros over
/// what it kept, 8 segments of 32 MiB at 8 MiB a second.
const WIPED_WITHIN: Duration = Duration::from_secs(120 + 32);

/// Names of layers that all logs may have together before no layer is closed early any more: 12 bytes each in a snapshot, 16
/// in memory. 120 months of 10,000 logs come to 1.2 million.
const MAX_LAYER_NAMES: usize = 8_000_000;

/// How often it is looked.
const POLL: Duration = Duration::from_millis(2);

impl Service {
    /// Ends the newest layer before its month ends, and seals it: what is appended from here on goes into the next part
    /// of the month. Everything that was durable when this was called is then in sealed layers. Answers the layer that
    /// was closed.
    ///
    /// # Errors
    /// The parts of the month or of the store are used up; the applier does not keep up; the layer is damaged. The layer
    /// may have ended then: the upkeep seals it, and asking again ends the part behind it.
    pub(super) fn close_layer_early(&self) -> Result<LayerId, Error> {
        let _one = self.0.forgetting.lock();
        let layers = &self.0.store.layers;
        self.wait_until_applied()?;
        self.demand_names()?;
        let newest = layers.newest();
        if layers.list().len() >= MAX_PARTS || newest.is_some_and(|newest| newest.next_part().is_none()) {
            let layer = newest.map(|newest| newest.to_string()).unwrap_or_default();
            let detail = format!(
                "no part is left after layer {layer}; nothing was changed. Its month ends it; a store has {MAX_PARTS} \
                 layers that were closed early at most."
            );
            return Err(Error::new(ErrorCode::Busy, detail));
        }
        let record = self.write_heartbeat(|| Control::BeginPart)?;
        self.wait_until_applied()?;
        let head = self.system_log()?.head();
        let begun = head.layer_of(record.index).map(|(layer, ..)| layer);
        let closed = layers.list().into_iter().rfind(|layer| Some(*layer) < begun);
        let closed = closed.ok_or_else(|| {
            Error::new(ErrorCode::Internal, "no layer is before the one that was begun; nothing was closed")
        })?;
        seal_closed_layers(&self.0, &self.0.stopping, &mut HashSet::new());
        let is_sealed = layers.dirs().iter().any(|(id, dir)| *id == closed && dir.join(SEAL_FILE).exists());
        if is_sealed {
            return Ok(closed);
        }
        self.still_open()?;
        let detail = format!(
            "layer {closed} ended and was not sealed; it is read as before. The log of the server says why, and \
             `varve verify` where it is damaged."
        );
        Err(Error::new(ErrorCode::Internal, detail))
    }

    /// When this returns, no file of the journal holds any frame that was durable when it was called. The price is the
    /// generation of segments that is otherwise kept for one checkpoint more: what a layer lost since by a fault of its
    /// disk, no replay brings back.
    ///
    /// # Errors
    /// The store stopped, or the disk takes longer than it may. Frames may be there still then; what was begun goes on,
    /// and asking again waits for it.
    pub(super) fn wipe_journal(&self) -> Result<(), Error> {
        let _one = self.0.forgetting.lock();
        let progress = &self.0.pipeline.progress;
        // A frame that is durable and not counted yet has a number above this one and below that of the heartbeat.
        let durable = progress.durable_frame();
        self.write_heartbeat(|| Control::WipeJournal)?;
        let detail = "the journal is not wiped yet: some of its files may still hold what is to be forgotten. It goes \
                      on by itself; ask again, and look at the disk.";
        self.wait(WIPED_WITHIN, detail, &|| progress.wiped_below() > durable)
    }

    /// A heartbeat with what is to happen at its place; again while the queue is full.
    fn write_heartbeat(&self, control: fn() -> Control) -> Result<Arc<Sequenced>, Error> {
        let event = self.heartbeat_event(Some(self.0.heartbeat_seconds).filter(|seconds| *seconds > 0));
        let item = own(&*self.system_log()?, event)?;
        let mut records = self.write_patiently(vec![item], || vec![control()])?;
        records
            .pop()
            .ok_or_else(|| Error::new(ErrorCode::Internal, "a heartbeat was written and is not there"))
    }

    /// Names of layers in all logs together: each stands in every snapshot.
    fn demand_names(&self) -> Result<(), Error> {
        let names: usize = self.0.store.logs().iter().map(|log| log.head().layers.len()).sum();
        if names < MAX_LAYER_NAMES {
            return Ok(());
        }
        let detail = format!(
            "the logs of this store name {names} layers, the limit for closing another one early; nothing was changed. The \
             month ends it."
        );
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// Waits until what is durable now is in its layer.
    fn wait_until_applied(&self) -> Result<(), Error> {
        let progress = &self.0.pipeline.progress;
        let durable = progress.durable_frame();
        let detail = "the layers do not have yet what the journal has; nothing is lost. Ask again when the load is less, \
                      and look at the disk.";
        self.wait(APPLIED_WITHIN, detail, &|| progress.applied_frame() >= durable)
    }

    fn wait(&self, within: Duration, detail: &str, is_over: &dyn Fn() -> bool) -> Result<(), Error> {
        let started = Instant::now();
        while !is_over() {
            self.still_open()?;
            if started.elapsed() >= within {
                return Err(Error::new(ErrorCode::Busy, detail));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn still_open(&self) -> Result<(), Error> {
        if let Some(reason) = self.poisoned() {
            let detail = format!("the store has stopped: {reason}; what was acknowledged is in the journal");
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(Error::new(ErrorCode::ReadOnly, "the server is stopping; ask again when it runs"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
