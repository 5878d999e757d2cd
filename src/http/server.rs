//! Listening, and stopping in order: no new connections, what runs may end, bounded.
//!
//! There are two doors at most: one for clients, plain or TLS, and a plain one for health and metrics. The latter has a
//! few places of its own and is open for as long as the former.
//!
//! The accept loop is our own, because a door to the network needs bounds that a plain one has not: how many
//! connections there are, how long a head may take, how long one may sit idle or not read its answer.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::connection::{Activity, Counted, LOOK_EVERY, Leaving, Progress, Verdict, linger};
use super::limits::HttpLimits;
use super::router::{router, routers_apart};
use crate::service::Service;
use crate::telemetry::Telemetry;

/// Bytes of a request's head, and what a connection buffers: 4,096 connections hold 128 MiB at the very most. Every
/// route's head fits into a fraction of this; a body of 4 MiB takes 128 reads.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Header fields of a request.
const MAX_HEADERS: usize = 64;

/// Requests that one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 128;

/// Streams that a peer may reset before they were served; more ends the connection (CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 32;

/// Bytes of answers waiting on one HTTP/2 stream.
const MAX_SEND_BUFFER_BYTES: usize = 256 * 1024;

/// How often an HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// After an error of `accept` that is the system's (no descriptors left), how long nobody is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of the door for health and metrics: an orchestrator, a few monitors, and who looks by hand.
const MAX_TELEMETRY_CONNECTIONS: usize = 64;

/// Where the server listens.
pub struct Doors {
    /// For clients.
    pub main: TcpListener,
    /// For health and metrics; without it they are answered at `main`.
    pub telemetry: Option<TcpListener>,
    /// What `main` speaks TLS with; without it it speaks in clear.
    pub tls: Option<Arc<ServerConfig>>,
}

/// One door, in clear.
impl From<TcpListener> for Doors {
    fn from(main: TcpListener) -> Doors {
        Doors { main, telemetry: None, tls: None }
    }
}

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Every request under way was answered.
    Fully,
    /// The drain time ran out; some connections were cut.
    Cut,
}

