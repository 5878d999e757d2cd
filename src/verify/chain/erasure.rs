//! Rule 6 for disclosures: one that is absent may be, by a certificate behind it (docs/format/erasure.md §3). And which
//! erasures are open.

use std::collections::BTreeMap;

use super::{Context, Walk};
use crate::event::catalog::Class;
use crate::retention::{ErasureCertificate, MAX_INDEX, Refusal};
use crate::store::state::ErasurePhase;
use crate::tlog::chain::{FLAG_HELD, FLAG_OWN};
use crate::verify::absent::{Absences, Absent, State};
use crate::verify::check::{BodyState, CheckedRecord};
use crate::verify::facts::Fact;
use crate::verify::finding::{Finding, FindingKind};

/// What is known of a log's erased disclosures while it is walked.
#[derive(Default)]
pub(super) struct Erased {
    /// Paths by the numbers that `absences` knows them by: 37 at most, as many as an event has parts to be sealed.
    paths: Vec<String>,
    pub(super) absences: Absences,
    /// Entries that ask for an erasure, ascending, and how far each of them is.
    asked: Vec<(u64, Stage)>,
    /// Runs of entries of Varve's own that could be such, and whose body is absent or cannot be believed: from, to. Ascending.
    unread: Vec<(u64, u64)>,
    /// A certificate breaks the format: which erasures it was of is not known.
    is_torn: bool,
    /// Bodies of which something is covered, once the log has been walked.
    bodies: u64,
}

/// How far an erasure is, as the log says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    Asked,
    /// A second key agreed.
    Approved,
    /// A certificate is of it.
    Certified,
    /// What it names is in no file.
    Done,
}

impl Erased {
    fn asked_at(&self, index: u64) -> Option<usize> {
        self.asked.binary_search_by_key(&index, |(asked, _)| *asked).ok()
    }

    /// Whether an entry could ask for an erasure, for all that is known of it.
    fn is_unread(&self, index: u64) -> bool {
        let at = self.unread.partition_point(|(_, to)| *to <= index);
        self.unread.get(at).is_some_and(|(from, _)| *from <= index)
    }

    fn goes_on(&mut self, index: u64, stage: Stage) {
        if let Some(at) = self.asked_at(index) {
            self.asked[at].1 = self.asked[at].1.max(stage);
        }
    }

    fn number_of(&self, path: &str) -> Option<u16> {
        self.paths.iter().position(|known| known == path).and_then(|at| u16::try_from(at).ok())
    }

    fn number(&mut self, path: String) -> u16 {
        self.number_of(&path).unwrap_or_else(|| {
            self.paths.push(path);
            u16::try_from(self.paths.len() - 1).unwrap_or(u16::MAX)
        })
    }
}

/// Disclosures of one path, absent at consecutive entries, of which the same is to be said.
#[derive(Clone, Copy)]
struct Run<'a> {
    path: &'a str,
    from: u64,
    to: u64,
    is_held: bool,
}

impl Walk {
    /// Disclosures that a certificate covers.
    pub(in crate::verify) fn disclosures_erased(&self) -> u64 {
        self.erased.absences.covered()
    }

    /// Bodies with such disclosures.
    pub(in crate::verify) fn bodies_erased(&self) -> u64 {
        self.erased.bodies
    }

    /// An entry that lets disclosures go.
    pub(super) fn erasure(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        read: &Result<ErasureCertificate, Refusal>,
    ) {
        let certificate = match read {
            Ok(certificate) if certificate.last() < index && self.has_asked(certificate) => certificate,
            refused => {
                let found = match refused {
                    Err(refusal) => refusal.to_string(),
                    Ok(certificate) if certificate.last() < index => {
                        "/requests: entries that ask for an erasure".to_owned()
                    }
                    Ok(_) => format!("the whole: indexes below {index}"),
                };
                self.erased.is_torn = true;
                let expected = "a certificate of erasure whose facts hold";
                return context.add(FindingKind::BadErasure, index, expected, found);
            }
        };
        let known = self.knows_holds();
        for (path, set) in &certificate.disclosures {
            let Some(path) = self.erased.number_of(path) else { continue };
            let holds = &self.holds;
            let verdict = |absent: &Absent| {
                let Absent { index, is_flagged, .. } = *absent;
                if known && holds.hold(index, is_flagged) { State::Held } else { State::Covered }
            };
            self.erased.absences.judge(context.pool, path, set, verdict);
        }
        // Each of them is an entry that was seen, or the log lacks some and nothing is said of its erasures.
        if self.complete {
            certificate.requests.iter().for_each(|request| self.erased.goes_on(request, Stage::Certified));
        }
    }

    /// An entry that says how far an erasure is.
    pub(super) fn erasure_goes_on(&mut self, request: Option<u64>, stage: Stage) {
        request.into_iter().for_each(|request| self.erased.goes_on(request, stage));
    }

    /// Whether the entries that a certificate says asked for it did. One whose body is absent may have.
    fn has_asked(&self, certificate: &ErasureCertificate) -> bool {
        let erased = &self.erased;
        let is_one = |index: u64| erased.asked_at(index).is_some() || erased.is_unread(index);
        !self.complete || certificate.requests.iter().all(is_one)
    }

