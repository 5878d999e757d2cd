//! How many events were dropped, and the event that says so (docs/format/spool.md §4).
//!
//! Drops are counted in memory, written to a file of two slots soon after, and become one event
//! `producer.events_dropped` when the server is reached. A count that is to be sent is *sealed* first: its id, number
//! and times never change again, so a repeat is known by its id, also after a restart. What is dropped meanwhile is
//! counted anew.
//!
//! | a kill after | is |
//! |---|---|
//! | drops were counted | what was dropped in the last [`PERSIST_INTERVAL`](super::PERSIST_INTERVAL) is not counted |
//! | a slot was written in part | that slot does not hold; the other one does, with the count before |
//! | a slot was written | counted |
//! | sealed and synced, not sent | sent by the next start, the same event |
//! | sent, not answered, or not yet cleared | sent again, known by its id |
//! | cleared | done |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use serde_json::json;
use uuid::Uuid;

use crate::event::Micros;

/// What the event that tells of drops has as `action`.
pub(super) const ACTION: &str = "producer.events_dropped";

/// Name of the file in the spool's directory.
const FILE: &str = "dropped";

/// One slot: one sector, so that a power cut leaves it old or new.
const SLOT_BYTES: usize = 512;
const MAGIC: [u8; 4] = *b"VRVD";
const CHECK_AT: usize = SLOT_BYTES - 32;
/// Magic, sequence, and two counts of 40 bytes.
const FIELDS_END: usize = 4 + 8 + 2 * COUNT_BYTES;
const COUNT_BYTES: usize = 16 + 3 * 8;

static CONTEXT: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("varve v1 spool dropped"));

/// Drops between two times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Count {
    /// Id of the event that tells of them.
    pub(super) id: Uuid,
    /// How many, at least one.
    pub(super) count: u64,
    /// The first and the last, microseconds since 1970.
    pub(super) since: u64,
    pub(super) until: u64,
}

/// All drops that the log does not know of yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Drops {
    /// Still growing.
    pub(super) open: Option<Count>,
    /// To be sent, or sent and not answered.
    pub(super) sealed: Option<Count>,
}

impl Drops {
    /// Counts `count` more at `now`; `id` is taken where this is the first.
    pub(super) fn add(&mut self, count: u64, now: u64, id: impl FnOnce() -> Uuid) {
        if count == 0 {
            return;
        }
        let open = self.open.get_or_insert_with(|| Count { id: id(), count: 0, since: now, until: now });
        open.count = open.count.saturating_add(count);
        open.until = open.until.max(now);
    }

    /// Freezes what is open, unless something frozen is on its way.
    pub(super) fn seal(&mut self) -> Option<Count> {
        self.sealed = self.sealed.or_else(|| self.open.take());
        self.sealed
    }

    /// The log has the event `id`.
    pub(super) fn told(&mut self, id: Uuid) {
        self.sealed.take_if(|sealed| sealed.id == id);
    }

    /// Events that the log does not know to be missing.
    pub(super) fn total(&self) -> u64 {
        [self.open, self.sealed].into_iter().flatten().map(|count| count.count).sum()
    }
}

impl Count {
    /// The event, as JSON. `producer` has no instance: the count may be that of an instance before this one.
    pub(super) fn event(&self, service: Option<&str>) -> String {
        let mut event = json!({
            "id": self.id.to_string(), "action": ACTION, "outcome": "failure",
            "occurred_at": Micros(self.until).to_string(),
            "metadata": {"count": self.count, "since": Micros(self.since).to_string(),
                "until": Micros(self.until).to_string()},
        });
        if let Some(service) = service {
            event["producer"] = json!({"service": service});
        }
        event.to_string()
    }
}

/// The file, open. Slot `sequence % 2` holds the newest state.
pub(super) struct DropFile {
    file: File,
    sequence: u64,
}

impl DropFile {
    /// Opens or makes the file in `dir`, and reads what is counted there. Slots of which neither holds count nothing.
    pub(super) fn open(dir: &Path) -> io::Result<(DropFile, Drops)> {
        let path = dir.join(FILE);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        if file.metadata()?.len() < bytes.len() as u64 {
            // Written whole, so that later writes need no room of a disk that is full.
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            File::open(dir)?.sync_all()?;
        } else {
            file.read_exact_at(&mut bytes, 0)?;
        }
        let slots = bytes.chunks(SLOT_BYTES).filter_map(decode);
        let (sequence, drops) = slots.max_by_key(|(sequence, _)| *sequence).unwrap_or_default();
        Ok((DropFile { file, sequence }, drops))
    }

