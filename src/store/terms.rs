//! Postings: which entries of a block carry a term.
//!
//! A term (an actor, an action, an address …) is a token, the first eight bytes of a keyed hash, so an
//! index names nobody. Two terms may share a token: a reader always looks at the record itself before it
//! answers. A *block* covers consecutive entries of one log inside one layer; level 0 ends at multiples of
//! 512, level 1 at multiples of 4,096 and replaces the blocks of level 0 below it.
//!
//! A block is stored in pieces, each a run of sorted tokens. Pieces are written one by one, so a reader may
//! meet a block whose other pieces are missing: each piece says where the next one begins, and what no piece
//! answers for is not known, rather than not there.
//!
//! ```text
//! version 1 | end index 5 | earliest occurred_at 8 | latest occurred_at 8 | first token of the next piece 8, 0: last
//! then per token: token 8 | n 2 | n × position 2        (position counts from the block's first index)
//!             or: token 8 | 0xffff | 512-byte bitmap, bit 0 of byte 0 first
//! then CRC32C over all before 4
//! ```

use super::wire::{Reader, Short};

/// Entries of a block of level 0 and of level 1.
pub const LEVEL_ENTRIES: [u64; 2] = [512, 4096];

/// Bytes of a piece after which the next one is begun; a header and one bitmap alone are below it.
const MAX_PIECE_BYTES: usize = 5 * 1024;

const PIECE_VERSION: u8 = 1;
const NEXT_AT: usize = 1 + 5 + 8 + 8;
const CHECK_BYTES: usize = 4;
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

    /// The positions in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0u16..64).zip(&self.0).flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(place << 6 | u16::try_from(bit).expect("under 64"))
            })
        })
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
            if last.len() + needed > MAX_PIECE_BYTES - CHECK_BYTES {
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
        let mut next = 0u64;
        for (first, piece) in pieces.iter_mut().rev() {
            piece[NEXT_AT..NEXT_AT + 8].copy_from_slice(&next.to_be_bytes());
            let check = crc32c::crc32c(piece);
            piece.extend_from_slice(&check.to_be_bytes());
            next = *first;
        }
        pieces
    }
}

/// A piece whose checksum holds.
pub struct Piece<'a> {
    /// What the block says of itself.
    pub header: BlockHeader,
    /// First token of the next piece; `None` in the last.
    pub next: Option<u64>,
    entries: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Checks a stored piece. Errors when a bit of it has changed.
    pub fn open(bytes: &'a [u8]) -> Result<Piece<'a>, Short> {
        let (covered, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(Short { at: 0 })?;
        if crc32c::crc32c(covered).to_be_bytes() != *check {
            return Err(Short { at: covered.len() });
        }
        let mut from = Reader::new(covered);
        if from.u8()? != PIECE_VERSION {
            return Err(Short { at: 0 });
        }
        let end: [u8; 5] = from.array()?;
        let header = BlockHeader {
            end: end.iter().fold(0, |index, byte| index << 8 | u64::from(*byte)),
            earliest: from.u64()?,
            latest: from.u64()?,
        };
        let next = from.u64()?;
        Ok(Piece { header, next: (next != 0).then_some(next), entries: &covered[from.offset()..] })
    }

    /// The tokens and their positions, as they are stored.
    pub fn entries(&self) -> &'a [u8] {
        self.entries
    }

    /// The positions of `token`. `None` when this piece cannot say, because the token lies behind its end.
    ///
    /// The caller has found the piece as the last one whose first token is at most `token`.
    pub fn positions_of(&self, token: u64) -> Result<Option<Positions>, Short> {
        if self.next.is_some_and(|next| token >= next) {
            return Ok(None);
        }
        let mut from = Reader::new(self.entries);
        let mut found = Positions::none();
        while from.rest() > 0 {
            let seen = from.u64()?;
            if seen > token {
                break;
            }
            match from.u16()? {
                BITMAP_MARK => {
                    let (words, _) = from.take(BITMAP_BYTES)?.as_chunks::<8>();
                    if seen == token {
                        found
                            .0
                            .iter_mut()
                            .zip(words)
                            .for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
                        break;
                    }
                }
                count => {
                    let at = from.offset();
                    let (listed, _) = from.take(usize::from(count) * 2)?.as_chunks::<2>();
                    if seen == token {
                        for position in listed.iter().map(|bytes| u16::from_be_bytes(*bytes)) {
                            if position >= 4096 {
                                return Err(Short { at });
                            }
                            found.insert(position);
                        }
                        break;
                    }
                }
            }
        }
        Ok(Some(found))
    }

    /// Adds the postings to `into`, each position moved up by `shift`.
    pub fn merge_into(&self, shift: u16, into: &mut Postings) -> Result<(), Short> {
        let mut from = Reader::new(self.entries);
        while from.rest() > 0 {
            let token = from.u64()?;
            match from.u16()? {
                BITMAP_MARK => {
                    let bitmap = from.take(BITMAP_BYTES)?;
                    for position in 0..4096u16 {
                        if bitmap[usize::from(position >> 3)] >> (position & 7) & 1 == 1 {
                            into.add(token, position + shift);
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
                        into.add(token, position + shift);
                    }
                }
            }
        }
        Ok(())
    }
}

fn piece_start(header: &BlockHeader) -> Vec<u8> {
    let mut piece = Vec::with_capacity(MAX_PIECE_BYTES);
    piece.push(PIECE_VERSION);
    piece.extend_from_slice(&header.end.to_be_bytes()[3..]);
    piece.extend_from_slice(&header.earliest.to_be_bytes());
    piece.extend_from_slice(&header.latest.to_be_bytes());
    piece.extend_from_slice(&[0; 8]);
    piece
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
            let piece = Piece::open(&piece.1).unwrap();
            assert_eq!(piece.header, header);
            piece.positions_of(token).unwrap().unwrap()
        };
        assert_eq!(of(7), Positions::range(0, 4096));
        assert_eq!(of(8), Positions::none());
        assert_eq!(of(u64::MAX).0.iter().map(|word| word.count_ones()).sum::<u32>(), 820);
        for position in 0..4096u16 {
            let mut one = Positions::none();
            one.insert(position);
            assert_eq!(of(1_000 + u64::from(position) * 3), one);
            assert_eq!(one.iter().collect::<Vec<_>>(), [position]);
        }
        assert_eq!(of(u64::MAX).iter().collect::<Vec<_>>(), (0..4096).step_by(5).collect::<Vec<u16>>());
    }

    #[test]
    fn a_missing_piece_and_a_changed_bit_are_noticed() {
        let mut postings = Postings::default();
        (0..4000u16).for_each(|position| postings.add(100 + u64::from(position), position));
        let header = BlockHeader { end: 4000, earliest: 5, latest: 6 };
        let pieces = postings.into_pieces(&header);
        for (place, (_, bytes)) in pieces.iter().enumerate() {
            let piece = Piece::open(bytes).unwrap();
            assert_eq!(piece.next, pieces.get(place + 1).map(|(first, _)| *first));
            if let Some(next) = piece.next {
                assert_eq!(piece.positions_of(next).unwrap(), None, "the next piece answers for this token");
                assert_eq!(piece.positions_of(u64::MAX).unwrap(), None);
                assert!(piece.positions_of(next - 1).unwrap().is_some());
            }
        }
        let mut bytes = pieces[0].1.clone();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Piece::open(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Piece::open(&bytes[..bytes.len() - 1]).is_err() && Piece::open(&[]).is_err());
    }
}
