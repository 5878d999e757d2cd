//! Tenants: one log each, made with its genesis entry and an entry in the instance's own log, in one frame.

use std::sync::Arc;

use super::approvals::Act;
use super::system::{genesis, own};
use super::view::{ApprovalView, TenantInfo, base64url};
use super::{Error, ErrorCode, Principal, Scope, Service, no_such_tenant, random};
use crate::event::catalog::{Builder, Value, action};
use crate::event::{Outcome, Tenant};
use crate::ingest::queue::Control;
use crate::store::log::Log;
use crate::store::read::origin_of;
use crate::store::state::{Head, LogIdentity, MAX_LOGS};
use crate::tlog::chain::log_id;
use crate::tlog::key::VerifyingKey;

impl Service {
    /// Makes a tenant. Durable when it returns, together with its first entry.
    pub fn create_tenant(&self, by: &Principal, tenant: &str) -> Result<TenantInfo, Error> {
        if !by.is_operator() {
            return Err(Error::new(
                ErrorCode::Forbidden,
                "only the operator key makes tenants; nothing was done",
            ));
        }
        let tenant = Tenant::parse(tenant)
            .map_err(|bad| Error::new(ErrorCode::BadRequest, bad.to_string()).at("/tenant"))?;
        self.refuse_when_full()?;
        let log = self.create_log(tenant.as_str(), None, Some(&by.key_id))?;
        Ok(self.info(&log))
    }

    /// All tenants that the key may see, by name.
    pub fn list_tenants(&self, by: &Principal) -> Result<Vec<TenantInfo>, Error> {
        if !by.is_operator() {
            return Err(Error::new(ErrorCode::Forbidden, "only the operator key lists tenants"));
        }
        let mut infos: Vec<TenantInfo> = self.0.store.logs().iter().map(|log| self.info(log)).collect();
        infos.sort_by(|one, other| one.tenant.cmp(&other.tenant));
        Ok(infos)
    }

    /// Whether there is a tenant of that name.
    pub(crate) fn has_tenant(&self, tenant: &str) -> bool {
        self.0.store.log_of(tenant).is_some()
    }

    /// One tenant. Any key of it may ask, whatever its scopes.
    pub fn tenant(&self, by: &Principal, tenant: &str) -> Result<TenantInfo, Error> {
        let allowed = by.is_operator() || by.tenant.as_deref() == Some(tenant);
        let log = self.0.store.log_of(tenant).filter(|_| allowed).ok_or_else(no_such_tenant)?;
        Ok(self.info(&log))
    }

