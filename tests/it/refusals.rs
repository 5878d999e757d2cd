//! Each refusal of the contract: its status and code, what it points at, and that nothing was stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use varve::http::HttpLimits;
use varve::service::OpenOptions;
use varve::store::memory::{Fault, MemoryBackend, Op};

use crate::server::{Answer, Server};

const EVENTS: &str = "/v1/tenants/acme/events";
const EVENT: &str = r#"{"action":"a.b","outcome":"success"}"#;

/// Entries of acme's log.
fn size(server: &Server) -> u64 {
    server.get("/v1/tenants/acme", &server.operator).json()["size"].as_u64().unwrap()
}

/// Checks a refusal, and that the log is as long as before.
fn refused(
    server: &Server,
    size_before: u64,
    answer: &Answer,
    status: u16,
    code: &str,
    pointer: Option<&str>,
) {
    assert_eq!((answer.code().as_str(), answer.status), (code, status), "{}", answer.body);
    let problem = answer.json();
    assert_eq!(problem.get("pointer").and_then(Value::as_str), pointer, "{problem}");
    assert_eq!(problem["type"], format!("urn:varve:problem:{code}"));
    let is_retryable =
        ["rate_limited", "busy", "outcome_unknown", "storage_full", "query_timeout"].contains(&code);
    assert_eq!(problem["retryable"], is_retryable, "{problem}");
    if matches!(status, 429 | 503 | 507) {
        let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!(seconds >= 1);
    }
    assert_eq!(size(server), size_before, "something was stored: {problem}");
}

