//! Each trap of sled: open in plain sled, closed through [`SledBackend`].
//!
//! What needs a process of its own (kills, limits, traces, memory) runs a test of this file again as a
//! child: the tests named `child_*`, which do nothing unless asked.

#![expect(clippy::disallowed_methods, reason = "calls that hang and readers that end in the test")]

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const CHILD: &str = "VARVE_TEST_SLED_CHILD";

fn backend() -> SledBackend {
    SledBackend::new(Watchdog::aborting())
}

fn plain(dir: &Path) -> ::sled::Result<::sled::Db> {
    ::sled::Config::new().path(dir).cache_capacity(1 << 20).flush_every_ms(Some(60_000)).open()
}

/// The command that runs the test `name` of this file as a child on `dir`.
fn child(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::sled::tests::{name}"), "--nocapture"]).env(CHILD, dir);
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn asked() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn key(number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [b'k', a, b, c, d]
}

/// `len` bytes that do not compress, the same for the same number.
fn value(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn count(kv: &dyn Kv) -> usize {
    let mut count = 0;
    kv.scan(b"k", b"l", &mut |_, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    count
}

#[test]
fn keeps_the_contract_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    crate::store::backend::contract::check(&backend(), &dir.path().join("layer"));
}

#[test]
fn a_snapshot_left_by_a_kill_stops_plain_sled_for_ever_and_not_us() {
    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 0).unwrap();
    kv.put(b"k", b"v").unwrap();
    drop(kv);
    drop(backend().open(dir.path(), 0).unwrap());
    fs::write(dir.path().join("snap.7FFFFFFFFFFFFFFF.generating"), b"torn").unwrap();
    assert!(plain(dir.path()).is_err());
    assert!(plain(dir.path()).is_err(), "and again");
    assert_eq!(backend().open(dir.path(), 0).unwrap().get(b"k").unwrap(), Some(b"v".to_vec()));
}

#[test]
fn an_oversized_value_becomes_a_file_in_plain_sled_and_a_refusal_here() {
    let dir = tempfile::tempdir().unwrap();
    let db = plain(dir.path()).unwrap();
    db.insert(b"k", vec![7; 200_000]).unwrap();
    db.flush().unwrap();
    drop(db);
    assert!(fs::read_dir(dir.path().join(BLOB_DIR)).unwrap().next().is_some());
    let refused = backend().open(dir.path(), 0).err().unwrap();
    assert!(matches!(&refused, KvError::Damaged { reason, .. } if reason.contains("blobs/")), "{refused}");

    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 0).unwrap();
    assert!(matches!(kv.put(b"k", &vec![7; 200_000]), Err(KvError::ValueLength { .. })));
    kv.sync().unwrap();
    fs::write(dir.path().join(BLOB_DIR).join("1"), b"stray").unwrap();
    assert!(matches!(kv.sync(), Err(KvError::Damaged { .. })));
    assert!(matches!(kv.get(b"k"), Err(KvError::Poisoned { .. })));
}

#[test]
fn the_largest_keys_and_values_never_become_files() {
    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 0).unwrap();
    let long_key = |number: u32| [&value(number, 32)[..], &[b'x'; MAX_KEY - 32]].concat();
    const MAX_KEY: usize = super::super::backend::MAX_KEY_BYTES;
    const MAX_VALUE: usize = super::super::backend::MAX_VALUE_BYTES;
    // Random order, overwrites, then removals so that leaves merge.
    (0..1500).for_each(|n| kv.put(&long_key(n % 1200), &value(n, MAX_VALUE)).unwrap());
    kv.sync().unwrap();
    (0..1200).filter(|n| n % 5 != 0).for_each(|n| kv.remove(&long_key(n)).unwrap());
    (0..1200).for_each(|n| drop(kv.get(&long_key(n)).unwrap()));
    kv.sync().unwrap();
    assert_eq!(kv.get(&long_key(0)).unwrap(), Some(value(1200, MAX_VALUE)));
    assert_eq!(kv.get(&long_key(1)).unwrap(), None);
}

