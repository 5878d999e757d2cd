//! `varve serve`: opens a store (makes it on the first run), answers HTTP until told to stop.
//!
//! Order: configuration → log → room for connections → certificate → make or open the store → listen → say what to
//! try → answer → drain → stop the store. The store is opened before the runtime exists: what it does to the process
//! must come before the first thread. Nothing is made before all that can be checked has been.

mod doors;
mod first_run;
mod flags;
mod signals;

use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use serde_json::{Map, Value as Json, json};

use super::super::args::Cli;
use super::super::logging;
use super::super::output::{Exit, Failure, Output};
use crate::config::{Config, ConfigError, Layers, Settings, Value};
use crate::http::tls::Certificate;
use crate::http::{Drained, HttpLimits};
use crate::process::{notify, open_files};
use crate::service::{OpenOptions, Service};

use doors::Doors;
use first_run::FirstRun;

pub(in crate::cli) use flags::ServeArgs;

/// Fewer connections are no service.
const MIN_CONNECTIONS: usize = 16;

pub(in crate::cli) fn run(args: &ServeArgs, output: &Output) -> Result<Exit, Failure> {
    let settings = gather(args)?;
    let config = Config::from_settings(&settings)?;
    if args.print_config {
        return print(&settings, output);
    }
    logging::start(config.log_format, &config.log_level).map_err(|reason| {
        Failure::new(format!("{} {reason}", settings.place("log_level")), logging::EXAMPLES)
    })?;
    let limits = HttpLimits { max_connections: connections(config.max_connections)?, ..limits(&config) };
    let certificate = certificate(&config)?;

    let first_run = first_run::make_if_absent(&config.data, config.must_exist, output)?;
    let service = Service::open(&config.data, &options(&config, args.confirm_clock))?;
    let answered = answer(&config, limits, certificate, output, &service, first_run.as_ref());
    let poison = service.poisoned();
    // A store that has stopped by itself still wants its files closed; what it says then is no news.
    let stopped = service.stop();
    if let Some(reason) = poison {
        return Err(Failure::new(
            format!("the store has stopped taking writes: {reason}"),
            "what was acknowledged is on disk; start again, and if it refuses run `varve verify DIR`",
        ));
    }
    answered?;
    stopped?;
    tracing::info!("stopped");
    Ok(Exit::Done)
}

/// The layers of the configuration, one over the other.
fn gather(args: &ServeArgs) -> Result<Settings, ConfigError> {
    Settings::gather(&Layers {
        file: args.config.as_deref(),
        environment: std::env::vars_os().collect(),
        foreign: variables_of_other_commands(),
        flags: args.given.clone(),
    })
}

/// Variables of the client commands: they may be set where a server is started.
fn variables_of_other_commands() -> Vec<String> {
    fn collect(command: &clap::Command, names: &mut Vec<String>) {
        let variables = command.get_arguments().filter_map(|argument| argument.get_env());
        names.extend(variables.filter_map(|name| name.to_str()).map(str::to_owned));
        command.get_subcommands().for_each(|command| collect(command, names));
    }
    // Read without the help of clap, so that it is no argument.
    let mut names = vec!["VARVE_KEY".to_owned()];
    collect(&Cli::command(), &mut names);
    names
}

/// The effective configuration: as a file that says the same, or as JSON.
fn print(settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if !output.is_json() {
        return output.data(&settings.to_toml()).map(|()| Exit::Done);
    }
    let members = settings.iter().map(|setting| {
        let value = match &setting.value {
            None => Json::Null,
            Some(Value::Switch(value)) => json!(value),
            Some(Value::Number(number)) => json!(number),
            Some(Value::Text(text)) => json!(text),
            Some(Value::Address(address)) => json!(address.to_string()),
            Some(Value::Path(path)) => json!(path.to_string_lossy()),
        };
        (setting.key.name.to_owned(), json!({"value": value, "origin": setting.origin.shown()}))
    });
    output.json(&members.collect::<Map<String, Json>>()).map(|()| Exit::Done)
}

fn limits(config: &Config) -> HttpLimits {
    HttpLimits {
        max_connections: config.max_connections,
        max_in_flight_requests: config.max_in_flight_requests,
        header_time: config.header_time,
        body_time: config.body_time,
        idle_time: config.idle_time,
        drain_time: config.drain_time,
        body_memory_bytes: config.body_memory_bytes,
        max_blocking_calls: config.max_blocking_calls,
        rate_limit_events_per_second: config.rate_limit_events_per_second,
    }
}

