//! Scratch copies: opening a sled database or an id table writes to its directory, so what is verified is
//! never opened where it lies. A layer is copied while the one before is read, and its copy goes when it has been read itself.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::VerifyError;

/// Room that stays free beside a copy: sled writes a snapshot of its page table when it opens, about 1 % of
/// a layer.
const MARGIN_BYTES: u64 = 64 << 20;

/// Bytes that are copied before it is asked whether to go on: some 30 ms.
const COPY_BYTES: u64 = 32 << 20;

/// Directories below a copied one: sled has `blobs/`.
const MAX_DEPTH: usize = 2;

/// A copy that is removed when this is dropped.
pub(super) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Copies the directory `from`, file by file. Once `stop` is set it ends early, with what is copied by then.
    pub(super) fn copy(from: &Path, stop: &AtomicBool) -> Result<Scratch, VerifyError> {
        let bytes = dir_bytes(from, MAX_DEPTH).map_err(|source| io_error(from, source))?;
        let scratch = Scratch { dir: make(from, bytes)? };
        copy_dir(from, &scratch.path(), MAX_DEPTH, stop)?;
        Ok(scratch)
    }

    /// A directory of links to the files of `from` that end in `suffix`, which are only read, and copies of
    /// all others.
    pub(super) fn link(from: &Path, suffix: &str) -> Result<Scratch, VerifyError> {
        let from = fs::canonicalize(from).map_err(|source| io_error(from, source))?;
        let scratch = Scratch { dir: make(&from, 0)? };
        fs::create_dir_all(scratch.path()).map_err(|source| io_error(&scratch.path(), source))?;
        for file in fs::read_dir(&from).map_err(|source| io_error(&from, source))? {
            let file = file.map_err(|source| io_error(&from, source))?;
            let (path, to) = (file.path(), scratch.path().join(file.file_name()));
            if file.file_name().to_string_lossy().ends_with(suffix) {
                std::os::unix::fs::symlink(&path, &to).map_err(|source| io_error(&to, source))?;
            } else if path.is_file() {
                fs::copy(&path, &to).map_err(|source| io_error(&path, source))?;
            }
        }
        Ok(scratch)
    }

    /// Where the copy is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("copy")
    }
}

/// Makes a directory with room for `bytes`: where temporary files go, or else beside the data directory.
fn make(from: &Path, bytes: u64) -> Result<TempDir, VerifyError> {
    let needed = bytes + MARGIN_BYTES;
    let beside = from.ancestors().nth(3).map(Path::to_path_buf);
    let mut largest = (0, std::env::temp_dir());
    for place in [Some(std::env::temp_dir()), beside].into_iter().flatten() {
        let free = free_bytes(&place).unwrap_or(0);
        if free >= needed
            && let Ok(dir) = tempfile::Builder::new().prefix("varve-verify-").tempdir_in(&place)
        {
            return Ok(dir);
        }
        if free >= largest.0 {
            largest = (free, place);
        }
    }
    Err(VerifyError::NoSpace { place: largest.1, free: largest.0, needed })
}

fn free_bytes(place: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(place)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn dir_bytes(dir: &Path, depth: usize) -> io::Result<u64> {
    fs::read_dir(dir)?.try_fold(0u64, |sum, file| {
        let file = file?;
        let meta = file.metadata()?;
        let bytes = match depth {
            _ if meta.is_file() => meta.len(),
            1.. if meta.is_dir() => dir_bytes(&file.path(), depth - 1)?,
            _ => 0,
        };
        Ok(sum + bytes)
    })
}

fn copy_dir(from: &Path, to: &Path, depth: usize, stop: &AtomicBool) -> Result<(), VerifyError> {
    fs::create_dir_all(to).map_err(|source| io_error(to, source))?;
    for file in fs::read_dir(from).map_err(|source| io_error(from, source))? {
        let file = file.map_err(|source| io_error(from, source))?;
        let (path, target) = (file.path(), to.join(file.file_name()));
        let kind = file.file_type().map_err(|source| io_error(&path, source))?;
        if kind.is_file() {
            copy_file(&path, &target, stop).map_err(|source| io_error(&path, source))?;
        } else if kind.is_dir() && depth > 0 {
            copy_dir(&path, &target, depth - 1, stop)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<()> {
    let (from, mut to) = (File::open(from)?, File::create(to)?);
    while !stop.load(Ordering::Relaxed) && io::copy(&mut (&from).take(COPY_BYTES), &mut to)? > 0 {}
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> VerifyError {
    VerifyError::Io { path: path.to_path_buf(), source }
}
