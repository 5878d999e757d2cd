//! Vectors of the tree: roots, proofs, frontiers, tiles and bundles.

use varve::tlog::hash::Hash;
use varve::tlog::merkle::{
    EMPTY_ROOT, Frontier, MemoryNodes, ProofError, consistency_proof, inclusion_proof, range_proof, root_at,
    sha256, verify_consistency, verify_inclusion, verify_range,
};
use varve::tlog::tile::{TilePath, hash_tile, parse_bundle, push_bundle_entry};

use super::log;
use crate::vector::{Answer, Members, Value, Vectors, hex, list, text};

pub(super) fn add(vectors: &mut Vectors) {
    roots(vectors);
    inclusions(vectors);
    consistencies(vectors);
    ranges(vectors);
    tiles(vectors);
    bundles(vectors);
}

/// The leaf hashes of the vectors: SHA-256(0x00 || "leaf " || decimal index).
fn leaf(index: u64) -> Hash {
    sha256(format!("\0leaf {index}").as_bytes())
}

fn tree(size: u64) -> MemoryNodes {
    let mut nodes = MemoryNodes::default();
    (0..size).for_each(|index| nodes.append(leaf(index)));
    nodes
}

fn root(size: u64) -> Hash {
    tree(size).frontier().root()
}

fn hashes(hashes: &[Hash]) -> Value {
    list(hashes.iter().map(|hash| &hash.0[..]))
}

fn answer(checked: Result<(), ProofError>) -> Answer {
    checked.map(|()| Vec::new()).map_err(|error| error.kind())
}

fn roots(vectors: &mut Vectors) {
    for size in [0, 1, 2, 3, 7, 8, 130] {
        let leaves: Vec<Hash> = (0..size).map(leaf).collect();
        let mut frontier = Vec::new();
        tree(size).frontier().encode(&mut frontier);
        let outputs = vec![("root", hex(&root(size).0)), ("frontier", hex(&frontier))];
        let input = vec![("leaf_hashes", hashes(&leaves))];
        vectors.add("tree", &format!("tree-{size}"), "Root and frontier.", input, "", Ok(outputs));
    }
    let mut bytes = Vec::new();
    tree(7).frontier().encode(&mut bytes);
    bytes.pop();
    let answer = Frontier::decode(&bytes).map(|_| Vec::new()).map_err(|_| "frontier");
    let about = "The size has three bits set, the third hash is cut.";
    vectors.add("frontier", "frontier-short", about, vec![("frontier", hex(&bytes))], "frontier", answer);
}

fn inclusions(vectors: &mut Vectors) {
    let nodes = tree(11);
    let path = |index, size| inclusion_proof(index, size, &nodes).expect("the tree has 11 leaves");
    let mut add = |name, about, leaf: Hash, (index, size), proof: &[Hash], root: Hash, expected| {
        let input = vec![
            ("leaf_hash", hex(&leaf.0)),
            ("index", Value::Number(index)),
            ("size", Value::Number(size)),
            ("proof", hashes(proof)),
            ("root", hex(&root.0)),
        ];
        let checked = verify_inclusion(&leaf, index, size, proof, &root);
        vectors.add("inclusion", name, about, input, expected, answer(checked));
    };
    add("inclusion-only-leaf", "A tree of one leaf needs no hashes.", leaf(0), (0, 1), &[], leaf(0), "");
    let good = path(6, 11);
    add("inclusion-left-half", "Leaf 6 of 11.", leaf(6), (6, 11), &good, root(11), "");
    add(
        "inclusion-last-leaf",
        "Leaf 10 of 11, a short path.",
        leaf(10),
        (10, 11),
        &path(10, 11),
        root(11),
        "",
    );
    add(
        "inclusion-wrong-leaf",
        "Leaf 7 does not stand at 6.",
        leaf(7),
        (6, 11),
        &good,
        root(11),
        "proof_root",
    );
    add(
        "inclusion-wrong-index",
        "Leaf 6 does not stand at 7.",
        leaf(6),
        (7, 11),
        &good,
        root(11),
        "proof_root",
    );
    add("inclusion-wrong-root", "The root of ten leaves.", leaf(6), (6, 11), &good, root(10), "proof_root");
    let mut bad = good.clone();
    bad.swap(0, 1);
    add("inclusion-swapped", "Two hashes changed places.", leaf(6), (6, 11), &bad, root(11), "proof_root");
    add("inclusion-short", "One hash too few.", leaf(6), (6, 11), &good[..3], root(11), "proof_length");
    let long = [&good[..], &[EMPTY_ROOT]].concat();
    add("inclusion-long", "One hash too many.", leaf(6), (6, 11), &long, root(11), "proof_length");
    add(
        "inclusion-index",
        "Index 11 is not in a tree of 11.",
        leaf(6),
        (11, 11),
        &good,
        root(11),
        "proof_index",
    );
    add(
        "inclusion-empty-tree",
        "Nothing is in an empty tree.",
        leaf(0),
        (0, 0),
        &[],
        EMPTY_ROOT,
        "proof_index",
    );
}

