//! The table against a model, against crashes at each file operation, and against flipped bits.

#![expect(clippy::disallowed_methods, reason = "readers and writers that end in the test")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::disk::{Step, hook};
use super::*;

type Model = BTreeMap<Token, BTreeSet<Location>>;

fn token(number: u64) -> Token {
    blake3::hash(&number.to_be_bytes()).as_bytes()[..16].try_into().unwrap()
}

fn at(log: u32, index: u64) -> Location {
    Location { log, index }
}

/// Entries for the numbers, each with its number as index.
fn batch(numbers: impl IntoIterator<Item = u64>) -> Vec<(Token, Location)> {
    numbers.into_iter().map(|number| (token(number), at(1, number))).collect()
}

fn found(table: &IdTable, token: &Token) -> Vec<Location> {
    let mut found = Vec::new();
    table.lookup(token, &mut found).unwrap();
    found
}

fn add(model: &mut Model, entries: &[(Token, Location)]) {
    for (token, location) in entries {
        model.entry(*token).or_default().insert(*location);
    }
}

fn assert_same(table: &IdTable, model: &Model) {
    for (token, locations) in model {
        assert_eq!(found(table, token), locations.iter().copied().collect::<Vec<_>>());
    }
    let absent: Vec<Token> = (0..150).map(|number| token(u64::MAX - 99 - number)).collect();
    let tokens: Vec<Token> = model.keys().copied().chain(absent).chain(model.keys().copied()).collect();
    let mut many = vec![(7, at(7, 7))];
    table.lookup_many(&tokens, &mut many).unwrap();
    let each = |(at, token)| found(table, token).into_iter().map(move |location| (at, location));
    let one_by_one = [(7, at(7, 7))].into_iter().chain(tokens.iter().enumerate().flat_map(each));
    assert!(many.iter().copied().eq(one_by_one), "lookup_many disagrees with lookup");
    let mut seen = Model::new();
    table
        .for_each(|token, location| {
            seen.entry(*token).or_default().insert(location);
        })
        .unwrap();
    assert!(seen == *model, "for_each disagrees with the model");
    for absent in 0..50 {
        assert!(found(table, &token(u64::MAX - absent)).is_empty());
    }
}

fn keep_all(_: &Location) -> bool {
    true
}

#[test]
fn what_was_added_is_found_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/table");
    let table = IdTable::open(&path).unwrap();
    assert!((table.len(), table.run_count(), table.durable_frame()) == (0, 0, 0) && table.is_empty());
    let mut entries = batch(0..1000);
    entries.push((token(5), at(u32::MAX, INDEX_END - 1)));
    entries.push((token(5), at(1, 5)));
    table.add_run(&mut entries, 17).unwrap();
    assert!(entries.is_empty());
    table.add_run(&mut batch(990..1010), 12).unwrap();
    drop(table);
    let table = IdTable::open(&path).unwrap();
    assert_eq!((table.len(), table.run_count(), table.durable_frame()), (1021, 2, 17));
    assert_eq!(found(&table, &token(5)), [at(1, 5), at(u32::MAX, INDEX_END - 1)]);
    assert_eq!(found(&table, &token(995)), [at(1, 995)]);
    assert_eq!(found(&table, &token(1009)), [at(1, 1009)]);
    assert_eq!(found(&table, &token(1010)), []);
    assert_eq!(table.verify().unwrap(), 1021);
    assert!(table.memory_bytes() > 0);
    let on_disk: u64 =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(table.disk_bytes(), on_disk);
    let mut kept = vec![at(9, 9)];
    table.lookup(&token(7), &mut kept).unwrap();
    assert_eq!(kept, [at(9, 9), at(1, 7)]);
}

#[test]
fn a_batch_without_entries_moves_the_frame_alone() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    table.add_run(&mut Vec::new(), 5).unwrap();
    table.add_run(&mut Vec::new(), 4).unwrap();
    drop(table);
    let table = IdTable::open(directory.path()).unwrap();
    assert_eq!((table.durable_frame(), table.run_count()), (5, 0));
}

