//! Queries against a plain `Vec`: random events over several layers, random filters, both orders, random page
//! sizes, while the log grows and the store is closed and opened.

#![expect(clippy::disallowed_methods, reason = "deadlines")]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use varve::event::catalog::Class;
use varve::event::{Event, Field, Instance, Micros, Outcome, token};
use varve::ingest::clock::{Clock, Stamps};
use varve::ingest::prepare::{Prepared, fill_in, prepare};
use varve::ingest::queue::{Control, Placed, Submission};
use varve::ingest::{Pace, Pipeline};
use varve::journal;
use varve::process::lock::DirLock;
use varve::query::{Answer, DEFAULT_LIMIT, Filter, Order, QueryError, QueryText, Request, run};
use varve::store::keyfile::{KeyFile, LogSigner};
use varve::store::layer::{Layer, MAX_INDEX};
use varve::store::layer_id::LayerId;
use varve::store::log::{Log, Sequenced};
use varve::store::memory::MemoryBackend;
use varve::store::read::{ReadError, Store, short_token};
use varve::store::state::{Head, LogIdentity};
use varve::store::{fresh, recovery};
use varve::telemetry::Telemetry;
use varve::tlog::hash::Hash;

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000_000;
const DAY: u64 = 86_400_000_000;

/// A wall clock that is set by hand; the steady one goes along.
struct Scripted(AtomicU64);

impl Clock for Scripted {
    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn steady_micros(&self) -> u64 {
        self.wall_micros()
    }
}

/// xorshift64*: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn chance<T>(&mut self, one_in: u64, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        (self.roll(one_in) == 0).then(|| make(self))
    }
}

/// What is known of a record from having made it.
#[derive(Clone, Default)]
struct Known {
    recorded_at: u64,
    /// `None` once the body is absent.
    event: Option<KnownEvent>,
    class: String,
}

#[derive(Clone, Default)]
struct KnownEvent {
    id: String,
    actor: Option<String>,
    action: String,
    targets: Vec<String>,
    outcome: &'static str,
    ip: Option<String>,
    request_id: Option<String>,
    occurred_at: Option<u64>,
}

impl Known {
    /// Written from the contract, not from `Filter::matches`.
    fn is(&self, text: &QueryText) -> bool {
        let at = |text: &Option<String>| text.as_ref().map(|text| Micros::parse(text).unwrap().0);
        if at(&text.since).is_some_and(|since| self.recorded_at < since)
            || at(&text.until).is_some_and(|until| self.recorded_at >= until)
        {
            return false;
        }
        let (since, until) = (at(&text.occurred_since), at(&text.occurred_until));
        let asked =
            [&text.actor, &text.action, &text.target, &text.outcome, &text.ip, &text.request_id, &text.id];
        let Some(event) = &self.event else {
            let class_is_known =
                text.class.as_ref().is_none_or(|class| *class == self.class && class != "own");
            return asked.iter().all(|asked| asked.is_none())
                && since.is_none()
                && until.is_none()
                && class_is_known;
        };
        let occurred_at = event.occurred_at.unwrap_or(self.recorded_at);
        let same = |asked: &Option<String>, has: Option<&str>| asked.is_none() || asked.as_deref() == has;
        let action = text.action.as_ref().is_none_or(|asked| match asked.strip_suffix('*') {
            Some(start) => event.action.starts_with(start),
            None => event.action == *asked,
        });
        action
            && same(&text.actor, event.actor.as_deref())
            && same(&text.outcome, Some(event.outcome))
            && same(&text.ip, event.ip.as_deref())
            && same(&text.request_id, event.request_id.as_deref())
            && same(&text.id, Some(&event.id))
            && same(&text.class, Some(&self.class))
            && text.target.as_ref().is_none_or(|target| event.targets.contains(target))
            && since.is_none_or(|since| occurred_at >= since)
            && until.is_none_or(|until| occurred_at < until)
    }
}

/// A store that can be closed and opened, and what is known to be in it.
struct World {
    dir: tempfile::TempDir,
    backend: Arc<MemoryBackend>,
    clock: Arc<Scripted>,
    open: Option<(Running, Arc<Log>)>,
    known: Vec<Known>,
    dice: Dice,
    made: u64,
}

/// The parts that keep a store open.
struct Running {
    store: Arc<Store>,
    pipeline: Pipeline,
    _lock: DirLock,
}

