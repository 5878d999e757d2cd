//! `varve serve`: opens a store (makes it on the first run), answers HTTP until told to stop.
//!
//! Order: log → make or open the store → listen → say what to try → serve → drain → stop the store. The store is
//! opened before the runtime exists: what it does to the process must come before the first thread.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::super::args::{DEFAULT_DATA, DEFAULT_LISTEN, DEFAULT_URL};
use super::super::logging::{self, LogFormat};
use super::super::output::{Exit, Failure, Output};
use crate::http::{self, Drained, HttpLimits};
use crate::service::{OpenOptions, Service};

/// How often a running server looks whether its store has stopped.
const POISON_POLL: Duration = Duration::from_millis(200);

/// How long threads of the runtime may take to end once the store has stopped.
const RUNTIME_TIME: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(in crate::cli) struct ServeArgs {
    /// Directory of the store; made on the first run
    #[arg(long, env = "VARVE_DATA", hide_env_values = true, default_value = DEFAULT_DATA, value_name = "DIR")]
    data: PathBuf,

    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, env = "VARVE_LISTEN", hide_env_values = true, default_value = DEFAULT_LISTEN, value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Refuse to make a store: it must be there
    #[arg(long)]
    must_exist: bool,

    /// Start although the clock is over 24 hours behind the newest entry
    #[arg(long)]
    confirm_clock: bool,

    /// Listen on an address other than loopback, without TLS: keys and events travel in clear
    #[arg(long)]
    insecure: bool,

    /// How the log on standard error reads
    #[arg(
        long,
        env = "VARVE_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// What the log holds: error, warn, info, debug, or a directive for each module
    #[arg(
        long,
        env = "VARVE_LOG_LEVEL",
        hide_env_values = true,
        default_value = "info",
        value_name = "LEVEL"
    )]
    log_level: String,
}

pub(in crate::cli) fn run(args: &ServeArgs, output: &Output) -> Result<Exit, Failure> {
    if !args.listen.ip().is_loopback() && !args.insecure {
        return Err(Failure::new(
            format!(
                "{} is not a loopback address, and there is no TLS: keys would travel in clear",
                args.listen
            ),
            "listen on 127.0.0.1 behind a proxy that speaks TLS, or say --insecure",
        ));
    }
    logging::start(args.log_format, &args.log_level)?;
    let first_run = make_if_absent(args, output)?;
    let service = Service::open(
        &args.data,
        &OpenOptions { confirm_clock: args.confirm_clock, ..OpenOptions::default() },
    )?;

    let served = serve(args, output, &service, first_run.as_ref());
    let poison = service.poisoned();
    // A store that has stopped by itself still wants its files closed; what it says then is no news.
    let stopped = service.stop();
    if let Some(reason) = poison {
        return Err(Failure::new(
            format!("the store has stopped taking writes: {reason}"),
            "what was acknowledged is on disk; start again, and if it refuses run `varve verify DIR`",
        ));
    }
    served?;
    stopped?;
    tracing::info!("stopped");
    Ok(Exit::Done)
}

/// What the first run made.
struct FirstRun {
    operator_key: String,
    /// Where the key was written, unless it is shown.
    key_file: Option<PathBuf>,
}

fn make_if_absent(args: &ServeArgs, output: &Output) -> Result<Option<FirstRun>, Failure> {
    let shown = args.data.display();
    if Service::is_initialised(&args.data) {
        return Ok(None);
    }
    if args.must_exist {
        return Err(Failure::new(
            format!("{shown} holds no store, and --must-exist forbids making one"),
            "check --data: is the disk mounted? A new store would start every log again",
        ));
    }
    let made = Service::init(&args.data, None, None, &OpenOptions::default())?;
    output.say(&format!("made the store {shown} of instance {}", made.instance));
    // Before anything else can fail: there is no second chance to see it.
    let key_file = if std::io::stderr().is_terminal() {
        output.say(&format!(
            "the operator key, shown once, cannot be read again:\n\n  {}\n",
            made.operator_key
        ));
        None
    } else {
        Some(write_key(&args.data, &made.operator_key)?)
    };
    Ok(Some(FirstRun { operator_key: made.operator_key, key_file }))
}

/// Writes the operator key where only its owner reads it.
fn write_key(data: &Path, key: &str) -> Result<PathBuf, Failure> {
    let path = data.join("operator.key");
    let written =
        FileOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
            file.write_all(key.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            File::open(data)?.sync_all()
        });
    match written {
        Ok(()) => Ok(path),
        Err(error) => Err(Failure::new(
            format!("the store was made, but {} cannot be written: {error}", path.display()),
            format!("`varve operator-key reset {}` makes another operator key", data.display()),
        )),
    }
}

