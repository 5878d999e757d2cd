//! Layers in which nothing is due for a while: they are read when something can be, not at every run.
//!
//! What a reading found is kept in memory, so after a start each layer is read once. It holds until the first of what stays
//! is due, unless a policy was set or a hold placed or released in a log that has entries in the layer, or the layer went
//! over to another generation. A layer in which no log has a policy is not read at all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;

use parking_lot::Mutex;

use super::super::Service;
use super::plan::Scan;
use crate::store::layer_id::LayerId;

/// What was found, by layer: 100 bytes each.
#[derive(Default)]
pub(super) struct Quiet(Mutex<HashMap<LayerId, Found>>);

struct Found {
    /// Of the generation that was read.
    dir: PathBuf,
    rests_on: u64,
    /// When the first body is due, microseconds; `None` is never.
    next_due: Option<u64>,
}

/// What the logs of each layer rest on, at one moment before a layer is read.
pub(super) struct Grounds(HashMap<LayerId, Ground>);

#[derive(Clone, Copy)]
struct Ground {
    /// Policies in force, and how often holds were placed and released.
    digest: u64,
    has_policy: bool,
}

impl Service {
    /// What all layers rest on now. What changes while they are read makes them be read again the next time.
    pub(super) fn grounds(&self) -> Grounds {
        let mut hashers: HashMap<LayerId, (DefaultHasher, bool)> = HashMap::new();
        for log in self.0.store.logs() {
            let number = log.identity.number;
            // The counter first: it is counted up behind the change, so who sees the new count sees the change.
            let (changes, head) = (self.0.holds.changes(number), log.head());
            for (layer, _) in head.layers {
                let (hasher, has_policy) = hashers.entry(layer).or_default();
                hasher.write_u32(number);
                hasher.write_u64(changes);
                // No entry has this index.
                hasher.write_u64(head.policy.unwrap_or(u64::MAX));
                *has_policy |= head.policy.is_some();
            }
        }
        let ground =
            |(hasher, has_policy): (DefaultHasher, bool)| Ground { digest: hasher.finish(), has_policy };
        Grounds(hashers.into_iter().map(|(layer, hashed)| (layer, ground(hashed))).collect())
    }

    /// Whether nothing of a layer is due at `now`, as far as that is known without reading it.
    pub(super) fn is_quiet(&self, layer: LayerId, now: u64, grounds: &Grounds) -> bool {
        let Some(ground) = grounds.0.get(&layer).filter(|ground| ground.has_policy) else { return true };
        let all = self.0.compactions.quiet.0.lock();
        all.get(&layer).is_some_and(|found| {
            found.rests_on == ground.digest
                && found.next_due.is_none_or(|due| now < due)
                && self.dir_of(layer).as_ref() == Some(&found.dir)
        })
    }

    /// Keeps what a reading of a layer found, of which nothing that it let go is there any more. `dir` is the generation
    /// that was read, or made by that. Where something stays only until an erasure is done or a hold is listed, nothing is
    /// kept: no counter says when that is.
    pub(super) fn note_quiet(&self, scan: &Scan, dir: Option<PathBuf>, grounds: &Grounds) {
        let is_listing = |number: &u32| {
            scan.holds.get(number).is_some_and(|holds| holds.iter().any(|hold| !hold.is_resolved()))
        };
        let waits = !scan.asking.is_empty() || scan.held.keys().any(|(number, _)| is_listing(number));
        let mut all = self.0.compactions.quiet.0.lock();
        match (dir, grounds.0.get(&scan.layer)) {
            (Some(dir), Some(ground)) if !waits => {
                all.insert(scan.layer, Found { dir, rests_on: ground.digest, next_due: scan.next_due });
            }
            _ => drop(all.remove(&scan.layer)),
        }
    }

    /// Directory of the live generation of a layer.
    pub(super) fn dir_of(&self, layer: LayerId) -> Option<PathBuf> {
        self.0.store.layers.dirs().into_iter().find(|(id, _)| *id == layer).map(|(_, dir)| dir)
    }
}
