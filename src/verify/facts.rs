//! What Varve's own entries say, read out of their clear member `varve`. The names of facts stand here and
//! nowhere else in this room.

use crate::event::catalog::{Value, action};
use crate::event::{Body, Micros};
use crate::retention::{
    Certificate, ErasureCertificate, PlacedHold, Policy, RecordedPolicy, Refusal, ReleasedHold, ResolvedHold,
};
use crate::store::state::ApiKey;
use crate::tlog::hash::Hash;

/// An entry of Varve's own that a rule of verification needs.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Fact {
    /// Index 0: who the log is.
    Created(Option<Created>),
    /// From the next entry on this key signs.
    Rotated(Option<Rotation>),
    /// A log came to be.
    TenantCreated(Option<Box<RecordedLog>>),
    /// An API key came to be.
    ApiKeyCreated(Box<RecordedKey>),
    /// An API key does not hold any more.
    ApiKeyRevoked(String),
    /// Number of logs in the map, and the interval in microseconds, where it says so.
    Heartbeat { logs: Option<u64>, interval: Option<u64> },
    /// The server started.
    Started,
    /// The server stopped in order.
    Stopped,
    /// The wall clock was stepped.
    ClockAnomaly,
    /// What is kept how long from here on.
    Policy(Result<RecordedPolicy, Refusal>),
    /// The log takes no events of services any more.
    Closed,
    /// A person is to be erased.
    ErasureRequested,
    /// A second key agreed to an erasure: the entry that asked.
    ErasureApproved(Option<u64>),
    /// What was erased is in no file any more: the entry that asked.
    ErasureDone(Option<u64>),
    /// Bodies that may go.
    Certificate(Result<Certificate, Refusal>),
    /// A legal hold begins.
    HoldPlaced(Result<PlacedHold, Refusal>),
    /// Members of a hold.
    HoldResolved(Result<ResolvedHold, Refusal>),
    /// A hold ends.
    HoldReleased(Result<ReleasedHold, Refusal>),
    /// Disclosures that may go.
    Erasure(Result<ErasureCertificate, Refusal>),
}

/// What the first entry of a log says.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Created {
    pub(super) origin: String,
    pub(super) log_id: Hash,
    pub(super) nonce: [u8; 32],
    pub(super) key: [u8; 32],
    pub(super) recovery: Option<[u8; 32]>,
}

/// What the entry that changes the key says.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Rotation {
    /// Ids as eight hex digits: of the key that signed so far, and of the new one.
    pub(super) previous_key_id: String,
    pub(super) key_id: String,
    pub(super) key: [u8; 32],
}

/// What an entry says of a log that it records.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct RecordedLog {
    pub(super) tenant: String,
    pub(super) origin: String,
    pub(super) log_id: Hash,
    pub(super) key: [u8; 32],
}

/// What an entry says of an API key. `None` where it does not say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct RecordedKey {
    pub(super) id: Option<String>,
    pub(super) secret_digest: Option<[u8; 32]>,
    pub(super) scopes: Option<u64>,
    pub(super) tenant: Option<String>,
    /// Microseconds; 0 where it says nothing.
    pub(super) expires_at: u64,
}

/// Reads what a checked body of Varve's own says; `None` when no rule needs it.
pub(super) fn read(body: &Body, name: &str) -> Option<Fact> {
    let facts = || body.facts().unwrap_or(Value::Null);
    Some(match name {
        action::LOG_CREATED => Fact::Created(created(&facts())),
        action::KEY_ROTATED => Fact::Rotated(rotation(&facts())),
        action::TENANT_CREATED => Fact::TenantCreated(recorded_log(&facts()).map(Box::new)),
        action::API_KEY_CREATED => Fact::ApiKeyCreated(Box::new(recorded_key(&facts()))),
        action::API_KEY_REVOKED => Fact::ApiKeyRevoked(text(&facts(), "id").unwrap_or_default()),
        action::LOG_HEARTBEAT => {
            let facts = facts();
            let seconds =
                number(&facts, "interval_seconds").and_then(|seconds| seconds.checked_mul(1_000_000));
            Fact::Heartbeat { logs: number(&facts, "logs"), interval: seconds }
        }
        action::SERVICE_STARTED => Fact::Started,
        action::SERVICE_STOPPED => Fact::Stopped,
        action::CLOCK_ANOMALY => Fact::ClockAnomaly,
        action::RETENTION_POLICY_CHANGED => Fact::Policy(Policy::from_facts(&facts())),
        action::LOG_CLOSED => Fact::Closed,
        action::ERASURE_REQUESTED => Fact::ErasureRequested,
        action::ERASURE_APPROVED => Fact::ErasureApproved(number(&facts(), "request")),
        action::ERASURE_DONE => Fact::ErasureDone(number(&facts(), "request")),
        action::RETENTION_EXPIRED => Fact::Certificate(Certificate::from_facts(&facts())),
        action::HOLD_PLACED => Fact::HoldPlaced(PlacedHold::from_facts(&facts())),
        action::HOLD_RESOLVED => Fact::HoldResolved(ResolvedHold::from_facts(&facts())),
        action::HOLD_RELEASED => Fact::HoldReleased(ReleasedHold::from_facts(&facts())),
        action::ERASURE_COMPLETED => Fact::Erasure(ErasureCertificate::from_facts(&facts())),
        _ => return None,
    })
}

/// Whether an entry records the key as the store has it.
pub(super) fn records(entry: &RecordedKey, key: &ApiKey) -> bool {
    entry.id.as_deref() == Some(&key.id)
        && entry.secret_digest == Some(key.secret_digest)
        && entry.scopes == Some(u64::from(key.scopes))
        && entry.tenant == key.tenant
        && entry.expires_at == key.expires_at
}

fn created(facts: &Value) -> Option<Created> {
    Some(Created {
        origin: text(facts, "origin")?,
        log_id: Hash(bytes(facts, "log_id")?),
        nonce: bytes(facts, "nonce")?,
        key: bytes(facts, "public_key")?,
        // One that is there is a key: 32 zero bytes stand in the log id where there is none.
        recovery: match facts.get("recovery_key") {
            None => None,
            Some(key) => Some(key.as_bytes().filter(|key| *key != [0; 32])?),
        },
    })
}

fn rotation(facts: &Value) -> Option<Rotation> {
    Some(Rotation {
        previous_key_id: text(facts, "previous_key_id")?,
        key_id: text(facts, "key_id")?,
        key: bytes(facts, "public_key")?,
    })
}

fn recorded_log(facts: &Value) -> Option<RecordedLog> {
    Some(RecordedLog {
        tenant: text(facts, "tenant")?,
        origin: text(facts, "origin")?,
        log_id: Hash(bytes(facts, "log_id")?),
        key: bytes(facts, "public_key")?,
    })
}

fn recorded_key(facts: &Value) -> RecordedKey {
    RecordedKey {
        id: text(facts, "id"),
        secret_digest: bytes(facts, "secret_digest"),
        scopes: number(facts, "scope_bits"),
        tenant: text(facts, "tenant"),
        expires_at: text(facts, "expires_at").and_then(|text| Micros::parse(&text).ok()).map_or(0, |at| at.0),
    }
}

fn text(facts: &Value, name: &str) -> Option<String> {
    facts.get(name)?.as_text().map(str::to_owned)
}

fn number(facts: &Value, name: &str) -> Option<u64> {
    facts.get(name)?.as_number()
}

fn bytes(facts: &Value, name: &str) -> Option<[u8; 32]> {
    facts.get(name)?.as_bytes()
}
