//! The side of PostgreSQL: clients that insert the events of requests into one of the two tables, and the proof
//! that all are there.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::task::LocalSet;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};
use varve_loadgen::spent::Spent;
use varve_loadgen::tally::Latencies;
use varve_loadgen::{Fault, event};

use crate::rounds::{Outcome, Workload};

/// The two tables of `schema.sql`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    /// Rows and indexes.
    Plain,
    /// The same, and a trigger that chains the rows of a tenant.
    Chain,
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Plain => "audit_plain",
            Table::Chain => "audit_chain",
        }
    }
}

/// Columns that a client fills in.
const COLUMNS: &str = "tenant, id, occurred_at, action, outcome, actor_id, event";

/// What all events have in these columns.
const OCCURRED_AT: &str = "2026-11-21T10:15:30.123456Z";
const ACTION: &str = "secret.value.decrypt";
const OUTCOME: &str = "success";

/// Makes the tables.
pub(crate) async fn make(config: &Config) -> Result<(), Fault> {
    let client = connect(config).await?;
    client.batch_execute(include_str!("schema.sql")).await.map_err(told)
}

/// The settings that say how durable a commit is.
pub(crate) async fn settings(config: &Config) -> Result<String, Fault> {
    let client = connect(config).await?;
    let mut all = Vec::new();
    for name in [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "shared_buffers",
    ] {
        let row = client.query_one(&format!("SHOW {name}"), &[]).await.map_err(told)?;
        all.push(format!("{name}={}", row.get::<_, String>(0)));
    }
    Ok(all.join(" "))
}

/// Inserts the requests `numbers` of `workload` over its connections.
pub(crate) async fn insert(
    config: &Config,
    table: Table,
    workload: &Workload,
    numbers: Range<u64>,
    server: Option<u32>,
) -> Result<Outcome, Fault> {
    // Made before the clock starts, as Varve's requests are.
    let rows: Vec<Rows> = numbers.map(|number| Rows::make(workload, number)).collect();
    let count = rows.len() as u64;
    let shared = Rc::new(Shared {
        table,
        rows,
        next: Cell::new(0),
        latencies: RefCell::new(Latencies::default()),
        fault: RefCell::new(None),
    });
    let mut clients = Vec::new();
    for _ in 0..workload.connections {
        clients.push(connect(config).await?);
    }
    let local = LocalSet::new();
    let before = Spent::so_far(server);
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let shared = Rc::clone(&shared);
            local.spawn_local(async move {
                if let Err(error) = shared.send(&client).await {
                    shared.fault.borrow_mut().get_or_insert(told(error));
                }
            })
        })
        .collect();
    local
        .run_until(async {
            for task in tasks {
                // A task that panicked leaves rows behind, which the proof finds.
                let _ = task.await;
            }
        })
        .await;
    let elapsed = start.elapsed();
    drop(local);
    if let Some(fault) = shared.fault.borrow_mut().take() {
        return Err(fault);
    }
    let latencies = shared.latencies.borrow().clone();
    Ok(Outcome {
        events: count * workload.batch as u64,
        elapsed,
        latencies,
        spent: Spent::so_far(server).since(&before),
    })
}

/// Counts what is there, and in the chain computes every link anew.
pub(crate) async fn prove(config: &Config, table: Table, wanted: u64) -> Result<Vec<String>, Fault> {
    let client = connect(config).await?;
    let name = table.name();
    let counts = format!("SELECT count(*), count(DISTINCT (tenant, id)) FROM {name}");
    let row = client.query_one(&counts, &[]).await.map_err(told)?;
    let (rows, ids): (i64, i64) = (row.get(0), row.get(1));
    let mut findings = Vec::new();
    if u64::try_from(rows) != Ok(wanted) || ids != rows {
        findings.push(format!("{name} has {rows} rows with {ids} ids, {wanted} were acknowledged"));
    }
    if table == Table::Chain {
        let row = client.query_one(BROKEN_LINKS, &[]).await.map_err(told)?;
        let (broken, gaps): (i64, i64) = (row.get(0), row.get(1));
        if broken > 0 || gaps > 0 {
            findings.push(format!("{name}: {broken} links are not the digest of their row, {gaps} gaps"));
        }
    }
    Ok(findings)
}

