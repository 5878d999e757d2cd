//! Single files that carry their own proof, with nothing else at hand.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::VerifyError;
use super::claim::Claim;
use super::finding::{Finding, FindingKind};
use super::given::read_file;
use super::report::{LogReport, Report};
use crate::tlog::chain::{Entry, leaf_hash};
use crate::tlog::checkpoint::{Checkpoint, Witness};
use crate::tlog::key::VerifyingKey;
use crate::tlog::merkle::verify_inclusion;
use crate::tlog::note::Note;
use crate::tlog::proof::{EntryProof, EntrySignature, MAX_PROOF_BYTES};

/// Largest policy: 256 witnesses and groups of 400 bytes.
const MAX_POLICY_BYTES: u64 = 100 << 10;

/// Groups within groups.
const MAX_GROUP_DEPTH: usize = 16;

/// What is at hand to verify a proof with.
#[derive(Clone, Debug, Default)]
pub struct ProofOptions {
    /// Verifier keys of the log (C2SP `name+id+key`): the one of the checkpoint, and earlier ones.
    pub keys: Vec<String>,
    /// A C2SP tlog-policy: keys of the log, witnesses and a quorum.
    pub policy: Option<PathBuf>,
}

/// Verifies a `.tlog-proof` file: that its entry stands in the tree of its checkpoint, and by whom both are
/// signed. Without a key of the log, only the first is said.
///
/// # Errors
/// A file that cannot be read, an option that cannot be used.
pub fn verify_proof(file: &Path, options: &ProofOptions) -> Result<Report, VerifyError> {
    let bytes = read_file(file, MAX_PROOF_BYTES as u64)?;
    let name = file.display().to_string();
    let policy = options.policy.as_deref().map(Policy::read).transpose()?.unwrap_or_default();
    let mut keys = policy.logs.clone();
    for text in &options.keys {
        keys.push(
            VerifyingKey::parse_vkey(text.trim())
                .map_err(|error| VerifyError::Option(format!("a key that was given: {error}")))?,
        );
    }
    let mut report = Report {
        valid: false,
        claim: Claim::None,
        logs: Vec::new(),
        findings: Vec::new(),
        finding_count: 0,
        warning_count: 0,
        notes: Vec::new(),
    };
    if let Err(found) = prove(&bytes, &keys, &policy, &mut report) {
        report.findings.push(Finding::store(FindingKind::BadProof, &name, "a proof that holds", found));
        report.finding_count = 1;
        report.claim = Claim::None;
        report.logs.iter_mut().for_each(|log| log.claim = Claim::None);
    }
    report.valid = report.findings.is_empty();
    Ok(report)
}

fn prove(
    bytes: &[u8],
    keys: &[(String, VerifyingKey)],
    policy: &Policy,
    report: &mut Report,
) -> Result<(), String> {
    let proof = EntryProof::parse(bytes).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(proof.checkpoint.text()).map_err(|error| error.to_string())?;
    let entry = Entry::decode(&proof.entry).map_err(|error| error.to_string())?;
    let origin = checkpoint.origin.clone();
    let of_log: Vec<VerifyingKey> =
        keys.iter().filter(|(name, _)| *name == origin).map(|(_, key)| *key).collect();
    let mut claim = Claim::Chained;
    let mut signatures = 0;
    if of_log.is_empty() {
        if !keys.is_empty() {
            return Err(format!("the proof is of log {origin}; the keys that were given are of other logs"));
        }
        if entry.index != proof.index {
            return Err(format!("the proof is for index {}, its entry says {}", proof.index, entry.index));
        }
        verify_inclusion(
            &leaf_hash(&proof.entry),
            proof.index,
            checkpoint.size,
            &proof.path,
            &checkpoint.root,
        )
        .map_err(|error| error.to_string())?;
        report.notes.push("no key of the log was given: that the entry is in the tree of the checkpoint was checked, not who signed either; give --vkey or --policy".to_owned());
    } else {
        let signer =
            of_log.iter().find(|key| proof.checkpoint.verify(&origin, key).is_ok()).or(of_log.first());
        let Some(signer) = signer else { return Err("no key".to_owned()) };
        let proven = proof.verify(&origin, signer, &of_log).map_err(|error| error.to_string())?;
        // The checkpoint is the proof's own: nobody outside is known to have held it.
        claim = Claim::Signed;
        signatures = 1;
        if let EntrySignature::KeyNotGiven(id) = proven.entry_signature {
            signatures = 0;
            report.notes.push(format!("the entry's own signature is by key {id}, which was not given, and was not checked; the checkpoint commits to the entry"));
        }
        if let Some((k, n)) = policy.cosigned(&proof.checkpoint)? {
            claim = Claim::Witnessed { k, n };
        }
    }
    report.claim = claim;
    report.notes.push(format!(
        "entry {} of {} stands in the tree of {} entries",
        proof.index, origin, checkpoint.size
    ));
    report.logs.push(LogReport {
        tenant: origin.split('/').nth(1).unwrap_or_default().to_owned(),
        origin,
        log_id: entry.log_id,
        size: checkpoint.size,
        root: Some(checkpoint.root),
        key_ids: vec![entry.key_id.to_string()],
        bodies_present: 0,
        bodies_expired: 0,
        bodies_erased: 0,
        disclosures_erased: 0,
        claim,
        checkpointed_size: 0,
        entries_checked: 1,
        entries_chained: 0,
        signatures_checked: signatures,
    });
    Ok(())
}

