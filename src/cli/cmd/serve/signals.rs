//! What a running server is told from outside. SIGINT and SIGTERM: stop, and the second time at once. SIGHUP: read
//! certificate and key again. And from inside: the store has stopped.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::super::super::output::Failure;
use crate::http::tls::{Certificate, Loaded};
use crate::ingest::clock::{Clock, SystemClock};
use crate::process::notify;
use crate::service::Service;

/// How often a running server looks whether its store has stopped.
const POISON_POLL: Duration = Duration::from_millis(200);

/// Two events of a server's life.
pub(super) struct Told {
    /// Resolves when the server is to stop: no new requests, those under way may end.
    pub(super) stop: oneshot::Receiver<()>,
    /// Resolves when those under way are to be cut off.
    pub(super) cut: oneshot::Receiver<()>,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Listens to signals from now on. To be called inside the runtime.
///
/// # Errors
/// Signals cannot be received.
pub(super) fn listen(service: Service, certificate: Option<Arc<Certificate>>) -> Result<Told, Failure> {
    let open = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(format!("signals cannot be received: {error}"), "this is a defect: please report it")
        })
    };
    let signals = Signals {
        interrupt: open(SignalKind::interrupt())?,
        terminate: open(SignalKind::terminate())?,
        hangup: open(SignalKind::hangup())?,
    };
    let (stop_to, stop) = oneshot::channel();
    let (cut_to, cut) = oneshot::channel();
    tokio::spawn(watch(signals, service, certificate, stop_to, cut_to));
    Ok(Told { stop, cut })
}

async fn watch(
    mut signals: Signals,
    service: Service,
    certificate: Option<Arc<Certificate>>,
    stop: oneshot::Sender<()>,
    cut: oneshot::Sender<()>,
) {
    let mut poisoned = pin!(poisoned(&service));
    let mut stop = Some(stop);
    loop {
        let why = tokio::select! {
            _ = signals.interrupt.recv() => "interrupted",
            _ = signals.terminate.recv() => "terminated",
            () = &mut poisoned, if stop.is_some() => "the store has stopped taking writes",
            _ = signals.hangup.recv() => {
                reload(certificate.clone()).await;
                continue;
            }
        };
        // The receivers are gone only where the server has ended by itself.
        let Some(stop) = stop.take() else {
            tracing::warn!("{why} again, cutting off what is under way");
            let _ = cut.send(());
            return;
        };
        tracing::info!("{why}, stopping");
        tell(notify::STOPPING);
        let _ = stop.send(());
    }
}

async fn poisoned(service: &Service) {
    let mut tick = tokio::time::interval(POISON_POLL);
    while service.poisoned().is_none() {
        tick.tick().await;
    }
}

/// Reads certificate and key again; a bad pair is said, and the old one served on.
async fn reload(certificate: Option<Arc<Certificate>>) {
    let Some(certificate) = certificate else {
        tracing::info!("told to read the certificate again; there is none: this server speaks no TLS");
        return;
    };
    match tokio::task::spawn_blocking(move || certificate.reload(now_seconds())).await {
        Ok(Ok(loaded)) => say_loaded(&loaded),
        Ok(Err(error)) => tracing::error!(hint = error.hint, "{error}; the old certificate is served on"),
        Err(_) => tracing::error!("reading the certificate ended in a defect; the old one is served on"),
    }
}

/// Says which certificate is served from now on.
pub(super) fn say_loaded(loaded: &Loaded) {
    tracing::info!(valid_until = loaded.valid_until, "certificate loaded");
    if let Some(warning) = &loaded.warning {
        tracing::warn!(valid_until = loaded.valid_until, "the certificate: {warning}");
    }
}

/// Seconds since 1970 by the wall clock.
pub(super) fn now_seconds() -> i64 {
    i64::try_from(SystemClock.wall_micros() / 1_000_000).unwrap_or(i64::MAX)
}

/// Tells the init system. That it does not listen is no reason to stop.
pub(super) fn tell(state: &str) {
    if let Err(error) = notify::tell(state) {
        tracing::warn!(state, "the init system was not told: {error}");
    }
}
