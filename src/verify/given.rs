//! What an auditor brings along: checkpoints, receipts, keys. Files are read whole, within limits, before
//! anything is verified, so that a mistyped path costs no hour.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::finding::{Finding, FindingKind};
use super::logs::Logs;
use super::{Options, VerifyError};
use crate::event::Micros;
use crate::store::state::LogIdentity;
use crate::tlog::chain::Entry;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::hash::Hash;
use crate::tlog::key::{KeyId, Signature, VerifyingKey};
use crate::tlog::note::{MAX_NOTE_BYTES, Note};
use crate::tlog::receipt::Receipt;

/// Most receipts of one run: 400 bytes each, 1.6 GB.
const MAX_RECEIPTS: usize = 4 << 20;

/// Longest line of a file of receipts: an answer to a batch of 1,000 events.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// A checkpoint that was given.
pub(super) struct GivenCheckpoint {
    pub(super) note: Note,
    pub(super) checkpoint: Checkpoint,
    pub(super) file: String,
}

/// Everything that was given.
#[derive(Default)]
pub(super) struct Given {
    pub(super) checkpoints: Vec<GivenCheckpoint>,
    /// Position in `checkpoints` of the one below which only chain and tree are recomputed.
    pub(super) since: Option<usize>,
    /// By tenant, in order of index.
    pub(super) receipts: BTreeMap<String, Vec<Receipt>>,
    /// By origin.
    pub(super) keys: BTreeMap<String, Vec<VerifyingKey>>,
}

impl Given {
    /// Reads all that the options name.
    pub(super) fn read(options: &Options) -> Result<Given, VerifyError> {
        let mut given = Given::default();
        for path in options.checkpoints.iter().chain(&options.since_checkpoint) {
            given.checkpoints.push(checkpoint(path)?);
        }
        given.since = options.since_checkpoint.as_ref().map(|_| given.checkpoints.len() - 1);
        for text in &options.keys {
            let (origin, key) = VerifyingKey::parse_vkey(text.trim())
                .map_err(|error| VerifyError::Option(format!("a key that was given: {error}")))?;
            given.keys.entry(origin).or_default().push(key);
        }
        if let Some(path) = &options.receipts {
            receipts(path, &mut given.receipts)?;
        }
        for receipts in given.receipts.values_mut() {
            receipts.sort_by_key(|receipt| receipt.index);
        }
        Ok(given)
    }

    /// The receipts of a log, in order of index.
    pub(super) fn receipts_of(&self, identity: &LogIdentity) -> Vec<Receipt> {
        let of_tenant = self.receipts.get(&identity.tenant).map_or(&[][..], Vec::as_slice);
        of_tenant.iter().filter(|receipt| log_of(receipt) == Some(identity.log_id)).cloned().collect()
    }

    /// What concerns no log of the store, and as notes what concerns one that is not verified.
    pub(super) fn unplaced(&self, logs: &Logs) -> (Vec<Finding>, Vec<String>) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let verified: Vec<&str> = logs.infos.iter().map(|info| info.origin.as_str()).collect();
        let mut place = |origin: &str, what: String| {
            if verified.contains(&origin) {
            } else if logs.all.iter().any(|log| log.origin == origin) {
                notes.push(format!("{what} is of {origin}, which was not checked"));
            } else {
                findings.push(Finding::store(
                    FindingKind::MissingLog,
                    origin,
                    format!("log {origin}"),
                    format!("no such log, though {what} was given"),
                ));
            }
        };
        for given in &self.checkpoints {
            place(&given.checkpoint.origin, format!("checkpoint {}", given.file));
        }
        for (origin, keys) in &self.keys {
            keys.iter().for_each(|key| place(origin, format!("key {}", key.key_id(origin))));
        }
        for (tenant, receipts) in &self.receipts {
            let ids: Vec<Hash> =
                logs.all.iter().filter(|log| log.tenant == *tenant).map(|log| log.log_id).collect();
            let is_stray = |receipt: &&Receipt| log_of(receipt).is_none_or(|id| !ids.contains(&id));
            let count = receipts.iter().filter(is_stray).count();
            if let Some(receipt) = receipts.iter().find(is_stray) {
                let kind = if ids.is_empty() { FindingKind::MissingLog } else { FindingKind::BadReceipt };
                let expected = log_of(receipt)
                    .map_or_else(|| "a receipt with an entry".to_owned(), |id| format!("log {id}"));
                let found = format!("no such log of the tenant; {count} receipts");
                findings.push(Finding::log(kind, tenant, receipt.index, expected, found));
            }
            if count < receipts.len() && !logs.infos.iter().any(|info| info.identity.tenant == *tenant) {
                let others = receipts.len() - count;
                notes.push(format!("{others} receipts are of {tenant}, which was not checked"));
            }
        }
        (findings, notes)
    }
}

