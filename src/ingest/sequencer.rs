//! The sequencer: the one thread that owns all planned heads. It gathers what waits into a group, plans it,
//! has it signed on all cores, and hands it to the committer; while that group is on its way to disk, the
//! next one is gathered, planned and signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use tokio::sync::oneshot;

use super::clock::Stamps;
use super::plan::{Answer, Group, PlannedRecord, Planner};
use super::queue::{Place, Placed, Queued};
use crate::store::layer_id::LayerId;
use crate::store::poison::Poison;
use crate::store::read::Store;
use crate::tlog::chain;
use crate::tlog::key::Signer as _;

/// Most events of a group. Two cores sign 1,024 in about 10 ms, thirty times what the sync costs.
const MAX_GROUP_EVENTS: usize = 1024;

/// Most bytes of a group before it is closed; one submission more may still be in it, so a frame holds
/// `MAX_GROUP_BYTES` and the largest submission.
const MAX_GROUP_BYTES: usize = 1 << 20;

/// Records that one task signs: half a millisecond of work.
const SIGN_CHUNK: usize = 32;

/// How long the sequencer sleeps before it looks whether the store has stopped.
const IDLE: std::time::Duration = std::time::Duration::from_millis(50);

/// A group that is planned and signed.
pub(super) struct Signed {
    pub(super) frame: u64,
    pub(super) layer: LayerId,
    pub(super) group: Group,
    pub(super) replies: Vec<Reply>,
}

pub(super) struct Reply {
    pub(super) to: oneshot::Sender<Vec<Placed>>,
    pub(super) answers: Vec<Answer>,
    /// Held until the answer is given, so that the queue's bound covers what is on its way to disk.
    pub(super) _place: Place,
}

pub(super) struct Sequencer {
    pub(super) store: Arc<Store>,
    pub(super) planner: Planner,
    pub(super) stamps: Arc<Stamps>,
    pub(super) queue: Receiver<Queued>,
    pub(super) committer: Sender<Signed>,
    pub(super) next_frame: u64,
    /// The layer of the newest frame, or the newest of the store: its month goes on in it.
    pub(super) newest_layer: Option<LayerId>,
    pub(super) poison: Poison,
    pub(super) closing: Arc<AtomicBool>,
}

impl Sequencer {
    /// Runs until the queue is closed and empty, or the store stops.
    pub(super) fn run(mut self) {
        let mut carried: Option<Queued> = None;
        let mut floor = 0;
        loop {
            if self.poison.reason().is_some() {
                return;
            }
            let first = match carried.take() {
                Some(queued) => queued,
                None => match self.queue.recv_timeout(IDLE) {
                    Ok(queued) => queued,
                    Err(RecvTimeoutError::Timeout) if self.closing.load(Ordering::Acquire) => return,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let mut signed = self.gather(first, &mut carried, &mut floor);
            sign(&mut signed.group.records);
            if !signed.group.is_empty() {
                self.next_frame += 1;
                self.newest_layer = Some(signed.layer);
            }
            if self.committer.send(signed).is_err() {
                return;
            }
        }
    }

    /// Plans `first` and what else waits, up to the bounds of a group. A group never crosses a month: the
    /// submission that would is carried over, and `floor` becomes the month's first microsecond. One that begins a part
    /// of the month is carried over too, so that it is the first of its group.
    fn gather(&mut self, first: Queued, carried: &mut Option<Queued>, floor: &mut u64) -> Signed {
        let now = self.stamps.now().max(*floor);
        let now = match LayerId::of(self.planner.latest_stamp(&first.submission, now)) {
            Some(latest) if latest != Group::month(now) => latest.start(),
            _ => now,
        };
        let layer = next_layer(self.newest_layer, Group::month(now), first.submission.begins_part());
        let mut group = Group::default();
        group.records.reserve(first.submission.items.len().max(64));
        let mut replies = Vec::new();
        let store = self.store.clone();
        let mut next = Some(first);
        let mut claims = store.recent.lock();
        while let Some(queued) = next.take() {
            if !replies.is_empty() && queued.submission.begins_part() {
                *carried = Some(queued);
                break;
            }
            if !replies.is_empty() && self.planner.latest_stamp(&queued.submission, now) >= layer.end() {
                *floor = layer.end();
                *carried = Some(queued);
                break;
            }
            let answers = self.planner.plan(&mut group, &mut claims, queued.submission, now, self.next_frame);
            replies.push(Reply { to: queued.reply, answers, _place: queued.place });
            if group.records.len() >= MAX_GROUP_EVENTS || group.bytes >= MAX_GROUP_BYTES {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        drop(claims);
        self.stamps.used(group.newest_stamp());
        Signed { frame: self.next_frame, layer, group, replies }
    }
}

/// Where a group of `month` goes: on in the newest layer while it is of that month, else into the month's first part.
fn next_layer(newest: Option<LayerId>, month: LayerId, begins_part: bool) -> LayerId {
    match newest.filter(|newest| newest.month() == month) {
        Some(newest) if begins_part => newest.next_part().unwrap_or(newest),
        Some(newest) => newest,
        None => month,
    }
}

/// Signs every record and hashes every leaf, on all cores: neither is chained.
fn sign(records: &mut [PlannedRecord]) {
    let one = |planned: &mut PlannedRecord| {
        planned.record.signature = planned.signer.sign(&chain::signed_message(&planned.link));
        planned.leaf_hash = chain::leaf_hash(&planned.entry);
    };
    if records.len() <= SIGN_CHUNK {
        records.iter_mut().for_each(one);
    } else {
        records.par_iter_mut().with_min_len(SIGN_CHUNK).for_each(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_goes_on_in_its_newest_part_and_the_next_begins_with_the_first() {
        let id = |text| LayerId::parse(text).unwrap();
        for (newest, month, begins_part, layer) in [
            (None, "2026-11", false, "2026-11"),
            (None, "2026-11", true, "2026-11"),
            (Some("2026-11"), "2026-11", false, "2026-11"),
            (Some("2026-11"), "2026-11", true, "2026-11.p2"),
            (Some("2026-11.p2"), "2026-11", false, "2026-11.p2"),
            (Some("2026-11.p2"), "2026-11", true, "2026-11.p3"),
            (Some("2026-11.p9999"), "2026-11", true, "2026-11.p9999"),
            (Some("2026-11.p2"), "2026-12", false, "2026-12"),
            (Some("2026-11.p2"), "2026-12", true, "2026-12"),
        ] {
            let next = next_layer(newest.map(id), id(month), begins_part);
            assert_eq!(next, id(layer), "{newest:?} {month} {begins_part}");
        }
    }
}
