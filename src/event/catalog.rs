//! Events that Varve writes itself, and the retention classes.
//!
//! An own event has an `action` under `varve.` and may have the clear member `varve`: facts that
//! verification needs (keys, origins, sizes, indexes), which therefore can neither be withheld nor erased
//! and must not identify a person. Who, why and what was asked stand in `actor`, `reason`, `targets` and
//! `metadata`, sealed as in any event.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::canonical::{Reader, write_string};
use super::invalid::{Fault, InvalidEvent};

use super::{Event, Micros, Outcome};

/// Actions of own events. First those of class permanent, whose absent body is always a finding.
pub mod action {
    /// Index 0 of a log: origin, nonce, keys.
    pub const LOG_CREATED: &str = "varve.log.created";
    /// The log takes no more entries.
    pub const LOG_CLOSED: &str = "varve.log.closed";
    /// The log had to begin again under another origin.
    pub const LOG_CONTINUED: &str = "varve.log.continued";
    /// A new signing key, announced by the old one.
    pub const KEY_ROTATED: &str = "varve.key.rotated";
    /// A signing key that must not be believed from some index on.
    pub const KEY_COMPROMISED: &str = "varve.key.compromised";
    /// Retention of a class was set.
    pub const RETENTION_POLICY_CHANGED: &str = "varve.retention.policy_changed";
    /// Bodies that left by retention.
    pub const RETENTION_EXPIRED: &str = "varve.retention.expired";
    /// A legal hold began.
    pub const HOLD_PLACED: &str = "varve.hold.placed";
    /// What a legal hold holds of what was there.
    pub const HOLD_RESOLVED: &str = "varve.hold.resolved";
    /// A legal hold ended.
    pub const HOLD_RELEASED: &str = "varve.hold.released";
    /// Disclosures that left by erasure.
    pub const ERASURE_COMPLETED: &str = "varve.erasure.completed";
    /// The data directory is older than what was published from it.
    pub const RESTORE_DETECTED: &str = "varve.restore.detected";
    /// The clock jumped.
    pub const CLOCK_ANOMALY: &str = "varve.clock.anomaly";

    /// The server started.
    pub const SERVICE_STARTED: &str = "varve.service.started";
    /// The server stopped in order.
    pub const SERVICE_STOPPED: &str = "varve.service.stopped";
    /// The server runs without some part.
    pub const SERVICE_DEGRADED: &str = "varve.service.degraded";
    /// Nothing else to say: size and root of all logs.
    pub const LOG_HEARTBEAT: &str = "varve.log.heartbeat";
    /// Events were read.
    pub const ACCESS_READ: &str = "varve.access.read";
    /// Events were taken away.
    pub const ACCESS_EXPORTED: &str = "varve.access.exported";
    /// Support access was asked for.
    pub const GRANT_REQUESTED: &str = "varve.grant.requested";
    /// Support access was given.
    pub const GRANT_APPROVED: &str = "varve.grant.approved";
    /// Support access was used.
    pub const GRANT_USED: &str = "varve.grant.used";
    /// Support access ended.
    pub const GRANT_EXPIRED: &str = "varve.grant.expired";
    /// The end of a legal hold was asked for.
    pub const HOLD_RELEASE_REQUESTED: &str = "varve.hold.release_requested";
    /// The end of a log was asked for.
    pub const LOG_CLOSE_REQUESTED: &str = "varve.log.close_requested";
    /// Erasure of a person was asked for.
    pub const ERASURE_REQUESTED: &str = "varve.erasure.requested";
    /// Another key agreed to an erasure.
    pub const ERASURE_APPROVED: &str = "varve.erasure.approved";
    /// Nothing of an erasure is in the data directory any more.
    pub const ERASURE_DONE: &str = "varve.erasure.done";
    /// A tenant was created.
    pub const TENANT_CREATED: &str = "varve.tenant.created";
    /// An API key was created.
    pub const API_KEY_CREATED: &str = "varve.api_key.created";
    /// An API key was revoked.
    pub const API_KEY_REVOKED: &str = "varve.api_key.revoked";
    /// Uses of an API key that were refused, gathered over a time.
    pub const API_KEY_REFUSED: &str = "varve.api_key.refused";
    /// The operator key was replaced.
    pub const OPERATOR_KEY_RESET: &str = "varve.operator_key.reset";

    /// Own actions of class permanent.
    pub const PERMANENT: [&str; 13] = [
        LOG_CREATED,
        LOG_CLOSED,
        LOG_CONTINUED,
        KEY_ROTATED,
        KEY_COMPROMISED,
        RETENTION_POLICY_CHANGED,
        RETENTION_EXPIRED,
        HOLD_PLACED,
        HOLD_RESOLVED,
        HOLD_RELEASED,
        ERASURE_COMPLETED,
        RESTORE_DETECTED,
        CLOCK_ANOMALY,
    ];

