//! What a crash may leave, over a key-value store that loses any of its unsynced writes and fails on command.
//!
//! A crash here is a fault that stops the store, then the loss of a random part of what was not synced. The
//! journal, the id table and the snapshots are on the real disk. `tools/crashloop` kills real processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use varve::ingest::Pace;
use varve::ingest::clock::Clock;
use varve::journal;
use varve::query::QueryText;
use varve::service::{BatchMode, ErrorCode, OpenOptions, Principal, Scope, Scopes, Service, Submitted};
use varve::store::memory::{Fault, MemoryBackend, Op};

const TENANTS: [&str; 3] = ["north", "east", "south"];

/// 2026-01-20T00:00:00Z, and 31 days.
const BEGIN: u64 = 1_768_867_200_000_000;
const MONTH: u64 = 31 * 86_400_000_000;

/// A clock that the test moves.
pub(super) struct Hand(AtomicU64);

impl Hand {
    pub(super) fn new() -> Arc<Hand> {
        Arc::new(Hand(AtomicU64::new(BEGIN)))
    }

    pub(super) fn next_month(&self) {
        self.0.fetch_add(MONTH, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn wall_micros(&self) -> u64 {
        self.0.fetch_add(7, Ordering::Relaxed)
    }

    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn tenant_key(tenant: &str) -> Principal {
    let scopes = Scopes::default().with(Scope::Ingest).with(Scope::Read);
    Principal { key_id: "test".to_owned(), tenant: Some(tenant.to_owned()), scopes }
}

pub(super) fn operator() -> Principal {
    let scopes = Scopes::default().with(Scope::Operator);
    Principal { key_id: "test".to_owned(), tenant: None, scopes }
}

pub(super) fn small_journal() -> journal::Options {
    // A frame holds a group of 1 MiB and one submission more; a segment two frames.
    journal::Options { segment_bytes: 4 << 20, max_frame_bytes: 2 << 20, background: false }
}

/// An event that follows from its id: one of nine actors, `filler` bytes that do not compress.
pub(super) fn event(id: &str, filler: usize) -> String {
    let digest = id
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    let mut state = digest;
    let mut text = String::new();
    while text.len() < filler {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!("{:08x}", state >> 32);
    }
    format!(
        r#"{{"id":"{id}","action":"secret.value.read","outcome":"success","actor":{{"type":"user","id":"actor-{}"}},"metadata":{{"filler":"{text}"}}}}"#,
        digest % 9
    )
}

/// What became of an event, as far as its sender knows.
enum Sent {
    At(u64),
    Unknown,
    Refused,
}

pub(super) fn append(
    service: &Service,
    tenant: &str,
    events: &[String],
) -> Vec<Result<(u64, String), ErrorCode>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let submitted: Vec<Submitted<'_>> =
        events.iter().map(|event| Submitted { raw: event.as_bytes(), idempotency_key: None }).collect();
    let by = tenant_key(tenant);
    match runtime.block_on(service.append(&by, tenant, &submitted, BatchMode::Skip, false)) {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| answer.map(|receipt| (receipt.index, receipt.link)).map_err(|error| error.code))
            .collect(),
        Err(error) => events.iter().map(|_| Err(error.code)).collect(),
    }
}

/// Id and link of a record, or the error in words.
pub(super) fn read(
    service: &Service,
    by: &Principal,
    tenant: &str,
    index: u64,
) -> Result<(String, String), String> {
    let record = service.record(by, tenant, index, false).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&record.json).map_err(|error| error.to_string())?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok((text(&json["event"]["id"]), text(&json["link"])))
}

/// A store that crashes, and what is known of it.
struct World {
    dir: tempfile::TempDir,
    backend: MemoryBackend,
    clock: Arc<Hand>,
    pace: Pace,
    service: Option<Service>,
    /// Id and link by index.
    known: HashMap<&'static str, Vec<(String, String)>>,
    /// Receipts since the last look.
    acknowledged: Vec<(&'static str, u64, String, String)>,
    /// Events of which nobody knows whether they are there.
    unknown: Vec<(&'static str, String, usize)>,
    next: u64,
}

impl World {
    fn new(pace: Pace) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World {
            dir,
            backend: MemoryBackend::default(),
            clock: Hand::new(),
            pace,
            service: None,
            known: HashMap::new(),
            acknowledged: Vec::new(),
            unknown: Vec::new(),
            next: 0,
        };
        Service::init(&world.data(), Some("crash.test"), None, &world.options()).unwrap();
        world.open();
        for tenant in TENANTS {
            world.service().create_tenant(&operator(), tenant).unwrap();
        }
        world
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            heartbeat_seconds: 0,
            backend: Arc::new(self.backend.clone()),
            clock: self.clock.clone(),
            journal: small_journal(),
            checkpoints: self.pace,
            ..OpenOptions::default()
        }
    }

    fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    fn open(&mut self) {
        // A fault that is still due may fall into the open: then the next one must do.
        let mut opened = Service::open(&self.data(), &self.options());
        for _ in 0..20 {
            if opened.is_err() {
                opened = Service::open(&self.data(), &self.options());
            }
        }
        self.service = Some(opened.unwrap_or_else(|error| panic!("the open was refused: {error}")));
        // What is read below must be there without an excuse.
        self.backend.forget_faults();
    }

    fn send(&mut self, tenant: &'static str, count: usize, filler: usize) {
        let ids: Vec<String> = (0..count).map(|_| self.fresh_id()).collect();
        let events: Vec<String> = ids.iter().map(|id| event(id, filler)).collect();
        let answers = append(self.service(), tenant, &events);
        for (id, answer) in ids.into_iter().zip(answers) {
            self.take(tenant, id, filler, answer);
        }
    }

    fn fresh_id(&mut self) -> String {
        self.next += 1;
        format!("event-{}", self.next)
    }

    fn take(
        &mut self,
        tenant: &'static str,
        id: String,
        filler: usize,
        answer: Result<(u64, String), ErrorCode>,
    ) -> Sent {
        match answer {
            Ok((index, link)) => {
                self.acknowledged.push((tenant, index, id, link));
                Sent::At(index)
            }
            Err(ErrorCode::OutcomeUnknown | ErrorCode::Internal) => {
                self.unknown.push((tenant, id, filler));
                Sent::Unknown
            }
            Err(ErrorCode::Busy | ErrorCode::ReadOnly) => Sent::Refused,
            Err(other) => panic!("{id} was refused as {other:?}"),
        }
    }

    /// Stops the store by a fault, takes what `lost` says of the unsynced writes, opens it anew.
    fn crash(&mut self, mut lost: impl FnMut(usize) -> bool) {
        if self.service().poisoned().is_none() {
            self.backend.fail(Op::Any, 1, Fault::EIO);
            // A page that fills, or a checkpoint that falls due, meets the fault.
            let begin = self.next;
            while self.service().poisoned().is_none() {
                self.send(TENANTS[0], 1, 3000);
                assert!(self.next - begin < 10_000, "the fault is never met");
            }
        }
        self.service().stop().unwrap_err();
        self.service = None;
        self.backend.crash(|_, number| lost(number));
        self.open();
        self.look();
    }

    fn restart(&mut self) {
        let stopped = self.service().stop();
        assert!(stopped.is_ok() || self.service().poisoned().is_some(), "{stopped:?}");
        self.service = None;
        self.open();
        self.look();
    }

    /// Everything ever seen or acknowledged is there and the same; no id stands twice; queries agree.
    fn look(&mut self) {
        let service = self.service.clone().unwrap();
        for tenant in TENANTS {
            let by = tenant_key(tenant);
            let size = service.tenant(&by, tenant).unwrap().size;
            let known = self.known.entry(tenant).or_default();
            assert!(size >= known.len() as u64, "{tenant} shrank");
            for index in 0..size {
                let record = read(&service, &by, tenant, index);
                let record = record.unwrap_or_else(|error| panic!("{tenant} {index} of {size}: {error}"));
                match known.get(usize::try_from(index).unwrap()) {
                    Some(before) => assert_eq!(*before, record, "{tenant} {index}"),
                    None => known.push(record),
                }
            }
            let ids: std::collections::HashSet<&String> = known.iter().map(|(id, _)| id).collect();
            assert_eq!(ids.len(), known.len(), "{tenant}: an id stands twice");
        }
        for (tenant, index, id, link) in self.acknowledged.drain(..) {
            let record = &self.known[tenant][usize::try_from(index).unwrap()];
            assert_eq!(*record, (id, link), "{tenant} {index} was acknowledged");
        }
        self.look_by_actor();
        for (tenant, id, filler) in std::mem::take(&mut self.unknown) {
            let first = self.known[tenant].iter().position(|(known, _)| *known == id);
            let answer = append(&service, tenant, &[event(&id, filler)]).remove(0);
            if let (Sent::At(index), Some(first)) = (self.take(tenant, id, filler, answer), first) {
                assert_eq!(index, first as u64, "a repeat of what was stored is no new event");
            }
        }
    }

