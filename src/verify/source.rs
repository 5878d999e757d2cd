//! What lies in a data directory beside records: the lock, HEAD and journal, the snapshot of heads, MANIFEST,
//! the id table, the files of keys and of signed checkpoints. All of it is read and held against each other
//! before the first record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use parking_lot::RwLock;
use rustix::fs::{FlockOperation, flock};

use super::chain::{Mark, Says, Standing};
use super::check::{Checker, LogInfo};
use super::finding::{Finding, FindingKind, Findings};
use super::given::Given;
use super::index::{self, IdBuckets, Secret};
use super::journal_tail::{Journal, Tail};
use super::logs::{Known, Logs};
use super::scratch::Scratch;
use super::{Options, VerifyError};
use crate::process::lock::LOCK_FILE;
use crate::store::idtable::{IdTable, IdTableError};
use crate::store::keyfile::{KeyFile, KeyFileError, LogSigner};
use crate::store::layer_id::LayerId;
use crate::store::manifest::{Manifest, ManifestError};
use crate::store::read::origin_of;
use crate::store::state::{ApiKey, ErasurePhase, Head, LogIdentity, State, StateError};
use crate::tlog::hash::Hash;
use crate::tlog::key::VerifyingKey;

/// Name of the file of signed checkpoints, its slots, and what its checks begin with.
const SIGNED_FILE: &str = "signed-checkpoints";
const SLOT_BYTES: usize = 64;
const SLOT_CONTEXT: &[u8] = b"varve signed checkpoint";

/// Largest file of signed checkpoints: a slot a log.
const MAX_SIGNED_BYTES: u64 = (crate::store::state::MAX_LOGS * SLOT_BYTES) as u64;

/// Everything but records.
pub(super) struct Source {
    pub(super) logs: Logs,
    pub(super) checker: Checker,
    pub(super) manifest: Manifest,
    /// Size of each verified log by snapshot and journal.
    pub(super) known_sizes: Vec<u64>,
    pub(super) api_keys: Vec<ApiKey>,
    /// Nothing more can be told.
    pub(super) stopped: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<String>,
    heads: Vec<Option<Head>>,
    /// Open erasures of each verified log, by snapshot and journal.
    erasures: Vec<BTreeMap<u64, ErasurePhase>>,
    journal_keys: Vec<Option<[u8; 32]>>,
    slots: BTreeMap<u32, (u64, Hash)>,
    ids: Option<Ids>,
    /// Held while the store is read.
    _lock: File,
}

/// The id table, open over links to its files.
struct Ids {
    table: IdTable,
    _scratch: Scratch,
}

