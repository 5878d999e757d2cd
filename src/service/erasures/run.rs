//! A batch of erasures: everything that was asked for, in one rewrite of each layer.
//!
//! Steps, and what a stop after each leaves. (1) Found, and certified in the log: `Certified`; before that nothing was
//! changed, and it is found again. (2) The layer that is written is closed early, so that it can be rewritten. (3) Layers
//! rewritten one by one: those that are not are rewritten by the next run, which reads what to erase out of the
//! certificates, never out of the request, whose subject may be erased already. After a restart that is certified anew. (4) Old generations gone, journal wiped:
//! both are done again. (5) `Done`, with an entry that says when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::compactions::paced;
use super::super::system::own;
use super::super::{Error, ErrorCode, Service};
use super::certificate_of;
use super::certify::set_of;
use super::left::{Going, Left, of_log};
use crate::event::catalog::{Builder, action};
use crate::event::{Body, Outcome};
use crate::ingest::queue::Control;
use crate::retention::ErasureCertificate;
use crate::store::layer_id::LayerId;
use crate::store::record::Record;
use crate::store::rewrite::Change;
use crate::store::state::ErasurePhase;

/// Erasures of one log that one batch takes: their indexes fit a set.
const MAX_BATCH: usize = 1_000;

/// How long a batch waits for readers of the old generation of a layer: who reads 50 GB at 83 MB/s takes as long. After that
/// it is tried again later.
const READERS_LIMIT: Duration = Duration::from_secs(600);
const READERS_POLL: Duration = Duration::from_millis(20);

/// Requests that wait a moment for others: each batch closes a layer and rewrites it.
const GATHER: Duration = Duration::from_millis(300);

/// Most seconds between two batches. Each closes a part of the month, of which a store has 30,000 in its life, and which
/// each log that is active in it names in every snapshot: after the n-th part of a month n² seconds pass. The tenth waits
/// 100 seconds; a month of nothing but erasures makes some 220.
const MAX_PAUSE_SECONDS: u32 = 6 * 3_600;

/// How often a pause looks whether the server stops.
const PAUSE_POLL: Duration = Duration::from_millis(50);

/// What this process has certified, by log, and by layer where that was done anew: how often holds of the log had changed at
/// that time. After a restart it is certified anew before anything leaves.
pub(super) type Certified = HashMap<(u32, Option<LayerId>), u64>;

impl Service {
    /// Erases until nothing is asked for, something is in the way, or the server stops. Answers the logs of which something
    /// could not be erased.
    pub(super) fn erase_all(&self) -> BTreeSet<u32> {
        let mut certified = self.0.erasures.certified.lock();
        let mut failed = Failed::default();
        while failed.logs.is_empty() && !self.0.store.erasures().is_empty() {
            if self.pause_between_batches().is_err() {
                break;
            }
            // A hold whose members are not listed yet would keep everything in front of it.
            if let Err(error) = self.resolve_holds() {
                tracing::warn!(%error, "the members of a hold are not listed; erasures of its log wait");
            }
            for (log, requests) in self.by_log(ErasurePhase::Requested) {
                // One log's fault is not another's.
                if let Err(error) = self.certify_requests(log, &requests, &mut certified) {
                    failed.add([log], &error);
                }
            }
            let batch = self.by_log(ErasurePhase::Certified);
            let mut kept_back = Failed::default();
            if let Err(error) = self.erase_certified(&batch, &mut certified, &mut kept_back) {
                kept_back.add(batch.into_keys(), &error);
            }
            failed.logs.extend(kept_back.logs);
        }
        if self.go_on().is_err() { BTreeSet::new() } else { failed.logs }
    }

    fn pause_between_batches(&self) -> Result<(), Error> {
        let parts = self.0.store.layers.newest().map_or(0, |newest| newest.part().saturating_sub(1));
        let pause = parts.saturating_mul(parts).min(MAX_PAUSE_SECONDS);
        let seconds = pause * u32::from(self.0.erasures.pauses);
        let until = Instant::now() + GATHER.max(Duration::from_secs(u64::from(seconds)));
        while Instant::now() < until {
            self.go_on()?;
            std::thread::sleep(PAUSE_POLL);
        }
        Ok(())
    }

    /// Requests that are so far, by log; a batch of each.
    fn by_log(&self, wanted: ErasurePhase) -> BTreeMap<u32, Vec<u64>> {
        let mut by_log: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for ((log, index), phase) in self.0.store.erasures() {
            let requests = by_log.entry(log).or_default();
            if phase == wanted && requests.len() < MAX_BATCH {
                requests.push(index);
            }
        }
        by_log.retain(|_, requests| !requests.is_empty());
        by_log
    }

