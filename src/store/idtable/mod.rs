//! The dedupe table: a durable multimap from 16-byte tokens to locations, kept for the whole retention.
//!
//! Every event asks it once or twice whether its id was seen before; the answer is nearly always no. So
//! a miss costs a few memory reads a run and no disk, and a hit reads one block of 4 KiB.
//!
//! - Entries live in *runs*: sorted, immutable files, each with a filter that is kept in memory (20 bits
//!   an entry, false positives ≤ 2⁻¹⁶). On disk an entry takes 27.6 bytes.
//! - [`IdTable::add_run`] makes one run of a batch; [`IdTable::merge_once`] makes one of four.
//! - A run counts when the manifest names it. Files that it does not name are removed at open.
//! - Each byte on disk is under a checksum. What fails it is an error, never a silent miss.
//!
//! Tokens must be uniformly random (a keyed hash). Others get right answers, slowly.
//!
//! Who writes: one thread in `add_run`, one in `merge_once`, each its own run file; the manifest and the
//! list of live runs are replaced whole under one lock. Who reads: any thread; the list is held for the
//! filters' part of a lookup, and shared (`Arc`) for the part that reads a disk, so a merge never waits
//! for a reader and a reader never for a merge. A merged file stays readable until its last reader ends.
//!
//! Memory: the filters, 2.5 bytes an entry. `merge_once` adds five buffers of 256 KiB and the filter of
//! the new run, which it builds in place and which is the one that stays.

mod disk;
mod error;
mod filter;
mod manifest;
mod merge;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use error::IdTableError;
use error::{damaged, io_error};
use filter::Group;
use manifest::Manifest;
use run::{Entry, Run, RunWriter};

/// A keyed hash of an event id or a request id. Uniformly random, which the filters rely on.
pub type Token = [u8; 16];

/// Where an event stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The instance's number for the log.
    pub log: u32,
    /// Index in the log, below [`INDEX_END`].
    pub index: u64,
}

/// Indexes are below this: 40 bits, five bytes on disk.
pub const INDEX_END: u64 = 1 << 40;

/// Entries in one run at most: 64 Mi, 1.9 GB on disk and 168 MB of filter. Four runs that would exceed it
/// are not merged.
pub const RUN_ENTRIES_MAX: u64 = 1 << 26;

/// Runs in a table at most; a table that is merged has 10 to 20.
pub const RUNS_MAX: usize = 256;

/// The table. See the module.
pub struct IdTable {
    directory: PathBuf,
    /// Open for syncing names, and locked for as long as the table is open.
    handle: File,
    /// Replaced whole, under `publisher`.
    live: RwLock<Arc<Live>>,
    publisher: Mutex<Publisher>,
    /// Held by the one merge that goes on.
    /// Held while runs are merged: the files of runs that could not be read through.
    merging: Mutex<HashSet<PathBuf>>,
}

/// What lookups see.
struct Live {
    runs: Vec<Arc<Run>>,
    durable_frame: u64,
}

/// What the next manifest needs beside the runs.
struct Publisher {
    sequence: u64,
    next_number: u64,
    /// Set when a sync or a swap failed: what is on disk is not known any more.
    stopped: bool,
}

impl IdTable {
    /// Opens the table in `directory`, which is made, with an empty table, when there is none. Checks the
    /// manifest, each run's filter and footer, and removes what a crash left over.
    ///
    /// # Errors
    /// `Damaged` when a check fails, a run is missing, or there are runs and no manifest; `Locked`; `Io`.
    pub fn open(directory: &Path) -> Result<IdTable, IdTableError> {
        make_directory(directory)?;
        let handle = File::open(directory).map_err(io_error("open", directory))?;
        rustix::fs::flock(&handle, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |errno| match errno {
                rustix::io::Errno::WOULDBLOCK => IdTableError::Locked { path: directory.to_owned() },
                _ => io_error("lock", directory)(errno.into()),
            },
        )?;
        let manifest = match Manifest::read(directory)? {
            Some(manifest) => manifest,
            None => create_manifest(directory, &handle)?,
        };
        let runs = open_runs(directory, &manifest)?;
        // A kill between a manifest's rename and the directory's sync leaves a name that is not durable yet: it is
        // made so before the runs that only the manifest before it names are removed.
        disk::sync_directory(&handle, directory)?;
        remove_leftovers(directory, &handle, &manifest)?;
        Ok(IdTable {
            directory: directory.to_owned(),
            handle,
            live: RwLock::new(Arc::new(Live { runs, durable_frame: manifest.durable_frame })),
            publisher: Mutex::new(Publisher {
                sequence: manifest.sequence,
                next_number: manifest.next_number,
                stopped: false,
            }),
            merging: Mutex::default(),
        })
    }

