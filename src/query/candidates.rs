//! Which records may match: a range of indexes from the times asked for, then, block by block, the positions
//! that carry all terms asked for. What no block answers for is a candidate.

use std::ops::Range;

use super::filter::Filter;
use crate::event::{Field, token};
use crate::store::layer::Layer;
use crate::store::layer_id::LayerId;
use crate::store::log::Log;
use crate::store::read::{ReadError, Store, damage, short_token};
use crate::store::state::Head;
use crate::store::terms::{LEVEL_ENTRIES, Piece, Positions};

/// A stretch of a log inside one layer.
pub(super) struct Span {
    pub(super) layer: LayerId,
    /// The indexes it answers for.
    pub(super) range: Range<u64>,
    pub(super) wanted: Wanted,
}

/// What of a span may match.
pub(super) enum Wanted {
    Nothing,
    Everything,
    /// Positions that count from the index given.
    Some(u64, Box<Positions>),
}

/// Finds spans. Bound to one query.
pub(super) struct Candidates<'a> {
    store: &'a Store,
    log: &'a Log,
    head: &'a Head,
    filter: &'a Filter,
    /// Short tokens of the terms that postings hold.
    tokens: Vec<u64>,
    /// The stretch of 4,096 indexes that had no block of level 1 when it was last looked at.
    without_level_1: Option<(LayerId, u64)>,
}

impl Span {
    /// The candidates inside `bounds`, ascending.
    pub(super) fn indexes(&self, bounds: &Range<u64>) -> Vec<u64> {
        let range = self.range.start.max(bounds.start)..self.range.end.min(bounds.end);
        match &self.wanted {
            Wanted::Nothing => Vec::new(),
            Wanted::Everything => range.collect(),
            Wanted::Some(first, positions) => positions
                .iter()
                .map(|position| first + u64::from(position))
                .filter(|index| range.contains(index))
                .collect(),
        }
    }
}

