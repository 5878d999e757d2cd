//! Files of frames: their names, how one comes to be, and how one goes.
//!
//! A segment gets its name only when it is full of zeros and synced; from then on its length never changes
//! and each sector is written at most once. It loses its name before it is wiped. So a file named
//! `NNNNNNNN.seg` is never half made and never half gone.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::JournalError;
use super::disk::{Disk, DiskFile};

/// A segment being made.
pub(super) const TEMPORARY_SUFFIX: &str = ".seg.tmp";
/// A segment being wiped.
pub(super) const RELEASED_SUFFIX: &str = ".seg.del";
const SUFFIX: &str = ".seg";
/// Digits of a number in a name, at least.
const NAME_DIGITS: usize = 8;

/// Numbers beyond this name no segment, so that adding one is always sound.
const MAX_NUMBER: u64 = 1 << 62;

/// Zeros are written, and files are read ahead, in pieces of this size.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Zeros written between two syncs, so that they never queue up before a commit's sync.
const ZEROS_PER_SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// `journal/00000007.seg`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0NAME_DIGITS$}{SUFFIX}"))
}

fn temporary_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0NAME_DIGITS$}{TEMPORARY_SUFFIX}"))
}

fn released_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0NAME_DIGITS$}{RELEASED_SUFFIX}"))
}

/// The number in the name of a segment; `None` for any other spelling.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(SUFFIX)?.parse().ok()?;
    ((1..=MAX_NUMBER).contains(&number) && name == format!("{number:0NAME_DIGITS$}{SUFFIX}"))
        .then_some(number)
}

/// A segment with its frames, as read or written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Number in its name.
    pub(super) number: u64,
    /// Its first frame; meaningless while `end` is 0.
    pub(super) first_frame: u64,
    /// Its last frame; meaningless while `end` is 0.
    pub(super) last_frame: u64,
    /// Byte after the last frame.
    pub(super) end: u64,
    /// Length of the file.
    pub(super) bytes: u64,
}

impl Segment {
    /// A segment without frames.
    pub(super) fn blank(number: u64, bytes: u64) -> Segment {
        Segment { number, first_frame: 0, last_frame: 0, end: 0, bytes }
    }

    /// Takes note of a frame that ends the segment so far.
    pub(super) fn push(&mut self, frame: u64, frame_bytes: u64) {
        if self.end == 0 {
            self.first_frame = frame;
        }
        self.last_frame = frame;
        self.end += frame_bytes;
    }
}

/// Writes all of `bytes`. A short write goes on with the rest: nothing is promised before the sync.
pub(super) fn write_all(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                bytes = &bytes[taken..];
                offset += taken as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `bytes` from the file.
pub(super) fn read_exact(file: &dyn DiskFile, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => {
                bytes = &mut bytes[taken..];
                offset += taken as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes zeros over `from..to` and syncs.
fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
    let mut at = from;
    let mut unsynced = 0;
    while at < to {
        let now = (to - at).min(CHUNK_BYTES as u64);
        let piece = &ZEROS[..usize::try_from(now).unwrap_or(CHUNK_BYTES)];
        write_all(file, piece, at)?;
        at += now;
        unsynced += now;
        if unsynced >= ZEROS_PER_SYNC_BYTES && at < to {
            file.fdatasync()?;
            unsynced = 0;
        }
    }
    file.fdatasync()
}

/// Makes segment `number`: `fill` writes what it starts with and returns where that ends; the rest is
/// zeros. A segment that already bears the name is replaced in one step.
pub(super) fn make(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    bytes: u64,
    fill: impl FnOnce(&dyn DiskFile) -> Result<u64, JournalError>,
) -> Result<Box<dyn DiskFile>, JournalError> {
    let temporary = temporary_path(dir, number);
    // Kill, failed sync or full disk from here to the rename: a temporary file, which open removes.
    let file = disk.create(&temporary).map_err(JournalError::io("create", &temporary))?;
    let filled = fill(&*file)?;
    write_zeros(&*file, filled, bytes).map_err(JournalError::io("write zeros to", &temporary))?;
    // Kill between rename and directory sync: the old file or the new one bears the name. Both hold the
    // same frames, and nothing was written to the new one yet.
    disk.rename(&temporary, &path(dir, number)).map_err(JournalError::io("rename", &temporary))?;
    disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))?;
    Ok(file)
}

