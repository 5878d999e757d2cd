//! `varve rotate-signing-key`: a new signing key for one log or all, announced by the old one. Server stopped.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::output::{Exit, Failure, Output};
#[allow(unused_imports, reason = "the service's own functions come first once it has them")]
use super::super::seam::Offline as _;
use crate::service::Service;

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
    Service::rotate_signing_key(&args.data, args.tenant.as_deref())?;
    if output.is_json() {
        output.json(&json!({"rotated": true, "tenant": args.tenant}))?;
    } else {
        let what = args.tenant.as_deref().unwrap_or("every log");
        output.say(&format!("{what} has a new signing key; the entry `varve.key.rotated` says so"));
        output.say("hand out the new public key: `varve tenant show TENANT`");
    }
    Ok(Exit::Done)
}
