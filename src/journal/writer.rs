//! The one writer: appends, keeps `HEAD`, lets old segments go.
//!
//! Every call that fails for another reason than its arguments poisons the writer: what reached the disk
//! is then unknown, and only the next open can find out.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, SystemDisk};
use super::frame::{self, SECTOR_BYTES};
use super::head::{self, Head, HeadFile};
use super::reader::{Scan, Tail};
use super::segment::{self, Attendant, Segment, write_all};
use super::{JournalError, Options};
use crate::tlog::hash::Hash;

/// The frame buffer is kept between appends up to this size.
const BUFFER_KEPT_BYTES: usize = 1024 * 1024;

/// Writes the journal of one directory. There must be one at a time; the caller holds the lock.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    head: HeadFile,
    /// Segments that are written no more, oldest first. Each holds frames; the newest frame is in none of them, but from
    /// [`Writer::rotate`] to the next frame.
    closed: VecDeque<Segment>,
    /// The segment that frames go to.
    active: Segment,
    active_file: Box<dyn DiskFile>,
    /// Newest durable frame; 0 and zero for none.
    newest: (u64, Hash),
    attendant: Attendant,
    buffer: Vec<u8>,
    /// Segments up to this number were releasable at the last release.
    older_generation: u64,
    bytes_since_release: u64,
    poison: Option<String>,
}

/// What a release leaves besides the segment with the newest frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// What was not releasable at the release before.
    YoungerGeneration,
    Nothing,
}

impl Writer {
    /// Makes an empty journal in `dir`, which is made if need be; its parent must exist.
    ///
    /// # Errors
    /// [`JournalError::Exists`] when there is one; what the system answers. After a kill at any point,
    /// either `create` or [`Scan::read`] goes on.
    pub fn create(dir: &Path, options: &Options) -> Result<Writer, JournalError> {
        Writer::create_on(Arc::new(SystemDisk), dir, options)
    }

