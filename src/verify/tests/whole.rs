//! Sound stores, and faults of the store as a whole.

use std::fs;

use super::store::{self, Writing, change_state, open_layer, sample, sample_copy};
use super::*;
use crate::event::catalog::action;
use crate::event::{Builder, Outcome};
use crate::store::page;
use crate::tlog::hash::Hash;

type Find<'a> = &'a dyn Fn(&Path) -> std::path::PathBuf;
type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
type Ids = Vec<([u8; 16], crate::store::idtable::Location)>;

#[test]
fn a_sound_store_is_intact_and_untouched() {
    let dir = sample_copy();
    let read = || {
        store::files(dir.path())
            .into_iter()
            .map(|path| (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap(), path))
            .collect::<Vec<_>>()
    };
    let before = read();
    let report = verify(dir.path());
    assert_intact(&report);
    assert_eq!(report.claim, Claim::SelfSigned);
    let sizes: Vec<_> =
        report.logs.iter().map(|log| (log.tenant.as_str(), log.size, log.signatures_checked)).collect();
    assert_eq!(sizes, [("_system", 6, 6), ("acme", 1600, 1600), ("beta", 46, 46)]);
    assert_eq!(report.logs[1].key_ids.len(), 2);
    assert_eq!(report.logs[1].bodies_present, 1600);
    assert_eq!(report.logs[1].root, Some(store::root_of(dir.path(), "acme").1));
    assert!(before == read(), "verification writes nothing");
    assert!(report.to_text().contains("intact; claim: self-signed"));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["logs"][1]["size"], 1600);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let dir = sample_copy();
    store::change_page(dir.path(), "2026-10", 1, 300, |page, at| page.records[at].event = Hash([1; 32]));
    let reports: Vec<String> = [1, 2, 5]
        .map(|threads| {
            verify_with(dir.path(), Options { threads: Some(threads), ..Options::default() }).to_json()
        })
        .to_vec();
    assert!(reports.iter().all(|report| *report == reports[0] && report.contains("event_mismatch")));
}

#[test]
fn only_one_tenant_may_be_asked_for() {
    let options = |tenant: &str| Options { tenant: Some(tenant.to_owned()), ..Options::default() };
    let dir = sample_copy();
    store::change_page(dir.path(), "2026-10", 1, 300, |page, at| page.records[at].event = Hash([1; 32]));
    let report = verify_with(dir.path(), options("beta"));
    assert_intact(&report);
    assert_eq!(report.logs.len(), 1);
    assert!(!verify_with(dir.path(), options("acme")).valid);
    let refused = verify_dir(dir.path(), &options("gamma"), &Quiet).unwrap_err();
    assert!(matches!(refused, VerifyError::NoTenant(_)));
}

#[test]
fn a_store_in_use_and_a_foreign_directory_are_refused() {
    let dir = sample_copy();
    let lock = crate::process::lock::DirLock::acquire(dir.path()).unwrap();
    assert!(matches!(verify_dir(dir.path(), &Options::default(), &Quiet), Err(VerifyError::Held(_))));
    drop(lock);
    assert_intact(&verify(dir.path()));
    fs::remove_file(dir.path().join("lock")).unwrap();
    assert_intact(&verify(dir.path()));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        verify_dir(empty.path(), &Options::default(), &Quiet),
        Err(VerifyError::NoStore { .. })
    ));
}

