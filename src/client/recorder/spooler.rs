//! The thread that saves: what waits too long or fills the queue goes to the spool, the count of drops to its file.
//!
//! Apart from the sender, because a request may hang for as long as its time allows.

#![expect(
    clippy::disallowed_methods,
    reason = "the recorder owns this thread, names it, stops it and joins it"
)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::shared::{Shared, lock};

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("varve-spooler".to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
            lock(&shared.state).stats.has_defect = true;
        }
    })
}

fn run(shared: &Shared) {
    while let Some(to_do) = shared.wait_to_spool() {
        // Whether all of it was done; the stats say why it was not.
        let is_spilled = !to_do.spill || shared.spill().unwrap_or(false);
        if to_do.write_drops {
            shared.write_drops();
        }
        if to_do.write_drops || !is_spilled {
            shared.wait_a_little();
        }
    }
}
