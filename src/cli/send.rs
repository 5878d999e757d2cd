//! Events on their way to a server: gathered into batches, sent with ids, and each answer matched to its origin.
//!
//! A batch has at most 1,000 events and 4 MiB. Each event has an id before it is sent for the first time, so every
//! repeat is safe. By default one bad event is reported and the rest goes on; strict sending stops at the first.

#![expect(
    clippy::disallowed_methods,
    reason = "an event gets its id before it is first sent, so that a repeat is known"
)]

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::client::{ATTEMPTS, Ask, Client, Refusal, Repeat, Trouble, segment, wait};
use super::output::{Failure, Progress, counted, hint};

/// Events of one batch.
const MAX_BATCH_EVENTS: usize = 1000;

/// Bytes of one batch, its brackets and commas included.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one event as it is sent.
pub(super) const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Refusals that are printed one by one; later ones are only counted.
const MAX_PRINTED: u64 = 100;

/// Where an event came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Origin {
    /// The file as the user named it; `-` is standard input.
    pub(super) file: std::sync::Arc<str>,
    /// The line on which it starts, from 1.
    pub(super) line: u64,
    /// Which record of the file, from 1.
    pub(super) record: u64,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}: record {}", self.file, self.line, self.record)
    }
}

/// How many events met which end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    pub(super) appended: u64,
    pub(super) duplicates: u64,
    pub(super) refused: u64,
    /// Events that came without an id and got one: a second run would append them again.
    pub(super) named: u64,
}

/// What is told of each stored event: the receipt, as it came.
pub(super) type OnReceipt<'a> = Box<dyn FnMut(&Receipt, &RawValue) -> Result<(), Failure> + 'a>;

/// The members of a receipt that are shown.
#[derive(Deserialize)]
pub(super) struct Receipt {
    pub(super) index: u64,
    pub(super) id: String,
    pub(super) recorded_at: String,
    #[serde(default)]
    pub(super) duplicate: bool,
}

/// Gathers and sends.
pub(super) struct Sender<'a> {
    client: &'a Client,
    path: String,
    is_strict: bool,
    progress: Progress,
    on_receipt: OnReceipt<'a>,
    batch: Vec<(Origin, String)>,
    batch_bytes: usize,
    tally: Tally,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        client: &'a Client,
        tenant: &str,
        is_strict: bool,
        verifiable: bool,
        progress: Progress,
        on_receipt: OnReceipt<'a>,
    ) -> Sender<'a> {
        let on_error = if is_strict { "" } else { "&on_error=skip" };
        let path = format!("/v1/tenants/{}/events?verifiable={verifiable}{on_error}", segment(tenant));
        Sender {
            client,
            path,
            is_strict,
            progress,
            on_receipt,
            batch: Vec::new(),
            batch_bytes: 2,
            tally: Tally::default(),
        }
    }

    /// Takes one event: JSON text, which gets an id if it has none. What is no JSON object or too long is refused
    /// here: it would spoil the batch around it.
    pub(super) fn push(&mut self, origin: Origin, event: &str) -> Result<(), Failure> {
        let event = match with_id(event) {
            Ok((event, was_named)) => {
                self.tally.named += u64::from(was_named);
                event
            }
            Err(reason) => return self.refuse(&origin, &reason),
        };
        if event.len() > MAX_EVENT_BYTES {
            return self.refuse(&origin, "too_large: the event is over 64 KiB");
        }
        if self.batch.len() == MAX_BATCH_EVENTS || self.batch_bytes + event.len() + 1 > MAX_BATCH_BYTES {
            self.flush()?;
        }
        self.batch_bytes += event.len() + 1;
        self.batch.push((origin, event));
        Ok(())
    }

    /// Counts and reports an event that is not stored.
    ///
    /// # Errors
    /// When sending is strict: the events before it are sent, and the command ends.
    pub(super) fn refuse(&mut self, origin: &Origin, reason: &str) -> Result<(), Failure> {
        if self.is_strict {
            self.flush()?;
            return Err(self.stopped(
                origin,
                reason,
                "mend the event, or leave out --strict to go on without it",
            ));
        }
        self.tally.refused += 1;
        self.progress.add(1);
        if self.tally.refused <= MAX_PRINTED {
            self.progress.remark(&format!("{origin}: {}", super::output::printable(reason)));
        } else if self.tally.refused == MAX_PRINTED + 1 {
            self.progress.remark("more events were refused; they are counted at the end");
        }
        Ok(())
    }

    /// Sends what is gathered.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let mut waiting = std::mem::take(&mut self.batch);
        self.batch_bytes = 2;
        let mut attempt = 1;
        while !waiting.is_empty() {
            let body = array(&waiting);
            let ask =
                Ask { method: "POST", path: self.path.clone(), body: Some(&body), repeat: Repeat::Safe };
            let answer = match self.client.ask(&ask) {
                Ok(answer) => answer,
                Err(trouble) => return Err(self.batch_failed(&waiting, trouble)),
            };
            let outcomes = outcomes(&answer, waiting.len())?;
            let mut again = Vec::new();
            for ((origin, event), outcome) in waiting.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Stored(receipt, raw) => self.stored(&receipt, &raw)?,
                    Outcome::Refused(refusal) if refusal.retryable && attempt < ATTEMPTS => {
                        again.push((origin, event))
                    }
                    Outcome::Refused(refusal) => self.refuse(&origin, &refusal.to_string())?,
                }
            }
            if !again.is_empty() {
                wait(attempt);
                attempt += 1;
            }
            waiting = again;
        }
        Ok(())
    }

    /// Sends the rest and tells how it went.
    pub(super) fn finish(mut self) -> Result<Tally, Failure> {
        self.flush()?;
        self.progress.done();
        Ok(self.tally)
    }

    fn stored(&mut self, receipt: &Receipt, raw: &RawValue) -> Result<(), Failure> {
        if receipt.duplicate {
            self.tally.duplicates += 1;
        } else {
            self.tally.appended += 1;
        }
        self.progress.add(1);
        (self.on_receipt)(receipt, raw)
    }

    /// A whole batch was refused: either it is strict and one event is to blame, or there is no use going on.
    fn batch_failed(&self, batch: &[(Origin, String)], trouble: Trouble) -> Failure {
        let blamed = match &trouble {
            Trouble::Refused(refusal) => refusal.index_in_batch.and_then(|index| batch.get(index)),
            Trouble::Failed(_) => None,
        };
        match (blamed, &trouble) {
            (Some((origin, _)), Trouble::Refused(refusal)) => {
                self.stopped(origin, &refusal.to_string(), hint(&refusal.code))
            }
            _ => {
                let mut failure = Failure::from(trouble);
                failure.message = format!("{}\n{}", failure.message, self.so_far());
                failure
            }
        }
    }

    fn stopped(&self, origin: &Origin, reason: &str, hint: &str) -> Failure {
        let reason = super::output::printable(reason);
        Failure::no(format!("{origin}: {reason}\n{}", self.so_far()), hint)
    }

    fn so_far(&self) -> String {
        let Tally { appended, duplicates, .. } = self.tally;
        format!(
            "{} appended before, {} known already; repeating the command is safe for events with an id",
            counted(appended, "event"),
            duplicates
        )
    }
}