    fn look_by_actor(&self) {
        for tenant in TENANTS {
            let params = QueryText {
                actor: Some("actor-3".to_owned()),
                order: Some("asc".to_owned()),
                limit: Some("1000".to_owned()),
                ..QueryText::default()
            };
            let page = self.service().query(&tenant_key(tenant), tenant, &params).unwrap();
            let found: Vec<String> = page
                .records
                .iter()
                .map(|record| {
                    let json: serde_json::Value = serde_json::from_str(&record.json).unwrap();
                    json["event"]["id"].as_str().unwrap().to_owned()
                })
                .collect();
            let expected: Vec<&String> = self.known[tenant]
                .iter()
                .map(|(id, _)| id)
                .filter(|id| id.starts_with("event-") && event(id, 0).contains("actor-3\""))
                .take(found.len().max(900))
                .collect();
            assert!(
                found.iter().collect::<Vec<_>>() == expected,
                "{tenant}: the index hides or invents records"
            );
        }
    }
}

/// Frequent checkpoints, and nothing stays warm between two.
fn fast() -> Pace {
    Pace { bytes: 64 << 10, interval: Duration::from_millis(10), warm_bytes: 0 }
}

/// No checkpoint but the last.
fn never() -> Pace {
    Pace { bytes: usize::MAX, interval: Duration::from_secs(3600), ..Pace::default() }
}

#[test]
fn whatever_a_layer_loses_the_journal_gives_back() {
    for pace in [fast(), never()] {
        // None, all, the first of two, the second of two, the first tenth, all but the first tenth.
        let ways: [fn(usize) -> bool; 6] =
            [|_| false, |_| true, |n| n % 2 == 0, |n| n % 2 == 1, |n| n < 10, |n| n >= 10];
        let mut world = World::new(pace);
        for lost in ways {
            for round in 0..3 {
                world.send("north", 90, 40);
                world.send("east", 3, 300);
                world.send("south", 1, 60_000 * usize::from(round == 1));
                if round == 1 {
                    world.clock.next_month();
                }
            }
            world.crash(lost);
        }
        world.restart();
    }
}

/// Linux keeps the pages of a failed sync readable and calls them clean, so no later sync writes them.
#[test]
fn what_a_failed_sync_left_in_memory_is_not_believed() {
    let mut world = World::new(never());
    for round in 0..3 {
        world.send("north", 90, 40);
        world.send("east", 3, 300);
        world.backend.fail(Op::Sync, 1, Fault::EIO);
        world.service().stop().unwrap_err();
        world.service = None;
        world.open();
        world.look();
        if round == 1 {
            world.clock.next_month();
        }
        // Clean checkpoints, and more than the journal's segments hold, so that it lets go of the frames that the
        // layer was believed to have; then a power cut takes what no disk has.
        for _ in 0..3 {
            (0..5).for_each(|_| world.send("south", 20, 50_000));
            world.restart();
        }
        world.service().stop().unwrap();
        world.service = None;
        world.backend.lose_unsynced();
        world.open();
        world.look();
    }
}

#[test]
fn blocks_of_postings_and_tiles_come_back_whole() {
    let mut world = World::new(never());
    for number in 0..3 {
        world.send("north", 900, 10);
        world.send("north", 900, 10);
        world.crash(move |write| write % 3 == number);
    }
    world.restart();
}

#[test]
fn one_event_a_restart_grows_a_page_and_loses_none() {
    let mut world = World::new(fast());
    for number in 0..30 {
        world.send("north", 1, 50);
        world.send("east", 1, if number % 7 == 0 { 60_000 } else { 10 });
        if number % 11 == 10 {
            world.clock.next_month();
        }
        if number % 5 == 0 {
            world.crash(|write| write % 2 == 0);
        } else {
            world.restart();
        }
    }
}

#[test]
fn a_log_that_was_quiet_for_months_goes_on() {
    let mut world = World::new(fast());
    world.send("south", 70, 20);
    for month in 0..5 {
        world.clock.next_month();
        world.send("north", 5, 100);
        if month % 2 == 0 { world.crash(|write| write % 2 == 1) } else { world.restart() }
    }
    world.send("south", 70, 20);
    world.crash(|_| true);
}