    /// Appends the locations of `token` to `found`, each once, in order. `found` is not cleared; after an
    /// error it is as before.
    ///
    /// # Errors
    /// `Damaged` when a block that must be read fails its checksum; `Io`.
    pub fn lookup(&self, token: &Token, found: &mut Vec<Location>) -> Result<(), IdTableError> {
        let live = {
            let live = self.live.read();
            if !live.may_hold(head(token)) {
                return Ok(());
            }
            Arc::clone(&live)
        };
        live.find(token, found)
    }

    /// As [`Self::lookup`] of each token, for less: one lock for many tokens, and their memory reads
    /// overlap. Appends (position in `tokens`, location), in order.
    ///
    /// # Errors
    /// As [`Self::lookup`]; `found` is then as before.
    pub fn lookup_many(
        &self,
        tokens: &[Token],
        found: &mut Vec<(usize, Location)>,
    ) -> Result<(), IdTableError> {
        let before = found.len();
        let mut locations = Vec::new();
        for (first, tokens) in (0..).step_by(PROBE_TOKENS).zip(tokens.chunks(PROBE_TOKENS)) {
            let (live, mut suspects) = {
                let live = self.live.read();
                let suspects = (0..tokens.len())
                    .fold(0u64, |suspects, at| suspects | u64::from(live.may_hold(head(&tokens[at]))) << at);
                if suspects == 0 {
                    continue;
                }
                (Arc::clone(&live), suspects)
            };
            while suspects != 0 {
                let at = suspects.trailing_zeros() as usize;
                suspects &= suspects - 1;
                if let Err(error) = live.find(&tokens[at], &mut locations) {
                    found.truncate(before);
                    return Err(error);
                }
                found.extend(locations.drain(..).map(|location| (first + at, location)));
            }
        }
        Ok(())
    }

    /// Makes a run of `entries`, which it sorts, and makes it durable. `upto_frame` is the number of the
    /// journal frame up to which all entries are now in the table. On success `entries` is empty, its
    /// capacity kept; on an error it still holds all of them, in order and each once.
    ///
    /// Without entries only the frame number is made durable, if it is a greater one.
    ///
    /// # Errors
    /// `IndexTooLarge`, `TooManyEntries`, `TooManyRuns`, `Stopped`, `Io`. Nothing was stored, unless a sync
    /// failed: then the table is stopped, and opening it again shows either state.
    pub fn add_run(&self, entries: &mut Vec<(Token, Location)>, upto_frame: u64) -> Result<(), IdTableError> {
        if let Some((_, location)) = entries.iter().find(|(_, location)| location.index >= INDEX_END) {
            return Err(IdTableError::IndexTooLarge { index: location.index });
        }
        if entries.is_empty() && upto_frame <= self.durable_frame() {
            return Ok(());
        }
        entries.sort_unstable_by_key(|(token, location)| Entry::new(token, *location));
        entries.dedup();
        if entries.len() as u64 > RUN_ENTRIES_MAX {
            return Err(IdTableError::TooManyEntries { entries: entries.len() as u64 });
        }
        if self.run_count() >= RUNS_MAX {
            return Err(IdTableError::TooManyRuns);
        }
        let run = match entries.is_empty() {
            true => None,
            false => self.write_run(&mut |writer| {
                entries.iter().try_for_each(|(token, location)| writer.push(Entry::new(token, *location)))
            })?,
        };
        self.publish(&[], run, upto_frame)?;
        entries.clear();
        Ok(())
    }

    /// The greatest frame number that [`Self::add_run`] made durable; 0 before the first.
    pub fn durable_frame(&self) -> u64 {
        self.live.read().durable_frame
    }

    /// Merges four runs of a similar size into one, if there are four such; says whether it did. Locations
    /// that `keep` refuses are left out. Streams; for a background thread, called until it says no.
    /// Lookups and `add_run` go on meanwhile; a second call waits for the first.
    ///
    /// # Errors
    /// `Damaged` when a run that is read fails a check: it stays as it is, and later calls leave it out.
    /// `Stopped`, `Io`.
    pub fn merge_once(&self, keep: &dyn Fn(&Location) -> bool) -> Result<bool, IdTableError> {
        let mut unreadable = self.merging.lock();
        let runs: Vec<Arc<Run>> =
            self.snapshot().runs.iter().filter(|run| !unreadable.contains(run.path())).cloned().collect();
        let Some(inputs) = merge::choose(&runs) else { return Ok(false) };
        let merged = self.write_run(&mut |writer| merge::merge(&inputs, keep, writer));
        if let Err(IdTableError::Damaged { path, .. }) = &merged {
            unreadable.insert(path.clone());
        }
        let run = merged?;
        self.publish(&inputs, run, 0)?;
        for input in &inputs {
            // The manifest names it no more. If it cannot be removed now, the next open does it.
            let _ = disk::remove(input.path());
        }
        Ok(true)
    }

