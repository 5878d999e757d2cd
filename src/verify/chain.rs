//! The sequential part: what one entry says of the next. It takes checked records in order of index and
//! holds them against each other, against heads, checkpoints, receipts and indexes.
//!
//! Memory a log: the frontier, its keys, 32 bytes for 256 entries (tile roots of the layer at hand), 64 bytes
//! for 512 (sums of its terms), 48 bytes for 256 (sums of its ids; 32 more where a body of them is absent), its policies
//! (`retention`), its holds in force (`holds`), 16 bytes for an erasure that was asked for (`erasure`) and what `absent` says.

mod erasure;
mod holds;
mod keys;
mod layer;
mod retention;
mod standing;

use std::collections::HashSet;

use self::erasure::Erased;
use self::holds::Holds;
use self::keys::CurrentKey;
use self::retention::Retained;
use self::standing::Noted;
pub(super) use self::standing::Standing;
use super::absent::Pool;
use super::check::{BodyState, Checked, CheckedRecord, LogInfo};
use super::finding::{Finding, FindingKind, Findings};
use super::given::GivenCheckpoint;
use super::index::{Chunks, IdBuckets};
use crate::store::layer::TILE_LEVEL;
use crate::store::layer_id::LayerId;
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, VerifyingKey};
use crate::tlog::merkle::Frontier;

/// Where a log must stand at some size, and who says so.
pub(super) struct Mark {
    pub(super) size: u64,
    pub(super) says: Says,
}

/// Who says where a log must stand.
pub(super) enum Says {
    /// The snapshot of heads.
    Snapshot(Standing),
    /// The file of the last signed checkpoints.
    Slot { root: Hash },
    /// A checkpoint from outside, by its position.
    Checkpoint(usize),
}

/// One log while it is walked.
pub(super) struct Walk {
    /// Next index.
    pub(super) next: u64,
    link: Hash,
    recorded_at: u64,
    pub(super) tree: Frontier,
    /// No entry is missing so far and the chain holds: the tree is the one that the entries sign.
    pub(super) whole: bool,
    /// No entry is missing so far.
    pub(super) complete: bool,
    /// A page before could not be read: its records are not missing, they are unknown.
    resync: bool,
    key: Option<CurrentKey>,
    /// Key of the newest entry, and its keys in order of use.
    newest_key: Option<VerifyingKey>,
    pub(super) used_keys: Vec<(KeyId, [u8; 32], u64)>,
    /// Ids of all keys so far: a key that comes again has its id.
    introduced: HashSet<KeyId>,
    /// In order of size; the first `marks_passed` were looked at.
    pub(super) marks: Vec<Mark>,
    marks_passed: usize,
    receipts_passed: usize,
    /// Largest size at which a checkpoint from outside held; that of no entry says nothing.
    pub(super) checkpointed: u64,
    /// A key from outside has signed.
    pub(super) vouched: bool,
    // The layer at hand.
    in_layer: bool,
    carry: Option<Vec<u8>>,
    tiles: Vec<(u64, Hash)>,
    chunks: Chunks,
    pub(super) layers: Vec<(LayerId, u64)>,
    pub(super) ids: IdBuckets,
    ids_below: u64,
    retained: Retained,
    holds: Holds,
    erased: Erased,
    noted: Noted,
    /// What is absent from here on is not judged.
    absences_below: u64,
    pub(super) bodies_present: u64,
    pub(super) signatures_checked: u64,
}

/// What the walk is given beside records.
pub(super) struct Context<'a> {
    pub(super) info: &'a LogInfo,
    pub(super) checkpoints: &'a [GivenCheckpoint],
    pub(super) findings: &'a mut Findings,
    pub(super) pool: &'a mut Pool,
}

impl Context<'_> {
    fn add(&mut self, kind: FindingKind, index: u64, expected: impl Into<String>, found: impl Into<String>) {
        self.findings.add(Finding::log(kind, &self.info.identity.tenant, index, expected, found));
    }
}

impl Walk {
    /// A walk over a log from its first entry on.
    pub(super) fn new(info: &LogInfo, mut marks: Vec<Mark>, ids_below: u64) -> Walk {
        marks.sort_by_key(|mark| mark.size);
        let key = VerifyingKey::from_bytes(&info.identity.genesis_key)
            .ok()
            .map(|key| CurrentKey::new(key, &info.origin));
        Walk {
            next: 0,
            link: Hash::ZERO,
            recorded_at: 0,
            tree: Frontier::default(),
            whole: true,
            complete: true,
            resync: false,
            newest_key: key.map(|key| key.key),
            introduced: key.iter().map(|key| key.id).collect(),
            key,
            used_keys: Vec::new(),
            marks,
            marks_passed: 0,
            receipts_passed: 0,
            checkpointed: 0,
            vouched: false,
            in_layer: false,
            carry: None,
            tiles: Vec::new(),
            chunks: Chunks::default(),
            layers: Vec::new(),
            ids: IdBuckets::default(),
            ids_below,
            retained: Retained::default(),
            holds: Holds::default(),
            erased: Erased::default(),
            noted: Noted::default(),
            absences_below: u64::MAX,
            bodies_present: 0,
            signatures_checked: 0,
        }
    }

