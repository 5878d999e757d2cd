//! Compaction of one closed layer: what planning it reads, and the rewrite with 10, 50 and 90 % and all of the bodies
//! leaving, beside plain copies of the same layer: its file, and its values one by one.
//! `cargo bench --bench compact -- [EVENTS] [SHARE]`; the second picks one line, to be looked at with a profiler.

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss, clippy::disallowed_methods)]

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
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
use varve::store::layer_id::LayerId;
use varve::store::log::Log;
use varve::store::read::Store;
use varve::store::rewrite::{Change, each_record, rewrite};
use varve::store::seal::Seal;
use varve::store::sled::SledBackend;
use varve::store::state::{Head, LogIdentity};
use varve::store::{fresh, recovery};
use varve::telemetry::Telemetry;
use varve::tlog::hash::Hash;

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOGS: u32 = 4;
const BATCH: u64 = 500;
const ROUNDS: usize = 3;

struct Scripted(AtomicU64);

impl Clock for Scripted {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.wall_micros()
    }
}

fn event(log: u32, number: u64) -> String {
    let spread = (u64::from(log) << 32 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        concat!(
            r#"{{"id":"evt-{:016x}","action":"secret.value.op{}","outcome":"success","occurred_at":"2026-11-21T10:15:30.123456Z","#,
            r#""actor":{{"type":"service","id":"svc-billing-{}","name":"billing"}},"targets":[{{"type":"secret","id":"sec-{:06}"}}],"#,
            r#""context":{{"ip":"10.1.{}.{}","request_id":"req-{:016x}","user_agent":"billing/2.3"}},"#,
            r#""metadata":{{"key_version":7,"purpose":"invoice","region":"eu-central-1"}}}}"#
        ),
        spread,
        spread >> 20 & 7,
        (spread >> 30) % 50,
        number % 5000,
        number / 256 % 256,
        number % 256,
        spread.rotate_left(17),
    )
}

/// One month of `events` events in four logs, closed by an event of the next month.
fn fill(data: &Path, backend: &Arc<SledBackend>, month: LayerId, events: u64) {
    let options = journal::Options::default();
    let instance = Instance::parse("example.org").unwrap();
    fresh::create(data, &instance, &options, &mut |bytes| bytes.fill(1)).unwrap();
    let opened = recovery::open(data, backend.clone(), &options).unwrap();
    let clock = Arc::new(Scripted(AtomicU64::new(month.start())));
    let stamps = Arc::new(Stamps::new(clock.clone(), opened.newest_stamp));
    let pipeline = Pipeline::start(
        &opened.store,
        Vec::new(),
        opened.applier,
        opened.journal,
        &opened.signers,
        &stamps,
        Pace::default(),
        &Telemetry::new(),
    )
    .unwrap();
    let mut logs = Vec::new();
    let mut controls = Vec::new();
    for number in 1..=LOGS {
        let tenant = format!("tenant-{number}");
        let origin = format!("example.org/{tenant}");
        let seed = u8::try_from(number).unwrap();
        let mut signers = opened.key_file.add(&[&origin], &mut |bytes| bytes.fill(seed)).unwrap();
        let signer = signers.pop().unwrap();
        let identity = LogIdentity {
            number,
            tenant,
            origin: String::new(),
            log_id: Hash([seed; 32]),
            index_key: [seed; 32],
            genesis_key: signer.public(),
        };
        logs.push(Log::new(identity.clone(), Head::empty(signer.public())));
        controls.push(Control::CreateLog { identity, signer: Arc::new(signer) });
    }
    let mut put = |log: &Log, from: u64, to: u64| {
        let items = (from..to).map(|number| {
            let mut event = Event::parse(event(log.identity.number, number).as_bytes()).unwrap();
            fill_in(&mut event, Class::Security.name());
            prepare(log, &event, 1)
        });
        let submission = Submission {
            items: items.collect(),
            controls: std::mem::take(&mut controls),
            atomic: true,
            epoch: Some(opened.store.recent.epoch()),
        };
        pipeline.queue.admit(submission).unwrap().wait().unwrap();
    };
    let each = events / u64::from(LOGS);
    for from in (0..each).step_by(usize::try_from(BATCH).unwrap()) {
        logs.iter().for_each(|log| put(log, from, each.min(from + BATCH)));
    }
    clock.0.store(month.end(), Ordering::Relaxed);
    logs.iter().for_each(|log| put(log, each, each + 1));
    pipeline.stop().unwrap();
}

/// Wall time and processor time of all threads, sled's among them.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64, f64) {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (wall, spent) = (Instant::now(), cpu());
    let done = work();
    (done, wall.elapsed().as_secs_f64(), cpu() - spent)
}

