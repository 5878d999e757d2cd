//! What is accepted at open. Reads only; modifies nothing.
//!
//! The scan walks all frames from the oldest segment on, each checked in full: sector checks, header, number,
//! hash of the frame before, own hash. Where no frame follows, all that is left must be zeros, or one torn
//! frame. Memory is one read window (256 KiB, or the largest frame) and 40 bytes a segment.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, SystemDisk};
use super::frame::{self, Header, MAX_FRAME_BYTES, SECTOR_BYTES, Sector};
use super::head::{self, Head};
use super::segment::{self, CHUNK_BYTES, RELEASED_SUFFIX, Segment, TEMPORARY_SUFFIX};
use super::{JournalError, Options};
use crate::tlog::hash::Hash;

/// One accepted frame. `Debug` shows the size of its payload, which holds events.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number of the frame, from 1.
    pub number: u64,
    /// Layer it belongs to.
    pub layer: u32,
    /// What was appended.
    pub payload: Vec<u8>,
    /// Hash of the frame.
    pub hash: Hash,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Frame({}, layer {}, {} bytes, {:?})",
            self.number,
            self.layer,
            self.payload.len(),
            self.hash
        )
    }
}

/// How the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole frame, or without any.
    Clean,
    /// With a frame that was on its way when the machine stopped. It was never acknowledged.
    Torn {
        /// Its number.
        frame: u64,
    },
}

/// What was unusual and does no harm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// One slot of `HEAD` is rotten; the other was used and agrees with the frames.
    #[error(
        "journal: slot {slot} of HEAD is not usable ({reason}); the other agrees with the frames and was used"
    )]
    HeadSlot {
        /// 0 or 1.
        slot: u64,
        /// Why.
        reason: &'static str,
    },
    /// A file that is none of the journal's.
    #[error("journal: {0:?} is no file of a journal; it was left alone")]
    UnknownFile(String),
}

/// A journal as it was found, fully checked.
#[derive(Debug)]
pub struct Scan {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) head: Head,
    /// All segment files, oldest first; those without frames come last.
    pub(super) segments: Vec<Segment>,
    /// Newest accepted frame; 0 and zero for none.
    pub(super) newest: (u64, Hash),
    /// Half-made and half-wiped files, for the writer to clear.
    pub(super) left_over: Vec<PathBuf>,
    tail: Tail,
    warnings: Vec<Warning>,
}

impl Scan {
    /// Reads and checks the whole journal in `dir`. Modifies nothing.
    ///
    /// # Errors
    /// [`JournalError::Absent`] when there is no journal; damage, rollback, a missing segment or a useless
    /// `HEAD`, each with its place; what the system answers.
    pub fn read(dir: &Path, options: &Options) -> Result<Scan, JournalError> {
        Scan::read_on(Arc::new(SystemDisk), dir, options)
    }

    /// [`Scan::read`] on another disk than the system's.
    ///
    /// # Errors
    /// As [`Scan::read`].
    pub fn read_on(disk: Arc<dyn Disk>, dir: &Path, options: &Options) -> Result<Scan, JournalError> {
        options.validate()?;
        let listing = Listing::read(&*disk, dir)?;
        let (head, rotten_slot) = match (listing.has_head, listing.segments.is_empty()) {
            (true, _) => head::read(&*disk, dir)?,
            (false, true) => return Err(JournalError::Absent(dir.to_owned())),
            (false, false) => {
                return Err(JournalError::Head("it is missing, though there are segments".into()));
            }
        };
        let mut warnings = listing.warnings;
        warnings.extend(rotten_slot.map(|(slot, reason)| Warning::HeadSlot { slot, reason }));

        let mut walk =
            Walk { disk: &*disk, dir, head: &head, last: None, head_hash: None, tail: Tail::Clean };
        let segments = walk.segments(&listing.segments)?;
        walk.agrees_with_head()?;
        let (newest, tail) = (walk.last.unwrap_or((0, Hash::ZERO)), walk.tail);
        let options = options.clone();
        let (dir, left_over) = (dir.to_owned(), listing.left_over);
        Ok(Scan { disk, dir, options, head, segments, newest, left_over, tail, warnings })
    }

