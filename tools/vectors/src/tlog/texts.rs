//! Vectors of the texts: notes, checkpoints, cosignatures, proofs; and of receipts.

use varve::tlog::chain::{self, leaf_hash};
use varve::tlog::checkpoint::{Checkpoint, Witness, cosign};
use varve::tlog::hash::Hash;
use varve::tlog::key::{Signer as _, VerifyingKey};
use varve::tlog::merkle::{EMPTY_ROOT, MemoryNodes, inclusion_proof};
use varve::tlog::note::{MAX_NOTE_SIGNATURES, Note, NoteSignature};
use varve::tlog::proof::{EntryProof, EntrySignature};
use varve::tlog::receipt::Receipt;

use super::{ORIGIN, log, sign_entry, signer, stranger};
use crate::vector::{Answer, Value, Vectors, hex, text};

/// Entries in the log of these vectors.
const SIZE: u64 = 11;

pub(super) fn add(vectors: &mut Vectors) {
    notes(vectors);
    checkpoints(vectors);
    cosignatures(vectors);
    proofs(vectors);
    receipts(vectors);
}

fn vkey() -> String {
    signer().verifying_key().vkey(ORIGIN)
}

fn notes(vectors: &mut Vectors) {
    let mut add = |name, about, vkey: &str, note: &str, expected| {
        let answer = || -> Answer {
            let (name, key) = VerifyingKey::parse_vkey(vkey).map_err(|error| error.kind())?;
            let note = Note::parse(note.as_bytes()).map_err(|error| error.kind())?;
            note.verify(&name, &key).map_err(|error| error.kind())?;
            Ok(vec![("text", text(note.text()))])
        };
        vectors.add(
            "note",
            name,
            about,
            vec![("vkey", text(vkey)), ("note", text(note))],
            expected,
            answer(),
        );
    };
    let example = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let example_vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    add("note-ok", "The example of C2SP signed-note.", example_vkey, example, "");

    let key = vkey();
    let note = Note::sign("one\n\nthree\n", ORIGIN, &signer()).expect("a note");
    let good = note.as_str();
    let line = note.signatures()[0].to_string();
    add("note-blank-line-in-text", "The last blank line splits.", &key, good, "");
    let mut two = note.clone();
    let other = Note::sign(note.text(), "log.example/other", &stranger()).expect("a note");
    two.add(other.signatures()[0].clone()).expect("room for a line");
    add("note-unknown-line", "A stranger's line is ignored.", &key, two.as_str(), "");
    add("note-text-changed", "The text was changed.", &key, &good.replace("three", "tree"), "note_signature");
    add("note-other-key", "Signed by somebody else.", &key, other.as_str(), "note_unknown_signer");
    add("note-unsigned", "No signature line.", &key, "one\n\nthree\n", "note_signature_line");
    add("note-no-blank-line", "No blank line.", &key, &format!("one\n{line}\n"), "note_no_signature");
    add("note-no-final-newline", "The last line has no end.", &key, good.trim_end(), "note_no_signature");
    add("note-carriage-return", "A control character.", &key, &good.replace('\n', "\r\n"), "note_text");
    add("note-tab", "A control character in the text.", &key, &good.replace("one", "o\te"), "note_text");
    add(
        "note-hyphen",
        "A hyphen for the em dash.",
        &key,
        &good.replace('\u{2014}', "-"),
        "note_signature_line",
    );
    add(
        "note-no-padding",
        "Base64 without padding.",
        &key,
        &good.replace("=\n", "\n"),
        "note_signature_line",
    );
    let empty = format!("text\n\n\u{2014} {ORIGIN} AAAAAA==\n");
    add("note-empty-signature", "A key id alone.", &key, &empty, "note_signature_line");
    let many = format!("text\n\n{}", format!("{line}\n").repeat(MAX_NOTE_SIGNATURES + 1));
    add("note-many-signatures", "33 lines.", &key, &many, "note_too_many_signatures");
    let mut bad = note.signatures()[0].clone();
    bad.signature[0] ^= 1;
    let mut both = note.clone();
    both.add(bad).expect("room for a line");
    let about = "Every line of the known key must hold.";
    add("note-second-line-bad", about, &key, both.as_str(), "note_signature");
}

