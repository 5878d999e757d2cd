//! Erasure of a person: what was sealed about them leaves, the chain and all proofs stay (docs/format/erasure.md).
//!
//! Reading order: `find` (which disclosures are the person's), `certify`, `left` (what of it lies in a layer), `run` (rewrite, wipe), this file (asking, and how
//! it stands).

#![expect(clippy::disallowed_methods, reason = "its thread, and when it tries again")]

mod certify;
mod find;
mod left;
mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use find::Person;

use super::append::internal;
use super::approvals::{Act, ApprovalView};
use super::read::{disclosed, each_match};
use super::system::own;
use super::view::ErasureView;
use super::{Error, ErrorCode, Principal, Scope, Service, random_id};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome, Tenant};
use crate::ingest::queue::Control;
use crate::query::QueryText;
use crate::retention::ErasureCertificate;
use crate::store::log::{Log, Sequenced};
use crate::store::state::ErasurePhase;

/// Longest body of a request: a type, an id of 2,048 characters, a basis, each character escaped.
pub const MAX_ERASURE_BYTES: usize = 32 << 10;

/// Days that backups are kept, unless said otherwise.
pub const BACKUP_DAYS: u16 = 30;

/// Erasures that are asked for and not done, at once: 13 bytes each in every snapshot. One log has a tenth of it, so that no
/// tenant takes all.
const MAX_OPEN: usize = 10_000;
const MAX_OPEN_OF_LOG: usize = MAX_OPEN / 10;

/// How long an asking counts the person's records before it is answered without the count.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// Askings that count records at once: each takes one of the places for slow requests.
const MAX_LOOKS: usize = 4;

/// Longest basis, in bytes.
const MAX_BASIS_BYTES: usize = 1_024;

/// Erasures that a list shows, the newest.
const MAX_LISTED: usize = 1_000;

/// Indexes of held records that an answer names; all are counted.
const MAX_HELD: usize = 1_000;

/// How long before what failed is tried again; twice as long after each failure in a row, ten minutes at most.
const TRY_AGAIN: Duration = Duration::from_secs(20);
const MAX_TRY_AGAIN: Duration = Duration::from_secs(600);

const DAY_MICROS: u64 = 24 * 3_600 * 1_000_000;

/// The thread that erases, and what it met.
pub(super) struct Erasures {
    /// Whether anything is erased at all: not by a store that was opened for one act.
    is_served: bool,
    needs_approval: bool,
    /// Whether batches keep apart.
    pauses: bool,
    backup_days: u16,
    stopping: Arc<AtomicBool>,
    worker: Mutex<Worker>,
    /// Askings that count records now.
    looks: AtomicUsize,
    /// The worker's own.
    certified: Mutex<run::Certified>,
}

#[derive(Default)]
struct Worker {
    thread: Option<JoinHandle<()>>,
    /// What it left undone when it ended.
    failure: Option<Failure>,
}

/// What could not be erased, and when that was.
struct Failure {
    at: Instant,
    /// How often in a row.
    times: u32,
    /// The logs that it is about.
    logs: BTreeSet<u32>,
}

impl Failure {
    fn is_to_be_tried_again(&self) -> bool {
        let pause = TRY_AGAIN * 2_u32.pow(self.times.saturating_sub(1).min(8));
        self.at.elapsed() >= pause.min(MAX_TRY_AGAIN)
    }
}

impl Erasures {
    pub(super) fn new(is_served: bool, needs_approval: bool, pauses: bool, backup_days: u16) -> Erasures {
        Erasures {
            is_served,
            needs_approval,
            pauses,
            backup_days,
            stopping: Arc::default(),
            worker: Mutex::default(),
            looks: AtomicUsize::new(0),
            certified: Mutex::default(),
        }
    }

    /// Breaks off what runs, and waits for it.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let thread = self.worker.lock().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// What a request says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    subject: Person,
    basis: String,
}

/// What an asking led to.
pub enum Asked {
    /// It is on its way.
    Erasure(Box<ErasureView>),
    /// Another key must approve it.
    Approval(ApprovalView),
}

