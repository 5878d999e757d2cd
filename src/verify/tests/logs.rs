//! Which logs there are: those that `_system` says were made, each as it says, and no others.

use std::fs;
use std::ops::ControlFlow;

use super::store::{self, Writing, change_state, created, open_layer, sample_copy};
use super::*;
use crate::journal::{Scan, Writer};
use crate::store::idtable::IdTable;
use crate::store::manifest::Manifest;
use crate::store::state::State;

/// What someone who knows the formats, and has no key, can do: takes a log out of every file.
fn remove_log(data: &Path, number: u32) {
    let scan = Scan::read(&data.join("journal"), &store::options()).unwrap();
    let head = *scan.head();
    drop(scan);
    let mut state = State::read(&data.join("state"), head.applied, &head.state_digest).unwrap();
    state.logs.remove(&number);
    for layer in Manifest::read(data).unwrap().layers.into_keys() {
        let (layer, kv) = open_layer(data, &layer.to_string());
        let mut keys = Vec::new();
        kv.scan(&[0], &[0xff; 32], &mut |key, _| {
            if key[1..5] == number.to_be_bytes() {
                keys.push(key.to_vec());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        keys.iter().for_each(|key| kv.remove(key).unwrap());
        kv.sync().unwrap();
        drop(layer);
    }
    let ids = IdTable::open(&data.join("ids")).unwrap();
    let mut all = Vec::new();
    ids.for_each(|token, location| all.push((*token, location))).unwrap();
    drop(ids);
    all.retain(|(_, location)| location.log != number);
    all.sort_by_key(|(token, location)| (*location, *token));
    fs::remove_dir_all(data.join("ids")).unwrap();
    fs::create_dir(data.join("ids")).unwrap();
    IdTable::open(&data.join("ids")).unwrap().add_run(&mut all, 0).unwrap();
    fs::remove_dir_all(data.join("journal")).unwrap();
    let mut writer = Writer::create(&data.join("journal"), &store::options()).unwrap();
    let digest = state.write(&data.join("state"), 0).unwrap();
    writer.set_head(0, digest, true).unwrap();
}

#[test]
fn a_log_that_was_taken_out_of_every_file_is_missed() {
    let found = |number| {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant("acme");
        writing.tenant("beta");
        writing.events("acme", 20);
        writing.events("beta", 20);
        writing.stop();
        remove_log(dir.path(), number);
        verify(dir.path())
    };
    assert_intact(&found(9));
    assert_found(&found(2), &[(FindingKind::MissingLog, "_system", Some(2))]);
    assert_found(&found(0), &[(FindingKind::MissingLog, "", None)]);
}

#[test]
fn a_log_is_the_one_that_was_made() {
    let found = |change: fn(&mut store::Genesis)| {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant_with("acme", change);
        writing.stop();
        verify(dir.path())
    };
    assert_intact(&found(|_| ()));
    // Nothing made it: it was put there.
    assert_found(&found(|log| log.recorded = false), &[(FindingKind::UnknownLog, "acme", Some(0))]);
    // Another was made: it was put in its place.
    let swapped = [(FindingKind::MissingLog, "_system", Some(1)), (FindingKind::UnknownLog, "acme", Some(0))];
    assert_found(&found(|log| log.recorded_id = Some([1; 32])), &swapped);
    assert_found(&found(|log| log.recorded_key = Some([1; 32])), &swapped);
}

#[test]
fn a_log_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = Writing::create(dir.path());
    writing.tenant("acme");
    let identity = writing.log("acme").identity.clone();
    let again = |tenant: &str| created(tenant, &identity.log_id.0, &identity.genesis_key);
    writing.own("_system", again("acme"), Vec::new());
    writing.own("_system", again("beta"), Vec::new());
    writing.stop();
    let missing = |index| (FindingKind::MissingLog, "_system", Some(index));
    assert_found(&verify(dir.path()), &[missing(2), missing(3)]);
    for twice in ["acme", "_system"] {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::create(dir.path());
        writing.tenant("acme");
        writing.tenant(twice);
        writing.stop();
        assert_found(&verify(dir.path()), &[(FindingKind::UnknownLog, twice, Some(0))]);
    }
}

#[test]
fn without_the_log_of_the_instance_nothing_says_which_logs_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = Writing::create_empty(dir.path());
    writing.tenant_with("acme", |log| log.recorded = false);
    writing.stop();
    assert_found(&verify(dir.path()), &[(FindingKind::MissingLog, "", None)]);
    let one = |tenant: &str| Options { tenant: Some(tenant.to_owned()), ..Options::default() };
    assert_intact(&verify_with(dir.path(), one("acme")));
    // A store that was cut off while it was made has none at all.
    let dir = tempfile::tempdir().unwrap();
    Writing::create_empty(dir.path()).stop();
    assert_intact(&verify(dir.path()));
}

#[test]
fn names_outside_the_grammar_are_found_and_steer_no_terminal() {
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}";
    let changes: [fn(&mut State); 3] = [
        |state| state.instance = "\u{1b}[2J\u{9b}31m\u{202e}".to_owned(),
        |state| state.logs.get_mut(&1).unwrap().identity.tenant = "\u{1b}[2J\u{9b}31m\u{202e}".to_owned(),
        |state| state.logs.get_mut(&1).unwrap().identity.origin = "\u{1b}[2J\u{9b}31m\u{202e}".to_owned(),
    ];
    for change in changes {
        let dir = sample_copy();
        change_state(dir.path(), change);
        let report = verify(dir.path());
        assert!(report.findings.iter().any(|found| found.kind.name() == "bad_name"), "{}", report.to_text());
        for text in [report.to_text(), report.to_json()] {
            let steers = |character: char| hostile.contains(character) && !character.is_ascii_graphic();
            assert!(!text.chars().any(steers), "{text:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert!(json["logs"].as_array().unwrap().iter().any(|log| {
            let origin = log["origin"].as_str().unwrap();
            origin.contains(hostile)
        }));
    }
}
