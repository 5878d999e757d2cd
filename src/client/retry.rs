//! When to try again: exponential back-off with full jitter, bounded in tries and in time.
//!
//! The n-th pause is drawn evenly from 0 to `first_pause` · 2^(n−1), at most `max_pause`: a thousand clients that lost
//! one server do not come back in one instant. What the server asks for with `Retry-After` is waited out in full, and
//! the drawn pause comes on top.

#![expect(
    clippy::disallowed_methods,
    reason = "pauses are drawn from a random source and held against a clock"
)]

use std::time::{Duration, Instant};

/// How often, and for how long, a request is repeated. Only what is safe to repeat is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// Tries in all, the first included.
    pub max_tries: u32,
    /// Upper bound of the first pause; it doubles.
    pub first_pause: Duration,
    /// Upper bound of any pause that the client draws.
    pub max_pause: Duration,
    /// Time from the first try after which no other begins, pauses included. A try never runs on past it.
    pub max_elapsed: Duration,
    /// Whether a server that has never answered is waited for. A command that was given a wrong address should say so
    /// at once; a service that starts before its server should wait.
    pub waits_for_first_answer: bool,
}

impl Default for Retry {
    /// Six tries: pauses of up to 0.2 + 0.4 + 0.8 + 1.6 + 3.2 = 6.2 s, in 60 s at most.
    fn default() -> Retry {
        Retry {
            max_tries: 6,
            first_pause: Duration::from_millis(200),
            max_pause: Duration::from_secs(10),
            max_elapsed: Duration::from_secs(60),
            waits_for_first_answer: true,
        }
    }
}

impl Retry {
    /// One try.
    pub fn never() -> Retry {
        Retry { max_tries: 1, ..Retry::default() }
    }

    /// Upper bound of the pause after try number `tries`, from 1.
    pub(super) fn longest_pause(&self, tries: u32) -> Duration {
        // 2^20 of any first pause is past every bound that makes sense.
        let doubled = self.first_pause.saturating_mul(1 << tries.saturating_sub(1).min(20));
        doubled.min(self.max_pause)
    }

    /// The pause after try number `tries`, where the server asked for `retry_after`.
    pub(super) fn pause(&self, tries: u32, retry_after: Option<Duration>) -> Duration {
        retry_after.unwrap_or_default().saturating_add(jitter(self.longest_pause(tries), random()))
    }
}

/// The tries of one request.
pub(super) struct Tries {
    retry: Retry,
    done: u32,
    started: Instant,
}

impl Tries {
    pub(super) fn begin(retry: Retry) -> Tries {
        Tries { retry, done: 0, started: Instant::now() }
    }

    /// How long the try that begins now may take, where one alone may take `request_time`.
    pub(super) fn time_for_one(&self, request_time: Duration) -> Duration {
        let left = self.retry.max_elapsed.saturating_sub(self.started.elapsed());
        // A timeout of zero would mean none.
        request_time.min(left).max(Duration::from_millis(1))
    }

    /// How long to wait before the next try; `None` when this was the last.
    pub(super) fn next_pause(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.done += 1;
        let pause = self.retry.pause(self.done, retry_after);
        let is_in_time = self.started.elapsed().saturating_add(pause) < self.retry.max_elapsed;
        (self.done < self.retry.max_tries && is_in_time).then_some(pause)
    }
}

/// A duration from zero to `longest`, both included, as `random` says.
fn jitter(longest: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(random % (nanos + 1))
}

/// Where the system has no random bytes, the pause is the longest one: clients may then meet, none comes too soon.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_and_are_bounded() {
        let retry = Retry::default();
        assert_eq!(retry.longest_pause(1), Duration::from_millis(200));
        assert_eq!(retry.longest_pause(3), Duration::from_millis(800));
        assert_eq!(retry.longest_pause(7), SECOND * 10);
        assert_eq!(retry.longest_pause(u32::MAX), SECOND * 10);
        let huge = Retry { first_pause: Duration::MAX, max_pause: Duration::MAX, ..retry };
        assert_eq!(huge.pause(40, Some(Duration::MAX)), Duration::MAX);
    }

    #[test]
    fn the_server_is_never_asked_before_it_wants_to_be() {
        for tries in 1..9 {
            let pause = Retry::default().pause(tries, Some(SECOND * 7));
            assert!(pause >= SECOND * 7 && pause <= SECOND * 17, "{pause:?}");
        }
    }

    #[test]
    fn tries_end_by_count_and_by_time() {
        let mut tries = Tries::begin(Retry { max_tries: 3, ..Retry::default() });
        assert!(tries.next_pause(None).is_some() && tries.next_pause(None).is_some());
        assert_eq!(tries.next_pause(None), None);

        let mut tries = Tries::begin(Retry { max_elapsed: SECOND * 5, ..Retry::default() });
        assert!(tries.next_pause(Some(SECOND)).is_some());
        // Coming back in six seconds is too late for five.
        assert_eq!(tries.next_pause(Some(SECOND * 6)), None);
        assert_eq!(Tries::begin(Retry::never()).next_pause(None), None);
    }

    #[test]
    fn one_try_gets_no_more_than_what_is_left() {
        let tries = Tries::begin(Retry { max_elapsed: SECOND * 2, ..Retry::default() });
        assert!(tries.time_for_one(SECOND * 30) <= SECOND * 2);
        assert_eq!(tries.time_for_one(SECOND), SECOND);
        let over = Tries::begin(Retry { max_elapsed: Duration::ZERO, ..Retry::default() });
        assert_eq!(over.time_for_one(SECOND), Duration::from_millis(1));
    }

    #[test]
    fn jitter_reaches_both_ends() {
        assert_eq!(jitter(SECOND, 0), Duration::ZERO);
        assert_eq!(jitter(SECOND, 1_000_000_000), SECOND);
        assert_eq!(jitter(Duration::ZERO, 77), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_bound(nanos in 0..u64::MAX / 2, random: u64) {
            let longest = Duration::from_nanos(nanos);
            prop_assert!(jitter(longest, random) <= longest);
        }
    }
}
