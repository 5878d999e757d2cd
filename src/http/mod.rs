//! The HTTP door: axum over a [`Service`].
//!
//! Reading order: `router` (every route, as a table, with the scope it needs), `auth` (who may pass, before a
//! body is read), `extract` (parameters and bodies, bounded), `routes/*` (one file a noun), `error` (RFC 9457),
//! `answer` (request ids and the log line), `server` (listen, drain, stop).
//!
//! Invariants: every answer has `X-Request-Id`; every refusal is `application/problem+json`; a caller is
//! authenticated and its scope checked before its body is read; blocking work runs off the event loop.

mod answer;
mod auth;
mod error;
mod extract;
mod router;
mod routes;
mod server;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::service::{Error, ErrorCode, Service};

pub use router::router;
pub use server::{DRAIN_TIME, Drained, serve};

/// Blocking calls (query, record, proof, keys, tenants) that run at once. More wait their turn.
pub const MAX_BLOCKING: usize = 32;

/// How long a call waits for one of the [`MAX_BLOCKING`] places before it is refused with `busy`.
pub const BLOCKING_WAIT: Duration = Duration::from_secs(5);

/// Request bodies held in memory at once: 4,096 units of 64 KiB, 256 MiB, or 64 of the largest.
pub const BODY_UNITS: usize = 4096;

/// Bytes of one unit of [`BODY_UNITS`]; a body takes one for each 64 KiB that has arrived.
pub const BODY_UNIT_BYTES: usize = 64 * 1024;

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    service: Service,
    /// Places for blocking calls; taken by `blocking`, held until the call has ended.
    blocking: Arc<Semaphore>,
    /// Units of body memory; taken by `extract::read_body`, held as long as the body.
    bodies: Arc<Semaphore>,
}

impl App {
    fn new(service: Service) -> App {
        App {
            service,
            blocking: Arc::new(Semaphore::new(MAX_BLOCKING)),
            bodies: Arc::new(Semaphore::new(BODY_UNITS)),
        }
    }

    /// Runs `work` on a thread where it may block. The place is held until the work has ended, also when the
    /// client has gone: what is bounded is the work, not the waiting.
    pub(crate) async fn blocking<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T, Error> + Send + 'static,
    {
        let acquire = Arc::clone(&self.blocking).acquire_owned();
        let place = match tokio::time::timeout(BLOCKING_WAIT, acquire).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(busy("too many requests are being worked on")),
        };
        let service = self.service.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&service)
        });
        match done.await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(Error::new(ErrorCode::Internal, "the request ended in a defect; see the server's log"))
            }
        }
    }
}

/// `busy` with a time to come back. Only for refusals before anything was tried.
pub(crate) fn busy(what: &str) -> Error {
    let mut error = Error::new(ErrorCode::Busy, format!("{what}; nothing was stored, repeat the request"));
    error.retry_after = Some(Duration::from_secs(1));
    error
}
