//! Absent bodies of a log, until the certificate that covers them comes by: it stands behind them, in the log as in
//! time. Exact to the record: each is kept with its index and its `recorded_at`.
//!
//! Memory: 3 to 5 bytes a body in a pool that all logs share, 16 MiB of it in memory and the rest in a temporary
//! file; 48 bytes for 256 bodies beside it, and one block under way for each log and class. What a certificate covers
//! is let go of, so it is the bodies of a retention period at most, not those of a log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bodies of one block.
const BLOCK_BODIES: u32 = 256;

/// Bytes of the pool that stay in memory: some four million bodies.
const POOL_BYTES: usize = 16 << 20;

/// Bits of what is known of a body, beside its index.
const FLAG_BITS: u32 = 2;
const NAMED: u64 = 1;
const IN_JOURNAL: u64 = 2;

/// One absent body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Absent {
    /// Index of its entry, below 2^40.
    pub(super) index: u64,
    pub(super) recorded_at: u64,
    /// A certificate named it before it was due.
    pub(super) is_named: bool,
    /// The journal has the body that the layer lacks.
    pub(super) in_journal: bool,
}

/// What a certificate says of one of its class.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does not name it.
    NotNamed,
    /// It names it, and it was due.
    Covered,
    /// It names it, and it was not due.
    Early,
}

/// The absent bodies of a log that nothing covers yet, by class, in order of index.
#[derive(Default)]
pub(super) struct Absences {
    classes: BTreeMap<u16, Vec<Block>>,
    /// Memory for the block at hand.
    at_hand: Vec<Absent>,
    bytes: Vec<u8>,
}

/// Consecutive absent bodies of a class.
struct Block {
    first: u64,
    last: u64,
    last_recorded_at: u64,
    count: u32,
    bytes: Bytes,
}

enum Bytes {
    /// It may grow.
    Open(Vec<u8>),
    Kept(Place),
}

impl Absences {
    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.classes.values().all(Vec::is_empty)
    }

    /// Adds one behind all others of its class.
    pub(super) fn push(&mut self, pool: &mut Pool, class: u16, absent: Absent) {
        let blocks = self.classes.entry(class).or_default();
        if !matches!(blocks.last(), Some(Block { bytes: Bytes::Open(_), .. })) {
            let Absent { index, recorded_at, .. } = absent;
            let bytes = Bytes::Open(Vec::new());
            blocks.push(Block { first: index, last: index, last_recorded_at: recorded_at, count: 0, bytes });
        }
        let Some(block) = blocks.last_mut() else { return };
        let Bytes::Open(bytes) = &mut block.bytes else { return };
        let before = if block.count == 0 { (0, 0) } else { (block.last, block.last_recorded_at) };
        put(bytes, before, absent);
        (block.last, block.last_recorded_at) = (absent.index, absent.recorded_at);
        block.count += 1;
        if block.count == BLOCK_BODIES {
            block.bytes = Bytes::Kept(pool.put(bytes));
        }
    }

    /// Asks `judge` of each from `first` to `last` of a class, and lets go of those that are covered. How many those
    /// are.
    pub(super) fn judge(
        &mut self,
        pool: &mut Pool,
        class: u16,
        (first, last): (u64, u64),
        mut judge: impl FnMut(&Absent) -> Verdict,
    ) -> u64 {
        let Some(blocks) = self.classes.get_mut(&class) else { return 0 };
        let from = blocks.partition_point(|block| block.last < first);
        let upto = blocks.partition_point(|block| block.first <= last);
        let mut covered = 0;
        let mut is_emptied = false;
        for block in blocks.get_mut(from..upto).unwrap_or_default() {
            block.read(pool, &mut self.bytes, &mut self.at_hand);
            let mut is_changed = false;
            self.at_hand.retain_mut(|absent| match judge(absent) {
                Verdict::NotNamed => true,
                Verdict::Covered => {
                    (covered, is_changed) = (covered + 1, true);
                    false
                }
                Verdict::Early => {
                    is_changed |= !std::mem::replace(&mut absent.is_named, true);
                    true
                }
            });
            if is_changed {
                block.write(pool, &mut self.bytes, &self.at_hand);
                is_emptied |= block.count == 0;
            }
        }
        if is_emptied {
            let kept: Vec<Block> = blocks.drain(from..upto).filter(|block| block.count > 0).collect();
            blocks.splice(from..from, kept);
        }
        covered
    }

    /// Gives out all that nothing covers, class by class, and lets go of it.
    pub(super) fn drain(&mut self, pool: &mut Pool, mut take: impl FnMut(u16, &Absent)) {
        for (class, blocks) in std::mem::take(&mut self.classes) {
            for block in blocks {
                block.read(pool, &mut self.bytes, &mut self.at_hand);
                self.at_hand.iter().for_each(|absent| take(class, absent));
            }
        }
    }
}

