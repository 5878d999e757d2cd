//! Opening a store: what the journal says is held against what the layers have, and only then served.
//!
//! Order: lock → HEAD, journal and snapshot are read and checked → left-overs go → the layer is opened →
//! every kept frame is replayed, comparing → the accepted tail is copied to a new segment and synced → the
//! caller may serve. Until the left-overs go, nothing is modified. A refusal says what was found where.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::apply::Applier;
use super::backend::Backend;
use super::frame_op::{self, Appended, Op};
use super::idtable::{IdTable, IdTableError, Location};
use super::keyfile::{KeyFile, KeyFileError, LogSigner};
use super::layer_id::LayerId;
use super::layers::{LayerError, Layers};
use super::log::{Log, Sequenced};
use super::manifest::{Manifest, ManifestError};
use super::poison::Poison;
use super::read::{ReadError, Store, damage, index_keys, origin_of};
use super::state::{Head, State, StateError};
use crate::journal::{self, JournalError, Scan, Tail, Writer};
use crate::process::lock::{DirLock, LockError};
use crate::tlog::chain;
use crate::tlog::hash::Hash;
use crate::tlog::key::VerifyingKey;

/// Most signatures checked at open: about a second of strict verification. The journal's own hashes cover
/// the rest; `varve verify` checks all.
const MAX_OPEN_SIGNATURE_CHECKS: usize = 20_000;

/// An opened store, not serving yet.
pub struct Recovered {
    /// For readers.
    pub store: Arc<Store>,
    /// For the thread that feeds the layers; it may hold records of the tail.
    pub applier: Applier,
    /// The journal.
    pub journal: Writer,
    /// Signing keys by public key.
    pub signers: HashMap<[u8; 32], Arc<LogSigner>>,
    /// Where new signing keys go.
    pub key_file: KeyFile,
    /// Newest stamp given out before.
    pub newest_stamp: u64,
    /// Newest frame replayed.
    pub newest_frame: u64,
    /// Whether the last stop was clean.
    pub was_clean: bool,
    /// What was noticed and mended, for the operator.
    pub warnings: Vec<String>,
    /// Held as long as the store is open.
    pub lock: DirLock,
}

