//! The parallel part: what can be said of a page without the pages before it.
//!
//! A page carries the link of the entry before its first record, so entries, links and leaf hashes follow
//! from the page alone; that the carried link is the right one is for the combiner to say. Signatures are
//! checked under keys known of the log so far; which key is current at an index, again, the combiner says.

use parking_lot::RwLock;

use super::facts::{self, Fact};
use super::finding::FindingKind;
use super::index::{Contribution, Secret, TokenCache};
use super::journal_tail::Tail;
use crate::event::catalog::{Class, FIRST_OWN_CLASS_CODE, class_of};
use crate::event::{BodyView, Commitment, left_of};
use crate::store::page::{self, Commitments};
use crate::store::record::Record;
use crate::store::state::LogIdentity;
use crate::tlog::chain::{self, ENTRY_BYTES, FLAG_OWN, FLAGS_KNOWN};
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature, VerifyingKey};
use crate::tlog::receipt::Receipt;

/// A log as every thread sees it.
pub(super) struct LogInfo {
    pub(super) identity: LogIdentity,
    pub(super) origin: String,
    /// Below this index only chain and tree are recomputed.
    pub(super) chained_below: u64,
    /// Keys that may have signed entries: the combiner adds rotations as it comes by them.
    pub(super) keys: RwLock<Vec<(KeyId, VerifyingKey)>>,
    /// What was handed out of this log and brought along, in order of index.
    pub(super) receipts: Vec<Receipt>,
}

impl LogInfo {
    fn receipts_at(&self, index: u64) -> &[Receipt] {
        let from = self.receipts.partition_point(|receipt| receipt.index < index);
        let upto = self.receipts.partition_point(|receipt| receipt.index <= index);
        &self.receipts[from..upto]
    }
}

/// What all checks share.
pub(super) struct Checker {
    pub(super) secret: Secret,
    pub(super) signatures: bool,
    pub(super) tail: Tail,
}

/// A page or a run of journal records, checked.
pub(super) struct Checked {
    /// Position of the log.
    pub(super) log: usize,
    pub(super) first_index: u64,
    /// Link before the first record, as the page says.
    pub(super) previous: Hash,
    pub(super) records: Vec<CheckedRecord>,
    pub(super) faults: Vec<Fault>,
    pub(super) signatures_checked: u64,
    /// What the layer's seal is over; empty where there is none.
    pub(super) sealed: Vec<u8>,
}

/// A rule that does not hold inside a page.
pub(super) struct Fault {
    pub(super) kind: FindingKind,
    pub(super) index: u64,
    pub(super) expected: String,
    pub(super) found: String,
}

/// What the combiner needs of a record.
pub(super) struct CheckedRecord {
    pub(super) recorded_at: u64,
    pub(super) occurred_at: u64,
    pub(super) key_id: KeyId,
    pub(super) class: u16,
    pub(super) link: Hash,
    pub(super) leaf_hash: Hash,
    pub(super) signed: Signed,
    /// [`crate::tlog::chain::FLAG_OWN`], [`crate::tlog::chain::FLAG_HELD`].
    pub(super) flags: u16,
    pub(super) body: BodyState,
    /// Places without their disclosure. A body that was not read may lack others.
    pub(super) withheld: Vec<String>,
    /// The layer lacks the body, or those disclosures, the journal has them, and all else is equal.
    pub(super) in_journal: bool,
    /// Name of a class of the tenant's own: the combiner knows whether the code is that one's.
    pub(super) class_name: Option<Box<str>>,
    pub(super) sums: Contribution,
    pub(super) fact: Option<Box<Fact>>,
}

/// What became of the signature.
pub(super) enum Signed {
    /// It was not looked at.
    Unchecked,
    /// It holds under this key.
    By(Box<[u8; 32]>),
    /// It holds under the first key known of the log; that is nearly always the case.
    ByFirst,
    /// It holds under none that was known then.
    ByNone(Box<Signature>),
}