impl Source {
    /// Reads all of it. What does not hold is a finding; with some of them nothing more can be told.
    pub(super) fn open(
        data: &Path,
        options: &Options,
        given: &Given,
        lock: File,
        manifest: Result<Manifest, ManifestError>,
    ) -> Result<Source, VerifyError> {
        let mut findings = Vec::new();
        let ids = open_ids(data, &mut findings)?;
        let durable = ids.as_ref().map(|ids| ids.table.durable_frame());
        let mut stopped = false;
        let journal = match Journal::read(data, || durable)? {
            Ok(journal) => journal,
            Err(finding) => {
                findings.push(finding);
                stopped = true;
                Journal::empty()
            }
        };
        let mut state = State::default();
        if !stopped {
            match State::read(&data.join("state"), journal.applied, &journal.snapshot_digest) {
                Ok(read) => state = read,
                Err(StateError::Io { path, source }) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(VerifyError::Io { path, source });
                }
                Err(error) => {
                    findings.push(Finding::store(
                        FindingKind::SnapshotDamaged,
                        "state",
                        "the snapshot that HEAD names",
                        error.to_string(),
                    ));
                    stopped = true;
                }
            }
            if durable.is_some_and(|durable| durable < journal.applied || durable > journal.newest_frame) {
                let expected =
                    format!("an id table up to frame {} to {}", journal.applied, journal.newest_frame);
                findings.push(Finding::store(
                    FindingKind::IndexMismatch,
                    "ids",
                    expected,
                    format!("up to frame {}", durable.unwrap_or(0)),
                ));
            }
        }
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(ManifestError::Io { path, source }) if source.kind() != io::ErrorKind::NotFound => {
                return Err(VerifyError::Io { path, source });
            }
            Err(error) => {
                findings.push(Finding::store(
                    FindingKind::ManifestDamaged,
                    "MANIFEST",
                    "the list of layers that was written",
                    error.to_string(),
                ));
                stopped = true;
                Manifest::default()
            }
        };
        let slots = signed_checkpoints(data, &mut findings)?;
        let mut source = Source {
            logs: Logs::default(),
            checker: Checker {
                secret: Secret::new(random()?),
                signatures: !options.no_signatures,
                tail: Tail::default(),
            },
            manifest,
            known_sizes: Vec::new(),
            api_keys: Vec::new(),
            stopped,
            findings,
            notes: journal.notes.clone(),
            heads: Vec::new(),
            erasures: Vec::new(),
            journal_keys: Vec::new(),
            slots,
            ids,
            _lock: lock,
        };
        if stopped {
            source.notes.push(
                "records were not checked: without the file named above it is not known what they must be"
                    .to_owned(),
            );
        } else {
            source.take(state, journal, options, given);
            source.signing_keys(data)?;
        }
        Ok(source)
    }

    /// Puts snapshot and journal together.
    fn take(&mut self, mut state: State, journal: Journal, options: &Options, given: &Given) {
        // What the frames say last of an erasure holds; a done one is forgotten.
        state.erasures.extend(journal.erasures);
        state.erasures.retain(|_, phase| *phase != ErasurePhase::Done);
        let mut erasures: BTreeMap<u32, BTreeMap<u64, ErasurePhase>> = BTreeMap::new();
        for ((log, index), phase) in std::mem::take(&mut state.erasures) {
            erasures.entry(log).or_default().insert(index, phase);
        }
        let mut all: Vec<(LogIdentity, Option<Head>)> =
            state.logs.into_values().map(|log| (log.identity, Some(log.head))).collect();
        let mut places: HashMap<u32, usize> =
            all.iter().enumerate().map(|(place, (known, _))| (known.number, place)).collect();
        for identity in journal.new_logs {
            match places.get(&identity.number).map(|place| &all[*place].0) {
                None => {
                    places.insert(identity.number, all.len());
                    all.push((identity, None));
                }
                Some(known) if *known == identity => {}
                Some(_) => {
                    let found = format!("log {} made anew with another identity", identity.number);
                    self.findings.push(Finding::store(
                        FindingKind::JournalDamaged,
                        "journal",
                        "a log that is made once",
                        found,
                    ));
                }
            }
        }
        self.checker.tail = journal.tail;
        self.logs.all = all.iter().map(|(identity, _)| known(&state.instance, identity)).collect();
        self.logs.check_names(&state.instance, options.tenant.is_none(), &mut self.findings);
        for number in self.slots.keys().filter(|number| !places.contains_key(number)) {
            self.findings.push(Finding::store(
                FindingKind::MissingLog,
                SIGNED_FILE,
                format!("log number {number}, of which a checkpoint was signed"),
                "no such log",
            ));
        }
        for number in erasures.keys().filter(|number| !places.contains_key(number)) {
            self.findings.push(Finding::store(
                FindingKind::HeadMismatch,
                "state",
                "open erasures of logs that were made",
                format!("one of log number {number}"),
            ));
        }
        for (identity, head) in all {
            if options.tenant.as_ref().is_some_and(|tenant| *tenant != identity.tenant) {
                self.logs.positions.insert(identity.number, None);
                continue;
            }
            self.logs.positions.insert(identity.number, Some(self.logs.infos.len()));
            let tail_end = self.checker.tail.of(identity.number).map_or(0, super::journal_tail::LogTail::end);
            self.known_sizes.push(tail_end.max(head.as_ref().map_or(0, |head| head.size)));
            self.journal_keys.push(journal.rotations.get(&identity.number).map(|(_, key)| *key));
            self.erasures.push(erasures.remove(&identity.number).unwrap_or_default());
            self.logs.infos.push(log_info(&state.instance, identity, given));
            self.heads.push(head);
        }
        self.api_keys =
            super::journal_tail::current_keys(state.api_keys, &journal.api_keys).into_values().collect();
    }

    /// Where the log must stand at which sizes.
    pub(super) fn marks(&self, log: usize, given: &Given) -> Vec<Mark> {
        let info = &self.logs.infos[log];
        let mut marks: Vec<Mark> = Vec::new();
        if let Some(head) = &self.heads[log] {
            marks.push(Mark { size: head.size, says: Says::Snapshot(Standing::of(head)) });
        }
        if let Some((size, root)) = self.slots.get(&info.identity.number) {
            marks.push(Mark { size: *size, says: Says::Slot { root: *root } });
        }
        let of_log =
            |(_, given): &(usize, &super::given::GivenCheckpoint)| given.checkpoint.origin == info.origin;
        let checkpoints = given.checkpoints.iter().enumerate().filter(of_log);
        marks.extend(
            checkpoints.map(|(position, given)| Mark {
                size: given.checkpoint.size,
                says: Says::Checkpoint(position),
            }),
        );
        marks
    }

    /// Below this index the id table must have all ids of a log.
    pub(super) fn ids_below(&self, log: usize) -> u64 {
        let number = self.logs.infos[log].identity.number;
        let by_journal = self.checker.tail.of(number).map_or(u64::MAX, |tail| tail.ids_below);
        // What stands behind the known end is no fault of the table.
        if self.ids.is_some() { by_journal.min(self.known_sizes[log]) } else { 0 }
    }

    /// Key current at the end, where the journal changed it.
    pub(super) fn journal_key(&self, log: usize) -> Option<[u8; 32]> {
        self.journal_keys[log]
    }

    /// Open erasures of a log, by snapshot and journal.
    pub(super) fn open_erasures(&self, log: usize) -> &BTreeMap<u64, ErasurePhase> {
        &self.erasures[log]
    }

    /// Layers that the snapshot names for a log, and the size it has it at.
    pub(super) fn snapshot_layers(&self, log: usize) -> Option<(&[(LayerId, u64)], u64)> {
        self.heads[log].as_ref().map(|head| (head.layers.as_slice(), head.size))
    }

    /// Each log's key must be in the file; who has only a copy without it can verify all the same.
    fn signing_keys(&mut self, data: &Path) -> Result<(), VerifyError> {
        let file = "signing-keys";
        let signers = match KeyFile::open(data) {
            Ok((_, signers)) => signers,
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.notes
                    .push("signing-keys is not here: this directory can be verified, not served".to_owned());
                return Ok(());
            }
            Err(KeyFileError::Io { path, source }) => return Err(VerifyError::Io { path, source }),
            Err(KeyFileError::Exposed { mode, .. }) => {
                self.notes.push(format!(
                    "signing-keys has mode {mode:o}: others can read the keys; its contents were not checked"
                ));
                return Ok(());
            }
            Err(error) => {
                self.findings.push(Finding::store(
                    FindingKind::FileDamaged,
                    file,
                    "the keys that were written",
                    error.to_string(),
                ));
                return Ok(());
            }
        };
        let signers: HashSet<[u8; 32]> = signers.iter().map(LogSigner::public).collect();
        for (log, info) in self.logs.infos.iter().enumerate() {
            let current = self.journal_keys[log].or_else(|| self.heads[log].as_ref().map(|head| head.key));
            let current = current.unwrap_or(info.identity.genesis_key);
            if !signers.contains(&current) {
                let expected = format!("the key {} of {}", Hash(current), info.origin);
                self.findings.push(Finding::store(FindingKind::FileDamaged, file, expected, "no such key"));
            }
        }
        Ok(())
    }
}

