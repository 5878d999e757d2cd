//! The journal on a disk that fails: at each call × each fault × what a power cut may leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::simulated::{Fault, SimulatedDisk};
use super::{JournalError, Options, Scan, Tail, Writer};
use crate::journal::{frame, segment};
use crate::tlog::hash::Hash;

const DIR: &str = "/journal";
const KILLS: [Fault; 3] = [Fault::KillBefore, Fault::KillTorn, Fault::Kill];
const FAILURES: [Fault; 3] = [Fault::Eio, Fault::Enospc, Fault::Short];

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn options(background: bool) -> Options {
    Options { segment_bytes: 4096, max_frame_bytes: 2048, background }
}

/// What those outside know.
#[derive(Clone, Default, Debug)]
struct Ledger {
    created: bool,
    /// Payloads of the frames that were acknowledged or found at an open, from frame 1.
    frames: Vec<Vec<u8>>,
    /// The one on its way.
    attempted: Option<Vec<u8>>,
    /// `applied` by the last answer, and by the call on its way.
    applied: u64,
    applied_attempted: u64,
    released: u64,
    generation: u8,
}

impl Ledger {
    fn next_payload(&mut self) -> Vec<u8> {
        const LENGTHS: [usize; 9] = [100, 1500, 0, 420, 421, 929, 1944, 7, 600];
        let number = self.frames.len();
        let length = LENGTHS[number % LENGTHS.len()];
        // Also zeros, so that a sector with nothing but zeros and its check occurs.
        let byte =
            if number % 4 == 1 { 0 } else { u8::try_from(number % 200).unwrap() + 10 + self.generation };
        let payload = vec![byte; length];
        self.attempted = Some(payload.clone());
        payload
    }

    fn append(&mut self, writer: &mut Writer) -> Result<(), JournalError> {
        let payload = self.next_payload();
        let (a, b) = payload.split_at(payload.len() / 3);
        let number = writer.append(202_611, &[a, b])?;
        self.frames.push(self.attempted.take().unwrap());
        assert_eq!(number, self.frames.len() as u64);
        Ok(())
    }

    fn set_head(&mut self, writer: &mut Writer, applied: u64, clean: bool) -> Result<(), JournalError> {
        self.applied_attempted = applied;
        writer.set_head(applied, state_digest(applied), clean)?;
        self.applied = applied;
        Ok(())
    }

    fn release(&mut self, writer: &mut Writer, up_to: u64) -> Result<u64, JournalError> {
        self.released = up_to;
        writer.release(up_to)
    }

    fn release_all(&mut self, writer: &mut Writer, up_to: u64) -> Result<u64, JournalError> {
        self.released = up_to;
        writer.release_all(up_to)
    }

    /// Compares what is found with what is known, and takes in what was found.
    fn check(&mut self, scan: &Scan) -> Result<(), String> {
        let frames: Vec<_> = scan.frames().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let newest = frames.last().map_or(0, |frame| frame.number);
        let oldest = frames.first().map_or(1, |frame| frame.number);
        let known = self.frames.len() as u64;
        if newest < known {
            return Err(format!("{known} frames were acknowledged, {newest} are there"));
        }
        if oldest > self.released + 1 {
            return Err(format!("frame {oldest} is the oldest, only {} were released", self.released));
        }
        if newest > known {
            self.frames.extend(self.attempted.take());
        }
        if newest > self.frames.len() as u64 {
            return Err(format!("frame {newest} was never attempted"));
        }
        for (number, frame) in (oldest..).zip(&frames) {
            let payload = &self.frames[usize::try_from(number).unwrap() - 1];
            if (frame.number, &frame.payload, frame.layer) != (number, payload, 202_611) {
                return Err(format!("frame {number} is another"));
            }
        }
        if scan.newest() != frames.last().map(|frame| (frame.number, frame.hash)) {
            return Err("newest is not the last frame".into());
        }
        if let Tail::Torn { frame } = scan.tail()
            && frame != newest + 1
        {
            return Err(format!("torn is {frame}"));
        }
        let head = scan.head();
        if ![self.applied, self.applied_attempted].contains(&head.applied) {
            return Err(format!("applied is {}, was {}", head.applied, self.applied));
        }
        if head.state_digest != state_digest(head.applied) {
            return Err("the map root is another".into());
        }
        (self.applied, self.attempted) = (head.applied, None);
        Ok(())
    }
}

