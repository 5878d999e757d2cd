//! The tool against a real server, for two seconds.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking, and waits")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The `varve` of the same build, where it has been built: `cargo test --workspace` does.
fn varve() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let varve = test.parent()?.parent()?.join("varve");
    varve.exists().then_some(varve)
}

fn loadgen(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_varve-loadgen"));
    command.args(words).env_remove("VARVE_KEY").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn every_receipt_of_a_real_server_is_good() {
    let Some(varve) = varve() else {
        eprintln!("SKIPPED: no `varve` beside this test; `cargo build` makes it");
        return;
    };
    let varve = varve.to_str().unwrap();
    // Both at once: most of the time they wait.
    let runs = [("50", "1000"), ("1", "100")].map(|(batch, rate)| {
        let run = loadgen(&[
            "steady",
            "--spawn",
            varve,
            "--json",
            "--verify",
            "--batch",
            batch,
            "--rate",
            rate,
            "--connections",
            "3",
            "--tenants",
            "2",
            "--seconds",
            "1",
            "--warmup",
            "0",
            "--ahead-mib",
            "16",
        ])
        .spawn();
        (rate, run.unwrap())
    });
    for (sent, run) in runs {
        let run = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        let result: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        let sent: u64 = sent.parse().unwrap();
        assert_eq!(result["checked"]["receipts_checked"], sent, "{said}");
        // And the genesis entries of two logs.
        assert_eq!(result["checked"]["records_read"], sent + 2, "{said}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let Some(varve) = varve() else {
        eprintln!("SKIPPED: no `varve` beside this test; `cargo build` makes it");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let words =
        ["steady", "--spawn", varve.to_str().unwrap(), "--dir", dir.path().to_str().unwrap(), "--rate", "10"];
    let mut run = loadgen(&words).args(["--batch", "1", "--seconds", "60"]).spawn().unwrap();
    // Whoever has started a server listens to signals already.
    let begun = Instant::now();
    let has_store = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .any(|entry| entry.unwrap().path().join("data/journal").exists())
    };
    while !has_store() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(2));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn no_other_machine_is_a_target() {
    let run = loadgen(&["steady", "--url", "http://192.0.2.1:80"]).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("loopback"));
    assert_eq!(loadgen(&["steady"]).output().unwrap().status.code(), Some(2));
}
