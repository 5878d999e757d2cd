//! A batch of erasures: everything that was asked for, in one rewrite of each layer.
//!
//! Steps, and what a stop after each leaves. (1) Found, and certified in the log: `Certified`; before that nothing was
//! changed, and it is found again. (2) The layer that is written is closed early, so that it can be rewritten. (3) Layers
//! rewritten one by one: those that are not are rewritten by the next run, which reads what to erase out of the
//! certificates, never out of the request, whose subject may be erased already. (4) Old generations gone, journal wiped:
//! both are done again. (5) `Done`, with an entry that says when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::append::{MAX_BATCH_EVENTS, MAX_SUBMISSION_BYTES, internal};
use super::super::compactions::paced;
use super::super::system::own;
use super::super::{Error, ErrorCode, Service};
use super::{Found, certificate_of, person_of};
use crate::event::catalog::{Builder, action};
use crate::event::{Body, Outcome};
use crate::ingest::queue::Control;
use crate::retention::{ErasureCertificate, Hold, IndexSet, Pushed, SetBuilder};
use crate::store::layer_id::LayerId;
use crate::store::log::Log;
use crate::store::record::Record;
use crate::store::rewrite::Change;
use crate::store::state::ErasurePhase;
use crate::tlog::chain::FLAG_HELD;

/// Erasures of one log that one batch takes: their indexes fit a set, and the union of what they find fits memory.
const MAX_BATCH: usize = 1_000;

/// How long a batch waits for readers of the old generation of a layer.
const READERS_LIMIT: Duration = Duration::from_secs(60);
const READERS_POLL: Duration = Duration::from_millis(20);

/// Requests that wait a moment for others: each batch closes a layer and rewrites it.
const GATHER: Duration = Duration::from_millis(300);

/// What is to go of one layer: paths by log and index.
type Going = BTreeMap<(u32, u64), BTreeSet<String>>;

impl Service {
    /// Erases until nothing is asked for.
    pub(super) fn erase_all(&self) -> Result<(), Error> {
        while !self.0.store.erasures().is_empty() {
            std::thread::sleep(GATHER);
            self.certify_erasures()?;
            self.erase_certified()?;
        }
        Ok(())
    }

    /// Finds what was asked for and writes the certificates.
    fn certify_erasures(&self) -> Result<(), Error> {
        let mut by_log: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for ((log, index), phase) in self.0.store.erasures() {
            if phase == ErasurePhase::Requested {
                by_log.entry(log).or_default().push(index);
            }
        }
        for (number, mut requests) in by_log {
            requests.truncate(MAX_BATCH);
            let Some(log) = self.0.store.log(number) else { continue };
            let mut all = Found::default();
            for request in &requests {
                self.go_on()?;
                let record = self.0.store.record(&log, *request).map_err(|error| internal(&error))?;
                // One whose subject is gone was erased with the same person, asked for before.
                let Some(person) = record.as_deref().and_then(person_of) else { continue };
                let found = self.find(&log, &person)?;
                for (index, paths) in found.disclosures {
                    let known = all.disclosures.entry(index).or_default();
                    known.extend(paths);
                    known.sort_unstable();
                    known.dedup();
                }
                all.held.extend(found.held);
            }
            self.certify_found(&log, &requests, all)?;
        }
        Ok(())
    }

    /// Writes the certificates of what was found in a log, of all that no hold came to keep since.
    fn certify_found(&self, log: &Log, requests: &[u64], mut found: Found) -> Result<(), Error> {
        let number = log.identity.number;
        // From here until they are durable no hold is placed.
        let _gate = self.0.retention.gate.lock();
        let holds = self.0.holds.of(number);
        let flags = |index: u64| -> Result<bool, Error> {
            let record = self.0.store.record(log, index).map_err(|error| internal(&error))?;
            Ok(record.is_some_and(|record| record.record.flags & FLAG_HELD != 0))
        };
        let mut paths: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (index, of) in found.disclosures {
            let is_flagged = !holds.is_empty() && flags(index)?;
            if holds.iter().any(|hold| hold.holds(index, is_flagged)) {
                found.held.push(index);
                continue;
            }
            of.into_iter().for_each(|path| paths.entry(path).or_default().push(index));
        }
        found.held.sort_unstable();
        found.held.dedup();
        let certificates = ErasureCertificate::of(&set_of(requests), &paths, found.held.len() as u64);
        let done: Vec<(u32, u64)> = requests.iter().map(|request| (number, *request)).collect();
        self.write_certificates(log, &certificates, &done)
    }

