//! Random schedules of what a log lives through: events, policies, holds and their release, erasures, compactions, kills
//! at any moment. A model in plain words says what must be there and what must not.
//!
//! The store runs in a process of its own, which is killed; the model (`model`) lives here. `VARVE_SCHEDULES` says how many (8),
//! `VARVE_SCHEDULE_SEED` where they begin; with
//! `VARVE_SCHEDULE_TOLD` each step is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use varve::query::QueryText;
use varve::service::{Asked, BatchMode, ConfirmClock, ErrorCode, OpenOptions, Service, Submitted};

use crate::crash::small_journal;
use crate::holds::another_of;
use crate::world::{Hands, of, operator, wait_for};

mod model;

use model::{CLASSES, Erasing, Known, Model, ModelHold, Seen, name_of};

const TENANT: &str = "acme";

/// How often an erasure is looked at until it is done, 3 ms apart: two minutes, where it takes a second.
const MAX_LOOKS: u32 = 40_000;

/// How many schedules there are unless told otherwise, and what they see at least: half of what they saw in three runs.
const SCHEDULES: u64 = 8;
const LEAST: Seen = Seen { kills: 8, expired: 40, erased: 5, kept: 50, verified_after_kills: 4 };

/// Names the directory to the process that has the store.
const CHILD: &str = "VARVE_SCHEDULE_CHILD";

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

// The process with the store.

struct Keeper {
    data: PathBuf,
    hands: Arc<Hands>,
    service: Option<Service>,
}

impl Keeper {
    fn options(&self) -> OpenOptions {
        OpenOptions {
            clock: self.hands.clone(),
            heartbeat_seconds: 0,
            low_water_bytes: 0,
            erasure_pauses: false,
            compaction_bytes_per_second: 0,
            journal: small_journal(),
            ..OpenOptions::default()
        }
    }

    fn service(&mut self) -> &Service {
        if self.service.is_none() {
            if !Service::is_initialised(&self.data) {
                let made = Service::init(&self.data, Some("test.example"), None, &self.options());
                assert!(made.is_ok(), "{:?}", made.err());
            }
            let service = Service::open(&self.data, &self.options()).unwrap();
            match service.create_tenant(&operator(), TENANT) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code, ErrorCode::AlreadyExists),
            }
            self.service = Some(service);
        }
        self.service.as_ref().unwrap()
    }

    fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop().unwrap();
        }
    }

    /// Does what a line says and answers what came of it.
    fn act(&mut self, wanted: &Value) -> Value {
        self.hands.0.store(wanted["at"].as_u64().unwrap(), Ordering::Relaxed);
        let (key, other) = (of(TENANT), another_of(TENANT));
        match wanted["do"].as_str().unwrap() {
            "events" => {
                let raws: Vec<String> =
                    wanted["events"].as_array().unwrap().iter().map(Value::to_string).collect();
                let events: Vec<Submitted<'_>> =
                    raws.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
                let receipts =
                    wait_for(self.service().append(&key, TENANT, &events, BatchMode::Atomic, false)).unwrap();
                receipts
                    .into_iter()
                    .map(|receipt| {
                        let receipt = receipt.unwrap();
                        json!([receipt.index, receipt.recorded_at])
                    })
                    .collect()
            }
            "policy" => {
                let set = self.service().set_retention(&key, TENANT, wanted["policy"].to_string().as_bytes());
                json!(set.unwrap().index)
            }
            "hold" => {
                json!(self.service().place_hold(&key, TENANT, wanted["hold"].to_string().as_bytes()).unwrap())
            }
            "holds" => json!(self.service().holds(&key, TENANT).unwrap()),
            "release" => {
                let service = self.service();
                let asked = service.release_hold(&key, TENANT, wanted["hold"].as_str().unwrap()).unwrap();
                json!(service.approve(&other, &asked.id).unwrap().state)
            }
            "erase" => {
                let body =
                    json!({"subject": {"type": "user", "id": wanted["person"]}, "basis": "x"}).to_string();
                let service = self.service();
                match service.request_erasure(&key, TENANT, body.as_bytes()) {
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::Held, "{error}");
                        json!("held")
                    }
                    Ok(Asked::Approval(_)) => panic!("one key is enough"),
                    Ok(Asked::Erasure(view)) => {
                        let mut looks = 0;
                        let is_done = || service.erasure(&key, TENANT, &view.id).unwrap().state == "done";
                        while wanted["wait"] == true && !is_done() {
                            looks += 1;
                            assert!(looks < MAX_LOOKS, "an erasure is not done: {:?}", view.id);
                            std::thread::sleep(Duration::from_millis(3));
                        }
                        json!(view.id)
                    }
                }
            }
            "erasures" => json!(self.service().erasures(&key, TENANT).unwrap()),
            "compact" => {
                // Of a store that nobody serves: it seals what is over first.
                self.service();
                self.stop();
                let done =
                    Service::compact(&self.data, ConfirmClock::Yes, &self.options(), &mut |_| {}).unwrap();
                assert_eq!(done.detail, None);
                json!(done.bodies_left)
            }
            "begin" => {
                // Of a running one: whatever is sealed by then, under whatever comes.
                json!(self.service().start_compaction(&operator(), ConfirmClock::Yes).unwrap().state)
            }
            "records" => {
                let service = self.service();
                let mut records = Vec::new();
                let mut cursor = None;
                loop {
                    let text = QueryText {
                        order: Some("asc".into()),
                        limit: Some("1000".into()),
                        cursor,
                        ..QueryText::default()
                    };
                    let page = service.query(&key, TENANT, &text).unwrap();
                    records.extend(
                        page.records
                            .iter()
                            .map(|record| serde_json::from_str::<Value>(&record.json).unwrap()),
                    );
                    cursor = page.next;
                    if cursor.is_none() {
                        return json!(records);
                    }
                }
            }
            "stop" => {
                self.stop();
                json!("stopped")
            }
            other => panic!("{other}"),
        }
    }
}

