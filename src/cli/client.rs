//! A server at the other end, as the command line meets it: [`crate::client`] with the key of the user, its errors as
//! [`Failure`]s.

use std::path::Path;
use std::time::Duration;

use ureq::http::StatusCode;

use super::args::ServerArgs;
use super::output::{Failure, Output, hint};
use crate::client::{self, BadUrl, ClientOptions, Error, Retry, host, is_loopback};

pub(super) use crate::client::{Ask, Repeat, segment};

/// Time of one request: a page of 1,000 verifiable records of a busy server takes seconds.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Time in which a request and its repeats end.
const MAX_ELAPSED: Duration = Duration::from_secs(90);

/// Bytes of a file with a key.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// A client of one server with one key.
#[derive(Debug)]
pub(super) struct Client(client::Client);

impl Client {
    /// A client with the key of `--key-file` or `VARVE_KEY`.
    ///
    /// # Errors
    /// When there is no key, or the URL is none that can be spoken to.
    pub(super) fn new(server: &ServerArgs, output: &Output) -> Result<Client, Failure> {
        let key = key(server.key_file.as_deref())?;
        let host = host(&server.url).map_err(|bad| bad_url(&bad))?;
        if !is_loopback(host) {
            output.warn(&format!("the key travels to {host} without TLS"));
        }
        let options = ClientOptions {
            request_time: REQUEST_TIME,
            // A wrong address is said at once; a server that went away is waited for.
            retry: Retry { waits_for_first_answer: false, max_elapsed: MAX_ELAPSED, ..Retry::default() },
            // The user named the host, and is warned.
            key_may_travel_in_clear: true,
            ..ClientOptions::default()
        };
        Ok(Client(client::Client::new(&server.url, &key, options).map_err(failure)?))
    }

    /// For events and their receipts.
    pub(super) fn events(&self, verifiable: bool) -> client::Client {
        let client = self.0.clone();
        if verifiable { client.with_verifiable_receipts() } else { client }
    }

    /// Asks, and repeats where that is safe and may help. The answer is the body of a 2xx.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Vec<u8>, Failure> {
        self.0.ask(ask).map_err(failure)
    }

    /// [`Client::ask`], with the answer parsed.
    pub(super) fn ask_json<T: serde::de::DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T, Failure> {
        serde_json::from_slice(&self.ask(ask)?).map_err(|_| self.foreign_answer())
    }

    /// [`Client::ask`], with the answer as text.
    pub(super) fn ask_text(&self, ask: &Ask<'_>) -> Result<String, Failure> {
        String::from_utf8(self.ask(ask)?).map_err(|_| self.foreign_answer())
    }

    fn foreign_answer(&self) -> Failure {
        failure(Error::Unreadable { url: self.0.url().to_owned() })
    }
}

/// What the user is told of an error of the client.
pub(super) fn failure(error: Error) -> Failure {
    const OTHER: &str = "check --url: something else may listen there";
    match error {
        Error::Refused(problem) => Failure::new(problem.to_string(), hint(&problem.code)),
        Error::Unreachable { url, reason, .. } => Failure::new(
            format!("{url} cannot be reached: {reason}"),
            "start it with `varve serve`, or say where it is with --url or VARVE_URL",
        ),
        Error::Foreign { url, status, .. } => {
            let status =
                StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |it| it.to_string());
            Failure::new(format!("{url} answered {status} in a way that Varve does not"), OTHER)
        }
        Error::Unreadable { url } => {
            Failure::new(format!("{url} answered something that is not Varve's"), OTHER)
        }
        Error::Url(bad) => bad_url(&bad),
        other => Failure::new(other.to_string(), "`varve help` lists the commands"),
    }
}

fn bad_url(bad: &BadUrl) -> Failure {
    Failure::new(bad.to_string(), "such as --url http://127.0.0.1:8117")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_in_debug() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        std::fs::write(&key_file, "varve_secret\n").unwrap();
        let server = ServerArgs { url: "http://localhost".into(), key_file: Some(key_file) };
        let client = Client::new(&server, &Output::new(false)).unwrap();
        assert!(!format!("{client:?}").contains("secret"));
    }

    #[test]
    fn messages_say_where_and_what_to_do() {
        let url = || "http://127.0.0.1:9".to_owned();
        for (error, message) in [
            (
                Error::Unreachable { url: url(), reason: "refused".into(), may_pass: true },
                "http://127.0.0.1:9 cannot be reached: refused",
            ),
            (
                Error::Foreign { url: url(), status: 302, retry_after: None },
                "http://127.0.0.1:9 answered 302 Found in a way that Varve does not",
            ),
            (Error::Unreadable { url: url() }, "http://127.0.0.1:9 answered something that is not Varve's"),
            (Error::Url(BadUrl::NoTls), "this build speaks no TLS"),
        ] {
            let failure = failure(error);
            assert_eq!(failure.message, message);
            assert!(!failure.hint.is_empty());
        }
    }
}
