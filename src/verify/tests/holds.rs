//! Legal holds: what may not leave while one is in force, and entries of holds that do not hold.

use std::ops::ControlFlow;

use super::brought::acme;
use super::retention::{DAY, Keeping, Kept, ONE_MONTH};
use super::store::{self, Writing};
use super::*;
use crate::event::catalog::{Value, action};
use crate::event::{Builder, Outcome};
use crate::retention::{
    Certificate, HoldKind, IndexSet, MAX_HOLDS, PlacedHold, Pushed, ReleasedHold, ResolvedHold, SetBuilder,
};
use crate::tlog::chain::FLAG_HELD;

use FindingKind::{BadCertificate, BadHold, EarlyExpiry, FlagsMismatch, HeldExpiry, MissingBody};

pub(super) fn set(members: &[u64]) -> IndexSet {
    let mut set = SetBuilder::new();
    members.iter().for_each(|index| assert_eq!(set.push(*index), Pushed::Taken));
    set.finish().unwrap()
}

/// Entries of holds, and entries that match one.
impl Keeping {
    /// One of Varve's own with flag bit 1.
    pub(super) fn own_flagged(&self, name: &str, facts: Vec<(&'static str, Value)>) -> u64 {
        let builder = Builder::new(name, Outcome::Success);
        let event = facts.into_iter().fold(builder, |builder, (name, value)| builder.fact(name, value));
        let mut item = store::own(&self.writing.log("acme"), event);
        item.flags |= FLAG_HELD;
        self.writing.submit(vec![item], Vec::new())[0].index
    }

    /// An event with flag bit 1.
    pub(super) fn flagged(&self) -> u64 {
        let log = self.writing.log("acme");
        let mut item = store::item(&log, &store::event_json(usize::try_from(log.size()).unwrap()));
        item.flags |= FLAG_HELD;
        self.writing.submit(vec![item], Vec::new())[0].index
    }

    pub(super) fn plain(&self) -> u64 {
        self.writing.events("acme", 1)[0].index
    }

    pub(super) fn placed(&self, kind: HoldKind, extends: bool) -> u64 {
        self.own(action::HOLD_PLACED, PlacedHold { kind, extends }.to_facts())
    }

    pub(super) fn resolved(&self, hold: u64, sets: &[&[u64]]) -> u64 {
        let sets: Vec<IndexSet> = sets.iter().map(|members| set(members)).collect();
        let parts = ResolvedHold::of(hold, &sets, &[]).into_iter();
        parts.map(|part| self.own(action::HOLD_RESOLVED, part.to_facts())).last().unwrap()
    }

    /// Lists bodies that lack disclosures.
    pub(super) fn reduced(&self, hold: u64, members: &[u64]) -> u64 {
        let part = ResolvedHold::of(hold, &[], &[set(members)]).remove(0);
        self.own(action::HOLD_RESOLVED, part.to_facts())
    }

    pub(super) fn released(&self, hold: u64) -> u64 {
        self.own(action::HOLD_RELEASED, ReleasedHold { hold }.to_facts())
    }

    /// A certificate of bodies that says which holds are in force.
    fn expire_under(&self, members: &[u64], holds: &[u64]) -> u64 {
        let certificate = self.certificate(members.iter().copied(), 1);
        self.expire(&Certificate { holds: holds.to_vec(), ..certificate })
    }

    /// Stopped, its journal forgotten, without these bodies.
    fn without(self, indexes: impl IntoIterator<Item = u64>) -> Kept {
        let kept = self.stop();
        kept.forget();
        kept.strip(indexes);
        kept
    }
}

/// With ten events from 2 on, so that the next index is 12.
fn keeping() -> Keeping {
    Keeping::with_events(ONE_MONTH)
}

#[test]
fn what_is_held_is_not_covered() {
    /// What is placed, what is found, how many expired.
    type Case = (fn(&Keeping) -> u64, &'static [(FindingKind, u64)], u64);
    let cases: [Case; 5] = [
        (|keeping| keeping.placed(HoldKind::Filter, true), &[(HeldExpiry, 2), (HeldExpiry, 6)], 0),
        (|keeping| keeping.placed(HoldKind::Indexes, false), &[(HeldExpiry, 2), (HeldExpiry, 6)], 0),
        (
            |keeping| {
                let hold = keeping.placed(HoldKind::Filter, false);
                keeping.resolved(hold, &[&[3], &[7, 8]])
            },
            &[(HeldExpiry, 3)],
            2,
        ),
        (
            |keeping| {
                let hold = keeping.placed(HoldKind::Indexes, false);
                // The first of two parts: nothing is let go of yet.
                let part = ResolvedHold { hold, part: 1, parts: 2, reduced: false, members: Some(set(&[3])) };
                keeping.own(action::HOLD_RESOLVED, part.to_facts())
            },
            &[(HeldExpiry, 2), (HeldExpiry, 6)],
            0,
        ),
        (
            |keeping| {
                let hold = keeping.placed(HoldKind::Filter, true);
                keeping.resolved(hold, &[])
            },
            &[],
            3,
        ),
    ];
    for (case, (place, expected, expired)) in cases.into_iter().enumerate() {
        let keeping = keeping();
        place(&keeping);
        keeping.writing.wait(31 * DAY);
        keeping.expire_under(&[2, 3, 6], &[12]);
        let kept = keeping.without([2, 3, 6]);
        assert_eq!(kept.found(), expected, "{case}");
        assert_eq!(acme(&verify(kept.path())).bodies_expired, expired, "{case}");
    }
    // Of everything, and each entry behind it says so.
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Tenant, true);
    let event = keeping.flagged();
    keeping.writing.wait(31 * DAY);
    let certificate = Certificate { holds: vec![hold], ..keeping.certificate([2, 3, event], 1) };
    keeping.own_flagged(action::RETENTION_EXPIRED, certificate.to_facts());
    let kept = keeping.without([2, 3, event]);
    assert_eq!(kept.found(), [(HeldExpiry, 2), (HeldExpiry, event)]);
}

#[test]
fn a_release_lets_a_later_certificate_cover() {
    for (again, expected) in [(true, vec![]), (false, vec![(HeldExpiry, 3)])] {
        let keeping = keeping();
        let hold = keeping.placed(HoldKind::Indexes, false);
        keeping.resolved(hold, &[&[3]]);
        keeping.writing.wait(31 * DAY);
        keeping.expire_under(&[2, 3], &[hold]);
        keeping.released(hold);
        if again {
            keeping.expire_under(&[3], &[]);
        }
        let kept = keeping.without([2, 3]);
        assert_eq!(kept.found(), expected);
    }
}

#[test]
fn what_a_later_hold_lists_was_still_there() {
    for steps in 0..4 {
        let keeping = keeping();
        keeping.writing.wait(31 * DAY);
        keeping.expire_under(&[2, 3, 4], &[]);
        let hold = keeping.placed(HoldKind::Filter, true);
        keeping.resolved(hold, &[&[3, 7]]);
        if steps == 1 {
            // It does not come out of the hold by being named in it.
            keeping.expire_under(&[3], &[hold]);
        }
        if steps >= 2 {
            keeping.released(hold);
        }
        if steps == 3 {
            keeping.expire_under(&[3], &[]);
        }
        let expected = if steps == 3 { vec![] } else { vec![(HeldExpiry, 3)] };
        let kept = keeping.without([2, 3, 4]);
        assert_eq!(kept.found(), expected, "{steps}");
        let expired = if steps == 3 { 3 } else { 2 };
        assert_eq!(acme(&verify(kept.path())).bodies_expired, expired, "{steps}");
    }
}

/// The verifier asks again whether it was due: the policy of the time of the later certificate counts.
#[test]
fn what_is_owed_again_must_be_due_again() {
    let mut keeping = keeping();
    keeping.writing.wait(31 * DAY);
    keeping.expire_under(&[2, 3], &[]);
    let hold = keeping.placed(HoldKind::Indexes, false);
    keeping.resolved(hold, &[&[2]]);
    keeping.released(hold);
    keeping.policy(r#""security":{"months":3}"#);
    let certificate = keeping.certificate([2], 3);
    keeping.expire(&certificate);
    // Of one that a hold lists and that was not due later, the graver is said.
    let kept = keeping.without([2, 3]);
    assert_eq!(kept.found(), [(HeldExpiry, 2)]);
}

#[test]
fn a_flagged_body_stays_until_every_hold_that_extends_is_released() {
    for (releases, certified, expected) in [
        (0, vec![12, 14], vec![(HeldExpiry, 16)]),
        (1, vec![14], vec![(HeldExpiry, 16)]),
        (2, vec![], vec![]),
    ] {
        let keeping = keeping();
        let holds = [(); 2].map(|()| {
            let hold = keeping.placed(HoldKind::Filter, true);
            keeping.resolved(hold, &[]);
            hold
        });
        assert_eq!((holds, keeping.flagged(), keeping.plain()), ([12, 14], 16, 17));
        keeping.writing.wait(31 * DAY);
        for hold in holds.into_iter().take(releases) {
            keeping.released(hold);
        }
        keeping.expire_under(&[16, 17], &certified);
        let kept = keeping.without([16, 17]);
        assert_eq!(kept.found(), expected, "{releases}");
    }
    // One that does not extend does not hold it.
    let keeping = keeping();
    let extends = keeping.placed(HoldKind::Filter, true);
    keeping.resolved(extends, &[]);
    let closed = keeping.placed(HoldKind::Indexes, false);
    keeping.resolved(closed, &[]);
    let event = keeping.flagged();
    keeping.writing.wait(31 * DAY);
    keeping.released(extends);
    keeping.expire_under(&[event], &[closed]);
    assert_eq!(keeping.without([event]).found(), []);
}

#[test]
fn a_certificate_names_the_holds_in_force() {
    for holds in [vec![], vec![11], vec![12, 13], vec![13]] {
        let keeping = keeping();
        let hold = keeping.placed(HoldKind::Filter, false);
        keeping.resolved(hold, &[]);
        keeping.writing.wait(31 * DAY);
        let at = keeping.expire_under(&[2], &holds);
        assert_eq!(keeping.without([2]).found(), [(MissingBody, 2), (BadCertificate, at)], "{holds:?}");
    }
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Filter, false);
    keeping.released(hold);
    keeping.writing.wait(31 * DAY);
    let at = keeping.expire_under(&[2], &[hold]);
    assert_eq!(keeping.without([2]).found(), [(MissingBody, 2), (BadCertificate, at)]);
}

#[test]
fn flag_bit_1_stands_behind_holds() {
    let keeping = keeping();
    let mut expected = vec![(FlagsMismatch, keeping.flagged())];
    let listed = keeping.placed(HoldKind::Indexes, false);
    // Too many of them harm nobody.
    keeping.flagged();
    let hold = keeping.placed(HoldKind::Filter, true);
    keeping.flagged();
    keeping.plain();
    keeping.released(hold);
    keeping.flagged();
    let all = keeping.placed(HoldKind::Tenant, true);
    keeping.flagged();
    expected.push((FlagsMismatch, keeping.plain()));
    // Its release is behind it and in it; the next entry is not.
    keeping.own_flagged(action::HOLD_RELEASED, ReleasedHold { hold: all }.to_facts());
    keeping.plain();
    keeping.released(listed);
    expected.push((FlagsMismatch, keeping.flagged()));
    assert_eq!(keeping.stop().found(), expected);
    // One behind a hold that does not extend is held by none, nor by one that extends and came later.
    let keeping = self::keeping();
    let listed = keeping.placed(HoldKind::Indexes, false);
    keeping.resolved(listed, &[&[3]]);
    let event = keeping.flagged();
    let hold = keeping.placed(HoldKind::Filter, true);
    keeping.resolved(hold, &[]);
    keeping.writing.wait(31 * DAY);
    keeping.expire_under(&[event], &[listed, hold]);
    assert_eq!(keeping.without([event]).found(), []);
}

#[test]
fn entries_of_a_hold_say_what_the_log_says() {
    type Say = fn(&Keeping) -> u64;
    let part = |keeping: &Keeping, hold, part, parts, members: &[u64]| {
        let resolved = ResolvedHold { hold, part, parts, reduced: false, members: Some(set(members)) };
        keeping.own(action::HOLD_RESOLVED, resolved.to_facts())
    };
    // Behind a hold of indexes at 12, with its first part of three at 13.
    let cases: [Say; 10] = [
        |keeping| keeping.own(action::HOLD_PLACED, vec![("kind", "tenant".into())]),
        |keeping| {
            keeping.own(action::HOLD_PLACED, PlacedHold { kind: HoldKind::Tenant, extends: false }.to_facts())
        },
        |keeping| keeping.own(action::HOLD_RESOLVED, vec![("hold", 12_u64.into())]),
        |keeping| keeping.own(action::HOLD_RELEASED, vec![("hold", "12".into())]),
        |keeping| keeping.released(11),
        |keeping| keeping.released(400),
        |keeping| keeping.resolved(11, &[&[3]]),
        // Its first part again, its third before its second, one that does not ascend.
        |keeping| keeping.resolved(12, &[&[6]]),
        |keeping| {
            let resolved =
                ResolvedHold { hold: 12, part: 3, parts: 3, reduced: false, members: Some(set(&[6])) };
            keeping.own(action::HOLD_RESOLVED, resolved.to_facts())
        },
        |keeping| {
            let resolved =
                ResolvedHold { hold: 12, part: 2, parts: 3, reduced: false, members: Some(set(&[2])) };
            keeping.own(action::HOLD_RESOLVED, resolved.to_facts())
        },
    ];
    for (case, say) in cases.into_iter().enumerate() {
        let keeping = keeping();
        let hold = keeping.placed(HoldKind::Indexes, false);
        part(&keeping, hold, 1, 3, &[3]);
        let at = say(&keeping);
        // It counts for nothing: what follows is in order.
        part(&keeping, hold, 2, 3, &[4]);
        part(&keeping, hold, 3, 3, &[5]);
        keeping.released(hold);
        assert_eq!(keeping.stop().found(), [(BadHold, at)], "{case}");
    }
    // A hold that is resolved, of everything, or over.
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Filter, false);
    keeping.resolved(hold, &[]);
    let again = keeping.resolved(hold, &[]);
    keeping.released(hold);
    let (over, twice) = (keeping.resolved(hold, &[&[3]]), keeping.released(hold));
    let all = keeping.placed(HoldKind::Tenant, true);
    let facts = ResolvedHold::of(all, &[], &[]).remove(0).to_facts();
    keeping.own_flagged(action::HOLD_RESOLVED, facts.clone());
    let of_all = keeping.own_flagged(action::HOLD_RESOLVED, facts);
    let expected = [again, over, twice, of_all].map(|at| (BadHold, at));
    assert_eq!(keeping.stop().found(), expected);
}

