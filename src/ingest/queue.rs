//! The bounded queue between those who append and the sequencer. What does not fit is refused at once with
//! nothing stored; nobody waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use super::prepare::Prepared;
use super::progress::Progress;
use crate::store::keyfile::LogSigner;
use crate::store::log::Sequenced;
use crate::store::matcher::Matcher;
use crate::store::poison::Poison;
use crate::store::state::{ApiKey, ErasurePhase, LogIdentity};
use crate::telemetry::Moment;

/// Most events parsed, queued, planned or on their way to disk, unless said otherwise: half a second of what two cores sign.
pub const MAX_QUEUED_EVENTS: usize = 32_768;

/// Most bytes of the same: `MAX_QUEUED_EVENTS` of 2 KiB.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// What an event takes in the queue besides its body: entry, signature, tokens, id.
const QUEUED_EVENT_BYTES: usize = 512;

/// What the sequencer takes at once, and answers at once.
pub struct Submission {
    /// Events, in order. They may belong to several logs.
    pub items: Vec<Prepared>,
    /// Changes that go into the same frame, before the events.
    pub controls: Vec<Control>,
    /// All or nothing.
    pub atomic: bool,
    /// `Recent::epoch` before the caller looked into the id table; `None` when all ids are freshly drawn.
    pub epoch: Option<u64>,
}

/// A change besides records. It becomes true with the frame that carries it.
pub enum Control {
    /// A new log. Its genesis event is an item of the same submission.
    CreateLog {
        /// Who it is.
        identity: LogIdentity,
        /// Its first key.
        signer: Arc<LogSigner>,
    },
    /// An API key made or changed. Its `entry_index` becomes the index of the first item when it is `u64::MAX`.
    ApiKey(ApiKey),
    /// The first item of the submission places a hold in this log: what matches behind it is flagged.
    PlaceHold {
        /// The log.
        log: u32,
        /// What it looks for; `None` where it does not extend.
        matcher: Option<Matcher>,
    },
    /// The first item of the submission releases a hold of this log, for what comes behind it.
    ReleaseHold {
        /// The log.
        log: u32,
        /// The hold.
        hold: u64,
    },
    /// The first item of the submission closes this log: behind it only Varve's own entries are taken. Where the log has another size
    /// by then, the whole submission is answered [`Placed::LookAgain`].
    CloseLog {
        /// The log.
        log: u32,
        /// Its size.
        size: u64,
    },
    /// How far an erasure is. Its `index` becomes that of the first item when it is `u64::MAX`.
    Erasure {
        /// The log.
        log: u32,
        /// Index of the entry that asked for it.
        index: u64,
        /// What it comes to.
        phase: ErasurePhase,
    },
    /// From the entry after the last item of this log on, this key signs.
    RotateKey {
        /// The log.
        log: u32,
        /// The new key.
        signer: Arc<LogSigner>,
    },
    /// The layer that is written into ends before its month does: the group that carries this begins with it, and goes
    /// into the next part of the month. The items of the submission are the first of that part. Where the month is over
    /// anyway, or its parts are used up, nothing else happens.
    BeginPart,
    /// The group that carries this goes into a new segment of the journal; once it is applied, HEAD is moved to it and all
    /// segments before go, those too that would be kept for a checkpoint more. `Progress::wiped_below` says when.
    WipeJournal,
}

/// What became of one item.
#[derive(Clone)]
pub enum Placed {
    /// It has an index and is durable.
    New(Arc<Sequenced>),
    /// Look into the id table again and submit again.
    LookAgain,
    /// Another item of an atomic submission was refused; this one was not stored.
    NotTried,
}

/// A submission that was not taken, or whose outcome is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full. Nothing was stored.
    #[error("the queue is full; nothing was stored")]
    Busy,
    /// The store has stopped acknowledging. Nothing of this submission was stored.
    #[error("the store has stopped: {0}; nothing was stored")]
    Stopped(String),
    /// The write failed or the store stopped before it was known to be durable.
    #[error("the store stopped before the write was known to be durable: repeat it with the same id")]
    Unknown,
}

pub(super) struct Queued {
    pub(super) submission: Submission,
    pub(super) place: Place,
    pub(super) reply: oneshot::Sender<Vec<Placed>>,
}

impl Submission {
    /// Whether it goes into the next part of the month.
    pub(super) fn begins_part(&self) -> bool {
        self.controls.iter().any(|control| matches!(control, Control::BeginPart))
    }
}

/// The entrance.
#[derive(Clone)]
pub struct Queue {
    sender: Sender<Queued>,
    load: Arc<Load>,
    closing: Arc<AtomicBool>,
    poison: Poison,
    progress: Arc<Progress>,
}

/// What is taken, and what may be. The room is set once, before the first submission.
struct Load {
    /// Submissions that wait or are on their way to disk.
    submissions: AtomicUsize,
    events: AtomicUsize,
    bytes: AtomicUsize,
    max_events: AtomicUsize,
    max_bytes: AtomicUsize,
    /// When the first submission came into the empty queue. Marked before it is counted, so that who sees the count
    /// sees the mark.
    busy_since: Moment,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            submissions: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_events: AtomicUsize::new(MAX_QUEUED_EVENTS),
            max_bytes: AtomicUsize::new(MAX_QUEUED_BYTES),
            busy_since: Moment::now(),
        }
    }
}

