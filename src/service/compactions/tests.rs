//! What a compaction reads, what it keeps, and what stops it at the last moment.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::service::world::{World, of, operator, wait_for};
use crate::service::{Asked, BatchMode, Submitted};
use crate::store::rewrite::Change;
use crate::store::seal::SEAL_FILE;

fn policy(months: u16) -> serde_json::Value {
    json!({"classes": {"security": {"months": months}}})
}

/// Compacts all closed layers, and answers how many pages were read or written, and how many bodies left.
fn compacted(world: &World) -> (usize, u64) {
    let (mut pages, mut bodies) = (0, 0);
    let service = world.service();
    let grounds = service.grounds();
    for layer in service.closed_layers() {
        let mut step = |_| {
            pages += 1;
            true
        };
        bodies += service.compact_layer(layer, None, &grounds, &mut step).unwrap().bodies;
    }
    (pages, bodies)
}

#[test]
fn a_layer_in_which_nothing_can_be_due_is_not_read() {
    let world = World::new(&["acme", "globex", "hooli"]);
    for tenant in ["acme", "globex", "hooli"] {
        world.grow(tenant, 5, "a.b");
    }
    world.pass_months(1);
    world.grow("hooli", 5, "a.b");
    world.pass_months(1);
    assert_eq!(compacted(&world), (0, 0), "no log has a policy");
    world.set("acme", &policy(6));
    assert_eq!(compacted(&world), (1, 0), "one log has one, and entries in one of the layers");
    assert_eq!(compacted(&world), (0, 0));
    // A plan of which nothing leaves reads no more than that, and one that was made is remembered.
    assert_eq!(world.service().plan_now().unwrap().layers_untouched, 2);

    world.set("globex", &policy(9));
    assert_eq!(compacted(&world), (2, 0));
    assert_eq!(compacted(&world), (0, 0));
    // In the newest layer alone: closed ones are as they were.
    world.grow("acme", 5, "a.b");
    assert_eq!(compacted(&world), (0, 0));

    // Another generation, with nothing less in it.
    let first = world.layers()[0];
    let mut keep = |_, _, _: &_| Change::Keep;
    world.service().replace_layer(first, &mut keep, &mut |_| true, &mut || Ok(Some(()))).unwrap().unwrap();
    assert_eq!(compacted(&world), (2, 0));
    assert_eq!(compacted(&world), (0, 0));
}

#[test]
fn what_is_due_or_no_longer_held_is_looked_for_again() {
    let world = World::new(&["acme"]);
    world.set("acme", &policy(3));
    let stored = world.grow("acme", 5, "a.b");
    let hold = json!({"reason": "a case", "tenant": true}).to_string();
    let hold = world.service().place_hold(&of("acme"), "acme", hold.as_bytes()).unwrap();
    world.pass_months(1);
    assert_eq!(compacted(&world), (1, 0));
    assert_eq!(compacted(&world), (0, 0));
    world.pass_months(3);
    assert_eq!(compacted(&world), (1, 0), "due and held");
    assert_eq!(compacted(&world), (0, 0));
    let log = world.service().0.store.log_of("acme").unwrap();
    world.service().release_now(&log, hold.id.parse().unwrap(), "one", "other").unwrap();
    let (pages, bodies) = compacted(&world);
    assert!(pages > 0 && bodies == 5, "{pages} {bodies}");
    assert_eq!(world.event("acme", stored[0])["body"], "expired");
    assert_eq!(compacted(&world), (0, 0), "what it left is known");
}

#[test]
fn what_asks_for_an_open_erasure_stays() {
    let world = World::new(&["acme"]);
    world.set("acme", &policy(1));
    world.grow("acme", 5, "a.b");
    // It is begun and waits.
    world.service().pause_compactions(&operator(), true).unwrap();
    let wanted = json!({"subject": {"type": "user", "id": "u-1"}, "basis": "GDPR Art. 17"}).to_string();
    let asked = world.service().request_erasure(&of("acme"), "acme", wanted.as_bytes()).unwrap();
    let Asked::Erasure(asked) = asked else { panic!("one key is enough") };
    let index: u64 = asked.id.parse().unwrap();
    let number = world.service().0.store.log_of("acme").unwrap().identity.number;
    // It has closed the layer for itself, and waits before it looks into it.
    let first = || world.service().0.store.layers.dirs().swap_remove(0).1;
    while !first().join(SEAL_FILE).exists() {
        thread::sleep(Duration::from_millis(10));
    }
    world.pass_months(2);
    let first = world.layers()[0];
    let scan = |world: &World| {
        let now = world.service().expiry_time();
        world.service().scan_layer(first, now, Wanted::WhatLeaves, &mut |_| true).unwrap()
    };
    let found = scan(&world);
    assert!(!found.leaves(number, 1, index) && found.leaves(number, 1, index - 1));
    let plan = world.service().plan_now().unwrap();
    let why = |layer: &LayerPlan| layer.stays.iter().filter(|row| row.why == "erasure open").count();
    assert_eq!(plan.layers.iter().map(why).sum::<usize>(), 1, "{plan:?}");
    // Once it is done nothing rests on it.
    world.service().pause_compactions(&operator(), false).unwrap();
    while !world.service().0.store.erasures().is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(scan(&world).leaves(number, 1, index));
    assert!(compacted(&world).1 > 5);
    assert_eq!(world.event("acme", index)["body"], "expired");
}

