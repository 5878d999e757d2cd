//! Which key must have signed: the one of the log's first entry, until an entry signed by it names the next.

use super::erasure::Stage;
use super::{Context, Walk};
use crate::tlog::chain;
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature, VerifyingKey};
use crate::verify::check::{CheckedRecord, Signed};
use crate::verify::facts::{Created, Fact, Rotation};
use crate::verify::finding::FindingKind;

#[derive(Clone, Copy)]
pub(super) struct CurrentKey {
    pub(super) id: KeyId,
    pub(super) key: VerifyingKey,
    pub(super) bytes: [u8; 32],
}

impl CurrentKey {
    pub(super) fn new(key: VerifyingKey, origin: &str) -> CurrentKey {
        CurrentKey { id: key.key_id(origin), key, bytes: key.to_bytes() }
    }
}

impl Walk {
    /// Rule 4: the key current at the index, and no other, signed.
    pub(super) fn signature(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        record: &CheckedRecord,
        unsigned: &mut Option<(u64, u64)>,
    ) {
        let Some(key) = self.key else { return };
        if record.key_id != key.id {
            context.add(FindingKind::WrongKey, index, key.id.to_string(), record.key_id.to_string());
        }
        let verify = |signature: &Signature| key.key.verify(&chain::signed_message(&record.link), signature);
        let holds = match &record.signed {
            Signed::Unchecked => return self.used(key, 0),
            Signed::ByFirst => key.bytes == context.info.identity.genesis_key,
            Signed::By(bytes) => **bytes == key.bytes,
            Signed::ByNone(signature) => verify(signature),
        };
        if holds && record.key_id == key.id {
            self.used(key, 1);
        } else if record.key_id == key.id {
            let (_, count) = unsigned.get_or_insert((index, 0));
            *count += 1;
        }
    }

    fn used(&mut self, key: CurrentKey, signed: u64) {
        match self.used_keys.last_mut() {
            Some((_, bytes, count)) if *bytes == key.bytes => *count += signed,
            _ => self.used_keys.push((key.id, key.bytes, signed)),
        }
    }

    /// Rule 1, changes of the key, policies, holds and certificates.
    pub(super) fn fact(&mut self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        match (index, record.fact.as_deref()) {
            (0, Some(Fact::Created(Some(created)))) => genesis(context, created),
            (0, _) => context.add(
                FindingKind::BadGenesis,
                0,
                "an entry that says who the log is",
                "another entry, or one that cannot be read",
            ),
            (_, Some(Fact::Rotated(rotation))) => self.rotate(context, index, rotation.as_ref()),
            (_, Some(Fact::Policy(policy))) => self.policy(context, index, record.recorded_at, policy),
            (_, Some(Fact::Certificate(certificate))) => {
                self.certificate(context, index, record.recorded_at, certificate);
            }
            (_, Some(Fact::HoldPlaced(placed))) => self.hold_placed(context, index, placed),
            (_, Some(Fact::HoldResolved(resolved))) => self.hold_resolved(context, index, resolved),
            (_, Some(Fact::HoldReleased(released))) => self.hold_released(context, index, released),
            (_, Some(Fact::Erasure(certificate))) => self.erasure(context, index, certificate),
            (_, Some(Fact::ErasureApproved(request))) => self.erasure_goes_on(*request, Stage::Approved),
            (_, Some(Fact::ErasureDone(request))) => self.erasure_goes_on(*request, Stage::Done),
            _ => {}
        }
    }

    fn rotate(&mut self, context: &mut Context<'_>, index: u64, rotation: Option<&Rotation>) {
        let bad = |context: &mut Context<'_>, expected: String, found: String| {
            context.add(FindingKind::BadRotation, index, expected, found);
        };
        let Some(rotation) = rotation else {
            return bad(context, "an entry that names both keys".to_owned(), "one that does not".to_owned());
        };
        let key = match VerifyingKey::from_bytes(&rotation.key) {
            Ok(key) => CurrentKey::new(key, &context.info.origin),
            Err(error) => return bad(context, "a usable key".to_owned(), error.to_string()),
        };
        if self.introduced.contains(&key.id) {
            return bad(context, "a key that is new in the log".to_owned(), format!("key {} again", key.id));
        }
        let ids = [(Some(key), &rotation.key_id), (self.key, &rotation.previous_key_id)];
        for (key, said) in ids {
            if let Some(key) = key.filter(|key| key.id.to_string() != *said) {
                return bad(context, format!("key id {}", key.id), said.clone());
            }
        }
        self.introduced.insert(key.id);
        context.info.keys.write().push((key.id, key.key));
        self.key = Some(key);
    }

    /// The key that the next entry must be signed by.
    pub(in crate::verify) fn current_key(&self) -> Option<[u8; 32]> {
        self.key.map(|key| key.bytes)
    }
}

/// Index 0 against what the snapshot says of the log.
fn genesis(context: &mut Context<'_>, created: &Created) {
    let identity = &context.info.identity;
    if created.origin != context.info.origin {
        context.add(
            FindingKind::BadGenesis,
            0,
            format!("origin {}", context.info.origin),
            created.origin.clone(),
        );
    }
    if created.key != identity.genesis_key {
        context.add(
            FindingKind::BadGenesis,
            0,
            format!("key {}", Hash(identity.genesis_key)),
            Hash(created.key).to_string(),
        );
    }
    if VerifyingKey::from_bytes(&created.key).is_err() {
        context.add(FindingKind::BadGenesis, 0, "a usable key", Hash(created.key).to_string());
    }
    if created.log_id != identity.log_id {
        context.add(FindingKind::LogId, 0, identity.log_id.to_string(), created.log_id.to_string());
    }
    let log_id = chain::log_id(&created.origin, &created.nonce, &created.key, created.recovery.as_ref());
    if log_id != identity.log_id {
        context.add(FindingKind::LogId, 0, log_id.to_string(), identity.log_id.to_string());
    }
}