fn log_of(receipt: &Receipt) -> Option<Hash> {
    Entry::decode(&receipt.entry).ok().map(|entry| entry.log_id)
}

/// Reads a file that holds one note.
pub(super) fn read_note(path: &Path) -> Result<Note, VerifyError> {
    let bytes = read_file(path, MAX_NOTE_BYTES as u64)?;
    Note::parse(&bytes).map_err(|error| bad(path, &error.to_string()))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let io = |source| VerifyError::Io { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit { Err(bad(path, "the file is too large")) } else { Ok(bytes) }
}

fn checkpoint(path: &Path) -> Result<GivenCheckpoint, VerifyError> {
    let note = read_note(path)?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| bad(path, &error.to_string()))?;
    Ok(GivenCheckpoint { note, checkpoint, file: path.display().to_string() })
}

fn receipts(path: &Path, into: &mut BTreeMap<String, Vec<Receipt>>) -> Result<(), VerifyError> {
    let io = |source| VerifyError::Io { path: path.to_path_buf(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut line = Vec::new();
    let mut count = 0usize;
    for number in 1u64.. {
        line.clear();
        if reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        let at = |what: &str| bad(path, &format!("line {number}: {what}"));
        if line.len() as u64 > MAX_LINE_BYTES {
            return Err(at("it is too long"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value: Value = serde_json::from_slice(&line).map_err(|_| at("it is no JSON"))?;
        let list = match (&value, value.get("receipts").and_then(Value::as_array)) {
            (_, Some(list)) => list.iter().collect(),
            (Value::Array(list), _) => list.iter().collect(),
            _ => vec![&value],
        };
        for value in list {
            let receipt = receipt(value)
                .map_err(|member| at(&format!("no receipt of Varve's: {member} is missing or malformed")))?;
            count += 1;
            if count > MAX_RECEIPTS {
                return Err(at("too many receipts for one run; split the file"));
            }
            into.entry(receipt.tenant.clone()).or_default().push(receipt);
        }
    }
    Ok(())
}

/// Reads a receipt as the HTTP interface answers it. The error names the member at fault.
fn receipt(value: &Value) -> Result<Receipt, &'static str> {
    let text = |name: &'static str| value.get(name).and_then(Value::as_str).ok_or(name);
    Ok(Receipt {
        tenant: text("tenant")?.to_owned(),
        index: value.get("index").and_then(Value::as_u64).ok_or("index")?,
        id: text("id")?.to_owned(),
        recorded_at: Micros::parse(text("recorded_at")?).map_err(|_| "recorded_at")?.0,
        entry: bytes(text("entry")?).ok_or("entry")?,
        link: Hash(bytes(text("link")?).ok_or("link")?),
        leaf_hash: Hash(bytes(text("leaf_hash")?).ok_or("leaf_hash")?),
        signature: Signature(bytes(text("signature")?).ok_or("signature")?),
        key_id: KeyId::from_hex(text("key_id")?).ok_or("key_id")?,
    })
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn bad(path: &Path, what: &str) -> VerifyError {
    VerifyError::Option(format!("{}: {what}", path.display()))
}