fn head(size: u64) -> Checkpoint {
    let mut nodes = MemoryNodes::default();
    log(size).iter().for_each(|entry| nodes.append(leaf_hash(entry)));
    Checkpoint { origin: ORIGIN.into(), size, root: nodes.frontier().root() }
}

fn checkpoints(vectors: &mut Vectors) {
    let mut add = |name, about, origin: &str, body: &str, expected| {
        let note = Note::sign(body, origin, &signer()).expect("a note");
        let key = signer().verifying_key();
        let answer = Checkpoint::open(&note, origin, &key).map_err(|error| error.kind()).map(|head| {
            vec![
                ("origin", text(&head.origin)),
                ("size", Value::Number(head.size)),
                ("root", hex(&head.root.0)),
            ]
        });
        let input = vec![("vkey", text(&key.vkey(origin))), ("checkpoint", text(note.as_str()))];
        vectors.add("checkpoint", name, about, input, expected, answer);
    };
    let good = head(SIZE).to_note_text();
    add("checkpoint-ok", "Eleven entries.", ORIGIN, &good, "");
    let empty = Checkpoint { size: 0, root: EMPTY_ROOT, ..head(1) }.to_note_text();
    add("checkpoint-empty", "The empty tree.", ORIGIN, &empty, "");
    add(
        "checkpoint-other-log",
        "A key speaks for one log.",
        "log.example/other",
        &good,
        "checkpoint_other_log",
    );
    let extended = format!("{good}extension\n");
    add("checkpoint-extension", "Extension lines.", ORIGIN, &extended, "checkpoint_extension_lines");
    let two = format!("{ORIGIN}\n11\n");
    add("checkpoint-two-lines", "No root.", ORIGIN, &two, "checkpoint_form");
    let zero = good.replace("\n11\n", "\n011\n");
    add("checkpoint-leading-zero", "A second spelling of 11.", ORIGIN, &zero, "checkpoint_size");
    let plus = good.replace("\n11\n", "\n+11\n");
    add("checkpoint-sign", "Sizes have no sign.", ORIGIN, &plus, "checkpoint_size");
    let huge = good.replace("\n11\n", "\n9223372036854775808\n");
    add("checkpoint-huge", "2^63 leaves.", ORIGIN, &huge, "checkpoint_size");
    let short = format!("{ORIGIN}\n11\nAAAA\n");
    add("checkpoint-short-root", "A root of 3 bytes.", ORIGIN, &short, "checkpoint_root");
    let zero = good.replace("\n11\n", "\n0\n");
    add("checkpoint-empty-root", "Size 0 with another root.", ORIGIN, &zero, "checkpoint_root");
}

fn cosignatures(vectors: &mut Vectors) {
    let name = "witness.example/w1";
    let witness = Witness::new(name, stranger().verifying_key()).expect("a name");
    let plain = head(SIZE).sign(&signer(), ORIGIN).expect("a checkpoint");
    let mut add = |vector, about, line: Option<NoteSignature>, expected| {
        let mut note = plain.clone();
        if let Some(line) = line {
            note.add(line).expect("room for a line");
        }
        let answer = match witness.verify(&note) {
            Err(error) => Err(error.kind()),
            Ok(None) => Err("no_cosignature"),
            Ok(Some(cosignature)) => Ok(vec![("timestamp", Value::Number(cosignature.timestamp))]),
        };
        let vkey = stranger().verifying_key().vkey_of_type(name, 4);
        let input = vec![("witness_vkey", text(&vkey)), ("checkpoint", text(note.as_str()))];
        vectors.add("cosignature", vector, about, input, expected, answer);
    };
    let line = cosign(plain.text(), 1_767_225_700, name, &stranger());
    add("cosignature-ok", "Seen at 2026-01-01T00:01:40Z.", Some(line.clone()), "");
    add("cosignature-absent", "The witness has not signed.", None, "no_cosignature");
    let mut moved = line.clone();
    moved.signature[7] ^= 1;
    add("cosignature-time-changed", "The time is signed.", Some(moved), "note_signature");
    let late = cosign(plain.text(), 1 << 63, name, &stranger());
    add("cosignature-time-bound", "Times end at 2^63 - 1.", Some(late), "note_signature");
    let mut bare = line;
    bare.signature[8..].copy_from_slice(&stranger().sign(plain.text().as_bytes()).0);
    add("cosignature-bare-text", "A note signature is no cosignature.", Some(bare), "note_signature");
}

