//! The client of a service over a real server that goes away, comes back, loses answers and is killed around it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use varve::client::{
    Ask, Client, ClientOptions, Error, LogKey, NewEvent, NotDurable, OnRejected, Outcome, Recorded, Recorder,
    RecorderOptions, Repeat, Retry, SpoolOptions, SpoolSync,
};

use super::server::{Proxy, Server, Wire, client, eventually};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

fn login(id: &str) -> Value {
    json!({"id": id, "action": "authn.login", "outcome": "failure", "actor": {"type": "user", "id": "u-17"}})
}

fn new_event(id: &str) -> NewEvent {
    NewEvent::new(&login(id)).unwrap()
}

/// A recorder that spools soon, in a spool of the smallest size.
fn options(spool: &Path) -> RecorderOptions {
    RecorderOptions {
        spool: Some(SpoolOptions { max_bytes: 512 * 1024, ..SpoolOptions::at(spool) }),
        spool_after: Duration::from_millis(50),
        linger: Duration::from_millis(5),
        close_time: Duration::ZERO,
        ..RecorderOptions::default()
    }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("e-{number}")).collect()
}

fn record_all(recorder: &Recorder, ids: &[String]) {
    for id in ids {
        assert_eq!(recorder.record(&login(id)), Recorded::Queued);
    }
}

// ---------------------------------------------------------------------------------------------------------
// The client.

#[test]
fn receipts_are_checked_against_the_log_s_key() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let log_keys = vec![LogKey::parse(&server.log_key()).unwrap()];
    let options = ClientOptions { log_keys, ..ClientOptions::default() };
    let checking = Client::new(&server.url(), &key, options).unwrap();
    let receipt = checking.append("acme", &new_event("a")).unwrap();
    assert!(receipt.json().contains("\"canonical\"") && !receipt.duplicate);
    let again = checking.append("acme", &new_event("a")).unwrap();
    assert_eq!((again.index, again.duplicate), (receipt.index, true));
    assert_eq!(checking.append_batch("acme", &[new_event("b"), new_event("c")]).unwrap().len(), 2);

    // The key of another log: the server stores the event, and the receipt is not believed.
    let other = Server::start();
    let log_keys = vec![LogKey::parse(&other.log_key()).unwrap()];
    let doubting =
        Client::new(&server.url(), &key, ClientOptions { log_keys, ..ClientOptions::default() }).unwrap();
    let error = doubting.append("acme", &new_event("d")).unwrap_err();
    assert!(matches!(error, Error::Receipt { index_in_batch: 0, .. }) && !error.is_retryable(), "{error}");
    let outcomes = doubting.append_each("acme", &[new_event("e")]).unwrap();
    assert!(matches!(outcomes[0], Outcome::Doubtful(..)));
    assert_eq!(server.ids("authn.login"), ["a", "b", "c", "d", "e"]);
}

#[test]
fn refusals_come_as_the_contract_has_them() {
    let server = Server::start();
    let client = client(&server.url(), &server.key(&["ingest"]));
    let bad = NewEvent::new(&json!({"id": "bad", "action": "a.b"})).unwrap();
    let Err(Error::Refused(problem)) = client.append_batch("acme", &[new_event("a"), bad.clone()]) else {
        panic!("a batch with a bad event was taken")
    };
    assert_eq!(
        (problem.code.as_str(), problem.status, problem.index_in_batch),
        ("invalid_event", 422, Some(1))
    );
    assert_eq!((problem.pointer.as_deref(), problem.retryable), (Some("/outcome"), false));
    assert!(problem.request_id.is_some());
    assert_eq!(server.ids("authn.login"), [""; 0]);

    let outcomes = client.append_each("acme", &[new_event("a"), bad, new_event("c")]).unwrap();
    assert!(matches!(&outcomes[..], [Outcome::Stored(_), Outcome::Refused(_), Outcome::Stored(_)]));
    let conflict = client
        .append("acme", &NewEvent::new(&json!({"id": "a", "action": "x", "outcome": "success"})).unwrap());
    assert_eq!(conflict.unwrap_err().code(), Some("id_conflict"));
    let foreign = client.append("globex", &new_event("x")).unwrap_err();
    assert_eq!(foreign.code(), Some("not_found"));
}