    /// Writes `drops` into the older slot and waits for the disk.
    pub(super) fn write(&mut self, drops: &Drops) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode(sequence, drops), (sequence % 2) * SLOT_BYTES as u64)?;
        self.sequence = sequence;
        self.file.sync_data()
    }
}

fn encode(sequence: u64, drops: &Drops) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..12].copy_from_slice(&sequence.to_be_bytes());
    for (nth, count) in [drops.open, drops.sealed].into_iter().enumerate() {
        let Some(Count { id, count, since, until }) = count else { continue };
        let place = &mut slot[12 + nth * COUNT_BYTES..][..COUNT_BYTES];
        place[..16].copy_from_slice(id.as_bytes());
        for (number, at) in [count, since, until].into_iter().zip([16, 24, 32]) {
            place[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
    }
    let check = check(&slot);
    slot[CHECK_AT..].copy_from_slice(&check);
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Drops)> {
    let number = |at: usize| Some(u64::from_be_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    if slot.len() != SLOT_BYTES || slot[..4] != MAGIC || slot[CHECK_AT..] != check(slot) {
        return None;
    }
    if slot[FIELDS_END..CHECK_AT].iter().any(|byte| *byte != 0) {
        return None;
    }
    let count = |at: usize| {
        let id = Uuid::from_bytes(slot[at..at + 16].try_into().ok()?);
        let (count, since, until) = (number(at + 16)?, number(at + 24)?, number(at + 32)?);
        (count > 0).then_some(Count { id, count, since, until })
    };
    Some((number(4)?, Drops { open: count(12), sealed: count(12 + COUNT_BYTES) }))
}

fn check(slot: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
    hasher.update(&slot[..CHECK_AT]);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn some() -> Drops {
        let mut drops = Drops::default();
        drops.add(3, 1_700_000_000_000_000, || id(1));
        drops.seal();
        drops.add(4, 1_700_000_001_000_000, || id(2));
        drops
    }

    #[test]
    fn a_sealed_count_never_changes() {
        let mut drops = Drops::default();
        assert_eq!(drops.seal(), None);
        drops.add(0, 9, || id(9));
        assert_eq!(drops, Drops::default());
        drops.add(2, 10, || id(1));
        drops.add(1, 12, || id(2));
        let sealed = Count { id: id(1), count: 3, since: 10, until: 12 };
        assert_eq!(drops.seal(), Some(sealed));
        drops.add(5, 20, || id(3));
        assert_eq!((drops.seal(), drops.total()), (Some(sealed), 8));
        drops.told(id(3));
        assert_eq!(drops.sealed, Some(sealed));
        drops.told(id(1));
        assert_eq!(drops.seal().map(|count| (count.id, count.count)), Some((id(3), 5)));
    }

    #[test]
    fn the_event_is_one_that_the_server_takes() {
        let count =
            Count { id: id(7), count: 12, since: 1_700_000_000_000_000, until: 1_700_000_060_000_000 };
        for service in [None, Some("billing \"1\"")] {
            let json = count.event(service);
            let event = Event::parse(json.as_bytes()).unwrap();
            assert_eq!((event.action(), event.id()), (ACTION, Some(id(7).to_string().as_str())));
            assert!(json.contains("\"count\":12") && json.contains("2023-11-14T22:13:20.000000Z"), "{json}");
        }
    }

    #[test]
    fn counts_survive_in_the_file_and_the_newest_slot_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, read) = DropFile::open(dir.path()).unwrap();
        assert_eq!(read, Drops::default());
        file.write(&Drops::default()).unwrap();
        file.write(&some()).unwrap();
        drop(file);
        let (mut file, read) = DropFile::open(dir.path()).unwrap();
        assert_eq!(read, some());
        file.write(&Drops::default()).unwrap();
        assert_eq!(DropFile::open(dir.path()).unwrap().1, Drops::default());
    }

    #[test]
    fn a_slot_torn_at_any_byte_leaves_the_one_before() {
        let (before, after) = (encode(6, &some()), encode(7, &Drops::default()));
        for torn in 0..SLOT_BYTES {
            // The slot had sequence 5 before.
            let mut slot = encode(5, &Drops::default());
            slot[..torn].copy_from_slice(&after[..torn]);
            let newest =
                [&before[..], &slot].into_iter().filter_map(decode).max_by_key(|(sequence, _)| *sequence);
            assert_eq!(newest, Some((6, some())), "{torn}");
        }
        for at in 0..SLOT_BYTES {
            let mut hurt = before;
            hurt[at] ^= 1;
            assert_eq!(decode(&hurt), None, "{at}");
        }
    }
}