#[test]
fn holds_in_force_are_limited() {
    let keeping = keeping();
    let first = keeping.placed(HoldKind::Indexes, false);
    for _ in 1..MAX_HOLDS {
        keeping.placed(HoldKind::Indexes, false);
    }
    let beyond = keeping.placed(HoldKind::Indexes, false);
    keeping.released(first);
    keeping.placed(HoldKind::Indexes, false);
    assert_eq!(keeping.stop().found(), [(BadHold, beyond)]);
}

/// Whether a hold was there cannot be told: nothing is said but that its entry cannot be read.
#[test]
fn behind_an_entry_that_cannot_be_read_nothing_is_held_against_others() {
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Filter, true);
    keeping.resolved(hold, &[&[3]]);
    keeping.flagged();
    keeping.writing.wait(31 * DAY);
    keeping.expire_under(&[2, 3], &[hold]);
    keeping.released(hold);
    let kept = keeping.without([2, 3, hold]);
    assert_eq!(kept.found(), [(MissingBody, hold)]);
}

#[test]
fn early_and_held_are_told_apart() {
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Indexes, false);
    keeping.resolved(hold, &[&[3]]);
    keeping.writing.wait(20 * DAY);
    keeping.expire_under(&[2, 3, 4], &[hold]);
    let kept = keeping.without([2, 3, 4]);
    assert_eq!(kept.found(), [(EarlyExpiry, 2), (HeldExpiry, 3), (EarlyExpiry, 4)]);
}

#[test]
fn a_live_verification_says_the_same_of_holds() {
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Filter, true);
    keeping.resolved(hold, &[&[3]]);
    let event = keeping.flagged();
    keeping.writing.wait(31 * DAY);
    keeping.expire_under(&[2, 3, 4, event], &[hold]);
    keeping.released(400);
    let kept = keeping.without([2, 3, 4, event]);
    let report = verify(kept.path());
    let writing = Writing::open(kept.path(), kept.clock.clone());
    let log = writing.log("acme");
    let live = verify_live(&writing.store, &log, None, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!(live.findings, report.findings);
    assert_eq!((live.finding_count, live.bodies_expired), (3, 2));
    drop(log);
    writing.stop();
}
