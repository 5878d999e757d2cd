//! Postings: which entries of a block carry a term.
//!
//! A term (an actor, an action, an address …) is a token, the first eight bytes of a keyed hash, so an
//! index names nobody. Two terms may share a token: a reader always looks at the record itself before it
//! answers. A *block* covers consecutive entries of one log inside one layer; level 0 ends at multiples of
//! 512, level 1 at multiples of 4,096 and replaces the blocks of level 0 below it.
//!
//! A block is stored in pieces of at most `MAX_PIECE_BYTES`, each a run of sorted tokens:
//!
//! ```text
//! version 1 | end index 5 | earliest occurred_at 8 | latest occurred_at 8
//! then per token: token 8 | n 2 | n × position 2        (position counts from the block's first index)
//!             or: token 8 | 0xffff | 512-byte bitmap, bit 0 of byte 0 first
//! ```

use super::wire::{Reader, Short};

/// Entries of a block of level 0 and of level 1.
pub const LEVEL_ENTRIES: [u64; 2] = [512, 4096];

/// Most bytes of a piece: under the largest value of the store, with room for one bitmap more.
const MAX_PIECE_BYTES: usize = 5 * 1024;

const PIECE_VERSION: u8 = 1;
const BITMAP_MARK: u16 = u16::MAX;
const BITMAP_BYTES: usize = 512;

/// Above this many positions a bitmap is smaller.
const MAX_LISTED: usize = BITMAP_BYTES / 2;

/// A set of positions in one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Positions([u64; 64]);

impl Positions {
    /// No position.
    pub fn none() -> Positions {
        Positions([0; 64])
    }

    /// The positions `from..to`.
    pub fn range(from: u64, to: u64) -> Positions {
        let mut all = Positions::none();
        (from..to.min(4096)).for_each(|position| all.insert(u16::try_from(position).expect("under 4096")));
        all
    }

    /// Adds one. Panics at 4,096 and beyond.
    pub fn insert(&mut self, position: u16) {
        self.0[usize::from(position >> 6)] |= 1 << (position & 63);
    }

    /// Whether `position` is in the set.
    pub fn contains(&self, position: u16) -> bool {
        self.0.get(usize::from(position >> 6)).is_some_and(|word| word >> (position & 63) & 1 == 1)
    }

    /// Keeps what is in both.
    pub fn intersect(&mut self, other: &Positions) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// What a block says of itself, the same in each piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// First index after the block.
    pub end: u64,
    /// Smallest `occurred_at` (or `recorded_at` where absent) in it, microseconds.
    pub earliest: u64,
    /// Largest of the same.
    pub latest: u64,
}

/// The postings of a block while it is built: pairs of token and position, unsorted.
#[derive(Clone, Default)]
pub struct Postings {
    tokens: Vec<u64>,
    positions: Vec<u16>,
}

impl Postings {
    /// Adds a term of the entry at `position`.
    pub fn add(&mut self, token: u64, position: u16) {
        self.tokens.push(token);
        self.positions.push(position);
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.tokens.capacity() * 8 + self.positions.capacity() * 2
    }

    /// Cuts the postings into pieces: first token (0 for the first piece) and bytes.
    pub fn into_pieces(self, header: &BlockHeader) -> Vec<(u64, Vec<u8>)> {
        let mut pairs: Vec<(u64, u16)> = self.tokens.into_iter().zip(self.positions).collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut pieces = vec![(0, piece_start(header))];
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            let token = group[0].0;
            let needed = 10 + if group.len() > MAX_LISTED { BITMAP_BYTES } else { group.len() * 2 };
            let (_, last) = pieces.last().expect("never empty");
            if last.len() + needed > MAX_PIECE_BYTES {
                pieces.push((token, piece_start(header)));
            }
            let (_, piece) = pieces.last_mut().expect("never empty");
            piece.extend_from_slice(&token.to_be_bytes());
            if group.len() > MAX_LISTED {
                piece.extend_from_slice(&BITMAP_MARK.to_be_bytes());
                let mut bitmap = [0u8; BITMAP_BYTES];
                group
                    .iter()
                    .for_each(|(_, position)| bitmap[usize::from(position >> 3)] |= 1 << (position & 7));
                piece.extend_from_slice(&bitmap);
            } else {
                let count = u16::try_from(group.len()).expect("at most MAX_LISTED");
                piece.extend_from_slice(&count.to_be_bytes());
                group.iter().for_each(|(_, position)| piece.extend_from_slice(&position.to_be_bytes()));
            }
        }
        pieces
    }
}

