//! Damage to the files of a stopped store: flipped bits, and parts put back as they were before.
//!
//! Allowed: the open is refused with a reason, or a read is an error, or every answer is what it was. Never
//! another answer, never a record that is not there any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use varve::ingest::Pace;
use varve::ingest::clock::Clock;
use varve::service::{OpenOptions, Scope, Service};

use super::crash::{Hand, append, event, operator, read, small_journal, tenant_key};

const TENANTS: [&str; 2] = ["north", "east"];

/// Flipped bits in CI; `VARVE_FLIPS` for more.
const FLIPS: u64 = 120;

struct Subject {
    dir: tempfile::TempDir,
    clock: Arc<Hand>,
}

/// Answers by tenant and index.
type Answers = BTreeMap<(String, u64), (String, String)>;

impl Subject {
    fn new() -> Subject {
        let subject = Subject { dir: tempfile::tempdir().unwrap(), clock: Hand::new() };
        let options = subject.options();
        Service::init(&subject.data(), Some("rot.test"), None, &options).unwrap();
        let service = Service::open(&subject.data(), &options).unwrap();
        TENANTS.iter().for_each(|tenant| drop(service.create_tenant(&operator(), tenant).unwrap()));
        service.stop().unwrap();
        subject
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn options(&self) -> OpenOptions {
        let clock: Arc<dyn Clock> = self.clock.clone();
        OpenOptions {
            heartbeat_seconds: 0,
            clock,
            journal: small_journal(),
            checkpoints: Pace { bytes: 32 << 10, interval: Duration::from_millis(20), ..Pace::default() },
            ..OpenOptions::default()
        }
    }

    /// Appends `count` events a tenant in a run of its own.
    fn work(&self, name: &str, count: usize) {
        let service = Service::open(&self.data(), &self.options()).unwrap();
        for tenant in TENANTS {
            let events: Vec<String> = (0..count).map(|n| event(&format!("{name}-{n}"), n % 400)).collect();
            for part in events.chunks(20) {
                assert!(append(&service, tenant, part).iter().all(Result::is_ok));
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        service.stop().unwrap();
    }

    /// Every answer; a read that fails is left out, and counted.
    fn answers(&self, data: &Path) -> Result<(Answers, u64), String> {
        let service = Service::open(data, &self.options()).map_err(|error| error.to_string())?;
        let (mut answers, mut failed) = (Answers::new(), 0);
        for tenant in TENANTS.iter().chain([&"_system"]) {
            let by = if *tenant == "_system" { operator() } else { tenant_key(tenant) };
            let size = service.tenant(&by, tenant).map_err(|error| error.to_string())?.size;
            for index in 0..size {
                match read(&service, &by, tenant, index) {
                    Ok(record) => drop(answers.insert(((*tenant).to_owned(), index), record)),
                    Err(_) => {
                        failed += 1;
                        answers.insert(((*tenant).to_owned(), index), (String::new(), String::new()));
                    }
                }
            }
        }
        drop(service.stop());
        Ok((answers, failed))
    }

    /// Holds the damaged store in `data` against what was `true` before. Returns what became of it.
    fn judge(&self, data: &Path, truth: &Answers, what: &str) -> Outcome {
        let (answers, failed) = match self.answers(data) {
            Err(reason) => {
                assert!(reason.len() > 20, "{what}: a refusal says what was found: {reason}");
                return Outcome::Refused;
            }
            Ok(answers) => answers,
        };
        for (place, record) in truth {
            let found = answers.get(place).unwrap_or_else(|| panic!("{what}: {place:?} is hidden"));
            assert!(found == record || found.0.is_empty(), "{what}: {place:?} is another record");
        }
        if failed > 0 { Outcome::Found } else { Outcome::Unchanged }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    Refused,
    Found,
    Unchanged,
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_flipped_bit_is_refused_or_found_or_changes_nothing() {
    let subject = Subject::new();
    subject.work("one", 150);
    subject.clock.next_month();
    subject.work("two", 150);
    let pristine = subject.dir.path().join("pristine");
    copy(&subject.data(), &pristine);
    let (truth, failed) = subject.answers(&subject.data()).unwrap();
    assert_eq!(failed, 0);
    let truth: Answers = truth;
    let flips = std::env::var("VARVE_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(FLIPS);
    let names: Vec<PathBuf> =
        files(&pristine).into_iter().map(|path| path.strip_prefix(&pristine).unwrap().to_owned()).collect();
    let mut outcomes: BTreeMap<(String, Outcome), u64> = BTreeMap::new();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for flip in 0..flips {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = &names[usize::try_from(flip).unwrap() % names.len()];
        let damaged = subject.dir.path().join("damaged");
        remove(&damaged);
        copy(&pristine, &damaged);
        let mut bytes = fs::read(damaged.join(name)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1) as u64;
        let bit = (state >> 16) % (used * 8);
        bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        fs::write(damaged.join(name), bytes).unwrap();
        let what = format!("flip {flip}, bit {bit} of {}", name.display());
        // The truth has the entry of the open that read it; its own opening adds another in its place.
        let known: Answers = truth
            .iter()
            .filter(|((tenant, _), _)| tenant != "_system")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let outcome = subject.judge(&damaged, &known, &what);
        let kind = name.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        *outcomes.entry((kind, outcome)).or_default() += 1;
    }
    for ((kind, outcome), count) in &outcomes {
        eprintln!("{count:5} {kind}: {outcome:?}");
    }
    // The harness can see: a flip in a signed, hashed or checked file must not pass as unchanged every time.
    assert!(outcomes.iter().any(|((_, outcome), _)| *outcome == Outcome::Refused));
}

#[test]
fn a_month_that_is_gone_is_refused_and_not_made_anew() {
    let subject = Subject::new();
    subject.work("one", 120);
    let first = fs::read_dir(subject.data().join("layers")).unwrap().next().unwrap().unwrap().path();
    for name in ["two", "three"] {
        subject.clock.next_month();
        subject.work(name, 120);
    }
    remove(&first);
    let before = files(&subject.data());
    for _ in 0..2 {
        let refused = subject.answers(&subject.data()).unwrap_err();
        assert!(refused.contains("is gone"), "{refused}");
    }
    assert!(!first.exists(), "an empty layer stands in its place");
    assert_eq!(files(&subject.data()), before);
}

/// While the journal has all of a month, a MANIFEST from before it costs nothing: the layer is made anew. Later the
/// layer is the only copy.
#[test]
fn an_old_manifest_is_refused_once_the_journal_has_let_go() {
    let subject = Subject::new();
    subject.work("one", 20);
    let manifest = fs::read(subject.data().join("MANIFEST")).unwrap();
    subject.clock.next_month();
    for round in 0..4 {
        let service = Service::open(&subject.data(), &subject.options()).unwrap();
        for part in 0..5 {
            let name = |number| event(&format!("{round}-{part}-{number}"), 50_000);
            let events: Vec<String> = (0..20).map(name).collect();
            assert!(append(&service, "north", &events).iter().all(Result::is_ok));
        }
        service.stop().unwrap();
    }
    fs::write(subject.data().join("MANIFEST"), manifest).unwrap();
    let refused = subject.answers(&subject.data()).unwrap_err();
    assert!(refused.contains("MANIFEST"), "{refused}");
    assert_eq!(fs::read_dir(subject.data().join("layers")).unwrap().count(), 2, "a layer was removed");
}

#[test]
fn a_tenant_that_a_checkpoint_was_signed_of_may_not_be_gone() {
    let subject = Subject::new();
    subject.work("one", 30);
    let before = subject.dir.path().join("before");
    copy(&subject.data(), &before);
    let service = Service::open(&subject.data(), &subject.options()).unwrap();
    service.create_tenant(&operator(), "later").unwrap();
    assert!(append(&service, "later", &[event("later-1", 0)]).iter().all(Result::is_ok));
    let mut auditor = tenant_key("later");
    auditor.scopes = auditor.scopes.with(Scope::Verify);
    service.checkpoint(&auditor, "later").unwrap();
    service.stop().unwrap();
    drop(service);
    let mixed = subject.dir.path().join("mixed");
    copy(&before, &mixed);
    fs::copy(subject.data().join("signed-checkpoints"), mixed.join("signed-checkpoints")).unwrap();
    let refused = subject.answers(&mixed).unwrap_err();
    assert!(refused.contains("rolled back"), "{refused}");
}

#[test]
fn a_part_put_back_as_it_was_is_refused_or_changes_nothing() {
    let subject = Subject::new();
    subject.work("one", 120);
    let before = subject.dir.path().join("before");
    copy(&subject.data(), &before);
    let service = Service::open(&subject.data(), &subject.options()).unwrap();
    service.create_tenant(&operator(), "later").unwrap();
    service.stop().unwrap();
    drop(service);
    subject.work("two", 120);
    subject.clock.next_month();
    subject.work("three", 120);
    let after = subject.dir.path().join("after");
    copy(&subject.data(), &after);
    let (truth, _) = subject.answers(&subject.data()).unwrap();
    let truth: Answers = truth.into_iter().filter(|((tenant, _), _)| tenant != "_system").collect();

    let layer = fs::read_dir(before.join("layers")).unwrap().next().unwrap().unwrap().file_name();
    let layer = format!("layers/{}", layer.to_string_lossy());
    for (part, must_refuse) in [
        ("state", true),
        ("journal", true),
        ("journal/HEAD", true),
        // Refused, unless the journal still has all that goes into the layer that is not named: it is then made anew.
        ("MANIFEST", false),
        ("ids", true),
        ("signing-keys", true),
        ("signed-checkpoints", false),
        (layer.as_str(), false),
        ("layers", false),
    ] {
        let mixed = subject.dir.path().join("mixed");
        remove(&mixed);
        copy(&after, &mixed);
        remove(&mixed.join(part));
        if before.join(part).exists() {
            copy(&before.join(part), &mixed.join(part));
        }
        let outcome = subject.judge(&mixed, &truth, part);
        eprintln!("{part}: {outcome:?}");
        assert!(!must_refuse || outcome == Outcome::Refused, "{part} was put back, the open said nothing");
        if part == "MANIFEST" {
            assert_eq!(fs::read_dir(mixed.join("layers")).unwrap().count(), 2, "a layer was removed");
        }
    }
}

/// What the service writes of tenants, keys and itself is what the verifier reads there.
#[test]
fn the_verifier_believes_what_the_service_wrote() {
    use varve::verify::{Claim, Options, Progress, verify_dir};
    struct Quiet;
    impl Progress for Quiet {
        fn started(&self, _: u64) {}
        fn advanced(&self, _: u64) {}
        fn message(&self, _: &str) {}
    }
    let subject = Subject::new();
    subject.work("one", 70);
    Service::rotate_signing_key(&subject.data(), None, &subject.options()).unwrap();
    subject.clock.next_month();
    subject.work("two", 70);
    Service::reset_operator_key(&subject.data(), &subject.options()).unwrap();
    let report = verify_dir(&subject.data(), &Options::default(), &Quiet).unwrap();
    assert!(report.valid && report.warning_count == 0, "{}", report.to_text());
    assert_eq!((report.claim, report.logs.len()), (Claim::SelfSigned, 1 + TENANTS.len()));
    assert!(report.logs.iter().all(|log| log.key_ids.len() == 2), "{}", report.to_text());
}