/// The rows whose link is not what the trigger must have computed, and the rows that do not follow their predecessor.
const BROKEN_LINKS: &str = "\
    SELECT count(*) FILTER (WHERE link <> digest(before || convert_to(\
        ROW(tenant, seq, id, recorded_at, occurred_at, action, outcome, actor_id, event)::text, 'UTF8'), 'sha256')), \
    count(*) FILTER (WHERE seq <> seq_before + 1) \
    FROM (SELECT *, coalesce(lag(link) OVER log, ''::bytea) AS before, coalesce(lag(seq) OVER log, 0) AS seq_before \
        FROM audit_chain WINDOW log AS (PARTITION BY tenant ORDER BY seq)) AS chain";

/// The rows of one request.
struct Rows {
    tenant: String,
    /// One event: its id, actor and JSON.
    single: Option<[String; 3]>,
    /// More: lines for COPY.
    lines: Bytes,
}

impl Rows {
    fn make(workload: &Workload, number: u64) -> Rows {
        let tenant = format!("tenant-{}", number % workload.tenants as u64);
        let first = number * workload.batch as u64;
        if workload.batch == 1 {
            return Rows { tenant, single: Some(members(first)), lines: Bytes::new() };
        }
        let mut lines = String::new();
        for event in first..first + workload.batch as u64 {
            let [id, actor, json] = members(event);
            // JSON of these events has no backslash, tab or newline, so COPY reads it as it stands.
            lines.push_str(&format!("{tenant}\t{id}\t{OCCURRED_AT}\t{ACTION}\t{OUTCOME}\t{actor}\t{json}\n"));
        }
        Rows { tenant, single: None, lines: Bytes::from(lines) }
    }
}

/// Id, actor and JSON of an event.
fn members(number: u64) -> [String; 3] {
    let (mut json, mut actor) = (Vec::new(), Vec::new());
    event::write(number, &mut json);
    event::write_actor(number, &mut actor);
    [event::id(number), text(actor), text(json)]
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

struct Shared {
    table: Table,
    rows: Vec<Rows>,
    next: Cell<usize>,
    latencies: RefCell<Latencies>,
    fault: RefCell<Option<Fault>>,
}

impl Shared {
    async fn send(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let name = self.table.name();
        let insert = format!(
            "INSERT INTO {name} ({COLUMNS}) VALUES ($1, $2, $3::text::timestamptz, $4, $5, $6, $7::text::jsonb)"
        );
        let insert = client.prepare_typed(&insert, &[Type::TEXT; 7]).await?;
        let copy = format!("COPY {name} ({COLUMNS}) FROM STDIN");
        while let Some(rows) = self.rows.get(self.next.replace(self.next.get() + 1)) {
            let start = Instant::now();
            match &rows.single {
                Some([id, actor, json]) => {
                    client
                        .execute(&insert, &[&rows.tenant, id, &OCCURRED_AT, &ACTION, &OUTCOME, actor, json])
                        .await?;
                }
                None => {
                    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(&copy).await?);
                    sink.send(rows.lines.clone()).await?;
                    sink.finish().await?;
                }
            }
            self.latencies.borrow_mut().note(start.elapsed());
        }
        Ok(())
    }
}

async fn connect(config: &Config) -> Result<Client, Fault> {
    let mut config = config.clone();
    config.connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await.map_err(told)?;
    // Ends when the client is dropped; an error shows at the client's next call.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn told(error: tokio_postgres::Error) -> Fault {
    match error.as_db_error() {
        Some(database) => Fault::unable(format!("PostgreSQL: {}", database.message())),
        None => Fault::unable(format!("PostgreSQL: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_events_of_the_request() {
        let mut workload = Workload { name: "x", batch: 3, connections: 1, tenants: 2, requests: 1 };
        let rows = Rows::make(&workload, 5);
        assert_eq!(rows.tenant, "tenant-1");
        let lines: Vec<&str> = std::str::from_utf8(&rows.lines).unwrap().lines().collect();
        assert_eq!(lines.len(), 3);
        let fields: Vec<&str> = lines[1].split('\t').collect();
        assert_eq!((fields.len(), fields[1]), (7, event::id(16).as_str()));
        let json: serde_json::Value = serde_json::from_str(fields[6]).unwrap();
        for (field, pointer) in
            [(1, "/id"), (2, "/occurred_at"), (3, "/action"), (4, "/outcome"), (5, "/actor/id")]
        {
            assert_eq!(json.pointer(pointer).unwrap(), fields[field], "{pointer}");
        }
        assert!(!lines[1].contains('\\'));
        workload.batch = 1;
        assert_eq!(Rows::make(&workload, 16).single.unwrap()[0], event::id(16));
    }
}
