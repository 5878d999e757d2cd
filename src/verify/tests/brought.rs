//! What an auditor brings along: checkpoints, receipts, keys, proofs.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::store::{self, INSTANCE, Writing, change_page, sample, sample_copy};
use super::*;
use crate::event::Micros;
use crate::store::log::Sequenced;
use crate::tlog::chain::{self, Entry, leaf_hash, link};
use crate::tlog::checkpoint::{Checkpoint, cosign};
use crate::tlog::hash::Hash;
use crate::tlog::key::{SeedSigner, Signature, Signer, TYPE_COSIGNATURE};
use crate::tlog::merkle::{MemoryNodes, inclusion_proof};
use crate::tlog::proof::EntryProof;

const ORIGIN: &str = "test.example/acme";

/// The tree of `acme` over its first `size` entries; the genesis entry's leaf comes from the store.
fn nodes(size: usize) -> MemoryNodes {
    let mut nodes = MemoryNodes::default();
    nodes.append(sample().genesis_leaf("acme"));
    sample().acme.iter().take(size - 1).for_each(|record| nodes.append(record.leaf_hash));
    nodes
}

pub(super) fn write_checkpoint(dir: &Path, size: usize, root: Option<Hash>, signer: &dyn Signer) -> PathBuf {
    let checkpoint = Checkpoint {
        origin: ORIGIN.to_owned(),
        size: size as u64,
        root: root.unwrap_or_else(|| nodes(size).frontier().root()),
    };
    let path = dir.join(format!("checkpoint-{size}"));
    fs::write(&path, checkpoint.sign(signer, ORIGIN).unwrap().as_str()).unwrap();
    path
}

/// A checkpoint of any log of any store, as its snapshot has it.
pub(super) fn checkpoint_of(dir: &Path, data: &Path, tenant: &str, signer: &dyn Signer) -> PathBuf {
    let (size, root) = store::root_of(data, tenant);
    let checkpoint = Checkpoint { origin: format!("{INSTANCE}/{tenant}"), size, root };
    let path = dir.join(format!("checkpoint-{tenant}"));
    fs::write(&path, checkpoint.sign(signer, &checkpoint.origin).unwrap().as_str()).unwrap();
    path
}

pub(super) fn with_checkpoint(path: PathBuf) -> Options {
    Options { checkpoints: vec![path], ..Options::default() }
}

pub(super) fn acme(report: &Report) -> &LogReport {
    report.logs.iter().find(|log| log.tenant == "acme").unwrap()
}

#[test]
fn a_checkpoint_raises_the_claim_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (sample().first_signer("acme"), &sample().signers["acme"]);
    for (size, signer) in [(1_001, &old), (1_002, &old), (1_003, new), (1_600, new), (7, &old)] {
        let report =
            verify_with(&sample().path, with_checkpoint(write_checkpoint(dir.path(), size, None, &**signer)));
        assert_intact(&report);
        assert_eq!(
            (acme(&report).claim, report.claim),
            (Claim::Checkpointed, Claim::SelfSigned),
            "size {size}"
        );
    }
}

#[test]
fn a_checkpoint_that_does_not_hold_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (sample().first_signer("acme"), sample().signers["acme"].clone());
    let stranger = SeedSigner::from_seed(&[5; 32]);
    let with = |size, root, signer: &dyn Signer| {
        verify_with(&sample().path, with_checkpoint(write_checkpoint(dir.path(), size, root, signer)))
    };
    assert_found(
        &with(1_600, Some(Hash([1; 32])), &*new),
        &[(FindingKind::RootMismatch, "acme", Some(1_600))],
    );
    assert_found(&with(1_600, None, &stranger), &[(FindingKind::CheckpointSignature, "acme", Some(1_600))]);
    assert_found(&with(1_600, None, &*old), &[(FindingKind::CheckpointSignature, "acme", Some(1_600))]);
    assert_found(&with(1_002, None, &*new), &[(FindingKind::CheckpointSignature, "acme", Some(1_002))]);
    assert_found(&with(1_700, Some(Hash([1; 32])), &*new), &[(FindingKind::Truncated, "acme", Some(1_600))]);
    // The store as it was before: whole in itself, but a checkpoint remembers.
    assert_intact(&verify(&sample().old));
    let path = write_checkpoint(dir.path(), 1_600, None, &*new);
    assert_found(
        &verify_with(&sample().old, with_checkpoint(path)),
        &[(FindingKind::Truncated, "acme", Some(1_300))],
    );
    let foreign = Checkpoint { origin: format!("{INSTANCE}/gone"), size: 1, root: Hash([1; 32]) };
    let path = dir.path().join("foreign");
    fs::write(&path, foreign.sign(&stranger, &foreign.origin).unwrap().as_str()).unwrap();
    assert_found(&verify_with(&sample().path, with_checkpoint(path)), &[(FindingKind::MissingLog, "", None)]);
    let missing = verify_dir(&sample().path, &with_checkpoint(dir.path().join("none")), &Quiet);
    assert!(matches!(missing, Err(VerifyError::Io { .. })));
}

