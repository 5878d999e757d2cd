//! Ed25519 keys and signatures, strict (RFC 8032 §5.1; C2SP signed-note, type 0x01).
//!
//! Strict means: S < L, A and R in canonical encoding, neither of small order, and the cofactorless
//! equation `[S]B = R + [k]A`. So a signature that passes here passes in every verifier that follows
//! RFC 8032. A point that merely has a torsion component is not refused for that; the
//! equation decides. A bad key is refused where it is introduced: no [`VerifyingKey`] holds one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;

use super::merkle::sha256;

/// Longest key name or origin in bytes. ML-DSA cosignatures give a name one length byte
/// (C2SP tlog-cosignature), so a longer one could never be cosigned.
pub const MAX_NAME_BYTES: usize = 255;

/// C2SP signature type of Ed25519 signatures over the note text.
pub const TYPE_ED25519: u8 = 0x01;
/// C2SP signature type of timestamped Ed25519 cosignatures.
pub const TYPE_COSIGNATURE: u8 = 0x04;

/// C2SP key id: the first four bytes of SHA-256(name || "\n" || type || public key). It finds a key;
/// it does not authenticate one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyId(pub [u8; 4]);

/// An Ed25519 signature, R || S.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A public key that passed the strict checks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Takes a public key in.
    ///
    /// # Errors
    /// The bytes are no point of the curve, are not the point's canonical encoding, or the point has
    /// small order (anyone could sign for it).
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<VerifyingKey, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAPoint)?;
        if key.to_edwards().compress().to_bytes() != *bytes {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        Ok(VerifyingKey(key))
    }

    /// The key's 32 bytes (RFC 8032 §5.1.2).
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether `signature` is this key's over `message`, strictly.
    ///
    /// A non-canonical R cannot pass: R's bytes are compared with the encoding of the point that the
    /// equation gives, which is always canonical.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.0.verify_strict(message, &signature).is_ok()
    }

    /// The key id of this key under the name `origin`, as a signer of notes and entries.
    pub fn key_id(&self, origin: &str) -> KeyId {
        self.key_id_of_type(origin, TYPE_ED25519)
    }

    /// The key id of this key under `name` for a C2SP signature type.
    pub fn key_id_of_type(&self, name: &str, signature_type: u8) -> KeyId {
        let mut input = Vec::with_capacity(name.len() + 2 + 32);
        input.extend_from_slice(name.as_bytes());
        input.extend_from_slice(&[b'\n', signature_type]);
        input.extend_from_slice(&self.to_bytes());
        let [a, b, c, d, ..] = sha256(&input).0;
        KeyId([a, b, c, d])
    }

    /// The key as a C2SP verifier key: `name+hex(key id)+base64(0x01 || key)`.
    pub fn vkey(&self, origin: &str) -> String {
        self.vkey_of_type(origin, TYPE_ED25519)
    }

    /// The key as a C2SP verifier key of a signature type.
    pub fn vkey_of_type(&self, name: &str, signature_type: u8) -> String {
        let mut typed = [signature_type; 33];
        typed[1..].copy_from_slice(&self.to_bytes());
        format!("{name}+{}+{}", self.key_id_of_type(name, signature_type), STANDARD.encode(typed))
    }

    /// Reads a C2SP verifier key of type 0x01: its name and key.
    ///
    /// # Errors
    /// Malformed text or name, another signature type, a key id that is not the key's, a key that
    /// [`VerifyingKey::from_bytes`] refuses.
    pub fn parse_vkey(text: &str) -> Result<(String, VerifyingKey), KeyError> {
        VerifyingKey::parse_vkey_of_type(text, TYPE_ED25519)
    }

    /// Reads a C2SP verifier key of one signature type whose key material is an Ed25519 key.
    ///
    /// # Errors
    /// As [`VerifyingKey::parse_vkey`].
    pub fn parse_vkey_of_type(text: &str, signature_type: u8) -> Result<(String, VerifyingKey), KeyError> {
        // Base64 may contain '+', a name and a hex id may not.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::VkeyForm);
        };
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let id = KeyId::from_hex(id).ok_or(KeyError::VkeyForm)?;
        let material = STANDARD.decode(material).map_err(|_| KeyError::VkeyForm)?;
        let (&found, bytes) = material.split_first().ok_or(KeyError::VkeyForm)?;
        if found != signature_type {
            return Err(KeyError::SignatureType { expected: signature_type, found });
        }
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::VkeyForm)?;
        let key = VerifyingKey::from_bytes(bytes)?;
        if key.key_id_of_type(name, signature_type) != id {
            return Err(KeyError::KeyId);
        }
        Ok((name.to_owned(), key))
    }
}