/// Documents what nobody at this floor can notice; the layer above compares with journal and SEAL.
#[test]
fn a_bad_checksum_drops_what_is_behind_it_in_silence_here_too() {
    let dir = tempfile::tempdir().unwrap();
    let db = plain(dir.path()).unwrap();
    for number in 0..200 {
        db.insert(key(number), value(number, 100)).unwrap();
        db.flush().unwrap();
    }
    drop(db);
    let data = dir.path().join(DATA_FILE);
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.iter().rposition(|&byte| byte != 0).unwrap() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, bytes).unwrap();
    let copy = tempfile::tempdir().unwrap();
    fs::copy(&data, copy.path().join(DATA_FILE)).unwrap();

    let db = plain(dir.path()).unwrap();
    let left = db.len();
    assert!(left > 0 && left < 200, "plain sled opens without an error and has {left} of 200 keys");
    let kv = backend().open(copy.path(), 0).unwrap();
    assert_eq!(count(&*kv), left, "so do we");
}

/// Which segment of the file sled reads at open depends on where its collector put the newest one. So each is
/// made rotten in a copy of its own: those that open reads are refused there, one at least is met later.
#[test]
fn a_bad_byte_met_while_reading_is_damage_and_poisons() {
    const SEGMENT: usize = 512 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 0).unwrap();
    (0..2000).for_each(|n| kv.put(&key(n), &value(n, 1000)).unwrap());
    kv.sync().unwrap();
    drop(kv);
    // Opening once writes the snapshot, after which the old segments are not scanned again.
    drop(backend().open(dir.path(), 0).unwrap());
    let sound = fs::read(dir.path().join(DATA_FILE)).unwrap();
    let mut met_later = 0;
    for segment in 0..sound.len() / SEGMENT {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let mut bytes = sound.clone();
        bytes[segment * SEGMENT..][..SEGMENT].iter_mut().step_by(512).for_each(|byte| *byte ^= 1);
        fs::write(copy.path().join(DATA_FILE), bytes).unwrap();
        let kv = match backend().open(copy.path(), 0) {
            Ok(kv) => kv,
            Err(refused) => {
                assert!(matches!(refused, KvError::Damaged { .. }), "{refused}");
                continue;
            }
        };
        // A segment that holds nothing live may rot unnoticed.
        let Some(failed) = (0..2000).find_map(|n| kv.get(&key(n)).err()) else { continue };
        assert!(matches!(failed, KvError::Damaged { .. }), "{failed}");
        assert!(matches!(kv.get(&key(0)), Err(KvError::Poisoned { .. })));
        assert!(matches!(kv.put(b"k", b"v"), Err(KvError::Poisoned { .. })));
        assert!(matches!(kv.sync(), Err(KvError::Poisoned { .. })));
        met_later += 1;
    }
    assert!(met_later > 0, "no segment of {} was met after open", sound.len() / SEGMENT);
}

#[test]
fn a_panic_inside_sled_poisons_and_its_message_is_kept_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = SledKv::prepare(&backend(), dir.path()).unwrap();
    kv.db = Some(plain(dir.path()).unwrap());
    let secret = "bob@example.org";
    let failed = kv.guarded::<()>("reading", || panic!("fucked up at {secret}")).unwrap_err();
    assert!(failed.is_fatal() && !failed.to_string().contains(secret), "{failed}");
    let later = kv.get(b"k").unwrap_err();
    assert!(matches!(&later, KvError::Poisoned { .. }) && !later.to_string().contains(secret));
}

#[test]
fn without_the_background_thread_what_was_removed_is_collected_too_late() {
    let grow = |every_ms| {
        let dir = tempfile::tempdir().unwrap();
        let config = ::sled::Config::new().path(dir.path()).cache_capacity(8 << 20);
        let db = config.flush_every_ms(every_ms).open().unwrap();
        let key = |range: u8, number: u32| [&[range][..], &number.to_be_bytes()].concat();
        // Four ranges side by side in every segment, three of which then go; the fourth keeps each segment
        // a quarter alive. Collection moves it away; what is written next finds free segments, or none.
        for number in 0..4000 {
            (0..4).for_each(|range| drop(db.insert(key(range, number), value(number, 1000)).unwrap()));
        }
        (1..4).for_each(|range| (0..4000).for_each(|n| drop(db.remove(key(range, n)).unwrap())));
        db.flush().unwrap();
        thread::sleep(Duration::from_millis(500));
        for number in 0..8000 {
            db.insert(key(4, number), value(number, 1000)).unwrap();
        }
        db.flush().unwrap();
        fs::metadata(dir.path().join(DATA_FILE)).unwrap().len()
    };
    let (with, without) = (grow(Some(20)), grow(None));
    // 40 % on an idle machine; a busy one collects later.
    assert!(without > with + with / 20, "{without} bytes without collection, {with} with it");
}

