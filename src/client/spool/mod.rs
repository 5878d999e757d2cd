//! Events on disk while the server is away: bounded, append-only, one process (docs/format/spool.md).
//!
//! A directory (0700) of segments (0600). Events are appended to the newest segment and sent from the oldest; a segment
//! goes when all of its events are answered. How far a segment was sent is not written down: after a restart what is
//! left of it is sent again, with the same ids, and the log has it once. A segment is never appended to by another
//! process than the one that made it.
//!
//! What a kill or a power cut leaves after each step, and what the next start makes of it:
//!
//! | after | on disk | at the next start |
//! |---|---|---|
//! | directory made | nothing else | the same |
//! | segment made | an empty file | removed: no event is in it |
//! | its first frame, the tenant, written in part | a torn frame | removed: no event is in it |
//! | events written in part | whole frames, then a torn one (a power cut: any of what was not synced) | the torn tail is cut, every whole frame is sent |
//! | events written | a kill loses nothing; a power cut what was not synced | sent |
//! | file synced, directory not | only a new segment: the file may be unnamed | nothing was promised yet: `record_durable` returns after both |
//! | both synced | all of it | sent |
//! | sent, answer lost | all of it | sent again, known by its ids |
//! | answered, segment not removed | all of it | sent again, known by its ids |
//! | segment removed | nothing | nothing to do |
//!
//! After a sync that failed nothing more is written here: what the disk then has is not known. What is there is sent.

mod frame;
mod options;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use frame::{Frames, Kind, encode, framed_bytes};
pub use options::{SpoolError, SpoolOptions, SpoolSync};

/// Bytes of a segment, after which the next one begins; of a small spool a quarter of it.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Smallest bound of a spool: four segments that each hold an event of 64 KiB.
pub(super) const MIN_BYTES: u64 = 512 * 1024;

/// Longest segment that is read: no segment grows past [`SEGMENT_BYTES`] and one event.
const MAX_READ_BYTES: u64 = SEGMENT_BYTES + (1 << 17);

const LOCK_FILE: &str = "lock";
const SUFFIX: &str = ".spool";
const DAMAGED: &str = "damaged";

/// An open spool.
pub(super) struct Spool {
    dir: PathBuf,
    directory: Arc<File>,
    _lock: File,
    tenant: String,
    max_bytes: u64,
    segment_bytes: u64,
    /// Oldest first. The newest is the writer's, where there is one.
    segments: VecDeque<Segment>,
    next_number: u64,
    writer: Option<Arc<File>>,
    /// Where the first event that is not answered stands in the oldest segment, or before.
    front_at: u64,
    /// The last answer of [`Spool::front`]: how many events, and where the byte after them stands.
    peeked: Option<(usize, u64)>,
    /// Bytes appended by this process, and how many of the first of them are on the disk.
    appended_bytes: u64,
    synced_bytes: u64,
    /// Files with bytes that are not synced.
    unsynced: Vec<Unsynced>,
    /// Segments made by this process, and how many of the first of them have a durable name.
    segments_made: u64,
    segments_named: u64,
    has_failed: bool,
    /// Bytes that were in segments and in no whole frame, torn tails left out.
    pub(super) damaged_bytes: u64,
    /// Events lost to them; at least, where a segment was written by an earlier process.
    pub(super) lost_events: u64,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// Events in it that are not answered.
    events: u64,
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    file: Arc<File>,
    /// [`Spool::appended_bytes`] after the last write to it.
    through_bytes: u64,
}

/// What must reach the disk for all that was appended so far to be durable.
pub(super) struct ToSync {
    files: Vec<Unsynced>,
    directory: Option<Arc<File>>,
    through_bytes: u64,
    segments_made: u64,
}

/// Why a segment that an earlier process left is not taken over.
enum Taking {
    Io(io::Error),
    OtherTenant(String),
}

impl ToSync {
    /// Waits for the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|unsynced| unsynced.file.sync_data())?;
        self.directory.as_ref().map_or(Ok(()), |directory| directory.sync_all())
    }
}

