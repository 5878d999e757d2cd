//! The entry: 124 bytes that are chained, signed and put in the tree (FORMAT §3).
//!
//! Invariants: an `Entry` encodes to exactly one byte string and decodes from no other; every field
//! has a fixed place and width, integers are big-endian. What an entry must be *relative to the one
//! before it* (`index`, `recorded_at`, `previous`) is [`Entry::follows`].

use super::hash::{ENTRY, Hash, LOG_ID};
use super::key::KeyId;
use super::merkle;

/// Length of an encoded entry: magic 4, log id 32, index 8, time 8, key id 4, class 2, flags 2,
/// event 32, previous 32.
pub const ENTRY_BYTES: usize = 4 + 32 + 8 + 8 + 4 + 2 + 2 + 32 + 32;

/// The first four bytes of every entry of this format version.
pub const ENTRY_MAGIC: [u8; 4] = *b"VRV1";

/// What stands before the link in the message that an entry's signature covers.
pub const ENTRY_SIGNATURE_PREFIX: &[u8; 15] = b"varve v1 entry\n";

/// Flag: Varve wrote this event itself.
pub const FLAG_OWN: u16 = 1;
/// Flag: the event matched a legal hold when it was appended.
pub const FLAG_HELD: u16 = 2;
/// All flags of this format version. Any other bit is refused.
pub const FLAGS_KNOWN: u16 = FLAG_OWN | FLAG_HELD;

/// One link of the chain and one leaf of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The log this entry belongs to ([`log_id`]).
    pub log_id: Hash,
    /// Position in the log, from 0.
    pub index: u64,
    /// When the log recorded the event, µs since 1970-01-01T00:00:00Z; grows strictly within a log.
    pub recorded_at: u64,
    /// C2SP key id of the key that signs this entry.
    pub key_id: KeyId,
    /// Retention class: 0 permanent, 1–4 built in, ≥ 256 the tenant's own.
    pub class: u16,
    /// [`FLAG_OWN`], [`FLAG_HELD`]; the rest zero.
    pub flags: u16,
    /// Commitment to the salted event bytes, BLAKE3 in the domain [`EVENT`](super::hash::EVENT).
    pub event: Hash,
    /// Link of the entry before; [`Hash::ZERO`] at index 0.
    pub previous: Hash,
}

impl Entry {
    /// The entry's 124 bytes.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        debug_assert_eq!(self.flags & !FLAGS_KNOWN, 0, "an entry carries only known flags");
        let mut bytes = [0; ENTRY_BYTES];
        bytes[0..4].copy_from_slice(&ENTRY_MAGIC);
        bytes[4..36].copy_from_slice(&self.log_id.0);
        bytes[36..44].copy_from_slice(&self.index.to_be_bytes());
        bytes[44..52].copy_from_slice(&self.recorded_at.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.key_id.0);
        bytes[56..58].copy_from_slice(&self.class.to_be_bytes());
        bytes[58..60].copy_from_slice(&self.flags.to_be_bytes());
        bytes[60..92].copy_from_slice(&self.event.0);
        bytes[92..124].copy_from_slice(&self.previous.0);
        bytes
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// A length other than 124, another magic, an unknown flag bit.
    pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        let bytes: &[u8; ENTRY_BYTES] =
            bytes.try_into().map_err(|_| EntryError::Length { found: bytes.len() })?;
        if bytes[0..4] != ENTRY_MAGIC {
            return Err(EntryError::Magic);
        }
        let flags = u16::from_be_bytes(field(bytes, 58));
        if flags & !FLAGS_KNOWN != 0 {
            return Err(EntryError::UnknownFlags { flags });
        }
        Ok(Entry {
            log_id: Hash(field(bytes, 4)),
            index: u64::from_be_bytes(field(bytes, 36)),
            recorded_at: u64::from_be_bytes(field(bytes, 44)),
            key_id: KeyId(field(bytes, 52)),
            class: u16::from_be_bytes(field(bytes, 56)),
            flags,
            event: Hash(field(bytes, 60)),
            previous: Hash(field(bytes, 92)),
        })
    }

    /// Checks that this entry may stand right after `before`, whose bytes hash to `before_link`
    /// (FORMAT §6, rules 1–3). `None` asks for a genesis entry.
    ///
    /// # Errors
    /// The first rule that is broken, in the order log id, index, time, link.
    pub fn follows(&self, before: Option<(&Entry, &Hash)>) -> Result<(), ChainError> {
        let Some((before, before_link)) = before else {
            if self.index != 0 {
                return Err(ChainError::Index { expected: 0, found: self.index });
            }
            if self.previous != Hash::ZERO {
                return Err(ChainError::Previous { expected: Hash::ZERO, found: self.previous });
            }
            return Ok(());
        };
        if self.log_id != before.log_id {
            return Err(ChainError::LogId { expected: before.log_id, found: self.log_id });
        }
        // An index at u64::MAX has no successor; wrapping to 0 must not look like one.
        if before.index.checked_add(1) != Some(self.index) {
            return Err(ChainError::Index { expected: before.index.saturating_add(1), found: self.index });
        }
        if self.recorded_at <= before.recorded_at {
            return Err(ChainError::RecordedAt { before: before.recorded_at, found: self.recorded_at });
        }
        if self.previous != *before_link {
            return Err(ChainError::Previous { expected: *before_link, found: self.previous });
        }
        Ok(())
    }
}