/// Serves `service` at `doors` until `stop` resolves, then drains. The store is not stopped: that is the
/// caller's next step.
///
/// # Errors
/// When a task of the server ends in a panic.
pub async fn serve(
    doors: impl Into<Doors>,
    service: Service,
    limits: HttpLimits,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Drained> {
    let Doors { main, telemetry, tls } = doors.into();
    let store = service.clone();
    let counts = store.telemetry();
    let (door, side) = match &telemetry {
        None => (Door::new(router(service, &limits), limits.clone(), counts, tls), None),
        Some(_) => {
            let (clients, monitors) = routers_apart(&service, &limits);
            let few = HttpLimits { max_connections: MAX_TELEMETRY_CONNECTIONS, ..limits.clone() };
            let side = Door::new(monitors, few, counts, None);
            (Door::new(clients, limits.clone(), counts, tls), Some(side))
        }
    };
    let (stopping, stopped) = watch::channel(false);
    let (mut connections, mut looks) = (JoinSet::new(), JoinSet::new());
    let beside = async {
        match (&side, &telemetry) {
            (Some(side), Some(listener)) => accept(side, listener, &stopped, &mut looks).await,
            _ => pending().await,
        }
    };
    tokio::select! {
        () = accept(&door, &main, &stopped, &mut connections) => {}
        () = beside => {}
        () = stop => {}
    }
    store.begin_stop();
    drop((main, telemetry));
    // Every connection has a receiver; with none there is nobody to tell.
    let _ = stopping.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left of either set ends when it is dropped.
    if tokio::time::timeout(limits.drain_time, drained).await.is_ok() {
        return Ok(Drained::Fully);
    }
    Ok(Drained::Cut)
}

/// What all connections of a door share.
struct Door {
    router: Router,
    limits: HttpLimits,
    telemetry: Telemetry,
    /// Absent where the door speaks in clear.
    tls: Option<TlsAcceptor>,
    /// Places for connections; taken before one is accepted, held until it ends.
    places: Arc<Semaphore>,
}

impl Door {
    fn new(
        router: Router,
        limits: HttpLimits,
        telemetry: &Telemetry,
        tls: Option<Arc<ServerConfig>>,
    ) -> Arc<Door> {
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let (telemetry, tls) = (telemetry.clone(), tls.map(TlsAcceptor::from));
        Arc::new(Door { router, limits, telemetry, tls, places })
    }

    /// Whether over three quarters of the places are taken.
    fn is_scarce(&self) -> bool {
        self.places.available_permits() < self.limits.max_connections / 4
    }
}

/// Accepts for ever. Without a place nobody is accepted: who comes then waits in the system's queue, until an idle
/// connection was closed.
async fn accept(
    door: &Arc<Door>,
    listener: &TcpListener,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    loop {
        // The semaphore is never closed.
        let Ok(place) = door.places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (door, stopped) = (door.clone(), stopped.clone());
                let counted = door.telemetry.http().connection();
                connections.spawn(async move {
                    let _place = (place, counted);
                    welcome(&door, stream, stopped).await;
                });
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of `accept` concerns that one connection alone.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn welcome(door: &Arc<Door>, stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    // Answers are small and written at once; waiting to fill a packet only adds 40 ms.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &door.tls else { return converse(door, stream, stopped).await };
    // A handshake has the time of a head. One that fails is the peer's business, as a broken request is; before it is
    // done nothing was asked, so a stop does not wait for it.
    let stream = tokio::select! {
        shaken = tokio::time::timeout(door.limits.header_time, tls.accept(stream)) => shaken,
        _ = stopped.wait_for(|stopped| *stopped) => return,
    };
    if let Ok(Ok(stream)) = stream {
        converse(door, stream, stopped).await;
    }
}

/// Serves one connection until it ends, its time is up or the server stops.
async fn converse<S>(door: &Arc<Door>, stream: S, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let (stream, left) = Counted::new(stream, activity.clone());
    talk(door, stream, &activity, &mut stopped).await;
    let left = left.lock().take();
    if let Some(stream) = left {
        linger(stream).await;
    }
}

/// As [`converse`], to the last answer.
async fn talk<S>(
    door: &Arc<Door>,
    stream: Counted<S>,
    activity: &Arc<Activity>,
    stopped: &mut watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let router = TowerToHyperService::new(door.router.clone());
    let of_requests = activity.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let under_way = of_requests.begin();
        if request.version() <= Version::HTTP_11 {
            request.extensions_mut().insert(Leaving(of_requests.clone()));
        }
        let answered = router.call(request);
        async move {
            let answer = answered.await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| under_way.answer(body)))
        }
    });
    let builder = builder();
    let mut conversation = pin!(builder.serve_connection(io, service));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    let mut told = pin!(async { drop(stopped.wait_for(|stopped| *stopped).await) });
    let mut is_closing = false;
    loop {
        tokio::select! {
            // What has come is read before it is judged whether anything came.
            biased;
            // What ends a connection is the peer's business: a reset, a broken request. It is answered where HTTP
            // has an answer, and is no news for the log.
            _ = conversation.as_mut() => return,
            () = told.as_mut(), if !is_closing => {
                is_closing = true;
                conversation.as_mut().graceful_shutdown();
            }
            _ = looks.tick() => {
                let mut verdict = activity.look(&door.limits, door.is_scarce(), &mut progress);
                if verdict == Verdict::Idle {
                    // On a busy machine a request may lie in the socket unread. Yielding lets the runtime ask the
                    // system once more, and what is there is read: whoever sent it is not cut off.
                    tokio::select! {
                        biased;
                        _ = conversation.as_mut() => return,
                        () = tokio::task::yield_now() => {}
                    }
                    verdict = activity.look(&door.limits, door.is_scarce(), &mut progress);
                }
                match verdict {
                    Verdict::Keep => {}
                    Verdict::Idle if !is_closing => {
                        is_closing = true;
                        conversation.as_mut().graceful_shutdown();
                    }
                    Verdict::Idle | Verdict::TooSlow => return,
                }
            }
        }
    }
}

/// HTTP/1.1 and HTTP/2, bounded.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Its timer runs while a connection is idle as well; `connection` tells the two apart.
        .header_read_timeout(None)
        .half_close(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    builder
}