    fn write_certificates(
        &self,
        log: &Log,
        certificates: &[ErasureCertificate],
        requests: &[(u32, u64)],
    ) -> Result<(), Error> {
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for certificate in certificates {
            let event =
                certificate.to_facts().into_iter().fold(
                    Builder::new(action::ERASURE_COMPLETED, Outcome::Success),
                    |event, (name, value)| event.fact(name, value),
                );
            let prepared = own(log, event)?;
            if waiting.len() >= MAX_BATCH_EVENTS || bytes + prepared.body.len() > MAX_SUBMISSION_BYTES / 2 {
                self.write_patiently(std::mem::take(&mut waiting), Vec::new)?;
                bytes = 0;
            }
            bytes += prepared.body.len() + 256;
            waiting.push(prepared);
        }
        // With the last of them all are there: only then the state says so.
        let certified = || {
            let one = |(log, index): &(u32, u64)| Control::Erasure {
                log: *log,
                index: *index,
                phase: ErasurePhase::Certified,
            };
            requests.iter().map(one).collect()
        };
        self.write_patiently(waiting, certified).map(drop)
    }

    /// Takes out what the certificates name of all erasures that are certified.
    fn erase_certified(&self) -> Result<(), Error> {
        let certified: BTreeSet<(u32, u64)> = self
            .0
            .store
            .erasures()
            .into_iter()
            .filter(|(_, phase)| *phase == ErasurePhase::Certified)
            .map(|(place, _)| place)
            .collect();
        if certified.is_empty() {
            return Ok(());
        }
        let going = self.named(&certified)?;
        let newest = self.0.store.layers.newest();
        let mut layers = self.by_layer(&going)?;
        if newest.is_some_and(|newest| layers.contains_key(&newest)) {
            self.close_layer_early()?;
            layers = self.by_layer(&going)?;
        }
        self.seal_now();
        for (layer, going) in layers {
            self.erase_in(layer, going, &certified)?;
        }
        self.wait_for_readers()?;
        self.wipe_journal()?;
        for (number, request) in certified {
            let Some(log) = self.0.store.log(number) else { continue };
            let event = Builder::new(action::ERASURE_DONE, Outcome::Success).fact("request", request);
            let done = || vec![Control::Erasure { log: number, index: request, phase: ErasurePhase::Done }];
            self.write_patiently(vec![own(&log, event)?], done)?;
        }
        Ok(())
    }

