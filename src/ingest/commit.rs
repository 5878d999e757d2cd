//! The committer: one journal frame and one sync a group, then the group is published and answered.
//!
//! Crash points, in order. Before the append returns: the frame is torn or whole on disk, nobody was
//! answered; replay takes it if it is whole. After it returned and before publishing: durable, not
//! acknowledged; replay takes it, a repeat finds it. After publishing: acknowledged and durable.
//! A failed append poisons the store: those who wait learn that the outcome is unknown.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, never, select};

use super::apply::{Applied, HeadMove};
use super::plan::Answer;
use super::progress::Progress;
use super::queue::Placed;
use super::sequencer::{Reply, Signed};
use crate::journal::Writer;
use crate::process::watchdog::{SYNC_LIMIT, Watchdog};
use crate::store::apply::AppliedRun;
use crate::store::frame_op::PayloadWriter;
use crate::store::log::Sequenced;
use crate::store::poison::Poison;
use crate::store::read::Store;
use crate::store::state::State;
use crate::telemetry::Telemetry;

pub(super) struct Committer {
    pub(super) store: Arc<Store>,
    pub(super) journal: Writer,
    pub(super) groups: Receiver<Signed>,
    pub(super) head_moves: Receiver<HeadMove>,
    pub(super) applier: Sender<Applied>,
    pub(super) poison: Poison,
    pub(super) watchdog: Watchdog,
    pub(super) progress: Arc<Progress>,
    pub(super) telemetry: Telemetry,
    /// Memory of the last payload: a megabyte a group that need not be asked for and cleared anew.
    pub(super) buffer: Vec<u8>,
    /// Frames below this one are in no segment that has its name, and the bytes of the last are being wiped.
    pub(super) wiping: Option<u64>,
}

/// How often the committer looks whether segments are wiped, while somebody waits for it. Wiping one takes 20 ms.
const WIPE_POLL: Duration = Duration::from_millis(5);

impl Committer {
    /// Runs until both of its inputs are closed, or the store stops.
    pub(super) fn run(mut self) {
        let mut groups = self.groups.clone();
        let mut head_moves = self.head_moves.clone();
        let (mut groups_open, mut moves_open) = (true, true);
        while groups_open || moves_open {
            let mut unanswered = Unanswered { replies: Vec::new(), poison: self.poison.clone() };
            let wiped = if self.wiping.is_some() { after(WIPE_POLL) } else { never() };
            let outcome = select! {
                recv(groups) -> signed => match signed {
                    Ok(signed) => self.commit(signed, &mut unanswered),
                    Err(_) => {
                        // The applier drains, writes its last checkpoint and closes its side in turn.
                        groups = never();
                        groups_open = false;
                        self.applier = crossbeam_channel::bounded(0).0;
                        Ok(())
                    }
                },
                recv(head_moves) -> head_move => match head_move {
                    Ok(head_move) => self.move_head(&head_move),
                    Err(_) => {
                        head_moves = never();
                        moves_open = false;
                        Ok(())
                    }
                },
                recv(wiped) -> _ => Ok(()),
            };
            if let Err(reason) = outcome.and_then(|()| self.look_whether_wiped()) {
                self.poison.set(reason);
                return;
            }
        }
    }

