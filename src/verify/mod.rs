//! The offline verifier: says of a stopped store whether everything in it is what was signed, and what broke.
//!
//! It trusts public keys alone and writes nothing into the directory. Reading order: what can be found
//! (`finding`), what may be claimed (`claim`), what is brought along (`given`), what is read (`source`,
//! `journal_tail`, `logs`, `scratch`, `scan`), what is checked in parallel (`check`, `index`) and in order (`chain`;
//! `absent` keeps what must wait for a certificate),
//! what is said in the end (`report`). `file` verifies single files with no store at hand; `live` one log of a store
//! that is being served.
//!
//! One thread scans, some check, one combines; a bounded queue between each two. Memory: the frames that the
//! journal keeps, about 40 MB of batches under way, and what `chain` says of each log.

mod absent;
mod chain;
mod check;
mod claim;
mod facts;
mod file;
mod finding;
mod given;
mod index;
mod journal_tail;
mod live;
mod logs;
mod report;
mod scan;
mod scratch;
mod source;
mod system;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, bounded};

pub use claim::Claim;
pub use file::{ProofOptions, verify_proof};
pub use finding::{Finding, FindingKind, MAX_LISTED, Severity};
pub use live::{LiveError, LiveReport, verify_live};
pub use report::{LogReport, Report};

use absent::Pool;
use chain::{Context, Walk};
use finding::Findings;
use given::Given;
use scan::{Copies, Done, Scanner, Step};
use source::Source;
use system::System;

use crate::journal::JournalError;
use crate::store::layer_id::LayerId;
use crate::store::manifest::Manifest;
use crate::store::seal::Seal;
use crate::tlog::hash::Hash;
use crate::tlog::merkle::Frontier;

/// Most threads that check.
const MAX_THREADS: usize = 64;

/// Batches under way for each thread that checks.
const BATCHES_AHEAD: usize = 4;

/// What is to be verified, and with what at hand.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only the log of this tenant.
    pub tenant: Option<String>,
    /// A signed checkpoint of a log: below its size only chain and tree are recomputed.
    pub since_checkpoint: Option<PathBuf>,
    /// Signed checkpoints from outside.
    pub checkpoints: Vec<PathBuf>,
    /// Receipts as the HTTP interface answers them: JSON lines, each one receipt or `{"receipts":[…]}`.
    pub receipts: Option<PathBuf>,
    /// Verifier keys (C2SP `name+id+key`) from outside.
    pub keys: Vec<String>,
    /// Recompute hashes alone.
    pub no_signatures: bool,
    /// Threads that check; as many as there are cores by default.
    pub threads: Option<usize>,
}

/// Learns how a verification goes on.
pub trait Progress: Sync {
    /// So many entries are there by the heads.
    fn started(&self, entries: u64);
    /// So many more were checked.
    fn advanced(&self, entries: u64);
    /// Something worth a line.
    fn message(&self, text: &str);
}

/// Why a verification could not tell.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A server, or another verification, has the store.
    #[error("{} is held by another process; nothing was checked\nhint: stop the server, or verify a copy of the directory", .0.display())]
    Held(PathBuf),
    /// Not a data directory.
    #[error("{} is no data directory of Varve's: {missing} is missing\nhint: give the directory that `varve serve --data` has", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// No log of that tenant.
    #[error(
        "the store has no tenant {0}\nhint: names are lower case; `varve verify` without --tenant lists all"
    )]
    NoTenant(String),
    /// A file that was brought along cannot be used.
    #[error("{0}; nothing was checked")]
    Option(String),
    /// No room for scratch copies.
    #[error("{free} bytes are free in {}, the copy of a layer needs {needed}\nhint: set TMPDIR to a directory with room", place.display())]
    NoSpace {
        /// The largest place.
        place: PathBuf,
        /// Bytes free there.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The system refused.
    #[error("{}: {source}; the verification did not come to its end", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(JournalError),
    /// A thread could not be started, or ended early.
    #[error("a thread of the verification ended early: a defect; the verification did not come to its end")]
    Thread,
}

