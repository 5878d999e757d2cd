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

/// The low-water mark: [`LOW_WATER_FLOOR_BYTES`] and twice the largest layer on disk.
///
/// Compaction writes a new generation before the old one goes. The new one holds at most the same live
/// data, and a sled file settles at 1.3 to 1.7 times its live data: 2 is the next whole number.
pub fn low_water_bytes(largest_layer_bytes: u64) -> u64 {
    LOW_WATER_FLOOR_BYTES.saturating_add(largest_layer_bytes.saturating_mul(2))
}

/// The free space of one file system, read at most every [`READING_AGE`].
pub struct FreeSpace {
    dir: PathBuf,
    low_water_bytes: AtomicU64,
    reading: Mutex<Option<(Instant, u64)>>,
}

impl FreeSpace {
    /// Watches the file system that holds `dir`, with the mark of an instance without layers.
    pub fn new(dir: impl Into<PathBuf>) -> FreeSpace {
        FreeSpace {
            dir: dir.into(),
            low_water_bytes: AtomicU64::new(low_water_bytes(0)),
            reading: Mutex::new(None),
        }
    }

    /// Sets the mark; see [`low_water_bytes`].
    pub fn set_low_water_bytes(&self, bytes: u64) {
        self.low_water_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The mark; see [`low_water_bytes`].
    pub fn low_water_bytes(&self) -> u64 {
        self.low_water_bytes.load(Ordering::Relaxed)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_below_the_mark_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let space = FreeSpace::new(dir.path());
        assert!(space.free_bytes().unwrap() > 0);
        space.set_low_water_bytes(0);
        assert!(!space.is_low().unwrap());
        space.set_low_water_bytes(u64::MAX);
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
    fn the_mark_leaves_room_for_a_rewrite_of_the_largest_layer() {
        assert_eq!(low_water_bytes(0), LOW_WATER_FLOOR_BYTES);
        assert_eq!(low_water_bytes(10), LOW_WATER_FLOOR_BYTES + 20);
        assert_eq!(low_water_bytes(u64::MAX), u64::MAX);
    }
}
