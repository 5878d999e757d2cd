//! A store for tests, made by the real write path: an instance log, tenants, events of every shape, a
//! rotation, an API key, two months.

#![expect(clippy::disallowed_methods, reason = "a test makes keys of its own")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::catalog::{Class, action};
use crate::event::{Builder, Event, Outcome, Value};
use crate::ingest::Pipeline;
use crate::ingest::clock::{Clock, Stamps};
use crate::ingest::prepare::{Prepared, fill_in, prepare};
use crate::ingest::queue::{Control, Placed, Submission};
use crate::journal::{self, Writer};
use crate::process::watchdog::Watchdog;
use crate::store::backend::{Backend as _, Kv};
use crate::store::keyfile::{KeyFile, LogSigner};
use crate::store::layer::Layer;
use crate::store::layer_id::LayerId;
use crate::store::log::{Log, Sequenced};
use crate::store::manifest::Manifest;
use crate::store::page::{self, Page};
use crate::store::read::Store;
use crate::store::recovery;
use crate::store::sled::SledBackend;
use crate::store::state::{ApiKey, Head, LogIdentity, State};
use crate::tlog::chain;
use crate::tlog::hash::Hash;
use crate::tlog::key::{Signer as _, VerifyingKey};

pub(super) const INSTANCE: &str = "test.example";

/// 2026-10-31T23:59:00Z: the second month begins soon.
const START_MICROS: u64 = 1_793_491_140_000_000;

#[derive(Clone)]
pub(super) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    /// The time that the next reading gets.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for TestClock {
    fn wall_micros(&self) -> u64 {
        self.0.fetch_add(10, Ordering::Relaxed)
    }

    fn steady_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A store that is being written.
pub(super) struct Writing {
    pub(super) dir: PathBuf,
    pub(super) store: Arc<Store>,
    pub(super) clock: TestClock,
    pipeline: Pipeline,
    key_file: KeyFile,
    pub(super) signers: HashMap<String, Arc<LogSigner>>,
    first_signers: HashMap<String, Arc<LogSigner>>,
    genesis: HashMap<String, Hash>,
    _lock: crate::process::lock::DirLock,
}

/// What the first entry of a log says, and the entry in `_system` that it has beside it.
pub(super) struct Genesis {
    pub(super) facts: bool,
    pub(super) origin_said: Option<&'static str>,
    pub(super) log_id_said: Option<[u8; 32]>,
    pub(super) nonce_said: [u8; 32],
    pub(super) key_said: Option<[u8; 32]>,
    pub(super) recovery_said: Option<Value>,
    /// The entry in `_system` is written, and says this id and key.
    pub(super) recorded: bool,
    pub(super) recorded_id: Option<[u8; 32]>,
    pub(super) recorded_key: Option<[u8; 32]>,
}

pub(super) fn options() -> journal::Options {
    journal::Options { segment_bytes: 512 << 10, max_frame_bytes: 256 << 10, background: false }
}

pub(super) fn backend() -> SledBackend {
    SledBackend::new(Watchdog::aborting())
}

