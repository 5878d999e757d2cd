//! What only the log of the instance can say: which API keys were made and revoked, that the service ran, and
//! that no log vanished (rule 9).

use std::collections::{HashMap, HashSet};

use super::check::Checked;
use super::facts::{Fact, RecordedKey};
use super::finding::{Finding, FindingKind, Findings};
use super::journal_tail::is_recorded;
use super::source::Source;
use crate::event::Tenant;

/// What was seen of the instance's log so far.
pub(super) struct System {
    /// Position of the log; `None` when it is not checked.
    log: Option<usize>,
    wanted: HashSet<u64>,
    recorded: HashMap<u64, RecordedKey>,
    revoked: HashSet<String>,
    /// The newest sign of life: when, and whether it was an orderly stop.
    alive: Option<(u64, bool)>,
    interval: Option<u64>,
    logs: u64,
}

impl System {
    pub(super) fn new(source: &Source) -> System {
        System {
            log: source.logs.infos.iter().position(|info| info.identity.tenant == Tenant::SYSTEM),
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
                Some(Fact::Stopped) => self.alive = Some((at, true)),
                _ => {}
            }
        }
    }

    fn heartbeat(&mut self, index: u64, at: u64, logs: Option<u64>, findings: &mut Findings) {
        let log = |kind, expected: String, found: String| {
            Finding::log(kind, Tenant::SYSTEM, index, expected, found)
        };
        if let (Some((before, false)), Some(interval)) = (self.alive, self.interval)
            && at.saturating_sub(before) > interval.saturating_mul(2)
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

    /// All records were seen.
    pub(super) fn finish(&self, source: &Source, findings: &mut Findings) {
        if self.log.is_none() {
            return;
        }
        if (source.log_count as u64) < self.logs {
            let found = format!("{} logs", source.log_count);
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