impl<'a> Candidates<'a> {
    pub(super) fn new(store: &'a Store, log: &'a Log, head: &'a Head, filter: &'a Filter) -> Candidates<'a> {
        let key = &log.identity.index_key;
        let tokens = filter
            .terms()
            .into_iter()
            .filter(|(field, _)| !matches!(field, Field::Id | Field::RequestId))
            .map(|(field, value)| short_token(&token(key, field, value)))
            .collect();
        Candidates { store, log, head, filter, tokens, without_level_1: None }
    }

    /// The span that answers for `index`, which is below the head's size.
    pub(super) fn span_at(&mut self, index: u64) -> Result<Span, ReadError> {
        let (layer, layer_range) = self.layer_at(index)?;
        let occurred = self.filter.occurred_since.is_some() || self.filter.occurred_until.is_some();
        if (occurred || !self.tokens.is_empty()) && index < self.log.stored() {
            let open = self.store.layers.get(layer)?;
            let stretch = (layer, index / LEVEL_ENTRIES[1]);
            // A merge puts the block of level 1 before it takes those of level 0: what is not in level 0 any
            // more is looked for in level 1 once more.
            let levels: [u8; 2] = if self.without_level_1 == Some(stretch) { [0, 1] } else { [1, 0] };
            for level in levels {
                if let Some((block, wanted)) = self.block(&open, level, index, &layer_range)? {
                    return Ok(Span { layer, range: block, wanted });
                }
                if level == 1 {
                    self.without_level_1 = Some(stretch);
                }
            }
        }
        // Blocks of level 0 begin and end here, so that no sound block is passed over.
        let start = index - index % LEVEL_ENTRIES[0];
        let range = start.max(layer_range.start)..(start + LEVEL_ENTRIES[0]).min(layer_range.end);
        Ok(Span { layer, range, wanted: Wanted::Everything })
    }

    /// The layer that holds `index`, and the indexes it holds of the log.
    pub(super) fn layer_at(&self, index: u64) -> Result<(LayerId, Range<u64>), ReadError> {
        let (layer, first, next) = self
            .head
            .layer_of(index)
            .ok_or_else(|| damage(self.log, index, "no layer is known to hold it"))?;
        Ok((layer, first..next.unwrap_or(self.head.size)))
    }

    /// What the block of `level` over `index` says. `None` when there is none, or it cannot be relied on.
    fn block(
        &self,
        layer: &Layer,
        level: u8,
        index: u64,
        layer_range: &Range<u64>,
    ) -> Result<Option<(Range<u64>, Wanted)>, ReadError> {
        let number = self.log.identity.number;
        let Some((first, bytes)) = layer.terms_block_at(number, level, index)? else { return Ok(None) };
        let Ok(first_piece) = Piece::open(&bytes) else { return Ok(None) };
        let header = first_piece.header;
        let is_over = first <= index && index < header.end && layer_range.start <= first;
        if !is_over || header.end - first > LEVEL_ENTRIES[1] {
            return Ok(None);
        }
        let range = first..header.end.min(layer_range.end);
        let is_late = self.filter.occurred_since.is_some_and(|since| header.latest < since);
        let is_early = self.filter.occurred_until.is_some_and(|until| header.earliest >= until);
        if is_late || is_early {
            return Ok(Some((range, Wanted::Nothing)));
        }
        let mut common: Option<Box<Positions>> = None;
        for token in &self.tokens {
            let mut found = first_piece.positions_of(*token).unwrap_or(None);
            if found.is_none() {
                // Another piece may answer; a piece that is missing or of another block may not.
                let Some(bytes) = layer.terms_piece(number, level, first, *token)? else { return Ok(None) };
                let Ok(piece) = Piece::open(&bytes) else { return Ok(None) };
                if piece.header == header {
                    found = piece.positions_of(*token).unwrap_or(None);
                }
            }
            let Some(found) = found else { return Ok(None) };
            match &mut common {
                Some(common) => common.intersect(&found),
                None => common = Some(Box::new(found)),
            }
            if common.as_ref().is_some_and(|common| common.is_empty()) {
                return Ok(Some((range, Wanted::Nothing)));
            }
        }
        let wanted = common.map_or(Wanted::Everything, |common| Wanted::Some(first, common));
        Ok(Some((range, wanted)))
    }

    /// The indexes whose `recorded_at` lies in the range asked for.
    pub(super) fn recorded_range(&self) -> Result<Range<u64>, ReadError> {
        let start = self.filter.since.map_or(Ok(0), |since| self.first_recorded_from(since))?;
        let end = self.filter.until.map_or(Ok(self.head.size), |until| self.first_recorded_from(until))?;
        Ok(start..end.max(start))
    }

    /// The first index with `recorded_at` at or after `time`; the size when there is none. `recorded_at`
    /// strictly grows in a log, and a page's header says what it spans.
    fn first_recorded_from(&self, time: u64) -> Result<u64, ReadError> {
        let size = self.head.size;
        let Some(month) = LayerId::of(time).filter(|_| size > 0 && time <= self.head.recorded_at) else {
            return Ok(size);
        };
        // All parts of the month: which of them the time lies in only their records say.
        let begins = |months_before: &dyn Fn(LayerId) -> bool| {
            let at = self.head.layers.partition_point(|(layer, _)| months_before(layer.month()));
            self.head.layers.get(at).map_or(size, |(_, first)| *first)
        };
        let (mut low, mut high) = (begins(&|other| other < month), begins(&|other| other <= month));
        while low < high {
            let middle = low + (high - low) / 2;
            if let Some(record) = self.log.tail(middle, middle + 1).first() {
                if record.record.recorded_at < time {
                    low = middle + 1
                } else {
                    high = middle
                }
                continue;
            }
            let (layer, _) = self.layer_at(middle)?;
            let page = self.store.packed_page(self.log, layer, middle)?;
            if time <= page.header.first_recorded_at {
                high = page.first.max(low);
            } else if time > page.header.last_recorded_at {
                low = page.end.min(high);
            } else {
                let indexes: Vec<u64> = (page.first..page.end).collect();
                let records = self.store.records_of(self.log, &page, &indexes)?;
                let before = records.partition_point(|record| record.record.recorded_at < time);
                return Ok((page.first + before as u64).clamp(low, high));
            }
        }
        Ok(low)
    }

    /// The indexes that the id tables have for an `id` or `request_id` asked for, ascending; `None` when
    /// neither is asked for.
    pub(super) fn by_id(&self) -> Result<Option<Vec<u64>>, ReadError> {
        let asked =
            self.filter.terms().into_iter().find(|(field, _)| matches!(field, Field::Id | Field::RequestId));
        let Some((field, value)) = asked else { return Ok(None) };
        let token = token(&self.log.identity.index_key, field, value);
        let mut found = Vec::new();
        // In this order: a token is in the durable table before the recent ones forget it.
        self.store.recent.find(&token, &mut found);
        self.store.ids.lookup(&token, &mut found)?;
        let number = self.log.identity.number;
        let mut indexes: Vec<u64> = found
            .into_iter()
            .filter(|location| location.log == number)
            .map(|location| location.index)
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        Ok(Some(indexes))
    }
}
