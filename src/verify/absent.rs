//! What is absent of a log, bodies by class and disclosures by path, until the certificate that covers it comes by: that
//! stands behind it, in the log as in time. Exact to the record: each is kept with its index and its `recorded_at`.
//! What is covered is kept too: a hold that lists it later says that it was still there, and then it is owed again.
//!
//! Memory: 3 to 5 bytes a body and 2 or 3 a disclosure (its time is not asked for) in a pool that all logs share, 16 MiB
//! of it in memory and the rest in a temporary file; 56 bytes for 256 of them beside it, and one block under way for
//! each log and class or path. So 500,000 erased disclosures take 1.1 MB, and 100 million bodies that expired 38 MB and
//! a temporary file of 0.5 GB. A block of which all is covered is not read again but for a list.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::retention::IndexSet;

/// Bodies of one block.
const BLOCK_BODIES: u32 = 256;

/// Bytes of the pool that stay in memory: some four million bodies.
const POOL_BYTES: usize = 16 << 20;

/// Bits of what is known of one, beside its index: two of its state, one each for the rest.
const FLAG_BITS: u32 = 4;
const STATE: u64 = 3;
const IN_JOURNAL: u64 = 4;
const IS_FLAGGED: u64 = 8;

/// Indexes that are counted at once, a bit each.
const WINDOW: u64 = 1 << 20;

/// One absent body, or one absent disclosure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Absent {
    /// Index of its entry, below 2^40.
    pub(super) index: u64,
    /// 0 for a disclosure.
    pub(super) recorded_at: u64,
    pub(super) state: State,
    /// The journal has what the layer lacks.
    pub(super) in_journal: bool,
    /// Its entry says that it matched a hold.
    pub(super) is_flagged: bool,
}

/// What certificates have said of one so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum State {
    /// None names it.
    Owed,
    /// One names it, and it was not due.
    Early,
    /// One names it, and it was held, or a later hold lists it.
    Held,
    /// One names it, and it could go.
    Covered,
}

impl State {
    fn of(known: u64) -> State {
        match known & STATE {
            0 => State::Owed,
            1 => State::Early,
            2 => State::Held,
            _ => State::Covered,
        }
    }
}

/// What is absent of a log, by class or path, in order of index.
#[derive(Default)]
pub(super) struct Absences {
    kinds: BTreeMap<u16, Vec<Block>>,
    owed: u64,
    covered: u64,
    /// Memory for the block at hand.
    at_hand: Vec<Absent>,
    bytes: Vec<u8>,
}

/// Consecutive ones of a class or path.
struct Block {
    first: u64,
    last: u64,
    last_recorded_at: u64,
    count: u32,
    /// Those that nothing covers.
    owed: u32,
    bytes: Bytes,
}

enum Bytes {
    /// It may grow.
    Open(Vec<u8>),
    Kept(Place),
}

impl Absences {
    /// Number of those that nothing covers.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    /// Number of those that a certificate covers.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    /// Adds one that no certificate can have named yet, behind all others of its kind.
    pub(super) fn push(&mut self, pool: &mut Pool, kind: u16, absent: Absent) {
        let blocks = self.kinds.entry(kind).or_default();
        if !matches!(blocks.last(), Some(Block { bytes: Bytes::Open(_), .. })) {
            let Absent { index, recorded_at, .. } = absent;
            let bytes = Bytes::Open(Vec::new());
            let last_recorded_at = recorded_at;
            blocks.push(Block { first: index, last: index, last_recorded_at, count: 0, owed: 0, bytes });
        }
        let Some(block) = blocks.last_mut() else { return };
        let Bytes::Open(bytes) = &mut block.bytes else { return };
        let before = if block.count == 0 { (0, 0) } else { (block.last, block.last_recorded_at) };
        put(bytes, before, absent);
        (block.last, block.last_recorded_at) = (absent.index, absent.recorded_at);
        (block.count, block.owed) = (block.count + 1, block.owed + 1);
        self.owed += 1;
        if block.count == BLOCK_BODIES {
            block.bytes = Bytes::Kept(pool.put(bytes));
        }
    }

