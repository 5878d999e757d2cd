//! Tiles and entry bundles (C2SP tlog-tiles): the tree and its entries as files that never change.
//!
//! A tile at level L holds up to 256 hashes; hash *i* of tile *n* is the root of the complete
//! subtree at height 8·L and index 256·n + i. An entry bundle holds the same 256 entries as the level 0 tile of
//! its index.

use std::fmt;

use super::chain::ENTRY_BYTES;
use super::checkpoint::parse_decimal;
use super::merkle::{MAX_TREE_SIZE, Nodes};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// Bytes of one entry in a bundle: a 16-bit length and the entry.
pub const BUNDLE_ENTRY_BYTES: usize = 2 + ENTRY_BYTES;

/// Highest tile level that a tree can have: 2^63 - 1 leaves have complete subtrees up to height 62,
/// and 8 · 7 = 56.
pub const MAX_TILE_LEVEL: u8 = 7;

/// Names a tile or an entry bundle; only one that some tree can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// What a [`TilePath`] names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TileKind {
    /// Hashes of complete subtrees of height 8 · level.
    Hashes {
        /// Tile level, 0–[`MAX_TILE_LEVEL`].
        level: u8,
    },
    /// Entries.
    Entries,
}

impl TilePath {
    /// A tile or bundle by kind, index and width (1–256, 256 is a full one).
    ///
    /// # Errors
    /// [`TileError::OutOfRange`]: no tree has it.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<TilePath, TileError> {
        let tile = TilePath { kind, index, width };
        let level_fits = tile.level() <= MAX_TILE_LEVEL;
        if level_fits && (1..=TILE_WIDTH).contains(&width) && tile.end().is_some() {
            Ok(tile)
        } else {
            Err(TileError::OutOfRange)
        }
    }

    /// Reads a path, `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`, in its only spelling.
    ///
    /// # Errors
    /// [`TileError::Form`], or [`TileError::OutOfRange`] for a path of the right form that no tree has.
    pub fn parse(path: &str) -> Result<TilePath, TileError> {
        let (kind, rest) =
            path.strip_prefix("tile/").and_then(|p| p.split_once('/')).ok_or(TileError::Form)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = parse_decimal(level).filter(|&level| level <= 63).ok_or(TileError::Form)?;
                TileKind::Hashes { level: u8::try_from(level).map_err(|_| TileError::Form)? }
            }
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH),
            Some((number, width)) => {
                let width = parse_decimal(width).and_then(|width| u16::try_from(width).ok());
                (number, width.filter(|width| (1..TILE_WIDTH).contains(width)).ok_or(TileError::Form)?)
            }
        };
        TilePath::new(kind, parse_tile_number(number)?, width)
    }

    /// What it names.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Index of the tile within its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Hashes or entries it holds, 1–256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether a tree of `size` leaves has it: what may be served under a checkpoint of that size.
    pub fn is_within(&self, size: u64) -> bool {
        self.end().is_some_and(|end| end <= size)
    }

    /// Index of the first element in its level: of the first entry, for a bundle.
    pub fn first(&self) -> u64 {
        self.index * u64::from(TILE_WIDTH)
    }

    fn level(&self) -> u8 {
        match self.kind {
            TileKind::Hashes { level } => level,
            TileKind::Entries => 0,
        }
    }

    /// Leaves that a tree must have so that every element exists; `None` over [`MAX_TREE_SIZE`].
    fn end(&self) -> Option<u64> {
        let last = self.index.checked_mul(u64::from(TILE_WIDTH))?.checked_add(u64::from(self.width))?;
        let leaves = 1_u64.checked_shl(8 * u32::from(self.level()))?;
        last.checked_mul(leaves).filter(|&end| end <= MAX_TREE_SIZE)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes { level } => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        // From the most significant group that is not zero on; all but the last begin with 'x'.
        let mut divisor = 1;
        while self.index / divisor >= 1000 {
            divisor *= 1000;
        }
        while divisor > 1 {
            write!(f, "x{:03}/", self.index / divisor % 1000)?;
            divisor /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// The bytes of a tile of hashes, `width` × 32. The caller has checked [`TilePath::is_within`]. A bundle
/// gives the level 0 tile that its entries hash to.
///
/// # Errors
/// The source's.
pub fn hash_tile<N: Nodes>(tile: &TilePath, nodes: &N) -> Result<Vec<u8>, N::Error> {
    let height = 8 * tile.level();
    let mut bytes = Vec::with_capacity(usize::from(tile.width) * 32);
    for element in 0..u64::from(tile.width) {
        bytes.extend_from_slice(&nodes.node(height, tile.first() + element)?.0);
    }
    Ok(bytes)
}

/// Appends one entry to an entry bundle: 16-bit length, then its bytes.
pub fn push_bundle_entry(bundle: &mut Vec<u8>, entry: &[u8; ENTRY_BYTES]) {
    const LENGTH: [u8; 2] = [0, 124];
    const { assert!(ENTRY_BYTES == LENGTH[1] as usize) };
    bundle.extend_from_slice(&LENGTH);
    bundle.extend_from_slice(entry);
}

/// Reads an entry bundle of `width` entries. The entries are not decoded.
///
/// # Errors
/// [`TileError::Bundle`]: another length, or an entry that is not 124 bytes.
pub fn parse_bundle(bytes: &[u8], width: u16) -> Result<Vec<[u8; ENTRY_BYTES]>, TileError> {
    let (entries, rest) = bytes.as_chunks::<BUNDLE_ENTRY_BYTES>();
    if !rest.is_empty() || entries.len() != usize::from(width) {
        return Err(TileError::Bundle);
    }
    let entry = |framed: &[u8; BUNDLE_ENTRY_BYTES]| {
        let (length, entry) = framed.split_first_chunk::<2>()?;
        if usize::from(u16::from_be_bytes(*length)) == ENTRY_BYTES { entry.try_into().ok() } else { None }
    };
    entries.iter().map(|framed| entry(framed).ok_or(TileError::Bundle)).collect()
}

/// Why a tile path or an entry bundle was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Not of the form that the specification gives.
    #[error("not a tile path: want tile/<level>/<number>[.p/<width>], like tile/0/x001/234.p/5")]
    Form,
    /// Of the right form, but no tree has it.
    #[error("no tree has that tile")]
    OutOfRange,
    /// Bytes that are no bundle of so many entries.
    #[error("the bytes are not an entry bundle of that width: {BUNDLE_ENTRY_BYTES} bytes an entry")]
    Bundle,
}

impl TileError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            TileError::Form => "tile_form",
            TileError::OutOfRange => "tile_out_of_range",
            TileError::Bundle => "tile_bundle",
        }
    }
}

