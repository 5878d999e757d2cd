//! The journal as verify reads it: records that the layers may not have yet, and what changed since the
//! snapshot. Read only.
//!
//! Memory: the frames kept, which checkpoints hold to three times 32 MiB and a generation more.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::OnceLock;

use super::check::entry_of;
use super::finding::{Finding, FindingKind};
use super::{VerifyError, facts};
use crate::journal::{self, JournalError, Scan};
use crate::store::frame_op::{self, Appended, Op};
use crate::store::layer_id::LayerId;
use crate::store::record::Record;
use crate::store::state::{ApiKey, ErasurePhase, LogIdentity};
use crate::tlog::chain;
use crate::tlog::hash::Hash;

/// Records of the frames kept, by log.
#[derive(Default)]
pub(super) struct Tail {
    logs: HashMap<u32, LogTail>,
}

/// Consecutive records of one log.
pub(super) struct LogTail {
    pub(super) first_index: u64,
    pub(super) records: Vec<Record>,
    /// Link before each record. The layers have nearly all of them, and then nobody asks.
    previous: OnceLock<Vec<Hash>>,
    /// Link before the first record of each run, by its index.
    pub(super) runs: BTreeMap<u64, (Hash, LayerId)>,
    /// First index that the id table does not have, by the journal.
    pub(super) ids_below: u64,
    /// Below this index the layers have all records, by HEAD.
    pub(super) applied_below: u64,
}

/// What the journal says beside records.
pub(super) struct Journal {
    pub(super) applied: u64,
    pub(super) snapshot_digest: Hash,
    pub(super) tail: Tail,
    pub(super) new_logs: Vec<LogIdentity>,
    pub(super) api_keys: Vec<ApiKey>,
    /// Key current at the end, where frames changed it.
    pub(super) rotations: HashMap<u32, (u64, [u8; 32])>,
    /// What the frames kept say last of each erasure, by log and index of the entry that asked.
    pub(super) erasures: BTreeMap<(u32, u64), ErasurePhase>,
    pub(super) newest_frame: u64,
    pub(super) notes: Vec<String>,
}

impl Tail {
    /// What the journal has of a log.
    pub(super) fn of(&self, log: u32) -> Option<&LogTail> {
        self.logs.get(&log)
    }

    /// Log numbers with records in the journal.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.logs.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Layers of all frames with records.
    pub(super) fn layers(&self) -> impl Iterator<Item = LayerId> + '_ {
        self.logs.values().flat_map(|log| log.runs.values().map(|(_, layer)| *layer))
    }

    fn append(&mut self, frame: u64, layer: LayerId, appended: Appended) -> Result<(), Finding> {
        let log = self.logs.entry(appended.log).or_insert_with(|| LogTail {
            first_index: appended.first_index,
            records: Vec::new(),
            previous: OnceLock::new(),
            runs: BTreeMap::new(),
            ids_below: u64::MAX,
            applied_below: 0,
        });
        if log.end() != appended.first_index {
            let found =
                format!("frame {frame} goes on with {} in log {}", appended.first_index, appended.log);
            return Err(Finding::store(
                FindingKind::JournalDamaged,
                "journal",
                format!("index {}", log.end()),
                found,
            ));
        }
        log.runs.insert(appended.first_index, (appended.previous, layer));
        log.records.extend(appended.records);
        Ok(())
    }
}

impl LogTail {
    /// Index after the last record.
    pub(super) fn end(&self) -> u64 {
        self.first_index + self.records.len() as u64
    }

    /// The journal's record at an index.
    pub(super) fn record(&self, index: u64) -> Option<&Record> {
        self.records.get(usize::try_from(index.checked_sub(self.first_index)?).ok()?)
    }

    /// First index after the run that begins at `first`.
    pub(super) fn run_end(&self, first: u64) -> u64 {
        self.runs.range(first + 1..).next().map_or(self.end(), |(next, _)| *next)
    }

    /// Computes the link before each record. Each run begins with the link that its frame names.
    fn chain(&self, log_id: Hash) -> Vec<Hash> {
        let mut link = Hash::ZERO;
        let before = |(index, record): (u64, &Record)| {
            if let Some((previous, _)) = self.runs.get(&index) {
                link = *previous;
            }
            let before = link;
            link = chain::link(&entry_of(record, log_id, index, link));
            before
        };
        (self.first_index..).zip(&self.records).map(before).collect()
    }

    /// Up to `count` records from `index` on of the log `log_id`, and the link before the first.
    pub(super) fn part(&self, log_id: Hash, index: u64, count: usize) -> (Hash, &[Record]) {
        let at = usize::try_from(index.saturating_sub(self.first_index)).unwrap_or(usize::MAX);
        let records = self.records.get(at..).unwrap_or_default();
        let previous = self.previous.get_or_init(|| self.chain(log_id));
        (previous.get(at).copied().unwrap_or(Hash::ZERO), &records[..count.min(records.len())])
    }
}