    /// Takes consecutive records of `layer`.
    pub(super) fn take(&mut self, context: &mut Context<'_>, layer: LayerId, checked: Checked) {
        self.signatures_checked += checked.signatures_checked;
        let start = self.next;
        for fault in checked
            .faults
            .into_iter()
            .filter(|fault| fault.index >= start || fault.kind == FindingKind::PageUnreadable)
        {
            context.add(fault.kind, fault.index, fault.expected, fault.found);
        }
        if checked.records.is_empty() {
            (self.whole, self.complete) = (false, false);
            self.resync = true;
            return;
        }
        let first = checked.first_index;
        if first < self.next {
            context.add(
                FindingKind::OverlappingPages,
                first,
                format!("a page that begins at {}", self.next),
                format!("one that begins at {first}"),
            );
        } else if !self.resync && first > self.next {
            context.add(
                FindingKind::MissingEntries,
                self.next,
                format!("entry {}", self.next),
                format!("entry {first} is the next"),
            );
            (self.whole, self.complete) = (false, false);
        } else if !self.resync && checked.previous != self.link {
            context.add(FindingKind::ChainBroken, first, self.link.to_string(), checked.previous.to_string());
            self.whole = false;
        }
        self.resync = false;
        let mut unsigned: Option<(u64, u64)> = None;
        for (index, record) in (first..).zip(checked.records) {
            if index < self.next {
                continue;
            }
            self.next = index;
            self.record(context, layer, index, record, &mut unsigned);
        }
        if let Some((first, count)) = unsigned {
            let found = if count == 1 {
                "a signature that does not verify".to_owned()
            } else {
                format!(
                    "signatures that do not verify here and at {} entries behind it in its page",
                    count - 1
                )
            };
            context.add(
                FindingKind::BadSignature,
                first,
                "a strict signature by the key current at the index",
                found,
            );
        }
    }

    fn record(
        &mut self,
        context: &mut Context<'_>,
        layer: LayerId,
        index: u64,
        mut record: CheckedRecord,
        unsigned: &mut Option<(u64, u64)>,
    ) {
        self.pass_marks(context);
        if !self.in_layer {
            self.enter(context, layer, index);
        }
        if index > 0 && record.recorded_at <= self.recorded_at {
            context.add(
                FindingKind::TimeNotGrowing,
                index,
                format!("a time after {}", self.recorded_at),
                record.recorded_at.to_string(),
            );
        }
        if record.recorded_at < layer.start() || record.recorded_at >= layer.end() {
            context.add(
                FindingKind::IndexMismatch,
                index,
                format!("an entry recorded in {layer}"),
                format!("one recorded at {}", record.recorded_at),
            );
        }
        self.signature(context, index, &record, unsigned);
        self.newest_key = self.key.map(|key| key.key);
        self.receipts_at(context, index, &record);
        self.class_name(context, index, &record);
        self.flags(context, index, &record);
        self.note(context, index, &record);
        self.fact(context, index, &record);
        self.body(context, index, &record);
        self.asking(index, &record);
        self.disclosures(context, index, &mut record);
        self.chunks.add(index, record.sums.terms, record.occurred_at, record.body == BodyState::Present);
        // With entries missing the table is not compared, and an index that came out of nowhere would make the
        // buckets as large as it says.
        if index < self.ids_below && self.complete {
            self.ids.add(index, &record.sums, record.body == BodyState::Present);
        }
        if self.whole {
            let tiles = &mut self.tiles;
            self.tree.append_with(record.leaf_hash, &mut |level, tile, root| {
                if level == TILE_LEVEL {
                    tiles.push((tile, root));
                }
            });
        }
        self.link = record.link;
        self.recorded_at = record.recorded_at;
        self.next = index + 1;
    }

    fn receipts_at(&mut self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        let receipts = &context.info.receipts;
        while let Some(receipt) = receipts.get(self.receipts_passed).filter(|receipt| receipt.index <= index)
        {
            self.receipts_passed += 1;
            if receipt.index < index {
                // Its entry is missing, which is a finding already.
                continue;
            }
            match self.newest_key.map(|key| receipt.verify(&context.info.origin, &key)) {
                Some(Ok(_)) if receipt.link == record.link => {}
                Some(Ok(_)) => context.add(
                    FindingKind::ReceiptMismatch,
                    index,
                    receipt.link.to_string(),
                    record.link.to_string(),
                ),
                Some(Err(error)) => context.add(
                    FindingKind::BadReceipt,
                    index,
                    "a receipt that this log signed",
                    error.to_string(),
                ),
                None => {}
            }
        }
    }

