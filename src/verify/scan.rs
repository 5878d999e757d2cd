//! One thread reads the layers in order of time and, in each, in order of key; what it reads goes to the
//! workers in batches and, as promises, to the combiner in order.
//!
//! Keys order as carries, pages, tiles, terms, so when a layer's indexes are read all its records have gone
//! before. Records that no page has come from the journal, at their place.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::VerifyError;
use super::check::{Checked, Checker, Worker};
use super::finding::{Finding, FindingKind};
use super::index::Block;
use super::logs::Logs;
use super::scratch::Scratch;
use crate::process::watchdog::Watchdog;
use crate::store::backend::{Backend as _, Kv};
use crate::store::layer_id::LayerId;
use crate::store::manifest::Manifest;
use crate::store::page;
use crate::store::seal::{SEAL_FILE, Seal, SealError};
use crate::store::sled::SledBackend;

/// Pages of a batch: about 1,000 records, 5 ms of hashing or 60 ms of signatures.
const BATCH_PAGES: usize = 64;

/// Bytes of pages after which a batch goes.
const BATCH_BYTES: usize = 256 << 10;

/// Page cache of a layer that is read once, in order.
const CACHE_BYTES: u64 = 8 << 20;

/// Journal records of one job.
const RUN_RECORDS: usize = 256;

/// What a worker does.
pub(super) enum Work {
    /// Checks pages: position of the log, first index, bytes.
    Pages { pages: Vec<(usize, u64, Vec<u8>)>, sealed: bool },
    /// Checks records that only the journal has.
    Run { log: usize, first_index: u64, count: usize },
    /// Reads a block of postings.
    Block { level: u8, first: u64, pieces: Vec<(u64, Vec<u8>)> },
}

/// A job and where its result goes.
pub(super) struct Job {
    work: Work,
    reply: Sender<Done>,
}

/// What a worker made of a job.
pub(super) enum Done {
    Pages(Vec<Checked>),
    Block(Result<Block, &'static str>),
}

/// What the combiner takes, in order.
pub(super) enum Step {
    /// A layer's records come. A closed one has a seal.
    Enter(LayerId, Option<Seal>),
    /// The carry record of a log in the layer.
    Carry { log: usize, value: Vec<u8> },
    /// Checked records come.
    Pages(Receiver<Done>),
    /// The layer has no more records.
    PagesEnd,
    /// A stored tile root.
    Tile { log: usize, tile: u64, root: Vec<u8> },
    /// A block of postings comes.
    Block { log: usize, first: u64, block: Receiver<Done> },
    /// Something does not hold.
    Finding(Finding),
    /// The scan cannot go on.
    Failed(VerifyError),
}

/// Does jobs until there are no more.
pub(super) fn work(checker: &Checker, logs: &Logs, jobs: &Receiver<Job>) {
    let mut worker = Worker::new(checker);
    for job in jobs {
        let done = match job.work {
            Work::Pages { pages, sealed } => {
                let check = |(log, first, bytes): &(usize, u64, Vec<u8>)| {
                    worker.page(*log, &logs.infos[*log], *first, bytes, sealed)
                };
                Done::Pages(pages.iter().map(check).collect())
            }
            Work::Run { log, first_index, count } => {
                Done::Pages(vec![worker.journal(log, &logs.infos[log], first_index, count)])
            }
            Work::Block { level, first, pieces } => {
                Done::Block(Block::read(&checker.secret, level, first, &pieces))
            }
        };
        // The combiner has stopped: nobody needs the rest.
        if job.reply.send(done).is_err() {
            return;
        }
    }
}

/// A layer's copy, open.
type Copied = Result<(Scratch, Arc<dyn Kv>), CopyError>;

/// A copy that was not made, or does not open.
enum CopyError {
    Failed(VerifyError),
    Unreadable(String),
}

/// Layers on their way. When this goes, the copying ends.
pub(super) struct Copies {
    copies: Receiver<(LayerId, Copied)>,
    stop: Arc<AtomicBool>,
}

impl Copies {
    /// Begins to copy: the first layer comes while the journal is read.
    pub(super) fn begin<'a>(scope: &'a Scope<'a, '_>, data: &'a Path, manifest: Manifest) -> Copies {
        let (to, copies) = bounded(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        scope.spawn(move || copy_layers(data, &manifest, &to, &stopped));
        Copies { copies, stop }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Copies and opens the layers in order, each while the one before is read: there are two copies at most.
fn copy_layers(data: &Path, manifest: &Manifest, copies: &Sender<(LayerId, Copied)>, stop: &AtomicBool) {
    let backend = SledBackend::new(Watchdog::aborting());
    for (layer, generation) in &manifest.layers {
        let dir = Manifest::layer_dir(data, *layer, *generation);
        if !dir.is_dir() {
            continue;
        }
        let copy = Scratch::copy(&dir, stop);
        // It may be cut short.
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let copy = copy.map_err(CopyError::Failed).and_then(|scratch| {
            let kv = backend.open(&scratch.path(), CACHE_BYTES);
            kv.map(|kv| (scratch, kv)).map_err(|error| CopyError::Unreadable(error.to_string()))
        });
        // The scanner has stopped: nobody needs the rest.
        if copies.send((*layer, copy)).is_err() {
            return;
        }
    }
}

/// The scanning thread's state.
pub(super) struct Scanner<'a> {
    pub(super) data: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) logs: &'a Logs,
    pub(super) checker: &'a Checker,
    pub(super) jobs: Sender<Job>,
    pub(super) steps: Sender<Step>,
    copies: Copies,
    /// Next index of each log, by position.
    pub(super) next: Vec<u64>,
    batch: Vec<(usize, u64, Vec<u8>)>,
    batch_bytes: usize,
    /// The layer at hand has a seal.
    sealed: bool,
    unknown: HashMap<u32, u64>,
}

/// The combiner has stopped.
struct Stopped;

/// A page or a block that is being put together out of its pieces.
#[derive(Default)]
struct Assembly {
    page: Option<PagePieces>,
    block: Option<BlockPieces>,
    pages_ended: bool,
}

struct PagePieces {
    log: u32,
    first: u64,
    count: u8,
    have: u8,
    bytes: Vec<u8>,
}

struct BlockPieces {
    /// Log number, level, first index.
    place: (u32, u8, u64),
    pieces: Vec<(u64, Vec<u8>)>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(
        data: &Path,
        manifest: Manifest,
        logs: &'a Logs,
        checker: &'a Checker,
        jobs: Sender<Job>,
        steps: Sender<Step>,
        copies: Copies,
    ) -> Scanner<'a> {
        let next = vec![0; logs.infos.len()];
        Scanner {
            data: data.to_path_buf(),
            manifest,
            logs,
            checker,
            jobs,
            steps,
            copies,
            next,
            batch: Vec::new(),
            batch_bytes: 0,
            sealed: false,
            unknown: HashMap::new(),
        }
    }

