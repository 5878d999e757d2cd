//! A verification that goes on from a checkpoint: it says no more than it looked at, and finds what the full one
//! finds in what it looks at.

use super::brought::{acme, checkpoint_of, write_checkpoint};
use super::store::{self, Writing, change_page, sample, sample_copy};
use super::*;

fn since(path: PathBuf) -> Options {
    Options { since_checkpoint: Some(path), ..Options::default() }
}

#[test]
fn a_body_that_was_removed_below_the_checkpoint_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let options = since(write_checkpoint(dir.path(), 1_400, None, &*sample().signers["acme"]));
    let copy = sample_copy();
    change_page(copy.path(), "2026-10", 1, 300, |page, at| {
        page.records[at].body.clear();
        page.records[at + 1].body.clear();
    });
    assert_eq!(verify_with(copy.path(), options.clone()).findings, verify(copy.path()).findings);
    // The rotation itself: without it the keys behind it are nobody's.
    let copy = sample_copy();
    change_page(copy.path(), "2026-10", 1, 1_001, |page, at| page.records[at].body.clear());
    let report = verify_with(copy.path(), options);
    let missing = |found: &Finding| (found.kind, found.index) == (FindingKind::MissingBody, Some(1_001));
    assert!(report.findings.iter().any(missing), "{}", report.to_text());
}

#[test]
fn what_was_only_chained_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let report = verify_with(
        &sample().path,
        since(write_checkpoint(dir.path(), 1_600, None, &*sample().signers["acme"])),
    );
    assert_intact(&report);
    assert_eq!((acme(&report).claim, acme(&report).entries_checked), (Claim::Chained, 0));
    let report = verify_with(
        &sample().path,
        since(write_checkpoint(dir.path(), 1_599, None, &*sample().signers["acme"])),
    );
    assert_eq!(acme(&report).claim, Claim::Checkpointed);
    assert!(report.to_text().contains("checked from 1599"), "{}", report.to_text());
}

/// An own entry of another class than its action has: found, and found alike.
#[test]
fn a_rotation_counts_alike_in_both_runs() {
    for class in ["permanent", "security", "processing"] {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant("acme");
        writing.events("acme", 3);
        writing.rotate_by_text("acme", |facts| {
            let facts: Vec<String> =
                facts.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
            format!(
                "{{\"action\":\"varve.key.rotated\",\"class\":\"{class}\",\"outcome\":\"success\",\"varve\":{{{}}}}}",
                facts.join(",")
            )
        });
        writing.events("acme", 10);
        let signer = writing.signers["acme"].clone();
        writing.stop();
        let scratch = tempfile::tempdir().unwrap();
        let path = checkpoint_of(scratch.path(), dir.path(), "acme", &*signer);
        let found: Vec<_> = match class {
            "permanent" => vec![],
            _ => vec![(FindingKind::ClassMismatch, "acme", Some(4))],
        };
        for report in [verify(dir.path()), verify_with(dir.path(), since(path))] {
            match class {
                "permanent" => assert_intact(&report),
                _ => assert_found(&report, &found),
            }
        }
    }
}

#[test]
fn the_log_of_the_instance_is_read_below_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let signer = sample().signers["_system"].clone();
    let options = since(checkpoint_of(dir.path(), &sample().path, "_system", &*signer));
    assert_intact(&verify_with(&sample().path, options.clone()));
    let copy = sample_copy();
    store::change_state(copy.path(), |state| state.api_keys.values_mut().next().unwrap().scopes = 511);
    assert_found(&verify_with(copy.path(), options), &[(FindingKind::UnrecordedKey, "_system", Some(3))]);
}

#[test]
fn a_key_that_signed_below_the_checkpoint_alone_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_checkpoint(dir.path(), 1_400, None, &*sample().signers["acme"]);
    let old = store::verifying_key(&sample().first_signer("acme"));
    let options = Options { keys: vec![old.vkey("test.example/acme")], ..since(path) };
    let report = verify_with(&sample().path, options);
    assert_intact(&report);
    assert!(report.notes.iter().any(|note| note.contains("below")), "{}", report.to_text());
}
