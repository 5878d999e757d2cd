//! `varve-loadgen steady|overload|compaction|slow`: see `--help`.
//!
//! Exit codes: 0 = measured, and everything that was acknowledged is there; 1 = something does not hold, each
//! finding on standard error; 2 = the run could not be made.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use varve_loadgen::admin::MAX_TENANTS;
use varve_loadgen::compaction;
use varve_loadgen::drive::{MAX_CONNECTIONS, Rate};
use varve_loadgen::interrupt::unless_told_to_stop;
use varve_loadgen::overload::{self, Overload};
use varve_loadgen::report::Report;
use varve_loadgen::request::MAX_BATCH;
use varve_loadgen::server::{Host, Server};
use varve_loadgen::slow::{self, Slow};
use varve_loadgen::steady::{self, Steady};
use varve_loadgen::{Fault, target};

/// Most seconds of a run, warm-up included.
const MAX_SECONDS: u64 = 600;

/// Before what is measured beside a compaction.
const WARMUP: Duration = Duration::from_secs(2);

/// Most events a second that can be asked for.
const MAX_RATE: f64 = 1e6;

/// Sends events to a Varve server on this machine, measures it, and checks every receipt afterwards.
///
/// Exit codes: 0 = measured and everything acknowledged is there, 1 = something does not hold, 2 = could not run.
#[derive(Parser)]
#[command(name = "varve-loadgen", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    host: HostArgs,

    /// Write the result as JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    mode: Mode,
}

#[derive(Args)]
struct HostArgs {
    /// Start this `varve` over a temporary directory
    #[arg(long, global = true, value_name = "PROGRAM", conflicts_with = "url")]
    spawn: Option<PathBuf>,

    /// Directory for the store of a server started with --spawn
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Have the store of a server started with --spawn verified after it was stopped
    #[arg(long, global = true)]
    verify: bool,

    /// A server that runs on this machine; the operator key is read from VARVE_KEY
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,

    /// Process of the server at --url, to watch its memory
    #[arg(long, global = true, value_name = "PID")]
    pid: Option<u32>,
}

#[derive(Subcommand)]
enum Mode {
    /// One load: open loop at a rate, or closed loop as fast as answers come
    Steady {
        /// Events a second of an open loop, or `max`: each request follows the answer before it
        #[arg(long, default_value = "max", value_parser = rate)]
        rate: Rate,
        /// Connections, each with one request under way
        #[arg(long, default_value_t = 4, value_parser = connections)]
        connections: usize,
        /// Events of a request: 1 is sent as JSON, more as NDJSON
        #[arg(long, default_value_t = 1000, value_parser = batch)]
        batch: usize,
        /// Tenants that requests go to in turn
        #[arg(long, default_value_t = 1, value_parser = tenants)]
        tenants: usize,
        /// Seconds that are measured
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
        /// Seconds before that, not measured
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
        warmup: u64,
        /// MiB of requests made before the clock starts
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(0..=8192))]
        ahead_mib: u64,
    },
    /// Several times what the server can take: are refusals proper, is nothing lost, does it come back
    Overload {
        /// How many times the measured capacity
        #[arg(long, default_value_t = 10.0, value_parser = times)]
        times: f64,
        /// Connections of the overload; each has one request under way, so few of them hold it back
        #[arg(long, default_value_t = 2000, value_parser = connections)]
        connections: usize,
        /// Connections with which the capacity is measured
        #[arg(long, default_value_t = 8, value_parser = connections)]
        capacity_connections: usize,
        /// Events of a request
        #[arg(long, default_value_t = 100, value_parser = batch)]
        batch: usize,
        /// Tenants that requests go to in turn
        #[arg(long, default_value_t = 4, value_parser = tenants)]
        tenants: usize,
        /// Seconds of the overload
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=120))]
        seconds: u64,
        /// Most memory of the server, MiB
        #[arg(long, default_value_t = 512)]
        max_memory_mib: u64,
        /// MiB of requests made before the clock starts
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=8192))]
        ahead_mib: u64,
    },
    /// What a compaction costs those who append and query while it runs; the store must have enough that is due
    #[command(after_help = "Bodies leave the store at --url for good, as its policies have it.")]
    Compaction {
        /// Connections, each with one request under way
        #[arg(long, default_value_t = 4, value_parser = connections)]
        connections: usize,
        /// Events of a request
        #[arg(long, default_value_t = 1000, value_parser = batch)]
        batch: usize,
        /// Seconds that are measured, each of three times
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
    },
    /// Idle and dribbling connections, and an honest client between them
    Slow {
        /// Connections that say nothing
        #[arg(long, default_value_t = 2000, value_parser = connections)]
        idle: usize,
        /// Connections that say one byte a second, half of them in the head, half in the body
        #[arg(long, default_value_t = 500, value_parser = connections)]
        dribbling: usize,
        /// Seconds for which they are held
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=120))]
        seconds: u64,
        /// Seconds within which a dribbling one must be closed
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=120))]
        close_within: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_json = cli.json;
    let outcome = run(&cli);
    let findings = match outcome {
        Ok(report) => {
            if is_json {
                println!("{}", report.json);
            } else {
                println!("{}", report.lines.join("\n"));
            }
            report.findings
        }
        Err(Fault::Broken(findings)) => findings,
        Err(Fault::Unable(why)) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    for finding in &findings {
        eprintln!("FINDING: {finding}");
    }
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(cli: &Cli) -> Result<Report, Fault> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::unable)?;
    let (host, mut report) = runtime.block_on(unless_told_to_stop(async {
        let host = host(&cli.host)?;
        // After the server was started: what it gets is what the shell gives it.
        raise_file_limit();
        let report = mode(&host, &cli.mode).await?;
        Ok((host, report))
    }))?;
    match host.finish(cli.host.verify) {
        Ok(Some(told)) => report.lines.push(format!("  server {told}")),
        Ok(None) => {}
        // What was measured is still told.
        Err(Fault::Broken(findings)) => report.findings.extend(findings),
        Err(unable) => return Err(unable),
    }
    report.json["findings"] = report.findings.clone().into();
    Ok(report)
}

