//! The proof core: hashes, chain, tree, signatures, notes. Pure; knows no I/O, clock or randomness.
//!
//! Everything here works on bytes that were already read and answers with values or an error; what
//! the bytes mean is `docs/format/tlog.md`. Each error has a `kind`: the stable word by which
//! findings, test vectors and the independent verifier name it.

pub mod chain;
pub mod checkpoint;
pub mod hash;
pub mod key;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod receipt;
pub mod tile;
