//! What is read back: ordered keys and values behind [`backend::Kv`].
//!
//! A store is never what makes an acknowledgement true; the journal is.

pub mod backend;
pub mod memory;
pub mod sled;
