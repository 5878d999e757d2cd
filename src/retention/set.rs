//! A set of indexes, as it stands in a certificate (retention.md §5).
//!
//! Kept as runs or as a bitmap, whichever is the shorter when written: 262,144 bytes of runs at the very most.

/// Bytes of the part behind `first`, at most. In base64url with all else an event of 64 KiB has room for it.
pub const MAX_SET_BYTES: usize = 32_768;

/// Greatest index that a set can hold, that of a log at all.
pub const MAX_INDEX: u64 = (1 << 40) - 1;

/// What stands for runs and for a bitmap.
const KIND_RUNS: u8 = 0;
const KIND_BITS: u8 = 1;

/// Bytes of a number below 2^40, seven bits each.
const MAX_NUMBER_BYTES: usize = 6;

/// A set of indexes that is not empty.
#[derive(Clone, PartialEq, Eq)]
pub struct IndexSet {
    first: u64,
    last: u64,
    len: u64,
    members: Members,
}

#[derive(Clone, PartialEq, Eq)]
enum Members {
    Runs(Vec<Run>),
    /// Bit k mod 8 of byte k div 8 is member first + k.
    Bits(Vec<u8>),
}

/// Consecutive members: first, and how many.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
}

/// Why bytes are no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// Neither kind.
    #[error("no set of a known kind")]
    Kind,
    /// Nothing in it, or nothing where there must be something.
    #[error("a set that does not begin with a member")]
    Empty,
    /// A number that is zero, ends early or is written longer than it need be.
    #[error("a number of a set that is zero, cut off or not written in its only way")]
    Number,
    /// Something follows the greatest member.
    #[error("a set that goes on behind its greatest member")]
    End,
    /// Over a limit.
    #[error("a set of over 32,768 bytes, or with a member of 2^40 or more")]
    TooLarge,
}

impl IndexSet {
    /// Least member.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Greatest member.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Number of members.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether `index` is a member. A binary search at most.
    pub fn contains(&self, index: u64) -> bool {
        let Some(at) = index.checked_sub(self.first).filter(|_| index <= self.last) else { return false };
        match &self.members {
            Members::Runs(runs) => {
                let behind = runs.partition_point(|run| run.first <= index);
                behind.checked_sub(1).is_some_and(|at| index - runs[at].first < runs[at].count)
            }
            Members::Bits(bits) => usize::try_from(at / 8)
                .is_ok_and(|byte| bits.get(byte).is_some_and(|bits| bits >> (at % 8) & 1 == 1)),
        }
    }

    /// Least member that is not below `index`. A binary search among runs, a scan of the gap in a bitmap.
    pub fn first_from(&self, index: u64) -> Option<u64> {
        if index <= self.first {
            return Some(self.first);
        }
        if index > self.last {
            return None;
        }
        match &self.members {
            Members::Runs(runs) => {
                let run = runs.get(runs.partition_point(|run| run.first + run.count <= index))?;
                Some(run.first.max(index))
            }
            Members::Bits(bits) => {
                let at = index - self.first;
                let skip = usize::try_from(at / 8).ok()?;
                let mut place = (at / 8) * 8;
                let mut mask = 0xff_u8 << (at % 8);
                for byte in bits.get(skip..)? {
                    let left = byte & mask;
                    if left != 0 {
                        return Some(self.first + place + u64::from(left.trailing_zeros()));
                    }
                    (place, mask) = (place + 8, 0xff);
                }
                None
            }
        }
    }

