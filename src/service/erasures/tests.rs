//! Requests that meet each other, and whose turn it is not: through the service, with a clock of the test's own.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::ingest::clock::Clock;
use crate::service::{BatchMode, OpenOptions, Scopes, Submitted};

const DAY: u64 = 86_400_000_000;

struct Hands(AtomicU64);

impl Clock for Hands {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn key(id: &str, tenant: &str) -> Principal {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator);
    let scopes = scopes.fold(Scopes::default(), Scopes::with);
    Principal { key_id: id.into(), tenant: Some(tenant.into()), scopes }
}

fn options(hands: &Arc<Hands>, needs_approval: bool) -> OpenOptions {
    OpenOptions {
        clock: hands.clone(),
        heartbeat_seconds: 0,
        low_water_bytes: 0,
        erasure_needs_approval: needs_approval,
        erasure_pauses: false,
        ..OpenOptions::default()
    }
}

/// A store with events of some persons.
fn made(dir: &Path, needs_approval: bool) -> (Service, Arc<Hands>) {
    let hands = Arc::new(Hands(AtomicU64::new(1_794_300_000_000_000)));
    let options = options(&hands, needs_approval);
    Service::init(dir, Some("test.example"), None, &options).unwrap();
    let service = Service::open(dir, &options).unwrap();
    let scopes = Scopes::default().with(Scope::Operator);
    let operator = Principal { key_id: "0123456789abcdef".into(), tenant: None, scopes };
    for tenant in ["acme", "beta"] {
        service.create_tenant(&operator, tenant).unwrap();
        (1..4).for_each(|person| append(&service, tenant, person));
    }
    (service, hands)
}

fn append(service: &Service, tenant: &str, person: u32) {
    let raw = format!(
        r#"{{"action":"order.read","outcome":"success","actor":{{"type":"user","id":"user-{person}"}}}}"#
    );
    let event = Submitted { raw: raw.as_bytes(), idempotency_key: None };
    let (by, events) = (key("a", tenant), [event]);
    let appended = service.append(&by, tenant, &events, BatchMode::Atomic, false);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appended).unwrap();
}

fn ask(service: &Service, tenant: &str, person: u32) -> Result<Asked, Error> {
    let body = format!(r#"{{"subject":{{"type":"user","id":"user-{person}"}},"basis":"asked for it"}}"#);
    service.request_erasure(&key("asks", tenant), tenant, body.as_bytes())
}

fn approval_of(asked: Result<Asked, Error>) -> ApprovalView {
    match asked.unwrap() {
        Asked::Approval(approval) => approval,
        Asked::Erasure(_) => panic!("a second key is asked for"),
    }
}

fn erasure_of(asked: Result<Asked, Error>) -> ErasureView {
    match asked.unwrap() {
        Asked::Erasure(erasure) => *erasure,
        Asked::Approval(_) => panic!("one key is enough"),
    }
}

fn wait_until_done(service: &Service, tenant: &str, id: &str) -> ErasureView {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        service.begin_erasures();
        let view = service.erasure(&key("asks", tenant), tenant, id).unwrap();
        if view.state == "done" {
            return view;
        }
        assert!(Instant::now() < until, "{view:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_request_whose_person_another_one_took_is_done_too() {
    let dir = tempfile::tempdir().unwrap();
    let (service, hands) = made(dir.path(), true);
    let (first, second) = (approval_of(ask(&service, "acme", 1)), approval_of(ask(&service, "acme", 1)));
    let log = service.0.store.log_of("acme").unwrap();
    let (first_at, second_at) = (log.size() - 2, log.size() - 1);
    // The first lapses, so that the second takes whom it names; then it comes to be done after all, as when it was approved
    // while the second was searched for.
    hands.0.fetch_add(2 * DAY, Ordering::Relaxed);
    assert_ne!(first.id, second.id);
    service.erase_approved(&log, second_at, "second").unwrap();
    wait_until_done(&service, "acme", &second_at.to_string());
    let taken = service.0.store.record(&log, first_at).unwrap().unwrap();
    assert!(person_of(&taken).is_none(), "the second took it");
    service.erase_approved(&log, first_at, "second").unwrap();
    wait_until_done(&service, "acme", &first_at.to_string());
    service.stop().unwrap();
}

#[test]
fn what_one_request_meets_keeps_no_other_and_no_other_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let (service, _) = made(dir.path(), false);
    let log = service.0.store.log_of("acme").unwrap();
    // An entry that names nobody, as one that cannot be read: the first event.
    let bad = 1;
    service.erase_approved(&log, bad, "second").unwrap();
    let good = erasure_of(ask(&service, "acme", 2));
    let others = erasure_of(ask(&service, "beta", 3));
    wait_until_done(&service, "acme", &good.id);
    let done = wait_until_done(&service, "beta", &others.id);
    assert_eq!(done.detail, None);
    assert_eq!(
        service.0.store.erasures().keys().copied().collect::<Vec<_>>(),
        [(log.identity.number, bad)],
        "the bad one stays open"
    );
    let open = erasure_of(ask(&service, "beta", 1));
    assert_eq!(open.detail, None, "the fault of another tenant is not shown: {open:?}");
    service.stop().unwrap();
}

#[test]
fn a_store_that_is_opened_for_one_act_erases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (service, hands) = made(dir.path(), false);
    service.stop().unwrap();
    drop(service);
    let options = options(&hands, false);
    let service = Service::open_parts(dir.path(), &options, false).unwrap();
    let asked = erasure_of(ask(&service, "acme", 1));
    thread::sleep(Duration::from_millis(1_500));
    let by = key("asks", "acme");
    assert_eq!(service.erasure(&by, "acme", &asked.id).unwrap().state, "pending");
    service.stop().unwrap();
    drop(service);
    let plan = Service::plan(dir.path(), &options);
    plan.unwrap();
    let service = Service::open(dir.path(), &options).unwrap();
    let done = wait_until_done(&service, "acme", &asked.id);
    assert_eq!((done.disclosures, done.held), (2, 0), "actor of the event, target of the request");
    service.stop().unwrap();
}

#[test]
fn no_tenant_takes_all_the_approvals() {
    let dir = tempfile::tempdir().unwrap();
    let (service, _) = made(dir.path(), true);
    for _ in 0..100 {
        approval_of(ask(&service, "acme", 1));
    }
    assert!(ask(&service, "acme", 1).is_err_and(|error| error.code == ErrorCode::Busy));
    approval_of(ask(&service, "beta", 1));
    service.stop().unwrap();
}

#[test]
fn what_failed_is_tried_again_ever_less_often() {
    let failure = |times, seconds| {
        let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        Failure { at, times, logs: BTreeSet::new() }.is_to_be_tried_again()
    };
    assert!(!failure(1, 19) && failure(1, 21));
    assert!(!failure(2, 39) && failure(2, 41));
    assert!(!failure(100, 599) && failure(100, 601));
}
