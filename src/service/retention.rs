//! Retention policies: read, set, kept at hand for those who append.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::append::internal;
use super::system::own;
use super::view::RetentionView;
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome, Tenant};
use crate::retention::{History, Policy, PolicyChange, RecordedPolicy};
use crate::store::log::{Log, Sequenced};

/// Least months of any class, unless the operator says otherwise.
pub const FLOOR_MONTHS: u16 = 1;

/// How long a change waits for a compaction that is certifying: those who read need the places for blocking calls.
const GATE_WAIT: Duration = Duration::from_secs(1);

/// What is known of the policies of all logs.
pub(super) struct Retention {
    /// Least months that a policy may give a class.
    floor_months: u16,
    /// Policies and what compaction rests on change one at a time.
    pub(super) gate: Mutex<()>,
    /// By log: the index of the newest policy's entry, and all policies up to it.
    known: RwLock<HashMap<u32, (u64, Arc<History>)>>,
}

impl Retention {
    pub(super) fn new(floor_months: u16) -> Retention {
        Retention { floor_months, gate: Mutex::new(()), known: RwLock::default() }
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
            let detail =
                "a compaction is writing its certificates; the policy is unchanged, ask again a little later";
            Error::new(ErrorCode::Busy, detail)
        })?;
        let history = self.history(&log)?;
        let before = history.as_ref().and_then(|history| history.newest());
        let policy =
            change.apply(before.map(|(_, policy)| policy), self.0.retention.floor_months).map_err(refused)?;
        if before.is_none_or(|(_, before)| *before != policy) {
            let event =
                Builder::new(action::RETENTION_POLICY_CHANGED, Outcome::Success).actor("api_key", &by.key_id);
            let event = policy
                .to_facts(before)
                .into_iter()
                .fold(event, |event, (name, value)| event.fact(name, value));
            self.write_own(vec![own(&log, event)?], Vec::new())?;
        }
        self.retention_view(&log)
    }

    fn retention_view(&self, log: &Log) -> Result<RetentionView, Error> {
        let history = self.history(log)?;
        let newest = history.as_ref().and_then(|history| history.newest());
        let set_at = history.as_ref().and_then(|history| history.changes().last());
        let shown = newest.map_or_else(|| Policy::default().view(), |(_, policy)| policy.view());
        Ok(RetentionView {
            index: newest.map(|(index, _)| index),
            set_at: set_at.map(|(_, at)| Micros(at).to_string()),
            expires: newest.is_some(),
            floor_months: self.0.retention.floor_months,
            classes: shown.classes,
            rules: shown.rules,
        })
    }

    /// The policies of a log; `None` where it has none.
    pub(super) fn history(&self, log: &Log) -> Result<Option<Arc<History>>, Error> {
        let Some(newest) = log.policy() else { return Ok(None) };
        let number = log.identity.number;
        if let Some((index, history)) = self.0.retention.known.read().get(&number)
            && *index == newest
        {
            return Ok(Some(history.clone()));
        }
        let mut found = Vec::new();
        let mut next = Some(newest);
        while let Some(index) = next {
            let record = self.0.store.record(log, index).map_err(|error| internal(&error))?;
            let record = record.ok_or_else(|| not_a_policy(index))?;
            let recorded = policy_of(&record).ok_or_else(|| not_a_policy(index))?;
            next = recorded.previous.as_ref().map(|previous| previous.index);
            if next.is_some_and(|previous| previous >= index) {
                return Err(not_a_policy(index));
            }
            found.push((index, record.record.recorded_at, recorded));
        }
        let mut history = History::new();
        for (index, recorded_at, recorded) in found.into_iter().rev() {
            history.follows(&recorded).map_err(|_| not_a_policy(index))?;
            history.push(index, recorded_at, recorded.policy);
        }
        let history = Arc::new(history);
        self.0.retention.known.write().insert(number, (newest, history.clone()));
        Ok(Some(history))
    }
}

fn policy_of(record: &Sequenced) -> Option<RecordedPolicy> {
    let body = record.record.body()?.ok()?;
    Policy::from_facts(&body.facts()?).ok()
}

/// Damage: the entry was written by Varve, and is read to decide what may leave.
fn not_a_policy(index: u64) -> Error {
    tracing::error!(index, "an entry that must hold a policy holds none");
    let detail = format!(
        "the entry at index {index} must hold the log's retention policy and does not: nothing leaves this log. Stop the \
         server and run `varve verify` on the directory."
    );
    Error::new(ErrorCode::Internal, detail)
}
