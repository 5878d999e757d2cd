//! An HTTP load generator for Varve that believes no answer.
//!
//! Reading order: `event` and `request` (what is sent, made ahead), `wire` (one connection), `drive` (open and
//! closed loop), `tally` and `kept` (what is noted while the clock runs), `check`, `readback` and `verdict`
//! (what is proved once it has stopped), `steady`, `overload`, `slow`, `compaction` (the modes), `target`, `server`, `admin`, `spent` (whom it is
//! sent to, and what that takes).
//!
//! Invariants: nothing is parsed beyond the head of an answer while the clock runs; every answer is kept and every
//! receipt checked afterwards; only loopback addresses are accepted; every count, time and store is bounded.

#![allow(clippy::disallowed_methods, reason = "the tool measures time and starts threads")]

pub mod admin;
pub mod check;
pub mod drive;
pub mod event;
pub mod interrupt;
pub mod kept;
pub mod readback;
pub mod report;
pub mod request;
pub mod server;
pub mod spent;
pub mod tally;
pub mod target;
pub mod verdict;
pub mod wire;

pub mod compaction;
pub mod overload;
pub mod slow;
pub mod steady;

mod pace;
mod probe;

/// Why a run could not be made or did not hold.
#[derive(Debug)]
pub enum Fault {
    /// The run could not be made: usage, a server that does not answer, no disk. Exit code 2.
    Unable(String),
    /// The run was made and something about the server does not hold. Exit code 1.
    Broken(Vec<String>),
}

impl Fault {
    /// A run that could not be made, and why.
    pub fn unable(why: impl std::fmt::Display) -> Fault {
        Fault::Unable(why.to_string())
    }
}

/// Runs `work` to its end on this thread, with timers and sockets of its own.
pub(crate) fn on_this_thread<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::unable)?;
    runtime.block_on(work)
}
