//! The filter of one run: which ranks of the run could hold a token. Kept in memory, 20 bits an entry.
//!
//! A run is sorted and its tokens are uniformly random, so the first bits of a token say where it would
//! stand. The run's token space is cut into `groups` equal *groups*, 16 entries each on average; a group
//! into 16 *buckets*; a place inside a bucket is told to 16 bits, the *low*. The filter holds
//! - `starts`: the rank of the first entry of each group (32 bits a group, 2 an entry),
//! - `lows`: the low of each entry (16 bits an entry),
//! - `uppers`: for each bucket a one bit an entry and then a zero bit (2 bits an entry).
//!
//! Two tokens share group, bucket and low with probability 1 / (groups · 2²⁰), so a miss is taken for a
//! hit with probability entries / (groups · 2²⁰) ≤ 2⁻¹⁶. A hit learns the rank, so it reads one block.
//!
//! A miss reads `starts` once and `lows` once: the 32 lows from the group's first are compared whatever
//! the group's size, without a branch. `uppers` is read when a low matches, once in about 2¹¹ misses.
//! Tokens that are not uniform make groups uneven: answers stay right, lookups get slower.

use std::ops::Range;

/// Entries in a group, on average; also its buckets, so that a bucket holds one entry on average.
pub(super) const GROUP_ENTRIES: u64 = 16;
const BUCKETS: usize = to_usize(GROUP_ENTRIES);

/// Lows compared at once. Groups are Poisson(16): one in 7,000 is larger and takes a second step.
const WINDOW: usize = 32;

/// Filter of one run. Immutable.
pub(super) struct Filter {
    groups: u64,
    entries: usize,
    /// groups + 1 ranks; the last is the number of entries.
    starts: Vec<u32>,
    /// One an entry, then WINDOW zeros, so that a window never leaves the vector.
    lows: Vec<u16>,
    /// 16 · groups + entries bits, the least significant bit of each byte first.
    uppers: Vec<u8>,
}

/// The part of a filter that a lookup must look at.
#[derive(Clone, Copy, Default)]
pub(super) struct Group {
    start: u32,
    end: u32,
    low: u16,
}

/// Lengths in bytes of the three sections in a file: `starts`, `lows`, `uppers`.
pub(super) fn section_bytes(entries: u64, groups: u64) -> [u64; 3] {
    [(groups + 1) * 4, entries * 2, (groups * GROUP_ENTRIES + entries).div_ceil(8)]
}

/// How many groups a run of so many entries has. At least 1.
pub(super) fn groups_of(entries: u64) -> u64 {
    entries.div_ceil(GROUP_ENTRIES).max(1)
}

impl Filter {
    /// The group that a token would be in; `head` is its first 8 bytes. Touches `starts` only.
    #[inline]
    pub(super) fn group(&self, head: u64) -> Group {
        let place = Place::of(head, self.groups);
        Group { start: self.starts[place.group], end: self.starts[place.group + 1], low: place.low }
    }

    /// Whether the group may hold the token: false is certain. Touches `lows` only.
    #[inline]
    pub(super) fn may_hold(&self, group: &Group) -> bool {
        let start = group.start as usize;
        let Some(window) = self.lows[start..].first_chunk::<WINDOW>() else { return true };
        let in_window = window.iter().fold(0u16, |any, &low| any | u16::from(low == group.low)) != 0;
        in_window || (group.end - group.start) as usize > WINDOW && self.beyond_window(group)
    }

    #[cold]
    fn beyond_window(&self, group: &Group) -> bool {
        self.lows[group.start as usize + WINDOW..group.end as usize].contains(&group.low)
    }

    /// The ranks whose entries have the token's group, bucket and low. Mostly empty when the token is
    /// not in the run; holds all of its entries when it is.
    pub(super) fn candidates(&self, head: u64) -> Range<u64> {
        let place = Place::of(head, self.groups);
        let (start, end) = (self.starts[place.group] as usize, self.starts[place.group + 1] as usize);
        if !self.lows[start..end].contains(&place.low) {
            return 0..0;
        }
        let mut bit = place.group * BUCKETS + start;
        let mut first = start;
        for _ in 0..place.bucket {
            first += self.ones_from(&mut bit);
        }
        let last = (first + self.ones_from(&mut bit)).min(end);
        let bucket = &self.lows[first.min(last)..last];
        let before = bucket.partition_point(|&low| low < place.low);
        let upto = bucket.partition_point(|&low| low <= place.low);
        (first + before) as u64..(first + upto) as u64
    }

    /// Counts ones up to the next zero and steps over it.
    fn ones_from(&self, bit: &mut usize) -> usize {
        let from = *bit;
        while self.upper(*bit) {
            *bit += 1;
        }
        *bit += 1;
        *bit - 1 - from
    }

