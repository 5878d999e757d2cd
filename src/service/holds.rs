//! Legal holds: what is held stays, whatever a policy or an erasure says (docs/format/holds.md).
//!
//! A hold wins from the moment its entry is durable: it is written under the lock that a compaction holds from its last
//! look at the holds until the bodies are gone. Until its members are listed it holds everything below it; a long list
//! is made behind the answer, and after a stop at any point the next start goes on with it ([`Service::resolve_holds`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Deserialize;

use super::append::{MAX_BATCH_EVENTS, MAX_SUBMISSION_BYTES, internal};
use super::approvals::{Act, ApprovalView};
use super::system::{BETWEEN_TRIES, TRIES, own};
use super::view::HoldView;
use super::{Error, ErrorCode, Principal, Scope, Service};
use crate::event::catalog::{Builder, action};
use crate::event::{Body, Micros, Outcome, Tenant};
use crate::ingest::prepare::Prepared;
use crate::ingest::queue::Control;
use crate::query::{self, Filter, Order, QueryError, QueryText, Request};
use crate::retention::{
    Hold, HoldKind, IndexSet, MAX_HOLDS, PlacedHold, Pushed, ReleasedHold, ResolvedHold, SetBuilder,
};
use crate::store::log::{Log, Sequenced};
use crate::store::matcher::Matcher;
use crate::store::read::Store;

/// Longest body of a request that places a hold: 4,000 indexes of 13 digits, and a filter.
pub const MAX_HOLD_BYTES: usize = 128 << 10;

/// Most indexes that a request names: with 13 digits and a space each they fit the entry of the hold.
const MAX_INDEXES: usize = 4_000;

/// Entries of a log that are looked through for a hold before it is answered; in a longer log it is done behind.
const MAX_LOOKED_AT: u64 = 100_000;

/// Longest reason and case, in bytes.
const MAX_REASON_BYTES: usize = 4_096;
const MAX_CASE_BYTES: usize = 256;

/// How long a hold waits for a compaction that is letting bodies go.
const GATE_WAIT: Duration = Duration::from_secs(10);

/// How long a hold waits for another one that is being listed before it is listed behind its answer.
const LISTING_WAIT: Duration = Duration::from_secs(1);

/// Indexes of bodies that were gone already which an answer lists; all are counted.
const MAX_GONE: usize = 1_000;

/// How long one page of a search may take while a hold is resolved; it goes on with the next.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// How often in a row a page may find nothing in that time: a layer that is opened after a kill takes minutes.
const MAX_LATE_PAGES: u32 = 60;

/// The holds in force, by log. A list is replaced whole.
#[derive(Default)]
pub(super) struct Holds {
    in_force: RwLock<HashMap<u32, Arc<Vec<Arc<Hold>>>>>,
    /// How often a hold of each log was placed or released since the service was opened.
    changes: RwLock<HashMap<u32, u64>>,
    /// Members are listed by one at a time.
    listing: Mutex<()>,
}

impl Holds {
    /// Those of a log, in the order they were placed.
    pub(super) fn of(&self, log: u32) -> Arc<Vec<Arc<Hold>>> {
        self.in_force.read().get(&log).cloned().unwrap_or_default()
    }

    /// How often a hold of the log was placed or released since the service was opened.
    pub(super) fn changes(&self, log: u32) -> u64 {
        self.changes.read().get(&log).copied().unwrap_or(0)
    }

    /// Whether a hold of the log has no complete list yet: then what it holds below itself is not known.
    pub(super) fn is_listing(&self, log: u32) -> bool {
        self.of(log).iter().any(|hold| is_open(hold))
    }

    fn has_changed(&self, log: u32) {
        *self.changes.write().entry(log).or_default() += 1;
    }

    fn change(&self, log: u32, change: impl FnOnce(&mut Vec<Arc<Hold>>)) {
        let mut all = self.in_force.write();
        let mut holds = all.get(&log).map_or_else(Vec::new, |holds| holds.to_vec());
        change(&mut holds);
        all.insert(log, Arc::new(holds));
    }
}

/// Indexes that ascend, as the sets of entries.
#[derive(Default)]
struct Members {
    sets: Vec<IndexSet>,
    filling: SetBuilder,
}

impl Members {
    fn push(&mut self, index: u64) {
        if self.filling.push(index) == Pushed::Full {
            self.sets.extend(std::mem::take(&mut self.filling).finish());
            // An empty set has room for any one index.
            let _ = self.filling.push(index);
        }
    }

