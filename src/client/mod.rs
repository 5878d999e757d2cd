//! What a service posts its events with.
//!
//! [`Client`] asks and waits for the answer: for tools, and where the receipt is wanted at once. [`Recorder`] is what a
//! request path calls: it returns at once, never panics and never waits for the network, keeps events in a bounded
//! queue and, while the server is away, in a bounded spool on disk, and counts what it had to drop; the count becomes
//! an event itself. What can be lost, and what a client in another language must do: `docs/CLIENTS.md`.
//!
//! ```no_run
//! use varve::client::{Client, ClientOptions, Recorder, RecorderOptions, SpoolOptions};
//! # fn key() -> String { String::new() }
//! let client = Client::new("http://127.0.0.1:8117", &key(), ClientOptions::default())?;
//! let recorder = Recorder::open(client, "acme", RecorderOptions {
//!     service: Some("billing".into()),
//!     spool: Some(SpoolOptions::at("/var/lib/billing/audit-spool")),
//!     ..RecorderOptions::default()
//! })?;
//! recorder.record(&serde_json::json!({
//!     "action": "invoice.deleted", "outcome": "success",
//!     "actor": {"type": "user", "id": "u-17"}, "targets": [{"type": "invoice", "id": "i-9"}],
//! }));
//! recorder.close(std::time::Duration::from_secs(5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading order: `address` and `retry` (where, and how often), `connection` (one request), `new_event` (what is sent),
//! `append` and `receipt` (what is answered), `error`; then `spool/` (events on disk) and `recorder/`.
//!
//! Blocking, without a runtime: a feature of its own (`client`), so that a service links neither store nor server.

mod address;
mod append;
mod connection;
mod error;
mod new_event;
mod receipt;
mod recorder;
mod retry;
mod spool;

pub use address::{BadUrl, host, is_loopback};
pub use append::{Batch, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Outcome};
pub use connection::{Ask, Client, ClientOptions, MAX_ANSWER_BYTES, Repeat, segment};
pub use error::{Error, Problem};
pub use new_event::{NewEvent, NotAnEvent};
pub use receipt::{Checked, LogKey, Receipt, ReceiptFault};
pub use recorder::{
    Closed, MAX_REJECTED, NotDurable, OnRejected, OpenError, Recorded, Recorder, RecorderOptions, Rejected,
    Stats,
};
pub use retry::Retry;
pub use spool::{SpoolError, SpoolOptions, SpoolSync};
