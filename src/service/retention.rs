//! Retention policies: read, set, kept at hand.
//!
//! Who appends, reads or sets a policy needs the newest one alone; only compactions need those before it. What is at hand
//! is bounded; what is not is read out of the log, by a thread that may block.

mod kept;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use super::append::internal;
use super::system::own;
use super::view::RetentionView;
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome, Tenant};
use crate::retention::{History, Policy, PolicyChange, RecordedPolicy};
use crate::store::log::{Log, Sequenced};
use kept::Kept;

/// Least months of any class, unless the operator says otherwise.
pub const FLOOR_MONTHS: u16 = 1;

/// How long a change waits for who holds the gate: those who read need the places for blocking calls.
const GATE_WAIT: Duration = Duration::from_secs(1);

/// Bytes of newest policies that are at hand: 64 MiB, 10,000 logs with 6 KiB each. The largest takes about 60 KiB.
const MAX_KNOWN_BYTES: usize = 64 << 20;

/// Bytes of histories that are at hand: 32 MiB.
const MAX_HISTORIES_BYTES: usize = 32 << 20;

/// Policies that are read at once for those who append; others of them wait without a thread.
const MAX_READING: usize = 4;

/// Policies that are kept while a history is read backwards: 3 MiB of the largest. Of more the older ones are read twice.
const MAX_FOUND: usize = 64;

/// What is known of the policies of all logs.
pub(super) struct Retention {
    /// Least months that a policy may give a class.
    floor_months: u16,
    /// Policies and what compaction rests on change one at a time.
    pub(super) gate: Mutex<()>,
    /// Places of those who read a policy in order to append.
    pub(super) reading: Arc<Semaphore>,
    /// The newest policy by log.
    newest: RwLock<Kept<Arc<InForce>>>,
    /// All policies by log, as of its last compaction.
    histories: Mutex<Kept<Arc<History>>>,
}

/// The policy in force in a log.
pub(super) struct InForce {
    /// Index of its entry.
    index: u64,
    recorded_at: u64,
    pub(super) policy: Policy,
}

/// The policy in force, as far as it is at hand.
pub(super) enum AtHand {
    /// It is this one, or there is none.
    Known(Option<Arc<InForce>>),
    /// It must be read out of the log.
    Unread,
}

impl Retention {
    pub(super) fn new(floor_months: u16) -> Retention {
        Retention {
            floor_months,
            gate: Mutex::new(()),
            reading: Arc::new(Semaphore::new(MAX_READING)),
            newest: RwLock::new(Kept::new(MAX_KNOWN_BYTES)),
            histories: Mutex::new(Kept::new(MAX_HISTORIES_BYTES)),
        }
    }

    /// Keeps a policy at hand, unless a newer one is.
    fn keep(&self, log: u32, policy: InForce) -> Arc<InForce> {
        let policy = Arc::new(policy);
        let mut newest = self.newest.write();
        if newest.get(log).is_none_or(|known| known.index < policy.index) {
            newest.put(log, policy.clone(), policy_bytes(&policy.policy));
        }
        policy
    }
}

impl Service {
    /// The policy of a tenant's log.
    pub fn retention(&self, by: &Principal, tenant: &str) -> Result<RetentionView, Error> {
        let log = self.log_for(by, tenant, Scope::Retention)?;
        self.retention_view(&log)
    }

    /// Changes the policy of a tenant's log: an entry of the log, durable and in force when this returns.
    ///
    /// # Errors
    /// `bad_request` with the member that cannot be; nothing was changed then.
    pub fn set_retention(&self, by: &Principal, tenant: &str, change: &[u8]) -> Result<RetentionView, Error> {
        let log = self.log_for(by, tenant, Scope::Retention)?;
        if tenant == Tenant::SYSTEM {
            let detail = "Varve's own log is kept for ever; nothing was changed. Name a tenant.";
            return Err(Error::new(ErrorCode::BadRequest, detail));
        }
        let refused = |refusal: crate::retention::Refusal| {
            let detail = format!("{}; the policy is unchanged", refusal.what);
            Error::new(ErrorCode::BadRequest, detail).at(refusal.pointer)
        };
        let change = PolicyChange::parse(change).map_err(refused)?;
        let gate = self.0.retention.gate.try_lock_for(GATE_WAIT);
        let _gate = gate.ok_or_else(|| {
            let detail = "a compaction or an erasure is letting something go, or a hold is being placed; the policy is \
                          unchanged, ask again a little later";
            Error::new(ErrorCode::Busy, detail)
        })?;
        let before = self.policy_in_force(&log)?;
        let before = before.as_deref().map(|before| (before.index, &before.policy));
        let policy =
            change.apply(before.map(|(_, policy)| policy), self.0.retention.floor_months).map_err(refused)?;
        if before.is_none_or(|(_, before)| *before != policy) {
            let event = Builder::new(action::RETENTION_POLICY_CHANGED, Outcome::Success)
                .actor("api_key", &by.key_id)
                .facts(policy.to_facts(before));
            let records = self.write_own(vec![own(&log, event)?], Vec::new())?;
            for record in records {
                let (index, recorded_at) = (record.index, record.record.recorded_at);
                let policy = policy.clone();
                self.0.retention.keep(log.identity.number, InForce { index, recorded_at, policy });
            }
        }
        self.retention_view(&log)
    }