    /// Entries in all runs; the same entry in two runs counts twice until they are merged.
    pub fn len(&self) -> u64 {
        self.snapshot().runs.iter().map(|run| run.entries()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.snapshot().runs.is_empty()
    }

    /// Bytes of the live files.
    pub fn disk_bytes(&self) -> u64 {
        let runs: u64 = self.snapshot().runs.iter().map(|run| run.disk_bytes()).sum();
        runs + self.manifest(&self.snapshot(), &self.publisher.lock()).encoded_bytes()
    }

    /// Bytes of memory that the filters hold.
    pub fn memory_bytes(&self) -> u64 {
        self.snapshot().runs.iter().map(|run| run.filter().memory_bytes()).sum()
    }

    /// Live runs.
    pub fn run_count(&self) -> usize {
        self.live.read().runs.len()
    }

    /// Reads everything: the manifest again, each block, the order of entries, each filter against its
    /// entries and against its digest. Returns the number of entries.
    ///
    /// # Errors
    /// `Damaged` at the first check that fails; `Io`.
    pub fn verify(&self) -> Result<u64, IdTableError> {
        let live = {
            let publisher = self.publisher.lock();
            let live = self.snapshot();
            if !publisher.stopped
                && Manifest::read(&self.directory)? != Some(self.manifest(&live, &publisher))
            {
                let path = self.directory.join(manifest::NAME);
                return Err(damaged(&path, 0, "the manifest is not the one that was written"));
            }
            live
        };
        live.runs.iter().try_for_each(|run| run.verify())?;
        Ok(live.runs.iter().map(|run| run.entries()).sum())
    }

    /// Visits every entry, run by run, in order within a run; an entry in two runs is visited twice. Checks
    /// each block and the order.
    ///
    /// # Errors
    /// `Damaged` at the first check that fails, after the entries before it were visited; `Io`.
    pub fn for_each(&self, mut visit: impl FnMut(&Token, Location)) -> Result<(), IdTableError> {
        for run in &self.snapshot().runs {
            let mut cursor = run.cursor();
            while let Some(entry) = cursor.next()? {
                visit(&entry.token.to_be_bytes(), entry.location());
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Arc<Live> {
        Arc::clone(&self.live.read())
    }

    /// Writes one run file through `fill` and syncs it. What fails leaves no file behind.
    fn write_run(
        &self,
        fill: &mut dyn FnMut(&mut RunWriter) -> Result<(), IdTableError>,
    ) -> Result<Option<Arc<Run>>, IdTableError> {
        let number = {
            let mut publisher = self.publisher.lock();
            if publisher.stopped {
                return Err(IdTableError::Stopped);
            }
            publisher.next_number += 1;
            publisher.next_number - 1
        };
        let mut writer = RunWriter::create(&self.directory, number)?;
        let written = fill(&mut writer).and_then(|()| writer.finish());
        if let Err(error) = &written {
            // A failed sync says that the disk cannot be trusted; a full disk or a damaged input does not.
            self.publisher.lock().stopped |= matches!(error, IdTableError::Io { what: disk::SYNC, .. });
            let _ = disk::remove(&self.directory.join(Run::name(number)));
        }
        Ok(written?.map(Arc::new))
    }

    /// The commit point: a manifest without `removed` and with `added`, then the same for lookups.
    fn publish(
        &self,
        removed: &[Arc<Run>],
        added: Option<Arc<Run>>,
        upto_frame: u64,
    ) -> Result<(), IdTableError> {
        let mut publisher = self.publisher.lock();
        let before = self.snapshot();
        let is_removed = |run: &Arc<Run>| removed.iter().any(|gone| Arc::ptr_eq(gone, run));
        let mut runs: Vec<_> = before.runs.iter().filter(|run| !is_removed(run)).map(Arc::clone).collect();
        runs.extend(added.clone());
        let live = Live { runs, durable_frame: before.durable_frame.max(upto_frame) };
        let swapped = self.swap_manifest(&live, &mut publisher);
        if swapped.is_err()
            && !publisher.stopped
            && let Some(run) = added
        {
            // The old manifest stands for certain, and does not name the new file.
            let _ = disk::remove(run.path());
        }
        swapped?;
        *self.live.write() = Arc::new(live);
        Ok(())
    }

    fn swap_manifest(&self, live: &Live, publisher: &mut Publisher) -> Result<(), IdTableError> {
        if publisher.stopped {
            return Err(IdTableError::Stopped);
        }
        if live.runs.len() > RUNS_MAX {
            return Err(IdTableError::TooManyRuns);
        }
        publisher.sequence += 1;
        // The new file's name is durable before the manifest that needs it.
        let swapped = disk::sync_directory(&self.handle, &self.directory)
            .and_then(|()| self.manifest(live, publisher).swap(&self.directory, &self.handle));
        if let Err(error) = &swapped {
            let old_stands = matches!(error, IdTableError::Io { what: "create" | "write", .. });
            publisher.stopped = !old_stands;
            publisher.sequence -= 1;
        }
        swapped
    }

    fn manifest(&self, live: &Live, publisher: &Publisher) -> Manifest {
        Manifest {
            sequence: publisher.sequence,
            next_number: publisher.next_number,
            durable_frame: live.durable_frame,
            runs: live.runs.iter().map(|run| run.record()).collect(),
        }
    }
}

/// The lock is given up at once, not with the last copy of the descriptor: a child between `fork` and `exec` has one.
impl Drop for IdTable {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.handle, rustix::fs::FlockOperation::Unlock);
    }
}

impl std::fmt::Debug for IdTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdTable")
            .field("directory", &self.directory)
            .field("runs", &self.run_count())
            .finish()
    }
}

