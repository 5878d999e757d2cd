//! How `varve serve` is set up: `varve.toml`, then `VARVE_…`, then flags.
//!
//! Reading order: `keys` (every key as a table: unit, bounds, default, what it is for), `value` (what a key takes),
//! `gather` (the layers, one over the other, each value with its origin), `nearest` (what was meant by a key that
//! is not there). This file says what the keys mean together.
//!
//! Invariants: the table is the one place that knows keys; the file's parser, the names in the environment, the
//! flags, the help and the table in docs/OPERATIONS.md come from it. What is wrong is named by place and key. A text
//! that was given is never repeated, since it may be a secret in the wrong place; a number is.

mod gather;
pub mod keys;
mod nearest;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use gather::{Given, Layers, Origin, Setting, Settings};
pub use value::Value;

/// The prefix of names in the environment.
pub const ENV_PREFIX: &str = "VARVE_";

/// Where the configuration file is named in the environment.
pub const CONFIG_ENV: &str = "VARVE_CONFIG";

/// A configuration that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// Where, which key, and what is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl ConfigError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into(), hint: hint.into() }
    }
}

/// How a line of the log reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where certificate and key are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's own certificate, then the intermediate ones, as PEM.
    pub certificate: PathBuf,
    /// The private key of the first certificate, as PEM.
    pub private_key: PathBuf,
}

/// What a server is to do, checked. Each field is the key of the same name in [`keys`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the store.
    pub data: PathBuf,
    /// Refuse to make a store.
    pub must_exist: bool,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u64,
    /// Free space below which appends are refused.
    pub low_water_bytes: u64,
    /// How long a query may work (`query_seconds`).
    pub query_time: Duration,
    /// Most events that wait for the disk.
    pub max_queued_events: usize,
    /// Most bytes of the same.
    pub max_queued_bytes: usize,
    /// Least months that a tenant's policy may keep a class for.
    pub retention_floor_months: u16,
    /// Hours between compactions that begin by themselves; 0 is none.
    pub compaction_hours: u64,
    /// What a compaction reads and writes in a second, bytes.
    pub compaction_bytes_per_second: u64,
    /// The erasure of a person needs two keys.
    pub erasure_needs_approval: bool,
    /// Days that backups are kept.
    pub backup_days: u16,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Another address than loopback may go without TLS.
    pub insecure: bool,
    /// Where health and metrics are, if not with the rest.
    pub metrics_listen: Option<SocketAddr>,
    /// Certificate and key; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Most connections.
    pub max_connections: usize,
    /// Most requests that are being answered.
    pub max_in_flight_requests: usize,
    /// How long the head of a request may take (`header_seconds`).
    pub header_time: Duration,
    /// How long a body may take (`body_seconds`).
    pub body_time: Duration,
    /// How long a connection may say nothing (`idle_seconds`).
    pub idle_time: Duration,
    /// How long requests may take once the server stops (`drain_seconds`).
    pub drain_time: Duration,
    /// Most memory of request bodies.
    pub body_memory_bytes: usize,
    /// Most blocking calls.
    pub max_blocking_calls: usize,
    /// Events a second that one API key may append; 0 is no limit.
    pub rate_limit_events_per_second: u32,
    /// How the log reads.
    pub log_format: LogFormat,
    /// What the log holds.
    pub log_level: String,
}

impl Config {
    /// Reads what the keys mean together.
    ///
    /// # Errors
    /// A rule over several keys is broken.
    pub fn from_settings(settings: &Settings) -> Result<Config, ConfigError> {
        let seconds = |name| Duration::from_secs(settings.number(name));
        let size = |name| usize::try_from(settings.number(name)).unwrap_or(usize::MAX);
        let config = Config {
            data: settings.path("data").unwrap_or_default(),
            must_exist: settings.switch("must_exist"),
            heartbeat_seconds: settings.number("heartbeat_seconds"),
            low_water_bytes: settings.number("low_water_bytes"),
            query_time: seconds("query_seconds"),
            max_queued_events: size("max_queued_events"),
            max_queued_bytes: size("max_queued_bytes"),
            retention_floor_months: u16::try_from(settings.number("retention_floor_months"))
                .unwrap_or(u16::MAX),
            compaction_hours: settings.number("compaction_hours"),
            compaction_bytes_per_second: settings.number("compaction_bytes_per_second"),
            erasure_needs_approval: settings.switch("erasure_needs_approval"),
            backup_days: u16::try_from(settings.number("backup_days")).unwrap_or(u16::MAX),
            listen: settings.address("listen").unwrap_or(([127, 0, 0, 1], 0).into()),
            insecure: settings.switch("insecure"),
            metrics_listen: settings.address("metrics_listen"),
            tls: tls_files(settings)?,
            max_connections: size("max_connections"),
            max_in_flight_requests: size("max_in_flight_requests"),
            header_time: seconds("header_seconds"),
            body_time: seconds("body_seconds"),
            idle_time: seconds("idle_seconds"),
            drain_time: seconds("drain_seconds"),
            body_memory_bytes: size("body_memory_bytes"),
            max_blocking_calls: size("max_blocking_calls"),
            rate_limit_events_per_second: u32::try_from(settings.number("rate_limit_events_per_second"))
                .unwrap_or(u32::MAX),
            log_format: if settings.text("log_format") == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: settings.text("log_level").to_owned(),
        };
        config.check_addresses(settings)?;
        Ok(config)
    }

    fn check_addresses(&self, settings: &Settings) -> Result<(), ConfigError> {
        let listen = self.listen;
        if !listen.ip().is_loopback() && self.tls.is_none() && !self.insecure {
            return Err(ConfigError::new(
                format!(
                    "{listen} is not a loopback address, and there is no TLS: keys would travel in clear"
                ),
                "set tls_certificate_file and tls_private_key_file, or listen on 127.0.0.1 behind a proxy that speaks \
                 TLS, or say --insecure",
            ));
        }
        if self.metrics_listen == Some(listen) && listen.port() != 0 {
            let place = settings.place("metrics_listen");
            return Err(ConfigError::new(
                format!("{place} is the same address as listen"),
                "give it another port, or leave it out: health and metrics are then answered with the rest",
            ));
        }
        Ok(())
    }
}

/// Both files or neither.
fn tls_files(settings: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, private_key) = ("tls_certificate_file", "tls_private_key_file");
    let (given, missing) = match (settings.path(certificate), settings.path(private_key)) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(private_key)) => return Ok(Some(TlsFiles { certificate, private_key })),
        (Some(_), None) => (certificate, private_key),
        (None, Some(_)) => (private_key, certificate),
    };
    Err(ConfigError::new(
        format!("{} is set, {missing} is not", settings.place(given)),
        "TLS needs both; without both the server speaks plain HTTP",
    ))
}