#[test]
fn limits_refuse_and_store_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    let mut entries = vec![(token(1), at(0, INDEX_END))];
    assert!(matches!(table.add_run(&mut entries, 1), Err(IdTableError::IndexTooLarge { .. })));
    assert_eq!((entries.len(), table.len()), (1, 0));
    for number in 0..RUNS_MAX as u64 {
        table.add_run(&mut batch([number]), number).unwrap();
    }
    assert!(matches!(table.add_run(&mut batch([999]), 999), Err(IdTableError::TooManyRuns)));
    assert!(table.merge_once(&keep_all).unwrap());
    table.add_run(&mut batch([999]), 999).unwrap();
    assert!(matches!(IdTable::open(directory.path()), Err(IdTableError::Locked { .. })));
    while table.merge_once(&keep_all).unwrap() {}
    assert!(table.run_count() < merge::MERGE_RUNS);
    assert_eq!(table.verify().unwrap(), RUNS_MAX as u64 + 1);
}

#[test]
fn a_merge_collapses_repeats_and_drops_what_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    for frame in 0..4 {
        table.add_run(&mut batch(frame * 100..frame * 100 + 300), frame).unwrap();
    }
    assert_eq!((table.len(), found(&table, &token(250)).len()), (1200, 1));
    assert!(table.merge_once(&|location| location.index % 2 == 0).unwrap());
    assert!(!table.merge_once(&keep_all).unwrap());
    assert_eq!((table.len(), table.run_count(), table.durable_frame()), (300, 1, 3));
    assert_eq!((found(&table, &token(250)), found(&table, &token(251))), (vec![at(1, 250)], vec![]));
    assert_eq!(table.verify().unwrap(), 300);
    for frame in 4..7 {
        table.add_run(&mut batch([frame]), frame).unwrap();
    }
    assert!(table.merge_once(&|_| false).unwrap());
    assert_eq!((table.len(), table.run_count(), table.durable_frame()), (0, 0, 6));
    drop(table);
    assert_eq!(IdTable::open(directory.path()).unwrap().durable_frame(), 6);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn tokens_that_are_not_uniform_are_found_too() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    let mut model = Model::new();
    for part in 0..4u64 {
        let mut entries = Vec::new();
        for number in 0..600u64 {
            let mut same_head = [0xAB; 16];
            same_head[8..].copy_from_slice(&number.to_be_bytes());
            let mut small = [0; 16];
            small[..8].copy_from_slice(&(number << 40).to_be_bytes());
            let one_token = [0xFF; 16];
            entries.extend([same_head, small, one_token].map(|token| (token, at(2, number * 4 + part))));
        }
        add(&mut model, &entries);
        table.add_run(&mut entries, part).unwrap();
    }
    assert_same(&table, &model);
    assert!(table.merge_once(&keep_all).unwrap());
    assert_same(&table, &model);
    assert_eq!(table.verify().unwrap(), 7200);
    assert_eq!(found(&table, &[0xAB; 16]), []);
}

#[test]
fn false_positives_stay_under_two_to_the_minus_sixteen() {
    let mut heads: Vec<u64> = (0..100_000).map(|number| head(&token(number))).collect();
    heads.sort_unstable();
    let mut builder = filter::FilterBuilder::new(heads.len());
    heads.iter().for_each(|&head| builder.push(head));
    let filter = builder.finish().unwrap();
    for (rank, &head) in (0u64..).zip(&heads) {
        assert!(filter.may_hold(&filter.group(head)) && filter.candidates(head).contains(&rank));
        assert!(filter.agrees(rank, head) && filter.is_sound());
        if rank % 1000 != 0 {
            continue;
        }
        assert!(!filter.agrees(rank + 40, head));
    }
    let probes = 2_000_000u64;
    let absent = (0..probes).map(|number| head(&token(number + 1_000_000_000)));
    let mut suspects = 0;
    let false_positives = absent
        .filter(|&head| {
            let suspect = filter.may_hold(&filter.group(head));
            suspects += u64::from(suspect);
            let candidate = !filter.candidates(head).is_empty();
            assert!(suspect || !candidate);
            candidate
        })
        .count();
    // 30.5 expected, standard deviation 5.5; the probes are fixed, so this cannot flicker.
    assert!((5..=55).contains(&false_positives), "{false_positives}");
    assert!(suspects < probes / 1000, "{suspects}");
}

