//! The spool over a real directory: what each crash leaves, order, bounds, one holder, damage.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn options(dir: &Path) -> SpoolOptions {
    SpoolOptions { max_bytes: MIN_BYTES, ..SpoolOptions::at(dir) }
}

fn open(dir: &Path) -> Spool {
    Spool::open(&options(dir), "acme").unwrap()
}

fn event(number: usize, bytes: usize) -> Arc<str> {
    format!("{{\"id\":\"e-{number}\",\"s\":\"{}\"}}", "x".repeat(bytes)).into()
}

fn events(numbers: std::ops::Range<usize>) -> Vec<Arc<str>> {
    numbers.map(|number| event(number, 10)).collect()
}

/// Everything that is there, taken as the sender takes it.
fn drain(spool: &mut Spool) -> Vec<Arc<str>> {
    let mut all = Vec::new();
    loop {
        let some = spool.front(7, 1 << 20).unwrap();
        if some.is_empty() {
            return all;
        }
        spool.answered(some.len()).unwrap();
        all.extend(some);
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    numbers(dir).unwrap().into_iter().map(|number| dir.join(format!("{number:08}{SUFFIX}"))).collect()
}

#[test]
fn events_come_back_in_order_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    assert_eq!(spool.append(&events(0..20)).unwrap(), 20);
    assert_eq!(spool.front(3, 1 << 20).unwrap(), events(0..3));
    // Not answered: the same again.
    assert_eq!(spool.front(5, 1 << 20).unwrap(), events(0..5));
    spool.answered(2).unwrap();
    spool.append(&events(20..30)).unwrap();
    assert_eq!((spool.events(), drain(&mut spool)), (28, events(2..30)));
    assert_eq!((spool.events(), spool.bytes(), segments(dir.path()).len()), (0, 0, 0));
    assert_eq!(spool.append(&events(30..31)).unwrap(), 1);
    assert_eq!(drain(&mut spool), events(30..31));
}

#[test]
fn a_batch_keeps_to_its_bytes_and_has_at_least_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&[event(0, 500), event(1, 500), event(2, 500)]).unwrap();
    assert_eq!(spool.front(9, 1100).unwrap().len(), 2);
    assert_eq!(spool.front(9, 10).unwrap().len(), 1);
}

#[test]
fn a_restart_sends_what_was_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&events(0..4)).unwrap();
    spool.front(2, 1 << 20).unwrap();
    spool.answered(2).unwrap();
    drop(spool);
    let mut spool = open(dir.path());
    // The segment is not through, so it is sent again from its start.
    assert_eq!(spool.events(), 4);
    spool.append(&events(4..6)).unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    assert_eq!(drain(&mut spool), events(0..6));
    drop(spool);
    assert_eq!(open(dir.path()).events(), 0);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_every_whole_frame_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&events(0..3)).unwrap();
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let last = framed_bytes(&event(2, 10));
    for torn in 1..=last {
        fs::write(&path, &whole[..whole.len() - torn]).unwrap();
        let mut spool = open(dir.path());
        assert_eq!((spool.damaged_bytes, spool.lost_events), (0, 0), "{torn}");
        assert_eq!(fs::metadata(&path).unwrap().len(), (whole.len() - last) as u64, "{torn}");
        assert_eq!(spool.front(9, 1 << 20).unwrap(), events(0..2), "{torn}");
        // What is appended after it stands in a segment of its own.
        spool.append(&events(7..8)).unwrap();
        assert_eq!(drain(&mut spool), [events(0..2), events(7..8)].concat(), "{torn}");
    }
    // The same where only the tenant's frame was on its way, down to an empty file.
    for kept in 0..framed_bytes("acme") {
        fs::write(&path, &whole[..kept]).unwrap();
        assert_eq!(open(dir.path()).events(), 0);
        assert!(!path.exists(), "{kept}");
    }
}

#[test]
fn zeros_after_a_power_cut_are_cut_too() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&events(0..2)).unwrap();
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0; 5000]);
    fs::write(&path, &bytes).unwrap();
    let mut spool = open(dir.path());
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64 - 5000);
    assert_eq!((spool.lost_events, drain(&mut spool)), (0, events(0..2)));
}

