//! Vectors of the proof core (docs/format/tlog.md): entries, chain and keys here, the tree in
//! [`tree`], the C2SP texts in [`texts`].

mod texts;
mod tree;

use varve::tlog::chain::{self, ENTRY_BYTES, Entry, FLAG_HELD, FLAG_OWN};
use varve::tlog::hash::Hash;
use varve::tlog::key::{KeyId, SeedSigner, Signature, Signer as _, VerifyingKey};

use crate::vector::{Answer, File, Value, Vectors, hex, text};

/// The log that the vectors are about.
const ORIGIN: &str = "log.example/acme";

/// All vectors of the room.
pub(crate) fn files() -> Vec<File> {
    let mut vectors = Vectors::new("tlog");
    entries(&mut vectors);
    chains(&mut vectors);
    log_ids(&mut vectors);
    keys(&mut vectors);
    vkeys(&mut vectors);
    signatures(&mut vectors);
    tree::add(&mut vectors);
    texts::add(&mut vectors);
    vectors.into_files()
}

/// The first entries of a log that the signer of seed 07… keeps, one a second.
fn log(size: u64) -> Vec<[u8; ENTRY_BYTES]> {
    let mut previous = Hash::ZERO;
    let entry = |index: u64| {
        let entry = Entry {
            log_id: chain::log_id(ORIGIN, &[0x0e; 32], &signer().verifying_key().to_bytes(), None),
            index,
            recorded_at: 1_767_225_600_000_000 + index * 1_000_000,
            key_id: signer().verifying_key().key_id(ORIGIN),
            class: u16::from(index != 0),
            flags: if index == 0 { FLAG_OWN } else { 0 },
            event: varve::tlog::hash::EVENT.hash(&[&[0x05; 16], format!("event {index}").as_bytes()]),
            previous,
        };
        let bytes = entry.encode();
        previous = chain::link(&bytes);
        bytes
    };
    (0..size).map(entry).collect()
}

/// The log's signer: seed 07 × 32.
fn signer() -> SeedSigner {
    SeedSigner::from_seed(&[7; 32])
}

/// A signer that nobody knows: seed 08 × 32.
fn stranger() -> SeedSigner {
    SeedSigner::from_seed(&[8; 32])
}

fn sign_entry(signer: &SeedSigner, entry: &[u8; ENTRY_BYTES]) -> Signature {
    signer.sign(&chain::signed_message(&chain::link(entry)))
}

fn entries(vectors: &mut Vectors) {
    let answer = |bytes: &[u8]| -> Answer {
        let entry = Entry::decode(bytes).map_err(|error| error.kind())?;
        let encoded = entry.encode();
        assert_eq!(encoded[..], *bytes);
        let link = chain::link(&encoded);
        Ok(vec![
            ("log_id", hex(&entry.log_id.0)),
            ("index", Value::Number(entry.index)),
            ("recorded_at", Value::Number(entry.recorded_at)),
            ("key_id", text(&entry.key_id.to_string())),
            ("class", Value::Number(entry.class.into())),
            ("flags", Value::Number(entry.flags.into())),
            ("event", hex(&entry.event.0)),
            ("previous", hex(&entry.previous.0)),
            ("link", hex(&link.0)),
            ("leaf_hash", hex(&chain::leaf_hash(&encoded).0)),
            ("signed_message", hex(&chain::signed_message(&link))),
        ])
    };
    let mut add = |name, about, bytes: &[u8], expected| {
        vectors.add("entry", name, about, vec![("entry", hex(bytes))], expected, answer(bytes));
    };
    let good = Entry {
        log_id: Hash([0x11; 32]),
        index: 0x0001_0203_0405_0607,
        recorded_at: 0x0006_47a1_b2c3_d4e5,
        key_id: KeyId([0xa1, 0xa2, 0xa3, 0xa4]),
        class: 0x0102,
        flags: FLAG_OWN | FLAG_HELD,
        event: Hash([0x22; 32]),
        previous: Hash([0x33; 32]),
    }
    .encode();
    add("entry-ok", "Every field has bytes of its own.", &good, "");
    add("entry-genesis", "Index 0 chains to 32 zero bytes.", &log(1)[0], "");
    add("entry-short", "123 bytes.", &good[..123], "entry_length");
    add("entry-long", "125 bytes.", &[&good[..], &[0]].concat(), "entry_length");
    let mut bad = good;
    bad[3] = b'2';
    add("entry-magic", "VRV2 is a later format.", &bad, "entry_magic");
    let mut bad = good;
    bad[59] |= 4;
    add("entry-flag-bit-2", "Flag bit 2 has no meaning in version 1.", &bad, "entry_flags");
    let mut bad = good;
    bad[58] |= 0x80;
    add("entry-flag-bit-15", "Nor has flag bit 15.", &bad, "entry_flags");
}