#[test]
fn a_lost_answer_is_asked_for_again_and_stored_once() {
    let server = Server::start();
    let wire = Proxy::to(server.address());
    let client = client(&wire.url(), &server.key(&["ingest"]));
    wire.set(Wire::LosesAnswers);
    let sent = std::thread::scope(|scope| {
        let sent = scope.spawn(|| client.append("acme", &new_event("a")));
        eventually("a lost answer", || wire.lost() > 0);
        wire.set(Wire::Carries);
        sent.join().unwrap()
    });
    assert!(sent.unwrap().duplicate);
    assert_eq!(server.ids("authn.login"), ["a"]);
}

#[test]
fn tries_are_bounded_by_time_even_where_a_server_hangs() {
    let server = Server::start();
    let wire = Proxy::to(server.address());
    wire.set(Wire::Hangs);
    let retry = Retry { max_elapsed: SECOND, max_tries: 100, ..Retry::default() };
    let options =
        ClientOptions { retry, request_time: Duration::from_millis(200), ..ClientOptions::default() };
    let client = Client::new(&wire.url(), &server.key(&["ingest"]), options).unwrap();
    let started = Instant::now();
    let error = client.append("acme", &new_event("a")).unwrap_err();
    assert!(error.is_retryable() && started.elapsed() < SECOND * 3, "{error} after {:?}", started.elapsed());
    wire.set(Wire::Carries);
}

/// A listener that answers `answer` to everything and keeps what it was sent.
fn answering(answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|bytes| bytes > 0) {}
            kept.lock().unwrap().push(head);
            let _ = reader.get_mut().write_all(answer.as_bytes());
            // What is left of the request is read, or the answer may be lost to a reset.
            let _ = reader.get_mut().set_read_timeout(Some(Duration::from_millis(100)));
            let _ = reader.read_to_end(&mut Vec::new());
        }
    });
    (url, seen)
}

#[test]
fn the_key_follows_no_redirect() {
    let (elsewhere, seen_elsewhere) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned());
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let (url, seen) = answering(format!(
            "HTTP/1.1 {status}\r\nlocation: {elsewhere}/v1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ));
        let client = client(&url, "varve_0123_secret");
        for ask in [
            Ask::get("/v1/tenants".to_owned()),
            Ask { method: "POST", path: "/v1/tenants".to_owned(), body: Some(b"{}"), repeat: Repeat::Never },
        ] {
            let error = client.ask(&ask).unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }) && !error.is_retryable(), "{error:?}");
        }
        assert!(seen.lock().unwrap()[0].contains("varve_0123_secret"));
    }
    assert_eq!(*seen_elsewhere.lock().unwrap(), [""; 0]);
}

#[test]
fn retry_after_is_waited_out() {
    let busy = r#"{"code":"busy","detail":"full","retryable":true,"status":503}"#;
    let (url, seen) = answering(format!(
        "HTTP/1.1 503 x\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{busy}",
        busy.len()
    ));
    let retry = Retry { max_tries: 2, first_pause: Duration::from_millis(1), ..Retry::default() };
    let client = Client::new(&url, "varve_k", ClientOptions { retry, ..ClientOptions::default() }).unwrap();
    let started = Instant::now();
    let error = client.append("acme", &new_event("a")).unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Some("busy"), Some(SECOND)));
    assert!(started.elapsed() >= SECOND && seen.lock().unwrap().len() == 2);
}

// ---------------------------------------------------------------------------------------------------------
// The recorder.