fn du(dir: &Path) -> u64 {
    let below = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    below
        .map(|entry| {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { du(&entry.path()) } else { meta.blocks() * 512 }
        })
        .sum()
}

fn say(what: &str, bytes: u64, records: u64, (wall, cpu): (f64, f64), more: &str) {
    let mb = bytes as f64 / 1e6;
    println!(
        "  {what}: {:.1} MB/s, {:.0} records/s, {:.1} ms of CPU a MB, {:.1} us of CPU a record{more}",
        mb / wall,
        records as f64 / wall,
        cpu * 1e3 / mb,
        cpu * 1e6 / records as f64
    );
}

fn plan(store: &Store, month: LayerId) -> u64 {
    let layer = store.layers.get(month).unwrap();
    let mut bodies = 0;
    for log in store.logs() {
        each_record(&layer, &log, &mut |_, _, bytes| bodies += u64::from(bytes > 0), &mut |_| true).unwrap();
    }
    bodies
}

/// Rewrites the layer with `share` percent of its bodies leaving, spread evenly. Answers bytes on disk after, and bytes
/// that the pace is told.
fn go(store: &Store, month: LayerId, sealed: &Seal, share: u64) -> (u64, u64) {
    let from = store.layers.get(month).unwrap();
    let (_, dir, into) = store.layers.begin_next(month).unwrap();
    let mut change = |_: u32, index: u64, _: &_| {
        let dice = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        if dice % 100 < share { Change::DropBody } else { Change::Keep }
    };
    let mut told = 0;
    let done = rewrite(store, &from, sealed, &into, &dir, &mut change, &mut |bytes| {
        told += bytes as u64;
        true
    })
    .unwrap();
    assert_eq!(done.records, sealed.records);
    drop(into);
    let after = du(&dir);
    store.layers.give_up(month, &dir).unwrap();
    (after, told)
}

/// Copies every value of the layer into an empty one, through sled, synced.
fn copy_values(store: &Store, month: LayerId) {
    let from = store.layers.get(month).unwrap();
    let (_, dir, into) = store.layers.begin_next(month).unwrap();
    from.kv()
        .scan(&[0], &[u8::MAX], &mut |key, value| {
            into.kv().put(key, value).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    into.kv().sync().unwrap();
    drop(into);
    store.layers.give_up(month, &dir).unwrap();
}

fn main() {
    let _ = varve::process::flush_rule::install();
    let mut numbers = std::env::args().filter_map(|arg| arg.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(300_000);
    let only = numbers.next();
    let dir =
        tempfile::tempdir_in(std::env::var("VARVE_BENCH_DIR").unwrap_or_else(|_| "target".into())).unwrap();
    let data = dir.path().join("data");
    let backend = Arc::new(SledBackend::new(Watchdog::aborting()));
    let month = LayerId::parse("2026-10").unwrap();
    fill(&data, &backend, month, events);
    let opened = recovery::open(&data, backend, &journal::Options::default()).unwrap();
    let store = opened.store;
    let layer_dir = store.layers.dirs().remove(0).1;
    let sealed = Seal::of(&store.layers.get(month).unwrap(), &|| false).unwrap().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(store.layers.renew(month).unwrap());
    let (before, records) = (du(&layer_dir), sealed.records);
    println!(
        "compact: a layer of {records} records in {LOGS} logs, {:.1} MB on disk, {:.0} bytes a record, {} cores",
        before as f64 / 1e6,
        before as f64 / records as f64,
        std::thread::available_parallelism().unwrap()
    );
    for round in 0..ROUNDS {
        println!(" round {}:", round + 1);
        if only.is_none() {
            let ((), wall, cpu) = timed(|| {
                let copied = dir.path().join("copy");
                std::fs::copy(layer_dir.join("db"), &copied).unwrap();
                std::fs::File::open(&copied).unwrap().sync_all().unwrap();
                std::fs::remove_file(copied).unwrap();
            });
            say("plain copy of the file", before, records, (wall, cpu), "");
            let ((), wall, cpu) = timed(|| copy_values(&store, month));
            say("plain copy value by value", before, records, (wall, cpu), "");
            let (bodies, wall, cpu) = timed(|| plan(&store, month));
            assert!(bodies > 0 && bodies <= records);
            say("plan", before, records, (wall, cpu), "");
        }
        for share in [10, 50, 90, 100] {
            if only.is_some_and(|only| only != share) {
                continue;
            }
            let ((after, told), wall, cpu) = timed(|| go(&store, month, &sealed, share));
            let more = format!(
                "; {:.1} MB after, {:.2} bytes read and written a byte of the layer",
                after as f64 / 1e6,
                told as f64 / before as f64
            );
            say(&format!("rewrite, {share} % leave"), before, records, (wall, cpu), &more);
        }
    }
}
