//! Reading records: the memory tail first, the layers second.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::idtable::{IdTable, IdTableError};
use super::layer::StoredPage;
use super::layers::{LayerError, Layers};
use super::log::{IndexKeys, Log, Sequenced};
use super::page::{self, PageError, PageHeader};
use super::poison::Poison;
use super::recent::Recent;
use super::state::{ApiKey, ErasurePhase, LogIdentity};
use crate::event::catalog::Class;
use crate::event::{Field, terms, token};
use crate::store::backend::KvError;
use crate::store::layer_id::LayerId;
use crate::tlog::chain;
use crate::tlog::hash::Hash;

/// The open store as readers see it.
pub struct Store {
    /// Where it is.
    pub data: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Key of cursors' authenticity.
    pub cursor_key: [u8; 32],
    /// The layers.
    pub layers: Layers,
    /// Event ids and request ids, durable.
    pub ids: IdTable,
    /// Event ids and request ids that `ids` does not have yet.
    pub recent: Recent,
    /// Set once, when nothing may be acknowledged any more.
    pub poison: Poison,
    registry: RwLock<Registry>,
}

#[derive(Default)]
struct Registry {
    logs: BTreeMap<u32, Arc<Log>>,
    by_tenant: HashMap<String, u32>,
    api_keys: BTreeMap<String, ApiKey>,
    erasures: BTreeMap<(u32, u64), ErasurePhase>,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A layer cannot be had.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The id table.
    #[error(transparent)]
    Ids(#[from] IdTableError),
    /// The store below.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A record that was acknowledged is not where it must be, or not what it was.
    #[error("log {tenant}, index {index}: {what}; run `varve verify` on a copy of the data directory")]
    Damage {
        /// The tenant.
        tenant: String,
        /// The first index concerned.
        index: u64,
        /// What was found.
        what: String,
    },
}

impl Store {
    /// A store over opened parts.
    pub fn new(
        data: &Path,
        instance: String,
        cursor_key: [u8; 32],
        layers: Layers,
        ids: IdTable,
        poison: Poison,
    ) -> Store {
        Store {
            data: data.to_path_buf(),
            instance,
            cursor_key,
            layers,
            ids,
            recent: Recent::default(),
            poison,
            registry: RwLock::default(),
        }
    }

    /// Makes a log known. Nothing is published in it yet.
    pub fn add_log(&self, log: Arc<Log>) {
        let mut registry = self.registry.write();
        registry.by_tenant.insert(log.identity.tenant.clone(), log.identity.number);
        registry.logs.insert(log.identity.number, log);
    }

    /// The log with that number.
    pub fn log(&self, number: u32) -> Option<Arc<Log>> {
        self.registry.read().logs.get(&number).cloned()
    }

    /// The log of that tenant.
    pub fn log_of(&self, tenant: &str) -> Option<Arc<Log>> {
        let registry = self.registry.read();
        registry.by_tenant.get(tenant).and_then(|number| registry.logs.get(number)).cloned()
    }

    /// All logs, by number.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.registry.read().logs.values().cloned().collect()
    }

    /// Number of logs.
    pub fn log_count(&self) -> usize {
        self.registry.read().logs.len()
    }

    /// Adds or replaces an API key.
    pub fn put_api_key(&self, key: ApiKey) {
        self.registry.write().api_keys.insert(key.id.clone(), key);
    }

    /// The API key with that public id.
    pub fn api_key(&self, id: &str) -> Option<ApiKey> {
        self.registry.read().api_keys.get(id).cloned()
    }

    /// All API keys.
    pub fn api_keys(&self) -> Vec<ApiKey> {
        self.registry.read().api_keys.values().cloned().collect()
    }

    /// Says how far an erasure is.
    pub fn put_erasure(&self, log: u32, index: u64, phase: ErasurePhase) {
        let erasures = &mut self.registry.write().erasures;
        match phase {
            ErasurePhase::Done => drop(erasures.remove(&(log, index))),
            _ => drop(erasures.insert((log, index), phase)),
        }
    }

