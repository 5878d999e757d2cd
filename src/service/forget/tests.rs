//! A month in parts, and a journal that forgets: through the service, with a clock of the test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::ingest::Pace;
use crate::ingest::clock::Clock;
use crate::journal;
use crate::query::QueryText;
use crate::service::{BatchMode, ConfirmClock, OpenOptions, Principal, Scope, Scopes, Submitted};
use crate::verify::{self, Progress, verify_live};

const NOVEMBER: u64 = 1_794_300_000_000_000;
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

struct Silent;

impl Progress for Silent {
    fn started(&self, _: u64) {}
    fn advanced(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

struct World {
    dir: tempfile::TempDir,
    hands: Arc<Hands>,
    service: Option<Service>,
    heartbeat_seconds: u64,
    /// Index and `recorded_at` of what `acme` got.
    stored: Vec<(u64, String)>,
}

fn operator() -> Principal {
    let scopes = Scopes::default().with(Scope::Operator);
    Principal { key_id: "0123456789abcdef".into(), tenant: None, scopes }
}

fn of(tenant: &str) -> Principal {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator);
    let scopes = scopes.fold(Scopes::default(), Scopes::with);
    Principal { key_id: "fedcba9876543210".into(), tenant: Some(tenant.into()), scopes }
}

fn append(service: &Service, tenant: &str, count: usize, text: &str) -> Vec<(u64, String)> {
    let raw = format!(
        r#"{{"action":"order.read","outcome":"success","actor":{{"type":"user","id":"u-1"}},"metadata":{{"note":"{text}"}}}}"#
    );
    let event = || Submitted { raw: raw.as_bytes(), idempotency_key: None };
    let events: Vec<Submitted<'_>> = std::iter::repeat_with(event).take(count).collect();
    let by = of(tenant);
    let appended = service.append(&by, tenant, &events, BatchMode::Atomic, false);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receipts = runtime.block_on(appended).unwrap();
    receipts.into_iter().map(Result::unwrap).map(|receipt| (receipt.index, receipt.recorded_at)).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl World {
    fn new(heartbeat_seconds: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands(AtomicU64::new(NOVEMBER)));
        let mut world = World { dir, hands, service: None, heartbeat_seconds, stored: Vec::new() };
        Service::init(&world.data(), Some("test.example"), None, &world.options()).unwrap();
        world.open();
        for tenant in ["acme", "beta"] {
            world.service().create_tenant(&operator(), tenant).unwrap();
        }
        world
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            clock: self.hands.clone(),
            heartbeat_seconds: self.heartbeat_seconds,
            low_water_bytes: 0,
            journal: journal::Options {
                segment_bytes: 256 << 10,
                max_frame_bytes: 128 << 10,
                background: true,
            },
            // None by itself: what a kill leaves is then the whole journal.
            checkpoints: Pace { interval: Duration::from_secs(600), ..Pace::default() },
            ..OpenOptions::default()
        }
    }

    fn open(&mut self) {
        self.service = Some(Service::open(&self.data(), &self.options()).unwrap());
    }

    fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    fn stop(&mut self) {
        self.service.take().unwrap().stop().unwrap();
    }

    fn pass(&self, micros: u64) {
        self.hands.0.fetch_add(micros, Ordering::Relaxed);
    }

    fn grow(&mut self, count: usize) {
        let stored = append(self.service(), "acme", count, "a note of some length, to be worth its place");
        self.stored.extend(stored);
        self.pass(DAY / 24);
    }

    fn layers(&self) -> Vec<String> {
        self.service().0.store.layers.list().iter().map(ToString::to_string).collect()
    }

