//! Making a store where there is none.
//!
//! Order: lock → journal → state → HEAD names the state → ids → `layers/` → signing-keys → MANIFEST. Each
//! part is durable before the next is begun, and MANIFEST comes last: a directory without it is no store.
//! A crash before it leaves parts that no event was ever acknowledged from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::idtable::{IdTable, IdTableError};
use super::keyfile::{KeyFile, KeyFileError};
use super::manifest::{Manifest, ManifestError};
use super::state::{State, StateError};
use crate::event::Instance;
use crate::journal::{self, JournalError, Writer};
use crate::process::lock::{DirLock, LockError};

/// What a store consists of besides MANIFEST; none of it may be there before.
const PARTS: [&str; 5] = ["journal", "state", "ids", "layers", "signing-keys"];

/// A store that was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is a store.
    #[error("{} already holds a store; nothing was changed\nhint: serve it, or give another directory", .0.display())]
    Exists(PathBuf),
    /// There are parts of a store, but no MANIFEST.
    #[error(
        "{} holds `{part}` but no MANIFEST; nothing was changed\nhint: if a store was ever served from here, restore MANIFEST from a backup; if making one was cut off, no event is in it: remove the directory and try again",
        data.display()
    )]
    Partial {
        /// The data directory.
        data: PathBuf,
        /// The first part found.
        part: &'static str,
    },
    /// Another process works in the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The snapshot.
    #[error(transparent)]
    State(#[from] StateError),
    /// The id table.
    #[error(transparent)]
    Ids(#[from] IdTableError),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// MANIFEST.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A directory cannot be made or synced.
    #[error("{path}: {source}; no store was made")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes an empty store in `data`, which is made if need be (its parent must exist). It has no log yet. When
/// this returns, the store is durable and `recovery::open` takes it. `random` fills with fresh random bytes.
///
/// # Errors
/// [`CreateError::Exists`], [`CreateError::Partial`]: nothing was changed. After any other error the
/// directory may hold parts, which are refused from then on.
pub fn create(
    data: &Path,
    instance: &Instance,
    options: &journal::Options,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<(), CreateError> {
    make_directory(data)?;
    refuse_what_is_there(data)?;
    let _lock = DirLock::acquire(data)?;
    // Once more, now that nobody else can be making it.
    refuse_what_is_there(data)?;

    let mut journal = Writer::create(&data.join("journal"), options)?;
    let mut state = State { instance: instance.as_str().to_owned(), ..State::default() };
    random(&mut state.cursor_key);
    make_directory(&data.join("state"))?;
    let digest = state.write(&data.join("state"), 0)?;
    journal.set_head(0, digest, true)?;
    drop(journal);
    drop(IdTable::open(&data.join("ids"))?);
    make_directory(&data.join("layers"))?;
    KeyFile::create(data)?;
    // Kill before this: parts without MANIFEST. After it: a store.
    Manifest::default().write(data)?;
    Ok(())
}

fn refuse_what_is_there(data: &Path) -> Result<(), CreateError> {
    if data.join("MANIFEST").exists() {
        return Err(CreateError::Exists(data.to_path_buf()));
    }
    match PARTS.into_iter().find(|part| data.join(part).exists()) {
        Some(part) => Err(CreateError::Partial { data: data.to_path_buf(), part }),
        None => Ok(()),
    }
}

/// Makes a directory, mode 0700, and its name durable; one that is there is fine and keeps its mode.
fn make_directory(path: &Path) -> Result<(), CreateError> {
    let io = |source| CreateError::Io { path: path.to_path_buf(), source };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io)?;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryBackend;
    use crate::store::recovery;

    fn options() -> journal::Options {
        journal::Options { segment_bytes: 64 << 10, max_frame_bytes: 16 << 10, background: false }
    }

    fn make(data: &Path) -> Result<(), CreateError> {
        create(data, &Instance::parse("example.org").unwrap(), &options(), &mut |bytes| bytes.fill(7))
    }

    #[test]
    fn a_fresh_store_opens_and_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        make(&data).unwrap();
        for _ in 0..2 {
            let opened = recovery::open(&data, Arc::new(MemoryBackend::default()), &options()).unwrap();
            assert_eq!((opened.store.instance.as_str(), opened.store.cursor_key), ("example.org", [7; 32]));
            assert_eq!((opened.store.log_count(), opened.newest_frame), (0, 0));
            assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
        }
        assert!(matches!(make(&data), Err(CreateError::Exists(_))));
    }

    #[test]
    fn parts_without_a_manifest_are_refused_with_a_hint() {
        for part in PARTS {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(part)).unwrap();
            let refused = make(dir.path()).unwrap_err();
            assert!(matches!(refused, CreateError::Partial { part: found, .. } if found == part));
            assert!(refused.to_string().contains("hint:"));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
        }
        let dir = tempfile::tempdir().unwrap();
        make(dir.path()).unwrap();
        fs::remove_file(dir.path().join("MANIFEST")).unwrap();
        assert!(matches!(make(dir.path()), Err(CreateError::Partial { .. })));
        assert!(recovery::open(dir.path(), Arc::new(MemoryBackend::default()), &options()).is_err());
    }
}
