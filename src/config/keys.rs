//! Every key, as a table. A line here is a key of `varve.toml`, a variable `VARVE_…`, a flag of `varve serve`, a part
//! of its help and a line of the table in docs/OPERATIONS.md.
//!
//! A name says its unit last. A number has a lower and an upper bound; their arithmetic stands beside them.

use super::ENV_PREFIX;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As it stands in `varve.toml`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is for, in one sentence without a full stop.
    pub about: &'static str,
    /// Under which heading the help lists it.
    pub group: &'static str,
}

/// What a key takes.
#[derive(Debug)]
pub enum Kind {
    /// A path; relative ones start at the directory that the process was started in.
    Path(Option<&'static str>),
    /// An IP address and a port.
    Address(Option<&'static str>),
    /// `true` or `false`; `false` unless said.
    Switch,
    /// One of these words; the first unless said.
    Choice(&'static [&'static str]),
    /// A text of at most [`MAX_TEXT_BYTES`].
    Text(&'static str),
    /// A whole number.
    Number {
        /// What is counted.
        unit: &'static str,
        /// Lower bound.
        least: u64,
        /// Upper bound.
        most: u64,
        /// Unless said.
        default: u64,
    },
}

/// Longest text: a directive of the log for each of twenty modules.
pub const MAX_TEXT_BYTES: usize = 1024;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const STORE: &str = "Store";
const LISTENING: &str = "Listening";
const HTTP: &str = "Limits of HTTP";
const LOG: &str = "Log";

const fn number(unit: &'static str, least: u64, most: u64, default: u64) -> Kind {
    Kind::Number { unit, least, most, default }
}

const fn key(group: &'static str, name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, kind, about, group }
}

/// All keys, in the order of help and docs.
#[rustfmt::skip]
pub static KEYS: [Key; 28] = [
    key(STORE, "data", Kind::Path(Some("./varve-data")),
        "Directory of the store; made on the first run"),
    key(STORE, "must_exist", Kind::Switch,
        "Refuse to make a store: it must be there"),
    // An interval is in every heartbeat, so a verifier knows which silence is a gap. Ten seconds are 3 million entries a year.
    key(STORE, "heartbeat_seconds", number("seconds", 10, 3600, 60),
        "Time between the heartbeats in the instance's own log"),
    // Two segments of the journal at least. The default has its arithmetic in process/space.rs.
    key(STORE, "low_water_bytes", number("bytes", 64 * MIB, 1024 * GIB, GIB),
        "Free disk space below which appends are refused"),
    key(STORE, "query_seconds", number("seconds", 1, 300, 10),
        "Time that one query may work"),
    // The largest batch must fit: 1,000 events, 6 MiB once sealed.
    key(STORE, "max_queued_events", number("events", 1000, 1 << 20, 32_768),
        "Events that may wait for the disk; more are refused as busy"),
    key(STORE, "max_queued_bytes", number("bytes", 8 * MIB, 4 * GIB, 64 * MIB),
        "Memory that events may take while they wait for the disk"),
    // A month is the least that a class can have, 1,200 the most.
    key(STORE, "retention_floor_months", number("months", 1, 1200, 1),
        "Least time that a tenant's policy may keep a class for"),
    key(STORE, "compaction_hours", number("hours", 0, 720, 24),
        "Time between compactions that begin by themselves; 0 is none"),
    // A layer of a gigabyte takes twelve hours at the lower bound.
    key(STORE, "compaction_bytes_per_second", number("bytes per second", 64 * 1024, GIB, 32 * MIB),
        "What a compaction reads and writes in a second"),
    key(STORE, "erasure_needs_approval", Kind::Switch,
        "The erasure of a person needs two keys"),
    // 3,650 are ten years: what is kept longer is an archive.
    key(STORE, "backup_days", number("days", 1, 3650, 30),
        "Time that backups are kept: an erasure says until when they hold what it took"),

    key(LISTENING, "listen", Kind::Address(Some("127.0.0.1:8117")),
        "Address and port to listen on; port 0 takes a free one"),
    key(LISTENING, "insecure", Kind::Switch,
        "Listen on an address other than loopback, without TLS: keys and events travel in clear"),
    key(LISTENING, "metrics_listen", Kind::Address(None),
        "Address and port of its own for /healthz, /readyz and /metrics, plain HTTP; /metrics is then only there"),
    key(LISTENING, "tls_certificate_file", Kind::Path(None),
        "Certificate chain, PEM, the server's own certificate first; read again on SIGHUP"),
    key(LISTENING, "tls_private_key_file", Kind::Path(None),
        "Private key of that certificate, PEM, readable by the server's user alone; read again on SIGHUP"),

    // A connection takes a file descriptor: 65,536 and what the store has open fit under the usual hard limits.
    key(HTTP, "max_connections", number("connections", 16, 65_536, 4096),
        "Connections open at once"),
    key(HTTP, "max_in_flight_requests", number("requests", 8, 65_536, 1024),
        "Requests being answered at once"),
    key(HTTP, "header_seconds", number("seconds", 1, 300, 10),
        "Time for the head of a request to arrive"),
    key(HTTP, "body_seconds", number("seconds", 1, 300, 12),
        "Time for the body of a request to arrive"),
    key(HTTP, "idle_seconds", number("seconds", 1, 3600, 60),
        "Time that a connection may be open without a request"),
    key(HTTP, "drain_seconds", number("seconds", 1, 300, 10),
        "Time for requests under way once the server was told to stop"),
    // One largest request at least.
    key(HTTP, "body_memory_bytes", number("bytes", 4 * MIB, 64 * GIB, 64 * MIB),
        "Memory of all request bodies together"),
    // The runtime has 512 threads for blocking calls.
    key(HTTP, "max_blocking_calls", number("calls", 1, 512, 32),
        "Queries, proofs and other blocking calls at once"),
    key(HTTP, "rate_limit_events_per_second", number("events per second", 0, 1_000_000, 0),
        "Events a second that one API key may append; 0 is no limit"),

    key(LOG, "log_format", Kind::Choice(&["text", "json"]),
        "How the log on standard error reads: for people, or one JSON object a line"),
    key(LOG, "log_level", Kind::Text("info"),
        "What the log holds: error, warn, info, debug, or a directive for each module"),
];

/// Flags that are no keys: each is for one start, and a file would repeat it at every start.
pub const FLAGS_ALONE: [&str; 3] = ["config", "confirm_clock", "print_config"];

impl Key {
    /// The variable in the environment.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// What the value is called in the help.
    pub fn placeholder(&self) -> &'static str {
        match &self.kind {
            Kind::Path(_) if self.name == "data" => "DIR",
            Kind::Path(_) => "FILE",
            Kind::Address(_) => "ADDRESS",
            Kind::Switch => "true|false",
            Kind::Choice(_) => "FORMAT",
            Kind::Text(_) => "LEVEL",
            Kind::Number { unit: "seconds", .. } => "SECONDS",
            Kind::Number { unit: "bytes", .. } => "BYTES",
            Kind::Number { .. } => "COUNT",
        }
    }

    /// What holds unless said; `None` where nothing is then done.
    pub fn default_text(&self) -> Option<String> {
        match &self.kind {
            Kind::Path(default) | Kind::Address(default) => default.map(str::to_owned),
            Kind::Switch => Some("false".to_owned()),
            Kind::Choice(words) => words.first().map(|word| (*word).to_owned()),
            Kind::Text(default) => Some((*default).to_owned()),
            Kind::Number { default, .. } => Some(default.to_string()),
        }
    }

    /// What the key takes, in words.
    pub fn wanted(&self) -> String {
        match &self.kind {
            Kind::Path(_) => "a path".to_owned(),
            Kind::Address(_) => "an IP address and a port, such as 127.0.0.1:8117".to_owned(),
            Kind::Switch => "true or false".to_owned(),
            Kind::Choice(words) => words.join(" or "),
            Kind::Text(_) => format!("a text of 1 to {MAX_TEXT_BYTES} bytes"),
            Kind::Number { unit, least, most, .. } => {
                format!("a whole number of {unit} from {least} to {most}")
            }
        }
    }
}

/// The key of that name.
pub fn named(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
