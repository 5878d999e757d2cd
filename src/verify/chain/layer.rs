//! What a layer says beside its records: where the log stood when it began, roots of tiles, postings.

use super::{Context, Walk};
use crate::store::layer::TILE_LEVEL;
use crate::store::layer_id::LayerId;
use crate::store::wire::Reader;
use crate::tlog::hash::Hash;
use crate::verify::finding::FindingKind;
use crate::verify::index::{Block, Chunks};

impl Walk {
    /// The first record of the log in a layer.
    pub(super) fn enter(&mut self, context: &mut Context<'_>, layer: LayerId, index: u64) {
        self.in_layer = true;
        self.layers.push((layer, index));
        let Some(value) = self.carry.take() else { return };
        let identity = &context.info.identity;
        let agrees = read_carry(&value).is_some_and(|carry| {
            carry.origin == context.info.origin
                && carry.tenant == identity.tenant
                && carry.log_id == identity.log_id
                && carry.genesis_key == identity.genesis_key
                && carry.first_index == index
                && (carry.previous == self.link || !self.whole)
        });
        if !agrees {
            context.add(
                FindingKind::IndexMismatch,
                index,
                "a carry record that says where the log stood",
                format!("another one in {layer}"),
            );
        }
    }

    /// The layer has no more records of the log.
    pub(in crate::verify) fn pages_end(&mut self) {
        self.chunks.close();
    }

    /// Holds a stored tile root against the tree.
    pub(in crate::verify) fn tile(&mut self, context: &mut Context<'_>, tile: u64, root: &[u8]) {
        if !self.whole {
            return;
        }
        let first = tile << TILE_LEVEL;
        match self.tiles.binary_search_by_key(&tile, |(tile, _)| *tile) {
            Ok(at) if self.tiles[at].1.0[..] == *root => {}
            Ok(at) => context.add(
                FindingKind::IndexMismatch,
                first,
                format!("tile {tile} with root {}", self.tiles[at].1),
                "another root",
            ),
            Err(_) => context.add(
                FindingKind::IndexMismatch,
                first,
                "tiles that end in this layer",
                format!("tile {tile}"),
            ),
        }
    }

    /// Holds a block of postings against the records.
    pub(in crate::verify) fn block(
        &mut self,
        context: &mut Context<'_>,
        first: u64,
        block: &Result<Block, &'static str>,
    ) {
        let compared = match block {
            Ok(block) => self.chunks.compare(block),
            Err(what) => Err(("a block of postings".to_owned(), (*what).to_owned())),
        };
        if let Err((expected, found)) = compared
            && self.complete
        {
            context.add(FindingKind::IndexMismatch, first, expected, found);
        }
    }

    /// The next layer begins. Returns whether the log had records in this one.
    pub(in crate::verify) fn leave(&mut self) {
        self.in_layer = false;
        self.carry = None;
        self.tiles = Vec::new();
        self.chunks = Chunks::default();
    }

    /// Keeps the carry record for the first record of the layer.
    pub(in crate::verify) fn set_carry(&mut self, value: Vec<u8>) {
        self.carry = Some(value);
    }
}

struct Carry<'a> {
    origin: &'a str,
    tenant: &'a str,
    log_id: Hash,
    genesis_key: [u8; 32],
    first_index: u64,
    previous: Hash,
}

fn read_carry(value: &[u8]) -> Option<Carry<'_>> {
    let mut from = Reader::new(value);
    if from.u8().ok()? != 1 {
        return None;
    }
    let carry = Carry {
        origin: from.text16().ok()?,
        tenant: from.text16().ok()?,
        log_id: Hash(from.array().ok()?),
        genesis_key: from.array().ok()?,
        first_index: from.u64().ok()?,
        previous: Hash(from.array().ok()?),
    };
    (from.rest() == 0).then_some(carry)
}
