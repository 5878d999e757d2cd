//! One layer: the records of one calendar month or of a part of one, over one key-value store.
//!
//! What stands in a layer, by the first byte of the key (FORMAT, "Layers"):
//!
//! | kind | key | value |
//! |---|---|---|
//! | `P` page | log 4, first index 5, piece 1 | piece 0: number of pieces 1, page bytes; others: page bytes |
//! | `T` tile | log 4, tile 5 | root of 256 leaves, where the last of them stands in this layer |
//! | `X` terms | log 4, level 1, first index 5, first token 8 | postings, see `terms` |
//! | `C` carry | log 4 | who the log is and where it stood when the layer began |
//!
//! Pages are put one by one: a put is atomic, and a page of several pieces goes in as one batch, because
//! the pages that it replaces may hold records that the journal no longer has.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::backend::{Batch, Kv, KvError, MAX_VALUE_BYTES};
use super::layer_id::LayerId;
use crate::tlog::hash::Hash;

/// Indexes are stored in five bytes.
pub const MAX_INDEX: u64 = (1 << 40) - 1;

/// log2 of the leaves whose root is stored: a tile of C2SP tlog-tiles is 256 wide.
pub const TILE_LEVEL: u8 = 8;

const KIND_PAGE: u8 = b'P';
const KIND_TILE: u8 = b'T';
const KIND_TERMS: u8 = b'X';
const KIND_CARRY: u8 = b'C';

/// Most pieces of one page: 255 × 6 KiB is over twice the largest record.
const MAX_PIECES: usize = 255;

/// An open layer.
pub struct Layer {
    /// The month.
    pub id: LayerId,
    kv: Arc<dyn Kv>,
}

/// A page's place and bytes.
pub struct StoredPage {
    /// Index of its first record.
    pub first_index: u64,
    /// What `page::decode` takes.
    pub bytes: Vec<u8>,
}

impl Layer {
    /// A layer over `kv`.
    pub fn new(id: LayerId, kv: Arc<dyn Kv>) -> Layer {
        Layer { id, kv }
    }

    /// The store below, for syncing, sealing and counting bytes.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// Stores a page, replacing the one with the same first index.
    pub fn put_page(&self, log: u32, first_index: u64, bytes: &[u8]) -> Result<(), KvError> {
        let room = MAX_VALUE_BYTES - 1;
        if bytes.len() <= room {
            return self.kv.put(&page_key(log, first_index, 0), &with_count(1, bytes));
        }
        let pieces: Vec<&[u8]> = bytes.chunks(room).collect();
        assert!(pieces.len() <= MAX_PIECES, "records are bounded far below 255 pieces");
        let mut batch = Batch::default();
        for (piece, part) in (0u8..).zip(&pieces) {
            let value = if piece == 0 {
                with_count(u8::try_from(pieces.len()).expect("asserted above"), part)
            } else {
                part.to_vec()
            };
            batch.put(page_key(log, first_index, piece), value);
        }
        self.kv.apply(&batch)
    }

    /// The page that begins at or before `index`: the one that holds it, if any does.
    pub fn page_at(&self, log: u32, index: u64) -> Result<Option<StoredPage>, KvError> {
        let prefix = log_prefix(KIND_PAGE, log);
        let Some((key, value)) = self.kv.last_at_or_before(&page_key(log, index, u8::MAX), &prefix)? else {
            return Ok(None);
        };
        let Some((first_index, piece)) = read_page_key(&key) else { return Ok(None) };
        if piece == 0 && value.first() == Some(&1) {
            return Ok(Some(StoredPage { first_index, bytes: value[1..].to_vec() }));
        }
        let mut bytes = Vec::new();
        let mut expected = 1u16;
        for piece in 0..=u8::MAX {
            if u16::from(piece) >= expected {
                break;
            }
            let Some(value) = self.kv.get(&page_key(log, first_index, piece))? else { return Ok(None) };
            if piece == 0 {
                expected = value.first().map_or(0, |count| u16::from(*count));
                bytes.extend_from_slice(value.get(1..).unwrap_or_default());
            } else {
                bytes.extend_from_slice(&value);
            }
        }
        Ok(Some(StoredPage { first_index, bytes }))
    }

