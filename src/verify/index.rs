//! Indexes held against the records, in memory that does not grow with the number of terms.
//!
//! Two sets of pairs (token, place) are equal if the sums of a keyed 128-bit mix over their members are:
//! the key is random and known to this run alone, so whoever wrote the files could not aim at a collision.
//! Sums add up whatever the order, so records and index are each read once, in their own order.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::event::{Field, token};
use crate::store::idtable::{Location, Token};
use crate::store::read::short_token;
use crate::store::state::LogIdentity;
use crate::store::terms::{BlockHeader, LEVEL_ENTRIES, Piece};
use crate::store::wire::Reader;

/// Entries of one bucket of the id table's sums: 48 bytes a bucket, 19 MB for 100 million entries, and 32 more where a
/// body is absent.
const BUCKET_ENTRIES: u64 = 256;

/// Words with a bit for each entry of a bucket.
const BUCKET_WORDS: usize = 4;
const _: () = assert!(BUCKET_WORDS as u64 * 64 == BUCKET_ENTRIES);

/// Most buckets whose tokens are compared one by one after their sums differed.
const MAX_EXAMINED_BUCKETS: usize = 256;

/// Slots of a thread's cache of tokens: 4,096 of 64 bytes, which stay in a core's cache.
const CACHE_SLOTS: usize = 4096;

/// Words of eight bytes of the longest value that is cached.
const CACHED_VALUE_WORDS: usize = 6;

/// Most terms of a record that memory is kept for between records: an action and its 63 prefixes (128 characters,
/// every other a dot), class, outcome, actor, address, 32 targets make 100.
const USUAL_TERMS: usize = 128;

/// What stands for a bitmap in place of a count (FORMAT, "Terms").
const BITMAP_MARK: u16 = u16::MAX;
const BITMAP_BYTES: usize = 512;

/// The key of the mix: random, fresh for each run.
#[derive(Clone, Copy)]
pub(super) struct Secret([u64; 4]);

impl Secret {
    /// A secret from fresh random numbers.
    pub(super) fn new(random: [u64; 4]) -> Secret {
        Secret(random)
    }

    /// The mix of one posting.
    fn posting(&self, token: u64, index: u64) -> u128 {
        self.mix(token, index)
    }

    /// The mix of one entry of the id table.
    fn id(&self, token: &Token, location: Location) -> u128 {
        let token = u128::from_be_bytes(*token);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (high, low) = ((token >> 64) as u64, token as u64);
        self.mix(high ^ scramble(low ^ self.0[3]), location.index ^ u64::from(location.log) << 40)
    }

    fn mix(&self, a: u64, b: u64) -> u128 {
        self.mix_prepared(a, self.prepare(b))
    }

    /// The half of the mix that the terms of one record share.
    fn prepare(&self, b: u64) -> u64 {
        scramble(b.wrapping_add(self.0[1]))
    }

    fn mix_prepared(&self, a: u64, prepared: u64) -> u128 {
        let first = scramble(a ^ self.0[0] ^ prepared);
        let second = scramble(first ^ self.0[2].wrapping_add(a.rotate_left(32)));
        u128::from(first) << 64 | u128::from(second)
    }
}

/// The finaliser of MurmurHash3.
fn scramble(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// What one record contributes to both indexes.
#[derive(Clone, Copy, Default)]
pub(super) struct Contribution {
    pub(super) terms: u128,
    pub(super) ids: u128,
    pub(super) id_count: u32,
}

/// Tokens seen lately. An action, an outcome or an address comes again and again, and comparing it costs a
/// tenth of hashing it.
pub(super) struct TokenCache {
    slots: Vec<CachedToken>,
    /// Memory for the terms of the record at hand.
    seen: Vec<u64>,
}

/// A line of a core's cache.
#[derive(Clone)]
#[repr(align(64))]
struct CachedToken {
    /// Log number 32 bits, field code 8, length 8. No field has code 0, so an empty slot matches nothing.
    place: u64,
    value: [u64; CACHED_VALUE_WORDS],
    token: u64,
}

/// Adds up what the indexes must hold of one record.
pub(super) struct Sum<'a> {
    cache: &'a mut TokenCache,
    secret: &'a Secret,
    identity: &'a LogIdentity,
    index: u64,
    /// The index as the mix of a posting takes it.
    prepared: u64,
    sums: Contribution,
}

