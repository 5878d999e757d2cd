//! What a user sees: data on stdout, all else on stderr, colours and progress only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

pub(crate) use crate::event::printable;
use crate::service::{Error, ErrorCode};

/// Work shorter than this shows no progress bar.
const QUIET: Duration = Duration::from_secs(1);

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Done, or intact.
    Done,
    /// The answer is no.
    No,
    /// Could not tell: usage, I/O, no such tenant.
    CouldNotTell,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::CouldNotTell => 2,
        })
    }
}

/// Why a command ended early: what happened, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Failure {
    /// Could not tell (exit 2).
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { exit: Exit::CouldNotTell, message: message.into(), hint: hint.into() }
    }

    /// The answer is no (exit 1).
    pub(crate) fn no(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { exit: Exit::No, message: message.into(), hint: hint.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(error.detail, hint(error.code.as_str()))
    }
}

/// What to do about a code of the contract; the text of codes travels, so this takes text.
pub(crate) fn hint(code: &str) -> &'static str {
    let is = |known: ErrorCode| known.as_str() == code;
    if is(ErrorCode::Unauthenticated) {
        "put a key that is neither revoked nor expired into VARVE_KEY, or name a file with --key-file"
    } else if is(ErrorCode::Forbidden) {
        "use a key with the scope named above, or another one where that is asked; `varve key create` makes one"
    } else if is(ErrorCode::NotFound) {
        "check --tenant and the index or id; a key sees only its own tenant"
    } else if is(ErrorCode::BadRequest) {
        "`varve help COMMAND` shows what is taken; times are RFC 3339, such as 2026-01-31T00:00:00Z"
    } else if is(ErrorCode::InvalidEvent) {
        "mend the member named above; an event needs `action` and `outcome`"
    } else if is(ErrorCode::TooLarge) {
        "an event has at most 64 KiB, a batch at most 1,000 events and 4 MiB"
    } else if is(ErrorCode::IdConflict) {
        "an id is for one event for ever: give the new event an id of its own"
    } else if is(ErrorCode::AlreadyExists) {
        "choose another name"
    } else if is(ErrorCode::Held) {
        "`varve hold list` shows what is held and why; `varve hold release` asks for its end, by two keys"
    } else if is(ErrorCode::Gone) {
        "read it with `varve query`; for new events create another tenant"
    } else if is(ErrorCode::Busy) || is(ErrorCode::RateLimited) || is(ErrorCode::QueryTimeout) {
        "try again later; nothing was stored"
    } else if is(ErrorCode::OutcomeUnknown) {
        "run the same command again: the same ids are stored once"
    } else if is(ErrorCode::StorageFull) {
        "make room on the server's disk"
    } else if is(ErrorCode::ReadOnly) || is(ErrorCode::Internal) {
        "look into the server's log, then stop the server and run `varve verify DIR`"
    } else {
        "`varve help` lists the commands"
    }
}

/// Where a command writes.
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json, colour: Output::stderr_has_colour() }
    }

    /// Colours: on a terminal, and not where `NO_COLOR` is set (no-color.org).
    pub(crate) fn stderr_has_colour() -> bool {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        io::stderr().is_terminal() && !refused
    }

    /// Whether data is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One line of data.
    ///
    /// # Errors
    /// When stdout cannot be written. A reader that has closed the pipe (`varve query | head`) ends the process
    /// quietly: there is nobody to tell.
    pub(crate) fn data(&self, line: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = out.write_all(line.as_bytes()).and_then(|()| match line.ends_with('\n') {
            true => Ok(()),
            false => out.write_all(b"\n"),
        });
        match written.and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => Err(Failure::new(
                format!("standard output cannot be written: {error}"),
                "check what it is redirected to",
            )),
        }
    }

    /// `value` as one line of JSON.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|_| {
            Failure::new("the answer cannot be written as JSON", "this is a defect: please report it")
        })?;
        self.data(&text)
    }

    /// A remark for the user.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Something that is wrong and does not end the command.
    pub(crate) fn warn(&self, text: &str) {
        eprintln!("{} {text}", self.paint("33", "warning:"));
    }

    /// The end of a command that failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        eprintln!("{} {}", self.paint("1;31", "error:"), failure.message);
        eprintln!("{} {}", self.paint("36", "hint:"), failure.hint);
    }

    /// A bar for work of `total` units (unknown: a count), which shows itself after a second, on a terminal.
    pub(crate) fn progress(&self, total: Option<u64>, unit: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left"),
            None => format!("{{spinner}} {{human_pos}} {unit}, {{per_sec}}, {{elapsed}}"),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Progress { bar, shown: false }
    }

    /// A line that says how something stands that goes on elsewhere; shown like [`Output::progress`].
    pub(crate) fn waiting(&self) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
            bar.set_style(style);
        }
        Progress { bar, shown: false }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A progress bar that stays hidden where work is short or nobody looks.
pub(crate) struct Progress {
    bar: ProgressBar,
    shown: bool,
}

impl Progress {
    /// `count` more units are done.
    pub(crate) fn add(&mut self, count: u64) {
        self.bar.inc(count);
        self.show();
    }

    /// How it stands.
    pub(crate) fn stands(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.show();
        self.bar.tick();
    }

    fn show(&mut self) {
        if !self.shown && self.bar.elapsed() > QUIET {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Takes the bar away.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a remark above the bar.
    pub(crate) fn remark(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

/// `1 event`, `2 events`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_hint_of_its_own_kind() {
        let general = hint("");
        for code in [
            ErrorCode::BadRequest,
            ErrorCode::InvalidEvent,
            ErrorCode::TooLarge,
            ErrorCode::Unauthenticated,
            ErrorCode::Forbidden,
            ErrorCode::NotFound,
            ErrorCode::IdConflict,
            ErrorCode::AlreadyExists,
            ErrorCode::Held,
            ErrorCode::Gone,
            ErrorCode::RateLimited,
            ErrorCode::Busy,
            ErrorCode::OutcomeUnknown,
            ErrorCode::ReadOnly,
            ErrorCode::StorageFull,
            ErrorCode::QueryTimeout,
            ErrorCode::Internal,
        ] {
            assert_ne!(hint(code.as_str()), general, "{code:?}");
        }
    }

    #[test]
    fn counts_read_well() {
        assert_eq!((counted(1, "event"), counted(0, "event")), ("1 event".into(), "0 events".into()));
    }
}
