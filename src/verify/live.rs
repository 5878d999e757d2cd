//! One log of a store that is being served, verified through the store: chain, signatures, bodies, tree, head and
//! the last signed checkpoint. What stands beside the records (indexes, seals, the id table, other logs) is for the
//! offline verifier, and so is trust in whoever runs the store: this run is the operator's own.

use std::ops::ControlFlow;

use parking_lot::RwLock;

use super::absent::Pool;
use super::chain::{Context, Mark, Says, Standing, Walk};
use super::check::{Checker, LogInfo, Worker};
use super::claim::Claim;
use super::finding::{Finding, Findings};
use super::index::Secret;
use super::journal_tail::Tail;
use crate::store::layer_id::LayerId;
use crate::store::log::Log;
use crate::store::read::{ReadError, Store};
use crate::store::record::Record;
use crate::store::state::Head;
use crate::tlog::hash::Hash;
use crate::tlog::key::VerifyingKey;

/// Records that are checked at once: they are in memory, 64 KiB each at the very most.
const BATCH_RECORDS: usize = 256;

/// What a live verification found.
#[derive(Debug)]
pub struct LiveReport {
    /// Nothing was found.
    pub valid: bool,
    /// What may be claimed: no more than `self-signed`, for nothing came from outside.
    pub claim: Claim,
    /// Entries checked: those published when it began, and where anything was absent those that came while they were read.
    pub entries: u64,
    /// Bodies that a certificate of expiry covers.
    pub bodies_expired: u64,
    /// Disclosures that a certificate of erasure covers.
    pub disclosures_erased: u64,
    /// The first of the findings.
    pub findings: Vec<Finding>,
    /// All of them.
    pub finding_count: u64,
}

/// What kept a live verification from telling.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The store could not be read: damage, which is a finding of its own kind to the operator.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The system refused room for what must wait for a certificate.
    #[error("a temporary file: {0}; nothing was found by then and nothing is said of the log")]
    Scratch(std::io::Error),
}

/// Verifies `log` up to the size published now, and looks behind it for certificates once. `signed` is size and root of its last signed checkpoint.
/// `progress` hears of each batch and may break off, which answers `None`.
///
/// # Errors
/// [`LiveError`].
pub fn verify_live(
    store: &Store,
    log: &Log,
    signed: Option<(u64, Hash)>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<LiveReport>, LiveError> {
    let head = log.head();
    let origin = store.origin(&log.identity);
    let genesis = VerifyingKey::from_bytes(&log.identity.genesis_key).map(|key| (key.key_id(&origin), key));
    let info = LogInfo {
        identity: log.identity.clone(),
        origin,
        chained_below: 0,
        keys: RwLock::new(genesis.into_iter().collect()),
        receipts: Vec::new(),
    };
    let mut marks = vec![Mark { size: head.size, says: Says::Snapshot(Standing::of(&head)) }];
    // A checkpoint that was signed since lies beyond what is read.
    marks.extend(
        signed
            .filter(|(size, _)| *size <= head.size)
            .map(|(size, root)| Mark { size, says: Says::Slot { root } }),
    );
    // Sums for the indexes are made and compared with nothing: any secret will do.
    let checker = Checker { secret: Secret::new([0; 4]), signatures: true, tail: Tail::default() };
    let mut live = Live {
        worker: Worker::new(&checker),
        walk: Walk::new(&info, marks, 0),
        info: &info,
        findings: Findings::default(),
        pool: Pool::default(),
        batch: Batch::default(),
    };
    if live.read(store, log, 0, &head, progress)?.is_break() {
        return Ok(None);
    }
    let mut upto = head;
    // A body or a disclosure can leave while this reads, and its certificate then stands behind what was to be read. It was
    // durable before anything left, so it is below the size of now: one look behind is enough, however fast the log grows.
    // What is absent behind is for the next verification, for its certificate may be behind that size.
    if live.walk.has_uncovered() {
        live.walk.keeps_absences_below(upto.size);
        let now = log.head();
        if live.read(store, log, upto.size, &now, progress)?.is_break() {
            return Ok(None);
        }
        upto = now;
    }
    live.finish(upto.size, upto.key).map(Some)
}

/// The state of one run.
struct Live<'a> {
    worker: Worker<'a>,
    walk: Walk,
    info: &'a LogInfo,
    findings: Findings,
    pool: Pool,
    batch: Batch,
}

