//! The applier: one thread that carries durable records from the journal's side into layers, indexes and the
//! id table, behind the acknowledgement and never in its way.
//!
//! It is keyed by index and idempotent: applying a frame twice, or half and then again, gives the same store.
//! Pages go into the layer as they fill; what does not fill a page waits in memory until a checkpoint of the
//! journal writes it as a partial page, which later records replace under the same key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::idtable::{Location, Token};
use super::layer::{Layer, TILE_LEVEL};
use super::layer_id::LayerId;
use super::log::{IndexKeys, Log, Sequenced};
use super::page::{self, MAX_PAGE_RECORDS};
use super::read::{ReadError, Store, chain_page, damage, index_keys};
use super::terms::{BlockHeader, LEVEL_ENTRIES, Piece, Postings};
use super::wire::put_bytes16;
use crate::event::left_of;
use crate::store::backend::MAX_VALUE_BYTES;
use crate::tlog::hash::Hash;
use crate::tlog::merkle::Frontier;

/// Bytes a page aims at: a value of the store less 400 bytes, because the size is a guess until it is packed.
const PAGE_TARGET_BYTES: usize = MAX_VALUE_BYTES - 400;

/// Durable records of one log in one frame.
pub struct AppliedRun {
    /// The log.
    pub log: Arc<Log>,
    /// Consecutive records.
    pub records: Vec<Arc<Sequenced>>,
    /// Roots of the tiles that these records completed.
    pub tiles: Vec<(u64, Hash)>,
}

/// The applier's state.
pub struct Applier {
    store: Arc<Store>,
    layer: Option<Arc<Layer>>,
    pending: HashMap<u32, Pending>,
    indexing: HashMap<u32, Indexing>,
    /// During replay: the page of each log that was last compared.
    compared: HashMap<u32, Vec<Arc<Sequenced>>>,
    /// During replay: below this index no page of the layer holds what is pending.
    uncovered_below: HashMap<u32, u64>,
    /// During replay: tiles that its records completed.
    tiles_due: Vec<(u32, u64)>,
    carried: HashSet<u32>,
    tokens: Vec<(Token, Location)>,
    packed_share: f64,
    pending_bytes: usize,
}

/// A page that is not full yet.
struct Pending {
    log: Arc<Log>,
    records: Vec<Arc<Sequenced>>,
    bytes: usize,
    /// How many of the records the layer has already, as a partial page.
    persisted: usize,
}

/// Postings of the block that is not full yet.
struct Indexing {
    from: u64,
    upto: u64,
    postings: Postings,
    earliest: u64,
    latest: u64,
}

impl Applier {
    /// An applier for `store`; it holds nothing yet.
    pub fn new(store: Arc<Store>) -> Applier {
        Applier {
            store,
            layer: None,
            pending: HashMap::new(),
            indexing: HashMap::new(),
            compared: HashMap::new(),
            uncovered_below: HashMap::new(),
            tiles_due: Vec::new(),
            carried: HashSet::new(),
            tokens: Vec::new(),
            packed_share: 0.75,
            pending_bytes: 0,
        }
    }

    /// Takes in the runs of one frame.
    pub fn apply(&mut self, layer: LayerId, runs: Vec<AppliedRun>) -> Result<(), ReadError> {
        self.enter(layer)?;
        for run in runs {
            let Some(first) = run.records.first() else { continue };
            let number = run.log.identity.number;
            self.carry(&run.log, first)?;
            if !self.pending.contains_key(&number) {
                let pending = self.reload(&run.log, first.index)?;
                self.pending_bytes += pending.bytes;
                self.pending.insert(number, pending);
            }
            for record in run.records {
                let location = Location { log: number, index: record.index };
                self.tokens.push((record.keys.id, location));
                self.tokens.extend(record.keys.request_id.map(|token| (token, location)));
                self.push(number, record)?;
            }
            let open = self.open_layer();
            run.tiles.iter().try_for_each(|(tile, root)| open.put_tile(number, *tile, root))?;
        }
        Ok(())
    }

