//! The `varve` binary: parse, dispatch, exit code.

fn main() {}
