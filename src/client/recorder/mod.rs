//! What a service calls in its request path: it returns at once, and what it takes reaches the log or is counted.
//!
//! ```text
//! record ─► queue (bounded) ─► sender thread ─► server
//!              └─► spooler thread ─► spool on disk (bounded) ─► sender thread
//! queue full: dropped, counted ─► `producer.events_dropped`, as soon as the server is reached
//! ```
//!
//! While the server answers, nothing is written to disk. What waits longer than `spool_after`, or fills half of the
//! queue, goes to the spool, what is being sent included; from then on the oldest is sent from there until it is empty.
//! So events reach the log in the order in which they were recorded, but for those that the server refuses for a time.
//! What is refused for good is reported and holds up no other. What blames the key, the tenant or the server as a whole
//! (401, 403, 404, 500, `read_only`) blames no event: everything waits until that is mended.
//!
//! What can be lost, and is not counted: what was in memory when the process was killed, at most `spool_after` and one
//! write of the spool old, unless [`Recorder::record_durable`] had returned. With [`RecorderOptions::service`] it shows
//! as a hole in `producer.seq`.
//!
//! Limits: the queue by [`RecorderOptions`], one batch on its way (1,000 events, 4 MiB), the spool by
//! [`SpoolOptions`](super::SpoolOptions), the newest [`MAX_REJECTED`] refusals.

mod drops;
mod sender;
mod shared;
mod spooler;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::connection::Client;
use super::error::{Error, Problem};
use super::new_event::{Draft, NotAnEvent, new_uuid};
use super::spool::{Spool, SpoolError, SpoolOptions};
use crate::event::limits::MAX_LABEL_CHARS;
use crate::event::{Tenant, printable};
use drops::{DropFile, Drops};
use shared::{Pushed, Shared, lock};

/// Refusals that are kept to be asked for; older ones are only counted.
pub const MAX_REJECTED: usize = 100;

/// How soon after a drop its count is on the disk, where there is a spool.
const PERSIST_INTERVAL: Duration = Duration::from_millis(200);

/// What is told of events that are refused for good.
pub type OnRejected = Box<dyn Fn(&Rejected) + Send>;

/// How a [`Recorder`] behaves. `RecorderOptions::default()` has no spool: add one.
pub struct RecorderOptions {
    /// Name of the service, 1 to 128 characters. With it each event without a `producer` gets one: this name, an
    /// instance that is new at each start, and a number from 1, so that a hole shows. What was dropped has a number.
    pub service: Option<String>,
    /// Events that wait in memory.
    pub queue_events: usize,
    /// Bytes of events that wait in memory.
    pub queue_bytes: usize,
    /// How long an event waits for others to be sent with.
    pub linger: Duration,
    /// Where events wait while the server is away. Without it they wait in memory alone.
    pub spool: Option<SpoolOptions>,
    /// How long an event waits in memory before it is spooled.
    pub spool_after: Duration,
    /// Time of one request.
    pub request_time: Duration,
    /// What dropping the recorder gives [`Recorder::close`].
    pub close_time: Duration,
    /// Told of each event that the server refuses for good, on the sender's thread. It must not wait, because nothing is
    /// sent meanwhile, and not close the recorder, which waits for that thread.
    pub on_rejected: Option<OnRejected>,
}

impl Default for RecorderOptions {
    fn default() -> RecorderOptions {
        RecorderOptions {
            service: None,
            // 1 MiB at 100 bytes each, 640 MiB at 64 KiB each: the second bound holds.
            queue_events: 10_000,
            queue_bytes: 16 * 1024 * 1024,
            linger: Duration::from_millis(100),
            spool: None,
            spool_after: Duration::from_secs(1),
            request_time: Duration::from_secs(10),
            close_time: Duration::from_secs(5),
            on_rejected: None,
        }
    }
}

/// What became of an event that was handed in. There is no need to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It waits to be sent.
    Queued,
    /// Queue and spool are full. It is counted, and the count becomes an event.
    Dropped,
    /// It is no event that could be sent. It is counted among the rejected.
    Refused(NotAnEvent),
    /// The recorder is closed; the event is lost.
    Closed,
}

