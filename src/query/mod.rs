//! Queries: which records of one log match a filter, a page at a time.
//!
//! Reading order: what can be asked (`filter`), where a page goes on (`cursor`), which records may match
//! (`candidates`), how a page is put together (`run`).
//!
//! Invariants:
//! - The record decides whether it matches. An index only says where not to look, and what it cannot answer
//!   for is looked at; so a lost or damaged block of postings costs time and hides nothing.
//! - A record that cannot be read is an error, never a gap.
//! - No record is left out for being many: an answer that ends early says where it goes on.

mod candidates;
mod cursor;
mod filter;
mod run;

pub use cursor::{BadCursor, Cursor};
pub use filter::{ActionFilter, Filter, FilterError, QueryText};
pub use run::{Answer, DEFAULT_LIMIT, MAX_ANSWER_BYTES, MAX_LIMIT, Order, QueryError, Request, run};