    /// The accepted frames, oldest kept to newest. Each is read and checked again; memory is one frame.
    /// After an error there are no more.
    pub fn frames(&self) -> impl Iterator<Item = Result<Frame, JournalError>> + '_ {
        let mut cursor = Some(self.cursor(&self.segments));
        iter::from_fn(move || {
            let frame = match cursor.as_mut()?.advance() {
                Ok(None) => return None,
                Ok(Some((header, sectors))) => Ok(Frame {
                    number: header.number,
                    layer: header.layer,
                    payload: frame::gather(sectors, header.payload_bytes as usize),
                    hash: header.hash,
                }),
                Err(error) => Err(error),
            };
            if frame.is_err() {
                cursor = None;
            }
            Some(frame)
        })
    }

    /// Number and hash of the newest accepted frame; `None` for an empty journal.
    pub fn newest(&self) -> Option<(u64, Hash)> {
        (self.newest.0 > 0).then_some(self.newest)
    }

    /// Number of the oldest frame kept; `None` for an empty journal.
    pub fn oldest(&self) -> Option<u64> {
        self.segments.first().filter(|segment| segment.end > 0).map(|segment| segment.first_frame)
    }

    /// What `HEAD` says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How the journal ends.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// What was unusual and does no harm; for the log of the operator.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// What lies in the directory.
struct Listing {
    has_head: bool,
    segments: Vec<u64>,
    left_over: Vec<PathBuf>,
    warnings: Vec<Warning>,
}

impl Listing {
    fn read(disk: &dyn Disk, dir: &Path) -> Result<Listing, JournalError> {
        let mut names = match disk.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::Absent(dir.to_owned()));
            }
            listed => listed.map_err(JournalError::io("list", dir))?,
        };
        names.sort_unstable();
        let mut listing =
            Listing { has_head: false, segments: Vec::new(), left_over: Vec::new(), warnings: Vec::new() };
        for name in names {
            if name == head::FILE_NAME {
                listing.has_head = true;
            } else if let Some(number) = segment::parse_name(&name) {
                listing.segments.push(number);
            } else if [TEMPORARY_SUFFIX, RELEASED_SUFFIX, head::TEMPORARY_NAME]
                .iter()
                .any(|end| name.ends_with(end))
            {
                listing.left_over.push(dir.join(name));
            } else {
                listing.warnings.push(Warning::UnknownFile(name));
            }
        }
        listing.segments.sort_unstable();
        match listing.segments.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            Some(pair) => Err(JournalError::MissingSegment { missing: pair[0] + 1 }),
            None => Ok(listing),
        }
    }
}

/// The walk of one scan over all segments.
struct Walk<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    head: &'a Head,
    last: Option<(u64, Hash)>,
    /// Hash of the frame that `HEAD` calls the newest, once passed.
    head_hash: Option<Hash>,
    tail: Tail,
}