/// Makes signatures. Implementations hold the secret; nothing else does.
pub trait Signer: Send + Sync {
    /// Signs `message` with Ed25519 (RFC 8032, PureEdDSA: deterministic).
    fn sign(&self, message: &[u8]) -> Signature;
    /// The public half.
    fn verifying_key(&self) -> VerifyingKey;
}

/// The portable signer: ed25519-dalek over a 32-byte seed, wiped when dropped.
pub struct SeedSigner(ed25519_dalek::SigningKey);

impl SeedSigner {
    /// Takes a seed (the RFC 8032 private key).
    pub fn from_seed(seed: &[u8; 32]) -> SeedSigner {
        SeedSigner(ed25519_dalek::SigningKey::from_bytes(seed))
    }
}

impl Signer for SeedSigner {
    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    fn verifying_key(&self) -> VerifyingKey {
        // The clamped scalar is no multiple of L, so the point has order L; dalek encodes it canonically.
        VerifyingKey(self.0.verifying_key())
    }
}

/// Whether `name` may name a key or a log: 1–255 bytes without white space, `+` or control
/// characters (C2SP signed-note, "Format").
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.chars().any(|c| c == '+' || c.is_whitespace() || c < ' ')
}

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a point of the curve.
    #[error("the 32 bytes are no Ed25519 public key; check where the key was copied from")]
    NotAPoint,
    /// A second spelling of a point.
    #[error(
        "the public key is not in canonical encoding; a signer never makes such a key, refuse its source"
    )]
    NotCanonical,
    /// A point of order 1, 2, 4 or 8.
    #[error("the public key has small order: anyone can sign for it; refuse its source")]
    SmallOrder,
    /// Not `name+hash+key`.
    #[error("not a verifier key: want <name>+<8 hex digits>+<base64 of type and key>")]
    VkeyForm,
    /// An empty or over-long name, or one with spaces or `+`.
    #[error("a key name is 1 to {MAX_NAME_BYTES} bytes without white space, '+' or control characters")]
    Name,
    /// A verifier key of another signature type.
    #[error("the verifier key has signature type {found:#04x}, this use needs {expected:#04x}")]
    SignatureType {
        /// Type this use needs.
        expected: u8,
        /// Type in the verifier key.
        found: u8,
    },
    /// The key id does not belong to name and key.
    #[error("the verifier key's id does not belong to its name and key; check where it was copied from")]
    KeyId,
}

impl KeyError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            KeyError::NotAPoint => "key_not_a_point",
            KeyError::NotCanonical => "key_not_canonical",
            KeyError::SmallOrder => "key_small_order",
            KeyError::VkeyForm => "vkey_form",
            KeyError::Name => "key_name",
            KeyError::SignatureType { .. } => "vkey_type",
            KeyError::KeyId => "vkey_key_id",
        }
    }
}

