//! `varve operator-key reset`: another operator key where the old one is lost or known to others. Server stopped;
//! the act is an entry of the log `_system`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::super::output::{Exit, Failure, Output};
use crate::service::{OpenOptions, Service};

#[derive(Args)]
pub(in crate::cli) struct OperatorKeyArgs {
    #[command(subcommand)]
    command: OperatorKeyCommand,
}

#[derive(Subcommand)]
enum OperatorKeyCommand {
    /// Make another operator key; the old one ends; the new one is shown once
    Reset(ResetArgs),
}

#[derive(Args)]
struct ResetArgs {
    /// Directory of the store
    #[arg(value_name = "DIR")]
    data: PathBuf,
}

pub(in crate::cli) fn run(args: &OperatorKeyArgs, output: &Output) -> Result<Exit, Failure> {
    let OperatorKeyCommand::Reset(ResetArgs { data }) = &args.command;
    super::must_be_store(data)?;
    let key = Service::reset_operator_key(data, &OpenOptions::default())?;
    if output.is_json() {
        output.json(&json!({"operator_key": key, "data": data.to_string_lossy()}))?;
    } else {
        output.say("the new operator key follows; it is shown once, and the old one has ended:");
        output.data(&key)?;
    }
    Ok(Exit::Done)
}
