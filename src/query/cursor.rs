//! Where a page goes on. A cursor is opaque to those who hold it: 34 characters of base64url.
//!
//! ```text
//! version 1 | bound 8 | tag 16
//! tag = the first 16 bytes of keyed BLAKE3 (key: the instance's cursor key) over
//!       "varve v1 cursor" || version 1 || bound 8 || order 1 || log_id 32 || the filter's bytes
//! ```
//!
//! The bound is an index, not a count, so records that are appended meanwhile move nothing. Order, log and
//! filter are not in the cursor but under its tag: with another query it is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::filter::Filter;
use super::run::Order;
use crate::tlog::hash::Hash;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
const CURSOR_BYTES: usize = 1 + 8 + TAG_BYTES;
const CONTEXT: &[u8] = b"varve v1 cursor";

/// A cursor as it arrived; what it says is read when the query runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor([u8; CURSOR_BYTES]);

/// A cursor that was changed, belongs to another query, log or store, or never was one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the cursor is not one that this query was given; send it unchanged, with the same filters and order, or start without it"
)]
pub struct BadCursor;

/// What a cursor is bound to.
pub(super) struct Binding<'a> {
    pub(super) key: &'a [u8; 32],
    pub(super) log_id: &'a Hash,
    pub(super) order: Order,
    pub(super) filter: &'a Filter,
}

impl Cursor {
    /// Reads the text of a cursor.
    ///
    /// # Errors
    /// When no cursor has this text.
    pub fn parse(text: &str) -> Result<Cursor, BadCursor> {
        // Two bytes of room: the engine refuses a longer text for lack of it.
        let mut bytes = [0; CURSOR_BYTES + 2];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| BadCursor)?;
        let (bytes, rest) = bytes[..length].split_first_chunk().ok_or(BadCursor)?;
        if rest.is_empty() { Ok(Cursor(*bytes)) } else { Err(BadCursor) }
    }

    /// The text.
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The cursor for `bound`: the first index not looked at in ascending order, the index after it in
    /// descending order.
    pub(super) fn seal(binding: &Binding<'_>, bound: u64) -> Cursor {
        let mut bytes = [VERSION; CURSOR_BYTES];
        bytes[1..9].copy_from_slice(&bound.to_be_bytes());
        bytes[9..].copy_from_slice(&binding.tag(bound));
        Cursor(bytes)
    }

    /// The bound of a cursor that was made for just this query. The tag is compared in constant time.
    pub(super) fn open(&self, binding: &Binding<'_>) -> Result<u64, BadCursor> {
        let (head, tag) = self.0.split_at(1 + 8);
        let bound = u64::from_be_bytes(head[1..].try_into().map_err(|_| BadCursor)?);
        let is_ours = binding.tag(bound).ct_eq(tag);
        if head[0] == VERSION && bool::from(is_ours) { Ok(bound) } else { Err(BadCursor) }
    }
}

impl Binding<'_> {
    fn tag(&self, bound: u64) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(self.key);
        hasher.update(CONTEXT);
        hasher.update(&[VERSION]);
        hasher.update(&bound.to_be_bytes());
        hasher.update(&[self.order as u8]);
        hasher.update(self.log_id.as_bytes());
        hasher.update(&self.filter.encode());
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_BYTES]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_for_its_own_query_alone() {
        let filter = Filter { actor: Some("a".into()), ..Filter::default() };
        let other = Filter { actor: Some("b".into()), ..Filter::default() };
        let (log_id, other_log) = (Hash([1; 32]), Hash([2; 32]));
        let (key, other_key) = ([3; 32], [4; 32]);
        let binding = |key, log_id, order, filter| Binding { key, log_id, order, filter };
        let ours = binding(&key, &log_id, Order::Desc, &filter);
        let cursor = Cursor::parse(&Cursor::seal(&ours, 77).text()).unwrap();
        assert_eq!(cursor.open(&ours), Ok(77));
        for foreign in [
            binding(&other_key, &log_id, Order::Desc, &filter),
            binding(&key, &other_log, Order::Desc, &filter),
            binding(&key, &log_id, Order::Asc, &filter),
            binding(&key, &log_id, Order::Desc, &other),
        ] {
            assert_eq!(cursor.open(&foreign), Err(BadCursor));
        }
        for bit in 0..CURSOR_BYTES * 8 {
            let mut changed = cursor.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(changed.open(&ours), Err(BadCursor), "bit {bit}");
        }
    }

    #[test]
    fn text_that_is_no_cursor_is_refused() {
        let filter = Filter::default();
        let binding = Binding { key: &[3; 32], log_id: &Hash::ZERO, order: Order::Asc, filter: &filter };
        let text = Cursor::seal(&binding, 1).text();
        assert_eq!(text.len(), 34);
        for bad in [
            "",
            "A",
            &text[1..],
            &format!("{text}="),
            &format!("{text}A"),
            &text.repeat(2),
            &"A".repeat(36),
            "é",
        ] {
            assert_eq!(Cursor::parse(bad), Err(BadCursor), "{bad}");
        }
        // Spare bits of the last character are zero.
        let spare = format!("{}{}", &text[..33], if text.ends_with('A') { 'B' } else { '_' });
        assert!(Cursor::parse(&spare).is_err());
    }
}