/// Writes, and prints each number once it is synced, until killed.
#[test]
fn child_writes_until_killed() {
    let Some(dir) = asked() else { return };
    let kv = backend().open(&dir, 1 << 20).unwrap();
    for number in 0.. {
        kv.put(&key(number), &value(number, 3000)).unwrap();
        if number % 7 == 0 {
            kv.sync().unwrap();
            println!("synced {number}");
        }
    }
}

#[test]
fn what_was_synced_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = child("child_writes_until_killed", dir.path()).spawn().unwrap();
        let mut synced = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.split("synced ").nth(1) {
                synced = number.trim().parse().unwrap();
                if synced > 100 * (round + 1) {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let kv = backend().open(dir.path(), 1 << 20).unwrap();
        assert!(synced > 0);
        (0..=synced).for_each(|n| assert_eq!(kv.get(&key(n)).unwrap(), Some(value(n, 3000)), "{n}"));
    }
}

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
}

/// Writes past the largest file the system allows it; prints what its sync answers.
#[test]
fn child_writes_too_much() {
    let Some(dir) = asked() else { return };
    let backend = SledBackend { watchdog: Watchdog::aborting(), sync_limit: Duration::from_secs(2) };
    let kv = backend.open(&dir, 1 << 20).unwrap();
    kv.put(b"k", b"v").unwrap();
    kv.sync().unwrap();
    // SAFETY: 25 is SIGXFSZ and 1 is SIG_IGN; no handler runs.
    unsafe { signal(25, 1) };
    let limit = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    let failed = (0..2000).find_map(|n| kv.put(&key(n), &value(n, 3000)).err());
    println!("put: {failed:?}");
    println!("sync: {:?}", kv.sync());
    std::io::stdout().flush().unwrap();
    std::process::abort();
}

