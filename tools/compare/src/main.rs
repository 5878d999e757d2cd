//! The same events in one run: into Varve over HTTP, into a plain PostgreSQL table, into one with a hash chain.
//!
//! `varve-compare --varve PROGRAM`. Sides take turns: Varve, plain, chain, Varve, … Requests and rows are made before
//! each clock starts. Afterwards every receipt of Varve is checked and its logs are read back; PostgreSQL's rows are
//! counted and the chain is computed anew. PostgreSQL gets the ways that are fastest for it: COPY for batches,
//! prepared statements, a socket of the machine instead of TCP.
//!
//! Exit codes: 0 = measured and all is there, 1 = something is missing or broken, 2 = could not run (no PostgreSQL).

#![allow(clippy::disallowed_methods, reason = "the tool measures time")]

mod cluster;
mod rounds;
mod table;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;
use varve_loadgen::admin::{Admin, Log};
use varve_loadgen::drive::{Done, Length, Load, Rate, drive};
use varve_loadgen::interrupt::unless_told_to_stop;
use varve_loadgen::request::Requests;
use varve_loadgen::server::Server;
use varve_loadgen::spent::Spent;
use varve_loadgen::steady::run_name;
use varve_loadgen::verdict::{self, Part};
use varve_loadgen::{Fault, report};

use cluster::Cluster;
use rounds::{Outcome, Rounds, Workload};
use table::Table;

/// Pause between two sides, so that what one leaves behind does not fall into the other's time.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes of Varve's requests made ahead of a round.
const AHEAD_BYTES: usize = 1 << 30;

/// Measures Varve beside PostgreSQL, plain and with a hash chain kept by a trigger.
#[derive(Parser)]
#[command(name = "varve-compare", version, max_term_width = 100)]
struct Cli {
    /// The `varve` to measure
    #[arg(long, value_name = "PROGRAM")]
    varve: PathBuf,

    /// Directory of PostgreSQL's programs
    #[arg(long, default_value = cluster::DEBIAN_PROGRAMS, value_name = "DIR")]
    pg_programs: PathBuf,

    /// Directory for both stores; on the disk that is to be measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Measured rounds, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=50))]
    rounds: u64,

    /// Events of a round of batches; whole batches of 1,000
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    events: u64,

    /// Events of a round of single events
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    singles: u64,

