//! What is noted while the clock runs: latencies and statuses. Codes are counted afterwards, by `check`.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest latency told apart, microseconds: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// Seconds of a timeline, at most; as many as a run may last.
pub const MAX_SECONDS: usize = 1200;

/// Latencies in microseconds.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        match Histogram::new_with_bounds(1, MAX_MICROS, DIGITS) {
            Ok(histogram) => Latencies(histogram),
            Err(_) => unreachable!("the bounds are constants that a histogram takes"),
        }
    }
}

impl Latencies {
    /// Notes one.
    pub fn note(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS));
    }

    /// Adds what another has noted.
    pub fn add(&mut self, other: &Latencies) {
        // Both have the same bounds, so it cannot fail.
        let _ = self.0.add(&other.0);
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of requests did not exceed, milliseconds; 0 where nothing was noted.
    #[expect(clippy::cast_precision_loss, reason = "ten minutes of microseconds fit")]
    pub fn at_ms(&self, share: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(share) as f64 / 1e3 }
    }

    /// The longest, milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "ten minutes of microseconds fit")]
    pub fn max_ms(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.max() as f64 / 1e3 }
    }

    /// The usual quantiles.
    pub fn json(&self) -> Value {
        json!({"count": self.count(), "p50": self.at_ms(0.5), "p90": self.at_ms(0.9), "p99": self.at_ms(0.99),
            "p99_9": self.at_ms(0.999), "max": self.max_ms()})
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            self.at_ms(0.5),
            self.at_ms(0.9),
            self.at_ms(0.99),
            self.at_ms(0.999),
            self.max_ms()
        )
    }
}

/// One second of a timeline.
#[derive(Clone, Default)]
pub struct Second {
    /// Latencies of the requests that were due in it.
    pub latencies: Latencies,
    /// How many of them were answered with anything but 201.
    pub refused: u64,
}

/// What is noted of one load.
#[derive(Default)]
pub struct Tally {
    /// Latencies of the requests after the warm-up that were stored.
    pub stored: Latencies,
    /// Latencies of those that were refused.
    pub refused: Latencies,
    /// Latencies of both, from the moment they could be sent: what the server alone took.
    pub from_send: Latencies,
    /// Answers by status, the warm-up included.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests answered 201 inside the window.
    pub stored_in_window: u64,
    /// One entry a second from the start on, where it was asked for.
    pub timeline: Vec<Second>,
}

impl Tally {
    /// Notes the answer `status` to a request; `due_second` is when it was due, where a timeline is wanted.
    pub fn note(&mut self, status: u16, latency: Duration, is_measured: bool, due_second: Option<usize>) {
        *self.statuses.entry(status).or_default() += 1;
        if is_measured {
            if status == 201 { &mut self.stored } else { &mut self.refused }.note(latency);
        }
        if let Some(second) = due_second.filter(|&second| second < MAX_SECONDS) {
            if self.timeline.len() <= second {
                self.timeline.resize_with(second + 1, Second::default);
            }
            self.timeline[second].latencies.note(latency);
            self.timeline[second].refused += u64::from(status != 201);
        }
    }

    /// Latencies of the seconds `from..to` of the timeline.
    pub fn between(&self, from: usize, to: usize) -> Second {
        let mut sum = Second::default();
        for second in self.timeline.iter().take(to).skip(from) {
            sum.latencies.add(&second.latencies);
            sum.refused += second.refused;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_noted() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.at_ms(0.5), 0.0);
        for micros in 1..=1000 {
            latencies.note(Duration::from_micros(micros * 10));
        }
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < wanted / 500.0, "{found}");
        near(latencies.at_ms(0.5), 5.0);
        near(latencies.at_ms(0.99), 9.9);
        near(latencies.max_ms(), 10.0);
        latencies.note(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 1001);
        near(latencies.max_ms(), 600_000.0);
    }

    #[test]
    fn a_timeline_has_a_place_for_each_second_and_a_bound() {
        let mut tally = Tally::default();
        let ms = Duration::from_millis;
        tally.note(201, ms(1), false, Some(0));
        tally.note(201, ms(2), true, Some(3));
        tally.note(503, ms(3), true, Some(3));
        tally.note(201, ms(3), true, Some(MAX_SECONDS));
        assert_eq!(tally.timeline.len(), 4);
        assert_eq!((tally.stored.count(), tally.refused.count()), (2, 1));
        assert_eq!((tally.between(0, 3).latencies.count(), tally.between(0, 9).latencies.count()), (1, 3));
        assert_eq!(tally.between(3, 4).refused, 1);
        assert_eq!(tally.statuses, BTreeMap::from([(201, 3), (503, 1)]));
    }
}
