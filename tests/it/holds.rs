//! Legal holds: what is held does not leave, whoever asks, until two keys agree.

use std::time::Duration;

use chrono::Months;
use serde_json::{Value, json};
use varve::service::{ConfirmClock, ErrorCode, HoldView, Principal};

use crate::world::*;

pub(crate) fn another_of(tenant: &str) -> Principal {
    Principal { key_id: "aaaabbbbccccdddd".into(), ..of(tenant) }
}

impl World {
    pub(crate) fn hold(&self, tenant: &str, what: &Value) -> HoldView {
        let mut wanted = json!({"reason": "a case", "case": "C-1"});
        wanted.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        self.service().place_hold(&of(tenant), tenant, wanted.to_string().as_bytes()).unwrap()
    }

    pub(crate) fn release(&self, tenant: &str, hold: &str) {
        let approval = self.service().release_hold(&of(tenant), tenant, hold).unwrap();
        assert_eq!(approval.state, "pending");
        let refused = self.service().approve(&of(tenant), &approval.id).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Forbidden, "one key is not two");
        let foreign = self.service().approve(&another_of("nobody"), &approval.id).unwrap_err();
        assert_eq!(foreign.code, ErrorCode::NotFound);
        let done = self.service().approve(&another_of(tenant), &approval.id).unwrap();
        assert_eq!(done.state, "approved");
        let again = self.service().approve(&another_of(tenant), &approval.id).unwrap_err();
        assert_eq!(again.code, ErrorCode::NotFound);
    }

    fn present(&self, tenant: &str) -> Vec<u64> {
        let own = self.stored.iter().filter(|(of, ..)| of == tenant);
        own.filter(|(of, index, ..)| self.event(of, *index)["body"] == "present")
            .map(|(_, index, ..)| *index)
            .collect()
    }
}

/// Three months of seven actors under a policy of one month, then two months later.
fn aged() -> World {
    let mut world = World::new(&["acme", "globex"]);
    let start = world.now();
    for tenant in ["acme", "globex"] {
        world.set(tenant, json!({"classes": {"security": {"months": 1}}}));
    }
    for month in 0..3 {
        world.go_to(start.checked_add_months(Months::new(month)).unwrap());
        world.append("acme", 21, None, "authn.login");
        world.append("globex", 7, None, "authn.login");
    }
    world
}

fn later(world: &World, months: u32) {
    world.go_to(world.now().checked_add_months(Months::new(months)).unwrap() + Duration::from_secs(60));
}

#[test]
fn what_is_held_stays_until_two_keys_agree() {
    let mut world = aged();
    let by_actor = world.hold("acme", &json!({"filter": {"actor": "u-3"}}));
    assert_eq!((by_actor.members, by_actor.resolved, by_actor.extends), (Some(9), true, true));
    let some: Vec<u64> =
        world.stored.iter().filter(|(of, ..)| of == "acme").map(|(_, index, ..)| *index).take(2).collect();
    let by_index = world.hold("acme", &json!({"indexes": some}));
    assert_eq!((by_index.members, by_index.extends), (Some(2), false));
    let all = world.hold("globex", &json!({"tenant": true}));
    // Appended under the holds.
    world.append("acme", 7, None, "authn.login");
    world.append("globex", 7, None, "authn.login");
    later(&world, 3);
    world.append("acme", 1, None, "authn.login");
    world.settle(3);
    let plan = world.service().plan_compaction(&operator()).unwrap();
    let why: Vec<&str> =
        plan.layers.iter().flat_map(|layer| &layer.stays).map(|stays| stays.why.as_str()).collect();
    assert!(why.contains(&"held"), "{why:?}");
    world.compact();
    let is_held = |tenant: &str, index: u64| {
        let actor = world.event(tenant, index)["event"]["actor"]["id"].clone();
        actor == "u-3" || some.contains(&index)
    };
    let newest = world.stored.last().unwrap().1;
    let left = world.present("acme");
    assert!(left.iter().all(|index| is_held("acme", *index) || *index == newest), "{left:?}");
    assert_eq!(
        left.len(),
        9 + 1 + 2 + 1,
        "three a month for three months, one since, two by index, the newest"
    );
    assert_eq!(world.present("globex").len(), 28, "a tenant that is held keeps all");
    assert_eq!(world.service().holds(&of("acme"), "acme").unwrap().len(), 2);

    // A restart knows the holds, and what is appended then is held too.
    world.reopen();
    world.append("acme", 7, None, "authn.login");
    world.release("globex", &all.id);
    later(&world, 2);
    world.append("acme", 1, None, "authn.login");
    world.settle(4);
    world.compact();
    assert_eq!(world.present("globex"), Vec::<u64>::new());
    assert_eq!(world.present("acme").len(), 9 + 1 + 2 + 1 + 1);
    world.release("acme", &by_actor.id);
    world.release("acme", &by_index.id);
    world.compact();
    assert_eq!(world.present("acme").len(), 1, "the one in the layer that is written");
    world.verify();
}

