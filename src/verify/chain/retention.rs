//! Rule 6: a body that is absent was due and not held, and a certificate behind it says so (retention.md §6). The policies of the
//! log say what was due when, and which name goes with which of the tenant's own codes.

use super::{Context, Walk};
use crate::retention::{Certificate, History, MAX_INDEX, RecordedPolicy, Refusal};
use crate::store::layer_id::LayerId;
use crate::tlog::chain::FLAG_HELD;
use crate::verify::absent::{Absences, Absent, State};
use crate::verify::check::{BodyState, CheckedRecord};
use crate::verify::finding::{Finding, FindingKind};

/// What is known of a log's retention while it is walked.
#[derive(Default)]
pub(super) struct Retained {
    history: History,
    /// A policy did not parse: what later ones say of the one before, and which names codes have, is not known.
    is_torn: bool,
    pub(super) absences: Absences,
}

/// Consecutive absent bodies of which the same is to be said.
#[derive(Clone, Copy)]
struct Run {
    from: u64,
    to: u64,
    class: u16,
    state: State,
}

impl Walk {
    /// Bodies that a certificate covers.
    pub(in crate::verify) fn bodies_expired(&self) -> u64 {
        self.retained.absences.covered()
    }

    /// The name of a class of the tenant's own is the one that the policy in force gave the code.
    pub(super) fn class_name(&self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        let Some(name) = record.class_name.as_deref() else { return };
        let newest = self.retained.history.newest();
        let term = newest.and_then(|(_, policy)| policy.class_with(record.class));
        if term.is_some_and(|term| term.name == name) || self.retained.is_torn {
            return;
        }
        let expected = match term {
            Some(term) => format!("class {}, which the policy gave code {}", term.name, record.class),
            None => format!("a policy before it that names the class of code {}", record.class),
        };
        context.add(FindingKind::ClassMismatch, index, expected, format!("{name} and code {}", record.class));
    }

    /// An entry that sets a policy.
    pub(super) fn policy(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        recorded_at: u64,
        read: &Result<RecordedPolicy, Refusal>,
    ) {
        let retained = &mut self.retained;
        let was_torn = retained.is_torn;
        let refused = match read {
            Ok(recorded) => {
                let follows = retained.history.follows(recorded);
                // It holds from here on whatever it says of the one before.
                retained.history.push(index, recorded_at, recorded.policy.clone());
                retained.is_torn = false;
                follows.err().filter(|_| !was_torn)
            }
            Err(refusal) => {
                retained.is_torn = true;
                Some(refusal.clone())
            }
        };
        if let Some(refusal) = refused {
            context.add(
                FindingKind::BadPolicy,
                index,
                "a policy that follows the one before",
                refusal.to_string(),
            );
        }
    }

    /// An entry that lets bodies go.
    pub(super) fn certificate(
        &mut self,
        context: &mut Context<'_>,
        index: u64,
        recorded_at: u64,
        read: &Result<Certificate, Refusal>,
    ) {
        let held = read.clone().and_then(|certificate| self.holds(index, &certificate).map(|()| certificate));
        let certificate = match held {
            Ok(certificate) => certificate,
            Err(refusal) => {
                let expected = "a certificate whose facts hold";
                return context.add(FindingKind::BadCertificate, index, expected, refusal.to_string());
            }
        };
        let Certificate { members, class_code: class, .. } = &certificate;
        let known = self.knows_holds();
        let (holds, Retained { history, absences, .. }) = (&self.holds, &mut self.retained);
        let verdict = |absent: &Absent| {
            if known && holds.hold(absent.index, absent.is_flagged) {
                return State::Held;
            }
            let due = history.due_at(*class, false, absent.index, absent.recorded_at, index - 1);
            if due.is_at(recorded_at) { State::Covered } else { State::Early }
        };
        absences.judge(context.pool, *class, members, verdict);
    }

