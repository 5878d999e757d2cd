//! What record, the sender and the spooler share: queue, what is on its way, spool, count of drops.
//!
//! Locks, in this order: `spool`, then `state`. `state` is held for moments, never over disk or network. Who writes:
//! record appends to the queue; whoever holds `spool` takes from its front. What is on its way stands in `in_flight`
//! until it is answered or in the spool, so that the spooler can save it while a request hangs.

#![expect(
    clippy::disallowed_methods,
    reason = "how long an event has waited decides where it goes; drops are dated"
)]

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::super::append::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use super::super::connection::Client;
use super::super::error::{Error, Problem};
use super::super::new_event::{NewEvent, NotAnEvent, new_uuid};
use super::super::spool::{Spool, SpoolSync};
use super::drops::{Count, DropFile, Drops};
use super::{Closed, MAX_REJECTED, OnRejected, Recorded, RecorderOptions, Rejected, Stats};

/// How soon one count of drops may follow another.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Where a caller waits for ever: a year.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// Everything that the threads share.
pub(super) struct Shared {
    pub(super) client: Client,
    tenant: String,
    pub(super) options: Settings,
    pub(super) on_rejected: Mutex<Option<OnRejected>>,
    pub(super) spool: Option<Mutex<Spool>>,
    /// Held by the one who syncs; the others find that theirs was synced too.
    pub(super) sync_turn: Mutex<()>,
    pub(super) drop_file: Option<Mutex<DropFile>>,
    pub(super) state: Mutex<State>,
    /// There is something to send, or it is time to stop.
    pub(super) to_send: Condvar,
    /// There is something to spool or to write down, or it is time to stop.
    pub(super) to_spool: Condvar,
    /// Something was answered.
    answered: Condvar,
}

/// [`RecorderOptions`] without what is moved out of them.
pub(super) struct Settings {
    pub(super) service: Option<String>,
    queue_events: usize,
    queue_bytes: usize,
    linger: Duration,
    pub(super) spool_after: Duration,
    pub(super) spool_sync: Option<SpoolSync>,
    pub(super) request_time: Duration,
    close_time: Duration,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Taken from the queue, not answered, not in the spool.
    pub(super) in_flight: Option<InFlight>,
    next_seq: u64,
    pub(super) drops: Drops,
    /// Whether `drops` says more than the file.
    pub(super) has_new_drops: bool,
    reported_at: Option<Instant>,
    flushes: u32,
    closing: Option<Instant>,
    pub(super) is_spooler_wanted: bool,
    /// As the spool says, so that waiting does not need its lock.
    pub(super) spooled_events: u64,
    pub(super) rejected: VecDeque<Rejected>,
    pub(super) stats: Stats,
    pub(super) closed: Closed,
}

pub(super) struct Queued {
    pub(super) event: NewEvent,
    pub(super) at: Instant,
}

pub(super) struct InFlight {
    pub(super) events: Vec<NewEvent>,
    pub(super) since: Instant,
}

/// What became of an event that was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pushed {
    Queued,
    Full,
    Closed,
}

/// Events to be sent, and where they stand meanwhile.
pub(super) struct Work {
    /// Those that are not answered.
    pub(super) open: Vec<NewEvent>,
    /// How many there were at first.
    count: usize,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Queue,
    Spool,
    Drops(Count),
}

/// What the sender does next.
pub(super) enum Next {
    Send(Work),
    /// The spool cannot be read: try later.
    Unreadable,
    Stop,
}

