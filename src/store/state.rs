//! What the instance knows besides records: its logs, where each stands, its API keys.
//!
//! It lives in memory, changes only through journal frames, and is written whole at each checkpoint of the
//! journal as `state/<frame>.state`: a magic, the fields, a BLAKE3 over all before it. HEAD names the frame
//! and the digest, so a snapshot that was put back or altered is refused. A snapshot is about 1 KiB a log:
//! 10 MiB for 10,000.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::bounded;
use super::layer_id::LayerId;
use super::wire::{Reader, Short, put_bytes16, put_bytes32};
use crate::tlog::hash::Hash;
use crate::tlog::merkle::Frontier;

const MAGIC: &[u8; 8] = b"VRVSTAT3";

/// Of snapshots whose heads say nothing of a policy: no log had one.
const MAGIC_WITHOUT_POLICY: &[u8; 8] = b"VRVSTAT1";

/// A snapshot from before there were holds and erasures.
const MAGIC_WITHOUT_HOLDS: &[u8; 8] = b"VRVSTAT2";

/// Stands for "no policy" in a head.
const NO_ENTRY: u64 = u64::MAX;

/// Most logs of one instance: a snapshot stays under 64 MiB and the heads under 128 MiB of memory.
pub const MAX_LOGS: usize = 65_536;

/// Most API keys of one instance, revoked ones included: 200 bytes each, 20 MiB.
pub const MAX_API_KEYS: usize = 100_000;

/// Longest snapshot that is read. A log has 1,700 bytes besides its months (names 80, keys and links 220, a tree of
/// 2^40 entries 1,300) and 12 a month: 65,536 logs of 1,000 months come to 900 MB. 100,000 keys of 300 bytes come to
/// 30 MB.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// Everything a snapshot holds.
#[derive(Clone, Default)]
pub struct State {
    /// The instance's name, first part of every origin.
    pub instance: String,
    /// Key of cursors' authenticity; leaves the instance never.
    pub cursor_key: [u8; 32],
    /// Newest `recorded_at` given out, microseconds.
    pub newest_stamp: u64,
    /// Logs by number.
    pub logs: BTreeMap<u32, LogState>,
    /// API keys by public id.
    pub api_keys: BTreeMap<String, ApiKey>,
    /// Erasures that are not done, by log and index of the entry that asked.
    pub erasures: BTreeMap<(u32, u64), ErasurePhase>,
}

/// How far an erasure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErasurePhase {
    /// It was asked for.
    Requested,
    /// Its certificates are in the log; what they name is on its way out.
    Certified,
    /// Nothing of it is in the directory. Such a one is in no snapshot.
    Done,
}

impl ErasurePhase {
    /// The code in frames and snapshots.
    pub fn code(self) -> u8 {
        match self {
            ErasurePhase::Requested => 1,
            ErasurePhase::Certified => 2,
            ErasurePhase::Done => 3,
        }
    }

    /// The phase of a code.
    pub fn from_code(code: u8) -> Option<ErasurePhase> {
        [ErasurePhase::Requested, ErasurePhase::Certified, ErasurePhase::Done]
            .into_iter()
            .find(|phase| phase.code() == code)
    }
}

/// Who a log is; fixed when it is created.
#[derive(Clone, PartialEq)]
pub struct LogIdentity {
    /// Number inside the instance, in keys of layers; never reused.
    pub number: u32,
    /// Tenant name.
    pub tenant: String,
    /// Last part of the origin where the log was begun anew, else empty.
    pub origin: String,
    /// FORMAT §3.
    pub log_id: Hash,
    /// Key of index tokens; leaves the instance never.
    pub index_key: [u8; 32],
    /// The key of the genesis entry.
    pub genesis_key: [u8; 32],
}

/// A log and where it stands.
#[derive(Clone)]
pub struct LogState {
    /// Who it is.
    pub identity: LogIdentity,
    /// Where it stands.
    pub head: Head,
}

/// Where a log stands: all that is needed to append the next entry and to find the old ones.
#[derive(Clone)]
pub struct Head {
    /// Number of entries.
    pub size: u64,
    /// Link of the newest entry; zero when empty.
    pub link: Hash,
    /// `recorded_at` of the newest entry.
    pub recorded_at: u64,
    /// Public key current for the next entry.
    pub key: [u8; 32],
    /// The tree over all leaves.
    pub frontier: Frontier,
    /// Layers that hold entries of the log, oldest first, each with the first index it holds.
    pub layers: Vec<(LayerId, u64)>,
    /// Index of the entry with the retention policy in force.
    pub policy: Option<u64>,
    /// Indexes of the holds in force, ascending.
    pub holds: Vec<u64>,
    /// Index of the entry that closed the log.
    pub closed: Option<u64>,
}

