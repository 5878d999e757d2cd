//! The layers of a store: which there are, and those that are open.
//!
//! Layers open on demand, each behind a lock of its own, so that who waits for one layer's recovery keeps
//! nobody from another. When more than the budget are open, the least recently used one that no reader holds
//! closes; the newest, which is written, always stays. A closed layer costs nothing but its line in MANIFEST.

#![expect(
    clippy::disallowed_methods,
    reason = "the wait for readers has an end; nothing stored depends on it"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

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

/// How long [`Layers::renew`] waits for readers: they hold a layer for a page, milliseconds.
const READERS_LIMIT: Duration = Duration::from_secs(5);

/// How long it sleeps between two looks.
const READERS_POLL: Duration = Duration::from_millis(2);

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
    /// Its directory holds no store.
    #[error("{path}: layer {layer}, which MANIFEST names, is gone; nothing was made in its place")]
    Missing {
        /// The month.
        layer: LayerId,
        /// Where it was.
        path: PathBuf,
    },
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
    /// Generations that nobody is to read any more, with who may still do so.
    leaving: Mutex<Vec<Leaving>>,
    /// They are removed by one at a time.
    sweeping: Mutex<()>,
}

struct Inner {
    manifest: Manifest,
    slots: HashMap<LayerId, Arc<Slot>>,
}

/// A generation that nobody gets any more.
struct Leaving {
    dir: PathBuf,
    /// Open until its readers have let go.
    layer: Option<Arc<Layer>>,
    /// Whether it was said that it cannot be removed.
    is_said: bool,
}

/// The place of one layer that was opened once. Locked while it opens and closes. `Inner` may be locked under
/// a slot, never a slot under `Inner`; two slots are held together by `try_lock` alone.
#[derive(Default)]
struct Slot {
    layer: Mutex<Option<Arc<Layer>>>,
    used: AtomicU64,
}

impl Slot {
    /// Whether the layer is open, as far as can be told without waiting: a busy slot counts.
    fn is_open(&self) -> bool {
        self.layer.try_lock().is_none_or(|layer| layer.is_some())
    }
}

impl Layers {
    /// The layers that `manifest` names; nothing is opened.
    pub fn new(data: &Path, backend: Arc<dyn Backend>, manifest: Manifest) -> Layers {
        let inner = Mutex::new(Inner { manifest, slots: HashMap::new() });
        let (clock, leaving, sweeping) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Layers { data: data.to_path_buf(), backend, inner, clock, leaving, sweeping }
    }