#[test]
fn after_a_crash_the_journal_has_what_the_layers_lack() {
    let dir = tempfile::tempdir().unwrap();
    let (live, image) = (dir.path().join("live"), dir.path().join("image"));
    fs::create_dir_all(&live).unwrap();
    let mut writing = Writing::create(&live);
    writing.tenant("acme");
    writing.events("acme", 130);
    writing.next_month();
    writing.events("acme", 100);
    writing.rotate("acme");
    writing.events("acme", 30);
    writing.crash_image(&image);
    writing.stop();
    for path in [&image, &live] {
        let report = verify(path);
        assert_intact(&report);
        assert_eq!((report.logs[1].size, report.logs[1].key_ids.len()), (262, 2));
    }
    // The record that only the journal has is checked like any other: one flipped bit there is found.
    let segment = store::files(&image.join("journal"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[3_000] ^= 4;
    fs::write(&segment, bytes).unwrap();
    assert_found(&verify(&image), &[(FindingKind::JournalDamaged, "", None)]);
}

#[test]
fn files_that_name_the_rest_must_be_what_was_written() {
    let state = |dir: &Path| store::files(&dir.join("state")).remove(0);
    let cases: [(Find<'_>, FindingKind); 3] = [
        (&state, FindingKind::SnapshotDamaged),
        (&|dir: &Path| dir.join("MANIFEST"), FindingKind::ManifestDamaged),
        (&|dir: &Path| dir.join("signing-keys"), FindingKind::FileDamaged),
    ];
    for (path, kind) in cases {
        let dir = sample_copy();
        let path = path(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_found(&verify(dir.path()), &[(kind, "", None)]);
        if kind == FindingKind::FileDamaged {
            fs::remove_file(&path).unwrap();
            let report = verify(dir.path());
            assert!(report.valid && report.notes[0].contains("signing-keys"));
        } else {
            fs::remove_file(&path).unwrap();
            assert_found(&verify(dir.path()), &[(kind, "", None)]);
        }
    }
}

#[test]
fn a_journal_that_is_older_than_its_head_is_a_rollback() {
    let dir = sample_copy();
    for file in store::files(&sample().old.join("journal")) {
        if file.extension().is_some_and(|end| end == "seg") {
            fs::remove_file(dir.path().join("journal").join(file.file_name().unwrap())).ok();
        }
    }
    let report = verify(dir.path());
    let kind = report.findings[0].kind;
    assert!(matches!(kind, FindingKind::Rollback | FindingKind::JournalDamaged), "{}", report.to_text());
}

#[test]
fn a_missing_and_an_unreadable_layer_are_found() {
    let dir = sample_copy();
    let layer = dir.path().join("layers/2026-10.g1");
    fs::write(layer.join("blobs/1"), b"a page that is never synced").unwrap();
    let report = verify(dir.path());
    assert!(
        report.findings.iter().any(|finding| finding.kind == FindingKind::LayerUnreadable),
        "{}",
        report.to_text()
    );
    fs::remove_dir_all(&layer).unwrap();
    let report = verify(dir.path());
    assert!(
        report.findings.iter().any(|finding| finding.kind == FindingKind::MissingLayer),
        "{}",
        report.to_text()
    );
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.kind == FindingKind::MissingEntries && finding.tenant == "acme")
    );
}

#[test]
fn keys_that_nothing_wrote_are_found() {
    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-10");
    kv.put(b"Zoo", b"").unwrap();
    let stored = layer.page_at(1, 0).unwrap().unwrap();
    layer.put_page(99, 5, &stored.bytes).unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    let report = verify(dir.path());
    assert_found(
        &report,
        &[(FindingKind::UnexpectedKey, "", None), (FindingKind::UnknownLog, "", None)]
            .map(|(kind, tenant, index)| (kind, tenant, index)),
    );
}

#[test]
fn entries_that_the_synced_layers_lack_are_found_though_the_journal_has_them() {
    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-11");
    let stored = layer.page_at(1, 1_599).unwrap().unwrap();
    let mut key = b"P\0\0\0\x01\0\0\0".to_vec();
    key.extend_from_slice(&u16::try_from(stored.first_index).unwrap().to_be_bytes());
    key.push(0);
    kv.remove(&key).unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    assert_found(&verify(dir.path()), &[(FindingKind::LayerIncomplete, "acme", Some(stored.first_index))]);
}

#[test]
fn heads_must_be_what_entries_give() {
    let dir = sample_copy();
    change_state(dir.path(), |state| state.logs.get_mut(&1).unwrap().head.recorded_at += 1);
    assert_found(&verify(dir.path()), &[(FindingKind::HeadMismatch, "acme", Some(1_600))]);

    let dir = sample_copy();
    change_state(dir.path(), |state| {
        state.logs.get_mut(&1).unwrap().head.layers.remove(0);
    });
    assert_found(&verify(dir.path()), &[(FindingKind::HeadMismatch, "acme", Some(0))]);

    // A head that is further than the entries: its end was cut off.
    let dir = sample_copy();
    change_state(dir.path(), |state| {
        let head = &mut state.logs.get_mut(&1).unwrap().head;
        (0..5).for_each(|_| head.frontier.append(Hash([1; 32])));
        head.size += 5;
    });
    assert_found(&verify(dir.path()), &[(FindingKind::Truncated, "acme", Some(1_600))]);

    // A head that is behind them: it was put back.
    let dir = sample_copy();
    let mut old = None;
    let other = tempfile::tempdir().unwrap();
    store::copy(&sample().old, other.path());
    change_state(other.path(), |state| old = state.logs.remove(&1));
    change_state(dir.path(), |state| drop(state.logs.insert(1, old.take().unwrap())));
    let report = verify(dir.path());
    // As long as the journal has the newer frames it says so itself; afterwards the layers do.
    assert!(
        report.findings.iter().all(|finding| finding.kind == FindingKind::Rollback) || report.valid,
        "{}",
        report.to_text()
    );
}

#[test]
fn a_log_that_stands_behind_its_layers_is_a_rollback() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("store"), dir.path().join("old"));
    fs::create_dir_all(&path).unwrap();
    let mut writing = Writing::create(&path);
    writing.tenant("acme");
    writing.events("acme", 20);
    let clock = writing.stop();
    store::copy(&path, &old);
    let writing = Writing::open(&path, clock);
    writing.events("acme", 20);
    writing.stop();
    // Journal, snapshot and id table of the older store with the layers of the newer one.
    for part in ["journal", "state", "ids"] {
        fs::remove_dir_all(path.join(part)).unwrap();
        store::copy(&old.join(part), &path.join(part));
    }
    assert_found(&verify(&path), &[(FindingKind::Rollback, "acme", Some(21))]);
}