/// Holds the id table against the ids of the records.
pub(super) fn compare_ids(
    data: &Path,
    source: &Source,
    buckets: &[IdBuckets],
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let Some(ids) = &source.ids else { return Ok(()) };
    let position = |number| source.logs.position(number);
    let compared = ids.table.verify().and_then(|_| {
        index::compare_ids(&source.checker.secret, buckets, position, |visit| {
            ids.table.for_each(|token, location| visit(token, location))
        })
    });
    match compared {
        Ok(bad) => {
            for bad in bad {
                let (from, to) = bad.range;
                let expected = format!("the {} ids of entries {from} to {to}", bad.expected);
                let found = format!("{} entries of the id table", bad.found);
                findings.add(match bad.log {
                    Ok(log) => Finding::log(
                        FindingKind::IndexMismatch,
                        &source.logs.infos[log].identity.tenant,
                        from,
                        expected,
                        found,
                    ),
                    Err(number) => Finding::store(
                        FindingKind::IndexMismatch,
                        "ids",
                        "ids of logs that were made",
                        format!("{found} for log number {number}"),
                    ),
                });
            }
            Ok(())
        }
        Err(error) => ids_refused(data, error).map(|finding| findings.add(finding)),
    }
}

fn open_ids(data: &Path, findings: &mut Vec<Finding>) -> Result<Option<Ids>, VerifyError> {
    let dir = data.join("ids");
    if !dir.is_dir() {
        findings.push(Finding::store(FindingKind::IndexMismatch, "ids", "the id table", "no such directory"));
        return Ok(None);
    }
    let scratch = Scratch::link(&dir, ".run")?;
    match IdTable::open(&scratch.path()) {
        Ok(table) => Ok(Some(Ids { table, _scratch: scratch })),
        Err(error) => {
            findings.push(ids_refused(data, error)?);
            Ok(None)
        }
    }
}

