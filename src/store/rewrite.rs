//! Rewriting a closed layer into a new generation through a filter: some bodies, or disclosures of some, leave, everything else stays.
//!
//! Entries, signatures, leaf hashes, carries and tile roots are the same afterwards; pages are packed anew, and postings
//! are made anew from the records, so that no term of a body that left stays behind. Nothing here decides what may
//! leave, and nothing here makes the new generation live: that is [`super::layers::Layers::go_over`], after the
//! certificate is durable.
//!
//! Crash points: whatever is written here lies in a directory that MANIFEST does not name; the next open removes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::{KvError, MAX_VALUE_BYTES};
use super::layer::{Layer, MAX_INDEX};
use super::layer_id::LayerId;
use super::log::Log;
use super::page::{self, Commitments, MAX_PAGE_RECORDS};
use super::read::{ReadError, Store, damage, index_keys};
use super::record::Record;
use super::seal::{Seal, SealError};
use super::terms::{BlockHeader, LEVEL_ENTRIES, Postings};
use crate::tlog::chain::{self, FLAG_OWN};
use crate::tlog::hash::Hash;

/// Bytes of records that make a page, unless they pack better than a page of theirs before.
const FIRST_GUESS_BYTES: usize = MAX_VALUE_BYTES;

/// A page of which nothing leaves is taken over as it is when it has at least half of what a page may have, and so has
/// what waits before it: pages do not become small by being taken over.
const MIN_KEPT_BYTES: usize = MAX_VALUE_BYTES / 2;

/// Bytes of records that are hashed at once: long inputs take a fraction of the time of short ones.
const HASHED_BYTES: usize = 64 << 10;

/// Most of the same. With one record more, of 70 KiB encoded, this stays under half of what a page's text may have,
/// however well the records pack.
const MAX_GUESS_BYTES: usize = 128 << 10;

/// What becomes of a record.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// Its body leaves.
    DropBody,
    /// This is its body: the same with fewer disclosures.
    Body(Vec<u8>),
}

impl Change {
    /// The body that takes the place of the one there is.
    fn into_body(self) -> Option<Vec<u8>> {
        match self {
            Change::Keep => None,
            Change::DropBody => Some(Vec::new()),
            Change::Body(body) => Some(body),
        }
    }
}

/// Says what becomes of a record that has a body: number of the log, index, record.
pub type ChangeRecord<'a> = dyn FnMut(u32, u64, &Record) -> Change + 'a;

/// What a rewrite did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewritten {
    /// Records that the layer holds, before and after.
    pub records: u64,
    /// Bodies that left, or that are less than they were.
    pub changed: u64,
    /// Bytes that left with that, as they were encoded.
    pub left_bytes: u64,
}

/// A layer that was not rewritten; the one there was is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The layer cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store below.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The new generation cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The layer does not hold what it held when it was sealed, or not what the logs' heads say.
    #[error(
        "layer {layer}: {what}; it is not rewritten and nothing was changed: run `varve verify` on a copy of the data directory"
    )]
    Damaged {
        /// The month.
        layer: LayerId,
        /// What does not agree.
        what: String,
    },
    /// The new generation does not hold the entries of the old one.
    #[error(
        "{path}: the rewritten layer does not hold the entries of the old one: a defect or a bad disk; it is thrown away, nothing was changed"
    )]
    Differs {
        /// Directory of the new generation.
        path: PathBuf,
    },
    /// A page does not unpack to the records that were packed.
    #[error(
        "log {log}, index {index}: a page does not unpack to what was packed, which is a defect; nothing was changed"
    )]
    Packing {
        /// Log number.
        log: u32,
        /// Index of its first record.
        index: u64,
    },
    /// `step` said to leave off.
    #[error("the rewrite was stopped; nothing was changed")]
    Stopped,
}

