//! Mode `compaction`: what a compaction costs those who append and those who query while it runs.
//!
//! The same load three times: before, while a compaction runs, and after; beside it one client that asks for the events of
//! an actor. The store must have enough that is due: a compaction that ends before the load did shows nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::report::{Report, grouped, rounded};
use crate::server::Host;
use crate::steady::{self, Ran, Steady};
use crate::tally::Latencies;
use crate::verdict::{self, Part};
use crate::{Fault, on_this_thread};

/// Pause between two queries: one client, not a load of its own.
const BETWEEN_QUERIES: Duration = Duration::from_millis(30);

/// How often it is asked how far the compaction is.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How long a compaction may go on after its load.
const COMPACTION_TIME: Duration = Duration::from_secs(600);

/// Runs the three loads and proves what came.
///
/// # Errors
/// The run cannot be made: nothing is due, or the compaction fails. What does not hold is in the report.
pub async fn run(host: &Host, wanted: Steady) -> Result<Report, Fault> {
    let mut admin = Admin::open(host.address()).await?;
    let questions = Arc::new(Questions::of(&mut admin, host).await?);
    let before = Beside::of(host, wanted, &questions).await?;
    let watch = Watch::start(host).await?;
    let during = Beside::of(host, wanted, &questions).await?;
    let progress = watch.join()?;
    let after = Beside::of(host, wanted, &questions).await?;

    let mut findings = Vec::new();
    let mut receipts = 0;
    for part in [&before, &during, &after] {
        let parts = [Part { requests: &part.ran.requests, done: &part.ran.done }];
        let verdict = verdict::prove(host.address(), &part.ran.logs, &parts).await?;
        findings.extend(verdict.findings.into_words());
        receipts += verdict.receipts;
    }
    let begun = during.ran.done.start + wanted.warmup;
    let rewritten = progress.bytes_a_second(begun, begun + wanted.window);
    if rewritten.is_none() {
        findings.push(
            "the compaction ended before the load that it was to run beside: more must be due, or --seconds fewer".to_owned(),
        );
    }
    let kept = during.rate(wanted) / f64::midpoint(before.rate(wanted), after.rate(wanted)).max(1.0);
    let p95 = during.queries.at_ms(0.95)
        / f64::midpoint(before.queries.at_ms(0.95), after.queries.at_ms(0.95)).max(1e-3);
    let megabytes = rewritten.map(|bytes| (bytes / 1e5).round() / 10.0);
    let json = json!({
        "mode": "compaction", "connections": wanted.connections, "batch": wanted.batch,
        "seconds": wanted.window.as_secs_f64(), "before": before.json(wanted), "during": during.json(wanted),
        "after": after.json(wanted), "rate_kept": kept, "query_p95_times": p95, "rewritten_mb_per_second": megabytes,
        "compaction": progress.end, "receipts_checked": receipts, "findings": findings,
    });
    let mut lines = vec![format!(
        "compaction: NDJSON × {}, {} connections, {} s, before it, during it and after it",
        wanted.batch,
        wanted.connections,
        wanted.window.as_secs_f64()
    )];
    lines.extend([("before", &before), ("during", &during), ("after", &after)].map(|(when, part)| {
        format!(
            "  {when}: {} events/s; queries {}; others used {:.2} cores",
            grouped(rounded(part.rate(wanted))),
            part.queries,
            part.ran.others_cores.unwrap_or(f64::NAN),
        )
    }));
    lines.push(format!(
        "  {} MB of layers rewritten a second meanwhile; against the mean of before and after the rate is {kept:.2} times, \
         the p95 of a query {p95:.2} times",
        megabytes.map_or("an unknown number of".to_owned(), |megabytes| format!("{megabytes:.1}")),
    ));
    lines.push(format!("  {} receipts good", grouped(receipts)));
    Ok(Report { lines, json, findings })
}

/// A load, and the queries beside it.
struct Beside {
    ran: Ran,
    queries: Latencies,
}

impl Beside {
    async fn of(host: &Host, wanted: Steady, questions: &Arc<Questions>) -> Result<Beside, Fault> {
        let asker = Asker::start(host.address(), questions);
        let ran = steady::load(host, wanted).await;
        let asked = asker.join();
        let ran = ran?;
        let begun = ran.done.start + wanted.warmup;
        let mut queries = Latencies::default();
        for (at, latency) in asked? {
            if (begun..begun + wanted.window).contains(&at) {
                queries.note(latency);
            }
        }
        Ok(Beside { ran, queries })
    }

    fn rate(&self, wanted: Steady) -> f64 {
        self.ran.done.events_per_second(wanted.batch)
    }

    fn json(&self, wanted: Steady) -> Value {
        json!({
            "events_per_second": rounded(self.rate(wanted)), "latency_ms": self.ran.done.tally.stored.json(),
            "query_ms": self.queries.json(), "query_p95_ms": self.queries.at_ms(0.95),
            "cores_used_by_others": self.ran.others_cores,
        })
    }
}

/// What is asked: the events of some actors of the tenant that has the most entries.
struct Questions {
    paths: Vec<String>,
    key: String,
}

