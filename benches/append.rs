//! Appending, everything on: parse, seal, chain, sign, one synced journal frame a group, publish, layers and
//! indexes behind it. Prints its ratio to what the same cores sign when they do nothing else, in the same run.

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss, clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::Ed25519KeyPair;
use ed25519_dalek::Signer as _;
use varve::service::{BatchMode, ErrorCode, OpenOptions, Service, Submitted};

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn event(number: u64) -> String {
    format!(
        concat!(
            r#"{{"id":"evt-{:016x}","action":"secret.value.decrypt","outcome":"success","occurred_at":"2026-11-21T10:15:30.123456Z","#,
            r#""actor":{{"type":"service","id":"svc-billing-{}","name":"billing"}},"targets":[{{"type":"secret","id":"sec-{:06}"}}],"#,
            r#""context":{{"ip":"10.1.{}.{}","request_id":"req-{:016x}","user_agent":"billing/2.3"}},"#,
            r#""metadata":{{"key_version":7,"purpose":"invoice","region":"eu-central-1"}}}}"#
        ),
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        number % 50,
        number % 5000,
        number / 256 % 256,
        number % 256,
        number.wrapping_mul(0xD1B5_4A32_D192_ED03),
    )
}

/// Signatures a second of all cores together when they do nothing else: by aws-lc, which Varve signs with.
fn sign_only(threads: usize, time: Duration) -> f64 {
    all_cores(threads, time, |seed| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        move |message| {
            std::hint::black_box(pair.sign(message));
        }
    })
}

/// The same by ed25519-dalek, which verdicts come from.
fn sign_only_dalek(threads: usize, time: Duration) -> f64 {
    all_cores(threads, time, |seed| {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        move |message| {
            std::hint::black_box(key.sign(message));
        }
    })
}

fn all_cores<F: FnMut(&[u8])>(threads: usize, time: Duration, signer: impl Fn([u8; 32]) -> F + Sync) -> f64 {
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..threads {
            let (done, stop, signer) = (&done, &stop, &signer);
            let limit = std::thread::Builder::new().name("sign-only".into());
            let work = move || {
                let mut sign = signer([u8::try_from(seed).unwrap(); 32]);
                let message = [7u8; 47];
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        sign(std::hint::black_box(&message));
                    }
                    done.fetch_add(64, Ordering::Relaxed);
                }
            };
            limit.spawn_scoped(scope, work).unwrap();
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Appends `count` events and returns events a second. The events are made before the clock starts.
fn append(clients: usize, batch: usize, logs: usize, count: usize) -> f64 {
    let dir =
        tempfile::tempdir_in(std::env::var("VARVE_BENCH_DIR").unwrap_or_else(|_| "target".into())).unwrap();
    let data = dir.path().join("data");
    let options = OpenOptions { heartbeat_seconds: 0, ..OpenOptions::default() };
    let made = Service::init(&data, Some("bench.local"), None, &options).unwrap();
    let service = Service::open(&data, &options).unwrap();
    let operator = service.authenticate(&made.operator_key).unwrap();
    let principals: Vec<_> = (0..logs)
        .map(|log| {
            let tenant = format!("tenant-{log}");
            service.create_tenant(&operator, &tenant).unwrap();
            let key = service.create_key(&operator, &tenant, "bench", &["ingest".to_owned()], None).unwrap();
            (tenant, service.authenticate(&key.key).unwrap())
        })
        .collect();
    let raw: Arc<Vec<String>> = Arc::new((0..count as u64).map(event).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let start = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let (service, (tenant, by)) = (service.clone(), principals[client % logs].clone());
                let (next, raw) = (next.clone(), raw.clone());
                tokio::spawn(async move {
                    loop {
                        let first = next.fetch_add(batch, Ordering::Relaxed);
                        if first >= raw.len() {
                            return;
                        }
                        let events: Vec<Submitted<'_>> = raw[first..raw.len().min(first + batch)]
                            .iter()
                            .map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None })
                            .collect();
                        while let Err(error) =
                            service.append(&by, &tenant, &events, BatchMode::Atomic, false).await
                        {
                            assert!(error.code == ErrorCode::Busy, "{error}");
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let rate = count as f64 / start.elapsed().as_secs_f64();
    service.stop().unwrap();
    rate
}

/// `append [EVENTS] [CLIENTSxBATCH]`: the second picks one line, to be looked at with a profiler.
fn main() {
    let _ = varve::process::flush_rule::install();
    let count = std::env::args().filter_map(|arg| arg.parse::<usize>().ok()).next().unwrap_or(200_000);
    let time = Duration::from_secs(2);
    let cores = std::thread::available_parallelism().unwrap().get();
    let size = event(1).len();
    println!("append: events of {size} bytes, fsync before each answer, every event signed, {cores} cores");
    println!("  sign-only by ed25519-dalek, for comparison: {:.0}/s", sign_only_dalek(cores, time));
    let only =
        std::env::args().find(|arg| arg.contains('x') && arg.starts_with(|c: char| c.is_ascii_digit()));
    for (clients, batch, logs, share) in [(16, 100, 4, 1), (8, 1000, 4, 1), (256, 1, 4, 3)] {
        if only.as_ref().is_some_and(|only| *only != format!("{clients}x{batch}")) {
            continue;
        }
        let before = sign_only(cores, time);
        let rate = append(clients, batch, logs, count / share);
        let after = sign_only(cores, time);
        let limit = f64::midpoint(before, after);
        println!(
            "  {clients} clients x {batch}, {logs} logs: {rate:.0} events/s, sign-only {limit:.0}/s, ratio {:.2}",
            rate / limit
        );
    }
}
