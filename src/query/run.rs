//! Putting one page together: candidates in order, each record looked at, until the page is full, nothing is
//! left, or the time is up.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::candidates::{Candidates, Span, Wanted};
use super::cursor::{BadCursor, Binding, Cursor};
use super::filter::{Filter, FilterError, QueryText};
use crate::store::layer_id::LayerId;
use crate::store::log::{Log, Sequenced};
use crate::store::read::{ReadError, Store};
use crate::tlog::hash::Hash;

/// Most records of one page.
pub const MAX_LIMIT: usize = 1000;

/// Records of a page when the query does not say.
pub const DEFAULT_LIMIT: usize = 100;

/// Bytes of records after which a page ends before its limit, with a cursor: 1,000 records of 64 KiB are
/// 64 MB, which no answer should be. 8 MiB are 1,000 records of 8 KiB. One record is always given.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Records looked at between two looks at the clock: the most a page of the store holds.
const RECORDS_PER_CHECK: usize = 64;

/// Which record comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Order {
    /// The newest.
    #[default]
    Desc = 1,
    /// The oldest. Later pages also have what was appended after the first.
    Asc = 2,
}

/// One page of a query.
pub struct Request {
    /// What is asked for.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
    /// Most records of the page, 1 to [`MAX_LIMIT`]; what lies outside is taken as the nearer end.
    pub limit: usize,
    /// Where an earlier page ended.
    pub cursor: Option<Cursor>,
    /// When the answer must be given, with what has been found.
    pub deadline: Instant,
}

/// A page.
pub struct Answer {
    /// The records, in the order asked for.
    pub records: Vec<Arc<Sequenced>>,
    /// Where the next page begins; `None` when nothing is left. A page may hold fewer records than its limit,
    /// even none, and still have a next one: the deadline or [`MAX_ANSWER_BYTES`] ended it.
    pub next: Option<String>,
    /// Published size of the log that the page was read from.
    pub size: u64,
    /// Link of the entry before that size; zero for an empty log.
    pub link: Hash,
}

/// A page that could not be given.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The cursor is not one of this query.
    #[error(transparent)]
    BadCursor(#[from] BadCursor),
    /// The deadline passed before anything was looked at.
    #[error(
        "the time was up before a record was looked at; try again, or narrow the query with since and until"
    )]
    TimedOut {
        /// The index up to which earlier pages had come.
        scanned_upto: u64,
    },
    /// A record that must be there cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Request {
    /// Reads a query.
    ///
    /// # Errors
    /// The first member that cannot be asked.
    pub fn parse(text: &QueryText, deadline: Instant) -> Result<Request, FilterError> {
        let order = match text.order.as_deref() {
            None | Some("desc") => Order::Desc,
            Some("asc") => Order::Asc,
            Some(_) => return Err(FilterError { member: "order", why: "use desc (newest first) or asc" }),
        };
        let limit = match &text.limit {
            None => DEFAULT_LIMIT,
            Some(limit) => {
                limit.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or(FilterError {
                    member: "limit",
                    why: "use 1 to 1000; the cursor in `next` leads on",
                })?
            }
        };
        let why = "not a cursor; send what `next` held, unchanged";
        let cursor = text.cursor.as_deref().map(Cursor::parse).transpose();
        let cursor = cursor.map_err(|_| FilterError { member: "cursor", why })?;
        Ok(Request { filter: Filter::parse(text)?, order, limit, cursor, deadline })
    }
}

/// Gives one page of a query on one log.
///
/// # Errors
/// See [`QueryError`]. A page that was cut short by the deadline after it had come anywhere is no error.
pub fn run(store: &Store, log: &Log, request: &Request) -> Result<Answer, QueryError> {
    let head = log.head();
    let binding = Binding {
        key: &store.cursor_key,
        log_id: &log.identity.log_id,
        order: request.order,
        filter: &request.filter,
    };
    let bound = request.cursor.as_ref().map(|cursor| cursor.open(&binding)).transpose()?;
    let mut candidates = Candidates::new(store, log, &head, &request.filter);
    let mut left = candidates.recorded_range()?;
    match (request.order, bound) {
        (Order::Desc, Some(bound)) => left.end = left.end.min(bound),
        (Order::Asc, Some(bound)) => left.start = left.start.max(bound),
        (_, None) => {}
    }
    let mut page = Page {
        store,
        log,
        request,
        limit: request.limit.clamp(1, MAX_LIMIT),
        left,
        records: Vec::new(),
        bytes: 0,
        is_late: false,
    };
    let start = page.edge();
    match candidates.by_id()? {
        Some(indexes) => page.pick(&candidates, &indexes)?,
        None => page.walk(&mut candidates)?,
    }
    let edge = page.edge();
    if page.is_late && page.records.is_empty() && edge == start {
        return Err(QueryError::TimedOut { scanned_upto: edge });
    }
    let next = (!page.left.is_empty()).then(|| Cursor::seal(&binding, edge).text());
    Ok(Answer { records: page.records, next, size: head.size, link: head.link })
}

/// A page in the making.
struct Page<'a> {
    store: &'a Store,
    log: &'a Log,
    request: &'a Request,
    limit: usize,
    /// Indexes of which it is not decided yet whether they belong to the answer.
    left: Range<u64>,
    records: Vec<Arc<Sequenced>>,
    bytes: usize,
    is_late: bool,
}

