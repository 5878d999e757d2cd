//! For tests: a store with a clock of the test's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Months};
use serde_json::Value;

use super::{BatchMode, Error, OpenOptions, Principal, Receipt, Scope, Scopes, Service, Submitted};
use crate::ingest::clock::Clock;
use crate::store::layer_id::LayerId;

/// November 2026.
const START: u64 = 1_794_300_000_000_000;

pub(super) struct Hands(AtomicU64);

impl Clock for Hands {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct World {
    dir: tempfile::TempDir,
    hands: Arc<Hands>,
    needs_approval: bool,
    /// Absent only while the store is opened anew.
    service: Option<Service>,
}

pub(super) fn operator() -> Principal {
    let scopes = Scopes::default().with(Scope::Operator);
    Principal { key_id: "0123456789abcdef".into(), tenant: None, scopes }
}

pub(super) fn of(tenant: &str) -> Principal {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator);
    let scopes = scopes.fold(Scopes::default(), Scopes::with);
    Principal { key_id: "fedcba9876543210".into(), tenant: Some(tenant.into()), scopes }
}

/// Appends `count` events without a class.
pub(super) fn append(
    service: &Service,
    tenant: &str,
    count: usize,
    action: &str,
) -> Result<Vec<Receipt>, Error> {
    let raw = format!(r#"{{"action":"{action}","outcome":"success"}}"#);
    let event = || Submitted { raw: raw.as_bytes(), idempotency_key: None };
    let events: Vec<Submitted<'_>> = std::iter::repeat_with(event).take(count).collect();
    let by = of(tenant);
    let appended = wait_for(service.append(&by, tenant, &events, BatchMode::Atomic, false))?;
    appended.into_iter().collect()
}

pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

impl World {
    pub(super) fn new(tenants: &[&str]) -> World {
        World::made(tenants, false)
    }

    /// One in which erasures need two keys.
    pub(super) fn of_two_keys(tenants: &[&str]) -> World {
        World::made(tenants, true)
    }

    fn made(tenants: &[&str], needs_approval: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands(AtomicU64::new(START)));
        let mut world = World { dir, hands, needs_approval, service: None };
        Service::init(&world.data(), Some("test.example"), None, &world.options()).unwrap();
        world.service = Some(Service::open(&world.data(), &world.options()).unwrap());
        for tenant in tenants {
            world.service().create_tenant(&operator(), tenant).unwrap();
        }
        world
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(super) fn options(&self) -> OpenOptions {
        OpenOptions {
            clock: self.hands.clone(),
            heartbeat_seconds: 0,
            low_water_bytes: 0,
            compaction_bytes_per_second: 0,
            erasure_needs_approval: self.needs_approval,
            erasure_pauses: false,
            ..OpenOptions::default()
        }
    }

    pub(super) fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    /// Stops it; `Service::open` and its like may have the store then.
    pub(super) fn close(&mut self) {
        self.service.take().unwrap().stop().unwrap();
    }

    pub(super) fn reopen(&mut self) {
        self.close();
        self.service = Some(Service::open(&self.data(), &self.options()).unwrap());
    }

    /// Lets months pass, and seals the layers that are over by that.
    pub(super) fn pass_months(&self, months: u32) {
        let now = DateTime::from_timestamp_micros(self.hands.wall_micros() as i64).unwrap();
        let then = (now + Months::new(months)).timestamp_micros();
        self.hands.0.store(then as u64, Ordering::Relaxed);
        self.service().heartbeat(60).unwrap();
        self.service().seal_now();
    }

    pub(super) fn grow(&self, tenant: &str, count: usize, action: &str) -> Vec<u64> {
        let receipts = append(self.service(), tenant, count, action).unwrap();
        receipts.into_iter().map(|receipt| receipt.index).collect()
    }

    pub(super) fn set(&self, tenant: &str, change: &Value) {
        self.service().set_retention(&of(tenant), tenant, change.to_string().as_bytes()).unwrap();
    }

    pub(super) fn event(&self, tenant: &str, index: u64) -> Value {
        let record = self.service().record(&of(tenant), tenant, index, true).unwrap();
        serde_json::from_str(&record.json).unwrap()
    }

    pub(super) fn layers(&self) -> Vec<LayerId> {
        self.service().0.store.layers.list()
    }

    /// Takes all pages of a log out of a layer, as a bad disk does.
    pub(super) fn lose_pages(&self, layer: LayerId, tenant: &str) {
        let store = &self.service().0.store;
        let number = store.log_of(tenant).unwrap().identity.number;
        let layer = store.layers.get(layer).unwrap();
        let mut keys = Vec::new();
        let mut from = vec![b'P'];
        from.extend_from_slice(&number.to_be_bytes());
        let mut to = vec![b'P'];
        to.extend_from_slice(&(number + 1).to_be_bytes());
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        };
        layer.kv().scan(&from, &to, &mut visit).unwrap();
        assert!(!keys.is_empty());
        keys.iter().for_each(|key| layer.kv().remove(key).unwrap());
    }
}
