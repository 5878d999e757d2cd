//! What Varve tells of itself: metrics in Prometheus text form, and what its log may hold.
//!
//! Reading order: `write` (the write path), `keys` (refused uses of API keys), `http` (the door), `reading` (what is
//! read when somebody asks), `process` and `disk` (where two of those readings come from), `log`.
//!
//! A [`Telemetry`] is handed to the service that it belongs to; there is no global one, so services side by side
//! never mix. Invariants: a label is a word of a fixed list or the template of a route, of which
//! [`http::MAX_ROUTES`] are told apart; no label, name or help holds a tenant, a key id, a path or anything that was
//! sent. Counting costs the write path an atomic or a short lock a group, never a system call but the clock's.

#![expect(
    clippy::disallowed_methods,
    reason = "durations are measured here, and decide nothing that is stored"
)]

pub mod disk;
pub mod http;
pub mod keys;
pub mod log;
pub mod reading;
pub mod write;

mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub use http::Http;
pub use keys::Keys;
pub use reading::Reading;
pub use write::Write;

/// The media type of [`Telemetry::scrape`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label whose values are words of a fixed list.
type Word = [(&'static str, &'static str); 1];

/// A counter for each word of a label.
type Counters = Family<Word, Counter>;

/// The metrics of one service. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {
    registry: Registry,
    write: Write,
    keys: Keys,
    http: Http,
    gauges: reading::Gauges,
    process: process::Process,
    /// One scrape at a time: it sets the gauges, then writes them out.
    scraping: Mutex<()>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry::new()
    }
}

impl Telemetry {
    /// Metrics that all begin at nothing.
    pub fn new() -> Telemetry {
        let mut registry = Registry::default();
        let build = Family::<Word, prometheus_client::metrics::gauge::Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("varve_build_info", "Always 1; the label names the version", build);
        Telemetry(Arc::new(Inner {
            write: Write::new(&mut registry),
            keys: Keys::new(&mut registry),
            http: Http::new(&mut registry),
            gauges: reading::Gauges::new(&mut registry),
            process: process::Process::new(&mut registry),
            registry,
            scraping: Mutex::new(()),
        }))
    }

    /// The write path's.
    pub fn write(&self) -> &Write {
        &self.0.write
    }

    /// Of API keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The HTTP door's.
    pub fn http(&self) -> &Http {
        &self.0.http
    }

    /// All metrics as text ([`TEXT_FORMAT`]). `read` is called once, under the lock that lets one scrape at a time
    /// pass, and may block.
    pub fn scrape(&self, read: impl FnOnce() -> Reading) -> String {
        let _one = self.0.scraping.lock();
        self.0.gauges.set(&read());
        self.0.process.read();
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a string does not fail.
        let _ = prometheus_text::encode(&mut text, &self.0.registry);
        text
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// A moment that one thread marks and others ask the age of.
#[derive(Debug)]
pub struct Moment {
    origin: Instant,
    micros: AtomicU64,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment { origin: Instant::now(), micros: AtomicU64::new(0) }
    }

    /// Sets it to now.
    pub fn mark(&self) {
        self.micros.store(micros(self.origin.elapsed()), Ordering::Release);
    }

    /// Time since it was marked, or made.
    pub fn age(&self) -> Duration {
        let marked = Duration::from_micros(self.micros.load(Ordering::Acquire));
        self.origin.elapsed().saturating_sub(marked)
    }
}

/// Measures one duration. Dropped without [`Timer::stop`] it counts nothing: what failed is no latency.
#[must_use]
pub struct Timer {
    histogram: Histogram,
    started: Instant,
}

impl Timer {
    fn start(histogram: &Histogram) -> Timer {
        Timer { histogram: histogram.clone(), started: Instant::now() }
    }

    /// Counts the time since the start.
    pub fn stop(self) {
        self.histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

/// Registers a metric and gives it back.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// A counter.
fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    register(registry, name, help, Counter::default())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_them_never_mix() {
        let (one, other) = (Telemetry::new(), Telemetry::new());
        one.write().appended(3, 1);
        let text = |telemetry: &Telemetry| telemetry.scrape(Reading::default);
        assert!(text(&one).contains("\nvarve_events_appended_total 3\n"), "{}", text(&one));
        assert!(text(&other).contains("\nvarve_events_appended_total 0\n"), "{}", text(&other));
    }

    #[test]
    fn a_moment_has_an_age_and_a_mark_ends_it() {
        let moment = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(moment.age() >= Duration::from_millis(20));
        moment.mark();
        assert!(moment.age() < Duration::from_millis(20));
    }

    #[test]
    fn every_name_has_its_prefix_and_counters_end_in_total() {
        let telemetry = Telemetry::new();
        telemetry.http().answered(Some("/x"), "GET", 200, None, Duration::ZERO);
        let text = telemetry.scrape(Reading::default);
        let types: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        assert!(types.len() > 40, "{}", types.len());
        let mut seen = std::collections::HashSet::new();
        for (name, kind) in types {
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.starts_with("varve_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        }
    }
}
