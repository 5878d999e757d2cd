//! What a journal frame says: records appended, logs and keys made. Replaying it twice changes nothing.
//!
//! ```text
//! payload: version 1 | sections to the end
//! section: kind 1 | length 4 | bytes
//!   1 records:  log 4 | first index 8 | previous link 32 | count 4 | records
//!   2 log:      identity of a new log
//!   3 API key:  the key's whole state
//!   4 rotation: log 4 | index of the first entry the new key signs 8 | public key 32
//!   5 erasure:  log 4 | index of the entry that asked 8 | phase 1
//! ```

use super::record::{RECORD_FIXED_BYTES, Record};
use super::state::{ApiKey, ErasurePhase, LogIdentity};
use super::wire::{Reader, Short};
use crate::tlog::hash::Hash;

const PAYLOAD_VERSION: u8 = 1;
const RECORDS: u8 = 1;
const LOG: u8 = 2;
const API_KEY: u8 = 3;
const ROTATION: u8 = 4;
const ERASURE: u8 = 5;

/// One section of a frame.
pub enum Op {
    /// Records appended to one log.
    Records(Appended),
    /// A log comes to be.
    Log(LogIdentity),
    /// An API key is made or changed.
    ApiKey(ApiKey),
    /// From `index` on, `key` signs the log.
    Rotation {
        /// Log number.
        log: u32,
        /// Index of the first entry the new key signs.
        index: u64,
        /// Public key.
        key: [u8; 32],
    },
    /// How far an erasure is.
    Erasure {
        /// The log.
        log: u32,
        /// Index of the entry that asked for it.
        index: u64,
        /// What it came to.
        phase: ErasurePhase,
    },
}

/// Consecutive records of one log.
pub struct Appended {
    /// Log number.
    pub log: u32,
    /// Index of the first.
    pub first_index: u64,
    /// Link of the entry before the first.
    pub previous: Hash,
    /// The records.
    pub records: Vec<Record>,
}

/// Builds a frame's payload section by section.
pub struct PayloadWriter {
    out: Vec<u8>,
}

impl PayloadWriter {
    /// An empty payload in `buffer`, whose memory is used again.
    pub fn new(mut buffer: Vec<u8>) -> PayloadWriter {
        buffer.clear();
        let mut out = buffer;
        out.push(PAYLOAD_VERSION);
        PayloadWriter { out }
    }

    /// Appends a section of records.
    pub fn records<'a>(
        &mut self,
        log: u32,
        first_index: u64,
        previous: &Hash,
        records: impl ExactSizeIterator<Item = &'a Record>,
    ) {
        let count = u32::try_from(records.len()).expect("a group is bounded");
        self.section(RECORDS, |out| {
            out.extend_from_slice(&log.to_be_bytes());
            out.extend_from_slice(&first_index.to_be_bytes());
            out.extend_from_slice(previous.as_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            records.for_each(|record| record.encode(out));
        });
    }

    /// Appends a new log.
    pub fn log(&mut self, identity: &LogIdentity) {
        self.section(LOG, |out| identity.encode(out));
    }

    /// Appends an API key.
    pub fn api_key(&mut self, key: &ApiKey) {
        self.section(API_KEY, |out| key.encode(out));
    }

    /// Appends a change of a log's signing key.
    pub fn rotation(&mut self, log: u32, index: u64, key: &[u8; 32]) {
        self.section(ROTATION, |out| {
            out.extend_from_slice(&log.to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(key);
        });
    }

    /// How far an erasure is.
    pub fn erasure(&mut self, log: u32, index: u64, phase: ErasurePhase) {
        self.section(ERASURE, |out| {
            out.extend_from_slice(&log.to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
            out.push(phase.code());
        });
    }

    /// The payload.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn section(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        fill(&mut self.out);
        let len = u32::try_from(self.out.len() - at - 4).expect("a frame is bounded far below 4 GiB");
        self.out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }
}

/// Reads a payload. Errors when a section does not parse: the frame's hash was right, so a build that does
/// not know the section wrote it, or a defect.
pub fn read(payload: &[u8]) -> Result<Vec<Op>, Short> {
    let mut from = Reader::new(payload);
    if from.u8()? != PAYLOAD_VERSION {
        return Err(Short { at: 0 });
    }
    let mut ops = Vec::new();
    while from.rest() > 0 {
        let at = from.offset();
        let kind = from.u8()?;
        let mut section = Reader::new(from.bytes32()?);
        ops.push(match kind {
            RECORDS => {
                let (log, first_index, previous) = (section.u32()?, section.u64()?, Hash(section.array()?));
                let count = section.u32()?;
                // No more than the section has room for, whatever it says.
                let most = section.rest() / RECORD_FIXED_BYTES;
                let mut records = Vec::with_capacity(usize::try_from(count).unwrap_or(most).min(most));
                for _ in 0..count {
                    records.push(Record::decode(&mut section)?);
                }
                Op::Records(Appended { log, first_index, previous, records })
            }
            LOG => Op::Log(LogIdentity::decode(&mut section)?),
            API_KEY => Op::ApiKey(ApiKey::decode(&mut section)?),
            ERASURE => {
                let (log, index) = (section.u32()?, section.u64()?);
                let phase = ErasurePhase::from_code(section.u8()?).ok_or(Short { at })?;
                Op::Erasure { log, index, phase }
            }
            ROTATION => Op::Rotation { log: section.u32()?, index: section.u64()?, key: section.array()? },
            _ => return Err(Short { at }),
        });
        if section.rest() != 0 {
            return Err(Short { at });
        }
    }
    Ok(ops)
}