    fn retention_view(&self, log: &Log) -> Result<RetentionView, Error> {
        let newest = self.policy_in_force(log)?;
        let newest = newest.as_deref();
        let shown = newest.map_or_else(|| Policy::default().view(), |newest| newest.policy.view());
        Ok(RetentionView {
            index: newest.map(|newest| newest.index),
            set_at: newest.map(|newest| Micros(newest.recorded_at).to_string()),
            expires: newest.is_some(),
            floor_months: self.0.retention.floor_months,
            classes: shown.classes,
            rules: shown.rules,
        })
    }

    /// The policy in force in a log, without reading.
    pub(super) fn policy_at_hand(&self, log: &Log) -> AtHand {
        let Some(newest) = log.policy() else { return AtHand::Known(None) };
        match self.0.retention.newest.read().get(log.identity.number) {
            Some(known) if known.index == newest => AtHand::Known(Some(known.clone())),
            _ => AtHand::Unread,
        }
    }

    /// The policy in force in a log, read if need be: not for a thread that serves others meanwhile. `None` where it has
    /// none.
    ///
    /// # Errors
    /// `internal`: it cannot be read. Which class an event is of is not known then, so none is taken.
    pub(super) fn policy_in_force(&self, log: &Log) -> Result<Option<Arc<InForce>>, Error> {
        if let AtHand::Known(policy) = self.policy_at_hand(log) {
            return Ok(policy);
        }
        let Some(index) = log.policy() else { return Ok(None) };
        let (recorded_at, recorded) = self.recorded_policy(log, index)?;
        let policy = InForce { index, recorded_at, policy: recorded.policy };
        Ok(Some(self.0.retention.keep(log.identity.number, policy)))
    }

    /// The policies of a log, for who lets bodies go; `None` where it has none. Reads those that came since the last time.
    ///
    /// # Errors
    /// `internal`: one of them cannot be read, or does not follow the one before. Nothing may leave then.
    pub(super) fn history(&self, log: &Log) -> Result<Option<Arc<History>>, Error> {
        let Some(newest) = log.policy() else { return Ok(None) };
        let number = log.identity.number;
        let known = self.0.retention.histories.lock().get(number).cloned();
        let upto = known.as_ref().and_then(|known| known.newest()).map(|(index, _)| index);
        if upto >= Some(newest) {
            return Ok(known);
        }
        let mut found = Vec::new();
        let mut next = Some(newest);
        while let Some(index) = next.filter(|index| upto.is_none_or(|upto| *index > upto)) {
            let (recorded_at, recorded) = self.recorded_policy(log, index)?;
            next = recorded.previous.as_ref().map(|previous| previous.index);
            if next.is_some_and(|previous| previous >= index) {
                return Err(not_a_policy(index));
            }
            found.push((index, (found.len() < MAX_FOUND).then_some((recorded_at, recorded))));
        }
        let mut history = known.unwrap_or_default();
        for (index, read) in found.into_iter().rev() {
            let (recorded_at, recorded) = read.map_or_else(|| self.recorded_policy(log, index), Ok)?;
            history.follows(&recorded).map_err(|_| not_a_policy(index))?;
            Arc::make_mut(&mut history).push(index, recorded_at, recorded.policy);
        }
        let bytes = history.memory_bytes() + history.newest().map_or(0, |(_, policy)| policy_bytes(policy));
        self.0.retention.histories.lock().put(number, history.clone(), bytes);
        Ok(Some(history))
    }

    /// What the entry at `index` says, and when it was recorded.
    fn recorded_policy(&self, log: &Log, index: u64) -> Result<(u64, RecordedPolicy), Error> {
        let record = self.0.store.record(log, index).map_err(|error| internal(&error))?;
        let record = record.ok_or_else(|| not_a_policy(index))?;
        let recorded = policy_of(&record).ok_or_else(|| not_a_policy(index))?;
        Ok((record.record.recorded_at, recorded))
    }
}

fn policy_of(record: &Sequenced) -> Option<RecordedPolicy> {
    let body = record.record.body()?.ok()?;
    Policy::from_facts(&body.facts()?).ok()
}

/// Memory of a policy: its texts, and 64 bytes for each class and 96 for each rule.
fn policy_bytes(policy: &Policy) -> usize {
    let classes: usize = policy.classes().iter().map(|term| 64 + term.name.len()).sum();
    let rules: usize = policy.rules().iter().map(|rule| 96 + rule.pattern.len() + rule.class.len()).sum();
    size_of::<InForce>() + classes + rules
}

/// Damage: the entry was written by Varve, and is read to decide what may leave and which class an event is of.
fn not_a_policy(index: u64) -> Error {
    tracing::error!(index, "an entry that must hold a policy holds none");
    let detail = format!(
        "the entry at index {index} must hold a retention policy of the log and does not: nothing leaves this log, and if \
         that policy is the newest no event is taken. Stop the server and run `varve verify` on the directory."
    );
    Error::new(ErrorCode::Internal, detail)
}

#[cfg(test)]
mod tests;
