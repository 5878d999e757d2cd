//! `varve import`: events of other systems' files.

use clap::{Args, ValueEnum};

use super::super::args::{ServerArgs, TenantArg};
use super::super::client::Client;
use super::super::import::input::Input;
use super::super::import::{Fault, Sink, cloudtrail, jsonl};
use super::super::output::{Exit, Failure, Output, counted};
use super::super::send::Sender;
use super::append::{summary, tally_json};

#[derive(Args)]
pub(in crate::cli) struct ImportArgs {
    /// What the files hold
    #[arg(long, value_enum)]
    format: Format,

    /// Files, plain or gzip; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    #[command(flatten)]
    tenant: TenantArg,

    /// Stop at the first record that is refused
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// AWS CloudTrail: {"Records":[…]} or a record a line
    Cloudtrail,
    /// Varve's own events, one a line
    Jsonl,
}

pub(in crate::cli) fn run(args: &ImportArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    // A misspelt name is better found before the first event is sent.
    for file in args.files.iter().filter(|file| *file != "-") {
        std::fs::File::open(file).map_err(|error| {
            Failure::new(
                format!("{file} cannot be read: {error}"),
                "nothing was appended; check the names of the files",
            )
        })?;
    }
    let progress = output.progress(None, "events");
    let mut sender =
        Sender::new(&client, &args.tenant.tenant, args.strict, false, progress, Box::new(|_| Ok(())));
    let mut unread = 0_u64;
    for file in &args.files {
        let mut sink: Box<Sink<'_>> = Box::new(|record| match record {
            Ok((origin, event)) => sender.push(origin, event),
            Err((origin, reason)) => sender.refuse(&origin, &reason),
        });
        let read = Input::open(file).map_err(Fault::File).and_then(|input| match args.format {
            Format::Cloudtrail => cloudtrail::read(input, &mut sink),
            Format::Jsonl => jsonl::read(input, &mut sink),
        });
        drop(sink);
        match read {
            Ok(()) => {}
            // What was read before the fault is good, and so are the other files.
            Err(Fault::File(failure)) if !args.strict => {
                output.failure(&failure);
                unread += 1;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    let tally = sender.finish()?;
    let files = args.files.len() as u64;
    if output.is_json() {
        output.json(&tally_json(files - unread, &tally))?;
    } else {
        output.data(&format!("{} from {}", summary(&tally), counted(files - unread, "file")))?;
    }
    if tally.named > 0 {
        output.warn(&format!(
            "{} came without an id and got one; importing the same file again would append them again",
            counted(tally.named, "event")
        ));
    }
    Ok(match (unread, tally.refused) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::No,
        _ => Exit::CouldNotTell,
    })
}