fn options(config: &Config, confirm_clock: bool) -> OpenOptions {
    OpenOptions {
        confirm_clock,
        heartbeat_seconds: config.heartbeat_seconds,
        low_water_bytes: config.low_water_bytes,
        query_time: config.query_time,
        max_queued_events: config.max_queued_events,
        max_queued_bytes: config.max_queued_bytes,
        retention_floor_months: config.retention_floor_months,
        compaction_hours: config.compaction_hours,
        compaction_bytes_per_second: config.compaction_bytes_per_second,
        erasure_needs_approval: config.erasure_needs_approval,
        backup_days: config.backup_days,
        ..OpenOptions::default()
    }
}

/// How many connections the limit of open files leaves room for.
fn connections(wanted: usize) -> Result<usize, Failure> {
    let hint =
        "raise the hard limit of open files: `LimitNOFILE` of systemd, `ulimits` of compose, `ulimit -Hn`";
    let fitting = open_files::make_room(wanted)
        .map_err(|error| Failure::new(format!("the limit of open files cannot be raised: {error}"), hint))?;
    if fitting < MIN_CONNECTIONS {
        let needed = open_files::RESERVED_FILES + MIN_CONNECTIONS as u64;
        return Err(Failure::new(
            format!(
                "the limit of open files leaves room for {fitting} connections; {needed} files are needed at least"
            ),
            hint,
        ));
    }
    if fitting < wanted {
        tracing::warn!(
            max_connections = fitting,
            configured = wanted,
            "the limit of open files leaves room for fewer connections; {hint}"
        );
    }
    Ok(fitting)
}

fn certificate(config: &Config) -> Result<Option<Arc<Certificate>>, Failure> {
    let Some(files) = &config.tls else { return Ok(None) };
    let (certificate, loaded) = Certificate::load(files, signals::now_seconds())
        .map_err(|error| Failure::new(error.to_string(), error.hint))?;
    signals::say_loaded(&loaded);
    Ok(Some(certificate))
}

fn answer(
    config: &Config,
    limits: HttpLimits,
    certificate: Option<Arc<Certificate>>,
    output: &Output,
    service: &Service,
    first_run: Option<&FirstRun>,
) -> Result<(), Failure> {
    let doors = Doors::open(config, certificate)?;
    announce(&config.data, &doors, output, first_run)?;
    let drain_seconds = config.drain_time.as_secs();
    if doors::answer(doors, limits, service, || signals::tell(notify::READY))? == Drained::Cut {
        tracing::warn!(drain_seconds, "some requests were cut off");
    }
    Ok(())
}

fn announce(
    data: &Path,
    doors: &Doors,
    output: &Output,
    first_run: Option<&FirstRun>,
) -> Result<(), Failure> {
    let url = doors.url();
    if output.is_json() {
        let key_file = first_run.and_then(|run| run.key_file.as_ref()).map(|path| path.to_string_lossy());
        let data = data.to_string_lossy();
        let metrics_url = doors.telemetry_address.map(|address| format!("http://{address}"));
        output.json(
            &json!({"url": url, "data": data, "operator_key_file": key_file, "metrics_url": metrics_url}),
        )?;
    }
    tracing::info!(address = %doors.address, "listening");
    if let Some(address) = doors.telemetry_address {
        tracing::info!(%address, "listening for health and metrics");
    }
    if let Some(run) = first_run {
        output.say(&first_run::welcome(data, &url, run));
    }
    Ok(())
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(error.message, error.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Config {
        let layers = Layers { file: None, environment: Vec::new(), foreign: Vec::new(), flags: Vec::new() };
        Config::from_settings(&Settings::gather(&layers).unwrap()).unwrap()
    }

    /// Each default stands where it is used, and in the table of keys.
    #[test]
    fn the_defaults_of_the_keys_are_those_of_what_they_set() {
        let config = defaults();
        assert_eq!(format!("{:?}", limits(&config)), format!("{:?}", HttpLimits::default()));
        let (set, own) = (options(&config, false), OpenOptions::default());
        assert_eq!(
            (
                set.heartbeat_seconds,
                set.low_water_bytes,
                set.query_time,
                set.max_queued_events,
                set.max_queued_bytes
            ),
            (
                own.heartbeat_seconds,
                own.low_water_bytes,
                own.query_time,
                own.max_queued_events,
                own.max_queued_bytes
            )
        );
    }

    #[test]
    fn variables_of_client_commands_are_known() {
        let names = variables_of_other_commands();
        assert!(
            names.contains(&"VARVE_URL".to_owned()) && names.contains(&"VARVE_KEY".to_owned()),
            "{names:?}"
        );
    }
}
