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
use super::log::{Log, Sequenced};
use super::page::{self, MAX_PAGE_RECORDS};
use super::read::{ReadError, Store, chain_page, damage, index_keys};
use super::record::Record;
use super::seal::{Seal, SealError};
use super::terms::{BlockHeader, LEVEL_ENTRIES, Postings};
use crate::tlog::hash::Hash;

/// Bytes of records that make a page, unless they pack better than a page of theirs before.
const FIRST_GUESS_BYTES: usize = MAX_VALUE_BYTES;

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
    let mut before = blake3::Hasher::new();
    let mut as_read = Content::default();
    let mut parts = parts(store, from.id);
    for (number, carry) in carries {
        into.put_carry(number, &carry)?;
        let mut tiles = Vec::new();
        from.tiles(number, &mut |tile, root| tiles.push((tile, root)))?;
        tiles.iter().try_for_each(|(tile, root)| into.put_tile(number, *tile, root))?;
        let mut copy = Copy::of(store, into, number)?;
        let mut part = None;
        each_page(store, from, number, &mut |records, bytes| {
            for record in records {
                as_read.add(number, record);
                part = Some((part.map_or(record.index, |(first, _)| first), record.index + 1));
                let mut record = record.clone();
                done.records += 1;
                let changed = match record.record.body.as_slice() {
                    [] => Change::Keep,
                    _ => change(number, record.index, &record.record),
                };
                let body = match changed {
                    Change::Keep => None,
                    Change::DropBody => Some(Vec::new()),
                    Change::Body(body) => Some(body),
                };
                if let Some(body) = body {
                    done.changed += 1;
                    done.left_bytes += record.record.body.len().saturating_sub(body.len()) as u64;
                    Arc::make_mut(&mut record).record.body = body;
                }
                add(&mut before, number, &record);
                copy.push(record)?;
            }
            if step(bytes) { Ok(()) } else { Err(RewriteError::Stopped) }
        })?;
        copy.finish()?;
        as_read.logs += u64::from(part.is_some());
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
    check(store, into, &before, done.records, dir, step)?.write(dir)?;
    Ok(done)
}

/// Reads the new generation back, compares it with what was to be written, and makes its seal.
fn check(
    store: &Store,
    into: &Layer,
    before: &blake3::Hasher,
    records: u64,
    dir: &Path,
    step: &mut dyn FnMut(usize) -> bool,
) -> Result<Seal, RewriteError> {
    let mut numbers = Vec::new();
    into.carries(&mut |log, _| numbers.push(log))?;
    let (mut after, mut content) = (blake3::Hasher::new(), Content::default());
    for number in numbers {
        let before = content.records;
        each_page(store, into, number, &mut |records, bytes| {
            for record in records {
                add(&mut after, number, record);
                content.add(number, record);
            }
            if step(bytes) { Ok(()) } else { Err(RewriteError::Stopped) }
        })?;
        content.logs += u64::from(content.records > before);
    }
    if content.records != records || after.finalize() != before.finalize() {
        return Err(RewriteError::Differs { path: dir.to_path_buf() });
    }
    Ok(content.seal(into.id))
}