/// Not a test by itself: the process that [`schedules`] starts and kills.
#[test]
fn keeper_of_a_schedule() {
    let Ok(data) = std::env::var(CHILD) else { return };
    let hands = Arc::new(Hands(AtomicU64::new(0)));
    let mut keeper = Keeper { data: data.into(), hands, service: None };
    for line in std::io::stdin().lines() {
        let wanted: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = keeper.act(&wanted);
        // Behind a mark: the harness of the test writes lines of its own.
        println!("\n@{answer}");
    }
}

// The schedule.

struct Play {
    data: PathBuf,
    child: Option<(Child, ChildStdin, BufReader<ChildStdout>)>,
    now: DateTime<Utc>,
    dice: Dice,
    model: Model,
    next_id: u64,
    kills: u64,
    verified_after_kills: u64,
    is_told: bool,
}

impl Play {
    fn send(&mut self, mut wanted: Value) {
        self.now += Duration::from_secs(1);
        self.model.pass_time(self.now);
        wanted["at"] = json!(self.now.timestamp_micros());
        if self.is_told {
            println!("{} {wanted}", self.now);
        }
        if self.child.is_none() {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "schedules::keeper_of_a_schedule", "--nocapture", "--test-threads=1"])
                .env(CHILD, &self.data)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::from(
                    std::fs::File::options()
                        .create(true)
                        .append(true)
                        .open(self.data.with_extension("stderr"))
                        .unwrap(),
                ))
                .spawn()
                .unwrap();
            let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            self.child = Some((child, stdin, BufReader::new(stdout)));
        }
        let (_, stdin, _) = self.child.as_mut().unwrap();
        writeln!(stdin, "{wanted}").unwrap();
    }

    /// The answer to what was sent; `None` where the process ended.
    fn answer(&mut self) -> Option<Value> {
        let (_, _, stdout) = self.child.as_mut().unwrap();
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(answer) = line.strip_prefix('@') {
                return Some(serde_json::from_str(answer.trim()).unwrap());
            }
        }
    }

    fn kill(&mut self) {
        if let Some((mut child, ..)) = self.child.take() {
            self.model.is_compacting = false;
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Does it; `None` where the process was killed on the way, which it is now and then. What it did then is not known.
    fn try_do(&mut self, wanted: Value) -> Option<Value> {
        let is_killed = self.dice.roll(5) == 0;
        self.send(wanted.clone());
        if is_killed {
            let micros = match self.dice.roll(3) {
                0 => self.dice.roll(2_000),
                1 => self.dice.roll(40_000),
                _ => self.dice.roll(150_000),
            };
            std::thread::sleep(Duration::from_micros(micros));
            self.kill();
            self.kills += 1;
            if self.dice.roll(3) == 0 {
                self.verify("after a kill");
                self.verified_after_kills += 1;
            }
            return None;
        }
        let answer = self.answer();
        if self.is_told {
            println!("  {}", answer.clone().unwrap_or_default());
        }
        assert!(answer.is_some(), "the process ended at {wanted}: {}", self.stderr());
        answer
    }

    fn surely(&mut self, wanted: &Value) -> Value {
        self.send(wanted.clone());
        self.answer().unwrap_or_else(|| panic!("the process ended at {wanted}: {}", self.stderr()))
    }

    /// The store, which nobody has, is intact.
    fn verify(&self, context: &str) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_varve")).arg("verify").arg(&self.data).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (told, failed) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}, {context}: {told}{failed}", self.data.display());
    }

    /// Learns how the erasures stand that are not known to be done.
    fn erasures(&mut self) -> Value {
        let listed = self.surely(&json!({"do": "erasures"}));
        self.model.erasures(&listed);
        listed
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("stderr")).unwrap_or_default()
    }

    fn events(&mut self) {
        if !self.model.erasing.is_empty() {
            self.erasures();
        }
        let count = 1 + self.dice.roll(12);
        let mut events = Vec::new();
        let mut about = Vec::new();
        for _ in 0..count {
            let person = self.dice.roll(5);
            let class = CLASSES[usize::try_from(self.dice.roll(3)).unwrap()];
            self.next_id += 1;
            events.push(json!({
                "id": format!("e-{}", self.next_id), "action": "data.read", "outcome": "success", "class": class,
                "actor": {"type": "user", "id": name_of(person)}, "context": {"ip": "192.0.2.9"},
            }));
            about.push((person, class));
        }
        let wanted = json!({"do": "events", "events": events});
        // What is repeated after a kill is stored once.
        let receipts = self.try_do(wanted.clone()).unwrap_or_else(|| self.surely(&wanted));
        for ((person, class), receipt) in about.into_iter().zip(receipts.as_array().unwrap()) {
            let index = receipt[0].as_u64().unwrap();
            let is_flagged = self.model.holds.iter().any(|hold| {
                hold.extends() && hold.id < index && hold.person.is_none_or(|wanted| wanted == person)
            });
            let known = Known {
                person,
                class,
                recorded_at: receipt[1].as_str().unwrap().parse().unwrap(),
                is_flagged,
                may_be_erased: false,
                must_be_erased: false,
                may_be_gone: false,
                must_be_gone: false,
            };
            self.model.events.insert(index, known);
        }
    }

    fn policy(&mut self) {
        let months: BTreeMap<&'static str, u32> =
            CLASSES.into_iter().map(|class| (class, 1 + u32::try_from(self.dice.roll(3)).unwrap())).collect();
        let classes: Value = months
            .iter()
            .map(|(class, months)| ((*class).to_owned(), json!({"months": months})))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let wanted = json!({"do": "policy", "policy": {"classes": classes}});
        // Set again it is the same, and no entry.
        let index = self.try_do(wanted.clone()).unwrap_or_else(|| self.surely(&wanted)).as_u64().unwrap();
        if self.model.policies.last().is_none_or(|(last, _)| *last != index) {
            self.model.policies.push((index, months));
        }
    }

    fn hold(&mut self) {
        if self.model.holds.len() > 4 {
            return;
        }
        let reason = format!("hold number {}", self.next_id);
        self.next_id += 1;
        let mut hold = ModelHold { id: 0, person: None, indexes: None, uncertain: BTreeSet::new() };
        let mut wanted = json!({"reason": reason});
        match self.dice.roll(4) {
            0 => wanted["tenant"] = json!(true),
            1 | 2 => {
                let person = self.dice.roll(5);
                hold.person = Some(person);
                wanted["filter"] = json!({"actor": name_of(person)});
            }
            _ => {
                let indexes: Vec<u64> = self.model.events.keys().copied().collect();
                if indexes.is_empty() {
                    return;
                }
                let some: BTreeSet<u64> = (0..4)
                    .map(|_| indexes[usize::try_from(self.dice.roll(indexes.len() as u64)).unwrap()])
                    .collect();
                wanted["indexes"] = json!(some);
                hold.indexes = Some(some);
            }
        }
        let placed = match self.try_do(json!({"do": "hold", "hold": wanted})) {
            Some(placed) => Some(placed),
            // In force or not: the list says.
            None => {
                let holds = self.surely(&json!({"do": "holds"}));
                holds.as_array().unwrap().iter().find(|held| held["reason"] == json!(reason)).cloned()
            }
        };
        if let Some(placed) = placed {
            hold.id = placed["id"].as_str().unwrap().parse().unwrap();
            let is_uncertain = |known: &Known| {
                Some(known.person) == hold.person && known.may_be_erased && !known.must_be_erased
            };
            let uncertain = self.model.events.range(..hold.id).filter(|(_, known)| is_uncertain(known));
            hold.uncertain = uncertain.map(|(index, _)| *index).collect();
            self.model.holds.push(hold);
        }
    }

    fn release(&mut self) {
        if self.model.holds.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.roll(self.model.holds.len() as u64)).unwrap();
        let id = self.model.holds[at].id;
        if self.try_do(json!({"do": "release", "hold": id.to_string()})).is_some() {
            self.model.holds.remove(at);
            return;
        }
        let holds = self.surely(&json!({"do": "holds"}));
        if holds.as_array().unwrap().iter().all(|held| held["id"] != json!(id.to_string())) {
            self.model.holds.remove(at);
        }
    }

    fn erase(&mut self) {
        let person = self.dice.roll(5);
        let wait = self.dice.roll(3) > 0;
        let answer = self.try_do(json!({"do": "erase", "person": name_of(person), "wait": wait}));
        let id = match &answer {
            Some(answer) if *answer == json!("held") => return,
            Some(answer) => Some(answer.as_str().unwrap().parse().unwrap()),
            // What was asked for before a kill goes on after it, if it was: the list says.
            None => {
                let listed = self.erasures();
                let ids =
                    listed.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().parse().unwrap());
                ids.into_iter().find(|id| !self.model.asked.contains(id))
            }
        };
        let Some(id) = id else { return };
        self.model.asked.insert(id);
        // A hold that comes before it is done wins.
        let is_sure = wait && answer.is_some();
        self.model.erased(person, u64::MAX, is_sure);
        if !is_sure {
            self.model.erasing.insert(id, Erasing { person, end: None });
            self.erasures();
        }
    }

    fn compact(&mut self) {
        let is_whole = self.dice.roll(3) > 0;
        let done = self.try_do(json!({"do": if is_whole { "compact" } else { "begin" }}));
        self.model.compacted(self.now, is_whole && done.is_some());
        // The whole one is of a store that was stopped before.
        self.model.is_compacting = !is_whole && done.is_some();
    }

    /// How it ends: of half of them all leaves that is over by then, of some a part of it, of the rest persons.
    fn end(&mut self) {
        let end = self.dice.roll(4);
        if end == 3 {
            return self.erase();
        }
        if end < 2 && self.model.policies.is_empty() {
            self.policy();
        }
        while end < 2 && !self.model.holds.is_empty() {
            self.release();
        }
        // Over all months that a policy may ask for.
        self.now += Duration::from_secs(100 * 86_400);
        self.events();
        self.compact();
        if end < 2 {
            self.surely(&json!({"do": "compact"}));
            self.model.compacted(self.now, true);
            self.model.is_compacting = false;
        }
    }

    fn look(&mut self, context: &str) -> Seen {
        let records = self.surely(&json!({"do": "records"}));
        self.model.pass_time(self.now);
        self.model.check(&records, self.now, context)
    }
}

