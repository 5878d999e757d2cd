//! The offline verifier against a store of its own making: `cargo bench --bench verify -- [ENTRIES] [TENANTS]`.
//!
//! Prints entries a second with hashes alone and with signatures, the rate of strict verification alone on
//! the same number of threads, and the largest resident set.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation, reason = "it measures")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use varve::service::{BatchMode, OpenOptions, Service, Submitted};
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
    let options = OpenOptions { heartbeat_seconds: 0, ..OpenOptions::default() };
    let made = Service::init(dir, Some(INSTANCE), None, &options).expect("a store");
    let service = Service::open(dir, &options).expect("an empty store");
    let operator = service.authenticate(&made.operator_key).expect("the operator");
    let principals: Vec<_> = (0..tenants)
        .map(|number| {
            let tenant = format!("tenant-{number}");
            service.create_tenant(&operator, &tenant).expect("a tenant");
            let scopes = ["ingest".to_owned()];
            let key = service.create_key(&operator, &tenant, "bench", &scopes, None).expect("a key");
            let by = service.authenticate(&key.key).expect("the tenant's key");
            (tenant, by)
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (batch, first) in (0..entries).step_by(BATCH).enumerate() {
        let (tenant, by) = &principals[batch % tenants];
        let raw: Vec<String> = (first..entries.min(first + BATCH)).map(event_json).collect();
        let events: Vec<Submitted<'_>> =
            raw.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
        let receipts = runtime.block_on(service.append(by, tenant, &events, BatchMode::Atomic, false));
        receipts.expect("durable");
    }
    service.stop().expect("a clean stop");
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