/// Layout of a head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HeadLayout {
    WithoutPolicy,
    WithoutHolds,
    Whole,
}

impl Head {
    /// An empty log whose first entry `key` signs.
    pub fn empty(key: [u8; 32]) -> Head {
        Head {
            size: 0,
            link: Hash::ZERO,
            recorded_at: 0,
            key,
            frontier: Frontier::default(),
            layers: Vec::new(),
            policy: None,
            holds: Vec::new(),
            closed: None,
        }
    }

    /// The layer that holds `index`, and the index after its last one there (`None`: the newest layer).
    pub fn layer_of(&self, index: u64) -> Option<(LayerId, u64, Option<u64>)> {
        let at = self.layers.partition_point(|(_, first)| *first <= index).checked_sub(1)?;
        let (layer, first) = self.layers[at];
        Some((layer, first, self.layers.get(at + 1).map(|(_, next)| *next)))
    }
}

/// An API key at rest: never the secret, only its digest.
#[derive(Clone, PartialEq)]
pub struct ApiKey {
    /// Public id, the middle part of the token.
    pub id: String,
    /// The tenant it belongs to; `None` is the operator.
    pub tenant: Option<String>,
    /// What its maker called it.
    pub name: String,
    /// Bits of `access::Scope`.
    pub scopes: u16,
    /// BLAKE3 of the secret part, which has 256 random bits.
    pub secret_digest: [u8; 32],
    /// Microseconds.
    pub created_at: u64,
    /// Microseconds; 0 is never.
    pub expires_at: u64,
    /// Microseconds; 0 is not revoked.
    pub revoked_at: u64,
    /// Index in `_system` of the entry that records its creation.
    pub entry_index: u64,
}

/// A snapshot that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It would be longer than any that is read.
    #[error(
        "{path}: a snapshot of {bytes} bytes would not be read again, and is not written; the one before stays"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long.
        bytes: usize,
    },
    /// The bytes are not what was written.
    #[error("{path}: {reason}; the store is not opened and nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        reason: &'static str,
    },
}

impl LogIdentity {
    /// Appends the identity.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_be_bytes());
        put_bytes16(out, self.tenant.as_bytes());
        put_bytes16(out, self.origin.as_bytes());
        out.extend_from_slice(self.log_id.as_bytes());
        out.extend_from_slice(&self.index_key);
        out.extend_from_slice(&self.genesis_key);
    }

    /// Reads an identity.
    pub fn decode(from: &mut Reader<'_>) -> Result<LogIdentity, Short> {
        Ok(LogIdentity {
            number: from.u32()?,
            tenant: from.text16()?.to_owned(),
            origin: from.text16()?.to_owned(),
            log_id: Hash(from.array()?),
            index_key: from.array()?,
            genesis_key: from.array()?,
        })
    }
}

impl Head {
    /// Appends the head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(self.link.as_bytes());
        out.extend_from_slice(&self.recorded_at.to_be_bytes());
        out.extend_from_slice(&self.key);
        let mut frontier = Vec::new();
        self.frontier.encode(&mut frontier);
        put_bytes32(out, &frontier);
        let count = u32::try_from(self.layers.len()).expect("MANIFEST has room for fewer layers");
        out.extend_from_slice(&count.to_be_bytes());
        for (layer, first) in &self.layers {
            out.extend_from_slice(&layer.code().to_be_bytes());
            out.extend_from_slice(&first.to_be_bytes());
        }
        out.extend_from_slice(&self.policy.unwrap_or(NO_ENTRY).to_be_bytes());
        let holds = u16::try_from(self.holds.len()).expect("a log has few holds");
        out.extend_from_slice(&holds.to_be_bytes());
        self.holds.iter().for_each(|hold| out.extend_from_slice(&hold.to_be_bytes()));
        out.extend_from_slice(&self.closed.unwrap_or(NO_ENTRY).to_be_bytes());
    }

    /// Reads a head.
    pub fn decode(from: &mut Reader<'_>) -> Result<Head, Short> {
        Head::decode_as(from, HeadLayout::Whole)
    }

    fn decode_as(from: &mut Reader<'_>, layout: HeadLayout) -> Result<Head, Short> {
        let (size, link, recorded_at, key) = (from.u64()?, Hash(from.array()?), from.u64()?, from.array()?);
        let at = from.offset();
        let frontier = from.bytes32()?;
        let (frontier, used) = Frontier::decode(frontier).map_err(|_| Short { at })?;
        if frontier.size() != size || used == 0 {
            return Err(Short { at });
        }
        let count = from.u32()?;
        let mut layers = Vec::new();
        for _ in 0..count {
            let at = from.offset();
            layers.push((LayerId::from_code(from.u32()?).ok_or(Short { at })?, from.u64()?));
        }
        let mut head = Head { size, link, recorded_at, key, frontier, layers, ..Head::empty(key) };
        let entry = |from: &mut Reader<'_>| {
            let at = from.offset();
            let index = Some(from.u64()?).filter(|index| *index != NO_ENTRY);
            if index.is_some_and(|index| index >= size) { Err(Short { at }) } else { Ok(index) }
        };
        if layout >= HeadLayout::WithoutHolds {
            head.policy = entry(from)?;
        }
        if layout >= HeadLayout::Whole {
            for _ in 0..from.u16()? {
                let at = from.offset();
                head.holds.push(entry(from)?.ok_or(Short { at })?);
            }
            head.closed = entry(from)?;
        }
        Ok(head)
    }
}