impl Shared {
    pub(super) fn new(
        client: Client,
        tenant: &str,
        options: RecorderOptions,
        spool: Option<Spool>,
        drop_file: Option<DropFile>,
        mut drops: Drops,
    ) -> Shared {
        let lost = spool.as_ref().map_or(0, |spool| spool.lost_events);
        drops.add(lost, now_micros(), new_uuid);
        let state = State {
            next_seq: 1,
            drops,
            has_new_drops: lost > 0,
            is_spooler_wanted: true,
            spooled_events: spool.as_ref().map_or(0, Spool::events),
            ..State::default()
        };
        let settings = Settings {
            service: options.service,
            queue_events: options.queue_events.max(1),
            queue_bytes: options.queue_bytes,
            linger: options.linger,
            spool_after: options.spool_after,
            spool_sync: options.spool.map(|spool| spool.sync),
            request_time: options.request_time,
            close_time: options.close_time,
        };
        Shared {
            client,
            tenant: tenant.to_owned(),
            options: settings,
            on_rejected: Mutex::new(options.on_rejected),
            spool: spool.map(Mutex::new),
            sync_turn: Mutex::new(()),
            drop_file: drop_file.map(Mutex::new),
            state: Mutex::new(state),
            to_send: Condvar::new(),
            to_spool: Condvar::new(),
            answered: Condvar::new(),
        }
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    pub(super) fn close_time(&self) -> Duration {
        self.options.close_time
    }

    // -----------------------------------------------------------------------------------------------------
    // Taking events in.

    /// Takes the event that `make` makes of its number. A full queue counts a drop where `is_final`. A number is used
    /// up by what is taken or dropped, where the event `is_numbered`.
    pub(super) fn push(
        &self,
        is_final: bool,
        is_numbered: bool,
        make: impl FnOnce(u64) -> Result<NewEvent, NotAnEvent>,
    ) -> Result<Pushed, NotAnEvent> {
        let mut state = lock(&self.state);
        if state.closing.is_some() {
            return Ok(Pushed::Closed);
        }
        let event = make(state.next_seq)?;
        let bytes = state.queue_bytes + event.json().len();
        let is_full = state.queue.len() >= self.options.queue_events || bytes > self.options.queue_bytes;
        if is_full && !is_final {
            return Ok(Pushed::Full);
        }
        state.next_seq += u64::from(is_numbered);
        if is_full {
            state.drop_events(1);
            self.to_spool.notify_one();
            self.to_send.notify_one();
            return Ok(Pushed::Full);
        }
        state.queue.push_back(Queued { event, at: Instant::now() });
        state.queue_bytes = bytes;
        state.stats.recorded += 1;
        if state.queue.len() == 1 || state.queue.len() == MAX_BATCH_EVENTS {
            self.to_send.notify_one();
        }
        if state.queue.len() == 1 || self.is_half_full(&state) {
            self.to_spool.notify_one();
        }
        Ok(Pushed::Queued)
    }

    /// Counts and keeps what is no event.
    pub(super) fn refuse_here(&self, reason: NotAnEvent, text: &str) -> Recorded {
        let code = if reason == NotAnEvent::TooLarge { "too_large" } else { "bad_request" };
        // What is too large to be sent is too large to be kept here.
        let json = if reason == NotAnEvent::TooLarge { "" } else { text };
        self.reject(Rejected { id: None, problem: own_problem(code, &reason), json: json.into() });
        Recorded::Refused(reason)
    }

    pub(super) fn reject(&self, rejected: Rejected) {
        let mut state = lock(&self.state);
        state.stats.rejected += 1;
        if state.rejected.len() == MAX_REJECTED {
            state.rejected.pop_front();
        }
        state.rejected.push_back(rejected);
    }

    // -----------------------------------------------------------------------------------------------------
    // The sender's side.

    /// Waits for something to send.
    pub(super) fn next(&self) -> Next {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let is_closing = state.closing.is_some();
            if state.closing.is_some_and(|deadline| deadline <= now) {
                return Next::Stop;
            }
            let report_in = state.report_in(now);
            if report_in == Some(Duration::ZERO) {
                let sealed = state.drops.seal();
                state.reported_at = Some(now);
                state.has_new_drops = true;
                drop(state);
                // Frozen on disk before it is sent: a repeat after a restart is the same event.
                self.write_drops();
                if let Some(count) = sealed {
                    return Next::Send(self.report(count));
                }
                state = lock(&self.state);
                continue;
            }
            if state.spooled_events > 0 {
                drop(state);
                return self.take();
            }
            let lingers_for = state.queue.front().map(|oldest| {
                let is_hurried = is_closing
                    || state.flushes > 0
                    || state.queue.len() >= MAX_BATCH_EVENTS
                    || state.queue_bytes >= MAX_BATCH_BYTES / 2;
                if is_hurried { Duration::ZERO } else { self.options.linger.saturating_sub(now - oldest.at) }
            });
            match lingers_for {
                Some(Duration::ZERO) => {
                    drop(state);
                    return self.take();
                }
                None if is_closing => return Next::Stop,
                _ => {}
            }
            let until = [lingers_for, report_in].into_iter().flatten().min();
            state = wait(&self.to_send, state, until);
        }
    }

