//! The process that is killed: opens the store and appends until it dies.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use varve::service::{BatchMode, ErrorCode, Receipt, Service, Submitted};

use crate::phase::{Phase, PhaseFile};
use crate::random::Random;
use crate::setting::{Setting, TENANTS, principal};
use crate::subject;

/// Writers, spread over the tenants.
const WRITERS: u64 = 8;

/// Most events of a batch; a quarter of the submissions are batches.
const MAX_BATCH: u64 = 24;

pub(crate) fn run(dir: &Path, cycle: u64) -> Result<(), String> {
    let setting = Setting::read(dir)?;
    // Not to go on alone when the loop itself is ended.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let phases = Arc::new(PhaseFile::open(dir).map_err(|error| error.to_string())?);
    phases.set(Phase::Opening);
    let service = Service::open(&setting.data(), &setting.options(Some(phases.clone())));
    let service = service.map_err(|error| format!("the open was refused: {error}"))?;
    phases.set(Phase::Serving);
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let service = service.clone();
            let ledger = dir.join("ledger").join(format!("{cycle}-{writer}"));
            let seed = setting.seed;
            std::thread::spawn(move || write(&service, &ledger, seed, cycle, writer))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a writer panicked".to_owned())??;
    }
    Ok(())
}

fn write(service: &Service, ledger: &Path, seed: u64, cycle: u64, writer: u64) -> Result<(), String> {
    let mut random = Random::new(seed ^ (cycle << 8) ^ writer);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let file = OpenOptions::new().create(true).append(true).open(ledger);
    let mut file: File = file.map_err(|error| error.to_string())?;
    let tenant = TENANTS[usize::try_from(writer).unwrap_or(0) % TENANTS.len()];
    let by = principal(tenant);
    let mut number = 0;
    loop {
        let count = if random.below(4) == 0 { 1 + random.below(MAX_BATCH) } else { 1 };
        // Two writers share a tenant and, one time in eight, an event: whoever comes second is a duplicate.
        let author = if random.below(8) == 0 { writer % 4 } else { writer };
        let ids: Vec<String> = (0..count)
            .map(|_| {
                number += 1;
                format!("{seed}-{cycle}-{author}-{number}")
            })
            .collect();
        let events: Vec<String> = ids.iter().map(|id| subject::event(id)).collect();
        let submitted: Vec<Submitted<'_>> =
            events.iter().map(|event| Submitted { raw: event.as_bytes(), idempotency_key: None }).collect();
        let mode = if random.below(2) == 0 { BatchMode::Atomic } else { BatchMode::Skip };
        let answers = runtime.block_on(service.append(&by, tenant, &submitted, mode, false));
        let mut lines = String::new();
        match answers {
            Ok(answers) => {
                for answer in answers {
                    match answer {
                        Ok(receipt) => lines.push_str(&line(&receipt)),
                        Err(error) if error.code == ErrorCode::Busy => {}
                        Err(error) => return Err(format!("an event was refused: {error}")),
                    }
                }
            }
            Err(error) if error.code == ErrorCode::Busy => {}
            Err(error) => return Err(format!("a submission was refused: {error}")),
        }
        // The page cache outlives the process: what `write` took is in the ledger.
        file.write_all(lines.as_bytes()).map_err(|error| error.to_string())?;
    }
}

fn line(receipt: &Receipt) -> String {
    format!("{} {} {} {}\n", receipt.tenant, receipt.index, receipt.id, receipt.link)
}
