//! The offline verifier against a store of its own making: `cargo bench --bench verify -- [ENTRIES] [TENANTS]`.
//!
//! Prints entries a second with hashes alone and with signatures, the rate of strict verification alone on
//! the same number of threads, and the largest resident set.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation, reason = "it measures")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use varve::event::catalog::{Class, action};
use varve::event::{Builder, Event, Outcome, Value};
use varve::ingest::Pipeline;
use varve::ingest::clock::{Stamps, SystemClock};
use varve::ingest::prepare::{Prepared, fill_in, prepare};
use varve::ingest::queue::{Control, Submission};
use varve::journal::{self, Writer};
use varve::process::watchdog::Watchdog;
use varve::store::keyfile::KeyFile;
use varve::store::log::Log;
use varve::store::manifest::Manifest;
use varve::store::recovery;
use varve::store::sled::SledBackend;
use varve::store::state::{Head, LogIdentity, State};
use varve::tlog::chain;
use varve::tlog::key::{SeedSigner, Signer as _};
use varve::verify::{Options, Progress, verify_dir};

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const INSTANCE: &str = "measure.example";

/// Events of one submission.
const BATCH: usize = 500;

struct Quiet;

impl Progress for Quiet {
    fn started(&self, _: u64) {}
    fn advanced(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

fn main() {
    let number = |place, default| {
        std::env::args()
            .filter(|arg| arg != "--bench")
            .nth(place)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (entries, tenants): (usize, usize) = (number(1, 500_000), number(2, 3));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let started = Instant::now();
    write(dir.path(), entries, tenants);
    println!(
        "written: {entries} entries of {tenants} tenants in {:.1} s, {} MB",
        started.elapsed().as_secs_f64(),
        bytes(dir.path()) >> 20
    );
    for no_signatures in [true, true, false] {
        let options = Options { no_signatures, ..Options::default() };
        let (started, cpu_before) = (Instant::now(), cpu_seconds());
        let report = verify_dir(dir.path(), &options, &Quiet).expect("a store that can be read");
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
        assert!(report.valid, "{}", report.to_text());
        let size = report.logs.iter().map(|log| log.size).sum::<u64>() as f64;
        let what = if no_signatures { "hashes alone" } else { "with signatures" };
        println!(
            "{what}: {:.0} entries/s ({seconds:.2} s; {:.2} us of CPU an entry)",
            size / seconds,
            cpu / size * 1e6
        );
    }
    let (rate, cpu) = raw_rate();
    println!("verify_strict alone: {rate:.0}/s on as many threads ({cpu:.2} us of CPU each)");
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown"));
}

/// CPU time of the process so far, both of user and of system, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn raw_rate() -> (f64, f64) {
    const EACH: usize = 20_000;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let signer = SeedSigner::from_seed(&[1; 32]);
    let message = [7u8; 47];
    let (signature, key) = (signer.sign(&message), signer.verifying_key());
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                (0..EACH).for_each(|_| assert!(key.verify(std::hint::black_box(&message), &signature)))
            });
        }
    });
    let all = (EACH * threads) as f64;
    (all / started.elapsed().as_secs_f64(), (cpu_seconds() - cpu_before) / all * 1e6)
}

