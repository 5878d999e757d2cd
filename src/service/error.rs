//! What went wrong, as callers see it: one error type, public codes with total functions.

use std::time::Duration;

/// The public code of a refusal (contract: Codes). Stable; clients branch on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorCode {
    /// JSON, filter or cursor cannot be read.
    BadRequest,
    /// The event breaks a rule of FORMAT §1.
    InvalidEvent,
    /// Body, event or batch over its limit.
    TooLarge,
    /// No key, or one that is unknown, expired or revoked.
    Unauthenticated,
    /// The key lacks the scope.
    Forbidden,
    /// No such thing, or one of another tenant.
    NotFound,
    /// The `id` is taken by an event with other content.
    IdConflict,
    /// A legal hold covers it.
    Held,
    /// The name is taken.
    AlreadyExists,
    /// It has left by policy or erasure, or the log is closed and takes no more.
    Gone,
    /// Too many requests of this key.
    RateLimited,
    /// The queue is full; nothing was stored.
    Busy,
    /// The write may or may not be durable; repeat it with the same id.
    OutcomeUnknown,
    /// The store accepts no writes, because of a finding.
    ReadOnly,
    /// The disk is below its low-water mark.
    StorageFull,
    /// The query ran into its time limit.
    QueryTimeout,
    /// A defect of Varve or damage of the store.
    Internal,
    /// 405.
    MethodNotAllowed,
    /// 415.
    UnsupportedMediaType,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [ErrorCode; 19] = [
        ErrorCode::BadRequest,
        ErrorCode::InvalidEvent,
        ErrorCode::TooLarge,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::IdConflict,
        ErrorCode::Held,
        ErrorCode::AlreadyExists,
        ErrorCode::Gone,
        ErrorCode::RateLimited,
        ErrorCode::Busy,
        ErrorCode::OutcomeUnknown,
        ErrorCode::ReadOnly,
        ErrorCode::StorageFull,
        ErrorCode::QueryTimeout,
        ErrorCode::Internal,
        ErrorCode::MethodNotAllowed,
        ErrorCode::UnsupportedMediaType,
    ];

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Unauthenticated => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::MethodNotAllowed => 405,
            ErrorCode::IdConflict | ErrorCode::Held | ErrorCode::AlreadyExists => 409,
            ErrorCode::Gone => 410,
            ErrorCode::TooLarge => 413,
            ErrorCode::UnsupportedMediaType => 415,
            ErrorCode::InvalidEvent => 422,
            ErrorCode::RateLimited => 429,
            ErrorCode::Internal => 500,
            ErrorCode::Busy | ErrorCode::OutcomeUnknown | ErrorCode::ReadOnly => 503,
            ErrorCode::QueryTimeout => 504,
            ErrorCode::StorageFull => 507,
        }
    }

    /// The code's text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::InvalidEvent => "invalid_event",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::Unauthenticated => "unauthenticated",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::IdConflict => "id_conflict",
            ErrorCode::Held => "held",
            ErrorCode::AlreadyExists => "already_exists",
            ErrorCode::Gone => "gone",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Busy => "busy",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
            ErrorCode::ReadOnly => "read_only",
            ErrorCode::StorageFull => "storage_full",
            ErrorCode::QueryTimeout => "query_timeout",
            ErrorCode::Internal => "internal",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::UnsupportedMediaType => "unsupported_media_type",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorCode::RateLimited
                | ErrorCode::Busy
                | ErrorCode::OutcomeUnknown
                | ErrorCode::StorageFull
                | ErrorCode::QueryTimeout
        )
    }

    /// When it makes sense to come back, for refusals that pass: 1 s for a queue or a limit, which empty within that;
    /// 5 s for a restart that replays a tail, which settles an unknown outcome; 30 s for a hand that frees space, or
    /// that looks after a store which has stopped.
    pub fn retry_after(self) -> Option<Duration> {
        let seconds = match self {
            ErrorCode::Busy | ErrorCode::RateLimited => 1,
            ErrorCode::OutcomeUnknown => 5,
            ErrorCode::StorageFull | ErrorCode::ReadOnly => 30,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// Whether it is certain that the refused request stored nothing.
    pub fn nothing_was_stored(self) -> bool {
        !matches!(self, ErrorCode::OutcomeUnknown | ErrorCode::Internal)
    }
}

/// A refusal. `detail` says what happened, what is still true, what to do next; it never holds a value of
/// an event, a key or a person.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// The public code.
    pub code: ErrorCode,
    /// The sentence for a human.
    pub detail: String,
    /// RFC 6901 pointer to the member at fault.
    pub pointer: Option<String>,
    /// Which event of a batch, 0-based.
    pub index_in_batch: Option<usize>,
    /// When to come back; [`ErrorCode::retry_after`] where nothing better is known.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of `code` that says `detail`.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Error {
        let retry_after = code.retry_after();
        Error { code, detail: detail.into(), pointer: None, index_in_batch: None, retry_after }
    }

    /// The same, pointing at a member.
    pub fn at(mut self, pointer: impl Into<String>) -> Error {
        self.pointer = Some(pointer.into());
        self
    }

    /// The same, for one event of a batch.
    pub fn in_batch(mut self, index: usize) -> Error {
        self.index_in_batch = Some(index);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_and_has_a_name_of_its_own() {
        let names: std::collections::HashSet<&str> =
            ErrorCode::ALL.into_iter().map(ErrorCode::as_str).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for (position, code) in ErrorCode::ALL.into_iter().enumerate() {
            // Without gaps in the order of the enum: none is missing between the first and the last.
            assert_eq!(code as usize, position, "{code:?}");
        }
        assert_eq!(ErrorCode::UnsupportedMediaType as usize + 1, ErrorCode::ALL.len(), "it is the last one");
    }

    #[test]
    fn overload_and_a_store_that_takes_nothing_say_when_to_come_back() {
        for code in ErrorCode::ALL {
            let is_overload = matches!(code.status(), 429 | 503 | 507);
            assert_eq!(code.retry_after().is_some(), is_overload, "{code:?}");
            assert_eq!(Error::new(code, "x").retry_after, code.retry_after());
        }
    }
}
