//! `varve append`: events of a file or standard input, as they are.

use clap::Args;
use serde_json::json;

use super::super::args::{ServerArgs, TenantArg};
use super::super::client::Client;
use super::super::import::input::Input;
use super::super::import::jsonl;
use super::super::output::{Exit, Failure, Output, counted};
use super::super::send::{Sender, Tally};

#[derive(Args)]
pub(in crate::cli) struct AppendArgs {
    /// File with events: one JSON object, an array, or an object a line; `-` is standard input
    #[arg(default_value = "-")]
    file: String,

    #[command(flatten)]
    tenant: TenantArg,

    /// Stop at the first event that is refused
    #[arg(long)]
    strict: bool,

    /// Receipts with what is needed to check the commitment
    #[arg(long)]
    verifiable: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(in crate::cli) fn run(args: &AppendArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let input = Input::open(&args.file)?;
    let progress = output.progress(None, "events");
    let on_receipt: super::super::send::OnReceipt<'_> = Box::new(|receipt| {
        if output.is_json() {
            return output.data(receipt.json());
        }
        let note = if receipt.duplicate { "  duplicate" } else { "" };
        output.data(&format!("{}  {}  {}{note}", receipt.index, receipt.recorded_at, receipt.id))
    });
    let mut sender =
        Sender::new(&client, &args.tenant.tenant, args.strict, args.verifiable, progress, on_receipt);
    jsonl::read(input, &mut |record| match record {
        Ok((origin, event)) => sender.push(origin, event),
        Err((origin, reason)) => sender.refuse(&origin, &reason),
    })?;
    let tally = sender.finish()?;
    output.say(&summary(&tally));
    if tally == Tally::default() {
        return Err(Failure::new(format!("{} holds no event", args.file), "an event is a JSON object"));
    }
    Ok(if tally.refused > 0 { Exit::No } else { Exit::Done })
}

/// The end of `append` and `import`, for people.
pub(in crate::cli) fn summary(tally: &Tally) -> String {
    let mut text = format!("{} appended", counted(tally.appended, "event"));
    if tally.duplicates > 0 {
        text.push_str(&format!(", {} known already", tally.duplicates));
    }
    if tally.refused > 0 {
        text.push_str(&format!(", {} refused", tally.refused));
    }
    text
}

/// The end of `import`, for programs.
pub(in crate::cli) fn tally_json(files: u64, tally: &Tally) -> serde_json::Value {
    json!({"files": files, "events": tally.appended + tally.duplicates + tally.refused,
        "appended": tally.appended, "duplicates": tally.duplicates, "refused": tally.refused})
}