    /// Takes the oldest events: of the spool, or where that is empty of the queue.
    fn take(&self) -> Next {
        let mut spool = self.spool.as_ref().map(lock);
        if let Some(spool) = spool.as_mut().filter(|spool| spool.events() > 0) {
            let lost_before = spool.lost_events;
            let front = spool.front(MAX_BATCH_EVENTS, MAX_BATCH_BYTES - 2);
            let mut state = lock(&self.state);
            state.drop_events(spool.lost_events - lost_before);
            state.spooled_events = spool.events();
            match front {
                Ok(events) if !events.is_empty() => {
                    let open: Vec<NewEvent> = events.into_iter().map(NewEvent::again).collect();
                    return Next::Send(Work { count: open.len(), open, source: Source::Spool });
                }
                Ok(_) => {}
                Err(error) => {
                    state.stats.spool_fault = Some(error.to_string());
                    return Next::Unreadable;
                }
            }
        }
        let mut state = lock(&self.state);
        let (mut open, mut bytes) = (Vec::new(), 2);
        while let Some(oldest) = state.queue.front() {
            bytes += oldest.event.json().len() + 1;
            if open.len() == MAX_BATCH_EVENTS || bytes > MAX_BATCH_BYTES {
                break;
            }
            open.extend(state.pop().map(|queued| queued.event));
        }
        let since = Instant::now();
        state.in_flight = (!open.is_empty()).then(|| InFlight { events: open.clone(), since });
        drop(state);
        self.to_spool.notify_one();
        Next::Send(Work { count: open.len(), open, source: Source::Queue })
    }

    fn report(&self, count: Count) -> Work {
        let event = NewEvent::again(count.event(self.options.service.as_deref()).into());
        Work { open: vec![event], count: 1, source: Source::Drops(count) }
    }

    /// All of `work` is answered, for good or ill.
    pub(super) fn settle(&self, work: &Work) {
        let mut spool = self.spool.as_ref().map(lock);
        let mut state = lock(&self.state);
        let is_spooled = match work.source {
            Source::Spool => true,
            // Whoever put it into the spool meanwhile took it out of here.
            Source::Queue => state.in_flight.take().is_none() && work.count > 0,
            Source::Drops(count) => {
                state.drops.told(count.id);
                state.has_new_drops = true;
                self.to_spool.notify_one();
                false
            }
        };
        if let Some(spool) = spool.as_mut().filter(|_| is_spooled) {
            if let Err(error) = spool.answered(work.count) {
                state.stats.spool_fault = Some(error.to_string());
            }
            state.spooled_events = spool.events();
        }
        state.stats.is_away = false;
        self.answered.notify_all();
    }

    /// The sender stops without an answer for what is open.
    pub(super) fn give_up(&self, work: Work) {
        let mut state = lock(&self.state);
        if let Some(in_flight) = &mut state.in_flight
            && work.source == Source::Queue
        {
            in_flight.events = work.open;
        }
    }

