//! Legal holds: what is held stays, whatever a policy or an erasure says (docs/format/holds.md).
//!
//! Reading order: `asked` (what a request says), this file (placed, shown, released), `listing` (its members), `restore`
//! (after a start).
//!
//! A hold wins from the moment its entry is durable: it is written under the lock that a compaction holds from its last
//! look at the holds until the bodies are gone. Until its members are listed it holds everything below it; a long list
//! is made behind the answer, and after a stop at any point the next start goes on with it ([`Service::resolve_holds`]).

mod asked;
mod listing;
mod restore;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use asked::{What, indexes_text, parse, refused};
pub(super) use restore::restore;

use super::append::internal;
use super::approvals::{Act, ApprovalView};
use super::read::disclosed;
use super::system::own;
use super::view::HoldView;
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome, Tenant};
use crate::ingest::queue::Control;
use crate::retention::{Hold, MAX_HOLDS, PlacedHold, ReleasedHold};
use crate::store::log::Log;
use crate::store::matcher::Matcher;

/// Longest body of a request that places a hold: 4,000 indexes of 13 digits, and a filter.
pub const MAX_HOLD_BYTES: usize = 128 << 10;

/// Entries of a log that are looked through for a hold before it is answered; in a longer log it is done behind.
const MAX_LOOKED_AT: u64 = 100_000;

/// How long a hold waits for a compaction that is letting bodies go.
const GATE_WAIT: Duration = Duration::from_secs(10);

/// Indexes of bodies that were gone already which an answer lists; all are counted.
const MAX_GONE: usize = 1_000;

/// The holds in force, by log. A list is replaced whole.
#[derive(Default)]
pub(super) struct Holds {
    in_force: RwLock<HashMap<u32, Arc<Vec<Arc<Hold>>>>>,
    /// How often a hold of each log was placed or released since the service was opened.
    changes: RwLock<HashMap<u32, u64>>,
    /// Members are listed by one at a time.
    listing: Mutex<()>,
}

impl Holds {
    /// Those of a log, in the order they were placed.
    pub(super) fn of(&self, log: u32) -> Arc<Vec<Arc<Hold>>> {
        self.in_force.read().get(&log).cloned().unwrap_or_default()
    }

    /// How often a hold of the log was placed or released since the service was opened.
    pub(super) fn changes(&self, log: u32) -> u64 {
        self.changes.read().get(&log).copied().unwrap_or(0)
    }

    /// Whether a hold of the log has no complete list yet: then what it holds below itself is not known.
    pub(super) fn is_listing(&self, log: u32) -> bool {
        self.of(log).iter().any(|hold| is_open(hold))
    }

    fn has_changed(&self, log: u32) {
        *self.changes.write().entry(log).or_default() += 1;
    }

    fn change(&self, log: u32, change: impl FnOnce(&mut Vec<Arc<Hold>>)) {
        let mut all = self.in_force.write();
        let mut holds = all.get(&log).map_or_else(Vec::new, |holds| holds.to_vec());
        change(&mut holds);
        all.insert(log, Arc::new(holds));
    }
}

