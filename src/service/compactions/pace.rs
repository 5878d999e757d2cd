//! How fast layers are read and rewritten, at which priority, and when not: pace, niceness, pause and stop.

#![expect(clippy::disallowed_methods, reason = "it waits")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::Service;

/// Bytes of pages that are read and written in a second, unless said otherwise.
pub const BYTES_PER_SECOND: u64 = 32 << 20;

/// How far a compaction steps back for others: at 5 the kernel gives a thread a third of the share of one at 0.
const NICENESS: i32 = 5;

/// How long it sleeps at most before it looks whether it is to stop, or to go on.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// What it may be behind its pace and catch up with: more was a pause, or a disk that is slower than the pace.
const CATCHES_UP: Duration = Duration::from_secs(1);

/// Holds back whoever reads or rewrites layers.
#[derive(Default)]
pub(in crate::service) struct Brake {
    is_stopping: AtomicBool,
    is_paused: AtomicBool,
}

impl Brake {
    /// Ends all of it.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    pub(super) fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Release);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Sleeps that long, less when it is to stop.
    fn wait(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() && !self.is_stopping() {
            let nap = left.min(LOOKS_EVERY);
            thread::sleep(nap);
            left -= nap;
        }
    }

    /// Waits while it is paused. Answers whether to go on.
    fn go_on(&self) -> bool {
        while self.is_paused() && !self.is_stopping() {
            thread::sleep(LOOKS_EVERY);
        }
        !self.is_stopping()
    }
}

/// Paces a rewrite, makes it wait while compactions are paused, and ends it when the server stops.
pub(in crate::service) fn paced(service: &Service) -> impl FnMut(usize) -> bool + use<> {
    let mut pace = Pace::of(service);
    move |bytes| {
        pace.take(bytes as u64);
        pace.brake.go_on()
    }
}

/// The same for who only reads and is waited for: a pause is not for them.
pub(super) fn paced_reading(service: &Service) -> impl FnMut(usize) -> bool + use<> {
    let mut pace = Pace::of(service);
    move |bytes| {
        pace.take(bytes as u64);
        !pace.brake.is_stopping()
    }
}

/// Who appends and who reads goes before this thread. On Linux a priority is a thread's own; where it cannot be set, the
/// pace alone holds the compaction back.
pub(in crate::service) fn yield_to_others() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
}

/// Bytes a second.
struct Pace {
    brake: Arc<Brake>,
    bytes_per_second: u64,
    since: Instant,
    taken: u64,
}

impl Pace {
    fn of(service: &Service) -> Pace {
        let all = &service.0.compactions;
        let (brake, bytes_per_second) = (all.brake.clone(), all.bytes_per_second);
        Pace { brake, bytes_per_second, since: Instant::now(), taken: 0 }
    }

    /// Waits until `bytes` more are due.
    fn take(&mut self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        self.taken += bytes;
        #[expect(clippy::cast_precision_loss, reason = "a pace")]
        let due = Duration::from_secs_f64(self.taken as f64 / self.bytes_per_second as f64);
        let elapsed = self.since.elapsed();
        self.brake.wait(due.saturating_sub(elapsed));
        if elapsed.saturating_sub(due) > CATCHES_UP {
            (self.since, self.taken) = (Instant::now(), 0);
        }
    }
}
