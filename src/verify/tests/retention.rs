//! Bodies that expired: what covers them, and what only seems to.

use std::ops::ControlFlow;

use super::brought::{acme, checkpoint_of};
use super::store::{self, TestClock, Writing, change_page, open_layer};
use super::*;
use crate::event::catalog::{Value, action};
use crate::event::{Body, Builder, Outcome};
use crate::ingest::queue::Control;
use crate::journal;
use crate::retention::{Certificate, Policy, PolicyChange, Pushed, SetBuilder, add_months, month_code};
use crate::store::seal::Seal;

pub(super) const DAY: u64 = 86_400;

/// A store whose tenant has policies and certificates. Entry 0 of its log is the genesis; of the others those with an
/// index that five divides are of class processing, all else is security.
pub(super) struct Keeping {
    dir: tempfile::TempDir,
    pub(super) writing: Writing,
    policies: Vec<(u64, Policy)>,
}

/// The store, stopped.
pub(super) struct Kept {
    dir: tempfile::TempDir,
    pub(super) clock: TestClock,
}

impl Keeping {
    fn new() -> Keeping {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant("acme");
        Keeping { dir, writing, policies: Vec::new() }
    }

    /// With a first policy at 1 and ten events behind it.
    pub(super) fn with_events(classes: &str) -> Keeping {
        let mut keeping = Keeping::new();
        keeping.policy(classes);
        keeping.writing.events("acme", 10);
        keeping
    }