    /// Scans everything. Ends early when the combiner does.
    pub(super) fn run(mut self) {
        let layers: BTreeSet<LayerId> =
            self.manifest.layers.keys().copied().chain(self.checker.tail.layers()).collect();
        for layer in layers {
            if self.layer(layer).is_err() {
                return;
            }
        }
        for (number, first) in std::mem::take(&mut self.unknown) {
            let found = format!("entries of log number {number} from index {first} on");
            let _ = self.finding(Finding::store(
                FindingKind::UnknownLog,
                "layers",
                "entries of logs that were made",
                found,
            ));
        }
    }

    fn layer(&mut self, layer: LayerId) -> Result<(), Stopped> {
        let seal = self.seal(layer)?;
        self.sealed = seal.is_some();
        self.step(Step::Enter(layer, seal))?;
        let mut assembly = Assembly::default();
        if let Some(generation) = self.manifest.layers.get(&layer).copied() {
            let dir = Manifest::layer_dir(&self.data, layer, generation);
            let name = format!("layers/{layer}.g{generation}");
            if dir.is_dir() {
                self.stored(&name, layer, &mut assembly)?;
            } else {
                self.finding(Finding::store(
                    FindingKind::MissingLayer,
                    &name,
                    "the layer that MANIFEST names",
                    "no such directory",
                ))?;
            }
        }
        self.page_done(&mut assembly)?;
        self.end_pages(&mut assembly, layer)?;
        self.block_done(&mut assembly)
    }

