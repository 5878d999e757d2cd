//! Each trap of sled, open in plain sled and closed through [`SledBackend`].

use super::*;

fn backend() -> SledBackend {
    SledBackend::new(Watchdog::aborting())
}

#[test]
fn keeps_the_contract_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    crate::store::backend::contract::check(&backend(), &dir.path().join("layer"));
}