fn proofs(vectors: &mut Vectors) {
    let entries = log(SIZE);
    let mut nodes = MemoryNodes::default();
    entries.iter().for_each(|entry| nodes.append(leaf_hash(entry)));
    let good = EntryProof {
        entry: entries[3],
        signature: sign_entry(&signer(), &entries[3]),
        index: 3,
        path: inclusion_proof(3, SIZE, &nodes).expect("the log has eleven entries"),
        checkpoint: head(SIZE).sign(&signer(), ORIGIN).expect("a checkpoint"),
    };
    let mut add = |name, about, vkey: &str, earlier: Option<&str>, proof: &str, expected| {
        let answer = || -> Answer {
            let (origin, key) = VerifyingKey::parse_vkey(vkey).map_err(|error| error.kind())?;
            let earlier = earlier.map(VerifyingKey::parse_vkey).transpose().map_err(|error| error.kind())?;
            let earlier: Vec<_> = earlier.into_iter().map(|(_, key)| key).collect();
            let proof = EntryProof::parse(proof.as_bytes()).map_err(|error| error.kind())?;
            let proven = proof.verify(&origin, &key, &earlier).map_err(|error| error.kind())?;
            let signature = match proven.entry_signature {
                EntrySignature::Valid => "valid",
                EntrySignature::KeyNotGiven(_) => "key_not_given",
            };
            Ok(vec![
                ("index", Value::Number(proven.entry.index)),
                ("size", Value::Number(proven.checkpoint.size)),
                ("entry_signature", text(signature)),
            ])
        };
        let mut input = vec![("vkey", text(vkey)), ("proof", text(proof))];
        if let Some(earlier) = earlier {
            input.insert(1, ("earlier_vkey", text(earlier)));
        }
        vectors.add("entry_proof", name, about, input, expected, answer());
    };
    let (key, text) = (vkey(), good.to_text());
    add("proof-ok", "Entry 3 of 11.", &key, None, &text, "");

    let new = stranger().verifying_key().vkey(ORIGIN);
    let mut rotated = good.clone();
    rotated.checkpoint = head(SIZE).sign(&stranger(), ORIGIN).expect("a checkpoint");
    let about = "The key was rotated after the entry; the earlier one is given.";
    add("proof-rotated", about, &new, Some(&key), &rotated.to_text(), "");
    let about = "The earlier key is not given: its signature is not checked.";
    add("proof-rotated-key-not-given", about, &new, None, &rotated.to_text(), "");
    rotated.signature.0[40] ^= 1;
    let about = "The earlier key did not make this signature.";
    add("proof-rotated-signature", about, &new, Some(&key), &rotated.to_text(), "entry_signature");

    let mut add = |name, about, change: &dyn Fn(&mut EntryProof), expected| {
        let mut bad = good.clone();
        change(&mut bad);
        add(name, about, &key, None, &bad.to_text(), expected);
    };
    add("proof-entry-changed", "The entry was changed.", &|bad| bad.entry[60] ^= 1, "proof_root");
    add("proof-entry-magic", "Not an entry.", &|bad| bad.entry[0] = 0, "entry_magic");
    add("proof-index", "The entry says 3.", &|bad| bad.index = 4, "entry_index");
    add("proof-path", "A hash was changed.", &|bad| bad.path[1].0[0] ^= 1, "proof_root");
    add("proof-path-short", "A hash is missing.", &|bad| bad.path.truncate(3), "proof_length");
    let about = "The entry's signature was changed.";
    add("proof-signature", about, &|bad| bad.signature.0[40] ^= 1, "entry_signature");
    let small = head(3).sign(&signer(), ORIGIN).expect("a checkpoint");
    let about = "A checkpoint from before the entry.";
    add("proof-small-checkpoint", about, &|bad| bad.checkpoint = small.clone(), "proof_index");
    let foreign = head(SIZE).sign(&stranger(), ORIGIN).expect("a checkpoint");
    let about = "A checkpoint that somebody else signed.";
    add("proof-foreign-checkpoint", about, &|bad| bad.checkpoint = foreign.clone(), "note_unknown_signer");

    let mut add = |name, about, from: &str, to: &str, expected| {
        let bad = text.replacen(from, to, 1);
        let answer = EntryProof::parse(bad.as_bytes()).map(|_| Vec::new()).map_err(|error| error.kind());
        let input = vec![("vkey", Value::Text(key.clone())), ("proof", Value::Text(bad))];
        vectors.add("entry_proof", name, about, input, expected, answer);
    };
    add("proof-version", "A later version.", "proof@v1", "proof@v2", "entry_proof_header");
    add("proof-no-extra", "No extra line.", "extra ", "other ", "entry_proof_extra");
    add("proof-extra-short", "An extra of 185 bytes.", "extra VlJW", "extra ", "entry_proof_extra");
    add("proof-index-zero", "A second spelling of 3.", "index 3", "index 03", "entry_proof_form");
    add("proof-short-hash", "A hash of 3 bytes.", "index 3", "index 3\nAAAA", "entry_proof_form");
    add("proof-no-blank-line", "No blank line.", "\n\nlog", "\nlog", "entry_proof_form");
}

