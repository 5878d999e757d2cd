//! What only the log of the instance can say: which logs and API keys were made, which keys were revoked, that
//! the service ran, and that the map of logs never shrank (rules 9 and 10).

use std::collections::{HashMap, HashSet};

use super::check::Checked;
use super::facts::{Fact, RecordedKey};
use super::finding::{Finding, FindingKind, Findings};
use super::journal_tail::is_recorded;
use super::logs::Made;
use super::source::Source;
use crate::event::Tenant;

/// Intervals without a heartbeat that are no gap yet: one may be refused, and the next is late by its own time.
const INTERVALS_APART: u64 = 3;

/// What was seen of the instance's log so far.
pub(super) struct System<'a> {
    /// Position of the log; `None` when it is not checked.
    pub(super) log: Option<usize>,
    made: Made<'a>,
    wanted: HashSet<u64>,
    recorded: HashMap<u64, RecordedKey>,
    revoked: HashSet<String>,
    /// The newest sign of life: when, and whether a gap behind it is explained: by an orderly stop, or by a
    /// clock that was stepped.
    alive: Option<(u64, bool)>,
    interval: Option<u64>,
    logs: u64,
}

impl<'a> System<'a> {
    pub(super) fn new(source: &'a Source) -> System<'a> {
        System {
            log: source.logs.infos.iter().position(|info| info.identity.tenant == Tenant::SYSTEM),
            made: Made::new(&source.logs),
            wanted: source.api_keys.iter().map(|key| key.entry_index).collect(),
            recorded: HashMap::new(),
            revoked: HashSet::new(),
            alive: None,
            interval: None,
            logs: 0,
        }
    }

    /// Takes checked records of any log.
    pub(super) fn observe(&mut self, log: usize, page: &Checked, findings: &mut Findings) {
        if self.log != Some(log) {
            return;
        }
        for (index, record) in (page.first_index..).zip(&page.records) {
            let at = record.recorded_at;
            match record.fact.as_deref() {
                Some(Fact::TenantCreated(said)) => self.made.observe(index, said.as_deref(), findings),
                Some(Fact::ApiKeyCreated(key)) if self.wanted.contains(&index) => {
                    self.recorded.insert(index, (**key).clone());
                }
                Some(Fact::ApiKeyRevoked(id)) => {
                    self.revoked.insert(id.clone());
                }
                Some(Fact::Heartbeat { logs, interval }) => {
                    // Within one run the interval is fixed; after a start the first heartbeat says it.
                    self.interval = self.interval.or(*interval);
                    self.heartbeat(index, at, *logs, findings);
                    self.alive = Some((at, false));
                }
                Some(Fact::Started) => (self.alive, self.interval) = (Some((at, false)), None),
                Some(Fact::Stopped | Fact::ClockAnomaly) => self.alive = Some((at, true)),
                _ => {}
            }
        }
    }

    fn heartbeat(&mut self, index: u64, at: u64, logs: Option<u64>, findings: &mut Findings) {
        let log = |kind, expected: String, found: String| {
            Finding::log(kind, Tenant::SYSTEM, index, expected, found)
        };
        if let (Some((before, false)), Some(interval)) = (self.alive, self.interval)
            && at.saturating_sub(before) > interval.saturating_mul(INTERVALS_APART)
        {
            let found = format!("nothing from {before} to {at}, microseconds");
            findings.add(log(
                FindingKind::Silence,
                format!("a heartbeat each {interval} microseconds"),
                found,
            ));
        }
        let Some(logs) = logs else { return };
        if logs < self.logs {
            findings.add(log(
                FindingKind::MapShrunk,
                format!("a map of at least {} logs", self.logs),
                format!("one of {logs}"),
            ));
        }
        self.logs = self.logs.max(logs);
    }

    /// All records were seen. `complete`: no entry of the instance's log is missing.
    pub(super) fn finish(&self, source: &Source, complete: bool, findings: &mut Findings) {
        if self.log.is_none() {
            return;
        }
        if complete {
            self.made.finish(findings);
        }
        let count = source.logs.all.len();
        if (count as u64) < self.logs {
            let found = format!("{count} logs");
            findings.add(Finding::store(
                FindingKind::MissingLog,
                "state",
                format!("{} logs by the map of logs", self.logs),
                found,
            ));
        }
        for key in &source.api_keys {
            let index = key.entry_index;
            if !is_recorded(self.recorded.get(&index), key) {
                let expected = format!("an entry that records key {} with its digest and scopes", key.id);
                findings.add(Finding::log(
                    FindingKind::UnrecordedKey,
                    Tenant::SYSTEM,
                    index,
                    expected,
                    "none, or one that says otherwise",
                ));
            } else if self.revoked.contains(&key.id) && key.revoked_at == 0 {
                let expected = format!("key {} revoked, as the log says", key.id);
                findings.add(Finding::log(
                    FindingKind::UnrecordedKey,
                    Tenant::SYSTEM,
                    index,
                    expected,
                    "a key that still holds",
                ));
            }
        }
    }
}
