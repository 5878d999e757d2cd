//! What holds once the clock has stopped: every receipt, every index, and the log read back.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use crate::admin::{Admin, Log};
use crate::check::{self, Checked, Findings};
use crate::drive::Done;
use crate::request::Requests;
use crate::{Fault, readback};

/// A load and what came of it.
pub struct Part<'a> {
    /// What was sent.
    pub requests: &'a Requests,
    /// What came.
    pub done: &'a Done,
}

/// What was proved.
pub struct Verdict {
    /// What does not hold; empty when all does.
    pub findings: Findings,
    /// Receipts that are good.
    pub receipts: u64,
    /// Records read back.
    pub records_read: u64,
    /// Whether every log was read whole.
    pub is_whole: bool,
    /// What was checked, in numbers.
    pub json: Value,
}

/// Checks all answers of `parts`, then reads the logs back.
///
/// # Errors
/// The server does not answer any more.
pub async fn prove(address: SocketAddr, logs: &[Log], parts: &[Part<'_>]) -> Result<Verdict, Fault> {
    let began = Instant::now();
    let mut admin = Admin::open(address).await?;
    let mut sizes = Vec::with_capacity(logs.len());
    for log in logs {
        sizes.push(admin.size(log).await?);
    }
    let mut checked = Checked::default();
    // Events that may be in a log although nobody was told so.
    let mut uncertain = 0;
    for part in parts {
        checked.add(check::answers(&part.done.kept, part.requests, logs));
        uncertain += part.done.unanswered * part.requests.batch() as u64;
        if part.done.unanswered > 0 {
            let why = part.done.failures.join("; ");
            checked.findings.note(format!("{} requests were not answered: {why}", part.done.unanswered));
        }
    }
    uncertain += checked.unknown_events;
    check::indexes(&mut checked, &sizes);
    let receipts_s = began.elapsed().as_secs_f64();

    let (mut records_read, mut unacknowledged, mut is_whole) = (0, 0, true);
    for (nth, log) in logs.iter().enumerate() {
        let from = checked.acknowledged.partition_point(|given| given.log < nth);
        let to = checked.acknowledged.partition_point(|given| given.log <= nth);
        let acknowledged = &checked.acknowledged[from..to];
        let read = readback::read(&mut admin, log, acknowledged, &mut checked.findings).await?;
        records_read += read.records;
        unacknowledged += read.unacknowledged;
        is_whole &= read.is_whole;
    }
    if unacknowledged > uncertain {
        checked.findings.note(format!(
            "{unacknowledged} events are in the log that nobody was told of; at most {uncertain} could be"
        ));
    }
    let json = json!({
        "receipts_checked": checked.acknowledged.len(), "records_read": records_read, "read_whole": is_whole,
        "refusals_by_code": checked.codes, "refusals_with_retry_after": checked.with_retry_after,
        "stored_without_answer": unacknowledged, "seconds_for_receipts": receipts_s,
        "seconds": began.elapsed().as_secs_f64(),
    });
    let receipts = checked.acknowledged.len() as u64;
    Ok(Verdict { findings: checked.findings, receipts, records_read, is_whole, json })
}
