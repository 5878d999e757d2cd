//! Why there is no receipt: the contract's problem as it came, or what kept the server from answering.
//!
//! No error holds the key or a value of an event. What a server says of itself is cut at [`MAX_SAID_CHARS`], and the
//! key is taken out of it, should something in between repeat what it was sent.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::address::BadUrl;
use super::receipt::ReceiptFault;

/// Characters kept of each text of a refusal.
const MAX_SAID_CHARS: usize = 1024;

/// Codes that blame what was sent: the same request is refused for ever.
const BLAME_CONTENT: [&str; 4] = ["bad_request", "invalid_event", "too_large", "id_conflict"];

/// A refusal by the server: the contract's `application/problem+json` (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Problem {
    /// The public code, such as `invalid_event`. Branch on this.
    pub code: String,
    /// What happened, for people.
    #[serde(default)]
    pub detail: String,
    /// The HTTP status; of one event of a batch, the one it would have had alone.
    #[serde(default)]
    pub status: u16,
    /// Whether the same request, with the same ids, may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// RFC 6901 pointer to the member at fault.
    #[serde(default)]
    pub pointer: Option<String>,
    /// Which event of a batch, from 0.
    #[serde(default)]
    pub index_in_batch: Option<usize>,
    /// When to come back: the header `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// The header `X-Request-Id`, by which the server's log knows the request.
    #[serde(skip)]
    pub request_id: Option<String>,
}

impl Problem {
    /// Reads a problem, with `key` taken out of what it says. `None` where the bytes are none.
    pub(super) fn read(json: &[u8], key: &str) -> Option<Problem> {
        let mut problem: Problem = serde_json::from_slice(json).ok()?;
        if problem.code.is_empty() {
            return None;
        }
        for text in [&mut problem.code, &mut problem.detail].into_iter().chain(&mut problem.pointer) {
            *text = said(text, key);
        }
        Some(problem)
    }

    /// Whether it blames what was sent, and not who sent it or the state of the server.
    pub fn blames_content(&self) -> bool {
        BLAME_CONTENT.contains(&self.code.as_str())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.detail)?;
        match &self.pointer {
            Some(pointer) => write!(formatter, " (at {pointer})"),
            None => Ok(()),
        }
    }
}

/// Text of a server, bounded and without the key.
pub(super) fn said(text: &str, key: &str) -> String {
    let kept: String = text.chars().take(MAX_SAID_CHARS + key.len()).collect();
    let kept = if key.is_empty() { kept } else { kept.replace(key, "[key]") };
    kept.chars().take(MAX_SAID_CHARS).collect()
}

/// Why an append, or another request, has no answer to show.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server said no.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The server was not reached, or the connection broke off before the answer was whole.
    #[error(
        "{url} cannot be reached: {reason}; whether anything was stored is not known, so send it again with the same id"
    )]
    Unreachable {
        /// The base URL.
        url: String,
        /// What the operating system or the connection said.
        reason: String,
        /// Whether it may pass: a lost connection does, a name that is no name does not.
        may_pass: bool,
    },
    /// An answer that is not Varve's: something else listens there, or stands in between.
    #[error(
        "{url} answered {status} in a way that Varve does not; check the URL, and what stands in between"
    )]
    Foreign {
        /// The base URL.
        url: String,
        /// Its status.
        status: u16,
        /// What it asked for with `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The answer is not what was asked for.
    #[error("{url} answered something that is not Varve's; check the URL, and that versions match")]
    Unreadable {
        /// The base URL.
        url: String,
    },
    /// The server says that the event is stored, and its receipt does not hold.
    #[error(
        "the receipt of event {index_in_batch} does not hold: {fault}; keep it, and ask who runs the server"
    )]
    Receipt {
        /// Which event of those sent, from 0.
        index_in_batch: usize,
        /// What does not hold.
        fault: ReceiptFault,
    },
    /// More than one request may hold. Nothing was sent.
    #[error("{what}; nothing was sent, send it in parts")]
    TooMuch {
        /// What is too much, with its limit.
        what: String,
    },
    /// The URL is none that can be spoken to. Nothing was sent.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// The key is empty, or holds what cannot stand in a header. It is not shown: it may be half of one.
    #[error("the key is no key; make one with `varve key create`")]
    Key,
}

impl Error {
    /// Whether sending the same again, with the same ids, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Refused(problem) => problem.retryable,
            Error::Unreachable { may_pass, .. } => *may_pass,
            // What a proxy says when it has lost the server behind it.
            Error::Foreign { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// The contract's code, where the server gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused(problem) => problem.retry_after,
            Error::Foreign { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether what was sent is to blame, and would be for ever.
    pub(super) fn blames_content(&self) -> bool {
        matches!(self, Error::Refused(problem) if problem.blames_content())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "varve_0123_secret";

    #[test]
    fn a_problem_is_read_as_the_contract_has_it() {
        let json = br#"{"type":"urn:varve:problem:invalid_event","title":"t","status":422,"detail":"`outcome` is missing",
            "code":"invalid_event","retryable":false,"pointer":"/outcome","index_in_batch":7}"#;
        let problem = Problem::read(json, KEY).unwrap();
        assert_eq!((problem.status, problem.index_in_batch), (422, Some(7)));
        assert_eq!(problem.to_string(), "invalid_event: `outcome` is missing (at /outcome)");
        assert!(problem.blames_content() && !Error::Refused(Box::new(problem)).is_retryable());
        for none in [&b"{}"[..], b"[]", b"x", b"{\"code\":\"\"}", b"{\"code\":7}"] {
            assert!(Problem::read(none, KEY).is_none());
        }
    }

    #[test]
    fn what_repeats_the_key_is_not_believed_to_be_discreet() {
        let echo = format!("{{\"code\":\"x\",\"detail\":\"you sent {KEY}, {KEY}\",\"pointer\":\"/{KEY}\"}}");
        let problem = Problem::read(echo.as_bytes(), KEY).unwrap();
        assert!(!format!("{problem:?} {problem}").contains("secret"), "{problem:?}");
        // Cutting comes after: half a key at the end would be half a key.
        let long = format!("{}{KEY}", "x".repeat(MAX_SAID_CHARS - 4));
        assert!(!said(&long, KEY).contains("varve"));
        assert_eq!(said(&"é".repeat(5000), KEY).chars().count(), MAX_SAID_CHARS);
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        let foreign = |status| Error::Foreign { url: String::new(), status, retry_after: None };
        assert!(foreign(502).is_retryable() && foreign(503).is_retryable());
        assert!(!foreign(200).is_retryable() && !foreign(302).is_retryable());
        assert!(!Error::Key.is_retryable() && !Error::Url(BadUrl::NoTls).is_retryable());
    }
}