    /// Takes in one record during replay: compares it with what the layer has, or puts it there.
    ///
    /// Errors when the layer has another record in its place.
    pub fn replay(
        &mut self,
        layer: LayerId,
        log: &Arc<Log>,
        record: Arc<Sequenced>,
        with_ids: bool,
    ) -> Result<(), ReadError> {
        self.enter(layer)?;
        let number = log.identity.number;
        if (record.index + 1).is_multiple_of(1 << TILE_LEVEL) {
            self.tiles_due.push((number, record.index >> TILE_LEVEL));
        }
        if with_ids {
            let location = Location { log: number, index: record.index };
            self.tokens.push((record.keys.id, location));
            self.tokens.extend(record.keys.request_id.map(|token| (token, location)));
        }
        if let Some(known) =
            self.compared.get(&number).and_then(|page| page.iter().find(|known| known.index == record.index))
        {
            self.same(log, known, &record)?;
            log.set_stored(record.index + 1);
            return Ok(());
        }
        let follows = self
            .pending
            .get(&number)
            .is_some_and(|pending| pending.records.last().is_some_and(|last| last.index + 1 == record.index));
        if follows && self.uncovered_below.get(&number).is_some_and(|end| record.index < *end) {
            return self.push(number, record);
        }
        // A page that cannot be read is as good as none: the journal still has its records.
        let page = self.open_layer().page_at(number, record.index)?;
        let has_room = page.as_ref().is_some_and(|page| page.bytes.len() < PAGE_TARGET_BYTES);
        let stored = page
            .and_then(|page| chain_page(&log.identity, page.first_index, &page.bytes).ok())
            .unwrap_or_default();
        let end = stored.last().map_or(0, |last| last.index + 1);
        self.carry(log, &record)?;
        if record.index < end {
            if let Some(known) = stored.iter().find(|known| known.index == record.index) {
                self.same(log, known, &record)?;
            }
            self.write_pending(number, true)?;
            self.drop_pending(number);
            self.compared.insert(number, stored);
            log.set_stored(record.index + 1);
            return Ok(());
        }
        if !follows {
            self.write_pending(number, true)?;
            self.drop_pending(number);
            if end != record.index {
                self.demand_entry_before(log, record.index)?;
            }
            let goes_on = end == record.index && has_room && stored.len() < MAX_PAGE_RECORDS;
            let pending = pending_of(log, if goes_on { stored } else { Vec::new() });
            self.pending_bytes += pending.bytes;
            self.pending.insert(number, pending);
        }
        let next = self.open_layer().next_page_after(number, record.index)?;
        self.uncovered_below.insert(number, next.unwrap_or(u64::MAX));
        self.push(number, record)
    }

    /// Errors when the layer has another record than the journal. In a layer that was rewritten a body, or
    /// disclosures of one, may be gone that the journal still has: they left by a certificate, which `varve verify` looks for, and are not put back.
    fn same(&self, log: &Log, known: &Sequenced, replayed: &Sequenced) -> Result<(), ReadError> {
        let left = self.store.layers.is_rewritten(self.open_layer().id)
            && is_less(&known.record.body, &replayed.record.body);
        let is_same = if left {
            known.link == replayed.link && known.record.signature == replayed.record.signature
        } else {
            known.record == replayed.record && known.link == replayed.link
        };
        if is_same {
            return Ok(());
        }
        Err(damage(log, replayed.index, "the layer and the journal have different records here"))
    }

    /// Replay is over: every record of the journal is in a layer when this returns, readable and not yet synced.
    /// The snapshot may be ahead of what layers had, and then no other place has these records.
    pub fn end_replay(&mut self) -> Result<(), ReadError> {
        let numbers: Vec<u32> = self.pending.keys().copied().collect();
        for number in numbers {
            self.write_pending(number, true)?;
        }
        self.put_missing_tiles()?;
        self.compared = HashMap::new();
        self.uncovered_below = HashMap::new();
        Ok(())
    }

    /// The layer must have the entry before `index`, unless the log begins there in this layer: the journal has
    /// only what comes after it.
    fn demand_entry_before(&self, log: &Arc<Log>, index: u64) -> Result<(), ReadError> {
        let first = log.head().layer_of(index).map_or(index, |(_, first, _)| first);
        if index == first {
            return Ok(());
        }
        self.store.page(log, self.open_layer().id, index - 1).map(drop)
    }

    /// Stores the roots of tiles that replay came by and the layer has lost.
    fn put_missing_tiles(&mut self) -> Result<(), ReadError> {
        for (number, tile) in std::mem::take(&mut self.tiles_due) {
            let layer = self.open_layer();
            let Some(log) = self.store.log(number) else { continue };
            if layer.tile(number, tile)?.is_some() {
                continue;
            }
            let first = tile << TILE_LEVEL;
            let mut tree = Frontier::default();
            self.store.range(&log, first, first + (1 << TILE_LEVEL), &mut |record| {
                tree.append(record.leaf_hash);
                true
            })?;
            layer.put_tile(number, tile, &tree.root())?;
        }
        Ok(())
    }

