//! `varve rotate-signing-key`: a new signing key for one log or all, announced by the old one. Server stopped.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::output::{Exit, Failure, Output};
use crate::service::{OpenOptions, Service};

#[derive(Args)]
pub(in crate::cli) struct RotateSigningKeyArgs {
    /// Directory of the store
    #[arg(value_name = "DIR")]
    data: PathBuf,

    /// Only the log of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
}

pub(in crate::cli) fn run(args: &RotateSigningKeyArgs, output: &Output) -> Result<Exit, Failure> {
    super::must_be_store(&args.data)?;
    let keys = Service::rotate_signing_key(&args.data, args.tenant.as_deref(), &OpenOptions::default())?;
    if output.is_json() {
        output.json(&json!({"public_keys": keys}))?;
    } else {
        let what = args.tenant.as_deref().unwrap_or("every log");
        output.say(&format!("{what} has a new signing key; the entry `varve.key.rotated` says so"));
        output.say("hand out the new public key:");
        keys.iter().try_for_each(|key| output.data(key))?;
    }
    Ok(Exit::Done)
}
