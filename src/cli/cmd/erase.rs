//! `varve erase request|list|show`: what was sealed about a person leaves.

#![expect(clippy::disallowed_methods, reason = "how long it waits until an erasure is done")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::args::{LogArgs, ServerArgs, TenantArg};
use super::super::client::{Ask, Client, Repeat, segment};
use super::super::output::{Exit, Failure, Output, counted, printable};
use super::approve;

/// Longest file with an id: 2,048 characters of four bytes, and the end of the line.
const MAX_ID_FILE_BYTES: u64 = 8 * 1024 + 2;

/// Pauses between two looks: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(in crate::cli) struct EraseArgs {
    #[command(subcommand)]
    command: EraseCommand,
}

#[derive(Subcommand)]
enum EraseCommand {
    /// Ask for the erasure of a person
    Request(RequestArgs),
    /// List the erasures of a tenant, newest first
    List(LogArgs),
    /// Show how an erasure stands
    Show(ShowArgs),
}

#[derive(Args)]
struct RequestArgs {
    #[command(flatten)]
    tenant: TenantArg,

    /// Type of the person as actor or target, such as `user`; left out, it is those that have none
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,

    /// Id of the person; it stays in the history of your shell, --id-file does not
    #[arg(long, conflicts_with = "id_file")]
    id: Option<String>,

    /// File with the id of the person on one line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    id_file: Option<PathBuf>,

    /// By which right, such as `GDPR Art. 17`; kept sealed in the log
    #[arg(long, value_name = "TEXT")]
    basis: String,

    /// Wait until it is done; with --json the state at the end is a second line
    #[arg(long)]
    wait: bool,

    /// How long to wait; exit 2 when the time is up, and the erasure goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct ShowArgs {
    /// Id of the erasure, as `varve erase list` shows it
    id: String,

    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct ErasureView {
    id: String,
    state: String,
    requested_at: String,
    #[serde(default)]
    records: Option<u64>,
    #[serde(default)]
    other_types: Option<u64>,
    disclosures: u64,
    held: u64,
    backups_until: String,
    #[serde(default)]
    detail: Option<String>,
}

impl ErasureView {
    fn is_done(&self) -> bool {
        self.state == "done"
    }
}

pub(in crate::cli) fn run(args: &EraseArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        EraseCommand::Request(args) => request(args, output),
        EraseCommand::List(args) => list(args, output),
        EraseCommand::Show(args) => {
            let client = Client::new(&args.server, output)?;
            let raw: Box<RawValue> = client.ask_json(&Ask::get(erasure(&args.tenant, &args.id)))?;
            let erasure = read(&raw)?;
            show(&raw, &erasure, output)?;
            Ok(Exit::Done)
        }
    }
}

fn request(args: &RequestArgs, output: &Output) -> Result<Exit, Failure> {
    let id = match (&args.id, &args.id_file) {
        (Some(id), _) => id.clone(),
        (None, Some(file)) => id_of(file)?,
        (None, None) => {
            return Err(Failure::new(
                "nobody is named; nothing was asked for",
                "--id-file FILE, or - for standard input, keeps the id out of the history of your shell; --id does not",
            ));
        }
    };
    let client = Client::new(&args.server, output)?;
    let mut subject = json!({"id": id});
    if let Some(kind) = &args.kind {
        subject["type"] = kind.as_str().into();
    }
    let body = json!({"subject": subject, "basis": args.basis}).to_string();
    let path = erasures(&args.tenant);
    let ask = Ask { method: "POST", path, body: Some(body.as_bytes()), repeat: Repeat::Never };
    let raw: Box<RawValue> = client.ask_json(&ask)?;
    if let Ok(approval) = approve::read(&raw) {
        approve::waits(&raw, "nothing is erased until then", "erase", output)?;
        if !args.wait {
            return Ok(Exit::Done);
        }
        return Err(Failure::new(
            "it was asked for, and waits for another key: there is nothing to wait for yet",
            format!(
                "once `varve approve {}` is done, `varve erase list` says how it stands",
                printable(&approval.id)
            ),
        ));
    }
    let asked = read(&raw)?;
    show(&raw, &asked, output)?;
    if args.wait && !asked.is_done() {
        return wait(args, &client, &asked.id, output);
    }
    if !output.is_json() && !asked.is_done() {
        let (id, tenant) = (printable(&asked.id), printable(&args.tenant.tenant));
        output.say(&format!("`varve erase show {id} --tenant {tenant}` says when it is done"));
    }
    Ok(Exit::Done)
}

