//! A server of its own for a run: started on a free port over a temporary directory, watched, stopped.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Fault, target};

/// How long a server may take to say where it listens.
const START_TIME: Duration = Duration::from_secs(30);

/// How long a server may take to end after SIGTERM.
const STOP_TIME: Duration = Duration::from_secs(60);

/// `f_type` of a file system in memory (statfs(2)).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A running server. One that is dropped without [`Server::stop`] is killed.
pub struct Server {
    child: Running,
    dir: TempDir,
    program: PathBuf,
    address: SocketAddr,
    operator_key: String,
}

/// A process that does not outlive this one's interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts `program serve` over a new directory under `parent` (else where temporary files go).
    ///
    /// # Errors
    /// The program cannot be started, or does not say within 30 s where it listens.
    pub fn start(program: &Path, parent: Option<&Path>) -> Result<Server, Fault> {
        let dir = match parent {
            Some(parent) => TempDir::with_prefix_in("varve-load-", parent),
            None => TempDir::with_prefix("varve-load-"),
        };
        let dir = dir.map_err(|error| Fault::unable(format!("no directory for the store: {error}")))?;
        let log = File::create(dir.path().join("server.log")).map_err(Fault::unable)?;
        let child = Command::new(program)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Fault::unable(format!("{} cannot be started: {error}", program.display())))?;
        let mut child = Running(child);
        match first_line(&mut child.0).and_then(|line| announced(&line)) {
            Ok((address, operator_key)) => {
                Ok(Server { child, dir, program: program.to_owned(), address, operator_key })
            }
            Err(Fault::Unable(why)) => {
                Err(Fault::Unable(format!("{why}; its log ends: {}", log_end(dir.path()))))
            }
            Err(broken) => Err(broken),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The operator key of its store.
    pub fn operator_key(&self) -> &str {
        &self.operator_key
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Whether its store lies in memory, where a sync costs nothing.
    pub fn is_in_memory(&self) -> bool {
        rustix::fs::statfs(self.dir.path()).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It had ended before, does not end within 60 s, or ends with an error.
    pub fn stop(mut self) -> Result<Stopped, Fault> {
        if let Ok(Some(status)) = self.child.0.try_wait() {
            return Err(self.ended_badly(&format!("had ended by itself: {status}")));
        }
        let pid = i32::try_from(self.child.0.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(Fault::unable)?;
        }
        let asked = Instant::now();
        let status = loop {
            match self.child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if asked.elapsed() > STOP_TIME => {
                    return Err(self.ended_badly("did not end within 60 s of SIGTERM"));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(Fault::unable(error)),
            }
        };
        if !status.success() {
            return Err(self.ended_badly(&format!("ended with {status}")));
        }
        Ok(Stopped { dir: self.dir, program: self.program, stop_time: asked.elapsed() })
    }

    fn ended_badly(&self, how: &str) -> Fault {
        Fault::Broken(vec![format!("the server {how}; its log ends: {}", log_end(self.dir.path()))])
    }
}

/// A store whose server has stopped.
pub struct Stopped {
    dir: TempDir,
    program: PathBuf,
    /// How long the stop took.
    pub stop_time: Duration,
}

impl Stopped {
    /// Runs `varve verify` over the store.
    ///
    /// # Errors
    /// The store is not intact, or the command cannot be run.
    pub fn verify(&self) -> Result<(), Fault> {
        let output = Command::new(&self.program).arg("verify").arg(self.dir.path().join("data")).output();
        let output = output.map_err(Fault::unable)?;
        if output.status.success() {
            return Ok(());
        }
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Err(Fault::Broken(vec![format!(
            "`varve verify` of the stopped store says {}: {said}",
            output.status
        )]))
    }
}

/// The server that a run is made against.
pub enum Host {
    /// One of its own.
    Own(Server),
    /// One that runs already.
    Given {
        /// Where it listens.
        address: SocketAddr,
        /// Its operator key.
        operator_key: String,
        /// Its process, where it is known.
        pid: Option<u32>,
    },
}

impl Host {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Host::Own(server) => server.address,
            Host::Given { address, .. } => *address,
        }
    }

    /// Its operator key.
    pub fn operator_key(&self) -> &str {
        match self {
            Host::Own(server) => &server.operator_key,
            Host::Given { operator_key, .. } => operator_key,
        }
    }

    /// Its process, where it is known.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Host::Own(server) => Some(server.pid()),
            Host::Given { pid, .. } => *pid,
        }
    }

    /// Stops a server of the run's own and has its store verified if that is wanted. Returns what to tell of it.
    ///
    /// # Errors
    /// As [`Server::stop`] and [`Stopped::verify`].
    pub fn finish(self, with_verify: bool) -> Result<Option<String>, Fault> {
        let Host::Own(server) = self else { return Ok(None) };
        let is_in_memory = server.is_in_memory();
        let stopped = server.stop()?;
        let mut told = format!("stopped in {:.1} s", stopped.stop_time.as_secs_f64());
        if with_verify {
            stopped.verify()?;
            told.push_str(", and `varve verify` says that the store is intact");
        }
        if is_in_memory {
            told.push_str(
                "; ITS STORE LAY IN MEMORY: a sync cost nothing, the rates say nothing about a disk",
            );
        }
        Ok(Some(told))
    }
}

