//! How large the data directory is, by part. Measured when somebody asks, at most every [`MEASURE_EVERY`].
//!
//! The work is bounded: [`MAX_FILES`] names are looked at. A store of ten years has 120 layers of four files, 20 runs
//! and a few segments, some 600.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::Moment;

/// How long a measurement is used.
pub const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// Names looked at in one measurement. Beyond it the figures are too small.
pub const MAX_FILES: usize = 10_000;

/// Depth of directories below a part: a layer's directory, and sled's one for blobs.
const MAX_DEPTH: usize = 3;

/// Bytes by part of the data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreBytes {
    /// `journal/`
    pub journal: u64,
    /// `layers/`
    pub layers: u64,
    /// `ids/`
    pub ids: u64,
    /// `state/`
    pub state: u64,
}

impl StoreBytes {
    /// Each part by name.
    pub fn parts(&self) -> [(&'static str, u64); 4] {
        [("journal", self.journal), ("layers", self.layers), ("ids", self.ids), ("state", self.state)]
    }
}

/// Measures one data directory.
#[derive(Debug)]
pub struct Measure {
    data: PathBuf,
    /// Written by the one who finds it old; whoever else asks meanwhile waits.
    newest: Mutex<Option<(Moment, StoreBytes)>>,
}

impl Measure {
    /// Of `data`; nothing is read yet.
    pub fn new(data: impl Into<PathBuf>) -> Measure {
        Measure { data: data.into(), newest: Mutex::new(None) }
    }

    /// The newest measurement, made anew when it is older than [`MEASURE_EVERY`]. What cannot be read, as a file that is
    /// removed meanwhile, counts as nothing.
    pub fn bytes(&self) -> StoreBytes {
        let mut newest = self.newest.lock();
        if let Some((at, bytes)) = &*newest
            && at.age() < MEASURE_EVERY
        {
            return *bytes;
        }
        let mut left = MAX_FILES;
        let mut of = |part: &str| bytes_below(&self.data.join(part), MAX_DEPTH, &mut left);
        let bytes =
            StoreBytes { journal: of("journal"), layers: of("layers"), ids: of("ids"), state: of("state") };
        *newest = Some((Moment::now(), bytes));
        bytes
    }
}

/// Lengths of all files in `dir` and below; links are not followed. `left` names may be looked at.
fn bytes_below(dir: &Path, depth: usize, left: &mut usize) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut bytes = 0;
    for entry in entries {
        if *left == 0 {
            return bytes;
        }
        *left -= 1;
        let Ok(entry) = entry else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            bytes += metadata.len();
        } else if metadata.is_dir() && depth > 1 {
            bytes += bytes_below(&entry.path(), depth - 1, left);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_measured_apart_and_not_too_often() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("layers/2026-01.g1/blobs")).unwrap();
        fs::create_dir(dir.path().join("journal")).unwrap();
        fs::write(dir.path().join("journal/1.seg"), [0; 100]).unwrap();
        fs::write(dir.path().join("layers/2026-01.g1/db"), [0; 30]).unwrap();
        fs::write(dir.path().join("layers/2026-01.g1/blobs/x"), [0; 5]).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("layers/loop")).unwrap();
        let measure = Measure::new(dir.path());
        let first = measure.bytes();
        assert_eq!(first, StoreBytes { journal: 100, layers: 35, ids: 0, state: 0 });
        fs::write(dir.path().join("journal/2.seg"), [0; 100]).unwrap();
        assert_eq!(measure.bytes(), first, "younger than ten seconds");
    }

    #[test]
    fn the_work_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..20 {
            fs::write(dir.path().join(number.to_string()), [0; 10]).unwrap();
        }
        let mut left = 7;
        assert_eq!((bytes_below(dir.path(), 1, &mut left), left), (70, 0));
    }
}
