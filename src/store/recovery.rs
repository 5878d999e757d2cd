//! Opening a store: what the journal says is held against what the layers have, and only then served.
//!
//! Order: lock → HEAD, journal, snapshot, MANIFEST and id table are read and held against each other → the
//! journal's accepted tail is copied to a new segment and synced → left-overs go → every kept frame is
//! replayed, comparing → what the newest layer has of each log must end where the log ends → the caller may
//! serve. Until the tail is copied, nothing is modified. A refusal says what was found where.
//!
//! The copy comes before the replay: what a layer gets must be durable in the journal. So a layer that is
//! ahead of the journal, like an id table that is, proves that the journal was rolled back.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::apply::Applier;
use super::backend::Backend;
use super::frame_op::{self, Appended, Op};
use super::idtable::{IdTable, IdTableError, Location};
use super::keyfile::{KeyFile, KeyFileError, LogSigner};
use super::layer::MAX_INDEX;
use super::layer_id::LayerId;
use super::layers::{LayerError, Layers};
use super::log::{Log, Sequenced};
use super::manifest::{Manifest, ManifestError};
use super::page;
use super::poison::Poison;
use super::read::{ReadError, Store, damage, index_keys, origin_of};
use super::state::{Head, State, StateError};
use crate::journal::{self, JournalError, Scan, Tail, Writer};
use crate::process::lock::{DirLock, LockError};
use crate::tlog::chain;
use crate::tlog::hash::Hash;
use crate::tlog::key::{Signer as _, VerifyingKey};

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
    // A kill can come between a rename and its directory's sync: what is believed below is made durable first.
    for dir in [data.to_path_buf(), data.join("layers")] {
        let synced = std::fs::File::open(&dir).and_then(|handle| handle.sync_all());
        synced.map_err(|source| OpenError::Io { path: dir, source })?;
    }
    let journal_dir = data.join("journal");
    let scan = Scan::read(&journal_dir, options)?;
    let head = *scan.head();
    let mut warnings: Vec<String> = scan.warnings().iter().map(ToString::to_string).collect();
    if let Tail::Torn { frame } = scan.tail() {
        warnings
            .push(format!("frame {frame} was cut off by a crash before it was acknowledged; it is dropped"));
    }
    let state = State::read(&data.join("state"), head.applied, &head.state_digest)?;
    let manifest = Manifest::read(data)?;
    let (key_file, keys) = KeyFile::open(data)?;
    let signers: HashMap<[u8; 32], Arc<LogSigner>> =
        keys.into_iter().map(|signer| (signer.public(), Arc::new(signer))).collect();

    manifest_names_all(&scan, &state, &manifest)?;
    let layers = Layers::new(data, backend, manifest);
    layers.demand_all()?;
    let ids = IdTable::open(&data.join("ids"))?;
    if ids.durable_frame() < head.applied {
        return Err(OpenError::Refused(format!(
            "the id table has the journal's frames up to {}, HEAD says {}: the table is older than the journal",
            ids.durable_frame(),
            head.applied
        )));
    }
    let journal = scan.into_writer()?;
    let scan = Scan::read(&journal_dir, options)?;
    let newest_frame = journal.newest().map_or(head.applied, |(frame, _)| frame);
    if ids.durable_frame() > newest_frame {
        return Err(OpenError::Refused(format!(
            "the id table has the journal's frames up to {}, the journal ends at {newest_frame}: it was rolled back",
            ids.durable_frame()
        )));
    }
    layers.remove_leftovers()?;
    let store =
        Arc::new(Store::new(data, state.instance.clone(), state.cursor_key, layers, ids, Poison::default()));
    let known_sizes = state.logs.iter().map(|(number, log)| (*number, log.head.size)).collect();
    for log in state.logs.into_values() {
        store.add_log(Arc::new(Log::new(log.identity, log.head)));
    }
    state.api_keys.into_values().for_each(|key| store.put_api_key(key));
    for ((log, index), phase) in state.erasures {
        store.put_erasure(log, index, phase);
    }

    let mut replay = Replay {
        applier: Applier::new(store.clone()),
        store: store.clone(),
        newest_stamp: state.newest_stamp,
        touched: HashSet::new(),
        known_sizes,
        ids_from: store.ids.durable_frame(),
    };
    for frame in scan.frames() {
        let frame = frame?;
        let ops = frame_op::read(&frame.payload).map_err(|error| {
            OpenError::Refused(format!("frame {} of the journal does not parse: {error}", frame.number))
        })?;
        let layer = LayerId::from_code(frame.layer).ok_or_else(|| {
            OpenError::Refused(format!(
                "frame {} of the journal names a month outside 1970 to 9999, or no part of one; nothing was changed",
                frame.number
            ))
        })?;
        for op in ops {
            replay.op(frame.number, layer, op)?;
        }
    }
    replay.applier.end_replay()?;
    replay.check_newest_layer()?;
    replay.check_newest_signatures(&signers)?;
    for log in store.logs() {
        let head = log.head();
        if !signers.contains_key(&head.key) {
            let origin = origin_of(&store.instance, &log.identity);
            return Err(OpenError::Refused(format!(
                "signing-keys has no key for {origin}: restore the key file"
            )));
        }
    }
    let (applier, newest_stamp) = (replay.applier, replay.newest_stamp);
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

