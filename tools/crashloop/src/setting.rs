//! The store that is killed: where it is, how it is opened, how fast its clock runs, who asks.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use varve::ingest::Pace;
use varve::ingest::clock::Clock;
use varve::journal;
use varve::process::watchdog::Watchdog;
use varve::service::{OpenOptions, Principal, Scope, Scopes, Service};
use varve::store::backend::Backend;
use varve::store::sled::SledBackend;

use crate::phase::{PhaseFile, Watched};

/// The tenants; the instance's own log is checked as well.
pub(crate) const TENANTS: [&str; 4] = ["north", "east", "south", "west"];

/// The instance's own log.
pub(crate) const SYSTEM: &str = "_system";

/// How many times as fast the clock runs: a month in 1.8 seconds.
const SPEED: u64 = 1_500_000;

/// Where the clock begins: 2026-01-20, microseconds.
const BEGIN_MICROS: u64 = 1_768_867_200_000_000;

/// What all processes of one run share.
pub(crate) struct Setting {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    origin_micros: u64,
}

impl Setting {
    /// Writes the setting of a new run.
    pub(crate) fn make(dir: &Path, seed: u64) -> std::io::Result<Setting> {
        fs::create_dir_all(dir.join("ledger"))?;
        let setting = Setting { dir: dir.to_owned(), seed, origin_micros: real_micros() };
        fs::write(dir.join("setting"), format!("{} {}", setting.seed, setting.origin_micros))?;
        Ok(setting)
    }

    /// Reads the setting of a run.
    pub(crate) fn read(dir: &Path) -> Result<Setting, String> {
        let text = fs::read_to_string(dir.join("setting")).map_err(|error| error.to_string())?;
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (seed, origin_micros) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        Ok(Setting { dir: dir.to_owned(), seed, origin_micros })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Makes the store and its tenants.
    pub(crate) fn init(&self) -> Result<(), String> {
        let options = self.options(None);
        let told = |error: varve::service::Error| error.to_string();
        let made = Service::init(&self.data(), Some("crash.test"), None, &options).map_err(told)?;
        let service = Service::open(&self.data(), &options).map_err(told)?;
        let operator = service.authenticate(&made.operator_key).map_err(told)?;
        for tenant in TENANTS {
            service.create_tenant(&operator, tenant).map_err(told)?;
        }
        service.stop().map_err(told)
    }

    /// Small segments and frequent checkpoints, so that kills fall among them.
    pub(crate) fn options(&self, phases: Option<Arc<PhaseFile>>) -> OpenOptions {
        let sled: Arc<dyn Backend> = Arc::new(SledBackend::new(Watchdog::aborting()));
        OpenOptions {
            heartbeat_seconds: 1,
            backend: match phases {
                Some(phases) => Arc::new(Watched::new(sled, phases)),
                None => sled,
            },
            clock: Arc::new(Fast { origin_micros: self.origin_micros }),
            // A frame holds a group of 1 MiB and one submission more.
            journal: journal::Options { segment_bytes: 4 << 20, max_frame_bytes: 2 << 20, background: true },
            checkpoints: Pace { bytes: 256 << 10, interval: Duration::from_millis(60), warm_bytes: 64 << 10 },
            ..OpenOptions::default()
        }
    }
}

/// Who appends to and reads a tenant's log, or reads the instance's own.
pub(crate) fn principal(tenant: &str) -> Principal {
    let own = tenant == SYSTEM;
    let scopes = if own {
        Scopes::default().with(Scope::Operator)
    } else {
        Scopes::default().with(Scope::Ingest).with(Scope::Read)
    };
    Principal { key_id: "crashloop".to_owned(), tenant: (!own).then(|| tenant.to_owned()), scopes }
}

fn real_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// A fast clock. Both readings of one thread are one: the two never part, however long a thread sleeps between.
struct Fast {
    origin_micros: u64,
}

thread_local! {
    static LAST: Cell<u64> = const { Cell::new(0) };
}

impl Clock for Fast {
    fn wall_micros(&self) -> u64 {
        let now = BEGIN_MICROS + real_micros().saturating_sub(self.origin_micros) * SPEED;
        LAST.set(now);
        now
    }

    fn steady_micros(&self) -> u64 {
        LAST.get()
    }
}
