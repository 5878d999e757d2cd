//! Acts that need two keys: one asks, another approves within a day. What waits is in memory alone: a restart forgets
//! it, and who asked asks again; that it was asked for is an entry of the log. Two keys are two persons as far as whoever
//! makes keys sees to it: a key that was made after the asking does not count.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::system::own;
pub(super) use super::view::ApprovalView;
use super::{Error, ErrorCode, Principal, Scope, Service, random_id};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};
use crate::store::log::Log;
use crate::store::state::ApiKey;

/// How long an approval waits: a day.
const WAITS_MICROS: u64 = 24 * 3_600 * 1_000_000;

/// Approvals that wait at once, 200 bytes each. A tenant has a hundredth of it, so that none takes all.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_OF_TENANT: usize = MAX_WAITING / 100;

/// What needs two keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Release of a hold.
    ReleaseHold {
        /// Its index.
        hold: u64,
    },
    /// The end of a log.
    CloseLog {
        /// Its size when whoever asked had taken it away.
        size: u64,
    },
    /// Erasure of the person that an entry names.
    Erase {
        /// That entry.
        request: u64,
    },
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Act::ReleaseHold { .. } => "hold.release",
            Act::CloseLog { .. } => "tenant.close",
            Act::Erase { .. } => "erasure",
        }
    }

    /// The entry that says it was asked for.
    fn asking(self) -> &'static str {
        match self {
            Act::ReleaseHold { .. } => action::HOLD_RELEASE_REQUESTED,
            Act::CloseLog { .. } => action::LOG_CLOSE_REQUESTED,
            Act::Erase { .. } => action::ERASURE_REQUESTED,
        }
    }

    /// What a key needs to ask for it and to approve it.
    fn scope(self) -> Scope {
        match self {
            Act::ReleaseHold { .. } => Scope::Hold,
            Act::CloseLog { .. } => Scope::Admin,
            Act::Erase { .. } => Scope::Erase,
        }
    }
}

struct Waiting {
    tenant: String,
    act: Act,
    asked_by: String,
    asked_at: u64,
    expires_at: u64,
    /// Another key approved it, and it is being done.
    is_taken: bool,
}

/// What waits, by id.
#[derive(Default)]
pub(super) struct Approvals(Mutex<HashMap<String, Waiting>>);

impl Waiting {
    fn view(&self, id: &str, state: &str, approved_by: Option<&str>) -> ApprovalView {
        ApprovalView {
            id: id.to_owned(),
            state: state.to_owned(),
            act: self.act.name().to_owned(),
            tenant: self.tenant.clone(),
            requested_by: self.asked_by.clone(),
            approved_by: approved_by.map(str::to_owned),
            expires_at: Micros(self.expires_at).to_string(),
        }
    }
}

impl Service {
    /// Keeps an act until another key approves it, and writes that it was asked for; `say` adds what it is about. One that
    /// waits already is answered as it waits.
    pub(super) fn ask_approval(
        &self,
        by: &Principal,
        log: &Log,
        act: Act,
        say: impl FnOnce(Builder) -> Builder,
    ) -> Result<ApprovalView, Error> {
        self.make_room(&log.identity.tenant)?;
        if let Some(waits) = self.waiting(log, act) {
            return Ok(waits);
        }
        let id = random_id();
        let event = Builder::new(act.asking(), Outcome::Success).actor("api_key", &by.key_id);
        self.write_own(vec![own(log, say(event).fact("approval", id.as_str()))?], Vec::new())?;
        self.wait_for_approval(by, log, act, id)
    }

    /// The same where the entry is written already, and [`Service::make_room`] was asked before that.
    pub(super) fn wait_for_approval(
        &self,
        by: &Principal,
        log: &Log,
        act: Act,
        id: String,
    ) -> Result<ApprovalView, Error> {
        let waiting = Waiting {
            tenant: log.identity.tenant.clone(),
            act,
            asked_by: by.key_id.clone(),
            asked_at: self.0.stamps.now(),
            expires_at: self.0.stamps.now() + WAITS_MICROS,
            is_taken: false,
        };
        let view = waiting.view(&id, "pending", None);
        self.0.approvals.0.lock().insert(id, waiting);
        Ok(view)
    }

    /// Whether an erasure that the entry at `index` asks for waits for a second key.
    pub(super) fn waits_for_approval(&self, log: &Log, index: u64) -> bool {
        let now = self.0.stamps.now();
        let all = self.0.approvals.0.lock();
        all.values().any(|waiting| {
            waiting.act == Act::Erase { request: index }
                && waiting.tenant == log.identity.tenant
                && (waiting.is_taken || waiting.expires_at > now)
        })
    }

