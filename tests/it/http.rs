//! The HTTP door over a socket: who is heard before their body is read, what is refused and how, how it stops.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use varve::http::{self, Drained};
use varve::service::{OpenOptions, Service};

/// A server on a free port, over a store of its own, with one tenant.
struct Server {
    address: SocketAddr,
    operator: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Drained>>,
    service: Service,
    _directory: tempfile::TempDir,
}

/// An answer, taken apart.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Checks the shape that every refusal has, and returns its code.
    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        assert!(problem["retryable"].is_boolean());
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let data: &Path = &directory.path().join("store");
        let operator =
            Service::init(data, Some("test.example"), None, &OpenOptions::default()).unwrap().operator_key;
        let service = Service::open(data, &OpenOptions::default()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let served = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                http::serve(listener, served, async move { drop(stopped.await) }).await.unwrap()
            })
        });
        let address = told.recv().unwrap();
        let server = Server {
            address,
            operator,
            stop: Some(stop),
            thread: Some(thread),
            service,
            _directory: directory,
        };
        let made = server.post("/v1/tenants", &server.operator, "{\"tenant\":\"acme\"}");
        assert_eq!(made.status, 201, "{}", made.body);
        server
    }

    /// A key of `acme`.
    fn key(&self, scopes: &[&str]) -> String {
        let body = json!({"name": "test", "scopes": scopes}).to_string();
        let made = self.post("/v1/tenants/acme/keys", &self.operator, &body);
        assert_eq!(made.status, 201, "{}", made.body);
        made.json()["key"].as_str().unwrap().to_owned()
    }

    fn get(&self, path: &str, key: &str) -> Answer {
        self.ask("GET", path, &format!("Authorization: Bearer {key}\r\n"), "")
    }

    fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n");
        self.ask("POST", path, &headers, body)
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    /// Sends `request` as it is and reads until the server closes.
    fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{head}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ended in a panic");
        }
        let stopped = self.service.stop();
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

const EVENT: &str = r#"{"action":"authn.login","outcome":"failure","actor":{"type":"user","id":"u-17"}}"#;
const EVENTS: &str = "/v1/tenants/acme/events";