/// A record as it is to stand in the new generation: its link says all of the entry.
fn add(hasher: &mut blake3::Hasher, log: u32, record: &Sequenced) {
    hasher.update(&log.to_be_bytes());
    hasher.update(&record.index.to_be_bytes());
    hasher.update(record.link.as_bytes());
    hasher.update(&record.record.signature.0);
    hasher.update(&(record.record.body.len() as u64).to_be_bytes());
    hasher.update(&record.record.body);
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
    fn add(&mut self, log: u32, record: &Sequenced) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&log.to_be_bytes());
        self.bytes.extend_from_slice(&record.index.to_be_bytes());
        record.record.encode(&mut self.bytes);
        self.hasher.update(&self.bytes);
        self.records += 1;
    }

    fn seal(&self, layer: LayerId) -> Seal {
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

/// Takes the records of a page, and the bytes that it has in the layer.
type VisitPage<'a> = dyn FnMut(&[Arc<Sequenced>], usize) -> Result<(), RewriteError> + 'a;

/// Visits the pages of a log in a layer, in order, with the bytes of each. They must follow one another.
fn each_page(
    store: &Store,
    layer: &Layer,
    number: u32,
    visit: &mut VisitPage<'_>,
) -> Result<(), RewriteError> {
    let Some(log) = store.log(number) else { return Ok(()) };
    let mut next = layer.first_page_from(number, 0)?;
    let mut expected: Option<(u64, Hash)> = None;
    while let Some(first) = next {
        let stored =
            layer.page_at(number, first)?.ok_or_else(|| damage(&log, first, "its page is missing"))?;
        let records = chain_page(&log.identity, stored.first_index, &stored.bytes)
            .map_err(|error| damage(&log, first, &error.to_string()))?;
        let (Some(begin), Some(end)) = (records.first(), records.last()) else { break };
        if expected.is_some_and(|expected| expected != (begin.index, begin.previous)) {
            return Err(damage(&log, first, "the layer's pages do not follow one another").into());
        }
        expected = Some((end.index + 1, end.link));
        visit(&records, stored.bytes.len())?;
        next = if end.index < MAX_INDEX { layer.first_page_from(number, end.index + 1)? } else { None };
    }
    Ok(())
}

/// Takes a record as it is in its page, with its index.
pub type VisitRecord<'a> = dyn FnMut(u64, &Record) + 'a;

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
        let page = page::decode(&stored.bytes).map_err(|error| damage(log, first, &error.to_string()))?;
        let end = first + page.records.len() as u64;
        (first..).zip(&page.records).for_each(|(index, record)| visit(index, record));
        if !step(stored.bytes.len()) {
            return Err(RewriteError::Stopped);
        }
        next = if end <= MAX_INDEX { layer.first_page_from(number, end)? } else { None };
    }
    Ok(())
}

/// A log on its way into the new generation.
struct Copy<'a> {
    into: &'a Layer,
    number: u32,
    index_key: [u8; 32],
    /// Records of the page that is being filled, and their bytes.
    page: Vec<Arc<Sequenced>>,
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

impl<'a> Copy<'a> {
    fn of(store: &Store, into: &'a Layer, number: u32) -> Result<Copy<'a>, RewriteError> {
        let log = store.log(number).ok_or_else(|| ReadError::Damage {
            tenant: format!("log {number}"),
            index: 0,
            what: "the layer holds a log that nothing made".to_owned(),
        })?;
        Ok(Copy {
            into,
            number,
            index_key: log.identity.index_key,
            page: Vec::with_capacity(MAX_PAGE_RECORDS),
            page_bytes: 0,
            guess: FIRST_GUESS_BYTES,
            small: Block::default(),
            large: Block::default(),
            inside: Vec::new(),
        })
    }

    fn push(&mut self, record: Arc<Sequenced>) -> Result<(), RewriteError> {
        self.index(&record)?;
        self.page_bytes += record.record.encoded_len();
        self.page.push(record);
        while self.page.len() >= MAX_PAGE_RECORDS || self.page_bytes >= self.guess {
            self.write_page()?;
        }
        Ok(())
    }

    /// Writes as many of the waiting records as fit a page; at least one.
    fn write_page(&mut self) -> Result<(), RewriteError> {
        let mut count = self.page.len();
        let bytes = loop {
            let records: Vec<&Record> = self.page[..count].iter().map(|record| &record.record).collect();
            let bytes = page::encode(&self.page[0].previous, &records);
            if bytes.len() < MAX_VALUE_BYTES || count == 1 {
                break bytes;
            }
            count = (count * MAX_VALUE_BYTES / bytes.len()).clamp(1, count - 1);
        };
        self.into.put_page(self.number, self.page[0].index, &bytes)?;
        let raw: usize = self.page[..count].iter().map(|record| record.record.encoded_len()).sum();
        // As much as this page would have taken had it been full, less a tenth: records differ.
        self.guess = (raw * MAX_VALUE_BYTES / bytes.len().max(1) * 9 / 10).clamp(1, MAX_GUESS_BYTES);
        self.page.drain(..count);
        self.page_bytes -= raw;
        Ok(())
    }

    fn index(&mut self, record: &Arc<Sequenced>) -> Result<(), RewriteError> {
        if self.large.upto == 0 {
            self.small = Block::begin(record.index);
            self.large = Block::begin(record.index);
        }
        let keys = index_keys(&self.index_key, &record.record);
        let occurred_at = keys.occurred_at.unwrap_or(record.record.recorded_at);
        for block in [&mut self.small, &mut self.large] {
            let position =
                u16::try_from(record.index - block.from).expect("a block has 4,096 entries at most");
            keys.terms.iter().for_each(|token| block.postings.add(*token, position));
            block.earliest = block.earliest.min(occurred_at);
            block.latest = block.latest.max(occurred_at);
            block.upto = record.index + 1;
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
