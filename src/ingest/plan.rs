//! Planning a group: indexes, stamps, commitments, links. Pure: no clock, no I/O, no key is used.

use std::collections::HashMap;
use std::sync::Arc;

use super::prepare::Prepared;
use super::queue::{Control, Placed, Submission};
use crate::store::idtable::Location;
use crate::store::keyfile::LogSigner;
use crate::store::layer_id::LayerId;
use crate::store::log::{IndexKeys, Log};
use crate::store::matcher::Matcher;
use crate::store::recent::{Claim, Claims};
use crate::store::record::Record;
use crate::store::state::{ApiKey, ErasurePhase, Head, LogIdentity};
use crate::tlog::chain::{self, FLAG_HELD, FLAG_OWN};
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature, Signer as _};

/// Where a log will stand when everything planned is durable. Owned by the sequencer alone.
pub struct PlannedHead {
    /// The log.
    pub log: Arc<Log>,
    /// Next index.
    pub size: u64,
    /// Link of the newest entry.
    pub link: Hash,
    /// `recorded_at` of the newest entry.
    pub recorded_at: u64,
    /// Signs the next entry.
    pub signer: Arc<LogSigner>,
    /// Its key id.
    pub key_id: KeyId,
    /// Holds that extend: index and what they look for.
    pub holds: Vec<(u64, Matcher)>,
    /// Whether only Varve's own entries are taken.
    pub is_closed: bool,
}

/// A record that has its place but no signature yet.
pub struct PlannedRecord {
    /// Which log, as a position in `Group::logs`.
    pub slot: usize,
    /// Signs it.
    pub signer: Arc<LogSigner>,
    /// Leaf index.
    pub index: u64,
    /// Link of the entry before.
    pub previous: Hash,
    /// Link of this entry.
    pub link: Hash,
    /// Leaf hash; filled in when it is signed.
    pub leaf_hash: Hash,
    /// The entry's bytes.
    pub entry: [u8; chain::ENTRY_BYTES],
    /// The record; its signature is zero until it is signed.
    pub record: Record,
    /// Index tokens.
    pub keys: IndexKeys,
}

/// What one submission is answered once the group is durable.
pub enum Answer {
    /// A planned record, as a position in `Group::records`.
    Record(usize),
    /// Decided already.
    Decided(Placed),
}

/// Everything that one frame makes true.
#[derive(Default)]
pub struct Group {
    /// The logs that the group touches.
    pub logs: Vec<Arc<Log>>,
    /// Key current after the group, by slot.
    pub keys_after: Vec<[u8; 32]>,
    /// Records in the order they were planned.
    pub records: Vec<PlannedRecord>,
    /// Logs that come to be.
    pub new_logs: Vec<Arc<Log>>,
    /// API keys made or changed.
    pub api_keys: Vec<ApiKey>,
    /// Keys that changed: log, index of the first entry they sign, public key.
    pub rotations: Vec<(u32, u64, [u8; 32])>,
    /// Erasures that came further: log, index of the entry that asked, phase.
    pub erasures: Vec<(u32, u64, ErasurePhase)>,
    /// Bytes of bodies and records.
    pub bytes: usize,
    /// Whether the journal lets go of all that was before the group.
    pub wipes_journal: bool,
    slots: HashMap<u32, usize>,
}

/// All planned heads.
pub struct Planner {
    instance: String,
    heads: HashMap<u32, PlannedHead>,
}

impl Planner {
    /// A planner for an instance, no log known.
    pub fn new(instance: &str) -> Planner {
        Planner { instance: instance.to_owned(), heads: HashMap::new() }
    }

    /// Makes a log known as it stands.
    pub fn add(&mut self, log: Arc<Log>, head: &Head, signer: Arc<LogSigner>) {
        let key_id = self.key_id(&log.identity, &signer);
        let number = log.identity.number;
        let planned = PlannedHead {
            log,
            size: head.size,
            link: head.link,
            recorded_at: head.recorded_at,
            signer,
            key_id,
            holds: Vec::new(),
            is_closed: head.closed.is_some(),
        };
        self.heads.insert(number, planned);
    }