/// What became of one event.
enum Outcome {
    Stored(Receipt, Box<RawValue>),
    Refused(Refusal),
}

fn array(events: &[(Origin, String)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(events.iter().map(|(_, event)| event.len() + 1).sum::<usize>() + 2);
    body.push(b'[');
    for (nth, (_, event)) in events.iter().enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event.as_bytes());
    }
    body.push(b']');
    body
}

/// The outcomes of a batch of `count`, in order.
fn outcomes(answer: &[u8], count: usize) -> Result<Vec<Outcome>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(alias = "receipts")]
        results: Vec<Box<RawValue>>,
    }
    let foreign = || {
        Failure::new("the server's answer is not a list of receipts", "check --url, and that versions match")
    };
    let Answer { results } = serde_json::from_slice(answer).map_err(|_| foreign())?;
    if results.len() != count {
        return Err(foreign());
    }
    let read = |raw: Box<RawValue>| match serde_json::from_str::<Receipt>(raw.get()) {
        Ok(receipt) => Ok(Outcome::Stored(receipt, raw)),
        Err(_) => match serde_json::from_str::<Refusal>(raw.get()) {
            Ok(refusal) if !refusal.code.is_empty() => Ok(Outcome::Refused(refusal)),
            _ => Err(foreign()),
        },
    };
    results.into_iter().map(read).collect()
}

/// The event with an id, and whether it had none. The id is put in front; no other byte changes, so that numbers
/// and doubled names reach the server's strict parser as they were written.
fn with_id(event: &str) -> Result<(String, bool), String> {
    #[derive(Deserialize)]
    struct Peek {
        #[serde(default)]
        id: Option<IgnoredAny>,
    }
    let event = event.trim();
    let peek = match serde_json::from_str::<Peek>(event) {
        Ok(peek) => peek,
        // A doubled `id` is the only breach here that is still one JSON value; the server names it.
        Err(error)
            if error.is_data()
                && event.starts_with('{')
                && serde_json::from_str::<IgnoredAny>(event).is_ok() =>
        {
            return Ok((event.to_owned(), false));
        }
        Err(error) if error.is_data() => return Err("bad_request: an event is a JSON object".to_owned()),
        Err(error) => return Err(format!("bad_request: this is not JSON, column {}", error.column())),
    };
    if !event.starts_with('{') {
        return Err("bad_request: an event is a JSON object".to_owned());
    }
    if peek.id.is_some() {
        return Ok((event.to_owned(), false));
    }
    // `"id":null` also reads as absent; the server refuses the doubled name, which is what it deserves.
    let rest = event[1..].trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    Ok((format!("{{\"id\":\"{}\"{comma}{rest}", Uuid::now_v7()), true))
}

#[cfg(test)]
mod tests;
