//! Rule 6 for disclosures: one that is absent may be, by a certificate behind it (docs/format/erasure.md §3).

use super::{Context, Walk};
use crate::retention::{ErasureCertificate, MAX_INDEX, Refusal};
use crate::tlog::chain::FLAG_HELD;
use crate::verify::absent::{Absences, Absent, State};
use crate::verify::check::CheckedRecord;
use crate::verify::finding::{Finding, FindingKind};

/// What is known of a log's erased disclosures while it is walked.
#[derive(Default)]
pub(super) struct Erased {
    /// Paths by the numbers that `absences` knows them by: 37 at most, as many as an event has parts to be sealed.
    paths: Vec<String>,
    pub(super) absences: Absences,
    /// Bodies of which something is covered, once the log has been walked.
    bodies: u64,
}

impl Erased {
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
            Ok(certificate) if certificate.last() < index => certificate,
            refused => {
                let found = match refused {
                    Err(refusal) => refusal.to_string(),
                    Ok(_) => format!("the whole: indexes below {index}"),
                };
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
                let is_held = known && holds.hold(index, is_flagged);
                set.contains(index).then_some(if is_held { State::Held } else { State::Covered })
            };
            self.erased.absences.judge(context.pool, path, (set.first(), set.last()), verdict);
        }
    }

    /// Keeps the places of disclosures that are absent until a certificate comes by.
    pub(super) fn disclosures(&mut self, context: &mut Context<'_>, index: u64, record: &mut CheckedRecord) {
        for path in std::mem::take(&mut record.withheld) {
            if index > MAX_INDEX {
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
        let Erased { paths, absences, bodies } = &mut self.erased;
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
                "none at {path} of {count} entries, which were held when a certificate named them"
            );
            return Finding::log(FindingKind::HeldExpiry, tenant, from, expected, found);
        }
        let expected = "a disclosure, or an entry that says it was erased";
        let found = format!("none at {path} of {count} entries");
        Finding::log(FindingKind::MissingDisclosure, tenant, from, expected, found)
    }
}
