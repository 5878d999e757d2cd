//! The HTTP door: axum over a [`Service`].
//!
//! Reading order: `router` (every route, as a table, with what it needs and what it answers), `auth` (who may pass,
//! before a body is read), `extract` (parameters and bodies, bounded), `routes/*` (one file a noun), `error`
//! (RFC 9457), `answer` (request ids and the log line), `limits`, `rate`, `connection` and `server` (accept, time
//! out, drain), `tls` (certificate and key), `openapi` (the description, made from the table).
//!
//! Invariants: every answer has `X-Request-Id`; every refusal is `application/problem+json`; a caller is
//! authenticated and its scope checked before its body is read; blocking work runs off the event loop.

mod answer;
mod auth;
mod connection;
mod error;
mod extract;
mod limits;
mod openapi;
mod rate;
mod router;
mod routes;
mod server;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::service::{Error, ErrorCode, Service};
use rate::Rates;

pub use limits::HttpLimits;
pub use router::router;
pub use server::{Doors, Drained, serve};

/// How long a call waits for a place for blocking calls before it is refused with `busy`.
pub const BLOCKING_WAIT: Duration = Duration::from_secs(5);

/// Body memory is given out in units of this many bytes, as they arrive.
pub const BODY_UNIT_BYTES: usize = 64 * 1024;

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    service: Service,
    limits: Arc<HttpLimits>,
    /// Places for requests; taken by `auth::guard`, held until the answer is made.
    in_flight: Arc<Semaphore>,
    /// Places for blocking calls; taken by `blocking`, held until the call has ended.
    blocking: Arc<Semaphore>,
    /// Units of body memory; taken by `extract::read_body`, held as long as the body.
    bodies: Arc<Semaphore>,
    rates: Arc<Rates>,
}

impl App {
    fn new(service: Service, limits: &HttpLimits) -> App {
        App {
            service,
            in_flight: Arc::new(Semaphore::new(limits.max_in_flight_requests)),
            blocking: Arc::new(Semaphore::new(limits.max_blocking_calls)),
            bodies: Arc::new(Semaphore::new(limits.body_memory_bytes.div_ceil(BODY_UNIT_BYTES))),
            rates: Arc::new(Rates::new(limits.rate_limit_events_per_second)),
            limits: Arc::new(limits.clone()),
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
