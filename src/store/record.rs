//! A record as the store keeps it: what of the entry cannot be derived, the signature, the body.
//!
//! `log_id`, `index` and `previous` follow from where the record stands; `link` and leaf hash from the
//! entry. So 112 bytes and the body are enough to rebuild all 124 bytes of an entry.
//!
//! ```text
//! recorded_at 8 | key_id 4 | class 2 | flags 2 | event 32 | signature 64 | body length 4 | body
//! ```
//!
//! A body length of zero is an absent body.

use super::wire::{Reader, Short};
use crate::event::Body;
use crate::tlog::chain::{ENTRY_BYTES, Entry};
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature};

/// Bytes of a record besides its body.
pub const RECORD_FIXED_BYTES: usize = 8 + 4 + 2 + 2 + 32 + 64 + 4;

/// One record of a log, its body still encoded.
#[derive(Clone, PartialEq)]
pub struct Record {
    /// Microseconds since 1970, strictly growing in a log.
    pub recorded_at: u64,
    /// Key that signed the entry.
    pub key_id: KeyId,
    /// Retention class.
    pub class: u16,
    /// Entry flags.
    pub flags: u16,
    /// Commitment to the event bytes.
    pub event: Hash,
    /// Signature over the link.
    pub signature: Signature,
    /// `Body::encode`, or empty when the body is gone.
    pub body: Vec<u8>,
}

impl Record {
    /// The entry this record is, at `index` of the log `log_id`, after the entry with link `previous`.
    pub fn entry(&self, log_id: Hash, index: u64, previous: Hash) -> [u8; ENTRY_BYTES] {
        Entry {
            log_id,
            index,
            recorded_at: self.recorded_at,
            key_id: self.key_id,
            class: self.class,
            flags: self.flags,
            event: self.event,
            previous,
        }
        .encode()
    }

    /// The body, where it is present. Errors when its bytes are no body.
    pub fn body(&self) -> Option<Result<Body, crate::event::BodyFault>> {
        (!self.body.is_empty()).then(|| Body::decode(&self.body).map(|(body, _)| body))
    }

    /// Bytes that `encode` appends.
    pub fn encoded_len(&self) -> usize {
        RECORD_FIXED_BYTES + self.body.len()
    }

    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.recorded_at.to_be_bytes());
        out.extend_from_slice(&self.key_id.0);
        out.extend_from_slice(&self.class.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(self.event.as_bytes());
        out.extend_from_slice(&self.signature.0);
        super::wire::put_bytes32(out, &self.body);
    }

    /// Reads one record. Errors when the bytes end inside it.
    pub fn decode(from: &mut Reader<'_>) -> Result<Record, Short> {
        Ok(Record {
            recorded_at: from.u64()?,
            key_id: KeyId(from.array()?),
            class: from.u16()?,
            flags: from.u16()?,
            event: Hash(from.array()?),
            signature: Signature(from.array()?),
            body: from.bytes32()?.to_vec(),
        })
    }
}