/// What became of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Not looked at.
    Unchecked,
    /// It is there and sound.
    Present,
    /// It is there and sound but for disclosures.
    Withheld,
    /// It is not there.
    Absent,
    /// It is there and must not be believed.
    Faulty,
}

/// Consecutive records to be checked.
struct Run<'a> {
    log: usize,
    info: &'a LogInfo,
    first_index: u64,
    previous: Hash,
    records: &'a [Record],
    /// What unpacking computed.
    commitments: &'a Commitments,
}

/// A thread that checks, with what it keeps from one page to the next.
pub(super) struct Worker<'a> {
    pub(super) checker: &'a Checker,
    tokens: TokenCache,
    /// Taken out while a page is checked.
    commitments: Commitments,
}

impl<'a> Worker<'a> {
    pub(super) fn new(checker: &'a Checker) -> Worker<'a> {
        Worker { checker, tokens: TokenCache::new(), commitments: Commitments::default() }
    }

    /// Checks a stored page. With `sealed`, keeps what the layer's seal is over.
    pub(super) fn page(
        &mut self,
        log: usize,
        info: &LogInfo,
        first_index: u64,
        bytes: &[u8],
        sealed: bool,
    ) -> Checked {
        let mut commitments = std::mem::take(&mut self.commitments);
        let checked = match page::decode_with(bytes, &mut commitments) {
            Ok(page) => {
                let run = Run {
                    log,
                    info,
                    first_index,
                    previous: page.previous,
                    records: &page.records,
                    commitments: &commitments,
                };
                let mut checked = self.run(&run);
                self.compare_with_journal(&run, &mut checked);
                if sealed {
                    checked.sealed = sealed_bytes(&run);
                }
                checked
            }
            Err(error) => {
                let mut checked = Checked::new(log, first_index, Hash::ZERO, 0);
                checked.fault(
                    FindingKind::PageUnreadable,
                    first_index,
                    "the page that was written",
                    error.to_string(),
                );
                checked
            }
        };
        self.commitments = commitments;
        checked
    }

    /// Checks up to `count` records that only the journal has.
    pub(super) fn journal(&mut self, log: usize, info: &LogInfo, first_index: u64, count: usize) -> Checked {
        let tail = self.checker.tail.of(info.identity.number);
        let (previous, records) =
            tail.map_or((Hash::ZERO, &[][..]), |tail| tail.part(info.identity.log_id, first_index, count));
        self.run(&Run { log, info, first_index, previous, records, commitments: &Commitments::default() })
    }

    /// Checks consecutive records of the one log at hand; `previous` is the link before the first.
    pub(super) fn records(
        &mut self,
        info: &LogInfo,
        first_index: u64,
        previous: Hash,
        records: &[Record],
    ) -> Checked {
        self.run(&Run { log: 0, info, first_index, previous, records, commitments: &Commitments::default() })
    }

    fn run(&mut self, run: &Run<'_>) -> Checked {
        // Held for one page: a rotation waits that long, and nothing else does.
        let keys = run.info.keys.read();
        let mut checked = Checked::new(run.log, run.first_index, run.previous, run.records.len());
        let mut link = run.previous;
        for (place, (index, record)) in (run.first_index..).zip(run.records).enumerate() {
            let entry = entry_of(record, run.info.identity.log_id, index, link);
            link = chain::link(&entry);
            let one = One {
                info: run.info,
                index,
                record,
                entry: &entry,
                link,
                commitments: run.commitments.of(place),
            };
            checked.record(self, &keys, &one);
        }
        checked
    }

    fn compare_with_journal(&self, run: &Run<'_>, checked: &mut Checked) {
        let Some(tail) =
            self.checker.tail.of(run.info.identity.number).filter(|tail| tail.first_index < run.end())
        else {
            return;
        };
        for (place, (index, record)) in (run.first_index..).zip(run.records).enumerate() {
            let Some(journal) = tail.record(index).filter(|journal| *journal != record) else { continue };
            if record.body.is_empty() && is_same_entry(record, journal) {
                // A body that expired leaves the layers first; whether it may is for the combiner to say.
                checked.records[place].in_journal = true;
                continue;
            }
            // So do disclosures that are erased.
            if is_same_entry(record, journal)
                && let Some(Ok(withheld)) = left_of(&journal.body, &record.body).map(|body| body.withheld())
            {
                let checked = &mut checked.records[place];
                (checked.withheld, checked.in_journal) = (withheld, true);
                continue;
            }
            checked.fault(
                FindingKind::JournalMismatch,
                index,
                "the record that the journal has",
                "another record in the layer",
            );
        }
    }
}

impl Run<'_> {
    fn end(&self) -> u64 {
        self.first_index + self.records.len() as u64
    }
}