    /// Takes out what the certificates of a batch name. Its error is about all of it.
    fn erase_certified(
        &self,
        batch: &BTreeMap<u32, Vec<u64>>,
        certified: &mut Certified,
        failed: &mut Failed,
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let going = self.named(batch, failed);
        let newest = self.0.store.layers.newest();
        let mut layers = self.by_layer(&going)?;
        if newest.is_some_and(|newest| layers.contains_key(&newest)) {
            self.close_layer_early()?;
            layers = self.by_layer(&going)?;
        }
        self.seal_now();
        for (layer, going) in layers {
            if let Err(error) = self.erase_in(layer, &going, batch, certified) {
                // One layer's fault is not another's: what lies elsewhere leaves, and this is tried again.
                self.go_on()?;
                failed.add(going.keys().map(|(number, _)| *number), &error);
            }
        }
        let done = |number: &u32| !failed.logs.contains(number);
        if !batch.keys().any(done) {
            // Nothing will be done: the journal keeps its second generation.
            return Ok(());
        }
        self.wait_for_readers()?;
        self.wipe_journal()?;
        for (&number, requests) in batch.iter().filter(|(number, _)| done(number)) {
            let Some(log) = self.0.store.log(number) else { continue };
            for &index in requests {
                let event = Builder::new(action::ERASURE_DONE, Outcome::Success).fact("request", index);
                let done = || vec![Control::Erasure { log: number, index, phase: ErasurePhase::Done }];
                self.write_patiently(vec![own(&log, event)?], done)?;
            }
        }
        Ok(())
    }