fn consistencies(vectors: &mut Vectors) {
    let nodes = tree(13);
    let path = |from, to| consistency_proof(from, to, &nodes).expect("the tree has 13 leaves");
    let mut add = |name, about, (from, to), from_root: Hash, to_root: Hash, proof: &[Hash], expected| {
        let input = vec![
            ("from", Value::Number(from)),
            ("to", Value::Number(to)),
            ("from_root", hex(&from_root.0)),
            ("to_root", hex(&to_root.0)),
            ("proof", hashes(proof)),
        ];
        let checked = verify_consistency(from, to, &from_root, &to_root, proof);
        vectors.add("consistency", name, about, input, expected, answer(checked));
    };
    let good = path(6, 13);
    add("consistency-ok", "From 6 to 13.", (6, 13), root(6), root(13), &good, "");
    let power = path(8, 13);
    add("consistency-power-of-two", "The smaller root is a node.", (8, 13), root(8), root(13), &power, "");
    add("consistency-equal", "One tree, no hashes.", (6, 6), root(6), root(6), &[], "");
    add(
        "consistency-from-empty",
        "Everything continues the empty tree.",
        (0, 6),
        EMPTY_ROOT,
        root(6),
        &[],
        "",
    );
    let zero = "proof_from_root";
    add("consistency-empty-root", "The empty tree has one root.", (0, 6), root(1), root(6), &[], zero);
    add("consistency-forked", "Two roots of one size.", (6, 6), root(6), root(5), &[], "proof_root");
    add("consistency-sizes", "A log does not shrink.", (13, 6), root(13), root(6), &good, "proof_sizes");
    add("consistency-from-root", "Another past.", (6, 13), root(5), root(13), &good, "proof_from_root");
    add("consistency-to-root", "Another present.", (6, 13), root(6), root(12), &good, "proof_root");
    add("consistency-short", "One hash too few.", (6, 13), root(6), root(13), &good[1..], "proof_length");
    let long = [&good[..], &[EMPTY_ROOT]].concat();
    add("consistency-long", "One hash too many.", (6, 13), root(6), root(13), &long, "proof_length");
    let given = [&[root(8)], &power[..]].concat();
    let about = "The verifier's own root is not sent again.";
    add("consistency-root-repeated", about, (8, 13), root(8), root(13), &given, "proof_length");
}

