//! What the snapshot says is in force, edited by someone who knows the format; and what stands behind the end of a log.

use std::ops::ControlFlow;

use super::brought::checkpoint_of;
use super::erasures::certificate;
use super::retention::{Keeping, Kept, ONE_MONTH};
use super::store::{Writing, change_page, change_state};
use super::*;
use crate::event::catalog::action;
use crate::ingest::queue::Control;
use crate::retention::HoldKind;
use crate::store::state::{ErasurePhase, State};

use FindingKind::{BadBody, BadEntry, HeadMismatch, MissingBody};

type Edit = fn(&mut State);

impl Keeping {
    /// Closes the log.
    fn closed(&self) -> u64 {
        let size = self.writing.log("acme").size();
        self.own(action::LOG_CLOSED, vec![("size", size.into())])
    }

    /// How far an erasure is, with the entry that says so.
    fn erasure(&self, name: &str, index: u64, phase: ErasurePhase) -> u64 {
        let facts = match phase {
            ErasurePhase::Requested => Vec::new(),
            ErasurePhase::Certified => certificate(index, &[(3, "/actor")]).to_facts(),
            ErasurePhase::Done => vec![("request", index.into())],
        };
        let log = self.writing.log("acme").identity.number;
        self.own_with(name, facts, vec![Control::Erasure { log, index, phase }])
    }
}

/// What was found of a log of which one was edited so, in a full run and in one from a checkpoint of all of it.
#[track_caller]
fn found_alike(
    kept: &Kept,
    signer: &dyn crate::tlog::key::Signer,
) -> Vec<(FindingKind, Option<u64>, String)> {
    let scratch = tempfile::tempdir().unwrap();
    let since = checkpoint_of(scratch.path(), kept.path(), "acme", signer);
    let [full, resumed] = [None, Some(since)].map(|since_checkpoint| {
        let report = verify_with(kept.path(), Options { since_checkpoint, ..Options::default() });
        let found = report.findings.into_iter().map(|found| (found.kind, found.index, found.expected));
        found.collect::<Vec<_>>()
    });
    assert_eq!(full, resumed);
    full
}