/// Takes the name from segment `number`, durably. Its bytes are still there, until [`wipe`].
pub(super) fn retire(disk: &dyn Disk, dir: &Path, number: u64) -> Result<PathBuf, JournalError> {
    let (from, to) = (path(dir, number), released_path(dir, number));
    // Kill here: the oldest segment has its name or has lost it. Synced one by one, oldest first, so that
    // no later segment is gone while an older one is there.
    disk.rename(&from, &to).map_err(JournalError::io("rename", &from))?;
    disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))?;
    Ok(to)
}

/// A segment that is about to be replaced under its name.
pub(super) struct Replaced {
    file: Box<dyn DiskFile>,
    path: PathBuf,
}

/// Opens segment `number`, to be wiped once another file bears its name.
pub(super) fn open_to_wipe(disk: &dyn Disk, dir: &Path, number: u64) -> Result<Replaced, JournalError> {
    let path = path(dir, number);
    let file = disk.open(&path, true).map_err(JournalError::io("open", &path))?;
    Ok(Replaced { file, path })
}

impl Replaced {
    /// Overwrites it with zeros and syncs; its blocks become free when it is dropped.
    pub(super) fn wipe(self) -> Result<(), JournalError> {
        wipe_content(&*self.file, &self.path)
    }
}

fn wipe_content(file: &dyn DiskFile, path: &Path) -> Result<(), JournalError> {
    let bytes = file.len().map_err(JournalError::io("read the length of", path))?;
    write_zeros(file, 0, bytes).map_err(JournalError::io("write zeros to", path))
}

/// Overwrites a retired or half-made segment with zeros, syncs, removes it.
pub(super) fn wipe(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), JournalError> {
    // Kill or failure anywhere here: the retired file is still there, half wiped. The next open wipes it.
    let file = disk.open(path, true).map_err(JournalError::io("open", path))?;
    wipe_content(&*file, path)?;
    drop(file);
    disk.remove(path).map_err(JournalError::io("remove", path))?;
    disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))
}

/// Prepares the next segment and wipes released ones, on a thread of its own, so that an append waits for
/// neither.
#[derive(Debug)]
pub(super) struct Attendant {
    worker: Worker,
    /// Sends jobs; `None` when they are done in the caller's thread, or after the end.
    jobs: Option<Sender<Job>>,
    results: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    /// Results taken out of the channel and not yet asked for.
    ready: VecDeque<Done>,
    wipes_pending: u64,
}

#[derive(Clone, Debug)]
struct Worker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
}

#[derive(Debug)]
enum Job {
    Prepare(u64),
    Wipe(PathBuf),
}

#[derive(Debug)]
enum Done {
    Prepared(Segment, Box<dyn DiskFile>),
    Wiped,
    Failed(JournalError),
}

impl Worker {
    fn run(&self, job: Job) -> Done {
        let outcome = match job {
            Job::Prepare(number) => make(&*self.disk, &self.dir, number, self.segment_bytes, |_| Ok(0))
                .map(|file| Done::Prepared(Segment::blank(number, self.segment_bytes), file)),
            Job::Wipe(path) => wipe(&*self.disk, &self.dir, &path).map(|()| Done::Wiped),
        };
        outcome.unwrap_or_else(Done::Failed)
    }
}