impl Live<'_> {
    /// Reads and checks the part of the log from index `from` up to `head`.
    fn read(
        &mut self,
        store: &Store,
        log: &Log,
        from: u64,
        head: &Head,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let mut told = ControlFlow::Continue(());
        let mut standing: Option<(LayerId, u64)> = None;
        store.range(log, from, head.size, &mut |record| {
            // Where the layers begin and end is in the head: a month may have several.
            let layer = match standing {
                Some((layer, end)) if record.index < end => layer,
                _ => {
                    // Where no layer is named the walk ends short of the head, which is a finding.
                    let Some((layer, _, end)) = head.layer_of(record.index) else { return false };
                    standing = Some((layer, end.unwrap_or(u64::MAX)));
                    layer
                }
            };
            if self.batch.ends_before(layer, &record.previous) {
                let checked = self.check();
                told = progress(checked);
                if told.is_break() {
                    return false;
                }
            }
            self.batch.push(layer, record.index, (record.previous, record.link), &record.record);
            true
        })?;
        if told.is_break() {
            return Ok(told);
        }
        let last = self.check();
        Ok(progress(last))
    }

    /// Checks the batch and begins the next; how many records it had.
    fn check(&mut self) -> u64 {
        let batch = std::mem::take(&mut self.batch);
        let Some(layer) = batch.layer else { return 0 };
        if self.walk.layers.last().is_some_and(|(entered, _)| *entered != layer) {
            self.walk.leave();
        }
        let checked = self.worker.records(self.info, batch.first_index, batch.previous, &batch.records);
        let (walk, mut context) = self.parts();
        walk.take(&mut context, layer, checked);
        batch.records.len() as u64
    }

    fn parts(&mut self) -> (&mut Walk, Context<'_>) {
        let Live { walk, info, findings, pool, .. } = self;
        (walk, Context { info, checkpoints: &[], findings, pool })
    }

    fn finish(mut self, size: u64, key: [u8; 32]) -> Result<LiveReport, LiveError> {
        let (walk, mut context) = self.parts();
        walk.finish(&mut context, size, Some(key));
        if let Some(error) = self.pool.take_error() {
            return Err(LiveError::Scratch(error));
        }
        let (findings, finding_count, _) = self.findings.finish();
        let valid = finding_count == 0;
        let claim = if valid { Claim::SelfSigned } else { Claim::None };
        let (entries, bodies_expired) = (self.walk.next, self.walk.bodies_expired());
        let disclosures_erased = self.walk.disclosures_erased();
        Ok(LiveReport { valid, claim, entries, bodies_expired, disclosures_erased, findings, finding_count })
    }
}

/// Consecutive records of one layer, each of which names the link of the one before.
#[derive(Default)]
struct Batch {
    layer: Option<LayerId>,
    first_index: u64,
    previous: Hash,
    link: Hash,
    records: Vec<Record>,
}

impl Batch {
    /// Whether a record cannot stand in this batch. Where pages contradict each other the walk sees it: it holds the
    /// first link of each batch against the last of the one before.
    fn ends_before(&self, next: LayerId, previous: &Hash) -> bool {
        let Some(layer) = self.layer else { return false };
        self.records.len() >= BATCH_RECORDS || next != layer || *previous != self.link
    }

    fn push(&mut self, layer: LayerId, index: u64, (previous, link): (Hash, Hash), record: &Record) {
        if self.records.is_empty() {
            (self.first_index, self.previous, self.layer) = (index, previous, Some(layer));
        }
        self.link = link;
        self.records.push(record.clone());
    }
}
