//! Mode `overload`: several times what the server can take, for a while, and what is true during it and after.
//!
//! Asked: every answer is 201, or 429, 503 or 507 with `Retry-After`; nothing that was acknowledged is lost; the
//! server's memory stays under a bound; an honest client is back at its usual p99 within five seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Fault;
use crate::admin::Admin;
use crate::drive::{Done, Length, Load, Rate, drive};
use crate::probe;
use crate::report::{Report, counts, grouped, rounded};
use crate::request::Requests;
use crate::server::{Host, memory_mib};
use crate::steady::run_name;
use crate::tally::Tally;
use crate::verdict::{self, Part};

/// How long the capacity is measured, after a second of warm-up.
const CAPACITY_TIME: Duration = Duration::from_secs(4);

/// How long the honest client is watched before the overload, seconds.
const BEFORE_S: usize = 5;

/// How long it is watched after the overload, seconds.
const AFTER_S: usize = 10;

/// Within what time after the overload its p99 must be back, seconds.
const BACK_WITHIN_S: f64 = 5.0;

/// What counts as back: at most twice the p99 from before, or 5 ms more, whichever is longer.
const BACK_FACTOR: f64 = 2.0;
const BACK_MS: f64 = 5.0;

/// Ids of the overload's events begin far from those of the capacity run.
const OVERLOAD_FIRST_EVENT: u64 = 1 << 40;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Overload {
    /// Connections of the overload.
    pub connections: usize,
    /// Connections with which the capacity is measured.
    pub capacity_connections: usize,
    /// Events of a request.
    pub batch: usize,
    /// Logs that the requests go to in turn.
    pub tenants: usize,
    /// How many times the measured capacity is offered.
    pub times: f64,
    /// For how long.
    pub time: Duration,
    /// Most memory of the server, MiB.
    pub max_memory_mib: u64,
    /// Bytes of requests made ahead.
    pub ahead_bytes: usize,
}

/// Runs the overload and proves what came.
///
/// # Errors
/// The run cannot be made. What does not hold is in the report.
pub async fn run(host: &Host, wanted: Overload) -> Result<Report, Fault> {
    let Some(pid) = host.pid() else {
        return Err(Fault::unable("the server's memory is part of this mode: say --pid, or --spawn"));
    };
    let address = host.address();
    let mut admin = Admin::open(address).await?;
    let logs = admin.make_logs(host.operator_key(), &run_name(), wanted.tenants + 1).await?;
    let honest = wanted.tenants..wanted.tenants + 1;

    let mut warm = Requests::new(&logs, 0..wanted.tenants, wanted.batch, 0);
    let length = Length::Time { warmup: Duration::from_secs(1), window: CAPACITY_TIME, late: Duration::ZERO };
    let load =
        Load { rate: Rate::Max, connections: wanted.capacity_connections, length, with_timeline: false };
    warm.make_ahead(2000, wanted.ahead_bytes);
    let (warm, capacity_done) = drive(address, warm, load).await?;
    let capacity = capacity_done.events_per_second(wanted.batch);

    let offered = capacity * wanted.times;
    let length = Length::Time { warmup: Duration::ZERO, window: wanted.time, late: Duration::ZERO };
    let rate = Rate::EventsPerSecond(offered);
    let load = Load { rate, connections: wanted.connections, length, with_timeline: false };
    let mut flood = Requests::new(&logs, 0..wanted.tenants, wanted.batch, OVERLOAD_FIRST_EVENT);
    let flood_count = rounded(offered * wanted.time.as_secs_f64() / wanted.batch as f64);
    flood.make_ahead(flood_count, wanted.ahead_bytes);

    let watched = Duration::from_secs((BEFORE_S + AFTER_S) as u64) + wanted.time;
    let probe = probe::start(address, Requests::new(&logs, honest, 1, 0), watched);
    tokio::time::sleep(Duration::from_secs(BEFORE_S as u64)).await;
    let memory = MemoryWatch::start(pid);
    let (flood, flood_done) = drive(address, flood, load).await?;
    let peak_mib = memory.stop();
    let (honest, honest_done) = probe::join(probe)?;

    let ended = (flood_done.start + wanted.time).duration_since(honest_done.start).as_secs_f64();
    let began = flood_done.start.duration_since(honest_done.start).as_secs_f64();
    let back = Back::of(&honest_done.tally, began, ended);
    let parts = [
        Part { requests: &warm, done: &capacity_done },
        Part { requests: &flood, done: &flood_done },
        Part { requests: &honest, done: &honest_done },
    ];
    let verdict = verdict::prove(address, &logs, &parts).await?;
    let (_, most_mib) = memory_mib(pid)?;
    let mut findings = verdict.findings.into_words();
    judge(&wanted, most_mib.max(peak_mib), &back, &mut findings);
    let seen = Seen { capacity, offered, peak_mib, most_mib, back };
    Ok(tell(&wanted, &seen, &flood_done, &verdict.json, verdict.receipts, findings))
}

