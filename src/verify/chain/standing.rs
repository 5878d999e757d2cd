//! What the snapshot says of a log beside its entries, against what these say: where the log stands, and what is in force
//! there. The snapshot has no key: who edits it could drop a hold from it, or open a closed log.
//!
//! Memory: an index for each hold in force, 64 at most.

use super::{Context, Walk};
use crate::event::catalog::Class;
use crate::retention::MAX_HOLDS;
use crate::store::state::Head;
use crate::tlog::chain::FLAG_OWN;
use crate::tlog::hash::Hash;
use crate::verify::check::CheckedRecord;
use crate::verify::facts::Fact;
use crate::verify::finding::FindingKind;

/// Where a log stands, as the snapshot has it.
pub(in crate::verify) struct Standing {
    link: Hash,
    recorded_at: u64,
    key: [u8; 32],
    root: Hash,
    policy: Option<u64>,
    holds: Vec<u64>,
    closed: Option<u64>,
}

impl Standing {
    /// What a head says.
    pub(in crate::verify) fn of(head: &Head) -> Standing {
        Standing {
            link: head.link,
            recorded_at: head.recorded_at,
            key: head.key,
            root: head.frontier.root(),
            policy: head.policy,
            holds: head.holds.clone(),
            closed: head.closed,
        }
    }
}

/// The same as the entries so far have it, read as whoever serves the log reads them (store.md §2): an entry of a hold that
/// breaks the format counts here too.
#[derive(Default)]
pub(super) struct Noted {
    policy: Option<u64>,
    holds: Vec<u64>,
    /// More holds than a log may have: not all are kept.
    has_more: bool,
    closed: Option<u64>,
    /// The first entry that closed the log, and whether what stands behind it was told.
    closed_first: Option<u64>,
    is_told: bool,
}

impl Noted {
    fn take(&mut self, index: u64, fact: Option<&Fact>) {
        match fact {
            Some(Fact::Policy(_)) => self.policy = Some(index),
            Some(Fact::HoldPlaced(_)) if self.holds.len() >= MAX_HOLDS => self.has_more = true,
            Some(Fact::HoldPlaced(_)) => self.holds.push(index),
            Some(Fact::HoldReleased(Ok(released))) => self.holds.retain(|hold| *hold != released.hold),
            Some(Fact::Closed) => {
                self.closed = Some(index);
                self.closed_first = self.closed_first.or(self.closed);
            }
            _ => {}
        }
    }
}

impl Walk {
    /// Takes in what an entry of Varve's own puts into force. Behind the end of a log no other entry stands: that is told
    /// once.
    pub(super) fn note(&mut self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        if record.flags & FLAG_OWN != 0 {
            if record.class == Class::Permanent.code() {
                self.noted.take(index, record.fact.as_deref());
            }
        } else if let Some(closed) = self.noted.closed_first.filter(|_| !self.noted.is_told) {
            self.noted.is_told = true;
            let expected = format!("entries of Varve's own alone, as entry {closed} closed the log");
            context.add(FindingKind::BadEntry, index, expected, "an event of a service");
        }
    }

    /// Holds what the snapshot says at this size against the entries below it.
    pub(super) fn compare_standing(
        &self,
        context: &mut Context<'_>,
        at: u64,
        standing: &Standing,
        root: Hash,
    ) {
        let entry = |index: Option<u64>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
        let list = |holds: &[u64]| match holds {
            [] => "none".to_owned(),
            holds => holds.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
        };
        let key = self.key.map_or_else(String::new, |key| Hash(key.bytes).to_string());
        let mut pairs = vec![
            ("link", standing.link.to_string(), self.link.to_string()),
            ("recorded_at", standing.recorded_at.to_string(), self.recorded_at.to_string()),
            ("root", standing.root.to_string(), root.to_string()),
            ("key", Hash(standing.key).to_string(), key),
        ];
        // An entry that cannot be read, which is a finding already, may have put something into force.
        if self.knows_holds() {
            pairs.push(("policy", entry(standing.policy), entry(self.noted.policy)));
            pairs.push(("closed by", entry(standing.closed), entry(self.noted.closed)));
            if !self.noted.has_more {
                pairs.push(("holds", list(&standing.holds), list(&self.noted.holds)));
            }
        }
        for (what, said, found) in pairs {
            if said != found {
                let expected = format!("{what} {said} by the head");
                context.add(FindingKind::HeadMismatch, at, expected, found);
            }
        }
    }
}