    fn upper(&self, bit: usize) -> bool {
        self.uppers.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    /// Whether the filter says of `rank` what an entry with this head must make it say.
    pub(super) fn agrees(&self, rank: u64, head: u64) -> bool {
        let place = Place::of(head, self.groups);
        let Ok(rank) = usize::try_from(rank) else { return false };
        rank < self.entries
            && self.lows[rank] == place.low
            && (self.starts[place.group] as usize..self.starts[place.group + 1] as usize).contains(&rank)
            && self.upper(place.group * BUCKETS + place.bucket + rank)
    }

    /// Whether `starts` rises from 0 to the number of entries and `uppers` has as many ones as there
    /// are entries. With [`Self::agrees`] of every entry this is equality with the filter built anew.
    pub(super) fn is_sound(&self) -> bool {
        let ones: usize = self.uppers.iter().map(|byte| byte.count_ones() as usize).sum();
        self.starts.first() == Some(&0)
            && self.starts.last().is_some_and(|&last| last as usize == self.entries)
            && self.starts.is_sorted()
            && ones == self.entries
    }

    pub(super) fn groups(&self) -> u64 {
        self.groups
    }

    /// Heap bytes held.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.starts.capacity() * 4 + self.lows.capacity() * 2 + self.uppers.capacity()) as u64
    }

    /// Hands the three sections to `write` as they stand in a file, in pieces of at most 64 KiB.
    pub(super) fn write<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        for starts in self.starts.chunks(PIECE_BYTES / 4) {
            piece.clear();
            starts.iter().for_each(|start| piece.extend_from_slice(&start.to_be_bytes()));
            write(&piece)?;
        }
        for lows in self.lows[..self.entries].chunks(PIECE_BYTES / 2) {
            piece.clear();
            lows.iter().for_each(|low| piece.extend_from_slice(&low.to_be_bytes()));
            write(&piece)?;
        }
        self.uppers.chunks(PIECE_BYTES).try_for_each(write)
    }

    /// Takes the sections from `read`, which fills the whole of the slice it is given. The caller
    /// checks the digest, then [`Self::is_sound`]. `entries` fits in 32 bits.
    pub(super) fn read<E>(
        entries: usize,
        groups: u64,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Filter, E> {
        let mut filter = Filter::sized(entries, groups);
        let mut piece = vec![0; PIECE_BYTES];
        for starts in filter.starts.chunks_mut(PIECE_BYTES / 4) {
            let bytes = &mut piece[..starts.len() * 4];
            read(bytes)?;
            for (start, bytes) in starts.iter_mut().zip(bytes.as_chunks().0) {
                *start = u32::from_be_bytes(*bytes);
            }
        }
        for lows in filter.lows[..entries].chunks_mut(PIECE_BYTES / 2) {
            let bytes = &mut piece[..lows.len() * 2];
            read(bytes)?;
            for (low, bytes) in lows.iter_mut().zip(bytes.as_chunks().0) {
                *low = u16::from_be_bytes(*bytes);
            }
        }
        filter.uppers.chunks_mut(PIECE_BYTES).try_for_each(read)?;
        Ok(filter)
    }

    fn sized(entries: usize, groups: u64) -> Filter {
        let groups_len = to_usize(groups);
        let upper_bits = groups_len * BUCKETS + entries;
        Filter {
            groups,
            entries,
            starts: vec![0; groups_len + 1],
            lows: vec![0; entries + WINDOW],
            uppers: vec![0; upper_bits.div_ceil(8)],
        }
    }
}

/// Builds a filter from the heads of a run's tokens in order. Holds nothing but the filter.
pub(super) struct FilterBuilder {
    filter: Filter,
    rank: usize,
    group: usize,
}

impl FilterBuilder {
    /// For a run of exactly `entries`, at most 2³² − 1.
    pub(super) fn new(entries: usize) -> FilterBuilder {
        FilterBuilder { filter: Filter::sized(entries, groups_of(entries as u64)), rank: 0, group: 0 }
    }

    /// Takes the next token's first 8 bytes.
    ///
    /// # Panics
    /// If given more heads than `entries`.
    pub(super) fn push(&mut self, head: u64) {
        let place = Place::of(head, self.filter.groups);
        self.open_group(place.group);
        self.filter.lows[self.rank] = place.low;
        let bit = place.group * BUCKETS + place.bucket + self.rank;
        self.filter.uppers[bit / 8] |= 1 << (bit % 8);
        self.rank += 1;
    }

    /// The filter, if it was given as many heads as promised.
    pub(super) fn finish(mut self) -> Option<Filter> {
        self.open_group(to_usize(self.filter.groups));
        (self.rank == self.filter.entries).then_some(self.filter)
    }

    fn open_group(&mut self, group: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "a run has fewer than 2^32 entries")]
        let rank = self.rank as u32;
        while self.group < group {
            self.group += 1;
            self.filter.starts[self.group] = rank;
        }
    }
}

/// Where a token stands in a run of so many groups. Rises with the token.
struct Place {
    group: usize,
    bucket: usize,
    low: u16,
}

impl Place {
    /// `head · groups` as a 128-bit number: its upper half is the group, the next 4 bits the bucket,
    /// the next 16 the low.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the bits of a product apart")]
    fn of(head: u64, groups: u64) -> Place {
        let product = u128::from(head) * u128::from(groups);
        let fraction = product as u64;
        Place {
            group: (product >> 64) as usize,
            bucket: (fraction >> 60) as usize,
            low: (fraction >> 44) as u16,
        }
    }
}

/// Bytes converted at once between file and memory. A multiple of 4.
const PIECE_BYTES: usize = 64 * 1024;

const _: () = assert!(usize::BITS == 64 && GROUP_ENTRIES == 1 << 4);

#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub(super) const fn to_usize(n: u64) -> usize {
    n as usize
}