fn chains(vectors: &mut Vectors) {
    let log = log(3);
    let decode = |bytes: &[u8; ENTRY_BYTES]| Entry::decode(bytes).expect("the log's entries decode");
    let mut add = |name, about, before: Option<&[u8; ENTRY_BYTES]>, entry: Entry, expected| {
        let input = vec![
            ("before", before.map_or(Value::Null, |before| hex(before))),
            ("entry", hex(&entry.encode())),
        ];
        let answer = match before {
            None => entry.follows(None),
            Some(before) => entry.follows(Some((&decode(before), &chain::link(before)))),
        };
        let answer = answer.map(|()| Vec::new()).map_err(|error| error.kind());
        vectors.add("chain", name, about, input, expected, answer);
    };
    let (first, second) = (decode(&log[0]), decode(&log[1]));
    add("chain-genesis", "The first entry: index 0, previous zero.", None, first, "");
    let bad = Entry { previous: Hash([1; 32]), ..first };
    add("chain-genesis-previous", "Nothing stands before index 0.", None, bad, "chain_previous");
    add("chain-genesis-index", "A log starts at 0.", None, Entry { index: 1, ..first }, "chain_index");
    add("chain-ok", "The second entry of a log.", Some(&log[0]), second, "");
    let bad = Entry { log_id: Hash([1; 32]), ..second };
    add("chain-log-id", "An entry of another log.", Some(&log[0]), bad, "chain_log_id");
    add("chain-index-gap", "Index 1 is missing.", Some(&log[0]), decode(&log[2]), "chain_index");
    let bad = Entry { index: 0, ..second };
    add("chain-index-repeat", "Index 0 stands twice.", Some(&log[0]), bad, "chain_index");
    let bad = Entry { recorded_at: first.recorded_at, ..second };
    add("chain-time-equal", "Times grow strictly.", Some(&log[0]), bad, "chain_recorded_at");
    let bad = Entry { recorded_at: first.recorded_at - 1, ..second };
    add("chain-time-back", "Times never go back.", Some(&log[0]), bad, "chain_recorded_at");
    let bad = Entry { previous: Hash(*chain::leaf_hash(&log[0]).as_bytes()), ..second };
    add("chain-previous", "Chained to the leaf hash, not the link.", Some(&log[0]), bad, "chain_previous");
}

fn log_ids(vectors: &mut Vectors) {
    for (name, about, recovery) in [
        ("log-id", "Without a recovery key 32 zero bytes stand in its place.", None),
        ("log-id-recovery", "With a recovery key.", Some([0x0c; 32])),
    ] {
        let key = signer().verifying_key().to_bytes();
        let input = vec![
            ("origin", text(ORIGIN)),
            ("nonce", hex(&[0x0e; 32])),
            ("key", hex(&key)),
            ("recovery_key", recovery.map_or(Value::Null, |key| hex(&key))),
        ];
        let id = chain::log_id(ORIGIN, &[0x0e; 32], &key, recovery.as_ref());
        vectors.add("log_id", name, about, input, "", Ok(vec![("log_id", hex(&id.0))]));
    }
}

fn keys(vectors: &mut Vectors) {
    let mut add = |name: &str, about, key: [u8; 32], expected| {
        let answer = VerifyingKey::from_bytes(&key).map_err(|error| error.kind()).map(|key| {
            vec![("key_id", text(&key.key_id(ORIGIN).to_string())), ("vkey", text(&key.vkey(ORIGIN)))]
        });
        vectors.add("key", name, about, vec![("name", text(ORIGIN)), ("key", hex(&key))], expected, answer);
    };
    add("key-ok", "The key of seed 07 × 32.", signer().verifying_key().to_bytes(), "");
    let mixed = unhex("1f4f580e73ac208f06760190e9edc6f5916775dabd9c1cdca393175c2d6d1083");
    add("key-mixed-order", "A torsion component alone is no reason to refuse a key.", mixed, "");
    let y = |y: u8, top: u8| {
        let mut key = [0; 32];
        (key[0], key[31]) = (y, top);
        key
    };
    add("key-not-a-point", "No point of the curve has y = 2.", y(2, 0), "key_not_a_point");
    let over = |low: u8, top: u8| {
        let mut key = [0xff; 32];
        (key[0], key[31]) = (low, top);
        key
    };
    let second = "key_not_canonical";
    add("key-not-canonical-y", "y = p + 3, a second spelling of y = 3.", over(0xf0, 0x7f), second);
    add("key-not-canonical-identity", "y = p + 1, order 1.", over(0xee, 0x7f), second);
    add("key-not-canonical-order-4", "y = p, order 4.", over(0xed, 0x7f), second);
    add("key-negative-zero", "y = 1 with the sign of x = 0 set.", y(1, 0x80), second);
    add("key-negative-zero-order-2", "y = -1 with the sign of x = 0 set.", over(0xec, 0xff), second);
    for (at, (order, key, _, _)) in SMALL_ORDER_KEYS.iter().enumerate() {
        let name = format!("key-small-order-{order}-{at}");
        add(&name, "Anyone can sign for a key of small order.", unhex(key), "key_small_order");
    }
}