#[test]
fn an_event_that_breaks_a_rule() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let deep = format!(
        r#"{{"action":"a","outcome":"success","metadata":{{"a":{}1{}}}}}"#,
        "[".repeat(40),
        "]".repeat(40)
    );
    let targets = vec![r#"{"id":"t"}"#; 33].join(",");
    let many = format!(r#"{{"action":"a","outcome":"success","targets":[{targets}]}}"#);
    for (event, code, pointer) in [
        ("{\"action\":\"a\",", "bad_request", Some("")),
        ("nonsense", "bad_request", Some("")),
        (r#"{"outcome":"success"}"#, "invalid_event", Some("/action")),
        (r#"{"action":"a"}"#, "invalid_event", Some("/outcome")),
        (r#"{"action":"A b","outcome":"success"}"#, "invalid_event", Some("/action")),
        (r#"{"action":"varve.log.created","outcome":"success"}"#, "invalid_event", Some("/action")),
        (r#"{"action":"a","outcome":"fine"}"#, "invalid_event", Some("/outcome")),
        (r#"{"action":"a","outcome":"success","colour":1}"#, "invalid_event", Some("/colour")),
        (r#"{"action":"a","action":"b","outcome":"success"}"#, "invalid_event", Some("/action")),
        (r#"{"action":"a","outcome":"success","id":"a b"}"#, "invalid_event", Some("/id")),
        (r#"{"action":"a","outcome":"success","class":"permanent"}"#, "invalid_event", Some("/class")),
        (r#"{"action":"a","outcome":"success","class":"no-such"}"#, "invalid_event", Some("/class")),
        (
            r#"{"action":"a","outcome":"success","occurred_at":"2026-01-01"}"#,
            "invalid_event",
            Some("/occurred_at"),
        ),
        (r#"{"action":"a","outcome":"success","actor":{"name":"x"}}"#, "invalid_event", Some("/actor/id")),
        (
            r#"{"action":"a","outcome":"success","metadata":{"n":9007199254740992}}"#,
            "invalid_event",
            Some("/metadata/n"),
        ),
        (
            r#"{"action":"a","outcome":"success","metadata":{"$sealed":1}}"#,
            "invalid_event",
            Some("/metadata/$sealed"),
        ),
        (
            r#"{"action":"a","outcome":"success","metadata":{"s":"\ud800"}}"#,
            "invalid_event",
            Some("/metadata/s"),
        ),
        (
            r#"{"action":"a","outcome":"success","producer":{"service":"s","seq":1}}"#,
            "invalid_event",
            Some("/producer/instance"),
        ),
        (&deep, "invalid_event", None),
        (&many, "invalid_event", Some("/targets/32")),
    ] {
        let answer = server.post(EVENTS, &key, event);
        let status = if code == "bad_request" { 400 } else { 422 };
        assert_eq!((answer.code().as_str(), answer.status), (code, status), "{event}: {}", answer.body);
        if pointer.is_some() {
            let at = answer.json()["pointer"].clone();
            assert_eq!(at.as_str(), pointer, "{event}: {}", answer.body);
        }
        assert_eq!(size(&server), 1, "{event} was stored");
        // The same in the middle of a batch: its place is told, and nothing of the batch is stored.
        let lines = format!("{EVENT}\n{event}\n{EVENT}\n");
        let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n");
        let answer = server.ask("POST", EVENTS, &headers, &lines);
        assert_eq!((answer.code().as_str(), &answer.json()["index_in_batch"]), (code, &json!(1)), "{event}");
        assert_eq!(size(&server), 1, "{event} was stored");
    }
}

#[test]
fn a_request_that_cannot_be_read() {
    let server = Server::start();
    let key = server.key(&["ingest", "read", "verify", "admin"]);
    let before = size(&server);
    let bearer = format!("Authorization: Bearer {key}\r\n");
    for (path, pointer) in [
        ("?limit=0", Some("limit")),
        ("?limit=1001", Some("limit")),
        ("?order=up", Some("order")),
        ("?outcome=fine", Some("outcome")),
        ("?since=yesterday", Some("since")),
        ("?action=a.*.b", Some("action")),
        ("?cursor=abc", Some("cursor")),
        ("?limit=1&limit=2", None),
        ("?colour=red", None),
    ] {
        let answer = server.get(&format!("{EVENTS}{path}"), &key);
        refused(&server, before, &answer, 400, "bad_request", pointer);
    }
    let consistency = server.get("/v1/tenants/acme/log/consistency?from=0&to=1", &key);
    refused(&server, before, &consistency, 400, "bad_request", Some("from"));
    let name = server.post("/v1/tenants", &server.operator, r#"{"tenant":"_x"}"#);
    refused(&server, before, &name, 400, "bad_request", Some("/tenant"));
    for (body, pointer) in [
        (r#"{"name":"","scopes":["read"]}"#, Some("/name")),
        (r#"{"name":"n","scopes":[]}"#, Some("/scopes")),
        (r#"{"name":"n","scopes":["read","all"]}"#, Some("/scopes/1")),
        (r#"{"name":"n","scopes":["operator"]}"#, Some("/scopes/0")),
        (r#"{"name":"n","scopes":["read"],"expires_at":"2001-01-01T00:00:00Z"}"#, Some("/expires_at")),
        (r#"{"name":"n"}"#, None),
    ] {
        let answer = server.post("/v1/tenants/acme/keys", &key, body);
        refused(&server, before, &answer, 400, "bad_request", pointer);
    }
    let differs = format!("{bearer}Content-Type: application/json\r\nIdempotency-Key: other\r\n");
    let event = r#"{"id":"one","action":"a","outcome":"success"}"#;
    refused(&server, before, &server.ask("POST", EVENTS, &differs, event), 400, "bad_request", Some("/id"));
    let xml = format!("{bearer}Content-Type: text/xml\r\n");
    refused(&server, before, &server.ask("POST", EVENTS, &xml, EVENT), 415, "unsupported_media_type", None);
    let packed = format!("{bearer}Content-Encoding: gzip\r\n");
    refused(
        &server,
        before,
        &server.ask("POST", EVENTS, &packed, EVENT),
        415,
        "unsupported_media_type",
        None,
    );
    let put = server.ask("PUT", EVENTS, &bearer, "");
    refused(&server, before, &put, 405, "method_not_allowed", None);
}

#[test]
fn what_is_too_large() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let before = size(&server);
    let event = format!(r#"{{"action":"a","outcome":"success","reason":"{}"}}"#, "x".repeat(65_536));
    refused(&server, before, &server.post(EVENTS, &key, &event), 413, "too_large", None);
    let batch = format!("[{EVENT},{event}]");
    let answer = server.post(EVENTS, &key, &batch);
    assert_eq!(answer.json()["index_in_batch"], 1);
    refused(&server, before, &answer, 413, "too_large", None);
    let many = format!("[{}]", vec![EVENT; 1001].join(","));
    refused(&server, before, &server.post(EVENTS, &key, &many), 413, "too_large", None);
    let name = json!({"tenant": "x".repeat(20_000)}).to_string();
    refused(&server, before, &server.post("/v1/tenants", &server.operator, &name), 413, "too_large", None);
}

#[test]
fn what_is_taken_already() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let one = r#"{"id":"one","action":"a","outcome":"success"}"#;
    let other = r#"{"id":"one","action":"b","outcome":"success"}"#;
    assert_eq!(server.post(EVENTS, &key, one).status, 201);
    let before = size(&server);
    refused(&server, before, &server.post(EVENTS, &key, other), 409, "id_conflict", Some("/id"));
    let batch = server.post(EVENTS, &key, &format!("[{EVENT},{other}]"));
    assert_eq!(batch.json()["index_in_batch"], 1);
    refused(&server, before, &batch, 409, "id_conflict", Some("/id"));
    let twice = other.replace("one", "two");
    let twice = server.post(EVENTS, &key, &format!("[{twice},{}]", one.replace("one", "two")));
    refused(&server, before, &twice, 409, "id_conflict", Some("/id"));
    let again = server.post("/v1/tenants", &server.operator, r#"{"tenant":"acme"}"#);
    refused(&server, before, &again, 409, "already_exists", Some("/tenant"));
}

#[test]
fn what_is_held() {
    let server = Server::start();
    let key = server.key(&["ingest", "hold", "erase"]);
    let event = r#"{"action":"a.b","outcome":"success","actor":{"type":"user","id":"u-17"}}"#;
    assert_eq!(server.post(EVENTS, &key, event).status, 201);
    let hold = r#"{"reason":"a case","filter":{"actor":"u-17"}}"#;
    let placed = server.post("/v1/tenants/acme/holds", &key, hold);
    assert_eq!((placed.status, &placed.json()["members"]), (201, &json!(1)), "{}", placed.body);
    let before = size(&server);
    let erasure = r#"{"subject":{"type":"user","id":"u-17"},"basis":"GDPR Art. 17"}"#;
    let answer = server.post("/v1/tenants/acme/erasures", &key, erasure);
    assert!(!answer.body.contains("u-17"), "{}", answer.body);
    refused(&server, before, &answer, 409, "held", None);
}

#[test]
fn what_was_closed() {
    let server = Server::start();
    let (admin, other) = (server.key(&["admin", "read", "ingest"]), server.key(&["admin"]));
    let gateway = server.key_of("_system", &["ingest"]);
    let close = "/v1/tenants/acme/close";
    let wrong = server.post(close, &admin, r#"{"size":7}"#);
    refused(&server, 1, &wrong, 400, "bad_request", Some("/size"));
    let asked = server.post(close, &admin, r#"{"size":1}"#);
    assert_eq!(asked.status, 202, "{}", asked.body);
    let approval = format!("/v1/approvals/{}", asked.json()["approval"]["id"].as_str().unwrap());
    assert_eq!(server.post(&approval, &other, "").status, 200);
    let before = size(&server);
    refused(&server, before, &server.post(EVENTS, &admin, EVENT), 410, "gone", None);
    refused(&server, before, &server.post(EVENTS, &gateway, EVENT), 410, "gone", None);
    refused(&server, before, &server.post(close, &admin, r#"{"size":3}"#), 410, "gone", None);
    assert_eq!(server.get(EVENTS, &admin).status, 200, "reading goes on");
}

#[test]
fn no_room_now() {
    let options = OpenOptions { max_queued_events: 10, ..OpenOptions::default() };
    let server = Server::with(&options, HttpLimits::default());
    let key = server.key(&["ingest"]);
    let batch = format!("[{}]", [EVENT; 11].join(","));
    refused(&server, 1, &server.post(EVENTS, &key, &batch), 503, "busy", None);
    assert_eq!(server.post(EVENTS, &key, EVENT).status, 201, "one fits");

    let limits = HttpLimits { body_memory_bytes: 64 * 1024, ..HttpLimits::default() };
    let server = Server::with(&OpenOptions::default(), limits);
    let key = server.key(&["ingest"]);
    let large = format!("[{}]", vec![EVENT; 900].join(",")) + &" ".repeat(100_000);
    refused(&server, 1, &server.post(EVENTS, &key, &large), 503, "busy", None);
}

#[test]
fn more_than_a_key_may_send() {
    let limits = HttpLimits { rate_limit_events_per_second: 1, ..HttpLimits::default() };
    let server = Server::with(&OpenOptions::default(), limits);
    let (key, other) = (server.key(&["ingest"]), server.key(&["ingest"]));
    let batch = format!("[{}]", vec![EVENT; 20].join(","));
    assert_eq!(server.post(EVENTS, &key, &batch).status, 201, "a burst");
    let before = size(&server);
    refused(&server, before, &server.post(EVENTS, &key, EVENT), 429, "rate_limited", None);
    assert_eq!(server.post(EVENTS, &other, EVENT).status, 201, "another key has its own rate");
}

#[test]
fn a_disk_that_is_nearly_full() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = Server::at(directory.path(), &OpenOptions::default(), HttpLimits::default());
    let key = roomy.key(&["ingest", "read"]);
    drop(roomy);
    let options = OpenOptions { low_water_bytes: u64::MAX, ..OpenOptions::default() };
    let server = Server::at(directory.path(), &options, HttpLimits::default());
    let before = server.get(EVENTS, &key).json()["log"]["size"].as_u64().unwrap();
    refused(&server, before, &server.post(EVENTS, &key, EVENT), 507, "storage_full", None);
    let tenant = server.post("/v1/tenants", &server.operator, r#"{"tenant":"new"}"#);
    refused(&server, before, &tenant, 507, "storage_full", None);
    assert_eq!(server.get(EVENTS, &key).status, 200, "reading goes on");
}

#[test]
fn a_query_that_takes_too_long() {
    let options = OpenOptions { query_time: Duration::ZERO, ..OpenOptions::default() };
    let server = Server::with(&options, HttpLimits::default());
    let key = server.key(&["ingest", "read"]);
    assert_eq!(server.post(EVENTS, &key, &format!("[{}]", vec![EVENT; 900].join(","))).status, 201);
    let answer = server.get(&format!("{EVENTS}?action=no.such"), &key);
    refused(&server, 901, &answer, 504, "query_timeout", None);
}

#[test]
fn a_store_that_has_stopped() {
    let backend = MemoryBackend::default();
    let options = OpenOptions {
        backend: Arc::new(backend.clone()),
        checkpoints: varve::ingest::Pace { interval: Duration::from_millis(50), ..Default::default() },
        ..OpenOptions::default()
    };
    let server = Server::with(&options, HttpLimits::default());
    let key = server.key(&["ingest", "read"]);
    assert_eq!(server.post(EVENTS, &key, EVENT).status, 201);
    backend.fail(Op::Any, 1, Fault::EIO);
    let began = Instant::now();
    while server.service.poisoned().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60));
        let _ = server.post(EVENTS, &key, EVENT);
    }
    let before = size(&server);
    refused(&server, before, &server.post(EVENTS, &key, EVENT), 503, "read_only", None);
    assert_eq!(server.ask("GET", "/readyz", "", "").code(), "read_only");
    assert_eq!(server.ask("GET", "/healthz", "", "").status, 200, "the process answers still");
    server.expect_poison();
}