#[test]
fn since_a_checkpoint_only_chain_and_tree_are_recomputed_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_checkpoint(dir.path(), 1_400, None, &*sample().signers["acme"]);
    let options = Options { since_checkpoint: Some(path), ..Options::default() };
    let report = verify_with(&sample().path, options.clone());
    assert_intact(&report);
    let log = acme(&report);
    assert_eq!((log.entries_chained, log.entries_checked, log.signatures_checked), (1_400, 200, 200));
    assert_eq!((log.claim, log.key_ids.len()), (Claim::Checkpointed, 2));
    assert!(report.to_text().contains("checked from 1400"), "{}", report.to_text());
    // What a body below says is not looked at, an entry is.
    let copy = sample_copy();
    change_page(copy.path(), "2026-10", 1, 300, |page, at| page.records[at].body[40] ^= 1);
    assert_intact(&verify_with(copy.path(), options.clone()));
    change_page(copy.path(), "2026-10", 1, 300, |page, at| page.records[at].event = Hash([1; 32]));
    let kinds: Vec<_> =
        verify_with(copy.path(), options.clone()).findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&FindingKind::ChainBroken) && kinds.len() == 1, "{kinds:?}");
    let copy = sample_copy();
    change_page(copy.path(), "2026-11", 1, 1_450, |page, at| page.records[at].signature = Signature([1; 64]));
    let report = verify_with(copy.path(), options);
    assert!(
        report.findings.iter().any(|finding| finding.kind == FindingKind::BadSignature),
        "{}",
        report.to_text()
    );
}

#[test]
fn a_key_from_outside_must_have_signed() {
    let with =
        |keys: &[String]| verify_with(&sample().path, Options { keys: keys.to_vec(), ..Options::default() });
    for key in [
        store::verifying_key(&sample().first_signer("acme")),
        store::verifying_key(&sample().signers["acme"]),
    ] {
        let report = with(&[key.vkey(ORIGIN)]);
        assert_intact(&report);
        assert_eq!(acme(&report).claim, Claim::Signed);
    }
    let stranger = SeedSigner::from_seed(&[5; 32]).verifying_key();
    assert_found(&with(&[stranger.vkey(ORIGIN)]), &[(FindingKind::KeyMismatch, "acme", Some(0))]);
    assert_found(&with(&[stranger.vkey("test.example/gone")]), &[(FindingKind::MissingLog, "", None)]);
    let options = Options { keys: vec!["no key".to_owned()], ..Options::default() };
    assert!(matches!(verify_dir(&sample().path, &options, &Quiet), Err(VerifyError::Option(_))));
}

fn receipt_json(tenant: &str, record: &Sequenced) -> serde_json::Value {
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({
        "tenant": tenant,
        "index": record.index,
        "id": record.record.body().unwrap().unwrap().id().unwrap(),
        "recorded_at": Micros(record.record.recorded_at).to_string(),
        "entry": b64(&record.entry(sample().acme_log_id())),
        "link": b64(&record.link.0),
        "leaf_hash": b64(&record.leaf_hash.0),
        "signature": b64(&record.record.signature.0),
        "key_id": record.record.key_id.to_string(),
        "duplicate": false,
    })
}

