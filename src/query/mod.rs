//! stub
use crate::store::log::{Log, Sequenced};
use crate::store::read::{ReadError, Store};
use crate::tlog::hash::Hash;
use std::sync::Arc;
use std::time::Instant;
#[derive(Debug)]
pub struct FilterError {
    pub member: &'static str,
}
impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad")
    }
}
pub struct Filter;
pub struct Cursor(pub String);
#[derive(Default)]
pub struct QueryText {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    pub outcome: Option<String>,
    pub ip: Option<String>,
    pub request_id: Option<String>,
    pub id: Option<String>,
    pub class: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub occurred_since: Option<String>,
    pub occurred_until: Option<String>,
}
impl Filter {
    pub fn parse(_: &QueryText) -> Result<Filter, FilterError> {
        Ok(Filter)
    }
}
pub enum Order {
    Desc,
    Asc,
}
pub struct Request {
    pub filter: Filter,
    pub order: Order,
    pub limit: usize,
    pub cursor: Option<Cursor>,
    pub deadline: Instant,
}
pub struct Answer {
    pub records: Vec<Arc<Sequenced>>,
    pub next: Option<String>,
    pub size: u64,
    pub link: Hash,
}
pub enum QueryError {
    BadCursor,
    TimedOut { scanned_upto: u64 },
    Read(ReadError),
}
pub fn run(_: &Store, _: &Log, _: &Request) -> Result<Answer, QueryError> {
    Err(QueryError::BadCursor)
}
