//! API keys: `varve_<id>_<secret><checksum>`.
//!
//! `id` is 16 hex digits and public, `secret` is 64 hex digits (256 random bits), `checksum` is 8 hex digits
//! of BLAKE3 over everything before it, so that a mistyped key and a leaked one are told apart without a
//! look-up. At rest there is only the BLAKE3 of the secret: 256 random bits need no slow hash.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const PREFIX: &str = "varve_";
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 64;
const CHECKSUM_CHARS: usize = 8;

/// A bearer token. `Debug` shows the public id alone.
pub struct Token {
    id: String,
    secret: Zeroizing<String>,
}

/// Text that is no token of Varve's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Prefix, length or alphabet.
    #[error("this is not a Varve key: one reads varve_<id>_<secret><checksum>")]
    Shape,
    /// The checksum says that a character was lost or changed.
    #[error("the key's checksum does not match: a character of it was lost or changed")]
    Checksum,
}

impl Token {
    /// A new token from `random`.
    pub fn generate(random: &mut dyn FnMut(&mut [u8])) -> Token {
        let mut id = [0; ID_CHARS / 2];
        let mut secret = Zeroizing::new([0; SECRET_CHARS / 2]);
        random(&mut id);
        random(&mut secret[..]);
        Token { id: hex(&id), secret: Zeroizing::new(hex(&secret[..])) }
    }

    /// Reads a token.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Shape)?;
        let (id, rest) = rest.split_once('_').ok_or(TokenError::Shape)?;
        let is_hex =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if id.len() != ID_CHARS || rest.len() != SECRET_CHARS + CHECKSUM_CHARS || !is_hex(id) || !is_hex(rest)
        {
            return Err(TokenError::Shape);
        }
        let token = Token { id: id.to_owned(), secret: Zeroizing::new(rest[..SECRET_CHARS].to_owned()) };
        if token.checksum() == rest[SECRET_CHARS..] { Ok(token) } else { Err(TokenError::Checksum) }
    }

    /// The public id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole text: shown once, when the key is made.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", *self.without_checksum(), self.checksum()))
    }

    /// What is kept of the secret.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(self.secret.as_bytes()).as_bytes()
    }

    /// Whether the secret is the one with that digest, in constant time.
    pub fn matches(&self, digest: &[u8; 32]) -> bool {
        self.digest().ct_eq(digest).into()
    }

    fn without_checksum(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}_{}", self.id, *self.secret))
    }

    fn checksum(&self) -> String {
        blake3::hash(self.without_checksum().as_bytes()).to_hex()[..CHECKSUM_CHARS].to_owned()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_no_change_of_it() {
        let mut next = 0u8;
        let token = Token::generate(&mut |bytes| {
            bytes.iter_mut().for_each(|byte| {
                next = next.wrapping_add(37);
                *byte = next;
            })
        });
        let text = token.to_text();
        let read = Token::parse(&text).unwrap();
        assert_eq!(read.id(), token.id());
        assert!(read.matches(&token.digest()));
        assert!(!read.matches(&[0; 32]));
        assert!(!format!("{token:?}").contains(&token.secret[..8]));
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(Token::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "character {at}");
        }
        assert_eq!(Token::parse("Bearer x").unwrap_err(), TokenError::Shape);
    }
}