    /// Writes every partial page and the ids of everything applied; `frame` is the last frame applied. What
    /// is written is durable when this returns. What is held above `warm_bytes` is then dropped, and read back
    /// when its log goes on.
    pub fn flush(&mut self, frame: u64, warm_bytes: usize) -> Result<(), ReadError> {
        let numbers: Vec<u32> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.persisted < pending.records.len())
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            self.write_pending(number, true)?;
        }
        self.store.ids.add_run(&mut self.tokens, frame)?;
        self.tokens.clear();
        if let Some(layer) = &self.layer {
            layer.kv().sync()?;
        }
        let indexing: usize = self.indexing.values().map(|indexing| indexing.postings.memory_bytes()).sum();
        if self.pending_bytes + indexing > warm_bytes {
            self.pending.clear();
            self.pending_bytes = 0;
            self.indexing.clear();
        }
        Ok(())
    }

    /// Ids waiting for the next flush.
    pub fn waiting_ids(&self) -> usize {
        self.tokens.len()
    }

    /// Goes over to `layer`: what the one before still waits for is written and synced first, so that a
    /// closed layer is complete.
    fn enter(&mut self, layer: LayerId) -> Result<(), ReadError> {
        if self.layer.as_ref().is_some_and(|open| open.id == layer) {
            return Ok(());
        }
        if self.layer.is_some() {
            let numbers: Vec<u32> = self.pending.keys().copied().collect();
            for number in numbers {
                self.write_pending(number, true)?;
                self.finish_block(number)?;
            }
            self.end_replay()?;
            self.open_layer().kv().sync()?;
        }
        self.pending.clear();
        self.pending_bytes = 0;
        self.indexing.clear();
        self.carried.clear();
        self.layer = Some(self.store.layers.get_or_create(layer)?);
        Ok(())
    }

    fn open_layer(&self) -> Arc<Layer> {
        self.layer.clone().expect("a layer is entered before anything is written")
    }

    /// The carry record makes a layer readable alone: who the log is and where it stood before. `record` is one
    /// of the log's in this layer, and the first of them unless a crash took the carry record.
    fn carry(&mut self, log: &Arc<Log>, record: &Sequenced) -> Result<(), ReadError> {
        let number = log.identity.number;
        if !self.carried.insert(number) {
            return Ok(());
        }
        let layer = self.open_layer();
        if layer.carry(number)?.is_none() {
            let mut value = vec![1];
            put_bytes16(&mut value, self.store.origin(&log.identity).as_bytes());
            put_bytes16(&mut value, log.identity.tenant.as_bytes());
            value.extend_from_slice(log.identity.log_id.as_bytes());
            value.extend_from_slice(&log.identity.genesis_key);
            let first = log.head().layer_of(record.index).map_or(record.index, |(_, first, _)| first);
            let previous = if first == record.index {
                record.previous
            } else {
                let page = self.store.page(log, layer.id, first)?;
                page.first().map_or(Hash::ZERO, |record| record.previous)
            };
            value.extend_from_slice(&first.to_be_bytes());
            value.extend_from_slice(previous.as_bytes());
            layer.put_carry(number, &value)?;
        }
        Ok(())
    }

    /// The partial page that `next` goes on from, or an empty one.
    fn reload(&self, log: &Arc<Log>, next: u64) -> Result<Pending, ReadError> {
        let layer = self.open_layer();
        let Some(before) = next.checked_sub(1) else { return Ok(pending_of(log, Vec::new())) };
        let Some(stored) = layer.page_at(log.identity.number, before)? else {
            return Ok(pending_of(log, Vec::new()));
        };
        let records = chain_page(&log.identity, stored.first_index, &stored.bytes)
            .map_err(|error| damage(log, stored.first_index, &error.to_string()))?;
        let goes_on = records.last().is_some_and(|last| last.index + 1 == next)
            && records.len() < MAX_PAGE_RECORDS
            && stored.bytes.len() < PAGE_TARGET_BYTES;
        Ok(pending_of(log, if goes_on { records } else { Vec::new() }))
    }

    fn push(&mut self, number: u32, record: Arc<Sequenced>) -> Result<(), ReadError> {
        let pending = self.pending.get_mut(&number).expect("made by the caller");
        let bytes = record.record.encoded_len();
        pending.bytes += bytes;
        pending.records.push(record);
        self.pending_bytes += bytes;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let estimate = pending.bytes as f64 * self.packed_share;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        if estimate >= PAGE_TARGET_BYTES as f64 || pending.records.len() >= MAX_PAGE_RECORDS {
            self.write_pending(number, false)?;
        }
        Ok(())
    }

    /// Writes a log's pending records as pages. With `all`, the last page may be partial and stays warm.
    fn write_pending(&mut self, number: u32, all: bool) -> Result<(), ReadError> {
        let layer = self.open_layer();
        let Some(mut pending) = self.pending.remove(&number) else { return Ok(()) };
        self.pending_bytes -= pending.bytes;
        while pending.persisted < pending.records.len() {
            let mut count = pending.records.len();
            let (bytes, is_full) = loop {
                let previous = pending.records[0].previous;
                let records: Vec<&super::record::Record> =
                    pending.records[..count].iter().map(|record| &record.record).collect();
                let bytes = page::encode(&previous, &records);
                // What the layer has under this key stays under it: the journal may have let go of it.
                let least = pending.persisted.max(1);
                if bytes.len() < MAX_VALUE_BYTES || count == least {
                    break (bytes, count < pending.records.len() || count == MAX_PAGE_RECORDS);
                }
                count = (count * PAGE_TARGET_BYTES / bytes.len()).clamp(least, count - 1);
            };
            let raw: usize = pending.records[..count].iter().map(|record| record.record.encoded_len()).sum();
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let share = bytes.len() as f64 / raw as f64;
            self.packed_share = (self.packed_share * 0.95 + share * 0.05).clamp(0.1, 1.5);
            let is_full = is_full || !all || bytes.len() >= PAGE_TARGET_BYTES;
            layer.put_page(number, pending.records[0].index, &bytes)?;
            self.index(&pending.log, &pending.records[pending.persisted..count])?;
            let end = pending.records[count - 1].index + 1;
            pending.log.set_stored(end);
            if is_full {
                pending.records.drain(..count);
                pending.bytes -= raw;
                pending.persisted = 0;
            } else {
                pending.persisted = count;
            }
            if !all && count > 0 {
                break;
            }
        }
        self.pending_bytes += pending.bytes;
        self.pending.insert(number, pending);
        Ok(())
    }

    fn drop_pending(&mut self, number: u32) {
        if let Some(pending) = self.pending.remove(&number) {
            self.pending_bytes -= pending.bytes;
        }
    }

    /// Adds records that the layer has now to the postings, and writes each block that they complete.
    fn index(&mut self, log: &Arc<Log>, records: &[Arc<Sequenced>]) -> Result<(), ReadError> {
        let number = log.identity.number;
        for record in records {
            if !self.indexing.contains_key(&number) {
                let from = self.indexed_to(log, record.index)?;
                self.indexing.insert(number, Indexing::begin(from));
            }
            let indexing = self.indexing.get_mut(&number).expect("just made");
            if indexing.upto == record.index {
                let loaded;
                let keys = if record.keys.terms.is_empty() {
                    loaded = index_keys(&log.identity.index_key, &record.record);
                    &loaded
                } else {
                    &record.keys
                };
                indexing.add(record, keys);
            }
            if record.index + 1 >= block_end(indexing.from, 0) {
                let from = indexing.from;
                self.write_block(log, from, block_end(from, 0))?;
            }
        }
        Ok(())
    }

    /// First index of the layer's part of the log that no block covers.
    fn indexed_to(&self, log: &Log, at: u64) -> Result<u64, ReadError> {
        let layer = self.open_layer();
        let first = log.head().layer_of(at).map_or(0, |(_, first, _)| first);
        let mut end = first;
        for level in [1, 0] {
            if let Some((_, bytes)) = layer.terms_block_at(log.identity.number, level, at)?
                && let Ok(piece) = Piece::open(&bytes)
            {
                end = end.max(piece.header.end);
            }
        }
        Ok(end)
    }

    fn finish_block(&mut self, number: u32) -> Result<(), ReadError> {
        let Some(log) = self.store.log(number) else { return Ok(()) };
        match self.indexing.get(&number) {
            Some(indexing) if indexing.upto > indexing.from => {
                let (from, upto) = (indexing.from, indexing.upto);
                self.write_block(&log, from, upto)
            }
            _ => Ok(()),
        }
    }

    /// Writes the block `[from, end)` of level 0, and the block of level 1 that it completes.
    fn write_block(&mut self, log: &Arc<Log>, from: u64, end: u64) -> Result<(), ReadError> {
        let number = log.identity.number;
        let layer = self.open_layer();
        let warm =
            self.indexing.remove(&number).filter(|indexing| indexing.from == from && indexing.upto == end);
        let block = match warm {
            Some(indexing) => indexing,
            None => self.read_block(log, from, end)?,
        };
        let header = BlockHeader { end, earliest: block.earliest, latest: block.latest };
        for (token, piece) in block.postings.into_pieces(&header) {
            layer.put_terms(number, 0, from, token, &piece)?;
        }
        if end.is_multiple_of(LEVEL_ENTRIES[1]) {
            self.merge_blocks(log, end)?;
        }
        self.indexing.insert(number, Indexing::begin(end));
        Ok(())
    }

    /// Collects the postings of `[from, end)` out of the layer's pages.
    fn read_block(&self, log: &Arc<Log>, from: u64, end: u64) -> Result<Indexing, ReadError> {
        let layer = self.open_layer();
        let mut block = Indexing::begin(from);
        while block.upto < end {
            let index = block.upto;
            for record in self.store.page(log, layer.id, index)? {
                if record.index == block.upto && record.index < end {
                    block.add(&record, &index_keys(&log.identity.index_key, &record.record));
                }
            }
            if block.upto == index {
                return Err(damage(log, index, "its page is missing"));
            }
        }
        Ok(block)
    }

    /// Replaces the blocks of level 0 that end at `end` or up to 4,096 entries before by one of level 1. The
    /// new one is written first; a reader that finds both uses the larger.
    fn merge_blocks(&mut self, log: &Arc<Log>, end: u64) -> Result<(), ReadError> {
        let number = log.identity.number;
        let layer = self.open_layer();
        let first = log.head().layer_of(end - 1).map_or(0, |(_, first, _)| first);
        let from = first.max(end - LEVEL_ENTRIES[1]);
        let mut merged = Postings::default();
        let (mut earliest, mut latest) = (u64::MAX, 0);
        let mut blocks = Vec::new();
        let mut at = from;
        while at < end {
            let Some((block_first, bytes)) = layer.terms_block_at(number, 0, at)? else { return Ok(()) };
            let Ok(header) = Piece::open(&bytes).map(|piece| piece.header) else { return Ok(()) };
            if block_first != at || header.end <= at {
                return Ok(());
            }
            let shift = u16::try_from(at - from).expect("a block of level 1 has 4,096 entries");
            // Every piece is there and of this block: what is left out here would be hidden for good.
            let mut expected = Some(0);
            let mut sound = true;
            layer.terms_pieces(number, 0, at, &mut |first, bytes| {
                let piece =
                    Piece::open(bytes).ok().filter(|piece| piece.header == header && expected == Some(first));
                sound &= piece.as_ref().is_some_and(|piece| piece.merge_into(shift, &mut merged).is_ok());
                expected = piece.and_then(|piece| piece.next);
            })?;
            if !sound || expected.is_some() {
                return Ok(());
            }
            earliest = earliest.min(header.earliest);
            latest = latest.max(header.latest);
            blocks.push(at);
            at = header.end;
        }
        let header = BlockHeader { end, earliest, latest };
        for (token, piece) in merged.into_pieces(&header) {
            layer.put_terms(number, 1, from, token, &piece)?;
        }
        blocks.iter().try_for_each(|first| layer.remove_terms(number, 0, *first))?;
        Ok(())
    }
}

