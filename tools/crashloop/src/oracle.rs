//! What must be true: every record ever walked and every receipt ever given, 40 bytes each.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::random::{Random, digest};
use crate::setting::{SYSTEM, TENANTS};

/// Old records looked at again in each check, a log.
const SAMPLE: u64 = 60;

/// Acknowledged events sent again in each check, at most.
const REPEATS: usize = 40;

/// The oracle.
#[derive(Default)]
pub(crate) struct Oracle {
    logs: HashMap<String, Log>,
    /// Receipts of the cycle, not yet found in a log: tenant, index, id, link.
    open: Vec<(String, u64, String, String)>,
    pub(crate) receipts: u64,
    pub(crate) repeats: u64,
}

#[derive(Default)]
struct Log {
    /// Digests of id and link, by index.
    records: Vec<(u64, u64)>,
    /// Index by digest of the id.
    ids: HashMap<u64, u64>,
}

impl Oracle {
    /// Reads the receipts of the killed child and returns what is to be sent again: tenant, index, id.
    pub(crate) fn take_ledger(&mut self, dir: &Path) -> Result<Vec<(String, u64, String)>, String> {
        let told = |error: std::io::Error| error.to_string();
        let mut repeats = Vec::new();
        for entry in fs::read_dir(dir).map_err(told)? {
            let path = entry.map_err(told)?.path();
            let text = fs::read_to_string(&path).map_err(told)?;
            fs::remove_file(&path).map_err(told)?;
            let before = self.open.len();
            for line in text.split_inclusive('\n') {
                // The last line may be cut off by the kill.
                let Some(line) = line.strip_suffix('\n') else { continue };
                let words: Vec<&str> = line.split(' ').collect();
                let [tenant, index, id, link] = words[..] else { return Err(format!("ledger: {line}")) };
                let index = index.parse().map_err(|_| format!("ledger: {line}"))?;
                self.open.push((tenant.to_owned(), index, id.to_owned(), link.to_owned()));
            }
            let last = self.open[before..].iter().rev().take(REPEATS / 8);
            repeats.extend(last.map(|(tenant, index, id, _)| (tenant.clone(), *index, id.clone())));
        }
        self.receipts += self.open.len() as u64;
        self.repeats += repeats.len() as u64;
        Ok(repeats)
    }

    /// What a check is to do, one line a thing.
    pub(crate) fn request(
        &self,
        repeats: &[(String, u64, String)],
        is_full: bool,
        stops: bool,
        random: &mut Random,
    ) -> String {
        let mut text = format!("end {}\n", if stops { "stop" } else { "kill" });
        for tenant in TENANTS.iter().chain([&SYSTEM]) {
            let known = self.logs.get(*tenant).map_or(0, |log| log.records.len() as u64);
            let _ = writeln!(text, "walk {tenant} {}", if is_full { 0 } else { known });
            for _ in 0..if is_full { 0 } else { SAMPLE.min(known) } {
                let _ = writeln!(text, "look {tenant} {}", random.below(known));
            }
        }
        for (tenant, index, id) in repeats {
            let _ = writeln!(text, "repeat {tenant} {index} {id}");
        }
        text
    }

    /// Holds what was walked against all that is known. The first contradiction is the finding.
    pub(crate) fn compare(&mut self, walked: &str) -> Result<(), String> {
        for line in walked.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["size", tenant, size] => {
                    let size: u64 = size.parse().map_err(|_| line.to_owned())?;
                    let known = self.logs.get(tenant).map_or(0, |log| log.records.len() as u64);
                    if size < known {
                        return Err(format!("{tenant} shrank from {known} to {size} entries"));
                    }
                }
                ["record", tenant, index, id, link] => {
                    let index: u64 = index.parse().map_err(|_| line.to_owned())?;
                    self.logs.entry(tenant.to_owned()).or_default().put(tenant, index, id, link)?;
                }
                _ => return Err(format!("a check wrote: {line}")),
            }
        }
        for (tenant, index, id, link) in std::mem::take(&mut self.open) {
            let log = self.logs.get(&tenant);
            let record = log.and_then(|log| log.records.get(usize::try_from(index).ok()?));
            match record {
                None => return Err(format!("LOST: {tenant} {index} {id} was acknowledged and is not there")),
                Some(record) if *record != (digest(&id), digest(&link)) => {
                    return Err(format!(
                        "LOST: {tenant} {index} {id} was acknowledged, another record stands there"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    pub(crate) fn records(&self) -> u64 {
        self.logs.values().map(|log| log.records.len() as u64).sum()
    }
}

impl Log {
    fn put(&mut self, tenant: &str, index: u64, id: &str, link: &str) -> Result<(), String> {
        let record = (digest(id), digest(link));
        let at = usize::try_from(index).map_err(|error| error.to_string())?;
        match self.records.get(at) {
            Some(known) if *known == record => return Ok(()),
            Some(_) => return Err(format!("CHANGED: {tenant} {index} is another record than before")),
            None if at > self.records.len() => return Err(format!("GAP: {tenant} goes on at {index}")),
            None => self.records.push(record),
        }
        match self.ids.insert(record.0, index) {
            Some(first) => Err(format!("TWICE: {tenant} has {id} at {first} and at {index}")),
            None => Ok(()),
        }
    }
}
