//! Each finding kind has a test that produces it: a copy of a sound store is tampered with through the same
//! interfaces that write it.

mod bits;
mod brought;
mod erasures;
mod holds;
mod logs;
mod records;
mod resumed;
mod retention;
mod standing;
mod store;
mod whole;

use std::path::Path;

use super::*;

struct Quiet;

impl Progress for Quiet {
    fn started(&self, _: u64) {}
    fn advanced(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

fn verify(dir: &Path) -> Report {
    verify_with(dir, Options::default())
}

fn verify_with(dir: &Path, options: Options) -> Report {
    verify_dir(dir, &options, &Quiet).unwrap()
}

/// Asserts that exactly these findings are reported, by kind, tenant and index.
#[track_caller]
fn assert_found(report: &Report, expected: &[(FindingKind, &str, Option<u64>)]) {
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.kind, finding.tenant.as_str(), finding.index))
        .collect();
    assert_eq!(found, expected, "{}", report.to_text());
    assert!(!report.valid && report.claim == Claim::None);
    assert_eq!(report.finding_count, expected.len() as u64);
}

#[track_caller]
fn assert_intact(report: &Report) {
    assert!(report.valid, "{}", report.to_text());
}