#[test]
fn a_server_that_is_away_costs_nothing_but_time() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let client = client(&server.url(), &server.key(&["ingest"]));
    let wanted = RecorderOptions { service: Some("billing".into()), ..options(dir.path()) };
    let recorder = Recorder::open(client, "acme", wanted).unwrap();
    record_all(&recorder, &ids(0..50));
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(recorder.stats().spooled_bytes, 0);

    server.away();
    record_all(&recorder, &ids(50..400));
    eventually("spooling", || recorder.stats().spooled_events == 350 && recorder.stats().queued == 0);
    assert!(recorder.stats().is_away);
    server.back();
    record_all(&recorder, &ids(400..450));
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());

    assert_eq!(server.ids("authn.login"), ids(0..450));
    let stats = recorder.stats();
    assert_eq!((stats.recorded, stats.stored, stats.rejected, stats.dropped), (450, 450, 0, 0));
    assert_eq!((stats.spooled_events, stats.spooled_bytes, stats.is_away), (0, 0, false));
    // Numbered without a hole, in one instance.
    let events = server.events();
    let producers: Vec<&Value> = events.iter().map(|event| &event["producer"]).collect();
    let numbers: Vec<u64> = producers.iter().map(|producer| producer["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=450).collect::<Vec<u64>>());
    assert!(
        producers.iter().all(|it| it["service"] == "billing" && it["instance"] == producers[0]["instance"])
    );
}

#[test]
fn a_restart_sends_what_is_in_the_spool_and_a_lost_answer_stores_it_once() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let key = server.key(&["ingest"]);
    server.away();
    let recorder = Recorder::open(client(&server.url(), &key), "acme", options(dir.path())).unwrap();
    for id in ids(0..20) {
        recorder.record_durable(&login(&id)).unwrap();
    }
    record_all(&recorder, &ids(20..30));
    let closed = recorder.close(Duration::from_millis(50));
    assert_eq!((closed.spooled, closed.lost, closed.is_durable), (30, 0, true));
    assert_eq!(recorder.record(&login("late")), Recorded::Closed);
    assert_eq!(recorder.close(SECOND), closed);
    drop(recorder);

    server.back();
    let wire = Proxy::to(server.address());
    wire.set(Wire::LosesAnswers);
    let recorder = Recorder::open(client(&wire.url(), &key), "acme", options(dir.path())).unwrap();
    // A second one must not touch it.
    assert!(Recorder::open(client(&wire.url(), &key), "acme", options(dir.path())).is_err());
    eventually("a lost answer", || wire.lost() > 1);
    wire.set(Wire::Carries);
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(recorder.stats().duplicates, 30);
    assert_eq!(server.ids("authn.login"), ids(0..30));
}

#[test]
fn what_is_refused_holds_up_nothing() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let on_rejected: OnRejected = Box::new(move |rejected| {
        tell.lock().unwrap().push((rejected.id.clone(), rejected.problem.code.clone()));
        panic!("the service's own code");
    });
    let wanted = RecorderOptions { on_rejected: Some(on_rejected), ..options(dir.path()) };
    let recorder = Recorder::open(client(&server.url(), &server.key(&["ingest"])), "acme", wanted).unwrap();
    record_all(&recorder, &ids(0..5));
    assert_eq!(recorder.record(&json!({"id": "bad", "action": "a.b"})), Recorded::Queued);
    assert_eq!(recorder.record(&json!({"id": "e-0", "action": "x", "outcome": "success"})), Recorded::Queued);
    assert!(matches!(recorder.record(&json!([1])), Recorded::Refused(_)));
    assert!(matches!(recorder.record_json("{\"a\":"), Recorded::Refused(_)));
    assert!(matches!(recorder.record(&json!({"reason": "x".repeat(70_000)})), Recorded::Refused(_)));
    record_all(&recorder, &ids(5..10));
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(server.ids("authn.login"), ids(0..10));
    let expected =
        [("bad", "invalid_event"), ("e-0", "id_conflict")].map(|(id, code)| (Some(id.into()), code.into()));
    assert_eq!(*told.lock().unwrap(), expected);
    assert_eq!(recorder.stats().rejected, 5);
    let listed = recorder.take_rejected();
    assert_eq!(listed.len(), 5);
    assert!(!format!("{listed:?}").contains("a.b") && recorder.take_rejected().is_empty());
}

#[test]
fn what_blames_the_key_blames_no_event() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let recorder =
        Recorder::open(client(&server.url(), &server.key(&["read"])), "acme", options(dir.path())).unwrap();
    record_all(&recorder, &ids(0..3));
    eventually("a refusal", || {
        recorder.stats().last_error.is_some_and(|error| error.code() == Some("forbidden"))
    });
    let closed = recorder.close(Duration::from_millis(200));
    assert_eq!((closed.spooled, closed.lost), (3, 0));
    drop(recorder);
    let recorder =
        Recorder::open(client(&server.url(), &server.key(&["ingest"])), "acme", options(dir.path())).unwrap();
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(server.ids("authn.login"), ids(0..3));
}