#[test]
fn buffers_of_a_merge_do_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    let mut entries = batch(0..60_000);
    entries.sort_unstable();
    let mut writer = RunWriter::create(directory.path(), 1).unwrap();
    for (token, location) in &entries {
        writer.push(Entry::new(token, *location)).unwrap();
        assert!(writer.buffer_bytes() <= 256 * 1024);
    }
    let run = writer.finish().unwrap().unwrap();
    assert_eq!(run.cursor().buffer_bytes(), 256 * 1024);
    assert!(run.filter().memory_bytes() < 60_000 * 21 / 8);
    assert!(run.disk_bytes() < 60_000 * 277 / 10);
}

#[test]
fn readers_see_all_that_is_durable_while_runs_come_and_merge() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                table.merge_once(&keep_all).unwrap();
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..table.durable_frame() * 50 {
                    assert_eq!(found(&table, &token(number)), [at(1, number)]);
                }
            }
        });
        for frame in 0..60 {
            table.add_run(&mut batch(frame * 50..frame * 50 + 50), frame + 1).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(table.verify().unwrap(), 3000);
}

#[derive(Clone, Debug)]
enum Operation {
    Add(Vec<(u16, u8, u8)>),
    Merge,
    Reopen,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let entry = (0u16..400, 0u8..3, any::<u8>());
    let one = prop_oneof![
        4 => prop::collection::vec(entry, 0..60).prop_map(Operation::Add),
        3 => Just(Operation::Merge),
        1 => Just(Operation::Reopen),
    ];
    prop::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_as_a_map_does(operations in operations()) {
        let directory = tempfile::tempdir().unwrap();
        let mut table = IdTable::open(directory.path()).unwrap();
        let mut model = Model::new();
        let mut frame = 0;
        for operation in operations {
            match operation {
                Operation::Add(entries) => {
                    let mut entries: Vec<_> = entries
                        .into_iter()
                        .map(|(number, log, index)| (token(u64::from(number)), at(u32::from(log), u64::from(index))))
                        .collect();
                    add(&mut model, &entries);
                    frame += 1;
                    table.add_run(&mut entries, frame).unwrap();
                }
                Operation::Merge => drop(table.merge_once(&keep_all).unwrap()),
                Operation::Reopen => {
                    drop(table);
                    table = IdTable::open(directory.path()).unwrap();
                }
            }
            prop_assert_eq!(table.durable_frame(), frame);
        }
        assert_same(&table, &model);
        table.verify().unwrap();
        // A drop by location: what is kept stays, and nothing that was never there appears.
        let merged = table.merge_once(&|location| location.log != 1).unwrap();
        for (token, locations) in &model {
            let answer: BTreeSet<_> = found(&table, token).into_iter().collect();
            prop_assert!(answer.is_subset(locations));
            prop_assert!(locations.iter().filter(|location| location.log != 1).all(|kept| answer.contains(kept)));
            prop_assert!(merged || answer == *locations);
        }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What a power cut leaves: names as of the last sync of the directory, contents as of the last sync of
/// the file. A file never synced is empty.
#[derive(Clone, Default)]
struct DurableDisk {
    /// By inode, so that a rename keeps the content.
    contents: BTreeMap<u64, Vec<u8>>,
    names: BTreeMap<PathBuf, u64>,
}

impl DurableDisk {
    fn of(directory: &Path) -> DurableDisk {
        let mut disk = DurableDisk::default();
        for path in paths(directory) {
            disk.sync_file(&path);
        }
        disk.sync_directory(directory);
        disk
    }

    fn sync_file(&mut self, path: &Path) {
        self.contents.insert(inode(path), fs::read(path).unwrap());
    }

    fn sync_directory(&mut self, directory: &Path) {
        self.names = paths(directory).into_iter().map(|path| (path.clone(), inode(&path))).collect();
    }

    fn write(&self, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for (path, inode) in &self.names {
            let content = self.contents.get(inode).cloned().unwrap_or_default();
            fs::write(to.join(path.file_name().unwrap()), content).unwrap();
        }
    }
}

fn paths(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

/// Runs `change` on a copy of `start` and hands out an image of the directory for each crash: after each
/// operation, as a kill leaves it and as a power cut leaves it.
fn crash_images(start: &Path, scratch: &Path, change: impl Fn(&IdTable)) -> Vec<PathBuf> {
    let work = scratch.join("work");
    copy_directory(start, &work);
    let images = Rc::new(RefCell::new(Vec::new()));
    let table = IdTable::open(&work).unwrap();
    let mut durable = DurableDisk::of(&work);
    let (seen, into, watched) = (Rc::clone(&images), scratch.to_owned(), work.clone());
    hook::watch(Box::new(move |step, path| {
        match step {
            Step::SyncFile => durable.sync_file(path),
            Step::SyncDirectory => durable.sync_directory(&watched),
            _ => {}
        }
        let mut seen = seen.borrow_mut();
        let (kill, power) =
            (into.join(format!("kill{}", seen.len())), into.join(format!("power{}", seen.len())));
        copy_directory(&watched, &kill);
        durable.write(&power);
        seen.extend([kill, power]);
        Ok(())
    }));
    change(&table);
    hook::unwatch();
    Rc::into_inner(images).or(None).unwrap_or_default().into_inner()
}

#[test]
fn a_crash_at_any_file_operation_leaves_the_old_or_the_new_table() {
    let scratch = tempfile::tempdir().unwrap();
    let start = scratch.path().join("start");
    let mut old = Model::new();
    let table = IdTable::open(&start).unwrap();
    for frame in 1..=4 {
        let mut entries = batch(frame * 100..frame * 100 + 120);
        add(&mut old, &entries);
        table.add_run(&mut entries, frame).unwrap();
    }
    drop(table);
    let mut new = old.clone();
    add(&mut new, &batch(1000..1100));

    let images = crash_images(&start, &scratch.path().join("add"), |table| {
        table.add_run(&mut batch(1000..1100), 9).unwrap();
    });
    let mut seen = BTreeSet::new();
    for image in &images {
        let table = IdTable::open(image).unwrap();
        assert_same(&table, if table.durable_frame() == 9 { &new } else { &old });
        table.verify().unwrap();
        assert_eq!(paths(image).len(), table.run_count() + 1, "leftovers in {}", image.display());
        seen.insert(table.durable_frame());
        // The table is writable after the crash: the numbers of lost files do not stand in the way.
        table.add_run(&mut batch(5000..5010), 10).unwrap();
        assert_eq!(found(&table, &token(5001)), [at(1, 5001)]);
    }
    assert_eq!(seen, BTreeSet::from([4, 9]), "crashes before and after the commit were seen");
    let last = IdTable::open(images.last().unwrap()).unwrap();
    assert_eq!(last.durable_frame(), 10);

    let images = crash_images(&start, &scratch.path().join("merge"), |table| {
        assert!(table.merge_once(&keep_all).unwrap());
    });
    let mut runs = BTreeSet::new();
    for image in &images {
        let table = IdTable::open(image).unwrap();
        assert_same(&table, &old);
        table.verify().unwrap();
        assert_eq!((table.durable_frame(), paths(image).len()), (4, table.run_count() + 1));
        runs.insert(table.run_count());
    }
    assert_eq!(runs, BTreeSet::from([1, 4]));
}

#[test]
fn after_a_failed_operation_the_table_is_whole_and_stops_if_it_must() {
    let scratch = tempfile::tempdir().unwrap();
    let start = scratch.path().join("start");
    let table = IdTable::open(&start).unwrap();
    for frame in 1..=4 {
        table.add_run(&mut batch(frame * 10..frame * 10 + 10), frame).unwrap();
    }
    drop(table);
    let mut stopped = Vec::new();
    for failing in 0.. {
        let path = scratch.path().join(format!("{failing}"));
        copy_directory(&start, &path);
        let table = IdTable::open(&path).unwrap();
        let failed = Rc::new(RefCell::new(None));
        let (mut count, seen) = (0, Rc::clone(&failed));
        hook::watch(Box::new(move |step, _| {
            count += 1;
            if count - 1 != failing {
                return Ok(());
            }
            seen.replace(Some(step));
            Err(io::Error::other("injected"))
        }));
        let mut entries = batch(100..200);
        let added = table.add_run(&mut entries, 5);
        hook::unwatch();
        let Some(step) = failed.take() else {
            added.unwrap();
            break;
        };
        assert!(matches!(added, Err(IdTableError::Io { .. })));
        assert_eq!((entries.len(), table.durable_frame()), (100, 4));
        assert_eq!(found(&table, &token(15)), [at(1, 15)]);
        let again = table.add_run(&mut entries, 5);
        match step {
            Step::Create | Step::Write => again.unwrap(),
            _ => assert!(matches!(again, Err(IdTableError::Stopped))),
        }
        if again_stopped(&table) {
            stopped.push(step);
        }
        drop(table);
        let table = IdTable::open(&path).unwrap();
        table.verify().unwrap();
        assert_eq!(found(&table, &token(15)), [at(1, 15)]);
        assert_eq!(found(&table, &token(150)).len(), usize::from(table.durable_frame() == 5));
        table.add_run(&mut batch(100..200), 5).unwrap();
        assert_eq!(found(&table, &token(150)), [at(1, 150)]);
    }
    assert_eq!(
        stopped,
        [Step::SyncFile, Step::SyncDirectory, Step::SyncFile, Step::Rename, Step::SyncDirectory]
    );
}

fn again_stopped(table: &IdTable) -> bool {
    matches!(table.merge_once(&keep_all), Err(IdTableError::Stopped))
}

#[test]
fn left_overs_go_and_foreign_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    IdTable::open(path).unwrap().add_run(&mut batch(0..10), 1).unwrap();
    for name in [&Run::name(77), "MANIFEST.tmp", "notes.run", "000000000000004D.run", "MANIFEST.old"] {
        fs::write(path.join(name), b"x").unwrap();
    }
    let table = IdTable::open(path).unwrap();
    assert_eq!(table.verify().unwrap(), 10);
    let mut names: Vec<_> = paths(path).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(
        names,
        ["0000000000000001.run", "000000000000004D.run", "MANIFEST", "MANIFEST.old", "notes.run"]
    );
}

#[test]
fn a_lost_manifest_or_run_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    IdTable::open(path).unwrap().add_run(&mut batch(0..10), 1).unwrap();
    let run = path.join(Run::name(1));
    let (manifest, content) = (fs::read(path.join("MANIFEST")).unwrap(), fs::read(&run).unwrap());
    fs::remove_file(path.join("MANIFEST")).unwrap();
    assert!(matches!(IdTable::open(path), Err(IdTableError::Damaged { .. })));
    assert!(run.exists(), "a run was removed without a manifest to say so");
    fs::write(path.join("MANIFEST"), manifest).unwrap();
    for length in [0, 100, 4096, content.len() - 1] {
        fs::write(&run, &content[..length]).unwrap();
        assert!(matches!(IdTable::open(path), Err(IdTableError::Damaged { .. })), "length {length}");
    }
    fs::remove_file(&run).unwrap();
    assert!(matches!(IdTable::open(path), Err(IdTableError::Io { .. })));
    fs::write(&run, content).unwrap();
    assert_eq!(IdTable::open(path).unwrap().verify().unwrap(), 10);
}

#[test]
fn blocks_that_moved_and_runs_that_were_exchanged_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let table = IdTable::open(path).unwrap();
    table.add_run(&mut batch(0..400), 1).unwrap();
    table.add_run(&mut batch(1000..1400), 2).unwrap();
    drop(table);
    let (first, second) = (path.join(Run::name(1)), path.join(Run::name(2)));
    let (one, two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    fs::write(&first, &two).unwrap();
    assert!(matches!(IdTable::open(path), Err(IdTableError::Damaged { .. })));
    for (fault, replacement) in
        [("swapped", &one[4096..8192]), ("zeroed", &[0; 4096]), ("foreign", &two[..4096])]
    {
        let mut bytes = one.clone();
        if fault == "swapped" {
            bytes.copy_within(..4096, 4096);
        }
        bytes[..4096].copy_from_slice(replacement);
        fs::write(&first, bytes).unwrap();
        let table = IdTable::open(path).unwrap();
        assert!(matches!(table.verify(), Err(IdTableError::Damaged { .. })), "{fault}");
        let smallest = (0..400).map(token).min().unwrap();
        let mut found = vec![at(3, 3)];
        assert!(matches!(table.lookup(&smallest, &mut found), Err(IdTableError::Damaged { .. })));
        assert_eq!(found, [at(3, 3)]);
        let mut many = vec![(1, at(3, 3))];
        assert!(table.lookup_many(&[token(1), smallest], &mut many).is_err());
        assert_eq!(many, [(1, at(3, 3))]);
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let table = IdTable::open(path).unwrap();
    table.add_run(&mut batch(0..40), 1).unwrap();
    table.add_run(&mut batch(100..120), 2).unwrap();
    drop(table);
    let tokens: Vec<Token> = (0..40).chain(100..120).map(token).collect();
    for file in paths(path) {
        let whole = fs::read(&file).unwrap();
        let raw = fs::OpenOptions::new().write(true).open(&file).unwrap();
        for (byte, bit) in (0..whole.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            raw.write_all_at(&[whole[byte] ^ 1 << bit], byte as u64).unwrap();
            let _restored = Restore(&raw, byte as u64, whole[byte]);
            let Ok(table) = IdTable::open(path) else { continue };
            // What opens has a sound filter, so each lookup that meets the block must say so.
            let is_run = file.extension().is_some();
            let mut refused = 0;
            for token in &tokens {
                refused += usize::from(table.lookup(token, &mut Vec::new()).is_err());
            }
            assert!(is_run && refused >= 20, "byte {byte} bit {bit} of {} is silent", file.display());
            assert!(table.verify().is_err(), "verify misses byte {byte} bit {bit} of {}", file.display());
        }
    }
    assert_eq!(IdTable::open(path).unwrap().verify().unwrap(), 60);
}

/// Puts a byte back.
struct Restore<'a>(&'a File, u64, u8);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.0.write_all_at(&[self.2], self.1).unwrap();
    }
}

