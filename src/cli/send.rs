//! Events on their way to a server: gathered into batches, sent with ids, and each answer matched to its origin.
//!
//! A batch has at most 1,000 events and 4 MiB. Each event has an id before it is sent for the first time, so every
//! repeat is safe. By default one bad event is reported and the rest goes on; strict sending stops at the first.

use super::client::{Client, failure};
use super::output::{Failure, Progress, counted, hint};
use crate::client::{self, Batch, Error, NewEvent, NotAnEvent, Outcome, Receipt};

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

/// Called with the receipt of each stored event.
pub(super) type OnReceipt<'a> = Box<dyn FnMut(&Receipt) -> Result<(), Failure> + 'a>;

/// Gathers and sends.
pub(super) struct Sender<'a> {
    client: client::Client,
    tenant: String,
    is_strict: bool,
    progress: Progress,
    on_receipt: OnReceipt<'a>,
    batch: Batch,
    /// Of the events in `batch`, in its order.
    origins: Vec<Origin>,
    tally: Tally,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        client: &Client,
        tenant: &str,
        is_strict: bool,
        verifiable: bool,
        progress: Progress,
        on_receipt: OnReceipt<'a>,
    ) -> Sender<'a> {
        Sender {
            client: client.events(verifiable),
            tenant: tenant.to_owned(),
            is_strict,
            progress,
            on_receipt,
            batch: Batch::default(),
            origins: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Takes one event: JSON text, which gets an id if it has none. What is no JSON object or too long is refused
    /// here: it would spoil the batch around it.
    pub(super) fn push(&mut self, origin: Origin, event: &str) -> Result<(), Failure> {
        let event = match NewEvent::from_json(event) {
            Ok(event) => event,
            Err(reason) => {
                let code = if reason == NotAnEvent::TooLarge { "too_large" } else { "bad_request" };
                return self.refuse(&origin, &format!("{code}: {reason}"));
            }
        };
        self.tally.named += u64::from(event.was_named());
        if let Err(event) = self.batch.push(event) {
            self.flush()?;
            // Whatever is within 64 KiB fits into an empty batch.
            let _ = self.batch.push(event);
        }
        self.origins.push(origin);
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
        let (batch, origins) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.origins));
        if batch.is_empty() {
            return Ok(());
        }
        let answered = if self.is_strict {
            let receipts = self.client.append_batch(&self.tenant, batch.events());
            receipts.map(|receipts| receipts.into_iter().map(Outcome::Stored).collect())
        } else {
            self.client.append_each(&self.tenant, batch.events())
        };
        let outcomes = answered.map_err(|error| self.batch_failed(&origins, error))?;
        for (origin, outcome) in origins.iter().zip(outcomes) {
            match outcome {
                // No key of a log is given here, so a receipt is taken as it is.
                Outcome::Stored(receipt) | Outcome::Doubtful(receipt, _) => self.stored(&receipt)?,
                Outcome::Refused(problem) => self.refuse(origin, &problem.to_string())?,
                Outcome::Unsettled(error) => return Err(self.batch_failed(&[], error)),
            }
        }
        Ok(())
    }

    /// Sends the rest and tells how it went.
    pub(super) fn finish(mut self) -> Result<Tally, Failure> {
        self.flush()?;
        self.progress.done();
        Ok(self.tally)
    }

    fn stored(&mut self, receipt: &Receipt) -> Result<(), Failure> {
        if receipt.duplicate {
            self.tally.duplicates += 1;
        } else {
            self.tally.appended += 1;
        }
        self.progress.add(1);
        (self.on_receipt)(receipt)
    }

    /// A whole batch was refused: either it is strict and one event is to blame, or there is no use going on.
    fn batch_failed(&self, batch: &[Origin], error: Error) -> Failure {
        match &error {
            Error::Unreadable { .. } => {
                return Failure::new(
                    "the server's answer is not a list of receipts",
                    "check --url, and that versions match",
                );
            }
            Error::Refused(problem) => {
                if let Some(origin) = problem.index_in_batch.and_then(|index| batch.get(index)) {
                    return self.stopped(origin, &problem.to_string(), hint(&problem.code));
                }
            }
            _ => {}
        }
        let mut failure = failure(error);
        failure.message = format!("{}\n{}", failure.message, self.so_far());
        failure
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

#[cfg(test)]
mod tests;
