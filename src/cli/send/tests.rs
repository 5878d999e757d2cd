//! Batches, ids and outcomes; and the sender against a server that says what the test wants.

#![expect(clippy::disallowed_methods, reason = "the script has a thread of its own")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::args::ServerArgs;
use super::super::output::{Exit, Output};
use super::*;
use crate::client::MAX_BATCH_BYTES;
use crate::event::limits::MAX_EVENT_BYTES;

/// A server that answers from a script and keeps what it was asked.
struct Script {
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// An answer of the script: status and what makes its body out of the events asked.
type Reply = (u16, fn(&[Value]) -> Value);

impl Script {
    fn start(replies: &[Reply]) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut replies) = (Arc::clone(&asked), VecDeque::from(replies.to_vec()));
        std::thread::spawn(move || {
            while let (Ok((stream, _)), Some((status, body))) = (listener.accept(), replies.pop_front()) {
                let mut reader = BufReader::new(stream);
                let (mut lines, mut length) = (Vec::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    lines.push(line);
                }
                let mut raw = vec![0; length];
                reader.read_exact(&mut raw).unwrap();
                let events: Value = serde_json::from_slice(&raw).unwrap();
                let text = body(events.as_array().unwrap()).to_string();
                seen.lock().unwrap().push((lines[0].trim().to_owned(), events));
                let head = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    text.len()
                );
                reader.get_mut().write_all(format!("{head}{text}").as_bytes()).unwrap();
            }
        });
        Script { url, asked }
    }

    /// Sends `events` and tells the outcome and what the server saw.
    fn send(&self, events: &[&str], is_strict: bool) -> (Result<Tally, Failure>, Vec<(String, Value)>) {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        std::fs::write(&key_file, "varve_test\n").unwrap();
        let output = Output::new(false);
        let server = ServerArgs { url: self.url.clone(), key_file: Some(key_file) };
        let client = Client::new(&server, &output).unwrap();
        let progress = output.progress(None, "events");
        let mut sender = Sender::new(&client, "acme", is_strict, false, progress, Box::new(|_| Ok(())));
        let pushed = events.iter().enumerate().try_for_each(|(at, event)| {
            let line = at as u64 + 1;
            sender.push(Origin { file: "f".into(), line, record: line }, event)
        });
        let outcome = pushed.and_then(|()| sender.finish());
        (outcome, self.asked.lock().unwrap().clone())
    }
}

fn receipt(event: &Value) -> Value {
    json!({"index": 1, "id": event["id"], "recorded_at": "2026", "duplicate": event["duplicate"] == true})
}

fn all_stored(events: &[Value]) -> Value {
    json!({"results": events.iter().map(receipt).collect::<Vec<_>>()})
}

fn second_busy(events: &[Value]) -> Value {
    let busy = json!({"code": "busy", "detail": "full", "retryable": true, "index_in_batch": 1});
    json!({"results": events.iter().enumerate().map(|(at, event)| if at == 1 { busy.clone() } else { receipt(event) })
        .collect::<Vec<_>>()})
}

fn second_invalid(events: &[Value]) -> Value {
    let invalid = json!({"code": "invalid_event", "detail": "no", "pointer": "/outcome", "retryable": false});
    json!({"results": events.iter().enumerate().map(|(at, event)| if at == 1 { invalid.clone() } else { receipt(event) })
        .collect::<Vec<_>>()})
}

fn busy(_: &[Value]) -> Value {
    json!({"code": "busy", "detail": "full", "retryable": true})
}

fn blames_second(_: &[Value]) -> Value {
    json!({"code": "invalid_event", "detail": "no", "pointer": "/outcome", "retryable": false, "index_in_batch": 1})
}

#[test]
fn a_busy_server_is_asked_again_with_the_same_ids() {
    let (tally, asked) =
        Script::start(&[(503, busy), (200, all_stored)]).send(&["{\"a\":1}", "{\"id\":\"x\"}"], false);
    assert_eq!(tally.unwrap(), Tally { appended: 2, named: 1, ..Tally::default() });
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
    assert!(asked[0].1[0]["id"].is_string());
    assert!(asked[0].0.starts_with("POST /v1/tenants/acme/events?") && asked[0].0.contains("on_error=skip"));
}

#[test]
fn only_the_events_that_were_busy_are_sent_again() {
    let events = ["{\"id\":\"a\"}", "{\"id\":\"b\"}", "{\"id\":\"c\",\"duplicate\":true}"];
    let (tally, asked) = Script::start(&[(200, second_busy), (200, all_stored)]).send(&events, false);
    assert_eq!(tally.unwrap(), Tally { appended: 2, duplicates: 1, ..Tally::default() });
    assert_eq!(asked[1].1, json!([{"id": "b"}]));
}

#[test]
fn one_bad_event_does_not_hold_up_the_rest_unless_strict() {
    let events = ["{\"id\":\"a\"}", "{\"id\":\"b\"}", "nonsense", "{\"id\":\"c\"}"];
    let (tally, asked) = Script::start(&[(200, second_invalid)]).send(&events, false);
    assert_eq!(tally.unwrap(), Tally { appended: 2, refused: 2, ..Tally::default() });
    assert_eq!(asked[0].1.as_array().map(Vec::len), Some(3));

    let (tally, asked) = Script::start(&[(422, blames_second)]).send(&events[..2], true);
    let failure = tally.unwrap_err();
    assert_eq!(failure.exit, Exit::No);
    assert!(
        failure.message.starts_with("f:2: record 2: invalid_event: no (at /outcome)"),
        "{}",
        failure.message
    );
    assert!(!asked[0].0.contains("on_error"));

    let (tally, asked) =
        Script::start(&[(201, all_stored)]).send(&["{\"id\":\"a\"}", "nonsense", "{}"], true);
    assert!(tally.unwrap_err().message.contains("1 event appended before"));
    assert_eq!(asked.len(), 1);
}

#[test]
fn batches_keep_to_both_limits() {
    let small: Vec<String> = (0..1001).map(|at| format!("{{\"id\":\"{at}\"}}")).collect();
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    let (tally, asked) = Script::start(&[(200, all_stored), (200, all_stored)]).send(&small, false);
    assert_eq!(tally.unwrap().appended, 1001);
    let sizes: Vec<usize> = asked.iter().map(|(_, events)| events.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1]);

    let large = format!("{{\"id\":\"a\",\"s\":\"{}\"}}", "x".repeat(60_000));
    let (tally, asked) =
        Script::start(&[(200, all_stored), (200, all_stored)]).send(&vec![large.as_str(); 100], false);
    assert_eq!(tally.unwrap().appended, 100);
    assert!(asked.len() == 2 && asked.iter().all(|(_, events)| events.to_string().len() <= MAX_BATCH_BYTES));

    let over = format!("{{\"id\":\"a\",\"s\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES));
    let (tally, asked) = Script::start(&[]).send(&[&over], false);
    assert_eq!((tally.unwrap().refused, asked.len()), (1, 0));
}

#[test]
fn a_key_without_the_scope_ends_it_at_once() {
    let (tally, asked) =
        Script::start(&[(403, |_| json!({"code": "forbidden", "detail": "no scope"}))]).send(&["{}"], false);
    assert_eq!((tally.unwrap_err().exit, asked.len()), (Exit::CouldNotTell, 1));
}