#[test]
fn a_run_that_cannot_be_read_does_not_keep_the_others_from_merging() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    table.add_run(&mut batch(0..100), 1).unwrap();
    let rotten = table.snapshot().runs[0].path().to_owned();
    let mut bytes = fs::read(&rotten).unwrap();
    bytes[100] ^= 1;
    fs::write(&rotten, bytes).unwrap();
    for frame in 2..300 {
        table.add_run(&mut batch(frame * 100..frame * 100 + 50), frame).unwrap();
        while table.merge_once(&keep_all).unwrap_or(false) {}
    }
    assert!(table.run_count() < 20, "{} runs", table.run_count());
    assert_eq!(found(&table, &token(299 * 100)), [at(1, 29_900)]);
    assert!(rotten.exists());
}

/// A kill after a merge's rename and before its directory's sync; the next open must not remove the runs that the
/// durable manifest still names before the new one is durable.
#[test]
fn runs_are_removed_at_open_only_after_the_manifest_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let table = IdTable::open(directory.path()).unwrap();
    table.add_run(&mut batch(0..10), 1).unwrap();
    drop(table);
    fs::write(directory.path().join(manifest::TEMPORARY_NAME), b"left over").unwrap();
    let steps = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&steps);
    hook::watch(Box::new(move |step, _| {
        seen.borrow_mut().push(step);
        Ok(())
    }));
    drop(IdTable::open(directory.path()).unwrap());
    hook::unwatch();
    let steps = steps.borrow();
    let position = |wanted: fn(&Step) -> bool| steps.iter().position(wanted);
    let synced = position(|step| matches!(step, Step::SyncDirectory)).unwrap();
    assert!(synced < position(|step| matches!(step, Step::Remove)).unwrap(), "{steps:?}");
}
