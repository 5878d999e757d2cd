//! Where a spool is, how large, how careful; and why it cannot be used.

use std::io;
use std::path::PathBuf;

/// When the spool's writes reach the disk itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpoolSync {
    /// When asked to: by `record_durable` and by `close`. Until then a power cut may take what was spooled; a kill of
    /// the process takes nothing of it.
    WhenAsked,
    /// After each write of the spool.
    EachWrite,
}

/// Where events wait while the server is away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpoolOptions {
    /// Directory, made with mode 0700. One recorder has it at a time. Its events are in clear: an encrypted disk keeps
    /// them from others.
    pub dir: PathBuf,
    /// Bytes of all files in it, at least 512 KiB.
    pub max_bytes: u64,
    /// When writes reach the disk itself.
    pub sync: SpoolSync,
}

impl SpoolOptions {
    /// A spool at `dir` of at most 256 MiB (some 800,000 events of 300 bytes), synced when asked.
    pub fn at(dir: impl Into<PathBuf>) -> SpoolOptions {
        SpoolOptions { dir: dir.into(), max_bytes: 256 * 1024 * 1024, sync: SpoolSync::WhenAsked }
    }
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another recorder has it, in this process or another.
    #[error("{} is held by another recorder; nothing was touched. Give each process a spool of its own", .0.display())]
    Held(PathBuf),
    /// Its events belong into another log.
    #[error("{} holds events for the log of {tenant}; nothing was touched. Give each tenant a spool of its own", dir.display())]
    OtherTenant {
        /// The spool's directory.
        dir: PathBuf,
        /// Whose events they are.
        tenant: String,
    },
    /// The bound is below what works.
    #[error("a spool has at least 512 KiB; raise `max_bytes`")]
    TooSmall,
    /// The file system refused.
    #[error("{}: {source}; what was spooled before is still there", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A sync failed before. What was spooled is sent; nothing more is written.
    #[error(
        "a sync of the spool has failed, so it takes no more events; look at the disk, then restart the service"
    )]
    SyncFailed,
}
