//! Appending: parse, tell repeats from conflicts, seal, queue, wait until durable, answer with receipts.

use std::sync::Arc;

use super::admit::{
    Item, Submitted, admit, answer_repeats_in_batch, classify, find_repeats_in_batch, id_conflict, placed_in,
};
use super::retention::{AtHand, InForce};
use super::tenants::demand_open;
use super::view::{Receipt, receipt};
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::Event;
use crate::ingest::prepare::{Prepared, prepare};
use crate::ingest::queue::{Permit, Placed, Submission, SubmitError};
use crate::store::idtable::Location;
use crate::store::log::{Log, Sequenced};

/// Most events of one request (contract).
pub(super) const MAX_BATCH_EVENTS: usize = 1_000;

/// Most bytes of prepared events in one submission: a frame holds one submission beside a full group.
pub(super) const MAX_SUBMISSION_BYTES: usize = 6 << 20;

/// What sealing adds to an event, for the room it is given in the queue: a salt and a commitment for each of a few
/// parts. A guess: what is truly added is bounded by [`MAX_SUBMISSION_BYTES`].
const SEALING_BYTES: usize = 512;

/// How often a submission is repeated because the id table changed under it. Each time is one checkpoint of
/// the journal in the microseconds between look-up and planning.
const MAX_LOOKS: usize = 8;

/// How a batch is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchMode {
    /// All or nothing.
    Atomic,
    /// Each event on its own.
    Skip,
}