impl Journal {
    /// What stands for a journal that must not be believed.
    pub(super) fn empty() -> Journal {
        Journal {
            applied: 0,
            snapshot_digest: Hash::ZERO,
            tail: Tail::default(),
            new_logs: Vec::new(),
            api_keys: Vec::new(),
            rotations: HashMap::new(),
            erasures: BTreeMap::new(),
            newest_frame: 0,
            notes: Vec::new(),
        }
    }

    /// Reads the journal of a data directory. `Ok(Err(finding))` is a journal that must not be believed.
    pub(super) fn read(
        data: &Path,
        ids_durable: impl Fn() -> Option<u64>,
    ) -> Result<Result<Journal, Finding>, VerifyError> {
        let scan = match Scan::read(&data.join("journal"), &journal::Options::default()) {
            Ok(scan) => scan,
            Err(error) => return refused(error),
        };
        let head = *scan.head();
        let mut journal = Journal {
            applied: head.applied,
            snapshot_digest: head.state_digest,
            tail: Tail::default(),
            new_logs: Vec::new(),
            api_keys: Vec::new(),
            rotations: HashMap::new(),
            erasures: BTreeMap::new(),
            newest_frame: scan.newest().map_or(0, |(frame, _)| frame),
            notes: scan.warnings().iter().map(ToString::to_string).collect(),
        };
        if let journal::Tail::Torn { frame } = scan.tail() {
            journal.notes.push(format!(
                "frame {frame} was cut off by a crash before it was acknowledged; it counts as never written"
            ));
        }
        let ids_upto = ids_durable().unwrap_or(0);
        for frame in scan.frames() {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return refused(error),
            };
            let damaged = |expected: &str, found: String| {
                Ok(Err(Finding::store(FindingKind::JournalDamaged, "journal", expected, found)))
            };
            let Ok(ops) = frame_op::read(&frame.payload) else {
                let found = format!("a section of frame {} does not parse", frame.number);
                return damaged("sections of this format", found);
            };
            let Some(layer) = LayerId::from_code(frame.layer) else {
                let found = format!("frame {} names layer {}", frame.number, frame.layer);
                return damaged("a month of 1970 to 9999, or a part of one", found);
            };
            for op in ops {
                if let Err(finding) = journal.op(frame.number, layer, op, ids_upto) {
                    return Ok(Err(finding));
                }
            }
        }
        Ok(Ok(journal))
    }

    fn op(&mut self, frame: u64, layer: LayerId, op: Op, ids_upto: u64) -> Result<(), Finding> {
        match op {
            Op::Records(appended) => {
                let (log, first) = (appended.log, appended.first_index);
                self.tail.append(frame, layer, appended)?;
                let Some(log) = self.tail.logs.get_mut(&log) else { return Ok(()) };
                if frame > ids_upto {
                    log.ids_below = log.ids_below.min(first);
                }
                if frame <= self.applied {
                    log.applied_below = log.end();
                }
            }
            Op::Log(identity) => self.new_logs.push(identity),
            Op::ApiKey(key) => self.api_keys.push(key),
            Op::Erasure { log, index, phase } => {
                self.erasures.insert((log, index), phase);
            }
            Op::Rotation { log, index, key } => {
                self.rotations.insert(log, (index, key));
            }
        }
        Ok(())
    }
}

/// A journal that does not read: a finding where the bytes are at fault, an error where the system is.
fn refused(error: JournalError) -> Result<Result<Journal, Finding>, VerifyError> {
    let kind = match &error {
        JournalError::Damaged { .. } | JournalError::Head(_) => FindingKind::JournalDamaged,
        JournalError::MissingSegment { .. } => FindingKind::JournalDamaged,
        JournalError::Rollback { .. } => FindingKind::Rollback,
        _ => return Err(VerifyError::Journal(error)),
    };
    Ok(Err(Finding::store(kind, "journal", "the journal that was written", error.to_string())))
}

/// The API keys of the snapshot as the journal changed them since.
pub(super) fn current_keys(
    snapshot: BTreeMap<String, ApiKey>,
    journal: &[ApiKey],
) -> BTreeMap<String, ApiKey> {
    let mut keys = snapshot;
    keys.extend(journal.iter().map(|key| (key.id.clone(), key.clone())));
    keys
}

/// Whether one of the recorded keys is this one.
pub(super) fn is_recorded(entry: Option<&facts::RecordedKey>, key: &ApiKey) -> bool {
    entry.is_some_and(|entry| facts::records(entry, key))
}