    /// [`Writer::create`] on another disk than the system's.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create_on(disk: Arc<dyn Disk>, dir: &Path, options: &Options) -> Result<Writer, JournalError> {
        disk.create_dir(dir).map_err(JournalError::io("create directory", dir))?;
        match Scan::read_on(Arc::clone(&disk), dir, options) {
            Err(JournalError::Absent(_)) => {}
            Err(error @ (JournalError::Options(_) | JournalError::Io { .. })) => return Err(error),
            // A journal, or what is left of one.
            _ => return Err(JournalError::Exists(dir.to_owned())),
        }
        // HEAD first: segments without it are refused, it without segments is an empty journal.
        head::create(&*disk, dir)?;
        Scan::read_on(disk, dir, options)?.into_writer()
    }

    /// Appends one frame; its payload is the concatenation of `payload`. When this returns a number, that
    /// frame is durable.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`], and the writer goes on. Any other error poisons it: the frame may or may
    /// not be there after the next open, and no frame behind it is.
    pub fn append(&mut self, layer: u32, payload: &[&[u8]]) -> Result<u64, JournalError> {
        let bytes = payload.iter().map(|slice| slice.len()).sum();
        let limit = self.options.max_payload_bytes();
        if bytes > limit {
            return Err(JournalError::TooLarge { bytes, limit });
        }
        self.guarded(|writer| writer.write_frame(layer, payload))
    }

    /// Writes `HEAD`: the newest frame, `applied` (the frame up to which the store is truly synced), the
    /// digest of the state snapshot of that frame, and whether this is a clean stop. The next append takes `clean` back.
    ///
    /// # Errors
    /// [`JournalError::OutOfRange`] when `applied` is not a frame that is kept or the one before; the writer
    /// goes on. Any other error poisons it.
    pub fn set_head(&mut self, applied: u64, state_digest: Hash, clean: bool) -> Result<(), JournalError> {
        let (from, to) = (self.head.current().kept_from - 1, self.newest.0);
        if !(from..=to).contains(&applied) {
            return Err(JournalError::OutOfRange { frame: applied, from, to });
        }
        self.guarded(|writer| {
            let head = Head { applied, state_digest, clean, ..writer.true_head() };
            writer.head.write(head)
        })
    }

    /// Lets segments go whose frames are all at or below `up_to_frame`, and which were releasable at the call
    /// before already, or when the journal was opened. Never the one that holds the newest frame. Returns how
    /// many lost their name; they are then wiped with zeros and removed, see [`Writer::wipes_pending`].
    ///
    /// # Errors
    /// [`JournalError::OutOfRange`] when `up_to_frame` is beyond `applied` of `HEAD`; the writer goes on. Any
    /// other error poisons it.
    pub fn release(&mut self, up_to_frame: u64) -> Result<u64, JournalError> {
        self.demand_applied(up_to_frame)?;
        self.guarded(|writer| writer.retire_segments(up_to_frame, Keep::YoungerGeneration))
    }

    fn demand_applied(&self, up_to_frame: u64) -> Result<(), JournalError> {
        let applied = self.head.current().applied;
        if up_to_frame > applied {
            return Err(JournalError::OutOfRange { frame: up_to_frame, from: 0, to: applied });
        }
        Ok(())
    }

    /// As [`Writer::release`], and what only became releasable now goes too: nothing is kept for a checkpoint more. An
    /// erasure asks for it. What the store lost of these frames by a fault of its disk, no replay brings back then.
    ///
    /// # Errors
    /// As [`Writer::release`].
    pub fn release_all(&mut self, up_to_frame: u64) -> Result<u64, JournalError> {
        self.demand_applied(up_to_frame)?;
        self.guarded(|writer| writer.retire_segments(up_to_frame, Keep::Nothing))
    }

    /// Goes on to the next segment now: the next frame is the first of it. Nothing is written; a second call before
    /// that frame does nothing. Until it is appended, the newest frame is in a segment that cannot be released.
    ///
    /// # Errors
    /// When the next segment could not be prepared; poisons the writer.
    pub fn rotate(&mut self) -> Result<(), JournalError> {
        self.guarded(|writer| {
            writer.attendant.poll()?;
            // Each closed segment holds frames.
            if writer.active.end == 0 { Ok(()) } else { writer.next_segment() }
        })
    }

    /// Frame bytes on disk that were appended since the last release; from open on, also all that were kept.
    pub fn bytes_since_release(&self) -> u64 {
        self.bytes_since_release
    }

    /// Frame bytes in all segments kept.
    pub fn kept_bytes(&self) -> u64 {
        self.closed.iter().map(|segment| segment.end).sum::<u64>() + self.active.end
    }

    /// Released segments whose bytes are not yet zeroed, synced and removed. An erasure waits for 0.
    ///
    /// # Errors
    /// When wiping failed; poisons the writer. The next open wipes again.
    pub fn wipes_pending(&mut self) -> Result<u64, JournalError> {
        self.guarded(|writer| writer.attendant.poll())?;
        Ok(self.attendant.wipes_pending())
    }

    /// Number and hash of the newest durable frame; `None` while there is none.
    pub fn newest(&self) -> Option<(u64, Hash)> {
        (self.newest.0 > 0).then_some(self.newest)
    }

    /// What `HEAD` says.
    pub fn head(&self) -> &Head {
        self.head.current()
    }

    /// The largest payload [`Writer::append`] takes, in bytes.
    pub fn max_payload_bytes(&self) -> usize {
        self.options.max_payload_bytes()
    }

    /// Why the writer stopped, if it did.
    pub fn poison(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Runs `act` unless poisoned; poisons if it fails.
    fn guarded<T>(
        &mut self,
        act: impl FnOnce(&mut Writer) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        if let Some(reason) = &self.poison {
            return Err(JournalError::Poisoned(reason.clone()));
        }
        let done = act(self);
        if let Err(error) = &done {
            self.poison = Some(error.to_string());
        }
        done
    }

    /// `HEAD` as it is, with the newest frame of now.
    fn true_head(&self) -> Head {
        Head { newest: self.newest.0, newest_hash: self.newest.1, ..*self.head.current() }
    }

    fn write_frame(&mut self, layer: u32, payload: &[&[u8]]) -> Result<u64, JournalError> {
        // A segment that cannot be prepared or wiped is an error of the disk: stop before the next promise.
        self.attendant.poll()?;
        if self.head.current().clean {
            // Before the first byte: HEAD must not claim a clean stop while a frame is on its way.
            self.head.write(Head { clean: false, ..self.true_head() })?;
        }
        let number = self.newest.0 + 1;
        let hash = frame::encode(&mut self.buffer, number, layer, &self.newest.1, payload);
        let bytes = self.buffer.len() as u64;
        if bytes > self.active.bytes - self.active.end {
            self.next_segment()?;
        }

        let path = || segment::path(&self.dir, self.active.number);
        // Kill here, before or within the write: any of its sectors may be there, each whole; the rest is
        // zeros. That is a torn frame, which open drops, or a whole one, which open accepts though nobody
        // was told. Full disk: cannot be, the blocks are the segment's. EIO, or a short write that cannot go
        // on: the same as a kill.
        write_all(&*self.active_file, &self.buffer, self.active.end).map_err(|source| JournalError::Io {
            action: "write a frame to",
            path: path(),
            source,
        })?;
        // Kill here: as above. Failed sync: the kernel may have dropped the sectors and call its copy clean, so
        // a second sync would lie. Poisoned; open copies what it accepts into a new file and syncs that.
        #[cfg(not(feature = "unsafe-skip-journal-sync"))]
        self.active_file.fdatasync().map_err(|source| JournalError::Io {
            action: "sync a frame in",
            path: path(),
            source,
        })?;
        // Kill from here on: the frame is durable, whether the one who waits hears of it or not.
        self.active.push(number, bytes);
        self.newest = (number, hash);
        self.bytes_since_release += bytes;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(number)
    }

    /// Goes on to the segment that was prepared; its name and its zeros are durable.
    fn next_segment(&mut self) -> Result<(), JournalError> {
        // Full disk while it was prepared: the error comes out here; nothing of this frame was written.
        let (segment, file) = self.attendant.take_prepared()?;
        self.closed.push_back(std::mem::replace(&mut self.active, segment));
        self.active_file = file;
        self.attendant.prepare(self.active.number + 1);
        Ok(())
    }

    fn retire_segments(&mut self, up_to_frame: u64, keep: Keep) -> Result<u64, JournalError> {
        self.attendant.poll()?;
        // The newest frame is in a closed segment right after the writer went on to the next one.
        let (newest, younger_too) = (self.newest.0, keep == Keep::Nothing);
        let releasable = self
            .closed
            .iter()
            .take_while(|segment| segment.last_frame <= up_to_frame && segment.last_frame < newest);
        let (mut going, mut newly) = (0, self.older_generation);
        for segment in releasable {
            if younger_too || segment.number <= self.older_generation {
                going += 1;
            }
            newly = newly.max(segment.number);
        }
        self.older_generation = newly;
        self.bytes_since_release = 0;
        if going > 0 {
            let kept = self.closed.get(going).unwrap_or(&self.active);
            // First HEAD stops to promise them. Kill after this: they are there and need not be.
            self.head.write(Head { kept_from: kept.first_frame, ..self.true_head() })?;
        }
        for segment in self.closed.drain(..going) {
            // Kill between two: the oldest ones are gone, the rest is without a gap.
            let retired = segment::retire(&*self.disk, &self.dir, segment.number)?;
            self.attendant.wipe(retired);
        }
        Ok(going as u64)
    }
}