/// Memory of a process, MiB: now and at its most, by the kernel's count.
///
/// # Errors
/// There is no such process.
pub fn memory_mib(pid: u32) -> Result<(u64, u64), Fault> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status =
        status.map_err(|error| Fault::unable(format!("process {pid} cannot be looked at: {error}")))?;
    let of = |name: &str| status_kib(&status, name).map(|kib| kib.div_ceil(1024));
    match (of("VmRSS:"), of("VmHWM:")) {
        (Some(now), Some(most)) => Ok((now, most)),
        _ => Err(Fault::unable(format!("process {pid} has ended"))),
    }
}

fn status_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The first line of the child's output.
fn first_line(child: &mut Child) -> Result<String, Fault> {
    let Some(stdout) = child.stdout.take() else { return Err(Fault::unable("the server has no output")) };
    let (tell, told) = mpsc::channel();
    // Ends with the child at the latest: its output is closed then.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).take(64 << 10).read_line(&mut line);
        let _ = tell.send(read.map(|_| line));
    });
    match told.recv_timeout(START_TIME) {
        Ok(Ok(line)) if !line.is_empty() => Ok(line),
        Ok(Ok(_)) => Err(Fault::unable("the server ended before it listened")),
        Ok(Err(error)) => Err(Fault::unable(error)),
        Err(_) => Err(Fault::unable("the server did not say within 30 s where it listens")),
    }
}

fn announced(line: &str) -> Result<(SocketAddr, String), Fault> {
    let said: serde_json::Value = serde_json::from_str(line)
        .map_err(|_| Fault::unable("the first line of `serve --json` is not JSON"))?;
    let (Some(url), Some(key_file)) = (said["url"].as_str(), said["operator_key_file"].as_str()) else {
        return Err(Fault::unable("`serve --json` names no url or no operator_key_file"));
    };
    let key = fs::read_to_string(key_file)
        .map_err(|error| Fault::unable(format!("the operator key cannot be read: {error}")))?;
    Ok((target::parse(url)?, key.trim().to_owned()))
}

fn log_end(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("server.log")).unwrap_or_default();
    let mut lines: Vec<&str> = log.lines().rev().take(5).collect();
    lines.reverse();
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_of_memory_is_read() {
        let status = "Name:\tvarve\nVmHWM:\t  199332 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_kib(status, "VmHWM:"), Some(199_332));
        assert_eq!(status_kib(status, "VmSwap:"), None);
        let (now, most) = memory_mib(std::process::id()).unwrap();
        assert!(now > 0 && most >= now);
    }

    #[test]
    fn what_serve_says_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "varve_k\n").unwrap();
        let line = serde_json::json!({"url": "http://127.0.0.1:4711", "operator_key_file": file}).to_string();
        let (address, key) = announced(&line).unwrap();
        assert_eq!((address.port(), key.as_str()), (4711, "varve_k"));
        for bad in ["", "{}", r#"{"url":"http://127.0.0.1:1","operator_key_file":null}"#] {
            assert!(announced(bad).is_err(), "{bad}");
        }
    }
}
