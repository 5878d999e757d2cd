//! The server's own log: lines on stderr, as text or JSON. What may stand in it: `telemetry::log`.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::config::LogFormat;
use crate::telemetry::log::filtered;

/// What a filter looks like.
pub(crate) const EXAMPLES: &str = "such as `info`, `debug` or `varve=debug,warn`";

/// Sends the process's log to stderr. `filter` is a `tracing` directive, such as `info` or `varve=debug`.
///
/// # Errors
/// When `filter` cannot be read, or a log was set up before.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), &'static str> {
    let filtered = filtered(registry(), filter).map_err(|_| "cannot be read")?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => {
            filtered.with(lines.with_ansi(super::output::Output::stderr_has_colour())).try_init()
        }
        LogFormat::Json => filtered.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|_| "is read, but the log was set up twice: this is a defect, please report it")
}
