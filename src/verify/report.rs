//! The report: what was checked, what was found, what may be claimed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::claim::Claim;
use super::finding::Finding;
use crate::tlog::hash::Hash;

/// Most logs that the text lists one by one; JSON has all.
const MAX_TEXT_LOGS: usize = 50;

/// Most findings that the text lists one by one; JSON has up to [`super::finding::MAX_LISTED`].
const MAX_TEXT_FINDINGS: usize = 100;

/// The outcome of a verification that came to its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Nothing was found.
    pub valid: bool,
    /// The weakest claim of all logs.
    pub claim: Claim,
    /// The logs that were checked, by tenant.
    pub logs: Vec<LogReport>,
    /// The first findings, by tenant and index.
    pub findings: Vec<Finding>,
    /// Number of all findings.
    pub finding_count: u64,
    /// What is unusual and changes no answer, and what was not checked.
    pub notes: Vec<String>,
}

/// What was checked of one log.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// Tenant.
    pub tenant: String,
    /// Origin.
    pub origin: String,
    /// FORMAT §3.
    pub log_id: Hash,
    /// Number of entries found.
    pub size: u64,
    /// Root over them; `None` where entries are missing.
    pub root: Option<Hash>,
    /// Key ids in order of use, as eight hex digits.
    pub key_ids: Vec<String>,
    /// Bodies that are there, among the entries checked in full.
    pub bodies_present: u64,
    /// Bodies that a certificate of expiry covers.
    pub bodies_expired: u64,
    /// Bodies with disclosures that a certificate of erasure covers.
    pub bodies_erased: u64,
    /// What may be claimed.
    pub claim: Claim,
    /// Entries checked in full: chain, tree, body, indexes.
    pub entries_checked: u64,
    /// Entries of which only chain and tree were recomputed (`since_checkpoint`).
    pub entries_chained: u64,
    /// Signatures verified.
    pub signatures_checked: u64,
}

impl Report {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        for log in self.logs.iter().take(MAX_TEXT_LOGS) {
            let _ = writeln!(out, "{}: {} entries, {}", log.origin, log.size, log.checked());
            let root = log.root.map_or_else(|| "unknown".to_owned(), |root| root.to_string());
            let _ = writeln!(out, "  root {root}, keys {}", log.key_ids.join(" "));
            let _ = writeln!(
                out,
                "  bodies: {} present, {} expired, {} with erased parts; claim: {}",
                log.bodies_present, log.bodies_expired, log.bodies_erased, log.claim
            );
        }
        if self.logs.len() > MAX_TEXT_LOGS {
            let _ = writeln!(out, "and {} logs more (--json lists all)", self.logs.len() - MAX_TEXT_LOGS);
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        for finding in self.findings.iter().take(MAX_TEXT_FINDINGS) {
            let place = match (&finding.file, finding.index) {
                (Some(file), _) => file.clone(),
                (None, Some(index)) => format!("{} at {index}", finding.tenant),
                (None, None) => finding.tenant.clone(),
            };
            let _ = writeln!(
                out,
                "finding: {} {place}: expected {}; found {}",
                finding.kind, finding.expected, finding.found
            );
        }
        let shown = self.findings.len().min(MAX_TEXT_FINDINGS) as u64;
        if self.finding_count > shown {
            let _ = writeln!(out, "and {} findings more", self.finding_count - shown);
        }
        if self.valid {
            let _ = writeln!(out, "intact; claim: {} ({})", self.claim, self.claim.meaning());
        } else {
            let _ = writeln!(out, "NOT INTACT: {} findings", self.finding_count);
        }
        out
    }

    /// For programs: one JSON object.
    pub fn to_json(&self) -> String {
        let logs: Vec<Value> = self.logs.iter().map(LogReport::to_value).collect();
        let findings: Vec<Value> = self.findings.iter().map(finding_value).collect();
        json!({
            "valid": self.valid,
            "claim": self.claim.to_string(),
            "entries": self.logs.iter().map(|log| log.size).sum::<u64>(),
            "finding_count": self.finding_count,
            "findings": findings,
            "notes": self.notes,
            "logs": logs,
        })
        .to_string()
    }
}

impl LogReport {
    fn checked(&self) -> String {
        let mut text =
            format!("{} checked in full, {} signatures", self.entries_checked, self.signatures_checked);
        if self.entries_chained > 0 {
            let _ = write!(text, "; of the first {} only chain and tree", self.entries_chained);
        }
        text
    }

    fn to_value(&self) -> Value {
        json!({
            "tenant": self.tenant,
            "origin": self.origin,
            "log_id": self.log_id.to_string(),
            "size": self.size,
            "root": self.root.map(|root| root.to_string()),
            "key_ids": self.key_ids,
            "bodies": {
                "present": self.bodies_present,
                "expired": self.bodies_expired,
                "erased": self.bodies_erased,
            },
            "claim": self.claim.to_string(),
            "entries_checked": self.entries_checked,
            "entries_chained": self.entries_chained,
            "signatures_checked": self.signatures_checked,
        })
    }
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "tenant": finding.tenant,
        "index": finding.index,
        "file": finding.file,
        "expected": finding.expected,
        "found": finding.found,
    })
}
