//! The parallel part: what can be said of a page without the pages before it.
//!
//! A page carries the link of the entry before its first record, so entries, links and leaf hashes follow
//! from the page alone; that the carried link is the right one is for the combiner to say. Signatures are
//! checked under keys known of the log so far; which key is current at an index, again, the combiner says.

use parking_lot::RwLock;

use super::facts::{self, Fact};
use super::finding::FindingKind;
use super::index::{self, Contribution, Secret};
use super::journal_tail::Tail;
use crate::event::Body;
use crate::event::catalog::Class;
use crate::store::idtable::Location;
use crate::store::page;
use crate::store::record::Record;
use crate::store::state::LogIdentity;
use crate::tlog::chain::{self, ENTRY_BYTES, FLAG_OWN, FLAGS_KNOWN};
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature, VerifyingKey};

/// A log as every thread sees it.
pub(super) struct LogInfo {
    pub(super) identity: LogIdentity,
    pub(super) origin: String,
    /// Below this index only chain and tree are recomputed.
    pub(super) chained_below: u64,
    /// Keys that may have signed entries: the combiner adds rotations as it comes by them.
    pub(super) keys: RwLock<Vec<(KeyId, VerifyingKey)>>,
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
    pub(super) body: BodyState,
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

impl Checker {
    /// Checks a stored page.
    pub(super) fn page(&self, log: usize, info: &LogInfo, first_index: u64, bytes: &[u8]) -> Checked {
        match page::decode(bytes) {
            Ok(page) => self.run(log, info, first_index, page.previous, &page.records, true),
            Err(error) => Checked {
                log,
                first_index,
                previous: Hash::ZERO,
                records: Vec::new(),
                faults: vec![Fault {
                    kind: FindingKind::PageUnreadable,
                    index: first_index,
                    expected: "the page that was written".to_owned(),
                    found: error.to_string(),
                }],
                signatures_checked: 0,
            },
        }
    }

    /// Checks consecutive records. `stored` ones are held against the journal.
    pub(super) fn run(
        &self,
        log: usize,
        info: &LogInfo,
        first_index: u64,
        previous: Hash,
        records: &[Record],
        stored: bool,
    ) -> Checked {
        let keys = info.keys.read().clone();
        let mut checked = Checked {
            log,
            first_index,
            previous,
            records: Vec::with_capacity(records.len()),
            faults: Vec::new(),
            signatures_checked: 0,
        };
        let mut link = previous;
        for (index, record) in (first_index..).zip(records) {
            let entry = entry_of(record, info.identity.log_id, index, link);
            link = chain::link(&entry);
            if stored
                && let Some(journal) = self.tail.record(info.identity.number, index)
                && journal != record
            {
                checked.fault(
                    FindingKind::JournalMismatch,
                    index,
                    "the record that the journal has",
                    "another record in the layer",
                );
            }
            checked.record(self, info, &keys, index, record, &entry, link);
        }
        checked
    }
}

impl Checked {
    fn fault(
        &mut self,
        kind: FindingKind,
        index: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.faults.push(Fault { kind, index, expected: expected.into(), found: found.into() });
    }

    #[expect(clippy::too_many_arguments, reason = "what is known of one record")]
    fn record(
        &mut self,
        checker: &Checker,
        info: &LogInfo,
        keys: &[(KeyId, VerifyingKey)],
        index: u64,
        record: &Record,
        entry: &[u8; ENTRY_BYTES],
        link: Hash,
    ) {
        let chained_only = index < info.chained_below;
        let mut checked = CheckedRecord {
            recorded_at: record.recorded_at,
            occurred_at: record.recorded_at,
            key_id: record.key_id,
            class: record.class,
            link,
            leaf_hash: chain::leaf_hash(entry),
            signed: Signed::Unchecked,
            body: BodyState::Unchecked,
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
        if checker.signatures && !chained_only {
            checked.signed = self.signature(keys, record, &link);
        }
        // Keys change by entries of class permanent, so those are read even where the rest is not.
        let is_key_entry = record.flags & FLAG_OWN != 0 && record.class == Class::Permanent.code();
        if !chained_only || is_key_entry {
            self.body(checker, info, index, record, &mut checked);
            if chained_only {
                checked.body = BodyState::Unchecked;
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

    fn body(
        &mut self,
        checker: &Checker,
        info: &LogInfo,
        index: u64,
        record: &Record,
        checked: &mut CheckedRecord,
    ) {
        if record.body.is_empty() {
            checked.body = BodyState::Absent;
            return;
        }
        checked.body = BodyState::Faulty;
        let body = match Body::decode(&record.body) {
            Ok((body, used)) if used == record.body.len() => body,
            Ok(_) => return self.fault(FindingKind::BadBody, index, "a body", "bytes behind it"),
            Err(fault) => return self.fault(FindingKind::BadBody, index, "a body", fault.to_string()),
        };
        let examined = match body.examine() {
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
        // A tenant's own classes have codes from 256 on; their names are the tenant's.
        let class_agrees = match Class::named(examined.class) {
            Some(class) => class.code() == record.class,
            None => record.class >= crate::event::catalog::FIRST_OWN_CLASS_CODE,
        };
        if !class_agrees {
            self.fault(
                FindingKind::ClassMismatch,
                index,
                format!("the class of code {}", record.class),
                examined.class.to_owned(),
            );
        }
        if examined.is_own != (record.flags & FLAG_OWN != 0) {
            let expected =
                format!("flags of an event that is{} Varve's own", if examined.is_own { "" } else { " not" });
            self.fault(FindingKind::FlagsMismatch, index, expected, format!("{:#06x}", record.flags));
        }
        checked.body = BodyState::Present;
        if !examined.withheld.is_empty() {
            checked.body = BodyState::Withheld;
            let found = format!("none at {}", examined.withheld.join(" "));
            self.fault(
                FindingKind::MissingDisclosure,
                index,
                "a disclosure, or an entry that says it was erased",
                found,
            );
        }
        checked.occurred_at = examined.occurred_at.map_or(record.recorded_at, |at| at.0);
        if examined.is_own {
            checked.fact = facts::read(&body, examined.action).map(Box::new);
        }
        let location = Location { log: info.identity.number, index };
        checked.sums = index::contribution(&checker.secret, &info.identity.index_key, &body, location);
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
