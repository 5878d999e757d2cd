//! The thread that sends: one batch at a time, until it is answered, with pauses between.
//!
//! A try that fails leaves nothing in memory alone: what is on its way and what is queued goes to the spool first, then
//! the pause begins. Closing cuts a pause short for one last try.

#![expect(
    clippy::disallowed_methods,
    reason = "the recorder owns this thread, names it, stops it and joins it"
)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::append::Outcome;
use super::super::error::{Error, Problem};
use super::super::new_event::NewEvent;
use super::Rejected;
use super::shared::{Next, Shared, Work, lock, own_problem};

/// Tries after which a pause is as long as pauses get; what will not pass by itself is not asked sooner.
const LONG_PAUSE_TRIES: u32 = 20;

/// Longest `Retry-After` that is waited out: a fault in a proxy must not silence a service for a day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("varve-sender".to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
            lock(&shared.state).stats.has_defect = true;
        }
    })
}

fn run(shared: &Shared) {
    loop {
        match shared.next() {
            Next::Send(work) => {
                if let Err(left) = deliver(shared, work) {
                    return shared.give_up(left);
                }
            }
            Next::Unreadable => {
                if shared.request_time().1 {
                    return;
                }
                shared.pause(shared.client.options().retry.max_pause);
            }
            Next::Stop => return,
        }
    }
}

/// Sends `work` until all of it is answered. What is left is given back when the time is over.
fn deliver(shared: &Shared, mut work: Work) -> Result<(), Work> {
    let mut tries = 0;
    while !work.open.is_empty() {
        let (time, is_last_try) = shared.request_time();
        let Some(time) = time else { return Err(work) };
        let sent: Vec<&NewEvent> = work.open.iter().collect();
        let error = match shared.client.try_each(shared.tenant(), &sent, time) {
            Ok(outcomes) => {
                let asked = work.open.len();
                let error = sort(shared, &mut work, outcomes);
                // Some were answered: the server is there.
                tries = if work.open.len() < asked { 0 } else { tries };
                error
            }
            Err(error) => Some(error),
        };
        let Some(error) = error else { continue };
        shared.note_away(&error);
        // What cannot be spooled waits in memory; the stats say why.
        let _ = shared.spill();
        if is_last_try {
            return Err(work);
        }
        tries = if error.is_retryable() { tries + 1 } else { LONG_PAUSE_TRIES };
        let retry_after = error.retry_after().map(|asked| asked.min(MAX_RETRY_AFTER));
        shared.pause(shared.client.options().retry.pause(tries, retry_after));
    }
    shared.settle(&work);
    Ok(())
}

/// Takes what is answered out of `work`, and says why the rest is not.
fn sort(shared: &Shared, work: &mut Work, outcomes: Vec<Outcome>) -> Option<Error> {
    let is_report = work.is_report();
    let (mut stored, mut duplicates, mut why) = (0, 0, None);
    let asked = std::mem::take(&mut work.open);
    for (event, outcome) in asked.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Stored(receipt) => {
                stored += 1;
                duplicates += u64::from(receipt.duplicate);
            }
            Outcome::Refused(problem) if problem.retryable => {
                why = Some(Error::Refused(Box::new(problem)));
                work.open.push(event);
            }
            Outcome::Unsettled(error) => {
                why = Some(error);
                work.open.push(event);
            }
            // The count was written down after the event that told of it was sent: the log has that event.
            Outcome::Refused(problem) if is_report && problem.code == "id_conflict" => {}
            Outcome::Refused(problem) => reject(shared, &event, problem),
            Outcome::Doubtful(_, fault) => reject(shared, &event, own_problem("receipt", &fault)),
        }
    }
    if !is_report {
        let mut state = lock(&shared.state);
        state.stats.stored += stored;
        state.stats.duplicates += duplicates;
    }
    why
}

fn reject(shared: &Shared, event: &NewEvent, problem: Problem) {
    let rejected = Rejected { id: event.id().map(str::to_owned), problem, json: event.shared_json() };
    if let Some(tell) = lock(&shared.on_rejected).as_ref() {
        // A panic in the service's own code must not end sending.
        let _ = catch_unwind(AssertUnwindSafe(|| tell(&rejected)));
    }
    shared.reject(rejected);
}
