//! A server in this process: over a store of its own, on a free port, with one tenant; and what it answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use varve::http::{self, Drained, HttpLimits};
use varve::service::{OpenOptions, Service};

/// A server on a free port, over a store of its own, with one tenant.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) operator: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Drained>>,
    pub(crate) service: Service,
    is_poisoned: bool,
    directory: Option<tempfile::TempDir>,
}

/// An answer, taken apart.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Checks the shape that every refusal has, and returns its code.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        assert!(problem["retryable"].is_boolean());
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(&OpenOptions::default(), HttpLimits::default())
    }

    /// A server over a new store, which goes with it.
    pub(crate) fn with(options: &OpenOptions, limits: HttpLimits) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::at(directory.path(), options, limits);
        server.directory = Some(directory);
        server
    }

    /// A server over the store in `directory`, which is made with its tenant if it is not there.
    pub(crate) fn at(directory: &Path, options: &OpenOptions, limits: HttpLimits) -> Server {
        let (data, key_file) = (directory.join("store"), directory.join("operator"));
        let is_new = !Service::is_initialised(&data);
        if is_new {
            let made = Service::init(&data, Some("test.example"), None, options).unwrap();
            std::fs::write(&key_file, made.operator_key).unwrap();
        }
        let operator = std::fs::read_to_string(&key_file).unwrap();
        let service = Service::open(&data, options).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let served = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                http::serve(listener, served, limits, async move { drop(stopped.await) }).await.unwrap()
            })
        });
        let address = told.recv().unwrap();
        let (stop, thread) = (Some(stop), Some(thread));
        let server = Server { address, operator, stop, thread, service, is_poisoned: false, directory: None };
        if is_new {
            let made = server.post("/v1/tenants", &server.operator, "{\"tenant\":\"acme\"}");
            assert_eq!(made.status, 201, "{}", made.body);
        }
        server
    }

    /// Ends a test in which the store has stopped by itself.
    pub(crate) fn expect_poison(mut self) {
        self.is_poisoned = true;
    }

    /// A key of `acme`.
    pub(crate) fn key(&self, scopes: &[&str]) -> String {
        self.key_of("acme", scopes)
    }

    pub(crate) fn key_of(&self, tenant: &str, scopes: &[&str]) -> String {
        let body = json!({"name": "test", "scopes": scopes}).to_string();
        let made = self.post(&format!("/v1/tenants/{tenant}/keys"), &self.operator, &body);
        assert_eq!(made.status, 201, "{}", made.body);
        made.json()["key"].as_str().unwrap().to_owned()
    }

    pub(crate) fn get(&self, path: &str, key: &str) -> Answer {
        self.ask("GET", path, &format!("Authorization: Bearer {key}\r\n"), "")
    }

    /// The body of an answer that is no text.
    pub(crate) fn bytes(&self, path: &str, key: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&bytes[..head]));
        bytes.split_off(head + 4)
    }

    pub(crate) fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n");
        self.ask("POST", path, &headers, body)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    /// Sends `request` as it is and reads until the server closes.
    pub(crate) fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        // Tiles are no text; whoever wants their bytes asks with `bytes`.
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{head}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ended in a panic");
        }
        let stopped = self.service.stop();
        assert!(stopped.is_err() == self.is_poisoned || std::thread::panicking(), "{stopped:?}");
    }
}