fn receipts(vectors: &mut Vectors) {
    let log = log(SIZE);
    let entry = chain::Entry::decode(&log[7]).expect("the log's entries decode");
    let good = Receipt {
        tenant: "acme".into(),
        index: 7,
        id: "01980000-0000-7000-8000-000000000007".into(),
        recorded_at: entry.recorded_at,
        entry: log[7],
        link: chain::link(&log[7]),
        leaf_hash: leaf_hash(&log[7]),
        signature: sign_entry(&signer(), &log[7]),
        key_id: entry.key_id,
    };
    let mut add = |name, about, found: Option<&[u8; 124]>, change: &dyn Fn(&mut Receipt), expected| {
        let mut receipt = good.clone();
        change(&mut receipt);
        let answer = receipt.verify(ORIGIN, &signer().verifying_key()).and_then(|_| receipt.held_by(found));
        let input = vec![
            ("vkey", text(&vkey())),
            ("tenant", text(&receipt.tenant)),
            ("index", Value::Number(receipt.index)),
            ("id", text(&receipt.id)),
            ("recorded_at", Value::Number(receipt.recorded_at)),
            ("entry", hex(&receipt.entry)),
            ("link", hex(&receipt.link.0)),
            ("leaf_hash", hex(&receipt.leaf_hash.0)),
            ("signature", hex(&receipt.signature.0)),
            ("key_id", text(&receipt.key_id.to_string())),
            ("entry_in_log", found.map_or(Value::Null, |entry| hex(entry))),
        ];
        let answer = answer.map(|()| Vec::new()).map_err(|error| error.kind());
        vectors.add("receipt", name, about, input, expected, answer);
    };
    let held = Some(&log[7]);
    add("receipt-ok", "The log still has the entry.", held, &|_| (), "");
    add("receipt-truncated", "The log ends before index 7.", None, &|_| (), "truncated");
    add("receipt-rewritten", "The log has another entry at 7.", Some(&log[6]), &|_| (), "rewritten");
    add("receipt-tenant", "Another tenant's.", held, &|bad| bad.tenant = "other".into(), "receipt_tenant");
    add("receipt-index", "The entry says 7.", held, &|bad| bad.index = 8, "receipt_index");
    add(
        "receipt-time",
        "The entry says otherwise.",
        held,
        &|bad| bad.recorded_at += 1,
        "receipt_recorded_at",
    );
    add("receipt-link", "Not the entry's link.", held, &|bad| bad.link = Hash::ZERO, "receipt_link");
    add(
        "receipt-leaf-hash",
        "Not its leaf hash.",
        held,
        &|bad| bad.leaf_hash = bad.link,
        "receipt_leaf_hash",
    );
    add("receipt-key-id", "Another key's id.", held, &|bad| bad.key_id.0[0] ^= 1, "receipt_key_id");
    let change: &dyn Fn(&mut Receipt) = &|bad| bad.signature = sign_entry(&stranger(), &bad.entry);
    add("receipt-signature", "Another key's signature.", held, change, "receipt_signature");
}