    /// What a certificate at `index` says of the log. Where entries are missing, or a policy cannot be read, it cannot
    /// be held against them.
    fn holds(&self, index: u64, certificate: &Certificate) -> Result<(), Refusal> {
        let wrong = |name: &str, what: String| Err(Refusal { pointer: format!("/{name}"), what });
        let Certificate { layer, class, class_code, months, members, policy, .. } = certificate;
        if members.last() >= index {
            return wrong("last", format!("an index below {index}"));
        }
        if self.knows_holds() && certificate.holds != self.holds.indexes() {
            return wrong("holds", format!("{:?}, the holds in force", self.holds.indexes()));
        }
        if !self.complete || self.retained.is_torn {
            return Ok(());
        }
        let at = self.layers.iter().position(|(entered, _)| LayerId::code(*entered) == *layer);
        let begins = at.map(|at| self.layers[at].1);
        let ends = at.and_then(|at| self.layers.get(at + 1)).map_or(index, |(_, first)| *first);
        if begins.is_none_or(|begins| members.first() < begins || members.last() >= ends) {
            return wrong("layer", "the layer that all members lie in".to_owned());
        }
        let Some((newest, in_force)) = self.retained.history.newest() else {
            return wrong("policy", "no policy is below it, so nothing is due".to_owned());
        };
        if *policy != newest {
            return wrong("policy", format!("{newest}, the newest below it"));
        }
        if in_force.class_with(*class_code).is_none_or(|term| term.name != *class) {
            return wrong("class", "a class of the policy, with its code".to_owned());
        }
        match self.retained.history.months(*class_code, members.first(), index - 1) {
            Some(most) if most == *months => Ok(()),
            Some(most) => wrong("months", format!("{most}, which the first of them asks for")),
            None => wrong("months", "no policy asks for any".to_owned()),
        }
    }

    /// Counts a body, or keeps its place until a certificate comes by.
    pub(super) fn body(&mut self, context: &mut Context<'_>, index: u64, record: &CheckedRecord) {
        match record.body {
            BodyState::Present | BodyState::Withheld => self.bodies_present += 1,
            BodyState::Faulty | BodyState::Unchecked => {}
            BodyState::Absent if index >= self.absences_below => {}
            BodyState::Absent if index > MAX_INDEX => {
                let run = Run { from: index, to: index + 1, class: record.class, state: State::Owed };
                context.findings.add(run.finding(&context.info.identity.tenant));
            }
            BodyState::Absent => {
                let absent = Absent {
                    index,
                    recorded_at: record.recorded_at,
                    state: State::Owed,
                    in_journal: record.in_journal,
                    is_flagged: record.flags & FLAG_HELD != 0,
                };
                self.retained.absences.push(context.pool, record.class, absent);
            }
        }
    }

    /// Whether bodies or disclosures are absent that nothing has covered so far.
    pub(in crate::verify) fn has_uncovered(&self) -> bool {
        self.retained.absences.owed() + self.erased.absences.owed() > 0
    }

    /// What is absent from `size` on is left to another run.
    pub(in crate::verify) fn keeps_absences_below(&mut self, size: u64) {
        self.absences_below = size;
    }

    /// The log has been walked: what is left nothing covers.
    pub(super) fn judge_absent(&mut self, context: &mut Context<'_>) {
        let Context { info, findings, pool, .. } = context;
        let mut run: Option<Run> = None;
        let tenant = &info.identity.tenant;
        self.retained.absences.each_owed(pool, |class, absent| {
            let Absent { index, state, .. } = *absent;
            if absent.in_journal {
                let (expected, found) =
                    ("the record that the journal has", "the same without its body in the layer");
                findings.add(Finding::log(FindingKind::JournalMismatch, tenant, index, expected, found));
            }
            match &mut run {
                Some(run) if (run.to, run.class, run.state) == (index, class, state) => run.to += 1,
                _ => {
                    let next = Run { from: index, to: index + 1, class, state };
                    run.replace(next).into_iter().for_each(|run| findings.add(run.finding(tenant)));
                }
            }
        });
        run.into_iter().for_each(|run| findings.add(run.finding(tenant)));
    }
}

impl Run {
    fn finding(self, tenant: &str) -> Finding {
        let Run { from, to, class, state } = self;
        let entries = format!("{} entries of class {class}", to - from);
        let (kind, expected, found) = match state {
            State::Held => (
                FindingKind::HeldExpiry,
                "a body until no hold keeps it",
                format!(
                    "none at {entries}, which were held when a certificate named them, or there behind it"
                ),
            ),
            State::Early => (
                FindingKind::EarlyExpiry,
                "a body until it is due",
                format!("a certificate from before they were due for {entries}"),
            ),
            State::Owed | State::Covered => (
                FindingKind::MissingBody,
                "a body",
                format!("no body and no certificate of expiry at {entries}"),
            ),
        };
        Finding::log(kind, tenant, from, expected, found)
    }
}