/// Makes an empty store.
fn init(dir: &Path) {
    for name in ["layers", "state", "ids"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let state = State { instance: INSTANCE.to_owned(), cursor_key: [9; 32], ..State::default() };
    let mut writer = Writer::create(&dir.join("journal"), &options()).unwrap();
    let digest = state.write(&dir.join("state"), 0).unwrap();
    writer.set_head(0, digest, true).unwrap();
    Manifest::default().write(dir).unwrap();
    KeyFile::create(dir).unwrap();
}

impl Writing {
    /// A store with its instance log.
    pub(super) fn create(dir: &Path) -> Writing {
        let mut writing = Writing::create_empty(dir);
        writing.tenant("_system");
        writing
    }

    /// A store without a log.
    pub(super) fn create_empty(dir: &Path) -> Writing {
        init(dir);
        Writing::open(dir, TestClock(Arc::new(AtomicU64::new(START_MICROS))))
    }

    pub(super) fn open(dir: &Path, clock: TestClock) -> Writing {
        let recovered = recovery::open(dir, Arc::new(backend()), &options()).unwrap();
        let stamps = Arc::new(Stamps::new(Arc::new(clock.clone()), recovered.newest_stamp));
        let store = recovered.store;
        let pipeline = Pipeline::start(
            &store,
            Vec::new(),
            recovered.applier,
            recovered.journal,
            &recovered.signers,
            &stamps,
            crate::ingest::Pace::default(),
            &crate::telemetry::Telemetry::new(),
        )
        .unwrap();
        Writing {
            dir: dir.to_path_buf(),
            store,
            clock,
            pipeline,
            key_file: recovered.key_file,
            signers: HashMap::new(),
            first_signers: HashMap::new(),
            genesis: HashMap::new(),
            _lock: recovered.lock,
        }
    }

    pub(super) fn submit(&self, items: Vec<Prepared>, controls: Vec<Control>) -> Vec<Arc<Sequenced>> {
        let submission = Submission { items, controls, atomic: true, epoch: None };
        let placed = self.pipeline.queue.admit(submission).unwrap().wait().unwrap();
        let new = |placed| match placed {
            Placed::New(record) => record,
            _ => panic!("an event of a test is new"),
        };
        placed.into_iter().map(new).collect()
    }

    fn add_key(&self, origin: &str) -> Arc<LogSigner> {
        Arc::new(self.key_file.add(&[origin], &mut |seed| getrandom::fill(seed).unwrap()).unwrap().remove(0))
    }

    /// Makes a tenant with its log.
    pub(super) fn tenant(&mut self, tenant: &str) {
        self.tenant_with(tenant, |_| ());
    }

    /// The same with a first entry that may say something else.
    pub(super) fn tenant_with(&mut self, tenant: &str, change: fn(&mut Genesis)) {
        let origin = format!("{INSTANCE}/{tenant}");
        let signer = self.add_key(&origin);
        let nonce = [7; 32];
        let mut said = Genesis {
            facts: true,
            origin_said: None,
            log_id_said: None,
            nonce_said: nonce,
            key_said: None,
            recovery_said: None,
            recorded: tenant != "_system",
            recorded_id: None,
            recorded_key: None,
        };
        change(&mut said);
        let identity = LogIdentity {
            number: u32::try_from(self.store.log_count()).unwrap(),
            tenant: tenant.to_owned(),
            origin: String::new(),
            log_id: chain::log_id(&origin, &nonce, &signer.public(), None),
            index_key: *blake3::hash(tenant.as_bytes()).as_bytes(),
            genesis_key: signer.public(),
        };
        let log = Log::new(identity.clone(), Head::empty(signer.public()));
        let mut genesis = Builder::new(action::LOG_CREATED, Outcome::Success);
        if said.facts {
            genesis = genesis
                .fact("origin", said.origin_said.unwrap_or(&origin))
                .fact("log_id", Value::bytes(&said.log_id_said.unwrap_or(identity.log_id.0)))
                .fact("nonce", Value::bytes(&said.nonce_said))
                .fact("public_key", Value::bytes(&said.key_said.unwrap_or(signer.public())));
        }
        if let Some(recovery) = said.recovery_said {
            genesis = genesis.fact("recovery_key", recovery);
        }
        let mut items = vec![own(&log, genesis)];
        if said.recorded {
            let id = said.recorded_id.unwrap_or(identity.log_id.0);
            let key = said.recorded_key.unwrap_or(signer.public());
            items.push(own(&self.log("_system"), created(tenant, &id, &key)));
        }
        self.signers.insert(tenant.to_owned(), signer.clone());
        self.first_signers.insert(tenant.to_owned(), signer.clone());
        let first = self.submit(items, vec![Control::CreateLog { identity, signer }]).remove(0);
        self.genesis.insert(tenant.to_owned(), first.leaf_hash);
    }

    pub(super) fn log(&self, tenant: &str) -> Arc<Log> {
        self.store.log_of(tenant).unwrap()
    }

    /// Appends one of Varve's own events.
    pub(super) fn own(&self, tenant: &str, event: Builder, controls: Vec<Control>) -> Arc<Sequenced> {
        self.submit(vec![own(&self.log(tenant), event)], controls).remove(0)
    }

    /// Appends `count` events.
    pub(super) fn events(&self, tenant: &str, count: usize) -> Vec<Arc<Sequenced>> {
        let log = self.log(tenant);
        let mut all = Vec::new();
        let from = usize::try_from(log.size()).unwrap();
        for chunk in (from..from + count).collect::<Vec<_>>().chunks(100) {
            let items = chunk.iter().map(|n| item(&log, &event_json(*n))).collect();
            all.extend(self.submit(items, Vec::new()));
        }
        all
    }

    /// Makes an API key and records it.
    pub(super) fn api_key(&self, id: &str) {
        let digest = *blake3::hash(id.as_bytes()).as_bytes();
        let event = Builder::new(action::API_KEY_CREATED, Outcome::Success)
            .fact("id", id)
            .fact("secret_digest", Value::bytes(&digest))
            .fact("scope_bits", 4u64)
            .fact("tenant", "acme");
        let key = ApiKey {
            id: id.to_owned(),
            tenant: Some("acme".to_owned()),
            name: "a key".to_owned(),
            scopes: 4,
            secret_digest: digest,
            created_at: 1,
            expires_at: 0,
            revoked_at: 0,
            entry_index: u64::MAX,
        };
        self.own("_system", event, vec![Control::ApiKey(key)]);
    }

    /// Changes a log's key.
    pub(super) fn rotate(&mut self, tenant: &str) -> Arc<Sequenced> {
        self.rotate_by(tenant, |facts| {
            facts.iter().fold(Builder::new(action::KEY_ROTATED, Outcome::Success), |event, (name, value)| {
                event.fact(name, value.as_str())
            })
        })
    }

    /// The same by an event that may say something else. It is given the facts of a sound one.
    pub(super) fn rotate_by(
        &mut self,
        tenant: &str,
        event: impl FnOnce(&[(&str, String)]) -> Builder,
    ) -> Arc<Sequenced> {
        let (control, facts) = self.rotation(tenant);
        self.own(tenant, event(&facts), vec![control])
    }

    /// The same by an event as JSON text.
    pub(super) fn rotate_by_text(
        &mut self,
        tenant: &str,
        event: impl FnOnce(&[(&str, String)]) -> String,
    ) -> Arc<Sequenced> {
        let (control, facts) = self.rotation(tenant);
        let mut event = Event::parse_own(event(&facts).as_bytes()).unwrap();
        let class = Class::named(event.class().unwrap()).unwrap();
        fill_in(&mut event, class.name());
        let item = prepare(&self.log(tenant), &event, class.code());
        self.submit(vec![item], vec![control]).remove(0)
    }

    fn rotation(&mut self, tenant: &str) -> (Control, [(&'static str, String); 3]) {
        let log = self.log(tenant);
        let origin = self.store.origin(&log.identity);
        let signer = self.add_key(&origin);
        let old = VerifyingKey::from_bytes(&log.head().key).unwrap();
        let facts = [
            ("previous_key_id", old.key_id(&origin).to_string()),
            ("key_id", signer.verifying_key().key_id(&origin).to_string()),
            ("public_key", Value::bytes(&signer.public()).as_text().unwrap().to_owned()),
        ];
        self.signers.insert(tenant.to_owned(), signer.clone());
        (Control::RotateKey { log: log.identity.number, signer }, facts)
    }

    /// Appends a heartbeat of the instance.
    pub(super) fn heartbeat(&self, logs: u64) {
        let event = Builder::new(action::LOG_HEARTBEAT, Outcome::Success)
            .fact("logs", logs)
            .fact("interval_seconds", 60u64);
        self.own("_system", event, Vec::new());
    }

    /// Lets time pass.
    pub(super) fn wait(&self, seconds: u64) {
        self.wait_micros(seconds * 1_000_000);
    }

    /// The same to the microsecond.
    pub(super) fn wait_micros(&self, micros: u64) {
        self.clock.0.fetch_add(micros, Ordering::Relaxed);
    }

    /// Goes into the next month.
    pub(super) fn next_month(&self) {
        self.wait(2 * 60);
    }

    /// What a kill at this moment leaves on disk.
    pub(super) fn crash_image(&self, to: &Path) {
        copy(&self.dir, to);
    }

    pub(super) fn stop(self) -> TestClock {
        self.pipeline.stop().unwrap();
        self.clock
    }
}

/// The entry in `_system` that a log has beside its first.
pub(super) fn created(tenant: &str, id: &[u8; 32], key: &[u8; 32]) -> Builder {
    Builder::new(action::TENANT_CREATED, Outcome::Success)
        .fact("tenant", tenant)
        .fact("origin", format!("{INSTANCE}/{tenant}"))
        .fact("log_id", Value::bytes(id))
        .fact("public_key", Value::bytes(key))
}

pub(super) fn own(log: &Log, event: Builder) -> Prepared {
    let mut event = event.build().unwrap();
    let class = Class::named(event.class().unwrap()).unwrap();
    fill_in(&mut event, class.name());
    prepare(log, &event, class.code())
}

pub(super) fn item(log: &Log, json: &str) -> Prepared {
    let mut event = Event::parse(json.as_bytes()).unwrap();
    let class = event.class().and_then(Class::named).unwrap_or(Class::Security);
    fill_in(&mut event, class.name());
    prepare(log, &event, class.code())
}

/// Events of different shapes; about 400 bytes.
pub(super) fn event_json(n: usize) -> String {
    let occurred = if n.is_multiple_of(3) { "\"occurred_at\":\"2026-10-01T10:00:00.5Z\"," } else { "" };
    let long = if n == 77 { "x".repeat(20_000) } else { String::new() };
    let class = if n.is_multiple_of(5) { "\"class\":\"processing\"," } else { "" };
    format!(
        "{{\"id\":\"event-{n}\",\"action\":\"aws.kms.decrypt{}\",\"outcome\":\"success\",{class}{occurred}\
         \"actor\":{{\"type\":\"user\",\"id\":\"user-{}\",\"email\":\"user-{}@example.com\"}},\
         \"targets\":[{{\"type\":\"key\",\"id\":\"key-{}\"}},{{\"type\":\"alias\",\"id\":\"key-{}\"}}],\
         \"context\":{{\"ip\":\"10.0.0.{}\",\"request_id\":\"request-{}\",\"user_agent\":\"aws-cli/2.{n}\"}},\
         \"metadata\":{{\"region\":\"eu-central-1\",\"note\":\"{long}\"}}}}",
        n % 7,
        n % 11,
        n % 11,
        n % 13,
        n % 13,
        n % 250,
        n / 2,
    )
}

/// The store that most tests tamper with, and what it was before its second month.
pub(super) struct Sample {
    _dir: tempfile::TempDir,
    pub(super) path: PathBuf,
    /// The same store, stopped before its second month.
    pub(super) old: PathBuf,
    /// What was handed out for `acme`, by index from 1.
    pub(super) acme: Vec<Arc<Sequenced>>,
    pub(super) signers: HashMap<String, Arc<LogSigner>>,
    first_signers: HashMap<String, Arc<LogSigner>>,
    genesis: HashMap<String, Hash>,
    acme_log_id: Hash,
}

impl Sample {
    pub(super) fn acme_log_id(&self) -> Hash {
        self.acme_log_id
    }

    pub(super) fn first_signer(&self, tenant: &str) -> Arc<LogSigner> {
        self.first_signers[tenant].clone()
    }

    pub(super) fn genesis_leaf(&self, tenant: &str) -> Hash {
        self.genesis[tenant]
    }
}

/// `acme` (log 1) has 1,300 entries in October, with a rotation at 1,001, and 300 in November; `beta` (log 2)
/// 41 and 5. The journal has let go of the older ones. Made once; each test copies it.
pub(super) fn sample() -> &'static Sample {
    static SAMPLE: std::sync::OnceLock<Sample> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("store"), dir.path().join("old"));
        fs::create_dir_all(&path).unwrap();
        let mut writing = Writing::create(&path);
        writing.tenant("acme");
        writing.tenant("beta");
        writing.api_key("0123456789abcdef");
        let mut acme = writing.events("acme", 1_000);
        writing.events("beta", 40);
        acme.push(writing.rotate("acme"));
        acme.extend(writing.events("acme", 298));
        let (signers, first_signers, genesis) =
            (writing.signers.clone(), writing.first_signers.clone(), writing.genesis.clone());
        let acme_log_id = writing.log("acme").identity.log_id;
        let clock = writing.stop();
        copy(&path, &old);
        let writing = Writing::open(&path, clock);
        writing.next_month();
        acme.extend(writing.events("acme", 300));
        writing.events("beta", 5);
        writing.heartbeat(3);
        let clock = writing.stop();
        let writing = Writing::open(&path, clock);
        writing.heartbeat(3);
        writing.stop();
        // A journal that is opened anew lets go of what was applied before.
        let scan = journal::Scan::read(&path.join("journal"), &options()).unwrap();
        let head = *scan.head();
        let mut journal = scan.into_writer().unwrap();
        journal.set_head(head.applied, head.state_digest, true).unwrap();
        journal.release(head.applied).unwrap();
        drop(journal);
        let scan = journal::Scan::read(&path.join("journal"), &options()).unwrap();
        assert!(scan.oldest() > Some(1) && scan.oldest() < scan.newest().map(|(frame, _)| frame));
        Sample { _dir: dir, path, old, acme, signers, first_signers, genesis, acme_log_id }
    })
}

