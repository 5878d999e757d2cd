//! Ctrl-C and SIGTERM: the run ends, and what it started ends with it.

use tokio::signal::unix::{SignalKind, signal};

use crate::Fault;

/// Does `work`, unless this process is told to stop first. Then `work` is dropped, and a server that it holds with it.
/// What `work` does without waiting is not broken off.
///
/// # Errors
/// As `work`'s; and when the run was interrupted.
pub async fn unless_told_to_stop<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Fault::unable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Fault::unable)?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Fault::unable("interrupted; nothing is proved")),
        _ = terminate.recv() => Err(Fault::unable("terminated; nothing is proved")),
    }
}