#[test]
fn damage_takes_the_frames_it_touches_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&events(0..5)).unwrap();
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let third = framed_bytes("acme") + 2 * framed_bytes(&event(0, 10)) + HEAD;
    bytes[third] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut spool = open(dir.path());
    assert_eq!((spool.lost_events, spool.damaged_bytes), (1, framed_bytes(&event(2, 10)) as u64));
    assert_eq!(drain(&mut spool), [events(0..2), events(3..5)].concat());

    // While it is open: the count is exact.
    spool.append(&events(0..5)).unwrap();
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    for at in [third, third + framed_bytes(&event(0, 10))] {
        bytes[at] ^= 1;
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(drain(&mut spool), [events(0..2), events(4..5)].concat());
    assert_eq!((spool.lost_events, spool.events()), (1 + 2, 0));
}

/// Somewhere inside of a payload.
const HEAD: usize = frame::HEAD_BYTES + 3;

#[test]
fn events_whose_tenant_is_not_known_any_more_are_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&events(0..3)).unwrap();
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[frame::HEAD_BYTES] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let spool = open(dir.path());
    assert_eq!((spool.events(), spool.lost_events), (0, 1 + 3));
    assert!(path.with_extension("damaged").exists() && !path.exists());
}

#[test]
fn the_bound_holds_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let large: Vec<Arc<str>> = (0..30).map(|number| event(number, 60_000)).collect();
    let taken = spool.append(&large).unwrap();
    assert!((6..=8).contains(&taken), "{taken}");
    assert!(spool.bytes() <= MIN_BYTES && !spool.has_room_for(&large[taken..=taken]));
    assert_eq!(spool.append(&large[taken..]).unwrap(), 0);
    // Small ones still fit into what is left; and nothing is lost of what was taken.
    let on_disk: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(on_disk, spool.bytes());
    assert!(segments(dir.path()).len() > 1);
    let first = spool.front(1000, 1 << 20).unwrap();
    spool.answered(first.len()).unwrap();
    assert!(spool.has_room_for(&large[..1]) && spool.append(&large[..1]).unwrap() == 1);
    assert_eq!(drain(&mut spool), [&large[first.len()..taken], &large[..1]].concat());
}

#[test]
fn answers_may_run_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let large: Vec<Arc<str>> = (0..6).map(|number| event(number, 60_000)).collect();
    assert_eq!(spool.append(&large).unwrap(), 6);
    let before = segments(dir.path()).len();
    spool.answered(4).unwrap();
    assert!(segments(dir.path()).len() < before);
    assert_eq!(drain(&mut spool), large[4..]);
}

#[test]
fn one_recorder_has_it_and_one_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    assert!(matches!(Spool::open(&options(dir.path()), "acme"), Err(SpoolError::Held(_))));
    spool.append(&events(0..1)).unwrap();
    drop(spool);
    let foreign = Spool::open(&options(dir.path()), "globex");
    assert!(matches!(foreign, Err(SpoolError::OtherTenant { tenant, .. }) if tenant == "acme"));
    let small = SpoolOptions { max_bytes: MIN_BYTES - 1, ..options(dir.path()) };
    assert!(matches!(Spool::open(&small, "acme"), Err(SpoolError::TooSmall)));
    assert_eq!(drain(&mut open(dir.path())), events(0..1));
}

#[test]
fn what_is_made_is_for_its_user_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/spool");
    open(&dir).append(&events(0..1)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_sync_covers_what_was_appended_before_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    assert!(spool.to_sync().is_none() && spool.is_durable(0));
    spool.append(&events(0..2)).unwrap();
    let mark = spool.appended_bytes();
    let what = spool.to_sync().unwrap();
    // The directory has a new name in it.
    assert!(what.directory.is_some() && !spool.is_durable(mark));
    spool.append(&events(2..3)).unwrap();
    spool.was_synced(&what, &what.sync());
    assert!(spool.is_durable(mark) && !spool.is_durable(spool.appended_bytes()));
    let what = spool.to_sync().unwrap();
    assert!(what.directory.is_none());
    spool.was_synced(&what, &what.sync());
    assert!(spool.is_durable(spool.appended_bytes()) && spool.to_sync().is_none());
    // What is answered needs no disk.
    spool.append(&events(3..4)).unwrap();
    drain(&mut spool);
    assert!(spool.is_durable(spool.appended_bytes()));
}

#[test]
fn after_a_sync_that_failed_nothing_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&events(0..2)).unwrap();
    let what = spool.to_sync().unwrap();
    spool.was_synced(&what, &Err(io::Error::other("no")));
    assert!(spool.has_failed() && !spool.is_durable(spool.appended_bytes()));
    assert!(matches!(spool.append(&events(2..3)), Err(SpoolError::SyncFailed)));
    assert_eq!(drain(&mut spool), events(0..2));
}

