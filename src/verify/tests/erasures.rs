//! Disclosures that were erased: what covers them, and what only seems to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::brought::{acme, checkpoint_of};
use super::holds::set;
use super::retention::{DAY, Keeping, Kept, ONE_MONTH};
use super::store::Writing;
use super::*;
use crate::event::catalog::{Value, action};
use crate::ingest::queue::Control;
use crate::retention::{ErasureCertificate, HoldKind};
use crate::store::state::ErasurePhase;

use FindingKind::{BadErasure, HeldExpiry, JournalMismatch, MissingBody, MissingDisclosure};

/// The certificate for these, behind a request at `request`.
pub(super) fn certificate(request: u64, disclosures: &[(u64, &str)]) -> ErasureCertificate {
    let mut paths: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (index, path) in disclosures {
        paths.entry((*path).to_owned()).or_default().push(*index);
    }
    ErasureCertificate::of(&set(&[request]), &paths, 0).remove(0)
}

impl Keeping {
    fn requested(&self) -> u64 {
        self.own(action::ERASURE_REQUESTED, Vec::new())
    }

    /// Asks for an erasure and certifies it; the index of the certificate.
    fn erased(&self, disclosures: &[(u64, &str)]) -> u64 {
        let request = self.requested();
        let control = Control::Erasure {
            log: self.writing.log("acme").identity.number,
            index: request,
            phase: ErasurePhase::Certified,
        };
        self.own_with(action::ERASURE_COMPLETED, certificate(request, disclosures).to_facts(), vec![control])
    }

    /// Stopped, its journal forgotten, without these disclosures.
    fn lacking(self, disclosures: &[(u64, &str)]) -> Kept {
        let kept = self.stop();
        kept.forget();
        kept.erase(disclosures);
        kept
    }
}

/// With ten events from 2 on, so that the next index is 12.
fn keeping() -> Keeping {
    Keeping::with_events(ONE_MONTH)
}

/// Of three records; one with its id of the request, which the id table still has.
const GONE: [(u64, &str); 5] =
    [(2, "/actor"), (3, "/actor"), (2, "/context"), (4, "/metadata"), (4, "/targets/1")];

#[test]
fn what_a_certificate_names_is_counted_and_no_finding() {
    // The journal still has the disclosures; or it has not.
    for forgotten in [false, true] {
        let keeping = keeping();
        // It names one more, which is there still.
        keeping.erased(&[&GONE[..], &[(6, "/targets/1")]].concat());
        let signer = keeping.writing.signers["acme"].clone();
        let size = keeping.writing.log("acme").size();
        let kept = keeping.stop();
        if forgotten {
            kept.forget();
        }
        kept.erase(&GONE);
        let report = verify(kept.path());
        assert_intact(&report);
        let log = acme(&report);
        assert_eq!((log.disclosures_erased, log.bodies_erased, log.bodies_present), (5, 3, size));
        assert!(report.to_text().contains("3 with erased parts (5 disclosures)"), "{}", report.to_text());
        assert!(report.to_text().contains("; 5 disclosures erased"), "{}", report.to_text());
        assert!(report.to_json().contains("\"disclosures_erased\":5"), "{}", report.to_json());
        let scratch = tempfile::tempdir().unwrap();
        let since = checkpoint_of(scratch.path(), kept.path(), "acme", &*signer);
        assert_intact(&verify_with(
            kept.path(),
            Options { since_checkpoint: Some(since), ..Options::default() },
        ));
    }
}

#[test]
fn what_no_certificate_names_is_missing() {
    for forgotten in [false, true] {
        let keeping = keeping();
        // The place of another record, and another place of the record.
        keeping.erased(&[(2, "/actor"), (3, "/context")]);
        let kept = keeping.stop();
        if forgotten {
            kept.forget();
        }
        kept.erase(&[(2, "/actor"), (3, "/actor"), (2, "/context"), (3, "/context")]);
        let journal = |index| (!forgotten).then_some((JournalMismatch, index));
        let expected = [2, 3].map(|index| [Some((MissingDisclosure, index)), journal(index)]);
        assert_eq!(kept.found(), expected.into_iter().flatten().flatten().collect::<Vec<_>>());
        assert_eq!(acme(&verify(kept.path())).disclosures_erased, 2);
    }
}

