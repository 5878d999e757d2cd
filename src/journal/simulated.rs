//! A disk in memory that fails on demand and shows what a power cut would leave.
//!
//! Each file has what programs see (`cached`) and what survives (`durable`), and between them the versions
//! of each 512-byte sector that were written since the last sync. A power cut picks, for each sector, one of
//! these versions; and for each name made, changed or removed since the last directory sync, whether it took
//! place. A failed sync loses the sectors for ever and calls them clean, as Linux does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{Disk, DiskFile};
use super::frame::SECTOR_BYTES;

/// What happens at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies; the call had not begun.
    KillBefore,
    /// The process dies; every other sector of the write was taken.
    KillTorn,
    /// The process dies; the call had been carried out, but nobody knows.
    Kill,
    /// The call fails with EIO.
    Eio,
    /// A write or create fails with ENOSPC; other calls with EIO.
    Enospc,
    /// A write takes half of its bytes; other calls fail with EIO.
    Short,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    calls: u64,
    plan: Option<(u64, Fault)>,
    dead: bool,
    syncs_lie: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sector index → versions written since the last sync.
    pending: BTreeMap<usize, Vec<Vec<u8>>>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove(path) => drop(names.remove(path)),
        }
    }
}

impl SimulatedDisk {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// A disk whose syncs do nothing and say all is well: the negative control.
    pub(super) fn lying() -> SimulatedDisk {
        let disk = SimulatedDisk::default();
        disk.with(|state| state.syncs_lie = true);
        disk
    }

    /// Has the `call`th changing call from now (1 is the next) meet `fault`.
    pub(super) fn plan(&self, call: u64, fault: Fault) {
        self.with(|state| state.plan = Some((state.calls + call, fault)));
    }