    /// The members, ascending.
    pub fn iter(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.members {
            Members::Runs(runs) => Box::new(runs.iter().flat_map(|run| run.first..run.first + run.count)),
            Members::Bits(bits) => {
                let first = self.first;
                let members = (first..).step_by(8).zip(bits).flat_map(|(from, bits)| {
                    (0..8).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| from + bit)
                });
                Box::new(members)
            }
        }
    }

    /// The set as bytes, in the shorter of both ways.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.members {
            Members::Runs(runs) => {
                out.push(KIND_RUNS);
                out.extend_from_slice(&self.first.to_be_bytes());
                let mut end = self.first;
                for run in runs {
                    if run.first > end {
                        put_number(&mut out, run.first - end);
                    }
                    put_number(&mut out, run.count);
                    end = run.first + run.count;
                }
            }
            Members::Bits(bits) => {
                out.push(KIND_BITS);
                out.extend_from_slice(&self.first.to_be_bytes());
                out.extend_from_slice(bits);
            }
        }
        out
    }

    /// Reads a set; either way is taken.
    ///
    /// # Errors
    /// The rule of §5 that the bytes break.
    pub fn decode(bytes: &[u8]) -> Result<IndexSet, BadSet> {
        let (kind, rest) = bytes.split_first().ok_or(BadSet::Kind)?;
        let (first, rest) = rest.split_first_chunk().ok_or(BadSet::Empty)?;
        let first = u64::from_be_bytes(*first);
        if rest.len() > MAX_SET_BYTES || first > MAX_INDEX {
            return Err(BadSet::TooLarge);
        }
        let mut builder = SetBuilder::new();
        match *kind {
            KIND_RUNS => read_runs(first, rest, &mut builder)?,
            KIND_BITS => read_bits(first, rest, &mut builder)?,
            _ => return Err(BadSet::Kind),
        }
        builder.finish().ok_or(BadSet::Empty)
    }
}

impl std::fmt::Debug for IndexSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IndexSet({} of {} to {})", self.len, self.first, self.last)
    }
}

fn read_runs(first: u64, mut rest: &[u8], builder: &mut SetBuilder) -> Result<(), BadSet> {
    let mut at = first;
    loop {
        let count = take_number(&mut rest)?;
        let end = at.checked_add(count).filter(|end| *end <= MAX_INDEX + 1).ok_or(BadSet::TooLarge)?;
        builder.run(Run { first: at, count });
        if rest.is_empty() {
            return Ok(());
        }
        at = end.checked_add(take_number(&mut rest)?).ok_or(BadSet::TooLarge)?;
        if rest.is_empty() {
            return Err(BadSet::End);
        }
    }
}

fn read_bits(first: u64, bits: &[u8], builder: &mut SetBuilder) -> Result<(), BadSet> {
    if bits.first().is_none_or(|bits| bits & 1 == 0) {
        return Err(BadSet::Empty);
    }
    if bits.last() == Some(&0) {
        return Err(BadSet::End);
    }
    for (from, bits) in (first..).step_by(8).zip(bits) {
        for index in (0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| from + bit) {
            if index > MAX_INDEX {
                return Err(BadSet::TooLarge);
            }
            builder.run(Run { first: index, count: 1 });
        }
    }
    Ok(())
}

/// Least bytes first, seven bits each.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(from: &mut &[u8]) -> Result<u64, BadSet> {
    let mut number = 0;
    for place in 0..MAX_NUMBER_BYTES {
        let (byte, rest) = from.split_first().ok_or(BadSet::Number)?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            // A last byte of zero adds nothing, and no number of a set is zero.
            return if *byte == 0 { Err(BadSet::Number) } else { Ok(number) };
        }
    }
    Err(BadSet::TooLarge)
}

fn number_bytes(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(7).max(1)
}

/// Whether an index went into a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It is in.
    Taken,
    /// The set has no room for it: finish this one, begin another with it.
    Full,
}

/// Makes a set of ascending indexes.
#[derive(Default)]
pub struct SetBuilder {
    runs: Vec<Run>,
    len: u64,
    /// Bytes of all runs but the last, and of what lies between.
    closed_bytes: usize,
}

