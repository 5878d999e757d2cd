//! Fills a store with millions of events over twelve months and measures it: rate and memory while writing,
//! start after kill −9, memory and latency of queries cold and warm, bytes on disk an event.
//!
//! ```text
//! varve-scale all DIR --logs 100 --events 50000      # fill, kill, open, query; DIR is made and removed
//! varve-scale fill DIR --keep-months 1               # a store of which eleven months are due: for a compaction
//! ```
//!
//! Each step runs in a process of its own, so that its peak memory is its own. "Cold" is a new process after the
//! kernel's caches were dropped (root only; the run says when it could not).

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::disallowed_methods, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use varve::ingest::clock::Clock;
use varve::query::QueryText;
use varve::service::{BatchMode, ErrorCode, OpenOptions, Principal, Scope, Scopes, Service, Submitted};

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MONTHS: u64 = 12;
/// 2025-12-15T00:00:00Z, microseconds.
const START: u64 = 1_765_756_800_000_000;
const MONTH_MICROS: u64 = 30 * 86_400_000_000;
const BATCH: u64 = 250;
const CLIENTS: u64 = 8;

struct Scripted(AtomicU64);

impl Clock for Scripted {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn main() {
    let _ = varve::process::flush_rule::install();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str, default: u64| {
        args.iter().position(|arg| arg == name).map_or(default, |at| args[at + 1].parse().unwrap())
    };
    let (logs, events) = (flag("--logs", 100), flag("--events", 50_000));
    let dir = PathBuf::from(
        args.get(1).expect("usage: varve-scale all|fill|open|query DIR [--logs N] [--events N]"),
    );
    match args[0].as_str() {
        "all" => all(&dir, logs, events),
        "fill" => fill(&dir, logs, events, flag("--keep-months", 0)),
        "open" => open(&dir),
        "query" => query(&dir, logs, flag("--queries", 300)),
        other => panic!("no such step: {other}"),
    }
}

fn all(dir: &Path, logs: u64, events: u64) {
    println!(
        "{logs} logs x {events} events over {MONTHS} months, fsync before each answer, every event signed"
    );
    let step = |name: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, dir.to_str().unwrap(), "--logs", &logs.to_string(), "--events", &events.to_string()])
            .stdout(Stdio::inherit())
            .spawn()
            .unwrap();
        assert!(child.wait().is_ok());
    };
    step("fill");
    step("open");
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("query: the caches could not be dropped; the cold figure is not cold");
    }
    step("query");
    step("query");
    std::fs::remove_dir_all(dir).unwrap();
}

fn options(clock: u64) -> (OpenOptions, Arc<Scripted>) {
    let clock = Arc::new(Scripted(AtomicU64::new(clock)));
    (OpenOptions { heartbeat_seconds: 0, clock: clock.clone(), ..OpenOptions::default() }, clock)
}

