//! Every answer held against what was asked: receipts in full, refusals by their form.
//!
//! A receipt is good when the entry decodes, its link is the entry's BLAKE3 hash, its leaf hash the entry's, its
//! signature holds strictly under the log's public key, and its tenant and id are those of what was sent
//! (docs/format/tlog.md). A refusal is good when it is 429, 503 or 507, says a code and says when to come back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use varve::event::Micros;
use varve::tlog::hash::Hash;
use varve::tlog::key::{KeyId, Signature};
use varve::tlog::receipt::Receipt;

use crate::admin::Log;
use crate::kept::{self, Kept};
use crate::request::Requests;
use crate::{event, wire};

/// Findings told in words; more are counted.
const TOLD: usize = 20;

/// Bytes of a link that are compared with the record read back: as many as make an accident impossible.
const LINK_BYTES: usize = 16;

/// An event that the server said it had stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Acknowledged {
    /// Which log of the run.
    pub log: usize,
    /// Its index there.
    pub index: u64,
    /// Number of the event.
    pub event: u64,
    /// The start of its entry's link.
    pub link: [u8; LINK_BYTES],
}

impl Acknowledged {
    /// Whether `link`, as base64url, is that of this event.
    pub fn has_link(&self, link: &str) -> bool {
        decode::<32>(link).is_some_and(|link| link[..LINK_BYTES] == self.link)
    }
}

/// What does not hold. The first are told, the others counted.
#[derive(Default)]
pub struct Findings {
    told: Vec<String>,
    count: usize,
}

impl Findings {
    /// Notes one.
    pub fn note(&mut self, what: String) {
        if self.told.len() < TOLD {
            self.told.push(what);
        }
        self.count += 1;
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds those of another.
    pub fn add(&mut self, other: Findings) {
        self.count += other.count;
        self.told.extend(other.told);
        self.told.truncate(TOLD);
    }

    /// In words, the last one a count of those left out.
    pub fn into_words(mut self) -> Vec<String> {
        let left_out = self.count - self.told.len();
        if left_out > 0 {
            self.told.push(format!("and {left_out} more"));
        }
        self.told
    }
}

/// What the answers of one load say.
#[derive(Default)]
pub struct Checked {
    /// Events acknowledged, by log and index.
    pub acknowledged: Vec<Acknowledged>,
    /// Refusals by code.
    pub codes: BTreeMap<String, u64>,
    /// Refusals of 429, 503 or 507 that said when to come back.
    pub with_retry_after: u64,
    /// Events whose answer was `outcome_unknown`: stored or not.
    pub unknown_events: u64,
    /// What does not hold.
    pub findings: Findings,
}

impl Checked {
    /// Adds what other answers say.
    pub fn add(&mut self, other: Checked) {
        self.acknowledged.extend(other.acknowledged);
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.with_retry_after += other.with_retry_after;
        self.unknown_events += other.unknown_events;
        self.findings.add(other.findings);
    }
}

/// Checks every answer of a load, on all cores.
pub fn answers(kept: &Kept, requests: &Requests, logs: &[Log]) -> Checked {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut checked = Checked::default();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= kept.chunks() {
                return checked;
            }
            match kept.chunk(nth) {
                Ok(chunk) => {
                    for (number, raw) in kept::answers(&chunk) {
                        answer(number, raw, requests, logs, &mut checked);
                    }
                }
                Err(error) => checked.findings.note(format!("answers cannot be read back: {error}")),
            }
        }
    };
    let mut all = Checked::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(checked) => all.add(checked),
                Err(_) => all.findings.note("a check of answers panicked: a defect of this tool".to_owned()),
            }
        }
    });
    all
}

/// Notes what is no log entry of its own: an index that two receipts name, an index that the log does not have.
/// Sorts what was acknowledged.
pub fn indexes(checked: &mut Checked, sizes: &[u64]) {
    checked.acknowledged.sort_unstable();
    for pair in checked.acknowledged.windows(2) {
        if (pair[0].log, pair[0].index) == (pair[1].log, pair[1].index) {
            let (one, two) = (event::id(pair[0].event), event::id(pair[1].event));
            checked.findings.note(format!("index {} was given to {one} and to {two}", pair[0].index));
        }
    }
    for acknowledged in &checked.acknowledged {
        let size = sizes.get(acknowledged.log).copied().unwrap_or(0);
        if acknowledged.index >= size {
            let (index, id) = (acknowledged.index, event::id(acknowledged.event));
            checked.findings.note(format!("{id} was given index {index}, the log has {size} entries"));
        }
    }
}

