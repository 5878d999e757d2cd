//! Tampering with records, and records that were wrong when they were signed.

use super::store::{self, Writing, change_page, open_layer, sample, sample_copy};
use super::*;
use crate::event::catalog::{Value, action};
use crate::event::{Body, Builder, Outcome};
use crate::store::page::Page;
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature};

/// An index whose page is in the middle of the first month, and which the journal does not have any more.
const AT: u64 = 300;

/// Changes the record at [`AT`] and verifies. Findings at its page are returned by kind and distance from it;
/// a change of the entry also breaks the chain at the next page.
fn changed(change: impl FnOnce(&mut Page, usize)) -> Vec<(FindingKind, i64)> {
    let dir = sample_copy();
    change_page(dir.path(), "2026-10", 1, AT, change);
    distances(&verify(dir.path()))
}

fn distances(report: &Report) -> Vec<(FindingKind, i64)> {
    assert!(report.findings.iter().all(|finding| finding.tenant == "acme"), "{}", report.to_text());
    let distance = |index: u64| i64::try_from(index).unwrap() - i64::try_from(AT).unwrap();
    report.findings.iter().map(|finding| (finding.kind, distance(finding.index.unwrap()))).collect()
}

fn body_of(page: &Page, at: usize) -> Body {
    Body::decode(&page.records[at].body).unwrap().0
}

fn set_body(page: &mut Page, at: usize, body: &Body) {
    page.records[at].body.clear();
    body.encode(&mut page.records[at].body);
}

#[test]
fn a_body_must_be_what_the_entry_commits_to() {
    let found = changed(|page, at| {
        let mut body = body_of(page, at);
        body.salt[0] ^= 1;
        set_body(page, at, &body);
    });
    assert_eq!(found, [(FindingKind::EventMismatch, 0)]);
    let found = changed(|page, at| {
        let mut body = body_of(page, at);
        body.disclosures[0].salt[0] ^= 1;
        set_body(page, at, &body);
    });
    assert_eq!(found, [(FindingKind::BadBody, 0)]);
    let found = changed(|page, at| page.records[at].body.push(0));
    assert_eq!(found, [(FindingKind::BadBody, 0)]);
    let found = changed(|page, at| page.records[at].body.truncate(30));
    assert_eq!(found, [(FindingKind::BadBody, 0)]);
}

#[test]
fn what_is_absent_must_be_covered() {
    let found = changed(|page, at| page.records[at].body.clear());
    assert_eq!(found, [(FindingKind::MissingBody, 0)]);
    let found = changed(|page, at| {
        page.records[at].body.clear();
        page.records[at + 1].body.clear();
    });
    assert!(found.len() <= 2 && found.iter().all(|(kind, _)| *kind == FindingKind::MissingBody));
    let found = changed(|page, at| {
        let mut body = body_of(page, at);
        body.disclosures.remove(1);
        set_body(page, at, &body);
    });
    assert_eq!(found, [(FindingKind::MissingDisclosure, 0)]);
}

/// Whatever field of an entry is changed, its signature fails and the next page does not follow.
#[test]
fn an_entry_must_be_what_was_signed() {
    let signature_and = |found: Vec<(FindingKind, i64)>, kind: Option<FindingKind>| {
        assert!(found.contains(&(FindingKind::BadSignature, 0)), "{found:?}");
        assert!(matches!(found.last(), Some((FindingKind::ChainBroken, 1..))), "{found:?}");
        assert!(kind.is_none_or(|kind| found.contains(&(kind, 0))), "{found:?}");
    };
    signature_and(changed(|page, at| page.records[at].recorded_at += 1), None);
    signature_and(changed(|page, at| page.records[at].class = 4), Some(FindingKind::ClassMismatch));
    signature_and(changed(|page, at| page.records[at].flags = 1), Some(FindingKind::FlagsMismatch));
    signature_and(changed(|page, at| page.records[at].flags = 32), Some(FindingKind::BadEntry));
    signature_and(
        changed(|page, at| page.records[at].event = Hash([1; 32])),
        Some(FindingKind::EventMismatch),
    );
    let back = changed(|page, at| page.records[at].recorded_at = page.records[at - 1].recorded_at);
    assert!(back.contains(&(FindingKind::TimeNotGrowing, 0)), "{back:?}");
    let found = changed(|page, at| page.records[at].key_id = KeyId([1; 4]));
    assert!(found.contains(&(FindingKind::WrongKey, 0)), "{found:?}");
    let found = changed(|page, at| page.records[at].signature = Signature([1; 64]));
    assert_eq!(found, [(FindingKind::BadSignature, 0)]);
    let found = changed(|page, at| page.records[at].signature.0[0] ^= 1);
    assert_eq!(found, [(FindingKind::BadSignature, 0)]);
}

#[test]
fn without_signatures_the_chain_still_breaks() {
    let dir = sample_copy();
    change_page(dir.path(), "2026-10", 1, AT, |page, at| page.records[at].recorded_at += 1);
    let report = verify_with(dir.path(), Options { no_signatures: true, ..Options::default() });
    let found = distances(&report);
    assert!(matches!(found.last(), Some((FindingKind::ChainBroken, 1..))), "{}", report.to_text());
    assert!(found.iter().all(|(kind, _)| *kind != FindingKind::BadSignature));
    let report = verify_with(&sample().path, Options { no_signatures: true, ..Options::default() });
    assert_eq!((report.valid, report.claim, report.logs[1].signatures_checked), (true, Claim::Chained, 0));
}

