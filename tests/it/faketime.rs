//! Fourteen months through the binary that is shipped, under a system time that is not the true one: what is left is what
//! a plain model says, and a proof of the second month holds against the last checkpoint.
//!
//! Needs `faketime` (Debian has it). `VARVE_FAKETIME_EVENTS` says how many events each of five tenants gets in a month (6).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chrono::{DateTime, Months, Utc};
use serde_json::{Value, json};

const TENANTS: [&str; 5] = ["acme", "globex", "hooli", "umbrella", "initech"];
const CLASSES: [(&str, u32); 3] = [("security", 12), ("processing", 2), ("long-evidence", 72)];

/// A command whose system time begins at `at`; its steady clock is the true one.
fn faked(at: DateTime<Utc>) -> Command {
    let mut command = Command::new("faketime");
    command
        .args(["-f", &at.format("@%Y-%m-%d %H:%M:%S").to_string(), env!("CARGO_BIN_EXE_varve")])
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("TZ", "UTC");
    command
}

struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn at(data: &Path, at: DateTime<Utc>) -> Served {
        let mut child = faked(at)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("serve said {line:?}"));
        Served { child, url: said["url"].as_str().unwrap().to_owned() }
    }

    fn run(&self, key: &str, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(arguments)
            .env("VARVE_URL", &self.url)
            .env("VARVE_KEY", key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(mut self) {
        // `faketime` stands between, and passes no signal on.
        let own = self.child.id();
        let below = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let pid = below.split_whitespace().next().map_or_else(|| own.to_string(), str::to_owned);
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

/// Events of one tenant and month, of each class as many.
fn events(month: u32, count: usize) -> String {
    let line = |n: usize| {
        let (class, _) = CLASSES[n % CLASSES.len()];
        json!({
            "action": "authn.login", "outcome": "success", "class": class,
            "actor": {"type": "user", "id": format!("u-{n}")}, "metadata": {"month": month},
        })
        .to_string()
    };
    (0..count).map(|n| line(n) + "\n").collect()
}

#[test]
fn fourteen_months_of_the_shipped_binary() {
    if Command::new("faketime").arg("--version").output().is_err() {
        // Not `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: faketime is not installed; the binary saw no other months");
        return;
    }
    let count = std::env::var("VARVE_FAKETIME_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let start: DateTime<Utc> = "2024-01-31T12:00:00Z".parse().unwrap();
    let at = |month: u32| start.checked_add_months(Months::new(month)).unwrap();
    let mut keys: Vec<String> = Vec::new();
    let mut proof = PathBuf::new();
    for month in 0..14 {
        let served = Served::at(&data, at(month));
        if month == 0 {
            let operator = std::fs::read_to_string(data.join("operator.key")).unwrap();
            for tenant in TENANTS {
                served.run(&operator, &["tenant", "create", tenant], "");
                let scopes = "ingest,read,verify,retention";
                let create = ["key", "create", "--tenant", tenant, "--name", "all", "--scope", scopes];
                keys.push(served.run(&operator, &create, "").trim().to_owned());
            }
        }
        for (tenant, key) in TENANTS.iter().zip(&keys) {
            if month == 0 {
                let set = ["retention", "set", "--tenant", tenant, "--class", "processing=2"];
                served.run(key, &set, "");
            }
            served.run(key, &["append", "--tenant", tenant, "-"], &events(month, count));
        }
        if month == 1 {
            proof = dir.path().join("early.tlog-proof");
            std::fs::write(&proof, served.run(&keys[0], &["prove", "--tenant", "acme", "3"], "")).unwrap();
            let early = served.run(&keys[0], &["checkpoint", "--tenant", "acme"], "");
            std::fs::write(dir.path().join("early.checkpoint"), early).unwrap();
        }
        served.stop();
    }
    // A day before it is fourteen months after the first, so that no month is due in part.
    let now = at(14) - chrono::TimeDelta::days(1);
    let plan = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let output = faked(now)
        .args(["--json", "compact", "--confirm-clock", &now.to_rfc3339()])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let left = plan(&said)["bodies_left"].as_u64().unwrap();

    let served = Served::at(&data, now + chrono::TimeDelta::minutes(10));
    let mut expected_gone = 0;
    for (tenant, key) in TENANTS.iter().zip(&keys) {
        for (class, months) in CLASSES {
            let query =
                ["query", "--tenant", tenant, "--all", "--json", "--action", "authn.login", "--class", class];
            let pages = served.run(key, &query, "");
            let mut found = [0; 14];
            for page in pages.lines() {
                for record in plan(page)["events"].as_array().unwrap() {
                    found
                        [usize::try_from(record["event"]["metadata"]["month"].as_u64().unwrap()).unwrap()] +=
                        1;
                }
            }
            for month in 0..14 {
                let is_due = at(month).checked_add_months(Months::new(months)).unwrap() < now;
                let per_class = count / CLASSES.len();
                expected_gone += if is_due { per_class as u64 } else { 0 };
                let expected = if is_due { 0 } else { per_class };
                assert_eq!(found[month as usize], expected, "{tenant} {class} month {month}");
            }
        }
    }
    assert_eq!(left, expected_gone);
    let checkpoint = dir.path().join("checkpoint");
    std::fs::write(&checkpoint, served.run(&keys[0], &["checkpoint", "--tenant", "acme"], "")).unwrap();
    let shown = served.run(&keys[0], &["tenant", "show", "acme", "--json"], "");
    let vkey = plan(&shown)["public_key"].as_str().unwrap().to_owned();
    served.stop();
    let early = dir.path().join("early.checkpoint");
    let both = ["--checkpoint".as_ref(), early.as_os_str(), "--checkpoint".as_ref(), checkpoint.as_os_str()];
    for arguments in
        [[&[data.as_os_str()][..], &both].concat(), vec![proof.as_os_str(), "--vkey".as_ref(), vkey.as_ref()]]
    {
        let verified =
            Command::new(env!("CARGO_BIN_EXE_varve")).arg("verify").args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(
            verified.status.success(),
            "{arguments:?}: {said}{}",
            String::from_utf8_lossy(&verified.stderr)
        );
    }
    println!("{left} bodies left");
}