/// Copies `from`, which must be what `sealed` says, into the empty layer `into`, each record as `change` says, checks that all else came along, and writes the seal into `dir`. Durable when it returns. `step` is told the bytes read or written since
/// it was last called, and may wait; it answers false to stop.
pub fn rewrite(
    store: &Store,
    from: &Layer,
    sealed: &Seal,
    into: &Layer,
    dir: &Path,
    change: &mut ChangeRecord<'_>,
    step: &mut dyn FnMut(usize) -> bool,
) -> Result<Rewritten, RewriteError> {
    let mut carries = Vec::new();
    from.carries(&mut |log, value| carries.push((log, value.to_vec())))?;
    let mut done = Rewritten::default();
    let (mut as_read, mut as_written) = (Content::default(), Content::default());
    let mut written = blake3::Hasher::new();
    let mut parts = parts(store, from.id);
    for (number, carry) in carries {
        into.put_carry(number, &carry)?;
        let mut tiles = Vec::new();
        from.tiles(number, &mut |tile, root| tiles.push((tile, root)))?;
        tiles.iter().try_for_each(|(tile, root)| into.put_tile(number, *tile, root))?;
        let mut copying = Copying::of(store, into, number, &mut written)?;
        let mut part = None;
        each_page(store, from, number, &mut |first, bytes, placed| {
            let mut is_changed = false;
            for Placed { index, record, .. } in placed.iter_mut() {
                as_read.add(number, *index, record);
                part = Some((part.map_or(*index, |(first, _)| first), *index + 1));
                done.records += 1;
                let body = match record.body.as_slice() {
                    [] => None,
                    _ => change(number, *index, record).into_body(),
                };
                if let Some(body) = body {
                    is_changed = true;
                    done.changed += 1;
                    done.left_bytes += record.body.len().saturating_sub(body.len()) as u64;
                    record.body = body;
                }
                as_written.add(number, *index, record);
            }
            let packed = (!is_changed && bytes.len() >= MIN_KEPT_BYTES).then_some((first, bytes));
            copying.take(placed, packed)?;
            if step(bytes.len()) { Ok(()) } else { Err(RewriteError::Stopped) }
        })?;
        copying.finish()?;
        as_read.logs += u64::from(part.is_some());
        as_written.logs = as_read.logs;
        if parts.remove(&number) != part {
            let what = format!("log {number} has another part of it than its head says");
            return Err(RewriteError::Damaged { layer: from.id, what });
        }
    }
    if let Some(number) = parts.keys().next() {
        let what = format!("log {number} must have entries in it and has none");
        return Err(RewriteError::Damaged { layer: from.id, what });
    }
    if as_read.seal(from.id) != *sealed {
        let what = "it does not hold what it held when it was sealed".to_owned();
        return Err(RewriteError::Damaged { layer: from.id, what });
    }
    into.kv().sync()?;
    check(into, &written, dir, step)?;
    as_written.seal(into.id).write(dir)?;
    Ok(done)
}

/// Reads the pages of the new generation back and compares them with what was written. That each of these holds the
/// records that it is to hold was looked at when it was packed.
fn check(
    into: &Layer,
    written: &blake3::Hasher,
    dir: &Path,
    step: &mut dyn FnMut(usize) -> bool,
) -> Result<(), RewriteError> {
    let mut numbers = Vec::new();
    into.carries(&mut |log, _| numbers.push(log))?;
    let mut found = blake3::Hasher::new();
    for number in numbers {
        let mut next = into.first_page_from(number, 0)?;
        while let Some(first) = next {
            let Some(stored) = into.page_at(number, first)? else { break };
            add(&mut found, number, first, &stored.bytes);
            if !step(stored.bytes.len()) {
                return Err(RewriteError::Stopped);
            }
            next = if first < MAX_INDEX { into.first_page_from(number, first + 1)? } else { None };
        }
    }
    if found.finalize() != written.finalize() {
        return Err(RewriteError::Differs { path: dir.to_path_buf() });
    }
    Ok(())
}

