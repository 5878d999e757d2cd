//! Which logs a store has: what snapshot and journal say of them, held against the grammar of names and against
//! the entries `varve.tenant.created` of `_system`.
//!
//! It takes no key to take a log out of every file, to put one in, or to exchange one. The chain of `_system` is
//! what remembers which were made. A log and its entry there stand in one frame of the journal, so no crash parts
//! them.

use std::collections::{HashMap, HashSet};

use super::check::LogInfo;
use super::facts::RecordedLog;
use super::finding::{Finding, FindingKind, Findings};
use crate::event::{Instance, Origin, Tenant};
use crate::tlog::hash::Hash;

/// The logs that are verified, and those that are not.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) infos: Vec<LogInfo>,
    pub(super) positions: HashMap<u32, Option<usize>>,
    /// Every log that snapshot or journal know.
    pub(super) all: Vec<Known>,
}

/// A log as snapshot or journal have it, verified or not.
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) tenant: String,
    pub(super) origin: String,
    pub(super) log_id: Hash,
    pub(super) genesis_key: [u8; 32],
}

impl Logs {
    /// Whether every log of the store is verified.
    pub(super) fn are_all(&self) -> bool {
        self.positions.values().all(Option::is_some)
    }

    /// Position of a log; `None` where it is not verified; its number again where nothing made it.
    pub(super) fn position(&self, number: u32) -> Result<Option<usize>, u32> {
        self.positions.get(&number).copied().ok_or(number)
    }

    /// Whether the logs' names can be those of one store. `whole`: no tenant was asked for.
    pub(super) fn check_names(&self, instance: &str, whole: bool, findings: &mut Vec<Finding>) {
        if self.all.is_empty() {
            return;
        }
        let mut bad = |found: String| {
            findings.push(Finding::store(FindingKind::BadName, "state", "names of the grammar", found));
        };
        let instance_is_sound = Instance::parse(instance).is_ok();
        if !instance_is_sound {
            bad("another name of the instance".to_owned());
        }
        for log in &self.all {
            if Tenant::parse_any(&log.tenant).is_err() {
                bad(format!("another tenant of log number {}", log.number));
            } else if instance_is_sound && Origin::parse(&log.origin).is_err() {
                bad(format!("another origin of log number {}", log.number));
            }
        }
        let mut tenants = HashSet::new();
        for log in self.all.iter().filter(|log| !tenants.insert(log.tenant.as_str())) {
            let found = format!("another one, log number {}", log.number);
            findings.push(Finding::log(
                FindingKind::UnknownLog,
                &log.tenant,
                0,
                "one log of the tenant",
                found,
            ));
        }
        let system = format!("{instance}/{}", Tenant::SYSTEM);
        if whole && !self.all.iter().any(|log| log.origin == system) {
            findings.push(Finding::store(
                FindingKind::MissingLog,
                "state",
                format!("log {system}, which records the others"),
                "none",
            ));
        }
    }
}

/// What `_system` says was made, against what is there.
pub(super) struct Made<'a> {
    logs: &'a Logs,
    by_id: HashMap<Hash, usize>,
    recorded: Vec<bool>,
}

impl<'a> Made<'a> {
    pub(super) fn new(logs: &'a Logs) -> Made<'a> {
        let by_id = logs.all.iter().enumerate().map(|(place, log)| (log.log_id, place)).collect();
        Made { logs, by_id, recorded: vec![false; logs.all.len()] }
    }

    /// An entry of `_system` says that a log was made; `None`: it does not say which.
    pub(super) fn observe(&mut self, index: u64, said: Option<&RecordedLog>, findings: &mut Findings) {
        let mut missing = |expected: String, found: &str| {
            findings.add(Finding::log(FindingKind::MissingLog, Tenant::SYSTEM, index, expected, found));
        };
        let Some(said) = said else {
            return missing("an entry that says which log was made".to_owned(), "one that does not");
        };
        let expected = || format!("log {} with id {}", said.origin, said.log_id);
        let Some(&place) = self.by_id.get(&said.log_id) else {
            return missing(expected(), "no such log");
        };
        let log = &self.logs.all[place];
        if (&log.tenant, &log.origin, &log.genesis_key) != (&said.tenant, &said.origin, &said.key) {
            missing(expected(), "a log of that id with another tenant, origin or key");
        } else if std::mem::replace(&mut self.recorded[place], true) {
            missing(format!("another log than {}, which was made before", said.origin), "that one again");
        }
    }

    /// Every entry of `_system` was seen: what it does not record was put there.
    pub(super) fn finish(&self, findings: &mut Findings) {
        for (log, _) in self.logs.all.iter().zip(&self.recorded).filter(|(_, recorded)| !**recorded) {
            if log.tenant != Tenant::SYSTEM {
                findings.add(Finding::log(
                    FindingKind::UnknownLog,
                    &log.tenant,
                    0,
                    format!("an entry of {} that records log {}", Tenant::SYSTEM, log.log_id),
                    "none",
                ));
            }
        }
    }
}