#[test]
fn a_directory_that_takes_no_file_is_an_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    // The next segment's name is taken: making it fails as it would on a disk without room for names.
    fs::create_dir(dir.path().join("00000001.spool")).unwrap();
    assert!(matches!(spool.append(&events(0..1)), Err(SpoolError::Io { .. })));
    fs::remove_dir(dir.path().join("00000001.spool")).unwrap();
    assert_eq!(spool.append(&events(0..1)).unwrap(), 1);
    assert_eq!(drain(&mut spool), events(0..1));
}

#[test]
fn a_segment_that_is_gone_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let large: Vec<Arc<str>> = (0..6).map(|number| event(number, 60_000)).collect();
    assert_eq!(spool.append(&large).unwrap(), 6);
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 2);
    fs::remove_file(&paths[0]).unwrap();
    assert_eq!(drain(&mut spool), large[3..]);
    assert_eq!((spool.lost_events, spool.events()), (3, 0));
    // Longer than any segment: not one of ours.
    spool.append(&large[..4]).unwrap();
    let path = segments(dir.path()).remove(0);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(MAX_READ_BYTES + 1).unwrap();
    assert_eq!(drain(&mut spool), large[3..4]);
    assert_eq!(spool.lost_events, 3 + 3);
    assert!(path.with_extension(DAMAGED).exists());
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, usize),
    Answer(usize),
    Restart,
    Torn(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_usize..12, 0_usize..9000).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        3 => (1_usize..15).prop_map(Step::Answer),
        1 => Just(Step::Restart),
        1 => (1_usize..200).prop_map(Step::Torn),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens, what was taken and is not answered comes back in order; a torn tail takes at most the last
    /// event of the newest segment, a restart takes nothing and may bring answered ones again.
    #[test]
    fn nothing_that_was_taken_is_lost(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let mut expected: VecDeque<Arc<str>> = VecDeque::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Append(count, bytes) => {
                    let some: Vec<Arc<str>> = (number..number + count).map(|number| event(number, bytes)).collect();
                    number += count;
                    let taken = spool.append(&some).unwrap();
                    prop_assert!(taken == count || !spool.has_room_for(&some[taken..]));
                    expected.extend(some.into_iter().take(taken));
                }
                Step::Answer(count) => {
                    let front = spool.front(count, 1 << 20).unwrap();
                    prop_assert!(front.len() <= count && front.is_empty() == expected.is_empty());
                    let oldest: Vec<_> = expected.drain(..front.len()).collect();
                    prop_assert_eq!(&front, &oldest);
                    spool.answered(front.len()).unwrap();
                }
                Step::Restart | Step::Torn(_) => {
                    drop(spool);
                    if let (Step::Torn(bytes), Some(newest)) = (&step, segments(dir.path()).last()) {
                        let file = OpenOptions::new().write(true).open(newest).unwrap();
                        let length = file.metadata().unwrap().len();
                        file.set_len(length - (*bytes as u64).min(length)).unwrap();
                    }
                    spool = open(dir.path());
                    prop_assert_eq!(spool.lost_events, 0);
                    let there = drain_copy(&mut spool);
                    // Answered ones of the oldest segment may be there again, in front.
                    let fresh: Vec<_> = match expected.front() {
                        Some(first) => there.iter().skip_while(|event| *event != first).cloned().collect(),
                        None => Vec::new(),
                    };
                    let kept = expected.iter().take(fresh.len()).cloned().collect::<Vec<_>>();
                    prop_assert_eq!(&fresh, &kept);
                    if matches!(step, Step::Restart) {
                        prop_assert_eq!(fresh.len(), expected.len());
                    }
                    expected = there.into();
                }
            }
            let sum: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            prop_assert!(sum == spool.bytes() && sum <= MIN_BYTES);
            prop_assert_eq!(spool.events(), expected.len() as u64);
        }
        prop_assert_eq!(drain(&mut spool), Vec::from(expected));
    }
}

/// What [`drain`] would give, without answering.
fn drain_copy(spool: &mut Spool) -> Vec<Arc<str>> {
    let mut all = Vec::new();
    for segment in &spool.segments {
        let bytes = read_from(&spool.path(segment.number), 0).unwrap();
        all.extend(
            Frames::of(&bytes)
                .filter(|frame| frame.kind == Kind::Event)
                .map(|frame| Arc::from(frame.payload)),
        );
    }
    all
}
