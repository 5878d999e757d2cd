//! No event, key or person in the log, in metrics, in the detail of a problem, or in `Debug`: a server at log level
//! `trace` is sent words that occur nowhere else, in every place where a client can put one, and they are looked for.
//!
//! What is let through, and why: a request id that a client chose stands in the log, it is there to be found; a pointer
//! in a problem may name a member of the sender's own event.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt as _;
use varve::access::Token;
use varve::event::{Builder, Event, Outcome};
use varve::query::{Filter, QueryText};
use varve::service::{BatchMode, OpenOptions, Service, Submitted};
use varve::telemetry::log::filtered;

use super::telemetry::{Answer, ask, bearer, raw};

/// What every canary begins with.
const MARK: &str = "canary7q";

/// The canary of a place. Its letters are those that any name may have.
fn canary(place: &str) -> String {
    format!("{MARK}{place}")
}

/// Every spelling of the mark that was found in `text`: as it is, as a list of bytes (how `Debug` shows them), in
/// hexadecimal, and in Base64 at each of its three phases.
fn spellings_in(text: &str) -> Vec<String> {
    let mark = MARK.as_bytes();
    let list = |between: &str| mark.iter().map(u8::to_string).collect::<Vec<String>>().join(between);
    let hex: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut spellings = vec![MARK.to_owned(), list(", "), list(","), hex.to_uppercase(), hex];
    for phase in 0..3 {
        let shifted = [&b"\0\0"[..phase], mark].concat();
        // Characters that share bits with what stands before and behind are cut off.
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            let whole = encoded[(phase * 8).div_ceil(6)..shifted.len() * 8 / 6].to_owned();
            spellings.push(whole);
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    let found = |spelling: &String| lines.iter().any(|line| line.contains(spelling.as_str()));
    spellings.into_iter().filter(found).collect()
}

/// Fails when a canary stands in `text`, and shows the line.
fn assert_clean(what: &str, text: &str) {
    let spellings = spellings_in(text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| spellings.iter().any(|spelling| line.contains(spelling.as_str())))
        .take(5)
        .collect();
    assert!(spellings.is_empty(), "{what} holds {spellings:?}:\n{}", lines.join("\n"));
}

#[test]
fn a_canary_is_seen_in_every_spelling() {
    let word = canary("x");
    for phase in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(format!("{}{word}", "p".repeat(phase)));
        assert!(!spellings_in(&encoded).is_empty(), "phase {phase}: {encoded}");
    }
    let bytes: Vec<u8> = word.bytes().collect();
    for text in [word.clone(), format!("a {word}-b"), format!("{bytes:?}"), format!("x{}", hex_of(&word))] {
        assert!(!spellings_in(&text).is_empty(), "{text}");
    }
    assert!(spellings_in("canary 7q, 99, 97, 110; nothing").is_empty());
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The control: what is logged on purpose under the server's own filter is seen, and under a foreign name only as a
/// warning.
#[test]
fn a_canary_that_is_logged_is_seen() {
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let said = |say: &dyn Fn()| {
        let kept = Kept::default();
        let out = kept.clone();
        let layer = tracing_subscriber::fmt::layer().json().with_writer(move || out.clone());
        let subscriber = filtered(tracing_subscriber::registry(), "trace").unwrap().with(layer);
        tracing::subscriber::with_default(subscriber, say);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    };
    let word = canary("logged");
    assert!(!spellings_in(&said(&|| tracing::trace!(target: "varve::x", value = word, "own"))).is_empty());
    assert!(!spellings_in(&said(&|| tracing::warn!(target: "sled", value = word, "foreign"))).is_empty());
    assert_clean("a foreign line", &said(&|| tracing::info!(target: "sled", value = word, "foreign")));
}

/// A server of its own, whose log is kept.
struct Watched {
    child: Child,
    address: SocketAddr,
    operator: String,
    directory: tempfile::TempDir,
}

impl Watched {
    fn start() -> Watched {
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .args(["--log-format", "json", "--log-level", "trace", "--data"])
            .arg(directory.path().join("store"))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = said["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        let operator = std::fs::read_to_string(directory.path().join("store/operator.key")).unwrap();
        Watched { child, address, operator: operator.trim().to_owned(), directory }
    }

    fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        ask(self.address, "POST", path, &bearer(key), body)
    }

    fn get(&self, path: &str, key: &str) -> Answer {
        ask(self.address, "GET", path, &bearer(key), "")
    }

    /// Stops it in order and gives its log.
    fn log(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An event with a canary in every member that takes text, and as the name of every member that may have any.
fn full_event() -> Value {
    let c = canary;
    json!({
        "action": format!("{}.act", c("action")), "outcome": "success", "id": c("id"),
        "producer": {"service": c("service"), "instance": c("instance"), "seq": 7},
        "actor": {"type": c("actortype"), "id": c("actor"), "name": c("name"), "email": c("email")},
        "targets": [{"type": c("targettype"), "id": c("target"), "name": c("targetname")}],
        "context": {"case_id": c("case"), "country": c("country"), "ip": c("ip"), "request_id": c("request"),
            "session_id": c("session"), "trace_id": c("trace"), "user_agent": c("agent")},
        "changes": [{"field": c("field"), "from": c("from"), "to": {c("toname"): [c("to")]}}],
        "reason": c("reason"),
        "metadata": {c("metaname"): {"deep": [1, c("meta")]}},
    })
}

/// Events that are refused, each with a canary where it is wrong.
fn bad_events() -> Vec<String> {
    let mut all: Vec<String> = ["action", "outcome", "id", "class", "occurred_at"]
        .into_iter()
        .map(|member| {
            let mut event = json!({"action": "a.b", "outcome": "success"});
            event[member] = format!("{} ö!", canary(member)).into();
            event.to_string()
        })
        .collect();
    let c = canary("bad");
    all.extend([
        format!(r#"{{"action":"a.b","outcome":"success","{c}":1}}"#),
        format!(r#"{{"action":"a.b","outcome":"success","actor":"{c}"}}"#),
        format!(r#"{{"action":"a.b","outcome":"success","actor":{{"id":"{c}","{c}":1}}}}"#),
        format!(r#"{{"action":"a.b","outcome":"success","metadata":{{"{c}":1,"{c}":2}}}}"#),
        format!(r#"{{"action":"a.b","outcome":"success","metadata":{{"{c}":1e999}}}}"#),
        format!(r#"{{"action":"varve.{c}","outcome":"success"}}"#),
        format!(r#"{{"action":"a.b","outcome":"success" "{c}"#),
        format!(r#""{c}""#),
        c,
    ]);
    all
}

/// Details of every problem in an answer, without the pointer and the member names that it repeats.
fn details(answer: &Answer) -> Vec<String> {
    let Ok(body) = serde_json::from_str::<Value>(&answer.body) else { return vec![answer.body.clone()] };
    let results = body["results"].as_array().cloned().unwrap_or_else(|| vec![body]);
    results
        .iter()
        .filter(|problem| problem["code"].is_string())
        .map(|problem| {
            let pointer = problem["pointer"].as_str().unwrap_or_default();
            let mut rest = problem.clone();
            rest["pointer"] = Value::Null;
            rest["detail"] = problem["detail"].as_str().unwrap().replace(pointer, "").into();
            rest.to_string()
        })
        .collect()
}

fn assert_refused(what: &str, answer: &Answer) {
    assert!((400..600).contains(&answer.status), "{what}: {} {}", answer.status, answer.body);
    let details = details(answer);
    assert!(!details.is_empty(), "{what}: {}", answer.body);
    details.iter().for_each(|detail| assert_clean(what, detail));
}

const EVENTS: &str = "/v1/tenants/acme/events";

/// Events that are stored, found and refused.
fn send_events(server: &Watched, key: &str) {
    let event = full_event();
    let stored = server.post(EVENTS, key, &event.to_string());
    assert_eq!(stored.status, 201, "{}", stored.body);
    let index = stored.json()["index"].as_u64().unwrap();
    // Stored again, and in conflict.
    assert_eq!(server.post(EVENTS, key, &event.to_string()).json()["duplicate"], true);
    let mut other = event.clone();
    other["reason"] = canary("otherreason").into();
    assert_refused("a conflict", &server.post(EVENTS, key, &other.to_string()));
    let found = server.get(&format!("{EVENTS}?actor={}&verifiable=true", canary("actor")), key);
    assert_eq!(found.json()["events"].as_array().map(Vec::len), Some(1), "{}", found.body);
    assert_eq!(server.get(&format!("{EVENTS}/{index}?verifiable=true"), key).status, 200);
    assert_eq!(server.get(&format!("{EVENTS}/{index}/proof"), key).status, 200);

    for bad in bad_events() {
        assert_refused(&bad, &server.post(EVENTS, key, &bad));
        let batch = format!("{}\n{bad}\n", json!({"action": "a.b", "outcome": "success"}));
        let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n");
        let path = format!("{EVENTS}?on_error=skip");
        let skipped = ask(server.address, "POST", &path, &headers, &batch);
        details(&skipped).iter().for_each(|detail| assert_clean(&bad, detail));
    }
}

/// Queries, paths, headers and bodies that cannot be read.
fn send_what_is_refused(server: &Watched, key: &str) {
    let c = canary("query");
    for query in [
        format!("outcome={c}"),
        format!("class={c}!"),
        format!("id={c}!!"),
        format!("action={c}!"),
        format!("since={c}"),
        format!("until={c}"),
        format!("occurred_since={c}"),
        format!("order={c}"),
        format!("limit={c}"),
        format!("cursor={c}"),
        format!("verifiable={c}"),
        format!("{c}=1"),
        format!("actor={c}&actor={c}"),
        format!("actor={}", "%ff"),
    ] {
        let answer = server.get(&format!("{EVENTS}?{query}"), key);
        if answer.status != 200 {
            assert_refused(&query, &answer);
        }
    }
    for filter in ["actor", "action", "target", "ip", "request_id", "id"] {
        assert_eq!(server.get(&format!("{EVENTS}?{filter}={c}"), key).status, 200, "{filter}");
    }
    let c = canary("path");
    for path in [
        format!("/{c}"),
        format!("/v1/tenants/{c}"),
        format!("/v1/tenants/{c}/events"),
        format!("/v1/tenants/acme/{c}"),
        format!("{EVENTS}/{c}"),
        format!("{EVENTS}/0/{c}"),
        format!("/v1/tenants/acme/keys/{c}"),
        format!("/v1/tenants/acme/log/{c}"),
        format!("/v1/tenants/%ff{c}/events"),
        format!("/v1/tenants/acme/log/consistency?from={c}&to=1"),
        format!("{EVENTS}?on_error={c}"),
    ] {
        assert_refused(&path, &server.get(&path, key));
        assert_refused(&path, &server.post(&path, key, "{}"));
        ask(server.address, "DELETE", &path, &bearer(&server.operator), "");
        ask(server.address, "PUT", &path, "", &canary("putbody"));
    }
    let c = canary("header");
    let event = r#"{"action":"a.b","outcome":"success"}"#;
    for header in [
        format!("User-Agent: {c}"),
        format!("Cookie: session={c}"),
        format!("X-Forwarded-For: {c}"),
        format!("Referer: http://x/{c}"),
        format!("Accept: {c}/x"),
        format!("X-{c}: {c}"),
        format!("Idempotency-Key: {c}"),
        format!("Idempotency-Key: {c} !"),
        format!("traceparent: {c}"),
        format!("Content-Encoding: {c}"),
        format!("X-Request-Id: \"{c}\""),
        format!("Forwarded: for={c}"),
    ] {
        let answer = ask(server.address, "POST", EVENTS, &format!("{}{header}\r\n", bearer(key)), event);
        if answer.status >= 400 {
            assert_refused(&header, &answer);
        }
    }
    let media = format!("Authorization: Bearer {key}\r\nContent-Type: text/{c}\r\n");
    assert_refused("a media type", &ask(server.address, "POST", EVENTS, &media, event));
    for request in [
        format!("GET /{c} HTTP/9.9\r\n\r\n"),
        format!("{c}\r\n\r\n"),
        format!("GET {c} HTTP/1.1\r\nConnection: close\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{c}\r\n\r\n"),
        format!("POST {EVENTS} HTTP/1.1\r\nHost: x\r\nContent-Length: {c}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: {c}\r\nConnection: close\r\n\r\n"),
        format!("{} /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", canary("METHOD")),
    ] {
        assert_clean(&request, &raw(server.address, request.as_bytes()).body);
    }
}

/// Keys that are none, tenants and keys that cannot be made.
fn send_keys(server: &Watched) {
    let c = canary("key");
    let forged = Token::generate(&mut |bytes| bytes.fill(0x5a)).to_text().to_string();
    for authorization in [
        format!("Bearer {c}"),
        format!("Basic {c}"),
        format!("Bearer varve_{c}_{c}"),
        c.clone(),
        format!("Bearer {forged}"),
        format!("Bearer {forged}{c}"),
    ] {
        let headers = format!("Authorization: {authorization}\r\n");
        assert_refused(&authorization, &ask(server.address, "GET", EVENTS, &headers, ""));
    }
    let tenants = "/v1/tenants";
    for body in [
        json!({"tenant": canary("Tenant")}),
        json!({"tenant": 1, canary("member"): 1}),
        json!({canary("member"): 1}),
    ] {
        assert_refused("a tenant", &server.post(tenants, &server.operator, &body.to_string()));
    }
    let taken = json!({"tenant": canary("taken")}).to_string();
    assert_eq!(server.post(tenants, &server.operator, &taken).status, 201);
    assert_refused("a tenant twice", &server.post(tenants, &server.operator, &taken));
    let keys = "/v1/tenants/acme/keys";
    let named = json!({"name": canary("keyname"), "scopes": ["read"]}).to_string();
    assert_eq!(server.post(keys, &server.operator, &named).status, 201);
    for body in [
        json!({"name": "n", "scopes": [canary("scope")]}),
        json!({"name": format!("{}\u{1}", canary("name")), "scopes": ["read"]}),
        json!({"name": "n", "scopes": ["read"], "expires_at": canary("time")}),
        json!({"name": canary("name"), "scopes": canary("scope")}),
    ] {
        assert_refused("a key", &server.post(keys, &server.operator, &body.to_string()));
    }
}

#[test]
fn nothing_that_is_sent_comes_out_where_it_must_not() {
    let server = Watched::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, r#"{"tenant":"acme"}"#).status, 201);
    let wanted = r#"{"name":"n","scopes":["ingest","read","verify"]}"#;
    let key = server.post("/v1/tenants/acme/keys", &server.operator, wanted).json()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    send_events(&server, &key);
    send_what_is_refused(&server, &key);
    send_keys(&server);
    // The control: this one is let through, so the log that is looked at is the one that was written, at this level.
    let chosen = format!("X-Request-Id: {}\r\n{}", canary("chosen"), bearer(&key));
    assert_eq!(ask(server.address, "GET", EVENTS, &chosen, "").status, 200);

    let metrics = ask(server.address, "GET", "/metrics", "", "").body;
    assert!(metrics.contains("varve_events_appended_total"), "{metrics}");
    assert_clean("/metrics", &metrics);
    let operator = server.operator.clone();
    let log = server.log();
    let (seen, rest): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.contains(&canary("chosen")));
    assert_eq!(seen.len(), 1, "the request id of the control stands in one line: {seen:?}");
    assert!(seen[0].contains("\"answered\"") && seen[0].contains("\"DEBUG\""), "{seen:?}");
    assert!(log.lines().count() > 100, "{}", log.lines().count());
    assert_clean("the log", &rest.join("\n"));
    for secret in [&operator, &key] {
        let secret = secret.rsplit('_').next().unwrap();
        assert!(!log.contains(secret) && !log.contains(&secret[..32]) && !metrics.contains(secret));
    }
    // Every line of the server's log is JSON; what it says to people before it serves is not.
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
}

#[test]
fn debug_shows_no_value() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("store");
    let options = OpenOptions::default();
    let operator = Service::init(&data, Some("test.example"), None, &options).unwrap().operator_key;
    let service = Service::open(&data, &options).unwrap();
    let by = service.authenticate(&operator).unwrap();
    service.create_tenant(&by, "acme").unwrap();
    let scopes = ["ingest".to_owned(), "read".to_owned()];
    let made = service.create_key(&by, "acme", &canary("name"), &scopes, None).unwrap();
    let holder = service.authenticate(&made.key).unwrap();

    let mut event = full_event();
    // `action` and `outcome` are a vocabulary, and `Debug` of an event shows them.
    event["action"] = "a.b".into();
    let raw = event.to_string();
    let submitted = [Submitted { raw: raw.as_bytes(), idempotency_key: None }];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let append = service.append(&holder, "acme", &submitted, BatchMode::Atomic, true);
    let receipts = runtime.block_on(append).unwrap();
    let parsed = Event::parse(raw.as_bytes()).unwrap();
    let mut named = Event::parse(raw.as_bytes()).unwrap();
    named.set_class("security");
    let body = named.seal(&mut |salt| salt.fill(3));
    let text = QueryText { actor: Some(canary("actor")), ip: Some(canary("ip")), ..QueryText::default() };
    let filter = Filter::parse(&text).unwrap();
    let own = Builder::new("varve.service.started", Outcome::Success)
        .metadata("x", canary("x"))
        .reason(&canary("r"));
    let refused = service.query(&holder, "acme", &QueryText { cursor: Some(canary("cursor")), ..text }).err();
    let mut batch = varve::store::backend::Batch::default();
    batch.put(canary("key"), canary("value"));
    let frame = varve::journal::Frame {
        number: 1,
        layer: 1,
        payload: canary("payload").into_bytes(),
        hash: varve::tlog::hash::Hash::ZERO,
    };

    let shown = [
        ("NewKey", format!("{made:?}")),
        ("KeyInfo", format!("{:?}", service.list_keys(&by, "acme").unwrap())),
        ("Principal", format!("{holder:?}")),
        ("Token", format!("{:?}", Token::parse(&made.key).unwrap())),
        ("Receipt", format!("{receipts:?}")),
        ("Event", format!("{parsed:?}")),
        ("Body", format!("{body:?} {:#?}", body.disclosures)),
        ("Examined", format!("{:?}", body.examine().unwrap())),
        ("Filter", format!("{filter:?}")),
        ("Builder", format!("{own:?}")),
        ("Error", format!("{:?}", refused.unwrap())),
        ("Batch", format!("{batch:?}")),
        ("Frame", format!("{frame:?}")),
        ("Telemetry", format!("{:?}", service.telemetry())),
    ];
    let secret = made.key.rsplit('_').next().unwrap().to_owned();
    for (name, text) in shown {
        assert!(text.len() > 3, "{name}");
        assert_clean(name, &text);
        assert!(!text.contains(&secret[..16]), "{name} shows a secret");
    }
    service.stop().unwrap();
}