    /// Makes a log: signing key first (durable in the key file), then one frame with the log, its genesis entry
    /// and the entry in `_system`. A crash between leaves a key that nothing uses.
    pub(super) fn create_log(
        &self,
        tenant: &str,
        recovery: Option<&[u8; 32]>,
        by: Option<&str>,
    ) -> Result<Arc<Log>, Error> {
        let store = &self.0.store;
        let _creating = self.0.creating.lock();
        if store.log_of(tenant).is_some() {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                "a tenant of that name exists; it is unchanged",
            )
            .at("/tenant"));
        }
        if store.log_count() >= MAX_LOGS {
            return Err(Error::new(
                ErrorCode::Forbidden,
                format!("the instance has {MAX_LOGS} tenants, its limit; nothing was done"),
            ));
        }
        let origin = format!("{}/{tenant}", store.instance);
        let mut signers = self
            .0
            .key_file
            .add(&[&origin], &mut random)
            .map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?;
        let signer = Arc::new(signers.remove(0));
        let mut nonce = [0; 32];
        random(&mut nonce);
        let mut index_key = [0; 32];
        random(&mut index_key);
        let identity = LogIdentity {
            number: store.logs().last().map_or(0, |log| log.identity.number + 1),
            tenant: tenant.to_owned(),
            origin: String::new(),
            log_id: log_id(&origin, &nonce, &signer.public(), recovery),
            index_key,
            genesis_key: signer.public(),
        };
        let log = Log::new(identity.clone(), Head::empty(signer.public()));
        let mut items = vec![own(&log, genesis(&store.instance, &identity, &nonce, recovery))?];
        if tenant != "_system" {
            let system = self.system_log()?;
            let mut created = Builder::new(action::TENANT_CREATED, Outcome::Success)
                .fact("tenant", tenant)
                .fact("origin", origin.as_str())
                .fact("log_id", Value::bytes(identity.log_id.as_bytes()))
                .fact("public_key", Value::bytes(&identity.genesis_key));
            if let Some(by) = by {
                created = created.actor("api_key", by);
            }
            items.push(own(&system, created)?);
        }
        self.0.signers.write().insert(signer.public(), signer.clone());
        self.write_own(items, vec![Control::CreateLog { identity, signer }])?;
        store
            .log_of(tenant)
            .ok_or_else(|| Error::new(ErrorCode::Internal, "the log was written but is not there"))
    }

    pub(super) fn info(&self, log: &Log) -> TenantInfo {
        let head = log.head();
        let origin = origin_of(&self.0.store.instance, &log.identity);
        let public_key = VerifyingKey::from_bytes(&head.key).map(|key| key.vkey(&origin)).unwrap_or_default();
        TenantInfo {
            tenant: log.identity.tenant.clone(),
            origin,
            public_key,
            size: head.size,
            link: (head.size > 0).then(|| base64url(head.link.as_bytes())),
            root: base64url(head.frontier.root().as_bytes()),
            minimum_index: 0,
            closed: head.closed.is_some(),
            layers: head.layers.len() as u64,
            bytes: None,
        }
    }

    /// Goes over to a new signing key: the old key signs the entry that introduces the new one.
    pub(super) fn rotate_key(&self, tenant: &str) -> Result<String, Error> {
        let log = self.0.store.log_of(tenant).ok_or_else(no_such_tenant)?;
        let origin = origin_of(&self.0.store.instance, &log.identity);
        let internal = |error: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, error.to_string());
        let mut signers = self.0.key_file.add(&[&origin], &mut random).map_err(|error| internal(&error))?;
        let signer = Arc::new(signers.remove(0));
        let key = VerifyingKey::from_bytes(&signer.public()).map_err(|error| internal(&error))?;
        let old = VerifyingKey::from_bytes(&log.head().key).map_err(|error| internal(&error))?;
        let event = Builder::new(action::KEY_ROTATED, Outcome::Success)
            .fact("previous_key_id", old.key_id(&origin).to_string())
            .fact("key_id", key.key_id(&origin).to_string())
            .fact("public_key", Value::bytes(&signer.public()));
        self.0.signers.write().insert(signer.public(), signer.clone());
        let rotate = Control::RotateKey { log: log.identity.number, signer };
        self.write_own(vec![own(&log, event)?], vec![rotate])?;
        Ok(key.vkey(&origin))
    }

    /// Asks for the end of a tenant's log: no event is taken after it, and what is there stays for as long as its policy
    /// says. `size` is that of the log when it was taken away; another key must approve it.
    pub fn close_tenant(&self, by: &Principal, tenant: &str, size: u64) -> Result<ApprovalView, Error> {
        let log = self.log_for(by, tenant, Scope::Admin)?;
        if tenant == Tenant::SYSTEM {
            let detail = "Varve's own log is never closed; nothing was changed. Name a tenant.";
            return Err(Error::new(ErrorCode::BadRequest, detail));
        }
        demand_open(&log)?;
        demand_taken(&log, size)?;
        self.ask_approval(by, &log, Act::CloseLog { size: size + 1 }, |event| event.fact("size", size))
    }

    /// Closes a log that two keys agreed on.
    pub(super) fn close_now(&self, log: &Log, size: u64, asked: &str, approved: &str) -> Result<(), Error> {
        demand_open(log)?;
        demand_taken(log, size)?;
        let event = Builder::new(action::LOG_CLOSED, Outcome::Success)
            .fact("size", size)
            .actor("api_key", asked)
            .metadata("approved_by", approved);
        // Looked at once more where indexes are given out: what was queued before it is in the log, or this is refused.
        let close = Control::CloseLog { log: log.identity.number, size };
        self.write_own(vec![own(log, event)?], vec![close]).map(drop).map_err(|error| {
            demand_taken(log, size).err().filter(|_| error.code == ErrorCode::Internal).unwrap_or(error)
        })
    }

    /// The scope check of a request that needs no log.
    pub fn require(&self, by: &Principal, tenant: &str, scope: Scope) -> Result<(), Error> {
        self.log_for(by, tenant, scope).map(drop)
    }
}

/// Refuses what a closed log does not take.
pub(super) fn demand_open(log: &Log) -> Result<(), Error> {
    if log.is_closed() {
        let detail = "the tenant's log is closed: it takes no events, and can be read; nothing was changed";
        return Err(Error::new(ErrorCode::Gone, detail));
    }
    Ok(())
}

/// A log is closed by who has all of it.
fn demand_taken(log: &Log, size: u64) -> Result<(), Error> {
    let now = log.size();
    if size == now {
        return Ok(());
    }
    let detail = format!(
        "the log has {now} entries, not {size}: somebody still writes, or it was not taken away whole. Nothing was changed; \
         stop the writers, take the rest, ask again with the size."
    );
    Err(Error::new(ErrorCode::BadRequest, detail).at("/size"))
}