    /// A certificate comes by: each member of a kind gets what `judge` says. Blocks that hold no member are not read.
    pub(super) fn judge(
        &mut self,
        pool: &mut Pool,
        kind: u16,
        members: &IndexSet,
        mut judge: impl FnMut(&Absent) -> State,
    ) {
        self.change(
            pool,
            kind,
            (members.first(), members.last()),
            |block| block.owed > 0 && block.may_hold(members),
            |absent| match absent.state {
                before if before == State::Covered || !members.contains(absent.index) => before,
                before => judge(absent).max(before),
            },
        );
    }

    /// A list comes by: each of its members was there, whatever a certificate below it says. Blocks that hold no member
    /// are not read.
    pub(super) fn owe_again(&mut self, pool: &mut Pool, members: &IndexSet) {
        let kinds: Vec<u16> = self.kinds.keys().copied().collect();
        for kind in kinds {
            self.change(
                pool,
                kind,
                (members.first(), members.last()),
                |block| block.owed < block.count && block.may_hold(members),
                |absent| match absent.state {
                    State::Covered if members.contains(absent.index) => State::Held,
                    state => state,
                },
            );
        }
    }

    fn change(
        &mut self,
        pool: &mut Pool,
        kind: u16,
        (first, last): (u64, u64),
        concerns: impl Fn(&Block) -> bool,
        mut state: impl FnMut(&Absent) -> State,
    ) {
        let Some(blocks) = self.kinds.get_mut(&kind) else { return };
        let from = blocks.partition_point(|block| block.last < first);
        let upto = blocks.partition_point(|block| block.first <= last);
        for block in blocks.get_mut(from..upto).unwrap_or_default().iter_mut().filter(|block| concerns(block))
        {
            block.read(pool, &mut self.bytes, &mut self.at_hand);
            let mut is_changed = false;
            for absent in &mut self.at_hand {
                let next = state(absent);
                is_changed |= next != absent.state;
                absent.state = next;
            }
            if is_changed {
                let before = u64::from(block.owed);
                block.write(pool, &mut self.bytes, &self.at_hand);
                let owed = u64::from(block.owed);
                (self.owed, self.covered) = (self.owed + owed - before, self.covered + before - owed);
            }
        }
    }

    /// Gives out all that nothing covers, kind by kind.
    pub(super) fn each_owed(&mut self, pool: &mut Pool, mut take: impl FnMut(u16, &Absent)) {
        for (kind, blocks) in &self.kinds {
            for block in blocks.iter().filter(|block| block.owed > 0) {
                block.read(pool, &mut self.bytes, &mut self.at_hand);
                let owed = self.at_hand.iter().filter(|absent| absent.state != State::Covered);
                owed.for_each(|absent| take(*kind, absent));
            }
        }
    }

    /// Number of indexes at which anything is covered, of whatever kind.
    pub(super) fn covered_indexes(&mut self, pool: &mut Pool) -> u64 {
        let mut total = 0;
        let mut words = vec![0_u64; usize::try_from(WINDOW / 64).unwrap_or(0)];
        let mut next = Some(0);
        while let Some(start) = next.take() {
            let end = start + WINDOW;
            let mut is_next = |index: u64| next = Some(next.map_or(index, |next: u64| next.min(index)));
            for blocks in self.kinds.values() {
                let from = blocks.partition_point(|block| block.last < start);
                for block in blocks[from..].iter().filter(|block| block.owed < block.count) {
                    if block.first >= end {
                        is_next(block.first);
                        break;
                    }
                    block.read(pool, &mut self.bytes, &mut self.at_hand);
                    let covered = self.at_hand.iter().filter(|absent| absent.state == State::Covered);
                    for index in covered.map(|absent| absent.index).filter(|index| *index >= start) {
                        let at = index - start;
                        match usize::try_from(at / 64).ok().and_then(|word| words.get_mut(word)) {
                            Some(word) => *word |= 1 << (at % 64),
                            None => is_next(index),
                        }
                    }
                }
            }
            total += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            words.fill(0);
        }
        total
    }
}

