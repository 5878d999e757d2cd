//! The `varve` binary: safeguards of the process, then parse, dispatch, exit code.

use std::process::ExitCode;

/// Appending makes a dozen short-lived buffers an event on several threads; see docs/BENCHMARKS.md.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before the first thread: the rule holds for threads that are made after it.
    if let Err(warning) = varve::process::flush_rule::install() {
        eprintln!("warning: {warning}");
    }
    // Layers, ids and snapshots hold what people did and secrets of the instance: for this user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    varve::store::sled::install_panic_hook();
    varve::cli::run()
}
