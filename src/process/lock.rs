//! One process a data directory: an exclusive `flock` on `DIR/lock`.
//!
//! The kernel holds the lock and drops it with the process, so a left-over file means nothing. The text in
//! it (`pid 4711`) is for messages only. The file is never deleted: deleting it would let two processes
//! lock two files of the same name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Name of the file in the data directory.
pub const LOCK_FILE: &str = "lock";

/// Most bytes of the file that are read for a message; `pid 4294967295` is 14.
const MAX_TEXT_BYTES: u64 = 64;

/// The held lock; dropping it releases the directory.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock of `dir`, which must exist, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] if another holder has it, also within this process.
    pub fn acquire(dir: &Path) -> Result<DirLock, LockError> {
        let path = dir.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { holder: holder(&mut file), path }),
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "pid {}", std::process::id()).map_err(failed)?;
        Ok(DirLock { file })
    }
}

/// Given up at once, not with the last copy of the descriptor: a child between `fork` and `exec` has one.
impl Drop for DirLock {
    fn drop(&mut self) {
        // What cannot be unlocked ends with the descriptor.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Why the lock was not taken. Nothing in the directory was touched.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another holder has it.
    #[error("{} is held by {holder}; nothing was touched\nhint: stop that process, or give this one another data directory; do not delete the file, the lock ends with its holder", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// "process 4711", or "another process" if the file does not say.
        holder: String,
    },
    /// The file could not be made, locked or written.
    #[error("{} cannot be locked: {source}; nothing was touched\nhint: the data directory must exist, be writable and lie on a file system with flock", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(MAX_TEXT_BYTES).read_to_string(&mut text);
    let pid = text.trim().strip_prefix("pid ").and_then(|pid| pid.parse::<u32>().ok());
    match (read, pid) {
        (Ok(_), Some(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_and_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        let refused = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("hint:"), "{refused}");
        drop(lock);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_left_over_file_is_no_lock_and_foreign_text_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "pid 4294967295\nfrom a longer past").unwrap();
        let _lock = DirLock::acquire(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("pid {}\n", std::process::id()));
        fs::write(dir.path().join(LOCK_FILE), [0xff; 100]).unwrap();
        assert!(DirLock::acquire(dir.path()).unwrap_err().to_string().contains("another process"));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(DirLock::acquire(&dir.path().join("none")), Err(LockError::Io { .. })));
    }

    /// The child half of the test below: holds the lock until its input ends.
    #[test]
    fn child_holds_the_lock() {
        if let Some(dir) = std::env::var_os("VARVE_TEST_LOCK_CHILD") {
            let _lock = DirLock::acquire(Path::new(&dir)).unwrap();
            println!("locked");
            let _ = io::stdin().read(&mut [0]);
        }
    }

    #[test]
    fn a_killed_holder_leaves_the_directory_free() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::lock::tests::child_holds_the_lock", "--nocapture"])
            .env("VARVE_TEST_LOCK_CHILD", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("locked")));
        let refused = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", child.id())), "{refused}");
        child.kill().unwrap();
        child.wait().unwrap();
        DirLock::acquire(dir.path()).unwrap();
    }
}