#[test]
fn consecutive_entries_give_one_finding() {
    let keeping = keeping();
    let gone = [(2, "/actor"), (3, "/actor"), (4, "/actor"), (6, "/actor"), (3, "/context"), (4, "/context")];
    let kept = keeping.lacking(&gone);
    let report = verify(kept.path());
    let found: Vec<&str> = report.findings.iter().map(|finding| finding.found.as_str()).collect();
    assert_eq!(
        found,
        ["none at /actor of 3 entries", "none at /context of 2 entries", "none at /actor of 1 entries"]
    );
    assert_eq!(kept.found(), [(MissingDisclosure, 2), (MissingDisclosure, 3), (MissingDisclosure, 6)]);
}

#[test]
fn what_is_held_is_not_erased() {
    let all = [(2, "/actor"), (3, "/actor"), (3, "/context")];
    // Named while held; the same and named again once it was released; named before and listed later as whole; released
    // and named; named before and listed later as what lacks disclosures.
    for case in [0, 1, 2, 3, 5] {
        let keeping = keeping();
        if case == 2 || case == 5 {
            keeping.erased(&all);
        }
        let hold = keeping.placed(HoldKind::Indexes, false);
        if case == 5 {
            keeping.reduced(hold, &[3])
        } else {
            keeping.resolved(hold, &[&[3]])
        };
        match case {
            0 => {
                keeping.erased(&all);
            }
            1 => {
                keeping.erased(&all);
                keeping.released(hold);
                keeping.erased(&all[1..]);
            }
            2 | 5 => {
                keeping.released(hold);
            }
            _ => {
                keeping.released(hold);
                keeping.erased(&all);
            }
        }
        let kept = keeping.lacking(&all);
        // One for each path.
        let expected = if case % 2 == 0 { vec![(HeldExpiry, 3), (HeldExpiry, 3)] } else { vec![] };
        assert_eq!(kept.found(), expected, "{case}");
        let erased = if case % 2 == 0 { 1 } else { 3 };
        assert_eq!(acme(&verify(kept.path())).disclosures_erased, erased, "{case}");
    }
    // By its flag.
    let keeping = keeping();
    let hold = keeping.placed(HoldKind::Filter, true);
    keeping.resolved(hold, &[]);
    let events = [keeping.flagged(), keeping.plain()];
    let gone = events.map(|index| (index, "/actor"));
    keeping.erased(&gone);
    assert_eq!(keeping.lacking(&gone).found(), [(HeldExpiry, events[0])]);
}

