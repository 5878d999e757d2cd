//! Kills a working store again and again and checks each time that nothing acknowledged is gone.
//!
//! `cargo run --release -p varve-crashloop -- --cycles 200 --seed 1`. The program starts itself as `child`,
//! which opens a store and appends with eight writers over four tenants; a receipt goes into a ledger file
//! only after `append` returned it. At a moment chosen by the seed the child gets SIGKILL. Then the program
//! starts itself as `check`, which opens the store, walks what is new and a sample of what is old, and sends
//! acknowledged events again; half of the checks end by a SIGKILL of their own instead of a stop.
//!
//! Red, with exit code 1 and the store kept: an open that is refused, a receipt whose record is missing or
//! another, a gap, an id that stands twice, a log that shrank, a repeat that is not answered as a duplicate
//! at its index, a record whose entry, link, commitment or signature does not hold.
//!
//! Negative control: `--features varve/unsafe-ack-before-journal` answers before the journal is written, and
//! must go red within a few cycles. `unsafe-skip-journal-sync` does not: a kill loses nothing that reached
//! the page cache; that is for the power-cut harness.
//!
//! Limits: a kill is no power cut. The clock runs 1,500,000 times as fast, a month in 1.8 seconds.

#![allow(clippy::disallowed_methods, reason = "the tool measures time and starts threads")]

mod check;
mod child;
mod oracle;
mod phase;
mod random;
mod setting;
mod subject;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use oracle::Oracle;
use phase::{Phase, PhaseFile};
use random::Random;
use setting::Setting;

/// Longest wait for a moment that a kill is aimed at, such as a new month.
const AIM_LIMIT: Duration = Duration::from_secs(4);

/// Longest check: open, walk, repeat.
const CHECK_LIMIT: Duration = Duration::from_secs(300);