    /// What the certificates of these erasures name.
    fn named(&self, certified: &BTreeSet<(u32, u64)>) -> Result<Going, Error> {
        let mut going = Going::new();
        let numbers: BTreeSet<u32> = certified.iter().map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(log) = self.0.store.log(number) else { continue };
            self.each_own(&log, action::ERASURE_COMPLETED, &mut |record| {
                let certificate = certificate_of(record).ok_or_else(|| {
                    let detail =
                        format!("the entry at index {} must certify an erasure and does not", record.index);
                    Error::new(ErrorCode::Internal, detail)
                })?;
                if certificate.requests.iter().any(|request| certified.contains(&(number, request))) {
                    for (path, set) in &certificate.disclosures {
                        for index in set.iter() {
                            going.entry((number, index)).or_default().insert(path.clone());
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(going)
    }

    fn by_layer(&self, going: &Going) -> Result<BTreeMap<LayerId, Going>, Error> {
        let mut layers: BTreeMap<LayerId, Going> = BTreeMap::new();
        let mut head = None;
        for ((number, index), paths) in going {
            if head.as_ref().is_none_or(|(of, _)| of != number) {
                let Some(log) = self.0.store.log(*number) else { continue };
                head = Some((*number, log.head()));
            }
            let layer = head.as_ref().and_then(|(_, head)| head.layer_of(*index));
            let (layer, _, _) = layer
                .ok_or_else(|| Error::new(ErrorCode::Internal, "a certificate names an entry in no layer"))?;
            layers.entry(layer).or_default().insert((*number, *index), paths.clone());
        }
        Ok(layers)
    }

    /// Rewrites one layer without what goes of it. A hold that came since the certificates wins: what it holds stays,
    /// and the log says how much that is.
    fn erase_in(
        &self,
        layer: LayerId,
        mut going: Going,
        certified: &BTreeSet<(u32, u64)>,
    ) -> Result<(), Error> {
        let mut step = paced(self);
        let mut go_on = |bytes| step(bytes) && !self.0.erasures.stopping.load(Ordering::Acquire);
        loop {
            let late = self.held_of(&going)?;
            self.say_late(&late, certified)?;
            going.retain(|place, _| !late.contains(place));
            if going.is_empty() {
                return Ok(());
            }
            let mut change = |log: u32, index: u64, record: &Record| {
                going.get(&(log, index)).map_or(Change::Keep, |paths| without(&record.body, paths))
            };
            let mut agree = || Ok(self.held_of(&going)?.is_empty().then_some(()));
            if let Some(done) = self.replace_layer(layer, &mut change, &mut go_on, &mut agree)? {
                let records = done.rewritten.changed;
                tracing::info!(%layer, records, "what was sealed of records was erased");
                return Ok(());
            }
        }
    }

    /// Which of these records a hold keeps now.
    fn held_of(&self, going: &Going) -> Result<BTreeSet<(u32, u64)>, Error> {
        let mut held = BTreeSet::new();
        for &(number, index) in going.keys() {
            let holds = self.0.holds.of(number);
            if holds.is_empty() {
                continue;
            }
            let Some(log) = self.0.store.log(number) else { continue };
            let record = self.0.store.record(&log, index).map_err(|error| internal(&error))?;
            let is_flagged = record.is_some_and(|record| record.record.flags & FLAG_HELD != 0);
            if holds.iter().any(|hold: &Arc<Hold>| hold.holds(index, is_flagged)) {
                held.insert((number, index));
            }
        }
        Ok(held)
    }

    /// Certifies that records stay which a certificate named before they were held.
    fn say_late(&self, late: &BTreeSet<(u32, u64)>, certified: &BTreeSet<(u32, u64)>) -> Result<(), Error> {
        let numbers: BTreeSet<u32> = late.iter().map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(log) = self.0.store.log(number) else { continue };
            let held = late.iter().filter(|(of, _)| *of == number).count() as u64;
            let requests: Vec<u64> =
                certified.iter().filter(|(of, _)| *of == number).map(|(_, request)| *request).collect();
            let certificates = ErasureCertificate::of(&set_of(&requests), &BTreeMap::new(), held);
            self.write_certificates(&log, &certificates, &[])?;
        }
        Ok(())
    }

    /// Waits until nobody reads a generation from before the rewrite, and it is gone.
    fn wait_for_readers(&self) -> Result<(), Error> {
        let began = Instant::now();
        while self.0.store.layers.sweep() > 0 {
            self.go_on()?;
            if began.elapsed() > READERS_LIMIT {
                let detail = "readers still hold a layer from before the erasure; it is tried again";
                return Err(Error::new(ErrorCode::Busy, detail));
            }
            std::thread::sleep(READERS_POLL);
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.0.erasures.stopping.load(Ordering::Acquire) {
            let detail = "the server is stopping; the erasure goes on at the next start";
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        Ok(())
    }
}

/// A body without some of its disclosures.
fn without(body: &[u8], paths: &BTreeSet<String>) -> Change {
    // What cannot be read is not changed: verification says where it is.
    let Ok((mut body, _)) = Body::decode(body) else { return Change::Keep };
    let before = body.disclosures.len();
    body.disclosures.retain(|disclosure| !paths.contains(&disclosure.path));
    if body.disclosures.len() == before {
        return Change::Keep;
    }
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    Change::Body(bytes)
}

/// A set of ascending indexes, at most [`MAX_BATCH`].
fn set_of(indexes: &[u64]) -> IndexSet {
    let mut set = SetBuilder::new();
    for index in indexes {
        assert!(set.push(*index) == Pushed::Taken, "a batch fits one set");
    }
    set.finish().expect("a batch is not empty")
}