/// Looks until it is done, or the time is up.
fn wait(args: &RequestArgs, client: &Client, id: &str, output: &Output) -> Result<Exit, Failure> {
    let began = Instant::now();
    let most = Duration::from_secs(args.timeout);
    let mut pause = FIRST_PAUSE;
    let mut progress = output.waiting();
    loop {
        std::thread::sleep(pause.min(most.saturating_sub(began.elapsed())));
        pause = (pause * 2).min(LONGEST_PAUSE);
        let raw: Box<RawValue> = client.ask_json(&Ask::get(erasure(&args.tenant, id)))?;
        let now = read(&raw)?;
        if now.is_done() {
            progress.done();
            show(&raw, &now, output)?;
            return Ok(Exit::Done);
        }
        if began.elapsed() >= most {
            progress.done();
            show(&raw, &now, output)?;
            return Err(Failure::new(
                format!("it is not done after {}; it goes on", counted(args.timeout, "second")),
                format!(
                    "`varve erase show {} --tenant {}` says when it is done",
                    printable(id),
                    printable(&args.tenant.tenant)
                ),
            ));
        }
        progress.stands(&format!("erasure {}: {}", printable(id), printable(&now.state)));
    }
}

fn list(args: &LogArgs, output: &Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Listing {
        erasures: Vec<ErasureView>,
    }
    let client = Client::new(&args.server, output)?;
    let text = client.ask_text(&Ask::get(erasures(&args.tenant)))?;
    if output.is_json() {
        output.data(&text)?;
        return Ok(Exit::Done);
    }
    let Listing { erasures } = serde_json::from_str(&text).map_err(|_| unreadable())?;
    for erasure in &erasures {
        output.data(&format!(
            "{:>8}  {}  {:<9}  {}",
            printable(&erasure.id),
            printable(&erasure.requested_at),
            printable(&erasure.state),
            came(erasure)
        ))?;
    }
    output.say(&counted(erasures.len() as u64, "erasure"));
    Ok(Exit::Done)
}

/// How an erasure stands; the server's JSON where that is wanted.
fn show(raw: &RawValue, erasure: &ErasureView, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.data(raw.get());
    }
    output.data(&format!(
        "erasure {}  {}, {}",
        printable(&erasure.id),
        printable(&erasure.state),
        came(erasure)
    ))?;
    if let Some(detail) = &erasure.detail {
        output.warn(&printable(detail));
    }
    if erasure.is_done() {
        output.say(&format!("backups may hold what it took until {}", printable(&erasure.backups_until)));
    }
    if erasure.held > 0 {
        output.say("what is held stays whole: `varve hold list` shows why; ask again once it is released");
    }
    Ok(())
}

/// What came of it so far, in words.
fn came(erasure: &ErasureView) -> String {
    let held = match erasure.held {
        0 => String::new(),
        held => format!(", {} held", counted(held, "record")),
    };
    match erasure.records {
        Some(records) if !erasure.is_done() => {
            let others = match erasure.other_types {
                None | Some(0) => String::new(),
                Some(others) => {
                    format!("; {} with this id under another type stay", counted(others, "record"))
                }
            };
            format!("{} to erase{held}{others}", counted(records, "record"))
        }
        _ if erasure.is_done() => format!("{} erased{held}", counted(erasure.disclosures, "value")),
        _ => format!("{} to erase{held}", counted(erasure.disclosures, "value")),
    }
}

/// The id of a person in a file, or on standard input. No error repeats it.
fn id_of(file: &Path) -> Result<String, Failure> {
    let (shown, input) = match file.to_str() {
        Some("-") => ("standard input".to_owned(), Ok(Box::new(std::io::stdin()) as Box<dyn Read>)),
        _ => (
            printable(&file.display().to_string()),
            std::fs::File::open(file).map(|file| Box::new(file) as Box<dyn Read>),
        ),
    };
    let mut text = String::new();
    let read = input.and_then(|input| input.take(MAX_ID_FILE_BYTES + 1).read_to_string(&mut text));
    let help = "nothing was asked for; the file holds the id of one person on one line";
    let read = read.map_err(|error| Failure::new(format!("{shown} cannot be read: {error}"), help))?;
    let id = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if id.is_empty() || id.contains(['\n', '\r']) || read as u64 > MAX_ID_FILE_BYTES {
        return Err(Failure::new(format!("{shown} holds no id on one line"), help));
    }
    Ok(id.to_owned())
}

fn erasures(tenant: &TenantArg) -> String {
    format!("/v1/tenants/{}/erasures", segment(&tenant.tenant))
}

fn erasure(tenant: &TenantArg, id: &str) -> String {
    format!("{}/{}", erasures(tenant), segment(id))
}

fn read(raw: &RawValue) -> Result<ErasureView, Failure> {
    serde_json::from_str(raw.get()).map_err(|_| unreadable())
}

fn unreadable() -> Failure {
    Failure::new("the server's answer describes no erasure", "check --url, and that versions match")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("id");
        for (text, expected) in [
            ("u-17", Some("u-17")),
            ("u-17\n", Some("u-17")),
            ("u-17\r\n", Some("u-17")),
            (" u 17 ", Some(" u 17 ")),
            ("", None),
            ("\n", None),
            ("u-17\nu-18\n", None),
        ] {
            std::fs::write(&file, text).unwrap();
            let read = id_of(&file);
            assert_eq!(read.as_deref().ok(), expected, "{text:?}");
            assert!(read.err().is_none_or(|failure| !failure.message.contains("u-1")));
        }
        std::fs::write(&file, "é".repeat(5000)).unwrap();
        assert!(id_of(&file).is_err());
    }
}