/// A page in its place.
fn add(hasher: &mut blake3::Hasher, log: u32, first: u64, bytes: &[u8]) {
    hasher.update(&log.to_be_bytes());
    hasher.update(&first.to_be_bytes());
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

/// What a seal says, of the records as they are read.
#[derive(Default)]
struct Content {
    logs: u64,
    records: u64,
    hasher: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Content {
    fn add(&mut self, log: u32, index: u64, record: &Record) {
        self.bytes.extend_from_slice(&log.to_be_bytes());
        self.bytes.extend_from_slice(&index.to_be_bytes());
        record.encode(&mut self.bytes);
        self.records += 1;
        if self.bytes.len() >= HASHED_BYTES {
            self.hasher.update(&self.bytes);
            self.bytes.clear();
        }
    }

    fn seal(mut self, layer: LayerId) -> Seal {
        self.hasher.update(&self.bytes);
        let content = Hash(*self.hasher.finalize().as_bytes());
        Seal { layer, logs: self.logs, records: self.records, content }
    }
}

/// Which part of each log a layer must hold: first index, and the one after the last.
fn parts(store: &Store, layer: LayerId) -> BTreeMap<u32, (u64, u64)> {
    let part = |log: Arc<Log>| {
        let head = log.head();
        let at = head.layers.iter().position(|(month, _)| *month == layer)?;
        let end = head.layers.get(at + 1).map_or(head.size, |(_, first)| *first);
        Some((log.identity.number, (head.layers[at].1, end)))
    };
    store.logs().into_iter().filter_map(part).collect()
}

/// A record and the link before it.
struct Placed {
    index: u64,
    previous: Hash,
    record: Record,
}

/// Takes a page: its first index, its bytes in the layer, its records.
type VisitPage<'a> = dyn FnMut(u64, &[u8], &mut Vec<Placed>) -> Result<(), RewriteError> + 'a;

/// Visits the pages of a log in a layer, in order. They must follow one another.
fn each_page(
    store: &Store,
    layer: &Layer,
    number: u32,
    visit: &mut VisitPage<'_>,
) -> Result<(), RewriteError> {
    let Some(log) = store.log(number) else { return Ok(()) };
    let mut next = layer.first_page_from(number, 0)?;
    let mut expected: Option<(u64, Hash)> = None;
    let mut computed = Commitments::default();
    let mut placed = Vec::with_capacity(MAX_PAGE_RECORDS);
    while let Some(first) = next {
        let stored =
            layer.page_at(number, first)?.ok_or_else(|| damage(&log, first, "its page is missing"))?;
        let page = page::decode_with(&stored.bytes, &mut computed)
            .map_err(|error| damage(&log, first, &error.to_string()))?;
        if expected.is_some_and(|expected| expected != (first, page.previous)) {
            return Err(damage(&log, first, "the layer's pages do not follow one another").into());
        }
        let mut previous = page.previous;
        let mut end = first;
        for record in page.records {
            let link = chain::link(&record.entry(log.identity.log_id, end, previous));
            placed.push(Placed { index: end, previous, record });
            (previous, end) = (link, end + 1);
        }
        expected = Some((end, previous));
        visit(first, &stored.bytes, &mut placed)?;
        placed.clear();
        next = if end <= MAX_INDEX { layer.first_page_from(number, end)? } else { None };
    }
    Ok(())
}

/// Takes a record with its index and the bytes of its body, 0 where it has none. The body itself is there where the
/// record is Varve's own.
pub type VisitRecord<'a> = dyn FnMut(u64, &Record, usize) + 'a;

/// Visits the records of a log in a layer, in order, without chaining them; `step` is told the bytes of each page. What
/// this finds is looked at again by [`rewrite`].
pub fn each_record(
    layer: &Layer,
    log: &Log,
    visit: &mut VisitRecord<'_>,
    step: &mut dyn FnMut(usize) -> bool,
) -> Result<(), RewriteError> {
    let number = log.identity.number;
    let mut next = layer.first_page_from(number, 0)?;
    while let Some(first) = next {
        let stored =
            layer.page_at(number, first)?.ok_or_else(|| damage(log, first, "its page is missing"))?;
        let records = page::outline(&stored.bytes, &|record| record.flags & FLAG_OWN != 0)
            .map_err(|error| damage(log, first, &error.to_string()))?;
        let end = first + records.len() as u64;
        (first..).zip(&records).for_each(|(index, (record, bytes))| visit(index, record, *bytes));
        if !step(stored.bytes.len()) {
            return Err(RewriteError::Stopped);
        }
        next = if end <= MAX_INDEX { layer.first_page_from(number, end)? } else { None };
    }
    Ok(())
}

/// A log on its way into the new generation.
struct Copying<'a> {
    into: &'a Layer,
    number: u32,
    index_key: [u8; 32],
    /// All pages so far, see [`add`].
    written: &'a mut blake3::Hasher,
    /// Memory of unpacking.
    computed: Commitments,
    /// Records of the page that is being filled, and their bytes.
    page: Vec<Placed>,
    page_bytes: usize,
    /// Bytes of records that the next page takes.
    guess: usize,
    /// The block of level 0 that is being filled.
    small: Block,
    /// The block of level 1 that is being filled, and the blocks of level 0 inside it.
    large: Block,
    inside: Vec<Block>,
}

/// Postings of `[from, upto)`.
#[derive(Clone, Default)]
struct Block {
    from: u64,
    upto: u64,
    postings: Postings,
    earliest: u64,
    latest: u64,
}

impl Block {
    fn begin(from: u64) -> Block {
        Block { from, upto: from, postings: Postings::default(), earliest: u64::MAX, latest: 0 }
    }

    /// Whether the block ends here, at a multiple of its level's width.
    fn is_full(&self, level: usize) -> bool {
        self.upto > self.from && self.upto.is_multiple_of(LEVEL_ENTRIES[level])
    }

    fn write(self, into: &Layer, number: u32, level: u8) -> Result<(), KvError> {
        let header = BlockHeader { end: self.upto, earliest: self.earliest, latest: self.latest };
        let pieces = self.postings.into_pieces(&header);
        pieces.iter().try_for_each(|(token, piece)| into.put_terms(number, level, self.from, *token, piece))
    }
}

impl<'a> Copying<'a> {
    fn of(
        store: &Store,
        into: &'a Layer,
        number: u32,
        written: &'a mut blake3::Hasher,
    ) -> Result<Copying<'a>, RewriteError> {
        let log = store.log(number).ok_or_else(|| ReadError::Damage {
            tenant: format!("log {number}"),
            index: 0,
            what: "the layer holds a log that nothing made".to_owned(),
        })?;
        Ok(Copying {
            into,
            number,
            index_key: log.identity.index_key,
            written,
            computed: Commitments::default(),
            page: Vec::with_capacity(MAX_PAGE_RECORDS),
            page_bytes: 0,
            guess: FIRST_GUESS_BYTES,
            small: Block::default(),
            large: Block::default(),
            inside: Vec::new(),
        })
    }

    /// Takes records over; `packed` is the page that they are as they stand, where there is one that may stay.
    fn take(&mut self, placed: &mut Vec<Placed>, packed: Option<(u64, &[u8])>) -> Result<(), RewriteError> {
        placed.iter().try_for_each(|placed| self.index(placed.index, &placed.record))?;
        if let Some((first, bytes)) = packed
            && (self.page.is_empty() || self.page_bytes * 2 >= self.guess)
        {
            while !self.page.is_empty() {
                self.write_page()?;
            }
            return self.put(first, bytes);
        }
        for placed in placed.drain(..) {
            self.page_bytes += placed.record.encoded_len();
            self.page.push(placed);
            while self.page.len() >= MAX_PAGE_RECORDS || self.page_bytes >= self.guess {
                self.write_page()?;
            }
        }
        Ok(())
    }

    fn put(&mut self, first: u64, bytes: &[u8]) -> Result<(), RewriteError> {
        add(self.written, self.number, first, bytes);
        Ok(self.into.put_page(self.number, first, bytes)?)
    }

    /// Writes as many of the waiting records as fit a page; at least one.
    fn write_page(&mut self) -> Result<(), RewriteError> {
        let mut count = self.page.len();
        let (first, previous) = (self.page[0].index, self.page[0].previous);
        let bytes = loop {
            let records: Vec<&Record> = self.page[..count].iter().map(|placed| &placed.record).collect();
            let bytes = page::encode(&previous, &records);
            if bytes.len() < MAX_VALUE_BYTES || count == 1 {
                break bytes;
            }
            count = (count * MAX_VALUE_BYTES / bytes.len()).clamp(1, count - 1);
        };
        let unpacked = page::decode_with(&bytes, &mut self.computed).ok();
        let is_same = unpacked.is_some_and(|page| {
            let records = self.page[..count].iter().map(|placed| &placed.record);
            page.previous == previous && page.records.iter().eq(records)
        });
        if !is_same {
            return Err(RewriteError::Packing { log: self.number, index: first });
        }
        self.put(first, &bytes)?;
        let raw: usize = self.page[..count].iter().map(|placed| placed.record.encoded_len()).sum();
        // As much as this page would have taken had it been full, less a tenth: records differ.
        self.guess = (raw * MAX_VALUE_BYTES / bytes.len().max(1) * 9 / 10).clamp(1, MAX_GUESS_BYTES);
        self.page.drain(..count);
        self.page_bytes -= raw;
        Ok(())
    }

    fn index(&mut self, index: u64, record: &Record) -> Result<(), RewriteError> {
        if self.large.upto == 0 {
            self.small = Block::begin(index);
            self.large = Block::begin(index);
        }
        let keys = index_keys(&self.index_key, record);
        let occurred_at = keys.occurred_at.unwrap_or(record.recorded_at);
        for block in [&mut self.small, &mut self.large] {
            let position = u16::try_from(index - block.from).expect("a block has 4,096 entries at most");
            keys.terms.iter().for_each(|token| block.postings.add(*token, position));
            block.earliest = block.earliest.min(occurred_at);
            block.latest = block.latest.max(occurred_at);
            block.upto = index + 1;
        }
        if self.small.is_full(0) {
            let next = Block::begin(self.small.upto);
            self.inside.push(std::mem::replace(&mut self.small, next));
        }
        if self.large.is_full(1) {
            // One block of level 1 stands for those of level 0 in it.
            self.inside.clear();
            let next = Block::begin(self.large.upto);
            std::mem::replace(&mut self.large, next).write(self.into, self.number, 1)?;
        }
        Ok(())
    }

    /// Writes what waits: the last page, and the last blocks, which end where the log's part of the layer ends.
    fn finish(mut self) -> Result<(), RewriteError> {
        while !self.page.is_empty() {
            self.write_page()?;
        }
        if self.small.upto > self.small.from {
            self.inside.push(std::mem::take(&mut self.small));
        }
        for block in std::mem::take(&mut self.inside) {
            block.write(self.into, self.number, 0)?;
        }
        Ok(())
    }
}
