//! A write whose outcome is not known: the journal's device refuses it while a client waits. The server answers
//! `outcome_unknown`, takes nothing more and ends; after a restart the same id is stored once.
//!
//! The device is the limit on the size of files, which a running process can be given: a write beyond it fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

struct Running {
    child: Child,
    address: String,
}

fn serve(data: &std::path::Path) -> Running {
    // A process that is over its limit gets SIGXFSZ; ignored, the write fails instead, as one to a bad disk does.
    let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_varve"), "serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env_clear()
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("address=")).unwrap();
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    Running { child, address }
}

/// Status and body.
fn ask(running: &Running, method: &str, path: &str, key: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(&running.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text[9..12].parse().unwrap();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn a_write_that_fails_is_unknown_and_its_repeat_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let mut running = serve(&data);
    let operator = std::fs::read_to_string(data.join("operator.key")).unwrap();
    let operator = operator.trim();
    assert_eq!(ask(&running, "POST", "/v1/tenants", operator, "{\"tenant\":\"acme\"}").0, 201);
    let wanted = "{\"name\":\"k\",\"scopes\":[\"ingest\",\"read\"]}";
    let (_, made) = ask(&running, "POST", "/v1/tenants/acme/keys", operator, wanted);
    let key = made["key"].as_str().unwrap().to_owned();
    let events = "/v1/tenants/acme/events";
    let event = "{\"id\":\"once\",\"action\":\"a.b\",\"outcome\":\"success\",\"actor\":{\"id\":\"u\"}}";

    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    let (status, problem) = ask(&running, "POST", events, &key, event);
    assert_eq!((status, &problem["code"]), (503, &Value::from("outcome_unknown")), "{problem}");
    assert_eq!(problem["retryable"], true);
    assert!(problem["pointer"].is_null());
    // It acknowledges nothing more: refused, or gone.
    let ended = Instant::now();
    while running.child.try_wait().unwrap().is_none() {
        assert!(ended.elapsed() < Duration::from_secs(60), "the process ends by itself");
        std::thread::sleep(Duration::from_millis(50));
    }

    let mut running = serve(&data);
    let (status, receipt) = ask(&running, "POST", events, &key, event);
    assert_eq!(status, 201, "{receipt}");
    let (_, page) = ask(&running, "GET", &format!("{events}?action=a.b"), &key, "");
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1), "{page}");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}