    /// Makes a hold known that is in force and extends.
    pub fn add_hold(&mut self, log: u32, hold: u64, matcher: Matcher) {
        if let Some(head) = self.heads.get_mut(&log) {
            head.holds.push((hold, matcher));
        }
    }

    /// The latest stamp that a submission would be given at `now`.
    pub fn latest_stamp(&self, submission: &Submission, now: u64) -> u64 {
        let count = submission.items.len() as u64;
        let newest = submission
            .items
            .iter()
            .filter_map(|item| self.heads.get(&item.log))
            .map(|head| head.recorded_at)
            .max();
        now.max(newest.unwrap_or(0)) + count
    }

    /// Plans one submission into the group and says what to answer, one answer an item.
    ///
    /// Nothing of an atomic submission is planned when one of its items is refused.
    pub fn plan(
        &mut self,
        group: &mut Group,
        claims: &mut Claims<'_>,
        submission: Submission,
        now: u64,
        frame: u64,
    ) -> Vec<Answer> {
        let mut decisions = decide(claims, &submission);
        for (item, decision) in submission.items.iter().zip(&mut decisions) {
            // Whoever looks again finds the log closed.
            let is_closed = self.heads.get(&item.log).is_some_and(|head| head.is_closed);
            if is_closed && item.flags & FLAG_OWN == 0 {
                *decision = Claim::LookAgain;
            }
        }
        let has_moved = |control: &Control| {
            let Control::CloseLog { log, size } = control else { return false };
            self.heads.get(log).is_none_or(|head| head.size != *size)
        };
        if submission.controls.iter().any(has_moved) {
            decisions.iter_mut().for_each(|decision| *decision = Claim::LookAgain);
        }
        if submission.atomic && decisions.contains(&Claim::LookAgain) {
            let answer = |decision| match decision {
                Claim::LookAgain => Answer::Decided(Placed::LookAgain),
                Claim::New => Answer::Decided(Placed::NotTried),
            };
            return decisions.into_iter().map(answer).collect();
        }
        let mut rotations = Vec::new();
        let mut api_keys = Vec::new();
        let mut behind = Vec::new();
        for control in submission.controls {
            match control {
                Control::CreateLog { identity, signer } => {
                    let log = Arc::new(Log::new(identity, Head::empty(signer.public())));
                    group.new_logs.push(log.clone());
                    self.add(log, &Head::empty(signer.public()), signer);
                }
                Control::ApiKey(key) => api_keys.push(key),
                Control::RotateKey { log, signer } => rotations.push((log, signer)),
                // Looked at where groups are made, before this one began.
                Control::BeginPart => {}
                Control::WipeJournal => group.wipes_journal = true,
                control => behind.push(control),
            }
        }
        let mut answers: Vec<Answer> = Vec::with_capacity(submission.items.len());
        let mut first_index = None;
        for (item, decision) in submission.items.into_iter().zip(decisions) {
            let answer = match decision {
                Claim::LookAgain => Answer::Decided(Placed::LookAgain),
                Claim::New => {
                    let position = self.place(group, claims, item, now, frame);
                    first_index = first_index.or(Some(group.records[position].index));
                    Answer::Record(position)
                }
            };
            answers.push(answer);
        }
        for (log, signer) in rotations {
            self.rotate(group, log, signer);
        }
        for control in behind {
            self.take(group, control, first_index.unwrap_or(0));
        }
        for mut key in api_keys {
            if key.entry_index == u64::MAX {
                key.entry_index = first_index.unwrap_or(0);
            }
            group.api_keys.push(key);
        }
        answers
    }