    fn commit(&mut self, signed: Signed, unanswered: &mut Unanswered) -> Result<(), String> {
        let Signed { frame, layer, group, replies } = signed;
        unanswered.replies = replies;
        if group.is_empty() {
            // Nothing to write, but the answers may rest on groups before this one: those are durable now.
            self.progress.committed(None);
            unanswered.answer(&[]);
            return Ok(());
        }
        let records: Vec<(usize, Arc<Sequenced>)> = group
            .records
            .into_iter()
            .map(|planned| {
                let sequenced = Sequenced {
                    index: planned.index,
                    previous: planned.previous,
                    link: planned.link,
                    leaf_hash: planned.leaf_hash,
                    record: planned.record,
                    keys: planned.keys,
                };
                (planned.slot, Arc::new(sequenced))
            })
            .collect();
        let mut by_slot: Vec<Vec<Arc<Sequenced>>> = vec![Vec::new(); group.logs.len()];
        for (slot, record) in &records {
            by_slot[*slot].push(record.clone());
        }

        let mut payload = PayloadWriter::new(std::mem::take(&mut self.buffer));
        group.new_logs.iter().for_each(|log| payload.log(&log.identity));
        group.api_keys.iter().for_each(|key| payload.api_key(key));
        for (log, records) in group.logs.iter().zip(&by_slot) {
            if let Some(first) = records.first() {
                let records = records.iter().map(|record| &record.record);
                payload.records(log.identity.number, first.index, &first.previous, records);
            }
        }
        group.rotations.iter().for_each(|(log, index, key)| payload.rotation(*log, *index, key));
        group.erasures.iter().for_each(|(log, index, phase)| payload.erasure(*log, *index, *phase));
        let records: Vec<Arc<Sequenced>> = records.into_iter().map(|(_, record)| record).collect();
        #[cfg(feature = "unsafe-ack-before-journal")]
        if group.new_logs.is_empty() && group.api_keys.is_empty() {
            answer_too_early(unanswered, &records);
        }
        let payload = payload.finish();
        self.telemetry.write().group(records.len(), payload.len());
        let armed = self.watchdog.arm(SYNC_LIMIT, "the journal's append");
        if group.wipes_journal {
            // Kill here: a segment without a frame is the last, which an open takes for one that was prepared.
            self.journal.rotate().map_err(|error| error.to_string())?;
        }
        let syncing = self.telemetry.write().sync();
        let written = self.journal.append(layer.code(), &[&payload]).map_err(|error| error.to_string())?;
        syncing.stop();
        self.buffer = payload;
        drop(armed);
        if written != frame {
            return Err(format!("the journal wrote frame {written} where {frame} was planned"));
        }

        // Durable. From here on it may be seen.
        self.progress.committed(Some(frame));
        group.new_logs.into_iter().for_each(|log| self.store.add_log(log));
        group.api_keys.into_iter().for_each(|key| self.store.put_api_key(key));
        for (log, index, phase) in group.erasures {
            self.store.put_erasure(log, index, phase);
        }
        let mut runs = Vec::with_capacity(group.logs.len());
        for ((log, records), key) in group.logs.into_iter().zip(by_slot).zip(group.keys_after) {
            let tiles = log.publish(layer, &records, key);
            runs.push(AppliedRun { log, records, tiles });
        }
        unanswered.answer(&records);
        let wipes_journal = group.wipes_journal;
        self.applier
            .send(Applied { frame, layer, runs, wipes_journal })
            .map_err(|_| "the applier has ended".to_owned())
    }

    /// Records in HEAD what the applier has made durable in layers, then lets go of what that makes
    /// superfluous. A crash between the steps leaves more than needed, never less.
    fn move_head(&mut self, head_move: &HeadMove) -> Result<(), String> {
        let HeadMove { frame, digest, clean, wipes_journal } = head_move;
        let _armed = self.watchdog.arm(SYNC_LIMIT, "the move of HEAD");
        self.journal.set_head(*frame, *digest, *clean).map_err(|error| error.to_string())?;
        State::remove_older(&self.store.data.join("state"), *frame).map_err(|error| error.to_string())?;
        if *wipes_journal {
            self.journal.release_all(*frame).map_err(|error| error.to_string())?;
            self.wiping = Some(*frame);
        } else {
            self.journal.release(*frame).map_err(|error| error.to_string())?;
        }
        self.progress.head_moved(*frame);
        self.telemetry.write().checkpoint();
        Ok(())
    }

    /// Tells those who wait once the bytes of all segments that were let go are zeros and the files gone.
    fn look_whether_wiped(&mut self) -> Result<(), String> {
        let Some(frame) = self.wiping else { return Ok(()) };
        if self.journal.wipes_pending().map_err(|error| error.to_string())? == 0 {
            self.progress.wiped(frame);
            self.wiping = None;
        }
        Ok(())
    }
}