fn with_receipts(dir: &Path, lines: &[serde_json::Value]) -> Options {
    let path = dir.join("receipts");
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    Options { receipts: Some(path), ..Options::default() }
}

#[test]
fn receipts_hold_the_log_to_its_word() {
    let dir = tempfile::tempdir().unwrap();
    let acme = &sample().acme;
    let one = receipt_json("acme", &acme[10]);
    let many = json!({"receipts": acme.iter().step_by(100).map(|record| receipt_json("acme", record)).collect::<Vec<_>>()});
    let sound = with_receipts(dir.path(), &[one.clone(), many]);
    assert_intact(&verify_with(&sample().path, sound.clone()));
    // The older store does not have the newest entries: index 1,301 and later.
    assert_found(&verify_with(&sample().old, sound), &[(FindingKind::Truncated, "acme", Some(1_300))]);

    let mut bad = one.clone();
    bad["signature"] = json!(URL_SAFE_NO_PAD.encode([1; 64]));
    let report = verify_with(&sample().path, with_receipts(dir.path(), &[bad]));
    assert_found(&report, &[(FindingKind::BadReceipt, "acme", Some(11))]);

    // A receipt does not sign its id; the body at hand says what it is.
    let mut other = one.clone();
    other["id"] = json!("event-12");
    let report = verify_with(&sample().path, with_receipts(dir.path(), &[other.clone()]));
    assert_found(&report, &[(FindingKind::ReceiptMismatch, "acme", Some(11))]);
    assert!(!report.to_json().contains("event-1"), "{}", report.to_json());
    let since = write_checkpoint(dir.path(), 1_400, None, &*sample().signers["acme"]);
    let below = Options { since_checkpoint: Some(since), ..with_receipts(dir.path(), &[other]) };
    assert_found(&verify_with(&sample().path, below), &[(FindingKind::ReceiptMismatch, "acme", Some(11))]);

    // The log's own key signed another entry for that place: it was rewritten.
    let mut entry = Entry::decode(&acme[10].entry(sample().acme_log_id())).unwrap();
    entry.event = Hash([4; 32]);
    let bytes = entry.encode();
    let signature = sample().first_signer("acme").sign(&chain::signed_message(&link(&bytes)));
    let mut fork = one.clone();
    for (name, value) in [
        ("entry", &bytes[..]),
        ("link", &link(&bytes).0),
        ("leaf_hash", &leaf_hash(&bytes).0),
        ("signature", &signature.0),
    ] {
        fork[name] = json!(URL_SAFE_NO_PAD.encode(value));
    }
    let report = verify_with(&sample().path, with_receipts(dir.path(), &[fork]));
    assert_found(&report, &[(FindingKind::ReceiptMismatch, "acme", Some(11))]);

    let report = verify_with(&sample().path, with_receipts(dir.path(), &[receipt_json("gone", &acme[10])]));
    assert_found(&report, &[(FindingKind::MissingLog, "gone", Some(11))]);
    let report = verify_with(&sample().path, with_receipts(dir.path(), &[receipt_json("beta", &acme[10])]));
    assert_found(&report, &[(FindingKind::BadReceipt, "beta", Some(11))]);
    let mut cut = one;
    cut["entry"] = json!("AAAA");
    let refused = verify_dir(&sample().path, &with_receipts(dir.path(), &[cut]), &Quiet).unwrap_err();
    assert!(refused.to_string().contains("line 1") && refused.to_string().contains("entry"), "{refused}");
}

#[test]
fn bytes_of_a_receipt_have_one_spelling() {
    use base64::engine::general_purpose::STANDARD;
    let dir = tempfile::tempdir().unwrap();
    let record = &sample().acme[10];
    let sound = receipt_json("acme", record);
    assert_intact(&verify_with(&sample().path, with_receipts(dir.path(), std::slice::from_ref(&sound))));
    let link = record.link.0;
    let key_id = record.record.key_id;
    for (name, text) in [
        ("link", STANDARD.encode(link)),
        ("link", format!("{}=", URL_SAFE_NO_PAD.encode(link))),
        ("key_id", URL_SAFE_NO_PAD.encode(key_id.0)),
        ("key_id", key_id.to_string().to_uppercase() + "g"),
    ] {
        let mut other = sound.clone();
        other[name] = json!(text);
        let refused = verify_dir(&sample().path, &with_receipts(dir.path(), &[other]), &Quiet);
        assert!(matches!(refused, Err(VerifyError::Option(_))), "{name} {text}");
    }
}