impl SetBuilder {
    /// An empty set, which is none yet.
    pub fn new() -> SetBuilder {
        SetBuilder::default()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of members so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Adds an index.
    ///
    /// # Panics
    /// If it does not lie above the one before, or is over [`MAX_INDEX`].
    pub fn push(&mut self, index: u64) -> Pushed {
        assert!(index <= MAX_INDEX, "no log has such an index");
        let runs_bytes = match self.runs.last() {
            None => 1,
            Some(last) => {
                let end = last.first + last.count;
                assert!(index >= end, "indexes ascend");
                if index == end {
                    self.closed_bytes + number_bytes(last.count + 1)
                } else {
                    self.closed_bytes + number_bytes(last.count) + number_bytes(index - end) + 1
                }
            }
        };
        let first = self.runs.first().map_or(index, |run| run.first);
        if runs_bytes > MAX_SET_BYTES && bits_bytes(first, index) > MAX_SET_BYTES as u64 {
            return Pushed::Full;
        }
        self.run(Run { first: index, count: 1 });
        Pushed::Taken
    }

    /// Adds members behind all others.
    fn run(&mut self, run: Run) {
        self.len += run.count;
        match self.runs.last_mut() {
            Some(last) if last.first + last.count == run.first => last.count += run.count,
            last => {
                if let Some(last) = last {
                    let skipped = run.first - (last.first + last.count);
                    self.closed_bytes += number_bytes(last.count) + number_bytes(skipped);
                }
                self.runs.push(run);
            }
        }
    }

    /// The set; `None` when nothing was added.
    pub fn finish(self) -> Option<IndexSet> {
        let (first, last) = (self.runs.first()?.first, self.runs.last()?);
        let runs_bytes = self.closed_bytes + number_bytes(last.count);
        let (last, bits) = (last.first + last.count - 1, bits_bytes(first, last.first + last.count - 1));
        let members = if runs_bytes as u64 <= bits {
            Members::Runs(self.runs)
        } else {
            let mut bytes = vec![0; usize::try_from(bits).unwrap_or(MAX_SET_BYTES)];
            for at in self.runs.iter().flat_map(|run| run.first - first..run.first - first + run.count) {
                bytes[usize::try_from(at / 8).unwrap_or(usize::MAX)] |= 1 << (at % 8);
            }
            Members::Bits(bytes)
        };
        Some(IndexSet { first, last, len: self.len, members })
    }
}

fn bits_bytes(first: u64, last: u64) -> u64 {
    (last - first) / 8 + 1
}

/// Makes of ascending indexes as many sets as they take.
#[derive(Default)]
pub struct SetsBuilder {
    full: Vec<IndexSet>,
    filling: SetBuilder,
}

impl SetsBuilder {
    /// Adds an index.
    ///
    /// # Panics
    /// As [`SetBuilder::push`].
    pub fn push(&mut self, index: u64) {
        if self.filling.push(index) == Pushed::Full {
            self.full.extend(std::mem::take(&mut self.filling).finish());
            // An empty set has room for any one index.
            let _ = self.filling.push(index);
        }
    }