impl Indexing {
    fn begin(from: u64) -> Indexing {
        Indexing { from, upto: from, postings: Postings::default(), earliest: u64::MAX, latest: 0 }
    }

    fn add(&mut self, record: &Sequenced, keys: &IndexKeys) {
        let position = u16::try_from(record.index - self.from).expect("a block of level 0 has 512 entries");
        keys.terms.iter().for_each(|token| self.postings.add(*token, position));
        let occurred_at = keys.occurred_at.unwrap_or(record.record.recorded_at);
        self.earliest = self.earliest.min(occurred_at);
        self.latest = self.latest.max(occurred_at);
        self.upto = record.index + 1;
    }
}

fn block_end(from: u64, level: usize) -> u64 {
    (from / LEVEL_ENTRIES[level] + 1) * LEVEL_ENTRIES[level]
}

/// Whether a body is what is left of another: nothing, or the same with fewer disclosures.
fn is_less(left: &[u8], whole: &[u8]) -> bool {
    left.is_empty() || left_of(whole, left).is_some()
}

fn pending_of(log: &Arc<Log>, records: Vec<Arc<Sequenced>>) -> Pending {
    let bytes = records.iter().map(|record| record.record.encoded_len()).sum();
    Pending { log: log.clone(), persisted: records.len(), records, bytes }
}