    /// Waits for `pause`, or until closing begins.
    pub(super) fn pause(&self, pause: Duration) {
        let end = from_now(pause);
        let mut state = lock(&self.state);
        while state.closing.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = wait(&self.to_send, state, Some(left));
        }
    }

    /// How long a request that begins now may take; `None` when the time is over. And whether closing has begun.
    pub(super) fn request_time(&self) -> (Option<Duration>, bool) {
        let closing = lock(&self.state).closing;
        let left = closing.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let time = left.map_or(self.options.request_time, |left| left.min(self.options.request_time));
        ((!time.is_zero()).then_some(time), closing.is_some())
    }

    pub(super) fn note_away(&self, error: &Error) {
        let mut state = lock(&self.state);
        state.stats.is_away = true;
        state.stats.last_error = Some(error.clone());
    }

    pub(super) fn is_half_full(&self, state: &State) -> bool {
        state.queue.len() * 2 >= self.options.queue_events
            || state.queue_bytes * 2 >= self.options.queue_bytes
    }

    // -----------------------------------------------------------------------------------------------------
    // Looking on, and the end.

    pub(super) fn stats(&self) -> Stats {
        let spool = self.spool.as_ref().map(lock);
        let state = lock(&self.state);
        let in_flight = state.in_flight.as_ref().map_or(0, |sent| sent.events.len());
        Stats {
            queued: (state.queue.len() + in_flight) as u64,
            spooled_events: state.spooled_events,
            spooled_bytes: spool.as_ref().map_or(0, |spool| spool.bytes()),
            damaged_bytes: spool.as_ref().map_or(0, |spool| spool.damaged_bytes),
            untold_drops: state.drops.total(),
            ..state.stats.clone()
        }
    }

    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let end = from_now(timeout);
        let mut state = lock(&self.state);
        state.flushes += 1;
        self.to_send.notify_one();
        let is_done = loop {
            let has_none = state.queue.is_empty() && state.in_flight.is_none() && state.spooled_events == 0;
            if has_none && state.drops.total() == 0 {
                break true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closing.is_some() {
                break false;
            }
            state = wait(&self.answered, state, Some(left));
        };
        state.flushes -= 1;
        is_done
    }

    pub(super) fn begin_closing(&self, timeout: Duration) {
        lock(&self.state).closing = Some(from_now(timeout));
        self.to_send.notify_all();
        self.answered.notify_all();
    }
}

impl Work {
    /// Whether it is a count of drops.
    pub(super) fn is_report(&self) -> bool {
        matches!(self.source, Source::Drops(_))
    }
}

impl State {
    pub(super) fn drop_events(&mut self, count: u64) {
        if count > 0 {
            self.drops.add(count, now_micros(), new_uuid);
            self.has_new_drops = true;
            self.stats.dropped += count;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.event.json().len();
        Some(queued)
    }

    /// When the count of drops is to be sent: what is frozen at once, what grows not too often.
    fn report_in(&self, now: Instant) -> Option<Duration> {
        if self.drops.total() == 0 {
            return None;
        }
        let is_hurried = self.drops.sealed.is_some() || self.closing.is_some() || self.flushes > 0;
        let since = self.reported_at.filter(|_| !is_hurried).map(|at| now - at);
        Some(since.map_or(Duration::ZERO, |since| REPORT_INTERVAL.saturating_sub(since)))
    }
}

/// A problem that was found here.
pub(super) fn own_problem(code: &str, detail: &dyn std::fmt::Display) -> Problem {
    Problem {
        code: code.to_owned(),
        detail: detail.to_string(),
        status: 0,
        retryable: false,
        pointer: None,
        index_in_batch: None,
        retry_after: None,
        request_id: None,
    }
}

/// A panic of whoever held the lock leaves numbers that are at worst one event off; the service goes on.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn wait<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Option<Duration>,
) -> MutexGuard<'a, T> {
    match time {
        Some(time) => condition.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0,
        None => condition.wait(guard).unwrap_or_else(PoisonError::into_inner),
    }
}

/// The end of a wait. A longer one than [`LONGEST_WAIT`] is that one.
pub(super) fn from_now(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST_WAIT)
}

fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