    fn finish(mut self) -> Vec<IndexSet> {
        self.sets.extend(self.filling.finish());
        self.sets
    }
}

/// What a request for a hold says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    reason: String,
    #[serde(default)]
    case: Option<String>,
    #[serde(default)]
    tenant: Option<bool>,
    #[serde(default)]
    filter: Option<serde_json::Value>,
    #[serde(default)]
    indexes: Option<Vec<u64>>,
}

/// What is to be held.
enum What {
    Tenant,
    Filter(Box<Filter>, String),
    Indexes(Vec<u64>),
}

impl What {
    fn kind(&self) -> HoldKind {
        match self {
            What::Tenant => HoldKind::Tenant,
            What::Filter(..) => HoldKind::Filter,
            What::Indexes(_) => HoldKind::Indexes,
        }
    }
}

/// Holds of a store that was just opened, and what the sequencer is to look for.
pub(super) struct Restored {
    pub(super) holds: Holds,
    pub(super) matchers: Vec<(u32, u64, Matcher)>,
}

/// Reads the holds in force of all logs. One that cannot be read holds everything in its log and all that comes: nothing
/// may leave past a hold that is not known, and no log may keep another from being served.
pub(super) fn restore(store: &Store) -> Result<Restored, Error> {
    let mut restored = Restored { holds: Holds::default(), matchers: Vec::new() };
    for log in store.logs() {
        let number = log.identity.number;
        let mut holds = Vec::new();
        let mut oldest = None;
        for index in log.holds() {
            // A page that cannot be read is damage of one log: it keeps all of that one, and no other from being served.
            let record = store.record(&log, index).unwrap_or_else(|error| {
                tracing::error!(%error, "the entry of a hold cannot be read; everything in its log is held");
                None
            });
            oldest = oldest.or(record.as_ref().map(|record| record.record.recorded_at));
            let placed = record.as_deref().and_then(facts_of);
            let what = placed.and_then(|placed| what_of(record.as_deref()?, placed.kind));
            if what.is_none() {
                not_a_hold(index);
            }
            let everything = PlacedHold { kind: HoldKind::Tenant, extends: true };
            let (placed, what) = (placed.unwrap_or(everything), what.unwrap_or(What::Tenant));
            if placed.extends {
                let matcher = match &what {
                    What::Filter(filter, _) => filter.matcher(&log.identity.index_key),
                    _ => Matcher::default(),
                };
                restored.matchers.push((number, index, matcher));
            }
            holds.push(Hold::new(index, placed));
        }
        if !holds.is_empty() {
            if let Err(error) = read_lists(store, &log, oldest, &mut holds) {
                tracing::error!(%error, "lists of holds cannot be read; what was there when they were placed is held");
            }
            restored.holds.change(number, |all| all.extend(holds.into_iter().map(Arc::new)));
        }
    }
    Ok(restored)
}

/// Reads the lists of holds out of the log, from the time of the first of them on.
fn read_lists(store: &Store, log: &Log, since: Option<u64>, holds: &mut [Hold]) -> Result<(), Error> {
    let filter = QueryText {
        action: Some(action::HOLD_RESOLVED.to_owned()),
        since: since.map(|since| Micros(since).to_string()),
        ..QueryText::default()
    };
    each_match(store, log, log.size(), &filter, &mut |record| {
        let facts = record.record.body().and_then(Result::ok).and_then(|body| body.facts());
        let resolved = facts.and_then(|facts| ResolvedHold::from_facts(&facts).ok());
        // What cannot be read, or is out of its order, leaves its hold unresolved: it holds more, never less.
        let taken = resolved.and_then(|resolved| {
            let hold = holds.iter_mut().find(|hold| hold.index == resolved.hold)?;
            hold.resolve(&resolved).err()
        });
        if taken.is_some() {
            not_a_hold(record.index);
        }
        Ok(())
    })
}