    /// Everything is found, by its index and by its time.
    fn check(&self, service: &Service) {
        let found = |since: Option<&str>, until: Option<&str>| -> Vec<u64> {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let query = serde_json::json!({
                    "action": "order.read", "order": "asc", "limit": "1000", "since": since, "until": until, "cursor": cursor,
                });
                let query: QueryText = serde_json::from_value(query).unwrap();
                let page = service.query(&of("acme"), "acme", &query).unwrap();
                found.extend(page.records.iter().map(|record| {
                    let record: serde_json::Value = serde_json::from_str(&record.json).unwrap();
                    record["index"].as_u64().unwrap()
                }));
                cursor = page.next;
                if cursor.is_none() {
                    return found;
                }
            }
        };
        let indexes: Vec<u64> = self.stored.iter().map(|(index, _)| *index).collect();
        assert_eq!(found(None, None), indexes);
        for (at, (index, time)) in self.stored.iter().enumerate() {
            service.record(&of("acme"), "acme", *index, true).unwrap();
            if at % (1 + self.stored.len() / 16) == 0 {
                assert_eq!(found(Some(time), None), indexes[at..], "since {time}");
                assert_eq!(found(None, Some(time)), indexes[..at], "until {time}");
            }
        }
    }

    fn verify(&self, data: &Path) -> verify::Report {
        let report = verify::verify_dir(data, &verify::Options::default(), &Silent).unwrap();
        assert!(report.valid, "{}", report.to_text());
        report
    }

    fn verify_live(&self, tenant: &str) -> verify::LiveReport {
        let store = &self.service().0.store;
        let log = store.log_of(tenant).unwrap();
        let report = verify_live(store, &log, None, &mut |_| std::ops::ControlFlow::Continue(()));
        let report = report.unwrap().unwrap();
        assert!(report.valid, "{report:?}");
        report
    }

    fn journal_holds(&self, needle: &[u8]) -> bool {
        std::fs::read_dir(self.data().join("journal")).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    }
}

#[test]
fn a_month_that_is_closed_early_goes_on_in_its_next_part() {
    let mut world = World::new(0);
    world.grow(40);
    let close = |world: &World| world.service().close_layer_early().unwrap().to_string();
    assert_eq!(close(&world), "2026-11");
    world.grow(90);
    append(world.service(), "beta", 3, "first in the second part");
    // Beside others who append.
    let beside = world.service().clone();
    thread::scope(|scope| {
        scope.spawn(move || (0..40).for_each(|_| drop(append(&beside, "beta", 5, "beside"))));
        assert_eq!(close(&world), "2026-11.p2");
    });
    let durable = world.service().0.store.log_of("acme").unwrap().head();
    assert_eq!(durable.layer_of(durable.size - 1).unwrap().0.to_string(), "2026-11.p2");
    // Closed again with nothing of a tenant in it: the entry of Varve's own is.
    assert_eq!(close(&world), "2026-11.p3");
    world.grow(20);
    let parts = ["2026-11", "2026-11.p2", "2026-11.p3", "2026-11.p4"];
    assert_eq!(world.layers(), parts);
    for part in &parts[..3] {
        assert!(world.data().join(format!("layers/{part}.g1/SEAL")).exists(), "{part}");
    }
    world.check(world.service());
    world.verify_live("acme");

    // As a kill leaves it: every frame since the start is in the journal.
    let killed = world.dir.path().join("killed");
    copy(&world.data(), &killed);
    world.verify(&killed);
    let again = Service::open(&killed, &world.options()).unwrap();
    world.check(&again);
    append(&again, "acme", 5, "behind a kill");
    assert_eq!(again.0.store.layers.newest().unwrap().to_string(), parts[3]);
    assert_eq!(again.close_layer_early().unwrap().to_string(), parts[3]);
    again.stop().unwrap();
    world.verify(&killed);

    world.stop();
    world.verify(&world.data());
    world.open();
    world.grow(8);
    assert_eq!(world.layers(), parts);
    world.check(world.service());

    world.pass(30 * DAY);
    world.grow(10);
    world.service().wait_until_applied().unwrap();
    assert_eq!(world.layers()[4..], ["2026-12"]);
    assert_eq!(close(&world), "2026-12");
    world.grow(3);
    world.service().wait_until_applied().unwrap();
    assert_eq!(world.layers()[4..], ["2026-12", "2026-12.p2"]);
    world.check(world.service());
    world.verify_live("acme");
    world.stop();
    world.verify(&world.data());
}

