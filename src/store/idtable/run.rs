//! One run: a sorted, immutable file of entries with its filter behind them.
//!
//! Blocks of 4,096 bytes hold 163 entries of 25 bytes, a checksum each, bound to the run's number and
//! the block's place; then the three sections of the filter; then a footer whose digest covers filter
//! and footer and is repeated in the manifest. Filter and footer are checked at open, a block each time
//! it is read. docs/format/idtable.md has the bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk;
use super::error::{IdTableError, damaged, io_error};
use super::filter::{Filter, FilterBuilder, groups_of, section_bytes, to_usize};
use super::manifest::RunRecord;
use super::{Location, RUN_ENTRIES_MAX, Token};

/// One (token, location), ordered as its 25 bytes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The 16 bytes of the token, big-endian.
    pub(super) token: u128,
    pub(super) log: u32,
    pub(super) index: u64,
}

impl Entry {
    pub(super) fn new(token: &Token, location: Location) -> Entry {
        Entry { token: u128::from_be_bytes(*token), log: location.log, index: location.index }
    }

    pub(super) fn location(&self) -> Location {
        Location { log: self.log, index: self.index }
    }

    /// The token's first 8 bytes, which place it in a filter.
    pub(super) fn head(&self) -> u64 {
        (self.token >> 64) as u64
    }

    fn encode(&self, bytes: &mut [u8; ENTRY_BYTES]) {
        bytes[..16].copy_from_slice(&self.token.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.log.to_be_bytes());
        bytes[20..].copy_from_slice(&self.index.to_be_bytes()[3..]);
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        fn number(bytes: &[u8]) -> u64 {
            bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
        }
        let (token, location) = bytes.split_at(16);
        Entry {
            token: u128::from(number(&token[..8])) << 64 | u128::from(number(&token[8..])),
            log: location[..4].iter().fold(0, |number, &byte| number << 8 | u32::from(byte)),
            index: number(&location[4..]),
        }
    }
}

/// The entries of a run file, whether its filter is loaded or not.
struct Data {
    file: File,
    path: PathBuf,
    entries: u64,
    /// CRC32C of what stands before a block number in each block's checksum.
    seed: u32,
}

impl Data {
    fn new(file: File, path: PathBuf, number: u64, entries: u64) -> Data {
        let seed = crc32c::crc32c_append(crc32c::crc32c(BLOCK_MAGIC), &number.to_be_bytes());
        Data { file, path, entries, seed }
    }

    fn block_count(&self) -> u64 {
        self.entries.div_ceil(BLOCK_ENTRIES as u64)
    }

    fn checksum(&self, block: u64, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &block.to_be_bytes()), body)
    }

    /// Fills `blocks` with the blocks from `first` on and checks each.
    fn read(&self, first: u64, blocks: &mut [u8]) -> Result<(), IdTableError> {
        read_exact(&self.file, &self.path, blocks, first * BLOCK_BYTES as u64)?;
        for (block, bytes) in (first..).zip(blocks.as_chunks::<BLOCK_BYTES>().0) {
            let (body, checksum) = bytes.split_at(BLOCK_BYTES - 4);
            if self.checksum(block, body).to_be_bytes() != *checksum {
                return Err(damaged(&self.path, block * BLOCK_BYTES as u64, "a block fails its checksum"));
            }
        }
        Ok(())
    }
}

/// A live run.
pub(super) struct Run {
    data: Data,
    number: u64,
    digest: [u8; 32],
    filter: Filter,
}

impl Run {
    /// The name of a run's file.
    pub(super) fn name(number: u64) -> String {
        format!("{number:016x}.run")
    }

    /// Whether a file name is one that [`Self::name`] makes.
    pub(super) fn is_name(name: &str) -> bool {
        name.strip_suffix(".run").is_some_and(|digits| {
            digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        })
    }

