//! The journal: what makes an acknowledgement true.
//!
//! A group of records becomes one *frame*; a frame is one positioned write and one `fdatasync` into a
//! segment that was zero-filled beforehand. When [`Writer::append`] returns, the frame survives a kill
//! and a power cut. The bytes are specified in `docs/format/journal.md`.
//!
//! Reading order: [`frame`] (the bytes of a frame), [`head`] (the bytes of `HEAD`), [`disk`] (the file
//! operations used), [`segment`] (files of frames), [`reader`] (what is accepted at open), [`writer`].
//!
//! Invariants:
//! - A frame is acknowledged only after its `fdatasync` returned without error.
//! - After a failed write or sync the writer is poisoned; nothing is retried.
//! - Only the last frame can be torn, and a torn frame shows it: each of its sectors is either right or
//!   still all zero. Everything else that does not fit is damage, and damage is refused, not repaired.
//! - Reading modifies nothing.
//! - What was accepted at open is written and synced anew before the first append: it may have come from
//!   a page cache whose write-back failed.
//!
//! The lock that keeps a second process out is the caller's.

use std::io;
use std::path::{Path, PathBuf};

pub mod disk;
pub mod frame;
pub mod head;
pub mod reader;
pub mod segment;
pub mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod simulated;

pub use head::Head;
pub use reader::{Frame, Scan, Tail, Warning};
pub use writer::Writer;

/// Sizes of the journal. Both may change between two starts: a segment keeps the length it was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of a new segment in bytes: a multiple of 512, at least twice `max_frame_bytes`.
    pub segment_bytes: u64,
    /// Largest frame on disk in bytes, header and sector checks included: 512 to
    /// [`frame::MAX_FRAME_BYTES`], a multiple of 512.
    pub max_frame_bytes: usize,
    /// Zero-fill the next segment, and wipe released ones, on a thread of its own. `false` does both in
    /// the caller's thread, in a fixed order, for tests.
    pub background: bool,
}

impl Default for Options {
    /// Segments of 32 MiB, frames of up to 8 MiB, in the background.
    fn default() -> Self {
        Options { segment_bytes: 32 * 1024 * 1024, max_frame_bytes: frame::MAX_FRAME_BYTES, background: true }
    }
}

impl Options {
    /// The largest payload one frame can carry, in bytes.
    pub fn max_payload_bytes(&self) -> usize {
        frame::max_payload_bytes(self.max_frame_bytes)
    }

    fn validate(&self) -> Result<(), JournalError> {
        let sector = frame::SECTOR_BYTES;
        let frame_is_sound = self.max_frame_bytes.is_multiple_of(sector)
            && (sector..=frame::MAX_FRAME_BYTES).contains(&self.max_frame_bytes);
        let segment_is_sound = self.segment_bytes.is_multiple_of(sector as u64)
            && self.segment_bytes >= 2 * self.max_frame_bytes as u64;
        if frame_is_sound && segment_is_sound { Ok(()) } else { Err(JournalError::Options(self.clone())) }
    }
}

/// Why the journal did not do what was asked. No variant carries a byte of a payload.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused an operation.
    #[error("journal: cannot {action} {}: {source}; frames acknowledged before are safe, the next open decides on the rest",
        path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An earlier operation failed; this writer does nothing any more.
    #[error("journal: stopped after an earlier error ({0}); restart, recovery decides what was stored")]
    Poisoned(String),
    /// Neither `HEAD` nor a segment is there.
    #[error("journal: {} holds no journal; create one, or restore a backup", .0.display())]
    Absent(PathBuf),
    /// `create` found a journal.
    #[error("journal: {} already holds a journal; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// The sizes contradict each other.
    #[error("journal: invalid sizes {0:?}; see Options for their bounds")]
    Options(Options),
    /// Bytes that no crash explains.
    #[error(
        "journal: damage in segment {segment} at byte {offset}, frame {frame}: expected {expected}, found {found}; \
         nothing was changed, restore this file from a backup"
    )]
    Damaged {
        /// Number of the segment file.
        segment: u64,
        /// Byte in that file.
        offset: u64,
        /// Number of the frame that was expected there.
        frame: u64,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The files of segments are not numbered without a gap.
    #[error("journal: segment {missing} is missing between others that are there; nothing was changed")]
    MissingSegment {
        /// Number of the first file that is not there.
        missing: u64,
    },
    /// `HEAD` cannot be used.
    #[error("journal: HEAD is not usable: {0}; nothing was changed")]
    Head(String),
    /// The frames are older than `HEAD`, or are others than it names.
    #[error(
        "journal: rollback: HEAD names frame {head} with hash {expected}, the segments hold {found}; nothing was changed"
    )]
    Rollback {
        /// The newest frame by `HEAD`.
        head: u64,
        /// Its hash by `HEAD`.
        expected: String,
        /// What the segments hold instead.
        found: String,
    },
    /// The payload is larger than a frame may be. The writer goes on.
    #[error("journal: a payload of {bytes} bytes exceeds the limit of {limit}; nothing was written")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// `applied` is outside the frames kept, or a release goes beyond `applied`. The writer goes on.
    #[error("journal: frame {frame} is outside {from}..={to}; nothing was changed")]
    OutOfRange {
        /// The frame asked for.
        frame: u64,
        /// First one allowed.
        from: u64,
        /// Last one allowed.
        to: u64,
    },
}

impl JournalError {
    /// Whether the call changed nothing at all, so that the writer goes on.
    pub fn is_refusal(&self) -> bool {
        matches!(self, JournalError::TooLarge { .. } | JournalError::OutOfRange { .. })
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.to_owned();
        move |source| JournalError::Io { action, path, source }
    }
}