impl TokenCache {
    /// An empty cache.
    pub(super) fn new() -> TokenCache {
        let empty = CachedToken { place: 0, value: [0; CACHED_VALUE_WORDS], token: 0 };
        TokenCache { slots: vec![empty; CACHE_SLOTS], seen: Vec::with_capacity(USUAL_TERMS) }
    }

    /// Begins the sum of the record at `index`.
    pub(super) fn sum<'a>(
        &'a mut self,
        secret: &'a Secret,
        identity: &'a LogIdentity,
        index: u64,
    ) -> Sum<'a> {
        self.seen.clear();
        let prepared = secret.prepare(index);
        Sum { cache: self, secret, identity, index, prepared, sums: Contribution::default() }
    }

    fn short_token(&mut self, identity: &LogIdentity, field: Field, value: &[u8]) -> u64 {
        if value.len() > CACHED_VALUE_WORDS * 8 {
            return short_token(&token(&identity.index_key, field, value));
        }
        let mut words = [0; CACHED_VALUE_WORDS];
        let (whole, rest) = value.as_chunks::<8>();
        for (word, bytes) in words.iter_mut().zip(whole) {
            *word = u64::from_le_bytes(*bytes);
        }
        if let Some(word) = words.get_mut(whole.len()) {
            *word = match value.last_chunk::<8>() {
                // The last eight bytes without those that a word before has.
                Some(_) if rest.is_empty() => 0,
                Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
                None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            };
        }
        let place = u64::from(identity.number) << 16 | u64::from(field.code()) << 8 | value.len() as u64;
        let used = value.len().div_ceil(8);
        let fold = |hash: u64, word: &u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        // Bits 17 and up are the highest of the last product, which all bits of all words go into.
        let hash = fold(words[..used].iter().fold(place, fold), &0) >> 17;
        let slot = &mut self.slots[usize::try_from(hash % CACHE_SLOTS as u64).unwrap_or(0)];
        if slot.place != place || slot.value != words {
            let token = short_token(&token(&identity.index_key, field, value));
            *slot = CachedToken { place, value: words, token };
        }
        slot.token
    }
}

impl Sum<'_> {
    /// Adds a term of the record.
    pub(super) fn add(&mut self, field: Field, value: &[u8]) {
        if matches!(field, Field::Id | Field::RequestId) {
            let token = token(&self.identity.index_key, field, value);
            let location = Location { log: self.identity.number, index: self.index };
            self.sums.ids = self.sums.ids.wrapping_add(self.secret.id(&token, location));
            self.sums.id_count += 1;
            return;
        }
        // Two targets may share an id: the index holds a posting once.
        let token = self.cache.short_token(self.identity, field, value);
        if !self.cache.seen.contains(&token) {
            self.cache.seen.push(token);
            self.sums.terms = self.sums.terms.wrapping_add(self.secret.mix_prepared(token, self.prepared));
        }
    }

    /// All that was added.
    pub(super) fn done(self) -> Contribution {
        self.sums
    }
}

/// The entries between two boundaries of blocks, as the records have them.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    start: u64,
    end: u64,
    sum: u128,
    earliest: u64,
    latest: u64,
    /// Every body and disclosure was there.
    complete: bool,
}

/// The chunks of one log in one layer.
#[derive(Default)]
pub(super) struct Chunks {
    closed: Vec<Chunk>,
    open: Option<Chunk>,
}

impl Chunks {
    /// Adds the record at `index`.
    pub(super) fn add(&mut self, index: u64, sum: u128, occurred_at: u64, complete: bool) {
        let open = self.open.get_or_insert(Chunk {
            start: index,
            end: index,
            sum: 0,
            earliest: u64::MAX,
            latest: 0,
            complete: true,
        });
        open.end = index + 1;
        open.sum = open.sum.wrapping_add(sum);
        open.earliest = open.earliest.min(occurred_at);
        open.latest = open.latest.max(occurred_at);
        open.complete &= complete;
        if open.end.is_multiple_of(LEVEL_ENTRIES[0]) {
            self.closed.extend(self.open.take());
        }
    }

    /// The layer has no more records of the log.
    pub(super) fn close(&mut self) {
        self.closed.extend(self.open.take());
    }

