//! API keys: made and revoked only together with an entry of the instance's own log, so that none can be
//! minted unseen.

use super::refused::{MALFORMED, RefusedUse, UNKNOWN};
use super::system::own;
use super::view::{KeyInfo, NewKey};
use super::{Error, ErrorCode, Principal, Scope, Scopes, Service, random};
use crate::access::Token;
use crate::event::catalog::{Builder, Value, action};
use crate::event::{Micros, Outcome};
use crate::ingest::queue::Control;
use crate::store::state::{ApiKey, MAX_API_KEYS};

/// Longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 128;

impl Service {
    /// Who a bearer token belongs to. A refusal of a known key becomes an entry; one of an unknown key is counted.
    pub fn authenticate(&self, token: &str) -> Result<Principal, Error> {
        let unknown = |detail: &str| Error::new(ErrorCode::Unauthenticated, detail);
        let token = Token::parse(token).map_err(|error| {
            self.0.telemetry.keys().refused(MALFORMED);
            unknown(&error.to_string())
        })?;
        // One answer for an unknown id and a wrong secret.
        let not_known = || unknown("this key is not known here");
        let Some(key) = self.0.store.api_key(token.id()) else {
            self.0.telemetry.keys().refused(UNKNOWN);
            return Err(not_known());
        };
        if !token.matches(&key.secret_digest) {
            self.refused_use(&key.id, RefusedUse::WrongSecret);
            return Err(not_known());
        }
        if key.revoked_at != 0 {
            self.refused_use(&key.id, RefusedUse::Revoked);
            return Err(unknown("this key was revoked"));
        }
        if key.expires_at != 0 && key.expires_at <= self.0.stamps.now() {
            self.refused_use(&key.id, RefusedUse::Expired);
            return Err(unknown("this key has expired"));
        }
        Ok(Principal { key_id: key.id, tenant: key.tenant, scopes: Scopes::from_bits(key.scopes) })
    }

    /// Makes a key of a tenant. It works when this returns, and its entry is durable.
    pub fn create_key(
        &self,
        by: &Principal,
        tenant: &str,
        name: &str,
        scopes: &[String],
        expires_at: Option<&str>,
    ) -> Result<NewKey, Error> {
        self.log_for(by, tenant, Scope::Admin)?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let detail =
                format!("`name` has 1 to {MAX_NAME_BYTES} bytes and no control characters; no key was made");
            return Err(Error::new(ErrorCode::BadRequest, detail).at("/name"));
        }
        let mut set = Scopes::default();
        for (position, scope) in scopes.iter().enumerate() {
            let scope = Scope::named(scope).filter(|scope| *scope != Scope::Operator);
            let scope = scope.ok_or_else(|| {
                let names: Vec<&str> = Scope::ALL
                    .iter()
                    .filter(|scope| **scope != Scope::Operator)
                    .map(|scope| scope.name())
                    .collect();
                Error::new(
                    ErrorCode::BadRequest,
                    format!("not a scope; no key was made. Scopes are {}", names.join(" ")),
                )
                .at(format!("/scopes/{position}"))
            })?;
            set = set.with(scope);
        }
        if set == Scopes::default() {
            return Err(Error::new(ErrorCode::BadRequest, "a key needs at least one scope; no key was made")
                .at("/scopes"));
        }
        let expires_at = match expires_at {
            None => 0,
            Some(text) => {
                Micros::parse(text).ok().filter(|at| at.0 > self.0.stamps.now()).map(|at| at.0).ok_or_else(
                    || {
                        Error::new(
                            ErrorCode::BadRequest,
                            "`expires_at` is an RFC 3339 time in the future; no key was made",
                        )
                        .at("/expires_at")
                    },
                )?
            }
        };
        self.make_key(Some(tenant), name, set, expires_at, Some(&by.key_id))
    }

    /// The keys of a tenant, revoked ones included.
    pub fn list_keys(&self, by: &Principal, tenant: &str) -> Result<Vec<KeyInfo>, Error> {
        self.log_for(by, tenant, Scope::Admin)?;
        let keys = self.0.store.api_keys();
        Ok(keys.iter().filter(|key| key.tenant.as_deref() == Some(tenant)).map(key_info).collect())
    }

    /// Revokes a key: it is refused from the moment this returns. Revoking it again changes nothing.
    pub fn revoke_key(&self, by: &Principal, tenant: &str, id: &str) -> Result<(), Error> {
        self.log_for(by, tenant, Scope::Admin)?;
        let key = self.0.store.api_key(id).filter(|key| key.tenant.as_deref() == Some(tenant));
        let key =
            key.ok_or_else(|| Error::new(ErrorCode::NotFound, "this tenant has no key with that id"))?;
        if key.revoked_at != 0 {
            return Ok(());
        }
        self.revoke(key, Some(&by.key_id))
    }

    pub(super) fn make_key(
        &self,
        tenant: Option<&str>,
        name: &str,
        scopes: Scopes,
        expires_at: u64,
        by: Option<&str>,
    ) -> Result<NewKey, Error> {
        if self.0.store.api_keys().len() >= MAX_API_KEYS {
            return Err(Error::new(
                ErrorCode::Forbidden,
                format!("the instance has {MAX_API_KEYS} keys, its limit; no key was made"),
            ));
        }
        let token = Token::generate(&mut random);
        let scope_names: Vec<Value> = scopes.names().into_iter().map(Value::Text).collect();
        let mut event = Builder::new(action::API_KEY_CREATED, Outcome::Success)
            .fact("id", token.id())
            .fact("secret_digest", Value::bytes(&token.digest()))
            .fact("scopes", scope_names)
            .fact("scope_bits", u64::from(scopes.bits()))
            .metadata("name", name);
        if let Some(tenant) = tenant {
            event = event.fact("tenant", tenant);
        }
        if expires_at != 0 {
            event = event.fact("expires_at", Micros(expires_at));
        }
        if let Some(by) = by {
            event = event.actor("api_key", by);
        }
        let key = ApiKey {
            id: token.id().to_owned(),
            tenant: tenant.map(str::to_owned),
            name: name.to_owned(),
            scopes: scopes.bits(),
            secret_digest: token.digest(),
            created_at: self.0.stamps.now(),
            expires_at,
            revoked_at: 0,
            entry_index: u64::MAX,
        };
        let system = self.system_log()?;
        self.write_own(vec![own(&system, event)?], vec![Control::ApiKey(key)])?;
        Ok(NewKey { id: token.id().to_owned(), key: token.to_text().to_string(), scopes: scopes.names() })
    }

    pub(super) fn revoke(&self, mut key: ApiKey, by: Option<&str>) -> Result<(), Error> {
        let mut event = Builder::new(action::API_KEY_REVOKED, Outcome::Success).fact("id", key.id.as_str());
        if let Some(tenant) = &key.tenant {
            event = event.fact("tenant", tenant.as_str());
        }
        if let Some(by) = by {
            event = event.actor("api_key", by);
        }
        key.revoked_at = self.0.stamps.now();
        let system = self.system_log()?;
        self.write_own(vec![own(&system, event)?], vec![Control::ApiKey(key)]).map(drop)
    }
}

fn key_info(key: &ApiKey) -> KeyInfo {
    let time = |at: u64| (at != 0).then(|| Micros(at).to_string());
    KeyInfo {
        id: key.id.clone(),
        name: key.name.clone(),
        scopes: Scopes::from_bits(key.scopes).names(),
        created_at: Micros(key.created_at).to_string(),
        expires_at: time(key.expires_at),
        revoked_at: time(key.revoked_at),
    }
}