fn state_digest(applied: u64) -> Hash {
    let mut root = Hash::ZERO;
    root.0[..8].copy_from_slice(&applied.to_be_bytes());
    root
}

/// A life of the journal, in two processes, with all that can happen in it.
fn live(disk: &SimulatedDisk, background: bool, ledger: &mut Ledger) -> Result<(), JournalError> {
    let options = options(background);
    let mut writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options)?;
    ledger.created = true;
    let result = first_process(&mut writer, ledger);
    poisoned_if_failed(&result, &mut writer);
    result?;
    drop(writer);

    ledger.generation = 30;
    let scan = Scan::read_on(Arc::new(disk.clone()), dir(), &options)?;
    assert_eq!((scan.tail(), scan.head().clean, scan.warnings().len()), (Tail::Clean, true, 0));
    let mut writer = scan.into_writer()?;
    let result = second_process(&mut writer, ledger);
    poisoned_if_failed(&result, &mut writer);
    result
}

fn first_process(writer: &mut Writer, ledger: &mut Ledger) -> Result<(), JournalError> {
    for _ in 0..4 {
        ledger.append(writer)?;
    }
    ledger.set_head(writer, 2, false)?;
    for _ in 0..5 {
        ledger.append(writer)?;
    }
    ledger.set_head(writer, 8, false)?;
    ledger.release(writer, 8)?;
    ledger.append(writer)?;
    ledger.release(writer, 8)?;
    ledger.set_head(writer, 10, true)?;
    writer.wipes_pending().map(drop)
}

fn second_process(writer: &mut Writer, ledger: &mut Ledger) -> Result<(), JournalError> {
    for _ in 0..4 {
        ledger.append(writer)?;
    }
    ledger.set_head(writer, 13, false)?;
    ledger.release(writer, 13)?;
    ledger.release(writer, 13)?;
    ledger.append(writer)?;
    writer.wipes_pending().map(drop)?;
    // As an erasure does: on to the next segment, a frame in it, applied, and nothing before it is kept.
    writer.rotate()?;
    writer.rotate()?;
    ledger.append(writer)?;
    ledger.set_head(writer, 16, false)?;
    assert!(ledger.release_all(writer, 16)? > 0);
    writer.wipes_pending().map(drop)?;
    // A stop may come between the two.
    writer.rotate()?;
    ledger.set_head(writer, 16, true)?;
    writer.wipes_pending().map(drop)
}

fn poisoned_if_failed(result: &Result<(), JournalError>, writer: &mut Writer) {
    if result.is_err() {
        assert!(writer.poison().is_some());
        assert!(matches!(writer.append(1, &[]), Err(JournalError::Poisoned(_))));
        assert!(matches!(writer.release(0), Err(JournalError::Poisoned(_))));
    }
}

/// Opens after a crash: everything known is there.
fn open(disk: &SimulatedDisk, ledger: &mut Ledger) -> Result<Writer, String> {
    let options = options(false);
    let before = disk.calls();
    let scan = match Scan::read_on(Arc::new(disk.clone()), dir(), &options) {
        Err(JournalError::Absent(_)) if !ledger.created => {
            let writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options);
            ledger.created = writer.is_ok();
            return writer.map_err(|error| error.to_string());
        }
        read => read.map_err(|error| error.to_string())?,
    };
    if disk.calls() != before {
        return Err("reading changed the disk".into());
    }
    ledger.created = true;
    ledger.check(&scan)?;
    ledger.generation = ledger.generation.wrapping_add(13) % 40;
    scan.into_writer().map_err(|error| error.to_string())
}

/// [`open`], and the journal goes on.
fn recover(disk: &SimulatedDisk, ledger: &mut Ledger) -> Result<(), String> {
    let mut writer = open(disk, ledger)?;
    ledger.append(&mut writer).map_err(|error| error.to_string())
}