    /// Removes directories under `layers/` that the manifest does not name: what a crash left of a layer
    /// that was being made or rewritten. Nothing in them was ever needed.
    pub fn remove_leftovers(&self) -> Result<(), LayerError> {
        let root = self.data.join("layers");
        let io = |path: &Path, source| LayerError::Io { path: path.to_path_buf(), source };
        let live: Vec<PathBuf> = self.dirs().into_iter().map(|(_, dir)| dir).collect();
        for entry in std::fs::read_dir(&root).map_err(|source| io(&root, source))? {
            let path = entry.map_err(|source| io(&root, source))?.path();
            // A file is nobody's generation: whoever put it there takes it away.
            if !live.contains(&path) && path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(|source| io(&path, source))?;
            }
        }
        Ok(())
    }

    /// Errors when a layer that the manifest names is not there.
    pub fn demand_all(&self) -> Result<(), LayerError> {
        match self.dirs().into_iter().find(|(_, dir)| !self.backend.exists(dir)) {
            Some((layer, path)) => Err(LayerError::Missing { layer, path }),
            None => Ok(()),
        }
    }

    /// The newest layer, if there is any.
    pub fn newest(&self) -> Option<LayerId> {
        self.inner.lock().manifest.layers.keys().next_back().copied()
    }

    /// All layers, oldest first.
    pub fn list(&self) -> Vec<LayerId> {
        self.inner.lock().manifest.layers.keys().copied().collect()
    }

    /// How many are open, or being opened or closed.
    pub fn open_count(&self) -> usize {
        let slots: Vec<Arc<Slot>> = self.inner.lock().slots.values().cloned().collect();
        slots.iter().filter(|slot| slot.is_open()).count()
    }

    /// A layer, opened if need be.
    pub fn get(&self, id: LayerId) -> Result<Arc<Layer>, LayerError> {
        let slot = self.slot(id)?;
        let mut held = slot.layer.lock();
        if let Some(layer) = &*held {
            return Ok(layer.clone());
        }
        self.close_idle();
        let (generation, is_newest) = self.generation(id)?;
        let layer = self.open(id, generation, is_newest)?;
        *held = Some(layer.clone());
        Ok(layer)
    }

    /// The layer to write `id`'s records into; made and named in MANIFEST first when it is new. A crash
    /// between the two leaves a directory that nobody names.
    pub fn get_or_create(&self, id: LayerId) -> Result<Arc<Layer>, LayerError> {
        if self.inner.lock().manifest.layers.contains_key(&id) {
            return self.get(id);
        }
        let dir = Manifest::layer_dir(&self.data, id, 1);
        let layer = self.open_dir(id, &dir, true)?;
        layer.kv().sync().map_err(|source| LayerError::Kv { layer: id, source })?;
        let root = self.data.join("layers");
        std::fs::File::open(&root)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| LayerError::Io { path: root.clone(), source })?;
        {
            let mut inner = self.inner.lock();
            let mut manifest = inner.manifest.clone();
            manifest.layers.insert(id, 1);
            manifest.write(&self.data)?;
            inner.manifest = manifest;
            let slot = Slot { layer: Mutex::new(Some(layer.clone())), used: AtomicU64::new(self.tick()) };
            inner.slots.insert(id, Arc::new(slot));
        }
        self.close_idle();
        Ok(layer)
    }

    /// Closes a layer that is not written any more and opens it as one that is only read. It gives up a
    /// writer's cache, and sled leaves a snapshot behind: without one, the first open after a kill reads the
    /// whole layer. Answers whether it was done: not while a reader keeps holding it.
    ///
    /// # Errors
    /// The layer does not open; the next who wants it tries again.
    pub fn renew(&self, id: LayerId) -> Result<bool, LayerError> {
        let slot = self.slot(id)?;
        let mut held = slot.layer.lock();
        let start = Instant::now();
        // Whoever wants it anew waits for the slot, so that the count only falls.
        while held.as_ref().is_some_and(|layer| Arc::strong_count(layer) > 1) {
            if start.elapsed() > READERS_LIMIT {
                return Ok(false);
            }
            std::thread::sleep(READERS_POLL);
        }
        drop(held.take());
        let (generation, _) = self.generation(id)?;
        *held = Some(self.open(id, generation, false)?);
        Ok(true)
    }

    /// Makes an empty layer beside `id`, for its next generation. Nobody reads it, and MANIFEST does not name it: a crash
    /// leaves a directory that the next open removes. Its number is above that of any directory there is, so that
    /// nothing is removed here: which generation MANIFEST on disk names is not known for sure after a failed write.
    pub fn begin_next(&self, id: LayerId) -> Result<(u32, PathBuf, Layer), LayerError> {
        let mut next = self.generation(id)?.0 + 1;
        while Manifest::layer_dir(&self.data, id, next).exists() {
            next += 1;
        }
        let dir = Manifest::layer_dir(&self.data, id, next);
        let kv = self.backend.open(&dir, WRITE_CACHE_BYTES);
        let kv = kv.map_err(|source| LayerError::Kv { layer: id, source })?;
        Ok((next, dir, Layer::new(id, kv)))
    }

    /// Removes a generation that [`Layers::begin_next`] made and that came to nothing. It must be closed. What cannot be
    /// removed is tried again by [`Layers::sweep`].
    pub fn give_up(&self, id: LayerId, dir: &Path) -> Result<(), LayerError> {
        self.backend.destroy(dir).map_err(|source| {
            self.leaving.lock().push(Leaving { dir: dir.to_path_buf(), layer: None, is_said: false });
            LayerError::Kv { layer: id, source }
        })
    }

    /// Makes `generation` of a layer, which is complete, durable and closed, the one that is read. The one before goes
    /// with [`Layers::sweep`].
    ///
    /// Crash points: before MANIFEST is replaced the old generation is live and the new one a left-over; after it, the
    /// other way round. Either is removed at open.
    ///
    /// # Errors
    /// [`LayerError::Manifest`]: which generation MANIFEST names is not known; the store must stop.
    pub fn go_over(&self, id: LayerId, generation: u32) -> Result<(), LayerError> {
        let root = self.data.join("layers");
        std::fs::File::open(&root)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| LayerError::Io { path: root.clone(), source })?;
        let slot = self.slot(id)?;
        let mut held = slot.layer.lock();
        let (old, _) = self.generation(id)?;
        let mut inner = self.inner.lock();
        let mut manifest = inner.manifest.clone();
        manifest.layers.insert(id, generation);
        manifest.write(&self.data)?;
        inner.manifest = manifest;
        drop(inner);
        // From here on whoever asks gets the new one; who has the old one reads on in it.
        let dir = Manifest::layer_dir(&self.data, id, old);
        self.leaving.lock().push(Leaving { dir, layer: held.take(), is_said: false });
        Ok(())
    }

    /// Removes generations that are read no more, as far as their readers have let go. Answers how many are left. Who goes
    /// over to another one meanwhile does not wait for that.
    pub fn sweep(&self) -> usize {
        let _one = self.sweeping.lock();
        let is_read =
            |leaving: &mut Leaving| leaving.layer.as_ref().is_some_and(|layer| Arc::strong_count(layer) > 1);
        let mut free: Vec<Leaving> =
            self.leaving.lock().extract_if(.., |leaving| !is_read(leaving)).collect();
        free.retain_mut(|leaving| {
            leaving.layer = None;
            let Err(error) = self.backend.destroy(&leaving.dir) else { return false };
            if !std::mem::replace(&mut leaving.is_said, true) {
                tracing::warn!(%error, "a layer that was rewritten is still there; it is tried again");
            }
            true
        });
        let mut leaving = self.leaving.lock();
        leaving.extend(free);
        leaving.len()
    }

    /// Bytes of a layer's directory.
    pub fn disk_bytes(&self, id: LayerId) -> Result<u64, LayerError> {
        let dir = Manifest::layer_dir(&self.data, id, self.generation(id)?.0);
        bytes_below(&dir).map_err(|source| LayerError::Io { path: dir, source })
    }

    /// Whether a layer was rewritten since it was made.
    pub fn is_rewritten(&self, id: LayerId) -> bool {
        self.inner.lock().manifest.layers.get(&id).is_some_and(|generation| *generation > 1)
    }

    /// Closes every layer that no reader holds.
    pub fn close(&self) {
        let slots: Vec<Arc<Slot>> = self.inner.lock().slots.values().cloned().collect();
        slots.iter().for_each(|slot| drop(slot.layer.lock().take()));
    }

    /// All layers and their directories, oldest first.
    pub fn dirs(&self) -> Vec<(LayerId, PathBuf)> {
        let inner = self.inner.lock();
        inner
            .manifest
            .layers
            .iter()
            .map(|(id, generation)| (*id, Manifest::layer_dir(&self.data, *id, *generation)))
            .collect()
    }

    /// The slot of a layer.
    fn slot(&self, id: LayerId) -> Result<Arc<Slot>, LayerError> {
        let mut inner = self.inner.lock();
        if !inner.manifest.layers.contains_key(&id) {
            return Err(LayerError::Unknown(id));
        }
        let slot = inner.slots.entry(id).or_default().clone();
        slot.used.store(self.tick(), Ordering::Relaxed);
        Ok(slot)
    }

    /// The generation of a layer, and whether it is the newest layer. Who opens it asks under its slot's lock: it is
    /// under that lock that a layer goes over to another.
    fn generation(&self, id: LayerId) -> Result<(u32, bool), LayerError> {
        let inner = self.inner.lock();
        let generation = *inner.manifest.layers.get(&id).ok_or(LayerError::Unknown(id))?;
        Ok((generation, inner.manifest.layers.keys().next_back() == Some(&id)))
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a layer that must be there: one that is lost is never made anew, empty.
    fn open(&self, id: LayerId, generation: u32, written: bool) -> Result<Arc<Layer>, LayerError> {
        let dir = Manifest::layer_dir(&self.data, id, generation);
        if !self.backend.exists(&dir) {
            return Err(LayerError::Missing { layer: id, path: dir });
        }
        if written {
            self.backend.distrust(&dir).map_err(|source| LayerError::Kv { layer: id, source })?;
        }
        self.open_dir(id, &dir, written)
    }

    fn open_dir(&self, id: LayerId, dir: &Path, written: bool) -> Result<Arc<Layer>, LayerError> {
        let cache_bytes = if written { WRITE_CACHE_BYTES } else { READ_CACHE_BYTES };
        let kv =
            self.backend.open(dir, cache_bytes).map_err(|source| LayerError::Kv { layer: id, source })?;
        Ok(Arc::new(Layer::new(id, kv)))
    }

    /// Makes room for the one that is being opened, and for the newest. A busy slot counts as open; when readers hold all of them, the budget
    /// is exceeded by as many as they hold rather than that anyone is refused.
    fn close_idle(&self) {
        let mut slots: Vec<Arc<Slot>> = {
            let inner = self.inner.lock();
            let newest = inner.manifest.layers.keys().next_back().copied();
            inner.slots.iter().filter(|(id, _)| Some(**id) != newest).map(|(_, slot)| slot.clone()).collect()
        };
        slots.sort_by_key(|slot| slot.used.load(Ordering::Relaxed));
        let mut open = 1 + slots.iter().filter(|slot| slot.is_open()).count();
        for slot in slots {
            if open <= MAX_OPEN_LAYERS {
                return;
            }
            let idle = |held: &MutexGuard<'_, Option<Arc<Layer>>>| {
                held.as_ref().is_some_and(|layer| Arc::strong_count(layer) == 1)
            };
            // Dropped under the slot's lock: who wants it again waits for sled to let go of its file.
            if let Some(mut held) = slot.layer.try_lock().filter(idle) {
                drop(held.take());
                open -= 1;
            }
        }
    }
}