impl Service {
    /// Asks for the erasure of a person.
    ///
    /// # Errors
    /// `bad_request` with the member that cannot be; `held` where a hold keeps every record of the person. Nothing is erased then.
    pub fn request_erasure(&self, by: &Principal, tenant: &str, body: &[u8]) -> Result<Asked, Error> {
        let log = self.log_for(by, tenant, Scope::Erase)?;
        if tenant == Tenant::SYSTEM {
            return Err(refused(
                "",
                "Varve's own log names no person but by the ids of API keys. Name a tenant",
            ));
        }
        let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
            // The text of the error may quote what was sent.
            let (line, column) = (error.line(), error.column());
            refused("", &format!("not an erasure at line {line} column {column}: `subject` with `type` and `id`, and `basis`"))
        })?;
        if wanted.basis.is_empty() || wanted.basis.len() > MAX_BASIS_BYTES {
            return Err(refused("/basis", "`basis` has 1 to 1,024 bytes"));
        }
        let person = &wanted.subject;
        let event = Builder::new(action::ERASURE_REQUESTED, Outcome::Success)
            .actor("api_key", &by.key_id)
            .reason(&wanted.basis);
        let event = match &person.kind {
            Some(kind) => event.target(kind, &person.id),
            None => event.target_without_type(&person.id),
        };
        let is_sound = !person.id.is_empty() && event.clone().build().is_ok();
        if !is_sound {
            return Err(refused("/subject", "`type` and `id` are those of an actor or target"));
        }
        let number = log.identity.number;
        let open = self.0.store.erasures();
        let of_log = open.range((number, 0)..=(number, u64::MAX)).count();
        if open.len() >= MAX_OPEN || of_log >= MAX_OPEN_OF_LOG {
            let detail = format!(
                "{MAX_OPEN_OF_LOG} erasures of a tenant or {MAX_OPEN} in all are not done yet, the limit; nothing was changed. Ask \
                 again later."
            );
            return Err(Error::new(ErrorCode::Busy, detail));
        }
        let found = self.look(&log, person)?;
        if let Some(found) =
            found.as_ref().filter(|found| found.disclosures.is_empty() && !found.held.is_empty())
        {
            let detail = format!(
                "a legal hold keeps all {} records of this person; nothing was erased. Among them: {}",
                found.held.len(),
                listed(found.held.iter().copied())
            );
            return Err(Error::new(ErrorCode::Held, detail));
        }
        if self.0.erasures.needs_approval {
            self.make_room(tenant)?;
            let record = self.write_own(vec![own(&log, event)?], Vec::new())?;
            let request = record.first().map(|record| record.index).unwrap_or_default();
            let act = Act::Erase { request };
            return self.wait_for_approval(by, &log, act, random_id()).map(Asked::Approval);
        }
        let control = Control::Erasure { log: number, index: u64::MAX, phase: ErasurePhase::Requested };
        let record = self.write_own(vec![own(&log, event)?], vec![control])?;
        let record = record.first().cloned();
        let record = record
            .ok_or_else(|| Error::new(ErrorCode::Internal, "the entry was written and is not there"))?;
        self.begin_erasures();
        let mut view = self.erasure_view(&log, &record, &BTreeMap::new(), &self.0.store.erasures());
        if let Some(found) = found {
            view.other_types = Some(found.other_types);
            view.records = Some(found.records);
            view.held = found.held.len() as u64;
            view.held_indexes = found.held.into_iter().take(MAX_HELD).collect();
        }
        Ok(Asked::Erasure(Box::new(view)))
    }

    /// What is a person's, for the answer; `None` where that takes longer than an answer may.
    fn look(&self, log: &Log, person: &Person) -> Result<Option<find::Found>, Error> {
        let looks = &self.0.erasures.looks;
        let until = Instant::now() + LOOK_TIME;
        let is_late = AtomicBool::new(looks.fetch_add(1, Ordering::AcqRel) >= MAX_LOOKS);
        let go_on = || {
            self.go_on()?;
            if is_late.load(Ordering::Relaxed) || Instant::now() > until {
                is_late.store(true, Ordering::Relaxed);
                return Err(Error::new(ErrorCode::QueryTimeout, "the records were not counted in time"));
            }
            Ok(())
        };
        let found = self.find(log, log.size(), person, &|_| false, &go_on);
        looks.fetch_sub(1, Ordering::AcqRel);
        if is_late.into_inner() { Ok(None) } else { found.map(Some) }
    }

    /// Begins what a second key approved.
    pub(super) fn erase_approved(&self, log: &Log, request: u64, approved: &str) -> Result<(), Error> {
        let control =
            Control::Erasure { log: log.identity.number, index: request, phase: ErasurePhase::Requested };
        let event = Builder::new(action::ERASURE_APPROVED, Outcome::Success)
            .actor("api_key", approved)
            .fact("request", request);
        self.write_own(vec![own(log, event)?], vec![control])?;
        self.begin_erasures();
        Ok(())
    }

    /// The erasures of a tenant, newest first.
    pub fn erasures(&self, by: &Principal, tenant: &str) -> Result<Vec<ErasureView>, Error> {
        let log = self.log_for(by, tenant, Scope::Erase)?;
        let (outcomes, open) = (self.outcomes(&log, None)?, self.0.store.erasures());
        let mut newest = VecDeque::new();
        self.each_own(&log, action::ERASURE_REQUESTED, None, &mut |record| {
            newest.push_front(record.clone());
            newest.truncate(MAX_LISTED);
            Ok(())
        })?;
        Ok(newest.iter().map(|record| self.erasure_view(&log, record, &outcomes, &open)).collect())
    }

    /// How an erasure stands.
    pub fn erasure(&self, by: &Principal, tenant: &str, id: &str) -> Result<ErasureView, Error> {
        let log = self.log_for(by, tenant, Scope::Erase)?;
        let unknown = || Error::new(ErrorCode::NotFound, "no erasure of this id was asked for");
        let index: u64 = id.parse().map_err(|_| unknown())?;
        let record = self.0.store.record(&log, index).map_err(|error| internal(&error))?;
        let record = record.filter(|record| action_of(record).as_deref() == Some(action::ERASURE_REQUESTED));
        let record = record.ok_or_else(unknown)?;
        // What came of it stands behind it.
        let outcomes = self.outcomes(&log, Some(record.record.recorded_at))?;
        Ok(self.erasure_view(&log, &record, &outcomes, &self.0.store.erasures()))
    }

    /// Starts the thread that erases, where there is something to erase, it does not run, and it did not fail a moment ago.
    pub(super) fn begin_erasures(&self) {
        let all = &self.0.erasures;
        let mut worker = all.worker.lock();
        let runs = worker.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        let is_idle = !runs && all.is_served && !all.stopping.load(Ordering::Acquire);
        let open: BTreeSet<u32> = self.0.store.erasures().into_keys().map(|(log, _)| log).collect();
        if !is_idle || open.is_empty() {
            return;
        }
        // Who asks in another log does not wait for the next try.
        let waits = |failure: &Failure| !failure.is_to_be_tried_again() && open.is_subset(&failure.logs);
        if worker.failure.as_ref().is_some_and(waits) {
            return;
        }
        // A panic is a failure too, of all that is open, and no reason to begin again at once.
        let times = worker.failure.as_ref().map_or(1, |failure| failure.times.saturating_add(1));
        worker.failure = Some(Failure { at: Instant::now(), times, logs: open });
        let service = Arc::downgrade(&self.0);
        let body = move || {
            // Held for as long as it runs: `stop` waits for it.
            let Some(inner) = service.upgrade() else { return };
            super::compactions::yield_to_others();
            let service = Service(inner);
            let logs = service.erase_all();
            let failure = (!logs.is_empty()).then(|| Failure { at: Instant::now(), times, logs });
            service.0.erasures.worker.lock().failure = failure;
        };
        match thread::Builder::new().name("varve-erasure".to_owned()).spawn(body) {
            Ok(thread) => worker.thread = Some(thread),
            Err(error) => {
                tracing::error!(%error, "the thread of an erasure was not started; it is tried again");
            }
        }
    }

    /// Whether the last try failed, and none runs.
    pub(super) fn erasures_fail(&self) -> bool {
        let worker = self.0.erasures.worker.lock();
        worker.failure.is_some() && worker.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn erasure_view(
        &self,
        log: &Log,
        record: &Sequenced,
        outcomes: &BTreeMap<u64, ErasureOutcome>,
        open: &BTreeMap<(u32, u64), ErasurePhase>,
    ) -> ErasureView {
        let all = &self.0.erasures;
        let place = (log.identity.number, record.index);
        let outcome = outcomes.get(&record.index).copied().unwrap_or_default();
        let not_asked =
            "no second key approved it yet; an approval waits for a day, or until a restart: ask anew then";
        let failing = "it met a fault and is tried again; the server's log says which";
        let is_failing = {
            let worker = all.worker.lock();
            let runs = worker.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            !runs && worker.failure.as_ref().is_some_and(|failure| failure.logs.contains(&place.0))
        };
        let (state, detail) = match open.get(&place) {
            Some(phase) => {
                let state = if *phase == ErasurePhase::Certified { "rewriting" } else { "pending" };
                (state, Some(failing).filter(|_| is_failing))
            }
            // The entry that says when may have expired before the one that asked.
            None if outcome.done_at.is_some() || outcome.is_certified => ("done", None),
            None => ("pending", Some(not_asked)),
        };
        let from = outcome.done_at.unwrap_or_else(|| self.0.stamps.now());
        ErasureView {
            id: record.index.to_string(),
            state: state.to_owned(),
            requested_at: Micros(record.record.recorded_at).to_string(),
            done_at: outcome.done_at.map(|at| Micros(at).to_string()),
            records: None,
            other_types: None,
            disclosures: outcome.disclosures,
            held: outcome.held,
            held_indexes: Vec::new(),
            backups_until: Micros(from + u64::from(all.backup_days) * DAY_MICROS).to_string(),
            detail: detail.map(str::to_owned),
        }
    }

    /// What the log says from `since` on of each erasure that was asked for.
    fn outcomes(&self, log: &Log, since: Option<u64>) -> Result<BTreeMap<u64, ErasureOutcome>, Error> {
        let mut outcomes: BTreeMap<u64, ErasureOutcome> = BTreeMap::new();
        self.each_own(log, action::ERASURE_COMPLETED, since, &mut |record| {
            if let Some(certificate) = certificate_of(record) {
                for request in certificate.requests.iter() {
                    outcomes.entry(request).or_default().take_in(&certificate);
                }
            }
            Ok(())
        })?;
        self.each_own(log, action::ERASURE_DONE, since, &mut |record| {
            let facts = record.record.body().and_then(Result::ok).and_then(|body| body.facts());
            if let Some(request) = facts.and_then(|facts| facts.get("request")?.as_number()) {
                outcomes.entry(request).or_default().done_at = Some(record.record.recorded_at);
            }
            Ok(())
        })?;
        Ok(outcomes)
    }

    /// Visits entries of Varve's own with an action, oldest first, from `since` on.
    fn each_own(
        &self,
        log: &Log,
        name: &str,
        since: Option<u64>,
        visit: &mut dyn FnMut(&Arc<Sequenced>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let since = since.map(|since| Micros(since).to_string());
        let text = QueryText { action: Some(name.to_owned()), since, ..QueryText::default() };
        each_match(&self.0.store, log, log.size(), &text, visit)
    }
}

/// What became of one erasure, as the log says. What a batch erased is counted for each request in it.
#[derive(Clone, Copy, Default)]
struct ErasureOutcome {
    is_certified: bool,
    disclosures: u64,
    held: u64,
    done_at: Option<u64>,
    /// What the parts of the newest certificates name so far.
    summed: u64,
}

impl ErasureOutcome {
    /// Certificates that are made anew, after a restart or a hold, name some of the same values: what the most of them name
    /// together is what was found.
    fn take_in(&mut self, certificate: &ErasureCertificate) {
        self.is_certified = true;
        self.held = self.held.max(certificate.held);
        self.summed = if certificate.part == 1 { 0 } else { self.summed } + certificate.count();
        self.disclosures = self.disclosures.max(self.summed);
    }
}

fn certificate_of(record: &Sequenced) -> Option<ErasureCertificate> {
    ErasureCertificate::from_facts(&record.record.body()?.ok()?.facts()?).ok()
}

fn action_of(record: &Sequenced) -> Option<String> {
    record.record.body()?.ok()?.action().map(str::to_owned)
}

/// The person that an entry asks to erase; `None` where that was erased already.
fn person_of(record: &Sequenced) -> Option<Person> {
    let body = record.record.body()?.ok()?;
    let target = disclosed(&body, "/targets/0")?;
    let event: serde_json::Value = serde_json::from_slice(&body.canonical).ok()?;
    let kind = event.get("targets")?.get(0)?.get("type").and_then(|kind| kind.as_str()).map(str::to_owned);
    Some(Person { kind, id: target.get("id")?.as_str()?.to_owned() })
}

fn listed(indexes: impl Iterator<Item = u64>) -> String {
    let first: Vec<String> = indexes.take(20).map(|index| index.to_string()).collect();
    first.join(" ")
}

fn refused(pointer: &str, what: &str) -> Error {
    let error = Error::new(ErrorCode::BadRequest, format!("{what}; nothing was erased"));
    if pointer.is_empty() { error } else { error.at(pointer) }
}

#[cfg(test)]
mod tests;
