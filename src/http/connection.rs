//! What is known of one connection: how much it moved, whether a request is under way, and what follows from
//! that. A client that sends its head or reads its answer a byte a second looks busy to a plain idle timer; here
//! it is the request that must come to its end in time.

#![expect(clippy::disallowed_methods, reason = "connections have deadlines")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::extract::MAX_APPEND_BYTES;
use super::limits::HttpLimits;

/// How often a connection is looked at. Deadlines are kept to within two of these.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A client that reads an answer must take [`MIN_PROGRESS_BYTES`] in this time.
const STALL_TIME: Duration = Duration::from_secs(15);

/// What the slowest client that is served reads in [`STALL_TIME`]: about 1 KiB a second.
const MIN_PROGRESS_BYTES: u64 = 16 * 1024;

/// What a connection of HTTP/2 begins with (RFC 9113 §3.4), as far as no request of HTTP/1 does.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How long what still comes is read after the last answer. With the time of a body this stays within 15 s.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Bytes of that: the largest body that is taken.
const MAX_LINGER_BYTES: usize = MAX_APPEND_BYTES;

/// Memory of the same, for each connection that is left so.
const LINGER_BUFFER_BYTES: usize = 16 * 1024;

/// How long a connection may be idle once connections are scarce.
const IDLE_UNDER_PRESSURE: Duration = Duration::from_secs(1);

/// The counters of a connection. The stream and the requests write, its task reads.
pub(super) struct Activity {
    since: Instant,
    /// Requests whose answer is not read to its end.
    active: AtomicUsize,
    /// Answers whose head is made and whose body is being read.
    answering: AtomicUsize,
    /// Milliseconds from `since`, plus one: when the first byte of a request came; 0 while none has.
    head_began: AtomicU64,
    /// Milliseconds from `since`: when the last request ended.
    idle_from: AtomicU64,
    written_bytes: AtomicU64,
    /// Bytes of [`HTTP2_PREFACE`] that were the first to come.
    preface_seen: AtomicUsize,
    has_served: AtomicBool,
    /// The last answer was given over a body that is not read.
    leaves_body: AtomicBool,
}

/// What a look at a connection says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It has nothing under way and its time is up.
    Idle,
    /// Its head does not come to an end, or its answer is not read.
    TooSlow,
}

/// What a look remembers for the next.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes written, and when, at the last time that enough of them were.
    mark: Option<(u64, u64)>,
}

