//! A server that can go away and come back, and a wire in front of it that can lose answers or hang.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use varve::client::{Ask, Client, ClientOptions, Repeat, Retry};
use varve::http;
use varve::service::{OpenOptions, Service};

/// A store with the tenant `acme`, and a server over it on one address.
pub(super) struct Server {
    address: SocketAddr,
    operator: String,
    listening: Option<Listening>,
    service: Service,
    _directory: tempfile::TempDir,
}

struct Listening {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    pub(super) fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("store");
        let operator =
            Service::init(&data, Some("test.example"), None, &OpenOptions::default()).unwrap().operator_key;
        let service = Service::open(&data, &OpenOptions::default()).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut server = Server { address, operator, listening: None, service, _directory: directory };
        server.back();
        server.ask("POST", "/v1/tenants", Some(json!({"tenant": "acme"})));
        server
    }

    /// Nobody listens any more; what is stored stays.
    pub(super) fn away(&mut self) {
        if let Some(Listening { stop, thread }) = self.listening.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// Listens again, on the same address.
    pub(super) fn back(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (service, address) = (self.service.clone(), self.address);
        let thread =
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                    tell.send(listener.local_addr().unwrap()).unwrap();
                    http::serve(listener, service, http::HttpLimits::default(), async move {
                        drop(stopped.await)
                    })
                    .await
                    .unwrap();
                });
            });
        self.address = told.recv().unwrap();
        self.listening = Some(Listening { stop, thread });
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A key of `acme`.
    pub(super) fn key(&self, scopes: &[&str]) -> String {
        let made = self.ask("POST", "/v1/tenants/acme/keys", Some(json!({"name": "test", "scopes": scopes})));
        made["key"].as_str().unwrap().to_owned()
    }

    /// Public key of the log of `acme`.
    pub(super) fn log_key(&self) -> String {
        self.ask("GET", "/v1/tenants/acme", None)["public_key"].as_str().unwrap().to_owned()
    }

    /// What the operator is answered.
    fn ask(&self, method: &'static str, path: &str, body: Option<Value>) -> Value {
        let body = body.map(|body| body.to_string());
        let ask = Ask {
            method,
            path: path.to_owned(),
            body: body.as_deref().map(str::as_bytes),
            repeat: Repeat::Never,
        };
        let client = Client::new(&self.url(), &self.operator, ClientOptions::default()).unwrap();
        serde_json::from_slice(&client.ask(&ask).unwrap()).unwrap()
    }

    /// The events in the log, oldest first, as they were posted; Varve's own are left out.
    pub(super) fn events(&self) -> Vec<Value> {
        let client = Client::new(&self.url(), &self.key(&["read"]), ClientOptions::default()).unwrap();
        let (mut events, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/tenants/acme/events?order=asc&limit=1000{cursor}");
            let page: Value = serde_json::from_slice(&client.ask(&Ask::get(path)).unwrap()).unwrap();
            let records = page["events"].as_array().unwrap().iter().map(|record| record["event"].clone());
            events.extend(records.filter(|event| !event["action"].as_str().unwrap().starts_with("varve.")));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return events,
            }
        }
    }

    /// Ids of [`Server::events`] with `action`.
    pub(super) fn ids(&self, action: &str) -> Vec<String> {
        let events = self.events();
        let found = events.iter().filter(|event| event["action"] == action);
        found.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Listening { stop, thread }) = self.listening.take() {
            drop(stop);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ended in a panic");
        }
        let stopped = self.service.stop();
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

/// A client that does not wait long.
pub(super) fn client(url: &str, key: &str) -> Client {
    let retry = Retry {
        first_pause: Duration::from_millis(10),
        max_pause: Duration::from_millis(50),
        max_elapsed: Duration::from_secs(20),
        ..Retry::default()
    };
    Client::new(url, key, ClientOptions { retry, ..ClientOptions::default() }).unwrap()
}

/// Waits until `is_so`.
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen in 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the wire does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Wire {
    /// Carries request and answer.
    Carries,
    /// Carries the request, and closes when the answer is there.
    LosesAnswers,
    /// Takes the connection and never says anything.
    Hangs,
}

/// A wire to a server: one request a connection.
pub(super) struct Proxy {
    address: SocketAddr,
    wire: Arc<AtomicU8>,
    /// Answers that were lost.
    lost: Arc<AtomicUsize>,
}

impl Proxy {
    pub(super) fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, lost) = (Arc::new(AtomicU8::new(Wire::Carries as u8)), Arc::new(AtomicUsize::new(0)));
        let (told, count) = (Arc::clone(&wire), Arc::clone(&lost));
        // Ends with the process: it owns nothing.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (wire, lost) = (Arc::clone(&told), Arc::clone(&count));
                std::thread::spawn(move || drop(carry(stream, server, &wire, &lost)));
            }
        });
        Proxy { address, wire, lost }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn set(&self, wire: Wire) {
        self.wire.store(wire as u8, Ordering::SeqCst);
    }

    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

fn carry(client: TcpStream, server: SocketAddr, wire: &AtomicU8, lost: &AtomicUsize) -> std::io::Result<()> {
    while wire.load(Ordering::SeqCst) == Wire::Hangs as u8 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = BufReader::new(client);
    let request = message(&mut client)?;
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&request)?;
    let answer = message(&mut BufReader::new(upstream))?;
    if wire.load(Ordering::SeqCst) == Wire::LosesAnswers as u8 {
        lost.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    client.get_mut().write_all(&answer)
}

/// One HTTP message with a length; it says that the connection closes.
fn message(from: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            message.extend_from_slice(b"connection: close\r\n\r\n");
            break;
        }
        if !lower.starts_with("connection:") {
            message.extend_from_slice(line.as_bytes());
        }
    }
    from.take(length).read_to_end(&mut message)?;
    Ok(message)
}
