//! A store with a clock of the test's own, some tenants, and a memory of what was stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use varve::ingest::clock::Clock;
use varve::service::{
    BatchMode, CompactionView, ConfirmClock, OpenOptions, Principal, Scope, Scopes, Service, Submitted,
};

pub(crate) struct Hands(pub(crate) AtomicU64);

impl Clock for Hands {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) const START: &str = "2024-01-31T23:59:00Z";

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) hands: Arc<Hands>,
    /// Absent only while the store is opened anew: one process opens it once.
    pub(crate) service: Option<Service>,
    /// tenant, index, class, recorded_at
    pub(crate) stored: Vec<(String, u64, String, DateTime<Utc>)>,
}

pub(crate) fn operator() -> Principal {
    let scopes = Scopes::default().with(Scope::Operator);
    Principal { key_id: "0123456789abcdef".into(), tenant: None, scopes }
}

pub(crate) fn of(tenant: &str) -> Principal {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator);
    let scopes = scopes.fold(Scopes::default(), Scopes::with);
    Principal { key_id: "fedcba9876543210".into(), tenant: Some(tenant.into()), scopes }
}

pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

impl World {
    pub(crate) fn new(tenants: &[&str]) -> World {
        let dir = tempfile::tempdir().unwrap();
        let start: DateTime<Utc> = START.parse().unwrap();
        let hands = Arc::new(Hands(AtomicU64::new(start.timestamp_micros() as u64)));
        let options = World::options(&hands);
        Service::init(&dir.path().join("store"), Some("test.example"), None, &options).unwrap();
        let service = Service::open(&dir.path().join("store"), &options).unwrap();
        for tenant in tenants {
            service.create_tenant(&operator(), tenant).unwrap();
        }
        World { dir, hands, service: Some(service), stored: Vec::new() }
    }

    pub(crate) fn options(hands: &Arc<Hands>) -> OpenOptions {
        OpenOptions {
            clock: hands.clone(),
            heartbeat_seconds: 0,
            low_water_bytes: 0,
            erasure_pauses: false,
            ..OpenOptions::default()
        }
    }

    pub(crate) fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    pub(crate) fn reopen(&mut self) {
        self.service.take().unwrap().stop().unwrap();
        let options = World::options(&self.hands);
        self.service = Some(Service::open(&self.dir.path().join("store"), &options).unwrap());
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.hands.wall_micros() as i64).unwrap()
    }

    pub(crate) fn go_to(&self, at: DateTime<Utc>) {
        self.hands.0.store(at.timestamp_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn append(&mut self, tenant: &str, count: usize, class: Option<&str>, action: &str) {
        let mut left = count;
        while left > 0 {
            let part = left.min(500);
            left -= part;
            let class = class.map_or(String::new(), |class| format!(",\"class\":\"{class}\""));
            let raws: Vec<String> = (0..part)
                .map(|nth| {
                    format!(
                        "{{\"action\":\"{action}\",\"outcome\":\"success\",\"actor\":{{\"type\":\"user\",\"id\":\"u-{}\"}},\
                         \"metadata\":{{\"n\":\"{left} {nth} of some length to be worth its place on disk\"}}{class}}}",
                        nth % 7
                    )
                })
                .collect();
            let events: Vec<Submitted<'_>> =
                raws.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
            let receipts =
                wait_for(self.service().append(&of(tenant), tenant, &events, BatchMode::Atomic, false))
                    .unwrap();
            for receipt in receipts {
                let receipt = receipt.unwrap();
                let event = self.event(tenant, receipt.index);
                self.stored.push((
                    tenant.to_owned(),
                    receipt.index,
                    event["event"]["class"].as_str().unwrap().to_owned(),
                    receipt.recorded_at.parse().unwrap(),
                ));
            }
        }
    }

    pub(crate) fn event(&self, tenant: &str, index: u64) -> Value {
        let record = self.service().record(&of(tenant), tenant, index, true).unwrap();
        serde_json::from_str(&record.json).unwrap()
    }

    pub(crate) fn set(&self, tenant: &str, change: Value) {
        self.service().set_retention(&of(tenant), tenant, change.to_string().as_bytes()).unwrap();
    }

    /// Waits until the layers of months that are over are sealed.
    pub(crate) fn settle(&self, closed: usize) {
        let layers = self.dir.path().join("store/layers");
        for _ in 0..1000 {
            let sealed = std::fs::read_dir(&layers)
                .unwrap()
                .filter(|dir| dir.as_ref().unwrap().path().join("SEAL").exists());
            if sealed.count() >= closed {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the layers were not sealed");
    }

    /// A compaction to its end, whatever that is.
    pub(crate) fn try_compact(&self, confirm: ConfirmClock) -> CompactionView {
        let mut job = self.service().start_compaction(&operator(), confirm).unwrap();
        while job.state == "running" {
            std::thread::sleep(Duration::from_millis(5));
            job = self.service().compaction(&operator(), &job.id).unwrap();
        }
        job
    }

    pub(crate) fn compact(&self) -> CompactionView {
        let job = self.try_compact(ConfirmClock::Yes);
        assert_eq!((job.state.as_str(), &job.detail), ("done", &None), "{job:?}");
        job
    }

    /// Has the store verified offline, as the command does, and answers how many bodies it found expired.
    pub(crate) fn verify(&mut self) -> u64 {
        if let Some(service) = self.service.take() {
            service.stop().unwrap();
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["--json", "verify"])
            .arg(self.dir.path().join("store"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&text).unwrap();
        report["bodies_expired"].as_u64().unwrap_or_else(|| panic!("{report}"))
    }
}
