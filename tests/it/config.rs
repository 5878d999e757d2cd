//! `varve serve` as an init system sees it: which configuration holds, what it is told, how it ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// `varve serve` with nothing of this process's environment.
fn serve(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let environment = environment.iter().copied();
    Command::new(env!("CARGO_BIN_EXE_varve"))
        .arg("serve")
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A server that runs, and the directory that holds its store, its log and its socket to the init system.
struct Running {
    child: Child,
    address: SocketAddr,
    /// What it said once it listened.
    said: Value,
    init: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Running {
    /// Starts `program` (a server, or what becomes one), and waits until it listens.
    fn start(mut program: Command) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let init = UnixDatagram::bind(&socket).unwrap();
        init.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = program
            .env_clear()
            .env("NOTIFY_SOCKET", &socket)
            .env("VARVE_DATA", dir.path().join("store"))
            .env("VARVE_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("serve said {line:?}\n{}", log()));
        let url = said["url"].as_str().unwrap();
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        Running { child, address, said, init, dir }
    }

    fn usual() -> Running {
        Running::with(&[])
    }

    fn with(arguments: &[&str]) -> Running {
        let mut program = Command::new(env!("CARGO_BIN_EXE_varve"));
        program.args(["serve", "--json"]).args(arguments);
        Running::start(program)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What the init system is told next.
    fn told(&self) -> String {
        let mut bytes = [0; 64];
        let length = self.init.recv(&mut bytes).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the log has `text`.
    fn wait_for(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "{text:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone where a test has waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("varve.toml");
    std::fs::write(&file, "# ours\nquery_seconds = 21\nheartbeat_seconds = 22\ndrain_seconds = 23\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let environment =
        [("VARVE_HEARTBEAT_SECONDS", "32"), ("VARVE_DRAIN_SECONDS", "33"), ("VARVE_KEY", "varve_x")];
    let output =
        serve(&["--config", file, "--print-config", "--json", "--drain-seconds", "43"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, value, origin) in [
        ("idle_seconds", 60, "default"),
        ("query_seconds", 21, &format!("{file}:2")),
        ("heartbeat_seconds", 32, "VARVE_HEARTBEAT_SECONDS"),
        ("drain_seconds", 43, "--drain-seconds"),
    ] {
        assert_eq!(
            (printed[key]["value"].as_u64(), printed[key]["origin"].as_str()),
            (Some(value), Some(origin))
        );
    }
    assert!(printed["metrics_listen"]["value"].is_null());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("varve_x"));

    let by_variable = serve(&["--print-config"], &[("VARVE_CONFIG", file)]);
    let text = String::from_utf8(by_variable.stdout).unwrap();
    assert!(text.contains(&format!("query_seconds = 21  # {file}:2\n")), "{text}");
}

#[test]
fn a_server_that_cannot_start_as_told_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let data = data.to_str().unwrap();
    let certificate = ["--tls-certificate-file", "/nowhere/c", "--tls-private-key-file", "/nowhere/k"];
    for (arguments, expected) in [
        (&["--heartbeat-seconds", "9"][..], "--heartbeat-seconds is 9, and takes"),
        (&["--config", "/nowhere/varve.toml"], "/nowhere/varve.toml cannot be read"),
        (&["--listen", "0.0.0.0:0"], "is not a loopback address"),
        (&["--tls-certificate-file", "/nowhere/c"], "tls_private_key_file is not"),
        (&certificate, "/nowhere/c: cannot be read"),
        (&["--log-level", "varve=hunter2"], "--log-level cannot be read"),
    ] {
        let output = serve(&[&["--data", data], arguments].concat(), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
        assert!(said.lines().last().unwrap().starts_with("hint: "), "{said}");
        assert!(!Path::new(data).exists(), "{arguments:?}");
    }
}

#[test]
fn the_init_system_is_told_and_a_hangup_ends_nothing() {
    let mut running = Running::usual();
    assert_eq!(running.told(), "READY=1");
    running.signal(Signal::HUP);
    running.wait_for("this server speaks no TLS");
    assert_eq!(get(running.address, "/readyz"), "HTTP/1.1 200 OK");
    running.signal(Signal::TERM);
    assert_eq!(running.told(), "STOPPING=1");
    assert_eq!(running.end(), Some(0), "{}", running.log());
    assert!(running.log().contains("terminated, stopping"));
}

#[test]
fn a_second_signal_cuts_off_what_is_under_way() {
    let mut running = Running::usual();
    assert_eq!(running.told(), "READY=1");
    let key = std::fs::read_to_string(running.data().join("operator.key")).unwrap();
    // A request that stays under way: its body never comes.
    let mut stream = TcpStream::connect(running.address).unwrap();
    let head = format!(
        "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 19\r\n\r\n{{",
        key.trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::TERM);
    assert_eq!(running.told(), "STOPPING=1");
    std::thread::sleep(Duration::from_millis(700));
    assert!(running.child.try_wait().unwrap().is_none(), "it drains:\n{}", running.log());
    let cut = Instant::now();
    running.signal(Signal::INT);
    assert_eq!(running.end(), Some(0), "{}", running.log());
    // Draining alone takes 10 s.
    assert!(cut.elapsed() < Duration::from_secs(6), "{:?}", cut.elapsed());
    let log = running.log();
    assert!(log.contains("interrupted again") && log.contains("some requests were cut off"), "{log}");
    assert!(log.trim_end().ends_with("stopped"), "the store was closed in order:\n{log}");
    assert!(!log.contains(key.trim()));
}

#[test]
fn connections_get_what_the_limit_of_open_files_leaves() {
    let limited = |files: &str| {
        let mut program = Command::new("/bin/sh");
        program.args([
            "-c",
            "ulimit -n \"$1\" && exec \"$2\" serve --json",
            "sh",
            files,
            env!("CARGO_BIN_EXE_varve"),
        ]);
        program
    };
    let mut running = Running::start(limited("612"));
    assert_eq!(running.told(), "READY=1");
    running.wait_for("max_connections=100");
    assert!(running.log().contains("configured=4096"), "{}", running.log());
    running.signal(Signal::TERM);
    assert_eq!(running.end(), Some(0));

    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let output = limited("520").env_clear().env("VARVE_DATA", &data).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("528 files are needed at least") && !data.exists(), "{said}");
}

/// The first line of an answer in clear.
fn get(address: SocketAddr, path: &str) -> String {
    first_line(TcpStream::connect(address).unwrap(), path).unwrap()
}

fn first_line(mut stream: impl std::io::Read + Write, path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[test]
fn health_has_a_door_of_its_own_where_that_is_wanted() {
    let mut running = Running::with(&["--metrics-listen", "127.0.0.1:0"]);
    assert_eq!(running.told(), "READY=1");
    let url = running.said["metrics_url"].as_str().unwrap();
    let side: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    for (path, main, beside) in [
        ("/healthz", "200 OK", "200 OK"),
        ("/readyz", "200 OK", "200 OK"),
        ("/v1/tenants", "401 Unauthorized", "404 Not Found"),
        ("/openapi.json", "200 OK", "404 Not Found"),
    ] {
        assert_eq!(get(running.address, path), format!("HTTP/1.1 {main}"), "{path}");
        assert_eq!(get(side, path), format!("HTTP/1.1 {beside}"), "{path}");
    }
    // Whoever lingers there holds nothing up.
    let _lingering = TcpStream::connect(side).unwrap();
    running.signal(Signal::TERM);
    let told = Instant::now();
    assert_eq!(running.end(), Some(0), "{}", running.log());
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
}

/// A certificate for `localhost` and its key, both PEM.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The first line of an answer over TLS, for a client that trusts `root` alone.
fn get_over_tls(address: SocketAddr, root: &str, path: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConnection::new(config.into(), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    first_line(StreamOwned::new(client, stream), path)
}

#[test]
fn tls_is_spoken_and_a_hangup_brings_the_renewed_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.path().join(name));
    let put = |(certificate, private_key): &(String, String)| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&chain, certificate).unwrap();
        std::fs::write(&key, private_key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let (first, renewed) = (certificate(), certificate());
    put(&first);
    let mut running = Running::with(&[
        "--tls-certificate-file",
        chain.to_str().unwrap(),
        "--tls-private-key-file",
        key.to_str().unwrap(),
    ]);
    assert_eq!(running.told(), "READY=1");
    assert!(running.said["url"].as_str().unwrap().starts_with("https://"), "{}", running.said);
    assert_eq!(get_over_tls(running.address, &first.0, "/readyz").unwrap(), "HTTP/1.1 200 OK");
    assert!(get_over_tls(running.address, &renewed.0, "/readyz").is_err());
    // In clear nothing is answered.
    let clear = first_line(TcpStream::connect(running.address).unwrap(), "/readyz");
    assert!(!clear.unwrap_or_default().starts_with("HTTP/"));

    std::fs::write(&chain, &renewed.0).unwrap();
    running.signal(Signal::HUP);
    running.wait_for("the old certificate is served on");
    assert_eq!(get_over_tls(running.address, &first.0, "/readyz").unwrap(), "HTTP/1.1 200 OK");
    put(&renewed);
    running.signal(Signal::HUP);
    let until = Instant::now() + Duration::from_secs(20);
    while get_over_tls(running.address, &renewed.0, "/readyz").is_err() {
        assert!(Instant::now() < until, "{}", running.log());
    }
    assert!(get_over_tls(running.address, &first.0, "/readyz").is_err());

    // A handshake that does not begin holds nothing up.
    let _silent = TcpStream::connect(running.address).unwrap();
    running.signal(Signal::TERM);
    let told = Instant::now();
    assert_eq!(running.end(), Some(0), "{}", running.log());
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
    let log = running.log();
    assert!(!log.contains("PRIVATE") && !log.contains(renewed.1.lines().nth(1).unwrap()), "{log}");
}