impl Block {
    fn read(&self, pool: &mut Pool, bytes: &mut Vec<u8>, bodies: &mut Vec<Absent>) {
        bytes.clear();
        match &self.bytes {
            Bytes::Open(open) => bytes.extend_from_slice(open),
            Bytes::Kept(place) => pool.get(*place, bytes),
        }
        bodies.clear();
        let (mut from, mut before) = (bytes.as_slice(), (0, 0));
        for _ in 0..self.count {
            let absent = take(&mut from, before);
            before = (absent.index, absent.recorded_at);
            bodies.push(absent);
        }
    }

    /// Keeps what is left of it: what was taken out makes it no longer, so its place is large enough.
    fn write(&mut self, pool: &mut Pool, bytes: &mut Vec<u8>, bodies: &[Absent]) {
        bytes.clear();
        let mut before = (0, 0);
        for absent in bodies {
            put(bytes, before, *absent);
            before = (absent.index, absent.recorded_at);
        }
        self.count = u32::try_from(bodies.len()).unwrap_or(BLOCK_BODIES);
        if let Some(first) = bodies.first() {
            (self.first, self.last, self.last_recorded_at) = (first.index, before.0, before.1);
        }
        match &mut self.bytes {
            Bytes::Open(open) => open.clone_from(bytes),
            Bytes::Kept(place) => pool.replace(place, bytes),
        }
    }
}

/// Appends a body as its distance from the one before: index with its two bits, time.
fn put(out: &mut Vec<u8>, (index, recorded_at): (u64, u64), absent: Absent) {
    let known = u64::from(absent.is_named) * NAMED + u64::from(absent.in_journal) * IN_JOURNAL;
    put_number(out, (absent.index - index) << FLAG_BITS | known);
    // A time that goes back is a finding, and still a time.
    put_number(out, absent.recorded_at.wrapping_sub(recorded_at));
}

