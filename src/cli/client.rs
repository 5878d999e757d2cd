//! A server at the other end: one request, its retries, its refusal as a [`Failure`].
//!
//! Limits: an answer of at most [`MAX_ANSWER_BYTES`]; [`ATTEMPTS`] tries; 60 s a try. Waiting and the choice of ids
//! for retries happen here and in `send`, nowhere else under `cli`.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Request, header};
use ureq::{Agent, Body};

use super::args::ServerArgs;
use super::output::{Failure, Output, hint};

/// Bytes of one answer: 1,000 records of 64 KiB, twice over for `verifiable`, and room.
pub(super) const MAX_ANSWER_BYTES: u64 = 192 * 1024 * 1024;

/// Tries of a request that may be repeated, the first included.
pub(super) const ATTEMPTS: u32 = 6;

/// The pause after the first try; it doubles: 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s = 6.2 s over six tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause that a server's `Retry-After` is granted.
const MAX_PAUSE: Duration = Duration::from_secs(10);

const CONNECT_TIME: Duration = Duration::from_secs(5);
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Bytes of a file with a key.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// Whether a request may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It reads, or what it writes has an id.
    Safe,
    /// A second one would make a second thing.
    Never,
}

/// What to ask.
pub(super) struct Ask<'a> {
    pub(super) method: &'static str,
    /// From `/v1`, names encoded by [`segment`], with the query string.
    pub(super) path: String,
    /// JSON.
    pub(super) body: Option<&'a [u8]>,
    pub(super) repeat: Repeat,
}

impl Ask<'_> {
    pub(super) fn get(path: String) -> Ask<'static> {
        Ask { method: "GET", path, body: None, repeat: Repeat::Safe }
    }
}

/// A refusal by the server, as it came.
#[derive(Deserialize, Clone, Debug)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) retryable: bool,
    #[serde(default)]
    pub(super) pointer: Option<String>,
    #[serde(default)]
    pub(super) index_in_batch: Option<usize>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.detail)?;
        match &self.pointer {
            Some(pointer) => write!(formatter, " (at {pointer})"),
            None => Ok(()),
        }
    }
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The server said no.
    Refused(Refusal),
    /// The server was not reached, or broke off.
    Failed(Failure),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Failed(failure) => failure,
            Trouble::Refused(refusal) => {
                let hint = hint(&refusal.code);
                Failure::new(refusal.to_string(), hint)
            }
        }
    }
}

/// A client of one server with one key.
pub(super) struct Client {
    agent: Agent,
    url: String,
    key: String,
    /// Whether the server has answered before: then a lost connection is worth waiting for.
    was_reached: Cell<bool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with the key of `--key-file` or `VARVE_KEY`.
    ///
    /// # Errors
    /// When there is no key, or the URL is none that can be spoken to.
    pub(super) fn new(server: &ServerArgs, output: &Output) -> Result<Client, Failure> {
        let key = key(server.key_file.as_deref())?;
        let url = server.url.trim_end_matches('/').to_owned();
        let host = host(&url)?;
        let is_here = is_loopback(host);
        if !is_here {
            output.warn(&format!("the key travels to {host} without TLS"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_global(Some(REQUEST_TIME))
            .user_agent(concat!("varve/", env!("CARGO_PKG_VERSION")));
        if is_here {
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().new_agent(), url, key, was_reached: Cell::new(false) })
    }

    /// Asks, and repeats where that is safe and may help. The answer is the body of a 2xx.
    ///
    /// # Errors
    /// The last refusal, or why the server was not reached.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Vec<u8>, Trouble> {
        let mut attempt = 1;
        loop {
            let trouble = match self.once(ask) {
                Ok(body) => return Ok(body),
                Err(trouble) => trouble,
            };
            let wait = match &trouble {
                Trouble::Refused(refusal) if refusal.retryable => pause(attempt, refusal.retry_after),
                Trouble::Failed(_) if self.was_reached.get() => pause(attempt, None),
                _ => return Err(trouble),
            };
            if ask.repeat == Repeat::Never || attempt >= ATTEMPTS {
                return Err(trouble);
            }
            thread::sleep(wait);
            attempt += 1;
        }
    }

    /// [`Client::ask`], with the answer parsed.
    pub(super) fn ask_json<T: serde::de::DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T, Failure> {
        let body = self.ask(ask)?;
        serde_json::from_slice(&body).map_err(|_| foreign_answer(&self.url))
    }

    /// [`Client::ask`], with the answer as text.
    pub(super) fn ask_text(&self, ask: &Ask<'_>) -> Result<String, Failure> {
        String::from_utf8(self.ask(ask)?).map_err(|_| foreign_answer(&self.url))
    }

    fn once(&self, ask: &Ask<'_>) -> Result<Vec<u8>, Trouble> {
        let builder = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.url, ask.path))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        let sent = match ask.body {
            Some(body) => {
                let request = builder.header(header::CONTENT_TYPE, "application/json").body(body);
                request.map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
            None => builder.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request)),
        };
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let body = read(response.body_mut()).map_err(|error| self.unreachable(&error))?;
        self.was_reached.set(true);
        if response.status().is_success() {
            return Ok(body);
        }
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(mut refusal) if !refusal.code.is_empty() => {
                refusal.retry_after = seconds.map(Duration::from_secs);
                Err(Trouble::Refused(refusal))
            }
            _ => Err(Trouble::Failed(Failure::new(
                format!("{} answered {} in a way that Varve does not", self.url, response.status()),
                "check --url: something else may listen there",
            ))),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Trouble {
        Trouble::Failed(Failure::new(
            format!("{} cannot be reached: {}", self.url, error.to_string().trim_start_matches("io: ")),
            "start it with `varve serve`, or say where it is with --url or VARVE_URL",
        ))
    }
}