    /// Erasures that are not done, by log and index of the entry that asked.
    pub fn erasures(&self) -> BTreeMap<(u32, u64), ErasurePhase> {
        self.registry.read().erasures.clone()
    }

    /// `<instance>/<tenant>` of a log.
    pub fn origin(&self, identity: &LogIdentity) -> String {
        origin_of(&self.instance, identity)
    }

    /// The record at `index`. `None` when the log is shorter.
    pub fn record(&self, log: &Log, index: u64) -> Result<Option<Arc<Sequenced>>, ReadError> {
        let mut found = None;
        self.range(log, index, index + 1, &mut |record| {
            found = Some(record.clone());
            true
        })?;
        Ok(found)
    }

    /// Visits the records of `[from, to)` that are published, in order, until `visit` answers false.
    pub fn range(
        &self,
        log: &Log,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(&Arc<Sequenced>) -> bool,
    ) -> Result<(), ReadError> {
        let head = log.head();
        let to = to.min(head.size);
        // The tail first: what it no longer has by the time it is asked, the layers have.
        let tail = log.tail(from, to);
        let tail_from = tail.first().map_or(to, |record| record.index);
        let mut index = from;
        while index < tail_from {
            let (layer, ..) =
                head.layer_of(index).ok_or_else(|| damage(log, index, "no layer is known to hold it"))?;
            for record in self.page(log, layer, index)? {
                if record.index >= index && record.index < tail_from {
                    index = record.index + 1;
                    if !visit(&record) {
                        return Ok(());
                    }
                }
            }
        }
        for record in tail {
            if !visit(&record) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The records of the page that holds `index`. Errors when no page does.
    pub fn page(&self, log: &Log, layer: LayerId, index: u64) -> Result<Vec<Arc<Sequenced>>, ReadError> {
        let stored = self.layers.get(layer)?.page_at(log.identity.number, index)?;
        let stored = stored.ok_or_else(|| damage(log, index, "its page is missing"))?;
        let records = chain_page(&log.identity, stored.first_index, &stored.bytes)
            .map_err(|error| damage(log, stored.first_index, &error.to_string()))?;
        if index >= stored.first_index + records.len() as u64 {
            return Err(damage(log, index, "its page is missing"));
        }
        Ok(records)
    }

    /// The page that holds `index`, still packed, with what it says of itself. Its checksum holds. Errors when
    /// no page holds it.
    pub fn packed_page(&self, log: &Log, layer: LayerId, index: u64) -> Result<PackedPage, ReadError> {
        let layer = self.layers.get(layer)?;
        let read = || layer.page_at(log.identity.number, index);
        let is_sound = |page: &StoredPage| page::checked_header(&page.bytes).is_ok();
        // A page of several pieces may be replaced between two of them: what does not fit is read once more.
        let stored = match read()?.filter(is_sound) {
            Some(stored) => stored,
            None => read()?.ok_or_else(|| damage(log, index, "its page is missing"))?,
        };
        let header = page::checked_header(&stored.bytes)
            .map_err(|error| damage(log, stored.first_index, &error.to_string()))?;
        let end = stored.first_index + u64::from(header.count);
        if index >= end {
            return Err(damage(log, index, "its page is missing"));
        }
        Ok(PackedPage { first: stored.first_index, end, header, bytes: stored.bytes })
    }

    /// Some records of a page: those at `indexes`, which ascend and lie in the page. Costs little for the
    /// records before and between them and nothing for those behind.
    pub fn records_of(
        &self,
        log: &Log,
        page: &PackedPage,
        indexes: &[u64],
    ) -> Result<Vec<Arc<Sequenced>>, ReadError> {
        let wanted: Vec<u16> = indexes
            .iter()
            .map(|index| u16::try_from(index - page.first).expect("a page has at most 64 records"))
            .collect();
        let unpacked = page::decode_some(&page.bytes, &wanted)
            .map_err(|error| damage(log, page.first, &error.to_string()))?;
        let mut previous = unpacked.previous;
        let mut records = Vec::with_capacity(indexes.len());
        let mut indexes = indexes.iter().peekable();
        for (index, record) in (page.first..).zip(unpacked.records) {
            let entry = record.entry(log.identity.log_id, index, previous);
            let link = chain::link(&entry);
            if indexes.next_if_eq(&&index).is_some() {
                let leaf_hash = chain::leaf_hash(&entry);
                records.push(Arc::new(Sequenced {
                    index,
                    previous,
                    link,
                    leaf_hash,
                    record,
                    keys: IndexKeys::default(),
                }));
            }
            previous = link;
        }
        Ok(records)
    }
}

/// A page as it is stored.
pub struct PackedPage {
    /// Index of its first record.
    pub first: u64,
    /// Index after its last record.
    pub end: u64,
    /// What it says of itself.
    pub header: PageHeader,
    bytes: Vec<u8>,
}

/// `<instance>/<tenant>`, with the part that a log begun anew has.
pub fn origin_of(instance: &str, identity: &LogIdentity) -> String {
    let tenant = &identity.tenant;
    if identity.origin.is_empty() {
        format!("{instance}/{tenant}")
    } else {
        format!("{instance}/{tenant}/{}", identity.origin)
    }
}

/// Decodes a page and computes entries, links and leaf hashes of its records.
pub fn chain_page(
    identity: &LogIdentity,
    first_index: u64,
    bytes: &[u8],
) -> Result<Vec<Arc<Sequenced>>, PageError> {
    let page = page::decode(bytes)?;
    let mut previous = page.previous;
    Ok((first_index..)
        .zip(page.records)
        .map(|(index, record)| {
            let entry = record.entry(identity.log_id, index, previous);
            let link = chain::link(&entry);
            let leaf_hash = chain::leaf_hash(&entry);
            let sequenced =
                Sequenced { index, previous, link, leaf_hash, record, keys: IndexKeys::default() };
            previous = link;
            Arc::new(sequenced)
        })
        .collect())
}

/// What the indexes need of a record that was read back. Of an absent or unreadable body the class is left,
/// which the entry holds, where its code has a name that is the same in every log.
pub fn index_keys(index_key: &[u8; 32], record: &super::record::Record) -> IndexKeys {
    if let Some(Ok(body)) = record.body() {
        return body_keys(index_key, &body);
    }
    let class = Class::from_code(record.class);
    let terms = class.map(|class| short_token(&token(index_key, Field::Class, class.name().as_bytes())));
    IndexKeys { terms: terms.into_iter().collect(), ..IndexKeys::default() }
}

/// The same from a body at hand.
pub fn body_keys(index_key: &[u8; 32], body: &crate::event::Body) -> IndexKeys {
    let mut keys = IndexKeys { occurred_at: body.occurred_at().map(|at| at.0), ..IndexKeys::default() };
    let mut tokens = Vec::with_capacity(12);
    terms(&body.view(), &mut |field, value| {
        let token = token(index_key, field, value);
        match field {
            Field::Id => keys.id = token,
            Field::RequestId => keys.request_id = Some(token),
            _ => tokens.push(short_token(&token)),
        }
    });
    keys.terms = tokens.into_boxed_slice();
    keys
}

/// The part of a token that postings keep.
pub fn short_token(token: &[u8; 16]) -> u64 {
    let (first, _) = token.split_first_chunk::<8>().expect("a token has 16 bytes");
    u64::from_be_bytes(*first)
}

/// A finding about a log.
pub fn damage(log: &Log, index: u64, what: &str) -> ReadError {
    ReadError::Damage { tenant: log.identity.tenant.clone(), index, what: what.to_owned() }
}

/// Hash of a leaf of the map of logs (FORMAT §5).
pub fn map_leaf(tenant: &str, log_id: &Hash, size: u64, root: &Hash) -> Hash {
    use sha2::Digest as _;
    let len = u16::try_from(tenant.len()).expect("a tenant name has at most 63 bytes");
    let mut hasher = sha2::Sha256::new();
    hasher.update(b"\0varve v1 log map\n");
    hasher.update(len.to_be_bytes());
    hasher.update(tenant.as_bytes());
    hasher.update(log_id.as_bytes());
    hasher.update(size.to_be_bytes());
    hasher.update(root.as_bytes());
    Hash(hasher.finalize().into())
}