impl ApiKey {
    /// Appends the key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes16(out, self.id.as_bytes());
        put_bytes16(out, self.tenant.as_deref().unwrap_or_default().as_bytes());
        put_bytes16(out, self.name.as_bytes());
        out.extend_from_slice(&self.scopes.to_be_bytes());
        out.extend_from_slice(&self.secret_digest);
        for time in [self.created_at, self.expires_at, self.revoked_at, self.entry_index] {
            out.extend_from_slice(&time.to_be_bytes());
        }
    }

    /// Reads a key.
    pub fn decode(from: &mut Reader<'_>) -> Result<ApiKey, Short> {
        Ok(ApiKey {
            id: from.text16()?.to_owned(),
            tenant: Some(from.text16()?.to_owned()).filter(|tenant| !tenant.is_empty()),
            name: from.text16()?.to_owned(),
            scopes: from.u16()?,
            secret_digest: from.array()?,
            created_at: from.u64()?,
            expires_at: from.u64()?,
            revoked_at: from.u64()?,
            entry_index: from.u64()?,
        })
    }
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_bytes16(&mut out, self.instance.as_bytes());
        out.extend_from_slice(&self.cursor_key);
        out.extend_from_slice(&self.newest_stamp.to_be_bytes());
        out.extend_from_slice(&u32::try_from(self.logs.len()).expect("bounded by MAX_LOGS").to_be_bytes());
        for log in self.logs.values() {
            log.identity.encode(&mut out);
            log.head.encode(&mut out);
        }
        out.extend_from_slice(
            &u32::try_from(self.api_keys.len()).expect("bounded by MAX_API_KEYS").to_be_bytes(),
        );
        self.api_keys.values().for_each(|key| key.encode(&mut out));
        let erasures = u32::try_from(self.erasures.len()).expect("bounded by MAX_OPEN_ERASURES");
        out.extend_from_slice(&erasures.to_be_bytes());
        for ((log, index), phase) in &self.erasures {
            out.extend_from_slice(&log.to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
            out.push(phase.code());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<State, Short> {
        let mut from = Reader::new(bytes);
        let layout = match &from.array::<8>()? {
            MAGIC => HeadLayout::Whole,
            MAGIC_WITHOUT_HOLDS => HeadLayout::WithoutHolds,
            MAGIC_WITHOUT_POLICY => HeadLayout::WithoutPolicy,
            _ => return Err(Short { at: 0 }),
        };
        let mut state = State {
            instance: from.text16()?.to_owned(),
            cursor_key: from.array()?,
            newest_stamp: from.u64()?,
            ..State::default()
        };
        for _ in 0..from.u32()? {
            let identity = LogIdentity::decode(&mut from)?;
            let head = Head::decode_as(&mut from, layout)?;
            state.logs.insert(identity.number, LogState { identity, head });
        }
        for _ in 0..from.u32()? {
            let key = ApiKey::decode(&mut from)?;
            state.api_keys.insert(key.id.clone(), key);
        }
        let erasures = if layout == HeadLayout::Whole { from.u32()? } else { 0 };
        for _ in 0..erasures {
            let place = (from.u32()?, from.u64()?);
            let at = from.offset();
            let phase = ErasurePhase::from_code(from.u8()?).filter(|phase| *phase != ErasurePhase::Done);
            state.erasures.insert(place, phase.ok_or(Short { at })?);
        }
        if from.rest() != 0 { Err(Short { at: from.offset() }) } else { Ok(state) }
    }

    /// Writes the snapshot of `frame` durably and returns its digest. A crash at any step leaves the
    /// snapshot that HEAD names untouched: this one has another name until HEAD names it.
    pub fn write(&self, dir: &Path, frame: u64) -> Result<Hash, StateError> {
        let path = path_of(dir, frame);
        let io = |source| StateError::Io { path: path.clone(), source };
        let mut bytes = self.encode();
        if bytes.len() as u64 + 32 > MAX_STATE_BYTES {
            // Nobody could read it: HEAD goes on naming the one before.
            return Err(StateError::TooLong { path, bytes: bytes.len() });
        }
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, &path).map_err(io)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok(Hash(*digest.as_bytes()))
    }

    /// Reads the snapshot of `frame` and holds it against the digest that HEAD has.
    pub fn read(dir: &Path, frame: u64, digest: &Hash) -> Result<State, StateError> {
        let path = path_of(dir, frame);
        let bytes = bounded::read(&path, MAX_STATE_BYTES)
            .map_err(|source| StateError::Io { path: path.clone(), source })?;
        let damaged = |reason| StateError::Damaged { path: path.clone(), reason };
        let bytes = bytes.ok_or_else(|| damaged("the snapshot is longer than any can be"))?;
        let (body, stored) =
            bytes.split_last_chunk::<32>().ok_or_else(|| damaged("the snapshot is too short"))?;
        let found = blake3::hash(body);
        if found.as_bytes() != stored {
            return Err(damaged("the snapshot's digest does not match its bytes"));
        }
        if found.as_bytes() != digest.as_bytes() {
            return Err(damaged("the snapshot is not the one that HEAD names"));
        }
        State::decode(body).map_err(|_| damaged("the snapshot's fields do not parse"))
    }

    /// Removes the snapshots of frames before `frame`, and what writes of them left. Not those of later
    /// frames: the next snapshot may be on its way while HEAD moves to this one.
    pub fn remove_older(dir: &Path, frame: u64) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: dir.to_path_buf(), source };
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let is_snapshot =
                path.extension().is_some_and(|extension| extension == "state" || extension == "tmp");
            let of = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            if is_snapshot && of.is_some_and(|of| of < frame) {
                fs::remove_file(&path).map_err(io)?;
            }
        }
        Ok(())
    }
}

