//! What a running server tells of itself: metrics against their table in the documents, readiness, entries of refused
//! keys.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use varve::http;
use varve::service::{OpenOptions, Service};
use varve::verify;

/// An answer: status, head, body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One request on a connection of its own. What is no HTTP comes back with status 0.
pub(super) fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    // A server that has heard enough may reset the connection; what it said before counts.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(super) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    raw(address, request.as_bytes())
}

pub(super) fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n")
}

/// A server in this process, over a store of its own, with the tenant `acme`.
struct Server {
    address: SocketAddr,
    operator: String,
    service: Service,
    data: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    directory: Option<tempfile::TempDir>,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let data: &Path = &directory.path().join("store");
        let options = OpenOptions { heartbeat_seconds: 0, ..OpenOptions::default() };
        let operator = Service::init(data, Some("test.example"), None, &options).unwrap().operator_key;
        let service =
            Service::open(data, &OpenOptions { heartbeat_seconds: 0, ..OpenOptions::default() }).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let served = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                http::serve(
                    listener,
                    served,
                    http::HttpLimits::default(),
                    async move { drop(stopped.await) },
                )
                .await
                .unwrap();
            });
        });
        let server = Server {
            address: told.recv().unwrap(),
            operator,
            service,
            data: data.to_owned(),
            stop: Some(stop),
            thread: Some(thread),
            directory: Some(directory),
        };
        assert_eq!(server.post("/v1/tenants", &server.operator, r#"{"tenant":"acme"}"#).status, 201);
        server
    }

    fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        ask(self.address, "POST", path, &bearer(key), body)
    }

    fn get(&self, path: &str, key: &str) -> Answer {
        ask(self.address, "GET", path, &bearer(key), "")
    }

    fn key(&self, tenant: &str, scopes: &[&str], expires_at: Option<&str>) -> (String, String) {
        let mut wanted = json!({"name": "test", "scopes": scopes});
        if let Some(at) = expires_at {
            wanted["expires_at"] = at.into();
        }
        let made = self.post(&format!("/v1/tenants/{tenant}/keys"), &self.operator, &wanted.to_string());
        assert_eq!(made.status, 201, "{}", made.body);
        let made = made.json();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    fn scrape(&self) -> String {
        let scraped = ask(self.address, "GET", "/metrics", "", "");
        assert_eq!(scraped.status, 200, "{}", scraped.body);
        assert_eq!(scraped.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        scraped.body
    }

    fn metric(&self, series: &str) -> f64 {
        let text = self.scrape();
        value(&text, series).unwrap_or_else(|| panic!("{series} is not in {text}"))
    }

    /// Entries of refused keys in `_system`: facts and events, oldest first.
    fn refusals(&self) -> Vec<Value> {
        let page = self
            .get(
                "/v1/tenants/_system/events?action=varve.api_key.refused&order=asc&limit=1000",
                &self.operator,
            )
            .json();
        page["events"].as_array().unwrap().iter().map(|record| record["event"].clone()).collect()
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
        let stopped = self.service.stop();
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The value of one series.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

const EVENT: &str = r#"{"action":"authn.login","outcome":"failure","actor":{"type":"user","id":"u-17"}}"#;
const EVENTS: &str = "/v1/tenants/acme/events";

/// Name → (type, names of labels).
type Table = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics of a scrape. `le` belongs to the type, not to the labels.
fn scraped(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            table.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of = |end: &&str| name.strip_suffix(end).is_some_and(|name| table.contains_key(name));
        let end = ["", "_bucket", "_sum", "_count"].into_iter().find(|end| of(end));
        let metric = end.and_then(|end| table.get_mut(name.strip_suffix(end)?));
        let metric = metric.unwrap_or_else(|| panic!("{name} has no type"));
        // Values hold neither quotes nor commas, so this reads them whole.
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once("=\""));
        metric.1.extend(labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le"));
    }
    table
}

/// The table of metrics in the documents: `| name | type | labels | what |`.
fn documented() -> Table {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md")).unwrap();
    let section =
        text.split("\n## Metrics and logs\n").nth(1).unwrap().split("\n| histogram |").next().unwrap();
    let word = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows =
        section.lines().filter(|line| line.starts_with("| `varve_") || line.starts_with("| `process_"));
    let mut table = Table::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 4, "{row}");
        assert!(cells[3].trim().len() > 10, "{row}");
        let labels = cells[2].split_whitespace().map(word).filter(|label| label != "–").collect();
        let before = table.insert(word(cells[0]), (word(cells[1]), labels));
        assert!(before.is_none(), "twice: {row}");
    }
    table
}

#[test]
fn the_table_of_metrics_is_what_a_scrape_shows() {
    let server = Server::start();
    let (_, key) = server.key("acme", &["ingest", "read"], None);
    assert_eq!(server.post(EVENTS, &key, EVENT).status, 201);
    let (documented, scraped) = (documented(), scraped(&server.scrape()));
    let names = |table: &Table| table.keys().cloned().collect::<BTreeSet<String>>();
    let only_here: Vec<String> = names(&documented).difference(&names(&scraped)).cloned().collect();
    let only_there: Vec<String> = names(&scraped).difference(&names(&documented)).cloned().collect();
    assert!(only_here.is_empty(), "documented and not scraped: {only_here:?}");
    assert!(only_there.is_empty(), "scraped and not documented: {only_there:?}");
    for (name, metric) in &documented {
        assert_eq!(metric, &scraped[name], "{name}");
    }
}