/// An id table that does not read: a finding, unless the system is at fault.
fn ids_refused(data: &Path, error: IdTableError) -> Result<Finding, VerifyError> {
    let not_found =
        matches!(&error, IdTableError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    match error {
        IdTableError::Io { source, .. } if !not_found => {
            Err(VerifyError::Io { path: data.join("ids"), source })
        }
        error => Ok(Finding::store(
            FindingKind::IndexMismatch,
            "ids",
            "the id table that was written",
            error.to_string(),
        )),
    }
}

/// Takes the store's lock without writing: the file is made by whoever serves first.
pub(super) fn lock(data: &Path) -> Result<File, VerifyError> {
    let no_store = |missing| VerifyError::NoStore { dir: data.to_path_buf(), missing };
    if !data.join("journal").is_dir() {
        return Err(no_store("journal"));
    }
    let path = data.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        // A copy, or a backup, may come without it: then its directory stands for it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::open(data).map_err(|source| VerifyError::Io { path: data.to_path_buf(), source })?
        }
        Err(source) => return Err(VerifyError::Io { path, source }),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(VerifyError::Held(data.to_path_buf())),
        Err(errno) => Err(VerifyError::Io { path, source: errno.into() }),
    }
}

/// The last signed checkpoint of each log: number, size, root.
fn signed_checkpoints(
    data: &Path,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<u32, (u64, Hash)>, VerifyError> {
    let path = data.join(SIGNED_FILE);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(VerifyError::Io { path, source }),
        Ok(_) => {}
    }
    let bytes = super::given::read_file(&path, MAX_SIGNED_BYTES)?;
    let mut slots = BTreeMap::new();
    let (whole, rest) = bytes.as_chunks::<SLOT_BYTES>();
    let mut damaged = |log: usize| {
        findings.push(Finding::store(
            FindingKind::FileDamaged,
            SIGNED_FILE,
            "slots that were written",
            format!("another slot of log {log}"),
        ));
    };
    if !rest.is_empty() {
        damaged(whole.len());
    }
    for (log, slot) in whole.iter().enumerate().filter(|(_, slot)| **slot != [0; SLOT_BYTES]) {
        let number = u32::try_from(log).unwrap_or(u32::MAX);
        let (fields, check) = slot.split_at(40);
        let mut hasher = blake3::Hasher::new();
        hasher.update(SLOT_CONTEXT).update(&number.to_be_bytes()).update(fields);
        let sound = hasher.finalize().as_bytes()[..8] == check[..8] && check[8..] == [0; 16];
        match (sound, fields.split_first_chunk::<8>()) {
            (true, Some((size, root))) => {
                let root = root.try_into().map_or(Hash::ZERO, Hash);
                slots.insert(number, (u64::from_be_bytes(*size), root));
            }
            _ => damaged(log),
        }
    }
    Ok(slots)
}

fn log_info(instance: &str, identity: LogIdentity, given: &Given) -> LogInfo {
    let origin = origin_of(instance, &identity);
    let since = given.since.and_then(|position| given.checkpoints.get(position));
    let chained_below =
        since.filter(|since| since.checkpoint.origin == origin).map_or(0, |since| since.checkpoint.size);
    let keys = VerifyingKey::from_bytes(&identity.genesis_key).map(|key| (key.key_id(&origin), key));
    let receipts = given.receipts_of(&identity);
    LogInfo { identity, origin, chained_below, keys: RwLock::new(keys.into_iter().collect()), receipts }
}

fn known(instance: &str, identity: &LogIdentity) -> Known {
    Known {
        number: identity.number,
        tenant: identity.tenant.clone(),
        origin: origin_of(instance, identity),
        log_id: identity.log_id,
        genesis_key: identity.genesis_key,
    }
}

#[expect(clippy::disallowed_methods, reason = "places to look at that nobody can foresee")]
fn random() -> Result<[u64; 4], VerifyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|_| VerifyError::Option("the system has no random numbers".to_owned()))?;
    let (chunks, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|at| u64::from_be_bytes(chunks[at])))
}