/// The pause before another try of something that was refused with `retry_after`.
pub(super) fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16));
    doubled.max(retry_after.unwrap_or_default()).min(MAX_PAUSE)
}

/// Waits before another try of a part of a batch.
pub(super) fn wait(attempt: u32) {
    thread::sleep(pause(attempt, None));
}

/// `text` as one segment of a path or one value of a query string (RFC 3986 §2.3: all but unreserved is encoded).
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn read(body: &mut Body) -> Result<Vec<u8>, ureq::Error> {
    body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()
}

fn foreign_answer(url: &str) -> Failure {
    Failure::new(
        format!("{url} answered something that is not Varve's"),
        "check --url: something else may listen there",
    )
}

fn key(file: Option<&Path>) -> Result<String, Failure> {
    let help =
        "create a key with `varve key create`, then `export VARVE_KEY=…` or name a file with --key-file";
    let text = match file {
        Some(path) => {
            let shown = path.display();
            let unreadable = |error| Failure::new(format!("{shown} cannot be read: {error}"), help);
            let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
            if bytes > MAX_KEY_FILE_BYTES {
                return Err(Failure::new(format!("{shown} is no file with a key: it is too long"), help));
            }
            std::fs::read_to_string(path).map_err(unreadable)?
        }
        None => {
            let given = std::env::var("VARVE_KEY").ok().filter(|text| !text.is_empty());
            given.ok_or_else(|| Failure::new("there is no key", help))?
        }
    };
    let key = text.trim();
    // What cannot stand in a header is no key; it is not repeated here, it may be half of one.
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let place = file.map_or("VARVE_KEY".to_owned(), |path| path.display().to_string());
        return Err(Failure::new(format!("{place} holds no key"), help));
    }
    Ok(key.to_owned())
}

/// The host of an `http://` URL.
fn host(url: &str) -> Result<&str, Failure> {
    let Some(rest) = url.strip_prefix("http://") else {
        let what = if url.starts_with("https://") {
            "this build speaks no TLS"
        } else {
            "the URL is not http://…"
        };
        return Err(Failure::new(what, "such as --url http://127.0.0.1:8117"));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() || authority.contains('@') {
        return Err(Failure::new("the URL has no host", "such as --url http://127.0.0.1:8117"));
    }
    Ok(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        assert_eq!(pause(1, None), Duration::from_millis(200));
        assert_eq!(pause(3, None), Duration::from_millis(800));
        assert_eq!(pause(1, Some(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(pause(1, Some(Duration::from_secs(3600))), MAX_PAUSE);
        assert_eq!(pause(40, None), MAX_PAUSE);
    }

    #[test]
    fn segments_hold_any_text() {
        assert_eq!(segment("acme-1.x_~"), "acme-1.x_~");
        assert_eq!(segment("a/b?c&d=é+ *"), "a%2Fb%3Fc%26d%3D%C3%A9%2B%20%2A");
    }

    #[test]
    fn hosts_are_found_and_loopback_is_known() {
        for (url, expected, here) in [
            ("http://127.0.0.1:8117", "127.0.0.1", true),
            ("http://[::1]:8117/x", "::1", true),
            ("http://localhost", "localhost", true),
            ("http://audit.example.org:80", "audit.example.org", false),
            ("http://127.0.0.1.example.org", "127.0.0.1.example.org", false),
        ] {
            let found = host(url).unwrap();
            assert_eq!((found, is_loopback(found)), (expected, here));
        }
        for bad in ["https://x", "x:8117", "http://", "http://user@x", "ftp://x"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_is_not_in_debug() {
        let client = Client {
            agent: Agent::new_with_defaults(),
            url: "http://localhost".into(),
            key: "varve_secret".into(),
            was_reached: Cell::new(false),
        };
        assert!(!format!("{client:?}").contains("secret"));
    }
}