#[test]
fn a_full_spool_drops_and_the_log_is_told_how_many() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let key = server.key(&["ingest"]);
    server.away();
    let url = server.url();
    let open = || {
        let wanted =
            RecorderOptions { queue_events: 8, service: Some("billing".into()), ..options(dir.path()) };
        Recorder::open(client(&url, &key), "acme", wanted).unwrap()
    };
    let recorder = open();
    let large = |id: usize| json!({"id": format!("l-{id}"), "action": "big.one", "outcome": "success", "reason": "x".repeat(30_000)});
    let (mut taken, mut dropped) = (0, 0);
    for number in 0..60 {
        match recorder.record(&large(number)) {
            Recorded::Queued => taken += 1,
            Recorded::Dropped => dropped += 1,
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(taken > 10 && dropped > 10, "{taken} {dropped}");
    assert!(matches!(recorder.record_durable(&large(60)), Err(NotDurable::Dropped)));
    dropped += 1;
    assert_eq!((recorder.stats().dropped, recorder.stats().untold_drops), (dropped, dropped));
    // What finds no place at the end is counted too, and the count is there after a restart.
    let closed = recorder.close(Duration::ZERO);
    assert!(closed.is_durable && closed.lost > 0, "{closed:?}");
    drop(recorder);
    let recorder = open();
    let untold = dropped + closed.lost;
    assert_eq!(recorder.stats().untold_drops, untold);

    server.back();
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(server.ids("big.one").len() as u64, taken - closed.lost);
    let events = server.events();
    let told: Vec<&Value> =
        events.iter().filter(|event| event["action"] == "producer.events_dropped").collect();
    let counts: u64 = told.iter().map(|event| event["metadata"]["count"].as_u64().unwrap()).sum();
    assert_eq!(counts, untold, "{told:?}");
    assert_eq!(
        (&told[0]["outcome"], &told[0]["producer"]),
        (&json!("failure"), &json!({"service": "billing"}))
    );
    assert!(told[0]["metadata"]["since"].as_str() <= told[0]["metadata"]["until"].as_str());
    assert_eq!(recorder.stats().untold_drops, 0);
    // Every number is a stored event, or was dropped: the holes are as many as the drops.
    drop(recorder);
    assert_eq!(open().stats().untold_drops, 0);
}

#[test]
fn a_count_of_drops_whose_answer_is_lost_arrives_once() {
    let server = Server::start();
    let wire = Proxy::to(server.address());
    let key = server.key(&["ingest"]);
    let dir = tempfile::tempdir().unwrap();
    // Every event is larger than the queue.
    let open = || {
        let wanted = RecorderOptions { queue_bytes: 10, ..options(dir.path()) };
        Recorder::open(client(&wire.url(), &key), "acme", wanted).unwrap()
    };
    wire.set(Wire::LosesAnswers);
    let recorder = open();
    assert_eq!(recorder.record(&login("e-0")), Recorded::Dropped);
    eventually("a lost answer", || wire.lost() > 0);
    // Meanwhile more are dropped: they must not change what is on its way.
    for id in ids(1..5) {
        assert_eq!(recorder.record(&login(&id)), Recorded::Dropped);
    }
    recorder.close(Duration::ZERO);
    drop(recorder);
    let lost = wire.lost();
    let recorder = open();
    eventually("another lost answer", || wire.lost() > lost);
    wire.set(Wire::Carries);
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    let events = server.events();
    let told = events.iter().filter(|event| event["action"] == "producer.events_dropped");
    let counts: Vec<u64> = told.map(|event| event["metadata"]["count"].as_u64().unwrap()).collect();
    assert!(counts == [1, 4], "{counts:?}");
}

#[test]
fn a_request_that_hangs_keeps_nothing_from_the_disk() {
    let server = Server::start();
    let wire = Proxy::to(server.address());
    wire.set(Wire::Hangs);
    let dir = tempfile::tempdir().unwrap();
    let wanted = RecorderOptions { request_time: LONG, ..options(dir.path()) };
    let recorder = Recorder::open(client(&wire.url(), &server.key(&["ingest"])), "acme", wanted).unwrap();
    record_all(&recorder, &ids(0..3));
    // They are on their way, and go to the spool nevertheless, before those that come after.
    std::thread::sleep(Duration::from_millis(30));
    record_all(&recorder, &ids(3..6));
    eventually("spooling", || recorder.stats().spooled_events == 6);
    let started = Instant::now();
    recorder.record_durable(&login("e-6")).unwrap();
    assert_eq!(recorder.record(&login("e-7")), Recorded::Queued);
    assert!(started.elapsed() < SECOND * 5, "{:?}", started.elapsed());
    wire.set(Wire::Carries);
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(server.ids("authn.login"), ids(0..8));
    assert_eq!(recorder.stats().duplicates, 0);
}

#[test]
fn without_a_spool_the_queue_is_all_there_is() {
    let mut server = Server::start();
    let wanted = RecorderOptions {
        queue_events: 10,
        linger: Duration::ZERO,
        close_time: Duration::ZERO,
        ..RecorderOptions::default()
    };
    let recorder = Recorder::open(client(&server.url(), &server.key(&["ingest"])), "acme", wanted).unwrap();
    server.away();
    assert!(matches!(recorder.record_durable(&login("e-0")), Err(NotDurable::NoSpool)));
    eventually("a try", || recorder.stats().is_away);
    record_all(&recorder, &ids(1..11));
    assert_eq!(recorder.record(&login("one more")), Recorded::Dropped);
    server.back();
    assert!(recorder.flush(LONG), "{:?}", recorder.stats());
    assert_eq!(server.ids("authn.login"), ids(0..11));
    assert_eq!(server.ids("producer.events_dropped").len(), 1);
    server.away();
    recorder.record(&login("lost"));
    assert_eq!(recorder.close(Duration::ZERO).lost, 1);
}

#[test]
fn many_threads_record_and_close_waits_for_what_can_be_sent() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let spool = SpoolOptions { sync: SpoolSync::EachWrite, ..SpoolOptions::at(dir.path()) };
    let wanted = RecorderOptions { spool: Some(spool), service: Some("s".into()), ..options(dir.path()) };
    let recorder = Recorder::open(client(&server.url(), &server.key(&["ingest"])), "acme", wanted).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = &recorder;
            scope.spawn(move || {
                for number in 0..500 {
                    let event = login(&format!("t-{thread}-{number}"));
                    if number % 100 == 0 {
                        recorder.record_durable(&event).unwrap();
                    } else {
                        assert_eq!(recorder.record(&event), Recorded::Queued);
                    }
                }
            });
        }
    });
    assert!(recorder.flush(Duration::MAX), "{:?}", recorder.stats());
    let closed = recorder.close(Duration::MAX);
    assert_eq!((closed.spooled, closed.lost, closed.is_durable), (0, 0, true));
    let mut seqs: Vec<u64> =
        server.events().iter().map(|event| event["producer"]["seq"].as_u64().unwrap()).collect();
    let stored = seqs.clone();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=2000).collect::<Vec<u64>>());
    assert_eq!(stored, seqs, "the log has them in the order in which they were recorded");
}

