//! The file operations the journal uses, and nothing else: one small trait, so that a test can cut the
//! power between any two of them.
//!
//! No operation retries. An interrupted or failed sync is a failed sync.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// Only the owner reads the journal: it holds events before they are erased.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a directory, durably, unless it is there. Its parent must exist.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates a file for reading and writing, or empties the one that is there.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading, and for writing if asked.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file, replacing what bears the new name.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's.
    fn fsync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. Names that are not UTF-8 come with replacement characters.
    ///
    /// # Errors
    /// The system's; `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// One `pwrite`: returns how many bytes were taken, which may be fewer.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// One `pread`: returns how many bytes were read, which may be fewer; 0 at the end.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes the content and length durable. Called once: a second call after an error proves nothing.
    ///
    /// # Errors
    /// The system's.
    fn fdatasync(&self) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            done => done?,
        }
        // Also when it was there: the one who made it may have been killed before this sync.
        match dir.parent() {
            Some(parent) if parent != Path::new("") => self.fsync_dir(parent),
            _ => self.fsync_dir(Path::new(".")),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(FILE_MODE);
        Ok(Box::new(SystemFile(options.open(path)?)))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SystemFile(OpenOptions::new().read(true).write(writable).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn fsync_dir(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(dir)?)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

#[derive(Debug)]
struct SystemFile(File);

impl DiskFile for SystemFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn fdatasync(&self) -> io::Result<()> {
        // Not `File::sync_data`, which calls again when interrupted.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