    /// Own actions of class security.
    pub const SECURITY: [&str; 20] = [
        SERVICE_STARTED,
        SERVICE_STOPPED,
        SERVICE_DEGRADED,
        LOG_HEARTBEAT,
        ACCESS_READ,
        ACCESS_EXPORTED,
        GRANT_REQUESTED,
        GRANT_APPROVED,
        GRANT_USED,
        GRANT_EXPIRED,
        HOLD_RELEASE_REQUESTED,
        LOG_CLOSE_REQUESTED,
        ERASURE_REQUESTED,
        ERASURE_APPROVED,
        ERASURE_DONE,
        TENANT_CREATED,
        API_KEY_CREATED,
        API_KEY_REVOKED,
        API_KEY_REFUSED,
        OPERATOR_KEY_RESET,
    ];
}

/// A retention class that every log has. Codes from 256 on are the tenant's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Class {
    /// Never expires; Varve's own.
    Permanent = 0,
    /// The default.
    Security = 1,
    /// Processing logs: kept exactly as long as asked, then erased.
    Processing = 2,
    /// Requests of persons about their data.
    PrivacyRequest = 3,
    /// Evidence with a long life.
    LongEvidence = 4,
}

/// The first code of a tenant's own classes.
pub const FIRST_OWN_CLASS_CODE: u16 = 256;

impl Class {
    /// All built-in classes.
    pub const ALL: [Class; 5] =
        [Class::Permanent, Class::Security, Class::Processing, Class::PrivacyRequest, Class::LongEvidence];

    /// The name, as it stands in events.
    pub fn name(self) -> &'static str {
        match self {
            Class::Permanent => "permanent",
            Class::Security => "security",
            Class::Processing => "processing",
            Class::PrivacyRequest => "privacy-request",
            Class::LongEvidence => "long-evidence",
        }
    }

    /// The code, as it stands in entries.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The class with a name.
    pub fn named(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The class with a code.
    pub fn from_code(code: u16) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.code() == code)
    }
}

/// Whether events with this action are Varve's own.
pub fn is_own(action: &str) -> bool {
    action.starts_with("varve.")
}

/// The class of an own action; `None` for an action that the catalogue does not hold.
pub fn class_of(action: &str) -> Option<Class> {
    if action::PERMANENT.contains(&action) {
        Some(Class::Permanent)
    } else if action::SECURITY.contains(&action) {
        Some(Class::Security)
    } else {
        None
    }
}

