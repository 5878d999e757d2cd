//! `varve key create|list|revoke`

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::args::{LogArgs, ServerArgs, TenantArg};
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, counted, printable};

#[derive(Args)]
pub(in crate::cli) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Create a key; it alone is written to standard output, once
    Create(CreateArgs),
    /// List the keys of a tenant, without the secrets
    List(LogArgs),
    /// Revoke a key; holds within a second
    Revoke(RevokeArgs),
}

#[derive(Args)]
struct CreateArgs {
    #[command(flatten)]
    tenant: TenantArg,

    /// What the key is for; shown in lists
    #[arg(long)]
    name: String,

    /// What the key may do, separated by commas
    #[arg(long = "scope", value_delimiter = ',', required = true, value_name = "SCOPE")]
    #[arg(
        help = "What the key may do, separated by commas: admin ingest read verify export retention hold erase"
    )]
    scopes: Vec<String>,

    /// When the key ends, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct RevokeArgs {
    /// Id of the key, as `varve key list` shows it
    id: String,

    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

pub(in crate::cli) fn run(args: &KeyArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        KeyCommand::Create(args) => create(args, output),
        KeyCommand::List(args) => list(args, output),
        KeyCommand::Revoke(args) => revoke(args, output),
    }
}

fn create(args: &CreateArgs, output: &Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Made {
        id: String,
        key: String,
        scopes: Vec<String>,
    }
    let client = Client::new(&args.server, output)?;
    let mut wanted = json!({"name": args.name, "scopes": args.scopes});
    if let Some(time) = &args.expires_at {
        wanted["expires_at"] = json!(time);
    }
    let body = wanted.to_string();
    let path = keys(&args.tenant.tenant);
    let ask = Ask { method: "POST", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    if output.is_json() {
        output.data(raw.get())?;
        return Ok(Exit::Done);
    }
    let made: Made = serde_json::from_str(raw.get()).map_err(|_| {
        Failure::new("the server's answer holds no key", "check --url, and that versions match")
    })?;
    output.data(&made.key)?;
    output.say(&format!("key {} of {} may: {}", made.id, args.tenant.tenant, made.scopes.join(" ")));
    Ok(Exit::Done)
}

fn list(args: &LogArgs, output: &Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Listing {
        keys: Vec<KeyView>,
    }
    #[derive(Deserialize)]
    struct KeyView {
        id: String,
        name: String,
        scopes: Vec<String>,
        created_at: String,
        #[serde(default)]
        expires_at: Option<String>,
        #[serde(default)]
        revoked_at: Option<String>,
    }
    let client = Client::new(&args.server, output)?;
    let text = client.ask_text(&Ask::get(keys(&args.tenant.tenant)))?;
    if output.is_json() {
        output.data(&text)?;
        return Ok(Exit::Done);
    }
    let Listing { keys } = serde_json::from_str(&text).map_err(|_| {
        Failure::new("the server's answer is no list of keys", "check --url, and that versions match")
    })?;
    for key in &keys {
        let state = match (&key.revoked_at, &key.expires_at) {
            (Some(time), _) => format!("revoked {time}"),
            (None, Some(time)) => format!("expires {time}"),
            (None, None) => "does not expire".to_owned(),
        };
        let (name, scopes) = (printable(&key.name), key.scopes.join(","));
        output
            .data(&format!("{:<18} {:<20} {scopes:<24} created {}, {state}", key.id, name, key.created_at))?;
    }
    output.say(&counted(keys.len() as u64, "key"));
    Ok(Exit::Done)
}

fn revoke(args: &RevokeArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let path = format!("{}/{}", keys(&args.tenant.tenant), segment(&args.id));
    // Revoking twice is revoking once.
    client.ask(&Ask { method: "DELETE", path, body: None, repeat: Repeat::Safe })?;
    if output.is_json() {
        output.json(&json!({"id": args.id, "revoked": true}))?;
    } else {
        output.say(&format!("key {} is revoked", args.id));
    }
    Ok(Exit::Done)
}

fn keys(tenant: &str) -> String {
    format!("/v1/tenants/{}/keys", segment(tenant))
}
