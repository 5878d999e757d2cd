//! One log in memory: who it is, where its durable end is, and the records that are not in a layer yet.
//!
//! Written by two threads: the committer moves the end forward (`publish`), the applier takes records out of
//! the tail once a layer has them (`stored`). Read by everyone. What holds: indexes below `stored` are in
//! layers, `[tail_first, size)` are in the tail, and `tail_first <= stored <= size`; so a reader who looks
//! into the tail first and into the layers second misses nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;

use super::idtable::Token;
use super::layer::TILE_LEVEL;
use super::layer_id::LayerId;
use super::record::Record;
use super::state::{Head, LogIdentity};
use crate::event::catalog::{Class, action};
use crate::retention::ReleasedHold;
use crate::tlog::chain::{ENTRY_BYTES, FLAG_OWN};
use crate::tlog::hash::Hash;

/// A record in its place in the chain.
#[derive(Clone)]
pub struct Sequenced {
    /// Leaf index.
    pub index: u64,
    /// Link of the entry before.
    pub previous: Hash,
    /// Link of this entry.
    pub link: Hash,
    /// RFC 6962 leaf hash of the entry.
    pub leaf_hash: Hash,
    /// The record.
    pub record: Record,
    /// What the index needs to know of it.
    pub keys: IndexKeys,
}

/// What the indexes need of a record: no value in clear.
#[derive(Clone, Default)]
pub struct IndexKeys {
    /// Token of the event's id.
    pub id: Token,
    /// Token of `context.request_id`.
    pub request_id: Option<Token>,
    /// Tokens of all other terms, eight bytes each.
    pub terms: Box<[u64]>,
    /// `occurred_at` in microseconds; `None` reads as `recorded_at`.
    pub occurred_at: Option<u64>,
}

impl Sequenced {
    /// The 124 bytes that are chained, signed and hashed into the tree.
    pub fn entry(&self, log_id: Hash) -> [u8; ENTRY_BYTES] {
        self.record.entry(log_id, self.index, self.previous)
    }

    /// Memory held, for budgets.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Sequenced>() + self.record.body.len() + self.keys.terms.len() * 8 + 64
    }
}

/// Takes what a record of Varve's own says of the log into its head. Few records are its own and permanent: only of
/// these the body is looked at.
fn note(head: &mut Head, index: u64, record: &Record) {
    if record.flags & FLAG_OWN == 0 || record.class != Class::Permanent.code() {
        return;
    }
    let Some(Ok(body)) = record.body() else { return };
    match body.action() {
        Some(action::RETENTION_POLICY_CHANGED) => head.policy = Some(index),
        Some(action::HOLD_PLACED) => head.holds.push(index),
        Some(action::HOLD_RELEASED) => {
            let released = body.facts().and_then(|facts| ReleasedHold::from_facts(&facts).ok());
            head.holds.retain(|hold| released.is_none_or(|released| released.hold != *hold));
        }
        Some(action::LOG_CLOSED) => head.closed = Some(index),
        _ => {}
    }
}

/// A log. Shared by everything that reads or writes it.
pub struct Log {
    /// Who it is.
    pub identity: LogIdentity,
    published: RwLock<Published>,
}

struct Published {
    head: Head,
    stored: u64,
    tail_first: u64,
    tail: VecDeque<Arc<Sequenced>>,
}

impl Log {
    /// A log that stands at `head`, all of it in layers.
    pub fn new(identity: LogIdentity, head: Head) -> Log {
        let size = head.size;
        Log {
            identity,
            published: RwLock::new(Published { head, stored: size, tail_first: size, tail: VecDeque::new() }),
        }
    }

    /// Number of published entries.
    pub fn size(&self) -> u64 {
        self.published.read().head.size
    }

    /// A copy of the published head.
    pub fn head(&self) -> Head {
        self.published.read().head.clone()
    }

    /// First index that no layer has yet.
    pub fn stored(&self) -> u64 {
        self.published.read().stored
    }

    /// Makes durable records visible. `records` begin at the published size; they stand in `layer`; `key`
    /// signs what comes after them. Returns the roots of the tiles that they complete.
    ///
    /// Panics when they do not: the sequencer is the only source of indexes.
    pub fn publish(&self, layer: LayerId, records: &[Arc<Sequenced>], key: [u8; 32]) -> Vec<(u64, Hash)> {
        let mut published = self.published.write();
        let mut tiles = Vec::new();
        for record in records {
            assert_eq!(record.index, published.head.size, "records are published in order of index");
            published.head.frontier.append_with(record.leaf_hash, &mut |level, index, root| {
                if level == TILE_LEVEL {
                    tiles.push((index, root));
                }
            });
            note(&mut published.head, record.index, &record.record);
            published.head.size += 1;
            published.tail.push_back(record.clone());
        }
        published.head.key = key;
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            published.head.link = last.link;
            published.head.recorded_at = last.record.recorded_at;
            if published.head.layers.last().is_none_or(|(newest, _)| *newest < layer) {
                published.head.layers.push((layer, first.index));
            }
        }
        tiles
    }

    /// Index of the entry with the retention policy in force.
    pub fn policy(&self) -> Option<u64> {
        self.published.read().head.policy
    }

    /// Indexes of the holds in force, ascending.
    pub fn holds(&self) -> Vec<u64> {
        self.published.read().head.holds.clone()
    }

    /// Whether the log was closed: it takes entries of Varve's own alone.
    pub fn is_closed(&self) -> bool {
        self.published.read().head.closed.is_some()
    }

    /// Layers hold everything below `stored` now: takes it out of the tail.
    pub fn set_stored(&self, stored: u64) {
        let mut published = self.published.write();
        published.stored = published.stored.max(stored);
        while published.tail_first < published.stored && published.tail.pop_front().is_some() {
            published.tail_first += 1;
        }
    }

    /// Sets the head and what layers hold of it; for recovery, before anything is served.
    pub fn reset(&self, head: Head, stored: u64) {
        let mut published = self.published.write();
        published.tail.clear();
        published.tail_first = head.size;
        published.stored = stored;
        published.head = head;
    }

    /// The tail's part of `[from, to)`.
    pub fn tail(&self, from: u64, to: u64) -> Vec<Arc<Sequenced>> {
        let published = self.published.read();
        let first = published.tail_first;
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let take = usize::try_from(to.saturating_sub(from.max(first))).unwrap_or(0);
        published.tail.iter().skip(skip).take(take).cloned().collect()
    }

    /// First index that the tail holds.
    pub fn tail_first(&self) -> u64 {
        self.published.read().tail_first
    }
}
