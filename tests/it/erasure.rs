//! Erasure of a person: what was sealed about them is in no file of the directory, and everything verifies.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::Months;
use serde_json::{Value, json};
use varve::service::{Asked, BatchMode, ErasureView, ErrorCode, Submitted};

use crate::world::*;

impl World {
    pub(crate) fn append_raw(&self, tenant: &str, events: &[String]) -> Vec<u64> {
        let events: Vec<Submitted<'_>> =
            events.iter().map(|raw| Submitted { raw: raw.as_bytes(), idempotency_key: None }).collect();
        let receipts =
            wait_for(self.service().append(&of(tenant), tenant, &events, BatchMode::Atomic, false)).unwrap();
        receipts.into_iter().map(|receipt| receipt.unwrap().index).collect()
    }

    pub(crate) fn ask_erasure(&self, tenant: &str, kind: &str, id: &str) -> ErasureView {
        let wanted = json!({"subject": {"type": kind, "id": id}, "basis": "GDPR Art. 17"}).to_string();
        match self.service().request_erasure(&of(tenant), tenant, wanted.as_bytes()).unwrap() {
            Asked::Erasure(view) => *view,
            Asked::Approval(_) => panic!("one key is enough"),
        }
    }

    pub(crate) fn erased(&self, tenant: &str, id: &str) -> ErasureView {
        let since = Instant::now();
        loop {
            let view = self.service().erasure(&of(tenant), tenant, id).unwrap();
            if view.state == "done" {
                return view;
            }
            assert!(since.elapsed() < Duration::from_secs(120), "{view:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Files of the directory that hold the text, as it is or inside a page.
    pub(crate) fn files_with(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        look(&self.dir.path().join("store"), text.as_bytes(), &mut found);
        found
    }
}

/// Looks for bytes in files, and in whatever zstd frame stands in them: pages and frames are packed.
fn look(dir: &Path, wanted: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, wanted, found);
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let mut has = memchr::memmem::find(&bytes, wanted).is_some();
        for at in memchr::memmem::find_iter(&bytes, &[0x28, 0xb5, 0x2f, 0xfd]) {
            let unpacked = zstd::bulk::decompress(&bytes[at..bytes.len().min(at + (1 << 17))], 1 << 20);
            let unpacked = unpacked.or_else(|_| streamed(&bytes[at..]));
            has |= unpacked.is_ok_and(|text| memchr::memmem::find(&text, wanted).is_some());
        }
        if has {
            found.push(path.display().to_string());
        }
    }
}

fn streamed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
    let mut part = [0; 4096];
    while let Ok(read) = decoder.read(&mut part) {
        if read == 0 || text.len() > 1 << 20 {
            break;
        }
        text.extend_from_slice(&part[..read]);
    }
    Ok(text)
}

fn of_person(n: usize, person: &str) -> String {
    json!({
        "action": "iam.role.granted", "outcome": "success",
        "actor": {"type": "user", "id": person, "name": format!("Name of {person}"), "email": format!("{person}@example.org")},
        "targets": [{"type": "user", "id": format!("someone-{n}")}],
        "context": {"ip": "192.0.2.7", "user_agent": format!("agent of {person}")},
        "metadata": {"note": format!("entry {n}, asked by {person} in person")},
        "changes": [{"field": "role", "from": "none", "to": format!("of someone-{n}")}],
    })
    .to_string()
}

fn about_person(n: usize, person: &str) -> String {
    json!({
        "action": "iam.role.granted", "outcome": "success",
        "actor": {"type": "user", "id": format!("admin-{n}")},
        "targets": [{"type": "user", "id": format!("someone-{n}")}, {"type": "user", "id": person}],
        "context": {"ip": "192.0.2.8"},
        "reason": format!("because {person} asked"),
    })
    .to_string()
}