/// The entry's link: what the next entry carries as `previous` and what the signature covers.
pub fn link(entry: &[u8; ENTRY_BYTES]) -> Hash {
    ENTRY.hash(&[entry])
}

/// The entry's leaf hash in the tree: SHA-256(0x00 || entry), RFC 6962 §2.1.
pub fn leaf_hash(entry: &[u8; ENTRY_BYTES]) -> Hash {
    let mut input = [0; 1 + ENTRY_BYTES];
    input[1..].copy_from_slice(entry);
    merkle::sha256(&input)
}

/// The message an entry's signature covers: `"varve v1 entry\n" || link`.
pub fn signed_message(link: &Hash) -> [u8; 47] {
    let mut message = [0; 47];
    message[..15].copy_from_slice(ENTRY_SIGNATURE_PREFIX);
    message[15..].copy_from_slice(&link.0);
    message
}

/// Names a log: B3("varve v1 log id", len16(origin) || origin || nonce || key || recovery key), with
/// 32 zero bytes where there is no recovery key.
///
/// # Panics
/// If `origin` is longer than 65,535 bytes; origins are at most 255 ([`MAX_NAME_BYTES`]).
///
/// [`MAX_NAME_BYTES`]: super::key::MAX_NAME_BYTES
pub fn log_id(origin: &str, nonce: &[u8; 32], key: &[u8; 32], recovery: Option<&[u8; 32]>) -> Hash {
    let length = u16::try_from(origin.len()).unwrap_or_else(|_| panic!("an origin fits its 16-bit length"));
    let recovery = recovery.unwrap_or(&Hash::ZERO.0);
    LOG_ID.hash(&[&length.to_be_bytes(), origin.as_bytes(), nonce, key, recovery])
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not 124 bytes.
    #[error("an entry is {ENTRY_BYTES} bytes, these are {found}; nothing of them was used")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// The bytes do not start with `VRV1`.
    #[error("the bytes do not start with VRV1: not an entry, or one of a later format; use a newer varve")]
    Magic,
    /// A flag bit that this version does not know.
    #[error("the entry has unknown flag bits ({flags:#06x}): a later format; use a newer varve")]
    UnknownFlags {
        /// All flags of the entry.
        flags: u16,
    },
}

impl EntryError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            EntryError::Length { .. } => "entry_length",
            EntryError::Magic => "entry_magic",
            EntryError::UnknownFlags { .. } => "entry_flags",
        }
    }
}

/// Why an entry cannot stand where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Another log's entry.
    #[error("the entry belongs to log {found}, the chain is log {expected}")]
    LogId {
        /// Log id of the chain.
        expected: Hash,
        /// Log id in the entry.
        found: Hash,
    },
    /// The index does not grow by one.
    #[error("the entry says index {found} where {expected} must stand")]
    Index {
        /// Index that must stand here.
        expected: u64,
        /// Index in the entry.
        found: u64,
    },
    /// `recorded_at` does not grow.
    #[error("the entry is recorded at {found} µs, not after the one before it at {before} µs")]
    RecordedAt {
        /// Time of the entry before.
        before: u64,
        /// Time in the entry.
        found: u64,
    },
    /// `previous` is not the link before.
    #[error("the entry chains to {found}, the entry before it has link {expected}")]
    Previous {
        /// Link of the entry before.
        expected: Hash,
        /// `previous` in the entry.
        found: Hash,
    },
}

impl ChainError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            ChainError::LogId { .. } => "chain_log_id",
            ChainError::Index { .. } => "chain_index",
            ChainError::RecordedAt { .. } => "chain_recorded_at",
            ChainError::Previous { .. } => "chain_previous",
        }
    }
}

