//! The command line against a server of its own: the first ten minutes of a user, and 2,900 real records.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// `varve serve` on a fresh directory and a free port.
struct Served {
    child: Child,
    url: String,
    data: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Served {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("store");
        let mut child = Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("serve said {line:?}"));
        let url = said["url"].as_str().unwrap().to_owned();
        assert_eq!(said["operator_key_file"].as_str(), data.join("operator.key").to_str());
        Served { child, url, data, _directory: directory }
    }

    fn operator(&self) -> String {
        std::fs::read_to_string(self.data.join("operator.key")).unwrap()
    }

    fn run(&self, key: &str, arguments: &[&str], input: &str) -> Output {
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
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must end with 0.
    fn ok(&self, key: &str, arguments: &[&str], input: &str) -> String {
        let output = self.run(key, arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn key(&self, scopes: &str) -> String {
        self.ok(&self.operator(), &["tenant", "create", "acme"], "");
        let create = ["key", "create", "--tenant", "acme", "--name", "first", "--scope", scopes];
        self.ok(&self.operator(), &create, "").trim().to_owned()
    }

    /// How many events a query finds.
    fn count(&self, key: &str, filters: &[&str]) -> usize {
        let query = [&["query", "--tenant", "acme", "--all", "--json"], filters].concat();
        let pages = self.ok(key, &query, "");
        let pages = pages.lines().map(|page| serde_json::from_str::<Value>(page).unwrap());
        pages.map(|page| page["events"].as_array().unwrap().len()).sum()
    }

    /// Asks the server to stop, as an init system does, and waits.
    fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_ten_minutes() {
    let mut served = Served::start();
    let key = served.key("ingest,read,verify");
    assert!(key.starts_with("varve_") && !key.contains(char::is_whitespace));
    let event = r#"{"action":"authn.login","outcome":"failure","actor":{"type":"user","id":"u-17"},"context":{"ip":"203.0.113.9"}}"#;
    let receipt: Value =
        serde_json::from_str(&served.ok(&key, &["append", "--tenant", "acme", "--json"], event)).unwrap();
    assert_eq!(receipt["duplicate"], false);
    assert!(served.ok(&key, &["query", "--tenant", "acme", "--action", "authn.*"], "").contains("u-17"));
    let index = receipt["index"].to_string();
    assert!(
        served.ok(&key, &["prove", &index, "--tenant", "acme"], "").starts_with("c2sp.org/tlog-proof@v1\n")
    );
    assert!(served.ok(&key, &["checkpoint", "--tenant", "acme"], "").contains("/acme\n"));
    assert!(served.ok(&served.operator(), &["tenant", "list"], "").contains("acme"));

    let bad = served.run(&key, &["append", "--tenant", "acme"], "{\"action\":\"a.b\"}\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("-:1: record 1: invalid_event"));
    let foreign = served.run(&key, &["query", "--tenant", "globex"], "");
    assert_eq!(foreign.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&foreign.stderr)
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("hint: "))
    );
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn real_records_are_imported_once() {
    let places = ["../shared/data/cloudtrail", "../../shared/data/cloudtrail"];
    let Some(listing) = places.iter().find_map(|place| std::fs::read_dir(Path::new(place)).ok()) else {
        // Not `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not there; nothing real was imported", places[0]);
        return;
    };
    let files = listing.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned());
    let files: Vec<String> = files.filter(|file| file.ends_with(".gz")).collect();
    let served = Served::start();
    let key = served.key("ingest,read");
    let mut import = vec!["import", "--json", "--format", "cloudtrail", "--tenant", "acme"];
    import.extend(files.iter().map(String::as_str));
    for (appended, duplicates) in [(2900, 0), (0, 2900)] {
        let said: Value = serde_json::from_str(&served.ok(&key, &import, "")).unwrap();
        assert_eq!(said["appended"], appended, "{said}");
        assert_eq!(
            (&said["duplicates"], &said["refused"], &said["files"]),
            (&duplicates.into(), &0.into(), &55.into())
        );
    }
    for (filters, expected) in [
        (&["--action", "aws.kms.decrypt"][..], 178),
        (&["--action", "aws.sts.assume_role"], 49),
        (&["--action", "aws.sts.assume_role", "--outcome", "denied"], 13),
        (&["--ip", "192.168.10.20"], 2154),
        (&["--action", "aws.signin.console_login"], 2),
        (&["--action", "aws.*", "--outcome", "success"], 2600),
    ] {
        assert_eq!(served.count(&key, filters), expected, "{filters:?}");
    }
}