    /// Opens the file that the manifest names, checks its length, footer and filter, loads the filter.
    pub(super) fn open(directory: &Path, record: &RunRecord) -> Result<Run, IdTableError> {
        let path = directory.join(Run::name(record.number));
        let file = File::open(&path).map_err(io_error("open", &path))?;
        // A hint: blocks are read one by one, so reading ahead is waste. Without it all still works.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        if record.entries == 0 || record.entries > RUN_ENTRIES_MAX {
            return Err(damaged(&path, 0, "the manifest gives it an impossible number of entries"));
        }
        let data = Data::new(file, path, record.number, record.entries);
        let groups = groups_of(record.entries);
        let (filter, digest) = load_filter(&data, record.number, groups)?;
        if digest != record.digest {
            return Err(damaged(
                &data.path,
                filter_offset(&data),
                "the file is not the one that the manifest names",
            ));
        }
        Ok(Run { data, number: record.number, digest, filter })
    }

    pub(super) fn record(&self) -> RunRecord {
        RunRecord { number: self.number, entries: self.data.entries, digest: self.digest }
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(super) fn path(&self) -> &Path {
        &self.data.path
    }

    pub(super) fn entries(&self) -> u64 {
        self.data.entries
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        file_bytes(&self.data, self.filter.groups())
    }

    /// Appends the locations of the token. Reads the one or two blocks where its entries must be, and
    /// nothing when the filter says that there are none.
    pub(super) fn find(&self, token: &Token, found: &mut Vec<Location>) -> Result<(), IdTableError> {
        let ranks = self.filter.candidates(super::head(token));
        if ranks.is_empty() {
            return Ok(());
        }
        let mut block = [0; BLOCK_BYTES];
        for number in ranks.start / BLOCK_ENTRIES as u64..=(ranks.end - 1) / BLOCK_ENTRIES as u64 {
            self.data.read(number, &mut block)?;
            let first = number * BLOCK_ENTRIES as u64;
            let from = to_usize(ranks.start.saturating_sub(first));
            let upto = to_usize((ranks.end - first).min(BLOCK_ENTRIES as u64));
            let entries = &block.as_chunks::<ENTRY_BYTES>().0[from..upto];
            let matching = entries.iter().filter(|entry| entry[..16] == *token);
            found.extend(matching.map(|entry| Entry::decode(entry).location()));
        }
        Ok(())
    }

    /// All entries in order.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor::new(&self.data)
    }

    /// Reads the whole file: blocks, order, filter as loaded against the entries, filter and footer as
    /// they stand on disk against the digest.
    pub(super) fn verify(&self) -> Result<(), IdTableError> {
        let mut cursor = self.cursor();
        let mut rank = 0;
        while let Some(entry) = cursor.next()? {
            if !self.filter.agrees(rank, entry.head()) {
                return Err(damaged(
                    &self.data.path,
                    filter_offset(&self.data),
                    "the filter does not match the entries",
                ));
            }
            rank += 1;
        }
        let (_, digest) = load_filter(&self.data, self.number, self.filter.groups())?;
        if digest != self.digest {
            return Err(damaged(
                &self.data.path,
                filter_offset(&self.data),
                "filter or footer were replaced",
            ));
        }
        Ok(())
    }
}

/// Reads a run from first to last entry through one buffer of [`CURSOR_BYTES`]; checks each block and
/// that entries strictly rise.
pub(super) struct Cursor<'a> {
    data: &'a Data,
    buffer: Vec<u8>,
    /// Entry to come, of the whole run.
    rank: u64,
    /// First block in the buffer, and the one behind its last.
    buffered: (u64, u64),
    last: Option<Entry>,
}

impl<'a> Cursor<'a> {
    fn new(data: &'a Data) -> Cursor<'a> {
        let bytes = to_usize(data.block_count().min(CURSOR_BLOCKS)) * BLOCK_BYTES;
        Cursor { data, buffer: vec![0; bytes], rank: 0, buffered: (0, 0), last: None }
    }

    /// The next entry, `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, IdTableError> {
        if self.rank == self.data.entries {
            return Ok(None);
        }
        let block = self.rank / BLOCK_ENTRIES as u64;
        if block == self.buffered.1 {
            self.fill(block)?;
        }
        let slot = to_usize(self.rank % BLOCK_ENTRIES as u64);
        let block_offset = to_usize(block - self.buffered.0) * BLOCK_BYTES;
        let bytes = self.buffer[block_offset + slot * ENTRY_BYTES..].first_chunk();
        let Some(entry) = bytes.map(Entry::decode) else { return Ok(None) };
        if self.last.is_some_and(|last| last >= entry) {
            return Err(damaged(&self.data.path, block * BLOCK_BYTES as u64, "entries are not in order"));
        }
        self.last = Some(entry);
        self.rank += 1;
        Ok(Some(entry))
    }

