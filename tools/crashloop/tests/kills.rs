//! A short run of the loop: what CI does at each push.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn twenty_kills_lose_nothing() {
    let run = Command::new(env!("CARGO_BIN_EXE_varve-crashloop"))
        .args(["--cycles", "20", "--seed", "7"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    // A build with the safeguard taken out must be caught.
    assert_eq!(run.status.success(), !cfg!(feature = "unsafe-ack-before-journal"), "{said}");
}