#[test]
fn swapped_and_removed_records_are_found() {
    let found = changed(|page, at| page.records.swap(at, at + 1));
    assert!(
        found.contains(&(FindingKind::BadSignature, 0)) && found.contains(&(FindingKind::TimeNotGrowing, 1)),
        "{found:?}"
    );

    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-10");
    let first = layer.page_at(1, AT).unwrap().unwrap().first_index;
    kv.remove(&[&b"P\0\0\0\x01\0\0\0"[..], &u16::try_from(first).unwrap().to_be_bytes(), &[0]].concat())
        .unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    assert_found(&verify(dir.path()), &[(FindingKind::MissingEntries, "acme", Some(first))]);
}

#[test]
fn layer_and_journal_must_agree() {
    let dir = sample_copy();
    change_page(dir.path(), "2026-11", 1, 1_590, |page, at| {
        let mut body = body_of(page, at);
        body.disclosures.remove(0);
        set_body(page, at, &body);
    });
    let report = verify(dir.path());
    assert_found(
        &report,
        &[
            (FindingKind::MissingDisclosure, "acme", Some(1_590)),
            (FindingKind::JournalMismatch, "acme", Some(1_590)),
        ],
    );
}

/// Records that somebody with the signing key wrote: the signature holds, the rule does not.
#[test]
fn a_signature_does_not_make_a_wrong_entry_right() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = Writing::create(dir.path());
    writing.tenant("acme");
    let log = writing.log("acme");
    let json = r#"{"id":"a","action":"a.b","outcome":"success"}"#;
    let mut item = store::item(&log, json);
    item.class = 4;
    writing.submit(vec![item], Vec::new());
    let mut item = store::item(&log, &json.replace("\"a\"", "\"b\""));
    item.flags = 1;
    writing.submit(vec![item], Vec::new());
    let mut item = store::item(&log, &json.replace("\"a\"", "\"c\""));
    item.event = Hash([3; 32]);
    writing.submit(vec![item], Vec::new());
    let origin = format!("{}/acme", store::INSTANCE);
    let current = store::verifying_key(&writing.signers["acme"]).key_id(&origin).to_string();
    let rotated = |key: Option<[u8; 32]>| {
        let event = Builder::new(action::KEY_ROTATED, Outcome::Success)
            .fact("previous_key_id", current.as_str())
            .fact("key_id", current.as_str());
        match key {
            Some(key) => event.fact("public_key", Value::bytes(&key)),
            None => event,
        }
    };
    writing.own("acme", rotated(None), Vec::new());
    writing.own("acme", rotated(Some(writing.signers["acme"].public())), Vec::new());
    writing.own("acme", rotated(Some([0; 32])), Vec::new());
    writing.stop();
    let kinds = [
        (1, FindingKind::ClassMismatch),
        (2, FindingKind::FlagsMismatch),
        (3, FindingKind::EventMismatch),
        (4, FindingKind::BadRotation),
        (5, FindingKind::BadRotation),
        (6, FindingKind::BadRotation),
    ];
    assert_found(&verify(dir.path()), &kinds.map(|(index, kind)| (kind, "acme", Some(index))));
}

#[test]
fn the_first_entry_says_who_the_log_is() {
    let found = |change: fn(&mut store::Genesis)| {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant_with("acme", change);
        writing.stop();
        verify(dir.path())
    };
    assert_intact(&found(|_| ()));
    let bad = [(FindingKind::BadGenesis, "acme", Some(0))];
    assert_found(&found(|genesis| genesis.facts = false), &bad);
    assert_found(&found(|genesis| genesis.nonce_said = [8; 32]), &[(FindingKind::LogId, "acme", Some(0))]);
    assert_found(
        &found(|genesis| genesis.key_said = Some([9; 32])),
        &[(FindingKind::BadGenesis, "acme", Some(0)), (FindingKind::LogId, "acme", Some(0))],
    );
    assert_found(
        &found(|genesis| genesis.origin_said = Some("test.example/beta")),
        &[(FindingKind::BadGenesis, "acme", Some(0)), (FindingKind::LogId, "acme", Some(0))],
    );
}

#[test]
fn the_first_entry_says_it_in_one_way() {
    let found = |change: fn(&mut store::Genesis)| {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant_with("acme", change);
        writing.stop();
        verify(dir.path())
    };
    assert_found(
        &found(|genesis| genesis.log_id_said = Some([8; 32])),
        &[(FindingKind::LogId, "acme", Some(0))],
    );
    for recovery in ["AAAA", "", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant_with(
            "acme",
            match recovery.len() {
                0 => |genesis| genesis.recovery_said = Some(true.into()),
                4 => |genesis| genesis.recovery_said = Some("AAAA".into()),
                _ => |genesis| genesis.recovery_said = Some(Value::bytes(&[0; 32])),
            },
        );
        writing.stop();
        assert_found(&verify(dir.path()), &[(FindingKind::BadGenesis, "acme", Some(0))]);
    }
}

#[test]
fn a_rotation_names_both_keys_by_their_ids() {
    for name in ["key_id", "previous_key_id"] {
        for text in [None, Some("00000000"), Some("no id")] {
            let dir = tempfile::tempdir().unwrap();
            let mut writing = Writing::create(dir.path());
            writing.tenant("acme");
            writing.rotate_by("acme", |facts| {
                facts.iter().fold(
                    Builder::new(action::KEY_ROTATED, Outcome::Success),
                    |event, (fact, value)| match text {
                        Some(text) if *fact == name => event.fact(fact, text),
                        None if *fact == name => event,
                        _ => event.fact(fact, value.as_str()),
                    },
                )
            });
            writing.stop();
            let report = verify(dir.path());
            let first = report.findings.first().map(|found| (found.kind, found.index));
            assert_eq!(first, Some((FindingKind::BadRotation, Some(1))), "{name} {text:?}");
        }
    }
}