    /// Heap bytes held.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn fill(&mut self, block: u64) -> Result<(), IdTableError> {
        let upto = (block + CURSOR_BLOCKS).min(self.data.block_count());
        self.data.read(block, &mut self.buffer[..to_usize(upto - block) * BLOCK_BYTES])?;
        self.buffered = (block, upto);
        Ok(())
    }
}

/// Writes a new run. Entries come in order; [`Self::finish`] makes the file durable. A file that is not
/// finished is removed by the caller, or at the next open.
pub(super) struct RunWriter {
    data: Data,
    number: u64,
    /// Whole blocks, and the one being filled, not yet written. At most [`CURSOR_BYTES`].
    buffer: Vec<u8>,
    /// Entries in the block being filled.
    in_block: usize,
    written_bytes: u64,
    synced_bytes: u64,
    last: Option<Entry>,
}

impl RunWriter {
    pub(super) fn create(directory: &Path, number: u64) -> Result<RunWriter, IdTableError> {
        let path = directory.join(Run::name(number));
        let data = Data::new(disk::create(&path)?, path, number, 0);
        Ok(RunWriter {
            data,
            number,
            buffer: Vec::with_capacity(CURSOR_BYTES),
            in_block: 0,
            written_bytes: 0,
            synced_bytes: 0,
            last: None,
        })
    }

    /// Takes the next entry; one equal to the last is dropped. One below the last is found by
    /// [`Self::finish`].
    pub(super) fn push(&mut self, entry: Entry) -> Result<(), IdTableError> {
        if self.last == Some(entry) {
            return Ok(());
        }
        if self.in_block == BLOCK_ENTRIES {
            self.close_block()?;
        }
        let mut bytes = [0; ENTRY_BYTES];
        entry.encode(&mut bytes);
        self.buffer.extend_from_slice(&bytes);
        self.in_block += 1;
        self.data.entries += 1;
        self.last = Some(entry);
        Ok(())
    }

    /// Closes the file: reads the blocks back (which checks them and their order) to build the filter,
    /// writes it and the footer, syncs. `None`, and no file, when there was no entry.
    pub(super) fn finish(mut self) -> Result<Option<Run>, IdTableError> {
        if self.data.entries == 0 {
            disk::remove(&self.data.path)?;
            return Ok(None);
        }
        self.close_block()?;
        self.flush()?;
        let filter = self.build_filter()?;
        let mut hasher = meta_hasher();
        filter.write(|piece| {
            hasher.update(piece);
            self.append(piece)
        })?;
        let footer = footer(self.number, self.data.entries, filter.groups());
        let digest = *hasher.update(&footer).finalize().as_bytes();
        self.append(&footer)?;
        self.append(&digest)?;
        self.flush()?;
        disk::sync_file(&self.data.file, &self.data.path)?;
        let _ = rustix::fs::fadvise(&self.data.file, 0, None, rustix::fs::Advice::Random);
        Ok(Some(Run { data: self.data, number: self.number, digest, filter }))
    }