    /// The seal of a layer, where it has one and all logs are verified.
    fn seal(&mut self, layer: LayerId) -> Result<Option<Seal>, Stopped> {
        let Some(generation) = self.manifest.layers.get(&layer).filter(|_| self.logs.are_all()) else {
            return Ok(None);
        };
        let name = format!("layers/{layer}.g{generation}/{SEAL_FILE}");
        match Seal::read(&Manifest::layer_dir(&self.data, layer, *generation)) {
            Ok(Some(seal)) if seal.layer == layer => Ok(Some(seal)),
            Ok(None) => Ok(None),
            Err(SealError::Io { path, source }) => {
                self.failed(VerifyError::Io { path, source }).map(|()| None)
            }
            Ok(Some(_)) | Err(_) => self
                .finding(Finding::store(
                    FindingKind::FileDamaged,
                    &name,
                    format!("the seal of {layer}"),
                    "another text",
                ))
                .map(|()| None),
        }
    }

    /// Reads a layer out of the copy of its directory.
    fn stored(&mut self, name: &str, layer: LayerId, assembly: &mut Assembly) -> Result<(), Stopped> {
        let unreadable = |error: String| {
            Finding::store(FindingKind::LayerUnreadable, name, "the layer that was written", error)
        };
        let (scratch, kv) = match self.copies.copies.recv() {
            Ok((copied, Ok(copy))) if copied == layer => copy,
            Ok((_, Err(CopyError::Failed(error)))) => return self.failed(error),
            Ok((_, Err(CopyError::Unreadable(error)))) => return self.finding(unreadable(error)),
            Ok(_) | Err(_) => return self.failed(VerifyError::Thread),
        };
        let mut stopped = false;
        let scanned =
            kv.scan(&[0], &[0xff; 32], &mut |key, value| match self.pair(layer, key, value, assembly) {
                Ok(()) => ControlFlow::Continue(()),
                Err(Stopped) => {
                    stopped = true;
                    ControlFlow::Break(())
                }
            });
        drop(kv);
        drop(scratch);
        match scanned {
            _ if stopped => Err(Stopped),
            Ok(()) => Ok(()),
            Err(error) => self.finding(unreadable(error.to_string())),
        }
    }

    fn pair(
        &mut self,
        layer: LayerId,
        key: &[u8],
        value: &[u8],
        assembly: &mut Assembly,
    ) -> Result<(), Stopped> {
        let log = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        match (key.first(), log, key.len()) {
            (Some(b'C'), Some(log), 5) => match self.position(log, 0) {
                Some(log) => self.step(Step::Carry { log, value: value.to_vec() }),
                None => Ok(()),
            },
            (Some(b'P'), Some(log), 11) => {
                self.page_piece(log, index_of(&key[5..10]), key[10], value, assembly)
            }
            (Some(b'T'), Some(log), 10) => {
                self.page_done(assembly)?;
                self.end_pages(assembly, layer)?;
                match self.position(log, 0) {
                    Some(log) => {
                        self.step(Step::Tile { log, tile: index_of(&key[5..10]), root: value.to_vec() })
                    }
                    None => Ok(()),
                }
            }
            (Some(b'X'), Some(log), 19) => {
                self.page_done(assembly)?;
                self.end_pages(assembly, layer)?;
                let (level, first) = (key[5], index_of(&key[6..11]));
                let token = key[11..].iter().fold(0, |token, byte| token << 8 | u64::from(*byte));
                let place = (log, level, first);
                if assembly.block.as_ref().is_some_and(|block| block.place != place) {
                    self.block_done(assembly)?;
                }
                let block = assembly.block.get_or_insert_with(|| BlockPieces { place, pieces: Vec::new() });
                block.pieces.push((token, value.to_vec()));
                Ok(())
            }
            _ => {
                let found = format!(
                    "a key of {} bytes that begins with {:02x}",
                    key.len(),
                    key.first().unwrap_or(&0)
                );
                self.finding(Finding::store(
                    FindingKind::UnexpectedKey,
                    &format!("layers/{layer}"),
                    "keys of this format",
                    found,
                ))
            }
        }
    }

    fn page_piece(
        &mut self,
        log: u32,
        first: u64,
        piece: u8,
        value: &[u8],
        assembly: &mut Assembly,
    ) -> Result<(), Stopped> {
        if piece == 0 {
            self.page_done(assembly)?;
            let (count, bytes) = value.split_first().unwrap_or((&0, &[]));
            assembly.page = Some(PagePieces { log, first, count: *count, have: 1, bytes: bytes.to_vec() });
            return Ok(());
        }
        // Pieces beyond the count are left from a longer page that this one replaced; readers never see them.
        if let Some(page) = &mut assembly.page
            && (page.log, page.first, page.have) == (log, first, piece)
            && page.have < page.count
        {
            page.bytes.extend_from_slice(value);
            page.have += 1;
        }
        Ok(())
    }

