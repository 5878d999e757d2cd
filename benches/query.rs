//! Measures queries over 12 layers of 4,000 events in sled: pages of 100 under two filters.
//! `cargo bench --bench query`.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use varve::event::catalog::Class;
use varve::event::{Event, Instance};
use varve::ingest::clock::{Clock, Stamps};
use varve::ingest::prepare::{fill_in, prepare};
use varve::ingest::queue::{Control, Submission};
use varve::ingest::{Pace, Pipeline};
use varve::journal;
use varve::process::watchdog::Watchdog;
use varve::query::{QueryText, Request, run};
use varve::store::layer_id::LayerId;
use varve::store::log::Log;
use varve::store::sled::SledBackend;
use varve::store::state::{Head, LogIdentity};
use varve::store::{fresh, recovery};
use varve::telemetry::Telemetry;
use varve::tlog::hash::Hash;

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LAYERS: u64 = 12;
const EVENTS_PER_LAYER: u64 = 4000;
const ACTIONS: [&str; 6] =
    ["authn.login", "authn.logout", "aws.kms.decrypt", "aws.s3.get", "admin.role.changed", "db.query"];

struct Scripted(AtomicU64);

impl Clock for Scripted {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.wall_micros()
    }
}

fn main() {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let data = dir.path().join("data");
    let options = journal::Options::default();
    let instance = Instance::parse("example.org").expect("a name");
    fresh::create(&data, &instance, &options, &mut |bytes| bytes.fill(1)).expect("a store");
    let backend = Arc::new(SledBackend::new(Watchdog::aborting()));
    let clock = Arc::new(Scripted(AtomicU64::new(LayerId::parse("2025-01").expect("a month").start())));
    fill(&data, &backend, &clock, &options);

    let started = Instant::now();
    let opened = recovery::open(&data, backend, &options).expect("it opens");
    println!("open after a clean stop: {:?}", started.elapsed());
    let store = opened.store;
    let log = store.log_of("acme").expect("the log");
    let text = |actor: u64, action: &str| QueryText {
        actor: Some(format!("user-{actor}")),
        action: Some(action.to_owned()),
        ..QueryText::default()
    };
    let ask = |text: &QueryText| {
        let started = Instant::now();
        let request = Request::parse(text, started + Duration::from_secs(30)).expect("a query");
        let answer = run(&store, &log, &request).expect("an answer");
        (started.elapsed(), answer.records.len())
    };
    println!("first query, opening the layers: {:?}", ask(&text(3, "authn.*")));
    let outcome = QueryText {
        outcome: Some("denied".into()),
        action: Some("authn.login".into()),
        ..QueryText::default()
    };
    let none =
        QueryText { actor: Some("user-1".into()), ip: Some("10.1.1.1".into()), ..QueryText::default() };
    let scan = QueryText::default();
    report("actor (1/400) + action prefix", (0..300).map(|n| ask(&text(n * 7 % 400, "authn.*"))).collect());
    report("actor (1/20) + action", (0..200).map(|n| ask(&text(400 + n % 20, "aws.kms.decrypt"))).collect());
    report("outcome + action", (0..200).map(|_| ask(&outcome)).collect());
    report("two filters, no match", (0..200).map(|_| ask(&none)).collect());
    report("no filter", (0..200).map(|_| ask(&scan)).collect());
}

fn fill(
    data: &std::path::Path,
    backend: &Arc<SledBackend>,
    clock: &Arc<Scripted>,
    options: &journal::Options,
) {
    let opened = recovery::open(data, backend.clone(), options).expect("it opens");
    let stamps = Arc::new(Stamps::new(clock.clone(), opened.newest_stamp));
    let store = opened.store.clone();
    let pipeline = Pipeline::start(
        &store,
        Vec::new(),
        opened.applier,
        opened.journal,
        &opened.signers,
        &stamps,
        Pace::default(),
        &Telemetry::new(),
    )
    .expect("threads");
    let signer = opened
        .key_file
        .add(&["example.org/acme"], &mut |seed| seed.fill(5))
        .expect("a key")
        .pop()
        .expect("one");
    let identity = LogIdentity {
        number: 1,
        tenant: "acme".into(),
        origin: String::new(),
        log_id: Hash([6; 32]),
        index_key: [7; 32],
        genesis_key: signer.public(),
    };
    let log = Log::new(identity.clone(), Head::empty(signer.public()));
    let mut controls = vec![Control::CreateLog { identity, signer: Arc::new(signer) }];
    let mut dice = 1u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    for _ in 0..LAYERS {
        for _ in 0..EVENTS_PER_LAYER / 500 {
            let items = (0..500)
                .map(|_| {
                    let actor = if roll(2) == 0 { roll(400) } else { 400 + roll(20) };
                    let action = ACTIONS[usize::try_from(roll(6)).expect("small")];
                    let outcome = ["success", "failure", "denied"][usize::try_from(roll(3)).expect("small")];
                    let json = format!(
                        r#"{{"action":"{action}","outcome":"{outcome}","actor":{{"type":"user","id":"user-{actor}","name":"Somebody {actor}"}},"targets":[{{"type":"document","id":"doc-{}"}}],"context":{{"ip":"10.0.{}.{}","user_agent":"Mozilla/5.0 (X11; Linux x86_64)","session_id":"s-{}","request_id":"r-{}"}},"metadata":{{"plan":"business","region":"eu-west-1"}}}}"#,
                        roll(10_000), roll(20), roll(250), roll(1_000_000_000), roll(1_000_000_000),
                    );
                    let mut event = Event::parse(json.as_bytes()).expect("an event");
                    fill_in(&mut event, Class::Security.name());
                    prepare(&log, &event, 1)
                })
                .collect();
            let submission = Submission {
                items,
                controls: std::mem::take(&mut controls),
                atomic: true,
                epoch: Some(store.recent.epoch()),
            };
            pipeline.queue.admit(submission).expect("room").wait().expect("an answer");
            clock.0.fetch_add(3_000_000_000, Ordering::Relaxed);
        }
        let now = clock.wall_micros();
        clock.0.store(LayerId::of(now).expect("a month").end(), Ordering::Relaxed);
    }
    pipeline.stop().expect("a clean stop");
}

fn report(what: &str, mut took: Vec<(Duration, usize)>) {
    let found: usize = took.iter().map(|(_, found)| found).sum();
    let mean_found = found / took.len();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].0;
    println!("{what}: p50 {:?}, p95 {:?}, max {:?}, {mean_found} records a page", at(50), at(95), at(100));
}
