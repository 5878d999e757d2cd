//! The layers of a store: which there are, and those that are open.
//!
//! Layers open on demand and the least recently used one closes when more than the budget are open; the
//! newest, which is written, always stays. A closed layer costs nothing but its line in MANIFEST.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::backend::{Backend, KvError};
use super::layer::Layer;
use super::layer_id::LayerId;
use super::manifest::{Manifest, ManifestError};

/// Most layers open at once: twelve months, the one before, and one being made.
pub const MAX_OPEN_LAYERS: usize = 14;

/// Page cache of a layer that is only read.
const READ_CACHE_BYTES: u64 = 1 << 20;

/// Page cache of the layer that is written.
const WRITE_CACHE_BYTES: u64 = 8 << 20;

/// A layer that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store below.
    #[error("layer {layer}: {source}")]
    Kv {
        /// The month.
        layer: LayerId,
        /// What it said.
        source: KvError,
    },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// MANIFEST does not name it.
    #[error("layer {0} holds entries of a log but MANIFEST does not name it: the store is damaged")]
    Unknown(LayerId),
    /// The directory cannot be made or removed.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// All layers of a data directory.
pub struct Layers {
    data: PathBuf,
    backend: Arc<dyn Backend>,
    inner: Mutex<Inner>,
    clock: AtomicU64,
}

struct Inner {
    manifest: Manifest,
    open: HashMap<LayerId, (Arc<Layer>, u64)>,
}

impl Layers {
    /// The layers that `manifest` names; nothing is opened.
    pub fn new(data: &Path, backend: Arc<dyn Backend>, manifest: Manifest) -> Layers {
        let inner = Mutex::new(Inner { manifest, open: HashMap::new() });
        Layers { data: data.to_path_buf(), backend, inner, clock: AtomicU64::new(0) }
    }

    /// Removes directories under `layers/` that the manifest does not name: what a crash left of a layer
    /// that was being made or rewritten. Nothing in them was ever needed.
    pub fn remove_leftovers(&self) -> Result<(), LayerError> {
        let root = self.data.join("layers");
        let io = |path: &Path, source| LayerError::Io { path: path.to_path_buf(), source };
        let live: Vec<PathBuf> = {
            let inner = self.inner.lock();
            inner
                .manifest
                .layers
                .iter()
                .map(|(id, generation)| Manifest::layer_dir(&self.data, *id, *generation))
                .collect()
        };
        for entry in std::fs::read_dir(&root).map_err(|source| io(&root, source))? {
            let path = entry.map_err(|source| io(&root, source))?.path();
            if !live.contains(&path) {
                std::fs::remove_dir_all(&path).map_err(|source| io(&path, source))?;
            }
        }
        Ok(())
    }

    /// The newest layer, if there is any.
    pub fn newest(&self) -> Option<LayerId> {
        self.inner.lock().manifest.layers.keys().next_back().copied()
    }

    /// All layers, oldest first.
    pub fn list(&self) -> Vec<LayerId> {
        self.inner.lock().manifest.layers.keys().copied().collect()
    }

    /// A layer, opened if need be.
    pub fn get(&self, id: LayerId) -> Result<Arc<Layer>, LayerError> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        if let Some((layer, used)) = inner.open.get_mut(&id) {
            *used = now;
            return Ok(layer.clone());
        }
        let generation = *inner.manifest.layers.get(&id).ok_or(LayerError::Unknown(id))?;
        let newest = inner.manifest.layers.keys().next_back() == Some(&id);
        let layer = self.open(id, generation, newest)?;
        self.close_idle(&mut inner);
        inner.open.insert(id, (layer.clone(), now));
        Ok(layer)
    }

    /// The layer to write `id`'s records into; made and named in MANIFEST first when it is new. A crash
    /// between the two leaves a directory that nobody names.
    pub fn get_or_create(&self, id: LayerId) -> Result<Arc<Layer>, LayerError> {
        if self.inner.lock().manifest.layers.contains_key(&id) {
            return self.get(id);
        }
        let layer = self.open(id, 1, true)?;
        layer.kv().sync().map_err(|source| LayerError::Kv { layer: id, source })?;
        let root = self.data.join("layers");
        std::fs::File::open(&root)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| LayerError::Io { path: root.clone(), source })?;
        let mut inner = self.inner.lock();
        let mut manifest = inner.manifest.clone();
        manifest.layers.insert(id, 1);
        manifest.write(&self.data)?;
        inner.manifest = manifest;
        self.close_idle(&mut inner);
        inner.open.insert(id, (layer.clone(), self.clock.fetch_add(1, Ordering::Relaxed)));
        Ok(layer)
    }

    /// Closes every layer that no reader holds.
    pub fn close(&self) {
        self.inner.lock().open.clear();
    }

    /// Bytes that the open layers take on disk, and the directories of all.
    pub fn dirs(&self) -> Vec<(LayerId, PathBuf)> {
        let inner = self.inner.lock();
        inner
            .manifest
            .layers
            .iter()
            .map(|(id, generation)| (*id, Manifest::layer_dir(&self.data, *id, *generation)))
            .collect()
    }

    fn open(&self, id: LayerId, generation: u32, written: bool) -> Result<Arc<Layer>, LayerError> {
        let dir = Manifest::layer_dir(&self.data, id, generation);
        let cache_bytes = if written { WRITE_CACHE_BYTES } else { READ_CACHE_BYTES };
        let kv =
            self.backend.open(&dir, cache_bytes).map_err(|source| LayerError::Kv { layer: id, source })?;
        Ok(Arc::new(Layer::new(id, kv)))
    }

    /// Makes room for one more. A layer that a reader still holds closes when the reader lets go.
    fn close_idle(&self, inner: &mut Inner) {
        while inner.open.len() >= MAX_OPEN_LAYERS {
            let newest = inner.manifest.layers.keys().next_back().copied();
            let idle =
                inner.open.iter().filter(|(id, _)| Some(**id) != newest).min_by_key(|(_, (_, used))| *used);
            match idle.map(|(id, _)| *id) {
                Some(id) => inner.open.remove(&id),
                None => break,
            };
        }
    }
}
