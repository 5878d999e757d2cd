//! `varve hold place|list|release`: what stays, whatever a policy or an erasure says.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::args::{FilterArgs, LogArgs, ServerArgs, TenantArg};
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, counted, printable};
use super::approve;

#[derive(Args)]
pub(in crate::cli) struct HoldArgs {
    #[command(subcommand)]
    command: HoldCommand,
}

#[derive(Subcommand)]
enum HoldCommand {
    /// Place a hold: what it holds does not leave, from the answer on
    Place(Box<PlaceArgs>),
    /// List the holds in force
    List(LogArgs),
    /// Ask for the release of a hold; another key must approve it
    Release(ReleaseArgs),
}

#[derive(Args)]
struct PlaceArgs {
    #[command(flatten)]
    tenant: TenantArg,

    /// Why; kept sealed in the log
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// The case it belongs to
    #[arg(long, value_name = "ID")]
    case: Option<String>,

    /// Hold the whole log, and all that is appended
    #[arg(long)]
    everything: bool,

    /// Hold these entries, such as `--index 17 18` or `--index 17,18`
    #[arg(long = "index", value_name = "N", num_args = 1.., value_delimiter = ',')]
    indexes: Vec<u64>,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct ReleaseArgs {
    /// Id of the hold, as `varve hold list` shows it
    id: String,

    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct HoldView {
    id: String,
    kind: String,
    placed_at: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    case: Option<String>,
    extends: bool,
    resolved: bool,
    #[serde(default)]
    members: Option<u64>,
    #[serde(default)]
    filter: Option<Map<String, Value>>,
    #[serde(default)]
    gone: Option<u64>,
}

pub(in crate::cli) fn run(args: &HoldArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        HoldCommand::Place(args) => place(args, output),
        HoldCommand::List(args) => list(args, output),
        HoldCommand::Release(args) => release(args, output),
    }
}

fn place(args: &PlaceArgs, output: &Output) -> Result<Exit, Failure> {
    let body = body(args)?.to_string();
    let client = Client::new(&args.server, output)?;
    let path = holds(&args.tenant);
    let ask = Ask { method: "POST", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let hold: HoldView = serde_json::from_str(raw.get()).map_err(|_| unreadable())?;
    let (id, tenant) = (printable(&hold.id), printable(&args.tenant.tenant));
    output.data(&format!("hold {id}  in force, {}", held(&hold)))?;
    if let Some(gone) = hold.gone.filter(|gone| *gone > 0) {
        output.warn(&format!("{} had left before, and cannot be held", bodies(gone)));
    }
    output.say(&format!("`varve hold release {id} --tenant {tenant}` asks for its end, by two keys"));
    Ok(Exit::Done)
}

/// The hold as the server takes it.
fn body(args: &PlaceArgs) -> Result<Value, Failure> {
    let given = args.filter.members().into_iter();
    let filter: Map<String, Value> =
        given.filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    let (name, what) = match (args.everything, args.indexes.as_slice(), filter.is_empty()) {
        (true, [], true) => ("tenant", json!(true)),
        (false, [_, ..], true) => ("indexes", json!(args.indexes)),
        (false, [], false) => ("filter", Value::Object(filter)),
        _ => {
            return Err(Failure::new(
                "it says nothing to hold, or more than one thing; nothing was placed",
                "filter flags such as --actor hold what they find, --index entries, --everything the whole log",
            ));
        }
    };
    let mut body = json!({"reason": args.reason, name: what});
    if let Some(case) = &args.case {
        body["case"] = json!(case);
    }
    Ok(body)
}

fn list(args: &LogArgs, output: &Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Listing {
        holds: Vec<HoldView>,
    }
    let client = Client::new(&args.server, output)?;
    let text = client.ask_text(&Ask::get(holds(&args.tenant)))?;
    if output.is_json() {
        output.data(&text)?;
        return Ok(Exit::Done);
    }
    let Listing { holds } = serde_json::from_str(&text).map_err(|_| unreadable())?;
    for hold in &holds {
        let mut line = format!("{:>8}  {}  {}", printable(&hold.id), printable(&hold.placed_at), held(hold));
        if let Some(case) = &hold.case {
            line.push_str(&format!("  case {}", printable(case)));
        }
        if let Some(reason) = &hold.reason {
            line.push_str(&format!("  {}", printable(reason)));
        }
        output.data(&line)?;
    }
    output.say(&format!("{} in force", counted(holds.len() as u64, "hold")));
    Ok(Exit::Done)
}

fn release(args: &ReleaseArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let path = format!("{}/{}", holds(&args.tenant), segment(&args.id));
    let ask = Ask { method: "DELETE", path, body: None, repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    approve::waits(&raw, "the hold is in force until then", "hold", output)
}

fn holds(tenant: &TenantArg) -> String {
    format!("/v1/tenants/{}/holds", segment(&tenant.tenant))
}

/// What a hold holds, in words.
fn held(hold: &HoldView) -> String {
    let mut text = match (hold.kind.as_str(), hold.members) {
        ("tenant", _) => "the whole log".to_owned(),
        (_, Some(_)) if !hold.resolved => "the whole log until its members are listed".to_owned(),
        (_, Some(members)) => bodies(members),
        (kind, None) => printable(kind),
    };
    if hold.extends {
        let later =
            if hold.kind == "tenant" { " and what is appended" } else { " and what is appended and matches" };
        text.push_str(later);
    }
    for (name, value) in hold.filter.iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!(" {}={}", printable(name), printable(&value)));
    }
    text
}

fn bodies(count: u64) -> String {
    if count == 1 { "1 body".to_owned() } else { format!("{count} bodies") }
}

fn unreadable() -> Failure {
    Failure::new("the server's answer describes no hold", "check --url, and that versions match")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &[&str]) -> Result<Value, Failure> {
        let words = ["varve", "hold", "place", "--tenant", "acme", "--reason", "r"].iter().chain(line);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Hold(args) => match args.command {
                HoldCommand::Place(args) => body(&args),
                _ => panic!("another command"),
            },
            _ => panic!("another command"),
        }
    }

    #[test]
    fn a_hold_says_one_thing() {
        for (line, expected) in [
            (&["--everything"][..], json!({"reason": "r", "tenant": true})),
            (
                &["--index", "1,2", "--index", "3", "--case", "C"],
                json!({"reason": "r", "case": "C", "indexes": [1, 2, 3]}),
            ),
            (&["--index", "1", "2"], json!({"reason": "r", "indexes": [1, 2]})),
            (
                &["--actor", "u", "--occurred-since", "2026"],
                json!({"reason": "r", "filter": {"actor": "u", "occurred_since": "2026"}}),
            ),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line:?}");
        }
        for line in [
            &[][..],
            &["--everything", "--index", "1"],
            &["--everything", "--actor", "u"],
            &["--index", "1", "--actor", "u"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }
}