    /// Tenants, in turn; PostgreSQL's chain locks one at a time, as Varve's does
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=100))]
    tenants: u64,

    /// Which workload
    #[arg(long, value_enum, default_value_t = Which::Both)]
    workload: Which,

    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Batches of 1,000 over 4 connections
    Batches,
    /// Single events over 64 connections
    Singles,
    /// One after the other
    Both,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::unable);
    let outcome = runtime.and_then(|runtime| runtime.block_on(unless_told_to_stop(run(&cli))));
    let findings = match outcome {
        Ok(findings) => findings,
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

async fn run(cli: &Cli) -> Result<Vec<String>, Fault> {
    let tenants = usize::try_from(cli.tenants).unwrap_or(1);
    let workloads = [
        (
            Which::Batches,
            Workload { name: "batches", batch: 1000, connections: 4, tenants, requests: cli.events / 1000 },
        ),
        (
            Which::Singles,
            Workload { name: "singles", batch: 1, connections: 64, tenants, requests: cli.singles },
        ),
    ];
    let (mut findings, mut results) = (Vec::new(), Vec::new());
    for (which, workload) in workloads {
        if cli.workload != Which::Both && cli.workload != which {
            continue;
        }
        // Stores of their own for each workload: none starts with what another left.
        let cluster = Cluster::start(&cli.pg_programs, cli.dir.as_deref())?;
        let server = Server::start(&cli.varve, cli.dir.as_deref())?;
        let (rounds, found) = measure(cli, &workload, &cluster, &server).await?;
        if results.is_empty() && !cli.json {
            println!("postgresql: {}", table::settings(&cluster.config()).await?);
        }
        findings.extend(found);
        findings.extend(server.stop().err().map(|fault| format!("varve: {fault:?}")));
        if !cli.json {
            println!("{}", rounds.lines(&workload).join("\n"));
        }
        results.push(rounds.json(&workload));
    }
    if cli.json {
        println!("{}", json!({"workloads": results, "findings": findings}));
    } else if findings.is_empty() {
        println!("all rows and records are there, every receipt is good, the chain in PostgreSQL holds");
    }
    Ok(findings)
}

async fn measure(
    cli: &Cli,
    workload: &Workload,
    cluster: &Cluster,
    server: &Server,
) -> Result<(Rounds, Vec<String>), Fault> {
    let config = &cluster.config();
    table::make(config).await?;
    let mut admin = Admin::open(server.address()).await?;
    let logs = admin.make_logs(server.operator_key(), &run_name(), workload.tenants).await?;
    let (mut rounds, mut sent) = (Rounds::default(), Vec::new());
    for round in 0..=cli.rounds {
        eprint!("\r{}: round {round} of {} ", workload.name, cli.rounds);
        let first = round * workload.requests;
        let before = Spent::so_far(Some(server.pid()));
        let (requests, done) = varve_round(workload, &logs, first, server).await?;
        let varve = outcome(&done, workload, Spent::so_far(Some(server.pid())).since(&before));
        sent.push((requests, done));
        tokio::time::sleep(PAUSE).await;
        let numbers = first..first + workload.requests;
        let plain = postgresql_round(cluster, Table::Plain, workload, numbers.clone()).await?;
        let chain = postgresql_round(cluster, Table::Chain, workload, numbers).await?;
        // The first round fills caches and makes files, on all sides.
        if round > 0 {
            rounds.0.push([varve, plain, chain]);
        }
    }
    eprintln!();
    let parts: Vec<Part<'_>> = sent.iter().map(|(requests, done)| Part { requests, done }).collect();
    let verdict = verdict::prove(server.address(), &logs, &parts).await?;
    let wanted = (cli.rounds + 1) * workload.requests * workload.batch as u64;
    let mut findings = verdict.findings.into_words();
    if verdict.receipts != wanted {
        let (good, sent) = (report::grouped(verdict.receipts), report::grouped(wanted));
        findings.push(format!("varve: {good} receipts for {sent} events"));
    }
    for table in [Table::Plain, Table::Chain] {
        findings.extend(table::prove(config, table, wanted).await?);
    }
    Ok((rounds, findings))
}

async fn varve_round(
    workload: &Workload,
    logs: &[Log],
    first_request: u64,
    server: &Server,
) -> Result<(Requests, Done), Fault> {
    let first_event = first_request * workload.batch as u64;
    let mut requests = Requests::new(logs, 0..logs.len(), workload.batch, first_event);
    requests.make_ahead(workload.requests, AHEAD_BYTES);
    let load = Load {
        rate: Rate::Max,
        connections: workload.connections,
        length: Length::Requests(workload.requests),
        with_timeline: false,
    };
    let (mut requests, done) = drive(server.address(), requests, load).await?;
    requests.forget_made();
    Ok((requests, done))
}

async fn postgresql_round(
    cluster: &Cluster,
    table: Table,
    workload: &Workload,
    numbers: Range<u64>,
) -> Result<Outcome, Fault> {
    let server = Some(cluster.pid()?);
    let outcome = table::insert(&cluster.config(), table, workload, numbers, server).await?;
    tokio::time::sleep(PAUSE).await;
    Ok(outcome)
}

fn outcome(done: &Done, workload: &Workload, spent: Spent) -> Outcome {
    let events = done.tally.stored_in_window * workload.batch as u64;
    Outcome { events, elapsed: done.measured, latencies: done.tally.stored.clone(), spent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["x", "--varve", "v", "--workload", "singles"]).is_ok());
        for bad in
            [&["x"][..], &["x", "--varve", "v", "--rounds", "0"], &["x", "--varve", "v", "--events", "10"]]
        {
            assert!(Cli::try_parse_from(bad).is_err());
        }
    }
}
