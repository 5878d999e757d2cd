//! How far the write path is, for whoever looks from outside: metrics and `/readyz`.
//!
//! The committer writes `committed`, `durable_frame` and what concerns HEAD, the applier `applied_frame`. Readers take
//! each by itself, so two of them may be a group apart. Nothing that is stored depends on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::telemetry::Moment;

/// Shared by the threads of the write path.
#[derive(Debug)]
pub struct Progress {
    /// When a group became durable last, or was found to need no write.
    committed: Moment,
    durable_frame: AtomicU64,
    applied_frame: AtomicU64,
    head_frame: AtomicU64,
    head_moved: Moment,
    wiped_below: AtomicU64,
}

impl Progress {
    /// All is applied up to `newest_frame`, and HEAD names `head_frame`.
    pub(super) fn new(newest_frame: u64, head_frame: u64) -> Progress {
        Progress {
            committed: Moment::now(),
            durable_frame: AtomicU64::new(newest_frame),
            applied_frame: AtomicU64::new(newest_frame),
            head_frame: AtomicU64::new(head_frame),
            head_moved: Moment::now(),
            wiped_below: AtomicU64::new(0),
        }
    }

    /// A group is decided; `frame` is durable where it needed one.
    pub(super) fn committed(&self, frame: Option<u64>) {
        if let Some(frame) = frame {
            self.durable_frame.store(frame, Ordering::Release);
        }
        self.committed.mark();
    }

    pub(super) fn applied(&self, frame: u64) {
        self.applied_frame.store(frame, Ordering::Release);
    }

    pub(super) fn head_moved(&self, frame: u64) {
        self.head_frame.store(frame, Ordering::Release);
        self.head_moved.mark();
    }

    pub(super) fn wiped(&self, frame: u64) {
        self.wiped_below.store(frame, Ordering::Release);
    }

    /// Newest frame that is durable.
    pub fn durable_frame(&self) -> u64 {
        self.durable_frame.load(Ordering::Acquire)
    }

    /// Newest frame that is in its layer.
    pub fn applied_frame(&self) -> u64 {
        self.applied_frame.load(Ordering::Acquire)
    }

    /// No file of the journal holds a frame below this one any more, since the last `Control::WipeJournal`; 0 before any.
    pub fn wiped_below(&self) -> u64 {
        self.wiped_below.load(Ordering::Acquire)
    }

    /// Time since a group was decided, or since the start.
    pub fn since_commit(&self) -> Duration {
        self.committed.age()
    }

    /// Time since HEAD was moved, or since the start.
    pub fn since_head_move(&self) -> Duration {
        self.head_moved.age()
    }

    /// Frames that are durable and not applied.
    pub fn applier_lag_frames(&self) -> u64 {
        // The applier's first: it is never ahead of a number that is read after it.
        let applied = self.applied_frame.load(Ordering::Acquire);
        self.durable_frame.load(Ordering::Acquire).saturating_sub(applied)
    }

    /// Frames behind HEAD, which a start after a crash replays.
    pub fn replay_frames(&self) -> u64 {
        let head = self.head_frame.load(Ordering::Acquire);
        self.durable_frame.load(Ordering::Acquire).saturating_sub(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_what_is_durable_and_not_further() {
        let progress = Progress::new(10, 8);
        assert_eq!((progress.applier_lag_frames(), progress.replay_frames()), (0, 2));
        progress.committed(Some(11));
        progress.committed(None);
        assert_eq!((progress.applier_lag_frames(), progress.replay_frames()), (1, 3));
        progress.applied(11);
        progress.head_moved(11);
        assert_eq!((progress.applier_lag_frames(), progress.replay_frames()), (0, 0));
    }
}