fn event(log: u64, number: u64) -> String {
    let spread = (log << 32 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
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

fn by(tenant: &str) -> Principal {
    let scopes =
        Scopes::default().with(Scope::Ingest).with(Scope::Read).with(Scope::Verify).with(Scope::Retention);
    Principal { key_id: "scale".to_owned(), tenant: Some(tenant.to_owned()), scopes }
}

/// Fills the store, then kills itself. `keep_months` is what its logs say of their events; 0 says nothing.
fn fill(dir: &Path, logs: u64, events: u64, keep_months: u64) {
    let (options, clock) = options(START);
    let made = Service::init(dir, Some("scale.local"), None, &options).unwrap();
    let service = Service::open(dir, &options).unwrap();
    let operator = service.authenticate(&made.operator_key).unwrap();
    let begun = Instant::now();
    for log in 0..logs {
        let tenant = format!("t{log}");
        service.create_tenant(&operator, &tenant).unwrap();
        if keep_months > 0 {
            let policy = format!(r#"{{"classes":{{"security":{{"months":{keep_months}}}}}}}"#);
            service.set_retention(&by(&tenant), &tenant, policy.as_bytes()).unwrap();
        }
    }
    println!("fill: {logs} tenants made in {:.1} s", begun.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let begun = Instant::now();
    for month in 0..MONTHS {
        clock.0.store(START + month * MONTH_MICROS, Ordering::Relaxed);
        let (from, to) = (events * month / MONTHS, events * (month + 1) / MONTHS);
        runtime.block_on(async {
            let tasks: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (service, clock) = (service.clone(), clock.clone());
                    tokio::spawn(async move {
                        let mut at = from;
                        while at < to {
                            let end = to.min(at + BATCH);
                            for log in (client..logs).step_by(usize::try_from(CLIENTS).unwrap()) {
                                clock.0.fetch_add(1_000, Ordering::Relaxed);
                                append(&service, log, at, end).await;
                            }
                            at = end;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
    let total = logs * events;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "fill: {total} events in {seconds:.1} s = {:.0}/s, peak RSS {} MiB",
        total as f64 / seconds,
        peak_mib()
    );
    std::thread::sleep(Duration::from_secs(7));
    println!(
        "fill: {:.0} bytes on disk an event without the journal, {} MiB of journal",
        bytes_below(dir, false) as f64 / total as f64,
        bytes_below(&dir.join("journal"), true) >> 20
    );
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    std::thread::sleep(Duration::from_secs(60));
}

async fn append(service: &Service, log: u64, from: u64, to: u64) {
    let tenant = format!("t{log}");
    let raw: Vec<String> = (from..to).map(|number| event(log, number)).collect();
    let events: Vec<Submitted<'_>> =
        raw.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
    loop {
        match service.append(&by(&tenant), &tenant, &events, BatchMode::Atomic, false).await {
            Ok(_) => return,
            Err(error) if error.code == ErrorCode::Busy => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn open(dir: &Path) {
    let begun = Instant::now();
    let (options, _) = options(START + (MONTHS - 1) * MONTH_MICROS + MONTH_MICROS / 2);
    let service = Service::open(dir, &options).unwrap();
    println!("open: after kill -9 in {:.2} s, peak RSS {} MiB", begun.elapsed().as_secs_f64(), peak_mib());
    service.stop().unwrap();
    drop(service);
    let begun = Instant::now();
    let service = Service::open(dir, &options).unwrap();
    println!("open: after a clean stop in {:.2} s", begun.elapsed().as_secs_f64());
    service.stop().unwrap();
}

fn query(dir: &Path, logs: u64, queries: u64) {
    let (options, _) = options(START + MONTHS * MONTH_MICROS);
    let service = Service::open(dir, &options).unwrap();
    for round in ["first", "second"] {
        let mut times = Vec::new();
        let mut found = 0;
        for number in 0..queries {
            let spread = number.wrapping_mul(0xD1B5_4A32_D192_ED03);
            let tenant = format!("t{}", (spread >> 7) % logs);
            let params = QueryText {
                actor: Some(format!("svc-billing-{}", (spread >> 33) % 50)),
                action: Some(format!("secret.value.op{}", spread >> 50 & 7)),
                limit: Some("100".to_owned()),
                ..QueryText::default()
            };
            let begun = Instant::now();
            let page = service.query(&by(&tenant), &tenant, &params).unwrap();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            found += page.records.len();
        }
        times.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, reason = "a share of a length")]
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "query: {round} round of {queries}, {:.0} records a page: p50 {:.1} ms, p95 {:.1} ms, max {:.1} ms, peak RSS {} MiB",
            found as f64 / queries as f64,
            at(0.5),
            at(0.95),
            at(1.0),
            peak_mib()
        );
    }
    service.stop().unwrap();
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn bytes_below(dir: &Path, with_journal: bool) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() && (with_journal || entry.file_name() != "journal") {
            bytes += bytes_below(&entry.path(), with_journal);
        } else if meta.is_file() {
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}
