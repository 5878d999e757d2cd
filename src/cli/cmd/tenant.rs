//! `varve tenant create|list|show|close`

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::args::ServerArgs;
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, counted, printable};
use super::approve;

#[derive(Args)]
pub(in crate::cli) struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Subcommand)]
enum TenantCommand {
    /// Create a tenant and its log (operator)
    Create(Named),
    /// List the tenants (operator)
    List(Listed),
    /// Show a tenant: origin, public key, size, newest link
    Show(Named),
    /// Ask for the end of a tenant's log; another key must approve it
    Close(Closing),
}

#[derive(Args)]
struct Named {
    /// Name of the tenant: a-z 0-9 . _ - and at most 63 characters
    #[arg(value_name = "TENANT")]
    tenant: String,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct Listed {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct Closing {
    /// Name of the tenant
    #[arg(value_name = "TENANT")]
    tenant: String,

    /// Size of the log when it was taken away whole, as `varve tenant show` says it; it must still be so much
    #[arg(long, value_name = "N")]
    size: u64,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct TenantView {
    tenant: String,
    origin: String,
    public_key: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    link: Option<String>,
    #[serde(default)]
    root: String,
    #[serde(default)]
    closed: bool,
}

impl TenantView {
    fn state(&self) -> &'static str {
        if self.closed { "closed" } else { "open" }
    }
}

pub(in crate::cli) fn run(args: &TenantArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        TenantCommand::Create(named) => create(named, output),
        TenantCommand::List(listed) => list(&listed.server, output),
        TenantCommand::Show(named) => show(named, output),
        TenantCommand::Close(closing) => close(closing, output),
    }
}

fn create(args: &Named, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let body = json!({"tenant": args.tenant}).to_string();
    let path = "/v1/tenants".to_owned();
    let ask = Ask { method: "POST", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
    let made: Box<RawValue> = client.ask_json(&ask)?;
    if output.is_json() {
        output.data(made.get())?;
    } else {
        let made = view(&made)?;
        output.data(&format!(
            "tenant      {}\norigin      {}\npublic key  {}",
            made.tenant, made.origin, made.public_key
        ))?;
    }
    Ok(Exit::Done)
}

fn list(server: &ServerArgs, output: &Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Listing {
        tenants: Vec<Box<RawValue>>,
    }
    let client = Client::new(server, output)?;
    let text = client.ask_text(&Ask::get("/v1/tenants".to_owned()))?;
    if output.is_json() {
        output.data(&text)?;
        return Ok(Exit::Done);
    }
    let Listing { tenants } = serde_json::from_str(&text).map_err(|_| unreadable())?;
    for raw in &tenants {
        let tenant = view(raw)?;
        output.data(&format!(
            "{:<24} {:>12}  {:<6}  {}",
            printable(&tenant.tenant),
            tenant.size,
            tenant.state(),
            printable(&tenant.origin)
        ))?;
    }
    output.say(&counted(tenants.len() as u64, "tenant"));
    Ok(Exit::Done)
}

fn show(args: &Named, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let raw: Box<RawValue> = client.ask_json(&Ask::get(format!("/v1/tenants/{}", segment(&args.tenant))))?;
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let shown = view(&raw)?;
    output.data(&format!(
        "tenant      {}\norigin      {}\npublic key  {}\nsize        {}\nlink        {}\nroot        {}\nstate       {}",
        printable(&shown.tenant),
        printable(&shown.origin),
        printable(&shown.public_key),
        shown.size,
        printable(shown.link.as_deref().unwrap_or("-")),
        printable(&shown.root),
        shown.state(),
    ))?;
    Ok(Exit::Done)
}

fn close(args: &Closing, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let body = json!({"size": args.size}).to_string();
    let path = format!("/v1/tenants/{}/close", segment(&args.tenant));
    let ask = Ask { method: "POST", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    let about = "the log is open until then; if anything is written to it meanwhile, ask again";
    approve::waits(&raw, about, "admin", output)
}

fn view(raw: &RawValue) -> Result<TenantView, Failure> {
    serde_json::from_str(raw.get()).map_err(|_| unreadable())
}

fn unreadable() -> Failure {
    Failure::new("the server's answer describes no tenant", "check --url, and that versions match")
}
