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
        Served::with(&[])
    }

    fn with(flags: &[&str]) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("store");
        let mut child = Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(flags)
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

    /// What a command says that must end with 2: the error, and the hint.
    fn refused(&self, key: &str, arguments: &[&str]) -> String {
        let output = self.run(key, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.lines().last().unwrap().starts_with("hint: "), "{said}");
        said
    }

    fn json(&self, key: &str, arguments: &[&str], input: &str) -> Value {
        serde_json::from_str(&self.ok(key, &[arguments, &["--json"]].concat(), input)).unwrap()
    }

    /// Two keys of `acme` with the scopes.
    fn two_keys(&self, scopes: &str) -> (String, String) {
        let create = ["key", "create", "--tenant", "acme", "--name", "second", "--scope", scopes];
        let first = self.key(scopes);
        (first, self.ok(&self.operator(), &create, "").trim().to_owned())
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

/// The id of the approval that a command printed.
fn approval(printed: &str) -> String {
    let words: Vec<&str> = printed.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("approval", "waits"), "{printed}");
    words[1].to_owned()
}

const OF_TWO: &str = r#"{"action":"authn.login","outcome":"success","actor":{"type":"user","id":"canary-u-17"}}
{"action":"authn.login","outcome":"success","actor":{"type":"user","id":"canary-u-18"}}
"#;

#[test]
fn what_is_held_stays_and_a_person_is_erased() {
    let served = Served::start();
    let (one, two) = served.two_keys("ingest,read,hold,erase");
    served.ok(&one, &["append", "--tenant", "acme"], OF_TWO);

    let place = ["hold", "place", "--tenant", "acme", "--reason", "a case", "--actor", "canary-u-17"];
    let printed = served.ok(&one, &place, "");
    let hold = printed.split_whitespace().nth(1).unwrap().to_owned();
    assert!(printed.contains("in force, 1 body and what is appended and matches"), "{printed}");
    let listed = served.ok(&one, &["hold", "list", "--tenant", "acme"], "");
    assert!(listed.contains(&hold) && listed.contains("matches actor=canary-u-17  a case"), "{listed}");

    let erase = ["erase", "request", "--tenant", "acme", "--type", "user", "--basis", "GDPR Art. 17"];
    let of = |id: &'static str| [&erase[..], &["--id", id]].concat();
    let said = served.refused(&one, &of("canary-u-17"));
    assert!(said.starts_with("error: held: ") && said.contains("varve hold list"), "{said}");

    let release = ["hold", "release", &hold, "--tenant", "acme"];
    let id = approval(&served.ok(&one, &release, ""));
    assert!(served.refused(&one, &["approve", &id]).contains("another one"));
    assert!(served.ok(&two, &["approve", &id], "").contains("released"));
    assert!(served.refused(&two, &["approve", &id]).contains("not_found"));
    assert_eq!(served.ok(&one, &["hold", "list", "--tenant", "acme"], ""), "");

    // The id comes from a pipe, and nothing prints it.
    let waited = served.run(&one, &[&erase[..], &["--id-file", "-", "--wait"]].concat(), "canary-u-17\n");
    let said = String::from_utf8_lossy(&waited.stdout);
    assert_eq!(waited.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&waited.stderr));
    assert!(said.lines().last().unwrap().contains("  done, "), "{said}");
    assert!(!said.contains("canary") && !String::from_utf8_lossy(&waited.stderr).contains("canary"));
    let erasure = said.split_whitespace().nth(1).unwrap().to_owned();
    let shown = served.json(&one, &["erase", "show", &erasure, "--tenant", "acme"], "");
    assert_eq!((shown["id"].as_str(), shown["state"].as_str()), (Some(&*erasure), Some("done")));
    assert!(served.ok(&one, &["erase", "list", "--tenant", "acme"], "").contains("done"));
    let left = served.ok(&one, &["query", "--tenant", "acme", "--action", "authn.login"], "");
    assert!(left.contains("canary-u-18") && !left.contains("canary-u-17"), "{left}");

    // With JSON: what was asked for, then how it stands at the end.
    let lines = served.ok(&one, &[&of("canary-u-18")[..], &["--wait", "--json"]].concat(), "");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["records"].as_u64(), lines[1]["state"].as_str()), (Some(1), Some("done")));
}

#[test]
fn an_erasure_waits_for_another_key_where_that_is_wanted() {
    let served = Served::with(&["--erasure-needs-approval", "--backup-days", "7"]);
    let (one, two) = served.two_keys("ingest,read,erase");
    served.ok(&one, &["append", "--tenant", "acme"], OF_TWO);
    let erase =
        ["erase", "request", "--tenant", "acme", "--type", "user", "--id", "canary-u-17", "--basis", "GDPR"];
    let id = approval(&served.ok(&one, &erase, ""));
    let said = served.refused(&one, &[&erase[..], &["--wait"]].concat());
    assert!(said.contains("waits for another key"), "{said}");
    assert!(served.refused(&one, &["approve", &id]).contains("forbidden"));
    let approved = served.json(&two, &["approve", &id], "");
    assert_eq!(approved["approval"]["state"], "approved");
    let began = std::time::Instant::now();
    loop {
        let all = served.json(&one, &["erase", "list", "--tenant", "acme"], "");
        if let Some(done) = all["erasures"].as_array().unwrap().iter().find(|it| it["state"] == "done") {
            let day =
                |member: &str| chrono::DateTime::parse_from_rfc3339(done[member].as_str().unwrap()).unwrap();
            assert_eq!((day("backups_until") - day("done_at")).num_days(), 7);
            break;
        }
        assert!(began.elapsed().as_secs() < 60, "{all}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_wait_ends_with_its_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // A server on which it never ends. The thread ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = r#"{"id":"3","state":"rewriting","requested_at":"2026","done_at":null,"records":null,"disclosures":0,"held":0,"backups_until":"2026","detail":null}"#;
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    let arguments = "erase request --tenant acme --type user --id u --basis b --wait --timeout 1";
    let output = Command::new(env!("CARGO_BIN_EXE_varve"))
        .args(arguments.split(' '))
        .env("VARVE_URL", url)
        .env("VARVE_KEY", "varve_any")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("not done after 1 second; it goes on") && said.contains("varve erase show 3"),
        "{said}"
    );
}

#[test]
fn a_tenant_is_closed_by_two_keys() {
    let served = Served::start();
    let key = served.key("ingest,read,admin");
    served.ok(&key, &["append", "--tenant", "acme"], OF_TWO);
    let said = served.refused(&key, &["tenant", "close", "acme", "--size", "1"]);
    assert!(said.contains("the log has 3 entries, not 1"), "{said}");
    let id = approval(&served.ok(&key, &["tenant", "close", "acme", "--size", "3"], ""));
    assert!(served.ok(&served.operator(), &["approve", &id], "").contains("the log of acme is closed"));
    let late = served.run(&key, &["append", "--tenant", "acme"], OF_TWO);
    assert_ne!(late.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&late.stderr).contains("gone"), "{late:?}");
    assert_eq!(served.count(&key, &["--actor", "canary-u-17"]), 1);
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
