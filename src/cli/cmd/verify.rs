//! `varve verify`: is it still what was recorded? Exit 0 = intact, 1 = findings, 2 = could not tell.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::output::{Exit, Failure, Output, printable};
use crate::verify::{self, Options, Progress, ProofOptions, Report};

#[derive(Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Data directory of a stopped server, or a .tlog-proof file
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// Only the log of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,

    /// Go on from a checkpoint that was verified before: below its size only chain and tree are recomputed
    #[arg(long, value_name = "FILE")]
    since_checkpoint: Option<PathBuf>,

    /// Receipts that the log must still honour, one JSON object a line
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,

    /// A checkpoint kept outside, which the log must still contain; may be given again
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,

    /// A public key of a log (name+id+key) from outside; may be given again
    #[arg(long, value_name = "VKEY")]
    vkey: Vec<String>,

    /// Which keys and witnesses are trusted (C2SP tlog-policy), for a .tlog-proof
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Check hashes only; the claim says so
    #[arg(long)]
    no_signatures: bool,
}

pub(in crate::cli) fn run(args: &VerifyArgs, output: &Output) -> Result<Exit, Failure> {
    if !args.path.exists() {
        return Err(Failure::new(
            format!("{} is not there", args.path.display()),
            "name a data directory or a file",
        ));
    }
    let report = if args.path.is_dir() { directory(args) } else { file(args) }?;
    let text = if output.is_json() { report.to_json() } else { report.to_text() };
    output.data(text.trim_end())?;
    Ok(if report.valid { Exit::Done } else { Exit::No })
}

fn directory(args: &VerifyArgs) -> Result<Report, Failure> {
    if args.policy.is_some() {
        return Err(Failure::new(
            "--policy is for a .tlog-proof file",
            "give --vkey and --checkpoint for a directory",
        ));
    }
    let options = Options {
        tenant: args.tenant.clone(),
        since_checkpoint: args.since_checkpoint.clone(),
        checkpoints: args.checkpoint.clone(),
        receipts: args.receipts.clone(),
        keys: args.vkey.clone(),
        no_signatures: args.no_signatures,
        threads: None,
    };
    let bar = Bar::new();
    let report = verify::verify_dir(&args.path, &options, &bar);
    bar.0.finish_and_clear();
    report.map_err(could_not_tell)
}

fn file(args: &VerifyArgs) -> Result<Report, Failure> {
    let of_directory = args.tenant.is_some()
        || args.since_checkpoint.is_some()
        || args.receipts.is_some()
        || !args.checkpoint.is_empty()
        || args.no_signatures;
    if of_directory {
        return Err(Failure::new(
            "that option is for a data directory",
            "a .tlog-proof takes --vkey and --policy",
        ));
    }
    let options = ProofOptions { keys: args.vkey.clone(), policy: args.policy.clone() };
    verify::verify_proof(&args.path, &options).map_err(could_not_tell)
}

/// The errors of the verifier carry their hint after the first line.
fn could_not_tell(error: verify::VerifyError) -> Failure {
    let text = error.to_string();
    let (message, hint) = text
        .split_once("\nhint: ")
        .unwrap_or((&text, "nothing was changed; run it again, or on another copy of the directory"));
    Failure::new(printable(message), printable(hint))
}

/// A progress bar on a terminal; indicatif draws nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} entries, {per_sec}, {eta} left")
        {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

impl Progress for Bar {
    fn started(&self, entries: u64) {
        self.0.set_length(entries);
    }

    fn advanced(&self, entries: u64) {
        self.0.inc(entries);
    }

    fn message(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }
}