    /// The sets, in the order of their members.
    pub fn finish(mut self) -> Vec<IndexSet> {
        self.full.extend(self.filling.finish());
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(members: impl IntoIterator<Item = u64>) -> IndexSet {
        let mut builder = SetBuilder::new();
        members.into_iter().for_each(|index| assert_eq!(builder.push(index), Pushed::Taken));
        builder.finish().unwrap()
    }

    #[test]
    fn the_next_member_is_found_in_runs_and_in_bits() {
        for members in [vec![3, 4, 5, 900], (0..400).map(|n| 7 + n * 2 + n % 3 / 2).collect::<Vec<u64>>()] {
            let mut set = SetBuilder::new();
            members.iter().for_each(|index| assert_eq!(set.push(*index), Pushed::Taken));
            let set = set.finish().unwrap();
            for index in 0..1_000 {
                let expected = members.iter().copied().find(|member| *member >= index);
                assert_eq!(set.first_from(index), expected, "{index}");
            }
        }
    }

    #[test]
    fn the_shorter_way_is_written_and_either_is_read() {
        let at = |first: u64, kind: u8, rest: &[u8]| [&[kind][..], &first.to_be_bytes(), rest].concat();
        assert_eq!(set([7]).encode(), at(7, 0, &[1]));
        assert_eq!(set([7, 8, 9, 12]).encode(), at(7, 1, &[0b10_0111]));
        assert_eq!(set(0..300).encode(), at(0, 0, &[0xac, 2]));
        assert_eq!(set((0..300).chain([1_000])).encode(), at(0, 0, &[0xac, 2, 0xbc, 5, 1]));
        assert_eq!(set([MAX_INDEX]).encode(), at(MAX_INDEX, 0, &[1]));
        // The same sets in the longer way.
        assert_eq!(IndexSet::decode(&at(7, 1, &[1])).unwrap(), set([7]));
        assert_eq!(IndexSet::decode(&at(7, 0, &[3, 2, 1])).unwrap(), set([7, 8, 9, 12]));
        assert_eq!(
            IndexSet::decode(&at(0, 0, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20])).unwrap().len(),
            1 << 40
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let at = |first: u64, kind: u8, rest: &[u8]| [&[kind][..], &first.to_be_bytes(), rest].concat();
        for (bytes, fault) in [
            (vec![], BadSet::Kind),
            (vec![0, 0, 0], BadSet::Empty),
            (at(0, 2, &[1]), BadSet::Kind),
            (at(0, 0, &[]), BadSet::Number),
            (at(0, 0, &[0]), BadSet::Number),
            (at(0, 0, &[0x81, 0]), BadSet::Number),
            (at(0, 0, &[0x81]), BadSet::Number),
            (at(0, 0, &[1, 1]), BadSet::End),
            (at(0, 0, &[1, 0, 1]), BadSet::Number),
            (at(0, 0, &[1, 1, 0]), BadSet::Number),
            (at(1, 0, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20]), BadSet::TooLarge),
            (at(0, 0, &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 1]), BadSet::TooLarge),
            (at(0, 0, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), BadSet::TooLarge),
            (at(MAX_INDEX + 1, 0, &[1]), BadSet::TooLarge),
            (at(MAX_INDEX, 0, &[2]), BadSet::TooLarge),
            (at(0, 1, &[]), BadSet::Empty),
            (at(0, 1, &[2]), BadSet::Empty),
            (at(0, 1, &[1, 0]), BadSet::End),
            (at(MAX_INDEX, 1, &[3]), BadSet::TooLarge),
            (at(0, 1, &vec![1; MAX_SET_BYTES + 1]), BadSet::TooLarge),
        ] {
            assert_eq!(IndexSet::decode(&bytes), Err(fault), "{bytes:?}");
        }
    }

    #[test]
    fn a_set_that_is_full_says_so() {
        // Every other index: a bitmap, one byte for eight.
        let mut builder = SetBuilder::new();
        let taken = (0..).step_by(2).take_while(|index| builder.push(*index) == Pushed::Taken).count();
        assert_eq!(taken, MAX_SET_BYTES * 4);
        let set = builder.finish().unwrap();
        assert_eq!(set.encode().len(), 9 + MAX_SET_BYTES);
        assert_eq!(IndexSet::decode(&set.encode()).unwrap(), set);
        // Far apart: runs, two numbers each.
        let mut builder = SetBuilder::new();
        let taken = (0..).step_by(100).take_while(|index| builder.push(*index) == Pushed::Taken).count();
        assert_eq!(taken, MAX_SET_BYTES / 2);
        let set = builder.finish().unwrap();
        assert_eq!(set.encode().len(), 9 + MAX_SET_BYTES - 1);
        assert_eq!(IndexSet::decode(&set.encode()).unwrap(), set);
    }

    proptest! {
        #[test]
        fn a_set_reads_back(first in 0..MAX_INDEX / 2, steps in prop::collection::vec(prop_oneof![9 => 1_u64..3, 1 => 3_u64..1_000_000], 0..300)) {
            let members: Vec<u64> = std::iter::once(first).chain(steps.iter().scan(first, |at, step| { *at += step; Some(*at) })).collect();
            let set = set(members.iter().copied());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), members.clone());
            prop_assert_eq!((set.first(), set.last(), set.len()), (first, *members.last().unwrap(), members.len() as u64));
            let read = IndexSet::decode(&set.encode()).unwrap();
            prop_assert_eq!(&read, &set);
            prop_assert_eq!(read.encode(), set.encode());
            for index in first.saturating_sub(2)..first + 200 {
                prop_assert_eq!(set.contains(index), members.binary_search(&index).is_ok());
            }
            prop_assert!(!set.contains(set.last() + 1) && set.contains(set.last()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(set) = IndexSet::decode(&bytes) {
                prop_assert_eq!(IndexSet::decode(&set.encode()), Ok(set));
            }
        }
    }
}