    /// Holds a block against the records. The error says what the records have and what the block says.
    pub(super) fn compare(&self, block: &Block) -> Result<(), (String, String)> {
        let covers = format!("the block over entries {} to {}", block.first, block.end);
        let from = self.closed.partition_point(|chunk| chunk.start < block.first);
        let upto = self.closed.partition_point(|chunk| chunk.end <= block.end);
        let chunks = self.closed.get(from..upto).unwrap_or_default();
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Err(("a block over entries of the layer".to_owned(), covers));
        };
        if first.start != block.first || last.end != block.end {
            return Err((format!("a block over entries {} to {}", first.start, last.end), covers));
        }
        if !chunks.iter().all(|chunk| chunk.complete) {
            // What the records lack is a finding of its own; what the index has of it cannot be told.
            return Ok(());
        }
        let sum = chunks.iter().fold(0u128, |sum, chunk| sum.wrapping_add(chunk.sum));
        if sum != block.sum {
            return Err(("the terms of the records".to_owned(), format!("other postings in {covers}")));
        }
        let earliest = chunks.iter().map(|chunk| chunk.earliest).min().unwrap_or(0);
        let latest = chunks.iter().map(|chunk| chunk.latest).max().unwrap_or(0);
        if (earliest, latest) != (block.earliest, block.latest) {
            return Err((
                format!("occurred_at from {earliest} to {latest}"),
                format!("{} to {} in {covers}", block.earliest, block.latest),
            ));
        }
        Ok(())
    }
}

/// A block of postings as it is stored, reduced to its sum.
pub(super) struct Block {
    pub(super) first: u64,
    pub(super) end: u64,
    earliest: u64,
    latest: u64,
    sum: u128,
}

impl Block {
    /// Reads the pieces of a block: first token and bytes each, in order of key. The error says what is
    /// wrong with them.
    pub(super) fn read(
        secret: &Secret,
        level: u8,
        first: u64,
        pieces: &[(u64, Vec<u8>)],
    ) -> Result<Block, &'static str> {
        let entries = *LEVEL_ENTRIES.get(usize::from(level)).ok_or("a level that does not exist")?;
        let Some((0, _)) = pieces.first() else { return Err("its first piece is missing") };
        let mut block: Option<Block> = None;
        let mut last_token = None;
        let mut expected = Some(0);
        for (key, piece) in pieces {
            let piece = Piece::open(piece).map_err(|_| "a malformed piece")?;
            let BlockHeader { end, earliest, latest } = piece.header;
            if expected != Some(*key) {
                return Err("a chain of pieces with a gap");
            }
            expected = piece.next;
            let mut from = Reader::new(piece.entries());
            let known = block.get_or_insert(Block { first, end, earliest, latest, sum: 0 });
            if (known.end, known.earliest, known.latest) != (end, earliest, latest) {
                return Err("pieces that contradict each other");
            }
            if end <= first || end - first > entries {
                return Err("an impossible range");
            }
            let mut is_first = true;
            while from.rest() > 0 {
                let token = from.u64().map_err(|_| "a malformed piece")?;
                // A reader finds the piece of a token by its key, and the token in it by order.
                if last_token.is_some_and(|last| token <= last)
                    || token < *key
                    || (is_first && *key != 0 && token != *key)
                {
                    return Err("tokens out of order");
                }
                (last_token, is_first) = (Some(token), false);
                known.sum =
                    postings(secret, &mut from, token, first, end, known.sum).ok_or("malformed postings")?;
            }
        }
        if expected.is_some() {
            return Err("a chain of pieces without its end");
        }
        block.ok_or("no piece")
    }
}

fn postings(
    secret: &Secret,
    from: &mut Reader<'_>,
    token: u64,
    first: u64,
    end: u64,
    sum: u128,
) -> Option<u128> {
    let mut sum = sum;
    let mut last: Option<u64> = None;
    let mut add = |position: u64| {
        let index = first + position;
        let ascends = last.is_none_or(|last| position > last) && index < end;
        last = Some(position);
        sum = sum.wrapping_add(secret.posting(token, index));
        ascends.then_some(())
    };
    match from.u16().ok()? {
        BITMAP_MARK => {
            for (byte, bits) in (0u64..).zip(from.take(BITMAP_BYTES).ok()?) {
                (0..8).filter(|bit| bits >> bit & 1 == 1).try_for_each(|bit| add(byte * 8 + bit))?;
            }
        }
        count => (0..count).try_for_each(|_| add(u64::from(from.u16().ok()?)))?,
    }
    Some(sum)
}

