//! The clients that docs/CLIENTS.md shows in other languages, run as they stand there against a real server.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::away::{Proxy, Server, Wire};

/// Lines that a snippet may have: what is longer is not copied by hand.
const MAX_LINES: usize = 40;

/// Takes a command a line (`record {…}`, `flush`, `rejected`), answers each with a line.
const PYTHON_DRIVER: &str = r#"
import json, sys
from varve_client import Varve
varve = Varve(*sys.argv[1:5], max_bytes=int(sys.argv[5]))
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "record": varve.record(json.loads(rest)); print("recorded")
    if word == "flush": print("all" if varve.flush() == 0 else "not all")
    if word == "rejected": print(json.dumps([result["code"] for _, result in varve.rejected]))
    sys.stdout.flush()
"#;

const NODE_DRIVER: &str = r#"
import { createInterface } from "node:readline";
const { varve } = await import(process.argv[2]);
const [url, tenant, key, spool, maxBytes] = process.argv.slice(3);
const client = varve(url, tenant, key, spool, Number(maxBytes));
for await (const line of createInterface({ input: process.stdin })) {
  const [word, rest] = line.split(/ (.*)/s);
  if (word === "record") { client.record(JSON.parse(rest)); console.log("recorded"); }
  if (word === "flush") console.log((await client.flush()) === 0 ? "all" : "not all");
  if (word === "rejected") console.log(JSON.stringify(client.rejected.map(([, result]) => result.code)));
}
"#;