fn ranges(vectors: &mut Vectors) {
    let nodes = tree(13);
    let (left, right) = range_proof(5, 9, 13, &nodes).expect("the tree has 13 leaves");
    let leaves: Vec<Hash> = (5..9).map(leaf).collect();
    let mut add = |name, about, leaves: &[Hash], left: &[Hash], right: &[Hash], expected| {
        let input = vec![
            ("begin", Value::Number(5)),
            ("size", Value::Number(13)),
            ("leaf_hashes", hashes(leaves)),
            ("left", hashes(left)),
            ("right", hashes(right)),
            ("root", hex(&root(13).0)),
        ];
        let checked = verify_range(leaves, 5, 13, left, right, &root(13));
        vectors.add("range", name, about, input, expected, answer(checked));
    };
    add("range-ok", "Leaves 5 to 8 of 13.", &leaves, &left, &right, "");
    let mut bad = leaves.clone();
    bad.swap(1, 2);
    add("range-swapped", "Two leaves changed places.", &bad, &left, &right, "proof_root");
    add("range-leaf-missing", "The last leaf is left out.", &leaves[..3], &left, &right, "proof_length");
    add("range-left-short", "A left sibling is missing.", &leaves, &left[1..], &right, "proof_length");
    add(
        "range-right-long",
        "One right sibling too many.",
        &leaves,
        &left,
        &[&right[..], &left[..1]].concat(),
        "proof_length",
    );
    let many: Vec<Hash> = (5..14).map(leaf).collect();
    add("range-past-the-end", "More leaves than the tree has.", &many, &left, &[], "proof_index");
}

fn tiles(vectors: &mut Vectors) {
    let mut add = |name, about, path: &str, expected| {
        let answer = TilePath::parse(path).map(|_| Vec::new()).map_err(|error| error.kind());
        vectors.add("tile_path", name, about, vec![("path", text(path))], expected, answer);
    };
    add("tile-path-ok", "Index 1,234,067.", "tile/0/x001/x234/067", "");
    add("tile-path-partial", "A partial bundle.", "tile/entries/000.p/255", "");
    add("tile-path-leading-group", "A second spelling of 001.", "tile/0/x000/001", "tile_form");
    add("tile-path-level-zero", "A second spelling of level 0.", "tile/00/000", "tile_form");
    add("tile-path-full-partial", "A full tile is not partial.", "tile/0/000.p/256", "tile_form");
    add("tile-path-empty", "Empty tiles are not served.", "tile/0/000.p/0", "tile_form");
    add("tile-path-level-64", "Levels end at 63.", "tile/64/000", "tile_form");
    add("tile-path-out-of-range", "No tree of 2^63 - 1 has level 8.", "tile/8/000", "tile_out_of_range");

    let nodes = tree(300);
    for (name, path) in [("tile-level-1", "tile/1/000.p/1"), ("tile-level-0-partial", "tile/0/001.p/44")] {
        let tile = TilePath::parse(path).expect("a tile path");
        assert!(tile.is_within(300));
        let bytes = hash_tile(&tile, &nodes).expect("the tree has 300 leaves");
        let input: Members = vec![("size", Value::Number(300)), ("path", text(path))];
        let about = "Leaf hashes are SHA-256(0x00 || \"leaf \" || decimal index).";
        vectors.add("tile", name, about, input, "", Ok(vec![("tile", hex(&bytes))]));
    }
    assert_eq!(root_at(300, &nodes), Ok(root(300)));
}

fn bundles(vectors: &mut Vectors) {
    let entries = log(3);
    let mut bundle = Vec::new();
    entries.iter().for_each(|entry| push_bundle_entry(&mut bundle, entry));
    let mut add = |name, about, bytes: &[u8], expected| {
        let answer = parse_bundle(bytes, 3)
            .map(|entries| vec![("entries", list(entries.iter().map(|entry| &entry[..])))])
            .map_err(|error| error.kind());
        let input = vec![("width", Value::Number(3)), ("bundle", hex(bytes))];
        vectors.add("bundle", name, about, input, expected, answer);
    };
    add("bundle-ok", "Three entries.", &bundle, "");
    add("bundle-cut", "The last byte is missing.", &bundle[..bundle.len() - 1], "tile_bundle");
    add("bundle-narrow", "Two entries where three are due.", &bundle[..2 * 126], "tile_bundle");
    let mut bad = bundle.clone();
    bad[1] = 123;
    add("bundle-length", "An entry of 123 bytes.", &bad, "tile_bundle");
}