#[test]
fn a_person_is_in_no_file_once_it_is_done() {
    let mut world = World::new(&["acme"]);
    let start = world.now();
    let (canary, other) = ("canary-person-0417", "bystander-0418");
    let mut theirs = Vec::new();
    let mut others = Vec::new();
    for month in 0..3 {
        world.go_to(start.checked_add_months(Months::new(month)).unwrap());
        let events: Vec<String> = (0..40)
            .map(|n| match n % 4 {
                0 => of_person(n, canary),
                1 => about_person(n, canary),
                2 => of_person(n, other),
                _ => about_person(n, other),
            })
            .collect();
        for (n, index) in world.append_raw("acme", &events).into_iter().enumerate() {
            if n % 4 < 2 { theirs.push((index, n % 4 == 0)) } else { others.push(index) }
        }
    }
    world.settle(2);
    assert!(!world.files_with(canary).is_empty(), "the search finds what is there");
    let asked = world.ask_erasure("acme", "user", canary);
    assert_eq!((asked.records, asked.held), (Some(60), 0));
    assert!(asked.backups_until > asked.requested_at);
    let done = world.erased("acme", &asked.id);
    assert_eq!(done.held, 0);
    assert_eq!(world.files_with(canary), Vec::<String>::new());
    assert!(!world.files_with(other).is_empty());
    let check = |world: &World| {
        for (index, is_actor) in &theirs {
            let shown = world.event("acme", *index);
            assert_eq!(shown["body"], "erased");
            let event = &shown["event"];
            assert!(!event.to_string().contains(canary), "{event}");
            assert_eq!(event["actor"]["$sealed"].is_string(), *is_actor, "{event}");
            assert_eq!(event["context"]["$sealed"].is_string(), *is_actor, "{event}");
            assert!(event["targets"][0]["id"].is_string(), "the other target stays");
        }
        for index in &others {
            assert_eq!(world.event("acme", *index)["body"], "present");
        }
    };
    check(&world);
    world.reopen();
    check(&world);
    assert_eq!(world.files_with(canary), Vec::<String>::new());
    // Asked for again there is nothing but the asking itself, and that goes too.
    let again = world.ask_erasure("acme", "user", canary);
    assert_eq!(again.records, Some(0));
    world.erased("acme", &again.id);
    world.append("acme", 3, None, "authn.login");
    world.verify();
    assert_eq!(world.files_with(canary), Vec::<String>::new());
}

#[test]
fn what_is_held_is_named_and_stays() {
    let mut world = World::new(&["acme"]);
    let events: Vec<String> = (0..10).map(|n| of_person(n, "canary-person-0420")).collect();
    let indexes = world.append_raw("acme", &events);
    let hold = world.hold("acme", &json!({"indexes": indexes[..4]}));
    let asked = world.ask_erasure("acme", "user", "canary-person-0420");
    assert_eq!((asked.records, asked.held, &asked.held_indexes[..]), (Some(6), 4, &indexes[..4]));
    let done = world.erased("acme", &asked.id);
    assert_eq!(done.held, 4);
    for (n, index) in indexes.iter().enumerate() {
        let expected = if n < 4 { "present" } else { "erased" };
        assert_eq!(world.event("acme", *index)["body"], expected);
    }
    // Only what is held is left, so there is nothing to do.
    let wanted = json!({"subject": {"type": "user", "id": "canary-person-0420"}, "basis": "x"}).to_string();
    let Err(refused) = world.service().request_erasure(&of("acme"), "acme", wanted.as_bytes()) else {
        panic!("all of it is held")
    };
    assert_eq!(refused.code, ErrorCode::Held);
    world.release("acme", &hold.id);
    let asked = world.ask_erasure("acme", "user", "canary-person-0420");
    world.erased("acme", &asked.id);
    assert_eq!(world.files_with("canary-person-0420"), Vec::<String>::new());
    world.verify();
}

#[test]
fn an_erasure_that_cannot_be_is_refused() {
    let world = World::new(&["acme"]);
    for (wanted, pointer) in [
        (json!({"subject": {"type": "user", "id": "a"}}), None),
        (json!({"subject": {"type": "user"}, "basis": "x"}), None),
        (json!({"subject": {"type": "user", "id": "a", "my-secret": 1}, "basis": "x"}), None),
        (json!({"subject": {"type": "user", "id": "a"}, "basis": ""}), Some("/basis")),
        (json!({"subject": {"type": "user", "id": ""}, "basis": "x"}), Some("/subject")),
        (json!({"subject": {"type": "", "id": "a"}, "basis": "x"}), Some("/subject")),
    ] {
        let wanted: Value = wanted;
        let Err(error) = world.service().request_erasure(&of("acme"), "acme", wanted.to_string().as_bytes())
        else {
            panic!("{wanted} was taken")
        };
        assert_eq!((error.code, error.pointer.as_deref()), (ErrorCode::BadRequest, pointer), "{wanted}");
        assert!(!error.to_string().contains("my-secret"));
    }
    assert!(world.service().erasures(&of("acme"), "acme").unwrap().is_empty());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// Real records of CloudTrail, each with a user, by line; empty where they are not there.
fn real_records() -> Vec<Value> {
    let places = ["../shared/data/cloudtrail", "../../shared/data/cloudtrail"];
    let Some(listing) = places.iter().find_map(|place| std::fs::read_dir(place).ok()) else {
        use std::io::Write as _;
        // Not `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {} is not there; nobody of real records was erased",
            places[0]
        );
        return Vec::new();
    };
    let mut files: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut records = Vec::new();
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "gz")) {
        let unpacked = std::process::Command::new("gzip").args(["-dc"]).arg(&file).output().unwrap();
        let all: Value = serde_json::from_slice(&unpacked.stdout).unwrap();
        let all = all["Records"].as_array().unwrap().iter();
        records.extend(all.filter(|record| record["userIdentity"]["type"] == "IAMUser").cloned());
    }
    records
}

