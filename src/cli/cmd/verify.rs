//! `varve verify`: is it still what was recorded? Exit 0 = intact, 1 = findings, 2 = could not tell.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::output::{Exit, Failure, Output, counted, printable};
use super::super::seam::{self, Finding, Verdict, VerifyRequest};

/// Findings that are printed for people; all of them are in `--json`.
const MAX_PRINTED: usize = 100;

#[derive(Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Data directory of a stopped server, or files of evidence
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Only the log of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,

    /// Go on from a checkpoint that was verified before
    #[arg(long, value_name = "FILE")]
    since_checkpoint: Option<PathBuf>,

    /// Receipts that the log must still honour, one JSON object a line
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,

    /// A checkpoint kept outside, which the log must still contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Which keys and witnesses are trusted (C2SP tlog-policy)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Check hashes only; the claim says so
    #[arg(long)]
    no_signatures: bool,
}

pub(in crate::cli) fn run(args: &VerifyArgs, output: &Output) -> Result<Exit, Failure> {
    if let Some(missing) = args.paths.iter().find(|path| !path.exists()) {
        return Err(Failure::new(
            format!("{} is not there", missing.display()),
            "name a data directory or a file",
        ));
    }
    let request = VerifyRequest {
        paths: args.paths.clone(),
        tenant: args.tenant.clone(),
        since_checkpoint: args.since_checkpoint.clone(),
        receipts: args.receipts.clone(),
        checkpoint: args.checkpoint.clone(),
        policy: args.policy.clone(),
        check_signatures: !args.no_signatures,
    };
    let mut progress = output.progress(None, "entries");
    let outcome = seam::verify(&request, &mut |count| progress.add(count));
    progress.done();
    let verdict = outcome?;
    let is_valid = verdict.findings.is_empty();
    if output.is_json() {
        let entries: u64 = verdict.logs.iter().map(|log| log.entries).sum();
        output.json(&json!({"valid": is_valid, "claim": weakest_claim(&verdict), "entries": entries,
            "logs": verdict.logs, "findings": verdict.findings}))?;
    } else {
        output.data(&text(&verdict))?;
    }
    Ok(if is_valid { Exit::Done } else { Exit::No })
}

/// What may be said of all logs together: no more than of the weakest.
fn weakest_claim(verdict: &Verdict) -> Option<&str> {
    const ORDER: [&str; 5] = ["chained", "self-signed", "signed", "checkpointed", "witnessed"];
    let rank = |claim: &str| ORDER.iter().position(|known| claim.starts_with(known)).unwrap_or(0);
    verdict.logs.iter().map(|log| log.claim.as_str()).min_by_key(|claim| rank(claim))
}

fn text(verdict: &Verdict) -> String {
    let mut lines = Vec::new();
    for log in &verdict.logs {
        lines.push(format!(
            "{}: {} ({}), {} expired, {} erased",
            printable(&log.tenant),
            if log.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", log.entries) },
            printable(&log.claim),
            counted(log.expired_bodies, "body").replace("bodys", "bodies"),
            counted(log.erased_disclosures, "value"),
        ));
    }
    for finding in verdict.findings.iter().take(MAX_PRINTED) {
        lines.push(finding_line(finding));
    }
    if verdict.findings.len() > MAX_PRINTED {
        lines.push(format!("… {} more; --json has them all", verdict.findings.len() - MAX_PRINTED));
    }
    lines.push(match verdict.findings.len() {
        0 => "intact".to_owned(),
        count => format!("NOT intact: {}", counted(count as u64, "finding")),
    });
    lines.join("\n")
}

fn finding_line(finding: &Finding) -> String {
    let Finding { kind, tenant, index, expected, found } = finding;
    let mut line = format!("finding {kind} in {tenant}");
    if let Some(index) = index {
        line.push_str(&format!(" at index {index}"));
    }
    if let Some(expected) = expected {
        line.push_str(&format!(", expected {expected}"));
    }
    if let Some(found) = found {
        line.push_str(&format!(", found {found}"));
    }
    printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::seam::LogVerdict;

    fn log(tenant: &str, claim: &str) -> LogVerdict {
        LogVerdict {
            tenant: tenant.into(),
            entries: 3,
            claim: claim.into(),
            expired_bodies: 2,
            ..Default::default()
        }
    }

    #[test]
    fn an_intact_store_says_so_and_claims_no_more_than_its_weakest_log() {
        let verdict =
            Verdict { logs: vec![log("a", "checkpointed"), log("b", "self-signed")], findings: vec![] };
        assert_eq!(
            text(&verdict),
            "a: 3 entries (checkpointed), 2 bodies expired, 0 values erased\n\
             b: 3 entries (self-signed), 2 bodies expired, 0 values erased\nintact"
        );
        assert_eq!(weakest_claim(&verdict), Some("self-signed"));
        assert_eq!(weakest_claim(&Verdict::default()), None);
    }

    #[test]
    fn findings_are_named_with_their_place() {
        let finding = Finding {
            kind: "broken_link".into(),
            tenant: "a".into(),
            index: Some(7),
            expected: Some("AA".into()),
            found: Some("BB".into()),
        };
        let verdict = Verdict { logs: vec![], findings: vec![finding; 101] };
        let text = text(&verdict);
        assert!(text.starts_with("finding broken_link in a at index 7, expected AA, found BB\n"), "{text}");
        assert!(text.ends_with("… 1 more; --json has them all\nNOT intact: 101 findings"), "{text}");
    }
}
