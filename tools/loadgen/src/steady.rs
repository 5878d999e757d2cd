//! Mode `steady`: one load, open or closed loop, and the proof of every answer.

use std::time::Duration;

use serde_json::json;

use crate::Fault;
use crate::admin::{Admin, Log};
use crate::drive::{Done, Length, Load, Rate, drive};
use crate::report::{Report, counts, grouped, rounded};
use crate::request::Requests;
use crate::server::Host;
use crate::spent::Spent;
use crate::verdict::{self, Part};

/// Bytes of requests made ahead unless told otherwise.
pub const AHEAD_BYTES: usize = 512 << 20;

/// Events a second for which requests are made ahead in a closed loop; nobody knows the rate yet.
const AHEAD_RATE: f64 = 80_000.0;

/// How long after the window requests may be sent that were due in it.
const LATE: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// When a request follows.
    pub rate: Rate,
    /// Connections, each with one request under way.
    pub connections: usize,
    /// Events of a request: one as JSON, more as NDJSON.
    pub batch: usize,
    /// Logs that the requests go to in turn.
    pub tenants: usize,
    /// Not measured.
    pub warmup: Duration,
    /// Measured.
    pub window: Duration,
    /// Bytes of requests made ahead.
    pub ahead_bytes: usize,
}

/// A load that is over, with what is needed to prove it.
pub struct Ran {
    /// The logs it went to.
    pub logs: Vec<Log>,
    /// What was sent.
    pub requests: Requests,
    /// What came.
    pub done: Done,
    /// Processor time that the server took meanwhile, where its process is known.
    pub server_cpu: Option<Duration>,
    /// Processor time that this tool took meanwhile.
    pub own_cpu: Option<Duration>,
    /// Cores that were busy with neither of them: the noise of the run.
    pub others_cores: Option<f64>,
}

impl Ran {
    /// Processor time of one stored event, microseconds.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit")]
    fn event_us(&self, cpu: Option<Duration>) -> Option<f64> {
        let stored = self.done.tally.statuses.get(&201).copied().unwrap_or(0) * self.requests.batch() as u64;
        Some((cpu?.as_secs_f64() * 1e7 / stored.max(1) as f64).round() / 10.0)
    }
}

/// Runs the load and proves it.
///
/// # Errors
/// The run cannot be made. What does not hold is in the report.
pub async fn run(host: &Host, wanted: Steady) -> Result<Report, Fault> {
    let ran = load(host, wanted).await?;
    let parts = [Part { requests: &ran.requests, done: &ran.done }];
    let verdict = verdict::prove(host.address(), &ran.logs, &parts).await?;
    let done = &ran.done;
    let rate = done.events_per_second(wanted.batch);
    let mut findings = verdict.findings.into_words();
    if done.unsent > 0 {
        findings.push(format!(
            "{} requests were due and not sent: the server did not keep up with the rate",
            done.unsent
        ));
    }
    let memory = host.pid().and_then(|pid| crate::server::memory_mib(pid).ok());
    let json = json!({
        "mode": "steady", "connections": wanted.connections, "batch": wanted.batch, "tenants": wanted.tenants,
        "rate": match wanted.rate { Rate::Max => json!("max"), Rate::EventsPerSecond(rate) => json!(rate) },
        "seconds": wanted.window.as_secs_f64(), "warmup_seconds": wanted.warmup.as_secs_f64(),
        "events_per_second": rounded(rate), "latency_ms": done.tally.stored.json(),
        "refused_latency_ms": done.tally.refused.json(),
        "from_send_ms": done.tally.from_send.json(), "statuses": done.tally.statuses, "unsent": done.unsent,
        "unanswered": done.unanswered, "made_while_running": done.made_late,
        "answers_spilled_bytes": done.kept.spilled_bytes(), "peak_memory_mib": memory.map(|(_, most)| most),
        "server_cpu_us_per_event": ran.event_us(ran.server_cpu), "own_cpu_us_per_event": ran.event_us(ran.own_cpu),
        "cores_used_by_others": ran.others_cores,
        "checked": verdict.json, "findings": findings,
    });
    let kind = if wanted.batch == 1 { "JSON".to_owned() } else { format!("NDJSON × {}", wanted.batch) };
    let loop_kind = match wanted.rate {
        Rate::Max => "closed loop".to_owned(),
        Rate::EventsPerSecond(rate) => format!("open loop at {} events/s", grouped(rounded(rate))),
    };
    let lines = vec![
        format!(
            "steady: {kind}, {} connections, {} tenants, {loop_kind}, {} s after {} s of warm-up",
            wanted.connections,
            wanted.tenants,
            wanted.window.as_secs_f64(),
            wanted.warmup.as_secs_f64()
        ),
        format!("  {} events/s stored; answers: {}", grouped(rounded(rate)), counts(&done.tally.statuses)),
        format!("  latency {}", done.tally.stored),
        format!(
            "  processor time of an event: server {} µs, this tool {} µs; others used {} cores",
            told(ran.event_us(ran.server_cpu)),
            told(ran.event_us(ran.own_cpu)),
            ran.others_cores.map_or("an unknown number of".to_owned(), |cores| format!("{cores:.2}")),
        ),
        format!(
            "  {} receipts good, {} records read back{}{}",
            grouped(verdict.receipts),
            grouped(verdict.records_read),
            if verdict.is_whole { "" } else { " (a sample)" },
            memory.map_or(String::new(), |(_, most)| format!("; server's peak memory {most} MiB")),
        ),
    ];
    Ok(Report { lines, json, findings })
}

/// Makes the logs and runs the load; nothing is proved yet.
///
/// # Errors
/// The run cannot be made.
pub async fn load(host: &Host, wanted: Steady) -> Result<Ran, Fault> {
    let mut admin = Admin::open(host.address()).await?;
    let logs = admin.make_logs(host.operator_key(), &run_name(), wanted.tenants).await?;
    let mut requests = Requests::new(&logs, 0..wanted.tenants, wanted.batch, 0);
    let rate = match wanted.rate {
        Rate::Max => AHEAD_RATE,
        Rate::EventsPerSecond(rate) => rate,
    };
    let wanted_ahead = rate * (wanted.warmup + wanted.window).as_secs_f64() / wanted.batch as f64;
    requests.make_ahead(rounded(wanted_ahead) + 1, wanted.ahead_bytes);
    let length = Length::Time { warmup: wanted.warmup, window: wanted.window, late: LATE };
    let load = Load { rate: wanted.rate, connections: wanted.connections, length, with_timeline: false };
    let before = Spent::so_far(host.pid());
    let (requests, done) = drive(host.address(), requests, load).await?;
    let spent = Spent::so_far(host.pid()).since(&before);
    let others_cores = spent.others_cores(done.start.elapsed());
    Ok(Ran { logs, requests, done, server_cpu: spent.server, own_cpu: spent.own, others_cores })
}

fn told(us: Option<f64>) -> String {
    us.map_or("not known".to_owned(), |us| format!("{us:.1}"))
}

/// A part of tenants' names that no other run has.
pub fn run_name() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since.as_micros())
}
