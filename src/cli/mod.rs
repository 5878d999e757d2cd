//! The command line door.
//!
//! Manners (contract): data to stdout, all else to stderr; `--json` everywhere; exit 0 = done or intact, 1 = the
//! answer is no, 2 = could not tell; an error ends in a `hint:` line; secrets come from `VARVE_KEY` or a file.
//!
//! Reading order: `args` (the tree of commands), `output` (what a user sees), `client` (a server at the other
//! end), `cmd/*` (one file a command), `import/*` (what other systems' events become).

mod args;
mod client;
mod cmd;
mod import;
mod logging;
mod output;
mod send;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use output::{Exit, Output};

/// Parses the process's arguments, runs the command, says what went wrong, returns the exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).code(),
    };
    let output = Output::new(cli.json);
    let exit = match dispatch(cli.command, &output) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    };
    exit.code()
}

fn dispatch(command: Command, output: &Output) -> Result<Exit, output::Failure> {
    match command {
        Command::Init(args) => cmd::init::run(&args, output),
        Command::Serve(args) => cmd::serve::run(&args, output),
        Command::Tenant(args) => cmd::tenant::run(&args, output),
        Command::Key(args) => cmd::key::run(&args, output),
        Command::Append(args) => cmd::append::run(&args, output),
        Command::Import(args) => cmd::import::run(&args, output),
        Command::Query(args) => cmd::query::run(&args, output),
        Command::Prove(args) => cmd::prove::run(&args, output),
        Command::Checkpoint(args) => cmd::checkpoint::run(&args, output),
        Command::Verify(args) => cmd::verify::run(&args, output),
        Command::Retention(args) => cmd::retention::run(&args, output),
        Command::Hold(args) => cmd::hold::run(&args, output),
        Command::Erase(args) => cmd::erase::run(&args, output),
        Command::Approve(args) => cmd::approve::run(&args, output),
        Command::Compact(args) => cmd::compact::run(&args, output),
        Command::RotateSigningKey(args) => cmd::rotate_signing_key::run(&args, output),
        Command::OperatorKey(args) => cmd::operator_key::run(&args, output),
    }
}

/// Help and version go to stdout and are no error; everything else is one, with a hint.
fn usage(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe (`varve --help | head -1`) is the reader's choice.
            let _ = error.print();
            Exit::Done
        }
        kind => {
            let rendered = error.render();
            let coloured = Output::stderr_has_colour();
            let text = if coloured { rendered.ansi().to_string() } else { rendered.to_string() };
            let cut = text.find("\nFor more information").unwrap_or(text.len());
            eprintln!("{}", text[..cut].trim_end());
            if kind != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                eprintln!();
            }
            eprintln!("hint: `varve help` lists the commands, `varve help COMMAND` what each takes");
            Exit::CouldNotTell
        }
    }
}
