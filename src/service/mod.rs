//! What both doors (HTTP and command line) share: one object that owns an open store.
//!
//! Reading order: `open` (init, open, stop), `tenants` and `keys` (who there is), `admit`, `append`, `read`, `system`
//! (what Varve writes of itself), `refused` (keys that were turned away), `verifications` (a log read through, as a job),
//! `retention` (policies), `compactions` (what is due leaves), `holds` (what stays all the same), `erasures` (a person
//! leaves), `approvals` (acts of two keys), `rewriting` (one layer goes over to its next generation), `forget` (what must
//! be over before a body is gone for good), `checkpoints` (what was signed), `observe` (metrics, readiness), `view` (what
//! callers see).

pub mod checkpoints;

mod admit;
mod append;
mod approvals;
mod compactions;
mod erasures;
mod error;
mod forget;
mod holds;
mod housekeeper;
mod keys;
mod observe;
mod open;
mod read;
mod refused;
mod retention;
mod rewriting;
mod system;
mod tenants;
mod verifications;
mod view;
#[cfg(test)]
mod world;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use checkpoints::SignedCheckpoints;
use refused::RefusedUse;

pub use crate::access::{Scope, Scopes};
pub use admit::Submitted;
pub use append::BatchMode;
pub use compactions::{
    BYTES_PER_SECOND, CompactionPlan, CompactionView, CompactionsView, ConfirmClock, LayerPlan, LeavingView,
    StayingView,
};
pub use erasures::{Asked, BACKUP_DAYS, MAX_ERASURE_BYTES};
pub use error::{Error, ErrorCode};
pub use holds::MAX_HOLD_BYTES;
pub use observe::STALL_LIMIT;
pub use open::{Initialised, OpenOptions};
pub use retention::FLOOR_MONTHS;
pub use view::{
    ApprovalView, Committed, DisclosureView, ErasureView, FindingView, HoldView, KeyInfo, NewKey, QueryPage,
    Receipt, RecordView, RetentionView, TenantInfo, VerificationView,
};

use crate::event::Tenant;
use crate::ingest::Pipeline;
use crate::ingest::clock::Stamps;
use crate::process::lock::DirLock;
use crate::process::space::FreeSpace;
use crate::store::keyfile::{KeyFile, LogSigner};
use crate::store::log::Log;
use crate::store::read::Store;
use crate::telemetry::Telemetry;
use crate::telemetry::disk::Measure;

/// An open store. Cheap to clone; `stop` ends it for all clones.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// Locks that are held over I/O are taken in this order: what an erasure has certified (`erasures`); one of `rewriting`
/// (`compactions`), `listing` (`holds`), or `forgetting` and then `sealing`; the gate (`retention`), under which policies
/// and holds change and things are let go of. All others are held for a moment, and nothing is waited for under them.
struct Inner {
    store: Arc<Store>,
    pipeline: Pipeline,
    stamps: Arc<Stamps>,
    signers: RwLock<HashMap<[u8; 32], Arc<LogSigner>>>,
    key_file: KeyFile,
    signed: SignedCheckpoints,
    /// The last checkpoint note made of each log, so that reading a quiet log signs nothing.
    notes: Mutex<HashMap<u32, read::CachedNote>>,
    space: FreeSpace,
    /// How long one query may work.
    query_time: Duration,
    measure: Measure,
    telemetry: Telemetry,
    /// Refused uses of keys that are in no entry yet.
    refused: refused::RefusedUses,
    /// Set once, when a stop in order begins.
    stopping: AtomicBool,
    /// Creating logs is rare and must not race over a name or a number.
    creating: Mutex<()>,
    housekeeper: Mutex<Option<housekeeper::Housekeeper>>,
    verifications: verifications::Verifications,
    /// Layers are sealed by one at a time.
    sealing: Mutex<()>,
    retention: retention::Retention,
    compactions: compactions::Compactions,
    holds: holds::Holds,
    approvals: approvals::Approvals,
    erasures: erasures::Erasures,
    /// Seconds between heartbeats; 0 is none.
    heartbeat_seconds: u64,
    /// Layers are closed early and the journal is wiped by one at a time.
    forgetting: Mutex<()>,
    /// Given up at stop, so that another process may open the directory while this object still exists.
    lock: Mutex<Option<DirLock>>,
}

/// Who asks: an authenticated API key.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Public id of the key.
    pub key_id: String,
    /// The tenant it belongs to; `None` is the operator.
    pub tenant: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
}

impl Principal {
    /// Whether the key belongs to the operator.
    pub fn is_operator(&self) -> bool {
        self.tenant.is_none() && self.scopes.has(Scope::Operator)
    }

    /// Whether the key may append to every tenant: one of Varve's own log with the scope `ingest`, which the
    /// operator made for a gateway. It reads nothing by that.
    pub fn is_gateway(&self) -> bool {
        self.tenant.as_deref() == Some(Tenant::SYSTEM) && self.scopes.has(Scope::Ingest)
    }
}

impl Service {
    /// The log that `by` names, if the key may do `scope` there. A foreign tenant and a missing one are the same
    /// error.
    fn log_for(&self, by: &Principal, tenant: &str, scope: Scope) -> Result<Arc<Log>, Error> {
        let own = match &by.tenant {
            Some(own) => own == tenant || by.is_gateway() && scope == Scope::Ingest,
            // The operator reads the instance's own log, never a tenant's events.
            None => {
                by.is_operator()
                    && (tenant == Tenant::SYSTEM || scope == Scope::Admin || scope == Scope::Operator)
            }
        };
        if !own {
            let reason = if by.tenant.is_some() { RefusedUse::OtherTenant } else { RefusedUse::Scope };
            self.refused_use(&by.key_id, reason);
            return Err(no_such_tenant());
        }
        let log = self.0.store.log_of(tenant).ok_or_else(no_such_tenant)?;
        if scope == Scope::Ingest && tenant == Tenant::SYSTEM {
            self.refused_use(&by.key_id, RefusedUse::Scope);
            return Err(Error::new(
                ErrorCode::Forbidden,
                "Varve alone writes its own log; nothing was stored. Name a tenant.",
            ));
        }
        let allowed = match &by.tenant {
            Some(_) => by.scopes.has(scope),
            None => scope != Scope::Ingest,
        };
        if allowed {
            return Ok(log);
        }
        self.refused_use(&by.key_id, RefusedUse::Scope);
        Err(Error::new(
            ErrorCode::Forbidden,
            format!("this key lacks the scope `{}`; nothing was done. Use a key that has it.", scope.name()),
        ))
    }
}

/// The answer for a tenant that does not exist and for one of somebody else: the same bytes.
pub(crate) fn no_such_tenant() -> Error {
    Error::new(ErrorCode::NotFound, "no such tenant, or the key belongs to another one")
}

/// Fresh random bytes for keys and nonces, from the operating system.
///
/// Panics when the system has no randomness to give: nothing can be made safely then.
#[expect(clippy::disallowed_methods, reason = "the one place where keys and nonces are drawn")]
fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}

/// A name that nobody guesses, for a job or an approval.
fn random_id() -> String {
    let mut id = [0; 8];
    random(&mut id);
    format!("{:016x}", u64::from_be_bytes(id))
}