#[test]
fn what_is_due_leaves_a_part_of_a_month_alone() {
    let mut world = World::new(0);
    let policy = br#"{"classes":{"security":{"months":1}}}"#;
    world.service().set_retention(&of("acme"), "acme", policy).unwrap();
    world.grow(30);
    world.service().close_layer_early().unwrap();
    world.pass(10 * DAY);
    world.grow(30);
    assert_eq!(world.service().close_layer_early().unwrap().to_string(), "2026-11.p2");
    world.pass(700 * DAY);
    world.grow(1);
    world.service().seal_now();
    let mut job = world.service().start_compaction(&operator(), ConfirmClock::Yes).unwrap();
    while job.state == "running" {
        thread::sleep(POLL);
        job = world.service().compaction(&operator(), &job.id).unwrap();
    }
    assert_eq!((job.state.as_str(), &job.detail), ("done", &None));
    assert_eq!((job.layers_rewritten, job.bodies_left), (2, 60), "{job:?}");
    let query = serde_json::json!({"action": "varve.retention.expired", "order": "asc"});
    let query: QueryText = serde_json::from_value(query).unwrap();
    let certificates = world.service().query(&of("acme"), "acme", &query).unwrap().records;
    let layers: Vec<String> = certificates
        .iter()
        .map(|record| serde_json::from_str::<serde_json::Value>(&record.json).unwrap())
        .map(|record| record["event"]["varve"]["layer"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(layers, ["2026-11", "2026-11.p2"]);
    assert_eq!(world.verify_live("acme").bodies_expired, 60);
    world.stop();
    let report = world.verify(&world.data());
    assert_eq!(report.logs.iter().map(|log| log.bodies_expired).sum::<u64>(), 60);
}

#[test]
fn a_wiped_journal_holds_nothing_of_what_was_durable() {
    let mut world = World::new(60);
    let canary = "a-name-to-be-forgotten-7f3a";
    let stored = append(world.service(), "acme", 20, canary);
    world.stored.extend(stored);
    assert!(world.journal_holds(canary.as_bytes()), "bodies stand in frames as they are");
    world.service().wipe_journal().unwrap();
    assert!(!world.journal_holds(canary.as_bytes()));
    // Over several segments, beside others who append.
    for _ in 0..3 {
        for _ in 0..20 {
            let stored = append(world.service(), "acme", 40, canary);
            world.stored.extend(stored);
        }
        assert!(world.journal_holds(canary.as_bytes()));
        let beside = world.service().clone();
        thread::scope(|scope| {
            scope.spawn(move || (0..60).for_each(|_| drop(append(&beside, "beta", 20, "another text"))));
            world.service().wipe_journal().unwrap();
            assert!(!world.journal_holds(canary.as_bytes()));
        });
    }
    world.check(world.service());
    let killed = world.dir.path().join("killed");
    copy(&world.data(), &killed);
    world.verify(&killed);
    let again = Service::open(&killed, &world.options()).unwrap();
    world.check(&again);
    again.stop().unwrap();
    world.stop();
    assert!(!world.journal_holds(canary.as_bytes()));
    world.verify(&world.data());
    for file in std::fs::read_dir(world.data().join("state")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()));
    }
    world.open();
    world.check(world.service());
    world.grow(5);
    world.service().wipe_journal().unwrap();
    world.stop();
    world.verify(&world.data());
}

#[test]
fn a_stopped_service_says_so() {
    let mut world = World::new(0);
    let service = world.service().clone();
    world.stop();
    assert!(service.close_layer_early().is_err());
    assert!(service.wipe_journal().is_err());
}