/// [`recover`], then a power cut that leaves only what was promised, then open again.
fn recover_and_lose(disk: &SimulatedDisk, ledger: &Ledger) -> Result<(), String> {
    let mut ledger = ledger.clone();
    recover(disk, &mut ledger)?;
    let rest = disk.power_cut(|_| 0);
    recover(&rest, &mut ledger).map_err(|error| format!("at the second open: {error}"))
}

/// A small generator: the tests print nothing but a call and a fault, and these make them repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).unwrap()
    }
}

/// Disks a power cut may leave: none, all, each alone, all but each, random; everything if that is few.
fn images(disk: &SimulatedDisk, random: usize) -> Vec<SimulatedDisk> {
    const FEW: usize = 64;
    let (questions, product) = disk.uncertainties();
    if product <= FEW {
        return (0..product)
            .map(|mut code| {
                disk.power_cut(|alternatives| {
                    let answer = code % alternatives;
                    code /= alternatives;
                    answer
                })
            })
            .collect();
    }
    let mut images = vec![disk.power_cut(|_| 0), disk.power_cut(|alternatives| alternatives - 1)];
    for one in 0..questions.min(FEW) {
        for inverse in [false, true] {
            let mut at = 0;
            images.push(disk.power_cut(|alternatives| {
                at += 1;
                if (at - 1 == one) != inverse { alternatives - 1 } else { 0 }
            }));
        }
    }
    let mut generator = Random(questions as u64);
    images.extend((0..random).map(|_| disk.power_cut(|alternatives| generator.below(alternatives))));
    images
}

fn calls_of_a_life() -> u64 {
    let disk = SimulatedDisk::default();
    let mut ledger = Ledger::default();
    live(&disk, false, &mut ledger).unwrap();
    assert_eq!(ledger.frames.len(), 16);
    disk.calls()
}

/// Runs a life into each fault at each call; returns runs and what was found wrong.
fn sweep(
    start: fn() -> SimulatedDisk,
    faults: &[Fault],
    background: bool,
    random: usize,
) -> (usize, Vec<String>) {
    let (mut runs, mut wrong) = (0, Vec::new());
    for call in 1..=calls_of_a_life() {
        for &fault in faults {
            let disk = start();
            disk.plan(call, fault);
            let mut ledger = Ledger::default();
            if live(&disk, background, &mut ledger).is_ok() && !matches!(fault, Fault::Short) && !background {
                wrong.push(format!("{fault:?} at call {call} went unnoticed"));
            }
            let next = disk.next_process();
            for (name, image) in
                std::iter::once(("kill", next)).chain(images(&disk, random).into_iter().map(|i| ("cut", i)))
            {
                runs += 1;
                if let Err(error) = recover_and_lose(&image, &ledger) {
                    wrong.push(format!("{fault:?} at call {call}, {name}: {error}"));
                }
            }
        }
    }
    (runs, wrong)
}