impl Spool {
    /// Opens or makes the spool of `tenant` and takes its lock. Torn tails are cut.
    pub(super) fn open(options: &SpoolOptions, tenant: &str) -> Result<Spool, SpoolError> {
        if options.max_bytes < MIN_BYTES {
            return Err(SpoolError::TooSmall);
        }
        let dir = options.dir.clone();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed(&dir))?;
        let directory = Arc::new(File::open(&dir).map_err(failed(&dir))?);
        let lock = lock(&dir)?;
        let mut spool = Spool {
            directory,
            _lock: lock,
            tenant: tenant.to_owned(),
            max_bytes: options.max_bytes,
            segment_bytes: SEGMENT_BYTES.min(options.max_bytes / 4),
            segments: VecDeque::new(),
            next_number: 1,
            writer: None,
            front_at: 0,
            peeked: None,
            appended_bytes: 0,
            synced_bytes: 0,
            unsynced: Vec::new(),
            segments_made: 0,
            segments_named: 0,
            has_failed: false,
            damaged_bytes: 0,
            lost_events: 0,
            dir,
        };
        let numbers = numbers(&spool.dir).map_err(failed(&spool.dir))?;
        spool.next_number = numbers.last().map_or(1, |last| last + 1);
        for number in &numbers {
            let path = spool.path(*number);
            spool.take_over(*number).map_err(|error| match error {
                Taking::Io(source) => SpoolError::Io { path, source },
                Taking::OtherTenant(tenant) => SpoolError::OtherTenant { dir: spool.dir.clone(), tenant },
            })?;
        }
        Ok(spool)
    }

    /// The spool's directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Events that are not answered.
    pub(super) fn events(&self) -> u64 {
        self.segments.iter().map(|segment| segment.events).sum()
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether `events` fit, all of them.
    pub(super) fn has_room_for(&self, events: &[Arc<str>]) -> bool {
        let more: usize = events.iter().map(|event| framed_bytes(event)).sum();
        // Each segment that they may begin has the tenant in front.
        let heads = (more as u64 / self.segment_bytes + 2) * framed_bytes(&self.tenant) as u64;
        self.bytes() + more as u64 + heads <= self.max_bytes
    }

    /// Appends as many of `events` as there is room for, in order, and says how many. They are in the file, not yet on
    /// the disk: [`Spool::to_sync`].
    ///
    /// # Errors
    /// When the file system refuses and nothing was appended.
    pub(super) fn append(&mut self, events: &[Arc<str>]) -> Result<usize, SpoolError> {
        if self.has_failed {
            return Err(SpoolError::SyncFailed);
        }
        let mut written = 0;
        while written < events.len() {
            let outcome = self.append_to_one(&events[written..]);
            match outcome {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(source) if written == 0 => return Err(SpoolError::Io { path: self.dir.clone(), source }),
                // What was written before is in the file and is counted; the next call meets the fault again.
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// The oldest events that are not answered: at most `max_events` and `max_bytes` of them, at least one if there is
    /// one. They stay until [`Spool::answered`]. A segment that the disk does not give back is put aside, and its events
    /// are counted as lost.
    ///
    /// # Errors
    /// When the segment cannot be read now, and may be later.
    pub(super) fn front(&mut self, max_events: usize, max_bytes: usize) -> io::Result<Vec<Arc<str>>> {
        loop {
            let Some(segment) = self.segments.front() else { return Ok(Vec::new()) };
            let (number, expected) = (segment.number, segment.events);
            let bytes = match read_from(&self.path(number), self.front_at) {
                Ok(bytes) => bytes,
                Err(error) if is_gone(&error) => {
                    self.lost_events += expected;
                    let path = self.path(number);
                    // It may be gone altogether.
                    let _ = fs::rename(&path, path.with_extension(DAMAGED));
                    self.remove_front();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut frames = Frames::of(&bytes);
            let mut events: Vec<Arc<str>> = Vec::new();
            let (mut taken_bytes, mut end, mut is_cut) = (0, 0, false);
            for frame in frames.by_ref() {
                if frame.kind == Kind::Event {
                    let is_full = events.len() == max_events || taken_bytes + frame.payload.len() > max_bytes;
                    if is_full && !events.is_empty() {
                        is_cut = true;
                        break;
                    }
                    taken_bytes += frame.payload.len() + 1;
                    events.push(frame.payload.into());
                }
                end = frame.end;
            }
            let found = events.len() as u64;
            if !is_cut && found < expected {
                // The disk lost what was written. What is left is sent; what is gone is counted.
                self.damaged_bytes += frames.damaged_bytes as u64;
                self.lost_events += expected - found;
            }
            // More than expected: a write that failed left whole frames that could not be cut off. They are sent, and
            // sent again from the queue, and the log has them once.
            self.set_front_events(if is_cut { expected.max(found + 1) } else { found });
            if found > 0 {
                self.peeked = Some((events.len(), self.front_at + end as u64));
                return Ok(events);
            }
            self.remove_front();
        }
    }

    /// The first `count` events are answered, for good or ill.
    ///
    /// # Errors
    /// When a segment cannot be read; then its events are sent again.
    pub(super) fn answered(&mut self, count: usize) -> io::Result<()> {
        let peeked = self.peeked.take();
        let mut left = count as u64;
        while left > 0 {
            let Some(segment) = self.segments.front() else { return Ok(()) };
            if left >= segment.events {
                left -= segment.events;
                self.remove_front();
                continue;
            }
            let (number, events) = (segment.number, segment.events);
            self.front_at = match peeked {
                Some((seen, end)) if seen == count && left == count as u64 => end,
                _ => {
                    let bytes = read_from(&self.path(number), self.front_at)?;
                    let mut frames = Frames::of(&bytes).filter(|frame| frame.kind == Kind::Event);
                    let last = frames.nth(usize::try_from(left - 1).unwrap_or(usize::MAX));
                    self.front_at + last.map_or(bytes.len(), |frame| frame.end) as u64
                }
            };
            self.set_front_events(events - left);
            left = 0;
        }
        Ok(())
    }

    /// What must be synced for all that was appended to be durable; `None` where it is.
    pub(super) fn to_sync(&self) -> Option<ToSync> {
        (!self.unsynced.is_empty()).then(|| ToSync {
            files: self.unsynced.clone(),
            directory: (self.segments_named < self.segments_made).then(|| Arc::clone(&self.directory)),
            through_bytes: self.appended_bytes,
            segments_made: self.segments_made,
        })
    }

    /// Bytes appended by this process so far: a place to ask [`Spool::is_durable`] about.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Whether the first `bytes` appended are on the disk, or were answered.
    pub(super) fn is_durable(&self, bytes: u64) -> bool {
        self.synced_bytes >= bytes || self.unsynced.is_empty()
    }

    /// Whether a sync has failed: nothing is appended any more, and nothing that was not durable becomes it.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// What came of a sync. What was appended since it began is not part of it.
    pub(super) fn was_synced(&mut self, what: &ToSync, outcome: &io::Result<()>) {
        if outcome.is_err() {
            self.has_failed = true;
            return;
        }
        self.synced_bytes = self.synced_bytes.max(what.through_bytes);
        self.unsynced.retain(|unsynced| unsynced.through_bytes > what.through_bytes);
        self.segments_named = self.segments_named.max(what.segments_made);
    }

    /// Appends what one segment takes of `events`.
    fn append_to_one(&mut self, events: &[Arc<str>]) -> io::Result<usize> {
        let Some(first) = events.first() else { return Ok(0) };
        let Some((file, room)) = self.writable(framed_bytes(first) as u64)? else { return Ok(0) };
        let Some(last) = self.segments.back_mut() else { return Ok(0) };
        let (mut bytes, mut count) = (Vec::new(), 0);
        for event in events {
            let is_full = last.bytes + bytes.len() as u64 >= self.segment_bytes;
            if is_full || (bytes.len() + framed_bytes(event)) as u64 > room {
                break;
            }
            encode(Kind::Event, event, &mut bytes);
            count += 1;
        }
        if let Err(error) = (&*file).write_all(&bytes) {
            // A torn frame is no harm to the reader; but it takes room, so it is cut off, or the segment is left.
            if file.set_len(last.bytes).is_err() {
                self.writer = None;
            }
            return Err(error);
        }
        last.bytes += bytes.len() as u64;
        last.events += count as u64;
        let number = last.number;
        self.appended_bytes += bytes.len() as u64;
        self.unsynced.retain(|unsynced| unsynced.number != number);
        self.unsynced.push(Unsynced { number, file, through_bytes: self.appended_bytes });
        Ok(count)
    }

    /// The file to append to and the bytes it may take; makes a segment where the newest is full or not ours. `None`
    /// where there is no room for `first_bytes`.
    fn writable(&mut self, first_bytes: u64) -> io::Result<Option<(Arc<File>, u64)>> {
        let room = self.max_bytes.saturating_sub(self.bytes());
        if let (Some(writer), Some(last)) = (&self.writer, self.segments.back())
            && last.bytes < self.segment_bytes
        {
            return Ok((first_bytes <= room).then(|| (Arc::clone(writer), room)));
        }
        let mut head = Vec::new();
        encode(Kind::Tenant, &self.tenant, &mut head);
        if head.len() as u64 + first_bytes > room {
            return Ok(None);
        }
        let path = self.path(self.next_number);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        let number = self.next_number;
        self.next_number += 1;
        self.segments_made += 1;
        if let Err(error) = (&file).write_all(&head) {
            // Without its tenant it is no segment; the next start removes it if this cannot.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let file = Arc::new(file);
        self.writer = Some(Arc::clone(&file));
        self.segments.push_back(Segment { number, bytes: head.len() as u64, events: 0 });
        Ok(Some((file, room - head.len() as u64)))
    }

    /// Takes over a segment that an earlier process left.
    fn take_over(&mut self, number: u64) -> Result<(), Taking> {
        let path = self.path(number);
        let bytes = read_from(&path, 0).map_err(Taking::Io)?;
        let mut frames = Frames::of(&bytes);
        let (mut tenant, mut events, mut end) = (None, 0_u64, 0);
        let (mut damaged_bytes, mut damaged_places) = (0, 0);
        while let Some(frame) = frames.next() {
            match frame.kind {
                Kind::Tenant => tenant = tenant.or(Some(frame.payload)),
                Kind::Event => events += 1,
            }
            end = frame.end;
            (damaged_bytes, damaged_places) = (frames.damaged_bytes, frames.damaged_places);
        }
        if let Some(tenant) = tenant.filter(|tenant| *tenant != self.tenant) {
            return Err(Taking::OtherTenant(tenant.to_owned()));
        }
        self.damaged_bytes += damaged_bytes as u64;
        self.lost_events += damaged_places as u64;
        if tenant.is_none() && events > 0 {
            // Whose events they are is not known any more. They are put aside for a person to look at.
            self.lost_events += events;
            return fs::rename(&path, path.with_extension(DAMAGED)).map_err(Taking::Io);
        }
        if events == 0 {
            return fs::remove_file(&path).map_err(Taking::Io);
        }
        if end < bytes.len() {
            let file = OpenOptions::new().write(true).open(&path).map_err(Taking::Io)?;
            file.set_len(end as u64).map_err(Taking::Io)?;
        }
        self.segments.push_back(Segment { number, bytes: end as u64, events });
        Ok(())
    }

    fn set_front_events(&mut self, events: u64) {
        if let Some(segment) = self.segments.front_mut() {
            segment.events = events;
        }
    }

    /// Removes the oldest segment. Where the file cannot be removed, the next start sends it again.
    fn remove_front(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        let _ = fs::remove_file(self.path(segment.number));
        self.unsynced.retain(|unsynced| unsynced.number != segment.number);
        if self.segments.is_empty() {
            self.writer = None;
        }
        self.front_at = 0;
        self.peeked = None;
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}{SUFFIX}"))
    }
}

/// Takes the lock of `dir`, without waiting. The kernel drops it with its holder.
fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join(LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| SpoolError::Io { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(SpoolError::Held(dir.to_owned())),
        Err(errno) => Err(SpoolError::Io { path, source: errno.into() }),
    }
}

/// Numbers of the segments in `dir`, ascending.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether trying again would meet the same: the file is not there, is no segment, or its sectors are bad.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// The bytes of a segment from `at` to its end.
fn read_from(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_READ_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any segment"));
    }
    Ok(bytes)
}