/// Room taken in the queue; given back when the answer is on its way and who asked for it has let go of it.
pub struct Permit {
    load: Arc<Load>,
    events: usize,
    bytes: usize,
}

/// A submission's place in the queue, with its room; given up when the answer is on its way.
pub(super) struct Place(Arc<Permit>);

impl Place {
    fn take(permit: Arc<Permit>) -> Place {
        let load = &permit.load;
        if load.submissions.load(Ordering::Acquire) == 0 {
            load.busy_since.mark();
        }
        load.submissions.fetch_add(1, Ordering::AcqRel);
        Place(permit)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.load.submissions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The promise of an answer.
pub struct Ticket(oneshot::Receiver<Vec<Placed>>);

impl Queue {
    pub(super) fn new(poison: Poison, progress: Arc<Progress>) -> (Queue, Receiver<Queued>) {
        // The channel itself is unbounded; `Load` bounds it by events and by bytes.
        let (sender, receiver) = unbounded();
        (Queue { sender, load: Arc::default(), closing: Arc::default(), poison, progress }, receiver)
    }

    /// Sets how much may be queued. A submission larger than that is always refused.
    pub fn set_room(&self, events: usize, bytes: usize) {
        self.load.max_events.store(events, Ordering::Relaxed);
        self.load.max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes a submission in, or refuses it with nothing stored.
    pub fn admit(&self, submission: Submission) -> Result<Ticket, SubmitError> {
        let bytes = submission.items.iter().map(|item| item.body.len()).sum();
        let permit = self.reserve(submission.items.len(), bytes)?;
        self.admit_reserved(submission, permit)
    }

    /// Takes room for `events` with bodies of `bytes` in all, or refuses them. Who appends takes it before an event
    /// is parsed: parsing and sealing are most of the work, and not to be done for what is then refused.
    pub fn reserve(&self, events: usize, bytes: usize) -> Result<Arc<Permit>, SubmitError> {
        self.is_open()?;
        let bytes = bytes + events * QUEUED_EVENT_BYTES;
        self.load.take(events, bytes).map(Arc::new).ok_or(SubmitError::Busy)
    }

    /// Takes in a submission for which there is room.
    pub fn admit_reserved(&self, submission: Submission, permit: Arc<Permit>) -> Result<Ticket, SubmitError> {
        self.is_open()?;
        let (reply, answer) = oneshot::channel();
        self.sender
            .send(Queued { submission, place: Place::take(permit), reply })
            .map_err(|_| SubmitError::Stopped("it is shutting down".to_owned()))?;
        Ok(Ticket(answer))
    }

    fn is_open(&self) -> Result<(), SubmitError> {
        if let Some(reason) = self.poison.reason() {
            return Err(SubmitError::Stopped(reason.to_owned()));
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped("it is shutting down".to_owned()));
        }
        Ok(())
    }

    /// Whether one event more would be taken now; asked before a body is read for nothing.
    pub fn has_room(&self) -> Result<(), SubmitError> {
        self.is_open()?;
        let (max_events, max_bytes) = self.room();
        let has_room = self.depth() < max_events && self.bytes() < max_bytes;
        if has_room { Ok(()) } else { Err(SubmitError::Busy) }
    }

    /// Refuses everything from now on; what was taken is finished.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// What tells the sequencer that nothing more comes.
    pub(super) fn closing(&self) -> Arc<AtomicBool> {
        self.closing.clone()
    }

    /// Events that are being parsed, wait or are on their way to disk.
    pub fn depth(&self) -> usize {
        self.load.events.load(Ordering::Acquire)
    }

    /// Bytes of the same.
    pub fn bytes(&self) -> usize {
        self.load.bytes.load(Ordering::Acquire)
    }

    /// Most events and bytes that are taken.
    pub fn room(&self) -> (usize, usize) {
        (self.load.max_events.load(Ordering::Relaxed), self.load.max_bytes.load(Ordering::Relaxed))
    }

    /// Whether nothing more is taken because the store is stopping.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// For how long something has waited while nothing became durable; zero while nothing waits.
    pub fn stalled(&self) -> Duration {
        if self.load.submissions.load(Ordering::Acquire) == 0 {
            return Duration::ZERO;
        }
        self.load.busy_since.age().min(self.progress.since_commit())
    }
}

impl Load {
    fn take(self: &Arc<Load>, events: usize, bytes: usize) -> Option<Permit> {
        let permit = Permit { load: self.clone(), events, bytes };
        let events_before = self.events.fetch_add(events, Ordering::AcqRel);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = events_before + events <= self.max_events.load(Ordering::Relaxed)
            && bytes_before + bytes <= self.max_bytes.load(Ordering::Relaxed);
        fits.then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.load.events.fetch_sub(self.events, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Ticket {
    /// Waits for the answer.
    pub async fn answer(self) -> Result<Vec<Placed>, SubmitError> {
        self.0.await.map_err(|_| SubmitError::Unknown)
    }

    /// Waits for the answer on a thread that may block.
    pub fn wait(self) -> Result<Vec<Placed>, SubmitError> {
        self.0.blocking_recv().map_err(|_| SubmitError::Unknown)
    }
}
