//! The tree against RFC 6962's recursive definitions, written down as they stand there.

use super::*;
use proptest::prelude::*;

/// RFC 6962 §2.1 MTH over leaf hashes.
fn mth(d: &[Hash]) -> Hash {
    match d.len() {
        0 => sha256(b""),
        1 => d[0],
        n => {
            let k = naive_k(n);
            node_hash(&mth(&d[..k]), &mth(&d[k..]))
        }
    }
}

/// RFC 6962 §2.1.1 PATH(m, D[n]).
fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
    if d.len() == 1 {
        return Vec::new();
    }
    let k = naive_k(d.len());
    let (mut proof, sibling) =
        if m < k { (path(m, &d[..k]), mth(&d[k..])) } else { (path(m - k, &d[k..]), mth(&d[..k])) };
    proof.push(sibling);
    proof
}

/// RFC 6962 §2.1.2 SUBPROOF(m, D[n], b).
fn subproof(m: usize, d: &[Hash], b: bool) -> Vec<Hash> {
    if m == d.len() {
        return if b { Vec::new() } else { vec![mth(d)] };
    }
    let k = naive_k(d.len());
    let (mut proof, sibling) = if m <= k {
        (subproof(m, &d[..k], b), mth(&d[k..]))
    } else {
        (subproof(m - k, &d[k..], false), mth(&d[..k]))
    };
    proof.push(sibling);
    proof
}

fn naive_k(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|i| sha256(format!("\0leaf {i}").as_bytes())).collect()
}

fn tree(leaves: &[Hash]) -> MemoryNodes {
    let mut nodes = MemoryNodes::default();
    leaves.iter().for_each(|leaf| nodes.append(*leaf));
    nodes
}

/// The eight leaves and the roots that Certificate Transparency's implementations share.
#[test]
fn certificate_transparency_roots() {
    let data: [&[u8]; 8] = [
        b"",
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), EMPTY_ROOT);
    assert_eq!(sha256(b""), EMPTY_ROOT);
    for (data, root) in data.iter().zip(roots) {
        frontier.append(sha256(&[&[0][..], data].concat()));
        assert_eq!(frontier.root().to_string(), root);
    }
}

#[test]
fn every_proof_of_every_size_to_130_is_rfc_6962s() {
    let all = leaves(130);
    let nodes = tree(&all);
    let roots: Vec<Hash> = (0..=130).map(|size| mth(&all[..size])).collect();
    let mut frontier = Frontier::default();
    for size in 0..=130_usize {
        let root = &roots[size];
        assert_eq!(frontier.root(), *root);
        assert_eq!(root_at(size as u64, &nodes), Ok(*root));
        for index in 0..size {
            let proof = inclusion_proof(index as u64, size as u64, &nodes).unwrap();
            assert_eq!(proof, path(index, &all[..size]), "path {index} of {size}");
            let verify =
                |proof: &[Hash]| verify_inclusion(&all[index], index as u64, size as u64, proof, root);
            assert_eq!(verify(&proof), Ok(()));
            if let Some(short) = proof.split_last() {
                assert!(matches!(verify(short.1), Err(ProofError::Length { .. })));
            }
            let long = [&proof[..], &[EMPTY_ROOT]].concat();
            assert!(matches!(verify(&long), Err(ProofError::Length { .. })));
        }
        for (from, from_root) in roots[..=size].iter().enumerate().skip(1) {
            let proof = consistency_proof(from as u64, size as u64, &nodes).unwrap();
            assert_eq!(proof, subproof(from, &all[..size], true), "proof {from} to {size}");
            let checked = verify_consistency(from as u64, size as u64, from_root, root, &proof);
            assert_eq!(checked, Ok(()), "{from} to {size}");
        }
        if size < 130 {
            frontier.append(all[size]);
        }
    }
}