impl World {
    fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::parse("example.org").unwrap();
        fresh::create(dir.path(), &instance, &options(), &mut |bytes| bytes.fill(9)).unwrap();
        let mut world = World {
            dir,
            backend: Arc::default(),
            clock: Arc::new(Scripted(AtomicU64::new(START))),
            open: None,
            known: Vec::new(),
            dice: Dice(seed | 1),
            made: 0,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let opened = recovery::open(self.dir.path(), self.backend.clone(), &options()).unwrap();
        let stamps = Arc::new(Stamps::new(self.clock.clone(), opened.newest_stamp));
        let store = opened.store.clone();
        let pipeline = Pipeline::start(
            &store,
            Vec::new(),
            opened.applier,
            opened.journal,
            &opened.signers,
            &stamps,
            Pace { bytes: 200_000, interval: Duration::from_secs(1), ..Pace::default() },
            &Telemetry::new(),
        )
        .unwrap();
        let log = store.log_of("acme").unwrap_or_else(|| create_log(&store, &pipeline, &opened.key_file));
        if self.known.is_empty() {
            let first = store.record(&log, 0).unwrap().unwrap();
            let event = KnownEvent {
                id: "first".into(),
                action: "a.b".into(),
                outcome: "success",
                ..KnownEvent::default()
            };
            let recorded_at = first.record.recorded_at;
            self.known.push(Known { recorded_at, event: Some(event), class: "security".into() });
        }
        self.open = Some((Running { store, pipeline, _lock: opened.lock }, log));
    }

    fn restart(&mut self) {
        if let Some((open, _)) = self.open.take() {
            open.pipeline.stop().unwrap();
        }
        self.start();
    }

    fn store(&self) -> (&Store, &Log) {
        let (open, log) = self.open.as_ref().unwrap();
        (&open.store, log)
    }

    fn pass(&self, micros: u64) {
        self.clock.0.fetch_add(micros, Ordering::Relaxed);
    }