/// Why an event is not known to survive a power cut.
#[derive(Debug, thiserror::Error)]
pub enum NotDurable {
    /// The event waits in memory, and goes to the spool when that works again.
    #[error("{0}; the event waits in memory and is sent")]
    Queued(#[from] SpoolError),
    /// The spool is full.
    #[error("the spool is full; the event waits in memory and is sent")]
    Full,
    /// The recorder has no spool.
    #[error("this recorder has no spool; the event waits in memory and is sent")]
    NoSpool,
    /// Queue and spool are full.
    #[error("queue and spool are full; the event was dropped, and is counted")]
    Dropped,
    /// It is no event that could be sent.
    #[error(transparent)]
    Refused(NotAnEvent),
    /// The recorder is closed.
    #[error("the recorder is closed; the event is lost")]
    Closed,
}

/// An event that is refused for good: sending it again changes nothing.
#[derive(Clone)]
pub struct Rejected {
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Why. The code is the contract's; or `receipt` where the server stored it and the receipt does not hold.
    pub problem: Problem,
    /// The event as it was sent: personal data may be in it.
    pub json: Arc<str>,
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("id", &self.id)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// How a recorder stands.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Events taken since it was opened.
    pub recorded: u64,
    /// Events of which there is a receipt, repeats included.
    pub stored: u64,
    /// Those that the log had before: an answer was lost, or a restart sent again.
    pub duplicates: u64,
    /// Events refused for good, here or by the server.
    pub rejected: u64,
    /// Events dropped since it was opened.
    pub dropped: u64,
    /// Drops that the log does not know of yet, those of earlier runs included.
    pub untold_drops: u64,
    /// Events in memory, those on their way included.
    pub queued: u64,
    /// Events in the spool.
    pub spooled_events: u64,
    /// Bytes of the spool.
    pub spooled_bytes: u64,
    /// Bytes of the spool that the disk changed.
    pub damaged_bytes: u64,
    /// Whether the last try failed.
    pub is_away: bool,
    /// Why the last try that failed did.
    pub last_error: Option<Error>,
    /// Why the spool was not written, the last time.
    pub spool_fault: Option<String>,
    /// Whether one of the recorder's threads ended in a panic. What can still be spooled is.
    pub has_defect: bool,
}

/// What [`Recorder::close`] leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Closed {
    /// Events in the spool, which the next start sends.
    pub spooled: u64,
    /// Events that found no place. With a spool they are counted, and the next start says so.
    pub lost: u64,
    /// Whether the spool, and the count, are on the disk.
    pub is_durable: bool,
}

/// Why a recorder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The name of the tenant breaks the grammar.
    #[error("the tenant's name is none")]
    Tenant,
    /// The name of the service is too long or empty.
    #[error("a service has a name of 1 to {MAX_LABEL_CHARS} characters")]
    Service,
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