    pub(super) fn own(&self, name: &str, facts: Vec<(&'static str, Value)>) -> u64 {
        self.own_with(name, facts, Vec::new())
    }

    /// With what it changes of the state.
    pub(super) fn own_with(
        &self,
        name: &str,
        facts: Vec<(&'static str, Value)>,
        controls: Vec<Control>,
    ) -> u64 {
        let builder = Builder::new(name, Outcome::Success);
        let event = facts.into_iter().fold(builder, |builder, (name, value)| builder.fact(name, value));
        self.writing.own("acme", event, controls).index
    }

    fn changed(&self, classes: &str) -> Policy {
        let change = PolicyChange::parse(format!("{{\"classes\":{{{classes}}}}}").as_bytes()).unwrap();
        change.apply(self.policies.last().map(|(_, policy)| policy), 0).unwrap()
    }

    pub(super) fn policy(&mut self, classes: &str) -> u64 {
        let policy = self.changed(classes);
        let before = self.policies.last().map(|(index, policy)| (*index, policy));
        let index = self.own(action::RETENTION_POLICY_CHANGED, policy.to_facts(before));
        self.policies.push((index, policy));
        index
    }

    /// A certificate for bodies of October in class security.
    pub(super) fn certificate(&self, members: impl IntoIterator<Item = u64>, months: u16) -> Certificate {
        let mut set = SetBuilder::new();
        members.into_iter().for_each(|index| assert_eq!(set.push(index), Pushed::Taken));
        Certificate {
            layer: crate::retention::parse_layer("2026-10").unwrap(),
            class: "security".to_owned(),
            class_code: 1,
            months,
            members: set.finish().unwrap(),
            policy: self.policies.last().map_or(1, |(index, _)| *index),
            holds: Vec::new(),
            clock_confirmed: None,
        }
    }

    pub(super) fn expire(&self, certificate: &Certificate) -> u64 {
        self.own(action::RETENTION_EXPIRED, certificate.to_facts())
    }

    pub(super) fn stop(self) -> Kept {
        let Keeping { dir, writing, .. } = self;
        Kept { dir, clock: writing.stop() }
    }
}

impl Kept {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes bodies out of the layer of October and seals it anew, as compaction does.
    pub(super) fn strip(&self, indexes: impl IntoIterator<Item = u64>) {
        for index in indexes {
            change_page(self.path(), "2026-10", 1, index, |page, at| page.records[at].body.clear());
        }
        self.seal();
    }

    /// The same with disclosures alone.
    pub(super) fn erase(&self, disclosures: &[(u64, &str)]) {
        for (index, path) in disclosures {
            change_page(self.path(), "2026-10", 1, *index, |page, at| {
                let mut body = Body::decode(&page.records[at].body).unwrap().0;
                let before = body.disclosures.len();
                body.disclosures.retain(|disclosure| disclosure.path != *path);
                assert_eq!(body.disclosures.len(), before - 1, "{path}");
                page.records[at].body.clear();
                body.encode(&mut page.records[at].body);
            });
        }
        self.seal();
    }

    fn seal(&self) {
        let (layer, kv) = open_layer(self.path(), "2026-10");
        let seal = Seal::of(&layer, &|| false).unwrap().unwrap();
        drop((layer, kv));
        seal.write(&self.path().join("layers/2026-10.g1")).unwrap();
    }

    /// Lets the journal go of what the layers have.
    pub(super) fn forget(&self) {
        // Ten entries of 60 KB fill the segment, so that there is one to let go of.
        let writing = Writing::open(self.path(), self.clock.clone());
        for _ in 0..10 {
            let event = Builder::new(action::SERVICE_STARTED, Outcome::Success);
            writing.own("_system", event.metadata("note", "x".repeat(60_000)), Vec::new());
        }
        writing.stop();
        let scan = journal::Scan::read(&self.path().join("journal"), &store::options()).unwrap();
        let head = *scan.head();
        let mut journal = scan.into_writer().unwrap();
        journal.set_head(head.applied, head.state_digest, true).unwrap();
        journal.release(head.applied).unwrap();
        drop(journal);
        let scan = journal::Scan::read(&self.path().join("journal"), &store::options()).unwrap();
        assert!(scan.oldest() > Some(1), "{:?}", scan.oldest());
    }

    pub(super) fn found(&self) -> Vec<(FindingKind, u64)> {
        found(&verify(self.path()))
    }
}

fn found(report: &Report) -> Vec<(FindingKind, u64)> {
    report.findings.iter().map(|finding| (finding.kind, finding.index.unwrap_or(u64::MAX))).collect()
}

pub(super) const ONE_MONTH: &str = r#""security":{"months":1}"#;
const THREE_MONTHS: &str = r#""security":{"months":3}"#;

use FindingKind::{BadCertificate, BadPolicy, ClassMismatch, EarlyExpiry, JournalMismatch, MissingBody};

#[test]
fn what_a_certificate_covers_is_counted_and_no_finding() {
    // The journal still has the bodies; or it has not.
    for forgotten in [false, true] {
        let keeping = Keeping::with_events(ONE_MONTH);
        keeping.writing.wait(31 * DAY);
        let at = keeping.expire(&keeping.certificate([2, 3, 4, 6], 1));
        keeping.writing.events("acme", 5);
        let signer = keeping.writing.signers["acme"].clone();
        let kept = keeping.stop();
        if forgotten {
            kept.forget();
        }
        kept.strip([2, 3, 6]);
        let report = verify(kept.path());
        assert_intact(&report);
        // The certificate named one more, which is there still.
        assert_eq!((acme(&report).bodies_expired, acme(&report).bodies_present), (3, at + 6 - 3));
        assert!(
            report.to_text().contains(", 3 expired, 0 with erased parts (0 disclosures)"),
            "{}",
            report.to_text()
        );
        assert!(report.to_text().contains("bodies in all: "), "{}", report.to_text());
        assert!(report.to_json().contains("\"bodies_expired\":3"), "{}", report.to_json());
        // Below a checkpoint bodies are counted as ever.
        let scratch = tempfile::tempdir().unwrap();
        let since = checkpoint_of(scratch.path(), kept.path(), "acme", &*signer);
        let report =
            verify_with(kept.path(), Options { since_checkpoint: Some(since), ..Options::default() });
        assert_intact(&report);
        assert_eq!(acme(&report).bodies_expired, 3);
    }
}

#[test]
fn a_body_must_be_due_at_the_time_of_its_certificate() {
    for (days, holds) in [(29, false), (31, true)] {
        let keeping = Keeping::with_events(ONE_MONTH);
        keeping.writing.wait(days * DAY);
        keeping.expire(&keeping.certificate([2, 3, 4, 6], 1));
        let kept = keeping.stop();
        kept.forget();
        kept.strip([2, 3, 6]);
        let expected = if holds { vec![] } else { vec![(EarlyExpiry, 2), (EarlyExpiry, 6)] };
        assert_eq!(kept.found(), expected, "{days}");
        assert_eq!(acme(&verify(kept.path())).bodies_expired, if holds { 3 } else { 0 });
    }
}

/// To the microsecond, and each body by itself.
#[test]
fn a_certificate_may_hold_for_one_body_and_not_for_the_next() {
    let keeping = Keeping::with_events(ONE_MONTH);
    let log = keeping.writing.log("acme");
    let at = |index| keeping.writing.store.record(&log, index).unwrap().unwrap().record.recorded_at;
    let due = [3, 4].map(|index| add_months(at(index), 1).unwrap());
    assert!(due[0] < due[1]);
    // The certificate gets the first moment at which entry 3 is due, or one soon behind it.
    let now = keeping.writing.clock.now();
    keeping.writing.wait_micros(due[0] - now - 200);
    let certificate = keeping.certificate([2, 3, 4, 6], 1);
    let mut last = keeping.expire(&certificate);
    while at(last) < due[0] {
        last = keeping.expire(&certificate);
    }
    let covered =
        [2, 3, 4, 6].into_iter().filter(|index| add_months(at(*index), 1).unwrap() <= at(last)).count();
    assert!((2..4).contains(&covered), "{covered}");
    drop(log);
    let kept = keeping.stop();
    kept.forget();
    kept.strip([2, 3, 4, 6]);
    let report = verify(kept.path());
    assert_eq!(acme(&report).bodies_expired, covered as u64);
    assert!(report.findings.iter().all(|finding| finding.kind == EarlyExpiry), "{}", report.to_text());
}

#[test]
fn what_no_certificate_names_is_missing() {
    for forgotten in [false, true] {
        let keeping = Keeping::with_events(ONE_MONTH);
        keeping.writing.wait(31 * DAY);
        keeping.expire(&keeping.certificate([2, 4], 1));
        let kept = keeping.stop();
        if forgotten {
            kept.forget();
        }
        kept.strip([2, 3, 4, 5]);
        // The journal shows that it was taken out.
        let journal = |index| (!forgotten).then_some((JournalMismatch, index));
        let expected = [3, 5].map(|index| [Some((MissingBody, index)), journal(index)]);
        assert_eq!(kept.found(), expected.into_iter().flatten().flatten().collect::<Vec<_>>());
    }
}

#[test]
fn a_certificate_covers_nothing_at_or_behind_its_own_index() {
    let mut keeping = Keeping::new();
    keeping.policy(ONE_MONTH);
    let at = keeping.expire(&keeping.certificate([1, 3], 1));
    assert_eq!(at, 2);
    keeping.writing.events("acme", 5);
    keeping.writing.wait(31 * DAY);
    keeping.writing.events("acme", 1);
    let kept = keeping.stop();
    kept.forget();
    kept.strip([3]);
    assert_eq!(kept.found(), [(BadCertificate, 2), (MissingBody, 3)]);
}

#[test]
fn a_policy_that_lengthens_binds_what_is_there() {
    for (months_said, days, expected) in [
        (3, 31, vec![(EarlyExpiry, 2)]),
        (1, 31, vec![(MissingBody, 2), (BadCertificate, 13)]),
        (3, 95, vec![]),
        (1, 95, vec![(MissingBody, 2), (BadCertificate, 13)]),
    ] {
        let mut keeping = Keeping::with_events(ONE_MONTH);
        assert_eq!(keeping.policy(THREE_MONTHS), 12);
        keeping.writing.wait(days * DAY);
        assert_eq!(keeping.expire(&keeping.certificate([2], months_said)), 13);
        let kept = keeping.stop();
        kept.forget();
        kept.strip([2]);
        assert_eq!(kept.found(), expected, "{months_said} {days}");
    }
    // One that comes behind the certificate takes nothing back.
    let mut keeping = Keeping::with_events(ONE_MONTH);
    keeping.writing.wait(31 * DAY);
    keeping.expire(&keeping.certificate([2], 1));
    keeping.policy(THREE_MONTHS);
    let kept = keeping.stop();
    kept.strip([2]);
    assert_eq!(kept.found(), []);
}

#[test]
fn a_policy_that_shortens_binds_later_entries_alone() {
    for (days, expected) in [(31, vec![(EarlyExpiry, 11)]), (95, vec![])] {
        let mut keeping = Keeping::with_events(THREE_MONTHS);
        assert_eq!(keeping.policy(ONE_MONTH), 12);
        keeping.writing.events("acme", 2);
        keeping.writing.wait(days * DAY);
        keeping.expire(&keeping.certificate([11, 13, 14], 3));
        let kept = keeping.stop();
        kept.forget();
        kept.strip([11, 13, 14]);
        assert_eq!(kept.found(), expected, "{days}");
    }
}

#[test]
fn a_later_certificate_covers_what_an_earlier_one_named_too_soon() {
    let keeping = Keeping::with_events(ONE_MONTH);
    keeping.writing.wait(20 * DAY);
    keeping.expire(&keeping.certificate([2, 3], 1));
    keeping.writing.wait(20 * DAY);
    keeping.expire(&keeping.certificate([3], 1));
    let kept = keeping.stop();
    kept.forget();
    kept.strip([2, 3]);
    assert_eq!(kept.found(), [(EarlyExpiry, 2)]);
}

#[test]
fn the_first_policy_binds_what_is_before_it_and_without_one_nothing_is_due() {
    let mut keeping = Keeping::new();
    keeping.writing.events("acme", 5);
    keeping.writing.wait(31 * DAY);
    let early = keeping.expire(&keeping.certificate([2], 1));
    keeping.policy(ONE_MONTH);
    keeping.expire(&keeping.certificate([1, 3], 1));
    let kept = keeping.stop();
    kept.forget();
    kept.strip([1, 2, 3]);
    assert_eq!(kept.found(), [(MissingBody, 2), (BadCertificate, early)]);
}

#[test]
fn a_certificate_names_bodies_of_its_class_and_month_alone() {
    let two = r#""security":{"months":1},"processing":{"months":2}"#;
    let keeping = || {
        let keeping = Keeping::with_events(two);
        keeping.writing.wait(31 * DAY);
        keeping
    };
    // Processing is kept for two months; as security it would be due.
    let one = keeping();
    one.expire(&one.certificate([4, 5, 6], 1));
    let kept = one.stop();
    kept.forget();
    kept.strip([4, 5, 6]);
    assert_eq!(kept.found(), [(MissingBody, 5)]);
    // Each class has its own.
    for (days, expected) in [(0, vec![(EarlyExpiry, 5), (EarlyExpiry, 10)]), (31, vec![])] {
        let both = keeping();
        both.writing.wait(days * DAY);
        both.expire(&both.certificate([4, 6], 1));
        let processing =
            Certificate { class: "processing".to_owned(), class_code: 2, ..both.certificate([5, 10], 2) };
        both.expire(&processing);
        let kept = both.stop();
        kept.forget();
        kept.strip([4, 5, 6, 10]);
        assert_eq!(kept.found(), expected, "{days}");
    }
    // Of other months: that of a layer without a member, one that does not exist, and one that ends before them.
    for layer in ["2026-11", "2027-03"] {
        let other = keeping();
        let certificate = other.certificate([4], 1);
        let certificate = Certificate { layer: crate::retention::parse_layer(layer).unwrap(), ..certificate };
        let at = other.expire(&certificate);
        let kept = other.stop();
        kept.forget();
        kept.strip([4]);
        assert_eq!(kept.found(), [(MissingBody, 4), (BadCertificate, at)], "{layer}");
    }
    // A member of the next month.
    let later = keeping();
    let events = later.writing.events("acme", 1);
    let month = month_code(events[0].record.recorded_at).unwrap();
    assert_ne!(crate::retention::layer_text(month), "2026-10");
    let at = later.expire(&later.certificate([4, events[0].index], 1));
    let kept = later.stop();
    kept.forget();
    kept.strip([4]);
    assert_eq!(kept.found(), [(MissingBody, 4), (BadCertificate, at)]);
}

#[test]
fn a_certificate_says_what_the_log_says() {
    let sound = || {
        let mut keeping = Keeping::with_events(r#""security":{"months":1},"billing":{"months":1}"#);
        keeping.policy(r#""billing":{"months":2}"#);
        keeping.writing.wait(31 * DAY);
        keeping
    };
    let changes: [fn(&mut Certificate); 5] = [
        |certificate| certificate.policy = 1,
        |certificate| certificate.policy = 13,
        |certificate| certificate.months = 2,
        |certificate| (certificate.class, certificate.class_code) = ("billing".to_owned(), 257),
        |certificate| (certificate.class, certificate.class_code) = ("other".to_owned(), 256),
    ];
    for change in changes {
        let keeping = sound();
        let mut certificate = keeping.certificate([2], 1);
        change(&mut certificate);
        let at = keeping.expire(&certificate);
        // A body that is there is no less there; a sound certificate behind it still covers what is not.
        keeping.expire(&keeping.certificate([3], 1));
        let kept = keeping.stop();
        kept.forget();
        kept.strip([3]);
        assert_eq!(kept.found(), [(BadCertificate, at)], "{certificate:?}");
    }
    let keeping = sound();
    let at = keeping.own(action::RETENTION_EXPIRED, vec![("layer", "2026-10".into())]);
    let kept = keeping.stop();
    kept.forget();
    kept.strip([3]);
    assert_eq!(kept.found(), [(MissingBody, 3), (BadCertificate, at)]);
}

#[test]
fn what_is_permanent_is_never_covered() {
    let keeping = Keeping::with_events(ONE_MONTH);
    keeping.writing.wait(31 * DAY);
    let mut facts = keeping.certificate([1], 1).to_facts();
    facts.retain(|(name, _)| *name != "class");
    facts.push(("class", "permanent 0".into()));
    let at = keeping.own(action::RETENTION_EXPIRED, facts);
    // Of another class it is not named, and the policy itself is gone with its body.
    let kept = keeping.stop();
    kept.forget();
    kept.strip([1]);
    assert_eq!(kept.found(), [(MissingBody, 1), (BadCertificate, at)]);
}

#[test]
fn a_policy_follows_the_one_before() {
    // Each: what the second policy says of itself and of the one before.
    type Said = fn(&Keeping) -> Vec<(&'static str, Value)>;
    let billing = r#""security":{"months":1},"billing":{"months":1}"#;
    let cases: [Said; 6] = [
        |keeping| keeping.changed(THREE_MONTHS).to_facts(None),
        |keeping| keeping.changed(THREE_MONTHS).to_facts(Some((0, &keeping.policies[0].1))),
        |keeping| keeping.changed(THREE_MONTHS).to_facts(Some((1, &keeping.changed(THREE_MONTHS)))),
        |keeping| Policy::default().to_facts(Some((1, &keeping.policies[0].1))),
        |keeping| {
            // Its code goes to another name.
            let other = PolicyChange::parse(br#"{"classes":{"other":{"months":1}}}"#).unwrap();
            other.apply(None, 0).unwrap().to_facts(Some((1, &keeping.policies[0].1)))
        },
        |_| vec![("classes", Value::List(Vec::new()))],
    ];
    for (case, said) in cases.into_iter().enumerate() {
        let keeping = Keeping::with_events(billing);
        let at = keeping.own(action::RETENTION_POLICY_CHANGED, said(&keeping));
        let kept = keeping.stop();
        assert_eq!(kept.found(), [(BadPolicy, at)], "{case}");
    }
    let mut keeping = Keeping::with_events(billing);
    keeping.policy(THREE_MONTHS);
    keeping.policy(r#""other":{"months":2}"#);
    assert_eq!(keeping.stop().found(), []);
}

#[test]
fn the_name_of_an_own_class_is_the_one_the_policy_gave_its_code() {
    let event = |keeping: &Keeping, name: &str, code: u16| {
        let log = keeping.writing.log("acme");
        let id = log.size();
        let json = format!(r#"{{"id":"own-{id}","class":"{name}","action":"a.b","outcome":"success"}}"#);
        let mut item = store::item(&log, &json);
        item.class = code;
        keeping.writing.submit(vec![item], Vec::new())[0].index
    };
    let mut keeping = Keeping::new();
    let before = event(&keeping, "billing", 256);
    keeping.policy(r#""security":{"months":1},"billing":{"months":1}"#);
    event(&keeping, "billing", 256);
    let other = event(&keeping, "other", 256);
    let unknown = event(&keeping, "billing", 257);
    let built_in = event(&keeping, "security", 256);
    let kept = keeping.stop();
    assert_eq!(kept.found(), [before, other, unknown, built_in].map(|index| (ClassMismatch, index)));
    // Such a class expires like any other.
    let mut keeping = Keeping::new();
    keeping.policy(r#""billing":{"months":1}"#);
    let own = event(&keeping, "billing", 256);
    keeping.writing.wait(31 * DAY);
    let certificate = keeping.certificate([own], 1);
    keeping.expire(&Certificate { class: "billing".to_owned(), class_code: 256, ..certificate });
    let kept = keeping.stop();
    kept.forget();
    kept.strip([own]);
    assert_eq!(kept.found(), []);
}

/// The job of a server says of a log what `varve verify` says.
#[test]
fn a_live_verification_says_the_same() {
    for days in [29, 31] {
        let keeping = Keeping::with_events(ONE_MONTH);
        keeping.writing.wait(days * DAY);
        keeping.expire(&keeping.certificate([2, 3, 6], 1));
        let kept = keeping.stop();
        kept.forget();
        kept.strip([2, 3, 6, 9]);
        let report = verify(kept.path());
        let writing = Writing::open(kept.path(), kept.clock.clone());
        let log = writing.log("acme");
        let live =
            verify_live(&writing.store, &log, None, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        assert_eq!((live.findings, live.entries), (report.findings.clone(), log.size()), "{days}");
        assert_eq!(live.bodies_expired, acme(&report).bodies_expired);
        assert_eq!(live.bodies_expired, if days == 31 { 3 } else { 0 });
        drop(log);
        writing.stop();
    }
}