fn serve(
    args: &ServeArgs,
    output: &Output,
    service: &Service,
    first_run: Option<&FirstRun>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(
            format!("no threads for the server: {error}"),
            "raise the limit of processes (ulimit -u)",
        )
    })?;
    let limits = HttpLimits::default();
    let served = runtime.block_on(async {
        let listener =
            TcpListener::bind(args.listen).await.map_err(|error| cannot_listen(args.listen, &error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(args.listen, &error))?;
        announce(args, output, address, first_run)?;
        let until = stop_signal(service.clone())?;
        http::serve(listener, service.clone(), limits.clone(), until)
            .await
            .map_err(|error| cannot_listen(address, &error))
    });
    runtime.shutdown_timeout(RUNTIME_TIME);
    if served? == Drained::Cut {
        tracing::warn!(after_s = limits.drain_time.as_secs(), "some requests were cut off");
    }
    Ok(())
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::new(
        format!("cannot listen on {address}: {error}"),
        "is another server running there? --listen takes another address",
    )
}

/// Resolves on SIGINT, SIGTERM, or when the store has stopped by itself.
fn stop_signal(service: Service) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let no_signals = |error| {
        Failure::new(format!("signals cannot be received: {error}"), "this is a defect: please report it")
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let poisoned = async move {
        let mut tick = tokio::time::interval(POISON_POLL);
        while service.poisoned().is_none() {
            tick.tick().await;
        }
    };
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("interrupted, stopping"),
            _ = terminate.recv() => tracing::info!("terminated, stopping"),
            () = poisoned => tracing::error!("the store has stopped taking writes, stopping"),
        }
    })
}

fn announce(
    args: &ServeArgs,
    output: &Output,
    address: SocketAddr,
    first_run: Option<&FirstRun>,
) -> Result<(), Failure> {
    let url = format!("http://{address}");
    if output.is_json() {
        let key_file = first_run.and_then(|run| run.key_file.as_ref()).map(|path| path.to_string_lossy());
        let data = args.data.to_string_lossy();
        output.json(&json!({"url": url, "data": data, "operator_key_file": key_file}))?;
    }
    tracing::info!(%address, "listening");
    if let Some(run) = first_run {
        output.say(&welcome(&args.data, &url, run));
    }
    Ok(())
}

/// What to try on a store that was just made. Each line is a command that works as it stands.
fn welcome(data: &Path, url: &str, run: &FirstRun) -> String {
    let mut lines = Vec::new();
    let take_key = match &run.key_file {
        Some(path) => {
            lines.push(format!(
                "the operator key is in {}; keep it elsewhere and delete the file",
                path.display()
            ));
            format!("export VARVE_KEY=$(cat {})", quoted(path))
        }
        None => format!("export VARVE_KEY={}", run.operator_key),
    };
    lines.push("try, in another terminal:".to_owned());
    lines.push(String::new());
    if url != DEFAULT_URL {
        lines.push(format!("  export VARVE_URL={url}"));
    }
    let varve = own_name();
    lines.push(format!("  {take_key}"));
    lines.push(format!("  {varve} tenant create acme"));
    lines.push(format!(
        "  export VARVE_KEY=$({varve} key create --tenant acme --name first --scope ingest,read,verify)"
    ));
    lines.push(format!("  echo '{EXAMPLE}' | {varve} append --tenant acme"));
    lines.push(format!("  {varve} query --tenant acme --action 'authn.*'"));
    lines.push(String::new());
    lines.push("stop the server with Ctrl-C, then check what it kept:".to_owned());
    lines.push(String::new());
    lines.push(format!("  {varve} verify {}", quoted(data)));
    lines.push(String::new());
    lines.join("\n")
}

/// The first event of most users.
const EXAMPLE: &str = r#"{"action":"authn.login","outcome":"failure","actor":{"type":"user","id":"u-17"},"context":{"ip":"203.0.113.9"}}"#;

/// How this program is called again: `varve` where it was found by name, else the path that was used.
fn own_name() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1 { quoted(&called) } else { "varve".to_owned() }
}

/// `path` as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/+:".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("./varve-data")), "./varve-data");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(quoted(Path::new("$HOME")), "'$HOME'");
    }

    #[test]
    fn the_welcome_shows_the_key_on_a_terminal_only() {
        let seen = FirstRun { operator_key: "varve_k".into(), key_file: None };
        let text = welcome(Path::new("./varve-data"), DEFAULT_URL, &seen);
        assert!(text.contains("export VARVE_KEY=varve_k\n") && !text.contains("VARVE_URL"));

        let hidden = FirstRun { operator_key: "varve_k".into(), key_file: Some("d x/operator.key".into()) };
        let text = welcome(Path::new("d x"), "http://127.0.0.1:9", &hidden);
        assert!(!text.contains("varve_k"), "{text}");
        assert!(text.contains("export VARVE_URL=http://127.0.0.1:9\n"));
        assert!(text.contains("$(cat 'd x/operator.key')") && text.contains(" verify 'd x'"));
    }

    #[test]
    fn the_key_file_is_its_owners_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = write_key(dir.path(), "varve_k").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "varve_k\n");
        let again = write_key(dir.path(), "varve_other").unwrap_err();
        assert!(again.hint.contains("operator-key reset") && !again.message.contains("varve_other"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "varve_k\n");
    }
}