impl Block {
    /// Whether a member lies where the block does.
    fn may_hold(&self, members: &IndexSet) -> bool {
        members.first_from(self.first).is_some_and(|member| member <= self.last)
    }

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

    /// Keeps what has changed. A state changes no length: it stands in the least bits of a number that has more of them.
    fn write(&mut self, pool: &mut Pool, bytes: &mut Vec<u8>, bodies: &[Absent]) {
        bytes.clear();
        let mut before = (0, 0);
        for absent in bodies {
            put(bytes, before, *absent);
            before = (absent.index, absent.recorded_at);
        }
        let owed = bodies.iter().filter(|absent| absent.state != State::Covered).count();
        self.owed = u32::try_from(owed).unwrap_or(self.count);
        match &mut self.bytes {
            Bytes::Open(open) => open.clone_from(bytes),
            Bytes::Kept(place) => pool.replace(*place, bytes),
        }
    }
}

/// Appends one as its distance from the one before: index with what is known of it, time.
fn put(out: &mut Vec<u8>, (index, recorded_at): (u64, u64), absent: Absent) {
    let known = absent.state as u64
        + u64::from(absent.in_journal) * IN_JOURNAL
        + u64::from(absent.is_flagged) * IS_FLAGGED;
    put_number(out, (absent.index - index) << FLAG_BITS | known);
    // A time that goes back is a finding, and still a time.
    put_number(out, absent.recorded_at.wrapping_sub(recorded_at));
}

