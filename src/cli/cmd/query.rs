//! `varve query`: the filters of `GET …/events` as flags of the same names.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::args::{FilterArgs, ServerArgs, TenantArg};
use super::super::client::{Ask, Client, segment};
use super::super::output::{Exit, Failure, Output, counted, printable};

#[derive(Args)]
pub(in crate::cli) struct QueryArgs {
    #[command(flatten)]
    tenant: TenantArg,

    #[command(flatten)]
    filter: FilterArgs,

    /// Newest or oldest first
    #[arg(long, value_enum)]
    order: Option<Order>,

    /// Events a page
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,

    /// Go on where a page ended
    #[arg(long)]
    cursor: Option<String>,

    /// Follow the cursors to the end
    #[arg(long)]
    all: bool,

    /// With what is needed to check each record
    #[arg(long, requires = "json")]
    verifiable: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Order {
    Desc,
    Asc,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    next: Option<String>,
}

pub(in crate::cli) fn run(args: &QueryArgs, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(&args.server, output)?;
    let mut cursor = args.cursor.clone();
    let mut shown = 0;
    loop {
        let text = client.ask_text(&Ask::get(path(args, cursor.as_deref())))?;
        let page: Page = serde_json::from_str(&text).map_err(|_| unreadable())?;
        shown += page.events.len() as u64;
        if output.is_json() {
            output.data(&text)?;
        } else {
            for event in &page.events {
                output.data(&line(event)?)?;
            }
        }
        match page.next {
            Some(next) if args.all => {
                if cursor.as_deref() == Some(next.as_str()) {
                    return Err(unreadable());
                }
                cursor = Some(next);
            }
            Some(next) => {
                if !output.is_json() {
                    output.say(&format!("{}; more with --cursor {next} or --all", counted(shown, "event")));
                }
                return Ok(Exit::Done);
            }
            None => break,
        }
    }
    if !output.is_json() {
        output.say(&counted(shown, "event"));
    }
    Ok(Exit::Done)
}

fn path(args: &QueryArgs, cursor: Option<&str>) -> String {
    let order = args.order.map(|order| if order == Order::Asc { "asc" } else { "desc" }.to_owned());
    let limit = args.limit.or(args.all.then_some(1000)).map(|limit| limit.to_string());
    let paging = [
        ("order", order.as_deref()),
        ("limit", limit.as_deref()),
        ("cursor", cursor),
        ("verifiable", args.verifiable.then_some("true")),
    ];
    let parameters = args.filter.members().into_iter().chain(paging);
    let mut path = format!("/v1/tenants/{}/events", segment(&args.tenant.tenant));
    let given = parameters.filter_map(|(name, value)| value.map(|value| (name, value)));
    for (nth, (name, value)) in given.enumerate() {
        path.push(if nth == 0 { '?' } else { '&' });
        path.push_str(&format!("{name}={}", segment(value)));
    }
    path
}

/// A record on one line: index, time, outcome, action, who, upon what.
fn line(record: &RawValue) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Record {
        index: u64,
        recorded_at: String,
        #[serde(default)]
        body: String,
        #[serde(default)]
        event: Option<serde_json::Value>,
    }
    let record: Record = serde_json::from_str(record.get()).map_err(|_| unreadable())?;
    let Record { index, recorded_at, body, event } = &record;
    let Some(event) = event.as_ref().filter(|event| event.is_object()) else {
        return Ok(format!("{index:>8}  {recorded_at}  body {}", printable(body)));
    };
    let text = |pointer: &str| event.pointer(pointer).and_then(|value| value.as_str()).unwrap_or("-");
    let actor = if event.pointer("/actor/name").is_some() { text("/actor/name") } else { text("/actor/id") };
    let mut line =
        format!("{index:>8}  {recorded_at}  {:<7}  {}  {actor}", text("/outcome"), text("/action"));
    if event.pointer("/targets/0").is_some() {
        line.push_str(&format!("  → {}", text("/targets/0/id")));
    }
    let more = event.pointer("/targets").and_then(|targets| targets.as_array()).map_or(0, Vec::len);
    if more > 1 {
        line.push_str(&format!(" (+{})", more - 1));
    }
    Ok(printable(&line))
}

fn unreadable() -> Failure {
    Failure::new("the server's answer is no page of events", "check --url, and that versions match")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> QueryArgs {
        let words = ["varve", "query", "--tenant", "acme"].iter().chain(line);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Query(args) => *args,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn every_flag_is_the_parameter_of_its_name() {
        let names = [
            "actor",
            "action",
            "target",
            "outcome",
            "ip",
            "request-id",
            "id",
            "class",
            "since",
            "until",
            "occurred-since",
            "occurred-until",
            "cursor",
        ];
        for name in names {
            let args = args(&[&format!("--{name}"), "a b&"]);
            let expected = format!("/v1/tenants/acme/events?{}=a%20b%26", name.replace('-', "_"));
            assert_eq!(path(&args, args.cursor.as_deref()), expected);
        }
        assert_eq!(
            path(&args(&["--order", "asc", "--limit", "5"]), None),
            "/v1/tenants/acme/events?order=asc&limit=5"
        );
        assert_eq!(path(&args(&["--all"]), Some("c")), "/v1/tenants/acme/events?limit=1000&cursor=c");
        assert_eq!(path(&args(&["--json", "--verifiable"]), None), "/v1/tenants/acme/events?verifiable=true");
        assert_eq!(path(&args(&["--request_id", "r"]), None), "/v1/tenants/acme/events?request_id=r");
    }

    #[test]
    fn a_record_is_one_line_and_steers_no_terminal() {
        let of = |json: &str| line(&RawValue::from_string(json.to_owned()).unwrap()).unwrap();
        let record = r#"{"index":7,"recorded_at":"2026-01-01T00:00:00.000000Z","body":"present","event":{"action":"a.b",
            "outcome":"denied","actor":{"type":"user","id":"u\u001b[2J"},"targets":[{"type":"t","id":"x"},{"type":"t","id":"y"}]}}"#;
        assert_eq!(of(record), "       7  2026-01-01T00:00:00.000000Z  denied   a.b  u\\u{1b}[2J  → x (+1)");
        let gone = r#"{"index":7,"recorded_at":"2026","body":"expired","event":null}"#;
        assert_eq!(of(gone), "       7  2026  body expired");
    }
}