impl KeyId {
    /// Reads eight lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<KeyId> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 8 || !text.bytes().all(lower_hex) {
            return None;
        }
        u32::from_str_radix(text, 16).ok().map(|id| KeyId(id.to_be_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SeedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedSigner")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        assert_eq!(hex.len(), 2 * N);
        std::array::from_fn(byte)
    }

    /// RFC 8032 §7.1, TEST 2.
    #[test]
    fn signatures_are_rfc_8032s() {
        let seed = bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let public = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let expected = bytes(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        let signer = SeedSigner::from_seed(&seed);
        let key = VerifyingKey::from_bytes(&public).unwrap();
        assert_eq!(signer.verifying_key(), key);
        assert_eq!(signer.sign(&[0x72]), Signature(expected));
        assert!(key.verify(&[0x72], &Signature(expected)));
        assert!(!key.verify(&[0x73], &Signature(expected)));
        for bit in 0..512 {
            let mut bad = expected;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(&[0x72], &Signature(bad)), "bit {bit}");
        }
        assert_eq!(format!("{signer:?}"), "SeedSigner");
    }

    #[test]
    fn bad_keys_are_refused_where_they_are_introduced() {
        let small = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        ];
        for key in small {
            assert_eq!(VerifyingKey::from_bytes(&bytes(key)), Err(KeyError::SmallOrder), "{key}");
        }
        let spelled_twice = [
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p + 3
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p + 1
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p
            "0100000000000000000000000000000000000000000000000000000000000080", // y = 1, x = -0
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // y = -1, x = -0
        ];
        for key in spelled_twice {
            assert_eq!(VerifyingKey::from_bytes(&bytes(key)), Err(KeyError::NotCanonical), "{key}");
        }
        let none = bytes("0200000000000000000000000000000000000000000000000000000000000000");
        assert_eq!(VerifyingKey::from_bytes(&none), Err(KeyError::NotAPoint));
    }

    /// The equation holds for both signatures; the vectors have more of them.
    #[test]
    fn lax_signatures_are_refused() {
        let key = SeedSigner::from_seed(&[7; 32]).verifying_key();
        let identity_r = bytes(
            "0100000000000000000000000000000000000000000000000000000000000000\
             0d6814ad59a4139b16768d9aeb36afc3a62b3541a57ab5cbe0c2b79948464a00",
        );
        assert!(!key.verify(b"small order R", &Signature(identity_r)));
        let r = "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813f";
        let s = "67d0d37dac68b7c5178bf3a08053b9b6f1ef8901f0837a53f48689db17fa0a0a";
        let s_plus_l = "54a4c9dac6cbc91dee27eb435f4d98cbf1ef8901f0837a53f48689db17fa0a1a";
        assert!(key.verify(b"S is not reduced", &Signature(bytes(&format!("{r}{s}")))));
        assert!(!key.verify(b"S is not reduced", &Signature(bytes(&format!("{r}{s_plus_l}")))));
    }

    #[test]
    fn verifier_keys_are_read_strictly() {
        let good = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        assert!(VerifyingKey::parse_vkey(good).is_ok());
        for (text, error) in [
            (good.replace("530d903a", "530d903b"), KeyError::KeyId),
            (good.replace("example.com/foo", "example.com/fo"), KeyError::KeyId),
            (good.replace("530d903a", "530D903A"), KeyError::VkeyForm),
            (good.replace("530d903a", "+30d903a"), KeyError::VkeyForm),
            (good.replace("530d903a", "530d903"), KeyError::VkeyForm),
            (good.replace("example.com/foo", ""), KeyError::Name),
            (good.replace("example.com/foo", "example com"), KeyError::Name),
            (good.replace("+Aeky", "+BOky"), KeyError::SignatureType { expected: 1, found: 4 }),
            (good.replace("U2k", "U2l="), KeyError::VkeyForm),
            (format!("{good}AA=="), KeyError::VkeyForm),
            ("example.com/foo+530d903a".to_owned(), KeyError::VkeyForm),
            ("example.com/foo+530d903a+".to_owned(), KeyError::VkeyForm),
        ] {
            assert_eq!(VerifyingKey::parse_vkey(&text), Err(error), "{text}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert!(is_name("a") && is_name(&"a".repeat(MAX_NAME_BYTES)));
        assert!(!is_name("") && !is_name(&"a".repeat(MAX_NAME_BYTES + 1)));
        assert!(!is_name("a\u{2003}b") && !is_name("a\nb") && !is_name("a\u{1}b") && !is_name("a+b"));
    }

    proptest! {
        #[test]
        fn what_a_seed_signs_verifies(seed: [u8; 32], message: Vec<u8>) {
            let signer = SeedSigner::from_seed(&seed);
            let key = signer.verifying_key();
            prop_assert_eq!(VerifyingKey::from_bytes(&key.to_bytes()), Ok(key));
            prop_assert!(key.verify(&message, &signer.sign(&message)));
            prop_assert_eq!(VerifyingKey::parse_vkey(&key.vkey("log")), Ok(("log".to_owned(), key)));
        }
    }
}
