//! The file operations that change the directory, one function each. A crash can fall between any two
//! of them; the tests look at the directory after every one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{IdTableError, io_error};

/// What an [`IdTableError::Io`] says when a sync failed.
pub(super) const SYNC: &str = "sync";

/// Makes a new file, readable and writable. Fails if there is one of that name.
pub(super) fn create(path: &Path) -> Result<File, IdTableError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(io_error("create", path))?;
    reached(Step::Create, path).map_err(io_error("create", path))?;
    Ok(file)
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<(), IdTableError> {
    file.write_all_at(bytes, offset)
        .and_then(|()| reached(Step::Write, path))
        .map_err(io_error("write", path))
}

/// Makes the file's content and length durable.
pub(super) fn sync_file(file: &File, path: &Path) -> Result<(), IdTableError> {
    file.sync_all().and_then(|()| reached(Step::SyncFile, path)).map_err(io_error(SYNC, path))
}

/// Renames, replacing what is at `to`.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), IdTableError> {
    fs::rename(from, to).and_then(|()| reached(Step::Rename, to)).map_err(io_error("rename", from))
}

/// Makes the directory's names durable.
pub(super) fn sync_directory(directory: &File, path: &Path) -> Result<(), IdTableError> {
    directory.sync_all().and_then(|()| reached(Step::SyncDirectory, path)).map_err(io_error(SYNC, path))
}

/// Removes a name. Whoever has the file open reads on.
pub(super) fn remove(path: &Path) -> Result<(), IdTableError> {
    fs::remove_file(path).and_then(|()| reached(Step::Remove, path)).map_err(io_error("remove", path))
}

/// Which operation just ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Create,
    Write,
    SyncFile,
    Rename,
    SyncDirectory,
    Remove,
}

#[cfg(not(test))]
fn reached(_step: Step, _path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
use hook::reached;

#[cfg(test)]
pub(super) mod hook {
    //! Lets a test watch the operations of its own thread, and make one fail after it was done.

    use std::cell::RefCell;
    use std::io;
    use std::path::Path;

    use super::Step;

    type Watcher = Box<dyn FnMut(Step, &Path) -> io::Result<()>>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    pub(in super::super) fn watch(watcher: Watcher) {
        WATCHER.set(Some(watcher));
    }

    pub(in super::super) fn unwatch() {
        WATCHER.set(None);
    }

    pub(super) fn reached(step: Step, path: &Path) -> io::Result<()> {
        WATCHER.with_borrow_mut(|watcher| watcher.as_mut().map_or(Ok(()), |watcher| watcher(step, path)))
    }
}