#[test]
fn a_checkpoint_says_how_far_it_reaches() {
    let dir = tempfile::tempdir().unwrap();
    let with = |size, root, signer: &dyn Signer| {
        verify_with(&sample().path, with_checkpoint(write_checkpoint(dir.path(), size, root, signer)))
    };
    let reach = |report: &Report| {
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        json["logs"][1]["checkpointed_size"].clone()
    };
    let report = with(1_400, None, &*sample().signers["acme"]);
    assert_eq!((acme(&report).claim, reach(&report)), (Claim::Checkpointed, json!(1_400)));
    assert!(report.to_text().contains("checkpointed up to 1400 of 1600"), "{}", report.to_text());
    // The empty tree is everybody's.
    let empty = crate::tlog::merkle::Frontier::default().root();
    let report = with(0, Some(empty), &*sample().first_signer("acme"));
    assert_intact(&report);
    assert_eq!((acme(&report).claim, reach(&report)), (Claim::SelfSigned, json!(0)));
}

#[test]
fn a_key_that_has_signed_nothing_yet_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = Writing::create(dir.path());
    writing.tenant("acme");
    writing.events("acme", 3);
    let old = store::verifying_key(&writing.signers["acme"]).vkey(ORIGIN);
    writing.rotate("acme");
    let new = store::verifying_key(&writing.signers["acme"]).vkey(ORIGIN);
    writing.stop();
    let with = |keys: &[&String]| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        verify_with(dir.path(), Options { keys, ..Options::default() })
    };
    for (keys, claim) in
        [(&[&new][..], Claim::SelfSigned), (&[&old], Claim::Signed), (&[&new, &old], Claim::Signed)]
    {
        let report = with(keys);
        assert_intact(&report);
        assert_eq!(acme(&report).claim, claim);
        assert_eq!(report.notes.iter().any(|note| note.contains("signed nothing")), keys[0] == &new);
    }
}

#[test]
fn what_was_brought_for_logs_that_are_not_asked_for_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let of_acme = Options {
        checkpoints: vec![write_checkpoint(dir.path(), 1_400, None, &*sample().signers["acme"])],
        keys: vec![store::verifying_key(&sample().signers["acme"]).vkey(ORIGIN)],
        ..with_receipts(dir.path(), &[receipt_json("acme", &sample().acme[10])])
    };
    let report = verify_with(&sample().path, Options { tenant: Some("beta".to_owned()), ..of_acme });
    assert_intact(&report);
    for what in ["checkpoint", "key", "receipt"] {
        assert!(report.notes.iter().any(|note| note.contains(what) && note.contains("acme")), "{what}");
    }
    let stranger = SeedSigner::from_seed(&[5; 32]).verifying_key();
    let gone = Options {
        tenant: Some("beta".to_owned()),
        keys: vec![stranger.vkey("test.example/gone")],
        ..with_receipts(dir.path(), &[receipt_json("gone", &sample().acme[10])])
    };
    assert_found(
        &verify_with(&sample().path, gone),
        &[(FindingKind::MissingLog, "", None), (FindingKind::MissingLog, "gone", Some(11))],
    );
}

