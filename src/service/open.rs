//! Making, opening and stopping a store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::checkpoints::SignedCheckpoints;
use super::compactions::{BYTES_PER_SECOND, Compactions};
use super::erasures::{BACKUP_DAYS, Erasures};
use super::housekeeper::Housekeeper;
use super::read::QUERY_TIME;
use super::refused::RefusedUses;
use super::retention::{FLOOR_MONTHS, Retention};
use super::{
    CompactionPlan, CompactionView, ConfirmClock, Error, ErrorCode, Inner, Scope, Scopes, Service, random,
};
use crate::event::catalog::{Builder, action};
use crate::event::{Instance, Outcome};
use crate::ingest::clock::{Clock, Stamps, SystemClock};
use crate::ingest::queue::{MAX_QUEUED_BYTES, MAX_QUEUED_EVENTS};
use crate::ingest::{Pace, Pipeline};
use crate::journal;
use crate::process::space::{FreeSpace, LOW_WATER_FLOOR_BYTES};
use crate::process::watchdog::Watchdog;
use crate::store::backend::Backend;
use crate::store::fresh;
use crate::store::read::Store;
use crate::store::recovery;
use crate::store::sled::SledBackend;
use crate::telemetry::Telemetry;
use crate::telemetry::disk::Measure;
use crate::tlog::hash::Hash;

/// How far the clock may be behind the newest entry at start: 24 hours.
const MAX_BEHIND_MICROS: u64 = 24 * 3600 * 1_000_000;

/// How to open.
#[derive(Clone)]
pub struct OpenOptions {
    /// Start although the clock is over 24 h behind the newest entry.
    pub confirm_clock: bool,
    /// Seconds between heartbeats; 0 is none.
    pub heartbeat_seconds: u64,
    /// Free space below which nothing is rewritten; appends are refused below it and room to rewrite the largest layer.
    pub low_water_bytes: u64,
    /// How long one query may work.
    pub query_time: Duration,
    /// Most events queued, planned or on their way to disk.
    pub max_queued_events: usize,
    /// Most bytes of the same.
    pub max_queued_bytes: usize,
    /// Least months that a retention policy may give a class.
    pub retention_floor_months: u16,
    /// Bytes that a compaction reads and writes in a second; 0 is as many as it can.
    pub compaction_bytes_per_second: u64,
    /// Hours between compactions that begin by themselves; 0 is none.
    pub compaction_hours: u64,
    /// Whether the erasure of a person needs two keys.
    pub erasure_needs_approval: bool,
    /// Whether erasures that are done one after the other keep apart: each closes a part of the month.
    pub erasure_pauses: bool,
    /// Days that backups are kept: an erasure says until when they still hold what it took.
    pub backup_days: u16,
    /// The store below.
    pub backend: Arc<dyn Backend>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Sizes of the journal.
    pub journal: journal::Options,
    /// When a checkpoint of the journal is due.
    pub checkpoints: Pace,
    /// Where the service counts. Clones of these options share it: give each service its own.
    pub telemetry: Telemetry,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            confirm_clock: false,
            heartbeat_seconds: 60,
            low_water_bytes: LOW_WATER_FLOOR_BYTES,
            query_time: QUERY_TIME,
            max_queued_events: MAX_QUEUED_EVENTS,
            max_queued_bytes: MAX_QUEUED_BYTES,
            retention_floor_months: FLOOR_MONTHS,
            compaction_bytes_per_second: BYTES_PER_SECOND,
            compaction_hours: 0,
            erasure_needs_approval: false,
            erasure_pauses: true,
            backup_days: BACKUP_DAYS,
            backend: Arc::new(SledBackend::new(Watchdog::aborting())),
            clock: Arc::new(SystemClock),
            journal: journal::Options::default(),
            checkpoints: Pace::default(),
            telemetry: Telemetry::new(),
        }
    }
}

/// What `init` made.
pub struct Initialised {
    /// The instance's name.
    pub instance: String,
    /// The operator key, shown once.
    pub operator_key: String,
}