/// Nothing wrong, or, with the sync taken out, something lost: a sweep that cannot see that proves nothing.
fn verdict(runs: usize, wrong: &[String]) {
    if cfg!(feature = "unsafe-skip-journal-sync") {
        assert!(wrong.iter().any(|what| what.contains("were acknowledged")), "{wrong:#?}");
    } else {
        assert!(wrong.is_empty(), "{} of {runs}: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    }
}

#[test]
fn a_kill_or_power_cut_at_any_call_loses_nothing() {
    let (runs, wrong) = sweep(SimulatedDisk::default, &KILLS, false, 12);
    assert!(runs > 2_000, "{runs}");
    verdict(runs, &wrong);
}

#[test]
fn an_error_at_any_call_poisons_and_loses_nothing() {
    let (runs, wrong) = sweep(SimulatedDisk::default, &FAILURES, false, 4);
    assert!(runs > 1_000, "{runs}");
    verdict(runs, &wrong);
}

#[test]
fn the_same_holds_with_the_background_thread() {
    let (runs, wrong) = sweep(SimulatedDisk::default, &[Fault::Kill, Fault::Eio], true, 4);
    verdict(runs, &wrong);
}

#[test]
fn the_sweep_sees_a_disk_that_lies() {
    let (_, wrong) = sweep(SimulatedDisk::lying, &[Fault::Kill], false, 0);
    assert!(wrong.iter().any(|what| what.contains("were acknowledged")), "{wrong:#?}");
}

#[test]
#[cfg(not(feature = "unsafe-skip-journal-sync"))]
fn a_crash_within_recovery_is_harmless() {
    let mut runs = 0;
    for call in (1..=calls_of_a_life()).step_by(2) {
        let disk = SimulatedDisk::default();
        disk.plan(call, Fault::KillTorn);
        let mut ledger = Ledger::default();
        assert!(live(&disk, false, &mut ledger).is_err());
        let mut random = Random(call);
        let starts = [disk.next_process(), disk.power_cut(|alternatives| random.below(alternatives))];
        for start in starts {
            for second in 1.. {
                let again = start.next_process();
                again.plan(second, if second % 2 == 0 { Fault::Kill } else { Fault::Eio });
                let mut known = ledger.clone();
                // What an interrupted recovery accepted was not served. Once it is through, it may have been.
                match open(&again, &mut known) {
                    Err(_) => known = ledger.clone(),
                    Ok(mut writer) => {
                        if known.append(&mut writer).is_ok() {
                            break;
                        }
                    }
                }
                let cut =
                    [again.next_process(), again.power_cut(|_| 0), again.power_cut(|n| random.below(n))];
                for image in cut {
                    runs += 1;
                    recover_and_lose(&image, &known)
                        .unwrap_or_else(|error| panic!("call {call}, then {second}: {error}"));
                }
            }
        }
    }
    assert!(runs > 2_000, "{runs}");
}

/// A journal of three segments with a torn-off history, stopped cleanly or not.
fn specimen(clean: bool) -> (SimulatedDisk, Ledger) {
    let disk = SimulatedDisk::default();
    let mut ledger = Ledger::default();
    let mut writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap();
    for _ in 0..8 {
        ledger.append(&mut writer).unwrap();
    }
    ledger.set_head(&mut writer, 6, clean).unwrap();
    if !clean {
        ledger.append(&mut writer).unwrap();
    }
    drop(writer);
    (disk.power_cut(|alternatives| alternatives - 1), ledger)
}

fn read(disk: &SimulatedDisk) -> Result<Scan, JournalError> {
    Scan::read_on(Arc::new(disk.clone()), dir(), &options(false))
}

/// Refused, or the very same frames; returns whether refused.
fn refused_or_same(disk: &SimulatedDisk, ledger: &Ledger, what: &str) -> bool {
    match read(disk) {
        Err(_) => true,
        Ok(scan) => {
            let mut known = ledger.clone();
            known.check(&scan).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(scan.tail(), Tail::Clean, "{what}");
            false
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    for (clean, step) in [(true, 1), (false, 5)] {
        let (disk, ledger) = specimen(clean);
        for path in disk.files() {
            let is_head = path.ends_with("HEAD");
            let mut refused = 0;
            let bits = disk.content(&path).len() * 8;
            for bit in (0..bits).step_by(step) {
                disk.flip(&path, bit);
                refused += usize::from(refused_or_same(&disk, &ledger, &format!("{path:?} bit {bit}")));
                disk.flip(&path, bit);
            }
            // A rotten slot of HEAD has its double; a segment has none.
            assert_eq!(refused, if is_head { 0 } else { bits.div_ceil(step) }, "{path:?}");
        }
    }
}

#[test]
fn a_rotten_slot_is_told_and_repaired() {
    let (disk, _) = specimen(true);
    disk.flip(&dir().join("HEAD"), 100);
    let scan = read(&disk).unwrap();
    assert_eq!(scan.warnings().len(), 1);
    drop(scan.into_writer().unwrap());
    assert!(read(&disk).unwrap().warnings().is_empty());
    disk.flip(&dir().join("HEAD"), 100);
    disk.flip(&dir().join("HEAD"), 5000);
    assert!(matches!(read(&disk), Err(JournalError::Head(_))));
}

#[test]
fn sectors_zeroed_swapped_or_cut_off_are_refused_after_a_clean_stop() {
    let (disk, ledger) = specimen(true);
    for path in disk.files() {
        let good = disk.content(&path);
        let sectors = good.len() / 512;
        for i in 0..sectors {
            let mut other = good.clone();
            other[i * 512..][..512].fill(0);
            disk.set_content(&path, &other);
            refused_or_same(&disk, &ledger, &format!("{path:?} sector {i} zeroed"));
            disk.set_content(&path, &good[..i * 512]);
            refused_or_same(&disk, &ledger, &format!("{path:?} cut at sector {i}"));
            for j in 0..i {
                let mut other = good.clone();
                other.copy_within(i * 512..i * 512 + 512, j * 512);
                other[i * 512..][..512].copy_from_slice(&good[j * 512..][..512]);
                disk.set_content(&path, &other);
                refused_or_same(&disk, &ledger, &format!("{path:?} sectors {i} and {j} swapped"));
            }
        }
        disk.set_content(&path, &good);
    }
    assert!(!refused_or_same(&disk, &ledger, "restored"));
}

#[test]
fn a_forged_sector_with_a_right_check_is_refused_after_a_clean_stop() {
    let (disk, ledger) = specimen(true);
    let mut random = Random(7);
    let mut forged = 0;
    for path in disk.files() {
        let good = disk.content(&path);
        for at in (0..good.len()).step_by(512) {
            let sound = (0..36u32).map(|i| (u64::from(i / 4) + 1, i % 4)).find(|&(number, index)| {
                frame::classify(&good[at..at + 512], number, index) == frame::Sector::Sound
            });
            let Some((number, index)) = sound else { continue };
            for _ in 0..200 {
                let mut content = good.clone();
                let sector = &mut content[at..at + 512];
                // Mostly the header, where a first sector decides what is read next.
                let byte = random.below(if forged % 4 == 0 { 508 } else { 32 });
                sector[byte] = sector[byte].wrapping_add(u8::try_from(1 + random.below(255)).unwrap());
                let check = frame::sector_check(&sector[..508], number, index);
                sector[508..].copy_from_slice(&check.to_be_bytes());
                disk.set_content(&path, &content);
                assert!(refused_or_same(&disk, &ledger, &format!("{path:?} byte {}", at + byte)));
                forged += 1;
            }
        }
        disk.set_content(&path, &good);
    }
    assert!(forged > 2_000, "{forged}");
}

#[test]
fn a_missing_or_exchanged_file_is_refused() {
    let (disk, ledger) = specimen(true);
    let segments: Vec<PathBuf> = disk.files().into_iter().filter(|path| !path.ends_with("HEAD")).collect();
    assert!(segments.len() >= 4, "{segments:?}");
    for (i, path) in segments.iter().enumerate() {
        let without = disk.next_process();
        crate::journal::disk::Disk::remove(&without, path).unwrap();
        let refused = refused_or_same(&without, &ledger, &format!("{path:?} missing"));
        assert_eq!(refused, i + 1 < segments.len(), "only the prepared one may be missing: {path:?}");
    }
    let (a, b) = (disk.content(&segments[0]), disk.content(&segments[1]));
    disk.set_content(&segments[0], &b);
    disk.set_content(&segments[1], &a);
    assert!(matches!(read(&disk), Err(JournalError::Damaged { .. })));
    disk.set_content(&segments[0], &a);
    disk.set_content(&segments[1], &b);
    crate::journal::disk::Disk::remove(&disk, &dir().join("HEAD")).unwrap();
    assert!(matches!(read(&disk), Err(JournalError::Head(_))));
}

#[test]
fn older_segments_under_a_newer_head_are_a_rollback() {
    let (older, _) = specimen(false);
    let newer = older.next_process();
    let mut writer = read(&newer).unwrap().into_writer().unwrap();
    writer.append(1, &[b"one more"]).unwrap();
    writer.set_head(6, Hash::ZERO, false).unwrap();
    drop(writer);
    older.set_content(&dir().join("HEAD"), &newer.content(&dir().join("HEAD")));
    assert!(matches!(read(&older), Err(JournalError::Rollback { head: 10, .. })));
    // Another frame 10 than the one HEAD names.
    let fork = specimen(false).0;
    let mut writer = read(&fork).unwrap().into_writer().unwrap();
    writer.append(1, &[b"another"]).unwrap();
    drop(writer);
    fork.set_content(&dir().join("HEAD"), &newer.content(&dir().join("HEAD")));
    assert!(matches!(read(&fork), Err(JournalError::Rollback { head: 10, .. })));
}

#[test]
fn a_head_that_claims_a_clean_stop_admits_nothing_behind() {
    let (clean, _) = specimen(true);
    let head = clean.content(&dir().join("HEAD"));
    let later = clean.next_process();
    let mut writer = read(&later).unwrap().into_writer().unwrap();
    writer.append(1, &[b"behind"]).unwrap();
    drop(writer);
    assert!(read(&later).is_ok());
    later.set_content(&dir().join("HEAD"), &head);
    assert!(matches!(read(&later), Err(JournalError::Head(_))));
}

/// A journal with no frame and one large segment, in which `sectors` (index, frame number) stand.
fn blank_with(sectors: &[(u32, u64)]) -> Result<Scan, JournalError> {
    let disk = SimulatedDisk::default();
    drop(Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap());
    let mut content = vec![0; frame::MAX_FRAME_BYTES + 4096];
    for (index, number) in sectors {
        let at = *index as usize * frame::SECTOR_BYTES;
        let sector = &mut content[at..at + frame::SECTOR_BYTES];
        sector[0] = 1;
        let check = frame::sector_check(&sector[..frame::SECTOR_DATA_BYTES], *number, *index);
        sector[frame::SECTOR_DATA_BYTES..].copy_from_slice(&check.to_be_bytes());
    }
    disk.set_content(&segment::path(dir(), 1), &content);
    read(&disk)
}

#[test]
fn a_torn_frame_may_lack_its_header_but_not_its_bounds() {
    let last = u32::try_from(frame::MAX_FRAME_BYTES / frame::SECTOR_BYTES).unwrap() - 1;
    assert_eq!(blank_with(&[]).unwrap().tail(), Tail::Clean);
    assert_eq!(blank_with(&[(1, 1), (7, 1), (last, 1)]).unwrap().tail(), Tail::Torn { frame: 1 });
    assert!(matches!(blank_with(&[(last + 1, 1)]), Err(JournalError::Damaged { .. })));
    assert!(matches!(
        blank_with(&[(1, 1), (2, 2)]),
        Err(JournalError::Damaged { offset: 1024, frame: 1, .. })
    ));
    assert!(matches!(blank_with(&[(0, 1)]), Err(JournalError::Damaged { .. })), "not a header");
}

#[test]
fn the_oldest_frame_is_one_that_head_allows() {
    let disk = SimulatedDisk::default();
    drop(Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap());
    for number in [0, 1, 2, 50, u64::MAX] {
        for sectors in [1, 2] {
            let mut content = Vec::new();
            frame::encode(&mut content, number, 1, &Hash::ZERO, &[&[1; 800]]);
            content.truncate(sectors * 512);
            content.resize(4096, 0);
            disk.set_content(&segment::path(dir(), 1), &content);
            match read(&disk) {
                Ok(scan) => {
                    let whole = (Some(1), Tail::Clean);
                    let torn = (None, Tail::Torn { frame: 1 });
                    assert_eq!((scan.oldest(), scan.tail()), if sectors == 2 { whole } else { torn });
                    assert_eq!(number, 1);
                }
                Err(error) => {
                    assert!(number != 1 && matches!(error, JournalError::Damaged { .. }), "{error}")
                }
            }
        }
    }
}

#[test]
fn a_torn_frame_is_followed_by_zeros_or_it_is_damage() {
    let (disk, ledger) = specimen(false);
    let files: Vec<PathBuf> = disk.files().into_iter().filter(|path| !path.ends_with("HEAD")).collect();
    let last = files.iter().rev().find(|path| disk.content(path).iter().any(|byte| *byte != 0)).unwrap();
    let end =
        disk.content(last).chunks(512).rposition(|sector| sector.iter().any(|byte| *byte != 0)).unwrap();
    let mut content = disk.content(last);
    content[end * 512..].fill(0);
    disk.set_content(last, &content);
    let scan = read(&disk).unwrap();
    assert_eq!(scan.tail(), Tail::Torn { frame: ledger.frames.len() as u64 });
    content[(end + 1) * 512] = 1;
    disk.set_content(last, &content);
    assert!(matches!(read(&disk), Err(JournalError::Damaged { .. })));
}

#[test]
#[cfg(not(feature = "unsafe-skip-journal-sync"))]
fn a_segment_goes_at_the_second_release_and_leaves_no_bytes() {
    let disk = SimulatedDisk::default();
    let mut writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap();
    let canary = b"a name to be forgotten";
    writer.append(1, &[canary]).unwrap();
    for _ in 0..6 {
        writer.append(1, &[&[1; 1800]]).unwrap();
    }
    assert!(matches!(writer.release(1), Err(JournalError::OutOfRange { .. })), "nothing is applied yet");
    assert!(matches!(writer.set_head(8, Hash::ZERO, false), Err(JournalError::OutOfRange { .. })));
    writer.set_head(7, Hash::ZERO, false).unwrap();
    assert!(writer.bytes_since_release() > 7 * 1800);
    assert_eq!(writer.release(7).unwrap(), 0);
    assert_eq!(writer.bytes_since_release(), 0);
    assert!(disk.holds(canary));
    let kept = writer.kept_bytes();
    assert_eq!(writer.release(7).unwrap(), 3);
    assert!(writer.kept_bytes() < kept);
    assert_eq!(writer.wipes_pending().unwrap(), 0);
    assert!(!disk.holds(canary), "zeroed and synced before the name went");
    assert!(matches!(writer.set_head(2, Hash::ZERO, false), Err(JournalError::OutOfRange { .. })));
    drop(writer);
    let scan = read(&disk).unwrap();
    assert_eq!((scan.oldest(), scan.newest().unwrap().0), (Some(7), 7));
    assert_eq!(scan.frames().count(), 1);
    assert_eq!(scan.into_writer().unwrap().append(1, &[]).unwrap(), 8);
}

#[test]
#[cfg(not(feature = "unsafe-skip-journal-sync"))]
fn an_erasure_keeps_no_segment_but_the_one_with_the_newest_frame() {
    let disk = SimulatedDisk::default();
    let mut writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap();
    writer.rotate().unwrap();
    writer.append(1, &[&[1; 1800]]).unwrap();
    let canary = b"a name to be forgotten";
    for _ in 0..5 {
        writer.append(1, &[canary]).unwrap();
    }
    writer.set_head(6, Hash::ZERO, false).unwrap();
    assert_eq!(writer.release_all(6).unwrap(), 1, "the newest frame is in the second");
    writer.rotate().unwrap();
    assert_eq!(writer.release_all(6).unwrap(), 0, "and still after the writer went on to the third");
    assert!(disk.holds(canary));
    assert!(read(&disk).is_ok());
    assert_eq!(writer.append(1, &[b"behind"]).unwrap(), 7);
    assert!(matches!(writer.release_all(7), Err(JournalError::OutOfRange { .. })), "not applied yet");
    writer.set_head(7, Hash::ZERO, false).unwrap();
    assert_eq!(writer.release_all(7).unwrap(), 1);
    assert_eq!(writer.wipes_pending().unwrap(), 0);
    assert!(!disk.holds(canary), "zeroed and synced before the name went");
    drop(writer);
    let scan = read(&disk).unwrap();
    assert_eq!((scan.oldest(), scan.newest().unwrap().0, scan.head().kept_from), (Some(7), 7, 7));
    // What was not releasable at a call before keeps its generation at an ordinary release.
    let mut writer = scan.into_writer().unwrap();
    for _ in 0..4 {
        writer.append(1, &[&[1; 1800]]).unwrap();
    }
    writer.set_head(11, Hash::ZERO, false).unwrap();
    assert_eq!(writer.release(11).unwrap(), 0);
    assert!(writer.release(11).unwrap() > 0);
}

#[test]
fn reopening_leaves_no_second_copy() {
    let disk = SimulatedDisk::default();
    let mut writer = Writer::create_on(Arc::new(disk.clone()), dir(), &options(false)).unwrap();
    writer.append(1, &[b"only once"]).unwrap();
    drop(writer);
    drop(read(&disk).unwrap().into_writer().unwrap());
    disk.set_content(&segment::path(dir(), 1), &[0; 4096]);
    assert!(!disk.holds(b"only once"));
}

#[test]
fn sizes_are_checked_and_may_change() {
    let bad = [(4096, 4096), (4096, 100), (5000, 512), (64 << 20, frame::MAX_FRAME_BYTES + 512), (4096, 0)];
    for (segment_bytes, max_frame_bytes) in bad {
        let options = Options { segment_bytes, max_frame_bytes, background: false };
        assert!(matches!(Scan::read(dir(), &options), Err(JournalError::Options(_))), "{options:?}");
    }
    let (disk, mut ledger) = specimen(false);
    for (segment_bytes, max_frame_bytes) in [(1024, 512), (65536, 8192), (4096, 2048)] {
        let options = Options { segment_bytes, max_frame_bytes, background: false };
        let scan = Scan::read_on(Arc::new(disk.clone()), dir(), &options).unwrap();
        ledger.check(&scan).unwrap();
        let mut writer = scan.into_writer().unwrap();
        let limit = writer.max_payload_bytes();
        assert!(matches!(writer.append(1, &[&vec![1; limit + 1]]), Err(JournalError::TooLarge { .. })));
        for _ in 0..5 {
            let payload = vec![3; limit];
            writer.append(202_611, &[&payload]).unwrap();
            ledger.frames.push(payload);
        }
    }
    ledger.check(&read(&disk).unwrap()).unwrap();
}

#[test]
fn unknown_files_are_named_and_left() {
    let (disk, ledger) = specimen(true);
    let note = dir().join("note.txt");
    disk.set_content(&note, b"hello");
    let scan = read(&disk).unwrap();
    assert_eq!(scan.warnings().len(), 1);
    drop(scan.into_writer().unwrap());
    assert!(!refused_or_same(&disk, &ledger, "a note"));
    assert_eq!(disk.content(&note), b"hello");
}

#[test]
fn on_a_real_file_system() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("journal");
    let options = Options { segment_bytes: 64 * 1024, max_frame_bytes: 16 * 1024, background: true };
    assert!(matches!(Scan::read(&dir, &options), Err(JournalError::Absent(_))));
    let mut writer = Writer::create(&dir, &options).unwrap();
    assert!(matches!(Writer::create(&dir, &options), Err(JournalError::Exists(_))));
    let payload = |n: u64| n.to_be_bytes().repeat(usize::try_from(n * 37 % 1800).unwrap());
    for number in 1..=100 {
        assert_eq!(writer.append(7, &[&payload(number)]).unwrap(), number);
        if number % 20 == 0 {
            writer.set_head(number, Hash::ZERO, false).unwrap();
            writer.release(number).unwrap();
        }
    }
    writer.set_head(100, Hash::ZERO, true).unwrap();
    drop(writer);
    let scan = Scan::read(&dir, &options).unwrap();
    assert!(scan.oldest().unwrap() > 1);
    let mut expected = scan.oldest().unwrap();
    for frame in scan.frames() {
        let frame = frame.unwrap();
        assert_eq!((frame.number, frame.payload), (expected, payload(expected)));
        expected += 1;
    }
    assert_eq!(expected, 101);
    let mut writer = scan.into_writer().unwrap();
    assert_eq!(writer.append(7, &[b"x"]).unwrap(), 101);
    while writer.wipes_pending().unwrap() > 0 {
        std::thread::yield_now();
    }
}
