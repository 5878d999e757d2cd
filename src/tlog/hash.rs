//! The two hash functions of the format, each use under its own domain.
//!
//! The chain, commitments and identifiers are BLAKE3 in derive-key mode with one context a use; the
//! tree is SHA-256 with the prefixes of RFC 6962 §2.1, because the public specifications (C2SP) and
//! their tools demand it.

use std::fmt;
use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

/// A 32-byte digest: BLAKE3 or SHA-256, as the place says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Thirty-two zero bytes: "the link before index 0" and "no recovery key".
    pub const ZERO: Hash = Hash([0; 32]);

    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A use of BLAKE3 in derive-key mode (FORMAT, conventions). Each has its own context string, so a
/// digest made for one use is never valid for another.
pub struct Domain(LazyLock<ContextKey>);

macro_rules! domains {
    ($($(#[$doc:meta])* $name:ident = $context:literal;)*) => {
        $($(#[$doc])* pub static $name: Domain = Domain(LazyLock::new(|| hash_derive_key_context($context)));)*
    };
}

domains! {
    /// `log_id`: names a log by its origin, nonce and keys.
    LOG_ID = "varve v1 log id";
    /// `link`: the digest of an entry, which the next entry carries as `previous`.
    ENTRY = "varve v1 entry";
    /// `event`: the commitment of an entry to its event bytes.
    EVENT = "varve v1 event";
    /// Commitment to one sealed value.
    SEALED = "varve v1 sealed";
}

impl Domain {
    /// Hashes the concatenation of `parts` in this domain.
    pub fn hash(&self, parts: &[&[u8]]) -> Hash {
        let mut hasher = blake3::Hasher::new_from_context_key(&self.0);
        for part in parts {
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_blake3_derive_key() {
        assert_eq!(ENTRY.hash(&[b"ab", b"c"]).0, blake3::derive_key("varve v1 entry", b"abc"));
        assert_ne!(ENTRY.hash(&[b"abc"]), EVENT.hash(&[b"abc"]));
    }
}