#[test]
fn a_key_that_no_entry_records_is_found() {
    let dir = sample_copy();
    change_state(dir.path(), |state| {
        let mut key = state.api_keys.values().next().unwrap().clone();
        key.id = "ffffffffffffffff".to_owned();
        state.api_keys.insert(key.id.clone(), key);
    });
    assert_found(&verify(dir.path()), &[(FindingKind::UnrecordedKey, "_system", Some(3))]);

    let changes: [fn(&mut crate::store::state::ApiKey); 6] = [
        |key| key.scopes = 511,
        |key| key.scopes |= 1 << 12,
        |key| key.tenant = Some("beta".to_owned()),
        |key| key.tenant = None,
        |key| key.expires_at = 5,
        |key| key.secret_digest[0] ^= 1,
    ];
    for change in changes {
        let dir = sample_copy();
        change_state(dir.path(), |state| change(state.api_keys.values_mut().next().unwrap()));
        assert_found(&verify(dir.path()), &[(FindingKind::UnrecordedKey, "_system", Some(3))]);
    }
}

#[test]
fn a_map_that_shrinks_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let writing = Writing::create(dir.path());
    writing.heartbeat(4);
    writing.heartbeat(3);
    writing.stop();
    assert_found(
        &verify(dir.path()),
        &[(FindingKind::MissingLog, "", None), (FindingKind::MapShrunk, "_system", Some(2))],
    );
}

