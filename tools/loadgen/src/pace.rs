//! When the next request is due. Open loop: at a fixed rate, whatever the server does; the timer is the kernel's
//! own, because the runtime's has steps of a millisecond.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;

/// Gives each request its number and the moment at which it was to be sent.
pub(crate) struct Pace {
    start: Instant,
    next: Cell<u64>,
    kind: Kind,
}

enum Kind {
    /// As fast as answers come.
    Closed { until: Option<Instant>, count: u64 },
    /// One after the other at a fixed distance.
    Open { interval: Duration, count: u64, due: Semaphore, last_send: Instant },
}

impl Pace {
    /// Requests follow answers until `until`, or until there were `count`.
    pub(crate) fn closed(start: Instant, until: Option<Instant>, count: u64) -> Pace {
        Pace { start, next: Cell::new(0), kind: Kind::Closed { until, count } }
    }

    /// `count` requests at a distance of `interval`; those still unsent at `last_send` are given up.
    pub(crate) fn open(start: Instant, interval: Duration, count: u64, last_send: Instant) -> Pace {
        Pace {
            start,
            next: Cell::new(0),
            kind: Kind::Open { interval, count, due: Semaphore::new(0), last_send },
        }
    }

    /// The next request and when it is due; waits for that moment. `None` when there are no more.
    pub(crate) async fn next(&self) -> Option<(u64, Instant)> {
        match &self.kind {
            Kind::Closed { until, count } => {
                let now = Instant::now();
                if self.next.get() >= *count || until.is_some_and(|until| now >= until) {
                    return None;
                }
                Some((self.take(), now))
            }
            Kind::Open { interval, count, due, last_send } => {
                due.acquire().await.ok()?.forget();
                if self.next.get() >= *count || Instant::now() > *last_send {
                    due.close();
                    return None;
                }
                let number = self.take();
                Some((number, self.start + at(*interval, number)))
            }
        }
    }

    /// Requests that were due and never sent.
    pub(crate) fn unsent(&self) -> u64 {
        match &self.kind {
            Kind::Closed { .. } => 0,
            Kind::Open { count, .. } => count.saturating_sub(self.next.get()),
        }
    }

    /// Lets requests go when they are due. Ends when all have been let go. Nothing to do in a closed loop.
    pub(crate) async fn tick(&self) -> io::Result<()> {
        let Kind::Open { interval, count, due, .. } = &self.kind else { return Ok(()) };
        let timer = Timer::new()?;
        let mut let_go = 0;
        while let_go < *count && !due.is_closed() {
            let elapsed = self.start.elapsed();
            let due_by_now = (elapsed.as_nanos() / interval.as_nanos().max(1)).saturating_add(1);
            let due_by_now = u64::try_from(due_by_now).unwrap_or(u64::MAX).min(*count);
            if due_by_now > let_go {
                due.add_permits(usize::try_from(due_by_now - let_go).unwrap_or(1));
                let_go = due_by_now;
            }
            timer.sleep(at(*interval, let_go).saturating_sub(self.start.elapsed())).await?;
        }
        // Whoever still waits learns that nothing more comes.
        due.add_permits(1 << 20);
        Ok(())
    }

    fn take(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }
}

/// When request `number` is due, from the start on.
fn at(interval: Duration, number: u64) -> Duration {
    let nanos = interval.as_nanos().saturating_mul(u128::from(number));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A timer of the kernel (timerfd_create(2)). It is read like a pipe, so the runtime is told that it is one.
struct Timer(pipe::Receiver);

impl Timer {
    fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    async fn sleep(&self, time: Duration) -> io::Result<()> {
        // A timer set to zero never fires.
        let time = time.max(Duration::from_nanos(1));
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let setting = Itimerspec { it_interval: once, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &setting)?;
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_open_loop_keeps_its_own_time() {
        let start = Instant::now();
        let interval = Duration::from_micros(500);
        let pace = Pace::open(start, interval, 100, start + Duration::from_secs(10));
        let take = async {
            let mut seen = Vec::new();
            while let Some((number, due)) = pace.next().await {
                assert!(Instant::now() >= due);
                assert_eq!(due, start + interval * u32::try_from(number).unwrap());
                seen.push(number);
            }
            seen
        };
        let (ticked, seen) = tokio::join!(pace.tick(), take);
        ticked.unwrap();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert!(start.elapsed() >= interval * 99);
        assert_eq!(pace.unsent(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_late_is_due_when_it_was() {
        let start = Instant::now();
        let pace = Pace::open(start, Duration::from_millis(1), 1000, start + Duration::from_millis(60));
        let slow = async {
            let mut last = None;
            while let Some((number, due)) = pace.next().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
                last = Some((number, due));
            }
            last
        };
        let (_, last) = tokio::join!(pace.tick(), slow);
        let (number, due) = last.unwrap();
        // Six or so were sent, a millisecond apart by the clock of the load, ten by that of the sender.
        assert!(number < 10 && due == start + Duration::from_millis(number));
        assert_eq!(pace.unsent(), 999 - number);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_closed_loop_ends_by_count_or_time() {
        let pace = Pace::closed(Instant::now(), None, 2);
        assert!(pace.next().await.is_some() && pace.next().await.is_some() && pace.next().await.is_none());
        let pace = Pace::closed(Instant::now(), Some(Instant::now()), 2);
        assert!(pace.next().await.is_none());
    }
}
