//! `varve checkpoint`: the newest C2SP checkpoint of a log. Kept outside, it shows later that nothing was cut off.

use clap::Args;
use serde_json::json;

use super::super::args::{ServerArgs, TenantArg};
use super::super::client::{Ask, Client, segment};
use super::super::output::{Exit, Failure, Output};

#[derive(Args)]
pub(in crate::cli) struct CheckpointArgs {
    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

pub(in crate::cli) fn run(args: &CheckpointArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let path = format!("/v1/tenants/{}/log/checkpoint", segment(&args.tenant.tenant));
    let checkpoint = client.ask_text(&Ask::get(path))?;
    if output.is_json() {
        output.json(&json!({"checkpoint": checkpoint}))?;
    } else {
        output.data(&checkpoint)?;
    }
    Ok(Exit::Done)
}