impl Live {
    /// Whether some run's filter may hold the token. First the groups of several runs are fetched, then
    /// their lows, so that their memory reads are under way at once.
    #[inline]
    fn may_hold(&self, head: u64) -> bool {
        let mut groups = [Group::default(); PROBE_RUNS];
        self.runs.chunks(PROBE_RUNS).any(|runs| {
            for (group, run) in groups.iter_mut().zip(runs) {
                *group = run.filter().group(head);
            }
            runs.iter().zip(&groups).any(|(run, group)| run.filter().may_hold(group))
        })
    }

    fn find(&self, token: &Token, found: &mut Vec<Location>) -> Result<(), IdTableError> {
        let before = found.len();
        for run in &self.runs {
            if let Err(error) = run.find(token, found) {
                found.truncate(before);
                return Err(error);
            }
        }
        sort_tail(found, before);
        Ok(())
    }
}

/// Runs probed at once.
const PROBE_RUNS: usize = 8;

/// Tokens probed under one lock: some 10 µs.
const PROBE_TOKENS: usize = 64;

/// The first 8 bytes of a token, which place it in a filter.
#[inline]
fn head(token: &Token) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *token;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Sorts what was found and drops repeats, leaving what was there before.
fn sort_tail(found: &mut Vec<Location>, before: usize) {
    found[before..].sort_unstable();
    let mut kept = before;
    for at in before..found.len() {
        if kept == before || found[kept - 1] != found[at] {
            found[kept] = found[at];
            kept += 1;
        }
    }
    found.truncate(kept);
}

fn make_directory(directory: &Path) -> Result<(), IdTableError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let handle = File::open(parent).map_err(io_error("open", parent))?;
    disk::sync_directory(&handle, parent)
}

/// Starts an empty table. A directory that has runs is not empty: its manifest was lost.
fn create_manifest(directory: &Path, handle: &File) -> Result<Manifest, IdTableError> {
    let names = own_names(directory)?;
    if names.iter().any(|name| Run::is_name(name)) {
        return Err(damaged(&directory.join(manifest::NAME), 0, "it is missing, and there are runs"));
    }
    for name in names {
        disk::remove(&directory.join(name))?;
    }
    let manifest = Manifest { sequence: 1, next_number: 1, ..Manifest::default() };
    manifest.swap(directory, handle)?;
    Ok(manifest)
}

fn open_runs(directory: &Path, manifest: &Manifest) -> Result<Vec<Arc<Run>>, IdTableError> {
    let mut numbers = HashSet::new();
    let all_sound =
        manifest.runs.iter().all(|run| run.number < manifest.next_number && numbers.insert(run.number));
    if !all_sound {
        return Err(damaged(
            &directory.join(manifest::NAME),
            0,
            "a run's number is impossible or named twice",
        ));
    }
    manifest.runs.iter().map(|record| Run::open(directory, record).map(Arc::new)).collect()
}

/// Removes what a crash left: an unfinished manifest and runs that no manifest names. Only names that the
/// table gives to its own files are touched.
fn remove_leftovers(directory: &Path, handle: &File, manifest: &Manifest) -> Result<(), IdTableError> {
    let live: HashSet<String> = manifest.runs.iter().map(|run| Run::name(run.number)).collect();
    let mut removed = false;
    for name in own_names(directory)? {
        if !live.contains(&name) {
            disk::remove(&directory.join(name))?;
            removed = true;
        }
    }
    if removed { disk::sync_directory(handle, directory) } else { Ok(()) }
}

/// The names in the directory that are runs or a temporary manifest.
fn own_names(directory: &Path) -> Result<Vec<String>, IdTableError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error("read", directory))? {
        let name = entry.map_err(io_error("read", directory))?.file_name();
        if let Some(name) =
            name.to_str().filter(|name| Run::is_name(name) || *name == manifest::TEMPORARY_NAME)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
