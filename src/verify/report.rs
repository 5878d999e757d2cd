//! The report: what was checked, what was found, what may be claimed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::claim::Claim;
use super::finding::{Finding, Severity};
use crate::event::{is_printable, printable};
use crate::tlog::hash::Hash;

/// Most logs that the text lists one by one; JSON has all.
const MAX_TEXT_LOGS: usize = 50;

/// Most findings that the text lists one by one; JSON has up to [`super::finding::MAX_LISTED`].
const MAX_TEXT_FINDINGS: usize = 100;

/// The outcome of a verification that came to its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Nothing was found but, maybe, warnings.
    pub valid: bool,
    /// The weakest claim of all logs.
    pub claim: Claim,
    /// The logs that were checked, by tenant.
    pub logs: Vec<LogReport>,
    /// The first findings, by tenant and index, and behind them the first warnings.
    pub findings: Vec<Finding>,
    /// Number of all findings that are no warnings.
    pub finding_count: u64,
    /// Number of all warnings.
    pub warning_count: u64,
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
    /// Disclosures that a certificate of erasure covers.
    pub disclosures_erased: u64,
    /// What may be claimed.
    pub claim: Claim,
    /// Size of the largest checkpoint from outside that held: up to there the entries are those of then. 0: none.
    pub checkpointed_size: u64,
    /// Entries checked in full: chain, tree, body, indexes.
    pub entries_checked: u64,
    /// Entries of which only chain and tree were recomputed (`since_checkpoint`).
    pub entries_chained: u64,
    /// Signatures verified.
    pub signatures_checked: u64,
}

impl Report {
    /// For people. What comes from the store steers no terminal.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&printable(&text));
            out.push('\n');
        };
        for log in self.logs.iter().take(MAX_TEXT_LOGS) {
            log.lines(&mut line);
        }
        if self.logs.len() > MAX_TEXT_LOGS {
            line(format!("and {} logs more (--json lists all)", self.logs.len() - MAX_TEXT_LOGS));
        }
        for note in &self.notes {
            line(format!("note: {note}"));
        }
        for (severity, word, count) in [
            (Severity::Error, "finding", self.finding_count),
            (Severity::Warning, "warning", self.warning_count),
        ] {
            let listed = self.findings.iter().filter(|finding| finding.kind.severity() == severity);
            let mut shown = 0;
            for finding in listed.take(MAX_TEXT_FINDINGS) {
                shown += 1;
                line(finding_line(word, finding));
            }
            if count > shown {
                line(format!("and {} {word}s more", count - shown));
            }
        }
        let from = self
            .logs
            .iter()
            .filter(|log| log.entries_chained > 0)
            .map(|log| format!("; {} checked from {}", log.origin, log.entries_chained));
        let from: String = from.take(MAX_TEXT_LOGS).collect();
        let bodies = |count: fn(&LogReport) -> u64| self.logs.iter().map(count).sum::<u64>();
        line(format!(
            "bodies in all: {} present, {} expired; {} disclosures erased",
            bodies(|log| log.bodies_present),
            bodies(|log| log.bodies_expired),
            bodies(|log| log.disclosures_erased)
        ));
        if self.valid {
            line(format!("intact; claim: {} ({}){from}", self.claim, self.claim.meaning()));
        } else {
            line(format!("NOT INTACT: {} findings", self.finding_count));
        }
        out
    }

    /// For programs: one JSON object.
    pub fn to_json(&self) -> String {
        let logs: Vec<Value> = self.logs.iter().map(LogReport::to_value).collect();
        let findings: Vec<Value> = self.findings.iter().map(finding_value).collect();
        let text = json!({
            "valid": self.valid,
            "claim": self.claim.to_string(),
            "entries": self.logs.iter().map(|log| log.size).sum::<u64>(),
            "bodies_expired": self.logs.iter().map(|log| log.bodies_expired).sum::<u64>(),
            "disclosures_erased": self.logs.iter().map(|log| log.disclosures_erased).sum::<u64>(),
            "finding_count": self.finding_count,
            "warning_count": self.warning_count,
            "findings": findings,
            "notes": self.notes,
            "logs": logs,
        })
        .to_string();
        escaped(&text)
    }
}

impl LogReport {
    fn lines(&self, line: &mut impl FnMut(String)) {
        let mut checked =
            format!("{} checked in full, {} signatures", self.entries_checked, self.signatures_checked);
        if self.entries_chained > 0 {
            let _ = write!(
                checked,
                "; checked from {}: of those before only chain, tree and whether bodies are there",
                self.entries_chained
            );
        }
        line(format!("{}: {} entries, {checked}", self.origin, self.size));
        let root = self.root.map_or_else(|| "unknown".to_owned(), |root| root.to_string());
        line(format!("  root {root}, keys {}", self.key_ids.join(" ")));
        let mut claim = self.claim.to_string();
        if self.checkpointed_size > 0 {
            let _ = write!(claim, ", checkpointed up to {} of {}", self.checkpointed_size, self.size);
        }
        line(format!(
            "  bodies: {} present, {} expired, {} with erased parts ({} disclosures); claim: {claim}",
            self.bodies_present, self.bodies_expired, self.bodies_erased, self.disclosures_erased
        ));
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
            "disclosures_erased": self.disclosures_erased,
            "claim": self.claim.to_string(),
            "checkpointed_size": self.checkpointed_size,
            "entries_checked": self.entries_checked,
            "entries_chained": self.entries_chained,
            "signatures_checked": self.signatures_checked,
        })
    }
}

fn finding_line(word: &str, finding: &Finding) -> String {
    let place = match (&finding.file, finding.index) {
        (Some(file), _) => file.clone(),
        (None, Some(index)) => format!("{} at {index}", finding.tenant),
        (None, None) => finding.tenant.clone(),
    };
    format!("{word}: {} {place}: expected {}; found {}", finding.kind, finding.expected, finding.found)
}

/// The same JSON with what a terminal would not show as four hex digits: such characters stand inside strings
/// alone, and none lies beyond U+FFFF.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if is_printable(character) {
            out.push(character);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
    }
    out
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "severity": finding.kind.severity().name(),
        "tenant": finding.tenant,
        "index": finding.index,
        "file": finding.file,
        "expected": finding.expected,
        "found": finding.found,
    })
}