    /// Keeps the places of entries that ask for an erasure, and of those that may have.
    pub(super) fn asking(&mut self, index: u64, record: &CheckedRecord) {
        let is_unread = matches!(record.body, BodyState::Absent | BodyState::Faulty);
        if matches!(record.fact.as_deref(), Some(Fact::ErasureRequested)) {
            self.erased.asked.push((index, Stage::Asked));
        } else if record.flags & FLAG_OWN != 0 && record.class == Class::Security.code() && is_unread {
            match self.erased.unread.last_mut() {
                Some((_, to)) if *to == index => *to += 1,
                _ => self.erased.unread.push((index, index + 1)),
            }
        }
    }

    /// The log of `known_size` entries has been walked: holds the erasures that are open by snapshot and journal, by index,
    /// against its entries. Of one that was only asked for it is not known whether it waits for a second key.
    pub(in crate::verify) fn compare_erasures(
        &self,
        context: &mut Context<'_>,
        open: &BTreeMap<u64, ErasurePhase>,
        known_size: u64,
    ) {
        let erased = &self.erased;
        if !self.knows_holds() || erased.is_torn || self.next != known_size {
            return;
        }
        let mut add = |index: u64, expected: &str, found: &str| {
            context.add(FindingKind::HeadMismatch, index, expected, found);
        };
        for (index, phase) in open {
            match erased.asked_at(*index).map(|at| erased.asked[at].1) {
                Some(Stage::Done) => add(*index, "an erasure that is done, as the log says", "an open one"),
                Some(stage) if *phase == ErasurePhase::Certified && stage < Stage::Certified => {
                    add(*index, "an erasure without a certificate, as the log says", "one that is certified");
                }
                None if !erased.is_unread(*index) => {
                    add(*index, "open erasures that were asked for", "one of an entry that asks for none");
                }
                _ => {}
            }
        }
        // What cannot be read behind it may have said that it is done.
        let unread_below = erased.unread.last().map_or(0, |(_, to)| *to);
        for (index, stage) in &erased.asked {
            let is_open = matches!(stage, Stage::Approved | Stage::Certified) && *index >= unread_below;
            if is_open && !open.contains_key(index) {
                add(*index, "an open erasure, as the log says", "none");
            }
        }
    }

    /// Whether what is sealed at a path of this record can be erased: of Varve's own entries only whom an erasure was
    /// asked for, by which right, and what a hold was about.
    fn is_erasable(record: &CheckedRecord, path: &str) -> bool {
        match record.fact.as_deref() {
            _ if record.flags & FLAG_OWN == 0 => true,
            Some(Fact::ErasureRequested) => ["/targets/0", "/reason"].contains(&path),
            Some(Fact::HoldPlaced(_)) => ["/metadata", "/reason"].contains(&path),
            _ => false,
        }
    }

    /// Keeps the places of disclosures that are absent until a certificate comes by.
    pub(super) fn disclosures(&mut self, context: &mut Context<'_>, index: u64, record: &mut CheckedRecord) {
        if index >= self.absences_below {
            return;
        }
        for path in std::mem::take(&mut record.withheld) {
            if index > MAX_INDEX || !Walk::is_erasable(record, &path) {
                let run = Run { path: &path, from: index, to: index + 1, is_held: false };
                context.findings.add(run.finding(&context.info.identity.tenant));
                continue;
            }
            let absent = Absent {
                index,
                recorded_at: 0,
                state: State::Owed,
                in_journal: record.in_journal,
                is_flagged: record.flags & FLAG_HELD != 0,
            };
            let path = self.erased.number(path);
            self.erased.absences.push(context.pool, path, absent);
        }
    }

    /// The log has been walked: what is left nothing covers.
    pub(super) fn judge_withheld(&mut self, context: &mut Context<'_>) {
        let Context { info, findings, pool, .. } = context;
        let tenant = &info.identity.tenant;
        let Erased { paths, absences, bodies, .. } = &mut self.erased;
        *bodies = absences.covered_indexes(pool);
        let mut run: Option<Run<'_>> = None;
        absences.each_owed(pool, |path, absent| {
            let path = paths[usize::from(path)].as_str();
            let Absent { index, state, in_journal, .. } = *absent;
            if in_journal {
                let found = format!("the same without its disclosure at {path} in the layer");
                let expected = "the record that the journal has";
                findings.add(Finding::log(FindingKind::JournalMismatch, tenant, index, expected, found));
            }
            let is_held = state == State::Held;
            match &mut run {
                Some(run) if (run.path, run.to, run.is_held) == (path, index, is_held) => run.to += 1,
                _ => {
                    let next = Run { path, from: index, to: index + 1, is_held };
                    run.replace(next).into_iter().for_each(|run| findings.add(run.finding(tenant)));
                }
            }
        });
        run.into_iter().for_each(|run| findings.add(run.finding(tenant)));
    }
}

impl Run<'_> {
    fn finding(self, tenant: &str) -> Finding {
        let Run { path, from, to, is_held } = self;
        let count = to - from;
        if is_held {
            let expected = "a disclosure until no hold keeps it";
            let found = format!(
                "none at {path} of {count} entries, which were held when a certificate named them, or there behind it"
            );
            return Finding::log(FindingKind::HeldExpiry, tenant, from, expected, found);
        }
        let expected = "a disclosure, or an entry that says it was erased";
        let found = format!("none at {path} of {count} entries");
        Finding::log(FindingKind::MissingDisclosure, tenant, from, expected, found)
    }
}
