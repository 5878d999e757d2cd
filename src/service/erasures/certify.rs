//! What was asked for, searched for and certified: from here on a batch reads what is to go out of the log.
//!
//! A stop before the last certificate is durable changes nothing: it is searched for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::append::internal;
use super::super::system::{in_parts, own};
use super::super::{Error, ErrorCode, Service};
use super::find::{Found, Person};
use super::person_of;
use super::run::Certified;
use crate::event::Outcome;
use crate::event::catalog::{Builder, action};
use crate::ingest::queue::Control;
use crate::retention::{ErasureCertificate, Hold, IndexSet, Pushed, SetBuilder};
use crate::store::log::{Log, Sequenced};
use crate::store::state::ErasurePhase;

/// Disclosures and held records that one batch finds before it takes no further request, 8 bytes each: 96 MB, and what one
/// person more has.
const MAX_FOUND: usize = 12_000_000;

/// How long an entry that asks for an erasure may take until it is known to wait for another key, or to be on its way.
const ASKED_MICROS: u64 = 60_000_000;

impl Service {
    /// Finds what was asked for in a log and writes the certificates. What one request meets is no reason for the others of
    /// the log to wait: it stays open, and is the error at the end.
    pub(super) fn certify_requests(
        &self,
        number: u32,
        requests: &[u64],
        certified: &mut Certified,
    ) -> Result<(), Error> {
        let Some(log) = self.0.store.log(number) else { return Ok(()) };
        self.demand_lists(number)?;
        let mut searched = self.search(&log, requests)?;
        if !searched.taken.is_empty() {
            self.certify_found(&log, &mut searched, certified)?;
        }
        searched.met.map_or(Ok(()), Err)
    }

    /// Looks for what is asked for, request by request.
    fn search(&self, log: &Log, requests: &[u64]) -> Result<Searched, Error> {
        let (number, end) = (log.identity.number, log.size());
        // One that is not of this batch is still to be read, unless nothing comes of it any more. Whether it waits is asked
        // first: an approval is known until its erasure is.
        let is_asked = |record: &Sequenced| {
            let index = record.index;
            let is_on_its_way = record.record.recorded_at.saturating_add(ASKED_MICROS) > self.0.stamps.now();
            requests.binary_search(&index).is_ok()
                || !is_on_its_way
                    && !self.waits_for_approval(log, index)
                    && !self.0.store.erasures().contains_key(&(number, index))
        };
        // Holds that come behind the first search are looked at before anything is certified.
        let known = self.0.holds.of(number).iter().map(|hold| hold.index).collect();
        let mut searched = Searched { known, ..Searched::default() };
        for request in requests.iter().filter(|request| **request < end) {
            self.go_on()?;
            if searched.found >= MAX_FOUND {
                // The rest is the next batch.
                break;
            }
            let found = self.asked_person(log, *request).and_then(|person| match person {
                Some(person) => self.find(log, end, &person, &is_asked, &|| self.go_on()).map(Some),
                None => Ok(None),
            });
            match found {
                Ok(found) => searched.take_in(*request, found),
                Err(error) => {
                    self.go_on()?;
                    searched.met.get_or_insert(error);
                }
            }
        }
        Ok(searched)
    }

    /// Whom the entry at `request` asks to erase. `None` where another request for the same person took that, together with
    /// everything else that was there: then nothing is left to find.
    fn asked_person(&self, log: &Log, request: u64) -> Result<Option<Person>, Error> {
        let record = self.0.store.record(log, request).map_err(|error| internal(&error))?;
        let person = record.as_deref().and_then(person_of);
        let is_erased = || {
            let withheld = record.as_deref()?.record.body()?.ok()?.withheld().ok()?;
            Some(withheld.iter().any(|path| path == "/targets/0"))
        };
        if person.is_some() || is_erased() == Some(true) {
            return Ok(person);
        }
        let detail = format!("the entry at index {request} must name whom to erase and does not");
        Err(Error::new(ErrorCode::Internal, detail))
    }

    /// Certifies what was found, but for what holds that came since keep.
    fn certify_found(
        &self,
        log: &Log,
        searched: &mut Searched,
        certified: &mut Certified,
    ) -> Result<(), Error> {
        let number = log.identity.number;
        // From here until they are durable no hold is placed.
        let _gate = self.0.retention.gate.lock();
        self.demand_lists(number)?;
        let holds = self.0.holds.of(number);
        let new: Vec<&Arc<Hold>> =
            holds.iter().filter(|hold| !searched.known.contains(&hold.index)).collect();
        let Searched { all, held, taken, .. } = searched;
        for indexes in all.values_mut() {
            indexes.sort_unstable();
            indexes.dedup();
            // What was found lies below a hold that came since, but for its own entry, or is flagged by one that was known.
            indexes.retain(|index| {
                let is_kept = new.iter().any(|hold| hold.holds(*index, true));
                if is_kept {
                    held.insert(*index);
                }
                !is_kept
            });
        }
        all.retain(|_, indexes| !indexes.is_empty());
        let certificates = ErasureCertificate::of(&set_of(taken), all, held.len() as u64);
        let places: Vec<(u32, u64)> = taken.iter().map(|request| (number, *request)).collect();
        let changes = self.0.holds.changes(number);
        // What was certified before is not certified by this.
        let are_others = self
            .0
            .store
            .erasures()
            .iter()
            .any(|((of, _), phase)| *of == number && *phase == ErasurePhase::Certified);
        certified.retain(|(of, _), _| *of != number);
        self.write_certificates(log, &certificates, &places)?;
        if !are_others {
            certified.insert((number, None), changes);
        }
        Ok(())
    }

    pub(super) fn write_certificates(
        &self,
        log: &Log,
        certificates: &[ErasureCertificate],
        requests: &[(u32, u64)],
    ) -> Result<(), Error> {
        let entries = certificates.iter().map(|certificate| {
            let event = Builder::new(action::ERASURE_COMPLETED, Outcome::Success);
            Ok((own(log, event.facts(certificate.to_facts()))?, ()))
        });
        // With the last of them all are there: only then the state says so.
        let certified = || {
            let one = |(log, index): &(u32, u64)| Control::Erasure {
                log: *log,
                index: *index,
                phase: ErasurePhase::Certified,
            };
            requests.iter().map(one).collect()
        };
        in_parts(entries, &mut |part, _, is_last| {
            self.write_patiently(part, || if is_last { certified() } else { Vec::new() }).map(drop)
        })
    }
}

/// What the search for a batch found.
#[derive(Default)]
struct Searched {
    /// Indexes by path, perhaps twice.
    all: BTreeMap<String, Vec<u64>>,
    held: BTreeSet<u64>,
    /// The holds that it was held against.
    known: BTreeSet<u64>,
    /// The requests that were searched for.
    taken: Vec<u64>,
    /// Indexes in all of it.
    found: usize,
    /// What a request met that was not searched for.
    met: Option<Error>,
}

impl Searched {
    fn take_in(&mut self, request: u64, found: Option<Found>) {
        self.taken.push(request);
        let Some(found) = found else { return };
        self.found += found.held.len();
        self.held.extend(found.held);
        for (path, indexes) in found.disclosures {
            self.found += indexes.len();
            self.all.entry(path).or_default().extend(indexes);
        }
    }
}

/// A set of ascending indexes, no more than a batch has.
pub(super) fn set_of(indexes: &[u64]) -> IndexSet {
    let mut set = SetBuilder::new();
    for index in indexes {
        assert!(set.push(*index) == Pushed::Taken, "a batch fits one set");
    }
    set.finish().expect("a batch is not empty")
}
