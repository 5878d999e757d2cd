//! Metrics of the process, under the names that Prometheus gives them for every program. Read from `/proc/self`.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

use super::register;

/// Names of open files that are counted; the limit of a process is seldom above it.
const MAX_FDS: usize = 65_536;

/// What is told of the process.
#[derive(Debug)]
pub(super) struct Process {
    start_time: Gauge<f64, AtomicU64>,
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge<u64, AtomicU64>,
    virtual_memory: Gauge<u64, AtomicU64>,
    open_fds: Gauge<u64, AtomicU64>,
    max_fds: Gauge<u64, AtomicU64>,
}

impl Process {
    pub(super) fn new(registry: &mut Registry) -> Process {
        Process {
            start_time: register(
                registry,
                "process_start_time_seconds",
                "When the process started, seconds since 1970",
                Gauge::default(),
            ),
            cpu: register(
                registry,
                "process_cpu_seconds",
                "Processor time used, user and system",
                Counter::default(),
            ),
            resident: register(
                registry,
                "process_resident_memory_bytes",
                "Memory that is in RAM",
                Gauge::default(),
            ),
            virtual_memory: register(
                registry,
                "process_virtual_memory_bytes",
                "Addresses that are mapped",
                Gauge::default(),
            ),
            open_fds: register(registry, "process_open_fds", "Open file descriptors", Gauge::default()),
            max_fds: register(
                registry,
                "process_max_fds",
                "Most file descriptors that may be open",
                Gauge::default(),
            ),
        }
    }

    /// Reads all of them; what cannot be read stays as it was.
    pub(super) fn read(&self) {
        let ticks = rustix::param::clock_ticks_per_second();
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            let boot = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_seconds);
            if let Some(boot) = boot {
                self.start_time.set(seconds(boot.saturating_mul(ticks) + stat.start_ticks, ticks));
            }
            // A counter of the kernel's: taken over, not added up.
            let cpu = seconds(stat.cpu_ticks, ticks);
            self.cpu.inner().store(cpu.to_bits(), Ordering::Relaxed);
            self.virtual_memory.set(stat.virtual_bytes);
        }
        if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes)
        {
            self.resident.set(bytes);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The one that reads the directory is not counted.
            self.open_fds.set(entries.take(MAX_FDS).count().saturating_sub(1) as u64);
        }
        self.max_fds.set(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
    }
}

/// What is needed of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name in parentheses may hold anything; the fields behind it begin with the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, virtual_bytes: field(23)? })
    }
}

/// `btime` of `/proc/stat`: when the machine started, seconds since 1970.
fn boot_seconds(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// `VmRSS` of `/proc/self/status`, which is in KiB.
fn resident_bytes(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Ticks as seconds: exact to 2^53 ticks, 2.8 million years.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn seconds(ticks: u64, ticks_per_second: u64) -> f64 {
    ticks as f64 / ticks_per_second.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let text = "7 (a) b 9 (c)) S 1 7 7 0 -1 4194560 5 0 0 0 30 12 0 0 20 0 9 0 4711 99000 250 1 2";
        let stat = Stat { cpu_ticks: 42, start_ticks: 4711, virtual_bytes: 99_000 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\nprocesses 4\n"), Some(1_700_000_000));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2_097_152));
    }

    #[test]
    fn this_process_can_be_read() {
        let mut registry = Registry::default();
        let process = Process::new(&mut registry);
        process.read();
        assert!(process.start_time.get() > 1.0e9, "{}", process.start_time.get());
        assert!(process.resident.get() > 1 << 20 && process.virtual_memory.get() >= process.resident.get());
        assert!(process.open_fds.get() >= 3 && process.max_fds.get() >= process.open_fds.get());
        let before = process.cpu.get();
        let mut sum = 0u64;
        (0..30_000_000u64).for_each(|number| sum = std::hint::black_box(sum.wrapping_add(number)));
        process.read();
        assert!(process.cpu.get() >= before && process.cpu.get() > 0.0);
    }
}
