//! The rule that makes sled's flush real: a seccomp filter that answers ENOSYS to `sync_file_range`.
//!
//! sled 0.34.7 flushes with `sync_file_range`, which writes neither file sizes nor the device's cache, and
//! reuses old segments on the strength of it. On ENOSYS it falls back to `fsync`. The filter is set in
//! `main` before the first thread, so that every thread inherits it; [`install`] reaches threads that
//! already run, too.
//!
//! Setting a filter without privileges sets `no_new_privs`. Both are inherited by children, survive `exec`
//! and cannot be taken back: programs started from here gain nothing by setuid bits or file capabilities
//! (`sudo`, `ping` fail), see ENOSYS to `sync_file_range`, and are killed if they are built for another
//! instruction set (32-bit programs).

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The system call's number (`asm/unistd.h`); `None` where this crate has not been tried.
const SYNC_FILE_RANGE: Option<i64> = if cfg!(target_arch = "x86_64") {
    Some(277)
} else if cfg!(target_arch = "aarch64") {
    Some(84)
} else {
    None
};

/// ENOSYS on Linux, everywhere but on alpha, mips, parisc and sparc.
const ENOSYS: u32 = 38;

/// Sets the rule for all threads of the process, then tests it.
///
/// # Errors
/// The rule is not active. The store still works: every sync of a store
/// ends with an `fdatasync` of our own, so nothing acknowledged is at risk; but sled may overwrite a freed
/// segment before what replaced it is on the disk.
pub fn install() -> Result<(), FlushRuleWarning> {
    if is_active() {
        return Ok(());
    }
    seccompiler::apply_filter_all_threads(&program()?).map_err(FlushRuleWarning::refused)?;
    if is_active() { Ok(()) } else { Err(FlushRuleWarning::NoEffect) }
}

/// Whether the calling thread is under the rule, or on a kernel without the call: asks for a sync of no
/// file at all, which is answered EBADF without the rule and ENOSYS with it.
pub fn is_active() -> bool {
    // SAFETY: takes four integers and returns one; descriptor −1 is never open.
    let answer = unsafe { sync_file_range(-1, 0, 0, 0) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == i32::try_from(ENOSYS).ok()
}

/// Why sled's own flush is not real in this process.
#[derive(Debug, thiserror::Error)]
pub enum FlushRuleWarning {
    /// No number of the system call is known.
    #[error(
        "sled's flush is not real here: no rule is known for this instruction set; syncs of our own keep what is acknowledged safe"
    )]
    UnknownArchitecture,
    /// The kernel or a container's policy refused the filter.
    #[error(
        "sled's flush is not real here: the seccomp rule was refused ({reason}); syncs of our own keep what is acknowledged safe\nhint: allow the seccomp and prctl system calls to this process"
    )]
    Refused {
        /// The refusal.
        reason: String,
    },
    /// The filter was taken and does nothing.
    #[error(
        "sled's flush is not real here: the seccomp rule was accepted but has no effect; syncs of our own keep what is acknowledged safe"
    )]
    NoEffect,
}

impl FlushRuleWarning {
    fn refused(error: impl std::fmt::Display) -> Self {
        Self::Refused { reason: error.to_string() }
    }
}

fn program() -> Result<BpfProgram, FlushRuleWarning> {
    let number = SYNC_FILE_RANGE.ok_or(FlushRuleWarning::UnknownArchitecture)?;
    let arch = std::env::consts::ARCH.try_into().map_err(|_| FlushRuleWarning::UnknownArchitecture)?;
    // A call number with no conditions always matches.
    let rules = BTreeMap::from([(number, vec![])]);
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(ENOSYS), arch)
        .and_then(BpfProgram::try_from)
        .map_err(FlushRuleWarning::refused)
}

unsafe extern "C" {
    /// glibc and musl; `offset` and `bytes` are `off64_t`.
    fn sync_file_range(fd: i32, offset: i64, bytes: i64, flags: u32) -> i32;
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the rule is tried on threads that end in the test")]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_thread_under_the_rule_is_active_and_the_rest_are_not() {
        assert!(!is_active(), "the test process must start without the rule");
        thread::spawn(|| {
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            assert!(is_active());
            assert!(thread::spawn(is_active).join().unwrap(), "threads started later inherit it");
        })
        .join()
        .unwrap();
        assert!(!is_active());
    }

    /// The child half of the test below; the rule would stay on the test process for good.
    #[test]
    fn child_installs_for_all_threads() {
        if std::env::var_os("VARVE_TEST_RULE_CHILD").is_none() {
            return;
        }
        let (ask, asked) = mpsc::channel::<()>();
        let running = thread::spawn(move || {
            asked.recv().unwrap();
            is_active()
        });
        install().unwrap();
        install().unwrap();
        ask.send(()).unwrap();
        assert!(running.join().unwrap(), "a thread that ran before is reached");
        assert!(is_active());
        // Everything else still works.
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("f")).unwrap().sync_all().unwrap();
        println!("rule installed");
    }

    #[test]
    fn install_reaches_running_threads_and_may_be_repeated() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::flush_rule::tests::child_installs_for_all_threads", "--nocapture"])
            .env("VARVE_TEST_RULE_CHILD", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("rule installed"), "{text}");
    }

    #[test]
    fn a_warning_says_what_is_still_safe() {
        let warning = FlushRuleWarning::refused("EPERM").to_string();
        assert!(warning.contains("EPERM") && warning.contains("safe") && warning.contains("hint:"));
    }
}