impl Page<'_> {
    /// Goes through the log span by span.
    fn walk(&mut self, candidates: &mut Candidates<'_>) -> Result<(), ReadError> {
        while !self.left.is_empty() && !self.must_end() {
            let next = if self.is_descending() { self.left.end - 1 } else { self.left.start };
            let span = candidates.span_at(next)?;
            let indexes = span.indexes(&self.left);
            let is_narrowed = matches!(span.wanted, Wanted::Some(..));
            let Span { layer, range, .. } = span;
            if !self.look_at(layer, range, &indexes, is_narrowed)? {
                break;
            }
        }
        Ok(())
    }

    /// Goes through given indexes, which ascend.
    fn pick(&mut self, candidates: &Candidates<'_>, indexes: &[u64]) -> Result<(), ReadError> {
        let from = indexes.partition_point(|index| *index < self.left.start);
        let to = indexes.partition_point(|index| *index < self.left.end);
        let mut rest = indexes.get(from..to).unwrap_or_default();
        while let Some(next) = if self.is_descending() { rest.last() } else { rest.first() } {
            if self.must_end() {
                return Ok(());
            }
            let (layer, range) = candidates.layer_at(*next)?;
            let from = rest.partition_point(|index| *index < range.start);
            let to = rest.partition_point(|index| *index < range.end);
            if !self.look_at(layer, range, &rest[from..to], true)? {
                return Ok(());
            }
            rest = if self.is_descending() { &rest[..from] } else { &rest[to..] };
        }
        // No other record has the id.
        self.left.end = self.left.start;
        Ok(())
    }

    /// Looks at the records at `indexes`, which ascend and lie in `range` of one layer, and takes those that
    /// match. True when all of `range` is decided; false when the page must end before.
    fn look_at(
        &mut self,
        layer: LayerId,
        range: Range<u64>,
        indexes: &[u64],
        is_narrowed: bool,
    ) -> Result<bool, ReadError> {
        let is_descending = self.is_descending();
        // The tail first: what it no longer has when it is asked, the layer has.
        let tail = match indexes {
            [first, .., last] | [first @ last] => self.log.tail(*first, *last + 1),
            [] => Vec::new(),
        };
        let tail_start = tail.first().map_or(u64::MAX, |record| record.index);
        // Few candidates of an index are not matches, so no more are unpacked than there is room for.
        let is_sure = is_narrowed || !self.request.filter.asks_for_body();
        let mut rest = indexes;
        while let Some(next) = if is_descending { rest.last() } else { rest.first() } {
            if self.must_end() {
                return Ok(false);
            }
            let most = if is_sure { self.limit - self.records.len() } else { RECORDS_PER_CHECK };
            let most = most.min(RECORDS_PER_CHECK);
            let records = if *next >= tail_start {
                let start = rest.partition_point(|index| *index < tail_start);
                let part = edge_of(&rest[start..], most, is_descending);
                let place = |index: &u64| usize::try_from(index - tail_start).unwrap_or(usize::MAX);
                part.iter().filter_map(|index| tail.get(place(index)).cloned()).collect()
            } else {
                let page = self.store.packed_page(self.log, layer, *next)?;
                let start = rest.partition_point(|index| *index < page.first);
                let end = rest.partition_point(|index| *index < page.end.min(tail_start));
                let part = edge_of(&rest[start..end], most, is_descending);
                self.store.records_of(self.log, &page, part)?
            };
            rest = if is_descending { &rest[..rest.len() - records.len()] } else { &rest[records.len()..] };
            let all = if is_descending {
                self.take(records.into_iter().rev())
            } else {
                self.take(records.into_iter())
            };
            if !all {
                return Ok(false);
            }
        }
        self.decide(range);
        Ok(true)
    }

    /// Takes the records that match, in order. False when the page was full before all were looked at.
    fn take(&mut self, records: impl Iterator<Item = Arc<Sequenced>>) -> bool {
        for record in records {
            if self.is_full() {
                return false;
            }
            self.decide(record.index..record.index + 1);
            if self.request.filter.matches(&record.record) {
                self.bytes += record.record.encoded_len();
                self.records.push(record);
            }
        }
        true
    }

    /// Everything up to the far end of `range` is decided.
    fn decide(&mut self, range: Range<u64>) {
        if self.is_descending() {
            self.left.end = self.left.end.min(range.start).max(self.left.start);
        } else {
            self.left.start = self.left.start.max(range.end).min(self.left.end);
        }
    }

    /// Where the next page begins.
    fn edge(&self) -> u64 {
        if self.is_descending() { self.left.end } else { self.left.start }
    }

    fn is_descending(&self) -> bool {
        self.request.order == Order::Desc
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.bytes >= MAX_ANSWER_BYTES
    }

    #[expect(clippy::disallowed_methods, reason = "a query ends at its deadline")]
    fn must_end(&mut self) -> bool {
        self.is_late |= Instant::now() >= self.request.deadline;
        self.is_late || self.is_full()
    }
}

/// The first or the last `most` of `indexes`.
fn edge_of(indexes: &[u64], most: usize, from_the_end: bool) -> &[u64] {
    let most = most.min(indexes.len());
    if from_the_end { &indexes[indexes.len() - most..] } else { &indexes[..most] }
}