/// The child half of the test below: records durably, says so, and lives until it is killed.
#[test]
fn child_records_until_it_is_killed() {
    let Some(spool) = std::env::var_os("VARVE_TEST_SPOOL_CHILD") else { return };
    let recorder =
        Recorder::open(client("http://127.0.0.1:9", "varve_k"), "acme", options(Path::new(&spool))).unwrap();
    for number in 0.. {
        match recorder.record_durable(&login(&format!("e-{number}"))) {
            Ok(()) => println!("\ndurable {number}"),
            Err(_) => std::thread::sleep(SECOND),
        }
    }
}

#[test]
fn a_kill_loses_nothing_that_was_said_to_be_durable() {
    let server = Server::start();
    let key = server.key(&["ingest"]);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let spool = dir.path().join(format!("spool-{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "client::child_records_until_it_is_killed", "--nocapture"])
            .env("VARVE_TEST_SPOOL_CHILD", &spool)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.filter(|line| line.starts_with("durable")).take(10 + 17 * round);
        let durable = said.count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(durable, 10 + 17 * round);

        let before = server.ids("authn.login").len();
        let recorder = Recorder::open(client(&server.url(), &key), "acme", options(&spool)).unwrap();
        assert!(recorder.flush(LONG), "{:?}", recorder.stats());
        let stats = recorder.stats();
        // At least those; perhaps one or more that it had no time to speak of. Rounds repeat the ids of the one before.
        let stored = usize::try_from(stats.stored).unwrap();
        assert!(stored >= durable && stats.damaged_bytes == 0, "{stats:?}");
        assert_eq!(server.ids("authn.login").len(), before.max(stored));
    }
}
