//! The offline verifier against a store of its own making:
//! `cargo bench --bench verify -- [ENTRIES] [TENANTS] [hashes] [DIR]`; with `hashes` signatures are left out. A store in
//! DIR is written once and stays, so that two builds can be held against each other on the same bytes.
//!
//! Prints entries a second with hashes alone and with signatures, each beside its limit on the same number of
//! threads in the same run: the hashes of an entry and nothing else, strict verification and nothing else.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation, reason = "it measures")]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use varve::event::{Field, token};
use varve::service::{BatchMode, OpenOptions, Service, Submitted};
use varve::tlog::chain;
use varve::tlog::hash::{EVENT, SEALED};
use varve::tlog::key::{SeedSigner, Signer as _};
use varve::verify::{Options, Progress, verify_dir};

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const INSTANCE: &str = "measure.example";

/// Different signatures that the limit is measured with.
const SIGNATURES: usize = 4096;

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
    let kept = std::env::args().skip(1).find(|arg| arg.contains('/')).map(PathBuf::from);
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = kept.as_deref().unwrap_or(temporary.path());
    if !dir.join("MANIFEST").exists() {
        let started = Instant::now();
        write(dir, entries, tenants);
        println!(
            "written: {entries} entries of {tenants} tenants in {:.1} s, {} MB",
            started.elapsed().as_secs_f64(),
            bytes(dir) >> 20
        );
    }
    let hashes_only = std::env::args().any(|arg| arg == "hashes");
    for no_signatures in [true, true, false] {
        if hashes_only && !no_signatures {
            continue;
        }
        let limit = || if no_signatures { raw_hashes() } else { raw_signatures() };
        let before = limit();
        let options = Options { no_signatures, ..Options::default() };
        let (started, cpu_before) = (Instant::now(), cpu_seconds());
        let report = verify_dir(dir, &options, &Quiet).expect("a store that can be read");
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
        assert!(report.valid, "{}", report.to_text());
        let size = report.logs.iter().map(|log| log.size).sum::<u64>() as f64;
        let what = if no_signatures { "hashes alone" } else { "with signatures" };
        let after = limit();
        let (limit, limit_cpu) = (f64::midpoint(before.0, after.0), f64::midpoint(before.1, after.1));
        let micros = cpu / size * 1e6;
        println!(
            "{what}: {:.0} entries/s ({seconds:.2} s; {micros:.2} us of CPU an entry); nothing else: {limit:.0}/s \
             ({limit_cpu:.2} us), ratio {:.2}, of CPU {:.2}",
            size / seconds,
            size / seconds / limit,
            limit_cpu / micros,
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown"));
}

/// CPU time of the process so far, both of user and of system, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Strict verifications a second of all cores, and microseconds of CPU of one.
fn raw_signatures() -> (f64, f64) {
    let signer = SeedSigner::from_seed(&[1; 32]);
    let key = signer.verifying_key();
    // A processor learns the branches of one signature that comes again and again; those of a log are all different.
    let signed: Vec<_> = (0..SIGNATURES)
        .map(|number| {
            let message = chain::signed_message(&EVENT.hash(&[&number.to_be_bytes()]));
            (message, signer.sign(&message))
        })
        .collect();
    on_all_cores(20_000, &|number| {
        let (message, signature) = &signed[number % SIGNATURES];
        assert!(key.verify(black_box(message), signature));
    })
}

/// Entries a second of all cores when only what must be hashed of one is: link, leaf, event, four sealed values,
/// two tokens that no cache has; and microseconds of CPU of one.
fn raw_hashes() -> (f64, f64) {
    let (entry, event, sealed) = ([7u8; chain::ENTRY_BYTES], [7u8; 480], [7u8; 80]);
    let key = [7u8; 32];
    on_all_cores(100_000, &|_| {
        black_box(chain::link(black_box(&entry)));
        black_box(chain::leaf_hash(black_box(&entry)));
        black_box(EVENT.hash(&[black_box(&event)]));
        (0..4).for_each(|_| {
            black_box(SEALED.hash(&[black_box(&sealed)]));
        });
        (0..2).for_each(|_| {
            black_box(token(&key, Field::Id, black_box(b"01933e5f-000000000001")));
        });
    })
}

fn on_all_cores(each: usize, work: &(dyn Fn(usize) + Sync)) -> (f64, f64) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..each).for_each(work));
        }
    });
    let (count, seconds) = ((each * threads) as f64, started.elapsed().as_secs_f64());
    (count / seconds, (cpu_seconds() - cpu_before) / count * 1e6)
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