    /// Errors while a hold of the log has no complete list: what is to stay is not known.
    pub(super) fn demand_lists(&self, number: u32) -> Result<(), Error> {
        if !self.0.holds.is_listing(number) {
            return Ok(());
        }
        let detail =
            "the members of a hold are being listed; what else is to be erased in that log waits for it";
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// What the certificates of these erasures name.
    fn named(&self, batch: &BTreeMap<u32, Vec<u64>>, failed: &mut Failed) -> Going {
        let mut going = Going::new();
        for (number, requests) in batch {
            let Some(log) = self.0.store.log(*number) else { continue };
            // Certificates stand behind the first that asked; where that cannot be read, all are looked through.
            let first = requests.first().and_then(|first| self.0.store.record(&log, *first).ok().flatten());
            let since = first.map(|first| first.record.recorded_at);
            let read = self.each_own(&log, action::ERASURE_COMPLETED, since, &mut |record| {
                let certificate = certificate_of(record).ok_or_else(|| {
                    let detail =
                        format!("the entry at index {} must certify an erasure and does not", record.index);
                    Error::new(ErrorCode::Internal, detail)
                })?;
                if certificate.requests.iter().any(|request| requests.contains(&request)) {
                    for (path, set) in certificate.disclosures {
                        going.entry((*number, path)).or_default().push(Arc::new(set));
                    }
                }
                Ok(())
            });
            if let Err(error) = read {
                failed.add([*number], &error);
            }
        }
        going
    }

    /// The same by layer; a layer has what of a set may lie in it.
    fn by_layer(&self, going: &Going) -> Result<BTreeMap<LayerId, Going>, Error> {
        let mut layers: BTreeMap<LayerId, Going> = BTreeMap::new();
        for ((number, path), sets) in going {
            let Some(log) = self.0.store.log(*number) else { continue };
            let head = log.head();
            for set in sets {
                let mut next = Some(set.first());
                while let Some(index) = next {
                    let (layer, _, end) = head.layer_of(index).ok_or_else(|| {
                        Error::new(ErrorCode::Internal, "a certificate names an entry that is in no layer")
                    })?;
                    layers
                        .entry(layer)
                        .or_default()
                        .entry((*number, path.clone()))
                        .or_default()
                        .push(set.clone());
                    next = end.and_then(|end| set.first_from(end));
                }
            }
        }
        Ok(layers)
    }

    /// Rewrites one layer without what goes of it. A hold that came since the certificates wins: what it holds stays,
    /// and the log says how much that is. Where a hold came and went since, it is certified anew: the hold said that it was
    /// there.
    fn erase_in(
        &self,
        layer: LayerId,
        going: &Going,
        batch: &BTreeMap<u32, Vec<u64>>,
        certified: &mut Certified,
    ) -> Result<(), Error> {
        let mut step = paced(self);
        let mut go_on = |bytes| step(bytes) && !self.0.erasures.stopping.load(Ordering::Acquire);
        loop {
            let left = self.left_of(layer, going, &mut go_on)?;
            self.certify_again(layer, &left, batch, certified)?;
            if left.paths.is_empty() {
                return Ok(());
            }
            let mut change = |log: u32, index: u64, record: &Record| {
                let paths =
                    of_log(&left.paths, log).filter(|(_, indexes)| indexes.binary_search(&index).is_ok());
                without(&record.body, &paths.map(|(path, _)| path).collect::<Vec<_>>())
            };
            let mut agree = || Ok(self.is_as_certified(layer, &left, certified).then_some(()));
            if let Some(done) = self.replace_layer(layer, &mut change, &mut go_on, &mut agree)? {
                let records = done.rewritten.changed;
                tracing::info!(%layer, records, "what was sealed of records was erased");
                return Ok(());
            }
        }
    }

    /// Certifies anew what is left, and says what is held now, where a hold was placed since, or that was before a restart.
    fn certify_again(
        &self,
        layer: LayerId,
        left: &Left,
        batch: &BTreeMap<u32, Vec<u64>>,
        certified: &mut Certified,
    ) -> Result<(), Error> {
        let of_paths = left.paths.keys().map(|(number, _)| *number);
        let numbers: BTreeSet<u32> = of_paths.chain(left.held.keys().copied()).collect();
        for number in numbers {
            let _gate = self.0.retention.gate.lock();
            let newest = self.0.holds.changes(number);
            if is_certified(certified, (number, layer), newest) {
                continue;
            }
            let (Some(log), Some(requests)) = (self.0.store.log(number), batch.get(&number)) else {
                continue;
            };
            let mut paths: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for ((of, path), indexes) in &left.paths {
                if *of == number {
                    paths.insert(path.clone(), indexes.clone());
                }
            }
            // What a hold keeps that came behind the look, or is not listed yet, is looked at again before anything leaves.
            if !left.is_held_by_newer(number, &self.0.holds.of(number)) {
                let held = left.held.get(&number).map_or(0, |held| held.len() as u64);
                let certificates = ErasureCertificate::of(&set_of(requests), &paths, held);
                self.write_certificates(&log, &certificates, &[])?;
                certified.insert((number, Some(layer)), newest);
            }
        }
        Ok(())
    }

    /// Whether nothing of it is held by what came since it was looked at, and all is certified behind every hold. Asked where
    /// no hold can be placed.
    fn is_as_certified(&self, layer: LayerId, left: &Left, certified: &Certified) -> bool {
        left.paths.keys().all(|(number, _)| {
            is_certified(certified, (*number, layer), self.0.holds.changes(*number))
                && !left.is_held_by_newer(*number, &self.0.holds.of(*number))
        })
    }

    /// Waits until nobody reads a generation from before the rewrite, and it is gone.
    fn wait_for_readers(&self) -> Result<(), Error> {
        let began = Instant::now();
        while self.0.store.layers.sweep() > 0 {
            self.go_on()?;
            if began.elapsed() > READERS_LIMIT {
                let detail = "a layer from before the erasure is still read, or cannot be removed; the erasure waits for it";
                return Err(Error::new(ErrorCode::Busy, detail));
            }
            std::thread::sleep(READERS_POLL);
        }
        Ok(())
    }

    pub(super) fn go_on(&self) -> Result<(), Error> {
        if self.0.erasures.stopping.load(Ordering::Acquire) { Err(stopped()) } else { Ok(()) }
    }
}

pub(super) fn stopped() -> Error {
    Error::new(ErrorCode::ReadOnly, "the server is stopping; the erasure goes on at the next start")
}

/// What could not be erased this time.
#[derive(Default)]
struct Failed {
    logs: BTreeSet<u32>,
}

impl Failed {
    fn add(&mut self, logs: impl IntoIterator<Item = u32>, error: &Error) {
        let logs: BTreeSet<u32> = logs.into_iter().collect();
        tracing::error!(?logs, %error, "a part of an erasure is not done yet; it is tried again");
        self.logs.extend(logs);
    }
}

/// Whether what goes of a layer is certified behind the newest hold of the log.
fn is_certified(certified: &Certified, (number, layer): (u32, LayerId), newest: u64) -> bool {
    [None, Some(layer)].iter().any(|part| certified.get(&(number, *part)) == Some(&newest))
}

/// A body without some of its disclosures.
fn without(body: &[u8], paths: &[&str]) -> Change {
    if paths.is_empty() {
        return Change::Keep;
    }
    // It was read a moment ago; what cannot be read now is damage, which the rewrite's own comparison finds.
    let Ok((mut body, _)) = Body::decode(body) else { return Change::Keep };
    body.disclosures.retain(|disclosure| !paths.contains(&disclosure.path.as_str()));
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    Change::Body(bytes)
}