impl Service {
    /// Appends events to a tenant's log and answers when they are durable.
    ///
    /// Atomic: the first refusal fails the call and nothing is stored. Skip: each event has its own result; the
    /// outer error says that nothing was tried.
    pub async fn append(
        &self,
        by: &Principal,
        tenant: &str,
        events: &[Submitted<'_>],
        mode: BatchMode,
        verifiable: bool,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let log = self.log_for(by, tenant, Scope::Ingest)?;
        self.take_in(events, mode, verifiable, |submitted| Ok((log.clone(), admit(submitted, Event::parse)?)))
            .await
    }

    /// Appends events that each name their tenant, as [`Service::append`] does: one batch, one frame, whole or not
    /// at all. The key needs `ingest` on each of the tenants.
    pub async fn append_addressed(
        &self,
        by: &Principal,
        events: &[Submitted<'_>],
        mode: BatchMode,
        verifiable: bool,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        self.take_in(events, mode, verifiable, |submitted| {
            let event = admit(submitted, Event::parse_addressed)?;
            let tenant = event.addressee().unwrap_or_default();
            let log = self.log_for(by, tenant, Scope::Ingest).map_err(|error| error.at("/tenant"))?;
            Ok((log, event))
        })
        .await
    }

    /// As [`classify`], by the policy in force in the log.
    async fn classify(
        &self,
        admitted: Result<(Arc<Log>, Event), Error>,
    ) -> Result<(Arc<Log>, Event, u16), Error> {
        let (log, mut event) = admitted?;
        let policy = match self.policy_at_hand(&log) {
            AtHand::Known(policy) => policy,
            AtHand::Unread => self.read_policy(&log).await?,
        };
        let class = classify(&mut event, policy.as_deref().map(|in_force| &in_force.policy))?;
        Ok((log, event, class))
    }

    /// Reads the policy in force on a thread that may block: a layer of an old month may have to be opened for it, and
    /// those who append to other logs are not to wait for that.
    async fn read_policy(&self, log: &Arc<Log>) -> Result<Option<Arc<InForce>>, Error> {
        let place =
            self.0.retention.reading.clone().acquire_owned().await.map_err(|error| internal(&error))?;
        let (service, log) = (self.clone(), log.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Given up by the thread, not by a client that went away meanwhile.
            let _place = place;
            service.policy_in_force(&log)
        });
        read.await.map_err(|error| internal(&error))?
    }

    /// Takes a batch in and counts what became of it.
    async fn take_in(
        &self,
        events: &[Submitted<'_>],
        mode: BatchMode,
        verifiable: bool,
        admitted: impl Fn(&Submitted<'_>) -> Result<(Arc<Log>, Event), Error>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let outcome = self.append_all(events, mode, verifiable, admitted).await;
        self.count(events.len(), &outcome);
        outcome
    }

    async fn append_all(
        &self,
        events: &[Submitted<'_>],
        mode: BatchMode,
        verifiable: bool,
        admitted: impl Fn(&Submitted<'_>) -> Result<(Arc<Log>, Event), Error>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        self.refuse_when_full()?;
        if events.len() > MAX_BATCH_EVENTS {
            let detail = format!(
                "{} events in one request; the limit is {MAX_BATCH_EVENTS}. Nothing was stored.",
                events.len()
            );
            return Err(Error::new(ErrorCode::TooLarge, detail));
        }
        let bytes = events.iter().map(|submitted| submitted.raw.len() + SEALING_BYTES).sum();
        let room = self.0.pipeline.queue.reserve(events.len(), bytes).map_err(submit_error)?;
        let mut items = Vec::with_capacity(events.len());
        for (position, submitted) in events.iter().enumerate() {
            match self.classify(admitted(submitted)).await {
                Ok((log, event, class)) => {
                    let (log, event) = (Some(log), Some(event));
                    items.push(Item { log, event, class, answer: None, repeats: None });
                }
                Err(error) if mode == BatchMode::Atomic => {
                    return Err(placed_in(error, events.len(), position));
                }
                Err(error) => items.push(Item {
                    log: None,
                    event: None,
                    class: 0,
                    answer: Some(Err(placed_in(error, events.len(), position))),
                    repeats: None,
                }),
            }
        }
        find_repeats_in_batch(&mut items, mode)?;
        let detail = "the id table kept changing under the request; nothing of this event was stored";
        let mut open = Error::new(ErrorCode::Busy, detail);
        for look in 0..MAX_LOOKS {
            match self.submit_open(&mut items, mode, verifiable, &room).await {
                Ok(Some(again)) => {
                    for position in again {
                        match self.classify(admitted(&events[position])).await {
                            Ok((_, event, class)) => {
                                items[position].event = Some(event);
                                items[position].class = class;
                            }
                            Err(error) if mode == BatchMode::Atomic => return Err(error),
                            Err(error) => items[position].answer = Some(Err(error)),
                        }
                    }
                }
                Ok(None) => break,
                // What an earlier look stored keeps its receipt.
                Err(error) if look > 0 && mode == BatchMode::Skip => {
                    open = error;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        answer_repeats_in_batch(&mut items);
        Ok(items.into_iter().map(|item| item.answer.unwrap_or_else(|| Err(open.clone()))).collect())
    }

    /// Looks the open items up, submits those that are new and waits for their receipts. Says which must be looked up
    /// again, or `None` when nothing was left to submit. Events that wait are not kept twice, as parsed and as sealed:
    /// what must be looked up again has to be parsed again, which is rare.
    async fn submit_open(
        &self,
        items: &mut [Item],
        mode: BatchMode,
        verifiable: bool,
        room: &Arc<Permit>,
    ) -> Result<Option<Vec<usize>>, Error> {
        let Some((submission, positions)) = self.look_up(items, mode, verifiable)? else { return Ok(None) };
        positions.iter().for_each(|&position| items[position].event = None);
        let ids: Vec<String> = submission.items.iter().map(|item| item.id.clone()).collect();
        let queue = &self.0.pipeline.queue;
        let ticket = queue.admit_reserved(submission, room.clone()).map_err(submit_error)?;
        let waiting = self.0.telemetry.write().append();
        let placed = ticket.answer().await.map_err(submit_error)?;
        waiting.stop();
        let mut again = Vec::new();
        for ((placed, position), id) in placed.into_iter().zip(positions).zip(ids) {
            let item = &mut items[position];
            match (placed, &item.log) {
                (Placed::New(record), Some(log)) => {
                    item.answer = Some(Ok(receipt(log, &record, &id, false, verifiable)));
                }
                _ => again.push(position),
            }
        }
        Ok(Some(again))
    }

    /// Counts what became of `sent` events.
    fn count(&self, sent: usize, outcome: &Result<Vec<Result<Receipt, Error>>, Error>) {
        let write = self.0.telemetry.write();
        match outcome {
            Err(error) => write.refused(error.code.as_str(), sent as u64),
            Ok(answers) => {
                let (mut new, mut duplicates) = (0, 0);
                for answer in answers {
                    match answer {
                        Ok(receipt) if receipt.duplicate => duplicates += 1,
                        Ok(_) => new += 1,
                        Err(error) => write.refused(error.code.as_str(), 1),
                    }
                }
                write.appended(new, duplicates);
            }
        }
    }

    /// Answers the repeats among the open items and prepares the others. `None` when nothing is left to submit.
    fn look_up(
        &self,
        items: &mut [Item],
        mode: BatchMode,
        verifiable: bool,
    ) -> Result<Option<(Submission, Vec<usize>)>, Error> {
        let store = &self.0.store;
        let epoch = store.recent.epoch();
        let count = items.len();
        let mut prepared: Vec<Prepared> = Vec::with_capacity(count);
        let mut positions = Vec::with_capacity(count);
        for (position, item) in items.iter().enumerate() {
            if let (None, Some(log), Some(event), None) = (&item.answer, &item.log, &item.event, item.repeats)
            {
                prepared.push(prepare(log, event, item.class));
                positions.push(position);
            }
        }
        let tokens: Vec<[u8; 16]> = prepared.iter().map(|item| item.keys.id).collect();
        let mut found: Vec<(usize, Location)> = Vec::new();
        store.ids.lookup_many(&tokens, &mut found).map_err(|error| internal(&error))?;
        let mut near = Vec::new();
        for (which, token) in tokens.iter().enumerate() {
            store.recent.find(token, &mut near);
            found.extend(near.drain(..).map(|location| (which, location)));
        }
        for (which, location) in found {
            let position = positions[which];
            let item = &mut items[position];
            let (None, Some(log), Some(event)) = (&item.answer, &item.log, &item.event) else { continue };
            if location.log != log.identity.number || location.index >= log.size() {
                continue;
            }
            let Some(first) = store.record(log, location.index).map_err(|error| internal(&error))? else {
                continue;
            };
            match repeat_of(log, &first, event, verifiable) {
                None => continue,
                Some(Err(error)) if mode == BatchMode::Atomic => {
                    return Err(placed_in(error, count, position));
                }
                Some(Err(error)) => item.answer = Some(Err(placed_in(error, count, position))),
                Some(Ok(receipt)) => item.answer = Some(Ok(receipt)),
            }
        }
        let mut kept = Vec::with_capacity(prepared.len());
        let mut kept_positions = Vec::with_capacity(prepared.len());
        for (prepared, position) in prepared.into_iter().zip(positions) {
            let item = &mut items[position];
            if item.answer.is_some() {
                continue;
            }
            match item.log.as_deref().map_or(Ok(()), demand_open) {
                Ok(()) => {
                    kept.push(prepared);
                    kept_positions.push(position);
                }
                Err(error) if mode == BatchMode::Atomic => return Err(placed_in(error, count, position)),
                Err(error) => item.answer = Some(Err(placed_in(error, count, position))),
            }
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let bytes: usize = kept.iter().map(|item| item.body.len() + 128).sum();
        if bytes > MAX_SUBMISSION_BYTES {
            let detail = format!(
                "the batch takes {bytes} bytes once sealed; the limit is {MAX_SUBMISSION_BYTES}. Nothing was stored: send it in parts."
            );
            return Err(Error::new(ErrorCode::TooLarge, detail));
        }
        let atomic = mode == BatchMode::Atomic;
        let submission = Submission { items: kept, controls: Vec::new(), atomic, epoch: Some(epoch) };
        Ok(Some((submission, kept_positions)))
    }

    /// Says before a body is read what would be said after it: the store takes no events now.
    ///
    /// # Errors
    /// `read_only`, `storage_full` or `busy`; nothing was stored.
    pub fn may_append(&self) -> Result<(), Error> {
        self.0.pipeline.queue.has_room().map_err(submit_error)?;
        self.refuse_when_full()
    }

    pub(super) fn refuse_when_full(&self) -> Result<(), Error> {
        // A reading that fails says nothing about room; the write itself will.
        if self.0.space.is_low().unwrap_or(false) {
            let detail = "the disk is below its low-water mark; nothing was stored. Free space or extend the disk; reading goes on.";
            return Err(Error::new(ErrorCode::StorageFull, detail));
        }
        Ok(())
    }
}

/// What a record with the same id token means for `event`: nothing (another id), a repeat, or a conflict.
fn repeat_of(
    log: &Log,
    first: &Sequenced,
    event: &Event,
    verifiable: bool,
) -> Option<Result<Receipt, Error>> {
    let id = event.id()?;
    // Where the body is gone the token alone decides: the record was this id's.
    if let Some(body) = first.record.body() {
        let body = body.ok()?;
        if body.id() != Some(id) {
            return None;
        }
        if !body.same_content(event) {
            return Some(Err(id_conflict(first.index)));
        }
    }
    Some(Ok(receipt(log, first, id, true, verifiable)))
}

/// A refusal of the queue as callers see it.
pub(super) fn submit_error(error: SubmitError) -> Error {
    match error {
        SubmitError::Busy => Error::new(
            ErrorCode::Busy,
            "the queue is full; nothing was stored. Send it again a little later.",
        ),
        SubmitError::Stopped(reason) => Error::new(
            ErrorCode::ReadOnly,
            format!("the store takes no events: {reason}. Nothing was stored."),
        ),
        SubmitError::Unknown => Error::new(
            ErrorCode::OutcomeUnknown,
            "the store stopped before the write was known to be durable. Repeat it with the same id: it is stored once.",
        ),
    }
}

/// Damage and defects: the reason is for the operator, and holds no event's content.
pub(super) fn internal(error: &dyn std::error::Error) -> Error {
    tracing::error!(%error, "a request met damage or a defect");
    Error::new(ErrorCode::Internal, format!("{error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::world::{World, of};
    use super::*;

    #[test]
    fn a_policy_that_is_read_holds_up_no_worker() {
        let mut world = World::new(&["acme", "globex"]);
        let rules = json!([{"action": "old.*", "class": "billing"}]);
        world.set("acme", &json!({"classes": {"billing": {"months": 3}}, "rules": rules}));
        world.pass_months(2);
        world.reopen();
        // The one thread that may block is busy: who needs it waits, and the thread that serves goes on.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (open, closed) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || closed.recv().is_err());
        let service = world.service();
        let event =
            [Submitted { raw: br#"{"action":"old.thing","outcome":"success"}"#, idempotency_key: None }];
        let (acme, globex) = (of("acme"), of("globex"));
        let stored = runtime.block_on(async {
            let mut waiting = std::pin::pin!(service.append(&acme, "acme", &event, BatchMode::Atomic, false));
            let other = service.append(&globex, "globex", &event, BatchMode::Atomic, false);
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("the policy was read on the thread that serves"),
                other = other => assert!(other.is_ok()),
            }
            drop(open);
            waiting.await.unwrap().remove(0).unwrap()
        });
        assert_eq!(world.event("acme", stored.index)["event"]["class"], "billing");
        let log = service.0.store.log_of("acme").unwrap();
        assert!(matches!(service.policy_at_hand(&log), AtHand::Known(Some(_))), "it is at hand now");
    }
}
