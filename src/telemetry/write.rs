//! Metrics of the write path: events in, groups to disk, answers out.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Counters, Timer, counter, register};

/// Events of a group: 1, 2, 4 … 2,048. A group closes at 1,024 and may hold one request of 1,000 more, so 2,048 is over
/// the largest.
const GROUP_EVENT_BUCKETS: (f64, f64, u16) = (1.0, 2.0, 12);

/// Bytes of a group: 1 KiB, 4 KiB … 4 MiB, 16 MiB. A group closes at 1 MiB and may hold one request of 6 MiB more; a frame
/// holds 8 MiB.
const GROUP_BYTE_BUCKETS: (f64, f64, u16) = (1024.0, 4.0, 8);

/// Seconds of a sync and of an append: three a decade from 100 µs, what a device with a protected cache takes, to
/// 30 s, at which the watchdog ends the process. 17 buckets.
const WRITE_SECONDS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];

/// What the write path counts.
#[derive(Debug)]
pub struct Write {
    appended: Counter,
    duplicates: Counter,
    refused: Counters,
    group_events: Histogram,
    group_bytes: Histogram,
    sync: Histogram,
    append: Histogram,
    checkpoints: Counter,
    seals: Counter,
    merges: Counter,
    rewritten: Counter,
    expired: Counter,
    freed: Counter,
}

impl Write {
    pub(super) fn new(registry: &mut Registry) -> Write {
        let buckets = |(start, factor, length)| Histogram::new(exponential_buckets(start, factor, length));
        let seconds = || Histogram::new(WRITE_SECONDS);
        Write {
            appended: counter(
                registry,
                "varve_events_appended",
                "Events of clients that were stored and answered; Varve's own entries are not among them",
            ),
            duplicates: counter(
                registry,
                "varve_events_duplicate",
                "Events answered with the receipt of an earlier one of the same id and content",
            ),
            refused: register(
                registry,
                "varve_events_refused",
                "Events that reached the service and were not stored, or not known to be, by code",
                Counters::default(),
            ),
            group_events: register(
                registry,
                "varve_group_events",
                "Entries of a group, Varve's own too: what one sync makes durable",
                buckets(GROUP_EVENT_BUCKETS),
            ),
            group_bytes: register(
                registry,
                "varve_group_bytes",
                "Bytes of a group as they go into its frame",
                buckets(GROUP_BYTE_BUCKETS),
            ),
            sync: register(
                registry,
                "varve_journal_sync_duration_seconds",
                "Time to write and sync one frame of the journal",
                seconds(),
            ),
            append: register(
                registry,
                "varve_append_duration_seconds",
                "Time from admission to the queue until the answer is known, of requests that stored something",
                seconds(),
            ),
            checkpoints: counter(
                registry,
                "varve_journal_checkpoints",
                "Moves of HEAD: what came before is durable in layers",
            ),
            seals: counter(registry, "varve_layer_seals", "Layers sealed because their month is over"),
            merges: counter(registry, "varve_dedupe_merges", "Merges of runs of the dedupe table"),
            rewritten: counter(registry, "varve_layer_rewrites", "Layers rewritten because bodies were due"),
            expired: counter(registry, "varve_bodies_expired", "Bodies that left because their time was up"),
            freed: counter(
                registry,
                "varve_compaction_freed_bytes",
                "Bytes on disk that rewritten layers gave back",
            ),
        }
    }

    /// Makes the codes of refusals known, so that each is there from the first scrape on.
    pub fn know_codes(&self, codes: impl IntoIterator<Item = &'static str>) {
        codes.into_iter().for_each(|code| drop(self.refused.get_or_create(&[("code", code)])));
    }

    /// `new` events were stored and `duplicates` found stored.
    pub fn appended(&self, new: u64, duplicates: u64) {
        self.appended.inc_by(new);
        self.duplicates.inc_by(duplicates);
    }

    /// `count` events were refused with `code`.
    pub fn refused(&self, code: &'static str, count: u64) {
        self.refused.get_or_create(&[("code", code)]).inc_by(count);
    }

    /// A group of `events` entries and `bytes` bytes is on its way to disk.
    pub fn group(&self, events: usize, bytes: usize) {
        self.group_events.observe(count(events));
        self.group_bytes.observe(count(bytes));
    }

    /// Begins to measure the write and sync of a frame.
    pub fn sync(&self) -> Timer {
        Timer::start(&self.sync)
    }

    /// Begins to measure an append, right after it was admitted.
    pub fn append(&self) -> Timer {
        Timer::start(&self.append)
    }

    /// HEAD was moved.
    pub fn checkpoint(&self) {
        self.checkpoints.inc();
    }

    /// A layer was sealed.
    pub fn sealed(&self) {
        self.seals.inc();
    }

    /// A layer was looked at by a compaction.
    pub fn compacted(&self, is_rewritten: bool, bodies: u64, freed_bytes: u64) {
        self.rewritten.inc_by(u64::from(is_rewritten));
        self.expired.inc_by(bodies);
        self.freed.inc_by(freed_bytes);
    }

    /// Runs of the dedupe table were merged.
    pub fn merged(&self) {
        self.merges.inc();
    }
}

/// A count as a histogram takes it: exact to 2^53.
#[expect(clippy::cast_precision_loss, reason = "groups have thousands of events and millions of bytes")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Reading, Telemetry};

    #[test]
    fn a_group_falls_into_its_buckets() {
        let telemetry = Telemetry::new();
        telemetry.write().group(1000, 600_000);
        telemetry.write().group(2, 900);
        let text = telemetry.scrape(Reading::default);
        for line in [
            "varve_group_events_bucket{le=\"2\"} 1",
            "varve_group_events_bucket{le=\"512\"} 1",
            "varve_group_events_bucket{le=\"1024\"} 2",
            "varve_group_events_bucket{le=\"2048\"} 2",
            "varve_group_bytes_bucket{le=\"1024\"} 1",
            "varve_group_bytes_bucket{le=\"1.048576e+06\"} 2",
            "varve_group_bytes_bucket{le=\"1.6777216e+07\"} 2",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn what_was_not_stopped_is_not_counted() {
        let telemetry = Telemetry::new();
        drop(telemetry.write().sync());
        telemetry.write().sync().stop();
        let text = telemetry.scrape(Reading::default);
        assert!(text.contains("\nvarve_journal_sync_duration_seconds_count 1\n"), "{text}");
    }

    #[test]
    fn buckets_ascend() {
        assert!(WRITE_SECONDS.is_sorted());
    }
}