    /// Changing calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.with(|state| state.calls)
    }

    /// The machine after the process died: same caches, no process.
    pub(super) fn next_process(&self) -> SimulatedDisk {
        let state = self.with(|state| State { plan: None, dead: false, ..state.clone() });
        SimulatedDisk(Arc::new(Mutex::new(state)))
    }

    /// The machine after a power cut. `choose(n)` returns a number below `n`: 0 for "did not reach the disk",
    /// and up to the newest version.
    pub(super) fn power_cut(&self, mut choose: impl FnMut(usize) -> usize) -> SimulatedDisk {
        let mut state = self.with(|state| State { plan: None, dead: false, ..state.clone() });
        for change in state.pending_names.drain(..) {
            if choose(2) == 1 {
                change.apply(&mut state.durable_names);
            }
        }
        for inode in &mut state.inodes {
            for (sector, versions) in std::mem::take(&mut inode.pending) {
                let version = choose(versions.len() + 1);
                if version > 0 {
                    put(&mut inode.durable, sector * SECTOR_BYTES, &versions[version - 1]);
                }
            }
            inode.cached = inode.durable.clone();
        }
        state.names = state.durable_names.clone();
        SimulatedDisk(Arc::new(Mutex::new(state)))
    }

    /// How often [`SimulatedDisk::power_cut`] asks, and the product of the alternatives.
    pub(super) fn uncertainties(&self) -> (usize, usize) {
        let (mut questions, mut product) = (0, 1usize);
        drop(self.power_cut(|alternatives| {
            questions += 1;
            product = product.saturating_mul(alternatives);
            0
        }));
        (questions, product)
    }

    /// The files there are.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.with(|state| state.names.keys().cloned().collect())
    }

    pub(super) fn content(&self, path: &Path) -> Vec<u8> {
        self.with(|state| state.inodes[state.names[path]].cached.clone())
    }

    /// Changes or makes a file behind everyone's back.
    pub(super) fn set_content(&self, path: &Path, content: &[u8]) {
        self.with(|state| {
            let inode =
                Inode { cached: content.to_vec(), durable: content.to_vec(), pending: BTreeMap::new() };
            match state.names.get(path) {
                Some(at) => state.inodes[*at] = inode,
                None => {
                    state.inodes.push(inode);
                    NameChange::Set(path.to_owned(), state.inodes.len() - 1).apply(&mut state.names);
                    state.durable_names = state.names.clone();
                }
            }
        });
    }

    pub(super) fn flip(&self, path: &Path, bit: usize) {
        self.with(|state| {
            let at = state.names[path];
            state.inodes[at].cached[bit / 8] ^= 1 << (bit % 8);
        });
    }

    /// Whether any file, named or not, still holds `needle`.
    pub(super) fn holds(&self, needle: &[u8]) -> bool {
        self.with(|state| {
            state.inodes.iter().any(|inode| inode.durable.windows(needle.len()).any(|bytes| bytes == needle))
        })
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

fn killed() -> io::Error {
    io::Error::other("killed")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl State {
    /// Counts a changing call and says which fault it meets. Errors if the process is dead.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(killed());
        }
        self.calls += 1;
        let fault = self.plan.and_then(|(call, fault)| (call == self.calls).then_some(fault));
        self.dead = matches!(fault, Some(Fault::Kill | Fault::KillBefore | Fault::KillTorn));
        Ok(fault)
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        match self.begin()? {
            Some(Fault::KillBefore | Fault::KillTorn) => return Err(killed()),
            Some(Fault::Enospc) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Eio | Fault::Short) => return Err(eio()),
            Some(Fault::Kill) | None => {}
        }
        change.apply(&mut self.names);
        self.pending_names.push(change);
        if self.dead { Err(killed()) } else { Ok(()) }
    }

    fn inode_of(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, inode: usize, bytes: &[u8], at: usize, only_every_other: bool) {
        let inode = &mut self.inodes[inode];
        let before = inode.cached.clone();
        put(&mut inode.cached, at, bytes);
        for sector in at / SECTOR_BYTES..(at + bytes.len()).div_ceil(SECTOR_BYTES) {
            let range = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(inode.cached.len());
            if only_every_other && sector % 2 == 0 {
                let was = before.get(range.clone()).map_or_else(|| vec![0; range.len()], <[u8]>::to_vec);
                inode.cached[range].copy_from_slice(&was);
            } else {
                inode.pending.entry(sector).or_default().push(inode.cached[range].to_vec());
            }
        }
    }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.with(|state| {
            state.directories.insert(dir.to_owned());
        });
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.with(|state| {
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.change_name(NameChange::Set(path.to_owned(), inode)).map(|()| inode)
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), inode, writable: true }))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.with(|state| if state.dead { Err(killed()) } else { state.inode_of(path) })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), inode, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| {
            let inode = state.inode_of(from)?;
            state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), inode))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.inode_of(path)?;
            state.change_name(NameChange::Remove(path.to_owned()))
        })
    }

    fn fsync_dir(&self, _: &Path) -> io::Result<()> {
        self.with(|state| {
            match state.begin()? {
                None => {}
                Some(_) if state.dead => return Err(killed()),
                Some(_) => return Err(eio()),
            }
            if !state.syncs_lie {
                let State { pending_names, durable_names, .. } = state;
                pending_names.drain(..).for_each(|change| change.apply(durable_names));
            }
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.with(|state| {
            if !state.directories.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let here = state.names.keys().filter(|path| path.parent() == Some(dir));
            Ok(here.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
        })
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    writable: bool,
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert!(self.writable, "a file opened for reading was written");
        let at = usize::try_from(offset).unwrap();
        self.disk.with(|state| {
            match state.begin()? {
                None => state.write(self.inode, bytes, at, false),
                Some(Fault::KillBefore) => return Err(killed()),
                Some(Fault::KillTorn) => {
                    state.write(self.inode, bytes, at, true);
                    return Err(killed());
                }
                Some(Fault::Kill) => {
                    state.write(self.inode, bytes, at, false);
                    return Err(killed());
                }
                Some(Fault::Eio) => return Err(eio()),
                Some(Fault::Enospc) => return Err(io::ErrorKind::StorageFull.into()),
                Some(Fault::Short) => {
                    let half = bytes.len().div_ceil(2);
                    state.write(self.inode, &bytes[..half], at, false);
                    return Ok(half);
                }
            }
            Ok(bytes.len())
        })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            if state.dead {
                return Err(killed());
            }
            let content = &state.inodes[self.inode].cached;
            let from = usize::try_from(offset).unwrap().min(content.len());
            let taken = bytes.len().min(content.len() - from);
            bytes[..taken].copy_from_slice(&content[from..from + taken]);
            Ok(taken)
        })
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.disk.with(|state| {
            let fault = state.begin()?;
            let State { inodes, dead, syncs_lie, .. } = state;
            match fault {
                None => {}
                Some(_) if *dead => return Err(killed()),
                Some(_) => {
                    // The sectors are lost, and no later sync knows of them.
                    inodes[self.inode].pending.clear();
                    return Err(eio());
                }
            }
            if !*syncs_lie {
                let Inode { pending, durable, .. } = &mut inodes[self.inode];
                for (sector, versions) in std::mem::take(pending) {
                    put(durable, sector * SECTOR_BYTES, versions.last().unwrap());
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.with(|state| Ok(state.inodes[self.inode].cached.len() as u64))
    }
}
