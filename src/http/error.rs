//! Refusals on the wire: `application/problem+json` (RFC 9457).
//!
//! Members: `type` `title` `status` `detail` of the RFC, and `code` `retryable` `pointer` `index_in_batch`.
//! `pointer` is an RFC 6901 pointer into the event, `index_in_batch` says which event; both are left out where
//! there is nothing to point at.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{Error, ErrorCode};

/// What a handler answers.
pub(crate) type Answer = Result<Response, Problem>;

/// An [`Error`] on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem(error)
    }
}

impl Problem {
    /// A problem of `code` that says `detail`.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Problem {
        Problem(Error::new(code, detail))
    }
}

/// The code of an answer, left in its extensions for the log line.
#[derive(Clone, Copy)]
pub(crate) struct Refused(pub(crate) ErrorCode);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let body = serde_json::to_vec(&ProblemView::of(&self.0)).unwrap_or_default();
        let mut response = (status(code), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after_seconds(&self.0) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Refused(code));
        response
    }
}

/// The JSON of a problem, also inside `{"results":[…]}`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct ProblemView<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_in_batch: Option<usize>,
}

impl<'a> ProblemView<'a> {
    pub(crate) fn of(error: &'a Error) -> ProblemView<'a> {
        ProblemView {
            r#type: format!("urn:varve:problem:{}", error.code.as_str()),
            title: title(error.code),
            status: error.code.status(),
            detail: &error.detail,
            code: error.code.as_str(),
            retryable: error.code.is_retryable(),
            pointer: error.pointer.as_deref(),
            index_in_batch: error.index_in_batch,
        }
    }
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Whole seconds, at least one; what may pass says when to come back.
fn retry_after_seconds(error: &Error) -> Option<u64> {
    let wanted = error.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    match (wanted, error.code) {
        (Some(seconds), _) => Some(seconds.max(1)),
        (None, ErrorCode::Busy | ErrorCode::RateLimited) => Some(1),
        (None, _) => None,
    }
}

fn title(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "The request cannot be read",
        ErrorCode::InvalidEvent => "The event breaks a rule of the format",
        ErrorCode::TooLarge => "Too large",
        ErrorCode::Unauthenticated => "No valid key",
        ErrorCode::Forbidden => "The key lacks the scope",
        ErrorCode::NotFound => "Not found",
        ErrorCode::IdConflict => "The id is taken by another event",
        ErrorCode::Held => "A legal hold covers it",
        ErrorCode::AlreadyExists => "The name is taken",
        ErrorCode::Gone => "It has left, or takes no more",
        ErrorCode::RateLimited => "Too many requests of this key",
        ErrorCode::Busy => "Busy, nothing was stored",
        ErrorCode::OutcomeUnknown => "Outcome unknown, repeat with the same id",
        ErrorCode::ReadOnly => "The store takes no writes",
        ErrorCode::StorageFull => "The disk is nearly full",
        ErrorCode::QueryTimeout => "The query took too long",
        ErrorCode::Internal => "A defect or damage",
        ErrorCode::MethodNotAllowed => "Method not allowed",
        ErrorCode::UnsupportedMediaType => "Unsupported media type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body_of(response: Response) -> serde_json::Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_the_contract() {
        let error = Error::new(ErrorCode::InvalidEvent, "`outcome` is missing").at("/outcome").in_batch(7);
        let response = Problem(error).into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(response.headers().get("retry-after").is_none());
        let body = body_of(response).await;
        assert_eq!(
            body,
            serde_json::json!({"type": "urn:varve:problem:invalid_event",
                "title": "The event breaks a rule of the format", "status": 422,
                "detail": "`outcome` is missing", "code": "invalid_event", "retryable": false,
                "pointer": "/outcome", "index_in_batch": 7})
        );
    }

    #[tokio::test]
    async fn busy_says_when_to_come_back_and_nothing_points_nowhere() {
        let response = Problem::new(ErrorCode::Busy, "full").into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        let body = body_of(response).await;
        assert_eq!(body["retryable"], true);
        assert!(body.get("pointer").is_none() && body.get("index_in_batch").is_none());

        let mut error = Error::new(ErrorCode::RateLimited, "slow down");
        error.retry_after = Some(std::time::Duration::from_millis(2500));
        assert_eq!(Problem(error).into_response().headers()["retry-after"], "3");
    }

    #[test]
    fn a_missing_key_is_asked_for() {
        let response = Problem::new(ErrorCode::Unauthenticated, "no key").into_response();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
}