#[test]
fn silence_is_a_warning_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let writing = Writing::create(dir.path());
    writing.heartbeat(1);
    writing.wait(179);
    writing.heartbeat(1);
    writing.wait(181);
    writing.heartbeat(1);
    // The clock was stepped, and the log says so.
    writing.wait(181);
    writing.own("_system", Builder::new(action::CLOCK_ANOMALY, Outcome::Failure), Vec::new());
    writing.wait(181);
    writing.heartbeat(1);
    // A kill leaves no `.stopped`; the start says that there was one.
    writing.wait(900);
    writing.own("_system", Builder::new(action::SERVICE_STARTED, Outcome::Success), Vec::new());
    writing.heartbeat(1);
    writing.stop();
    let report = verify(dir.path());
    assert_intact(&report);
    assert_eq!(report.claim, Claim::SelfSigned);
    let found: Vec<_> = report.findings.iter().map(|found| (found.kind, found.index)).collect();
    assert_eq!(found, [(FindingKind::Silence, Some(3))], "{}", report.to_text());
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!((&json["findings"][0]["severity"], &json["finding_count"]), (&"warning".into(), &0.into()));
    assert!(report.to_text().contains("warning: silence"), "{}", report.to_text());
    // Among findings it stays what it is.
    let dir = sample_copy();
    store::change_page(dir.path(), "2026-10", 1, 300, |page, at| page.records[at].body.clear());
    let json: serde_json::Value = serde_json::from_str(&verify(dir.path()).to_json()).unwrap();
    assert_eq!(json["findings"][0]["severity"], "error");
}

#[test]
fn a_start_may_change_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let writing = Writing::create(dir.path());
    let started = || Builder::new(action::SERVICE_STARTED, Outcome::Success);
    writing.heartbeat(1);
    writing.wait(500);
    writing.own("_system", started(), Vec::new());
    writing.wait(500);
    let slower = Builder::new(action::LOG_HEARTBEAT, Outcome::Success).fact("interval_seconds", 600u64);
    writing.own("_system", slower, Vec::new());
    writing.own("_system", Builder::new(action::SERVICE_STOPPED, Outcome::Success), Vec::new());
    writing.wait(90_000);
    writing.own("_system", started(), Vec::new());
    writing.heartbeat(1);
    writing.stop();
    assert_intact(&verify(dir.path()));
}

/// A frame whose month no clock of this format can have shown, or whose part no month has, hashed and chained as any other.
#[test]
fn a_frame_of_an_impossible_month_is_damage() {
    use crate::journal::Scan;
    use crate::store::frame_op::PayloadWriter;
    use crate::store::recovery;
    for layer in [0, 1_969 * 12 + 11, 10_000 * 12, 9_999 << 17 | 24_322, u32::MAX] {
        let dir = sample_copy();
        let (size, _) = store::root_of(dir.path(), "acme");
        let record = sample().acme[0].clone();
        let mut payload = PayloadWriter::new(Vec::new());
        payload.records(1, size, &record.link, std::iter::once(&record.record));
        let scan = Scan::read(&dir.path().join("journal"), &store::options()).unwrap();
        let mut journal = scan.into_writer().unwrap();
        journal.append(layer, &[&payload.finish()]).unwrap();
        drop(journal);
        assert_found(&verify(dir.path()), &[(FindingKind::JournalDamaged, "", None)]);
        let opened = recovery::open(dir.path(), std::sync::Arc::new(store::backend()), &store::options());
        assert!(opened.is_err_and(|error| error.to_string().contains("month")), "{layer}");
    }
}