impl Questions {
    async fn of(admin: &mut Admin, host: &Host) -> Result<Questions, Fault> {
        let tenant = admin.largest_tenant(host.operator_key()).await?;
        let key = admin.make_key(host.operator_key(), &tenant, &["read"]).await?;
        let events = format!("/v1/tenants/{tenant}/events");
        let page = admin.get(&format!("{events}?limit=100"), &key, 200).await?;
        let page: Value = serde_json::from_slice(&page).map_err(Fault::unable)?;
        let actor = |record: &Value| record.pointer("/event/actor/id")?.as_str().map(plain);
        let actors: BTreeSet<String> =
            page["events"].as_array().into_iter().flatten().filter_map(actor).flatten().collect();
        if actors.is_empty() {
            return Err(Fault::unable(format!(
                "the newest 100 events of {tenant} name no actor that can be asked for"
            )));
        }
        let paths = actors.into_iter().map(|actor| format!("{events}?limit=20&actor={actor}")).collect();
        Ok(Questions { paths, key })
    }
}

/// An id that stands in a query string as it is.
fn plain(id: &str) -> Option<String> {
    id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then(|| id.to_owned())
}

/// One client that asks again and again, on a thread of its own.
struct Asker {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<(Instant, Duration)>, Fault>>,
}

impl Asker {
    fn start(address: SocketAddr, questions: &Arc<Questions>) -> Asker {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, questions) = (Arc::clone(&is_over), Arc::clone(questions));
        let thread = std::thread::spawn(move || {
            on_this_thread(async move {
                let mut admin = Admin::open(address).await?;
                let mut asked = Vec::new();
                for path in questions.paths.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let at = Instant::now();
                    admin.get(path, &questions.key, 200).await?;
                    asked.push((at, at.elapsed()));
                    tokio::time::sleep(BETWEEN_QUERIES).await;
                }
                Ok(asked)
            })
        });
        Asker { is_over, thread }
    }

    fn join(self) -> Result<Vec<(Instant, Duration)>, Fault> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Fault::unable("the asking client panicked: a defect of this tool"))?
    }
}

/// Watches a compaction to its end, on a thread of its own.
struct Watch(JoinHandle<Result<Progress, Fault>>);

impl Watch {
    /// Begins a compaction. The machine's clock is taken for right.
    async fn start(host: &Host) -> Result<Watch, Fault> {
        let (address, key) = (host.address(), host.operator_key().to_owned());
        let id = Admin::open(address).await?.start_compaction(&key).await?;
        let watching = async move {
            // A connection of the thread's own: a socket belongs to the runtime that opened it.
            let mut admin = Admin::open(address).await?;
            let path = format!("/v1/compactions/{id}");
            let mut progress = Progress { marks: vec![(Instant::now(), 0)], end: Value::Null };
            let begun = Instant::now();
            while begun.elapsed() < COMPACTION_TIME {
                let seen = admin.get(&path, &key, 200).await?;
                let seen: Value = serde_json::from_slice(&seen).map_err(Fault::unable)?;
                progress.note(Instant::now(), seen["bytes_before"].as_u64().unwrap_or(0));
                match seen["state"].as_str() {
                    Some("running") => tokio::time::sleep(BETWEEN_LOOKS).await,
                    Some("done") => {
                        progress.end = seen;
                        return Ok(progress);
                    }
                    _ => return Err(Fault::unable(format!("the compaction failed: {}", seen["detail"]))),
                }
            }
            Err(Fault::unable("the compaction did not end within ten minutes"))
        };
        Ok(Watch(std::thread::spawn(move || on_this_thread(watching))))
    }

    fn join(self) -> Result<Progress, Fault> {
        self.0.join().map_err(|_| Fault::unable("the watching client panicked: a defect of this tool"))?
    }
}

/// How far a compaction was, and when.
struct Progress {
    /// Bytes of the layers that were rewritten up to a moment; each layer counts when it is done.
    marks: Vec<(Instant, u64)>,
    /// What it said at its end.
    end: Value,
}

impl Progress {
    fn note(&mut self, at: Instant, bytes: u64) {
        if self.marks.last().is_some_and(|&(_, before)| bytes > before) {
            self.marks.push((at, bytes));
        }
    }

    /// Bytes a second between two moments, each layer spread over the time that it took; `None` when the compaction had
    /// ended before.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a store fit")]
    fn bytes_a_second(&self, from: Instant, to: Instant) -> Option<f64> {
        let at = |moment: Instant| {
            let pair = self.marks.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&moment))?;
            let share = (moment - pair[0].0).as_secs_f64() / (pair[1].0 - pair[0].0).as_secs_f64().max(1e-9);
            Some(pair[0].1 as f64 + share * (pair[1].1 - pair[0].1) as f64)
        };
        Some((at(to)? - at(from)?) / (to - from).as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_spread_over_the_time_that_it_took() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut progress = Progress { marks: vec![(at(0), 0)], end: Value::Null };
        for (seconds, bytes) in [(2, 0), (4, 400), (5, 400), (6, 1000)] {
            progress.note(at(seconds), bytes);
        }
        assert_eq!(progress.bytes_a_second(at(0), at(4)), Some(100.0));
        assert_eq!(progress.bytes_a_second(at(3), at(5)), Some(200.0));
        assert_eq!(progress.bytes_a_second(at(5), at(7)), None, "it had ended");
    }

    #[test]
    fn only_ids_that_need_no_escaping_are_asked_for() {
        assert_eq!(plain("svc-billing_1.x").as_deref(), Some("svc-billing_1.x"));
        assert_eq!(plain("a b"), None);
        assert_eq!(plain("a&limit=1"), None);
    }
}
