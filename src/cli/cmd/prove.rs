//! `varve prove`: the C2SP `tlog-proof` of one event.

use clap::Args;
use serde_json::json;

use super::super::args::{ServerArgs, TenantArg};
use super::super::client::{Ask, Client, segment};
use super::super::output::{Exit, Failure, Output};

#[derive(Args)]
pub(in crate::cli) struct ProveArgs {
    /// Index of the event, from 0
    index: u64,

    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

pub(in crate::cli) fn run(args: &ProveArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let path = format!("/v1/tenants/{}/events/{}/proof", segment(&args.tenant.tenant), args.index);
    let proof = client.ask_text(&Ask::get(path))?;
    if output.is_json() {
        output.json(&json!({"index": args.index, "proof": proof}))?;
    } else {
        output.data(&proof)?;
    }
    Ok(Exit::Done)
}
