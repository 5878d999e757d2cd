//! Clients that are slow on purpose, and more of them than there is room for.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use varve::http::HttpLimits;
use varve::service::OpenOptions;

use crate::server::Server;

/// Limits that make a test short; looks are a second apart.
fn short() -> HttpLimits {
    HttpLimits {
        header_time: Duration::from_secs(1),
        body_time: Duration::from_secs(1),
        idle_time: Duration::from_secs(3),
        ..HttpLimits::default()
    }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

/// Sends a byte of `text` each 100 ms until the server closes; how long that took, and what it said.
fn dribble(server: &Server, start: &str, text: &str) -> (Duration, String) {
    let mut stream = connect(server);
    stream.write_all(start.as_bytes()).unwrap();
    let began = Instant::now();
    let mut said = Vec::new();
    for byte in text.bytes().cycle() {
        let sent = stream.write_all(&[byte]);
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert!(began.elapsed() < Duration::from_secs(12), "never closed");
        if sent.is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    (began.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_head_that_dribbles_is_cut_off() {
    let server = Server::with(&OpenOptions::default(), short());
    for start in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", "PRI * HTTP/2.0\r\n\r\nS"] {
        let (took, _) = dribble(&server, start, "a");
        assert!(took < Duration::from_secs(5), "{start:?}: {took:?}");
    }
    // The second request of a connection has the same time as the first.
    let first = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (took, said) = dribble(&server, first, "GET /healthz?");
    assert!(said.contains("200 OK") && took < Duration::from_secs(6), "{took:?} {said}");
}

#[test]
fn a_body_that_dribbles_is_refused_and_closed() {
    let server = Server::with(&OpenOptions::default(), short());
    let key = server.key(&["ingest"]);
    let head = format!(
        "POST /v1/tenants/acme/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 4000\r\n\r\n"
    );
    let (took, said) = dribble(&server, &head, " ");
    assert!(said.contains("400 Bad Request") && said.contains("did not arrive within 1 s"), "{said}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(server.get("/v1/tenants/acme", &server.operator).json()["size"], 1, "nothing was stored");
}

#[test]
fn an_idle_connection_is_closed_in_time_and_not_before() {
    let server = Server::with(&OpenOptions::default(), short());
    let mut silent = connect(&server);
    let mut served = connect(&server);
    served.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let mut buffer = [0; 4096];
    assert!(served.read(&mut buffer).unwrap() > 0);
    served.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(served.read(&mut buffer).unwrap() > 0, "it is kept for the next request");
    for stream in [&mut silent, &mut served] {
        stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        assert_eq!(stream.read(&mut buffer).unwrap_or(0), 0, "it is closed");
    }
}

#[test]
fn more_connections_than_places_make_the_idle_ones_go() {
    let limits = HttpLimits { max_connections: 8, ..HttpLimits::default() };
    let server = Server::with(&OpenOptions::default(), limits);
    let _idle: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
    let began = Instant::now();
    assert_eq!(server.ask("GET", "/healthz", "", "").status, 200);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let server = Server::start();
    let key = server.key(&["ingest", "read"]);
    let event =
        format!(r#"{{"action":"a.b","outcome":"success","metadata":{{"text":"{}"}}}}"#, "x".repeat(60_000));
    let batch = format!("[{}]", vec![event; 60].join(","));
    for _ in 0..4 {
        assert_eq!(server.post("/v1/tenants/acme/events", &key, &batch).status, 201);
    }
    // 14 MB: more than the sockets of both sides take.
    let mut stream = connect(&server);
    let head = format!(
        "GET /v1/tenants/acme/events?limit=1000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    // It is asked for and not read; the server must not hold it for ever.
    std::thread::sleep(Duration::from_secs(19));
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => read += count,
        }
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    assert!(read < 14_000_000, "{read} bytes came although nobody read for 19 s");
}