/// `VARVE_ERASURES` says how many persons (12), a third of them users of real records.
#[test]
fn persons_by_the_hundred_are_in_no_file() {
    let count: usize = std::env::var("VARVE_ERASURES").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let scopes = ["ingest", "read", "erase"];
    let dir = tempfile::tempdir().unwrap();
    let server = crate::server::Server::at(dir.path(), &Default::default(), Default::default());
    let key = server.key(&scopes);
    let real = real_records();
    let (mut lines, mut events, mut subjects) = (String::new(), Vec::new(), Vec::new());
    for n in 0..count {
        if n % 3 == 0 && !real.is_empty() {
            let canary = format!("canary-{n:04}");
            for take in 0..3 {
                let record = &real[(n * 7 + take) % real.len()];
                let name = record["userIdentity"]["userName"].as_str().unwrap();
                let id = record["eventID"].as_str().unwrap();
                let text = record.to_string().replace(name, &canary).replace(id, &format!("{id}-{n}-{take}"));
                let record: Value = serde_json::from_str(&text).unwrap();
                subjects.push(("iam_user", record["userIdentity"]["arn"].as_str().unwrap().to_owned()));
                lines.push_str(&text);
                lines.push('\n');
            }
        } else {
            let canary = format!("canary-{n:04}");
            events.extend((0..3).map(|m| of_person(n * 10 + m, &canary)));
            events.extend((0..3).map(|m| about_person(n * 10 + m, &canary)));
            events.push(of_person(n, &format!("bystander-{n:04}")));
            subjects.push(("user", canary));
        }
    }
    subjects.sort();
    subjects.dedup();
    for batch in events.chunks(500) {
        let posted = server.post("/v1/tenants/acme/events", &key, &format!("[{}]", batch.join(",")));
        assert_eq!(posted.status, 201, "{}", posted.body);
    }
    let file = dir.path().join("records.jsonl");
    std::fs::write(&file, lines).unwrap();
    let imported = std::process::Command::new(env!("CARGO_BIN_EXE_varve"))
        .args(["import", "--format", "cloudtrail", "--tenant", "acme"])
        .arg(&file)
        .env("VARVE_URL", format!("http://{}", server.address))
        .env("VARVE_KEY", &key)
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    std::fs::remove_file(&file).unwrap();
    for (kind, id) in &subjects {
        let wanted = json!({"subject": {"type": kind, "id": id}, "basis": "GDPR Art. 17"}).to_string();
        let asked = server.post("/v1/tenants/acme/erasures", &key, &wanted);
        assert_eq!(asked.status, 202, "{}", asked.body);
        assert!(!asked.body.contains("canary"), "{}", asked.body);
        let asked = asked.json();
        assert!(asked["records"].as_u64().unwrap() >= 1, "{asked}");
    }
    let since = Instant::now();
    loop {
        let all = server.get("/v1/tenants/acme/erasures", &key).json();
        let all = all["erasures"].as_array().unwrap();
        assert_eq!(all.len(), subjects.len());
        if all.iter().all(|erasure| erasure["state"] == "done") {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(300), "{all:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let with_canary = |data: &Path| {
        let mut found = Vec::new();
        look(data, b"canary-", &mut found);
        found
    };
    // As it is while it runs; the same opened as after a kill; and after a stop in order.
    let data = dir.path().join("store");
    assert_eq!(with_canary(&data), Vec::<String>::new());
    let crashed = dir.path().join("crashed");
    copy(&data, &crashed.join("store"));
    std::fs::copy(dir.path().join("operator"), crashed.join("operator")).unwrap();
    drop(server);
    assert_eq!(with_canary(&data), Vec::<String>::new());
    for place in [crashed.as_path(), dir.path()] {
        let server = crate::server::Server::at(place, &Default::default(), Default::default());
        let again = server.key(&scopes);
        let left = server.get("/v1/tenants/acme/events?limit=1000&action=iam.*", &again).json();
        assert!(!left.to_string().contains("canary-"));
        assert!(left.to_string().contains("bystander-"));
        drop(server);
        assert_eq!(with_canary(&place.join("store")), Vec::<String>::new());
        let verified = std::process::Command::new(env!("CARGO_BIN_EXE_varve"))
            .arg("verify")
            .arg(place.join("store"))
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
    println!("{} persons, {} real records", subjects.len(), count.div_ceil(3) * 3);
}