/// An index that comes out of nowhere must not make memory as large as it says.
#[test]
fn memory_follows_what_was_read() {
    use super::super::check::{BodyState, Checked, CheckedRecord, LogInfo, Signed};
    use crate::store::layer_id::LayerId;
    use crate::store::state::LogIdentity;
    let info = LogInfo {
        identity: LogIdentity {
            number: 1,
            tenant: "acme".to_owned(),
            origin: String::new(),
            log_id: Hash::ZERO,
            index_key: [0; 32],
            genesis_key: [0; 32],
        },
        origin: "test.example/acme".to_owned(),
        chained_below: 0,
        keys: parking_lot::RwLock::new(Vec::new()),
        receipts: Vec::new(),
    };
    let record = CheckedRecord {
        recorded_at: LayerId::parse("2026-10").unwrap().start(),
        occurred_at: 0,
        key_id: crate::tlog::key::KeyId([0; 4]),
        class: 1,
        link: Hash::ZERO,
        leaf_hash: Hash::ZERO,
        signed: Signed::Unchecked,
        flags: 0,
        body: BodyState::Present,
        withheld: Vec::new(),
        in_journal: false,
        class_name: None,
        sums: index::Contribution::default(),
        fact: None,
    };
    let page = Checked {
        log: 0,
        first_index: 1 << 20,
        previous: Hash::ZERO,
        records: vec![record],
        faults: Vec::new(),
        signatures_checked: 0,
        sealed: Vec::new(),
    };
    let mut walk = Walk::new(&info, Vec::new(), u64::MAX);
    let mut findings = Findings::default();
    let mut pool = Pool::default();
    let mut context = Context { info: &info, checkpoints: &[], findings: &mut findings, pool: &mut pool };
    walk.take(&mut context, LayerId::parse("2026-10").unwrap(), page);
    assert_eq!((walk.next, walk.ids.len()), ((1 << 20) + 1, 0));
    assert!(!findings.is_empty());
}

#[test]
fn indexes_must_answer_as_the_records_would() {
    let found = |change: &dyn Fn(&crate::store::layer::Layer, &dyn crate::store::backend::Kv)| {
        let dir = sample_copy();
        let (layer, kv) = open_layer(dir.path(), "2026-10");
        change(&layer, &*kv);
        kv.sync().unwrap();
        drop((layer, kv));
        verify(dir.path())
    };
    let index = |at| [(FindingKind::IndexMismatch, "acme", Some(at))];
    assert_found(&found(&|layer, _| layer.put_tile(1, 2, &Hash([1; 32])).unwrap()), &index(512));
    assert_found(&found(&|layer, _| layer.put_tile(1, 70, &Hash([1; 32])).unwrap()), &index(70 * 256));
    // A posting less, a posting elsewhere, another time range, another end.
    let blocks = |layer: &crate::store::layer::Layer| {
        let mut pieces = Vec::new();
        layer.terms_pieces(1, 0, 512, &mut |token, piece| pieces.push((token, piece.to_vec()))).unwrap();
        pieces
    };
    let changes: [Change<'_>; 5] = [
        &|piece| piece.truncate(piece.len() - 12),
        &|piece| *piece.last_mut().unwrap() ^= 1,
        &|piece| piece[13] ^= 1,
        &|piece| piece[5] ^= 1,
        &|piece| piece[30] ^= 1,
    ];
    for change in changes {
        let report = found(&|layer, _| {
            let (token, mut piece) = blocks(layer).remove(0);
            // With its checksum made anew: what is wrong must be seen by what it says.
            piece.truncate(piece.len() - 4);
            change(&mut piece);
            let check = crc32c::crc32c(&piece);
            piece.extend_from_slice(&check.to_be_bytes());
            layer.put_terms(1, 0, 512, token, &piece).unwrap();
        });
        assert_found(&report, &index(512));
    }
    let report = found(&|layer, kv| {
        let pieces = blocks(layer);
        assert!(pieces.len() > 1, "the block has several pieces");
        let mut key = b"X\0\0\0\x01\0\0\0\0\x02\0".to_vec();
        key.extend_from_slice(&pieces[1].0.to_be_bytes());
        kv.remove(&key).unwrap();
    });
    assert_found(&report, &index(512));
    // The carry record of the second month.
    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-11");
    let mut carry = layer.carry(1).unwrap().unwrap();
    *carry.last_mut().unwrap() ^= 1;
    layer.put_carry(1, &carry).unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    assert_found(&verify(dir.path()), &index(1_300));
}