    /// Appends `count` random events in random batches.
    fn grow(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let batch = (1 + self.dice.below(300)).min(left);
            left -= batch;
            let made: Vec<(Prepared, Known)> = (0..batch).map(|_| self.make()).collect();
            let (items, known): (Vec<Prepared>, Vec<Known>) = made.into_iter().unzip();
            let placed = self.submit(&items);
            for (record, mut known) in placed.iter().zip(known) {
                assert_eq!(record.index, self.known.len() as u64);
                known.recorded_at = record.record.recorded_at;
                self.known.push(known);
            }
            let passed = self.dice.roll(DAY / 24);
            self.pass(passed);
        }
    }

    /// Every id is new, so whoever is told to look again may just submit again.
    fn submit(&self, items: &[Prepared]) -> Vec<Arc<Sequenced>> {
        let (open, _) = self.open.as_ref().unwrap();
        loop {
            let items = items.iter().map(copy_of).collect();
            let submission = Submission {
                items,
                controls: Vec::new(),
                atomic: true,
                epoch: Some(open.store.recent.epoch()),
            };
            let placed = open.pipeline.queue.admit(submission).unwrap().wait().unwrap();
            let new = |placed| if let Placed::New(record) = placed { Some(record) } else { None };
            if let Some(records) = placed.into_iter().map(new).collect() {
                return records;
            }
        }
    }

    fn make(&mut self) -> (Prepared, Known) {
        self.made += 1;
        let number = self.made;
        let now = self.clock.wall_micros();
        let dice = &mut self.dice;
        let outcome = dice.pick(&["success", "success", "success", "failure", "denied", "unknown"]);
        let event = KnownEvent {
            id: format!("e-{number}"),
            actor: dice.chance(2, |dice| format!("us\u{e9}r \"{}\"", dice.roll(40))),
            action: dice
                .pick(&[
                    "authn.login",
                    "authn.logout",
                    "aws.kms.decrypt",
                    "aws.kms",
                    "aws.s3.get",
                    "authnx.y",
                ])
                .into(),
            targets: (0..dice.roll(3)).map(|_| format!("doc-{}", dice.roll(60))).collect(),
            outcome,
            ip: dice.chance(2, |dice| format!("10.0.0.{}", dice.roll(8))),
            request_id: dice.chance(3, |dice| format!("r-{}", dice.roll(400))),
            occurred_at: dice.chance(2, |dice| now - dice.roll(10 * DAY)),
        };
        let class = dice.pick(&["security", "security", "security", "processing", "own"]);
        let json = json_of(&event, class);
        let mut parsed = Event::parse(json.as_bytes()).unwrap();
        fill_in(&mut parsed, Class::Security.name());
        let code = Class::named(class).map_or(256, Class::code);
        let log = &self.open.as_ref().unwrap().1;
        let mut prepared = prepare(log, &parsed, code);
        let mut known = Known { recorded_at: 0, event: Some(event), class: class.into() };
        if self.dice.roll(20) == 0 {
            // As if its body had expired since.
            prepared.body = Vec::new();
            let class = Class::named(class).map(Class::name);
            let token =
                |class: &str| short_token(&token(&log.identity.index_key, Field::Class, class.as_bytes()));
            prepared.keys.terms = class.map(token).into_iter().collect();
            prepared.keys.occurred_at = None;
            known.event = None;
        }
        (prepared, known)
    }

    /// A random filter; most of its values occur.
    fn ask(&mut self) -> QueryText {
        let place = self.dice.below(self.known.len());
        let like = self.known[place].clone();
        let other = self.known[self.dice.below(self.known.len())].clone();
        let event = like.event.clone().unwrap_or_default();
        let dice = &mut self.dice;
        let time = |micros: u64| Micros(micros).to_string();
        let mut text = QueryText {
            actor: dice.chance(4, |_| event.actor.clone()).flatten(),
            action: dice.chance(3, |dice| {
                let exact =
                    if event.action.is_empty() { "authn.login".to_owned() } else { event.action.clone() };
                if dice.roll(2) == 0 { exact } else { format!("{}.*", exact.split('.').next().unwrap()) }
            }),
            target: dice
                .chance(6, |dice| event.targets.first().cloned().unwrap_or(format!("doc-{}", dice.roll(99)))),
            outcome: dice
                .chance(4, |dice| dice.pick(&["success", "failure", "denied", "unknown"]).to_owned()),
            ip: dice.chance(6, |dice| format!("10.0.0.{}", dice.roll(9))),
            request_id: dice.chance(12, |_| event.request_id.clone()).flatten(),
            id: dice.chance(25, |dice| format!("e-{}", dice.roll(9000))),
            class: dice
                .chance(4, |dice| dice.pick(&["security", "processing", "own", "permanent"]).to_owned()),
            ..QueryText::default()
        };
        let mut ends = [like.recorded_at + dice.roll(3), other.recorded_at + dice.roll(3)];
        ends.sort_unstable();
        text.since = dice.chance(4, |_| time(ends[0]));
        text.until = dice.chance(4, |_| time(ends[1]));
        text.occurred_since = dice.chance(6, |_| time(ends[0]));
        text.occurred_until = dice.chance(6, |_| time(ends[1]));
        text
    }

    fn expected(&self, text: &QueryText, order: Order, range: Range<usize>) -> Vec<u64> {
        let mut indexes: Vec<u64> =
            range.filter(|index| self.known[*index].is(text)).map(|index| index as u64).collect();
        if order == Order::Desc {
            indexes.reverse();
        }
        indexes
    }

    fn page(
        &self,
        text: &QueryText,
        order: Order,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer, QueryError> {
        let text = QueryText {
            order: Some(if order == Order::Desc { "desc" } else { "asc" }.to_owned()),
            limit: Some(limit.to_string()),
            cursor: cursor.map(str::to_owned),
            ..text.clone()
        };
        let request = Request::parse(&text, Instant::now() + Duration::from_secs(60)).unwrap();
        let (store, log) = self.store();
        run(store, log, &request)
    }

    /// All pages; `between` runs before each page but the first.
    fn all(
        &mut self,
        text: &QueryText,
        order: Order,
        limit: usize,
        mut between: impl FnMut(&mut World),
    ) -> Vec<u64> {
        let mut indexes = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let answer = self.page(text, order, limit, cursor.as_deref()).unwrap();
            assert!(answer.records.len() <= limit);
            assert_eq!(answer.size, self.known.len() as u64);
            self.check(&answer);
            indexes.extend(answer.records.iter().map(|record| record.index));
            match answer.next {
                Some(next) => cursor = Some(next),
                None => return indexes,
            }
            between(self);
        }
    }

    /// Each record is the one that the store gives under its index, links and all.
    fn check(&self, answer: &Answer) {
        let (store, log) = self.store();
        for record in answer.records.iter().step_by(7) {
            let same = store.record(log, record.index).unwrap().unwrap();
            assert!(
                same.record == record.record && same.link == record.link && same.previous == record.previous
            );
            assert_eq!(same.leaf_hash, record.leaf_hash);
        }
    }

    /// Every piece of every block: layer, level, first index of the block, first token.
    fn pieces(&self) -> Vec<(Arc<Layer>, u8, u64, u64)> {
        let (store, log) = self.store();
        let mut pieces = Vec::new();
        for id in store.layers.list() {
            let layer = store.layers.get(id).unwrap();
            for level in [0, 1] {
                let mut below = MAX_INDEX;
                while let Some((first, _)) = layer.terms_block_at(log.identity.number, level, below).unwrap()
                {
                    layer
                        .terms_pieces(log.identity.number, level, first, &mut |token, _| {
                            pieces.push((layer.clone(), level, first, token));
                        })
                        .unwrap();
                    if first == 0 {
                        break;
                    }
                    below = first - 1;
                }
            }
        }
        pieces
    }
}