/// `N` bytes at `offset`; the callers' offsets lie within the 124 bytes.
fn field<const N: usize>(bytes: &[u8; ENTRY_BYTES], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Entry {
        Entry {
            log_id: Hash([0x11; 32]),
            index: 0x0102_0304_0506_0708,
            recorded_at: 0x1112_1314_1516_1718,
            key_id: KeyId([0xa1, 0xa2, 0xa3, 0xa4]),
            class: 0x0102,
            flags: FLAG_HELD,
            event: Hash([0x22; 32]),
            previous: Hash([0x33; 32]),
        }
    }

    #[test]
    fn every_field_stands_where_the_format_says() {
        let mut expected = b"VRV1".to_vec();
        expected.extend([0x11; 32]);
        expected.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        expected.extend([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        expected.extend([0xa1, 0xa2, 0xa3, 0xa4, 1, 2, 0, 2]);
        expected.extend([0x22; 32]);
        expected.extend([0x33; 32]);
        assert_eq!(sample().encode().to_vec(), expected);
    }

    #[test]
    fn faults_are_told_apart() {
        let good = sample().encode();
        assert_eq!(Entry::decode(&good[..123]), Err(EntryError::Length { found: 123 }));
        assert_eq!(Entry::decode(&[&good[..], &[0]].concat()), Err(EntryError::Length { found: 125 }));
        let mut bad = good;
        bad[3] = b'2';
        assert_eq!(Entry::decode(&bad), Err(EntryError::Magic));
        for bit in 2..16 {
            let mut bad = good;
            let flags = FLAG_HELD | 1 << bit;
            bad[58..60].copy_from_slice(&flags.to_be_bytes());
            assert_eq!(Entry::decode(&bad), Err(EntryError::UnknownFlags { flags }));
        }
    }

    #[test]
    fn link_leaf_and_message_are_what_the_format_says() {
        let bytes = sample().encode();
        assert_eq!(link(&bytes).0, blake3::derive_key("varve v1 entry", &bytes));
        assert_eq!(leaf_hash(&bytes), merkle::sha256(&[&[0][..], &bytes].concat()));
        let message = signed_message(&Hash([7; 32]));
        assert_eq!(message.to_vec(), [&b"varve v1 entry\n"[..], &[7; 32]].concat());
    }

    #[test]
    fn a_log_id_covers_each_part_and_its_length() {
        let id = log_id("a/b", &[1; 32], &[2; 32], Some(&[3; 32]));
        let preimage = [&[0, 3][..], b"a/b", &[1; 32], &[2; 32], &[3; 32]].concat();
        assert_eq!(id.0, blake3::derive_key("varve v1 log id", &preimage));
        assert_eq!(
            log_id("a/b", &[1; 32], &[2; 32], None),
            log_id("a/b", &[1; 32], &[2; 32], Some(&[0; 32]))
        );
        for other in [
            log_id("a/c", &[1; 32], &[2; 32], Some(&[3; 32])),
            log_id("a/b", &[9; 32], &[2; 32], Some(&[3; 32])),
            log_id("a/b", &[1; 32], &[9; 32], Some(&[3; 32])),
            log_id("a/b", &[1; 32], &[2; 32], Some(&[9; 32])),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_chain_breaks_at_each_rule() {
        let genesis = Entry { index: 0, previous: Hash::ZERO, ..sample() };
        assert_eq!(genesis.follows(None), Ok(()));
        let kind = |entry: Entry, before| entry.follows(before).map_err(|error| error.kind());
        assert_eq!(kind(Entry { index: 1, ..genesis }, None), Err("chain_index"));
        assert_eq!(kind(Entry { previous: Hash([1; 32]), ..genesis }, None), Err("chain_previous"));

        let before_link = link(&genesis.encode());
        let before = Some((&genesis, &before_link));
        let next = Entry { index: 1, recorded_at: genesis.recorded_at + 1, previous: before_link, ..genesis };
        assert_eq!(next.follows(before), Ok(()));
        assert_eq!(kind(Entry { log_id: Hash::ZERO, ..next }, before), Err("chain_log_id"));
        assert_eq!(kind(Entry { index: 0, ..next }, before), Err("chain_index"));
        assert_eq!(kind(Entry { index: 2, ..next }, before), Err("chain_index"));
        let same_time = Entry { recorded_at: genesis.recorded_at, ..next };
        assert_eq!(kind(same_time, before), Err("chain_recorded_at"));
        assert_eq!(kind(Entry { previous: Hash::ZERO, ..next }, before), Err("chain_previous"));

        let last = Entry { index: u64::MAX, ..genesis };
        assert_eq!(kind(Entry { index: 0, ..next }, Some((&last, &before_link))), Err("chain_index"));
        assert_eq!(kind(Entry { index: u64::MAX, ..next }, Some((&last, &before_link))), Err("chain_index"));
    }

    proptest! {
        #[test]
        fn decode_undoes_encode_and_nothing_else(mut bytes: Vec<u8>, magic: bool) {
            bytes.resize(ENTRY_BYTES, 0);
            if magic {
                bytes[..4].copy_from_slice(&ENTRY_MAGIC);
                bytes[58] = 0;
                bytes[59] &= 3;
            }
            match Entry::decode(&bytes) {
                Ok(entry) => prop_assert_eq!(entry.encode().to_vec(), bytes),
                Err(_) => prop_assert!(!magic),
            }
        }
    }
}
