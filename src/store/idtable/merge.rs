//! Merging: which runs, and how many into one by streaming.
//!
//! Size-tiered: four runs whose sizes are within a factor of four become one, so an entry is rewritten
//! about log₄(table / new run) times and a table of n entries settles at no more than
//! 3 · (log₄(n / MERGE_FLOOR_ENTRIES) + 1) runs, 18 at RUN_ENTRIES_MAX, and those too large to merge.

use std::sync::Arc;

use super::error::IdTableError;
use super::run::{Entry, Run, RunWriter};
use super::{Location, RUN_ENTRIES_MAX};

/// Runs that one merge takes.
pub(super) const MERGE_RUNS: usize = 4;

/// Smaller runs count as of this size, so that tiny ones do not form tiers of their own.
const MERGE_FLOOR_ENTRIES: u64 = 65_536;

/// Sizes that are similar: the largest at most this many times the smallest.
const MERGE_RATIO: u64 = 4;

/// Picks the four smallest runs of a similar size that fit into one; `None` when there are none.
pub(super) fn choose(runs: &[Arc<Run>]) -> Option<Vec<Arc<Run>>> {
    let mut by_size: Vec<&Arc<Run>> = runs.iter().collect();
    by_size.sort_by_key(|run| run.entries());
    let sizes: Vec<u64> = by_size.iter().map(|run| run.entries()).collect();
    let first = choose_sizes(&sizes)?;
    Some(by_size[first..first + MERGE_RUNS].iter().map(|run| Arc::clone(run)).collect())
}

/// Where in the rising sizes the four to merge begin.
fn choose_sizes(sizes: &[u64]) -> Option<usize> {
    sizes.windows(MERGE_RUNS).position(|four| {
        let (smallest, largest) =
            (four[0].max(MERGE_FLOOR_ENTRIES), four[MERGE_RUNS - 1].max(MERGE_FLOOR_ENTRIES));
        largest <= smallest * MERGE_RATIO && four.iter().sum::<u64>() <= RUN_ENTRIES_MAX
    })
}

/// Streams the entries of `runs` in order into `writer`: equal ones once, and only those whose location
/// `keep` wants. Holds one buffer of 256 KiB a run, and the writer's.
pub(super) fn merge(
    runs: &[Arc<Run>],
    keep: &dyn Fn(&Location) -> bool,
    writer: &mut RunWriter,
) -> Result<(), IdTableError> {
    let mut inputs = Vec::with_capacity(runs.len());
    for run in runs {
        let mut cursor = run.cursor();
        if let Some(head) = cursor.next()? {
            inputs.push((head, cursor));
        }
    }
    while let Some(least) = least(&inputs) {
        let (head, cursor) = &mut inputs[least];
        let entry = *head;
        match cursor.next()? {
            Some(next) => *head = next,
            None => drop(inputs.swap_remove(least)),
        }
        if keep(&entry.location()) {
            writer.push(entry)?;
        }
    }
    Ok(())
}

fn least<T>(inputs: &[(Entry, T)]) -> Option<usize> {
    (0..inputs.len()).min_by_key(|&input| inputs[input].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_of_a_similar_size_are_chosen_smallest_first() {
        assert_eq!(choose_sizes(&[1, 1, 1]), None);
        assert_eq!(choose_sizes(&[1, 7, 50, 65_536]), Some(0));
        assert_eq!(choose_sizes(&[1, 1, 1, 262_145]), None);
        assert_eq!(choose_sizes(&[1, 100_000, 200_000, 300_000, 400_000]), Some(1));
        assert_eq!(choose_sizes(&[RUN_ENTRIES_MAX / 4; 4]), Some(0));
        assert_eq!(choose_sizes(&[RUN_ENTRIES_MAX / 4 + 1; 4]), None);
    }

    #[test]
    fn the_number_of_runs_settles() {
        let mut sizes: Vec<u64> = Vec::new();
        let mut most = 0;
        for _ in 0..4_000 {
            sizes.push(10_000);
            sizes.sort_unstable();
            while let Some(first) = choose_sizes(&sizes) {
                let merged = sizes.drain(first..first + MERGE_RUNS).sum();
                sizes.push(merged);
                sizes.sort_unstable();
            }
            most = most.max(sizes.len());
        }
        assert!(most <= 18, "{most} runs at 40 M entries");
    }
}
