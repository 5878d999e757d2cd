//! `varve approve ID`: the second of two keys. What asking for an act answers is read and shown here too.

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::args::ServerArgs;
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, printable};

#[derive(Args)]
pub(in crate::cli) struct ApproveArgs {
    /// Id of the approval, as whoever asked was shown it
    id: String,

    #[command(flatten)]
    server: ServerArgs,
}

/// An act that needs two keys.
#[derive(Deserialize)]
pub(super) struct Approval {
    pub(super) id: String,
    act: String,
    tenant: String,
    expires_at: String,
}

/// What a request that needs two keys answers.
#[derive(Deserialize)]
struct Asking {
    approval: Approval,
}

pub(in crate::cli) fn run(args: &ApproveArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let path = format!("/v1/approvals/{}", segment(&args.id));
    let ask = Ask { method: "POST", path, body: Some(b"{}"), repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let approval = read(&raw)?;
    let tenant = printable(&approval.tenant);
    let (now, next) = match approval.act.as_str() {
        "hold.release" => (
            format!("the hold of {tenant} is released: the policy of the tenant runs on for what it held"),
            format!("`varve hold list --tenant {tenant}` shows what is still held"),
        ),
        "tenant.close" => (
            format!("the log of {tenant} is closed: it takes no events, and can be read"),
            format!("`varve checkpoint --tenant {tenant}` prints its last checkpoint; keep it elsewhere"),
        ),
        "erasure" => (
            format!("the erasure in the log of {tenant} has begun"),
            format!("`varve erase list --tenant {tenant}` says when it is done"),
        ),
        act => {
            (format!("{} of {tenant} is approved", printable(act)), "it is done, or on its way".to_owned())
        }
    };
    output.data(&now)?;
    output.say(&next);
    Ok(Exit::Done)
}

/// Shows that an act waits for another key; `about` says what is true until then.
pub(super) fn waits(raw: &RawValue, about: &str, scope: &str, output: &Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let approval = read(raw)?;
    let (id, until) = (printable(&approval.id), printable(&approval.expires_at));
    output.data(&format!("approval {id}  waits until {until}"))?;
    output.say(about);
    output.say(&format!("another key with the scope {scope} approves with: varve approve {id}"));
    Ok(Exit::Done)
}

/// The approval in an answer.
pub(super) fn read(raw: &RawValue) -> Result<Approval, Failure> {
    let asking: Result<Asking, _> = serde_json::from_str(raw.get());
    asking.map(|asking| asking.approval).map_err(|_| {
        Failure::new("the server's answer holds no approval", "check --url, and that versions match")
    })
}