/// Visits what a filter finds below `end`, oldest first.
pub(super) fn each_match(
    store: &Store,
    log: &Log,
    end: u64,
    text: &QueryText,
    visit: &mut dyn FnMut(&Arc<Sequenced>) -> Result<(), Error>,
) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "a page of a search ends by time and goes on")]
    let deadline = || Instant::now() + PAGE_TIME;
    let mut request = Request::parse(text, deadline()).map_err(|error| internal(&error))?;
    (request.order, request.limit) = (Order::Asc, query::MAX_LIMIT);
    let mut late = 0;
    loop {
        let answer = match query::run(store, log, &request) {
            Err(QueryError::TimedOut { .. }) if late < MAX_LATE_PAGES => {
                late += 1;
                request.deadline = deadline();
                continue;
            }
            answer => answer.map_err(|error| internal(&error))?,
        };
        late = 0;
        for record in answer.records.iter().take_while(|record| record.index < end) {
            visit(record)?;
        }
        let Some(next) = answer.next.filter(|_| answer.records.last().is_none_or(|last| last.index < end))
        else {
            return Ok(());
        };
        request.cursor = Some(query::Cursor::parse(&next).map_err(|error| internal(&error))?);
        request.deadline = deadline();
    }
}

impl Service {
    /// Places a hold. It wins from the moment this returns: what it holds does not leave, nor what is appended from then
    /// on and matches.
    ///
    /// # Errors
    /// `bad_request` with the member that cannot be; `busy` while a compaction is letting bodies go. Nothing is held then.
    pub fn place_hold(&self, by: &Principal, tenant: &str, body: &[u8]) -> Result<HoldView, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        if tenant == Tenant::SYSTEM {
            return Err(refused("", "Varve's own log is kept for ever: nothing is held. Name a tenant."));
        }
        let (wanted, what) = parse(body, log.size())?;
        let mut event = Builder::new(action::HOLD_PLACED, Outcome::Success)
            .actor("api_key", &by.key_id)
            .reason(&wanted.reason);
        event = wanted.case.iter().fold(event, |event, case| event.context("case_id", case));
        event = match &what {
            What::Tenant => event,
            What::Filter(_, text) => event.metadata("filter", text.as_str()),
            What::Indexes(indexes) => event.metadata("indexes", indexes_text(indexes)),
        };
        let index = self.begin_hold(&log, event, &what)?;
        // From here on it is in force, whatever becomes of its list.
        let is_short = matches!(what, What::Indexes(_)) || log.size() <= MAX_LOOKED_AT;
        let listed = if is_short { self.resolve(&log, index, &what) } else { Ok(Vec::new()) };
        let gone = listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "the members of a hold are not listed yet; until then it holds all that was there");
            Vec::new()
        });
        let mut view = self.hold_view(&log, index)?;
        view.gone = gone.len() as u64;
        view.gone_indexes = gone.into_iter().take(MAX_GONE).collect();
        Ok(view)
    }

    /// Writes the entry of a hold, from which on it is in force.
    fn begin_hold(&self, log: &Log, event: Builder, what: &What) -> Result<u64, Error> {
        let number = log.identity.number;
        let _gate = self.hold_gate()?;
        if self.0.holds.of(number).len() >= MAX_HOLDS {
            let detail = format!("the log has {MAX_HOLDS} holds in force, its limit; nothing more is held");
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        let matcher = match what {
            What::Tenant => Some(Matcher::default()),
            What::Filter(filter, _) => Some(filter.matcher(&log.identity.index_key))
                .filter(|matcher| matcher.can_match_from(self.0.stamps.now())),
            What::Indexes(_) => None,
        };
        let placed = PlacedHold { kind: what.kind(), extends: matcher.is_some() };
        let event = placed.to_facts().into_iter().fold(event, |event, (name, value)| event.fact(name, value));
        let control = Control::PlaceHold { log: number, matcher };
        let records = self.write_own(vec![own(log, event)?], vec![control])?;
        let index = records.first().map(|record| record.index).ok_or_else(|| not_a_hold(log.size()))?;
        self.0.holds.change(number, |holds| holds.push(Arc::new(Hold::new(index, placed))));
        self.0.holds.has_changed(number);
        Ok(index)
    }

    /// The holds in force.
    pub fn holds(&self, by: &Principal, tenant: &str) -> Result<Vec<HoldView>, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        self.0.holds.of(log.identity.number).iter().map(|hold| self.hold_view(&log, hold.index)).collect()
    }

    /// Asks for the release of a hold: another key with the scope must approve it.
    pub fn release_hold(&self, by: &Principal, tenant: &str, hold: &str) -> Result<ApprovalView, Error> {
        let log = self.log_for(by, tenant, Scope::Hold)?;
        let hold = self.hold_named(&log, hold)?;
        self.ask_approval(by, &log, Act::ReleaseHold { hold: hold.index }, |event| {
            event.fact("hold", hold.index)
        })
    }

    /// Releases a hold that two keys agreed on.
    pub(super) fn release_now(&self, log: &Log, hold: u64, asked: &str, approved: &str) -> Result<(), Error> {
        let _gate = self.hold_gate()?;
        let number = log.identity.number;
        self.hold_named(log, &hold.to_string())?;
        let event = Builder::new(action::HOLD_RELEASED, Outcome::Success)
            .actor("api_key", asked)
            .metadata("approved_by", approved);
        let facts = ReleasedHold { hold }.to_facts().into_iter();
        let event = facts.fold(event, |event, (name, value)| event.fact(name, value));
        self.write_own(vec![own(log, event)?], vec![Control::ReleaseHold { log: number, hold }])?;
        self.0.holds.change(number, |holds| holds.retain(|other| other.index != hold));
        self.0.holds.has_changed(number);
        Ok(())
    }

    /// Lists the members of holds that have no complete list yet: those of long logs, and those that a stop cut off.
    ///
    /// # Errors
    /// The first fault; the others are listed all the same.
    pub(super) fn resolve_holds(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for log in self.0.store.logs() {
            if log.holds().is_empty() {
                continue;
            }
            for hold in self.0.holds.of(log.identity.number).iter().filter(|hold| is_open(hold)) {
                let record = self.0.store.record(&log, hold.index).map_err(|error| internal(&error))?;
                let what = record.as_deref().and_then(|record| what_of(record, hold.placed.kind));
                let listed = match what {
                    Some(what) => self.resolve(&log, hold.index, &what).map(drop),
                    None => Err(not_a_hold(hold.index)),
                };
                first = first.and(listed);
            }
        }
        first
    }

    /// Lists what a hold holds of what is there, durably. Answers what it names that is gone. Nothing that it lists leaves
    /// meanwhile: until it is resolved it holds everything below it.
    fn resolve(&self, log: &Log, index: u64, what: &What) -> Result<Vec<u64>, Error> {
        let Some(_one) = self.0.holds.listing.try_lock_for(LISTING_WAIT) else {
            let detail =
                "the members of another hold are being listed; this one is in force and listed behind it";
            return Err(Error::new(ErrorCode::Busy, detail));
        };
        if !self.hold_named(log, &index.to_string()).is_ok_and(|hold| is_open(&hold)) {
            return Ok(Vec::new());
        }
        let store = &self.0.store;
        let (mut whole, mut reduced, mut gone) = (Members::default(), Members::default(), Vec::new());
        let mut take = |record: &Sequenced| match record.record.body() {
            // Of a whole tenant nobody asked for these by name.
            None if matches!(what, What::Tenant) => {}
            None => gone.push(record.index),
            Some(Ok(body)) if body.withheld().is_ok_and(|withheld| !withheld.is_empty()) => {
                reduced.push(record.index);
            }
            Some(_) => whole.push(record.index),
        };
        match what {
            What::Indexes(indexes) => {
                for &index in indexes {
                    let record = store.record(log, index).map_err(|error| internal(&error))?;
                    record.iter().for_each(|record| take(record));
                }
            }
            What::Filter(_, text) => {
                let text = filter_text(text).ok_or_else(|| not_a_hold(index))?;
                each_match(store, log, index, &text, &mut |record| {
                    take(record);
                    self.stop_listing()
                })?;
            }
            What::Tenant => {
                let mut stopped = Ok(());
                store
                    .range(log, 0, index, &mut |record| {
                        take(record);
                        stopped = self.stop_listing();
                        stopped.is_ok()
                    })
                    .map_err(|error| internal(&error))?;
                stopped?;
            }
        }
        self.write_lists(log, index, &whole.finish(), &reduced.finish())?;
        Ok(gone)
    }

    fn stop_listing(&self) -> Result<(), Error> {
        if self.0.stopping.load(Ordering::Acquire) {
            let detail = "the server is stopping; the hold is in force and holds all that was there";
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        Ok(())
    }

    fn write_lists(
        &self,
        log: &Log,
        index: u64,
        whole: &[IndexSet],
        reduced: &[IndexSet],
    ) -> Result<(), Error> {
        let hold = self.hold_named(log, &index.to_string())?;
        let parts = ResolvedHold::of(index, whole, reduced);
        // What is in the log already was made of the same records: all of them are held since.
        let written = usize::try_from(hold.parts_read()).unwrap_or(usize::MAX);
        let (mut waiting, mut taken, mut bytes) = (Vec::new(), Vec::new(), 0);
        for part in parts.iter().skip(written) {
            let event = part
                .to_facts()
                .into_iter()
                .fold(Builder::new(action::HOLD_RESOLVED, Outcome::Success), |event, (name, value)| {
                    event.fact(name, value)
                });
            let prepared = own(log, event)?;
            if waiting.len() >= MAX_BATCH_EVENTS || bytes + prepared.body.len() > MAX_SUBMISSION_BYTES / 2 {
                self.write_parts(log, index, std::mem::take(&mut waiting), std::mem::take(&mut taken))?;
                bytes = 0;
            }
            bytes += prepared.body.len() + 256;
            waiting.push(prepared);
            taken.push(part);
        }
        self.write_parts(log, index, waiting, taken)
    }

    /// Writes lists of a hold, and takes them into what is known of it: after a failure it goes on behind them.
    fn write_parts(
        &self,
        log: &Log,
        index: u64,
        items: Vec<Prepared>,
        parts: Vec<&ResolvedHold>,
    ) -> Result<(), Error> {
        for _ in 0..TRIES {
            self.stop_listing()?;
            // Under the lock, so that no list comes behind the release of its hold.
            if let Ok(_gate) = self.hold_gate() {
                let Ok(hold) = self.hold_named(log, &index.to_string()) else { return Ok(()) };
                match self.write_own(items.clone(), Vec::new()) {
                    Err(error) if error.code == ErrorCode::Busy => {}
                    written => {
                        written?;
                        let mut hold = Hold::clone(&hold);
                        let taken = parts.iter().try_for_each(|part| hold.resolve(part));
                        taken.map_err(|_| not_a_hold(index))?;
                        let hold = Arc::new(hold);
                        self.0.holds.change(log.identity.number, |holds| {
                            let other = holds.iter_mut().find(|other| other.index == index);
                            other.into_iter().for_each(|other| *other = hold.clone());
                        });
                        return Ok(());
                    }
                }
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        let detail =
            "the queue stayed full for a minute; the hold is in force and its members are listed later";
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// The lock under which holds and policies change, and bodies are let go of.
    fn hold_gate(&self) -> Result<parking_lot::MutexGuard<'_, ()>, Error> {
        self.0.retention.gate.try_lock_for(GATE_WAIT).ok_or_else(|| {
            let detail = "a compaction is letting bodies go, or another hold is being placed; nothing was changed, ask again";
            Error::new(ErrorCode::Busy, detail)
        })
    }

    fn hold_named(&self, log: &Log, hold: &str) -> Result<Arc<Hold>, Error> {
        let holds = self.0.holds.of(log.identity.number);
        let found = holds.iter().find(|other| other.index.to_string() == hold);
        found.cloned().ok_or_else(|| Error::new(ErrorCode::NotFound, "no hold of this id is in force"))
    }

    fn hold_view(&self, log: &Log, index: u64) -> Result<HoldView, Error> {
        let hold = self.hold_named(log, &index.to_string())?;
        let record = self.0.store.record(log, index).map_err(|error| internal(&error))?;
        let record = record.ok_or_else(|| not_a_hold(index))?;
        // One that cannot be read is in force, and shown as far as it can be.
        let body = record.record.body().and_then(Result::ok);
        let text = |path: &str| disclosed(body.as_ref()?, path);
        let filter =
            text("/metadata").and_then(|metadata| metadata.get("filter")?.as_str().map(str::to_owned));
        Ok(HoldView {
            id: index.to_string(),
            kind: hold.placed.kind.name().to_owned(),
            placed_at: Micros(record.record.recorded_at).to_string(),
            reason: text("/reason").and_then(|reason| reason.as_str().map(str::to_owned)),
            case: text("/context").and_then(|context| context.get("case_id")?.as_str().map(str::to_owned)),
            filter: filter.and_then(|filter| serde_json::from_str(&filter).ok()),
            extends: hold.placed.extends,
            resolved: !is_open(&hold),
            members: (!is_open(&hold)).then(|| hold.listed()),
            gone: 0,
            gone_indexes: Vec::new(),
        })
    }
}

/// Whether its members are still to be listed.
fn is_open(hold: &Hold) -> bool {
    !hold.is_resolved()
}

fn refused(pointer: &str, what: &str) -> Error {
    let error = Error::new(ErrorCode::BadRequest, format!("{what}; nothing more is held"));
    if pointer.is_empty() { error } else { error.at(pointer) }
}

fn parse(body: &[u8], size: u64) -> Result<(Wanted, What), Error> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        // The text of the error may quote what was sent.
        refused(
            "",
            &format!(
                "not a hold at line {} column {}: `reason`, and one of `tenant`, `filter`, `indexes`",
                error.line(),
                error.column()
            ),
        )
    })?;
    if wanted.reason.is_empty() || wanted.reason.len() > MAX_REASON_BYTES {
        return Err(refused("/reason", "`reason` has 1 to 4,096 bytes"));
    }
    if wanted.case.as_ref().is_some_and(|case| case.is_empty() || case.len() > MAX_CASE_BYTES) {
        return Err(refused("/case", "`case` has 1 to 256 bytes"));
    }
    let what = match (wanted.tenant, &wanted.filter, &wanted.indexes) {
        (Some(true), None, None) => What::Tenant,
        (None, Some(filter), None) => {
            let text = filter.to_string();
            let query = filter_text(&text).ok_or_else(|| {
                refused("/filter", "`filter` has the members of a query's filter, as strings")
            })?;
            let filter = Filter::parse(&query)
                .map_err(|error| refused(&format!("/filter/{}", error.member), &error.to_string()))?;
            if filter == Filter::default() {
                return Err(refused("/filter", "a filter that finds everything: say `\"tenant\": true`"));
            }
            What::Filter(Box::new(filter), text)
        }
        (None, None, Some(indexes)) => {
            if indexes.is_empty() || indexes.len() > MAX_INDEXES {
                return Err(refused("/indexes", "`indexes` are 1 to 4,000"));
            }
            let mut indexes = indexes.clone();
            indexes.sort_unstable();
            indexes.dedup();
            if indexes.last().is_some_and(|last| *last >= size) {
                return Err(refused("/indexes", &format!("the log has {size} entries")));
            }
            What::Indexes(indexes)
        }
        _ => return Err(refused("", "a hold says one of `\"tenant\": true`, `filter` and `indexes`")),
    };
    Ok((wanted, what))
}