/// Bytes that the files below a directory take on disk.
fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryBackend;

    fn month(number: u16) -> LayerId {
        LayerId::of(1_700_000_000_000_000 + u64::from(number) * 31 * 86_400_000_000).unwrap()
    }

    fn layers(dir: &Path, months: u16) -> Layers {
        std::fs::create_dir_all(dir.join("layers")).unwrap();
        let layers = Layers::new(dir, Arc::new(MemoryBackend::default()), Manifest::default());
        for number in 0..months {
            layers.get_or_create(month(number)).unwrap();
        }
        layers
    }

    fn open(layers: &Layers) -> Vec<LayerId> {
        let inner = layers.inner.lock();
        let mut open: Vec<LayerId> =
            inner.slots.iter().filter(|(_, slot)| slot.layer.lock().is_some()).map(|(id, _)| *id).collect();
        open.sort();
        open
    }

    #[test]
    fn what_no_manifest_names_is_removed_and_a_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), 1);
        let (stray, left) = (dir.path().join("layers/notes.txt"), dir.path().join("layers/2020-01.g7"));
        std::fs::write(&stray, "mine").unwrap();
        std::fs::create_dir(&left).unwrap();
        layers.remove_leftovers().unwrap();
        assert!(stray.exists() && !left.exists());
    }

    #[test]
    fn the_least_recently_used_that_nobody_holds_closes() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), 20);
        assert_eq!(open(&layers), (6..20).map(month).collect::<Vec<_>>());
        assert_eq!(layers.open_count(), MAX_OPEN_LAYERS);
        let held = layers.get(month(6)).unwrap();
        layers.get(month(7)).unwrap();
        layers.get(month(0)).unwrap();
        assert!(!open(&layers).contains(&month(8)), "month 6 is held and month 7 was just used");
        layers.get(month(1)).unwrap();
        assert!(open(&layers).contains(&month(6)) && open(&layers).contains(&month(19)));
        assert_eq!(open(&layers).len(), MAX_OPEN_LAYERS);
        drop(held);
    }

    #[test]
    fn readers_that_hold_all_exceed_the_budget_and_nobody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), 20);
        let held: Vec<_> = (0..20).map(|number| layers.get(month(number)).unwrap()).collect();
        assert_eq!(open(&layers).len(), 20);
        drop(held);
        layers.get_or_create(month(20)).unwrap();
        assert_eq!(open(&layers).len(), MAX_OPEN_LAYERS);
    }

    #[test]
    fn a_layer_is_renewed_when_its_readers_have_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), 2);
        let held = layers.get(month(0)).unwrap();
        std::thread::scope(|scope| {
            let renewal = scope.spawn(|| layers.renew(month(0)).unwrap());
            // Another layer is to be had meanwhile.
            layers.get(month(1)).unwrap();
            drop(held);
            assert!(renewal.join().unwrap());
        });
        layers.get(month(0)).unwrap();
    }
}
