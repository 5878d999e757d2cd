//! The manifest: which runs are live, up to which journal frame they reach. Replaced whole.
//!
//! A run file counts only when the manifest names it. The new manifest is written to `MANIFEST.tmp` and
//! synced, renamed over `MANIFEST`, and the directory synced: that rename is the one commit point.

use std::fs::{self, File};
use std::path::Path;

use super::RUNS_MAX;
use super::disk;
use super::error::{IdTableError, damaged, io_error};

pub(super) const NAME: &str = "MANIFEST";
pub(super) const TEMPORARY_NAME: &str = "MANIFEST.tmp";

/// What the manifest says of one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RunRecord {
    /// Names the file; never given twice.
    pub(super) number: u64,
    /// Entries in the run, at least 1.
    pub(super) entries: u64,
    /// Digest of filter and footer, as in the footer.
    pub(super) digest: [u8; 32],
}

/// The manifest's content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Manifest {
    /// Grows by one with each swap.
    pub(super) sequence: u64,
    /// Above the number of every run ever named.
    pub(super) next_number: u64,
    /// Greatest journal frame whose entries are durable here.
    pub(super) durable_frame: u64,
    pub(super) runs: Vec<RunRecord>,
}

impl Manifest {
    /// Reads and checks `directory/MANIFEST`; `None` when there is no such file.
    pub(super) fn read(directory: &Path) -> Result<Option<Manifest>, IdTableError> {
        let path = directory.join(NAME);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(damaged(&path, 0, "too long for a manifest"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        }
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        Manifest::decode(&bytes).map(Some).map_err(|what| damaged(&path, 0, what))
    }

    /// Puts this manifest in the place of the one before, durably. If the error is `create` or `write`,
    /// the one before still stands.
    pub(super) fn swap(&self, directory: &Path, handle: &File) -> Result<(), IdTableError> {
        let temporary = directory.join(TEMPORARY_NAME);
        if temporary.exists() {
            disk::remove(&temporary)?;
        }
        let file = disk::create(&temporary)?;
        disk::write(&file, &temporary, &self.encode(), 0)?;
        disk::sync_file(&file, &temporary)?;
        disk::rename(&temporary, &directory.join(NAME))?;
        disk::sync_directory(handle, directory)
    }

    /// Bytes of the file.
    pub(super) fn encoded_bytes(&self) -> u64 {
        (HEADER_BYTES + self.runs.len() * RECORD_BYTES + DIGEST_BYTES) as u64
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.runs.len() * RECORD_BYTES + DIGEST_BYTES);
        bytes.extend_from_slice(MAGIC);
        for number in [self.sequence, self.next_number, self.durable_frame, self.runs.len() as u64] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for run in &self.runs {
            bytes.extend_from_slice(&run.number.to_be_bytes());
            bytes.extend_from_slice(&run.entries.to_be_bytes());
            bytes.extend_from_slice(&run.digest);
        }
        let digest = blake3::derive_key(CONTEXT, &bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, &'static str> {
        let (body, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or("too short for a manifest")?;
        if blake3::derive_key(CONTEXT, body) != *digest {
            return Err("the manifest does not match its digest");
        }
        let (magic, rest) = body.split_first_chunk().ok_or("too short for a manifest")?;
        if magic != MAGIC {
            return Err("not a manifest of this version");
        }
        let (head, rest) = rest.as_chunks::<8>().0.split_at_checked(4).ok_or("too short for a manifest")?;
        let [sequence, next_number, durable_frame, count] =
            [head[0], head[1], head[2], head[3]].map(u64::from_be_bytes);
        let records = rest.as_flattened().as_chunks::<RECORD_BYTES>();
        if body.len() != HEADER_BYTES + records.0.len() * RECORD_BYTES || records.0.len() as u64 != count {
            return Err("the manifest's length does not match its count of runs");
        }
        let runs: Vec<RunRecord> = records.0.iter().map(decode_record).collect();
        if runs.len() > RUNS_MAX {
            return Err("the manifest names too many runs");
        }
        Ok(Manifest { sequence, next_number, durable_frame, runs })
    }
}

fn decode_record(bytes: &[u8; RECORD_BYTES]) -> RunRecord {
    let mut record = RunRecord { number: 0, entries: 0, digest: [0; 32] };
    let words = bytes.as_chunks::<8>().0;
    record.number = u64::from_be_bytes(words[0]);
    record.entries = u64::from_be_bytes(words[1]);
    record.digest.copy_from_slice(&bytes[16..]);
    record
}

const MAGIC: &[u8; 8] = b"VRVIDT1M";
const CONTEXT: &str = "varve v1 idtable manifest";
const HEADER_BYTES: usize = 8 + 4 * 8;
const RECORD_BYTES: usize = 8 + 8 + 32;
const DIGEST_BYTES: usize = 32;
const BYTES_MAX: u64 = (HEADER_BYTES + RUNS_MAX * RECORD_BYTES + DIGEST_BYTES) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let run = |number: u64| RunRecord {
            number,
            entries: number * 3,
            digest: number.to_be_bytes().repeat(4).try_into().unwrap(),
        };
        Manifest { sequence: 7, next_number: 10, durable_frame: 99, runs: vec![run(2), run(9)] }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        assert_eq!(Manifest::decode(&sample().encode()), Ok(sample()));
        assert_eq!(sample().encode().len() as u64, sample().encoded_bytes());
        assert_eq!(Manifest::decode(&Manifest::default().encode()), Ok(Manifest::default()));
    }

    #[test]
    fn refuses_every_flipped_bit_and_every_cut() {
        let whole = sample().encode();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(Manifest::decode(&whole[..length]).is_err(), "length {length}");
        }
    }
}
