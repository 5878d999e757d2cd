//! `varve retention show|set`: what a tenant's log keeps how long.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::args::{ServerArgs, TenantArg};
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, printable};
use crate::service::{Error, ErrorCode};

#[derive(Args)]
pub(in crate::cli) struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Subcommand)]
enum RetentionCommand {
    /// Show the policy of a tenant
    Show(Shown),
    /// Change the policy of a tenant; the change is an entry of its log
    Set(Change),
}

#[derive(Args)]
struct Shown {
    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct Change {
    #[command(flatten)]
    tenant: TenantArg,

    /// Months that a class is kept, such as `security=24`; a new name makes a class
    #[arg(long = "class", value_name = "NAME=MONTHS")]
    classes: Vec<String>,

    /// Class of events that name none, such as `billing.*=long-evidence`; all rules are replaced by those given
    #[arg(long = "rule", value_name = "ACTION=CLASS")]
    rules: Vec<String>,

    /// Take all rules away
    #[arg(long, conflicts_with = "rules")]
    no_rules: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct PolicyView {
    expires: bool,
    classes: Vec<ClassView>,
    rules: Vec<RuleView>,
}

#[derive(Deserialize)]
struct ClassView {
    name: String,
    months: u16,
}

#[derive(Deserialize)]
struct RuleView {
    action: String,
    class: String,
}

pub(in crate::cli) fn run(args: &RetentionArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        RetentionCommand::Show(shown) => {
            let client = Client::new(&shown.server, output)?;
            let policy: Box<RawValue> = client.ask_json(&Ask::get(path(&shown.tenant)))?;
            show(&policy, output)
        }
        RetentionCommand::Set(change) => {
            let client = Client::new(&change.server, output)?;
            let body = body(change)?.to_string();
            let path = path(&change.tenant);
            let ask = Ask { method: "PUT", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
            let policy: Box<RawValue> = client.ask_json(&ask)?;
            show(&policy, output)
        }
    }
}

fn path(tenant: &TenantArg) -> String {
    format!("/v1/tenants/{}/retention", segment(&tenant.tenant))
}

/// The change as the server takes it.
fn body(change: &Change) -> Result<Value, Failure> {
    let usage = |what: &str| Failure::from(Error::new(ErrorCode::BadRequest, what));
    let mut classes = Map::new();
    for class in &change.classes {
        let parts =
            class.split_once('=').and_then(|(name, months)| Some((name, months.parse::<u16>().ok()?)));
        let (name, months) = parts.ok_or_else(|| usage("--class takes NAME=MONTHS; nothing was changed"))?;
        classes.insert(name.to_owned(), json!({"months": months}));
    }
    let mut rules = Vec::new();
    for rule in &change.rules {
        let (action, class) =
            rule.split_once('=').ok_or_else(|| usage("--rule takes ACTION=CLASS; nothing was changed"))?;
        rules.push(json!({"action": action, "class": class}));
    }
    let mut body = json!({"classes": classes});
    if change.no_rules || !rules.is_empty() {
        body["rules"] = Value::Array(rules);
    }
    Ok(body)
}

fn show(raw: &RawValue, output: &Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let unreadable = |_| Failure::from(Error::new(ErrorCode::Internal, "the server's answer cannot be read"));
    let policy: PolicyView = serde_json::from_str(raw.get()).map_err(unreadable)?;
    for class in &policy.classes {
        output.data(&format!("class  {:<24} {} months", printable(&class.name), class.months))?;
    }
    for rule in &policy.rules {
        output.data(&format!("rule   {:<24} {}", printable(&rule.action), printable(&rule.class)))?;
    }
    if !policy.expires {
        output.say(
            "no policy was set yet: nothing expires, and these are the months that a policy begins with",
        );
    }
    Ok(Exit::Done)
}