fn play(seed: u64, root: &Path) -> Seen {
    let mut play = Play {
        data: root.join(format!("schedule-{seed}")),
        child: None,
        now: "2026-01-28T12:00:00Z".parse().unwrap(),
        dice: Dice(seed),
        model: Model::default(),
        next_id: 0,
        kills: 0,
        verified_after_kills: 0,
        is_told: std::env::var("VARVE_SCHEDULE_TOLD").is_ok(),
    };
    // A store that is cut off while it is made holds nothing, and is refused.
    play.surely(&json!({"do": "holds"}));
    if play.dice.roll(2) == 0 {
        play.policy();
    }
    let mut seen = Seen::default();
    let steps = 8 + play.dice.roll(16);
    for step in 0..steps {
        let what = play.dice.roll(17);
        match what {
            0..=4 => play.events(),
            5 => play.policy(),
            6 | 7 => play.hold(),
            8 => play.release(),
            9 | 16 => play.erase(),
            10 | 11 => play.compact(),
            12 => play.kill(),
            _ => {
                let days = 10 + play.dice.roll(40);
                play.now += Duration::from_secs(days * 86_400);
            }
        }
        if play.dice.roll(4) == 0 {
            seen.add(play.look(&format!("seed {seed}, step {step}, after {what}")));
        }
    }
    play.end();
    seen.add(play.look(&format!("seed {seed}, at the end")));
    play.surely(&json!({"do": "stop"}));
    play.kill();
    play.verify("at the end");
    std::fs::remove_dir_all(&play.data).unwrap();
    let _ = std::fs::remove_file(play.data.with_extension("stderr"));
    Seen { kills: play.kills, verified_after_kills: play.verified_after_kills, ..seen }
}

#[test]
fn schedules() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (count, first) =
        (number("VARVE_SCHEDULES").unwrap_or(SCHEDULES), number("VARVE_SCHEDULE_SEED").unwrap_or(1));
    let root = tempfile::tempdir().unwrap();
    let mut all = Seen::default();
    for seed in first..first + count {
        all.add(play(seed, root.path()));
        if seed % 100 == 0 {
            println!("up to seed {seed}: {all:?}");
        }
    }
    println!("{count} schedules from seed {first}: {all:?}");
    if (count, first) == (SCHEDULES, 1) {
        let seen = [all.kills, all.expired, all.erased, all.kept, all.verified_after_kills];
        let floors = [LEAST.kills, LEAST.expired, LEAST.erased, LEAST.kept, LEAST.verified_after_kills];
        assert!(seen.iter().zip(floors).all(|(seen, least)| *seen >= least), "{all:?} of at least {LEAST:?}");
    }
}
