//! One layer's compaction: plan, rewrite, certify, go over.
//!
//! Crash points, in order. While it is planned and rewritten: a left-over directory, removed at open. After some or all
//! certificates are durable and before MANIFEST is replaced: the bodies are there and may go; the next run finds them due
//! again and certifies them once more. After MANIFEST: the old generation is the left-over. At no point is a body
//! gone that no durable certificate names.

use std::path::Path;
use std::time::Duration;

use super::super::append::{MAX_BATCH_EVENTS, MAX_SUBMISSION_BYTES, internal};
use super::super::system::own;
use super::super::{Error, ErrorCode, Service};
use super::plan::{Scan, class_name};
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};
use crate::ingest::prepare::Prepared;
use crate::retention::{Certificate, History};
use crate::store::layer_id::LayerId;
use crate::store::layers::{LayerError, Layers};
use crate::store::rewrite::rewrite;
use crate::store::seal::Seal;

/// How often a certificate is offered to a full queue, and how long between: a minute.
const TRIES: u32 = 60;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// How often a layer is planned anew because a policy changed under it.
const MAX_PLANS: u32 = 4;

/// A generation that is being made; removed unless it is forgotten.
struct Unfinished<'a> {
    layers: &'a Layers,
    layer: LayerId,
    dir: &'a Path,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.layers.give_up(self.layer, self.dir) {
            tracing::warn!(%error, "what was written of the new generation stays until the next start");
        }
    }
}

/// What became of one layer.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) bodies: u64,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    pub(super) certificates: u64,
    pub(super) is_rewritten: bool,
}

impl Service {
    /// Lets go of what is due in `layer`. `confirmed` is the time that the operator said it was.
    pub(super) fn compact_layer(
        &self,
        layer: LayerId,
        confirmed: Option<u64>,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Done, Error> {
        for _ in 0..MAX_PLANS {
            let scan = self.scan_layer(layer, self.expiry_time(), step)?;
            if scan.leaving.is_empty() {
                return Ok(Done::default());
            }
            if let Some(done) = self.let_go(&scan, confirmed, step)? {
                return Ok(done);
            }
        }
        let detail =
            format!("layer {layer}: policies kept changing while it was compacted; nothing of it left");
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// `None` when a policy changed since the plan: nothing was changed then.
    fn let_go(
        &self,
        scan: &Scan,
        confirmed: Option<u64>,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Done>, Error> {
        let store = &self.0.store;
        let layers = &store.layers;
        let bytes_before = layers.disk_bytes(scan.layer).map_err(|error| internal(&error))?;
        self.demand_room(bytes_before)?;
        let sealed = layers.dirs().into_iter().find(|(id, _)| *id == scan.layer);
        let sealed = sealed.and_then(|(_, dir)| Seal::read(&dir).transpose()).transpose();
        let sealed = sealed.map_err(|error| internal(&error))?.ok_or_else(|| {
            Error::new(
                ErrorCode::Busy,
                format!("layer {} is not sealed yet; nothing was changed", scan.layer),
            )
        })?;
        let from = layers.get(scan.layer).map_err(|error| internal(&error))?;
        let (generation, dir, into) = layers.begin_next(scan.layer).map_err(|error| internal(&error))?;
        let unfinished = Unfinished { layers, layer: scan.layer, dir: &dir };
        let mut leaves = |log: u32, index: u64, record: &crate::store::record::Record| {
            scan.leaves(log, record.class, index)
        };
        let rewritten = rewrite(store, &from, &sealed, &into, &dir, &mut leaves, step);
        // Closed before it is given up or gone over to.
        drop((from, into));
        let rewritten = rewritten.map_err(|error| super::failed(&error))?;

        // From here to the new generation no policy is set: what was due stays due.
        let gate = self.0.retention.gate.lock();
        let is_unchanged = |(number, policy): (&u32, &Option<u64>)| {
            store.log(*number).is_some_and(|log| log.policy() == *policy)
        };
        if !scan.policies.iter().all(is_unchanged) {
            return Ok(None);
        }
        let certificates = self.certify(scan, confirmed)?;
        // From here on MANIFEST on disk may name it, even where its write fails: only the next open may remove it.
        std::mem::forget(unfinished);
        layers.go_over(scan.layer, generation).map_err(|error| {
            if matches!(error, LayerError::Manifest(_)) {
                store.poison.set(format!("MANIFEST may or may not name the rewritten layer: {error}"));
            }
            internal(&error)
        })?;
        drop(gate);
        layers.sweep();
        let bytes_after = layers.disk_bytes(scan.layer).map_err(|error| internal(&error))?;
        Ok(Some(Done { bodies: rewritten.left, bytes_before, bytes_after, certificates, is_rewritten: true }))
    }

    /// The new generation is written beside the old one: while it is written it takes up to 1.7 times what it holds, and
    /// those who append are not to feel it.
    fn demand_room(&self, bytes: u64) -> Result<(), Error> {
        let free = self.0.space.free_bytes().map_err(|error| internal(&error))?;
        let needed = bytes.saturating_mul(2).saturating_add(self.0.space.low_water_bytes());
        if free >= needed {
            return Ok(());
        }
        let detail = format!(
            "{free} bytes are free, and {needed} are asked for before a layer of {bytes} bytes is rewritten beside itself; \
             nothing was changed. Free space or extend the disk."
        );
        Err(Error::new(ErrorCode::StorageFull, detail))
    }

    /// Writes the certificates of a layer, durably. Answers how many.
    fn certify(&self, scan: &Scan, confirmed: Option<u64>) -> Result<u64, Error> {
        let mut waiting: Vec<Prepared> = Vec::new();
        let (mut bytes, mut written) = (0, 0);
        for (&(number, class), leaving) in &scan.leaving {
            let Some(log) = self.0.store.log(number) else { continue };
            let history = self.history(&log)?;
            for set in &leaving.sets {
                let asked = |history: &History| history.months(class, set.first(), log.size());
                let months = history.as_deref().and_then(asked).unwrap_or(leaving.months);
                let certificate = Certificate {
                    layer: scan.layer.code(),
                    class: class_name(history.as_deref(), class),
                    class_code: class,
                    months,
                    members: set.clone(),
                    policy: log.policy().unwrap_or_default(),
                    holds: Vec::new(),
                    clock_confirmed: confirmed.map(Micros),
                };
                let event = certificate.to_facts().into_iter().fold(
                    Builder::new(action::RETENTION_EXPIRED, Outcome::Success),
                    |event, (name, value)| event.fact(name, value),
                );
                let prepared = own(&log, event)?;
                if waiting.len() >= MAX_BATCH_EVENTS || bytes + prepared.body.len() > MAX_SUBMISSION_BYTES / 2
                {
                    written += waiting.len() as u64;
                    bytes = 0;
                    self.write_patiently(std::mem::take(&mut waiting))?;
                }
                bytes += prepared.body.len() + 256;
                waiting.push(prepared);
            }
        }
        written += waiting.len() as u64;
        self.write_patiently(waiting)?;
        Ok(written)
    }

    /// Writes entries of Varve's own, again while the queue is full: then nothing of them was stored.
    fn write_patiently(&self, items: Vec<Prepared>) -> Result<(), Error> {
        for _ in 0..TRIES {
            match self.write_own(items.clone(), Vec::new()) {
                Err(error) if error.code == ErrorCode::Busy => std::thread::sleep(BETWEEN_TRIES),
                outcome => return outcome.map(drop),
            }
        }
        Err(Error::new(
            ErrorCode::Busy,
            "the queue stayed full; the certificate was not written and nothing left",
        ))
    }
}
