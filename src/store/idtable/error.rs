//! What can go wrong with the table, and what is still true then.

use std::io;
use std::path::{Path, PathBuf};

use super::{INDEX_END, RUN_ENTRIES_MAX, RUNS_MAX};

/// Why an operation on an [`IdTable`](super::IdTable) failed. Never holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdTableError {
    /// The operating system refused. Nothing that the manifest names is changed by it.
    #[error(
        "cannot {what} {}: {source}; runs that were durable still are; free the cause and open the table again",
        path.display()
    )]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what was written. No answer was given from it.
    #[error(
        "{} is damaged at byte {offset}: {what}; nothing was answered from it; restore the directory from a backup",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the unit that fails its check begins, in bytes.
        offset: u64,
        /// Which check failed.
        what: &'static str,
    },
    /// Another process, or another `IdTable` of this one, has the directory open.
    #[error("{} is in use by another open table; close it first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A location's index does not fit in 40 bits. Nothing was stored.
    #[error("index {index} is not below {INDEX_END}; nothing was stored")]
    IndexTooLarge {
        /// The index refused.
        index: u64,
    },
    /// More entries than one run holds. Nothing was stored.
    #[error(
        "{entries} entries in one run, at most {RUN_ENTRIES_MAX} are allowed; nothing was stored; add them in parts"
    )]
    TooManyEntries {
        /// The entries offered.
        entries: u64,
    },
    /// Merging fell behind. Nothing was stored.
    #[error("the table has {RUNS_MAX} runs already; nothing was stored; merge, then repeat")]
    TooManyRuns,
    /// A sync or a manifest swap failed before, so what is on disk is not known.
    #[error(
        "a sync of this table failed earlier; lookups go on, nothing more is stored; open the table again"
    )]
    Stopped,
}

/// Makes the closure that `map_err` wants.
pub(super) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> IdTableError + 'a {
    move |source| IdTableError::Io { what, path: path.to_owned(), source }
}

/// A failed check of the unit that begins at `offset` of `path`.
pub(super) fn damaged(path: &Path, offset: u64, what: &'static str) -> IdTableError {
    IdTableError::Damaged { path: path.to_owned(), offset, what }
}