#[test]
fn no_wrong_index_size_or_hash_verifies() {
    let all = leaves(40);
    let nodes = tree(&all);
    for size in 1..=40_u64 {
        let root = root_at(size, &nodes).unwrap();
        for index in 0..size {
            let leaf = &all[usize::try_from(index).unwrap()];
            let proof = inclusion_proof(index, size, &nodes).unwrap();
            for other in (0..size).filter(|other| *other != index) {
                assert!(verify_inclusion(leaf, other, size, &proof, &root).is_err());
            }
            for at in 0..proof.len() {
                let mut bad = proof.clone();
                bad[at].0[31] ^= 1;
                assert_eq!(verify_inclusion(leaf, index, size, &bad, &root), Err(ProofError::Root));
            }
            assert_eq!(verify_inclusion(&root, index, size, &proof, &EMPTY_ROOT), Err(ProofError::Root));
        }
    }
    let some = Hash([1; 32]);
    let outside = verify_inclusion(&some, 5, 5, &[], &some);
    assert_eq!(outside, Err(ProofError::Index { index: 5, size: 5 }));
    assert!(verify_inclusion(&some, 0, 0, &[], &EMPTY_ROOT).is_err());
    assert!(verify_inclusion(&some, u64::MAX - 1, u64::MAX, &[some; 64], &some).is_err());
    assert_eq!(verify_inclusion(&some, 0, 1, &[], &some), Ok(()));
}

#[test]
fn no_rewritten_tree_is_consistent() {
    let all = leaves(40);
    let nodes = tree(&all);
    for to in 1..=40_u64 {
        let to_root = root_at(to, &nodes).unwrap();
        for from in 1..to {
            let from_root = root_at(from, &nodes).unwrap();
            let proof = consistency_proof(from, to, &nodes).unwrap();
            let mut other = from_root;
            other.0[0] ^= 1;
            assert!(verify_consistency(from, to, &other, &to_root, &proof).is_err());
            assert!(verify_consistency(from, to, &from_root, &other, &proof).is_err());
            for at in 0..proof.len() {
                let mut bad = proof.clone();
                bad[at].0[0] ^= 1;
                assert!(verify_consistency(from, to, &from_root, &to_root, &bad).is_err());
            }
            assert!(verify_consistency(from, to, &from_root, &to_root, &proof[1..]).is_err());
        }
    }
}

#[test]
fn the_edges_of_consistency() {
    let some = Hash([1; 32]);
    assert_eq!(verify_consistency(0, 9, &EMPTY_ROOT, &some, &[]), Ok(()));
    assert_eq!(verify_consistency(0, 9, &some, &some, &[]), Err(ProofError::FromRoot));
    assert_eq!(verify_consistency(0, 0, &EMPTY_ROOT, &some, &[]), Err(ProofError::Root));
    assert_eq!(verify_consistency(0, 0, &EMPTY_ROOT, &EMPTY_ROOT, &[]), Ok(()));
    assert_eq!(verify_consistency(7, 7, &some, &some, &[]), Ok(()));
    assert_eq!(verify_consistency(7, 7, &some, &EMPTY_ROOT, &[]), Err(ProofError::Root));
    let extra = verify_consistency(7, 7, &some, &some, &[some]);
    assert_eq!(extra, Err(ProofError::Length { expected: 0, found: 1 }));
    assert_eq!(verify_consistency(8, 7, &some, &some, &[]), Err(ProofError::Sizes { from: 8, to: 7 }));
    assert!(verify_consistency(1, u64::MAX, &some, &some, &[some; 64]).is_err());
}

#[test]
fn a_frontier_reports_each_complete_subtree_once() {
    let all = leaves(70);
    let mut frontier = Frontier::default();
    let mut seen = Vec::new();
    for leaf in &all {
        frontier.append_with(*leaf, &mut |level, index, hash| seen.push((level, index, hash)));
    }
    let mut expected = 0;
    for level in 0..=6_u8 {
        for index in 0..70_u64 >> level {
            let at = usize::try_from(index << level).unwrap();
            let hash = mth(&all[at..at + (1 << level)]);
            assert!(seen.contains(&(level, index, hash)), "subtree {level}/{index}");
            expected += 1;
        }
    }
    assert_eq!(seen.len(), expected);
}