/// One record, as it is checked.
struct One<'a> {
    info: &'a LogInfo,
    index: u64,
    record: &'a Record,
    entry: &'a [u8; ENTRY_BYTES],
    link: Hash,
    commitments: &'a [Commitment],
}

/// Whether two records differ in their bodies at most.
fn is_same_entry(one: &Record, other: &Record) -> bool {
    let entry =
        |record: &Record| (record.recorded_at, record.key_id, record.class, record.flags, record.event);
    entry(one) == entry(other) && one.signature == other.signature
}

/// What a seal is over: `log 4 | index 8 | record` for each record (FORMAT, "SEAL").
fn sealed_bytes(run: &Run<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(run.records.iter().map(|record| record.encoded_len() + 12).sum());
    for (index, record) in (run.first_index..).zip(run.records) {
        out.extend_from_slice(&run.info.identity.number.to_be_bytes());
        out.extend_from_slice(&index.to_be_bytes());
        record.encode(&mut out);
    }
    out
}

impl Checked {
    fn new(log: usize, first_index: u64, previous: Hash, count: usize) -> Checked {
        Checked {
            log,
            first_index,
            previous,
            records: Vec::with_capacity(count),
            faults: Vec::new(),
            signatures_checked: 0,
            sealed: Vec::new(),
        }
    }

    fn fault(
        &mut self,
        kind: FindingKind,
        index: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.faults.push(Fault { kind, index, expected: expected.into(), found: found.into() });
    }

    fn record(&mut self, worker: &mut Worker<'_>, keys: &[(KeyId, VerifyingKey)], one: &One<'_>) {
        let One { info, index, record, .. } = *one;
        let chained_only = index < info.chained_below;
        let mut checked = CheckedRecord {
            recorded_at: record.recorded_at,
            occurred_at: record.recorded_at,
            key_id: record.key_id,
            class: record.class,
            link: one.link,
            leaf_hash: chain::leaf_hash(one.entry),
            signed: Signed::Unchecked,
            flags: record.flags,
            body: BodyState::Unchecked,
            withheld: Vec::new(),
            in_journal: false,
            class_name: None,
            sums: Contribution::default(),
            fact: None,
        };
        if record.flags & !FLAGS_KNOWN != 0 {
            self.fault(
                FindingKind::BadEntry,
                index,
                "flags of this format",
                format!("{:#06x}", record.flags),
            );
        }
        if worker.checker.signatures && !chained_only {
            checked.signed = self.signature(keys, record, &one.link);
        }
        // Keys, logs and API keys come and go by Varve's own entries, so those are read even where the rest is
        // not, and so is what a receipt is at hand for. Whether a body is there is seen for nothing.
        let is_read = !chained_only
            || record.flags & FLAG_OWN != 0
            || record.body.is_empty()
            || !info.receipts_at(index).is_empty();
        if is_read {
            self.body(worker, one, &mut checked);
            if chained_only && !matches!(checked.body, BodyState::Absent | BodyState::Faulty) {
                (checked.body, checked.sums) = (BodyState::Unchecked, Contribution::default());
            }
        }
        self.records.push(checked);
    }

    fn signature(&mut self, keys: &[(KeyId, VerifyingKey)], record: &Record, link: &Hash) -> Signed {
        self.signatures_checked += 1;
        let message = chain::signed_message(link);
        for (place, (_, key)) in keys.iter().enumerate().filter(|(_, (id, _))| *id == record.key_id) {
            if key.verify(&message, &record.signature) {
                return if place == 0 { Signed::ByFirst } else { Signed::By(Box::new(key.to_bytes())) };
            }
        }
        Signed::ByNone(Box::new(record.signature))
    }