/// A check of every record each so many cycles, and at the end.
const FULL_EVERY: u64 = 25;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["child", dir, cycle] => child::run(Path::new(dir), cycle.parse().unwrap_or(0)),
        ["check", dir, request] => check::run(Path::new(dir), request),
        options => return run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &[&str]) -> ExitCode {
    let (mut cycles, mut seed, mut dir) = (200, 1, None);
    for pair in options.chunks(2) {
        match pair {
            ["--cycles", value] => cycles = value.parse().unwrap_or(cycles),
            ["--seed", value] => seed = value.parse().unwrap_or(seed),
            ["--dir", value] => dir = Some(PathBuf::from(value)),
            _ => {
                eprintln!("usage: varve-crashloop [--cycles N] [--seed N] [--dir EMPTY_DIRECTORY]");
                return ExitCode::from(2);
            }
        }
    }
    let kept = tempfile::Builder::new().prefix("varve-crashloop-").tempdir();
    let (dir, kept) = match (dir, kept) {
        (Some(dir), _) => (dir, None),
        (None, Ok(kept)) => (kept.path().to_owned(), Some(kept)),
        (None, Err(error)) => {
            eprintln!("no directory to work in: {error}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut run = Run {
        dir: dir.clone(),
        random: Random::new(seed),
        kills: BTreeMap::new(),
        oracle: Oracle::default(),
        open_ms: 60,
    };
    let mut finding = run.prepare(seed).err();
    let mut done = 0;
    while finding.is_none() && done < cycles {
        done += 1;
        let is_full = done % FULL_EVERY == 0 || done == cycles;
        finding = run.cycle(done, is_full).err().map(|finding| format!("cycle {done}: {finding}"));
        if done % FULL_EVERY == 0 {
            eprintln!("{done} cycles, {} receipts, {} records", run.oracle.receipts, run.oracle.records());
        }
    }
    for (phase, count) in &run.kills {
        eprintln!("{count:6} kills in {phase}");
    }
    let result = serde_json::json!({
        "harness": "crashloop", "seed": seed, "commit": commit(), "cycles": done,
        "receipts": run.oracle.receipts, "records": run.oracle.records(), "repeats": run.oracle.repeats,
        "kills": run.kills, "finding": finding, "seconds": start.elapsed().as_secs(),
    });
    println!("{result}");
    if let Some(finding) = finding {
        eprintln!("RED: {finding}; the store is kept in {}", dir.display());
        kept.map(tempfile::TempDir::keep);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// One run over one store.
struct Run {
    dir: PathBuf,
    random: Random,
    kills: BTreeMap<String, u64>,
    oracle: Oracle,
    /// How long the last open took.
    open_ms: u64,
}

/// When the child is to be killed.
enum Aim {
    /// While it opens, after so long.
    Opening(Duration),
    /// So long after it began to serve.
    Serving(Duration),
    /// So long after a layer began to sync.
    LayerSync(Duration),
    /// So long after a new layer began to be made.
    Rollover(Duration),
}

impl Run {
    fn prepare(&mut self, seed: u64) -> Result<(), String> {
        let setting = Setting::make(&self.dir, seed).map_err(|error| error.to_string())?;
        setting.init()
    }

    fn cycle(&mut self, cycle: u64, is_full: bool) -> Result<(), String> {
        self.killed_child(cycle)?;
        let ledger = self.dir.join("ledger");
        let repeats = self.oracle.take_ledger(&ledger)?;
        let request = self.oracle.request(&repeats, is_full, self.random.below(2) == 0, &mut self.random);
        let path = self.dir.join("request");
        fs::write(&path, request).map_err(|error| error.to_string())?;
        let walked = self.checked(&path)?;
        self.oracle.compare(&walked)
    }

    /// Starts a child, kills it, and notes where the kill fell.
    fn killed_child(&mut self, cycle: u64) -> Result<(), String> {
        let phases = PhaseFile::create(&self.dir).map_err(|error| error.to_string())?;
        let aim = match cycle % 6 {
            0 | 3 => Aim::Opening(Duration::from_micros(self.random.below(self.open_ms * 1300))),
            1 => Aim::LayerSync(Duration::from_micros(self.random.below(4000))),
            2 => Aim::Rollover(Duration::from_micros(self.random.below(15_000))),
            _ => Aim::Serving(Duration::from_millis(20 + self.random.below(600))),
        };
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(["child", &self.dir.to_string_lossy(), &cycle.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let start = Instant::now();
        let wait_for = |child: &mut std::process::Child,
                        reached: &dyn Fn(&PhaseFile) -> bool,
                        limit: Duration| {
            let begin = Instant::now();
            while !reached(&phases) && begin.elapsed() < limit && child.try_wait().ok().flatten().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        let serves = |phases: &PhaseFile| phases.phase() == Phase::Serving;
        if !matches!(aim, Aim::Opening(_)) {
            wait_for(&mut child, &serves, Duration::from_secs(60));
            if serves(&phases) {
                self.open_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(60).clamp(10, 2000);
            }
        }
        let delay = match aim {
            Aim::Opening(delay) => delay,
            Aim::Serving(delay) => delay,
            Aim::LayerSync(delay) => {
                wait_for(&mut child, &PhaseFile::is_in_layer_sync, AIM_LIMIT);
                delay
            }
            Aim::Rollover(delay) => {
                wait_for(&mut child, &PhaseFile::is_in_layer_open, AIM_LIMIT);
                delay
            }
        };
        std::thread::sleep(delay);
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        let place = phases.classify(child.id());
        if let Some(status) = ended {
            return Err(format!("the child ended by itself: {status}; see its words above"));
        }
        child.kill().and_then(|()| child.wait()).map_err(|error: io::Error| error.to_string())?;
        *self.kills.entry(place).or_default() += 1;
        Ok(())
    }

    /// Runs a check and returns what it walked.
    fn checked(&self, request: &Path) -> Result<String, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let walked = self.dir.join("walked");
        let _ = fs::remove_file(&walked);
        let mut check = Command::new(program)
            .args(["check", &self.dir.to_string_lossy(), &request.to_string_lossy()])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let start = Instant::now();
        while check.try_wait().map_err(|error| error.to_string())?.is_none() {
            if start.elapsed() > CHECK_LIMIT {
                let _ = check.kill();
                return Err(format!("the check did not end in {CHECK_LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Its last line says that it came through; it may well have killed itself after that.
        let text =
            fs::read_to_string(&walked).map_err(|_| "the check failed; see its words above".to_owned())?;
        match text.strip_suffix("end\n") {
            Some(text) => Ok(text.to_owned()),
            None => Err("the check failed; see its words above".to_owned()),
        }
    }
}

fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