async fn mode(host: &Host, mode: &Mode) -> Result<Report, Fault> {
    let seconds = Duration::from_secs;
    let bytes = |mib: u64| usize::try_from(mib << 20).unwrap_or(usize::MAX);
    match *mode {
        Mode::Steady { rate, connections, batch, tenants, seconds: window, warmup, ahead_mib } => {
            let wanted = Steady {
                rate,
                connections,
                batch,
                tenants,
                warmup: seconds(warmup),
                window: seconds(window),
                ahead_bytes: bytes(ahead_mib),
            };
            steady::run(host, wanted).await
        }
        Mode::Overload {
            times,
            connections,
            capacity_connections,
            batch,
            tenants,
            seconds: time,
            max_memory_mib,
            ahead_mib,
        } => {
            let wanted = Overload {
                connections,
                capacity_connections,
                batch,
                tenants,
                times,
                time: seconds(time),
                max_memory_mib,
                ahead_bytes: bytes(ahead_mib),
            };
            overload::run(host, wanted).await
        }
        Mode::Compaction { connections, batch, seconds: window } => {
            let wanted = Steady {
                rate: Rate::Max,
                connections,
                batch,
                tenants: 1,
                warmup: WARMUP,
                window: seconds(window),
                ahead_bytes: steady::AHEAD_BYTES,
            };
            compaction::run(host, wanted).await
        }
        Mode::Slow { idle, dribbling, seconds: time, close_within } => {
            let wanted = Slow { idle, dribbling, time: seconds(time), close_within: seconds(close_within) };
            slow::run(host, wanted).await
        }
    }
}

fn host(args: &HostArgs) -> Result<Host, Fault> {
    match (&args.spawn, &args.url) {
        (Some(program), None) => Ok(Host::Own(Server::start(program, args.dir.as_deref())?)),
        (None, Some(url)) => {
            let address = target::parse(url)?;
            let operator_key = std::env::var("VARVE_KEY")
                .map_err(|_| Fault::unable("put the operator key into the environment variable VARVE_KEY"))?;
            Ok(Host::Given { address, operator_key, pid: args.pid })
        }
        _ => Err(Fault::unable("say --spawn PROGRAM or --url URL")),
    }
}

/// Thousands of connections need as many files; the soft limit is often 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it fails, opening a connection fails later and says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=MAX_RATE).contains(&rate) => Ok(Rate::EventsPerSecond(rate)),
        _ => Err(format!("`max`, or 1 to {MAX_RATE} events a second")),
    }
}

fn times(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|times| (0.1..=100.0).contains(times)).ok_or_else(|| "0.1 to 100".to_owned())
}

fn connections(text: &str) -> Result<usize, String> {
    bounded(text, MAX_CONNECTIONS)
}

fn batch(text: &str) -> Result<usize, String> {
    bounded(text, MAX_BATCH)
}

fn tenants(text: &str) -> Result<usize, String> {
    bounded(text, MAX_TENANTS)
}

fn bounded(text: &str, most: usize) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| format!("1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_sound_and_bounded() {
        Cli::command().debug_assert();
        let parsed = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parsed("x steady --spawn v --rate max --connections 64 --batch 1"));
        assert!(parsed("x slow --url http://127.0.0.1:1 --pid 1"));
        for bad in [
            "x steady --rate 0",
            "x steady --rate nan",
            "x steady --rate 1e9",
            "x steady --batch 1001",
            "x steady --batch 0",
            "x steady --connections 10001",
            "x steady --seconds 601",
            "x overload --times 101",
            "x slow --seconds 121",
            "x compaction --batch 0",
            "x slow --spawn v --url http://127.0.0.1:1",
        ] {
            assert!(!parsed(bad), "{bad}");
        }
    }
}
