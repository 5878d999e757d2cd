//! Around every answer: its `X-Request-Id`, its line in the log, its place in the metrics.
//!
//! The log line has the request id, method, route *template*, status, code and duration. Never a path, a query,
//! a header or a body: these can name a person.

#![expect(
    clippy::disallowed_methods,
    reason = "a request gets an id, and its log line says how long it took"
)]

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use super::error::Refused;
use crate::telemetry::Telemetry;
use crate::telemetry::http::method_word;

/// The header that names a request, in what was asked and in what is answered.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a request id that a client may choose.
const MAX_REQUEST_ID_CHARS: usize = 64;

/// Gives the request an id (the client's own where it is sane, a UUIDv7 otherwise), answers with it, logs, counts.
pub(crate) async fn identify(
    State(telemetry): State<Telemetry>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request.headers().get(&REQUEST_ID).filter(|id| is_sane(id)).cloned().unwrap_or_else(fresh_id);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    // Not the text that was sent: HTTP takes any word for a method.
    let method = method_word(request.method().as_str());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let started = Instant::now();

    let mut response = next.run(request).await;

    let status = response.status().as_u16();
    let code = response.extensions().get::<Refused>().map(|refused| refused.0.as_str());
    let took = started.elapsed();
    telemetry.http().answered(route.as_deref(), method, status, code, took);
    let code = code.unwrap_or("-");
    let route = route.as_deref().unwrap_or("-");
    let request_id = id.to_str().unwrap_or("-");
    let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::warn!(request_id, method, route, status, code, duration_us, "answered");
    } else {
        tracing::debug!(request_id, method, route, status, code, duration_us, "answered");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn fresh_id() -> HeaderValue {
    HeaderValue::try_from(Uuid::now_v7().simple().to_string()).unwrap_or(HeaderValue::from_static("-"))
}

fn is_sane(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_REQUEST_ID_CHARS
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_plain_ids_are_taken_over() {
        for good in ["a", "0196f0-_.Z", &"x".repeat(64)] {
            assert!(is_sane(&HeaderValue::from_str(good).unwrap()), "{good}");
        }
        for bad in ["", "a b", "a\"b", "ä", "{}", &"x".repeat(65)] {
            assert!(!is_sane(&HeaderValue::from_bytes(bad.as_bytes()).unwrap()), "{bad}");
        }
    }

    #[test]
    fn fresh_ids_are_sane_and_differ() {
        let (one, two) = (fresh_id(), fresh_id());
        assert!(is_sane(&one) && one != two);
    }
}