impl Walk<'_> {
    fn segments(&mut self, numbers: &[u64]) -> Result<Vec<Segment>, JournalError> {
        let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let mut window = Window::open(self.disk, self.dir, number)?;
            let mut found = Segment::blank(number, window.bytes);
            // The writer fills a segment before it uses the next, and stops at a torn frame: behind an empty
            // segment or a torn frame there are only zeros.
            let ended = self.tail != Tail::Clean || segments.last().is_some_and(|before| before.end == 0);
            if ended {
                window.demand_blank(0, self.expected())?;
            } else {
                self.one_segment(&mut window, &mut found)?;
            }
            segments.push(found);
        }
        Ok(segments)
    }

    fn one_segment(&mut self, window: &mut Window, found: &mut Segment) -> Result<(), JournalError> {
        while found.end < window.bytes {
            // HEAD bounds the number of the oldest frame: those before `kept_from` may be gone, no others.
            let after = self.last.map_or(After::Unknown { at_most: self.head.kept_from }, After::from);
            match window.step(found.end, after)? {
                Step::Frame(header) => {
                    if header.number == self.head.newest {
                        self.head_hash = Some(header.hash);
                    }
                    self.last = Some((header.number, header.hash));
                    found.push(header.number, header.bytes() as u64);
                }
                Step::Torn { bytes } => {
                    window.demand_blank(found.end + bytes, self.expected())?;
                    self.tail = Tail::Torn { frame: self.expected() };
                    return Ok(());
                }
                Step::Blank => {
                    if window.rest_is_torn(found.end, self.expected())? {
                        self.tail = Tail::Torn { frame: self.expected() };
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Number of the frame that would come next.
    fn expected(&self) -> u64 {
        self.last.map_or(1, |(number, _)| number + 1)
    }

    fn agrees_with_head(&self) -> Result<(), JournalError> {
        let head = self.head;
        let newest = self.last.map_or(0, |(number, _)| number);
        if head.newest > 0 && self.head_hash != Some(head.newest_hash) {
            return Err(JournalError::Rollback {
                head: head.newest,
                expected: head.newest_hash.to_string(),
                found: match self.head_hash {
                    Some(hash) => format!("frame {} with hash {hash}", head.newest),
                    None => format!("frames up to {newest}"),
                },
            });
        }
        if head.clean && (newest != head.newest || self.tail != Tail::Clean) {
            let what = if self.tail == Tail::Clean { "more frames" } else { "a torn frame" };
            return Err(JournalError::Head(format!(
                "it says that the journal was stopped cleanly at frame {}, but there is {what} behind",
                head.newest
            )));
        }
        Ok(())
    }
}

/// What is known of the frame before.
#[derive(Clone, Copy)]
enum After {
    /// This one.
    Frame { number: u64, hash: Hash },
    /// Nothing: the next frame is the oldest kept, and its number is 1 to `at_most`.
    Unknown { at_most: u64 },
}

impl From<(u64, Hash)> for After {
    fn from((number, hash): (u64, Hash)) -> After {
        After::Frame { number, hash }
    }
}

/// What stands where a frame may stand.
enum Step {
    Frame(Header),
    /// The first sector is zero.
    Blank,
    /// A frame of this extent with sectors missing.
    Torn {
        bytes: u64,
    },
}

/// Reads one segment, ahead, and knows what its sectors mean.
struct Window {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    segment: u64,
    /// Length of the file.
    bytes: u64,
    /// Content of the file from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl Window {
    fn open(disk: &dyn Disk, dir: &Path, segment: u64) -> Result<Window, JournalError> {
        let path = segment::path(dir, segment);
        let file = disk.open(&path, false).map_err(JournalError::io("open", &path))?;
        let bytes = file.len().map_err(JournalError::io("read the length of", &path))?;
        let window = Window { file, path, segment, bytes, buffer: Vec::new(), start: 0 };
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(window.damaged(bytes, 0, "whole sectors", format!("a length of {bytes} bytes")));
        }
        Ok(window)
    }

    /// The bytes at `offset`, which lie within the file.
    fn slice(&mut self, offset: u64, bytes: usize) -> Result<&mut [u8], JournalError> {
        let held = self.start..self.start + self.buffer.len() as u64;
        if offset < held.start || offset + bytes as u64 > held.end {
            let ahead = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            self.buffer.resize(bytes.max(ahead), 0);
            self.start = offset;
            segment::read_exact(&*self.file, &mut self.buffer, offset)
                .map_err(JournalError::io("read", &self.path))?;
        }
        let at = usize::try_from(offset - self.start).expect("within the buffer");
        Ok(&mut self.buffer[at..at + bytes])
    }

    /// What stands at `offset`.
    fn step(&mut self, offset: u64, after: After) -> Result<Step, JournalError> {
        let first = self.slice(offset, SECTOR_BYTES)?;
        let number = match after {
            After::Frame { number, .. } => number + 1,
            After::Unknown { .. } => frame::claimed_number(first),
        };
        match frame::classify(first, number, 0) {
            Sector::Blank => return Ok(Step::Blank),
            Sector::Sound => {}
            Sector::Bad => {
                let found = "a sector whose check fails".into();
                return Err(self.damaged(offset, number, "the first sector of the frame, or zeros", found));
            }
        }
        let parsed = frame::parse_header(first);
        let header = parsed.map_err(|(expected, found)| self.damaged(offset, number, &expected, found))?;
        if header.number != number {
            return Err(self.damaged(offset, number, "its number", header.number.to_string()));
        }
        let previous = match after {
            After::Unknown { at_most } if !(1..=at_most).contains(&number) => {
                let expected = format!("a frame from 1 to {at_most}: HEAD says that frame is kept");
                return Err(self.damaged(offset, number, &expected, format!("frame {number}")));
            }
            // Nothing foretells what the oldest frame kept refers to, unless it is the first of all.
            After::Unknown { .. } if number > 1 => header.previous,
            After::Unknown { .. } => Hash::ZERO,
            After::Frame { hash, .. } => hash,
        };
        if previous != header.previous {
            let expected = format!("the hash of the frame before, {previous}");
            return Err(self.damaged(offset, number, &expected, header.previous.to_string()));
        }
        if header.bytes() as u64 > self.bytes - offset {
            let found = format!("{} bytes, of which {} fit", header.bytes(), self.bytes - offset);
            return Err(self.damaged(offset, number, "a frame within the segment", found));
        }
        self.sectors_of(offset, &header)
    }

    /// Checks all sectors of a frame whose first one is sound.
    fn sectors_of(&mut self, offset: u64, header: &Header) -> Result<Step, JournalError> {
        let sectors = self.slice(offset, header.bytes())?;
        let mut missing = false;
        for (index, sector) in (0..).zip(sectors.chunks_exact(SECTOR_BYTES)) {
            match frame::classify(sector, header.number, index) {
                Sector::Sound => {}
                Sector::Blank => missing = true,
                Sector::Bad => {
                    let at = offset + u64::from(index) * SECTOR_BYTES as u64;
                    let expected = format!("sector {index} of the frame, or zeros");
                    return Err(self.damaged(
                        at,
                        header.number,
                        &expected,
                        "a sector whose check fails".into(),
                    ));
                }
            }
        }
        if missing {
            return Ok(Step::Torn { bytes: header.bytes() as u64 });
        }
        let hash = frame::hash(sectors);
        if hash != header.hash {
            let expected = format!("bytes with the hash {}", header.hash);
            return Err(self.damaged(offset, header.number, &expected, hash.to_string()));
        }
        Ok(Step::Frame(*header))
    }

    /// Behind the last frame, at a sector of zeros: whether sectors of the next frame lie there. Whatever
    /// is not zero must be one of them.
    fn rest_is_torn(&mut self, offset: u64, number: u64) -> Result<bool, JournalError> {
        let mut torn = false;
        self.each_written_sector(offset, |window, at, sector| {
            let index = (at - offset) / SECTOR_BYTES as u64;
            let sound =
                u32::try_from(index).is_ok_and(|i| frame::classify(sector, number, i) == Sector::Sound);
            if !sound || at - offset >= MAX_FRAME_BYTES as u64 {
                let found = "a sector that is neither".into();
                return Err(window.damaged(at, number, "zeros, or sectors of the next frame", found));
            }
            torn = true;
            Ok(())
        })?;
        Ok(torn)
    }

    /// From `offset` on there must be zeros; `number` is the frame that would come next.
    fn demand_blank(&mut self, offset: u64, number: u64) -> Result<(), JournalError> {
        self.each_written_sector(offset, |window, at, _| {
            Err(window.damaged(at, number, "zeros behind the end of the journal", "a written sector".into()))
        })
    }

    fn each_written_sector(
        &mut self,
        offset: u64,
        mut visit: impl FnMut(&Window, u64, &[u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let mut piece = vec![0; CHUNK_BYTES];
        let mut at = offset;
        while at < self.bytes {
            let now = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let piece = &mut piece[..now];
            segment::read_exact(&*self.file, piece, at).map_err(JournalError::io("read", &self.path))?;
            for (index, sector) in (0u64..).zip(piece.chunks_exact(SECTOR_BYTES)) {
                if !frame::is_blank(sector) {
                    visit(self, at + index * SECTOR_BYTES as u64, sector)?;
                }
            }
            at += now as u64;
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, frame: u64, expected: &str, found: String) -> JournalError {
        JournalError::Damaged { segment: self.segment, offset, frame, expected: expected.to_owned(), found }
    }
}

/// The accepted frames of some segments, read and checked again.
pub(super) struct Cursor<'a> {
    scan: &'a Scan,
    segments: std::slice::Iter<'a, Segment>,
    window: Option<(Window, Segment)>,
    offset: u64,
    last: Option<(u64, Hash)>,
}

impl Scan {
    /// A cursor over the frames of `segments`, which are some of this scan's.
    pub(super) fn cursor<'a>(&'a self, segments: &'a [Segment]) -> Cursor<'a> {
        Cursor { scan: self, segments: segments.iter(), window: None, offset: 0, last: None }
    }
}

impl Cursor<'_> {
    /// The next frame and its sectors; `None` after the last one.
    pub(super) fn advance(&mut self) -> Result<Option<(Header, &mut [u8])>, JournalError> {
        while self.window.as_ref().is_none_or(|(_, segment)| self.offset >= segment.end) {
            let Some(segment) = self.segments.next() else { return Ok(None) };
            self.window = Some((Window::open(&*self.scan.disk, &self.scan.dir, segment.number)?, *segment));
            self.offset = 0;
        }
        let Some((window, segment)) = &mut self.window else { return Ok(None) };
        let at = self.offset;
        let expected = self.last.map_or(segment.first_frame, |(number, _)| number + 1);
        let after = self.last.map_or(After::Unknown { at_most: expected }, After::from);
        match window.step(at, after)? {
            Step::Frame(header) if header.number == expected => {
                self.offset += header.bytes() as u64;
                self.last = Some((header.number, header.hash));
                Ok(Some((header, window.slice(at, header.bytes())?)))
            }
            _ => {
                let found = "something else than a moment ago".into();
                Err(window.damaged(at, expected, "the frame that was accepted there", found))
            }
        }
    }
}