#[test]
fn the_id_table_must_have_every_id_and_no_other() {
    use crate::store::idtable::{IdTable, Location};
    let rebuild = |change: &dyn Fn(&mut Ids)| {
        let dir = sample_copy();
        let ids = dir.path().join("ids");
        let old = IdTable::open(&ids).unwrap();
        let (mut all, frame) = (Vec::new(), old.durable_frame());
        old.for_each(|token, location| all.push((*token, location))).unwrap();
        drop(old);
        all.sort_by_key(|(token, location)| (*location, *token));
        change(&mut all);
        fs::remove_dir_all(&ids).unwrap();
        IdTable::open(&ids).unwrap().add_run(&mut all, frame).unwrap();
        verify(dir.path())
    };
    assert_intact(&rebuild(&|_| ()));
    let at = |all: &Ids, index| all.iter().position(|(_, at)| *at == Location { log: 1, index }).unwrap();
    let report = rebuild(&|all| {
        let place = at(all, 700);
        all.remove(place);
    });
    assert_found(&report, &[(FindingKind::IndexMismatch, "acme", Some(512))]);
    let report = rebuild(&|all| {
        let place = at(all, 700);
        all[place].1.index = 701;
    });
    assert_found(&report, &[(FindingKind::IndexMismatch, "acme", Some(512))]);
    let report = rebuild(&|all| all.push(([1; 16], Location { log: 1, index: 5_000 })));
    assert_found(&report, &[(FindingKind::IndexMismatch, "acme", Some(4_864))]);
    let report = rebuild(&|all| all.push(([1; 16], Location { log: 9, index: 1 })));
    assert_found(&report, &[(FindingKind::IndexMismatch, "", None)]);
    let dir = sample_copy();
    fs::remove_dir_all(dir.path().join("ids")).unwrap();
    assert_found(&verify(dir.path()), &[(FindingKind::IndexMismatch, "", None)]);
}

#[test]
fn pages_must_be_whole_and_apart() {
    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-10");
    let stored = layer.page_at(1, 500).unwrap().unwrap();
    let mut bytes = stored.bytes.clone();
    bytes[100] ^= 1;
    layer.put_page(1, stored.first_index, &bytes).unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    assert_found(&verify(dir.path()), &[(FindingKind::PageUnreadable, "acme", Some(stored.first_index))]);

    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-10");
    let stored = layer.page_at(1, 500).unwrap().unwrap();
    let page = page::decode(&stored.bytes).unwrap();
    let previous = crate::tlog::chain::link(&page.records[0].entry(
        sample().acme_log_id(),
        stored.first_index,
        page.previous,
    ));
    layer.put_page(1, stored.first_index + 1, &page::encode(&previous, &page.records[1..])).unwrap();
    kv.sync().unwrap();
    drop((layer, kv));
    assert_found(
        &verify(dir.path()),
        &[(FindingKind::OverlappingPages, "acme", Some(stored.first_index + 1))],
    );
}

#[test]
fn a_closed_layer_holds_what_its_seal_says() {
    use crate::store::seal::{SEAL_FILE, Seal};
    let dir = sample_copy();
    let (layer, kv) = open_layer(dir.path(), "2026-10");
    let seal = Seal::of(&layer, &|| false).unwrap().unwrap();
    drop((layer, kv));
    let path = dir.path().join("layers/2026-10.g1");
    seal.write(&path).unwrap();
    assert_intact(&verify(dir.path()));
    for other in [
        Seal { records: seal.records - 1, ..seal },
        Seal { logs: seal.logs + 1, ..seal },
        Seal { content: Hash([1; 32]), ..seal },
    ] {
        other.write(&path).unwrap();
        assert_found(&verify(dir.path()), &[(FindingKind::SealMismatch, "", None)]);
    }
    let one = Options { tenant: Some("beta".to_owned()), ..Options::default() };
    assert_intact(&verify_with(dir.path(), one));
    let other = crate::store::layer_id::LayerId::parse("2026-09").unwrap();
    Seal { layer: other, ..seal }.write(&path).unwrap();
    assert_found(&verify(dir.path()), &[(FindingKind::FileDamaged, "", None)]);
    fs::write(path.join(SEAL_FILE), "no seal").unwrap();
    assert_found(&verify(dir.path()), &[(FindingKind::FileDamaged, "", None)]);
}
