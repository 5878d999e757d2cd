//! Mode `slow`: thousands of connections that say nothing, hundreds that say one byte a second, and an honest
//! client between them.
//!
//! Half of the dribbling ones never finish their head, half never finish their body. Asked: each is closed within
//! a given time; the honest client is never refused.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Fault;
use crate::admin::{Admin, Log};
use crate::probe;
use crate::report::{Report, grouped};
use crate::request::Requests;
use crate::server::{Host, memory_mib};
use crate::steady::run_name;
use crate::tally::Latencies;
use crate::verdict::{self, Part};

/// How long the honest client is watched alone, seconds.
const BEFORE_S: usize = 5;

/// Pause between two bytes.
const DRIBBLE: Duration = Duration::from_secs(1);

/// What two clocks and two schedulers may add to the time in which a connection is to be closed.
const TOLERANCE: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// Connections that say nothing.
    pub idle: usize,
    /// Connections that say one byte a second.
    pub dribbling: usize,
    /// How long they are held.
    pub time: Duration,
    /// Within what time a dribbling one must be closed.
    pub close_within: Duration,
}

/// What one connection came to.
#[derive(Clone, Copy, Default)]
struct Fate {
    opened: bool,
    /// When the first byte of an answer came.
    answered: Option<Duration>,
    /// Its status.
    status: Option<u16>,
    closed: Option<Duration>,
}

/// Holds the connections and proves what the honest client was told.
///
/// # Errors
/// The run cannot be made. What does not hold is in the report.
pub async fn run(host: &Host, wanted: Slow) -> Result<Report, Fault> {
    let address = host.address();
    let logs = Admin::open(address).await?.make_logs(host.operator_key(), &run_name(), 1).await?;
    let watched = Duration::from_secs(BEFORE_S as u64) + wanted.time;
    let probe = probe::start(address, Requests::new(&logs, 0..1, 1, 0), watched);
    tokio::time::sleep(Duration::from_secs(BEFORE_S as u64)).await;

    let end = Instant::now() + wanted.time;
    let (mut idle, mut heads, mut bodies) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for nth in 0..wanted.dribbling {
        let (text, from) = dribble(&logs[0], nth % 2 == 0);
        let set = if nth % 2 == 0 { &mut heads } else { &mut bodies };
        set.spawn(hold(address, Some((text, from)), end));
    }
    for _ in 0..wanted.idle {
        idle.spawn(hold(address, None, end));
    }
    let (heads, bodies, idle) = (heads.join_all().await, bodies.join_all().await, idle.join_all().await);
    let memory = host.pid().and_then(|pid| memory_mib(pid).ok());

    let (requests, done) = probe::join(probe)?;
    let parts = [Part { requests: &requests, done: &done }];
    let verdict = verdict::prove(address, &logs, &parts).await?;
    let mut findings = verdict.findings.into_words();
    for (what, fates) in [("head", &heads), ("body", &bodies)] {
        judge(what, fates, wanted.close_within, &mut findings);
    }
    let before = done.tally.between(0, BEFORE_S).latencies;
    let during = done.tally.between(BEFORE_S, usize::MAX);
    if during.refused > 0 {
        findings.push(format!("the honest client was refused {} times", during.refused));
    }
    let json = json!({
        "mode": "slow", "idle": wanted.idle, "dribbling": wanted.dribbling, "seconds": wanted.time.as_secs_f64(),
        "close_within_seconds": wanted.close_within.as_secs_f64(), "idle_connections": told(&idle),
        "dribbling_heads": told(&heads), "dribbling_bodies": told(&bodies), "honest_before_ms": before.json(),
        "honest_during_ms": during.latencies.json(), "honest_refused": during.refused,
        "vm_hwm_mib": memory.map(|(_, most)| most), "checked": verdict.json, "findings": findings,
    });
    Ok(Report { lines: lines(&wanted, &json, &before, &during.latencies, memory), json, findings })
}

fn lines(
    wanted: &Slow,
    json: &Value,
    before: &Latencies,
    during: &Latencies,
    memory: Option<(u64, u64)>,
) -> Vec<String> {
    let group = |name: &str, what: &str| {
        let told = &json[name];
        let seconds =
            |value: &Value| value.as_f64().map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
        format!(
            "  {what}: {} opened, {} closed (first after {}, last after {}), answered: {}",
            told["opened"],
            told["closed"],
            seconds(&told["first_closed_seconds"]),
            seconds(&told["last_closed_seconds"]),
            told["statuses"]
        )
    };
    vec![
        format!(
            "slow: {} idle and {} dribbling connections for {} s; memory {}",
            grouped(wanted.idle as u64),
            grouped(wanted.dribbling as u64),
            wanted.time.as_secs_f64(),
            memory.map_or("not known".to_owned(), |(now, most)| format!("{now} MiB, {most} MiB at most")),
        ),
        group("idle_connections", "idle"),
        group("dribbling_heads", "dribbling heads"),
        group("dribbling_bodies", "dribbling bodies"),
        format!("  honest client before: {before}"),
        format!("  honest client during: {during}"),
    ]
}

