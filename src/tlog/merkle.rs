//! The tree: RFC 6962 §2.1 over SHA-256, from leaf hashes upwards.
//!
//! A [`Frontier`] grows a tree and knows its root in O(log n) memory. Proofs are made from [`Nodes`],
//! a source of hashes of *complete* subtrees: the subtree at `(level, index)` covers the leaves
//! `[index << level, (index + 1) << level)`. Those hashes never change once they exist, so whatever
//! stores them may cache them for ever. Verification needs nothing but its arguments.

use sha2::{Digest as _, Sha256};

use super::hash::Hash;

/// Largest tree: sizes fit a signed 64-bit integer, as the Go tools of the C2SP formats hold them.
pub const MAX_TREE_SIZE: u64 = (1 << 63) - 1;

/// Longest inclusion or consistency proof: one hash a level of a tree of [`MAX_TREE_SIZE`], and one
/// more for the subtree that a consistency proof starts from.
pub const MAX_PROOF_HASHES: usize = 64;

/// Root of the empty tree: SHA-256 of nothing.
pub const EMPTY_ROOT: Hash = Hash([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> Hash {
    Hash(Sha256::digest(data).into())
}

/// Hash of an inner node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut input = [1; 65];
    input[1..33].copy_from_slice(&left.0);
    input[33..].copy_from_slice(&right.0);
    sha256(&input)
}

/// A whole tree reduced to the roots of its maximal complete subtrees, largest (leftmost) first: one
/// for each bit set in the size.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the maximal complete subtrees, largest first; as many as `size` has bits set.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf, given its leaf hash.
    ///
    /// # Panics
    /// If the tree has [`MAX_TREE_SIZE`] leaves.
    pub fn append(&mut self, leaf: Hash) {
        self.append_with(leaf, &mut |_, _, _| ());
    }

    /// Appends a leaf and reports every complete subtree that it finishes, lowest first, as
    /// (level, index in that level, hash); the leaf itself is (0, its index, its hash).
    ///
    /// # Panics
    /// If the tree has [`MAX_TREE_SIZE`] leaves.
    pub fn append_with(&mut self, leaf: Hash, completed: &mut dyn FnMut(u8, u64, Hash)) {
        assert!(self.size < MAX_TREE_SIZE, "a tree has at most 2^63 - 1 leaves");
        self.carry(0, leaf, completed);
    }

    /// Appends a complete subtree of 2^level leaves, given its root; so ranges hashed in parallel are
    /// joined.
    ///
    /// # Errors
    /// The size is not a multiple of 2^level, or the tree would exceed [`MAX_TREE_SIZE`]. The
    /// frontier is then unchanged.
    pub fn append_subtree(&mut self, level: u8, root: Hash) -> Result<(), FrontierError> {
        let leaves = 1_u64.checked_shl(u32::from(level)).ok_or(FrontierError::TooLarge)?;
        if !self.size.is_multiple_of(leaves) {
            return Err(FrontierError::NotAligned { size: self.size, level });
        }
        if self.size.checked_add(leaves).is_none_or(|size| size > MAX_TREE_SIZE) {
            return Err(FrontierError::TooLarge);
        }
        self.carry(level, root, &mut |_, _, _| ());
        Ok(())
    }

    /// The root of the tree (RFC 6962 "MTH"); of the empty tree, [`EMPTY_ROOT`].
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(&last) = nodes.next() else { return EMPTY_ROOT };
        nodes.fold(last, |right, left| node_hash(left, &right))
    }

    /// Appends size(8) and the node hashes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_be_bytes());
        self.nodes.iter().for_each(|node| out.extend_from_slice(&node.0));
    }

    /// Reads a frontier from the front of `bytes` and says how many bytes it took. The hashes are
    /// taken as they stand.
    ///
    /// # Errors
    /// Too few bytes, or a size over [`MAX_TREE_SIZE`].
    pub fn decode(bytes: &[u8]) -> Result<(Frontier, usize), FrontierError> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(FrontierError::Short)?;
        let size = u64::from_be_bytes(*size);
        if size > MAX_TREE_SIZE {
            return Err(FrontierError::TooLarge);
        }
        let count = size.count_ones() as usize;
        let hashes = rest.get(..count * 32).ok_or(FrontierError::Short)?;
        let nodes = hashes.as_chunks().0.iter().map(|hash| Hash(*hash)).collect();
        Ok((Frontier { size, nodes }, 8 + count * 32))
    }

    /// Adds a complete subtree like a digit to a binary counter: equal neighbours merge upwards.
    fn carry(&mut self, level: u8, root: Hash, completed: &mut dyn FnMut(u8, u64, Hash)) {
        if self.nodes.capacity() == 0 {
            // Enough for 65,535 leaves; beyond that the vector grows once for each doubling of bits.
            self.nodes.reserve_exact(16);
        }
        let mut level = level;
        let mut carry = root;
        completed(level, self.size >> level, carry);
        let first = level;
        while self.size >> level & 1 == 1 {
            let Some(left) = self.nodes.pop() else {
                unreachable!("there is a node for each bit set in the size")
            };
            carry = node_hash(&left, &carry);
            level += 1;
            completed(level, self.size >> level, carry);
        }
        self.nodes.push(carry);
        self.size += 1 << first;
    }
}