/// Takes events and sees that they reach the log of one tenant. Shared between threads as it is, or in an `Arc`.
pub struct Recorder {
    shared: Arc<Shared>,
    /// `"producer":{…,"seq":`, the number and a brace follow.
    producer: Option<String>,
    /// Held while closing, so that a second call waits for the first.
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    sender: JoinHandle<()>,
    spooler: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Opens a recorder for the log of `tenant`, and the spool where there is one: what an earlier run left in it is
    /// sent. `client` says where to, with which key, and which pauses; how often, its bounds do not: a recorder tries
    /// for ever.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent.
    pub fn open(client: Client, tenant: &str, options: RecorderOptions) -> Result<Recorder, OpenError> {
        Tenant::parse_any(tenant).map_err(|_| OpenError::Tenant)?;
        let service = options.service.as_deref();
        if service.is_some_and(|name| !(1..=MAX_LABEL_CHARS).contains(&name.chars().count())) {
            return Err(OpenError::Service);
        }
        let producer = service.map(|name| {
            let name = serde_json::Value::from(name);
            format!("\"producer\":{{\"service\":{name},\"instance\":\"{}\",\"seq\":", new_uuid().simple())
        });
        let (mut spool, mut file, mut drops) = (None, None, Drops::default());
        if let Some(wanted) = &options.spool {
            let opened = Spool::open(wanted, tenant)?;
            let path = opened.dir().to_owned();
            let (opened_file, counted) =
                DropFile::open(opened.dir()).map_err(|source| SpoolError::Io { path, source })?;
            (spool, file, drops) = (Some(opened), Some(opened_file), counted);
        }
        let shared = Arc::new(Shared::new(client, tenant, options, spool, file, drops));
        let sender = sender::start(&shared).map_err(OpenError::Thread)?;
        let spooler = match shared.has_spool() {
            true => match spooler::start(&shared) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    shared.begin_closing(Duration::ZERO);
                    // The sender sees that there is no time left.
                    let _ = sender.join();
                    return Err(OpenError::Thread(error));
                }
            },
            false => None,
        };
        Ok(Recorder { shared, producer, threads: Mutex::new(Some(Threads { sender, spooler })) })
    }

    /// Takes an event: anything that serializes to a JSON object, such as `serde_json::json!({…})`. Returns at once;
    /// waits for no disk and no network.
    pub fn record<E: Serialize + ?Sized>(&self, event: &E) -> Recorded {
        match serde_json::to_string(event) {
            Ok(text) => self.record_json(&text),
            Err(_) => self.shared.refuse_here(NotAnEvent::NotJson { column: 0 }, ""),
        }
    }

    /// [`Recorder::record`] of JSON text.
    pub fn record_json(&self, text: &str) -> Recorded {
        match self.push(text, true) {
            Ok(Pushed::Queued) => Recorded::Queued,
            Ok(Pushed::Full) => Recorded::Dropped,
            Ok(Pushed::Closed) => Recorded::Closed,
            Err(reason) => self.shared.refuse_here(reason, text),
        }
    }

    /// Takes an event and returns when it is on this machine's disk, or on the server's. So is then every event that
    /// was recorded before it. Waits for the disk.
    ///
    /// # Errors
    /// [`NotDurable`] says whether the event is taken nevertheless.
    pub fn record_durable<E: Serialize + ?Sized>(&self, event: &E) -> Result<(), NotDurable> {
        let refused = |reason| NotDurable::Refused(reason);
        let text = serde_json::to_string(event).map_err(|_| refused(NotAnEvent::NotJson { column: 0 }))?;
        let mut pushed = self.push(&text, !self.shared.has_spool()).map_err(refused)?;
        if pushed == Pushed::Full && self.shared.has_spool() {
            self.shared.spill()?;
            pushed = self.push(&text, true).map_err(refused)?;
        }
        match pushed {
            Pushed::Queued if !self.shared.has_spool() => Err(NotDurable::NoSpool),
            Pushed::Queued if !self.shared.spill()? => Err(NotDurable::Full),
            Pushed::Queued => Ok(self.shared.make_durable()?),
            Pushed::Full => Err(NotDurable::Dropped),
            Pushed::Closed => Err(NotDurable::Closed),
        }
    }

    /// Waits until the log has everything that was taken, at most `timeout`. Whether it has.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.flush(timeout)
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The newest [`MAX_REJECTED`] refusals since this was last called, oldest first.
    pub fn take_rejected(&self) -> Vec<Rejected> {
        lock(&self.shared.state).rejected.drain(..).collect()
    }

    /// Sends what it can in `timeout`, spools the rest, ends the threads. A request that was on its way before may take
    /// until its own time is over. A second call says the same.
    pub fn close(&self, timeout: Duration) -> Closed {
        let mut threads = lock(&self.threads);
        if let Some(Threads { sender, spooler }) = threads.take() {
            self.shared.begin_closing(timeout);
            // A panic in a thread is in the stats; what can be saved is, below.
            let _ = sender.join();
            self.shared.end_spooler();
            let _ = spooler.map(JoinHandle::join);
            self.shared.put_away();
        }
        lock(&self.shared.state).closed
    }

    fn push(&self, text: &str, is_final: bool) -> Result<Pushed, NotAnEvent> {
        let draft = Draft::read(text)?;
        match self.producer.as_ref().filter(|_| !draft.has_producer()) {
            None => {
                let event = draft.finish()?;
                self.shared.push(is_final, false, |_| Ok(event.clone()))
            }
            Some(producer) => {
                self.shared.push(is_final, true, |seq| draft.finish_with(&format!("{producer}{seq}}}")))
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close(self.shared.close_time());
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = printable(self.shared.tenant());
        f.debug_struct("Recorder").field("tenant", &tenant).finish_non_exhaustive()
    }
}
