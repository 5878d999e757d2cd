//! What a service keeps from an append, and what can be checked of it (FORMAT §6 rule 8, §7).
//!
//! A valid receipt binds the log: the log signed this entry, so a log that does not have it at that
//! index was cut or rewritten. A receipt does not commit to `id`: the event bytes do, through
//! the entry's `event`.

use super::chain::{ENTRY_BYTES, Entry, EntryError, leaf_hash, link, signed_message};
use super::hash::Hash;
use super::key::{KeyId, Signature, VerifyingKey};

/// A receipt as it was handed out. `Debug` leaves out the id, which the client chose.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The tenant whose log it is.
    pub tenant: String,
    /// Index of the entry.
    pub index: u64,
    /// The event's id.
    pub id: String,
    /// When the log recorded it, µs.
    pub recorded_at: u64,
    /// The entry's bytes.
    pub entry: [u8; ENTRY_BYTES],
    /// The entry's link.
    pub link: Hash,
    /// The entry's leaf hash.
    pub leaf_hash: Hash,
    /// The entry's signature.
    pub signature: Signature,
    /// Id of the key that made it.
    pub key_id: KeyId,
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt")
            .field("tenant", &self.tenant)
            .field("index", &self.index)
            .field("recorded_at", &self.recorded_at)
            .field("link", &self.link)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Receipt {
    /// Checks the receipt against the key of the log `origin` that was current at its index.
    ///
    /// # Errors
    /// The first part that does not hold.
    pub fn verify(&self, origin: &str, key: &VerifyingKey) -> Result<Entry, ReceiptError> {
        // `<instance>/<tenant>` or `<instance>/<tenant>/<n>`.
        if origin.split('/').nth(1) != Some(self.tenant.as_str()) {
            return Err(ReceiptError::Tenant);
        }
        let entry = Entry::decode(&self.entry)?;
        if entry.index != self.index {
            return Err(ReceiptError::Index { receipt: self.index, entry: entry.index });
        }
        if entry.recorded_at != self.recorded_at {
            return Err(ReceiptError::RecordedAt);
        }
        if link(&self.entry) != self.link {
            return Err(ReceiptError::Link);
        }
        if leaf_hash(&self.entry) != self.leaf_hash {
            return Err(ReceiptError::LeafHash);
        }
        if entry.key_id != self.key_id || key.key_id(origin) != self.key_id {
            return Err(ReceiptError::KeyId { receipt: self.key_id, key: key.key_id(origin) });
        }
        if !key.verify(&signed_message(&self.link), &self.signature) {
            return Err(ReceiptError::Signature);
        }
        Ok(entry)
    }

    /// Whether the log still has this very entry: `found` is what it has at the receipt's index,
    /// `None` if it is shorter.
    ///
    /// # Errors
    /// [`ReceiptError::Truncated`] or [`ReceiptError::Rewritten`].
    pub fn held_by(&self, found: Option<&[u8; ENTRY_BYTES]>) -> Result<(), ReceiptError> {
        match found {
            None => Err(ReceiptError::Truncated { index: self.index }),
            Some(found) if *found != self.entry => Err(ReceiptError::Rewritten { index: self.index }),
            Some(_) => Ok(()),
        }
    }
}

/// Why a receipt does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The receipt is of another tenant than the log.
    #[error("the receipt's tenant is not the log's; give the log that issued it")]
    Tenant,
    /// The entry is none.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry says another index.
    #[error("the receipt says index {receipt}, its entry says {entry}")]
    Index {
        /// Index in the receipt.
        receipt: u64,
        /// Index in the entry.
        entry: u64,
    },
    /// The entry says another time.
    #[error("the receipt's recorded_at is not its entry's")]
    RecordedAt,
    /// `link` is not the entry's.
    #[error("the receipt's link is not the hash of its entry")]
    Link,
    /// `leaf_hash` is not the entry's.
    #[error("the receipt's leaf hash is not that of its entry")]
    LeafHash,
    /// Receipt, entry and given key do not name one key.
    #[error("the receipt names key {receipt}, the given key is {key}; give the key current at its index")]
    KeyId {
        /// Key id in the receipt.
        receipt: KeyId,
        /// Id of the key given.
        key: KeyId,
    },
    /// The signature does not hold.
    #[error("the receipt's signature does not verify: it was not issued by this log, or was changed")]
    Signature,
    /// The log is shorter than the receipt.
    #[error("the log has no entry {index} although it signed one: its end was cut off")]
    Truncated {
        /// Index of the receipt.
        index: u64,
    },
    /// The log has another entry there.
    #[error("the log has another entry at {index} than the one it signed: it was rewritten")]
    Rewritten {
        /// Index of the receipt.
        index: u64,
    },
}

