//! The proof core: hashes, chain, tree, signatures, notes. Pure; knows no I/O, clock or randomness.

pub mod hash;