#[test]
fn what_is_in_force_is_what_the_entries_say() {
    let edits: [(Edit, &str); 6] = [
        (|state| state.logs.get_mut(&1).unwrap().head.holds.clear(), "holds none by the head"),
        (|state| state.logs.get_mut(&1).unwrap().head.holds = vec![2, 14], "holds 2 14 by the head"),
        (|state| state.logs.get_mut(&1).unwrap().head.policy = None, "policy none by the head"),
        (|state| state.logs.get_mut(&1).unwrap().head.policy = Some(1), "policy 1 by the head"),
        (|state| state.logs.get_mut(&1).unwrap().head.closed = None, "closed by none by the head"),
        (|state| state.logs.get_mut(&1).unwrap().head.closed = Some(3), "closed by 3 by the head"),
    ];
    for (edit, expected) in [(None, None)].into_iter().chain(edits.map(|(e, s)| (Some(e), Some(s)))) {
        let mut keeping = Keeping::with_events(ONE_MONTH);
        keeping.policy(r#""security":{"months":3}"#);
        let over = keeping.placed(HoldKind::Indexes, false);
        let hold = keeping.placed(HoldKind::Indexes, false);
        keeping.resolved(hold, &[&[3]]);
        keeping.released(over);
        keeping.closed();
        let signer = keeping.writing.signers["acme"].clone();
        let size = keeping.writing.log("acme").size();
        let kept = keeping.stop();
        if let Some(edit) = edit {
            change_state(kept.path(), edit);
        }
        let expected = expected.map(|expected: &str| (HeadMismatch, Some(size), expected.to_owned()));
        assert_eq!(found_alike(&kept, &*signer), Vec::from_iter(expected));
    }
}

/// What it may have put into force is not known.
#[test]
fn behind_an_entry_that_cannot_be_read_the_snapshot_is_believed() {
    let keeping = Keeping::with_events(ONE_MONTH);
    let hold = keeping.placed(HoldKind::Indexes, false);
    let signer = keeping.writing.signers["acme"].clone();
    let kept = keeping.stop();
    kept.forget();
    change_page(kept.path(), "2026-10", 1, hold, |page, at| page.records[at].body = vec![7; 40]);
    let found: Vec<_> =
        found_alike(&kept, &*signer).into_iter().map(|(kind, index, _)| (kind, index)).collect();
    assert_eq!(found, [(BadBody, Some(hold))]);
}

#[test]
fn open_erasures_are_those_that_the_entries_say() {
    use ErasurePhase::{Certified, Done, Requested};
    let edits: [(Edit, &[u64]); 8] = [
        (|_| (), &[]),
        // The one that is certified, and the one that was approved.
        (
            |state| {
                let _ = state.erasures.remove(&(1, 12));
            },
            &[12],
        ),
        (
            |state| {
                let _ = state.erasures.remove(&(1, 14));
            },
            &[14],
        ),
        // Of one that was only asked for it is not known.
        (
            |state| {
                let _ = state.erasures.remove(&(1, 16));
            },
            &[],
        ),
        (
            |state| {
                let _ = state.erasures.insert((1, 16), Certified);
            },
            &[16],
        ),
        (
            |state| {
                let _ = state.erasures.insert((1, 17), Requested);
            },
            &[17],
        ),
        (
            |state| {
                let _ = state.erasures.insert((1, 3), Requested);
            },
            &[3],
        ),
        (
            |state| {
                let _ = state.erasures.insert((1, 900), Requested);
            },
            &[900],
        ),
    ];
    for (case, (edit, expected)) in edits.into_iter().enumerate() {
        let keeping = Keeping::with_events(ONE_MONTH);
        let asked = |keeping: &Keeping| keeping.erasure(action::ERASURE_REQUESTED, u64::MAX, Requested);
        assert_eq!(asked(&keeping), 12);
        keeping.erasure(action::ERASURE_COMPLETED, 12, Certified);
        keeping.own(action::ERASURE_REQUESTED, Vec::new());
        let log = keeping.writing.log("acme").identity.number;
        let approved = Control::Erasure { log, index: 14, phase: Requested };
        keeping.own_with(action::ERASURE_APPROVED, vec![("request", 14_u64.into())], vec![approved]);
        assert_eq!((asked(&keeping), asked(&keeping)), (16, 17));
        keeping.erasure(action::ERASURE_COMPLETED, 17, Certified);
        keeping.erasure(action::ERASURE_DONE, 17, Done);
        let signer = keeping.writing.signers["acme"].clone();
        let kept = keeping.stop();
        // As long as the journal says it as well, the snapshot says nothing.
        kept.forget();
        change_state(kept.path(), edit);
        let found: Vec<_> =
            found_alike(&kept, &*signer).into_iter().map(|(kind, index, _)| (kind, index)).collect();
        let expected: Vec<_> = expected.iter().map(|index| (HeadMismatch, Some(*index))).collect();
        assert_eq!(found, expected, "{case}");
    }
    let keeping = Keeping::with_events(ONE_MONTH);
    let kept = keeping.stop();
    change_state(kept.path(), |state| {
        let _ = state.erasures.insert((9, 0), Requested);
    });
    assert_found(&verify(kept.path()), &[(HeadMismatch, "", None)]);
}

#[test]
fn behind_the_end_of_a_log_no_event_stands() {
    let keeping = Keeping::with_events(ONE_MONTH);
    keeping.closed();
    let hold = keeping.placed(HoldKind::Indexes, false);
    keeping.released(hold);
    let first = keeping.plain();
    keeping.plain();
    assert_eq!(keeping.stop().found(), [(BadEntry, first)]);
}

/// What is absent and never covered is told, however fast the log grows; what left behind the first look is not judged.
#[test]
fn a_live_verification_of_a_damaged_log_that_grows_ends() {
    let keeping = Keeping::with_events(ONE_MONTH);
    let kept = keeping.stop();
    kept.forget();
    kept.strip([9]);
    let writing = Writing::open(kept.path(), kept.clock.clone());
    let log = writing.log("acme");
    let size = log.size();
    let mut calls = 0;
    let live = verify_live(&writing.store, &log, None, &mut |_| {
        calls += 1;
        let mut item = store::item(&log, &store::event_json(100 + calls));
        item.body.clear();
        writing.submit(vec![item], Vec::new());
        if calls < 50 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let live = live.unwrap().expect("two looks, and not one for each entry that came");
    let found: Vec<_> = live.findings.iter().map(|found| (found.kind, found.index)).collect();
    assert_eq!(found, [(MissingBody, Some(9))]);
    assert!(live.entries > size && calls < 5, "{} {calls}", live.entries);
    drop(log);
    writing.stop();
}
