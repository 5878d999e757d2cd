//! Every answer as it came, kept until the clock has stopped. Bounded memory, then a bounded temporary file.
//!
//! An answer stands in a chunk as its request's number (8 bytes, big-endian), its length (4 bytes) and its bytes.
//! Chunks hold whole answers, so that each can be checked on its own.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes of a chunk; a longer answer has one of its own.
const CHUNK_BYTES: usize = 4 << 20;

/// Bytes before each answer.
const FRAME_BYTES: usize = 12;

/// Bytes of answers in memory unless another bound is given.
pub const MEMORY_BYTES: usize = 512 << 20;

/// Bytes of answers in the file at most. 16 GiB are 25 million receipts.
pub const FILE_BYTES: u64 = 16 << 30;

/// Answers in the order in which they came.
pub struct Kept {
    full: Vec<Place>,
    open: Vec<u8>,
    memory_bytes: usize,
    max_memory_bytes: usize,
    file: Option<File>,
    file_bytes: u64,
    answers: u64,
}

enum Place {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

impl Kept {
    /// Nothing kept yet; `max_memory_bytes` stay in memory.
    pub fn new(max_memory_bytes: usize) -> Kept {
        Kept {
            full: Vec::new(),
            open: Vec::new(),
            memory_bytes: 0,
            max_memory_bytes,
            file: None,
            file_bytes: 0,
            answers: 0,
        }
    }

    /// Keeps the answer to request `number`.
    ///
    /// # Errors
    /// The temporary file cannot be written, or its bound is reached: an answer that is not kept cannot be checked.
    pub fn push(&mut self, number: u64, raw: &[u8]) -> io::Result<()> {
        let needed = FRAME_BYTES + raw.len();
        if self.open.len() + needed > self.open.capacity() {
            self.close_chunk()?;
            self.open = Vec::with_capacity(CHUNK_BYTES.max(needed));
        }
        let length = u32::try_from(raw.len()).map_err(io::Error::other)?;
        self.open.extend_from_slice(&number.to_be_bytes());
        self.open.extend_from_slice(&length.to_be_bytes());
        self.open.extend_from_slice(raw);
        self.answers += 1;
        Ok(())
    }

    /// Answers kept.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Bytes that went to the temporary file.
    pub fn spilled_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Chunks to look at with [`Kept::chunk`]; the last may be empty.
    pub fn chunks(&self) -> usize {
        self.full.len() + 1
    }

    /// The bytes of a chunk, read back from the file if they went there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&self, nth: usize) -> io::Result<Cow<'_, [u8]>> {
        match self.full.get(nth) {
            None => Ok(Cow::Borrowed(&self.open)),
            Some(Place::Memory(bytes)) => Ok(Cow::Borrowed(bytes)),
            Some(&Place::File { offset, length }) => {
                let mut bytes = vec![0; length];
                let file =
                    self.file.as_ref().ok_or_else(|| io::Error::other("the file of answers is gone"))?;
                file.read_exact_at(&mut bytes, offset)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    fn close_chunk(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.open);
        if self.memory_bytes + chunk.capacity() <= self.max_memory_bytes {
            self.memory_bytes += chunk.capacity();
            self.full.push(Place::Memory(chunk));
            return Ok(());
        }
        if self.file_bytes + chunk.len() as u64 > FILE_BYTES {
            return Err(io::Error::other("over 16 GiB of answers; make the run shorter"));
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all_at(&chunk, self.file_bytes)?;
        self.full.push(Place::File { offset: self.file_bytes, length: chunk.len() });
        self.file_bytes += chunk.len() as u64;
        Ok(())
    }
}

/// The answers of a chunk: number of the request, raw answer.
pub fn answers(mut chunk: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (number, rest) = chunk.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (raw, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        chunk = rest;
        Some((u64::from_be_bytes(*number), raw))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_from_memory_and_file() {
        for max_memory_bytes in [0, CHUNK_BYTES, usize::MAX] {
            let mut kept = Kept::new(max_memory_bytes);
            let mut sent = Vec::new();
            for number in 0..30 {
                let length = if number == 7 { CHUNK_BYTES + 5 } else { 700_000 };
                let raw = vec![u8::try_from(number).unwrap(); length];
                kept.push(number, &raw).unwrap();
                sent.push((number, raw));
            }
            assert_eq!(kept.spilled_bytes() > 0, max_memory_bytes < usize::MAX);
            assert_eq!(kept.answers(), 30);
            let mut found = Vec::new();
            for nth in 0..kept.chunks() {
                let chunk = kept.chunk(nth).unwrap();
                found.extend(answers(&chunk).map(|(number, raw)| (number, raw.to_vec())));
            }
            assert!(found == sent);
        }
    }
}