/// What the id table must hold of one log, in buckets.
#[derive(Default)]
pub(super) struct IdBuckets {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Default)]
struct Bucket {
    sum: u128,
    count: u64,
    /// Entries whose body is absent or was not read, a bit each: the table may have their ids, and need not.
    unknown: Option<Box<[u64; BUCKET_WORDS]>>,
}

impl Bucket {
    fn is_unknown(&self, index: u64) -> bool {
        let (word, bit) = word_of(index);
        self.unknown.as_ref().is_some_and(|unknown| unknown[word] >> bit & 1 == 1)
    }
}

/// Where an entry stands in its bucket: word and bit.
fn word_of(index: u64) -> (usize, u64) {
    let at = index % BUCKET_ENTRIES;
    (usize::try_from(at / 64).unwrap_or(0), at % 64)
}

impl IdBuckets {
    /// Adds the record at `index`.
    pub(super) fn add(&mut self, index: u64, sums: &Contribution, complete: bool) {
        let Ok(at) = usize::try_from(index / BUCKET_ENTRIES) else { return };
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, Bucket::default());
        }
        let bucket = &mut self.buckets[at];
        if complete {
            bucket.sum = bucket.sum.wrapping_add(sums.ids);
            bucket.count += u64::from(sums.id_count);
        } else {
            let (word, bit) = word_of(index);
            bucket.unknown.get_or_insert_default()[word] |= 1 << bit;
        }
    }

    /// Number of buckets.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    fn get(&self, at: u64) -> Option<&Bucket> {
        usize::try_from(at).ok().and_then(|at| self.buckets.get(at))
    }

    /// Whether the table may have ids of an entry, and need not.
    fn is_unknown(&self, index: u64) -> bool {
        self.get(index / BUCKET_ENTRIES).is_some_and(|bucket| bucket.is_unknown(index))
    }
}

/// A bucket of the id table that does not hold what the records have.
pub(super) struct BadBucket {
    /// Position of the log in the caller's list, or its number when nothing made it.
    pub(super) log: Result<usize, u32>,
    /// First and last index, the last excluded.
    pub(super) range: (u64, u64),
    pub(super) expected: u64,
    pub(super) found: u64,
}

