//! One load: connections that send requests and note answers, on one thread.
//!
//! Latency runs from the moment a request was due, not from the moment it could be sent: a server that stalls
//! pays for every request that was due meanwhile. In a closed loop both moments are one.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::Fault;
use crate::kept::{self, Kept};
use crate::pace::Pace;
use crate::request::Requests;
use crate::tally::Tally;
use crate::wire::{Broken, Connection};

/// Connections of one load.
pub const MAX_CONNECTIONS: usize = 10_000;

/// How long answers may take once nothing more is sent.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// Failures told in words; more are counted.
const TOLD: usize = 10;

/// Failed connections in a row after which a sender gives up.
const GIVE_UP_AFTER: u32 = 20;

/// When a request follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// When the answer before it has come.
    Max,
    /// So many events a second, whatever the server does.
    EventsPerSecond(f64),
}

/// How long a load lasts.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// A warm-up that is not measured, then a time that is.
    Time {
        /// Not measured.
        warmup: Duration,
        /// Measured.
        window: Duration,
        /// How long after that requests may be sent that were due before: open loop alone.
        late: Duration,
    },
    /// So many requests, closed loop alone.
    Requests(u64),
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// When a request follows.
    pub rate: Rate,
    /// Connections; each has one request under way.
    pub connections: usize,
    /// How long.
    pub length: Length,
    /// Whether each second is noted apart.
    pub with_timeline: bool,
}

/// What came of a load.
pub struct Done {
    /// When its clock started.
    pub start: Instant,
    /// The measured time: the window, or from the start to the last answer.
    pub measured: Duration,
    /// Latencies and statuses.
    pub tally: Tally,
    /// Every answer.
    pub kept: Kept,
    /// Requests that were due and not sent.
    pub unsent: u64,
    /// Requests that were sent and not answered.
    pub unanswered: u64,
    /// Why, for the first of them.
    pub failures: Vec<String>,
    /// Requests made while the clock ran, because they did not fit into the memory given.
    pub made_late: u64,
}

impl Done {
    /// Events stored a second.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit")]
    pub fn events_per_second(&self, batch: usize) -> f64 {
        (self.tally.stored_in_window * batch as u64) as f64 / self.measured.as_secs_f64().max(1e-9)
    }
}

/// Runs `load` of `requests` against `address` and gives them back.
///
/// # Errors
/// A connection cannot be opened, or the answers cannot be kept.
pub async fn drive(address: SocketAddr, requests: Requests, load: Load) -> Result<(Requests, Done), Fault> {
    let mut connections = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let opened = Connection::open(address).await;
        connections
            .push(opened.map_err(|error| Fault::unable(format!("cannot connect to {address}: {error}")))?);
    }
    let sender = Rc::new(Sender::new(address, requests, load)?);
    let local = LocalSet::new();
    let ticking = Rc::clone(&sender);
    local.spawn_local(async move {
        if let Err(error) = ticking.pace.tick().await {
            ticking.noted.borrow_mut().fatal = Some(format!("the timer failed: {error}"));
        }
    });
    let senders: Vec<_> = connections
        .into_iter()
        .map(|connection| local.spawn_local(Rc::clone(&sender).send(connection)))
        .collect();
    let all = async {
        for task in senders {
            // A sender that panicked has left its requests unanswered.
            let _ = task.await;
        }
    };
    let limit = sender.latest_end() + LAST_ANSWERS;
    let _ = tokio::time::timeout_at(limit.into(), local.run_until(all)).await;
    drop(local);
    sender.done()
}

struct Sender {
    address: SocketAddr,
    requests: Requests,
    load: Load,
    pace: Pace,
    start: Instant,
    noted: RefCell<Noted>,
}

struct Noted {
    tally: Tally,
    kept: Kept,
    sent: u64,
    answered: u64,
    failures: Vec<String>,
    last_answer: Instant,
    fatal: Option<String>,
}

impl Sender {
    fn new(address: SocketAddr, requests: Requests, load: Load) -> Result<Sender, Fault> {
        let start = Instant::now();
        let pace = match (load.rate, load.length) {
            (Rate::Max, Length::Time { warmup, window, .. }) => {
                Pace::closed(start, Some(start + warmup + window), u64::MAX)
            }
            (Rate::Max, Length::Requests(count)) => Pace::closed(start, None, count),
            (Rate::EventsPerSecond(rate), Length::Time { warmup, window, late }) => {
                let interval = Duration::from_secs_f64(requests.batch() as f64 / rate.max(1e-3));
                let count = (warmup + window).as_nanos() / interval.as_nanos().max(1);
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                Pace::open(start, interval, count, start + warmup + window + late)
            }
            (Rate::EventsPerSecond(_), Length::Requests(_)) => {
                return Err(Fault::unable("a rate needs a time, not a count"));
            }
        };
        let noted = RefCell::new(Noted {
            tally: Tally::default(),
            kept: Kept::new(kept::MEMORY_BYTES),
            sent: 0,
            answered: 0,
            failures: Vec::new(),
            last_answer: start,
            fatal: None,
        });
        Ok(Sender { address, requests, load, pace, start, noted })
    }