/// What was seen beside the answers themselves.
struct Seen {
    capacity: f64,
    offered: f64,
    peak_mib: u64,
    most_mib: u64,
    back: Back,
}

/// When the honest client was back at its usual latency.
struct Back {
    before_p99_ms: f64,
    limit_ms: f64,
    during: Value,
    during_refused: u64,
    /// p99 of each second after the overload, milliseconds.
    seconds_after: Vec<f64>,
    /// Seconds from the end of the overload to the second from which on p99 was usual and nothing refused.
    after_s: Option<f64>,
}

impl Back {
    fn of(tally: &Tally, began: f64, ended: f64) -> Back {
        let whole = |seconds: f64| usize::try_from(rounded(seconds)).unwrap_or(usize::MAX);
        let before = tally.between(0, whole(began.floor()));
        let during = tally.between(whole(began.ceil()), whole(ended.floor()));
        let before_p99_ms = before.latencies.at_ms(0.99);
        let limit_ms = (before_p99_ms * BACK_FACTOR).max(before_p99_ms + BACK_MS);
        let first = whole(ended.ceil());
        let seconds = tally.timeline.len();
        // From a second on to the end of the watch, so that one slow request in a hundred does not decide.
        let is_usual_from = |second: usize| {
            let rest = tally.between(second, seconds);
            rest.refused == 0 && rest.latencies.at_ms(0.99) <= limit_ms
        };
        let back_at = (first..seconds).find(|&second| is_usual_from(second));
        let after_s = back_at.map(|second| second as f64 - ended);
        let after = tally.timeline.get(first..).unwrap_or_default();
        Back {
            before_p99_ms,
            limit_ms,
            during: during.latencies.json(),
            during_refused: during.refused,
            seconds_after: after.iter().map(|second| second.latencies.at_ms(0.99)).collect(),
            after_s,
        }
    }
}

fn judge(wanted: &Overload, most_mib: u64, back: &Back, findings: &mut Vec<String>) {
    if most_mib > wanted.max_memory_mib {
        findings.push(format!("the server took {most_mib} MiB, the bound is {}", wanted.max_memory_mib));
    }
    let (before, limit) = (back.before_p99_ms, back.limit_ms);
    match back.after_s {
        Some(seconds) if seconds <= BACK_WITHIN_S => {}
        Some(seconds) => findings.push(format!(
            "p99 was back at {limit:.1} ms (before: {before:.1} ms) only {seconds:.1} s after the overload"
        )),
        None => findings.push(format!(
            "p99 was not back at {limit:.1} ms (before: {before:.1} ms) {AFTER_S} s after the overload"
        )),
    }
}