/// A log that is shorter than a checkpoint that was signed of it, another one, or gone, was rolled back.
fn refuse_what_was_signed_otherwise(store: &Store, signed: &SignedCheckpoints) -> Result<(), Error> {
    for (number, last) in signed.all().map_err(refused)? {
        let (tenant, size, root) = match store.log(number) {
            Some(log) => {
                let head = log.head();
                (log.identity.tenant.clone(), head.size, head.frontier.root())
            }
            None => (format!("log number {number}"), 0, Hash::ZERO),
        };
        if last.size > size || last.size == size && last.root != root {
            let detail = format!(
                "{tenant}: a checkpoint of size {} was signed, the log has {size} entries: it was rolled back or forked. \
                 The store is not served; find out which copy is the true one.",
                last.size
            );
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
    }
    Ok(())
}

impl Service {
    /// Whether `data` holds a store.
    pub fn is_initialised(data: &Path) -> bool {
        data.join("MANIFEST").exists()
    }

    /// Makes a store: its own log, and the operator key.
    pub fn init(
        data: &Path,
        instance: Option<&str>,
        recovery_key: Option<[u8; 32]>,
        options: &OpenOptions,
    ) -> Result<Initialised, Error> {
        if Service::is_initialised(data) {
            let detail = format!("{} holds a store already; it is unchanged", data.display());
            return Err(Error::new(ErrorCode::AlreadyExists, detail));
        }
        let instance = match instance {
            Some(name) => {
                Instance::parse(name).map_err(|bad| Error::new(ErrorCode::BadRequest, bad.to_string()))?
            }
            None => {
                let mut suffix = [0; 4];
                random(&mut suffix);
                Instance::parse(&format!("varve-{:08x}.local", u32::from_be_bytes(suffix)))
                    .map_err(refused)?
            }
        };
        fresh::create(data, &instance, &options.journal, &mut random).map_err(refused)?;
        let service = Service::open_parts(data, options, false)?;
        let operator_key = service.bootstrap(recovery_key.as_ref())?;
        service.stop()?;
        Ok(Initialised { instance: instance.as_str().to_owned(), operator_key })
    }

    /// Opens the store in `data`, or says why not. It serves when this returns.
    pub fn open(data: &Path, options: &OpenOptions) -> Result<Service, Error> {
        let service = Service::open_parts(data, options, true)?;
        if service.0.store.log_of("_system").is_none() {
            // `init` was cut off before the first entry: the operator key it would have shown does not exist.
            service.bootstrap(None)?;
        }
        service.started()?;
        Ok(service)
    }

    /// `is_served` is whether it stays open: what a stopped server is opened for, for one act, begins no erasure.
    pub(super) fn open_parts(data: &Path, options: &OpenOptions, is_served: bool) -> Result<Service, Error> {
        let recovered = recovery::open(data, options.backend.clone(), &options.journal).map_err(refused)?;
        let wall = options.clock.wall_micros();
        if recovered.newest_stamp > wall + MAX_BEHIND_MICROS && !options.confirm_clock {
            let hours = (recovered.newest_stamp - wall) / 3_600_000_000;
            let detail = format!(
                "the clock is {hours} hours behind the newest entry; the store is not served, nothing was changed. \
                 Set the clock, or start with --confirm-clock if the newest entry is the one that is wrong."
            );
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        for warning in &recovered.warnings {
            tracing::warn!(%warning, "noticed while opening");
        }
        let stamps = Arc::new(Stamps::new(options.clock.clone(), recovered.newest_stamp));
        if recovered.newest_frame > 0 && !SignedCheckpoints::is_there(data) {
            tracing::warn!(
                "signed-checkpoints is not there, as after a restore on another machine: whether the store is older than \
                 what was signed from it cannot be told; hold it against checkpoints kept elsewhere"
            );
        }
        let signed = SignedCheckpoints::open(data).map_err(refused)?;
        refuse_what_was_signed_otherwise(&recovered.store, &signed)?;
        options.telemetry.write().know_codes(ErrorCode::ALL.map(ErrorCode::as_str));
        options.telemetry.http().know_codes(ErrorCode::ALL.map(ErrorCode::as_str));
        options.telemetry.keys().know_reasons(super::refused::reasons());
        let restored = super::holds::restore(&recovered.store)?;
        let pipeline = Pipeline::start(
            &recovered.store,
            restored.matchers,
            recovered.applier,
            recovered.journal,
            &recovered.signers,
            &stamps,
            options.checkpoints,
            &options.telemetry,
        )
        .map_err(refused)?;
        pipeline.queue.set_room(options.max_queued_events, options.max_queued_bytes);
        let space = FreeSpace::new(data);
        space.set_floor_bytes(options.low_water_bytes);
        let service = Service(Arc::new(Inner {
            space,
            query_time: options.query_time,
            measure: Measure::new(data),
            telemetry: options.telemetry.clone(),
            refused: RefusedUses::default(),
            stopping: AtomicBool::new(false),
            store: recovered.store,
            pipeline,
            stamps,
            signers: RwLock::new(recovered.signers),
            key_file: recovered.key_file,
            signed,
            notes: Mutex::default(),
            creating: Mutex::new(()),
            verifications: Default::default(),
            sealing: Mutex::new(()),
            retention: Retention::new(options.retention_floor_months),
            compactions: Compactions::new(options.compaction_bytes_per_second, options.clock.steady_micros()),
            holds: restored.holds,
            approvals: Default::default(),
            erasures: Erasures::new(
                is_served,
                options.erasure_needs_approval,
                options.erasure_pauses,
                options.backup_days,
            ),
            housekeeper: Mutex::new(None),
            heartbeat_seconds: options.heartbeat_seconds,
            forgetting: Mutex::new(()),
            lock: Mutex::new(Some(recovered.lock)),
        }));
        let housekeeper = Housekeeper::start(&service, options.heartbeat_seconds, options.compaction_hours)
            .map_err(refused)?;
        *service.0.housekeeper.lock() = Some(housekeeper);
        service.keep_room();
        Ok(service)
    }

    /// The instance's own log and the operator key.
    fn bootstrap(&self, recovery_key: Option<&[u8; 32]>) -> Result<String, Error> {
        self.create_log("_system", recovery_key, None)?;
        Ok(self.make_key(None, "operator", Scopes::default().with(Scope::Operator), 0, None)?.key)
    }

    fn started(&self) -> Result<(), Error> {
        let event = Builder::new(action::SERVICE_STARTED, Outcome::Success)
            .fact("version", env!("CARGO_PKG_VERSION"));
        self.write_system(event).map(drop)
    }

    /// Writes `varve.service.stopped`, finishes what was taken, makes a clean checkpoint, closes. Idempotent.
    pub fn stop(&self) -> Result<(), Error> {
        let Some(lock) = self.0.lock.lock().take() else { return Ok(()) };
        self.begin_stop();
        let housekeeper = self.0.housekeeper.lock().take();
        drop(housekeeper);
        self.0.verifications.stop();
        self.0.compactions.stop();
        self.0.erasures.stop();
        // Whatever becomes of the entry, the threads end before the lock is given up.
        let written = match self.0.store.poison.reason() {
            None => {
                let refusals = self.write_refused_uses(true);
                let stopped = self.write_system(Builder::new(action::SERVICE_STOPPED, Outcome::Success));
                refusals.and(stopped.map(drop))
            }
            Some(_) => Ok(()),
        };
        let stopped = self.0.pipeline.stop().map_err(refused);
        self.0.store.layers.close();
        drop(lock);
        stopped.and(written)
    }

    /// Why the store stopped acknowledging, once it did: the process is to exit then.
    pub fn poisoned(&self) -> Option<String> {
        self.0.store.poison.reason().map(str::to_owned)
    }

    /// Replaces every operator key by a new one. The server must be stopped.
    pub fn reset_operator_key(data: &Path, options: &OpenOptions) -> Result<String, Error> {
        let service = Service::open_parts(data, options, false)?;
        let reset = || -> Result<String, Error> {
            for key in service
                .0
                .store
                .api_keys()
                .into_iter()
                .filter(|key| key.tenant.is_none() && key.revoked_at == 0)
            {
                service.revoke(key, None)?;
            }
            service.write_system(Builder::new(action::OPERATOR_KEY_RESET, Outcome::Success))?;
            Ok(service.make_key(None, "operator", Scopes::default().with(Scope::Operator), 0, None)?.key)
        };
        let key = reset();
        service.stop().and(key)
    }

    /// Lets go of all bodies whose time is up. `stands` hears how it stands. The server must be stopped.
    pub fn compact(
        data: &Path,
        confirm: ConfirmClock,
        options: &OpenOptions,
        stands: &mut dyn FnMut(&CompactionView),
    ) -> Result<CompactionView, Error> {
        let service = Service::open_parts(data, options, false)?;
        let done = service.begin_month().and_then(|()| service.compact_now(confirm, stands));
        service.stop().and(done)
    }

    /// What [`Service::compact`] would do. It opens the store for that: the instance's own log says so.
    pub fn plan(data: &Path, options: &OpenOptions) -> Result<CompactionPlan, Error> {
        let service = Service::open_parts(data, options, false)?;
        let plan = service.begin_month().and_then(|()| service.plan_now());
        service.stop().and(plan)
    }

    /// Writes `varve.service.started`, so that the month which is over is no longer the newest, and seals it.
    fn begin_month(&self) -> Result<(), Error> {
        self.started()?;
        self.seal_now();
        Ok(())
    }

    /// Rotates the signing key of one tenant's log, or of all. Returns the new vkeys. The server must be stopped.
    pub fn rotate_signing_key(
        data: &Path,
        tenant: Option<&str>,
        options: &OpenOptions,
    ) -> Result<Vec<String>, Error> {
        let service = Service::open_parts(data, options, false)?;
        let rotate = || -> Result<Vec<String>, Error> {
            let tenants: Vec<String> = match tenant {
                Some(tenant) => vec![tenant.to_owned()],
                None => service.0.store.logs().iter().map(|log| log.identity.tenant.clone()).collect(),
            };
            tenants.iter().map(|tenant| service.rotate_key(tenant)).collect()
        };
        let keys = rotate();
        service.stop().and(keys)
    }
}

/// A refusal to open: it says what was found; nothing is served.
fn refused(error: impl std::error::Error) -> Error {
    Error::new(ErrorCode::ReadOnly, error.to_string())
}
