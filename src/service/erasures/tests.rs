//! Requests that meet each other, and whose turn it is not: through the service, with a clock of the test's own.

use super::*;
use crate::service::world::{World, of, wait_for};
use crate::service::{BatchMode, Submitted};

/// Gives each tenant an event of each of three persons.
fn filled(world: World, tenants: &[&str]) -> World {
    for (tenant, person) in tenants.iter().flat_map(|tenant| (1..4).map(move |person| (*tenant, person))) {
        let raw = format!(
            r#"{{"action":"order.read","outcome":"success","actor":{{"type":"user","id":"user-{person}"}}}}"#
        );
        let events = [Submitted { raw: raw.as_bytes(), idempotency_key: None }];
        wait_for(world.service().append(&of(tenant), tenant, &events, BatchMode::Atomic, false)).unwrap();
    }
    world
}

fn ask(service: &Service, tenant: &str, person: u32) -> Result<Asked, Error> {
    let body = format!(r#"{{"subject":{{"type":"user","id":"user-{person}"}},"basis":"asked for it"}}"#);
    service.request_erasure(&of(tenant), tenant, body.as_bytes())
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
        let view = service.erasure(&of(tenant), tenant, id).unwrap();
        if view.state == "done" {
            return view;
        }
        assert!(Instant::now() < until, "{view:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_request_whose_person_another_one_took_is_done_too() {
    let world = filled(World::of_two_keys(&["acme"]), &["acme"]);
    let service = world.service();
    let (first, second) = (approval_of(ask(service, "acme", 1)), approval_of(ask(service, "acme", 1)));
    let log = service.0.store.log_of("acme").unwrap();
    let (first_at, second_at) = (log.size() - 2, log.size() - 1);
    // The first lapses, so that the second takes whom it names; then it comes to be done after all, as when it was approved
    // while the second was searched for.
    world.pass_months(1);
    assert_ne!(first.id, second.id);
    service.erase_approved(&log, second_at, "second").unwrap();
    wait_until_done(service, "acme", &second_at.to_string());
    let taken = service.0.store.record(&log, first_at).unwrap().unwrap();
    assert!(person_of(&taken).is_none(), "the second took it");
    service.erase_approved(&log, first_at, "second").unwrap();
    wait_until_done(service, "acme", &first_at.to_string());
}

#[test]
fn what_one_request_meets_keeps_no_other_and_no_other_tenant() {
    let world = filled(World::new(&["acme", "beta"]), &["acme", "beta"]);
    let service = world.service();
    let log = service.0.store.log_of("acme").unwrap();
    // An entry that names nobody, as one that cannot be read: the first event.
    let bad = 1;
    service.erase_approved(&log, bad, "second").unwrap();
    let good = erasure_of(ask(service, "acme", 2));
    let others = erasure_of(ask(service, "beta", 3));
    wait_until_done(service, "acme", &good.id);
    let done = wait_until_done(service, "beta", &others.id);
    assert_eq!(done.detail, None);
    let open: Vec<(u32, u64)> = service.0.store.erasures().into_keys().collect();
    assert_eq!(open, [(log.identity.number, bad)], "the bad one stays open");
    let open = erasure_of(ask(service, "beta", 1));
    assert_eq!(open.detail, None, "the fault of another tenant is not shown: {open:?}");
    let began = Instant::now();
    wait_until_done(service, "beta", &open.id);
    assert!(began.elapsed() < TRY_AGAIN, "nor is it waited for");
}

#[test]
fn a_store_that_is_opened_for_one_act_erases_nothing() {
    let mut world = filled(World::new(&["acme"]), &["acme"]);
    world.close();
    let (data, options) = (world.data(), world.options());
    let service = Service::open_parts(&data, &options, false).unwrap();
    let asked = erasure_of(ask(&service, "acme", 1));
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(service.erasure(&of("acme"), "acme", &asked.id).unwrap().state, "pending");
    service.stop().unwrap();
    drop(service);
    Service::plan(&data, &options).unwrap();
    let service = Service::open(&data, &options).unwrap();
    let done = wait_until_done(&service, "acme", &asked.id);
    assert_eq!((done.disclosures, done.held), (2, 0), "actor of the event, target of the request");
}

#[test]
fn no_tenant_takes_all_the_approvals() {
    let world = World::of_two_keys(&["acme", "beta"]);
    for _ in 0..100 {
        approval_of(ask(world.service(), "acme", 1));
    }
    assert!(ask(world.service(), "acme", 1).is_err_and(|error| error.code == ErrorCode::Busy));
    approval_of(ask(world.service(), "beta", 1));
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