    /// Looks at all marks of the size reached.
    fn pass_marks(&mut self, context: &mut Context<'_>) {
        while let Some(mark) = self.marks.get(self.marks_passed).filter(|mark| mark.size <= self.next) {
            self.marks_passed += 1;
            if mark.size < self.next || !self.whole {
                // Entries are missing, which is a finding already; the tree is not the log's.
                continue;
            }
            let (at, root) = (mark.size, self.tree.root());
            match &mark.says {
                Says::Slot { root: signed } if *signed != root => {
                    context.add(
                        FindingKind::RootMismatch,
                        at,
                        format!("{signed} by the last signed checkpoint"),
                        root.to_string(),
                    );
                }
                Says::Slot { .. } => {}
                Says::Snapshot(standing) => self.compare_standing(context, at, standing, root),
                Says::Checkpoint(position) => {
                    let given = &context.checkpoints[*position];
                    let said = given.checkpoint.root;
                    let signed = self
                        .newest_key
                        .is_some_and(|key| given.note.verify(&context.info.origin, &key).is_ok());
                    if !signed {
                        context.add(
                            FindingKind::CheckpointSignature,
                            at,
                            "a signature by the key current at the checkpoint's size",
                            given.file.clone(),
                        );
                    }
                    if said != root {
                        context.add(
                            FindingKind::RootMismatch,
                            at,
                            format!("{said} by {}", given.file),
                            root.to_string(),
                        );
                    }
                    if signed && said == root {
                        self.checkpointed = self.checkpointed.max(at);
                    }
                }
            }
        }
    }

    /// Every record was seen. `known_size` is what snapshot and journal say; `key` what the journal says is
    /// current.
    pub(super) fn finish(&mut self, context: &mut Context<'_>, known_size: u64, key: Option<[u8; 32]>) {
        self.pass_marks(context);
        let size = self.next;
        if size < known_size {
            context.add(
                FindingKind::Truncated,
                size,
                format!("{known_size} entries by the head"),
                format!("{size} entries"),
            );
        }
        if size > known_size {
            let found = format!(
                "layers that hold entries up to {size}: the journal or the snapshot is older than they are"
            );
            context.add(
                FindingKind::Rollback,
                known_size,
                format!("{known_size} entries by snapshot and journal"),
                found,
            );
        }
        if known_size == 0 && size == 0 {
            context.add(FindingKind::BadGenesis, 0, "an entry that says who the log is", "no entry");
        }
        for mark in &self.marks[self.marks_passed..] {
            let by = match &mark.says {
                Says::Snapshot(_) => continue,
                Says::Slot { .. } => "the last signed checkpoint",
                Says::Checkpoint(position) => &context.checkpoints[*position].file,
            };
            let expected = format!("{} entries by {by}", mark.size);
            context.add(FindingKind::Truncated, size, expected, format!("{size} entries"));
        }
        let beyond = context.info.receipts.len() - self.receipts_passed;
        if let Some(receipt) = context.info.receipts.get(self.receipts_passed) {
            let held = self.newest_key.map(|key| receipt.verify(&context.info.origin, &key));
            let expected = format!("entry {}, for which there is a receipt", receipt.index);
            match held {
                Some(Err(error)) => context.add(
                    FindingKind::BadReceipt,
                    receipt.index,
                    "a receipt that this log signed",
                    error.to_string(),
                ),
                _ => context.add(
                    FindingKind::Truncated,
                    size,
                    expected,
                    format!("{size} entries; {beyond} receipts are for entries behind them"),
                ),
            }
        }
        if let (Some(said), Some(current)) = (key, self.key)
            && said != current.bytes
        {
            context.add(
                FindingKind::HeadMismatch,
                size,
                format!("key {} by the journal", Hash(said)),
                Hash(current.bytes).to_string(),
            );
        }
        self.judge_absent(context);
        self.judge_withheld(context);
    }

    /// Holds the layers that the snapshot names against those that have the log's entries.
    pub(super) fn compare_layers(&self, context: &mut Context<'_>, said: &[(LayerId, u64)], said_size: u64) {
        let found: Vec<_> = self.layers.iter().copied().filter(|(_, first)| *first < said_size).collect();
        if self.complete && found != said {
            let text = |layers: &[(LayerId, u64)]| {
                layers
                    .iter()
                    .map(|(layer, first)| format!("{layer} from {first}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            context.add(FindingKind::HeadMismatch, 0, format!("entries in {}", text(said)), text(&found));
        }
    }
}
