//! One server, one key: a request, its repeats, its answer.
//!
//! Limits: an answer of at most [`MAX_ANSWER_BYTES`]; tries and time by [`Retry`]. Redirects are not followed. The key
//! is in no `Debug`, no error and no log line of the HTTP library, which redacts the header it travels in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, Request, Response, header};
use ureq::{Agent, Body};

use super::address::Address;
use super::error::{Error, Problem, said};
use super::receipt::LogKey;
use super::retry::{Retry, Tries};

/// Bytes of one answer: 1,000 records of 64 KiB, twice over for `verifiable`, and room.
pub const MAX_ANSWER_BYTES: u64 = 192 * 1024 * 1024;

/// How a [`Client`] behaves. `ClientOptions::default()` is right for a service.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Time to be connected.
    pub connect_time: Duration,
    /// Time of one try, from connecting to the last byte of the answer.
    pub request_time: Duration,
    /// When to try again.
    pub retry: Retry,
    /// Lets the key travel over `http://` to another machine, where whoever carries the packets can read it.
    pub key_may_travel_in_clear: bool,
    /// Keys of the log, from elsewhere than the server. Where there are any, receipts are asked for as verifiable, each
    /// is checked, and one that does not hold is an error. Give the old keys too after a rotation: a repeat is answered
    /// with the first receipt.
    pub log_keys: Vec<LogKey>,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_time: Duration::from_secs(5),
            request_time: Duration::from_secs(30),
            retry: Retry::default(),
            key_may_travel_in_clear: false,
            log_keys: Vec::new(),
        }
    }
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// It reads, or what it writes has an id.
    Safe,
    /// A second one would make a second thing.
    Never,
}

/// A request of the contract that has no method of its own here.
#[derive(Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Such as `GET`.
    pub method: &'static str,
    /// From `/v1`, names encoded by [`segment`], with the query string.
    pub path: String,
    /// JSON.
    pub body: Option<&'a [u8]>,
    /// Whether it may be sent twice.
    pub repeat: Repeat,
}

impl Ask<'_> {
    /// A `GET`, which may be repeated.
    pub fn get(path: String) -> Ask<'static> {
        Ask { method: "GET", path, body: None, repeat: Repeat::Safe }
    }
}

/// A client of one server with one key. Cheap to clone; clones share connections. It blocks: call it from a thread
/// that may wait, or use a [`Recorder`](super::Recorder).
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    is_verifiable: bool,
}