/// A process that runs a snippet.
struct Snippet {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Snippet {
    fn start(mut command: Command, url: &str, key: &str, spool: &Path, max_bytes: usize) -> Snippet {
        command.args([url, "acme", key]).arg(spool).arg(max_bytes.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Snippet { child, to, from }
    }

    fn say(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the snippet ended at {command:?}");
        line.trim().to_owned()
    }

    fn record(&mut self, id: &str) {
        let event = json!({"id": id, "action": "authn.login", "outcome": "denied", "reason": "é\n\"x\""});
        assert_eq!(self.say(&format!("record {event}")), "recorded");
    }

    /// Asks until all is sent; its own pauses are for who has time.
    fn flush(&mut self) {
        let is_all = (0..200).any(|_| self.say("flush") == "all");
        assert!(is_all, "the snippet does not get its spool sent");
    }
}

impl Drop for Snippet {
    fn drop(&mut self) {
        // Killed, as a service may be: nothing may depend on a clean end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients").join(name)
}

/// What every snippet must do. `command` makes a process; the arguments are added.
fn holds(command: &dyn Fn() -> Command) {
    let mut server = Server::start();
    let wire = Proxy::to(server.address());
    let key = server.key(&["ingest"]);
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    let start = |url: &str, max_bytes| Snippet::start(command(), url, &key, &spool, max_bytes);

    // Up: appended, also without an id, and what is refused holds up nothing.
    let mut snippet = start(&wire.url(), 1 << 20);
    snippet.record("a");
    assert_eq!(snippet.say(r#"record {"action":"authn.login","outcome":"success"}"#), "recorded");
    assert_eq!(snippet.say(r#"record {"id":"bad","action":"authn.login"}"#), "recorded");
    snippet.record("b");
    snippet.flush();
    assert_eq!(snippet.say("rejected"), r#"["invalid_event"]"#.to_owned());
    assert_eq!(server.ids("authn.login").len(), 3);
    assert_eq!(snippet.say("flush"), "all");

    // Away: spooled, readable for its user alone; a crash tears the last line.
    server.away();
    snippet.record("c");
    snippet.record("d");
    assert_eq!(snippet.say("flush"), "not all");
    drop(snippet);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&spool).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut torn = std::fs::OpenOptions::new().append(true).open(&spool).unwrap();
    torn.write_all(b"\n60 {\"id\":\"torn\",\"act").unwrap();

    // Back, with answers that are lost: stored once.
    server.back();
    wire.set(Wire::LosesAnswers);
    let mut snippet = start(&wire.url(), 1 << 20);
    snippet.record("e");
    assert_eq!(snippet.say("flush"), "not all");
    assert!(wire.lost() > 0);
    wire.set(Wire::Carries);
    snippet.flush();
    drop(snippet);

    // Full: counted, and the count survives a kill, a lost answer, and drops while it is on its way.
    let mut snippet = start(&wire.url(), 300);
    (0..9).for_each(|number| snippet.record(&format!("f-{number}")));
    drop(snippet);
    // A kill while the count was being taken to the spool.
    std::fs::rename(directory.path().join("spool.dropped"), directory.path().join("spool.sealed")).unwrap();
    let mut snippet = start(&wire.url(), 300);
    snippet.record("g");
    wire.set(Wire::LosesAnswers);
    assert_eq!(snippet.say("flush"), "not all");
    snippet.record("h");
    wire.set(Wire::Carries);
    snippet.flush();

    let events = server.events();
    let is_told = |event: &&Value| event["action"] == "producer.events_dropped";
    let dropped: u64 =
        events.iter().filter(is_told).map(|told| told["metadata"]["count"].as_u64().unwrap()).sum();
    let stored = server.ids("authn.login");
    let full =
        stored.iter().filter(|id| id.starts_with("f-") || ["g", "h"].contains(&id.as_str())).count() as u64;
    assert!(
        events.iter().filter(is_told).count() > 1 && full > 0 && full + dropped == 11,
        "{full} {dropped}"
    );
    let rest: Vec<&String> =
        stored.iter().filter(|id| ["a", "b", "c", "d", "e"].contains(&id.as_str())).collect();
    assert_eq!(rest, ["a", "b", "c", "d", "e"]);
    let mut once = stored.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), stored.len());
}

/// Said past the harness, which keeps what a passing test prints to itself.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn answers(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn snippets_are_short() {
    for name in ["varve_client.py", "varve-client.ts"] {
        let text = std::fs::read_to_string(docs(name)).unwrap();
        assert!(text.lines().count() <= MAX_LINES, "{name}");
    }
}

#[test]
fn the_python_snippet_holds() {
    if answers(Command::new("python3").args(["-c", "import sys; assert sys.version_info >= (3, 8)"]))
        .is_none()
    {
        return skipped("there is no python3 of 3.8 or newer; docs/clients/varve_client.py was not run");
    }
    holds(&|| {
        let mut command = Command::new("python3");
        command.args(["-B", "-c", PYTHON_DRIVER]).env("PYTHONPATH", docs(""));
        command
    });
}

#[test]
fn the_typescript_snippet_holds() {
    let version = answers(Command::new("node").arg("--version")).unwrap_or_default();
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if major < 20 {
        return skipped("there is no node of 20 or newer; docs/clients/varve-client.ts was not run");
    }
    let directory = tempfile::tempdir().unwrap();
    let driver = directory.path().join("driver.mjs");
    std::fs::write(&driver, NODE_DRIVER).unwrap();
    let strips = (major, minor) >= (22, 6);
    let snippet = if strips {
        docs("varve-client.ts")
    } else {
        // This node knows no types: they are taken out here.
        let plain = directory.path().join("varve-client.mjs");
        std::fs::write(&plain, without_types(&std::fs::read_to_string(docs("varve-client.ts")).unwrap()))
            .unwrap();
        plain
    };
    holds(&|| {
        let mut command = Command::new("node");
        if strips {
            command.args(["--experimental-strip-types", "--no-warnings"]);
        }
        command.arg(&driver).arg(&snippet);
        command
    });
}

/// The snippet as JavaScript. Its types are the few below, each after a colon; anything else fails to parse.
fn without_types(typescript: &str) -> String {
    const TYPES: [&str; 6] = ["Promise<number>", "string[]", "any[]", "string", "void", "any"];
    TYPES.iter().fold(typescript.to_owned(), |text, name| {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(&format!(": {name}")) {
            out.push_str(before);
            let ends = after.starts_with([',', ')', ';', ' ']);
            if !ends {
                out.push_str(&format!(": {name}"));
            }
            rest = after;
        }
        out + rest
    })
}