/// The filter of a hold; `None` where it says more than a filter does.
fn filter_text(text: &str) -> Option<QueryText> {
    let query: QueryText = serde_json::from_str(text).ok()?;
    let is_filter =
        query.order.is_none() && query.limit.is_none() && query.cursor.is_none() && !query.verifiable;
    is_filter.then_some(query)
}

fn indexes_text(indexes: &[u64]) -> String {
    let mut text = String::new();
    for index in indexes {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&index.to_string());
    }
    text
}

/// What the entry of a hold says in clear.
fn facts_of(record: &Sequenced) -> Option<PlacedHold> {
    PlacedHold::from_facts(&record.record.body()?.ok()?.facts()?).ok()
}

/// What the entry of a hold says sealed: what is to be held.
fn what_of(record: &Sequenced, kind: HoldKind) -> Option<What> {
    let body = record.record.body()?.ok()?;
    let metadata = disclosed(&body, "/metadata");
    let text = |name: &str| metadata.as_ref()?.get(name)?.as_str().map(str::to_owned);
    Some(match kind {
        HoldKind::Tenant => What::Tenant,
        HoldKind::Filter => {
            let text = text("filter")?;
            What::Filter(Box::new(Filter::parse(&filter_text(&text)?).ok()?), text)
        }
        HoldKind::Indexes => {
            What::Indexes(text("indexes")?.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?)
        }
    })
}

/// A sealed value of a body.
pub(super) fn disclosed(body: &Body, path: &str) -> Option<serde_json::Value> {
    let disclosure = body.disclosures.iter().find(|disclosure| disclosure.path == path)?;
    serde_json::from_slice(&disclosure.value).ok()
}

fn not_a_hold(index: u64) -> Error {
    tracing::error!(index, "an entry that must say a legal hold does not");
    let detail = format!(
        "the entry at index {index} must say a legal hold and does not: nothing leaves this log. Stop the server and run \
         `varve verify` on the directory."
    );
    Error::new(ErrorCode::Internal, detail)
}
