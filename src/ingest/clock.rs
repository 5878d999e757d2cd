//! The one source of stamps: the wall clock, held against the boot clock.
//!
//! While the two agree within `MAX_DRIFT`, a stamp is the wall clock's time. When the wall clock is stepped,
//! stamps go on with the steady one and the anomaly is reported; a stamp never goes back in either case.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// How far the two clocks may part before the wall clock is no longer believed.
pub const MAX_DRIFT: Duration = Duration::from_secs(5 * 60);

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970-01-01T00:00:00Z by the wall clock.
    fn wall_micros(&self) -> u64;

    /// Microseconds of a clock that only goes forward and also counts while the machine sleeps.
    fn steady_micros(&self) -> u64;
}

/// The machine's clocks. The wall clock is asked through the C library, as any tool that sets or fakes it expects.
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place where the clocks are read")]
impl Clock for SystemClock {
    fn wall_micros(&self) -> u64 {
        u64::try_from(Utc::now().timestamp_micros()).unwrap_or(0)
    }

    fn steady_micros(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds * 1_000_000 + u64::try_from(now.tv_nsec / 1_000).unwrap_or(0)
    }
}

/// What the stamp source noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// What the wall clock says, microseconds.
    pub wall_micros: u64,
    /// What the stamps go on with.
    pub steady_micros: u64,
}

/// Gives out stamps for the whole instance.
pub struct Stamps {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    base_wall: u64,
    base_steady: u64,
    newest: u64,
    anomaly: Option<Anomaly>,
}

impl Stamps {
    /// Stamps after `newest`, the newest one given out before.
    pub fn new(clock: Arc<dyn Clock>, newest: u64) -> Stamps {
        let inner = Inner {
            base_wall: clock.wall_micros(),
            base_steady: clock.steady_micros(),
            newest,
            anomaly: None,
        };
        Stamps { clock, inner: Mutex::new(inner) }
    }

    /// The time now: never before a time given out earlier.
    pub fn now(&self) -> u64 {
        let wall = self.clock.wall_micros();
        let steady = self.clock.steady_micros();
        let mut inner = self.inner.lock();
        let expected = inner.base_wall + steady.saturating_sub(inner.base_steady);
        let drift = u64::try_from(MAX_DRIFT.as_micros()).unwrap_or(u64::MAX);
        let now = if wall.abs_diff(expected) > drift {
            inner.anomaly.get_or_insert(Anomaly { wall_micros: wall, steady_micros: expected });
            expected
        } else {
            // Small corrections are the wall clock's to make: the base moves along with it.
            if inner.anomaly.is_none() {
                inner.base_wall = wall;
                inner.base_steady = steady;
            }
            wall
        };
        inner.newest = inner.newest.max(now);
        inner.newest
    }

    /// Remembers a stamp that was moved forward to stay above its predecessor.
    pub fn used(&self, stamp: u64) {
        let mut inner = self.inner.lock();
        inner.newest = inner.newest.max(stamp);
    }

    /// The newest stamp given out.
    pub fn newest(&self) -> u64 {
        self.inner.lock().newest
    }

    /// The anomaly seen since the start, if any.
    pub fn anomaly(&self) -> Option<Anomaly> {
        self.inner.lock().anomaly
    }

    /// The wall clock minus what it should be by the boot clock, microseconds. Small while the two agree: the base
    /// moves along.
    pub fn drift_micros(&self) -> i64 {
        let wall = self.clock.wall_micros();
        let steady = self.clock.steady_micros();
        let inner = self.inner.lock();
        let expected = inner.base_wall + steady.saturating_sub(inner.base_steady);
        let apart = i64::try_from(wall.abs_diff(expected)).unwrap_or(i64::MAX);
        if wall < expected { -apart } else { apart }
    }

    /// The clock below.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Scripted {
        wall: AtomicU64,
        steady: AtomicU64,
    }

    impl Clock for Scripted {
        fn wall_micros(&self) -> u64 {
            self.wall.load(Ordering::Relaxed)
        }
        fn steady_micros(&self) -> u64 {
            self.steady.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_stepped_wall_clock_is_not_believed() {
        let clock = Arc::new(Scripted::default());
        let set = |wall: u64, steady: u64| {
            clock.wall.store(wall * 1_000_000, Ordering::Relaxed);
            clock.steady.store(steady * 1_000_000, Ordering::Relaxed);
        };
        set(1_000_000, 50);
        let stamps = Stamps::new(clock.clone(), 0);
        assert_eq!(stamps.now(), 1_000_000_000_000);
        set(1_000_010, 59);
        assert_eq!(stamps.now(), 1_000_010_000_000, "one second of correction is the wall clock's to make");
        set(1_000_009, 60);
        assert_eq!(stamps.now(), 1_000_010_000_000, "never back");
        set(9_000_000, 61);
        assert_eq!(stamps.now(), 1_000_010_000_000);
        assert!(stamps.anomaly().is_some());
        assert_eq!(stamps.drift_micros(), 7_999_990_000_000);
        set(9_000_000, 161);
        assert_eq!(stamps.now(), 1_000_110_000_000, "the steady clock goes on");
        set(0, 162);
        assert_eq!(stamps.now(), 1_000_111_000_000);
    }
}