    async fn send(self: Rc<Sender>, connection: Connection) {
        let mut scratch = Vec::new();
        let mut connection = Some(connection);
        while let Some((number, due)) = self.pace.next().await {
            if connection.as_ref().is_none_or(Connection::is_closed) {
                connection = self.reopen().await;
            }
            self.noted.borrow_mut().sent += 1;
            let Some(open) = connection.as_mut() else {
                self.fail(number, "no connection can be opened any more");
                return;
            };
            let sent = Instant::now();
            let is_last = match open.exchange(self.requests.bytes(number, &mut scratch)).await {
                Ok(answer) => {
                    self.note(number, due, sent, answer.head.status, answer.raw);
                    answer.head.is_last
                }
                Err(broken) => {
                    self.break_off(number, &broken);
                    true
                }
            };
            if is_last {
                connection = None;
            }
            if self.noted.borrow().fatal.is_some() {
                return;
            }
        }
    }

    async fn reopen(&self) -> Option<Connection> {
        for attempt in 0..GIVE_UP_AFTER {
            match Connection::open(self.address).await {
                Ok(connection) => return Some(connection),
                Err(_) => tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 5)).await,
            }
        }
        None
    }

    fn note(&self, number: u64, due: Instant, sent: Instant, status: u16, raw: &[u8]) {
        let now = Instant::now();
        let mut noted = self.noted.borrow_mut();
        let second = || usize::try_from((due - self.start).as_secs()).unwrap_or(usize::MAX);
        let second = self.load.with_timeline.then(second);
        let (is_measured, is_in_window) = match self.load.length {
            Length::Time { warmup, window, .. } => {
                let from = self.start + warmup;
                (due >= from, now >= from && now < from + window)
            }
            Length::Requests(_) => (true, true),
        };
        noted.tally.note(status, now - due, is_measured, second);
        if is_measured {
            noted.tally.from_send.note(now - sent);
        }
        noted.tally.stored_in_window += u64::from(status == 201 && is_in_window);
        noted.answered += 1;
        noted.last_answer = now;
        if let Err(error) = noted.kept.push(number, raw) {
            noted.fatal = Some(format!("an answer cannot be kept: {error}"));
        }
    }

    fn break_off(&self, number: u64, broken: &Broken) {
        self.fail(number, &broken.to_string());
    }

    fn fail(&self, number: u64, why: &str) {
        let mut noted = self.noted.borrow_mut();
        if noted.failures.len() < TOLD {
            let after = self.start.elapsed().as_secs_f64();
            noted.failures.push(format!("request {number}, {after:.3} s after the start: {why}"));
        }
    }

    /// When the last request may be sent.
    fn latest_end(&self) -> Instant {
        match self.load.length {
            Length::Time { warmup, window, late } => self.start + warmup + window + late,
            // Bounded by the caller's count; an hour is never reached.
            Length::Requests(_) => self.start + Duration::from_secs(3600),
        }
    }

    fn done(self: Rc<Sender>) -> Result<(Requests, Done), Fault> {
        let unsent = self.pace.unsent();
        // Senders that were cut off have been dropped with their task set.
        let sender = Rc::try_unwrap(self)
            .map_err(|_| Fault::unable("a sender is still running: a defect of this tool"))?;
        let noted = sender.noted.into_inner();
        if let Some(fatal) = noted.fatal {
            return Err(Fault::Unable(fatal));
        }
        let measured = match sender.load.length {
            Length::Time { window, .. } => window,
            Length::Requests(_) => noted.last_answer - sender.start,
        };
        let made_ahead = sender.requests.ahead();
        let done = Done {
            start: sender.start,
            measured,
            tally: noted.tally,
            kept: noted.kept,
            unsent,
            unanswered: noted.sent - noted.answered,
            failures: noted.failures,
            made_late: noted.sent.saturating_sub(made_ahead),
        };
        Ok((sender.requests, done))
    }
}
