//! Reading: records, queries, proofs, checkpoints.

#![expect(clippy::disallowed_methods, reason = "the deadline of a query")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::internal;
use super::checkpoints::Signed;
use super::view::{QueryPage, RecordView, base64url, record_view};
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::Body;
use crate::query::{self, Order, QueryError, QueryText, Request};
use crate::store::layer::TILE_LEVEL;
use crate::store::log::{Log, Sequenced};
use crate::store::read::{ReadError, Store, origin_of};
use crate::store::state::Head;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::hash::Hash;
use crate::tlog::merkle::{self, Nodes, node_hash};
use crate::tlog::note::Note;
use crate::tlog::proof::EntryProof;
use crate::tlog::tile::{BUNDLE_ENTRY_BYTES, TileKind, TilePath, hash_tile, push_bundle_entry};

/// How long one query may work, unless said otherwise.
pub(super) const QUERY_TIME: Duration = Duration::from_secs(10);

/// The newest checkpoint note of a log.
#[derive(Clone)]
pub(super) struct CachedNote {
    size: u64,
    note: Note,
}

/// How long one page of a search may take while a hold is resolved; it goes on with the next.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// How often in a row a page may find nothing in that time: a layer that is opened after a kill takes minutes.
const MAX_LATE_PAGES: u32 = 60;

impl Service {
    /// One record.
    pub fn record(
        &self,
        by: &Principal,
        tenant: &str,
        index: u64,
        verifiable: bool,
    ) -> Result<RecordView, Error> {
        let log = self.log_for(by, tenant, Scope::Read)?;
        let record = self.0.store.record(&log, index).map_err(|error| internal(&error))?;
        let record = record.ok_or_else(|| no_index(index, log.size()))?;
        record_view(&log, &record, verifiable).ok_or_else(|| unreadable(index))
    }

    /// A page of records.
    pub fn query(&self, by: &Principal, tenant: &str, text: &QueryText) -> Result<QueryPage, Error> {
        let log = self.log_for(by, tenant, Scope::Read)?;
        let request = Request::parse(text, Instant::now() + self.0.query_time)
            .map_err(|error| Error::new(ErrorCode::BadRequest, error.to_string()).at(error.member))?;
        let answer = query::run(&self.0.store, &log, &request).map_err(|error| match error {
            QueryError::BadCursor(bad) => Error::new(ErrorCode::BadRequest, bad.to_string()).at("cursor"),
            QueryError::TimedOut { .. } => Error::new(ErrorCode::QueryTimeout, error.to_string()),
            QueryError::Read(error) => internal(&error),
        })?;
        let verifiable = text.verifiable;
        let records = answer
            .records
            .iter()
            .map(|record| record_view(&log, record, verifiable).ok_or_else(|| unreadable(record.index)))
            .collect::<Result<_, _>>()?;
        let note = self.checkpoint_note(&log)?;
        Ok(QueryPage {
            records,
            next: answer.next,
            log_size: answer.size,
            log_link: (answer.size > 0).then(|| base64url(answer.link.as_bytes())),
            checkpoint: note.note.as_str().to_owned(),
        })
    }