fn vkeys(vectors: &mut Vectors) {
    let mut add = |name, about, vkey: &str, expected| {
        let answer = VerifyingKey::parse_vkey(vkey).map_err(|error| error.kind());
        let answer = answer.map(|(name, key)| vec![("name", text(&name)), ("key", hex(&key.to_bytes()))]);
        vectors.add("vkey", name, about, vec![("vkey", text(vkey))], expected, answer);
    };
    let good = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    add("vkey-ok", "The example of C2SP signed-note.", good, "");
    add("vkey-key-id", "The key id is another key's.", &good.replace("903a", "903b"), "vkey_key_id");
    add("vkey-upper-case", "Key ids are lower case.", &good.replace("530d903a", "530D903A"), "vkey_form");
    add("vkey-type", "A cosigner's key signs no notes.", &good.replace("+Aeky", "+BOky"), "vkey_type");
    add("vkey-name", "A name has no spaces.", &good.replace("example.com/foo", "example com"), "key_name");
    add("vkey-no-key", "Two parts only.", "example.com/foo+530d903a", "vkey_form");
}

fn signatures(vectors: &mut Vectors) {
    let mut add = |name: &str, about, key: [u8; 32], message: &[u8], signature: [u8; 64], expected| {
        let answer = match VerifyingKey::from_bytes(&key) {
            Err(error) => Err(error.kind()),
            Ok(key) if key.verify(message, &Signature(signature)) => Ok(Vec::new()),
            Ok(_) => Err("signature"),
        };
        let input = vec![("key", hex(&key)), ("message", hex(message)), ("signature", hex(&signature))];
        vectors.add("signature", name, about, input, expected, answer);
    };
    let key = signer().verifying_key().to_bytes();
    let entry = log(1)[0];
    let message = chain::signed_message(&chain::link(&entry));
    let good = sign_entry(&signer(), &entry).0;
    add("signature-ok", "The signature of a genesis entry.", key, &message, good, "");
    add("signature-entry-bytes", "It covers the link, not the entry.", key, &entry, good, "signature");
    let other = stranger().verifying_key().to_bytes();
    add("signature-other-key", "Another key's.", other, &message, good, "signature");
    for (name, about, key, message, signature, expected) in EDGES {
        add(name, about, unhex(key), message.as_bytes(), unhex(signature), expected);
    }
    for (at, (order, key, message, signature)) in SMALL_ORDER_KEYS.iter().enumerate() {
        let name = format!("signature-small-order-key-{order}-{at}");
        let about = "The equation holds, but the key has small order.";
        add(&name, about, unhex(key), message.as_bytes(), unhex(signature), "key_small_order");
    }
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex digits"))
}

