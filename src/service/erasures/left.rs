//! What is left to go of one layer: looked up before it is rewritten, and whenever a hold came between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::append::internal;
use super::super::{Error, ErrorCode, Service};
use super::run::stopped;
use crate::retention::{Hold, IndexSet};
use crate::store::layer_id::LayerId;
use crate::store::log::{Log, Sequenced};
use crate::store::page::MAX_PAGE_RECORDS;
use crate::tlog::chain::FLAG_HELD;

/// What is to go: sets of indexes by log and path.
pub(super) type Going = BTreeMap<(u32, String), Vec<Arc<IndexSet>>>;

/// Records that are at most so far apart are read in one go: a page has as many.
const NEAR: u64 = MAX_PAGE_RECORDS as u64;

/// What is left to go of a layer.
#[derive(Default)]
pub(super) struct Left {
    /// Indexes by log and path, ascending.
    pub(super) paths: BTreeMap<(u32, String), Vec<u64>>,
    /// What a hold keeps, by log.
    pub(super) held: BTreeMap<u32, BTreeSet<u64>>,
    /// The holds that it was held against.
    holds: BTreeMap<u32, Arc<Vec<Arc<Hold>>>>,
}

impl Left {
    /// Takes in which of the paths a record still has, and whether it is held.
    fn take_in(
        &mut self,
        number: u32,
        record: &Sequenced,
        paths: &[&str],
        holds: &[Arc<Hold>],
    ) -> Result<(), Error> {
        if record.record.body.is_empty() {
            return Ok(());
        }
        let index = record.index;
        let body = record.record.body().and_then(Result::ok).ok_or_else(|| {
            let detail = format!("the record at index {index} cannot be read, so nothing of it is erased");
            Error::new(ErrorCode::Internal, detail)
        })?;
        let is_flagged = record.record.flags & FLAG_HELD != 0;
        let is_held = holds.iter().any(|hold| hold.holds(index, is_flagged));
        let there = paths.iter().filter(|path| body.disclosures.iter().any(|other| other.path == **path));
        for path in there {
            if is_held {
                self.held.entry(number).or_default().insert(index);
            } else {
                self.paths.entry((number, (*path).to_owned())).or_default().push(index);
            }
        }
        Ok(())
    }

    /// Whether one of these holds that was not known when it was looked at holds any of it.
    pub(super) fn is_held_by_newer(&self, number: u32, holds: &[Arc<Hold>]) -> bool {
        let known = self.holds.get(&number);
        let is_new =
            |hold: &&Arc<Hold>| known.is_none_or(|known| known.iter().all(|known| known.index != hold.index));
        let of = self.paths.iter().filter(|((of, _), _)| *of == number);
        let indexes: Vec<&Vec<u64>> = of.map(|(_, indexes)| indexes).collect();
        holds
            .iter()
            .filter(is_new)
            .any(|hold| indexes.iter().any(|indexes| indexes.iter().any(|index| hold.holds(*index, true))))
    }
}

impl Service {
    /// What of it is still there and may go. Records that lie close together are read together.
    pub(super) fn left_of(
        &self,
        layer: LayerId,
        going: &Going,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Left, Error> {
        let mut left = Left::default();
        let numbers: BTreeSet<u32> = going.keys().map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(log) = self.0.store.log(number) else { continue };
            self.demand_lists(number)?;
            let holds = self.0.holds.of(number);
            left.holds.insert(number, holds.clone());
            let paths: Vec<&str> = of_log(going, number).map(|(path, _)| path).collect();
            let wanted = wanted_of(&log, layer, of_log(going, number).map(|(_, sets)| sets.as_slice()));
            let mut rest = wanted.as_slice();
            while let Some(&(first, _)) = rest.first() {
                let near = rest.windows(2).take_while(|pair| pair[1].0 - pair[0].0 <= NEAR).count();
                let mut met = Ok(());
                let read = self.0.store.range(&log, first, rest[near].0 + 1, &mut |record| {
                    let here = rest.iter().take_while(|(index, _)| *index == record.index).count();
                    let (of_record, behind) = rest.split_at(here);
                    rest = behind;
                    if !step(record.record.body.len()) {
                        met = Err(stopped());
                    } else if here > 0 {
                        let of_record: Vec<&str> = of_record.iter().map(|(_, path)| paths[*path]).collect();
                        met = left.take_in(number, record, &of_record, &holds);
                    }
                    met.is_ok()
                });
                read.map_err(|error| internal(&error))?;
                met?;
            }
        }
        Ok(left)
    }
}

/// What a map by log and path has of one log, by path.
pub(super) fn of_log<T>(all: &BTreeMap<(u32, String), T>, number: u32) -> impl Iterator<Item = (&str, &T)> {
    let from_it = all.range((number, String::new())..);
    from_it.take_while(move |((of, _), _)| *of == number).map(|((_, path), of_path)| (path.as_str(), of_path))
}

/// What of the sets of each path lies in a layer: indexes that ascend, with the number of their path.
fn wanted_of<'a>(
    log: &Log,
    layer: LayerId,
    by_path: impl Iterator<Item = &'a [Arc<IndexSet>]>,
) -> Vec<(u64, usize)> {
    let head = log.head();
    let begin = head.layers.iter().find(|(id, _)| *id == layer).map_or(u64::MAX, |(_, first)| *first);
    let end = head.layer_of(begin).and_then(|(_, _, end)| end).unwrap_or(head.size);
    let mut wanted = Vec::new();
    for (path, sets) in by_path.enumerate() {
        for set in sets {
            let mut next = set.first_from(begin);
            while let Some(index) = next.filter(|index| *index < end) {
                wanted.push((index, path));
                next = set.first_from(index + 1);
            }
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}