/// Verifies a stopped store. Not a byte of `dir` is written.
///
/// # Errors
/// What kept it from telling; nothing is then said of the store.
#[expect(clippy::disallowed_methods, reason = "threads that end before this does")]
pub fn verify_dir(dir: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, VerifyError> {
    let given = Given::read(options)?;
    let lock = source::lock(dir)?;
    let manifest = Manifest::read(dir);
    std::thread::scope(|scope| {
        let copies = Copies::begin(scope, dir, manifest.as_ref().ok().cloned().unwrap_or_default());
        let source = Source::open(dir, options, &given, lock, manifest)?;
        verify(dir, options, progress, &given, source, copies)
    })
}

fn verify(
    dir: &Path,
    options: &Options,
    progress: &dyn Progress,
    given: &Given,
    mut source: Source,
    copies: Copies,
) -> Result<Report, VerifyError> {
    let mut findings = Findings::default();
    source.findings.drain(..).for_each(|finding| findings.add(finding));
    if let Some(tenant) = options.tenant.as_ref().filter(|_| source.logs.infos.is_empty() && !source.stopped)
    {
        return Err(VerifyError::NoTenant(tenant.clone()));
    }
    progress.started(source.known_sizes.iter().sum());
    let mut verification = Verification::new(&source, given, options, progress, findings);
    if !source.stopped {
        verification.run(dir, copies)?;
        verification.finish(dir)?;
    }
    Ok(verification.report())
}

/// Everything that the combining thread owns.
struct Verification<'a> {
    source: &'a Source,
    given: &'a Given,
    options: &'a Options,
    progress: &'a dyn Progress,
    walks: Vec<Walk>,
    system: System<'a>,
    findings: Findings,
    pool: Pool,
    notes: Vec<String>,
    layer: Option<LayerId>,
    seal: Option<Sealed>,
    touched: Vec<usize>,
}

/// The records of a layer as its seal has them.
struct Sealed {
    seal: Seal,
    hasher: blake3::Hasher,
    records: u64,
    logs: u64,
    last_log: Option<usize>,
}

impl Sealed {
    fn new(seal: Seal) -> Sealed {
        Sealed { seal, hasher: blake3::Hasher::new(), records: 0, logs: 0, last_log: None }
    }

    fn take(&mut self, log: usize, page: &check::Checked) {
        self.hasher.update(&page.sealed);
        self.records += page.records.len() as u64;
        if self.last_log != Some(log) {
            (self.last_log, self.logs) = (Some(log), self.logs + 1);
        }
    }

    fn compare(&self) -> Result<(), Finding> {
        let found = Seal {
            layer: self.seal.layer,
            logs: self.logs,
            records: self.records,
            content: Hash(*self.hasher.finalize().as_bytes()),
        };
        if found == self.seal {
            return Ok(());
        }
        let text = |seal: &Seal| {
            format!("{} records of {} logs with digest {}", seal.records, seal.logs, seal.content)
        };
        Err(Finding::store(
            FindingKind::SealMismatch,
            &format!("layers/{}", self.seal.layer),
            text(&self.seal),
            text(&found),
        ))
    }
}

