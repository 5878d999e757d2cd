//! The process that looks: opens the store after a kill, reads records as a client does, and checks each.
//!
//! What it walked goes to the file `walked`; the line `end` says that it came through. What does not hold is
//! told on standard error, and the line is missing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use varve::event::Body;
use varve::service::{BatchMode, Principal, Service, Submitted};
use varve::tlog::chain::{self, Entry};
use varve::tlog::hash::Hash;
use varve::tlog::key::{Signature, VerifyingKey};

use crate::setting::{Setting, principal};
use crate::subject;

pub(crate) fn run(dir: &Path, request: &str) -> Result<(), String> {
    let setting = Setting::read(dir)?;
    // Not to go on alone when the loop itself is ended.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let request = fs::read_to_string(request).map_err(|error| error.to_string())?;
    let service = Service::open(&setting.data(), &setting.options(None));
    let service = service.map_err(|error| format!("REFUSED: {error}"))?;
    let mut out = String::new();
    let mut stops = false;
    for line in request.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["end", how] => stops = how == "stop",
            ["walk", tenant, from] => walk(&service, tenant, number(from)?, &mut out)?,
            ["look", tenant, index] => {
                let record = Reader::new(&service, tenant)?.read(number(index)?)?;
                let _ = writeln!(out, "record {tenant} {index} {} {}", record.id, record.link_text);
            }
            ["repeat", tenant, index, id] => repeat(&service, tenant, number(index)?, id)?,
            _ => return Err(format!("asked for: {line}")),
        }
    }
    if stops {
        service.stop().map_err(|error| format!("the stop failed: {error}"))?;
    }
    fs::write(dir.join("walked"), out + "end\n").map_err(|error| error.to_string())?;
    if !stops {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// Reads every record from `from` on; entry, link, commitment and signature of each must hold.
fn walk(service: &Service, tenant: &str, from: u64, out: &mut String) -> Result<(), String> {
    let reader = Reader::new(service, tenant)?;
    let mut before = match from.checked_sub(1) {
        Some(index) => Some(reader.read(index)?),
        None => None,
    };
    let _ = writeln!(out, "size {tenant} {}", reader.size);
    for index in from..reader.size {
        let record = reader.read(index)?;
        let previous = before.as_ref().map(|before| (&before.entry, &before.link));
        record.entry.follows(previous).map_err(|error| format!("CHAIN: {tenant} {index}: {error}"))?;
        let _ = writeln!(out, "record {tenant} {index} {} {}", record.id, record.link_text);
        before = Some(record);
    }
    Ok(())
}

/// An acknowledged event that is sent again is a duplicate at its index.
fn repeat(service: &Service, tenant: &str, index: u64, id: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let event = subject::event(id);
    let events = [Submitted { raw: event.as_bytes(), idempotency_key: None }];
    let by = principal(tenant);
    let answers = runtime.block_on(service.append(&by, tenant, &events, BatchMode::Atomic, false));
    let mut answers = answers.map_err(|error| format!("REPEAT: {tenant} {id}: {error}"))?;
    let receipt = answers.remove(0).map_err(|error| format!("REPEAT: {tenant} {id}: {error}"))?;
    if receipt.duplicate && receipt.index == index {
        return Ok(());
    }
    Err(format!("TWICE: {tenant} {id} stood at {index}; sent again it got {} as a new event", receipt.index))
}

/// A record that holds in itself.
struct Checked {
    entry: Entry,
    link: Hash,
    link_text: String,
    id: String,
}

struct Reader<'a> {
    service: &'a Service,
    by: Principal,
    tenant: &'a str,
    size: u64,
    key: VerifyingKey,
}

impl<'a> Reader<'a> {
    fn new(service: &'a Service, tenant: &'a str) -> Result<Reader<'a>, String> {
        let by = principal(tenant);
        let info = service.tenant(&by, tenant).map_err(|error| format!("LOST: {tenant}: {error}"))?;
        let (_, key) = VerifyingKey::parse_vkey(&info.public_key).map_err(|error| error.to_string())?;
        Ok(Reader { service, by, tenant, size: info.size, key })
    }

    fn read(&self, index: u64) -> Result<Checked, String> {
        let tenant = self.tenant;
        let record = self.service.record(&self.by, tenant, index, true);
        let record = record.map_err(|error| format!("GAP: {tenant} {index}: {error}"))?;
        self.check(index, &record.json).map_err(|what| format!("WRONG: {tenant} {index}: {what}"))
    }

    fn check(&self, index: u64, json: &str) -> Result<Checked, String> {
        let json: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let text = |name: &str| json[name].as_str().ok_or_else(|| format!("no {name}"));
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).map_err(|error| error.to_string());
        let raw = bytes("entry")?;
        let entry = Entry::decode(&raw).map_err(|error| error.to_string())?;
        let link = chain::link(&entry.encode());
        if bytes("link")? != link.as_bytes() || entry.index != index {
            return Err("link or index is not the entry's".to_owned());
        }
        let signature = Signature(bytes("signature")?.try_into().map_err(|_| "a short signature")?);
        if !self.key.verify(&chain::signed_message(&link), &signature) {
            return Err("the signature does not verify".to_owned());
        }
        let body = Body {
            salt: bytes("salt")?.try_into().map_err(|_| "a short salt")?,
            canonical: text("canonical")?.as_bytes().to_vec(),
            disclosures: Vec::new(),
        };
        if body.event_hash() != entry.event {
            return Err("the body is not what the entry commits to".to_owned());
        }
        let id = json["event"]["id"].as_str().ok_or("no id")?.to_owned();
        Ok(Checked { entry, link, link_text: text("link")?.to_owned(), id })
    }
}