fn write(dir: &Path, entries: usize, tenants: usize) {
    let options = journal::Options::default();
    for name in ["layers", "state", "ids"] {
        fs::create_dir_all(dir.join(name)).expect("a directory");
    }
    let state = State { instance: INSTANCE.to_owned(), ..State::default() };
    let mut writer = Writer::create(&dir.join("journal"), &options).expect("a journal");
    let digest = state.write(&dir.join("state"), 0).expect("a snapshot");
    writer.set_head(0, digest, true).expect("a head");
    drop(writer);
    Manifest::default().write(dir).expect("a manifest");
    KeyFile::create(dir).expect("a key file");
    let backend = Arc::new(SledBackend::new(Watchdog::aborting()));
    let recovered = recovery::open(dir, backend, &options).expect("an empty store");
    let stamps = Arc::new(Stamps::new(Arc::new(SystemClock), 0));
    let store = recovered.store;
    let pipeline = Pipeline::start(
        &store,
        recovered.applier,
        recovered.journal,
        &HashMap::new(),
        &stamps,
        recovered.newest_frame,
        varve::ingest::Pace::default(),
    );
    let pipeline = pipeline.expect("the write path");
    let submit = |items: Vec<Prepared>, controls| {
        let submission = Submission { items, controls, atomic: true, epoch: Some(store.recent.epoch()) };
        pipeline.queue.admit(submission).expect("room in the queue")
    };
    for number in 0..tenants {
        let tenant = if number == 0 { "_system".to_owned() } else { format!("tenant-{number}") };
        let origin = format!("{INSTANCE}/{tenant}");
        let signer = Arc::new(
            recovered
                .key_file
                .add(&[&origin], &mut |seed| seed.fill(1 + (number % 200) as u8))
                .expect("a key")
                .remove(0),
        );
        let key = signer.public();
        let log_id = chain::log_id(&origin, &[7; 32], &key, None);
        let number = u32::try_from(number).expect("few tenants");
        let identity = LogIdentity {
            number,
            tenant,
            origin: String::new(),
            log_id,
            index_key: [number.to_be_bytes()[3]; 32],
            genesis_key: key,
        };
        let log = Log::new(identity.clone(), Head::empty(key));
        let genesis = Builder::new(action::LOG_CREATED, Outcome::Success)
            .fact("origin", origin.as_str())
            .fact("nonce", Value::bytes(&[7; 32]))
            .fact("public_key", Value::bytes(&key));
        let mut genesis = genesis.build().expect("an event");
        fill_in(&mut genesis, Class::Permanent);
        let item = prepare(&log, &genesis, 0);
        submit(vec![item], vec![Control::CreateLog { identity, signer }]).wait().expect("a log");
    }
    let logs = store.logs();
    let mut waiting = std::collections::VecDeque::new();
    for (batch, first) in (0..entries).step_by(BATCH).enumerate() {
        let log = &logs[batch % logs.len()];
        let item = |n| {
            let mut event = Event::parse(event_json(n).as_bytes()).expect("an event");
            fill_in(&mut event, Class::Security);
            prepare(log, &event, Class::Security.code())
        };
        waiting.push_back(submit((first..entries.min(first + BATCH)).map(item).collect(), Vec::new()));
        if waiting.len() > 8 {
            waiting.pop_front().expect("not empty").wait().expect("durable");
        }
    }
    waiting.into_iter().for_each(|ticket| drop(ticket.wait().expect("durable")));
    pipeline.stop().expect("a clean stop");
}

/// About 480 bytes.
fn event_json(n: usize) -> String {
    format!(
        "{{\"id\":\"01933e5f-{n:012}\",\"action\":\"aws.kms.decrypt\",\"outcome\":\"success\",\"occurred_at\":\"2026-10-01T10:00:00.5Z\",\
         \"actor\":{{\"type\":\"user\",\"id\":\"AIDA{:08}\",\"name\":\"user-{}\"}},\
         \"targets\":[{{\"type\":\"key\",\"id\":\"arn:aws:kms:eu-central-1:111122223333:key/{:08}\"}}],\
         \"context\":{{\"ip\":\"10.{}.{}.{}\",\"request_id\":\"request-{n}\",\"user_agent\":\"aws-sdk-go-v2/1.30 os/linux lang/go#1.22\"}},\
         \"metadata\":{{\"region\":\"eu-central-1\",\"algorithm\":\"SYMMETRIC_DEFAULT\"}}}}",
        n % 1_000,
        n % 1_000,
        n % 50,
        n % 7,
        n % 13,
        n % 250,
    )
}

fn bytes(dir: &Path) -> u64 {
    let Ok(list) = fs::read_dir(dir) else { return 0 };
    list.flatten()
        .map(|file| {
            if file.path().is_dir() {
                bytes(&file.path())
            } else {
                file.metadata().map_or(0, |meta| meta.len())
            }
        })
        .sum()
}