    /// First index of the first page that begins at or after `index`.
    pub fn first_page_from(&self, log: u32, index: u64) -> Result<Option<u64>, KvError> {
        let mut first = None;
        self.kv.scan(&page_key(log, index, 0), &page_key(log, MAX_INDEX, u8::MAX), &mut |key, _| {
            first = read_page_key(key).map(|(first_index, _)| first_index);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// First index of the first page that begins after `index`.
    pub fn next_page_after(&self, log: u32, index: u64) -> Result<Option<u64>, KvError> {
        let mut next = None;
        self.kv.scan(&page_key(log, index + 1, 0), &page_key(log, MAX_INDEX, u8::MAX), &mut |key, _| {
            next = read_page_key(key).map(|(first_index, _)| first_index);
            ControlFlow::Break(())
        })?;
        Ok(next)
    }

    /// Stores the root of a complete tile.
    pub fn put_tile(&self, log: u32, tile: u64, root: &Hash) -> Result<(), KvError> {
        let mut key = log_prefix(KIND_TILE, log).to_vec();
        key.extend_from_slice(&index_bytes(tile));
        self.kv.put(&key, root.as_bytes())
    }

    /// The stored root of a tile.
    pub fn tile(&self, log: u32, tile: u64) -> Result<Option<Hash>, KvError> {
        let mut key = log_prefix(KIND_TILE, log).to_vec();
        key.extend_from_slice(&index_bytes(tile));
        Ok(self.kv.get(&key)?.and_then(|root| root.try_into().ok()).map(Hash))
    }

    /// Visits the stored tile roots of a log, in order.
    pub fn tiles(&self, log: u32, visit: &mut dyn FnMut(u64, Hash)) -> Result<(), KvError> {
        let from = log_prefix(KIND_TILE, log);
        let to = prefix_end(&from);
        self.kv.scan(&from, &to, &mut |key, value| {
            if let (Some(tile), Ok(root)) = (key.get(5..10).map(read_index), value.try_into()) {
                visit(tile, Hash(root));
            }
            ControlFlow::Continue(())
        })
    }

    /// Stores one piece of a block of postings.
    pub fn put_terms(
        &self,
        log: u32,
        level: u8,
        first: u64,
        token: u64,
        value: &[u8],
    ) -> Result<(), KvError> {
        self.kv.put(&terms_key(log, level, first, token), value)
    }

    /// The piece of the block at (`level`, `first`) whose tokens may include `token`.
    pub fn terms_piece(
        &self,
        log: u32,
        level: u8,
        first: u64,
        token: u64,
    ) -> Result<Option<Vec<u8>>, KvError> {
        let key = terms_key(log, level, first, token);
        Ok(self.kv.last_at_or_before(&key, &key[..11])?.map(|(_, value)| value))
    }

    /// The first piece of the block of `level` that begins at or before `index`, with its first index.
    pub fn terms_block_at(&self, log: u32, level: u8, index: u64) -> Result<Option<(u64, Vec<u8>)>, KvError> {
        let key = terms_key(log, level, index, u64::MAX);
        let Some((found, value)) = self.kv.last_at_or_before(&key, &key[..6])? else { return Ok(None) };
        let first = found.get(6..11).map_or(0, read_index);
        if found.get(11..19) == Some(&[0; 8]) {
            return Ok(Some((first, value)));
        }
        Ok(self.kv.get(&terms_key(log, level, first, 0))?.map(|value| (first, value)))
    }

    /// Visits all pieces of one block: first token, value.
    pub fn terms_pieces(
        &self,
        log: u32,
        level: u8,
        first: u64,
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), KvError> {
        let from = terms_key(log, level, first, 0);
        let to = prefix_end(&from[..11]);
        self.kv.scan(&from, &to, &mut |key, value| {
            if let Some(token) = key.get(11..19).and_then(|token| token.try_into().ok()) {
                visit(u64::from_be_bytes(token), value);
            }
            ControlFlow::Continue(())
        })
    }

    /// Removes all pieces of one block.
    pub fn remove_terms(&self, log: u32, level: u8, first: u64) -> Result<(), KvError> {
        let mut tokens = Vec::new();
        self.terms_pieces(log, level, first, &mut |token, _| tokens.push(token))?;
        tokens.iter().try_for_each(|token| self.kv.remove(&terms_key(log, level, first, *token)))
    }

    /// Stores who a log is and where it stood when the layer began.
    pub fn put_carry(&self, log: u32, value: &[u8]) -> Result<(), KvError> {
        self.kv.put(&log_prefix(KIND_CARRY, log), value)
    }

    /// The carry record of a log.
    pub fn carry(&self, log: u32) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(&log_prefix(KIND_CARRY, log))
    }

    /// Visits all carry records, in order of log.
    pub fn carries(&self, visit: &mut dyn FnMut(u32, &[u8])) -> Result<(), KvError> {
        self.kv.scan(&[KIND_CARRY], &[KIND_CARRY + 1], &mut |key, value| {
            if let Some(log) = key.get(1..5).and_then(|log| log.try_into().ok()) {
                visit(u32::from_be_bytes(log), value);
            }
            ControlFlow::Continue(())
        })
    }
}

fn log_prefix(kind: u8, log: u32) -> [u8; 5] {
    let log = log.to_be_bytes();
    [kind, log[0], log[1], log[2], log[3]]
}

fn index_bytes(index: u64) -> [u8; 5] {
    assert!(index <= MAX_INDEX, "a log ends at 2^40 entries");
    let bytes = index.to_be_bytes();
    [bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

fn read_index(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |index, byte| index << 8 | u64::from(*byte))
}

fn page_key(log: u32, first_index: u64, piece: u8) -> [u8; 11] {
    let mut key = [0; 11];
    key[..5].copy_from_slice(&log_prefix(KIND_PAGE, log));
    key[5..10].copy_from_slice(&index_bytes(first_index.min(MAX_INDEX)));
    key[10] = piece;
    key
}

fn read_page_key(key: &[u8]) -> Option<(u64, u8)> {
    (key.len() == 11 && key[0] == KIND_PAGE).then(|| (read_index(&key[5..10]), key[10]))
}

fn terms_key(log: u32, level: u8, first: u64, token: u64) -> [u8; 19] {
    let mut key = [0; 19];
    key[..5].copy_from_slice(&log_prefix(KIND_TERMS, log));
    key[5] = level;
    key[6..11].copy_from_slice(&index_bytes(first.min(MAX_INDEX)));
    key[11..].copy_from_slice(&token.to_be_bytes());
    key
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn with_count(count: u8, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len() + 1);
    value.push(count);
    value.extend_from_slice(bytes);
    value
}