#[test]
fn a_frontier_survives_its_encoding() {
    let mut frontier = Frontier::default();
    for (size, leaf) in leaves(100).into_iter().enumerate() {
        let mut bytes = Vec::new();
        frontier.encode(&mut bytes);
        assert_eq!(bytes.len(), 8 + 32 * size.count_ones() as usize);
        let length = bytes.len();
        assert_eq!(Frontier::decode(&bytes[..length - 1]), Err(FrontierError::Short));
        bytes.extend([9; 5]);
        assert_eq!(Frontier::decode(&bytes), Ok((frontier.clone(), length)));
        frontier.append(leaf);
    }
    let huge = [&(MAX_TREE_SIZE + 1).to_be_bytes()[..], &[0; 32]].concat();
    assert_eq!(Frontier::decode(&huge), Err(FrontierError::TooLarge));
}

#[test]
fn subtrees_join_only_on_their_boundary() {
    let all = leaves(64);
    let mut whole = Frontier::default();
    all.iter().for_each(|leaf| whole.append(*leaf));
    let mut joined = Frontier::default();
    for chunk in all.chunks(16) {
        joined.append_subtree(4, mth(chunk)).unwrap();
    }
    assert_eq!(joined, whole);
    joined.append(all[0]);
    assert_eq!(joined.append_subtree(1, all[0]), Err(FrontierError::NotAligned { size: 65, level: 1 }));
    assert_eq!(joined.append_subtree(64, all[0]), Err(FrontierError::TooLarge));
    assert_eq!(Frontier::default().append_subtree(63, all[0]), Err(FrontierError::TooLarge));
    assert_eq!(joined.size(), 65);
}

#[test]
fn every_range_of_every_size_to_20_is_proved() {
    let all = leaves(20);
    let nodes = tree(&all);
    for size in 0..=20_usize {
        let root = mth(&all[..size]);
        for begin in 0..=size {
            for end in begin..=size {
                let (left, right) = range_proof(begin as u64, end as u64, size as u64, &nodes).unwrap();
                let check = |leaves: &[Hash], left: &[Hash], right: &[Hash]| {
                    verify_range(leaves, begin as u64, size as u64, left, right, &root)
                };
                assert_eq!(check(&all[begin..end], &left, &right), Ok(()), "[{begin},{end}) of {size}");
                if end > begin {
                    let mut bad = all[begin..end].to_vec();
                    bad[0].0[0] ^= 1;
                    assert_eq!(check(&bad, &left, &right), Err(ProofError::Root));
                    assert!(check(&all[begin..end - 1], &left, &right).is_err());
                }
                let long = [&right[..], &[root]].concat();
                assert!(matches!(check(&all[begin..end], &left, &long), Err(ProofError::Length { .. })));
            }
        }
    }
    assert!(verify_range(&all, 1, 20, &[], &[], &EMPTY_ROOT).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn larger_trees_are_rfc_6962s((size, index, from) in (131..1500_usize).prop_flat_map(|size| (Just(size), 0..size, 1..=size))) {
        let all = leaves(size);
        let nodes = tree(&all);
        let root = mth(&all);
        prop_assert_eq!(nodes.frontier().root(), root);
        let (size, index64, from64) = (size as u64, index as u64, from as u64);
        let proof = inclusion_proof(index64, size, &nodes).unwrap();
        prop_assert_eq!(&proof, &path(index, &all));
        prop_assert_eq!(verify_inclusion(&all[index], index64, size, &proof, &root), Ok(()));
        let proof = consistency_proof(from64, size, &nodes).unwrap();
        prop_assert_eq!(&proof, &subproof(from, &all, true));
        prop_assert_eq!(verify_consistency(from64, size, &mth(&all[..from]), &root, &proof), Ok(()));
    }

    #[test]
    fn arbitrary_proofs_never_panic(index: u64, size: u64, count in 0..70_usize) {
        let hash = Hash([5; 32]);
        let proof = vec![hash; count];
        let _ = verify_inclusion(&hash, index, size, &proof, &hash);
        let _ = verify_consistency(index, size, &hash, &hash, &proof);
        let _ = verify_range(&proof, index, size, &proof, &proof, &hash);
    }
}
