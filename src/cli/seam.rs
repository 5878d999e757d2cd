//! Where the offline commands meet what does their work. A room that has landed replaces its line here; the commands
//! stay as they are.

use std::path::PathBuf;

use serde::Serialize;

use crate::service::{Error, ErrorCode};

/// What to verify, and how far.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "read by the verifier that takes the place of `verify` below")]
pub(super) struct VerifyRequest {
    /// A data directory, or files of evidence.
    pub(super) paths: Vec<PathBuf>,
    pub(super) tenant: Option<String>,
    pub(super) since_checkpoint: Option<PathBuf>,
    pub(super) receipts: Option<PathBuf>,
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) policy: Option<PathBuf>,
    pub(super) check_signatures: bool,
}

/// What verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Verdict {
    /// One a log.
    pub(super) logs: Vec<LogVerdict>,
    /// Breaches, in the order of logs and indexes. None: intact.
    pub(super) findings: Vec<Finding>,
}

/// One log that was read to its end.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LogVerdict {
    pub(super) tenant: String,
    pub(super) origin: String,
    pub(super) entries: u64,
    pub(super) expired_bodies: u64,
    pub(super) erased_disclosures: u64,
    /// `chained`, `self-signed`, `signed`, `checkpointed`, `witnessed k/n` (FORMAT §6).
    pub(super) claim: String,
}

/// One breach (FORMAT §6).
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Finding {
    pub(super) kind: String,
    pub(super) tenant: String,
    pub(super) index: Option<u64>,
    pub(super) expected: Option<String>,
    pub(super) found: Option<String>,
}

/// Verifies; calls `progress` with the number of entries checked since the last call.
pub(super) fn verify(request: &VerifyRequest, progress: &mut dyn FnMut(u64)) -> Result<Verdict, Error> {
    let _ = (request, progress);
    Err(absent("verify"))
}

fn absent(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("this build cannot {what} yet; nothing was touched"))
}