impl ReceiptError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            ReceiptError::Tenant => "receipt_tenant",
            ReceiptError::Entry(error) => error.kind(),
            ReceiptError::Index { .. } => "receipt_index",
            ReceiptError::RecordedAt => "receipt_recorded_at",
            ReceiptError::Link => "receipt_link",
            ReceiptError::LeafHash => "receipt_leaf_hash",
            ReceiptError::KeyId { .. } => "receipt_key_id",
            ReceiptError::Signature => "receipt_signature",
            ReceiptError::Truncated { .. } => "truncated",
            ReceiptError::Rewritten { .. } => "rewritten",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::key::{SeedSigner, Signer};

    const ORIGIN: &str = "log.example/acme";

    fn receipt(signer: &SeedSigner) -> Receipt {
        let entry = Entry {
            log_id: Hash([1; 32]),
            index: 7,
            recorded_at: 1_700_000_000_000_000,
            key_id: signer.verifying_key().key_id(ORIGIN),
            class: 1,
            flags: 0,
            event: Hash([2; 32]),
            previous: Hash([3; 32]),
        };
        let bytes = entry.encode();
        Receipt {
            tenant: "acme".into(),
            index: 7,
            id: "evt-1".into(),
            recorded_at: entry.recorded_at,
            entry: bytes,
            link: link(&bytes),
            leaf_hash: leaf_hash(&bytes),
            signature: signer.sign(&signed_message(&link(&bytes))),
            key_id: entry.key_id,
        }
    }

    #[test]
    fn a_receipt_binds_the_log() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let receipt = receipt(&signer);
        let entry = receipt.verify(ORIGIN, &signer.verifying_key()).unwrap();
        assert_eq!(entry.index, 7);
        assert_eq!(receipt.held_by(Some(&receipt.entry)), Ok(()));
        assert_eq!(receipt.held_by(None), Err(ReceiptError::Truncated { index: 7 }));
        let mut other = receipt.entry;
        other[60] ^= 1;
        assert_eq!(receipt.held_by(Some(&other)), Err(ReceiptError::Rewritten { index: 7 }));
    }

    #[test]
    fn a_log_that_started_again_keeps_its_tenant() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let mut receipt = receipt(&signer);
        assert_eq!(
            receipt.verify("log.example/acme/2", &signer.verifying_key()).map_err(|error| error.kind()),
            Err("receipt_key_id")
        );
        receipt.tenant = "2".into();
        assert_eq!(receipt.verify("log.example/acme/2", &signer.verifying_key()), Err(ReceiptError::Tenant));
    }

    #[test]
    fn each_changed_part_is_found() {
        let signer = SeedSigner::from_seed(&[1; 32]);
        let good = receipt(&signer);
        let found = |change: &dyn Fn(&mut Receipt)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.verify(ORIGIN, &signer.verifying_key()).map_err(|error| error.kind())
        };
        assert_eq!(found(&|bad| bad.tenant = "other".into()), Err("receipt_tenant"));
        assert_eq!(found(&|bad| bad.entry[0] = 0), Err("entry_magic"));
        assert_eq!(found(&|bad| bad.index = 8), Err("receipt_index"));
        assert_eq!(found(&|bad| bad.recorded_at += 1), Err("receipt_recorded_at"));
        assert_eq!(found(&|bad| bad.entry[60] ^= 1), Err("receipt_link"));
        assert_eq!(found(&|bad| bad.link.0[0] ^= 1), Err("receipt_link"));
        assert_eq!(found(&|bad| bad.leaf_hash.0[0] ^= 1), Err("receipt_leaf_hash"));
        assert_eq!(found(&|bad| bad.key_id.0[0] ^= 1), Err("receipt_key_id"));
        assert_eq!(found(&|bad| bad.signature.0[0] ^= 1), Err("receipt_signature"));
        let other = SeedSigner::from_seed(&[2; 32]).verifying_key();
        assert_eq!(good.verify(ORIGIN, &other).map_err(|error| error.kind()), Err("receipt_key_id"));
    }
}
