//! What the server answers for a stored event, and whether that holds (FORMAT §7).
//!
//! A receipt binds the log: whoever keeps it can show later that the log signed this entry at this index. Without a
//! check a receipt is what the server says. [`Receipt::check`] holds it against the log's public key, got from
//! elsewhere: entry, link, leaf hash, signature; and where the receipt was asked for as verifiable, that the entry
//! commits to the event that was sent.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::new_event::NewEvent;
use crate::event::{Body, Disclosure, Event, Micros};
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyError, KeyId, Signature, VerifyingKey};
use crate::tlog::receipt::{self, ReceiptError};

/// A receipt as it came.
#[derive(Clone)]
pub struct Receipt {
    /// Index of the event's entry in the log.
    pub index: u64,
    /// The event's id.
    pub id: String,
    /// When the log recorded it, RFC 3339.
    pub recorded_at: String,
    /// Whether it was stored before; the receipt is then the first one's.
    pub duplicate: bool,
    json: Box<RawValue>,
}

/// Public key of a log, with the log's origin: what `varve tenant show` prints as `public key`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogKey {
    origin: String,
    key: VerifyingKey,
}

/// What [`Receipt::check`] found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// The log signed an entry at this index.
    Signed,
    /// And the entry commits to the event that was sent.
    Committed,
    /// And the entry commits to an event of this id, of which the log has since erased values.
    Erased,
}

/// What does not hold in a receipt.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiptFault {
    /// A member is missing or unreadable.
    #[error("it has no readable `{0}`")]
    Member(&'static str),
    /// It is for another event than the one it answers.
    #[error("its id is not that of the event")]
    OtherEvent,
    /// None of the keys given is the one it names.
    #[error("it names key {0}, which is none of those given; a log's key changes when it is rotated")]
    UnknownKey(KeyId),
    /// Entry, link, leaf hash or signature.
    #[error(transparent)]
    Core(#[from] ReceiptError),
    /// What the log says it committed to is no body, or not what the entry holds.
    #[error("the entry does not commit to what the receipt shows")]
    Commitment,
    /// The entry commits to something else than what was sent.
    #[error("the entry commits to another event than the one sent")]
    OtherContent,
}

impl Receipt {
    /// Reads a receipt. `None` where the bytes are none.
    pub(super) fn read(json: Box<RawValue>) -> Option<Receipt> {
        #[derive(Deserialize)]
        struct Shown {
            index: u64,
            id: String,
            recorded_at: String,
            #[serde(default)]
            duplicate: bool,
        }
        let Shown { index, id, recorded_at, duplicate } = serde_json::from_str(json.get()).ok()?;
        Some(Receipt { index, id, recorded_at, duplicate, json })
    }

    /// The receipt's JSON, byte for byte: what to keep.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// Holds the receipt against the keys of its log, and against `event` where the receipt shows what was committed.
    ///
    /// # Errors
    /// The first part that does not hold.
    pub fn check(&self, keys: &[LogKey], event: &NewEvent) -> Result<Checked, ReceiptFault> {
        let wire: Wire = serde_json::from_str(self.json()).map_err(|_| ReceiptFault::Member("entry"))?;
        let receipt = wire.receipt()?;
        if event.id() != Some(receipt.id.as_str()) || receipt.id != self.id {
            return Err(ReceiptFault::OtherEvent);
        }
        let mut fitting = keys.iter().filter(|known| known.key.key_id(&known.origin) == receipt.key_id);
        let known = fitting.next().ok_or(ReceiptFault::UnknownKey(receipt.key_id))?;
        let entry = receipt.verify(&known.origin, &known.key)?;
        let Some(body) = wire.body()? else { return Ok(Checked::Signed) };
        if body.check().is_err() || body.event_hash() != entry.event {
            return Err(ReceiptFault::Commitment);
        }
        let sent = Event::parse(event.json().as_bytes()).map_err(|_| ReceiptFault::OtherContent)?;
        if !body.same_content(&sent) {
            return Err(ReceiptFault::OtherContent);
        }
        let is_whole = body.withheld().is_ok_and(|withheld| withheld.is_empty());
        Ok(if is_whole { Checked::Committed } else { Checked::Erased })
    }
}

impl fmt::Debug for Receipt {
    /// Without what was committed, which may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("index", &self.index)
            .field("id", &self.id)
            .field("duplicate", &self.duplicate)
            .finish_non_exhaustive()
    }
}

