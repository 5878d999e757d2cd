//! The HTTP door over a socket: who is heard before their body is read, what is refused and how, how it stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::Server;

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

/// A client that goes on sending hears a refusal all the same, and one that listens hears it before it has sent all.
#[test]
fn a_long_body_that_is_refused_costs_the_client_its_connection_and_not_the_answer() {
    let server = Server::start();
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n"
    );
    let connect = || TcpStream::connect(server.address).unwrap();
    let answer = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 401"), "{text}");
        assert!(text.contains("connection: close"), "{text}");
    };
    let (started, mut stream) = (Instant::now(), connect());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b' '; 1000]).unwrap();
    answer(&mut stream);
    assert!(started.elapsed() < Duration::from_secs(1), "before the body: {:?}", started.elapsed());

    let mut stream = connect();
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..40 {
        // Slower than the server answers.
        stream.write_all(&[b' '; 100_000]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    answer(&mut stream);
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

#[test]
fn a_gateway_posts_for_many_tenants_whole_or_each_on_its_own() {
    let server = Server::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, "{\"tenant\":\"globex\"}").status, 201);
    let of = |tenant: &str, id: &str| {
        format!("{{\"tenant\":\"{tenant}\",\"id\":\"{id}\",\"action\":\"a.b\",\"outcome\":\"success\"}}\n")
    };
    let post = |key: &str, query: &str, body: &str| {
        let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n");
        server.ask("POST", &format!("/v1/events{query}"), &headers, body)
    };
    let gateway = server.key_of("_system", &["ingest"]);
    let both = [of("acme", "1"), of("globex", "1"), of("acme", "2")].concat();
    let stored = post(&gateway, "", &both);
    assert_eq!(stored.status, 201, "{}", stored.body);
    let receipts = stored.json()["receipts"].clone();
    let tenants: Vec<&str> =
        receipts.as_array().unwrap().iter().map(|one| one["tenant"].as_str().unwrap()).collect();
    assert_eq!(tenants, ["acme", "globex", "acme"]);
    // The same ids again: each log knows its own.
    let again = post(&gateway, "", &both).json();
    assert!(again["receipts"].as_array().unwrap().iter().all(|one| one["duplicate"] == true), "{again}");
    // The member `tenant` is no part of the event.
    let plain = "{\"id\":\"1\",\"action\":\"a.b\",\"outcome\":\"success\"}";
    let acme = server.key(&["ingest", "read"]);
    assert_eq!(server.post(EVENTS, &acme, plain).json()["duplicate"], true);
    assert_eq!(server.post(EVENTS, &acme, of("acme", "9").trim()).code(), "invalid_event");

    // One tenant too many and nothing is stored; with `skip` the others are.
    let mixed = [of("acme", "3"), of("nobody", "3"), of("_system", "3"), of("globex", "3")].concat();
    let refused = post(&gateway, "", &mixed);
    assert_eq!((refused.code().as_str(), refused.status), ("not_found", 404));
    assert_eq!(
        (&refused.json()["index_in_batch"], &refused.json()["pointer"]),
        (&json!(1), &json!("/tenant"))
    );
    assert_eq!(server.get(&format!("{EVENTS}?id=3"), &acme).json()["events"], json!([]));
    let skipped = post(&gateway, "?on_error=skip", &mixed).json();
    let codes: Vec<_> =
        skipped["results"].as_array().unwrap().iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, [json!(null), json!("not_found"), json!("forbidden"), json!(null)]);

    // A key of one tenant is one for that tenant here too; a foreign one and a missing one read the same.
    assert_eq!(post(&acme, "", &of("acme", "4")).status, 201);
    let foreign = post(&acme, "", &of("globex", "4"));
    let missing = post(&acme, "", &of("nobody", "4"));
    assert_eq!((foreign.code(), foreign.body), (missing.code(), missing.body));
    assert_eq!(post(&server.operator, "", &of("acme", "5")).code(), "forbidden");
    assert_eq!(post(&server.key(&["read"]), "", &of("acme", "5")).code(), "forbidden");
    let nameless = post(&acme, "", plain);
    assert_eq!((nameless.code().as_str(), &nameless.json()["pointer"]), ("invalid_event", &json!("/tenant")));
}

#[test]
fn tiles_and_bundles_are_those_of_the_log() {
    use sha2::{Digest, Sha256};
    let server = Server::start();
    let key = server.key(&["ingest", "verify", "read"]);
    let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n");
    assert_eq!(server.ask("POST", EVENTS, &headers, &format!("{EVENT}\n").repeat(300)).status, 201);
    let tile = |path: &str| server.bytes(&format!("/v1/tenants/acme/log/tile/{path}"), &key);
    let (leaves, bundle) = (tile("0/000"), tile("entries/000"));
    assert_eq!((leaves.len(), bundle.len()), (256 * 32, 256 * 126));
    for (leaf, entry) in leaves.chunks(32).zip(bundle.chunks(126)) {
        assert_eq!(entry[..2], [0, 124]);
        let hash = Sha256::new().chain_update([0]).chain_update(&entry[2..]).finalize();
        assert_eq!(leaf, hash.as_slice());
    }
    // 301 entries: one of genesis. The root of the full tile is the only hash of level 1.
    assert_eq!(tile("0/001.p/45").len(), 45 * 32);
    let root = leaves.chunks(32).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let root = (0..8).fold(root, |level, _| {
        let join = |pair: &[Vec<u8>]| {
            Sha256::new().chain_update([1]).chain_update(&pair[0]).chain_update(&pair[1]).finalize().to_vec()
        };
        level.chunks(2).map(join).collect()
    });
    assert_eq!(tile("1/000.p/1"), root[0]);
    for (path, code) in [
        ("0/001", "not_found"),
        ("0/1", "bad_request"),
        ("9/000", "bad_request"),
        ("entries/002", "not_found"),
    ] {
        assert_eq!(server.get(&format!("/v1/tenants/acme/log/tile/{path}"), &key).code(), code, "{path}");
    }
}

#[test]
fn the_interface_describes_itself() {
    let server = Server::start();
    let document = server.ask("GET", "/openapi.json", "", "");
    assert_eq!((document.status, document.json()["openapi"].as_str()), (200, Some("3.1.0")));
    let page = server.ask("GET", "/docs", "", "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'"))
    );
}

#[test]
fn a_verification_is_a_job() {
    let server = Server::start();
    let key = server.key(&["ingest", "verify"]);
    assert_eq!(server.post(EVENTS, &key, &format!("[{}]", vec![EVENT; 500].join(","))).status, 201);
    let began = server.post("/v1/tenants/acme/verify", &key, "");
    assert_eq!(began.status, 202, "{}", began.body);
    let id = began.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tenants/acme/verify/{id}");
    assert_eq!(began.header("location"), Some(path.as_str()));
    let started = Instant::now();
    let mut shown = server.get(&path, &key).json();
    while shown["state"] == "running" {
        assert!(started.elapsed() < Duration::from_secs(30), "{shown}");
        shown = server.get(&path, &key).json();
    }
    assert_eq!(shown["state"], "done", "{shown}");
    assert_eq!((&shown["valid"], &shown["entries"]), (&json!(true), &json!(501)));
    assert_eq!((&shown["claim"], &shown["findings"]), (&json!("self-signed"), &json!([])));
    assert_eq!(server.get("/v1/tenants/acme/verify/0", &key).code(), "not_found");
}