    fn body(&mut self, worker: &mut Worker<'_>, one: &One<'_>, checked: &mut CheckedRecord) {
        let One { index, record, .. } = *one;
        if record.body.is_empty() {
            checked.body = BodyState::Absent;
            return;
        }
        checked.body = BodyState::Faulty;
        let body = match BodyView::decode(&record.body) {
            Ok((body, used)) if used == record.body.len() => body,
            Ok(_) => return self.fault(FindingKind::BadBody, index, "a body", "bytes behind it"),
            Err(fault) => return self.fault(FindingKind::BadBody, index, "a body", fault.to_string()),
        };
        let Worker { checker, tokens, .. } = worker;
        let mut sum = tokens.sum(&checker.secret, &one.info.identity, index);
        let examined = match body.examine_with(one.commitments, &mut |field, value| sum.add(field, value)) {
            Ok(examined) => examined,
            Err(fault) => {
                let found = body.event_hash();
                if found != record.event {
                    self.fault(
                        FindingKind::EventMismatch,
                        index,
                        record.event.to_string(),
                        found.to_string(),
                    );
                }
                return self.fault(FindingKind::BadBody, index, "a body of this format", fault.to_string());
            }
        };
        if examined.event_hash != record.event {
            return self.fault(
                FindingKind::EventMismatch,
                index,
                record.event.to_string(),
                examined.event_hash.to_string(),
            );
        }
        // A tenant's own classes have codes from 256 on; which name goes with which the policy in force says. The class
        // of an own event follows from its action.
        let class = Class::named(examined.class);
        let class_agrees = match class {
            Some(class) => class.code() == record.class,
            None => record.class >= FIRST_OWN_CLASS_CODE,
        } && (!examined.is_own || class.is_some() && class == class_of(examined.action));
        if !class_agrees {
            self.fault(
                FindingKind::ClassMismatch,
                index,
                match class_of(examined.action).filter(|_| examined.is_own) {
                    Some(class) => format!("class {}, as {} has", class.name(), examined.action),
                    None => format!("the class of code {}", record.class),
                },
                format!("{} and code {}", examined.class, record.class),
            );
        }
        if class_agrees && class.is_none() {
            checked.class_name = Some(examined.class.into());
        }
        if examined.is_own != (record.flags & FLAG_OWN != 0) {
            let expected =
                format!("flags of an event that is{} Varve's own", if examined.is_own { "" } else { " not" });
            self.fault(FindingKind::FlagsMismatch, index, expected, format!("{:#06x}", record.flags));
        }
        for receipt in one.info.receipts_at(index) {
            if receipt.link == one.link && receipt.id != examined.id {
                self.fault(
                    FindingKind::ReceiptMismatch,
                    index,
                    "the id of the event",
                    "a receipt with another id",
                );
            }
        }
        checked.body = BodyState::Present;
        if !examined.withheld.is_empty() {
            checked.body = BodyState::Withheld;
            checked.withheld = examined.withheld;
        }
        checked.occurred_at = examined.occurred_at.map_or(record.recorded_at, |at| at.0);
        if examined.is_own && record.flags & FLAG_OWN != 0 {
            checked.fact = facts::read(&body.to_body(), examined.action).map(Box::new);
        }
        checked.sums = sum.done();
    }
}

/// The entry's bytes, also of a record with flags that no entry may have.
pub(super) fn entry_of(record: &Record, log_id: Hash, index: u64, previous: Hash) -> [u8; ENTRY_BYTES] {
    if record.flags & !FLAGS_KNOWN == 0 {
        return record.entry(log_id, index, previous);
    }
    let known = Record { flags: record.flags & FLAGS_KNOWN, ..record.clone() };
    let mut entry = known.entry(log_id, index, previous);
    entry[58..60].copy_from_slice(&record.flags.to_be_bytes());
    entry
}