/// A JSON value of an own event. Numbers are unsigned integers: the facts are sizes, indexes and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// At most 2^53 − 1.
    Number(u64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object. Names must differ.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Bytes as text: base64url without padding.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::Text(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The member `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.iter().find(|(found, _)| found == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The string.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// The number.
    pub fn as_number(&self) -> Option<u64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    /// The elements of an array.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(values) = self { Some(values) } else { None }
    }

    /// Exactly `N` bytes that [`Value::bytes`] wrote.
    pub fn as_bytes<const N: usize>(&self) -> Option<[u8; N]> {
        URL_SAFE_NO_PAD.decode(self.as_text()?).ok()?.try_into().ok()
    }

    /// The value as JSON text, members in their order: canonical if they ascend.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Reads canonical JSON; `None` if it is not, or holds a number that is not an unsigned integer.
    pub(crate) fn read(bytes: &[u8]) -> Option<Value> {
        let mut reader = Reader::new(bytes).ok()?;
        let value = read(&mut reader, 1).ok()??;
        reader.finish().ok()?;
        Some(value)
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(text) => write_string(out, text),
            Value::List(values) => {
                separated(out, *b"[]", values, |value, out| value.write(out));
            }
            Value::Object(members) => write_object(out, members),
        }
    }
}

/// A value, or `None` where a number does not fit.
fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Option<Value>, Fault> {
    Ok(Some(match reader.peek() {
        b'"' => Value::Text(reader.string()?.decode_text()),
        b'{' => {
            let mut members = Some(Vec::new());
            reader.object(depth, |reader, name| {
                let value = read(reader, depth + 1)?;
                push(&mut members, value.map(|value| (name.decode_text(), value)));
                Ok(())
            })?;
            let Some(members) = members else { return Ok(None) };
            Value::Object(members)
        }
        b'[' => {
            let mut values = Some(Vec::new());
            reader.array(depth, |reader, _| {
                let value = read(reader, depth + 1)?;
                push(&mut values, value);
                Ok(())
            })?;
            let Some(values) = values else { return Ok(None) };
            Value::List(values)
        }
        b'-' | b'0'..=b'9' => {
            let text = reader.number()?;
            let Some(number) = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) else {
                return Ok(None);
            };
            Value::Number(number)
        }
        _ if reader.take(b"true") => Value::Bool(true),
        _ if reader.take(b"false") => Value::Bool(false),
        _ if reader.take(b"null") => Value::Null,
        _ => return Err(reader.wrong_type()),
    }))
}

fn push<T>(list: &mut Option<Vec<T>>, item: Option<T>) {
    match (list.as_mut(), item) {
        (Some(items), Some(item)) => items.push(item),
        _ => *list = None,
    }
}

fn separated<T>(out: &mut Vec<u8>, brackets: [u8; 2], items: &[T], mut write: impl FnMut(&T, &mut Vec<u8>)) {
    out.push(brackets[0]);
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

fn write_object(out: &mut Vec<u8>, members: &[(String, Value)]) {
    separated(out, *b"{}", members, |(name, value), out| {
        write_string(out, name);
        out.push(b':');
        value.write(out);
    });
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<Micros> for Value {
    fn from(micros: Micros) -> Value {
        Value::Text(micros.to_string())
    }
}

impl From<Vec<Value>> for Value {
    fn from(values: Vec<Value>) -> Value {
        Value::List(values)
    }
}

impl From<Vec<(String, Value)>> for Value {
    fn from(members: Vec<(String, Value)>) -> Value {
        Value::Object(members)
    }
}

/// Writes an event of Varve's own. `Debug` shows how much is in it.
#[derive(Clone)]
pub struct Builder {
    members: Vec<(String, Value)>,
    facts: Vec<(String, Value)>,
    metadata: Vec<(String, Value)>,
    context: Vec<(String, Value)>,
    targets: Vec<Value>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("members", &self.members.len())
            .field("facts", &self.facts.len())
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Begins an event with an action of the catalogue; its class follows from the action.
    pub fn new(action: &str, outcome: Outcome) -> Builder {
        let mut members =
            vec![("action".to_owned(), action.into()), ("outcome".to_owned(), outcome.as_str().into())];
        if let Some(class) = class_of(action) {
            members.push(("class".to_owned(), class.name().into()));
        }
        Builder { members, facts: Vec::new(), metadata: Vec::new(), context: Vec::new(), targets: Vec::new() }
    }

    /// The event's id.
    #[must_use]
    pub fn id(self, id: &str) -> Builder {
        self.member("id", id.into())
    }

    /// When it happened, where that is not when it is recorded.
    #[must_use]
    pub fn occurred_at(self, at: Micros) -> Builder {
        self.member("occurred_at", at.into())
    }

    /// Who did it. The id is sealed.
    #[must_use]
    pub fn actor(self, kind: &str, id: &str) -> Builder {
        let actor = Value::Object(vec![("type".to_owned(), kind.into()), ("id".to_owned(), id.into())]);
        self.member("actor", actor)
    }

    /// What it was done to. The id is sealed.
    #[must_use]
    pub fn target(mut self, kind: &str, id: &str) -> Builder {
        self.targets
            .push(Value::Object(vec![("type".to_owned(), kind.into()), ("id".to_owned(), id.into())]));
        self
    }

    /// What it was done to, where that has no type. The id is sealed.
    #[must_use]
    pub fn target_without_type(mut self, id: &str) -> Builder {
        self.targets.push(Value::Object(vec![("id".to_owned(), id.into())]));
        self
    }

    /// Why it was done. Sealed.
    #[must_use]
    pub fn reason(self, reason: &str) -> Builder {
        self.member("reason", reason.into())
    }

    /// A member of `context`. Sealed.
    #[must_use]
    pub fn context(mut self, name: &str, text: &str) -> Builder {
        self.context.push((name.to_owned(), text.into()));
        self
    }

    /// A member of `metadata`: a filter, an approver, anything that may concern a person. Sealed.
    #[must_use]
    pub fn metadata(mut self, name: &str, value: impl Into<Value>) -> Builder {
        self.metadata.push((name.to_owned(), value.into()));
        self
    }

    /// A member of `varve`: a fact that verification needs. Clear for ever; never about a person.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Builder {
        self.facts.push((name.to_owned(), value.into()));
        self
    }

    /// All facts of an entry, as its type has them.
    #[must_use]
    pub fn facts(self, facts: impl IntoIterator<Item = (&'static str, Value)>) -> Builder {
        facts.into_iter().fold(self, |event, (name, value)| event.fact(name, value))
    }

    /// The event.
    ///
    /// # Errors
    /// The rule that a value breaks: a number over 2^53 − 1, a name given twice, over 64 KiB in all.
    pub fn build(mut self) -> Result<Event, InvalidEvent> {
        let grouped = [("context", self.context), ("metadata", self.metadata), ("varve", self.facts)];
        for (name, members) in grouped {
            if !members.is_empty() {
                self.members.push((name.to_owned(), Value::Object(members)));
            }
        }
        if !self.targets.is_empty() {
            self.members.push(("targets".to_owned(), Value::List(self.targets)));
        }
        let mut raw = Vec::with_capacity(512);
        write_object(&mut raw, &self.members);
        Event::parse_own(&raw)
    }

    fn member(mut self, name: &str, value: Value) -> Builder {
        self.members.push((name.to_owned(), value));
        self
    }
}