fn path_of(dir: &Path, frame: u64) -> PathBuf {
    dir.join(format!("{frame:016x}.state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_months_that_can_be() {
        let month = LayerId::parse("2026-11").unwrap();
        let head = Head { layers: vec![(month, 7)], ..Head::empty([1; 32]) };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let at = bytes.len() - 30;
        assert_eq!(Head::decode(&mut Reader::new(&bytes)).map(|head| head.layers).ok(), Some(head.layers));
        for code in [0, 1_969 * 12 + 11, 10_000 * 12, u32::MAX] {
            bytes[at..at + 4].copy_from_slice(&code.to_be_bytes());
            assert!(Head::decode(&mut Reader::new(&bytes)).is_err_and(|short| short.at == at), "{code}");
        }
    }

    #[test]
    fn a_snapshot_without_policies_is_read() {
        let mut state = State { instance: "i".to_owned(), ..State::default() };
        let identity = LogIdentity {
            number: 0,
            tenant: "acme".to_owned(),
            origin: String::new(),
            log_id: Hash([1; 32]),
            index_key: [2; 32],
            genesis_key: [3; 32],
        };
        state.logs.insert(0, LogState { identity, head: Head::empty([3; 32]) });
        let now = state.encode();
        // Policy 8, holds 2 and closed 8 of the one log stand before the numbers of keys and of erasures.
        let head_end = now.len() - 8;
        let mut before = now[..now.len() - 4].to_vec();
        before[..8].copy_from_slice(MAGIC_WITHOUT_HOLDS);
        before.drain(head_end - 10..head_end);
        let mut then = now[..now.len() - 4].to_vec();
        then[..8].copy_from_slice(MAGIC_WITHOUT_POLICY);
        then.drain(head_end - 18..head_end);
        for bytes in [&now, &before, &then] {
            let read = State::decode(bytes).map_err(|short| short.at).unwrap();
            assert_eq!((read.logs.len(), read.logs[&0].head.policy), (1, None));
        }
        then[7] = b'4';
        assert!(State::decode(&then).is_err());
    }

    #[test]
    fn holds_and_erasures_read_back() {
        let mut head = Head::empty([1; 32]);
        head.frontier.append(Hash([7; 32]));
        (head.size, head.holds, head.closed) = (1, vec![0], Some(0));
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let read = Head::decode(&mut Reader::new(&bytes)).map_err(|short| short.at).unwrap();
        assert_eq!((read.holds, read.closed), (vec![0], Some(0)));
        let mut state = State::default();
        state.erasures.insert((3, 9), ErasurePhase::Certified);
        let read = State::decode(&state.encode()).map_err(|short| short.at).unwrap();
        assert_eq!(read.erasures, state.erasures);
    }

    #[test]
    fn a_policy_is_an_entry_of_its_log() {
        let mut bytes = Vec::new();
        Head { policy: Some(0), ..Head::empty([1; 32]) }.encode(&mut bytes);
        assert!(Head::decode(&mut Reader::new(&bytes)).is_err(), "the log is empty");
    }
}