fn options() -> journal::Options {
    journal::Options { segment_bytes: 8 << 20, max_frame_bytes: 4 << 20, background: false }
}

fn copy_of(item: &Prepared) -> Prepared {
    let Prepared { log, class, flags, event, .. } = *item;
    Prepared {
        log,
        class,
        flags,
        event,
        id: item.id.clone(),
        body: item.body.clone(),
        keys: item.keys.clone(),
    }
}

fn json_of(event: &KnownEvent, class: &str) -> String {
    let text = |text: &str| serde_json::to_string(text).unwrap();
    let mut json = format!(
        r#"{{"id":{},"action":{},"outcome":"{}","class":"{class}""#,
        text(&event.id),
        text(&event.action),
        event.outcome
    );
    if let Some(actor) = &event.actor {
        json += &format!(r#","actor":{{"type":"user","id":{}}}"#, text(actor));
    }
    if !event.targets.is_empty() {
        let targets: Vec<String> =
            event.targets.iter().map(|target| format!(r#"{{"type":"doc","id":{}}}"#, text(target))).collect();
        json += &format!(r#","targets":[{}]"#, targets.join(","));
    }
    let context: Vec<String> = [("ip", &event.ip), ("request_id", &event.request_id)]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!(r#""{name}":{}"#, text(value))))
        .collect();
    if !context.is_empty() {
        json += &format!(r#","context":{{{}}}"#, context.join(","));
    }
    if let Some(at) = event.occurred_at {
        json += &format!(r#","occurred_at":"{}""#, Micros(at));
    }
    json + "}"
}

fn create_log(store: &Arc<Store>, pipeline: &Pipeline, key_file: &KeyFile) -> Arc<Log> {
    let signer: LogSigner =
        key_file.add(&["example.org/acme"], &mut |seed| seed.fill(5)).unwrap().pop().unwrap();
    let identity = LogIdentity {
        number: 1,
        tenant: "acme".into(),
        origin: String::new(),
        log_id: Hash([6; 32]),
        index_key: [7; 32],
        genesis_key: signer.public(),
    };
    let log = Log::new(identity.clone(), Head::empty(signer.public()));
    let event =
        Event::parse(br#"{"id":"first","action":"a.b","outcome":"success","class":"security"}"#).unwrap();
    let submission = Submission {
        items: vec![prepare(&log, &event, 1)],
        controls: vec![Control::CreateLog { identity, signer: Arc::new(signer) }],
        atomic: true,
        epoch: Some(store.recent.epoch()),
    };
    pipeline.queue.admit(submission).unwrap().wait().unwrap();
    store.log_of("acme").unwrap()
}

/// A log of five layers: 2,500, 700, 4,700, 1,000 and 300 events, the last ones in no layer yet.
fn five_layers(seed: u64) -> World {
    let mut world = World::new(seed);
    for count in [2500, 700, 4700, 1000] {
        world.grow(count);
        // The month's events take less than it; the next ones begin in the next.
        let now = world.clock.wall_micros();
        let month = LayerId::of(now).unwrap();
        world.pass(month.end() - now + world.dice.0 % DAY);
    }
    world.grow(300);
    assert_eq!(world.store().1.head().layers.len(), 5);
    world
}

#[test]
fn a_query_is_what_a_plain_vec_says_while_the_log_grows_and_is_reopened() {
    let mut world = five_layers(11);
    let budget = Mutex::new(0u32);
    for round in 0..250 {
        let text = world.ask();
        let order = world.dice.pick(&[Order::Desc, Order::Asc]);
        let limit = world.dice.pick(&[1, 2, 7, 64, 100, 100, 1000]);
        let size = world.known.len();
        let expected = world.expected(&text, order, 0..size);
        let limit = if expected.len() > 40 { limit.max(64) } else { limit };
        let found = world.all(&text, order, limit, |world| {
            let mut changes = budget.lock().unwrap();
            if round % 5 == 0 && *changes < 60 && world.dice.roll(3) == 0 {
                *changes += 1;
                let count = world.dice.below(40);
                world.grow(count);
                if world.dice.roll(4) == 0 {
                    world.restart();
                }
            }
        });
        // Descending pages end at what was there first; ascending ones take in what came meanwhile.
        let size = if order == Order::Desc { size } else { world.known.len() };
        assert!(found == world.expected(&text, order, 0..size), "round {round}, {:?}", Filter::parse(&text));
        if round == 120 {
            world.restart();
        }
    }
    assert!(*budget.lock().unwrap() > 20, "the log grew while it was read");
}

#[test]
fn lost_and_damaged_postings_hide_nothing() {
    let mut world = five_layers(12);
    world.restart();
    let asked: Vec<(QueryText, Order)> =
        (0..60).map(|_| (world.ask(), world.dice.pick(&[Order::Desc, Order::Asc]))).collect();
    let right: Vec<Vec<u64>> =
        asked.iter().map(|(text, order)| world.expected(text, *order, 0..world.known.len())).collect();
    let answers = |world: &mut World| -> Vec<Vec<u64>> {
        asked.iter().map(|(text, order)| world.all(text, *order, 100, |_| ())).collect()
    };
    assert!(answers(&mut world) == right);

    let pieces = world.pieces();
    assert!(pieces.iter().any(|(_, level, ..)| *level == 1), "a block of level 1 is there");
    assert!(pieces.iter().any(|(.., token)| *token > 0), "a block of several pieces is there");
    let key = |level: u8, first: u64, token: u64| {
        let mut key = vec![b'X', 0, 0, 0, 1, level];
        key.extend_from_slice(&first.to_be_bytes()[3..]);
        key.extend_from_slice(&token.to_be_bytes());
        key
    };
    // Every third piece: gone, changed, or as it was.
    for (place, (layer, level, first, token)) in pieces.iter().enumerate() {
        let key = key(*level, *first, *token);
        let mut value = layer.kv().get(&key).unwrap().expect("the key is made as layers make it");
        match place % 3 {
            0 => layer.kv().remove(&key).unwrap(),
            1 => {
                let middle = value.len() / 2;
                value[middle] ^= 1;
                layer.kv().put(&key, &value).unwrap();
            }
            _ => {}
        }
    }
    assert!(answers(&mut world) == right);
    for (layer, level, first, _) in &pieces {
        layer.remove_terms(1, *level, *first).unwrap();
    }
    assert!(world.pieces().is_empty());
    assert!(answers(&mut world) == right);
}

#[test]
fn a_lost_page_is_an_error_where_it_is_needed() {
    let mut world = World::new(13);
    world.grow(900);
    world.restart();
    let (store, log) = world.store();
    let layer = store.layers.get(store.layers.list()[0]).unwrap();
    let lost = layer.page_at(1, 400).unwrap().unwrap().first_index;
    let mut key = vec![b'P', 0, 0, 0, 1];
    key.extend_from_slice(&lost.to_be_bytes()[3..]);
    key.push(0);
    layer.kv().remove(&key).unwrap();
    drop(layer);
    let _ = log;
    let everything = QueryText::default();
    let newest = world.page(&everything, Order::Desc, 100, None).unwrap();
    assert_eq!(newest.records.len(), 100, "what lies elsewhere can still be read");
    let refused = world.page(&everything, Order::Asc, 1000, None).err();
    assert!(matches!(refused, Some(QueryError::Read(ReadError::Damage { .. }))), "{refused:?}");
}

#[test]
fn cursors_of_other_queries_are_refused_and_time_limits_hold() {
    let mut world = World::new(14);
    world.grow(3000);
    let everything = QueryText::default();
    let one = world.page(&everything, Order::Desc, 1, None).unwrap();
    let cursor = one.next.unwrap();
    assert!(world.page(&everything, Order::Desc, 5, Some(&cursor)).is_ok(), "the limit may change");
    let other = QueryText { outcome: Some("denied".into()), ..QueryText::default() };
    for (text, order) in [(&everything, Order::Asc), (&other, Order::Desc)] {
        assert!(matches!(world.page(text, order, 5, Some(&cursor)), Err(QueryError::BadCursor(_))));
    }

    let rare = QueryText { actor: Some("nobody".into()), ..QueryText::default() };
    let (store, log) = world.store();
    let late = Request::parse(&rare, Instant::now()).unwrap();
    assert!(matches!(run(store, log, &late), Err(QueryError::TimedOut { scanned_upto: 3001 })));
    // Without postings all bodies are looked at; each page comes some way, and in the end all have been.
    for (layer, level, first, _) in world.pieces() {
        layer.remove_terms(1, level, first).unwrap();
    }
    let (mut pages, mut cursor) = (0, None);
    loop {
        let text = QueryText { cursor: cursor.clone(), ..rare.clone() };
        match run(store, log, &Request::parse(&text, Instant::now() + Duration::from_micros(300)).unwrap()) {
            Ok(answer) => {
                assert!(answer.records.is_empty());
                assert!(answer.next.is_none() || answer.next != cursor, "an empty page came some way");
                pages += 1;
                cursor = answer.next;
                if cursor.is_none() {
                    break;
                }
            }
            Err(QueryError::TimedOut { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(pages > 1, "3,000 records in 0.3 ms");
}

#[test]
fn a_page_of_large_records_ends_early_and_goes_on() {
    let mut world = World::new(15);
    let log = world.open.as_ref().unwrap().1.clone();
    for batch in 0..18 {
        let items = (0..10u64).map(|place| {
            let noise: String =
                (0..60_000).map(|_| char::from(b'#' + u8::try_from(world.dice.roll(50)).unwrap())).collect();
            let id = batch * 10 + place;
            let json =
                format!(r#"{{"id":"big-{id}","action":"a.big","outcome":"success","reason":"{noise}"}}"#);
            let mut event = Event::parse(json.as_bytes()).unwrap();
            fill_in(&mut event, Class::Security.name());
            prepare(&log, &event, 1)
        });
        let items: Vec<Prepared> = items.collect();
        world.submit(&items);
    }
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        let text = QueryText { action: Some("a.big".into()), ..QueryText::default() };
        let first = world.page(&text, Order::Desc, 1000, None).unwrap();
        assert!((100..180).contains(&first.records.len()), "{}", first.records.len());
        let rest = world.page(&text, Order::Desc, 1000, first.next.as_deref()).unwrap();
        assert_eq!(first.records.len() + rest.records.len(), 180);
        assert!(
            rest.next.is_none()
                || world.page(&text, Order::Desc, 9, rest.next.as_deref()).unwrap().records.is_empty()
        );
    }
}

#[test]
fn members_that_steer_are_checked() {
    let at = Instant::now();
    let parse = |order: &str, limit: &str| {
        let text = QueryText { order: Some(order.into()), limit: Some(limit.into()), ..QueryText::default() };
        Request::parse(&text, at)
    };
    assert!(parse("asc", "1000").is_ok_and(|request| request.limit == 1000 && request.order == Order::Asc));
    for (order, limit, member) in
        [("up", "1", "order"), ("asc", "0", "limit"), ("asc", "1001", "limit"), ("asc", "x", "limit")]
    {
        assert_eq!(parse(order, limit).err().map(|error| error.member), Some(member));
    }
    let text = QueryText { cursor: Some("?".into()), ..QueryText::default() };
    assert_eq!(Request::parse(&text, at).err().map(|error| error.member), Some("cursor"));
    let plain = Request::parse(&QueryText::default(), at).unwrap();
    assert!(
        plain.limit == DEFAULT_LIMIT && plain.order == Order::Desc && Outcome::parse(b"success").is_some()
    );
}