fn take(from: &mut &[u8], (index, recorded_at): (u64, u64)) -> Absent {
    let ahead = take_number(from);
    Absent {
        index: index + (ahead >> FLAG_BITS),
        recorded_at: recorded_at.wrapping_add(take_number(from)),
        state: State::of(ahead),
        in_journal: ahead & IN_JOURNAL != 0,
        is_flagged: ahead & IS_FLAGGED != 0,
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

    /// Puts bytes where as many were.
    fn replace(&mut self, place: Place, bytes: &[u8]) {
        if place.in_file {
            return self.in_file(|file| file.write_all_at(bytes, place.offset));
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
    use crate::retention::{Pushed, SetBuilder};
    use proptest::prelude::*;

    fn absent(index: u64, recorded_at: u64) -> Absent {
        let in_journal = index.is_multiple_of(7);
        Absent { index, recorded_at, state: State::Owed, in_journal, is_flagged: index.is_multiple_of(3) }
    }

    fn set(indexes: impl IntoIterator<Item = u64>) -> Option<IndexSet> {
        let mut set = SetBuilder::new();
        indexes.into_iter().for_each(|index| assert_eq!(set.push(index), Pushed::Taken));
        set.finish()
    }

    /// Neither for a certificate nor for a list: what lies in the file is taken away, so that each look is an error.
    #[test]
    fn blocks_without_a_member_are_not_read() {
        let (mut pool, mut absences) = (Pool::with_memory(0), Absences::default());
        for index in (0..4).flat_map(|block| block * 1_000..block * 1_000 + u64::from(BLOCK_BODIES)) {
            absences.push(&mut pool, 1, absent(index, index));
        }
        absences.judge(&mut pool, 1, &set([5, 1_005, 2_005, 3_005]).unwrap(), |_| State::Covered);
        assert!(pool.take_error().is_none());
        pool.file = Some(tempfile::tempfile().unwrap());
        absences.judge(&mut pool, 1, &set([300, 1_500, 2_500]).unwrap(), |_| State::Covered);
        absences.owe_again(&mut pool, &set([300, 1_500, 2_500]).unwrap());
        assert!(pool.take_error().is_none());
        absences.owe_again(&mut pool, &set([300, 1_005, 2_500]).unwrap());
        assert!(pool.take_error().is_some(), "the one that has a member");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Against a plain list, in memory and in a file.
        #[test]
        fn what_is_kept_is_what_was_put(
            steps in prop::collection::vec((1_u64..400, 0_u64..2_000_000, 0_u16..2), 1..1_500),
            memory in prop_oneof![Just(0_usize), Just(700), Just(1 << 20)],
            far in prop_oneof![Just(1_u64), Just(9_000)],
            asked in prop::collection::vec((0_u64..300_000, 0_u64..300_000, 0_u16..4, 1_u64..9), 0..12),
        ) {
            let (mut pool, mut absences, mut plain) = (Pool::with_memory(memory), Absences::default(), Vec::new());
            let (mut index, mut at) = (0, 1_800_000_000_000_000);
            for (step, time, class) in steps {
                // Now and then time goes back.
                (index, at) = (index + step * far, if time == 0 { at - 5 } else { at + time });
                absences.push(&mut pool, class, absent(index, at));
                plain.push((class, absent(index, at)));
            }
            for (from, upto, class, step) in asked {
                let (from, upto) = (from * far, upto * far);
                let range = from..=upto;
                if class == 3 {
                    let is_listed = |index: u64| range.contains(&index) && index.is_multiple_of(step);
                    let indexes = plain.iter().map(|(_, absent)| absent.index).filter(|index| is_listed(*index));
                    let Some(members) = set(indexes) else { continue };
                    absences.owe_again(&mut pool, &members);
                    let listed = plain.iter_mut().filter(|(_, absent)| is_listed(absent.index));
                    let covered = listed.filter(|(_, absent)| absent.state == State::Covered);
                    covered.for_each(|(_, absent)| absent.state = State::Held);
                    continue;
                }
                let judged = |absent: &Absent| match absent.index % step {
                    _ if !range.contains(&absent.index) => None,
                    0 => Some(State::Covered),
                    1 => Some(State::Early),
                    2 => Some(State::Held),
                    _ => None,
                };
                for (_, absent) in plain.iter_mut().filter(|(of, _)| *of == class) {
                    absent.state = absent.state.max(judged(absent).unwrap_or(State::Owed));
                }
                let named = plain.iter().filter(|(of, absent)| *of == class && judged(absent).is_some());
                let Some(members) = set(named.map(|(_, absent)| absent.index)) else { continue };
                absences.judge(&mut pool, class, &members, |absent| judged(absent).unwrap_or(State::Owed));
            }
            let (covered, mut owed): (Vec<_>, Vec<_>) =
                plain.into_iter().partition(|(_, absent)| absent.state == State::Covered);
            prop_assert_eq!((absences.covered(), absences.owed()), (covered.len() as u64, owed.len() as u64));
            // No two have one index here.
            prop_assert_eq!(absences.covered_indexes(&mut pool), covered.len() as u64);
            let mut left = Vec::new();
            absences.each_owed(&mut pool, |class, absent| left.push((class, *absent)));
            owed.sort_by_key(|(class, absent)| (*class, absent.index));
            prop_assert_eq!(left, owed);
            prop_assert!(pool.take_error().is_none());
            prop_assert!(pool.memory.len() <= memory);
        }
    }

    #[test]
    fn a_body_takes_few_bytes_and_a_disclosure_fewer() {
        for (recorded_at, most) in [(10_000, 5), (0, 3)] {
            let (mut pool, mut absences) = (Pool::default(), Absences::default());
            for n in 0..100_000 {
                absences.push(&mut pool, 1, absent(n * 2, n * recorded_at));
                absences.push(&mut pool, 2, absent(n * 2, n * recorded_at));
            }
            assert!(pool.memory.len() <= 200_000 * most, "{}", pool.memory.len());
            let below = |end: u64| set(0..end).unwrap();
            absences.judge(&mut pool, 1, &below(200_000), |_| State::Covered);
            absences.judge(&mut pool, 2, &below(50_000), |_| State::Covered);
            assert_eq!((absences.covered(), absences.owed()), (125_000, 75_000));
            // Of both kinds, and counted once.
            assert_eq!(absences.covered_indexes(&mut pool), 100_000);
        }
        assert_eq!(size_of::<Block>(), 56);
    }
}