/// Every layer in which a log of the snapshot has entries is named in MANIFEST. One may be missing when the
/// crash came between publishing and the layer's making: then the journal still has all that goes into it.
/// Otherwise MANIFEST is older than the store, and the layer's directory would be taken for a left-over.
fn manifest_names_all(scan: &Scan, state: &State, manifest: &Manifest) -> Result<(), OpenError> {
    let mut missing: HashMap<(u32, LayerId), u64> = HashMap::new();
    for log in state.logs.values() {
        let unnamed = log.head.layers.iter().filter(|(layer, _)| !manifest.layers.contains_key(layer));
        missing.extend(unnamed.map(|(layer, first)| ((log.identity.number, *layer), *first)));
    }
    if missing.is_empty() {
        return Ok(());
    }
    for frame in scan.frames() {
        let frame = frame?;
        for op in frame_op::read(&frame.payload).unwrap_or_default() {
            if let Op::Records(appended) = op {
                // A frame of no layer is refused when it is replayed.
                let Some(layer) = LayerId::from_code(frame.layer) else { continue };
                let place = (appended.log, layer);
                if missing.get(&place) == Some(&appended.first_index) {
                    missing.remove(&place);
                }
            }
        }
    }
    match missing.keys().map(|(_, layer)| *layer).min() {
        None => Ok(()),
        Some(layer) => Err(OpenError::Refused(format!(
            "MANIFEST does not name layer {layer}, which holds entries that the journal no longer has: MANIFEST is \
             older than the store, or damaged; nothing was removed, restore MANIFEST"
        ))),
    }
}

struct Replay {
    store: Arc<Store>,
    applier: Applier,
    newest_stamp: u64,
    /// Logs with a record in the journal.
    touched: HashSet<u32>,
    /// Sizes of the logs in the snapshot.
    known_sizes: HashMap<u32, u64>,
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
            Op::Erasure { log, index, phase } => self.store.put_erasure(log, index, phase),
            Op::Rotation { log, index, key } => {
                // The snapshot has the rotations before its size; the entries of this frame may go on behind it.
                let known = self.known_sizes.get(&log).copied().unwrap_or(0);
                let log = self.log(frame, log)?;
                if index > known {
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
        self.touched.insert(appended.log);
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

    /// What the newest layer has of each log ends where the log ends: no earlier, or the layer was rolled back;
    /// no later, or the journal was.
    fn check_newest_layer(&self) -> Result<(), OpenError> {
        let Some(newest) = self.store.layers.newest() else { return Ok(()) };
        let layer = self.store.layers.get(newest)?;
        let mut numbers = Vec::new();
        layer.carries(&mut |number, _| numbers.push(number)).map_err(ReadError::from)?;
        let head_names = |log: &Log| log.head().layers.last().is_some_and(|(last, _)| *last == newest);
        let named = self.store.logs().into_iter().filter(|log| head_names(log));
        numbers.extend(named.map(|log| log.identity.number));
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let last = layer.page_at(number, MAX_INDEX).map_err(ReadError::from)?;
            let Some(log) = self.store.log(number) else {
                return Err(OpenError::Refused(format!(
                    "layer {newest} holds log {number}, which the journal does not know: the journal was rolled back"
                )));
            };
            let end = match last {
                None => 0,
                Some(page) => {
                    let header = page::header(&page.bytes);
                    let header =
                        header.map_err(|error| damage(&log, page.first_index, &error.to_string()))?;
                    page.first_index + u64::from(header.count)
                }
            };
            let size = log.size();
            if end > size {
                return Err(OpenError::Refused(format!(
                    "layer {newest} holds {} up to index {end}, the journal up to {size}: the journal was rolled back",
                    log.identity.tenant
                )));
            }
            if end < size && head_names(&log) {
                return Err(
                    damage(&log, end, "the newest layer ends here; it was rolled back or damaged").into()
                );
            }
        }
        Ok(())
    }

    /// The newest entry of each log in the journal must be the one that its head names, signed by a key of the
    /// log.
    fn check_newest_signatures(&self, signers: &HashMap<[u8; 32], Arc<LogSigner>>) -> Result<(), OpenError> {
        let mut signers_of: HashMap<&str, Vec<&LogSigner>> = HashMap::new();
        signers.values().for_each(|signer| signers_of.entry(signer.origin()).or_default().push(signer));
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
            // Right after a rotation the newest entry is the rotation itself, which the old key signed.
            let is_signed_by = |key: &VerifyingKey| {
                key.key_id(&origin) == newest.record.key_id
                    && key.verify(&chain::signed_message(&newest.link), &newest.record.signature)
            };
            let current = VerifyingKey::from_bytes(&head.key).ok();
            let own =
                signers_of.get(origin.as_str()).into_iter().flatten().map(|signer| signer.verifying_key());
            if !current.into_iter().chain(own).any(|key| is_signed_by(&key)) {
                return Err(damage(&log, newest.index, "the newest entry's signature does not verify").into());
            }
        }
        Ok(())
    }
}