    /// The same act of the same log, where it waits and nobody has approved it.
    fn waiting(&self, log: &Log, act: Act) -> Option<ApprovalView> {
        let all = self.0.approvals.0.lock();
        let same = |waiting: &Waiting| waiting.act == act && waiting.tenant == log.identity.tenant;
        let (id, waiting) = all.iter().find(|(_, waiting)| !waiting.is_taken && same(waiting))?;
        Some(waiting.view(id, "pending", None))
    }

    /// Forgets what has waited too long, and refuses where as much waits as may.
    pub(super) fn make_room(&self, tenant: &str) -> Result<(), Error> {
        let now = self.0.stamps.now();
        let mut all = self.0.approvals.0.lock();
        all.retain(|_, waiting| waiting.is_taken || waiting.expires_at > now);
        let of_tenant = all.values().filter(|waiting| waiting.tenant == tenant).count();
        if all.len() < MAX_WAITING && of_tenant < MAX_WAITING_OF_TENANT {
            return Ok(());
        }
        let detail = format!(
            "{MAX_WAITING_OF_TENANT} approvals of a tenant or {MAX_WAITING} in all wait, the limit; nothing was changed. \
             Approve some, or wait a day."
        );
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// Approves an act that another key asked for, and does it.
    ///
    /// # Errors
    /// `not_found` where nothing of this id waits that the key may see; `forbidden` where the key lacks the scope, or
    /// asked for it itself; what the act meets. It waits on then.
    pub fn approve(&self, by: &Principal, id: &str) -> Result<ApprovalView, Error> {
        let unknown = || {
            let detail = "no approval of this id waits for this key: it was given, or forgotten after a day or a restart. Ask anew.";
            Error::new(ErrorCode::NotFound, detail)
        };
        let now = self.0.stamps.now();
        let (tenant, act, asked_by, asked_at) = {
            let all = self.0.approvals.0.lock();
            let waiting = all.get(id).filter(|waiting| waiting.expires_at > now).ok_or_else(unknown)?;
            (waiting.tenant.clone(), waiting.act, waiting.asked_by.clone(), waiting.asked_at)
        };
        let is_seen = match &by.tenant {
            Some(own) => *own == tenant,
            None => by.is_operator() && act.scope() == Scope::Admin,
        };
        if !is_seen {
            return Err(unknown());
        }
        let log = self.log_for(by, &tenant, act.scope())?;
        if by.key_id == asked_by {
            let detail = "this key asked for it itself: another one must approve; nothing was changed";
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        // Who may make keys could else be two by making a second one.
        if self.0.store.api_key(&by.key_id).is_some_and(|key| key.created_at >= asked_at) {
            let detail = "this key was made after it was asked for: a key from before must approve; nothing was changed";
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        let is_over = |key: ApiKey| key.revoked_at != 0 || key.expires_at != 0 && key.expires_at <= now;
        if self.0.store.api_key(&asked_by).is_some_and(is_over) {
            self.0.approvals.0.lock().remove(id);
            return Err(unknown());
        }
        let (taken, view) = Taken::take(&self.0.approvals, id, &by.key_id).ok_or_else(unknown)?;
        let done = match act {
            Act::ReleaseHold { hold } => self.release_now(&log, hold, &asked_by, &by.key_id),
            Act::CloseLog { size } => self.close_now(&log, size, &asked_by, &by.key_id),
            Act::Erase { request } => self.erase_approved(&log, request, &by.key_id),
        };
        // A hold that was released meanwhile: there is nothing left to approve.
        if done.as_ref().err().is_none_or(|error| error.code == ErrorCode::NotFound) {
            taken.is_over();
        }
        done.map(|()| view)
    }
}

/// An approval while its act is done, so that it is done once, and seen to be on its way. It waits on when this is dropped,
/// be it by a panic.
struct Taken<'a> {
    approvals: &'a Approvals,
    id: &'a str,
}

impl<'a> Taken<'a> {
    fn take(approvals: &'a Approvals, id: &'a str, by: &str) -> Option<(Taken<'a>, ApprovalView)> {
        let mut all = approvals.0.lock();
        let waiting = all.get_mut(id).filter(|waiting| !waiting.is_taken)?;
        waiting.is_taken = true;
        Some((Taken { approvals, id }, waiting.view(id, "approved", Some(by))))
    }

    /// It is done, or there is nothing left to do.
    fn is_over(&self) {
        self.approvals.0.lock().remove(self.id);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.approvals.0.lock().get_mut(self.id) {
            waiting.is_taken = false;
        }
    }
}
