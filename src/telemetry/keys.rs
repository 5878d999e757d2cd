//! Metrics of API keys: uses that were refused, by reason.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Counters, counter, register};

/// What is counted of API keys.
#[derive(Debug)]
pub struct Keys {
    refusals: Counters,
    unwritten: Counter,
}

impl Keys {
    pub(super) fn new(registry: &mut Registry) -> Keys {
        Keys {
            refusals: register(
                registry,
                "varve_api_key_refusals",
                "Uses of API keys that were refused, by reason",
                Counters::default(),
            ),
            unwritten: counter(
                registry,
                "varve_api_key_refusals_lost",
                "Refused uses of known keys that are in no entry, because the store had stopped",
            ),
        }
    }

    /// Makes the reasons known, so that each is there from the first scrape on.
    pub fn know_reasons(&self, reasons: impl IntoIterator<Item = &'static str>) {
        reasons.into_iter().for_each(|reason| drop(self.refusals.get_or_create(&[("reason", reason)])));
    }

    /// A use was refused for `reason`, a word of a fixed list.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// `count` refused uses will be in no entry.
    pub fn lost(&self, count: u64) {
        self.unwritten.inc_by(count);
    }
}
