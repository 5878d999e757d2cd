//! The newest policy is all that those who append need; who lets bodies go needs all.

use serde_json::json;

use super::*;
use crate::service::world::{World, append, of, operator};

fn own_class(months: u16, action: &str) -> serde_json::Value {
    json!({"classes": {"security": {"months": months}, "billing": {"months": 1}},
           "rules": [{"action": action, "class": "billing"}]})
}

fn class_at(world: &World, index: u64) -> String {
    world.event("acme", index)["event"]["class"].as_str().unwrap().to_owned()
}

#[test]
fn an_old_policy_that_cannot_be_read_keeps_nobody_from_appending() {
    let mut world = World::new(&["acme"]);
    world.set("acme", &own_class(3, "old.*"));
    world.pass_months(1);
    world.set("acme", &own_class(4, "new.*"));
    world.reopen();
    let (first, second) = (world.layers()[0], world.layers()[1]);
    world.lose_pages(first, "acme");
    let indexes = world.grow("acme", 1, "new.thing");
    assert_eq!(class_at(&world, indexes[0]), "billing");
    let shown = world.service().retention(&of("acme"), "acme").unwrap();
    assert_eq!(shown.classes[0].months, 4);
    world.set("acme", &own_class(5, "newer.*"));
    let indexes = world.grow("acme", 1, "newer.thing");
    assert_eq!(class_at(&world, indexes[0]), "billing");
    // Who lets bodies go needs all of them.
    let log = world.service().0.store.log_of("acme").unwrap();
    let refused = world.service().history(&log).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Internal, "{refused}");

    // Where the newest is lost, the class of no event is known; other logs do not feel it.
    world.service().create_tenant(&operator(), "globex").unwrap();
    world.pass_months(1);
    world.reopen();
    world.lose_pages(second, "acme");
    let refused = append(world.service(), "acme", 1, "a.b").unwrap_err();
    assert_eq!(refused.code, ErrorCode::Internal, "{refused}");
    world.grow("globex", 1, "a.b");
}

#[test]
fn a_history_takes_in_what_is_newer_and_reads_nothing_twice() {
    let world = World::new(&["acme"]);
    for months in 3..8 {
        world.set("acme", &own_class(months, "old.*"));
    }
    let log = world.service().0.store.log_of("acme").unwrap();
    let known = world.service().history(&log).unwrap().unwrap();
    assert_eq!(known.changes().count(), 5);
    world.pass_months(1);
    world.lose_pages(world.layers()[0], "acme");
    world.set("acme", &own_class(9, "old.*"));
    let grown = world.service().history(&log).unwrap().unwrap();
    assert_eq!((grown.changes().count(), known.changes().count()), (6, 5));
    assert_eq!(grown.newest().unwrap().1.classes()[0].months, 9);
    assert_eq!(grown.months(1, 0, log.size()), Some(9));
}

#[test]
fn a_history_longer_than_what_is_kept_while_it_is_read_is_whole() {
    let world = World::new(&["acme"]);
    let count = MAX_FOUND + 10;
    for months in 1..=count {
        world.set("acme", &own_class(u16::try_from(months).unwrap(), "old.*"));
    }
    let log = world.service().0.store.log_of("acme").unwrap();
    let history = world.service().history(&log).unwrap().unwrap();
    assert_eq!((history.changes().count(), history.months(1, 0, log.size())), (count, Some(74)));
}
