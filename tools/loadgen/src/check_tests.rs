//! Tests of `check`: a good answer passes, each kind of bad one is found.

use varve::tlog::chain::{ENTRY_MAGIC, Entry, leaf_hash, link, signed_message};
use varve::tlog::key::{SeedSigner, Signer as _};

use super::*;

/// A receipt of `event` at `index`, as the server would give it, and where its parts can be changed.
fn given(event: u64, index: u64) -> serde_json::Value {
    let signer = SeedSigner::from_seed(&[1; 32]);
    let entry = Entry {
        log_id: Hash([1; 32]),
        index,
        recorded_at: 1_700_000_000_000_000 + index,
        key_id: signer.verifying_key().key_id("test.local/a"),
        class: 1,
        flags: 0,
        event: Hash([2; 32]),
        previous: Hash([3; 32]),
    };
    let bytes = entry.encode();
    assert_eq!(bytes[..4], ENTRY_MAGIC);
    let link = link(&bytes);
    serde_json::json!({
        "tenant": "a", "index": index, "id": event::id(event),
        "recorded_at": Micros(entry.recorded_at).to_string(),
        "entry": URL_SAFE_NO_PAD.encode(bytes), "link": URL_SAFE_NO_PAD.encode(link.0),
        "leaf_hash": URL_SAFE_NO_PAD.encode(leaf_hash(&bytes).0),
        "signature": URL_SAFE_NO_PAD.encode(signer.sign(&signed_message(&link)).0),
        "key_id": entry.key_id.to_string(), "duplicate": false,
    })
}

fn raw(status: u16, headers: &str, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What is found when requests of `batch` events were answered so.
fn found(batch: usize, answers: &[Vec<u8>]) -> Checked {
    let logs = [Log::for_tests("a")];
    let requests = Requests::new(&logs, 0..1, batch, 0);
    let mut kept = Kept::new(usize::MAX);
    for (number, answer) in (0..).zip(answers) {
        kept.push(number, answer).unwrap();
    }
    let mut checked = super::answers(&kept, &requests, &logs);
    indexes(&mut checked, &[100]);
    checked
}

fn words(checked: Checked) -> String {
    checked.findings.into_words().join("; ")
}

#[test]
fn good_receipts_pass() {
    let one = found(1, &[raw(201, "", &given(0, 5)), raw(201, "", &given(1, 6))]);
    assert_eq!(one.acknowledged.iter().map(|given| given.index).collect::<Vec<_>>(), [5, 6]);
    assert!(one.acknowledged[0].has_link(given(0, 5)["link"].as_str().unwrap()));
    assert!(!one.acknowledged[0].has_link(given(1, 6)["link"].as_str().unwrap()));
    assert_eq!(words(one), "");
    let two = serde_json::json!({"receipts": [given(0, 5), given(1, 6)]});
    assert_eq!(words(found(2, &[raw(201, "", &two)])), "");
}

#[test]
fn a_receipt_with_a_flipped_bit_is_found() {
    for member in ["entry", "link", "leaf_hash", "signature"] {
        let mut bad = given(0, 5);
        let mut bytes = URL_SAFE_NO_PAD.decode(bad[member].as_str().unwrap()).unwrap();
        for bit in [0, bytes.len() * 8 / 2, bytes.len() * 8 - 1] {
            bytes[bit / 8] ^= 1 << (bit % 8);
            bad[member] = URL_SAFE_NO_PAD.encode(&bytes).into();
            let checked = found(1, &[raw(201, "", &bad)]);
            assert!(checked.acknowledged.is_empty());
            assert!(words(checked).contains("receipt of evt-0000000000000000"), "{member} bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn each_other_member_that_is_not_true_is_found() {
    let with = |member: &str, value: serde_json::Value| {
        let mut bad = given(0, 5);
        bad[member] = value;
        words(found(1, &[raw(201, "", &bad)]))
    };
    assert!(with("id", event::id(1).into()).contains("another id"));
    assert!(with("tenant", "b".into()).contains("another tenant"));
    assert!(with("duplicate", true.into()).contains("stored before"));
    assert!(with("index", 6.into()).contains("receipt_index"));
    assert!(with("recorded_at", "2023-11-14T22:13:20.000006Z".into()).contains("receipt_recorded_at"));
    assert!(with("key_id", "00000000".into()).contains("receipt_key_id"));
    assert!(with("key_id", "xyz".into()).contains("form of the format"));
    assert!(with("link", "AAAA".into()).contains("form of the format"));
    assert!(with("link", serde_json::Value::Null).contains("receipts that can be read"));
}

#[test]
fn counts_and_indexes_that_do_not_fit_are_found() {
    let one = serde_json::json!({"receipts": [given(0, 5)]});
    assert!(words(found(2, &[raw(201, "", &one)])).contains("1 receipts for 2 events"));
    let twice = found(1, &[raw(201, "", &given(0, 5)), raw(201, "", &given(1, 5))]);
    assert!(words(twice).contains("index 5 was given to"));
    assert!(words(found(1, &[raw(201, "", &given(0, 100))])).contains("the log has 100 entries"));
}

#[test]
fn a_refusal_says_its_code_and_when_to_come_back() {
    let problem = |status: u16, code: &str| serde_json::json!({"status": status, "code": code, "title": "x"});
    let good = found(
        1,
        &[
            raw(503, "retry-after: 1\r\n", &problem(503, "busy")),
            raw(429, "Retry-After: 30\r\n", &problem(429, "rate_limited")),
            raw(507, "retry-after: 5\r\n", &problem(507, "storage_full")),
            raw(503, "retry-after: 1\r\n", &problem(503, "outcome_unknown")),
        ],
    );
    assert_eq!((good.with_retry_after, good.unknown_events), (4, 1));
    assert_eq!(good.codes["busy"], 1);
    assert_eq!(words(good), "");
    let bad =
        |status: u16, headers: &str, body: &serde_json::Value| words(found(1, &[raw(status, headers, body)]));
    assert!(bad(503, "", &problem(503, "busy")).contains("without Retry-After"));
    assert!(bad(503, "retry-after: 0\r\n", &problem(503, "busy")).contains("without Retry-After"));
    assert!(bad(503, "retry-after: 1\r\n", &problem(500, "busy")).contains("answered 503 (no problem)"));
    assert!(bad(500, "", &problem(500, "internal")).contains("answered 500 internal"));
    assert!(bad(200, "", &given(0, 5)).contains("answered 200"));
}

#[test]
fn findings_are_bounded_and_counted() {
    let mut findings = Findings::default();
    for nth in 0..TOLD + 7 {
        findings.note(nth.to_string());
    }
    let mut all = Findings::default();
    all.add(findings);
    assert!(!all.is_empty());
    let words = all.into_words();
    assert_eq!((words.len(), words[TOLD].as_str()), (TOLD + 1, "and 7 more"));
}