/// (name, about, key, message, signature, finding). Made with the affine formulas of RFC 8032 over
/// big integers: r = 99991, k = H(R, A, message) mod L, S = r + k·a; T is a point of order 8.
const EDGES: [(&str, &str, &str, &str, &str, &str); 12] = [
    (
        "signature-reduced-s",
        "S < L: the twin of signature-s-plus-l.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "S is not reduced",
        "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813f67d0d37dac68b7c5178bf3a08053b9b6f1ef8901f0837a53f48689db17fa0a0a",
        "",
    ),
    (
        "signature-s-plus-l",
        "The same signature with S + L: a second spelling.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "S is not reduced",
        "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813f54a4c9dac6cbc91dee27eb435f4d98cbf1ef8901f0837a53f48689db17fa0a1a",
        "signature",
    ),
    (
        "signature-s-equals-l",
        "S = L, the smallest that is not reduced.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "S is not reduced",
        "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813fedd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010",
        "signature",
    ),
    (
        "signature-small-order-r-1",
        "R is the identity and the equation holds; R has small order.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "small order R",
        "01000000000000000000000000000000000000000000000000000000000000000d6814ad59a4139b16768d9aeb36afc3a62b3541a57ab5cbe0c2b79948464a00",
        "signature",
    ),
    (
        "signature-small-order-r-2",
        "R has order 2; only the cofactored equation holds.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "small order R",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7fb46835fa7fe789e5a0e0db16f79f960c078cf96c7036e67b50de5cdb71f5a002",
        "signature",
    ),
    (
        "signature-small-order-r-8",
        "R has order 8; only the cofactored equation holds.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "small order R",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a545f14109ef7ff73de6194aa6af520d70e3e07ed5d534501929b735f2a2f3406",
        "signature",
    ),
    (
        "signature-non-canonical-r-y",
        "R is the identity spelled y = p + 1.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "non-canonical R",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f3c6e183e6259fc7400479399941ce3bba24cc0b49d287b8881b49cf281e9680d",
        "signature",
    ),
    (
        "signature-non-canonical-r-sign",
        "R is the identity with the sign of x = 0 set.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "non-canonical R",
        "0100000000000000000000000000000000000000000000000000000000000080ecc89f84de527822cfdf199e82dcbd638b47302e3597a352c377842a19b2da06",
        "signature",
    ),
    (
        "signature-mixed-order-a-cofactored",
        "A has a torsion component; only the cofactored equation holds.",
        "1f4f580e73ac208f06760190e9edc6f5916775dabd9c1cdca393175c2d6d1083",
        "mixed order A 0",
        "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813f3fb9c60687848c1d5094276dd5182f62ad331473a0847007504a689255343b07",
        "signature",
    ),
    (
        "signature-mixed-order-a-holds",
        "A has a torsion component, k is a multiple of 8: the cofactorless equation holds.",
        "1f4f580e73ac208f06760190e9edc6f5916775dabd9c1cdca393175c2d6d1083",
        "mixed order A 3",
        "3b0ea29bf9a081fb143eba96d46a8e5d343c6c2f8334a45461f7c5a505c7813f1f5f468b36b8433fb854e284e89ebd693cd747c2dc0bb2c5df17995a73604308",
        "",
    ),
    (
        "signature-mixed-order-r-cofactored",
        "R = rB + T; only the cofactored equation holds.",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "mixed order R",
        "9caedd36e04da12bb8371b5b98c06293fb9149eebe6bb9eb9ce0857d3ba64b6f9ddd0b9cee4028c4e66a31e0a6023898f1e16a5faf541167fc31c4e0a9250f02",
        "signature",
    ),
    (
        "signature-mixed-order-a-and-r-holds",
        "The torsion components of R and kA cancel: the cofactorless equation holds.",
        "1f4f580e73ac208f06760190e9edc6f5916775dabd9c1cdca393175c2d6d1083",
        "mixed order A and R 0",
        "8927537963f17813f5f3658bbf3a970b9b9f5f75b1e0a624a4f95b9eb6dba5f7d2863bae0153cff43ba9d02afc49856e225d3e96afdf5eb9d951714ae8cd870e",
        "",
    ),
];

/// (order, key, message, signature): the eight points of small order, each with a signature for which
/// the cofactorless equation holds.
const SMALL_ORDER_KEYS: [(u8, &str, &str, &str); 8] = [
    (
        1,
        "0100000000000000000000000000000000000000000000000000000000000000",
        "small order A 1 0",
        "ef4f62f8479733ad879cfaced3c89a9c39dd4fc795ef2efa1c3eafe4d729a0813930000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        8,
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "small order A 8 4",
        "aee32c13edce6441f623b0aad7c4b5926df1343a86976ea76e378d4d033fbbe73a30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        4,
        "0000000000000000000000000000000000000000000000000000000000000080",
        "small order A 4 4",
        "c8882fb3079a74da68784a3560431d2dc3b58be540176cb13eb237ee9620e96e3b30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        8,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "small order A 8 20",
        "463997a82970b3fdd90b763557db637e22a33cb45e5b145666e5f92c38bfe4cf3c30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        2,
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "small order A 2 1",
        "b6e096bc1e2b74aefc7ecb12c29b22b58938d0ba5345c63984ba5d8ef385d1d23d30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        8,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "small order A 8 1",
        "abc8be91470e127e5249ab5bbc9f57d606032e76e158f446e4f2393760c4bf563e30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        4,
        "0000000000000000000000000000000000000000000000000000000000000000",
        "small order A 4 0",
        "ded685e6fbc9ec65df1a324dad8556743a549aa98e20d33530fa7865f0f32d1b3f30000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        8,
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "small order A 8 10",
        "effe91e8f0311596c6699a34fe870f39df3318ca7b601f237f585621363061404030000000000000000000000000000000000000000000000000000000000000",
    ),
];