/// Those who wait for a group. Where they go unanswered, by an error or a panic, the poison is set before they hear it:
/// who learns that an outcome is unknown can rely on it that nothing is let go of any more.
struct Unanswered {
    replies: Vec<Reply>,
    poison: Poison,
}

impl Unanswered {
    fn answer(&mut self, records: &[Arc<Sequenced>]) {
        for reply in self.replies.drain(..) {
            // A caller that went away has lost its answer, not its event.
            let _ = reply.to.send(reply.answers.into_iter().map(|answer| place(answer, records)).collect());
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.replies.is_empty() && self.poison.reason().is_none() {
            self.poison.set("a group was not committed");
        }
    }
}

/// Negative control: answers, then dawdles, so that a kill falls between the answer and the journal.
#[cfg(feature = "unsafe-ack-before-journal")]
fn answer_too_early(unanswered: &mut Unanswered, records: &[Arc<Sequenced>]) {
    unanswered.answer(records);
    std::thread::sleep(std::time::Duration::from_millis(5));
}

fn place(answer: Answer, records: &[Arc<Sequenced>]) -> Placed {
    match answer {
        Answer::Record(position) => Placed::New(records[position].clone()),
        Answer::Decided(placed) => placed,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Wake, Waker};

    use parking_lot::Mutex;

    use super::super::plan::Group;
    use super::super::queue::{Queue, Submission};
    use super::*;
    use crate::journal::Options;
    use crate::store::idtable::IdTable;
    use crate::store::layer_id::LayerId;
    use crate::store::layers::Layers;
    use crate::store::manifest::Manifest;
    use crate::store::memory::MemoryBackend;

    /// Is woken by whoever lets the answer go, at that moment.
    struct Woken {
        poison: Poison,
        was_poisoned: Mutex<Option<bool>>,
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.was_poisoned.lock().get_or_insert(self.poison.reason().is_some());
        }
    }

    #[test]
    fn who_learns_that_an_outcome_is_unknown_finds_the_store_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let poison = Poison::default();
        let layers = Layers::new(dir.path(), Arc::new(MemoryBackend::default()), Manifest::default());
        let ids = IdTable::open(&dir.path().join("ids")).unwrap();
        let store = Store::new(dir.path(), "i".to_owned(), [0; 32], layers, ids, poison.clone());
        let sizes = Options { segment_bytes: 256 << 10, max_frame_bytes: 128 << 10, background: false };
        let progress = Arc::new(Progress::new(0, 0));
        let (queue, queued) = Queue::new(poison.clone(), progress.clone());
        let (signed_to, groups) = crossbeam_channel::bounded(1);
        let (applier, _applied) = crossbeam_channel::bounded(1);
        let (_moves_to, head_moves) = crossbeam_channel::bounded(1);
        let committer = Committer {
            store: Arc::new(store),
            journal: Writer::create(&dir.path().join("journal"), &sizes).unwrap(),
            groups,
            head_moves,
            applier,
            poison: poison.clone(),
            watchdog: Watchdog::aborting(),
            progress,
            telemetry: Telemetry::new(),
            buffer: Vec::new(),
            wiping: None,
        };
        let nothing = Submission { items: Vec::new(), controls: Vec::new(), atomic: true, epoch: None };
        let mut answer = Box::pin(queue.admit(nothing).unwrap().answer());
        let woken = Arc::new(Woken { poison, was_poisoned: Mutex::default() });
        let waker = Waker::from(woken.clone());
        assert!(matches!(answer.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
        let queued = queued.recv().unwrap();
        let reply = Reply { to: queued.reply, answers: Vec::new(), _place: queued.place };
        // The frame is on disk, and is not the one that was planned.
        let mut group = Group::default();
        group.rotations.push((0, 0, [0; 32]));
        let layer = LayerId::parse("2026-11").unwrap();
        signed_to.send(Signed { frame: 99, layer, group, replies: vec![reply] }).unwrap();
        committer.run();
        assert_eq!(*woken.was_poisoned.lock(), Some(true));
    }
}