    /// A C2SP tlog-proof of one entry against the newest checkpoint.
    pub fn proof(&self, by: &Principal, tenant: &str, index: u64) -> Result<String, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        let cached = self.checkpoint_note(&log)?;
        let record = self.0.store.record(&log, index).map_err(|error| internal(&error))?;
        let record = record.filter(|_| index < cached.size).ok_or_else(|| no_index(index, cached.size))?;
        let nodes = self.nodes(&log)?;
        let path = merkle::inclusion_proof(index, cached.size, &nodes).map_err(|error| internal(&error))?;
        let entry = record.entry(log.identity.log_id);
        let proof =
            EntryProof { entry, signature: record.record.signature, index, path, checkpoint: cached.note };
        Ok(proof.to_text())
    }

    /// The newest checkpoint, a C2SP signed note.
    pub fn checkpoint(&self, by: &Principal, tenant: &str) -> Result<String, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        Ok(self.checkpoint_note(&log)?.note.as_str().to_owned())
    }

    /// Consistency of the trees of sizes `from` and `to`: hashes, base64url.
    pub fn consistency(
        &self,
        by: &Principal,
        tenant: &str,
        from: u64,
        to: u64,
    ) -> Result<Vec<String>, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        let size = log.size();
        if from == 0 || from > to || to > size {
            let detail = format!("`from` and `to` are tree sizes with 1 <= from <= to <= {size}");
            return Err(Error::new(ErrorCode::BadRequest, detail).at("from"));
        }
        let nodes = self.nodes(&log)?;
        let proof = merkle::consistency_proof(from, to, &nodes).map_err(|error| internal(&error))?;
        Ok(proof.iter().map(|hash| base64url(hash.as_bytes())).collect())
    }

    /// A tile of hashes or a bundle of entries (C2SP tlog-tiles) of the published tree.
    pub fn tile(&self, by: &Principal, tenant: &str, tile: &TilePath) -> Result<Vec<u8>, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        let size = log.size();
        if !tile.is_within(size) {
            let detail = format!("the log has {size} entries; there is no such tile");
            return Err(Error::new(ErrorCode::NotFound, detail));
        }
        if let TileKind::Hashes { level: 1.. } = tile.kind() {
            return hash_tile(tile, &self.nodes(&log)?).map_err(|error| internal(&error));
        }
        let is_bundle = tile.kind() == TileKind::Entries;
        let mut bytes = Vec::with_capacity(usize::from(tile.width()) * BUNDLE_ENTRY_BYTES);
        let upto = tile.first() + u64::from(tile.width());
        let read = self.0.store.range(&log, tile.first(), upto, &mut |record| {
            if is_bundle {
                push_bundle_entry(&mut bytes, &record.entry(log.identity.log_id));
            } else {
                bytes.extend_from_slice(record.leaf_hash.as_bytes());
            }
            true
        });
        read.map_err(|error| internal(&error))?;
        Ok(bytes)
    }

    /// The checkpoint of the published tree, signed once for each size and remembered durably before that.
    fn checkpoint_note(&self, log: &Arc<Log>) -> Result<CachedNote, Error> {
        let number = log.identity.number;
        // One checkpoint at a time: the sizes signed only grow.
        let mut notes = self.0.notes.lock();
        let head = log.head();
        if let Some(cached) = notes.get(&number)
            && cached.size == head.size
        {
            return Ok(cached.clone());
        }
        let origin = origin_of(&self.0.store.instance, &log.identity);
        let signer = self.0.signers.read().get(&head.key).cloned();
        let signer =
            signer.ok_or_else(|| Error::new(ErrorCode::Internal, "the log's signing key is not at hand"))?;
        let signer = self.checkpoint_signer(log, &head, signer)?;
        let root = head.frontier.root();
        self.0.signed.advance(number, Signed { size: head.size, root }).map_err(|error| internal(&error))?;
        let checkpoint = Checkpoint { origin: origin.clone(), size: head.size, root };
        let note = checkpoint.sign(signer.as_ref(), &origin).map_err(|error| internal(&error))?;
        let cached = CachedNote { size: head.size, note };
        notes.insert(number, cached.clone());
        Ok(cached)
    }

    /// The key current at entry size − 1 signs: right after a rotation that is the old one.
    fn checkpoint_signer(
        &self,
        log: &Arc<Log>,
        head: &Head,
        current: Arc<crate::store::keyfile::LogSigner>,
    ) -> Result<Arc<crate::store::keyfile::LogSigner>, Error> {
        use crate::tlog::key::Signer as _;
        let Some(last) = head.size.checked_sub(1) else { return Ok(current) };
        let origin = origin_of(&self.0.store.instance, &log.identity);
        let newest = self.0.store.record(log, last).map_err(|error| internal(&error))?;
        let Some(newest) = newest else { return Ok(current) };
        if newest.record.key_id == current.verifying_key().key_id(&origin) {
            return Ok(current);
        }
        let signers = self.0.signers.read();
        let old = signers.values().find(|signer| {
            signer.origin() == origin && signer.verifying_key().key_id(&origin) == newest.record.key_id
        });
        old.cloned().ok_or_else(|| {
            Error::new(ErrorCode::Internal, "the key that signed the newest entry is not at hand")
        })
    }

    fn nodes<'a>(&'a self, log: &'a Arc<Log>) -> Result<LogNodes<'a>, Error> {
        LogNodes::load(&self.0.store, log).map_err(|error| internal(&error))
    }
}

