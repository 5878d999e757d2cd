//! What is not counted as it happens but read when somebody asks: levels, sizes, ages. One table of them.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::disk::StoreBytes;
use super::{Word, register};

/// A field of [`Reading`], the gauge it goes to, and its help.
macro_rules! readings {
    ($($field:ident: $type:ty = $name:literal, $help:literal;)*) => {
        /// The state of a service at one moment.
        #[derive(Clone, Debug, Default)]
        pub struct Reading {
            $(#[doc = $help] pub $field: $type,)*
            /// Bytes of the data directory by part.
            pub store_bytes: StoreBytes,
        }

        /// The gauges of a [`Reading`].
        #[derive(Debug)]
        pub(super) struct Gauges {
            $($field: Gauge<$type, AtomicU64>,)*
            store_bytes: Family<Word, Gauge<u64, AtomicU64>>,
        }

        impl Gauges {
            pub(super) fn new(registry: &mut Registry) -> Gauges {
                Gauges {
                    $($field: register(registry, $name, $help, Gauge::default()),)*
                    store_bytes: register(
                        registry,
                        "varve_store_bytes",
                        "Bytes of the data directory by part, measured at most every 10 s",
                        Family::default(),
                    ),
                }
            }

            pub(super) fn set(&self, reading: &Reading) {
                $(self.$field.set(reading.$field);)*
                for (part, bytes) in reading.store_bytes.parts() {
                    self.store_bytes.get_or_create(&[("part", part)]).set(bytes);
                }
            }
        }
    };
}

readings! {
    ready: u64 = "varve_ready", "1 when /readyz says ready: writes are taken and acknowledged";
    poisoned: u64 = "varve_poisoned", "1 once a write failed: nothing more is acknowledged, the process is about to exit";
    queue_events: u64 = "varve_queue_events", "Events that wait or are on their way to disk";
    queue_bytes: u64 = "varve_queue_bytes", "Bytes of the same";
    queue_limit_events: u64 = "varve_queue_limit_events", "Events at which the queue refuses with busy";
    queue_limit_bytes: u64 = "varve_queue_limit_bytes", "Bytes at which the queue refuses with busy";
    stalled_seconds: f64 = "varve_queue_stalled_seconds", "Time for which the queue was not empty and nothing became durable; 0 while it is empty";
    applier_lag_frames: u64 = "varve_applier_lag_frames", "Frames, one a group, that are durable and not yet applied to a layer";
    replay_frames: u64 = "varve_journal_replay_frames", "Frames that a start after a crash would replay: those after HEAD";
    head_age_seconds: f64 = "varve_journal_head_age_seconds", "Time since HEAD was moved or the store opened; grows while nothing is written";
    entries: u64 = "varve_published_entries", "Entries of all logs together, Varve's own too";
    logs: u64 = "varve_logs", "Logs: one a tenant, and the instance's own";
    layers: u64 = "varve_layers", "Layers: one a month, and one for each part of a month that was closed early";
    layers_open: u64 = "varve_layers_open", "Layers that are open";
    erasures_open: u64 = "varve_erasures_open", "Erasures that are asked for and not done";
    erasures_failing: u64 = "varve_erasures_failing", "Whether the last try of an erasure failed";
    dedupe_entries: u64 = "varve_dedupe_entries", "Ids and request ids in the dedupe table";
    dedupe_runs: u64 = "varve_dedupe_runs", "Runs of the dedupe table";
    dedupe_recent_entries: u64 = "varve_dedupe_recent_entries", "Ids and request ids in memory that the table does not have yet";
    clock_stepped: u64 = "varve_clock_stepped", "1 once the wall clock and the boot clock have parted: stamps go on with the boot clock";
    clock_drift_seconds: f64 = "varve_clock_drift_seconds", "Wall clock minus what it should be by the boot clock";
    disk_free_bytes: u64 = "varve_disk_free_bytes", "Free bytes of the data directory's file system; 0 when it does not say";
    disk_low_water_bytes: u64 = "varve_disk_low_water_bytes", "Free bytes below which events are refused with storage_full";
    watchdog_calls: u64 = "varve_watchdog_calls", "Syncs, moves of HEAD and checkpoints under way that the watchdog waits for";
    watchdog_left_seconds: f64 = "varve_watchdog_left_seconds", "Least time that one of them has left before the process is aborted; 30 or more while there is none";
}
