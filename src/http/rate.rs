//! How many events a key may append: a bucket of tokens for each key, filled at the configured rate.

#![expect(clippy::disallowed_methods, reason = "a rate is events a time")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::service::{Error, ErrorCode};

/// Seconds of the rate that a quiet key may use at once.
const BURST_SECONDS: f64 = 10.0;

/// Keys with a bucket. A bucket that is full again says nothing and goes; a store has at most 100,000 keys.
const MAX_BUCKETS: usize = 100_000;

/// The buckets. One lock, held for a look-up.
pub(crate) struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    /// Buckets that let `per_second` events through; 0 lets everything through.
    pub(crate) fn new(per_second: u32) -> Rates {
        Rates { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Whether the key may send anything now; asked before a body is read.
    ///
    /// # Errors
    /// `rate_limited` with the time until it may.
    pub(crate) fn may_send(&self, key_id: &str) -> Result<(), Error> {
        if self.per_second == 0.0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.capacity());
        }
        let tokens = buckets.get(key_id).map_or(self.capacity(), |bucket| self.filled(bucket, now));
        if tokens > 0.0 {
            return Ok(());
        }
        let mut error = Error::new(
            ErrorCode::RateLimited,
            "the key has used up its events of the last seconds; nothing was stored. Send them again after Retry-After.",
        );
        error.retry_after = Some(Duration::from_secs_f64((-tokens / self.per_second).max(0.001)));
        Err(error)
    }

    /// Takes `events` from the key's bucket, which may fall below empty by one request: who sent it waits the longer.
    pub(crate) fn sent(&self, key_id: &str, events: usize) {
        if self.per_second == 0.0 {
            return;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let tokens = buckets.get(key_id).map_or(self.capacity(), |bucket| self.filled(bucket, now));
        #[expect(clippy::cast_precision_loss, reason = "at most 1,000 events")]
        let tokens = tokens - events as f64;
        buckets.insert(key_id.to_owned(), Bucket { tokens, at: now });
    }

    fn capacity(&self) -> f64 {
        self.per_second * BURST_SECONDS
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + seconds * self.per_second).min(self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_burst_and_then_waits() {
        let rates = Rates::new(10);
        assert!(rates.may_send("a").is_ok());
        rates.sent("a", 1000);
        let refused = rates.may_send("a").unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        // 100 were there, 1,000 were taken: 900 at 10 a second.
        let wait = refused.retry_after.unwrap().as_secs();
        assert!((85..=90).contains(&wait), "{wait}");
        assert!(rates.may_send("b").is_ok(), "another key has its own");
    }

    #[test]
    fn no_limit_keeps_nothing() {
        let rates = Rates::new(0);
        rates.sent("a", 1000);
        assert!(rates.may_send("a").is_ok() && rates.buckets.lock().is_empty());
    }
}