impl LogKey {
    /// Reads a C2SP verifier key, `<origin>+<key id>+<base64>`.
    ///
    /// # Errors
    /// As [`VerifyingKey::parse_vkey`].
    pub fn parse(vkey: &str) -> Result<LogKey, KeyError> {
        let (origin, key) = VerifyingKey::parse_vkey(vkey.trim())?;
        Ok(LogKey { origin, key })
    }
}

/// A receipt's members (FORMAT §7).
#[derive(Deserialize)]
struct Wire {
    tenant: String,
    index: u64,
    id: String,
    recorded_at: String,
    entry: String,
    link: String,
    leaf_hash: String,
    signature: String,
    key_id: String,
    #[serde(default)]
    canonical: Option<String>,
    #[serde(default)]
    salt: Option<String>,
    #[serde(default)]
    disclosures: Vec<Shown>,
}

#[derive(Deserialize)]
struct Shown {
    path: String,
    salt: String,
    value: String,
}

impl Wire {
    fn receipt(&self) -> Result<receipt::Receipt, ReceiptFault> {
        let recorded_at =
            Micros::parse(&self.recorded_at).map_err(|_| ReceiptFault::Member("recorded_at"))?;
        Ok(receipt::Receipt {
            tenant: self.tenant.clone(),
            index: self.index,
            id: self.id.clone(),
            recorded_at: recorded_at.0,
            entry: bytes(&self.entry, "entry")?,
            link: Hash(bytes(&self.link, "link")?),
            leaf_hash: Hash(bytes(&self.leaf_hash, "leaf_hash")?),
            signature: Signature(bytes(&self.signature, "signature")?),
            key_id: KeyId::from_hex(&self.key_id).ok_or(ReceiptFault::Member("key_id"))?,
        })
    }

    /// What was committed to, where the receipt shows it.
    fn body(&self) -> Result<Option<Body>, ReceiptFault> {
        let Some(canonical) = &self.canonical else { return Ok(None) };
        let salt = self.salt.as_ref().ok_or(ReceiptFault::Member("salt"))?;
        let disclosed = |shown: &Shown| {
            Ok(Disclosure {
                path: shown.path.clone(),
                salt: bytes(&shown.salt, "disclosures")?,
                value: shown.value.clone().into_bytes(),
            })
        };
        Ok(Some(Body {
            salt: bytes(salt, "salt")?,
            canonical: canonical.clone().into_bytes(),
            disclosures: self.disclosures.iter().map(disclosed).collect::<Result<_, ReceiptFault>>()?,
        }))
    }
}