#[test]
fn what_happens_is_counted() {
    let server = Server::start();
    let (id, key) = server.key("acme", &["ingest"], None);
    let batch = format!("[{EVENT},{EVENT},{{\"action\":\"a.b\"}}]");
    assert_eq!(server.post(&format!("{EVENTS}?on_error=skip"), &key, &batch).status, 200);
    let named = r#"{"id":"e-1","action":"a.b","outcome":"success"}"#;
    assert_eq!(server.post(EVENTS, &key, named).status, 201);
    assert_eq!(server.post(EVENTS, &key, named).status, 201);
    assert_eq!(server.post(EVENTS, &key, &batch).status, 422);
    assert_eq!(server.get(EVENTS, &key).status, 403);
    assert_eq!(server.get("/nothing/here", &key).status, 404);

    // The entry of the refused use goes through the queue by itself.
    let started = Instant::now();
    while server.refusals().is_empty() || server.metric("varve_queue_events") > 0.0 {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = server.scrape();
    let is = |series: &str, expected: f64| {
        assert_eq!(value(&text, series), Some(expected), "{series} in {text}");
    };
    is("varve_events_appended_total", 3.0);
    is("varve_events_duplicate_total", 1.0);
    is("varve_events_refused_total{code=\"invalid_event\"}", 4.0);
    is("varve_events_refused_total{code=\"busy\"}", 0.0);
    let route = |rest: &str| format!("{{route=\"/v1/tenants/{{tenant}}/events\",method=\"POST\"{rest}}}");
    is(&format!("varve_http_answers_total{}", route(",class=\"2xx\"")), 3.0);
    is(&format!("varve_http_answers_total{}", route(",class=\"4xx\"")), 1.0);
    is(&format!("varve_http_answer_duration_seconds_count{}", route("")), 4.0);
    is("varve_http_answers_total{route=\"other\",method=\"GET\",class=\"4xx\"}", 1.0);
    is("varve_http_refusals_total{code=\"forbidden\"}", 1.0);
    is("varve_api_key_refusals_total{reason=\"scope\"}", 1.0);
    is("varve_append_duration_seconds_count", 2.0);
    is("varve_logs", 2.0);
    is("varve_ready", 1.0);
    is("varve_poisoned", 0.0);
    is("varve_clock_stepped", 0.0);
    is("varve_build_info{version=\"0.1.0\"}", 1.0);
    // `_system`: its genesis, the operator's key, a stop, a start, a tenant, a key, the refusal. acme: its genesis and
    // three.
    is("varve_published_entries", 11.0);
    let groups = value(&text, "varve_journal_sync_duration_seconds_count").unwrap();
    assert!(groups >= 5.0 && value(&text, "varve_group_events_count") == Some(groups), "{groups}");
    assert!(value(&text, "varve_journal_sync_duration_seconds_sum").unwrap() > 0.0);
    for part in ["journal", "state"] {
        assert!(value(&text, &format!("varve_store_bytes{{part=\"{part}\"}}")).unwrap() > 0.0, "{part}");
    }
    assert!(value(&text, "varve_disk_free_bytes") > value(&text, "varve_disk_low_water_bytes"), "{text}");
    for never in ["acme", id.as_str(), "u-17", "e-1", "nothing/here"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
}

#[test]
fn levels_follow_the_write_path() {
    let server = Server::start();
    let (_, key) = server.key("acme", &["ingest"], None);
    assert_eq!(server.post(EVENTS, &key, EVENT).status, 201);
    let started = Instant::now();
    // Applied soon; HEAD follows after five seconds or thirty, so what a crash would replay is seen meanwhile.
    while server.metric("varve_applier_lag_frames") > 0.0 {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.metric("varve_layers") >= 1.0 && server.metric("varve_layers_open") >= 1.0);
    assert!(server.metric("varve_journal_replay_frames") >= 1.0);
    let age = server.metric("varve_journal_head_age_seconds");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(server.metric("varve_watchdog_left_seconds") > 0.0);
}

#[test]
fn health_and_readiness_say_no_more_than_that() {
    let mut server = Server::start();
    let health = ask(server.address, "GET", "/healthz", "", "");
    assert_eq!((health.status, health.body.as_str()), (200, r#"{"status":"ok"}"#));
    let ready = ask(server.address, "GET", "/readyz", "", "");
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"status":"ready"}"#));
    server.service.begin_stop();
    let ready = ask(server.address, "GET", "/readyz", "", "");
    assert_eq!((ready.status, ready.json()["code"].as_str()), (503, Some("read_only")));
    assert!(ready.header("retry-after").is_some(), "{}", ready.head);
    assert_eq!(ask(server.address, "GET", "/healthz", "", "").status, 200);
    // What is on its way when a stop begins is still taken.
    let (_, key) = server.key("acme", &["ingest"], None);
    assert_eq!(server.post(EVENTS, &key, EVENT).status, 201);
    server.stop();
}

#[test]
fn refused_uses_of_known_keys_are_entries() {
    let mut server = Server::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, r#"{"tenant":"globex"}"#).status, 201);
    let (reader_id, reader) = server.key("acme", &["read"], None);
    let (revoked_id, revoked) = server.key("acme", &["read"], None);
    let (other_id, other) = server.key("acme", &["read"], None);
    let soon = chrono::Utc::now() + chrono::Duration::milliseconds(700);
    let soon = soon.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let (expired_id, expired) = server.key("acme", &["read"], Some(&soon));
    let gone = ask(
        server.address,
        "DELETE",
        &format!("/v1/tenants/acme/keys/{revoked_id}"),
        &bearer(&server.operator),
        "",
    );
    assert_eq!(gone.status, 204);
    std::thread::sleep(Duration::from_millis(800));

    let unknown = varve::access::Token::generate(&mut |bytes| bytes.fill(7)).to_text().to_string();
    let forged = with_id(&unknown, &other_id);
    assert_eq!(server.get(EVENTS, &unknown).status, 401);
    assert_eq!(server.get(EVENTS, "no key at all").status, 401);
    assert_eq!(server.get(EVENTS, &forged).status, 401);
    assert_eq!(server.get(EVENTS, &revoked).status, 401);
    assert_eq!(server.get(EVENTS, &expired).status, 401);
    assert_eq!(server.post(EVENTS, &reader, EVENT).status, 403);
    assert_eq!(server.get("/v1/tenants/globex/events", &other).status, 404);

    let started = Instant::now();
    while server.refusals().len() < 5 {
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", server.refusals());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Repeats within the minute cost no entry until the stop.
    for _ in 0..50 {
        assert_eq!(server.post(EVENTS, &reader, EVENT).status, 403);
    }
    std::thread::sleep(Duration::from_millis(1_200));
    let written = server.refusals();
    assert_eq!(written.len(), 5, "{written:?}");
    let of = |id: &str, reason: &str| {
        let is_it = |event: &&Value| event["varve"]["id"] == id && event["varve"]["reason"] == reason;
        written.iter().find(is_it).unwrap_or_else(|| panic!("{reason} of {id} in {written:?}")).clone()
    };
    for (id, reason) in [
        (&other_id, "wrong_secret"),
        (&revoked_id, "revoked"),
        (&expired_id, "expired"),
        (&reader_id, "scope"),
        (&other_id, "other_tenant"),
    ] {
        let event = of(id, reason);
        assert_eq!((&event["outcome"], &event["class"]), (&json!("denied"), &json!("security")));
        let facts = &event["varve"];
        assert_eq!((&facts["count"], &facts["tenant"]), (&json!(1), &json!("acme")));
        assert!(facts["from"].as_str().unwrap() <= facts["until"].as_str().unwrap());
        assert_eq!(event["targets"][0], json!({"type": "api_key", "id": id}));
        let actor = if reason == "wrong_secret" { Value::Null } else { json!({"type": "api_key", "id": id}) };
        assert_eq!(event["actor"], actor, "{reason}");
        assert!(event["context"].is_null() && event["metadata"].is_null(), "{event}");
    }
    let text = server.scrape();
    for (reason, count) in [("unknown", 1.0), ("malformed", 1.0), ("scope", 51.0), ("wrong_secret", 1.0)] {
        let series = format!("varve_api_key_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&text, &series), Some(count), "{series}");
    }

    let (data, operator, _directory) =
        (server.data.clone(), server.operator.clone(), server.directory.take());
    // Its service with it: what it holds open is let go.
    drop(server);
    let service = Service::open(&data, &OpenOptions::default()).unwrap();
    let by = service.authenticate(&operator).unwrap();
    let query = varve::query::QueryText {
        action: Some("varve.api_key.refused".into()),
        target: Some(reader_id),
        ..Default::default()
    };
    let page = service.query(&by, "_system", &query).unwrap();
    let newest: Value = serde_json::from_str(&page.records[0].json).unwrap();
    assert_eq!(newest["event"]["varve"]["count"], 50, "{newest}");
    service.stop().unwrap();
    drop(service);
    assert_intact(&data);
}

/// The token with another public id, and the checksum that belongs to it: what somebody forges who has seen an id.
fn with_id(token: &str, id: &str) -> String {
    let secret = &token.rsplit('_').next().unwrap()[..64];
    let body = format!("varve_{id}_{secret}");
    let checksum = blake3::hash(body.as_bytes()).to_hex();
    format!("{body}{}", &checksum[..8])
}

struct Silent;

impl verify::Progress for Silent {
    fn started(&self, _: u64) {}
    fn advanced(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

fn assert_intact(data: &Path) {
    let report = verify::verify_dir(data, &verify::Options::default(), &Silent).unwrap();
    assert!(report.valid && report.warning_count == 0, "{}", report.to_text());
}