#[test]
fn the_last_signed_checkpoint_is_held_against_the_log() {
    let slot = |log: u32, size: u64, root: Hash| {
        let mut slot = [0u8; 64];
        slot[..8].copy_from_slice(&size.to_be_bytes());
        slot[8..40].copy_from_slice(&root.0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"varve signed checkpoint").update(&log.to_be_bytes()).update(&slot[..40]);
        slot[40..48].copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        slot
    };
    let with = |slot: [u8; 64]| {
        let dir = sample_copy();
        fs::write(dir.path().join("signed-checkpoints"), [&[0; 64], &slot[..]].concat()).unwrap();
        verify(dir.path())
    };
    assert_intact(&with(slot(1, 1_500, nodes(1_500).frontier().root())));
    assert_found(&with(slot(1, 1_500, Hash([1; 32]))), &[(FindingKind::RootMismatch, "acme", Some(1_500))]);
    assert_found(&with(slot(1, 1_700, Hash([1; 32]))), &[(FindingKind::Truncated, "acme", Some(1_600))]);
    let mut flipped = slot(1, 1_500, nodes(1_500).frontier().root());
    flipped[20] ^= 1;
    assert_found(&with(flipped), &[(FindingKind::FileDamaged, "", None)]);
    // Log 3 was never made, or is gone.
    let dir = sample_copy();
    let slots = [&[0; 64], &[0; 64], &[0; 64], &slot(3, 5, Hash([1; 32]))[..]].concat();
    fs::write(dir.path().join("signed-checkpoints"), slots).unwrap();
    assert_found(&verify(dir.path()), &[(FindingKind::MissingLog, "", None)]);
}

#[test]
fn a_proof_file_says_what_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (sample().first_signer("acme"), sample().signers["acme"].clone());
    let (record, nodes) = (&sample().acme[10], nodes(1_600));
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 1_600, root: nodes.frontier().root() };
    let mut note = checkpoint.sign(&*new, ORIGIN).unwrap();
    let witness = SeedSigner::from_seed(&[6; 32]);
    note.add(cosign(note.text(), 1_800_000_000, "witness.example", &witness)).unwrap();
    let proof = EntryProof {
        entry: record.entry(sample().acme_log_id()),
        signature: record.record.signature,
        index: record.index,
        path: inclusion_proof(record.index, 1_600, &nodes).unwrap(),
        checkpoint: note,
    };
    let path = dir.path().join("record.tlog-proof");
    fs::write(&path, proof.to_text()).unwrap();
    let keys = [store::verifying_key(&new).vkey(ORIGIN), store::verifying_key(&old).vkey(ORIGIN)];
    let run = |keys: &[String], policy: Option<&str>| {
        let policy = policy.map(|text| {
            let path = dir.path().join("policy");
            fs::write(&path, text).unwrap();
            path
        });
        verify_proof(&path, &ProofOptions { keys: keys.to_vec(), policy }).unwrap()
    };
    let report = run(&[], None);
    assert_eq!((report.valid, report.claim), (true, Claim::Chained));
    assert!(report.notes[0].contains("not who signed"), "{}", report.to_text());
    let report = run(&keys, None);
    assert_eq!((report.valid, report.claim, report.logs[0].signatures_checked), (true, Claim::Signed, 1));
    let report = run(&keys[..1], None);
    assert_eq!((report.valid, report.logs[0].signatures_checked), (true, 0));
    let other = SeedSigner::from_seed(&[7; 32]).verifying_key();
    let bad = |report: Report| {
        report.findings.first().map(|finding| finding.kind) == Some(FindingKind::BadProof) && !report.valid
    };
    assert!(bad(run(&[other.vkey(ORIGIN)], None)));
    assert!(bad(run(&[other.vkey("test.example/beta")], None)));
    let vkey = witness.verifying_key().vkey_of_type("witness.example", TYPE_COSIGNATURE);
    let silent = other.vkey_of_type("silent.example", TYPE_COSIGNATURE);
    let policy = |quorum: &str| {
        format!(
            "log {}\nwitness a {vkey}\nwitness b {silent} # never seen\ngroup g any a b\ngroup h all a b\nquorum {quorum}\n",
            keys[0]
        )
    };
    let report = run(&[], Some(&policy("g")));
    assert_eq!((report.valid, report.claim), (true, Claim::Witnessed { k: 1, n: 2 }), "{}", report.to_text());
    assert!(bad(run(&[], Some(&policy("h")))));
    assert_eq!(run(&[], Some(&policy("none"))).claim, Claim::Signed);
    let mut text = proof.to_text();
    text = text.replace("index 11", "index 12");
    fs::write(&path, text).unwrap();
    assert!(bad(run(&[], None)) && bad(run(&keys, None)));
}
