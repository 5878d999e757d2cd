//! From a parsed event to what the sequencer takes: sealed, committed to, its index tokens computed. Runs on
//! the caller's thread, so that all of it is parallel.

#![expect(clippy::disallowed_methods, reason = "ids that are absent and salts are made here")]

use rand::Rng as _;

use crate::event::Event;
use crate::store::log::{IndexKeys, Log};
use crate::store::read::body_keys;
use crate::tlog::chain::FLAG_OWN;
use crate::tlog::hash::Hash;

/// An event ready to be given an index.
#[derive(Clone)]
pub struct Prepared {
    /// The log it goes to.
    pub log: u32,
    /// Its id in clear, for the receipt.
    pub id: String,
    /// Retention class code.
    pub class: u16,
    /// Entry flags.
    pub flags: u16,
    /// Commitment to the event bytes.
    pub event: Hash,
    /// `Body::encode`.
    pub body: Vec<u8>,
    /// Index tokens.
    pub keys: IndexKeys,
}

/// Fills in `id` and `class` where they are absent. The id is a UUIDv7.
pub fn fill_in(event: &mut Event, class: &str) {
    if event.id().is_none() {
        event.set_id(&uuid::Uuid::now_v7().to_string());
    }
    if event.class().is_none() {
        event.set_class(class);
    }
}

/// Seals an event whose id and class are filled in. Salts are fresh random bytes.
pub fn prepare(log: &Log, event: &Event, class_code: u16) -> Prepared {
    let mut rng = rand::rng();
    let body = event.seal(&mut |salt| rng.fill_bytes(salt));
    let keys = body_keys(&log.identity.index_key, &body);
    let mut encoded = Vec::with_capacity(body.canonical.len() + 256);
    body.encode(&mut encoded);
    Prepared {
        log: log.identity.number,
        id: event.id().unwrap_or_default().to_owned(),
        class: class_code,
        flags: if event.is_own() { FLAG_OWN } else { 0 },
        event: body.event_hash(),
        body: encoded,
        keys,
    }
}