fn tell(
    wanted: &Overload,
    seen: &Seen,
    done: &Done,
    checked: &Value,
    receipts: u64,
    findings: Vec<String>,
) -> Report {
    let sent = done.tally.statuses.values().sum::<u64>() + done.unanswered;
    let sent_rate = (sent * wanted.batch as u64) as f64 / wanted.time.as_secs_f64();
    let stored_rate = done.events_per_second(wanted.batch);
    let back = &seen.back;
    let json = json!({
        "mode": "overload", "connections": wanted.connections, "batch": wanted.batch, "tenants": wanted.tenants,
        "seconds": wanted.time.as_secs_f64(), "times": wanted.times,
        "capacity_events_per_second": rounded(seen.capacity), "offered_events_per_second": rounded(seen.offered),
        "sent_events_per_second": rounded(sent_rate), "stored_events_per_second": rounded(stored_rate),
        "statuses": done.tally.statuses, "latency_ms": done.tally.stored.json(),
        "refused_latency_ms": done.tally.refused.json(), "from_send_ms": done.tally.from_send.json(), "unanswered": done.unanswered,
        "peak_rss_mib": seen.peak_mib, "vm_hwm_mib": seen.most_mib, "max_memory_mib": wanted.max_memory_mib,
        "honest": {"events_per_second": probe::RATE, "before_p99_ms": back.before_p99_ms, "limit_ms": back.limit_ms,
            "during_ms": back.during, "during_refused": back.during_refused, "back_after_seconds": back.after_s,
            "after_p99_ms": back.seconds_after},
        "checked": checked, "findings": findings,
    });
    let number = |rate: f64| grouped(rounded(rate));
    let lines = vec![
        format!(
            "overload: {} × the capacity of {} events/s for {} s, {} connections, batches of {}",
            wanted.times,
            number(seen.capacity),
            wanted.time.as_secs_f64(),
            wanted.connections,
            wanted.batch
        ),
        format!(
            "  offered {} events/s, sent {}, stored {}; answers: {}",
            number(seen.offered),
            number(sent_rate),
            number(stored_rate),
            counts(&done.tally.statuses)
        ),
        format!("  stored: {}", done.tally.stored),
        format!("  refused: {}", done.tally.refused),
        format!("  both, from when they could be sent: {}", done.tally.from_send),
        format!(
            "  codes {}, {} with Retry-After",
            checked["refusals_by_code"], checked["refusals_with_retry_after"]
        ),
        format!("  server's memory: {} MiB at most during it, {} MiB ever", seen.peak_mib, seen.most_mib),
        format!(
            "  honest client, {} events/s: p99 {:.1} ms before, {:.1} ms during ({} of {} refused), back {}",
            probe::RATE,
            back.before_p99_ms,
            back.during["p99"].as_f64().unwrap_or(0.0),
            back.during_refused,
            back.during["count"],
            back.after_s.map_or("never".to_owned(), |seconds| format!("after {seconds:.1} s")),
        ),
        format!("  {} receipts good, {} records read back", grouped(receipts), checked["records_read"]),
    ];
    Report { lines, json, findings }
}

/// Looks at the memory of a process ten times a second.
struct MemoryWatch {
    stop: Arc<AtomicBool>,
    most_mib: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl MemoryWatch {
    fn start(pid: u32) -> MemoryWatch {
        let (stop, most_mib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, most) = (Arc::clone(&stop), Arc::clone(&most_mib));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((now, _)) = memory_mib(pid) {
                    most.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        MemoryWatch { stop, most_mib, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // It cannot panic, and its last value holds either way.
        let _ = self.thread.join();
        self.most_mib.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sees these latencies, one second after the other.
    fn tally(latencies_ms: &[u64], refused: Option<usize>) -> Tally {
        let mut tally = Tally::default();
        for (second, &ms) in latencies_ms.iter().enumerate() {
            for nth in 0..10 {
                let status = if refused == Some(second) && nth == 0 { 503 } else { 201 };
                tally.note(status, Duration::from_millis(ms), true, Some(second));
            }
        }
        tally
    }

    #[test]
    fn back_is_the_second_from_which_on_p99_is_usual() {
        let seen = [2, 2, 2, 2, 2, 900, 900, 500, 500, 3, 500, 3, 3, 3];
        let back = Back::of(&tally(&seen, None), 5.0, 7.5);
        assert!((back.limit_ms - 7.0).abs() < 0.1, "{}", back.limit_ms);
        assert_eq!(back.after_s, Some(3.5));
        let refused = Back::of(&tally(&seen, Some(12)), 5.0, 7.5);
        assert_eq!(refused.after_s, Some(5.5));
        let never = Back::of(&tally(&[2, 2, 900, 900, 900], None), 2.0, 3.0);
        assert_eq!(never.after_s, None);
    }

    #[test]
    fn a_bound_that_is_passed_is_told() {
        let wanted = Overload {
            connections: 1,
            capacity_connections: 1,
            batch: 1,
            tenants: 1,
            times: 10.0,
            time: Duration::from_secs(1),
            max_memory_mib: 512,
            ahead_bytes: 0,
        };
        let back = |after_s| Back { after_s, ..Back::of(&tally(&[2], None), 1.0, 1.0) };
        let found = |most_mib, after_s| {
            let mut findings = Vec::new();
            judge(&wanted, most_mib, &back(after_s), &mut findings);
            findings.len()
        };
        assert_eq!(found(512, Some(5.0)), 0);
        assert_eq!(found(513, Some(5.0)), 1);
        assert_eq!(found(513, Some(5.1)), 2);
        assert_eq!(found(1, None), 1);
    }
}
