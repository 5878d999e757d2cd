//! Terms: what an event can be found by, and the tokens that stand for them in an index.
//!
//! An index holds tokens only, keyed for one log: who copies it learns neither an actor nor an address,
//! and two logs' tokens cannot be joined.

use super::canonical::{Members, string_value};
use super::view::BodyView;

/// What a term is about. The codes are part of the format of index chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// `actor.id`.
    Actor = 1,
    /// `action`, whole.
    Action = 2,
    /// The start of `action` up to and with a dot: `aws.` and `aws.kms.` of `aws.kms.decrypt`.
    ActionPrefix = 3,
    /// `id` of a target.
    Target = 4,
    /// `outcome`.
    Outcome = 5,
    /// `context.ip`.
    Ip = 6,
    /// `class`.
    Class = 7,
    /// `context.request_id`.
    RequestId = 8,
    /// `id`.
    Id = 9,
}

impl Field {
    /// All fields.
    pub const ALL: [Field; 9] = [
        Field::Actor,
        Field::Action,
        Field::ActionPrefix,
        Field::Target,
        Field::Outcome,
        Field::Ip,
        Field::Class,
        Field::RequestId,
        Field::Id,
    ];

    /// The field's code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The field with a code.
    pub fn from_code(code: u8) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.code() == code)
    }
}

/// Visits the terms of a body, in no set order; a value that two targets share comes twice. Terms of
/// withheld values are not visited. The body must have been checked, or made here; other bytes give
/// terms that mean nothing.
pub fn terms(body: &BodyView<'_>, visit: &mut dyn FnMut(Field, &[u8])) {
    for (name, value) in Members::new(body.canonical) {
        let field = match name {
            b"action" => Field::Action,
            b"class" => Field::Class,
            b"id" => Field::Id,
            b"outcome" => Field::Outcome,
            // Names ascend: nothing after `outcome` is a term.
            b"producer" | b"reason" | b"targets" | b"varve" => break,
            _ => continue,
        };
        let Some(text) = string_value(value) else { continue };
        visit(field, text.raw);
        if field == Field::Action {
            prefixes(text.raw, visit);
        }
    }
    for disclosure in &body.disclosures {
        let wanted: &[(&[u8], Field)] = match disclosure.path {
            "/actor" => &[(b"id", Field::Actor)],
            "/context" => &[(b"ip", Field::Ip), (b"request_id", Field::RequestId)],
            path if path.starts_with("/targets/") => &[(b"id", Field::Target)],
            _ => continue,
        };
        for (name, value) in Members::new(disclosure.value) {
            let found = wanted.iter().find(|(wanted, _)| *wanted == name);
            if let (Some(&(_, field)), Some(text)) = (found, string_value(value)) {
                visit(field, &text.decode());
            }
        }
    }
}

/// Visits the starts of an action.
pub(super) fn prefixes(action: &[u8], visit: &mut dyn FnMut(Field, &[u8])) {
    for (place, _) in action.iter().enumerate().filter(|(_, byte)| **byte == b'.') {
        visit(Field::ActionPrefix, &action[..=place]);
    }
}

/// The token of a term: BLAKE3 keyed with the log's index key over the field's code and the value, the
/// first 16 bytes.
pub fn token(key: &[u8; 32], field: Field, value: &[u8]) -> [u8; 16] {
    // One block at most, as nearly all are, needs no hasher that could take more.
    let mut block = [field.code(); blake3::BLOCK_LEN];
    let digest = if let Some(place) = block.get_mut(1..=value.len()) {
        place.copy_from_slice(value);
        blake3::keyed_hash(key, &block[..=value.len()])
    } else {
        blake3::Hasher::new_keyed(key).update(&[field.code()]).update(value).finalize()
    };
    let mut token = [0; 16];
    token.copy_from_slice(&digest.as_bytes()[..16]);
    token
}
