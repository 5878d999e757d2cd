//! Legal holds of a log while it is walked: what was held at which entry (docs/format/holds.md).
//!
//! Memory: the holds in force, 64 at most, with their lists; a list that is not dense takes 16 bytes a run, one that is
//! takes a bit an entry. What released holds listed need not be kept: it was held against what was covered when it came.

use std::collections::BTreeMap;

use super::{Context, Walk};
use crate::event::catalog::Class;
use crate::retention::{Hold, HoldKind, MAX_HOLDS, PlacedHold, Refusal, ReleasedHold, ResolvedHold};
use crate::tlog::chain::{FLAG_HELD, FLAG_OWN};
use crate::verify::check::{BodyState, CheckedRecord};
use crate::verify::finding::FindingKind;

/// The holds in force, by index.
#[derive(Default)]
pub(super) struct Holds {
    in_force: BTreeMap<u64, Hold>,
    /// What a permanent entry said cannot be read: it may have been of a hold.
    pub(super) is_torn: bool,
}

impl Holds {
    /// Indexes of the holds in force, ascending.
    pub(super) fn indexes(&self) -> Vec<u64> {
        self.in_force.keys().copied().collect()
    }

    /// Whether one of them holds what is at `index`.
    pub(super) fn hold(&self, index: u64, is_flagged: bool) -> bool {
        self.in_force.values().any(|hold| hold.holds(index, is_flagged))
    }

    fn unknown(&self, name: &str, hold: u64) -> Refusal {
        Refusal { pointer: format!("/{name}"), what: format!("a hold in force, which {hold} is not") }
    }
}

impl Walk {
    /// Whether all holds are known. Where entries are missing, or one cannot be read, nothing is claimed that a hold or
    /// its release could refute.
    pub(super) fn knows_holds(&self) -> bool {
        self.complete && !self.holds.is_torn
    }

    /// Flag bit 1 stands behind a hold alone, and behind one of everything always (§2). One that stands behind a hold that
    /// does not extend holds nothing and harms nobody: who could not read that hold took it for one of everything.
    pub(super) fn flags(&mut self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        let is_flagged = record.flags & FLAG_HELD != 0;
        if self.knows_holds() && (is_flagged || !self.holds.in_force.is_empty()) {
            let in_force = &self.holds.in_force;
            let is_of_all = |hold: &Hold| hold.placed.kind == HoldKind::Tenant;
            let expected = match is_flagged {
                true if in_force.is_empty() => Some("no flag bit 1, as no hold is in force"),
                false if in_force.values().any(is_of_all) => {
                    Some("flag bit 1, as a hold of everything is in force")
                }
                _ => None,
            };
            if let Some(expected) = expected {
                context.add(FindingKind::FlagsMismatch, index, expected, format!("{:#06x}", record.flags));
            }
        }
        let is_unread = matches!(record.body, BodyState::Absent | BodyState::Faulty);
        self.holds.is_torn |=
            is_unread && record.flags & FLAG_OWN != 0 && record.class == Class::Permanent.code();
    }

    /// An entry that begins a hold.
    pub(super) fn hold_placed(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        read: &Result<PlacedHold, Refusal>,
    ) {
        match read {
            // Where a release can be missing, the limit says nothing; memory keeps to it all the same.
            Ok(_) if self.holds.in_force.len() >= MAX_HOLDS => {
                if self.knows_holds() {
                    let what = format!("{MAX_HOLDS} holds in force at most");
                    bad_hold(context, index, &Refusal { pointer: String::new(), what });
                }
            }
            Ok(placed) => drop(self.holds.in_force.insert(index, Hold::new(index, *placed))),
            Err(refusal) => bad_hold(context, index, refusal),
        }
    }

    /// An entry that lists members of a hold. Each body was there: what a certificate said of it before does not count. Of disclosures a list of whole bodies says the same.
    pub(super) fn hold_resolved(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        read: &Result<ResolvedHold, Refusal>,
    ) {
        let resolved = match read {
            Ok(resolved) => resolved,
            Err(refusal) => return bad_hold(context, index, refusal),
        };
        let known = self.knows_holds();
        let taken = match self.holds.in_force.get_mut(&resolved.hold) {
            Some(hold) => hold.resolve(resolved),
            None => Err(self.holds.unknown("hold", resolved.hold)),
        };
        match (taken, &resolved.members) {
            (Err(refusal), _) if known => bad_hold(context, index, &refusal),
            (Ok(()), Some(members)) if known => {
                self.retained.absences.owe_again(context.pool, members);
                if !resolved.reduced {
                    self.erased.absences.owe_again(context.pool, members);
                }
            }
            _ => {}
        }
    }

    /// An entry that ends a hold.
    pub(super) fn hold_released(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        read: &Result<ReleasedHold, Refusal>,
    ) {
        match read {
            Ok(ReleasedHold { hold }) => {
                if self.holds.in_force.remove(hold).is_none() && self.knows_holds() {
                    bad_hold(context, index, &self.holds.unknown("hold", *hold));
                }
            }
            Err(refusal) => bad_hold(context, index, refusal),
        }
    }
}

fn bad_hold(context: &mut Context<'_>, index: u64, refusal: &Refusal) {
    context.add(FindingKind::BadHold, index, "an entry of a hold whose facts hold", refusal.to_string());
}