/// A store that is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The snapshot.
    #[error(transparent)]
    State(#[from] StateError),
    /// MANIFEST.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The id table.
    #[error(transparent)]
    Ids(#[from] IdTableError),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// Records that do not fit.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The parts contradict each other.
    #[error("{0}; the store is not served")]
    Refused(String),
}

/// Opens the store in `data`.
pub fn open(
    data: &Path,
    backend: Arc<dyn Backend>,
    options: &journal::Options,
) -> Result<Recovered, OpenError> {
    let lock = DirLock::acquire(data)?;
    let journal_dir = data.join("journal");
    let scan = Scan::read(&journal_dir, options)?;
    let head = *scan.head();
    let mut warnings: Vec<String> = scan.warnings().iter().map(ToString::to_string).collect();
    if let Tail::Torn { frame } = scan.tail() {
        warnings
            .push(format!("frame {frame} was cut off by a crash before it was acknowledged; it is dropped"));
    }
    let state = State::read(&data.join("state"), head.applied, &head.map_root)?;
    let manifest = Manifest::read(data)?;
    let (key_file, keys) = KeyFile::open(data)?;
    let signers: HashMap<[u8; 32], Arc<LogSigner>> =
        keys.into_iter().map(|signer| (signer.public(), Arc::new(signer))).collect();

    let layers = Layers::new(data, backend, manifest);
    layers.remove_leftovers()?;
    let ids = IdTable::open(&data.join("ids"))?;
    if ids.durable_frame() < head.applied {
        return Err(OpenError::Refused(format!(
            "the id table has the journal's frames up to {}, HEAD says {}: the table is older than the journal",
            ids.durable_frame(),
            head.applied
        )));
    }
    let store =
        Arc::new(Store::new(data, state.instance.clone(), state.cursor_key, layers, ids, Poison::default()));
    for log in state.logs.into_values() {
        store.add_log(Arc::new(Log::new(log.identity, log.head)));
    }
    state.api_keys.into_values().for_each(|key| store.put_api_key(key));

    let mut replay = Replay {
        applier: Applier::new(store.clone()),
        store: store.clone(),
        newest_stamp: state.newest_stamp,
        touched: HashSet::new(),
        ids_from: store.ids.durable_frame(),
    };
    let mut newest_frame = head.applied;
    for frame in scan.frames() {
        let frame = frame?;
        let ops = frame_op::read(&frame.payload).map_err(|error| {
            OpenError::Refused(format!("frame {} of the journal does not parse: {error}", frame.number))
        })?;
        for op in ops {
            replay.op(frame.number, LayerId(frame.layer), op)?;
        }
        newest_frame = newest_frame.max(frame.number);
    }
    replay.check_newest_signatures()?;
    for log in store.logs() {
        let head = log.head();
        if !signers.contains_key(&head.key) {
            let origin = origin_of(&store.instance, &log.identity);
            return Err(OpenError::Refused(format!(
                "signing-keys has no key for {origin}: restore the key file"
            )));
        }
    }
    let mut applier = replay.applier;
    applier.end_replay();
    let newest_stamp = replay.newest_stamp;
    let journal = scan.into_writer()?;
    let was_clean = head.clean;
    Ok(Recovered {
        store,
        applier,
        journal,
        signers,
        key_file,
        newest_stamp,
        newest_frame,
        was_clean,
        warnings,
        lock,
    })
}

struct Replay {
    store: Arc<Store>,
    applier: Applier,
    newest_stamp: u64,
    touched: HashSet<u32>,
    ids_from: u64,
}

impl Replay {
    fn op(&mut self, frame: u64, layer: LayerId, op: Op) -> Result<(), OpenError> {
        match op {
            Op::Log(identity) => match self.store.log(identity.number) {
                Some(known) if known.identity == identity => {}
                Some(_) => {
                    return Err(OpenError::Refused(format!(
                        "frame {frame} makes log {} anew with another identity",
                        identity.number
                    )));
                }
                None => {
                    let head = Head::empty(identity.genesis_key);
                    self.store.add_log(Arc::new(Log::new(identity, head)));
                }
            },
            Op::ApiKey(key) => self.store.put_api_key(key),
            Op::Rotation { log, index, key } => {
                let log = self.log(frame, log)?;
                if index >= log.size() {
                    log.publish(layer, &[], key);
                }
            }
            Op::Records(appended) => self.records(frame, layer, appended)?,
        }
        Ok(())
    }

    fn records(&mut self, frame: u64, layer: LayerId, appended: Appended) -> Result<(), OpenError> {
        let log = self.log(frame, appended.log)?;
        let with_ids = frame > self.ids_from;
        let mut head = log.head();
        let mut previous = appended.previous;
        for (index, record) in (appended.first_index..).zip(appended.records) {
            let entry = record.entry(log.identity.log_id, index, previous);
            let link = chain::link(&entry);
            let keys = index_keys(&log.identity.index_key, &record);
            self.newest_stamp = self.newest_stamp.max(record.recorded_at);
            let sequenced = Arc::new(Sequenced {
                index,
                previous,
                link,
                leaf_hash: chain::leaf_hash(&entry),
                record,
                keys,
            });
            if index >= head.size {
                if index > head.size {
                    return Err(damage(&log, head.size, "the journal goes on behind a gap").into());
                }
                if previous != head.link || sequenced.record.recorded_at <= head.recorded_at {
                    return Err(damage(&log, index, "the journal forks from the chain").into());
                }
                log.publish(layer, std::slice::from_ref(&sequenced), head.key);
                head.size += 1;
                head.link = link;
                head.recorded_at = sequenced.record.recorded_at;
                self.touched.insert(appended.log);
            }
            if with_ids {
                self.store.recent.restore(&sequenced.keys, Location { log: appended.log, index }, frame);
            }
            self.applier.replay(layer, &log, sequenced, with_ids)?;
            previous = link;
        }
        Ok(())
    }

    fn log(&self, frame: u64, number: u32) -> Result<Arc<Log>, OpenError> {
        self.store.log(number).ok_or_else(|| {
            OpenError::Refused(format!("frame {frame} appends to log {number}, which nothing made"))
        })
    }

    /// The newest entry of each log that went on since the snapshot must be signed by a key of the log.
    fn check_newest_signatures(&self) -> Result<(), OpenError> {
        for number in self.touched.iter().take(MAX_OPEN_SIGNATURE_CHECKS) {
            let Some(log) = self.store.log(*number) else { continue };
            let head = log.head();
            let Some(newest) = self.store.record(&log, head.size - 1)? else { continue };
            if newest.link != head.link || newest.link == Hash::ZERO {
                return Err(
                    damage(&log, newest.index, "the newest record is not the one the head names").into()
                );
            }
            let origin = origin_of(&self.store.instance, &log.identity);
            let signed = VerifyingKey::from_bytes(&head.key).is_ok_and(|key| {
                // Right after a rotation the newest entry is the rotation itself, which the old key signed.
                key.key_id(&origin) != newest.record.key_id
                    || key.verify(&chain::signed_message(&newest.link), &newest.record.signature)
            });
            if !signed {
                return Err(damage(&log, newest.index, "the newest entry's signature does not verify").into());
            }
        }
        Ok(())
    }
}