/// A copy of the sample to tamper with.
pub(super) fn sample_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&sample().path, dir.path());
    dir
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), &target).unwrap();
        }
    }
}

/// Every file below a directory.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Opens a layer of a copy for tampering.
pub(super) fn open_layer(data: &Path, month: &str) -> (Layer, Arc<dyn Kv>) {
    let id = LayerId::parse(month).unwrap();
    let kv = backend().open(&Manifest::layer_dir(data, id, 1), 1 << 20).unwrap();
    (Layer::new(id, kv.clone()), kv)
}

/// Changes the page that holds `index`.
pub(super) fn change_page(
    data: &Path,
    month: &str,
    log: u32,
    index: u64,
    change: impl FnOnce(&mut Page, usize),
) {
    let (layer, kv) = open_layer(data, month);
    let stored = layer.page_at(log, index).unwrap().unwrap();
    let mut page = page::decode(&stored.bytes).unwrap();
    change(&mut page, usize::try_from(index - stored.first_index).unwrap());
    layer.put_page(log, stored.first_index, &page::encode(&page.previous, &page.records)).unwrap();
    kv.sync().unwrap();
}

/// Rewrites the snapshot that HEAD names, and HEAD with it: what someone who knows the format can do.
pub(super) fn change_state(data: &Path, change: impl FnOnce(&mut State)) {
    let scan = journal::Scan::read(&data.join("journal"), &options()).unwrap();
    let head = *scan.head();
    let mut state = State::read(&data.join("state"), head.applied, &head.state_digest).unwrap();
    change(&mut state);
    let digest = state.write(&data.join("state"), head.applied).unwrap();
    let mut writer = scan.into_writer().unwrap();
    writer.set_head(head.applied, digest, true).unwrap();
}

pub(super) fn verifying_key(signer: &LogSigner) -> VerifyingKey {
    signer.verifying_key()
}

pub(super) fn root_of(data: &Path, tenant: &str) -> (u64, Hash) {
    let scan = journal::Scan::read(&data.join("journal"), &options()).unwrap();
    let state = State::read(&data.join("state"), scan.head().applied, &scan.head().state_digest).unwrap();
    let log = state.logs.into_values().find(|log| log.identity.tenant == tenant).unwrap();
    (log.head.size, log.head.frontier.root())
}
