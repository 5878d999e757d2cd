//! What Varve writes of itself: genesis entries, starts and stops, keys, the heartbeat with the map of logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::append::{MAX_BATCH_EVENTS, MAX_SUBMISSION_BYTES, submit_error};
use super::{Error, ErrorCode, Service};
use crate::event::catalog::{Builder, Class, Value, action, class_of};
use crate::event::{Event, Outcome};
use crate::ingest::prepare::{Prepared, fill_in, prepare};
use crate::ingest::queue::{Control, Placed, Submission};
use crate::store::log::{Log, Sequenced};
use crate::store::read::{map_leaf, origin_of};
use crate::store::state::LogIdentity;
use crate::tlog::hash::Hash;
use crate::tlog::merkle::Frontier;

/// How often entries are offered to a full queue, and how long between: a minute.
pub(super) const TRIES: u32 = 60;
pub(super) const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Most bytes of Varve's own entries that go into one submission: half of what it may have. Others that append are not to
/// wait for the whole of a frame.
const MAX_PART_BYTES: usize = MAX_SUBMISSION_BYTES / 2;

/// What an entry takes there besides its body: 124 bytes that are chained, a signature of 64, lengths.
const ENTRY_BYTES: usize = 256;

/// Takes the next part: entries, what goes along with each, and whether it is the last one.
pub(super) type WritePart<'a, T> = dyn FnMut(Vec<Prepared>, Vec<T>, bool) -> Result<(), Error> + 'a;

/// Cuts Varve's own entries, each with what goes along with it, into parts that fit a submission. The last part, which may
/// be empty, is the one that a change goes with which all of them make true.
///
/// # Errors
/// The first of an entry or of `write`; parts before it are written.
pub(super) fn in_parts<T>(
    entries: impl IntoIterator<Item = Result<(Prepared, T), Error>>,
    write: &mut WritePart<'_, T>,
) -> Result<(), Error> {
    let (mut items, mut along, mut bytes) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let (item, with) = entry?;
        if items.len() >= MAX_BATCH_EVENTS || bytes + item.body.len() > MAX_PART_BYTES {
            write(std::mem::take(&mut items), std::mem::take(&mut along), false)?;
            bytes = 0;
        }
        bytes += item.body.len() + ENTRY_BYTES;
        items.push(item);
        along.push(with);
    }
    write(items, along, true)
}

/// Size and root of the map of all logs.
pub(super) struct LogMap {
    /// Number of logs.
    pub(super) size: u64,
    /// Root of the tree over them, by tenant.
    pub(super) root: Hash,
}

impl Service {
    /// The instance's own log.
    pub(super) fn system_log(&self) -> Result<Arc<Log>, Error> {
        self.0
            .store
            .log_of("_system")
            .ok_or_else(|| Error::new(ErrorCode::Internal, "the instance has no log of its own"))
    }

    /// Appends events of Varve's own with the changes that they record, in one frame, and waits.
    pub(super) fn write_own(
        &self,
        items: Vec<Prepared>,
        controls: Vec<Control>,
    ) -> Result<Vec<Arc<Sequenced>>, Error> {
        let submission = Submission { items, controls, atomic: true, epoch: None };
        let placed =
            self.0.pipeline.queue.admit(submission).and_then(|ticket| ticket.wait()).map_err(submit_error)?;
        placed
            .into_iter()
            .map(|placed| match placed {
                Placed::New(record) => Ok(record),
                _ => Err(Error::new(
                    ErrorCode::Internal,
                    "the id of an entry of Varve's own was taken; nothing was stored",
                )),
            })
            .collect()
    }