/// Reads the header of a piece.
pub fn header(piece: &[u8]) -> Result<BlockHeader, Short> {
    read_header(&mut Reader::new(piece))
}

/// The positions of `token` in a piece; empty when it is not there. Errors when the piece is malformed.
pub fn positions_of(piece: &[u8], token: u64) -> Result<Positions, Short> {
    let mut found = Positions::none();
    visit_piece(piece, |seen, position| {
        if seen == token {
            found.insert(position);
        }
    })?;
    Ok(found)
}

/// Adds a piece's postings to `into`, each position moved up by `shift`.
pub fn merge_into(piece: &[u8], shift: u16, into: &mut Postings) -> Result<(), Short> {
    visit_piece(piece, |token, position| into.add(token, position + shift))
}

fn visit_piece(piece: &[u8], mut visit: impl FnMut(u64, u16)) -> Result<(), Short> {
    let mut from = Reader::new(piece);
    read_header(&mut from)?;
    while from.rest() > 0 {
        let token = from.u64()?;
        match from.u16()? {
            BITMAP_MARK => {
                let bitmap = from.take(BITMAP_BYTES)?;
                for position in 0..4096u16 {
                    if bitmap[usize::from(position >> 3)] >> (position & 7) & 1 == 1 {
                        visit(token, position);
                    }
                }
            }
            count => {
                for _ in 0..count {
                    let at = from.offset();
                    let position = from.u16()?;
                    if position >= 4096 {
                        return Err(Short { at });
                    }
                    visit(token, position);
                }
            }
        }
    }
    Ok(())
}

fn piece_start(header: &BlockHeader) -> Vec<u8> {
    let mut piece = Vec::with_capacity(MAX_PIECE_BYTES);
    piece.push(PIECE_VERSION);
    piece.extend_from_slice(&header.end.to_be_bytes()[3..]);
    piece.extend_from_slice(&header.earliest.to_be_bytes());
    piece.extend_from_slice(&header.latest.to_be_bytes());
    piece
}

fn read_header(from: &mut Reader<'_>) -> Result<BlockHeader, Short> {
    if from.u8()? != PIECE_VERSION {
        return Err(Short { at: 0 });
    }
    let end: [u8; 5] = from.array()?;
    Ok(BlockHeader {
        end: end.iter().fold(0, |index, byte| index << 8 | u64::from(*byte)),
        earliest: from.u64()?,
        latest: from.u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_gives_back_its_postings_from_every_piece() {
        let mut postings = Postings::default();
        for position in 0..4096u16 {
            postings.add(7, position);
            postings.add(1_000 + u64::from(position) * 3, position);
            if position % 5 == 0 {
                postings.add(u64::MAX, position);
            }
        }
        let header = BlockHeader { end: 8192, earliest: 5, latest: 6 };
        let pieces = postings.into_pieces(&header);
        assert!(pieces.len() > 5 && pieces.iter().all(|(_, piece)| piece.len() <= MAX_PIECE_BYTES));
        let of = |token: u64| {
            let piece = pieces.iter().rev().find(|(first, _)| *first <= token).unwrap();
            assert_eq!(super::header(&piece.1), Ok(header));
            positions_of(&piece.1, token).unwrap()
        };
        assert_eq!(of(7), Positions::range(0, 4096));
        assert_eq!(of(8), Positions::none());
        assert_eq!(of(u64::MAX).0.iter().map(|word| word.count_ones()).sum::<u32>(), 820);
        for position in 0..4096u16 {
            let mut one = Positions::none();
            one.insert(position);
            assert_eq!(of(1_000 + u64::from(position) * 3), one);
        }
    }
}