impl Scan {
    /// Becomes the writer. The segment with the newest frames is copied to a new file that takes its place,
    /// and synced: what was accepted may so far be in the page cache alone, behind a sync that failed. A
    /// torn frame and blank segments go. Afterwards every accepted frame is durable, and `HEAD` says so.
    ///
    /// # Errors
    /// What the system answers. A kill or an error at any step leaves a journal that opens with the same
    /// acknowledged frames.
    pub fn into_writer(self) -> Result<Writer, JournalError> {
        let (disk, dir) = (&*self.disk, &*self.dir);
        if !self.left_over.is_empty() {
            // A segment may have lost its name in the page cache alone. Wiped now, and the name back after a
            // power cut, it would be a blank segment among others.
            disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))?;
        }
        for path in &self.left_over {
            // Kill here: some are left, and the next open goes on.
            segment::wipe(disk, dir, path)?;
        }

        let with_frames = self.segments.partition_point(|segment| segment.end > 0);
        let (full, rest) = self.segments.split_at(with_frames.saturating_sub(1));
        let old = rest.first().copied().unwrap_or_else(|| Segment::blank(1, self.options.segment_bytes));
        // Segments may have been larger when the old one was made.
        let active = Segment { bytes: self.options.segment_bytes.max(old.end), ..old };
        let replaced = match rest.first() {
            Some(_) => Some(segment::open_to_wipe(disk, dir, old.number)?),
            None => None,
        };
        // Kill at any step within: the old file bears the name, or the new one with the same frames, synced.
        let copy = |file: &dyn DiskFile| self.copy_frames(&old, file);
        let active_file = segment::make(disk, dir, active.number, active.bytes, copy)?;
        if let Some(file) = replaced {
            // Kill here: the old file has no name and its bytes may stay in free blocks; nothing else is lost.
            file.wipe()?;
        }

        // Behind it are blank segments, and the first of them may hold the torn frame. Last one first, each
        // synced: never a gap. Kill between: as many fewer, and the torn frame is still the last.
        for (index, segment) in rest.iter().enumerate().skip(1).rev() {
            if index == 1 && self.tail() != Tail::Clean {
                segment::wipe(disk, dir, &segment::retire(disk, dir, segment.number)?)?;
            } else {
                let path = segment::path(dir, segment.number);
                disk.remove(&path).map_err(JournalError::io("remove", &path))?;
                disk.fsync_dir(dir).map_err(JournalError::io("sync", dir))?;
            }
        }

        let (newest, newest_hash) = self.newest;
        let head = Head { newest, newest_hash, clean: false, ..self.head };
        let head = HeadFile::replace(disk, dir, head)?;

        let mut attendant =
            Attendant::start(&self.disk, dir, self.options.segment_bytes, self.options.background)?;
        attendant.prepare(active.number + 1);
        let closed: VecDeque<Segment> = full.iter().copied().collect();
        // What HEAD says is applied was releasable before this process began: without this, processes that make one
        // checkpoint each would never let anything go.
        let older_generation = closed
            .iter()
            .take_while(|segment| segment.last_frame <= self.head.applied)
            .last()
            .map_or(0, |segment| segment.number);
        let bytes_since_release = closed.iter().map(|segment| segment.end).sum::<u64>() + active.end;
        Ok(Writer {
            closed,
            active,
            active_file,
            head,
            newest: self.newest,
            attendant,
            buffer: Vec::with_capacity(SECTOR_BYTES),
            older_generation,
            bytes_since_release,
            poison: None,
            disk: self.disk,
            dir: self.dir,
            options: self.options,
        })
    }

    /// Copies the frames of one segment to another file, each checked once more.
    fn copy_frames(&self, from: &Segment, to: &dyn DiskFile) -> Result<u64, JournalError> {
        let path = segment::path(&self.dir, from.number);
        let frames_of = [*from];
        let mut cursor = self.cursor(if from.end > 0 { &frames_of } else { &[] });
        let mut end = 0;
        while let Some((_, sectors)) = cursor.advance()? {
            write_all(to, sectors, end).map_err(JournalError::io("write the copy of", &path))?;
            end += sectors.len() as u64;
        }
        Ok(end)
    }
}