    fn place(
        &mut self,
        group: &mut Group,
        claims: &mut Claims<'_>,
        item: Prepared,
        now: u64,
        frame: u64,
    ) -> usize {
        let head = self.heads.get_mut(&item.log).expect("a caller holds the log, so it is known here");
        let slot = group.slot(head);
        let recorded_at = now.max(head.recorded_at + 1);
        let is_held = head.holds.iter().any(|(_, matcher)| matcher.matches(&item.keys, recorded_at));
        let record = Record {
            recorded_at,
            key_id: head.key_id,
            class: item.class,
            flags: item.flags | if is_held { FLAG_HELD } else { 0 },
            event: item.event,
            signature: Signature([0; 64]),
            body: item.body,
        };
        let (index, previous) = (head.size, head.link);
        let entry = record.entry(head.log.identity.log_id, index, previous);
        let link = chain::link(&entry);
        head.size += 1;
        head.link = link;
        head.recorded_at = record.recorded_at;
        claims.take(&item.keys, Location { log: item.log, index }, frame);
        group.bytes += record.encoded_len();
        let signer = head.signer.clone();
        group.records.push(PlannedRecord {
            slot,
            signer,
            index,
            previous,
            link,
            leaf_hash: Hash::ZERO,
            entry,
            record,
            keys: item.keys,
        });
        group.records.len() - 1
    }

    /// Takes in what a submission changes for what comes behind it; `first` is the index of its first item.
    fn take(&mut self, group: &mut Group, control: Control, first: u64) {
        match control {
            Control::PlaceHold { log, matcher: Some(matcher) } => self.add_hold(log, first, matcher),
            Control::ReleaseHold { log, hold } => {
                if let Some(head) = self.heads.get_mut(&log) {
                    head.holds.retain(|(index, _)| *index != hold);
                }
            }
            Control::CloseLog { log, .. } => {
                if let Some(head) = self.heads.get_mut(&log) {
                    head.is_closed = true;
                }
            }
            Control::Erasure { log, index, phase } => {
                group.erasures.push((log, if index == u64::MAX { first } else { index }, phase));
            }
            _ => {}
        }
    }

    fn rotate(&mut self, group: &mut Group, log: u32, signer: Arc<LogSigner>) {
        let identity = &self.heads[&log].log.identity;
        let key_id = self.key_id(identity, &signer);
        let head = self.heads.get_mut(&log).expect("looked up above");
        let slot = group.slot(head);
        group.keys_after[slot] = signer.public();
        group.rotations.push((log, head.size, signer.public()));
        head.key_id = key_id;
        head.signer = signer;
    }

    fn key_id(&self, identity: &LogIdentity, signer: &LogSigner) -> KeyId {
        signer.verifying_key().key_id(&crate::store::read::origin_of(&self.instance, identity))
    }
}

impl Group {
    /// Whether the group changes nothing: it then needs no frame.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.new_logs.is_empty()
            && self.api_keys.is_empty()
            && self.rotations.is_empty()
            && self.erasures.is_empty()
    }

    /// Newest stamp in the group.
    pub fn newest_stamp(&self) -> u64 {
        self.records.iter().map(|record| record.record.recorded_at).max().unwrap_or(0)
    }

    /// The month of a stamp. Panics beyond year 9999, which the clock check at start excludes.
    pub fn month(stamp: u64) -> LayerId {
        LayerId::of(stamp).expect("the clock is checked at start")
    }

    fn slot(&mut self, head: &PlannedHead) -> usize {
        *self.slots.entry(head.log.identity.number).or_insert_with(|| {
            self.logs.push(head.log.clone());
            self.keys_after.push(head.signer.public());
            self.logs.len() - 1
        })
    }
}

/// Looks every item's id up. Items of one submission have different ids: the caller sees to that.
fn decide(claims: &Claims<'_>, submission: &Submission) -> Vec<Claim> {
    submission.items.iter().map(|item| claims.look(&item.keys.id, submission.epoch)).collect()
}