impl Activity {
    pub(super) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            since: Instant::now(),
            active: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            head_began: AtomicU64::new(0),
            idle_from: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            preface_seen: AtomicUsize::new(0),
            has_served: AtomicBool::new(false),
            leaves_body: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        millis(self.since.elapsed())
    }

    /// A request was read to the end of its head.
    pub(super) fn begin(self: &Arc<Activity>) -> UnderWay {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.has_served.store(true, Ordering::Release);
        self.head_began.store(0, Ordering::Release);
        UnderWay { activity: self.clone(), answering: false }
    }

    /// Whether the connection ended over a body that was not read.
    pub(super) fn leaves_body(&self) -> bool {
        self.leaves_body.load(Ordering::Acquire)
    }

    /// What is to be done with the connection; `scarce` when few are left.
    pub(super) fn look(&self, limits: &HttpLimits, scarce: bool, progress: &mut Progress) -> Verdict {
        let now = self.now_ms();
        if self.active.load(Ordering::Acquire) > 0 {
            return self.look_at_answer(now, progress);
        }
        progress.mark = None;
        let began = self.head_began.load(Ordering::Acquire);
        if began > 0 {
            let is_late = now > began - 1 + millis(limits.header_time);
            return if is_late { Verdict::TooSlow } else { Verdict::Keep };
        }
        let idle_time = if scarce { IDLE_UNDER_PRESSURE.min(limits.idle_time) } else { limits.idle_time };
        let is_idle = now > self.idle_from.load(Ordering::Acquire) + millis(idle_time);
        if is_idle { Verdict::Idle } else { Verdict::Keep }
    }

    /// Bytes came.
    fn read(&self, bytes: &[u8]) {
        let seen = self.preface_seen.load(Ordering::Acquire);
        let is_http2 = seen == HTTP2_PREFACE.len();
        if !is_http2 && !self.has_served.load(Ordering::Acquire) {
            let rest = &HTTP2_PREFACE[seen..];
            let count = rest.len().min(bytes.len());
            if rest[..count] == bytes[..count] {
                self.preface_seen.store(seen + count, Ordering::Release);
            }
        }
        // What comes while a request is under way is its body, or the head of the next one: that one's time begins
        // once this request has ended, with the next byte. On HTTP/2 frames come between requests that begin none
        // (answers to pings, window updates): once it has served, its idleness alone counts.
        let begins = self.active.load(Ordering::Acquire) == 0
            && !(is_http2 && self.has_served.load(Ordering::Acquire));
        if begins {
            let now = self.now_ms() + 1;
            let _ = self.head_began.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// While a handler works the client owes nothing. Once an answer stands ready it must be read.
    fn look_at_answer(&self, now: u64, progress: &mut Progress) -> Verdict {
        if self.answering.load(Ordering::Acquire) == 0 {
            progress.mark = None;
            return Verdict::Keep;
        }
        let written = self.written_bytes.load(Ordering::Acquire);
        let (bytes, at) = *progress.mark.get_or_insert((written, now));
        if written - bytes >= MIN_PROGRESS_BYTES {
            progress.mark = Some((written, now));
            return Verdict::Keep;
        }
        if now > at + millis(STALL_TIME) { Verdict::TooSlow } else { Verdict::Keep }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request that is under way, until its answer was read or given up.
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    answering: bool,
}

impl UnderWay {
    /// The answer, which keeps the request under way until its body has ended.
    pub(super) fn answer(mut self, body: Body) -> Body {
        self.activity.answering.fetch_add(1, Ordering::AcqRel);
        self.answering = true;
        Body::new(Answering { body, _under_way: self })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.answering {
            self.activity.answering.fetch_sub(1, Ordering::AcqRel);
        }
        self.activity.idle_from.store(self.activity.now_ms(), Ordering::Release);
        self.activity.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// In the extensions of a request of HTTP/1: its connection can be left over a body that is not read. On HTTP/2 it is
/// the stream that ends, and the peer is told to stop.
#[derive(Clone)]
pub(super) struct Leaving(pub(super) Arc<Activity>);

impl Leaving {
    /// Ends the connection after `answer`, and has the rest of the body read and thrown away for a while.
    pub(super) fn after(&self, answer: &mut Response) {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        self.0.leaves_body.store(true, Ordering::Release);
    }
}

/// Where a stream goes when its conversation has ended.
pub(super) type Left<S> = Arc<Mutex<Option<S>>>;

/// Reads what still comes on a connection that was answered for the last time, and throws it away: closed over
/// unread bytes it would be reset, and a client that is still sending could lose the answer (RFC 9112 §9.6).
pub(super) async fn linger<S: AsyncRead + Unpin>(mut stream: S) {
    let discard = async {
        let mut buffer = vec![0; LINGER_BUFFER_BYTES];
        let mut seen = 0;
        while seen < MAX_LINGER_BYTES {
            match stream.read(&mut buffer).await {
                Ok(count @ 1..) => seen += count,
                Ok(0) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TIME, discard).await;
}

/// A body that says when it has ended.
struct Answering {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that counts what it moves, and that can be had back from a conversation that left a body unread.
pub(super) struct Counted<S> {
    stream: Option<S>,
    activity: Arc<Activity>,
    left: Left<S>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> (Counted<S>, Left<S>) {
        let left = Left::default();
        (Counted { stream: Some(stream), activity, left: left.clone() }, left)
    }
}

impl<S: Unpin> Counted<S> {
    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.as_mut().expect("it is given away only when this is dropped"))
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        if self.activity.leaves_body() {
            *self.left.lock() = self.stream.take();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream().poll_read(context, buffer);
        if let Some(bytes) = buffer.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.activity.read(bytes);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Counted<S> {
    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.activity.written_bytes.fetch_add(*bytes as u64, Ordering::AcqRel);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write(context, bytes);
        self.count(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write_vectored(context, slices);
        self.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HttpLimits {
        HttpLimits {
            header_time: Duration::from_millis(20),
            idle_time: Duration::from_millis(2000),
            ..HttpLimits::default()
        }
    }

    /// A connection that began `ago` milliseconds ago.
    fn begun(ago: u64) -> Arc<Activity> {
        let mut activity = Activity::new();
        let inner = Arc::get_mut(&mut activity).unwrap();
        inner.since = Instant::now().checked_sub(Duration::from_millis(ago)).unwrap();
        activity
    }

    #[test]
    fn an_idle_connection_has_its_time_and_little_of_it_under_pressure() {
        let look = |activity: &Activity, scarce| activity.look(&limits(), scarce, &mut Progress::default());
        let activity = begun(1500);
        assert_eq!(look(&activity, false), Verdict::Keep);
        assert_eq!(look(&activity, true), Verdict::Idle);
        assert_eq!(look(&begun(2500), false), Verdict::Idle);
        // A request under way is no idleness, and its end starts the time anew.
        let activity = begun(2500);
        let under_way = activity.begin();
        assert_eq!(look(&activity, true), Verdict::Keep);
        drop(under_way);
        assert_eq!(look(&activity, false), Verdict::Keep);
    }

    #[test]
    fn a_head_must_come_to_its_end() {
        let activity = begun(100);
        activity.head_began.store(1, Ordering::Release);
        assert_eq!(activity.look(&limits(), false, &mut Progress::default()), Verdict::TooSlow);
        drop(activity.begin());
        assert_eq!(activity.look(&limits(), false, &mut Progress::default()), Verdict::Keep);
    }

    #[test]
    fn frames_between_requests_of_http2_begin_no_head() {
        let activity = begun(100);
        let began = |activity: &Activity| activity.head_began.load(Ordering::Acquire) > 0;
        activity.read(b"PRI * HT");
        activity.read(b"TP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(began(&activity), "the first request has the time of a head");
        drop(activity.begin());
        activity.read(b"a ping was heard");
        assert!(!began(&activity));
        // On HTTP/1 whatever comes between requests begins the next.
        let activity = begun(100);
        activity.read(b"POST /");
        drop(activity.begin());
        activity.read(b"G");
        assert!(began(&activity));
    }

    #[test]
    fn an_answer_must_be_read() {
        let activity = begun(60_000);
        let under_way = activity.begin();
        let mut progress = Progress { mark: Some((0, 0)) };
        assert_eq!(activity.look(&limits(), false, &mut progress), Verdict::Keep, "the handler works");
        let body = under_way.answer(Body::from("x"));
        let mut progress = Progress { mark: Some((0, 1)) };
        assert_eq!(activity.look(&limits(), false, &mut progress), Verdict::TooSlow);
        activity.written_bytes.store(MIN_PROGRESS_BYTES, Ordering::Release);
        assert_eq!(activity.look(&limits(), false, &mut progress), Verdict::Keep);
        drop(body);
        assert_eq!(activity.active.load(Ordering::Acquire), 0);
    }
}
