//! Free disk space against a low-water mark.
//!
//! Below the mark new events are refused (`storage_full`) while there is still room for what must go on:
//! feeding acknowledged events to their layer, and one compaction, which is how space comes back.

#![expect(clippy::disallowed_methods, reason = "the age of a reading is measured")]

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a reading is used: 100 ms. At 1 GB/s of writes a reading is off by at most 100 MB.
pub const READING_AGE: Duration = Duration::from_millis(100);

/// Room kept besides the compaction: 1 GiB.
///
/// Two generations of journal segments, 2 × 256 MiB; acknowledged events on their way into sled, at most
/// one generation at 1.7 × = 435 MiB; 100 MB for the age of a reading. Together 967 MiB and some.
pub const LOW_WATER_FLOOR_BYTES: u64 = 1024 * 1024 * 1024;

/// Room that the rewrite of a layer takes: twice what the layer has on disk.
///
/// Compaction writes a new generation before the old one goes. The new one holds at most the same live
/// data, and a sled file settles at 1.3 to 1.7 times its live data: 2 is the next whole number.
pub fn rewrite_bytes(layer_bytes: u64) -> u64 {
    layer_bytes.saturating_mul(2)
}

/// What a rewrite asks for before it begins: 1.7 times the layer. Less than is kept for it, so that the room that is there
/// when appends are refused is enough.
pub fn rewrite_needs(layer_bytes: u64) -> u64 {
    layer_bytes.saturating_mul(17) / 10
}

/// The free space of one file system, read at most every [`READING_AGE`], against two marks: the floor, below which
/// nothing is rewritten, and the low-water mark above it, below which no new event is taken. Between them is room to
/// rewrite the largest layer. Who rewrites a layer uses that up as it writes: the mark is lower by what it has written, and
/// what it has not written yet stays kept for it.
pub struct FreeSpace {
    dir: PathBuf,
    floor_bytes: AtomicU64,
    rewrite_bytes: AtomicU64,
    written_bytes: AtomicU64,
    reading: Mutex<Option<(Instant, u64)>>,
}

impl FreeSpace {
    /// Watches the file system that holds `dir`, with the marks of an instance without layers.
    pub fn new(dir: impl Into<PathBuf>) -> FreeSpace {
        FreeSpace {
            dir: dir.into(),
            floor_bytes: AtomicU64::new(LOW_WATER_FLOOR_BYTES),
            rewrite_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            reading: Mutex::new(None),
        }
    }

    /// Sets the floor.
    pub fn set_floor_bytes(&self, bytes: u64) {
        self.floor_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The floor.
    pub fn floor_bytes(&self) -> u64 {
        self.floor_bytes.load(Ordering::Relaxed)
    }

    /// Keeps room to rewrite a layer of that many bytes, see [`rewrite_bytes`].
    pub fn set_largest_layer(&self, bytes: u64) {
        self.rewrite_bytes.store(rewrite_bytes(bytes), Ordering::Relaxed);
    }

    /// Begins to use up the room for the rewrite of a layer, until the answer is dropped. One at a time.
    pub fn rewriting(&self) -> Rewriting<'_> {
        Rewriting(self)
    }

    /// The low-water mark.
    pub fn low_water_bytes(&self) -> u64 {
        let kept = self.rewrite_bytes.load(Ordering::Relaxed);
        self.floor_bytes().saturating_add(kept.saturating_sub(self.written_bytes.load(Ordering::Relaxed)))
    }

    /// Bytes an ordinary process may still write; up to [`READING_AGE`] old.
    ///
    /// # Errors
    /// The file system does not answer `statvfs`.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let mut reading = self.reading.lock();
        if let Some((at, bytes)) = *reading
            && at.elapsed() < READING_AGE
        {
            return Ok(bytes);
        }
        let stat = rustix::fs::statvfs(&self.dir)?;
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        *reading = Some((Instant::now(), bytes));
        Ok(bytes)
    }

    /// Whether new events must be refused.
    ///
    /// # Errors
    /// As [`FreeSpace::free_bytes`]; space that cannot be read is not space.
    pub fn is_low(&self) -> io::Result<bool> {
        Ok(self.free_bytes()? < self.low_water_bytes())
    }

    /// Whether even a rewrite must leave off.
    ///
    /// # Errors
    /// As [`FreeSpace::free_bytes`].
    pub fn is_below_floor(&self) -> io::Result<bool> {
        Ok(self.free_bytes()? < self.floor_bytes())
    }
}

/// A rewrite that uses up the room that is kept for it.
pub struct Rewriting<'a>(&'a FreeSpace);

impl Rewriting<'_> {
    /// Says what the new generation takes on disk by now.
    pub fn has_written(&self, bytes: u64) {
        self.0.written_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Rewriting<'_> {
    fn drop(&mut self) {
        self.0.written_bytes.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_below_the_mark_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let space = FreeSpace::new(dir.path());
        assert!(space.free_bytes().unwrap() > 0);
        space.set_floor_bytes(0);
        assert!(!space.is_low().unwrap());
        space.set_floor_bytes(u64::MAX);
        assert!(space.is_low().unwrap());
    }

    #[test]
    fn a_reading_is_reused_until_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let space = FreeSpace::new(dir.path());
        *space.reading.lock() = Some((Instant::now(), 42));
        assert_eq!(space.free_bytes().unwrap(), 42);
        *space.reading.lock() = Instant::now().checked_sub(READING_AGE).map(|at| (at, 42));
        assert_ne!(space.free_bytes().unwrap(), 42);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_not_room() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FreeSpace::new(dir.path().join("none")).is_low().is_err());
    }

    #[test]
    fn the_mark_leaves_room_for_a_rewrite_of_the_largest_layer_until_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let space = FreeSpace::new(dir.path());
        assert_eq!(space.low_water_bytes(), LOW_WATER_FLOOR_BYTES);
        space.set_largest_layer(10);
        assert_eq!(space.low_water_bytes(), LOW_WATER_FLOOR_BYTES + 20);
        // What is not written yet stays kept, however long it takes.
        let rewriting = space.rewriting();
        for written in [0, 8, 20, 30] {
            rewriting.has_written(written);
            let kept = 20_u64.saturating_sub(written);
            assert_eq!(space.low_water_bytes(), LOW_WATER_FLOOR_BYTES + kept);
        }
        drop(rewriting);
        assert_eq!(space.low_water_bytes(), LOW_WATER_FLOOR_BYTES + 20);
        space.set_largest_layer(u64::MAX);
        assert!(space.is_low().unwrap());
        space.set_floor_bytes(0);
        assert!(space.is_low().unwrap() && !space.is_below_floor().unwrap());
    }
}