#[test]
fn a_hold_on_what_is_gone_says_so() {
    let mut world = aged();
    later(&world, 2);
    world.append("acme", 1, None, "authn.login");
    world.settle(3);
    world.compact();
    let gone: Vec<u64> =
        world.stored.iter().filter(|(of, ..)| of == "acme").map(|(_, index, ..)| *index).take(5).collect();
    let held = world.hold("acme", &json!({"indexes": gone}));
    assert_eq!((held.gone, held.gone_indexes, held.members), (Some(5), gone, Some(0)));
    world.verify();
}

#[test]
fn a_hold_that_cannot_be_is_refused() {
    let mut world = World::new(&["acme"]);
    world.append("acme", 3, None, "authn.login");
    let ask = |wanted: Value| {
        world.service().place_hold(&of("acme"), "acme", wanted.to_string().as_bytes()).unwrap_err()
    };
    for (wanted, pointer) in [
        (json!({"reason": "x"}), None),
        (json!({"reason": "x", "tenant": true, "indexes": [1]}), None),
        (json!({"reason": "x", "tenant": false}), None),
        (json!({"reason": "", "tenant": true}), Some("/reason")),
        (json!({"reason": "x", "indexes": []}), Some("/indexes")),
        (json!({"reason": "x", "indexes": [900]}), Some("/indexes")),
        (json!({"reason": "x", "filter": {}}), Some("/filter")),
        (json!({"reason": "x", "filter": {"limit": "5"}}), Some("/filter")),
        (json!({"reason": "x", "filter": {"outcome": "good"}}), Some("/filter/outcome")),
        (json!({"reason": "x", "tenant": true, "secret-of-mine": 1}), None),
    ] {
        let error = ask(wanted.clone());
        assert_eq!((error.code, error.pointer.as_deref()), (ErrorCode::BadRequest, pointer), "{wanted}");
        assert!(!error.to_string().contains("secret-of-mine"));
    }
    assert!(world.service().holds(&of("acme"), "acme").unwrap().is_empty());
    let none = world.service().release_hold(&of("acme"), "acme", "3").unwrap_err();
    assert_eq!(none.code, ErrorCode::NotFound);
    let job = world.try_compact(ConfirmClock::Yes);
    assert_eq!(job.state, "done");
}

#[test]
fn a_closed_log_takes_no_events_and_its_policy_runs_on() {
    let mut world = aged();
    let size = |world: &World| world.service().tenant(&of("acme"), "acme").unwrap().size;
    let wrong = world.service().close_tenant(&of("acme"), "acme", size(&world) - 1).unwrap_err();
    assert_eq!((wrong.code, wrong.pointer.as_deref()), (ErrorCode::BadRequest, Some("/size")));
    let asked = world.service().close_tenant(&of("acme"), "acme", size(&world)).unwrap();
    world.service().approve(&another_of("acme"), &asked.id).unwrap();
    let raw = br#"{"action":"authn.login","outcome":"success"}"#;
    let one = [varve::service::Submitted { raw, idempotency_key: None }];
    for _ in 0..2 {
        let by = of("acme");
        let appended = world.service().append(&by, "acme", &one, varve::service::BatchMode::Atomic, false);
        assert_eq!(wait_for(appended).unwrap_err().code, ErrorCode::Gone);
        world.reopen();
    }
    later(&world, 2);
    world.append("globex", 1, None, "authn.login");
    world.settle(3);
    world.compact();
    assert!(world.present("acme").is_empty());
    world.verify();
}