fn answer(number: u64, raw: &[u8], requests: &Requests, logs: &[Log], checked: &mut Checked) {
    let head = match wire::parse(raw) {
        Ok(Some(head)) => head,
        // It was read once before it was kept.
        Ok(None) | Err(_) => {
            return checked
                .findings
                .note(format!("request {number}: the answer kept is not the one that came"));
        }
    };
    let body = &raw[head.body_at..];
    if head.status == 201 {
        return stored(number, body, requests, logs, checked);
    }
    let code = serde_json::from_slice::<Problem<'_>>(body).ok();
    let code = code.filter(|problem| problem.status == head.status).map(|problem| problem.code);
    let name = code.unwrap_or("(no problem)");
    *checked.codes.entry(name.to_owned()).or_default() += 1;
    if name == "outcome_unknown" {
        checked.unknown_events += requests.batch() as u64;
    }
    let comes_back = head.retry_after_seconds.is_some_and(|seconds| seconds > 0);
    match head.status {
        429 | 503 | 507 if comes_back && code.is_some() => checked.with_retry_after += 1,
        429 | 503 | 507 if code.is_some() => {
            checked.findings.note(format!("request {number}: {} {name} without Retry-After", head.status));
        }
        status => checked.findings.note(format!("request {number}: answered {status} {name}")),
    }
}

fn stored(number: u64, body: &[u8], requests: &Requests, logs: &[Log], checked: &mut Checked) {
    let receipts = if requests.batch() == 1 {
        serde_json::from_slice(body).map(|receipt| vec![receipt])
    } else {
        serde_json::from_slice(body).map(|batch: Batch<'_>| batch.receipts)
    };
    let Ok(receipts) = receipts else {
        return checked.findings.note(format!("request {number}: 201 without receipts that can be read"));
    };
    if receipts.len() != requests.batch() {
        let (found, sent) = (receipts.len(), requests.batch());
        return checked.findings.note(format!("request {number}: {found} receipts for {sent} events"));
    }
    let log = requests.log_of(number);
    for (event, given) in (requests.first_event_of(number)..).zip(&receipts) {
        match receipt(given, event, &logs[log]) {
            Ok(good) => checked.acknowledged.push(Acknowledged {
                log,
                index: good.index,
                event,
                link: std::array::from_fn(|nth| good.link.0[nth]),
            }),
            Err(why) => {
                checked.findings.note(format!("request {number}, receipt of {}: {why}", event::id(event)))
            }
        }
    }
}

/// Checks one receipt against the event it must be of.
fn receipt(given: &GivenReceipt<'_>, event: u64, log: &Log) -> Result<Receipt, String> {
    if event::number_of(given.id) != Some(event) {
        return Err("it is of another id than was sent".to_owned());
    }
    if given.tenant != log.tenant {
        return Err("it is of another tenant".to_owned());
    }
    if given.duplicate {
        return Err("it says that the event was stored before, and it was sent once".to_owned());
    }
    let receipt = read(given).ok_or("one of its members is not in the form of the format")?;
    receipt.verify(&log.origin, &log.public_key).map_err(|error| format!("{}: {error}", error.kind()))?;
    Ok(receipt)
}

fn read(given: &GivenReceipt<'_>) -> Option<Receipt> {
    Some(Receipt {
        tenant: given.tenant.to_owned(),
        index: given.index,
        id: given.id.to_owned(),
        recorded_at: Micros::parse(given.recorded_at).ok()?.0,
        entry: decode(given.entry)?,
        link: Hash(decode(given.link)?),
        leaf_hash: Hash(decode(given.leaf_hash)?),
        signature: Signature(decode(given.signature)?),
        key_id: KeyId::from_hex(given.key_id)?,
    })
}

/// Exactly `N` bytes of base64url.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // Four characters for three bytes, without padding.
    if text.len() != (N * 4).div_ceil(3) {
        return None;
    }
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == N).then_some(bytes)
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    receipts: Vec<GivenReceipt<'a>>,
}

/// A receipt as it stands in an answer. None of its texts needs an escape.
#[derive(Deserialize)]
struct GivenReceipt<'a> {
    tenant: &'a str,
    index: u64,
    id: &'a str,
    recorded_at: &'a str,
    entry: &'a str,
    link: &'a str,
    leaf_hash: &'a str,
    signature: &'a str,
    key_id: &'a str,
    duplicate: bool,
}

#[derive(Deserialize)]
struct Problem<'a> {
    status: u16,
    code: &'a str,
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