#[test]
fn a_failed_write_ends_in_an_error_or_the_watchdog_and_never_in_a_good_sync() {
    let dir = tempfile::tempdir().unwrap();
    let ended = child("child_writes_too_much", dir.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(!ended.status.success() && !out.contains("sync: Ok"), "{out}{err}");
    assert!(out.contains("sync: Err") || err.contains("hung; aborting"), "{out}{err}");
    assert_eq!(backend().open(dir.path(), 0).unwrap().get(b"k").unwrap(), Some(b"v".to_vec()));
}

#[test]
fn child_panics_in_a_storage_thread() {
    if asked().is_some() {
        install_panic_hook();
        let storage = thread::Builder::new().name("sled-io-3".into());
        let _ = storage.spawn(|| panic!("lost")).unwrap().join();
        println!("survived");
    }
}

#[test]
fn a_panic_in_a_storage_thread_aborts() {
    let ended = child("child_panics_in_a_storage_thread", Path::new("/")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(!ended.status.success() && !out.contains("survived"), "{out}{err}");
    assert!(err.contains("a storage thread is lost"), "{err}");
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Prints how much memory a scan keeps of 48 MB: by plain sled if asked, else by us.
#[test]
fn child_scans() {
    let Some(dir) = asked() else { return };
    let before = resident_bytes();
    let report = || println!("kept {} MB", resident_bytes().saturating_sub(before) / 1_000_000);
    if std::env::var_os("VARVE_TEST_PLAIN").is_some() {
        let db = plain(&dir).unwrap();
        assert_eq!(db.iter().count(), 8000);
        report();
    } else {
        let kv = backend().open(&dir, 1 << 20).unwrap();
        assert_eq!(count(&*kv), 8000);
        report();
    }
}

#[test]
fn a_scan_keeps_everything_in_plain_sled_and_a_fixed_part_here() {
    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 1 << 20).unwrap();
    (0..8000).for_each(|n| kv.put(&key(n), &value(n, 6000)).unwrap());
    drop(kv);
    let kept = |mut child: std::process::Command| -> u32 {
        let ended = child.output().unwrap();
        let out = String::from_utf8_lossy(&ended.stdout);
        let kept = out.split("kept ").nth(1).unwrap_or_else(|| panic!("{out}"));
        kept.split(' ').next().unwrap().parse().unwrap()
    };
    let ours = kept(child("child_scans", dir.path()));
    let mut plain = child("child_scans", dir.path());
    plain.env("VARVE_TEST_PLAIN", "1");
    let plain = kept(plain);
    assert!(plain > 35, "plain sled keeps what it scanned: {plain} MB");
    assert!(ours < 25, "256 leaves of about 50 KiB: {ours} MB");
}

/// Flushes plain sled, then syncs ours, with marks in between for the trace; under the rule if asked.
#[test]
fn child_is_traced() {
    let Some(dir) = asked() else { return };
    if std::env::var_os("VARVE_TEST_RULE").is_some() {
        crate::process::flush_rule::install().unwrap();
    }
    // sled's background thread calls fsync as it starts; it is to be asleep while we look.
    let settle = || thread::sleep(Duration::from_millis(300));
    let mark = |name: &str| std::io::stderr().write_all(format!("MARK {name}\n").as_bytes()).unwrap();
    let db = plain(&dir.join("plain")).unwrap();
    settle();
    db.insert(b"k", vec![1; 100]).unwrap();
    mark("flush");
    db.flush().unwrap();
    mark("end");
    let kv = backend().open(&dir.join("ours"), 1 << 20).unwrap();
    settle();
    kv.put(b"k", &[1; 100]).unwrap();
    mark("sync");
    kv.sync().unwrap();
    mark("end");
    std::process::exit(0);
}

/// The system calls of `child_is_traced` between a mark and the next, in order; `None` without strace.
fn traced(rule: bool) -> Option<impl Fn(&str) -> Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let plain = child("child_is_traced", dir.path());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=pwrite64,fsync,fdatasync,sync_file_range,write", "-o"]).arg(&trace);
    strace.arg(plain.get_program()).args(plain.get_args()).env(CHILD, dir.path());
    if rule {
        strace.env("VARVE_TEST_RULE", "1");
    }
    let ran = strace.output().is_ok_and(|ended| ended.status.success());
    if !ran {
        eprintln!(
            "SKIPPED: strace is missing or may not trace; whether flush and sync reach the disk was NOT checked"
        );
        return None;
    }
    let text = fs::read_to_string(trace).unwrap();
    Some(move |mark: &str| {
        let after = text.lines().skip_while(|line| !line.contains(&format!("MARK {mark}"))).skip(1);
        after.take_while(|line| !line.contains("MARK end")).map(str::to_owned).collect()
    })
}

fn calls(trace: &[String], name: &str) -> usize {
    trace.iter().filter(|line| line.contains(&format!(" {name}("))).count()
}

#[test]
fn a_flush_of_plain_sled_reaches_no_disk_and_our_sync_does() {
    let Some(trace) = traced(false) else { return };
    let flush = trace("flush");
    assert!(calls(&flush, "pwrite64") > 0 && calls(&flush, "sync_file_range") > 0, "{flush:#?}");
    assert_eq!(calls(&flush, "fsync") + calls(&flush, "fdatasync"), 0, "{flush:#?}");

    let sync = trace("sync");
    let last = |name: &str| sync.iter().rposition(|line| line.contains(&format!(" {name}(")));
    assert!(last("fdatasync").unwrap() > last("pwrite64").unwrap(), "file after data: {sync:#?}");
    assert!(last("fsync").unwrap() > last("fdatasync").unwrap(), "directory after file: {sync:#?}");
}

#[test]
fn under_the_rule_the_flush_of_plain_sled_is_an_fsync() {
    let Some(trace) = traced(true) else { return };
    let flush = trace("flush");
    let refused = flush.iter().any(|line| line.contains("sync_file_range") && line.contains("ENOSYS"));
    assert!(refused && calls(&flush, "fsync") > 0, "{flush:#?}");
}

#[test]
fn a_store_open_elsewhere_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = plain(dir.path()).unwrap();
    let left_over = dir.path().join("snap.0000000000000001.generating");
    fs::write(&left_over, b"in the making").unwrap();
    assert!(matches!(backend().open(dir.path(), 0), Err(KvError::InUse { .. })));
    assert!(matches!(backend().destroy(dir.path()), Err(KvError::InUse { .. })));
    assert!(left_over.exists());
    drop(db);
}

#[test]
fn readers_and_writers_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let kv = backend().open(dir.path(), 1 << 20).unwrap();
    thread::scope(|scope| {
        for part in 0..4 {
            let kv = &kv;
            scope.spawn(move || {
                for number in (part * 500)..(part * 500 + 500) {
                    kv.put(&key(number), &value(number, 2000)).unwrap();
                    assert_eq!(kv.get(&key(number)).unwrap(), Some(value(number, 2000)));
                }
                kv.sync().unwrap();
            });
        }
    });
    assert_eq!(count(&*kv), 2000);
    let mut seen = BTreeSet::new();
    kv.scan(b"k", b"l", &mut |key, _| {
        assert!(seen.insert(key.to_vec()));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
}