/// A source of hashes of complete subtrees.
pub trait Nodes {
    /// Why a hash could not be had.
    type Error;

    /// Root of the complete subtree over the leaves `[index << level, (index + 1) << level)`. Level 0
    /// is the leaf hash.
    ///
    /// # Errors
    /// The source does not have it.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the tree over the first `size` leaves.
///
/// # Errors
/// The source's.
pub fn root_at<N: Nodes>(size: u64, nodes: &N) -> Result<Hash, N::Error> {
    if size == 0 { Ok(EMPTY_ROOT) } else { subtree(0, size, nodes) }
}

/// The inclusion proof (RFC 6962 §2.1.1 "PATH") of leaf `index` in the tree of `size` leaves, from
/// the leaf's sibling upwards.
///
/// # Errors
/// The source's.
///
/// # Panics
/// If `index >= size`: there is no such proof. The caller checks.
pub fn inclusion_proof<N: Nodes>(index: u64, size: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "an inclusion proof is of a leaf within the tree");
    let mut proof = Vec::new();
    let (mut begin, mut end) = (0, size);
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            proof.push(subtree(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(subtree(begin, middle, nodes)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The consistency proof (RFC 6962 §2.1.2 "PROOF") from the tree of `from` leaves to that of `to`.
/// Empty where `from` is 0 or equals `to`.
///
/// # Errors
/// The source's.
///
/// # Panics
/// If `from > to`: there is no such proof. The caller checks.
pub fn consistency_proof<N: Nodes>(from: u64, to: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    assert!(from <= to, "a consistency proof leads to the larger tree");
    if from == 0 || from == to {
        return Ok(Vec::new());
    }
    let mut proof = Vec::new();
    let (mut begin, mut end) = (0, to);
    while end != from {
        let middle = begin + split(end - begin);
        if from <= middle {
            proof.push(subtree(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(subtree(begin, middle, nodes)?);
            begin = middle;
        }
    }
    // The verifier has this hash itself if it is the whole smaller tree.
    if begin > 0 {
        proof.push(subtree(begin, end, nodes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The hashes that complete the contiguous leaves `[begin, end)` to the tree of `size` leaves: the
/// maximal complete subtrees before `begin` (left to right, those of a [`Frontier`] of `begin`
/// leaves) and after `end` (left to right).
///
/// # Errors
/// The source's.
///
/// # Panics
/// Unless `begin <= end <= size`. The caller checks.
pub fn range_proof<N: Nodes>(
    begin: u64,
    end: u64,
    size: u64,
    nodes: &N,
) -> Result<(Vec<Hash>, Vec<Hash>), N::Error> {
    assert!(begin <= end && end <= size, "a range proof is of leaves within the tree");
    let cover = |from, to| -> Result<Vec<Hash>, N::Error> {
        aligned(from, to).map(|(level, index)| nodes.node(level, index)).collect()
    };
    Ok((cover(0, begin)?, cover(end, size)?))
}

/// Checks that the leaves `leaves`, from index `begin` on, stand in the tree of `size` leaves with
/// `root`: `left` and `right` are what [`range_proof`] gives.
///
/// # Errors
/// Sizes that do not fit, a proof of the wrong length, another root.
pub fn verify_range(
    leaves: &[Hash],
    begin: u64,
    size: u64,
    left: &[Hash],
    right: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    let end = u64::try_from(leaves.len()).ok().and_then(|count| begin.checked_add(count));
    let Some(end) = end.filter(|&end| end <= size && size <= MAX_TREE_SIZE) else {
        return Err(ProofError::Index { index: begin, size });
    };
    let right_hashes = aligned(end, size).count();
    let expected = begin.count_ones() as usize + right_hashes;
    if left.len() != begin.count_ones() as usize || right.len() != right_hashes {
        return Err(ProofError::Length { expected, found: left.len() + right.len() });
    }
    let mut tree = Frontier { size: begin, nodes: left.to_vec() };
    leaves.iter().for_each(|leaf| tree.append(*leaf));
    for ((level, _), hash) in aligned(end, size).zip(right) {
        tree.carry(level, *hash, &mut |_, _, _| ());
    }
    if tree.root() == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that `leaf` (a leaf hash) stands at `index` in the tree of `size` leaves with `root`.
///
/// # Errors
/// The index is not in the tree, the proof has the wrong length, or it leads to another root.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size || size > MAX_TREE_SIZE {
        return Err(ProofError::Index { index, size });
    }
    let (bends, lefts) = path_shape(index, size - 1);
    if proof.len() != bends + lefts {
        return Err(ProofError::Length { expected: bends + lefts, found: proof.len() });
    }
    let (inner, border) = proof.split_at(bends);
    let mut hash = *leaf;
    for (level, sibling) in inner.iter().enumerate() {
        hash = if index >> level & 1 == 0 { node_hash(&hash, sibling) } else { node_hash(sibling, &hash) };
    }
    for sibling in border {
        hash = node_hash(sibling, &hash);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree of `from` leaves with `from_root` is a prefix of that of `to` leaves with
/// `to_root`.
///
/// # Errors
/// `from` is larger than `to`, the proof has the wrong length, or it leads to another root than
/// either given.
pub fn verify_consistency(
    from: u64,
    to: u64,
    from_root: &Hash,
    to_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from > to || to > MAX_TREE_SIZE {
        return Err(ProofError::Sizes { from, to });
    }
    if from == 0 || from == to {
        if !proof.is_empty() {
            return Err(ProofError::Length { expected: 0, found: proof.len() });
        }
        if from == 0 && *from_root != EMPTY_ROOT {
            return Err(ProofError::FromRoot);
        }
        let same = from == to && from_root != to_root;
        return if same { Err(ProofError::Root) } else { Ok(()) };
    }
    // The walk starts at the last maximal complete subtree of the smaller tree.
    let level = from.trailing_zeros();
    let start = (from - 1) >> level;
    let (bends, lefts) = path_shape(start, (to - 1) >> level);
    let given = usize::from(!from.is_power_of_two());
    if proof.len() != given + bends + lefts {
        return Err(ProofError::Length { expected: given + bends + lefts, found: proof.len() });
    }
    let (seed, path) = proof.split_at(given);
    let seed = *seed.first().unwrap_or(from_root);
    let (inner, border) = path.split_at(bends);
    let (mut old, mut new) = (seed, seed);
    for (step, sibling) in inner.iter().enumerate() {
        if start >> step & 1 == 0 {
            new = node_hash(&new, sibling);
        } else {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
        }
    }
    for sibling in border {
        old = node_hash(sibling, &old);
        new = node_hash(sibling, &new);
    }
    if old != *from_root {
        return Err(ProofError::FromRoot);
    }
    if new == *to_root { Ok(()) } else { Err(ProofError::Root) }
}

/// Every complete subtree of a growing tree, in memory: 64 bytes a leaf. For offline checks of a
/// bounded log and for tests.
#[derive(Clone, Default, Debug)]
pub struct MemoryNodes {
    frontier: Frontier,
    levels: Vec<Vec<Hash>>,
}

impl MemoryNodes {
    /// Appends a leaf, given its leaf hash.
    pub fn append(&mut self, leaf: Hash) {
        let levels = &mut self.levels;
        self.frontier.append_with(leaf, &mut |level, _, hash| {
            let level = usize::from(level);
            if levels.len() == level {
                levels.push(Vec::new());
            }
            levels[level].push(hash);
        });
    }

    /// The tree so far.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }
}

impl Nodes for MemoryNodes {
    type Error = MissingNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        let found = self.levels.get(usize::from(level)).zip(usize::try_from(index).ok());
        found.and_then(|(hashes, index)| hashes.get(index)).copied().ok_or(MissingNode { level, index })
    }
}

/// A complete subtree that a source of nodes does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tree has no complete subtree {index} at level {level} yet")]
pub struct MissingNode {
    /// Height of the subtree.
    pub level: u8,
    /// Its index among those of its level.
    pub index: u64,
}

/// Why a frontier was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrontierError {
    /// Fewer bytes than the size calls for.
    #[error("the bytes end before the frontier does; nothing of them was used")]
    Short,
    /// Over [`MAX_TREE_SIZE`].
    #[error("a tree has at most 2^63 - 1 leaves; the frontier is unchanged")]
    TooLarge,
    /// A subtree that would not stand on its own boundary.
    #[error("a subtree of level {level} cannot follow {size} leaves; the frontier is unchanged")]
    NotAligned {
        /// Leaves so far.
        size: u64,
        /// Level of the refused subtree.
        level: u8,
    },
}

/// Why a Merkle proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not within the tree.
    #[error("index {index} does not lie in a tree of {size} leaves")]
    Index {
        /// Index of the (first) leaf.
        index: u64,
        /// Tree size.
        size: u64,
    },
    /// A consistency proof from a larger to a smaller tree.
    #[error("a tree of {from} leaves is no prefix of one of {to}: the log was cut, or the sizes are swapped")]
    Sizes {
        /// Size of the tree said to be the prefix.
        from: u64,
        /// Size of the tree said to continue it.
        to: u64,
    },
    /// Too many or too few hashes.
    #[error("the proof has {found} hashes where its shape needs {expected}")]
    Length {
        /// Hashes that the sizes call for.
        expected: usize,
        /// Hashes given.
        found: usize,
    },
    /// The hashes do not lead to the (larger) tree's root.
    #[error("the proof does not lead to the given root: the leaf, the proof or the root was changed")]
    Root,
    /// The hashes do not lead to the smaller tree's root.
    #[error(
        "the proof does not lead to the root of the smaller tree: the log was rewritten before that size"
    )]
    FromRoot,
}

impl ProofError {
    /// The stable word for this fault.
    pub fn kind(&self) -> &'static str {
        match self {
            ProofError::Index { .. } => "proof_index",
            ProofError::Sizes { .. } => "proof_sizes",
            ProofError::Length { .. } => "proof_length",
            ProofError::Root => "proof_root",
            ProofError::FromRoot => "proof_from_root",
        }
    }
}

/// The largest power of two smaller than `size`, for `size` ≥ 2: RFC 6962's *k*.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Root of the tree over `[begin, end)`, a node of the tree of any size ≥ `end`: `begin` is a multiple
/// of the range's size rounded up to a power of two.
fn subtree<N: Nodes>(begin: u64, end: u64, nodes: &N) -> Result<Hash, N::Error> {
    let mut complete = aligned(begin, end).map(|(level, index)| nodes.node(level, index));
    // At most one for each bit of the length, so a fixed stack does.
    let mut stack = [Hash::ZERO; 64];
    let mut depth = 0;
    for node in &mut complete {
        stack[depth] = node?;
        depth += 1;
    }
    let (last, rest) = (stack[depth - 1], &stack[..depth - 1]);
    Ok(rest.iter().rev().fold(last, |right, left| node_hash(left, &right)))
}

/// The maximal complete subtrees that tile `[begin, end)` from left to right, as (level, index).
fn aligned(begin: u64, end: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut position = begin;
    std::iter::from_fn(move || {
        let left = end - position;
        if left == 0 {
            return None;
        }
        let level = position.trailing_zeros().min(63 - left.leading_zeros());
        let index = position >> level;
        position += 1 << level;
        // `level` is at most 63.
        u8::try_from(level).ok().map(|level| (level, index))
    })
}

/// Shape of the path from node `index` to the root when `last` is the last node of its level: first
/// so many siblings on either side, until both paths meet, then so many on the left only.
fn path_shape(index: u64, last: u64) -> (usize, usize) {
    let bends = 64 - (index ^ last).leading_zeros();
    let lefts = (index >> bends).count_ones();
    (bends as usize, lefts as usize)
}

#[cfg(test)]
mod tests;
