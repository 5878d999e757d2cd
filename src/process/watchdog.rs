//! A deadline over calls that can hang for ever: a flush after a failed write, a close, an fdatasync on a
//! dying disk.
//!
//! One thread watches all armed calls of the process. A call that outlives its limit cannot be cancelled;
//! the only safe answer is to stop the process and let recovery decide, so the hook aborts by default.

#![expect(clippy::disallowed_methods, reason = "a deadline is measured, and its thread is owned here")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a sync or a close may take: 30 s. A healthy disk takes milliseconds; a disk that queues
/// 1 GiB of dirty pages at 50 MB/s takes 20 s.
pub const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// How often the thread looks: arming then costs a lock and no wake-up, and a call is found late by this much.
const ROUND: Duration = Duration::from_millis(250);

/// Called once, from the watchdog's thread, with what hung.
pub type Hook = dyn Fn(&str) + Send + Sync;

/// Watches armed calls. Clones share the thread, which ends with the last clone.
#[derive(Clone)]
pub struct Watchdog {
    watch: Arc<Watch>,
    /// Ends the thread when the last clone goes; guards hold only `watch`.
    _owner: Arc<Owner>,
}

impl Watchdog {
    /// A watchdog that writes one line to standard error and aborts the process.
    pub fn aborting() -> Watchdog {
        Watchdog::with_hook(Arc::new(|what| {
            eprintln!(
                "varve: {what} hung; aborting. Nothing acknowledged is lost; recovery decides at restart."
            );
            std::process::abort();
        }))
    }

    /// A watchdog that calls `hook` for each call that outlives its limit.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub fn with_hook(hook: Arc<Hook>) -> Watchdog {
        let watch = Arc::new(Watch::default());
        let in_thread = Arc::clone(&watch);
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || in_thread.run(&*hook))
            .unwrap_or_else(|error| panic!("the watchdog thread does not start: {error}"));
        Watchdog { _owner: Arc::new(Owner(Arc::clone(&watch))), watch }
    }

    /// How many calls are armed, and the least time that one of them has left.
    pub fn armed(&self) -> (usize, Option<Duration>) {
        let state = self.watch.state.lock();
        let left =
            state.armed.first_key_value().map(|(at, _)| at.0.saturating_duration_since(Instant::now()));
        (state.armed.len(), left)
    }

    /// Starts the clock for one call; dropping the guard stops it. `what` names the call, with its place.
    #[must_use]
    pub fn arm(&self, limit: Duration, what: impl Into<String>) -> Armed {
        let mut state = self.watch.state.lock();
        state.last_id += 1;
        let at = (Instant::now() + limit, state.last_id);
        state.armed.insert(at, what.into());
        Armed { watch: Arc::clone(&self.watch), at }
    }
}

/// A call being watched.
pub struct Armed {
    watch: Arc<Watch>,
    at: (Instant, u64),
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.watch.state.lock().armed.remove(&self.at);
    }
}

#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By deadline, then in the order of arming.
    armed: BTreeMap<(Instant, u64), String>,
    last_id: u64,
    stopped: bool,
}

impl Watch {
    fn run(&self, hook: &Hook) {
        let mut state = self.state.lock();
        while !state.stopped {
            match state.armed.first_key_value().map(|(&at, _)| at) {
                // Nobody wakes the thread for an armed call: it looks by itself, often enough.
                None => {
                    self.changed.wait_for(&mut state, ROUND);
                }
                Some(at) if at.0 > Instant::now() => {
                    let round = Instant::now() + ROUND;
                    self.changed.wait_until(&mut state, at.0.min(round));
                }
                Some(at) => {
                    let what = state.armed.remove(&at).unwrap_or_default();
                    parking_lot::MutexGuard::unlocked(&mut state, || hook(&what));
                }
            }
        }
    }
}

struct Owner(Arc<Watch>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn recording() -> (Watchdog, mpsc::Receiver<String>) {
        let (send, receive) = mpsc::channel();
        (Watchdog::with_hook(Arc::new(move |what| send.send(what.to_owned()).unwrap())), receive)
    }

    #[test]
    fn a_call_over_its_limit_is_reported_once_and_by_name() {
        let (dog, reports) = recording();
        assert_eq!(dog.armed(), (0, None));
        let _slow = dog.arm(Duration::from_secs(60), "slow");
        assert!(dog.armed().1.is_some_and(|left| left > Duration::from_secs(59)));
        let _hung = dog.arm(Duration::from_millis(20), "hung");
        assert_eq!(dog.armed().0, 2);
        assert_eq!(reports.recv_timeout(Duration::from_secs(5)).unwrap(), "hung");
        assert!(reports.recv_timeout(Duration::from_millis(50)).is_err());
    }

    #[test]
    fn a_call_that_ends_in_time_is_not() {
        let (dog, reports) = recording();
        drop(dog.arm(Duration::from_millis(20), "quick"));
        assert!(reports.recv_timeout(Duration::from_millis(60)).is_err());
    }

    #[test]
    fn the_thread_ends_with_the_last_clone() {
        let (dog, reports) = recording();
        drop(dog.clone());
        let armed = dog.arm(Duration::from_secs(60), "left");
        drop(dog);
        // The hook, and with it the sender, goes when the thread ends.
        assert_eq!(reports.recv_timeout(Duration::from_secs(5)), Err(mpsc::RecvTimeoutError::Disconnected));
        drop(armed);
    }
}