    /// The page being put together is whole, or never will be.
    fn page_done(&mut self, assembly: &mut Assembly) -> Result<(), Stopped> {
        let Some(PagePieces { log: number, first, bytes, .. }) = assembly.page.take() else { return Ok(()) };
        let Some(log) = self.position(number, first) else { return Ok(()) };
        self.fill(log, first)?;
        // A page that is cut short fails its checksum: the worker says so.
        if let Ok(header) = page::header(&bytes) {
            self.next[log] = self.next[log].max(first.saturating_add(u64::from(header.count)));
        }
        self.batch_bytes += bytes.len();
        self.batch.push((log, first, bytes));
        if self.batch.len() >= BATCH_PAGES || self.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// All pages of the layer were read: what it lacks at its end, the journal may have.
    fn end_pages(&mut self, assembly: &mut Assembly, layer: LayerId) -> Result<(), Stopped> {
        if std::mem::replace(&mut assembly.pages_ended, true) {
            return Ok(());
        }
        for number in self.checker.tail.numbers() {
            if let Some(log) = self.position(number, 0) {
                let end = self.checker.tail.of(number).map_or(0, |tail| {
                    tail.runs
                        .iter()
                        .rev()
                        .find(|(_, (_, of))| *of <= layer)
                        .map_or(0, |(first, _)| tail.run_end(*first))
                });
                self.fill(log, end)?;
            }
        }
        self.flush()?;
        self.step(Step::PagesEnd)
    }

    fn block_done(&mut self, assembly: &mut Assembly) -> Result<(), Stopped> {
        let Some(BlockPieces { place: (number, level, first), pieces }) = assembly.block.take() else {
            return Ok(());
        };
        let Some(log) = self.position(number, 0) else { return Ok(()) };
        let (reply, block) = bounded(1);
        self.jobs.send(Job { work: Work::Block { level, first, pieces }, reply }).map_err(|_| Stopped)?;
        self.step(Step::Block { log, first, block })
    }

    /// Takes `[next, to)` of a log from the journal, as far as it has it.
    fn fill(&mut self, log: usize, to: u64) -> Result<(), Stopped> {
        let number = self.logs.infos[log].identity.number;
        let from = self.next[log];
        let checker = self.checker;
        let Some(tail) =
            checker.tail.of(number).filter(|tail| from < to && tail.first_index <= from && from < tail.end())
        else {
            return Ok(());
        };
        let (to, applied) = (to.min(tail.end()), tail.applied_below);
        self.flush()?;
        if from < applied {
            let tenant = &self.logs.infos[log].identity.tenant;
            let found = format!("entries {from} to {} in the journal alone", to.min(applied));
            self.finding(Finding::log(
                FindingKind::LayerIncomplete,
                tenant,
                from,
                "entries that HEAD says the layers have",
                found,
            ))?;
        }
        for first_index in (from..to).step_by(RUN_RECORDS) {
            let (reply, done) = bounded(1);
            let count = usize::try_from(to - first_index).unwrap_or(RUN_RECORDS).min(RUN_RECORDS);
            self.jobs
                .send(Job { work: Work::Run { log, first_index, count }, reply })
                .map_err(|_| Stopped)?;
            self.step(Step::Pages(done))?;
        }
        self.next[log] = to;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (reply, done) = bounded(1);
        let pages = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.jobs
            .send(Job { work: Work::Pages { pages, sealed: self.sealed }, reply })
            .map_err(|_| Stopped)?;
        self.step(Step::Pages(done))
    }

    /// Position of a log that is checked. Logs that nobody made are noted.
    fn position(&mut self, number: u32, index: u64) -> Option<usize> {
        match self.logs.position(number) {
            Ok(position) => position,
            Err(number) => {
                // One finding a log, and no more than a report lists.
                if self.unknown.len() < super::finding::MAX_LISTED {
                    self.unknown.entry(number).or_insert(index);
                }
                None
            }
        }
    }

    fn finding(&mut self, finding: Finding) -> Result<(), Stopped> {
        self.step(Step::Finding(finding))
    }

    fn failed(&mut self, error: VerifyError) -> Result<(), Stopped> {
        let _ = self.step(Step::Failed(error));
        Err(Stopped)
    }

    fn step(&mut self, step: Step) -> Result<(), Stopped> {
        self.steps.send(step).map_err(|_| Stopped)
    }
}

fn index_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |index, byte| index << 8 | u64::from(*byte))
}