struct Inner {
    agent: Agent,
    url: String,
    key: String,
    authorization: HeaderValue,
    options: ClientOptions,
    /// Whether the server has answered before: then a lost connection is worth waiting for.
    was_reached: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("url", &self.inner.url).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:8117`, with an API key. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Key`].
    pub fn new(url: &str, key: &str, options: ClientOptions) -> Result<Client, Error> {
        let Address { url, is_loopback } = Address::parse(url, options.key_may_travel_in_clear)?;
        let key = key.trim().to_owned();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Key);
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| Error::Key)?;
        authorization.set_sensitive(true);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(options.connect_time))
            .user_agent(concat!("varve/", env!("CARGO_PKG_VERSION")));
        if is_loopback {
            config = config.proxy(None);
        }
        let agent = config.build().new_agent();
        let was_reached = AtomicBool::new(false);
        let is_verifiable = !options.log_keys.is_empty();
        let inner = Arc::new(Inner { agent, url, key, authorization, options, was_reached });
        Ok(Client { inner, is_verifiable })
    }

    /// The same client, which asks for receipts that show what was committed. With keys of the log it does so anyway.
    pub fn with_verifiable_receipts(mut self) -> Client {
        self.is_verifiable = true;
        self
    }

    pub(super) fn is_verifiable(&self) -> bool {
        self.is_verifiable
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Asks, and repeats where that is safe and may help. The answer is the body of a 2xx.
    ///
    /// # Errors
    /// What the last try met.
    pub fn ask(&self, ask: &Ask<'_>) -> Result<Vec<u8>, Error> {
        self.ask_within(ask, &mut Tries::begin(self.inner.options.retry))
    }

    /// [`Client::ask`] within the tries and the time that are left of several requests.
    pub(super) fn ask_within(&self, ask: &Ask<'_>, tries: &mut Tries) -> Result<Vec<u8>, Error> {
        loop {
            let error = match self.ask_once(ask, tries.time_for_one(self.inner.options.request_time)) {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if ask.repeat == Repeat::Never || !self.is_worth_waiting_for(&error) {
                return Err(error);
            }
            match tries.next_pause(error.retry_after()) {
                Some(pause) => thread::sleep(pause),
                None => return Err(error),
            }
        }
    }

    /// Whether another try may help.
    pub(super) fn is_worth_waiting_for(&self, error: &Error) -> bool {
        let is_known =
            self.inner.options.retry.waits_for_first_answer || self.inner.was_reached.load(Ordering::Relaxed);
        error.is_retryable() && (is_known || !matches!(error, Error::Unreachable { .. }))
    }

    /// One try of at most `time`.
    pub(super) fn ask_once(&self, ask: &Ask<'_>, time: Duration) -> Result<Vec<u8>, Error> {
        let builder = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.inner.url, ask.path))
            .header(header::AUTHORIZATION, self.inner.authorization.clone());
        let agent = &self.inner.agent;
        let sent = match ask.body {
            Some(body) => builder
                .header(header::CONTENT_TYPE, "application/json")
                .body(body)
                .map_err(ureq::Error::from)
                .and_then(|it| agent.run(agent.configure_request(it).timeout_global(Some(time)).build())),
            None => builder
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|it| agent.run(agent.configure_request(it).timeout_global(Some(time)).build())),
        };
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let read = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = read.map_err(|error| self.unreachable(&error))?;
        self.inner.was_reached.store(true, Ordering::Relaxed);
        if response.status().is_success() { Ok(body) } else { Err(self.refusal(&response, &body)) }
    }

    pub(super) fn unreadable(&self) -> Error {
        Error::Unreadable { url: self.inner.url.clone() }
    }

    /// A problem inside an answer.
    pub(super) fn problem(&self, json: &[u8]) -> Option<Problem> {
        Problem::read(json, &self.inner.key)
    }

    fn refusal(&self, response: &Response<Body>, body: &[u8]) -> Error {
        let headers = response.headers();
        let retry_after = text(headers, header::RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        match self.problem(body) {
            Some(mut problem) => {
                problem.status = response.status().as_u16();
                problem.retry_after = retry_after;
                problem.request_id = text(headers, "x-request-id").map(|id| said(id, &self.inner.key));
                Error::Refused(Box::new(problem))
            }
            None => {
                let status = response.status().as_u16();
                Error::Foreign { url: self.inner.url.clone(), status, retry_after }
            }
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        // A connection that was kept open and is closed meanwhile is met as an answer that ends early: `Protocol`.
        let may_pass = matches!(
            error,
            ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::Protocol(_)
        );
        let reason = said(error.to_string().trim_start_matches("io: "), &self.inner.key);
        Error::Unreachable { url: self.inner.url.clone(), reason, may_pass }
    }
}

/// `text` as one segment of a path or one value of a query string (RFC 3986 §2.3: all but unreserved is encoded).
pub fn segment(text: &str) -> String {
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

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::BadUrl;

    const KEY: &str = "varve_0123_secret";

    #[test]
    fn segments_hold_any_text() {
        assert_eq!(segment("acme-1.x_~"), "acme-1.x_~");
        assert_eq!(segment("a/b?c&d=é+ *"), "a%2Fb%3Fc%26d%3D%C3%A9%2B%20%2A");
    }

    #[test]
    fn the_key_is_in_no_debug_and_no_error() {
        let client = Client::new("http://localhost:1", KEY, ClientOptions::default()).unwrap();
        assert!(!format!("{client:?} {:?}", client.inner.options).contains("secret"));
        assert!(!format!("{:?}", client.inner.authorization).contains("secret"));
        let options = ClientOptions { retry: Retry::never(), ..ClientOptions::default() };
        let error = Client::new("http://localhost:1", KEY, options)
            .unwrap()
            .ask(&Ask::get("/v1".into()))
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        for bad in ["", " ", "a b", "a\nb", "clé"] {
            let error = Client::new("http://localhost", bad, ClientOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Key), "{bad}");
        }
    }

    #[test]
    fn another_machine_wants_tls_or_a_word() {
        let refused = Client::new("http://audit.example.org", KEY, ClientOptions::default()).unwrap_err();
        assert!(matches!(refused, Error::Url(BadUrl::InClear)));
        let options = ClientOptions { key_may_travel_in_clear: true, ..ClientOptions::default() };
        assert!(Client::new("http://audit.example.org", KEY, options).is_ok());
    }
}