#[test]
fn twenty_clients_repeat_one_event_through_crashes() {
    let mut world = World::new(fast());
    for round in 0..4 {
        let id = world.fresh_id();
        let mut indexes = std::collections::HashSet::new();
        for attempt in 0..3 {
            if round % 2 == 0 {
                world.backend.fail(Op::Any, 1 + attempt * 3, Fault::EIO);
            }
            let service = world.service().clone();
            let threads: Vec<_> = (0..20)
                .map(|_| {
                    let (service, event) = (service.clone(), event(&id, 200));
                    std::thread::spawn(move || append(&service, "east", &[event]).remove(0))
                })
                .collect();
            indexes.extend(threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()));
            drop(service);
            world.crash(|write| write % 2 == 0);
        }
        let answer = append(world.service(), "east", &[event(&id, 200)]).remove(0);
        indexes.insert(answer.unwrap());
        assert_eq!(indexes.len(), 1, "one event, one index");
        world.restart();
    }
}

#[test]
fn tenants_and_keys_that_were_made_are_there_after_a_crash() {
    let mut world = World::new(never());
    for number in 0..3 {
        let tenant = format!("made-{number}");
        world.service().create_tenant(&operator(), &tenant).unwrap();
        let admin = Principal {
            key_id: "test".to_owned(),
            tenant: Some(tenant.clone()),
            scopes: Scopes::default().with(Scope::Admin),
        };
        let scopes = ["ingest".to_owned()];
        let kept = world.service().create_key(&admin, &tenant, "kept", &scopes, None).unwrap();
        let gone = world.service().create_key(&admin, &tenant, "gone", &scopes, None).unwrap();
        world.service().revoke_key(&admin, &tenant, &gone.id).unwrap();
        world.crash(|_| true);
        assert_eq!(world.service().authenticate(&kept.key).unwrap().tenant.as_deref(), Some(tenant.as_str()));
        assert!(world.service().authenticate(&gone.key).is_err());
        assert_eq!(world.service().tenant(&tenant_key(&tenant), &tenant).unwrap().size, 1);
    }
}

#[test]
fn a_rotated_key_signs_on_after_a_crash() {
    let mut world = World::new(never());
    world.send("north", 5, 20);
    for _ in 0..2 {
        world.service().stop().unwrap();
        world.service = None;
        let keys = Service::rotate_signing_key(&world.data(), None, &world.options()).unwrap();
        assert_eq!(keys.len(), 1 + TENANTS.len());
        world.open();
        world.send("north", 5, 20);
        let key = world.service().tenant(&tenant_key("north"), "north").unwrap().public_key;
        assert!(keys.contains(&key), "the new key is the current one");
        world.crash(|_| true);
        assert_eq!(world.service().tenant(&tenant_key("north"), "north").unwrap().public_key, key);
        world.send("north", 5, 20);
    }
    world.restart();
}

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Send { tenant: usize, count: usize, filler: usize },
    Month,
    Wait,
    Fault { op: Op, nth: u64, errno: i32, after: bool },
    Crash { seed: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![Just(Op::Any), Just(Op::Write), Just(Op::Sync), Just(Op::Open), Just(Op::Read)];
    let filler = prop_oneof![6 => 0usize..600, 1 => 50_000usize..60_000];
    prop_oneof![
        8 => (0usize..3, 1usize..70, filler)
            .prop_map(|(tenant, count, filler)| Step::Send { tenant, count: if filler > 600 { 2 } else { count }, filler }),
        1 => Just(Step::Month),
        2 => Just(Step::Wait),
        2 => (op, 1u64..40, prop_oneof![Just(5), Just(28)], any::<bool>())
            .prop_map(|(op, nth, errno, after)| Step::Fault { op, nth, errno, after }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_of_faults_loses_what_was_acknowledged(
        pace in any::<bool>(),
        steps in proptest::collection::vec(step(), 5..30),
    ) {
        let mut world = World::new(if pace { fast() } else { never() });
        for step in steps {
            match step {
                Step::Send { tenant, count, filler } => world.send(TENANTS[tenant], count, filler),
                Step::Month => world.clock.next_month(),
                Step::Wait => std::thread::sleep(Duration::from_millis(15)),
                Step::Fault { op, nth, errno, after } => {
                    world.backend.fail(op, nth, if after { Fault::ErrorAfter(errno) } else { Fault::Error(errno) });
                }
                Step::Crash { seed } => {
                    let mut state = seed | 1;
                    world.crash(move |_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state % 3 != 0
                    });
                }
                Step::Restart => world.restart(),
            }
        }
        world.crash(|_| true);
        world.crash(|_| false);
    }
}

/// Schedules: few in CI, `VARVE_MODEL_CASES` on demand.
fn cases() -> u32 {
    std::env::var("VARVE_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16)
}
