//! Writes the vectors under `tests/vectors`, or fails when they are stale.

fn main() {}