impl Service {
    /// Places a hold. It wins from the moment this returns: what it holds does not leave, nor what is appended from then
    /// on and matches.
    ///
    /// # Errors
    /// `bad_request` with the member that cannot be; `busy` while a compaction is letting bodies go. Nothing is held then.
    pub fn place_hold(&self, by: &Principal, tenant: &str, body: &[u8]) -> Result<HoldView, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        if tenant == Tenant::SYSTEM {
            return Err(refused("", "Varve's own log is kept for ever: nothing is held. Name a tenant."));
        }
        let (wanted, what) = parse(body, log.size())?;
        let mut event = Builder::new(action::HOLD_PLACED, Outcome::Success)
            .actor("api_key", &by.key_id)
            .reason(&wanted.reason);
        event = wanted.case.iter().fold(event, |event, case| event.context("case_id", case));
        event = match &what {
            What::Tenant => event,
            What::Filter(_, text) => event.metadata("filter", text.as_str()),
            What::Indexes(indexes) => event.metadata("indexes", indexes_text(indexes)),
        };
        let index = self.begin_hold(&log, event, &what)?;
        // From here on it is in force, whatever becomes of its list.
        let is_short = matches!(what, What::Indexes(_)) || log.size() <= MAX_LOOKED_AT;
        let listed = if is_short { self.resolve(&log, index, &what).map(Some) } else { Ok(None) };
        let gone = listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "the members of a hold are not listed yet; until then it holds all that was there");
            None
        });
        let gone = gone.filter(|_| matches!(what, What::Indexes(_)));
        let mut view = self.hold_view(&log, index)?;
        view.gone = gone.as_ref().map(|gone| gone.len() as u64);
        view.gone_indexes = gone.unwrap_or_default().into_iter().take(MAX_GONE).collect();
        Ok(view)
    }

    /// Writes the entry of a hold, from which on it is in force.
    fn begin_hold(&self, log: &Log, event: Builder, what: &What) -> Result<u64, Error> {
        let number = log.identity.number;
        let _gate = self.hold_gate()?;
        if self.0.holds.of(number).len() >= MAX_HOLDS {
            let detail = format!("the log has {MAX_HOLDS} holds in force, its limit; nothing more is held");
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        let matcher = match what {
            What::Tenant => Some(Matcher::default()),
            What::Filter(filter, _) => Some(filter.matcher(&log.identity.index_key))
                .filter(|matcher| matcher.can_match_from(self.0.stamps.now())),
            What::Indexes(_) => None,
        };
        let placed = PlacedHold { kind: what.kind(), extends: matcher.is_some() };
        let control = Control::PlaceHold { log: number, matcher };
        let records = self.write_own(vec![own(log, event.facts(placed.to_facts()))?], vec![control])?;
        let index = records.first().map(|record| record.index).ok_or_else(|| not_a_hold(log.size()))?;
        self.0.holds.change(number, |holds| holds.push(Arc::new(Hold::new(index, placed))));
        self.0.holds.has_changed(number);
        Ok(index)
    }

    /// The holds in force.
    pub fn holds(&self, by: &Principal, tenant: &str) -> Result<Vec<HoldView>, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        self.0.holds.of(log.identity.number).iter().map(|hold| self.hold_view(&log, hold.index)).collect()
    }

    /// Asks for the release of a hold: another key with the scope must approve it.
    pub fn release_hold(&self, by: &Principal, tenant: &str, hold: &str) -> Result<ApprovalView, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        let hold = self.hold_named(&log, hold)?;
        self.ask_approval(by, &log, Act::ReleaseHold { hold: hold.index }, |event| {
            event.fact("hold", hold.index)
        })
    }

    /// Releases a hold that two keys agreed on.
    pub(super) fn release_now(&self, log: &Log, hold: u64, asked: &str, approved: &str) -> Result<(), Error> {
        let _gate = self.hold_gate()?;
        let number = log.identity.number;
        self.hold_named(log, &hold.to_string())?;
        let event = Builder::new(action::HOLD_RELEASED, Outcome::Success)
            .actor("api_key", asked)
            .metadata("approved_by", approved)
            .facts(ReleasedHold { hold }.to_facts());
        self.write_own(vec![own(log, event)?], vec![Control::ReleaseHold { log: number, hold }])?;
        self.0.holds.change(number, |holds| holds.retain(|other| other.index != hold));
        self.0.holds.has_changed(number);
        Ok(())
    }

    /// The lock under which holds and policies change, and bodies are let go of.
    fn hold_gate(&self) -> Result<parking_lot::MutexGuard<'_, ()>, Error> {
        self.0.retention.gate.try_lock_for(GATE_WAIT).ok_or_else(|| {
            let detail = "a compaction is letting bodies go, or another hold is being placed; nothing was changed, ask again";
            Error::new(ErrorCode::Busy, detail)
        })
    }

    fn hold_named(&self, log: &Log, hold: &str) -> Result<Arc<Hold>, Error> {
        let holds = self.0.holds.of(log.identity.number);
        let found = holds.iter().find(|other| other.index.to_string() == hold);
        found.cloned().ok_or_else(|| Error::new(ErrorCode::NotFound, "no hold of this id is in force"))
    }

    fn hold_view(&self, log: &Log, index: u64) -> Result<HoldView, Error> {
        let hold = self.hold_named(log, &index.to_string())?;
        let record = self.0.store.record(log, index).map_err(|error| internal(&error))?;
        let record = record.ok_or_else(|| not_a_hold(index))?;
        // One that cannot be read is in force, and shown as far as it can be.
        let body = record.record.body().and_then(Result::ok);
        let text = |path: &str| disclosed(body.as_ref()?, path);
        let filter =
            text("/metadata").and_then(|metadata| metadata.get("filter")?.as_str().map(str::to_owned));
        Ok(HoldView {
            id: index.to_string(),
            kind: hold.placed.kind.name().to_owned(),
            placed_at: Micros(record.record.recorded_at).to_string(),
            reason: text("/reason").and_then(|reason| reason.as_str().map(str::to_owned)),
            case: text("/context").and_then(|context| context.get("case_id")?.as_str().map(str::to_owned)),
            filter: filter.and_then(|filter| serde_json::from_str(&filter).ok()),
            extends: hold.placed.extends,
            resolved: !is_open(&hold),
            members: (!is_open(&hold)).then(|| hold.listed()),
            gone: None,
            gone_indexes: Vec::new(),
        })
    }
}

/// Whether its members are still to be listed.
fn is_open(hold: &Hold) -> bool {
    !hold.is_resolved()
}

fn not_a_hold(index: u64) -> Error {
    tracing::error!(index, "an entry that must say a legal hold does not");
    let detail = format!(
        "the entry at index {index} must say a legal hold and does not: nothing leaves this log. Stop the server and run \
         `varve verify` on the directory."
    );
    Error::new(ErrorCode::Internal, detail)
}