#[test]
fn an_event_is_appended_found_proved_and_repeated_harmlessly() {
    let server = Server::start();
    let key = server.key(&["ingest", "read", "verify"]);
    let headers = format!(
        "Authorization: Bearer {key}\r\nContent-Type: application/json\r\nIdempotency-Key: \"k-1\"\r\n"
    );
    let first = server.ask("POST", EVENTS, &headers, EVENT);
    assert_eq!(first.status, 201, "{}", first.body);
    let receipt = first.json();
    assert_eq!((receipt["id"].as_str(), receipt["duplicate"].as_bool()), (Some("k-1"), Some(false)));
    let again = server.ask("POST", EVENTS, &headers, EVENT).json();
    assert_eq!((&again["index"], again["duplicate"].as_bool()), (&receipt["index"], Some(true)));

    let page = server.get(&format!("{EVENTS}?id=k-1"), &key).json();
    assert_eq!(page["events"][0]["index"], receipt["index"]);
    assert_eq!(page["events"][0]["event"]["actor"]["id"], "u-17");
    assert!(page["log"]["size"].as_u64() > receipt["index"].as_u64());
    let index = receipt["index"].as_u64().unwrap();
    assert_eq!(server.get(&format!("{EVENTS}/{index}"), &key).json()["index"], index);
    let proof = server.get(&format!("{EVENTS}/{index}/proof"), &key);
    assert_eq!((proof.status, proof.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert!(proof.body.starts_with("c2sp.org/tlog-proof@v1\n"), "{}", proof.body);
    let checkpoint = server.get("/v1/tenants/acme/log/checkpoint", &key);
    assert!(checkpoint.body.starts_with("test.example/acme\n"), "{}", checkpoint.body);
}

#[test]
fn a_batch_is_whole_or_each_on_its_own() {
    let server = Server::start();
    let key = server.key(&["ingest", "read"]);
    let mixed = format!("[{EVENT},{{\"action\":\"a.b\"}},{EVENT}]");
    let refused = server.post(EVENTS, &key, &mixed);
    assert_eq!((refused.code().as_str(), refused.status), ("invalid_event", 422));
    assert_eq!(refused.json()["index_in_batch"], 1);
    assert_eq!(server.get(&format!("{EVENTS}?action=authn.login"), &key).json()["events"], json!([]));

    let skipped = server.post(&format!("{EVENTS}?on_error=skip"), &key, &mixed);
    assert_eq!(skipped.status, 200);
    let results = skipped.json()["results"].clone();
    assert!(results[0]["index"].is_u64() && results[2]["index"].is_u64(), "{results}");
    assert_eq!((&results[1]["code"], &results[1]["index_in_batch"]), (&json!("invalid_event"), &json!(1)));

    let lines = format!("{EVENT}\n\n{EVENT}\n");
    let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n");
    let stored = server.ask("POST", EVENTS, &headers, &lines);
    assert_eq!((stored.status, stored.json()["receipts"].as_array().map(Vec::len)), (201, Some(2)));
    let named = format!("{headers}Idempotency-Key: a\r\n");
    assert_eq!(server.ask("POST", EVENTS, &named, &lines).code(), "bad_request");
    assert_eq!(server.post(&format!("{EVENTS}?on_error=secret"), &key, EVENT).code(), "bad_request");
    assert_eq!(server.post(EVENTS, &key, &format!("[{}]", vec!["{}"; 1001].join(","))).code(), "too_large");
}

#[test]
fn the_key_is_checked_before_the_body_is_read() {
    let server = Server::start();
    let (reader, writer) = (server.key(&["read"]), server.key(&["ingest"]));
    // The body never comes: whoever waits for it does not answer.
    let head = |path: &str, key: &str, more: &str| {
        let headers = format!(
            "Authorization: Bearer {key}\r\nContent-Length: 4000000\r\nExpect: 100-continue\r\n{more}"
        );
        server.raw(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"))
    };
    let json = "Content-Type: application/json\r\n";
    let started = Instant::now();
    assert_eq!(head(EVENTS, "varve_no_key", json).code(), "unauthenticated");
    assert_eq!(head(EVENTS, &reader, json).code(), "forbidden");
    assert_eq!(head("/v1/tenants/globex/events", &writer, json).code(), "not_found");
    assert_eq!(head("/v1/tenants/acme/keys", &writer, json).code(), "forbidden");
    assert_eq!(head(EVENTS, &writer, "Content-Type: text/plain\r\n").code(), "unsupported_media_type");
    assert_eq!(head(&format!("{EVENTS}?on=1"), &writer, json).code(), "bad_request");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_body_over_its_limit_is_refused_announced_or_not() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let announced = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: 4194305\r\nExpect: 100-continue\r\n\r\n"
    );
    assert_eq!(server.raw(&announced).code(), "too_large");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // 256 chunks of 16 KiB are exactly 4 MiB; one byte more is too much.
    for _ in 0..256 {
        stream.write_all(chunk.as_bytes()).unwrap();
    }
    stream.write_all(b"1\r\n \r\n").unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[test]
fn a_foreign_tenant_and_a_missing_one_read_the_same() {
    let server = Server::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, "{\"tenant\":\"globex\"}").status, 201);
    let key = server.key(&["admin", "ingest", "read", "verify"]);
    for path in [
        "",
        "/keys",
        "/events",
        "/events/0",
        "/events/0/proof",
        "/log/checkpoint",
        "/log/consistency?from=0&to=1",
    ] {
        let foreign = server.get(&format!("/v1/tenants/globex{path}"), &key);
        let missing = server.get(&format!("/v1/tenants/nobody{path}"), &key);
        assert_eq!((foreign.status, foreign.code().as_str()), (404, "not_found"), "{path}");
        assert_eq!(foreign.body, missing.body, "{path}");
    }
}

#[test]
fn keys_are_listed_without_their_secret_and_end_when_revoked() {
    let server = Server::start();
    let key = server.key(&["read"]);
    let listing = server.get("/v1/tenants/acme/keys", &server.operator);
    let secret = key.rsplit('_').next().unwrap();
    assert!(
        !listing.body.contains(&key) && !listing.body.contains(secret) || secret.len() < 8,
        "{}",
        listing.body
    );
    let id = listing.json()["keys"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tenants/acme/keys/{id}");
    assert_eq!(server.get(&path, &server.operator).json()["id"], id.as_str());
    assert_eq!(server.get("/v1/tenants/acme", &key).status, 200);
    let bearer = format!("Authorization: Bearer {}\r\n", server.operator);
    assert_eq!(server.ask("DELETE", &path, &bearer, "").status, 204);
    let started = Instant::now();
    while server.get("/v1/tenants/acme", &key).status != 401 {
        assert!(started.elapsed() < Duration::from_secs(1), "a revoked key is still taken");
    }
}

#[test]
fn what_no_route_answers_is_a_problem_too() {
    let server = Server::start();
    let key = server.key(&["read"]);
    assert_eq!(server.get("/v1/nothing", &key).code(), "not_found");
    let put = server.ask("PUT", "/v1/tenants", "", "");
    assert_eq!((put.status, put.code().as_str()), (405, "method_not_allowed"));
    assert!(put.header("allow").is_some_and(|methods| methods.contains("POST")));
    let nobody = server.ask("GET", EVENTS, "", "");
    assert_eq!(
        (nobody.code().as_str(), nobody.header("www-authenticate")),
        ("unauthenticated", Some("Bearer"))
    );
    for (path, code) in [
        (format!("{EVENTS}?actr=x"), "bad_request"),
        (format!("{EVENTS}?limit=x"), "bad_request"),
        (format!("{EVENTS}/first"), "bad_request"),
        ("/v1/tenants/%ff/events".to_owned(), "bad_request"),
        (format!("{EVENTS}/999999"), "not_found"),
    ] {
        assert_eq!(server.get(&path, &key).code(), code, "{path}");
    }
    let chosen = server.ask("GET", "/healthz", "X-Request-Id: mine-1\r\n", "");
    assert_eq!((chosen.status, chosen.header("x-request-id")), (200, Some("mine-1")));
    let insane = server.ask("GET", "/readyz", "X-Request-Id: a\"b\r\n", "");
    assert_ne!((insane.status, insane.header("x-request-id")), (200, Some("a\"b")));
}