fn no_index(index: u64, size: u64) -> Error {
    Error::new(ErrorCode::NotFound, format!("the log has {size} entries; there is none at index {index}"))
}

fn unreadable(index: u64) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("the body of the record at index {index} does not open; run `varve verify` on a copy"),
    )
}

/// The tree of a log: stored roots of 256 leaves, everything below from the records, everything above from the
/// roots.
struct LogNodes<'a> {
    store: &'a Store,
    log: &'a Log,
    tiles: HashMap<u64, Hash>,
}

impl<'a> LogNodes<'a> {
    fn load(store: &'a Store, log: &'a Log) -> Result<LogNodes<'a>, ReadError> {
        let mut tiles = HashMap::new();
        // A month that has just begun has no layer until its first page is written.
        let stored = log.stored();
        for (layer, _) in log.head().layers.into_iter().filter(|(_, first)| *first < stored) {
            store.layers.get(layer)?.tiles(log.identity.number, &mut |tile, root| {
                tiles.insert(tile, root);
            })?;
        }
        Ok(LogNodes { store, log, tiles })
    }

    /// The root over `[first, first + 2^level)` from the records.
    fn root_of_leaves(&self, level: u8, first: u64) -> Result<Hash, ReadError> {
        let mut hashes = Vec::with_capacity(1 << level);
        self.store.range(self.log, first, first + (1 << level), &mut |record| {
            hashes.push(record.leaf_hash);
            true
        })?;
        while hashes.len() > 1 {
            hashes = hashes.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
        }
        hashes
            .pop()
            .ok_or_else(|| crate::store::read::damage(self.log, first, "a leaf of the tree is missing"))
    }
}

impl Nodes for LogNodes<'_> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        if level < TILE_LEVEL {
            return self.root_of_leaves(level, index << level);
        }
        if level == TILE_LEVEL {
            return match self.tiles.get(&index) {
                Some(root) => Ok(*root),
                None => self.root_of_leaves(level, index << level),
            };
        }
        Ok(node_hash(&self.node(level - 1, index * 2)?, &self.node(level - 1, index * 2 + 1)?))
    }
}

/// Visits what a filter finds below `end`, oldest first.
pub(super) fn each_match(
    store: &Store,
    log: &Log,
    end: u64,
    text: &QueryText,
    visit: &mut dyn FnMut(&Arc<Sequenced>) -> Result<(), Error>,
) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "a page of a search ends by time and goes on")]
    let deadline = || Instant::now() + PAGE_TIME;
    let mut request = Request::parse(text, deadline()).map_err(|error| internal(&error))?;
    (request.order, request.limit) = (Order::Asc, query::MAX_LIMIT);
    let mut late = 0;
    loop {
        let answer = match query::run(store, log, &request) {
            Err(QueryError::TimedOut { .. }) if late < MAX_LATE_PAGES => {
                late += 1;
                request.deadline = deadline();
                continue;
            }
            answer => answer.map_err(|error| internal(&error))?,
        };
        late = 0;
        for record in answer.records.iter().take_while(|record| record.index < end) {
            visit(record)?;
        }
        let Some(next) = answer.next.filter(|_| answer.records.last().is_none_or(|last| last.index < end))
        else {
            return Ok(());
        };
        request.cursor = Some(query::Cursor::parse(&next).map_err(|error| internal(&error))?);
        request.deadline = deadline();
    }
}

/// A sealed value of a body.
pub(super) fn disclosed(body: &Body, path: &str) -> Option<serde_json::Value> {
    let disclosure = body.disclosures.iter().find(|disclosure| disclosure.path == path)?;
    serde_json::from_slice(&disclosure.value).ok()
}