    /// Writes entries of Varve's own, again while the queue is full: then nothing of them was stored. Ends early when the
    /// server stops.
    pub(super) fn write_patiently(
        &self,
        items: Vec<Prepared>,
        controls: impl Fn() -> Vec<Control>,
    ) -> Result<Vec<Arc<Sequenced>>, Error> {
        for _ in 0..TRIES {
            match self.write_own(items.clone(), controls()) {
                Err(error) if error.code == ErrorCode::Busy && !self.0.stopping.load(Ordering::Acquire) => {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                outcome => return outcome,
            }
        }
        let detail =
            "the queue stayed full for a minute; the entries were not written and nothing was changed";
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// Appends one event to the instance's own log.
    pub(super) fn write_system(&self, event: Builder) -> Result<Arc<Sequenced>, Error> {
        let log = self.system_log()?;
        for _ in 0..4 {
            match self.write_own(vec![own(&log, event.clone())?], Vec::new()) {
                Err(error) if error.code == ErrorCode::Busy => {}
                Err(error) => return Err(error),
                Ok(mut records) => return Ok(records.remove(0)),
            }
        }
        Err(Error::new(ErrorCode::Busy, "the queue stayed full; the entry was not written"))
    }

    /// The tree over all logs, leaves sorted by tenant.
    pub(super) fn log_map(&self) -> LogMap {
        let mut logs = self.0.store.logs();
        logs.sort_by(|one, other| one.identity.tenant.cmp(&other.identity.tenant));
        let mut tree = Frontier::default();
        for log in &logs {
            let head = log.head();
            tree.append(map_leaf(
                &log.identity.tenant,
                &log.identity.log_id,
                head.size,
                &head.frontier.root(),
            ));
        }
        LogMap { size: logs.len() as u64, root: tree.root() }
    }

    /// The heartbeat: silence is sealed, and a log that vanishes is seen.
    pub(super) fn heartbeat(&self, interval_seconds: u64) -> Result<(), Error> {
        self.write_system(self.heartbeat_event(Some(interval_seconds))).map(drop)
    }

    /// The entry of a heartbeat. It names no interval where none is kept: no silence behind it is a gap then.
    pub(super) fn heartbeat_event(&self, interval_seconds: Option<u64>) -> Builder {
        let map = self.log_map();
        let mut event = Builder::new(action::LOG_HEARTBEAT, Outcome::Success);
        if let Some(seconds) = interval_seconds {
            event = event.fact("interval_seconds", seconds);
        }
        event.fact("logs", map.size).fact("map_root", Value::bytes(map.root.as_bytes()))
    }
}

/// A prepared event of Varve's own.
pub(super) fn own(log: &Log, event: Builder) -> Result<Prepared, Error> {
    let build = |event: Builder| -> Result<Event, Error> {
        event.build().map_err(|invalid| {
            Error::new(ErrorCode::Internal, format!("an entry of Varve's own is malformed: {invalid}"))
        })
    };
    let mut event = build(event)?;
    let class = class_of(event.action()).unwrap_or(Class::Security);
    fill_in(&mut event, class.name());
    Ok(prepare(log, &event, class.code()))
}

/// The genesis event of a log: what `log_id` is made of.
pub(super) fn genesis(
    instance: &str,
    identity: &LogIdentity,
    nonce: &[u8; 32],
    recovery: Option<&[u8; 32]>,
) -> Builder {
    let mut event = Builder::new(action::LOG_CREATED, Outcome::Success)
        .fact("origin", origin_of(instance, identity).as_str())
        .fact("log_id", Value::bytes(identity.log_id.as_bytes()))
        .fact("nonce", Value::bytes(nonce))
        .fact("public_key", Value::bytes(&identity.genesis_key));
    if let Some(recovery) = recovery {
        event = event.fact("recovery_key", Value::bytes(recovery));
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::world::World;

    #[test]
    fn entries_are_cut_by_number_and_by_bytes_and_the_last_part_says_so() {
        let world = World::new(&["acme"]);
        let log = world.service().0.store.log_of("acme").unwrap();
        let prepared = own(&log, Builder::new(action::SERVICE_STARTED, Outcome::Success)).unwrap();
        let cut = |count: usize, bytes: usize| {
            let entry = |number| {
                let mut item = prepared.clone();
                item.body = vec![0; bytes];
                Ok((item, number))
            };
            let mut parts = Vec::new();
            let mut seen = Vec::new();
            in_parts((0..count).map(entry), &mut |items, along, is_last| {
                assert!(items.len() == along.len() && items.len() <= MAX_BATCH_EVENTS);
                assert!(items.iter().map(|item| item.body.len()).sum::<usize>() <= MAX_PART_BYTES);
                parts.push((items.len(), is_last));
                seen.extend(along);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
            parts
        };
        assert_eq!(cut(0, 10), [(0, true)]);
        assert_eq!(cut(2_001, 10), [(1_000, false), (1_000, false), (1, true)]);
        assert_eq!(cut(40, 100 << 10), [(30, false), (10, true)]);
        let failing = [Ok((prepared, 0)), Err(Error::new(ErrorCode::Internal, "no entry"))];
        assert!(in_parts(failing, &mut |_, _, _| panic!("nothing is complete")).is_err());
    }
}