/// Exactly `N` bytes of base64url without padding.
fn bytes<const N: usize>(text: &str, member: &'static str) -> Result<[u8; N], ReceiptFault> {
    let fault = ReceiptFault::Member(member);
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::chain::{Entry, leaf_hash, link, signed_message};
    use crate::tlog::key::{SeedSigner, Signer};
    use serde_json::{Value, json};

    const ORIGIN: &str = "log.example/acme";
    const EVENT: &str = r#"{"id":"e-1","action":"a.b","outcome":"success","class":"security","actor":{"type":"user","id":"u-17"},"reason":"why"}"#;

    fn key() -> LogKey {
        LogKey { origin: ORIGIN.to_owned(), key: SeedSigner::from_seed(&[1; 32]).verifying_key() }
    }

    /// A verifiable receipt of `EVENT`, as the server writes it.
    fn wire() -> Value {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let body = Event::parse(EVENT.as_bytes()).unwrap().seal(&mut |bytes| bytes.fill(7));
        let recorded_at = 1_700_000_000_000_000;
        let entry = Entry {
            log_id: Hash([1; 32]),
            index: 7,
            recorded_at,
            key_id: signer.verifying_key().key_id(ORIGIN),
            class: 1,
            flags: 0,
            event: body.event_hash(),
            previous: Hash([3; 32]),
        };
        let bytes = entry.encode();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let disclosures: Vec<Value> = body
            .disclosures
            .iter()
            .map(|shown| json!({"path": shown.path, "salt": text(&shown.salt), "value": String::from_utf8(shown.value.clone()).unwrap()}))
            .collect();
        json!({"tenant": "acme", "index": 7, "id": "e-1", "recorded_at": Micros(recorded_at).to_string(),
            "entry": text(&bytes), "link": text(&link(&bytes).0), "leaf_hash": text(&leaf_hash(&bytes).0),
            "signature": text(&signer.sign(&signed_message(&link(&bytes))).0), "key_id": entry.key_id.to_string(),
            "duplicate": false, "canonical": String::from_utf8(body.canonical).unwrap(),
            "salt": text(&body.salt), "disclosures": disclosures})
    }

    fn checked(wire: &Value, event: &str) -> Result<Checked, ReceiptFault> {
        let receipt = Receipt::read(RawValue::from_string(wire.to_string()).unwrap()).unwrap();
        receipt.check(&[key()], &NewEvent::from_json(event).unwrap())
    }

    #[test]
    fn a_receipt_binds_log_and_event() {
        assert_eq!(checked(&wire(), EVENT), Ok(Checked::Committed));
        // Spelling and a class that was filled in make no other event.
        let respelt = EVENT.replace(",\"class\":\"security\"", "").replace("why", "\\u0077hy");
        assert_eq!(checked(&wire(), &respelt), Ok(Checked::Committed));
        let mut plain = wire();
        plain.as_object_mut().unwrap().retain(|name, _| !["canonical", "salt"].contains(&name.as_str()));
        assert_eq!(checked(&plain, EVENT), Ok(Checked::Signed));
        let mut erased = wire();
        erased["disclosures"].as_array_mut().unwrap().pop();
        assert_eq!(checked(&erased, EVENT), Ok(Checked::Erased));
    }

    #[test]
    fn each_changed_part_is_found() {
        let with = |name: &str, value: Value| {
            let mut changed = wire();
            changed[name] = value;
            checked(&changed, EVENT).unwrap_err()
        };
        assert_eq!(with("entry", json!("AA")), ReceiptFault::Member("entry"));
        assert_eq!(with("recorded_at", json!("today")), ReceiptFault::Member("recorded_at"));
        assert_eq!(with("key_id", json!("XY")), ReceiptFault::Member("key_id"));
        assert_eq!(with("key_id", json!("00000000")), ReceiptFault::UnknownKey(KeyId([0; 4])));
        assert_eq!(with("salt", json!(null)), ReceiptFault::Member("salt"));
        assert_eq!(with("salt", json!("AAAAAAAAAAAAAAAAAAAAAA")), ReceiptFault::Commitment);
        assert_eq!(with("index", json!(8)), ReceiptFault::Core(ReceiptError::Index { receipt: 8, entry: 7 }));
        assert_eq!(with("tenant", json!("globex")), ReceiptFault::Core(ReceiptError::Tenant));
        assert_eq!(with("link", wire()["leaf_hash"].clone()), ReceiptFault::Core(ReceiptError::Link));
        assert_eq!(with("id", json!("e-2")), ReceiptFault::OtherEvent);
        let signature = URL_SAFE_NO_PAD.encode([0; 64]);
        assert_eq!(with("signature", json!(signature)), ReceiptFault::Core(ReceiptError::Signature));
        assert_eq!(checked(&wire(), &EVENT.replace("why", "who")), Err(ReceiptFault::OtherContent));
        assert_eq!(checked(&wire(), &EVENT.replace("e-1", "e-3")), Err(ReceiptFault::OtherEvent));
    }

    #[test]
    fn a_log_key_is_what_the_command_line_prints() {
        let vkey = key().key.vkey(ORIGIN);
        assert_eq!(LogKey::parse(&format!("{vkey}\n")), Ok(key()));
        assert!(LogKey::parse("acme").is_err());
    }
}
