//! One flipped bit in any file is found, refused, or changes no answer, and no file is written by looking.
//!
//! Where a flip is not reported, the report must be the very one of the sound store: same sizes, roots and
//! counts. Which file a silent flip may lie in is listed, with the reason.

use std::fs;
use std::path::Path;

use super::store::{self, Writing};
use super::*;

/// Bits flipped in one file, spread evenly: 24 in a run of all tests, as many as `VARVE_FLIPS` says elsewhere.
const FLIPS: usize = 24;

/// Files in which a flip may go unreported, and why it changes no answer.
fn may_be_silent(file: &str) -> Option<&'static str> {
    if file == "lock" {
        Some("its text is for messages only")
    } else if file.ends_with("/db") || file.contains("/snap.") {
        Some(
            "sled's free segments, and what its log repeats; every key and value is compared with what it must be",
        )
    } else if file.ends_with("/conf") {
        Some("sled's parameters, which it replaces when they are rotten; no data")
    } else if file.starts_with("journal/HEAD") {
        Some("one slot is rotten and the other is used; it is in the notes")
    } else {
        None
    }
}

fn small_store(dir: &Path) {
    let mut writing = Writing::create(dir);
    writing.tenant("acme");
    writing.api_key("0123456789abcdef");
    writing.events("acme", 60);
    writing.stop();
}

/// What must not differ: everything that is said of the logs.
fn said(report: &Report) -> String {
    let logs: Vec<String> = report.logs.iter().map(|log| format!("{log:?}")).collect();
    logs.join("\n")
}

/// Every file with a digest of what it holds.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, blake3::Hash)> {
    let digest = |file: std::path::PathBuf| {
        let bytes = fs::read(&file).unwrap();
        (file, blake3::hash(&bytes))
    };
    store::files(dir).into_iter().map(digest).collect()
}

/// Which bits of a file are flipped. `seed` moves them from run to run.
fn flips(bits: usize, seed: usize) -> Vec<usize> {
    let wanted = std::env::var("VARVE_FLIPS").ok().and_then(|count| count.parse().ok()).unwrap_or(FLIPS);
    let step = (bits / wanted).max(1);
    (seed % step..bits).step_by(step).collect()
}

#[test]
fn no_flipped_bit_goes_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::create_dir_all(&path).unwrap();
    small_store(&path);
    let sound = verify(&path);
    assert_intact(&sound);
    let seed = std::process::id() as usize * 7_919;
    println!("seed {seed}");
    let mut counts = std::collections::BTreeMap::<String, [usize; 3]>::new();
    for file in store::files(&path) {
        let name = file.strip_prefix(&path).unwrap().display().to_string();
        let bytes = fs::read(&file).unwrap();
        for bit in flips(bytes.len() * 8, seed) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &changed).unwrap();
            let slot = counts.entry(name.clone()).or_default();
            let before = contents(&path);
            let outcome = verify_dir(&path, &Options::default(), &Quiet);
            assert!(contents(&path) == before, "bit {bit} of {name}: a file was written");
            match outcome {
                Err(_) => slot[1] += 1,
                Ok(report) if !report.valid => slot[0] += 1,
                Ok(report) => {
                    slot[2] += 1;
                    assert!(may_be_silent(&name).is_some(), "bit {bit} of {name} is not seen");
                    assert_eq!(said(&report), said(&sound), "bit {bit} of {name} changes an answer");
                }
            }
        }
        fs::write(&file, &bytes).unwrap();
    }
    println!("file: found, refused, silent");
    counts
        .iter()
        .for_each(|(name, [found, refused, silent])| println!("{name}: {found}, {refused}, {silent}"));
    assert_intact(&verify(&path));
}