impl<'a> Verification<'a> {
    fn new(
        source: &'a Source,
        given: &'a Given,
        options: &'a Options,
        progress: &'a dyn Progress,
        findings: Findings,
    ) -> Verification<'a> {
        let mut verification = Verification {
            source,
            given,
            options,
            progress,
            walks: Vec::with_capacity(source.logs.infos.len()),
            system: System::new(source),
            findings,
            pool: Pool::default(),
            notes: source.notes.clone(),
            layer: None,
            seal: None,
            touched: Vec::new(),
        };
        for (position, info) in source.logs.infos.iter().enumerate() {
            let walk = Walk::new(info, source.marks(position, given), source.ids_below(position));
            verification.walks.push(walk);
        }
        if !source.stopped {
            let (findings, mut notes) = given.unplaced(&source.logs);
            findings.into_iter().for_each(|finding| verification.findings.add(finding));
            verification.notes.append(&mut notes);
        }
        verification
    }

    /// Walks all logs.
    #[expect(clippy::disallowed_methods, reason = "threads that end before this does")]
    fn run(&mut self, dir: &Path, copies: Copies) -> Result<(), VerifyError> {
        let source = self.source;
        let threads =
            self.options.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
        let threads = threads.unwrap_or(1).clamp(1, MAX_THREADS);
        let (steps_to, steps) = bounded(threads * BATCHES_AHEAD);
        let (jobs_to, jobs) = bounded(threads * BATCHES_AHEAD);
        let manifest = source.manifest.clone();
        let scanner = Scanner::new(dir, manifest, &source.logs, &source.checker, jobs_to, steps_to, copies);
        std::thread::scope(|scope| {
            scope.spawn(move || scanner.run());
            for _ in 0..threads {
                let jobs = jobs.clone();
                scope.spawn(move || scan::work(&source.checker, &source.logs, &jobs));
            }
            drop(jobs);
            let outcome = steps.iter().try_for_each(|step| self.step(step));
            // Ends the scanner, and with it the workers, if this thread stops first.
            drop(steps);
            outcome
        })
    }

    fn step(&mut self, step: Step) -> Result<(), VerifyError> {
        match step {
            Step::Enter(layer, seal) => {
                self.compare_seal();
                self.seal = seal.map(Sealed::new);
                self.touched.drain(..).for_each(|log| self.walks[log].leave());
                self.layer = Some(layer);
                self.progress.message(&format!("layer {layer}"));
            }
            Step::Carry { log, value } => {
                self.touch(log);
                self.walks[log].set_carry(value);
            }
            Step::Pages(done) => self.pages(&done)?,
            Step::PagesEnd => self.touched.iter().for_each(|log| self.walks[*log].pages_end()),
            Step::Tile { log, tile, root } => self.with(log, |walk, context| walk.tile(context, tile, &root)),
            Step::Block { log, first, block } => match block.recv() {
                Ok(Done::Block(block)) => self.with(log, |walk, context| walk.block(context, first, &block)),
                _ => return Err(VerifyError::Thread),
            },
            Step::Finding(finding) => self.findings.add(finding),
            Step::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn pages(&mut self, done: &Receiver<Done>) -> Result<(), VerifyError> {
        let (Ok(Done::Pages(pages)), Some(layer)) = (done.recv(), self.layer) else {
            return Err(VerifyError::Thread);
        };
        for page in pages {
            let log = page.log;
            self.touch(log);
            self.system.observe(log, &page, &mut self.findings);
            if let Some(seal) = &mut self.seal {
                seal.take(log, &page);
            }
            self.progress.advanced(page.records.len() as u64);
            self.with(log, |walk, context| walk.take(context, layer, page));
        }
        self.pool_holds()
    }

    fn pool_holds(&mut self) -> Result<(), VerifyError> {
        match self.pool.take_error() {
            None => Ok(()),
            Some(source) => Err(VerifyError::Io { path: std::env::temp_dir(), source }),
        }
    }

    /// Holds the records of the layer at hand against its seal. Where anything else was found, the seal
    /// differs because of that.
    fn compare_seal(&mut self) {
        let Some(seal) = self.seal.take().filter(|_| self.findings.is_empty()) else { return };
        if let Err(finding) = seal.compare() {
            self.findings.add(finding);
        }
    }

    fn touch(&mut self, log: usize) {
        // Logs come in order within a layer, so a repeat is nearly always the last one.
        if self.touched.last() != Some(&log) {
            self.touched.push(log);
        }
    }

    fn with<T>(&mut self, log: usize, act: impl FnOnce(&mut Walk, &mut Context<'_>) -> T) -> T {
        let mut context = Context {
            info: &self.source.logs.infos[log],
            checkpoints: &self.given.checkpoints,
            findings: &mut self.findings,
            pool: &mut self.pool,
        };
        act(&mut self.walks[log], &mut context)
    }

    /// What can be said only when all entries were seen.
    fn finish(&mut self, dir: &Path) -> Result<(), VerifyError> {
        self.compare_seal();
        for log in 0..self.walks.len() {
            let (size, key) = (self.source.known_sizes[log], self.source.journal_key(log));
            let (snapshot, open) = (self.source.snapshot_layers(log), self.source.open_erasures(log));
            self.with(log, |walk, context| {
                walk.finish(context, size, key);
                walk.compare_erasures(context, open, size);
                if let Some((layers, size)) = snapshot {
                    walk.compare_layers(context, layers, size);
                }
            });
            self.outside_keys(log);
        }
        self.pool_holds()?;
        let complete = self.system.log.is_some_and(|log| self.walks[log].complete);
        self.system.finish(self.source, complete, &mut self.findings);
        let buckets: Vec<index::IdBuckets> =
            self.walks.iter_mut().map(|walk| std::mem::take(&mut walk.ids)).collect();
        // Where entries are missing, their ids are too: that is no fault of the table.
        if self.walks.iter().all(|walk| walk.complete) {
            source::compare_ids(dir, self.source, &buckets, &mut self.findings)?;
        } else {
            self.notes.push("the id table was not compared: entries are missing".to_owned());
        }
        Ok(())
    }

    /// A key from outside must be one of the log's and must have signed. Anyone with the log's key can write a
    /// last entry that goes over to a foreign one: a key that has signed nothing is no fault, and says nothing.
    fn outside_keys(&mut self, log: usize) {
        let info = &self.source.logs.infos[log];
        let Some(keys) = self.given.keys.get(&info.origin).filter(|_| !self.options.no_signatures) else {
            return;
        };
        for key in keys {
            let (id, bytes) = (key.key_id(&info.origin), key.to_bytes());
            let walk = &mut self.walks[log];
            let signed =
                walk.used_keys.iter().find(|(_, used, _)| *used == bytes).map(|(.., signed)| *signed);
            match signed {
                Some(1..) => walk.vouched = true,
                Some(0) => self.notes.push(format!(
                    "key {id} of {} signed entries below {} alone, which were not checked: it raises no claim",
                    info.origin, info.chained_below
                )),
                None if walk.current_key() == Some(bytes) => self.notes.push(format!(
                    "key {id} was introduced by the last entry of {} and has signed nothing: it raises no claim",
                    info.origin
                )),
                None => self.findings.add(Finding::log(
                    FindingKind::KeyMismatch,
                    &info.identity.tenant,
                    0,
                    "entries signed by the key that was given",
                    format!("no entry is signed by {id}"),
                )),
            }
        }
    }

    fn claim(&self, log: usize) -> Claim {
        let info = &self.source.logs.infos[log];
        let walk = &self.walks[log];
        if self.source.stopped || walk.next == 0 || self.findings.count_of(&info.identity.tenant) > 0 {
            Claim::None
        } else if self.options.no_signatures || info.chained_below >= walk.next {
            // Whatever was given: no signature was looked at.
            Claim::Chained
        } else if walk.checkpointed > 0 {
            Claim::Checkpointed
        } else if walk.vouched {
            Claim::Signed
        } else {
            Claim::SelfSigned
        }
    }

    fn report(self) -> Report {
        let mut logs: Vec<LogReport> = (0..self.walks.len()).map(|log| self.log_report(log)).collect();
        logs.sort_by(|a, b| a.tenant.cmp(&b.tenant).then_with(|| a.origin.cmp(&b.origin)));
        let mut claim = logs.iter().map(|log| log.claim).min().unwrap_or(Claim::None);
        let mut notes = self.notes;
        if self.options.no_signatures {
            notes.push("signatures of entries were not checked".to_owned());
        }
        if let Some(tenant) = &self.options.tenant {
            notes.push(format!("only {tenant} was checked"));
        }
        let (findings, finding_count, warning_count) = self.findings.finish();
        if finding_count > 0 {
            claim = Claim::None;
        }
        Report { valid: finding_count == 0, claim, logs, findings, finding_count, warning_count, notes }
    }

    fn log_report(&self, log: usize) -> LogReport {
        let (info, walk) = (&self.source.logs.infos[log], &self.walks[log]);
        let chained = info.chained_below.min(walk.next);
        LogReport {
            tenant: info.identity.tenant.clone(),
            origin: info.origin.clone(),
            log_id: info.identity.log_id,
            size: walk.next,
            root: walk.whole.then(|| Frontier::root(&walk.tree)),
            key_ids: walk.used_keys.iter().map(|(id, ..)| id.to_string()).collect(),
            bodies_present: walk.bodies_present,
            bodies_expired: walk.bodies_expired(),
            bodies_erased: walk.bodies_erased(),
            disclosures_erased: walk.disclosures_erased(),
            claim: self.claim(log),
            checkpointed_size: if self.claim(log) == Claim::None { 0 } else { walk.checkpointed },
            entries_checked: walk.next - chained,
            entries_chained: chained,
            signatures_checked: walk.signatures_checked,
        }
    }
}