fn take(from: &mut &[u8], (index, recorded_at): (u64, u64)) -> Absent {
    let ahead = take_number(from);
    Absent {
        index: index + (ahead >> FLAG_BITS),
        recorded_at: recorded_at.wrapping_add(take_number(from)),
        is_named: ahead & NAMED != 0,
        in_journal: ahead & IN_JOURNAL != 0,
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(from: &mut &[u8]) -> u64 {
    let mut number = 0;
    for place in 0..10 {
        let Some((byte, rest)) = from.split_first() else { break };
        *from = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// Where bytes lie in the pool.
#[derive(Clone, Copy)]
struct Place {
    in_file: bool,
    offset: u64,
    len: u32,
}

/// Blocks of all logs: in memory at first, then in a temporary file that no directory names.
pub(super) struct Pool {
    memory: Vec<u8>,
    memory_bytes: usize,
    file: Option<File>,
    file_end: u64,
    error: Option<io::Error>,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::with_memory(POOL_BYTES)
    }
}

impl Pool {
    /// A pool of which so many bytes stay in memory.
    pub(super) fn with_memory(memory_bytes: usize) -> Pool {
        Pool { memory: Vec::new(), memory_bytes, file: None, file_end: 0, error: None }
    }

    /// What the system refused since this was last asked. Then nothing that was said since may be believed.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    fn put(&mut self, bytes: &[u8]) -> Place {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        if self.memory.len() + bytes.len() <= self.memory_bytes {
            let offset = self.memory.len() as u64;
            self.memory.extend_from_slice(bytes);
            return Place { in_file: false, offset, len };
        }
        let place = Place { in_file: true, offset: self.file_end, len };
        self.file_end += bytes.len() as u64;
        self.in_file(|file| file.write_all_at(bytes, place.offset));
        place
    }

    /// Puts bytes where as many or more were.
    fn replace(&mut self, place: &mut Place, bytes: &[u8]) {
        place.len = u32::try_from(bytes.len()).unwrap_or(0);
        if place.in_file {
            let offset = place.offset;
            return self.in_file(|file| file.write_all_at(bytes, offset));
        }
        let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
        self.memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&mut self, place: Place, out: &mut Vec<u8>) {
        let len = place.len as usize;
        if place.in_file {
            out.resize(len, 0);
            return self.in_file(|file| file.read_exact_at(out, place.offset));
        }
        let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
        out.extend_from_slice(&self.memory[offset..offset + len]);
    }

    fn in_file(&mut self, act: impl FnOnce(&File) -> io::Result<()>) {
        if self.file.is_none() {
            match tempfile::tempfile() {
                Ok(file) => self.file = Some(file),
                Err(error) => self.error = Some(error),
            }
        }
        if let Some(Err(error)) = self.file.as_ref().map(act) {
            self.error = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn absent(index: u64, recorded_at: u64) -> Absent {
        Absent { index, recorded_at, is_named: false, in_journal: index.is_multiple_of(7) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Against a plain list, in memory and in a file.
        #[test]
        fn what_is_kept_is_what_was_put(
            steps in prop::collection::vec((1_u64..400, 0_u64..2_000_000, 0_u16..2), 1..1_500),
            memory in prop_oneof![Just(0_usize), Just(700), Just(1 << 20)],
            asked in prop::collection::vec((0_u64..300_000, 0_u64..300_000, 0_u16..3, 1_u64..9), 0..12),
        ) {
            let (mut pool, mut absences, mut plain) = (Pool::with_memory(memory), Absences::default(), Vec::new());
            let (mut index, mut at) = (0, 1_800_000_000_000_000);
            for (step, time, class) in steps {
                // Now and then time goes back.
                (index, at) = (index + step, if time == 0 { at - 5 } else { at + time });
                absences.push(&mut pool, class, absent(index, at));
                plain.push((class, absent(index, at)));
            }
            for (from, upto, class, step) in asked {
                let judged = |absent: &Absent| match absent.index % step {
                    _ if !(from..=upto).contains(&absent.index) => Verdict::NotNamed,
                    0 => Verdict::Covered,
                    1 => Verdict::Early,
                    _ => Verdict::NotNamed,
                };
                let before = plain.len();
                plain.retain_mut(|(of, absent)| {
                    let verdict = if *of == class { judged(absent) } else { Verdict::NotNamed };
                    absent.is_named |= verdict == Verdict::Early;
                    verdict != Verdict::Covered
                });
                let covered = absences.judge(&mut pool, class, (from, upto), judged);
                prop_assert_eq!(covered, (before - plain.len()) as u64);
            }
            let mut left = Vec::new();
            absences.drain(&mut pool, |class, absent| left.push((class, *absent)));
            plain.sort_by_key(|(class, absent)| (*class, absent.index));
            prop_assert_eq!(left, plain);
            prop_assert!(pool.take_error().is_none());
            prop_assert!(pool.memory.len() <= memory);
        }
    }

    #[test]
    fn a_body_takes_few_bytes() {
        let (mut pool, mut absences) = (Pool::default(), Absences::default());
        for n in 0..100_000 {
            absences.push(&mut pool, 1, absent(n * 2, n * 10_000));
        }
        assert!(pool.memory.len() < 100_000 * 5, "{}", pool.memory.len());
        assert_eq!(absences.judge(&mut pool, 1, (0, u64::MAX), |_| Verdict::Covered), 100_000);
        assert!(absences.classes[&1].is_empty());
    }
}