impl Attendant {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
        background: bool,
    ) -> Result<Attendant, JournalError> {
        let worker = Worker { disk: Arc::clone(disk), dir: dir.to_owned(), segment_bytes };
        let (send_result, results) = channel();
        let (mut jobs, mut thread) = (None, None);
        if background {
            let (send_job, receive_job) = channel();
            let own = worker.clone();
            let body = move || {
                while let Ok(job) = receive_job.recv() {
                    if send_result.send(own.run(job)).is_err() {
                        break;
                    }
                }
            };
            let builder = std::thread::Builder::new().name("journal-segments".into());
            #[expect(clippy::disallowed_methods, reason = "the one place where the journal's thread starts")]
            let started = builder.spawn(body);
            thread = Some(started.map_err(JournalError::io("start a thread for", dir))?);
            jobs = Some(send_job);
        }
        Ok(Attendant { worker, jobs, results, thread, ready: VecDeque::new(), wipes_pending: 0 })
    }

    /// Has segment `number` prepared.
    pub(super) fn prepare(&mut self, number: u64) {
        self.post(Job::Prepare(number));
    }

    /// Has a retired segment wiped.
    pub(super) fn wipe(&mut self, path: PathBuf) {
        self.wipes_pending += 1;
        self.post(Job::Wipe(path));
    }

    /// Retired segments that still hold bytes.
    pub(super) fn wipes_pending(&self) -> u64 {
        self.wipes_pending
    }

    /// The segment asked for last with [`Attendant::prepare`]; waits for it.
    pub(super) fn take_prepared(&mut self) -> Result<(Segment, Box<dyn DiskFile>), JournalError> {
        loop {
            let done = match self.ready.pop_front() {
                Some(done) => done,
                None => self.results.recv().map_err(|_| self.stopped())?,
            };
            match done {
                Done::Prepared(segment, file) => return Ok((segment, file)),
                Done::Wiped => self.wipes_pending -= 1,
                Done::Failed(error) => return Err(error),
            }
        }
    }

    /// Takes note of what has been done meanwhile; does not wait.
    ///
    /// # Errors
    /// What a job failed with.
    pub(super) fn poll(&mut self) -> Result<(), JournalError> {
        self.ready.extend(self.results.try_iter());
        while let Some(done) = self.ready.pop_front() {
            match done {
                Done::Wiped => self.wipes_pending -= 1,
                Done::Failed(error) => return Err(error),
                prepared @ Done::Prepared(..) => {
                    // There is at most one, and all else in the queue is looked at as well.
                    let others_done = self.ready.iter().all(|other| matches!(other, Done::Prepared(..)));
                    self.ready.push_back(prepared);
                    if others_done {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn post(&mut self, job: Job) {
        match &self.jobs {
            // A send fails only after the thread ended, which `take_prepared` reports.
            Some(jobs) => drop(jobs.send(job)),
            None => self.ready.push_back(self.worker.run(job)),
        }
    }

    fn stopped(&self) -> JournalError {
        let source = io::Error::other("the thread that prepares segments has ended");
        JournalError::Io { action: "prepare a segment in", path: self.worker.dir.clone(), source }
    }
}

impl Drop for Attendant {
    /// Waits for the thread: nobody writes to the directory once the writer is gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its missing results.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_names_a_segment() {
        assert_eq!(parse_name("00000001.seg"), Some(1));
        assert_eq!(parse_name("123456789.seg"), Some(123_456_789));
        for name in
            ["1.seg", "00000000.seg", "000000001.seg", "+0000001.seg", "00000001.seg.tmp", "HEAD", ".seg"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_failed_job_is_reported_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(crate::journal::disk::SystemDisk);
        for background in [false, true] {
            let mut attendant = Attendant::start(&disk, &dir.path().join("gone"), 4096, background).unwrap();
            attendant.prepare(1);
            assert!(attendant.take_prepared().is_err());
        }
        let mut attendant = Attendant::start(&disk, dir.path(), 4096, false).unwrap();
        attendant.prepare(1);
        attendant.wipe(dir.path().join("gone"));
        assert!(attendant.poll().is_err());
        assert_eq!(attendant.take_prepared().unwrap().0.number, 1);
    }
}