/// Compares an id table with what the records have. `visit` runs over the whole table; it is called twice
/// where sums differ. `position` finds a log by its number: `Ok(None)` is one that is not checked.
pub(super) fn compare_ids<E>(
    secret: &Secret,
    logs: &[IdBuckets],
    position: impl Fn(u32) -> Result<Option<usize>, u32>,
    mut visit: impl FnMut(&mut dyn FnMut(&Token, Location)) -> Result<(), E>,
) -> Result<Vec<BadBucket>, E> {
    let mut found: Vec<Vec<u128>> = logs.iter().map(|log| vec![0; log.buckets.len()]).collect();
    let mut bad: BTreeMap<(Result<usize, u32>, u64), BadBucket> = BTreeMap::new();
    let mut stray = |log, index: u64| {
        let bucket = index / BUCKET_ENTRIES;
        let range = (bucket * BUCKET_ENTRIES, (bucket + 1) * BUCKET_ENTRIES);
        let full = bad.len() >= MAX_EXAMINED_BUCKETS;
        match bad.get_mut(&(log, bucket)) {
            Some(bad) => bad.found += 1,
            None if full => {}
            None => drop(bad.insert((log, bucket), BadBucket { log, range, expected: 0, found: 1 })),
        }
    };
    visit(&mut |token, location| match position(location.log) {
        Ok(Some(log)) => {
            let at = usize::try_from(location.index / BUCKET_ENTRIES).unwrap_or(usize::MAX);
            match found[log].get_mut(at) {
                Some(_) if logs[log].is_unknown(location.index) => {}
                Some(sum) => *sum = sum.wrapping_add(secret.id(token, location)),
                None => stray(Ok(log), location.index),
            }
        }
        Ok(None) => {}
        Err(number) => stray(Err(number), location.index),
    })?;
    let mut suspects: HashMap<(usize, u64), HashSet<(Token, Location)>> = HashMap::new();
    for (log, buckets) in found.iter().enumerate() {
        for (at, sum) in (0u64..).zip(buckets) {
            let differs = logs[log].get(at).is_some_and(|bucket| bucket.sum != *sum);
            if differs && suspects.len() < MAX_EXAMINED_BUCKETS {
                suspects.insert((log, at), HashSet::new());
            }
        }
    }
    if !suspects.is_empty() {
        // A crash may leave the same entry in two runs: only the sets must be equal.
        visit(&mut |token, location| {
            if let Ok(Some(log)) = position(location.log)
                && let Some(set) = suspects.get_mut(&(log, location.index / BUCKET_ENTRIES))
                && !logs[log].is_unknown(location.index)
            {
                set.insert((*token, location));
            }
        })?;
    }
    let mut all: Vec<BadBucket> = bad.into_values().collect();
    for ((log, at), set) in suspects {
        let Some(bucket) = logs[log].get(at) else { continue };
        let sum =
            set.iter().fold(0u128, |sum, (token, location)| sum.wrapping_add(secret.id(token, *location)));
        if sum != bucket.sum {
            let range = (at * BUCKET_ENTRIES, (at + 1) * BUCKET_ENTRIES);
            all.push(BadBucket { log: Ok(log), range, expected: bucket.count, found: set.len() as u64 });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn identity(number: u32) -> LogIdentity {
        LogIdentity {
            number,
            tenant: "acme".to_owned(),
            origin: String::new(),
            log_id: crate::tlog::hash::Hash::ZERO,
            index_key: [u8::try_from(number).unwrap(); 32],
            genesis_key: [0; 32],
        }
    }

    #[test]
    fn a_cached_token_is_the_token() {
        let mut cache = TokenCache::new();
        let long = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let values = (0..=50).map(|length| &long[..length]).chain(["ab\0", "ab\0\0", "ijklmnop", "\0"]);
        for round in 0..2 {
            for log in [identity(1), identity(2)] {
                for value in values.clone() {
                    for field in Field::ALL {
                        let direct = short_token(&token(&log.index_key, field, value.as_bytes()));
                        let cached = cache.short_token(&log, field, value.as_bytes());
                        assert_eq!(cached, direct, "round {round}: {value:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn ids_of_absent_bodies_may_be_there_and_need_not() {
        let secret = Secret::new([1, 2, 3, 4]);
        let entry =
            |index: u64| (Token::from([u8::try_from(index).unwrap(); 16]), Location { log: 0, index });
        let mut log = IdBuckets::default();
        for index in 0..200 {
            let (token, location) = entry(index);
            let sums = Contribution { terms: 0, ids: secret.id(&token, location), id_count: 1 };
            // Every third body is absent.
            if index % 3 == 0 {
                log.add(index, &Contribution::default(), false);
            } else {
                log.add(index, &sums, true);
            }
        }
        let bad = |holds: &dyn Fn(u64) -> bool| {
            let table: Vec<_> = (0..200).filter(|index| holds(*index)).map(entry).collect();
            let found = compare_ids::<()>(
                &secret,
                std::slice::from_ref(&log),
                |_| Ok(Some(0)),
                |visit| {
                    table.iter().for_each(|(token, location)| visit(token, *location));
                    Ok(())
                },
            );
            found.unwrap().len()
        };
        assert_eq!(bad(&|_| true), 0);
        assert_eq!(bad(&|index| index % 3 != 0), 0);
        assert_eq!(bad(&|index| index % 2 == 0 || index % 3 != 0), 0);
        // One that is absent in place of one that is not.
        assert_eq!(bad(&|index| index != 100), 1);
        assert_eq!(bad(&|index| index != 100 && index != 99), 1);
    }

    #[test]
    fn a_target_named_twice_counts_once_and_a_moved_posting_is_another_set() {
        let body = |targets: &str| {
            let json = format!(
                r#"{{"id":"a","class":"security","action":"a.b","outcome":"success","targets":[{targets}]}}"#
            );
            Event::parse(json.as_bytes()).unwrap().seal(&mut |salts| salts.fill(1))
        };
        let (one, two) = (r#"{"type":"t","id":"x"}"#, r#"{"type":"u","id":"x"},{"type":"t","id":"x"}"#);
        let secret = Secret::new([1, 2, 3, 4]);
        let sums = |targets, index| {
            let (mut cache, identity, body) = (TokenCache::new(), identity(1), body(targets));
            let mut sum = cache.sum(&secret, &identity, index);
            body.view().examine_with(&[], &mut |field, value| sum.add(field, value)).unwrap();
            sum.done()
        };
        assert_eq!(sums(one, 5).terms, sums(two, 5).terms);
        assert_ne!(sums(one, 5).terms, sums(one, 6).terms);
        assert_ne!(sums(one, 5).ids, sums(one, 6).ids);
        assert_eq!(sums(one, 5).id_count, 1);
    }
}
