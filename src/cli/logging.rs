//! The server's own log: lines on stderr, as text or JSON. What is written there never holds an event, a key or a
//! person; each call site sees to that, and names its fields one by one.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What a filter looks like.
pub(crate) const EXAMPLES: &str = "such as `info`, `debug` or `varve=debug,warn`";

/// Sends the process's log to stderr. `filter` is a `tracing` directive, such as `info` or `varve=debug`.
///
/// # Errors
/// When `filter` cannot be read, or a log was set up before.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), &'static str> {
    let filter = EnvFilter::try_new(filter).map_err(|_| "cannot be read")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(super::output::Output::stderr_has_colour()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| "is read, but the log was set up twice: this is a defect, please report it")
}