/// What a dribbling connection says, and from where on it says it byte by byte.
fn dribble(log: &Log, is_head: bool) -> (Vec<u8>, usize) {
    let head = format!(
        "POST /v1/tenants/{}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n",
        log.tenant, log.key
    );
    let from = if is_head { 0 } else { head.len() };
    let mut text = head.into_bytes();
    text.resize(text.len() + 4000, b' ');
    (text, from)
}

/// Opens a connection and holds it until it is closed or `end` has come.
async fn hold(address: SocketAddr, says: Option<(Vec<u8>, usize)>, end: Instant) -> Fate {
    let mut fate = Fate::default();
    let Ok(mut stream) = TcpStream::connect(address).await else { return fate };
    fate.opened = true;
    let opened = Instant::now();
    let (text, mut said) = says.unwrap_or_default();
    if stream.write_all(&text[..said]).await.is_err() {
        fate.closed = Some(opened.elapsed());
        return fate;
    }
    let mut tick = tokio::time::interval(DRIBBLE);
    let mut answer = Vec::new();
    let mut room = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut room) => match read {
                Ok(0) | Err(_) => {
                    fate.closed = Some(opened.elapsed());
                    return fate;
                }
                Ok(count) => {
                    fate.answered.get_or_insert(opened.elapsed());
                    // The start of it says the status.
                    answer.extend_from_slice(&room[..count.min(64 - answer.len().min(64))]);
                    fate.status = status(&answer);
                }
            },
            _ = tick.tick(), if said < text.len() => {
                // A failure to write shows when reading: there may still be an answer.
                let _ = stream.write_all(&text[said..=said]).await;
                said += 1;
            }
            () = tokio::time::sleep_until(end.into()) => return fate,
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer).ok()?.split(' ').nth(1)?.get(..3)?.parse().ok()
}

fn judge(what: &str, fates: &[Fate], within: Duration, findings: &mut Vec<String>) {
    let late = |fate: &&Fate| fate.opened && fate.closed.is_none_or(|closed| closed > within + TOLERANCE);
    let count = fates.iter().filter(late).count();
    if count > 0 {
        let (all, seconds) = (fates.len(), within.as_secs_f64());
        findings.push(format!(
            "{count} of {all} connections that dribble their {what} were not closed within {seconds} s"
        ));
    }
}

fn told(fates: &[Fate]) -> Value {
    let closed: Vec<Duration> = fates.iter().filter_map(|fate| fate.closed).collect();
    let answered = fates.iter().filter_map(|fate| fate.answered).max();
    let mut statuses = std::collections::BTreeMap::<u16, u64>::new();
    for status in fates.iter().filter_map(|fate| fate.status) {
        *statuses.entry(status).or_default() += 1;
    }
    json!({
        "opened": fates.iter().filter(|fate| fate.opened).count(), "closed": closed.len(),
        "first_closed_seconds": closed.iter().min().map(Duration::as_secs_f64),
        "last_closed_seconds": closed.iter().max().map(Duration::as_secs_f64),
        "last_answered_seconds": answered.as_ref().map(Duration::as_secs_f64), "statuses": statuses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_stays_open_is_told() {
        let fate = |closed_ms: Option<u64>| Fate {
            opened: true,
            closed: closed_ms.map(Duration::from_millis),
            ..Fate::default()
        };
        let found = |fates: &[Fate]| {
            let mut findings = Vec::new();
            judge("head", fates, Duration::from_secs(15), &mut findings);
            findings
        };
        assert!(found(&[fate(Some(15_200)), Fate::default()]).is_empty());
        assert!(found(&[fate(Some(15_600)), fate(None), fate(Some(1))])[0].starts_with("2 of 3 "));
    }

    #[test]
    fn a_dribble_begins_in_the_head_or_in_the_body() {
        let log = Log::for_tests("a");
        let (text, from) = dribble(&log, false);
        assert!(text[..from].ends_with(b"\r\n\r\n") && text[from..] == [b' '; 4000]);
        assert_eq!(dribble(&log, true), (text, 0));
        assert_eq!(status(b"HTTP/1.1 408 Request Timeout\r\n"), Some(408));
        assert_eq!(status(b"HTTP/1."), None);
    }
}