/// Reads `x001/x234/067`: groups of three digits, all but the last after an `x`, the first not zero
/// unless it is the only one.
fn parse_tile_number(text: &str) -> Result<u64, TileError> {
    let (groups, last) = match text.rsplit_once('/') {
        Some((groups, last)) => (Some(groups), last),
        None => (None, text),
    };
    let digits = |group: &str| {
        let plain = group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit());
        if plain { group.parse::<u64>().ok() } else { None }
    };
    let mut number: u64 = 0;
    for group in groups.iter().flat_map(|groups| groups.split('/')) {
        let group = group.strip_prefix('x').and_then(digits).ok_or(TileError::Form)?;
        if number == 0 && group == 0 {
            return Err(TileError::Form);
        }
        number = number.checked_mul(1000).and_then(|n| n.checked_add(group)).ok_or(TileError::OutOfRange)?;
    }
    let last = digits(last).ok_or(TileError::Form)?;
    number.checked_mul(1000).and_then(|n| n.checked_add(last)).ok_or(TileError::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::chain::leaf_hash;
    use crate::tlog::hash::Hash;
    use crate::tlog::merkle::{MemoryNodes, sha256};
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_spelling() {
        for good in [
            "tile/0/000",
            "tile/0/x001/x234/067",
            "tile/7/000.p/1",
            "tile/entries/x001/000.p/255",
            "tile/0/x036/x028/x797/x018/x963/967.p/255",
        ] {
            assert_eq!(TilePath::parse(good).map(|tile| tile.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/x001/x002",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/0a0",
            "tile/0/+00",
            "tile/entry/000",
            "tile/data/000",
            "tile/0/000.p/1/x",
            "tile/0/000.p/1.p/1",
        ] {
            assert_eq!(TilePath::parse(bad), Err(TileError::Form), "{bad}");
        }
        for bad in ["tile/8/000", "tile/7/000.p/128", "tile/0/x999/x999/x999/x999/x999/x999/999"] {
            assert_eq!(TilePath::parse(bad), Err(TileError::OutOfRange), "{bad}");
        }
    }

    #[test]
    fn a_tree_of_70_000_has_the_specifications_tiles() {
        let within = |path| TilePath::parse(path).unwrap().is_within(70_000);
        assert!(within("tile/0/272") && within("tile/0/273.p/112"));
        assert!(!within("tile/0/273") && !within("tile/0/273.p/113"));
        assert!(within("tile/1/000") && within("tile/1/001.p/17") && !within("tile/1/001.p/18"));
        assert!(within("tile/2/000.p/1") && !within("tile/2/000.p/2") && !within("tile/3/000.p/1"));
        assert!(within("tile/entries/273.p/112") && !within("tile/entries/273.p/113"));
        let full = |path| TilePath::parse(path).unwrap().is_within(256);
        assert!(full("tile/0/000") && full("tile/1/000.p/1"));
    }

    #[test]
    fn tiles_are_the_hashes_of_the_tree() {
        let leaves: Vec<Hash> = (0..600_u32).map(|i| sha256(&i.to_be_bytes())).collect();
        let mut nodes = MemoryNodes::default();
        leaves.iter().for_each(|leaf| nodes.append(*leaf));
        let tile = hash_tile(&TilePath::parse("tile/0/002.p/88").unwrap(), &nodes).unwrap();
        assert_eq!(tile, leaves[512..].iter().flat_map(|leaf| leaf.0).collect::<Vec<u8>>());
        let tile = hash_tile(&TilePath::parse("tile/1/000.p/2").unwrap(), &nodes).unwrap();
        let mut half = MemoryNodes::default();
        leaves[256..512].iter().for_each(|leaf| half.append(*leaf));
        assert_eq!(tile[32..], half.frontier().root().0);
        assert!(hash_tile(&TilePath::parse("tile/1/000.p/3").unwrap(), &nodes).is_err());
    }

    #[test]
    fn a_bundle_is_length_prefixed_entries() {
        let entries: Vec<[u8; ENTRY_BYTES]> = (0..5).map(|i| [i; ENTRY_BYTES]).collect();
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| push_bundle_entry(&mut bundle, entry));
        assert_eq!(bundle[..2], [0, 124]);
        assert_eq!(parse_bundle(&bundle, 5), Ok(entries.clone()));
        assert_eq!(parse_bundle(&bundle, 4), Err(TileError::Bundle));
        assert_eq!(parse_bundle(&bundle[1..], 5), Err(TileError::Bundle));
        bundle[1] = 123;
        assert_eq!(parse_bundle(&bundle, 5), Err(TileError::Bundle));
        let mut nodes = MemoryNodes::default();
        entries.iter().for_each(|entry| nodes.append(leaf_hash(entry)));
        let tile = hash_tile(&TilePath::parse("tile/entries/000.p/5").unwrap(), &nodes).unwrap();
        assert_eq!(tile[..32], leaf_hash(&entries[0]).0);
    }

    proptest! {
        #[test]
        fn a_path_reads_back(level in 0..=7_u8, entries: bool, index in 0..=u64::MAX, shift in 0..64_u32, width in 1..=256_u16) {
            let kind = if entries { TileKind::Entries } else { TileKind::Hashes { level } };
            if let Ok(tile) = TilePath::new(kind, index >> shift, width) {
                prop_assert_eq!(TilePath::parse(&tile.to_string()), Ok(tile));
            }
        }

        #[test]
        fn any_text_that_parses_is_its_own_spelling(text in "tile/(0|1|63|entries)/[x0-9/]{3,12}(\\.p/[0-9]{1,3})?") {
            if let Ok(tile) = TilePath::parse(&text) {
                prop_assert_eq!(tile.to_string(), text);
            }
        }
    }
}