#[test]
fn a_certificate_that_breaks_the_format_names_nothing() {
    let gone = [(3, "/actor")];
    type Change = fn(&mut Vec<(&'static str, Value)>);
    let cases: [Change; 4] = [
        |facts| facts.retain(|(name, _)| *name != "requests"),
        |facts| facts.push(("note", "x".into())),
        |facts| facts.iter_mut().filter(|(name, _)| *name == "count").for_each(|fact| fact.1 = 2_u64.into()),
        |facts| facts.iter_mut().filter(|(name, _)| *name == "part").for_each(|fact| fact.1 = 2_u64.into()),
    ];
    for (case, change) in cases.into_iter().enumerate() {
        let keeping = keeping();
        let request = keeping.requested();
        let mut facts = certificate(request, &gone).to_facts();
        change(&mut facts);
        let at = keeping.own(action::ERASURE_COMPLETED, facts);
        assert_eq!(keeping.lacking(&gone).found(), [(MissingDisclosure, 3), (BadErasure, at)], "{case}");
    }
    // Members and requests are below it.
    for (request, member) in [(13, 3), (12, 13), (12, 14)] {
        let keeping = keeping();
        assert_eq!(keeping.requested(), 12);
        let facts = certificate(request, &[(3, "/actor"), (member.max(4), "/actor")]).to_facts();
        let at = keeping.own(action::ERASURE_COMPLETED, facts);
        keeping.writing.events("acme", 2);
        assert_eq!(at, 13);
        assert_eq!(keeping.lacking(&gone).found(), [(MissingDisclosure, 3), (BadErasure, at)], "{member}");
    }
}

/// Who asked is an entry that asks, in a run from a checkpoint too: another that is there is none.
#[test]
fn a_certificate_names_entries_that_ask() {
    for name in [action::ERASURE_DONE, action::SERVICE_STARTED] {
        let keeping = keeping();
        let request = keeping.own(name, Vec::new());
        let signer = keeping.writing.signers["acme"].clone();
        let at = keeping.own(action::ERASURE_COMPLETED, certificate(request, &GONE[..1]).to_facts());
        let kept = keeping.stop();
        let scratch = tempfile::tempdir().unwrap();
        let since = checkpoint_of(scratch.path(), kept.path(), "acme", &*signer);
        for since_checkpoint in [None, Some(since)] {
            let report = verify_with(kept.path(), Options { since_checkpoint, ..Options::default() });
            assert_found(&report, &[(BadErasure, "acme", Some(at))]);
        }
    }
    // One whose body is gone may have asked.
    let keeping = keeping();
    let request = keeping.requested();
    keeping.own(action::ERASURE_COMPLETED, certificate(request, &GONE[..1]).to_facts());
    keeping.writing.wait(31 * DAY);
    keeping.expire(&keeping.certificate([request], 1));
    let kept = keeping.lacking(&GONE[..1]);
    kept.strip([request]);
    assert_eq!(kept.found(), []);
}

#[test]
fn a_body_that_is_gone_altogether_is_for_a_certificate_of_expiry() {
    for expires in [false, true] {
        let keeping = keeping();
        keeping.erased(&[(2, "/actor"), (3, "/actor")]);
        keeping.writing.wait(31 * DAY);
        if expires {
            keeping.expire(&keeping.certificate([3], 1));
        }
        let kept = keeping.lacking(&[(2, "/actor")]);
        kept.strip([3]);
        assert_eq!(kept.found(), if expires { vec![] } else { vec![(MissingBody, 3)] });
    }
}

/// The job of a server says the same, and reads on for a certificate that comes while it runs.
#[test]
fn a_live_verification_says_the_same_of_erasures() {
    let gone = [(2, "/actor"), (3, "/actor"), (3, "/context")];
    let keeping = keeping();
    keeping.erased(&gone[..2]);
    let kept = keeping.lacking(&gone);
    let report = verify(kept.path());
    let writing = Writing::open(kept.path(), kept.clock.clone());
    let log = writing.log("acme");
    let live = verify_live(&writing.store, &log, None, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((&live.findings, live.disclosures_erased), (&report.findings, 2));
    assert_eq!(live.findings.len(), 1);
    let mut is_first = true;
    let live = verify_live(&writing.store, &log, None, &mut |_| {
        if std::mem::take(&mut is_first) {
            let facts = certificate(12, &gone[2..]).to_facts().into_iter();
            let event = crate::event::Builder::new(action::ERASURE_COMPLETED, crate::event::Outcome::Success);
            let event = facts.fold(event, |event, (name, value)| event.fact(name, value));
            writing.own("acme", event, Vec::new());
        }
        ControlFlow::Continue(())
    });
    let live = live.unwrap().unwrap();
    assert!(live.valid, "{:?}", live.findings);
    assert_eq!((live.disclosures_erased, live.entries), (3, log.size()));
    drop(log);
    writing.stop();
}
