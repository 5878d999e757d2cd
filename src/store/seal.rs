//! SEAL: how many records a closed layer holds, and the digest over them. Written once, when the next month has
//! begun and everything of this one is in the layer.
//!
//! ```text
//! varve v1 seal
//! layer 2026-10
//! logs 12
//! records 431207
//! content <64 hex digits>
//! blake3 <64 hex digits over all lines before>
//! ```
//!
//! `content` is BLAKE3 over the records alone, log by log in order of number and index: `log 4 | index 8 |
//! record`, each as this generation of the layer has it: what left it is not in it. How the records are packed into pages
//! does not enter.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::backend::KvError;
use super::bounded;
use super::layer::{Layer, MAX_INDEX};
use super::layer_id::LayerId;
use super::page::{self, PageError};
use crate::tlog::hash::Hash;

const FIRST_LINE: &str = "varve v1 seal";

/// Longest seal that is read: its six lines have 228 bytes with the largest numbers.
const MAX_SEAL_BYTES: u64 = 256;

/// Name of the file in the layer's directory.
pub const SEAL_FILE: &str = "SEAL";

/// What a layer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The month, or a part of it.
    pub layer: LayerId,
    /// Logs with a record in it.
    pub logs: u64,
    /// Records.
    pub records: u64,
    /// Digest over the records.
    pub content: Hash,
}

/// A seal that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The store below.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A page does not decode.
    #[error("log {log}, page at {first_index}: {source}")]
    Page {
        /// Log number.
        log: u32,
        /// First index of the page.
        first_index: u64,
        /// What is wrong.
        source: PageError,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is not what was written.
    #[error("{0}: the seal is not what was written")]
    Damaged(PathBuf),
}

impl Seal {
    /// Counts and digests a layer's records. `None` when `stop` says to leave off: it is asked once a page.
    pub fn of(layer: &Layer, stop: &dyn Fn() -> bool) -> Result<Option<Seal>, SealError> {
        let mut numbers = Vec::new();
        layer.carries(&mut |log, _| numbers.push(log))?;
        let mut hasher = blake3::Hasher::new();
        let mut seal = Seal { layer: layer.id, logs: 0, records: 0, content: Hash::ZERO };
        let mut bytes = Vec::new();
        for log in numbers {
            let mut next = layer.first_page_from(log, 0)?;
            seal.logs += u64::from(next.is_some());
            while let Some(first_index) = next {
                if stop() {
                    return Ok(None);
                }
                let Some(stored) = layer.page_at(log, first_index)? else { break };
                let page = page::decode(&stored.bytes).map_err(|source| SealError::Page {
                    log,
                    first_index,
                    source,
                })?;
                for (index, record) in (first_index..).zip(&page.records) {
                    bytes.clear();
                    bytes.extend_from_slice(&log.to_be_bytes());
                    bytes.extend_from_slice(&index.to_be_bytes());
                    record.encode(&mut bytes);
                    hasher.update(&bytes);
                    seal.records += 1;
                }
                next =
                    if first_index < MAX_INDEX { layer.first_page_from(log, first_index + 1)? } else { None };
            }
        }
        seal.content = Hash(*hasher.finalize().as_bytes());
        Ok(Some(seal))
    }

    /// Writes the seal durably into the layer's directory.
    pub fn write(&self, dir: &Path) -> Result<(), SealError> {
        let path = dir.join(SEAL_FILE);
        let io = |source| SealError::Io { path: path.clone(), source };
        let temporary = dir.join("SEAL.tmp");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(self.to_text().as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, &path).map_err(io)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
    }

    /// Reads a layer's seal; `None` when it has none yet.
    pub fn read(dir: &Path) -> Result<Option<Seal>, SealError> {
        let path = dir.join(SEAL_FILE);
        let text = match bounded::read(&path, MAX_SEAL_BYTES) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(SealError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SealError::Io { path, source }),
        };
        let seal = std::str::from_utf8(&text).ok().and_then(Seal::parse);
        seal.map(Some).ok_or(SealError::Damaged(path))
    }

    fn to_text(self) -> String {
        let Seal { layer, logs, records, content } = self;
        let text =
            format!("{FIRST_LINE}\nlayer {layer}\nlogs {logs}\nrecords {records}\ncontent {content}\n");
        let digest = blake3::hash(text.as_bytes());
        format!("{text}blake3 {digest}\n")
    }

    fn parse(text: &str) -> Option<Seal> {
        let mut lines = text.lines().skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        let seal = Seal {
            layer: LayerId::parse(&field("layer")?)?,
            logs: field("logs")?.parse().ok()?,
            records: field("records")?.parse().ok()?,
            content: Hash(*blake3::Hash::from_hex(field("content")?).ok()?.as_bytes()),
        };
        (seal.to_text() == text).then_some(seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_survives_no_changed_bit() {
        let seal =
            Seal { layer: LayerId::parse("2026-10").unwrap(), logs: 3, records: 77, content: Hash([9; 32]) };
        let text = seal.to_text();
        assert_eq!(Seal::parse(&text), Some(seal));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = String::from_utf8(bytes) {
                assert_eq!(Seal::parse(&changed), None, "bit {bit}");
            }
        }
    }
}