/// A C2SP tlog-policy: `log`, `witness`, `group` and `quorum` lines.
#[derive(Default)]
struct Policy {
    logs: Vec<(String, VerifyingKey)>,
    witnesses: HashMap<String, Witness>,
    groups: HashMap<String, (usize, Vec<String>)>,
    quorum: Option<String>,
}

impl Policy {
    fn read(path: &Path) -> Result<Policy, VerifyError> {
        let bytes = read_file(path, MAX_POLICY_BYTES)?;
        let bad =
            |line: usize, what: &str| VerifyError::Option(format!("{}: line {line}: {what}", path.display()));
        let text = String::from_utf8(bytes).map_err(|_| bad(1, "it is no UTF-8"))?;
        let mut policy = Policy::default();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> =
                line.split('#').next().unwrap_or_default().split_ascii_whitespace().collect();
            if !words.is_empty() {
                policy.line(&words).map_err(|what| bad(number + 1, &what))?;
            }
        }
        if policy.quorum.is_none() {
            return Err(bad(text.lines().count(), "there is no quorum line"));
        }
        Ok(policy)
    }

    fn line(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["log", key, ..] => {
                self.logs.push(VerifyingKey::parse_vkey(key).map_err(|error| error.to_string())?)
            }
            ["witness", name, key, ..] => {
                let witness = Witness::parse_vkey(key).map_err(|error| error.to_string())?;
                self.fresh(name)?;
                self.witnesses.insert((*name).to_owned(), witness);
            }
            ["group", name, threshold, members @ ..] if !members.is_empty() => {
                self.fresh(name)?;
                if let Some(unknown) = members.iter().find(|name| !self.is_known(name)) {
                    return Err(format!("{unknown} is not defined before it is used"));
                }
                if members.iter().collect::<HashSet<_>>().len() != members.len() {
                    return Err("a member is named twice".to_owned());
                }
                let needed = match *threshold {
                    "all" => members.len(),
                    "any" => 1,
                    number => number
                        .parse()
                        .ok()
                        .filter(|n| (1..=members.len()).contains(n))
                        .ok_or("a threshold is any, all or a number of members")?,
                };
                self.groups.insert(
                    (*name).to_owned(),
                    (needed, members.iter().map(|name| (*name).to_owned()).collect()),
                );
            }
            ["quorum", name] if self.quorum.is_none() && (*name == "none" || self.is_known(name)) => {
                self.quorum = Some((*name).to_owned())
            }
            _ => return Err("no line of a policy".to_owned()),
        }
        Ok(())
    }

    fn is_known(&self, name: &str) -> bool {
        self.witnesses.contains_key(name) || self.groups.contains_key(name)
    }

    fn fresh(&self, name: &str) -> Result<(), String> {
        if name == "none" || self.is_known(name) { Err(format!("{name} is defined twice")) } else { Ok(()) }
    }

    /// How many of the witnesses cosigned, and how many there are; `None` where the policy asks for none. The
    /// error says that the quorum was not reached, or that a cosignature is bad.
    fn cosigned(&self, note: &Note) -> Result<Option<(u32, u32)>, String> {
        let Some(quorum) = self.quorum.as_deref().filter(|quorum| *quorum != "none") else { return Ok(None) };
        let mut cosigned = HashSet::new();
        for (name, witness) in &self.witnesses {
            if witness.verify(note).map_err(|error| format!("the cosignature of {name}: {error}"))?.is_some()
            {
                cosigned.insert(name.as_str());
            }
        }
        if !self.is_met(quorum, &cosigned, 0) {
            return Err(format!(
                "the policy's quorum {quorum} is not met: {} of {} witnesses cosigned",
                cosigned.len(),
                self.witnesses.len()
            ));
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Some((count(cosigned.len()), count(self.witnesses.len()))))
    }

    fn is_met(&self, name: &str, cosigned: &HashSet<&str>, depth: usize) -> bool {
        match self.groups.get(name) {
            _ if depth > MAX_GROUP_DEPTH => false,
            Some((needed, members)) => {
                members.iter().filter(|member| self.is_met(member, cosigned, depth + 1)).count() >= *needed
            }
            None => cosigned.contains(name),
        }
    }
}