/// A world with one closed layer, and what MANIFEST says.
fn closed() -> (World, LayerId, Vec<u8>) {
    let world = World::new(&["acme"]);
    world.grow("acme", 5, "a.b");
    world.pass_months(1);
    let layer = world.layers()[0];
    let manifest = std::fs::read(world.data().join("MANIFEST")).unwrap();
    (world, layer, manifest)
}

#[test]
fn a_store_that_stopped_lets_nothing_go() {
    let (world, layer, manifest) = closed();
    let store = &world.service().0.store;
    // As when a hold was written whose sync failed: it is not in force here, and in force at the next start.
    let mut agree = || {
        store.poison.set("a sync failed");
        Ok(Some(()))
    };
    let mut drop_all = |_, _, _: &_| Change::DropBody;
    let refused = world.service().replace_layer(layer, &mut drop_all, &mut |_| true, &mut agree);
    assert!(refused.is_err_and(|error| error.code == ErrorCode::ReadOnly));
    assert_eq!(std::fs::read(world.data().join("MANIFEST")).unwrap(), manifest);
    assert!(!world.data().join(format!("layers/{layer}.g2")).exists());
    assert!(world.data().join(format!("layers/{layer}.g1")).exists());
}

#[test]
fn a_layer_that_does_not_go_over_stops_the_store() {
    let (world, layer, manifest) = closed();
    let (layers, away) = (world.data().join("layers"), world.data().join("away"));
    let mut agree = || {
        std::fs::rename(&layers, &away).unwrap();
        Ok(Some(()))
    };
    let mut drop_all = |_, _, _: &_| Change::DropBody;
    let failed = world.service().replace_layer(layer, &mut drop_all, &mut |_| true, &mut agree);
    std::fs::rename(&away, &layers).unwrap();
    assert!(failed.is_err_and(|error| error.code == ErrorCode::Internal));
    assert!(world.service().poisoned().is_some(), "the sync is not repeated");
    assert_eq!(std::fs::read(world.data().join("MANIFEST")).unwrap(), manifest);
}

#[test]
fn a_disk_that_fills_up_amid_a_rewrite_leaves_the_layer_as_it_was() {
    let (world, layer, manifest) = closed();
    let space = &world.service().0.space;
    let mut drop_all = |_, _, _: &_| Change::DropBody;
    let mut fill_up = |_| {
        space.set_floor_bytes(u64::MAX);
        true
    };
    let mut agree = || -> Result<Option<()>, _> { panic!("nothing is agreed on") };
    let refused = world.service().replace_layer(layer, &mut drop_all, &mut fill_up, &mut agree);
    assert!(refused.is_err_and(|error| error.code == ErrorCode::StorageFull));
    assert_eq!(std::fs::read(world.data().join("MANIFEST")).unwrap(), manifest);
    assert!(!world.data().join(format!("layers/{layer}.g2")).exists());
    assert!(world.service().poisoned().is_none(), "nothing is in doubt");
    space.set_floor_bytes(0);
    let done = world.service().replace_layer(layer, &mut drop_all, &mut |_| true, &mut || Ok(Some(())));
    assert!(done.unwrap().is_some());
}

#[test]
fn the_room_of_a_rewrite_is_kept_until_it_is_written() {
    let world = World::new(&["acme"]);
    let mut text = vec![0; 1_500];
    let mut hasher = blake3::Hasher::new();
    for batch in 0..4 {
        let raws: Vec<String> = (0..800)
            .map(|nth| {
                // Does not pack.
                hasher.update(&[batch, u8::try_from(nth % 251).unwrap()]).finalize_xof().fill(&mut text);
                let text = URL_SAFE_NO_PAD.encode(&text);
                format!(r#"{{"action":"a.b","outcome":"success","metadata":{{"text":"{text}"}}}}"#)
            })
            .collect();
        let events: Vec<Submitted<'_>> =
            raws.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
        wait_for(world.service().append(&of("acme"), "acme", &events, BatchMode::Atomic, false)).unwrap();
    }
    world.pass_months(1);
    world.service().keep_room();
    let space = &world.service().0.space;
    let mark = space.low_water_bytes();
    assert!(mark > 8 << 20, "{mark}");
    let mut marks = Vec::new();
    let mut step = |_| {
        marks.push(space.low_water_bytes());
        true
    };
    let mut keep = |_, _, _: &_| Change::Keep;
    let layer = world.layers()[0];
    world.service().replace_layer(layer, &mut keep, &mut step, &mut || Ok(Some(()))).unwrap().unwrap();
    assert_eq!(marks[0], mark, "nothing is written yet");
    assert!(marks.is_sorted_by(|before, after| before >= after));
    let last = marks[marks.len() - 1];
    assert!(last < mark && last > 0, "{last} of {mark}");
    assert!(space.low_water_bytes() > last);
}