    /// Heap bytes held.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn build_filter(&self) -> Result<Filter, IdTableError> {
        let mut builder = FilterBuilder::new(to_usize(self.data.entries));
        let mut cursor = Cursor::new(&self.data);
        while let Some(entry) = cursor.next()? {
            builder.push(entry.head());
        }
        builder.finish().ok_or_else(|| damaged(&self.data.path, 0, "fewer entries read back than written"))
    }

    fn close_block(&mut self) -> Result<(), IdTableError> {
        let start = self.buffer.len() - self.in_block * ENTRY_BYTES;
        self.buffer.resize(start + BLOCK_BYTES - 4, 0);
        let block = (self.written_bytes + start as u64) / BLOCK_BYTES as u64;
        let checksum = self.data.checksum(block, &self.buffer[start..]);
        self.buffer.extend_from_slice(&checksum.to_be_bytes());
        self.in_block = 0;
        if self.buffer.len() == CURSOR_BYTES { self.flush() } else { Ok(()) }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), IdTableError> {
        if self.buffer.len() + bytes.len() > CURSOR_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IdTableError> {
        disk::write(&self.data.file, &self.data.path, &self.buffer, self.written_bytes)?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written_bytes - self.synced_bytes >= SYNC_BYTES {
            disk::sync_file(&self.data.file, &self.data.path)?;
            self.synced_bytes = self.written_bytes;
        }
        Ok(())
    }
}

/// Reads filter and footer, checks the footer's fields and digest, and that the filter is sound.
fn load_filter(data: &Data, number: u64, groups: u64) -> Result<(Filter, [u8; 32]), IdTableError> {
    let start = filter_offset(data);
    let length = data.file.metadata().map_err(io_error("read", &data.path))?.len();
    if length != file_bytes(data, groups) {
        return Err(damaged(&data.path, length, "the file does not have the length that its entries need"));
    }
    let mut at = start;
    let mut hasher = meta_hasher();
    let filter = Filter::read(to_usize(data.entries), groups, |piece| {
        read_exact(&data.file, &data.path, piece, at)?;
        hasher.update(piece);
        at += piece.len() as u64;
        Ok(())
    })?;
    let mut tail = [0; FOOTER_BYTES + DIGEST_BYTES];
    read_exact(&data.file, &data.path, &mut tail, at)?;
    let (fields, digest) = tail.split_at(FOOTER_BYTES);
    if fields != footer(number, data.entries, groups) {
        return Err(damaged(&data.path, at, "the footer is not that of the run that the manifest names"));
    }
    let computed = *hasher.update(fields).finalize().as_bytes();
    if computed != *digest || !filter.is_sound() {
        return Err(damaged(&data.path, start, "filter and footer do not match their digest"));
    }
    Ok((filter, computed))
}

fn footer(number: u64, entries: u64, groups: u64) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    let words = [*FOOTER_MAGIC, number.to_be_bytes(), entries.to_be_bytes(), groups.to_be_bytes()];
    bytes.copy_from_slice(words.as_flattened());
    bytes
}

fn filter_offset(data: &Data) -> u64 {
    data.block_count() * BLOCK_BYTES as u64
}

fn file_bytes(data: &Data, groups: u64) -> u64 {
    let sections: u64 = section_bytes(data.entries, groups).iter().sum();
    filter_offset(data) + sections + (FOOTER_BYTES + DIGEST_BYTES) as u64
}

fn meta_hasher() -> blake3::Hasher {
    blake3::Hasher::new_derive_key(CONTEXT)
}

fn read_exact(file: &File, path: &Path, bytes: &mut [u8], offset: u64) -> Result<(), IdTableError> {
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged(path, offset, "the file ends too early"),
        _ => io_error("read", path)(error),
    })
}

const ENTRY_BYTES: usize = 16 + 4 + 5;
const BLOCK_BYTES: usize = 4096;
/// (4,096 − 4) / 25 = 163; 17 bytes stay zero.
const BLOCK_ENTRIES: usize = (BLOCK_BYTES - 4) / ENTRY_BYTES;
const BLOCK_MAGIC: &[u8; 8] = b"VRVIDT1B";
const FOOTER_MAGIC: &[u8; 8] = b"VRVIDT1R";
const FOOTER_BYTES: usize = 4 * 8;
const DIGEST_BYTES: usize = 32;
const CONTEXT: &str = "varve v1 idtable run";

/// One buffer of a cursor or a writer: 64 blocks, 256 KiB.
const CURSOR_BYTES: usize = to_usize(CURSOR_BLOCKS) * BLOCK_BYTES;
const CURSOR_BLOCKS: u64 = 64;
/// A writer syncs this often, so that no sync of the journal waits for a gigabyte of a merge.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;
