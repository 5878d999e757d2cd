//! Verification as a job: one log at a time is read through from its first entry to the last one published.

#![expect(clippy::disallowed_methods, reason = "its threads, which end before the store closes")]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::append::internal;
use super::view::{FindingView, VerificationView};
use super::{Error, ErrorCode, Principal, Scope, Service, random_id};
use crate::store::log::Log;
use crate::store::read::Store;
use crate::tlog::hash::Hash;
use crate::verify::{LiveReport, verify_live};

/// Jobs that run at once: each reads with a core of its own, and one core is to be left for those who append.
const MAX_RUNNING: usize = 2;

/// Jobs that are remembered: the last of each log, 4 KiB each with some findings.
const MAX_KEPT: usize = 1_000;

/// Findings that an answer lists; all are counted.
const MAX_FINDINGS: usize = 100;

/// The jobs, by number of the log. Handlers write under the lock, threads through their own job alone.
#[derive(Default)]
pub(super) struct Verifications {
    jobs: Mutex<HashMap<u32, Running>>,
    stopping: Arc<AtomicBool>,
}

struct Running {
    job: Arc<Job>,
    thread: Option<JoinHandle<()>>,
}

/// One verification.
struct Job {
    id: String,
    /// Entries to be read, fixed when it began.
    size: u64,
    checked: AtomicU64,
    outcome: Mutex<Option<Outcome>>,
}

enum Outcome {
    Done(LiveReport),
    /// It could not tell; why.
    Failed(String),
}

impl Job {
    fn is_running(&self) -> bool {
        self.outcome.lock().is_none()
    }

    fn view(&self) -> VerificationView {
        let checked = self.checked.load(Ordering::Relaxed);
        let mut view = VerificationView {
            id: self.id.clone(),
            state: "running".to_owned(),
            #[expect(clippy::cast_precision_loss, reason = "a share for people")]
            progress: if self.size == 0 { 1.0 } else { (checked as f64 / self.size as f64).min(1.0) },
            valid: None,
            claim: None,
            entries: checked,
            bodies_expired: None,
            disclosures_erased: None,
            findings: Vec::new(),
            finding_count: 0,
            detail: None,
        };
        match &*self.outcome.lock() {
            None => {}
            Some(Outcome::Failed(why)) => {
                view.state = "failed".to_owned();
                view.detail = Some(why.clone());
            }
            Some(Outcome::Done(report)) => {
                view.state = "done".to_owned();
                view.progress = 1.0;
                view.valid = Some(report.valid);
                view.claim = Some(report.claim.to_string());
                view.entries = report.entries;
                view.bodies_expired = Some(report.bodies_expired);
                view.disclosures_erased = Some(report.disclosures_erased);
                view.finding_count = report.finding_count;
                view.findings = report.findings.iter().take(MAX_FINDINGS).map(FindingView::of).collect();
            }
        }
        view
    }
}

impl Service {
    /// Begins to verify a tenant's log, or answers the verification that runs already.
    ///
    /// # Errors
    /// `busy` while as many run as may.
    pub fn start_verification(&self, by: &Principal, tenant: &str) -> Result<VerificationView, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        let all = &self.0.verifications;
        let mut jobs = all.jobs.lock();
        if let Some(running) = jobs.get(&log.identity.number).filter(|running| running.job.is_running()) {
            return Ok(running.job.view());
        }
        let running = jobs.values().filter(|running| running.job.is_running()).count();
        if running >= MAX_RUNNING || all.stopping.load(Ordering::Acquire) {
            let detail =
                format!("{MAX_RUNNING} verifications run already; this one was not begun, ask again later");
            return Err(Error::new(ErrorCode::Busy, detail));
        }
        if jobs.len() >= MAX_KEPT {
            jobs.retain(|_, kept| kept.job.is_running());
        }
        let job = Arc::new(Job {
            id: random_id(),
            size: log.size(),
            checked: AtomicU64::new(0),
            outcome: Mutex::new(None),
        });
        let signed = self.0.signed.last(log.identity.number).map_err(|error| internal(&error))?;
        let signed = signed.map(|signed| (signed.size, signed.root));
        let number = log.identity.number;
        let body = {
            let (job, store, stopping) = (job.clone(), self.0.store.clone(), all.stopping.clone());
            move || run(&job, &store, &log, signed, &stopping)
        };
        let thread = thread::Builder::new().name("varve-verify".to_owned()).spawn(body);
        let thread = thread.map_err(|error| internal(&error))?;
        let view = job.view();
        jobs.insert(number, Running { job, thread: Some(thread) });
        Ok(view)
    }

    /// How a verification stands: the last one of the tenant's log, by its id.
    pub fn verification(&self, by: &Principal, tenant: &str, id: &str) -> Result<VerificationView, Error> {
        let log = self.log_for(by, tenant, Scope::Verify)?;
        let jobs = self.0.verifications.jobs.lock();
        let job = jobs.get(&log.identity.number).filter(|running| running.job.id == id);
        let job = job.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, "no verification of this id; the last one of each tenant is kept")
        })?;
        Ok(job.job.view())
    }
}

impl Verifications {
    /// Breaks off what runs, and waits for its threads: they read from layers that are about to be closed.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for running in self.jobs.lock().values_mut() {
            if let Some(thread) = running.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn run(job: &Arc<Job>, store: &Store, log: &Log, signed: Option<(u64, Hash)>, stopping: &AtomicBool) {
    /// A panic is an outcome too: nobody waits for ever.
    struct Panicked(Arc<Job>);
    impl Drop for Panicked {
        fn drop(&mut self) {
            let failed =
                Outcome::Failed("the verification ended in a defect; see the server's log".to_owned());
            self.0.outcome.lock().get_or_insert(failed);
        }
    }
    let alarm = Panicked(job.clone());
    let mut progress = |checked: u64| {
        job.checked.fetch_add(checked, Ordering::Relaxed);
        if stopping.load(Ordering::Acquire) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let outcome = match verify_live(store, log, signed, &mut progress) {
        Ok(Some(report)) => Outcome::Done(report),
        Ok(None) => Outcome::Failed("the server is stopping; begin again once it runs".to_owned()),
        Err(error) => {
            tracing::error!(%error, "a verification met damage");
            Outcome::Failed(format!("{error}; stop the server and run `varve verify` on the directory"))
        }
    };
    alarm.0.outcome.lock().get_or_insert(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{BatchMode, OpenOptions, Scopes, Submitted};
    use crate::verify::FindingKind;

    fn service() -> (tempfile::TempDir, Service, Principal) {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("store");
        let options = OpenOptions { heartbeat_seconds: 0, ..OpenOptions::default() };
        Service::init(&data, Some("test.example"), None, &options).unwrap();
        let service = Service::open(&data, &options).unwrap();
        let operator = Scopes::default().with(Scope::Operator);
        let operator = Principal { key_id: "o".into(), tenant: None, scopes: operator };
        service.create_tenant(&operator, "acme").unwrap();
        let all = Scope::ALL.into_iter().fold(Scopes::default(), Scopes::with);
        let by = Principal { key_id: "k".into(), tenant: Some("acme".into()), scopes: all };
        let raw = br#"{"action":"a.b","outcome":"success","actor":{"id":"u"}}"#;
        let events: Vec<Submitted<'_>> = (0..700).map(|_| Submitted { raw, idempotency_key: None }).collect();
        let stored = wait_for(service.append(&by, "acme", &events, BatchMode::Atomic, false));
        assert_eq!(stored.unwrap().len(), 700);
        (dir, service, by)
    }

    fn wait_for<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn verify(service: &Service, log: &Log, signed: Option<(u64, Hash)>) -> LiveReport {
        let mut seen = 0;
        let mut progress = |checked| {
            seen += checked;
            ControlFlow::Continue(())
        };
        let report = verify_live(&service.0.store, log, signed, &mut progress).unwrap().unwrap();
        assert_eq!(seen, 701);
        report
    }

    #[test]
    fn a_sound_log_is_self_signed_and_no_more() {
        let (_dir, service, by) = service();
        let log = service.0.store.log_of("acme").unwrap();
        service.checkpoint(&by, "acme").unwrap();
        let signed = service.0.signed.last(log.identity.number).unwrap().unwrap();
        let report = verify(&service, &log, Some((signed.size, signed.root)));
        assert!(report.valid && report.entries == 701, "{report:?}");
        assert_eq!(report.claim, crate::verify::Claim::SelfSigned);
        service.stop().unwrap();
    }

    #[test]
    fn what_does_not_hold_is_found() {
        let (_dir, service, _) = service();
        let log = service.0.store.log_of("acme").unwrap();
        let kinds = |report: &LiveReport| {
            assert!(!report.valid && report.claim == crate::verify::Claim::None);
            report.findings.iter().map(|finding| (finding.kind, finding.index)).collect::<Vec<_>>()
        };
        let other = verify(&service, &log, Some((500, Hash::ZERO)));
        assert_eq!(kinds(&other), [(FindingKind::RootMismatch, Some(500))]);

        // The same records read as another log's: no signature is over what they give.
        let mut identity = log.identity.clone();
        identity.log_id = Hash([7; 32]);
        let stored = (0..701).map(|index| service.0.store.record(&log, index).unwrap().unwrap());
        let stored: Vec<_> = stored.collect();
        let posing = Log::new(identity, crate::store::state::Head::empty(log.identity.genesis_key));
        let layer = log.head().layers[0].0;
        posing.publish(layer, &stored, log.head().key);
        let found = kinds(&verify(&service, &posing, None));
        assert!(found.contains(&(FindingKind::BadSignature, Some(0))), "{found:?}");
        service.stop().unwrap();
    }

    #[test]
    fn one_runs_a_tenant_and_it_ends_with_the_store() {
        let (_dir, service, by) = service();
        let first = service.start_verification(&by, "acme").unwrap();
        assert!(first.state == "running" && first.progress < 1.0 || first.state == "done", "{first:?}");
        let mut shown = first.clone();
        while shown.state == "running" {
            thread::sleep(std::time::Duration::from_millis(5));
            shown = service.verification(&by, "acme", &first.id).unwrap();
        }
        assert_eq!(
            (shown.state.as_str(), shown.valid, shown.entries),
            ("done", Some(true), 701),
            "{shown:?}"
        );
        assert_eq!(shown.claim.as_deref(), Some("self-signed"));
        assert!(service.verification(&by, "acme", "0").is_err());
        // While one runs, another call answers that one; and no more run than may.
        let job = |id: &str| {
            let (checked, outcome) = (AtomicU64::new(0), Mutex::new(None));
            let job = Arc::new(Job { id: id.to_owned(), size: 701, checked, outcome });
            Running { job, thread: None }
        };
        let number = service.0.store.log_of("acme").unwrap().identity.number;
        service.0.verifications.jobs.lock().insert(number, job("endless"));
        assert_eq!(service.start_verification(&by, "acme").unwrap().id, "endless");
        service.0.verifications.jobs.lock().insert(98, job("another"));
        service.0.verifications.jobs.lock().insert(99, job("a third"));
        service.0.verifications.jobs.lock().remove(&number);
        assert_eq!(service.start_verification(&by, "acme").unwrap_err().code, ErrorCode::Busy);
        service.0.verifications.jobs.lock().clear();
        service.start_verification(&by, "acme").unwrap();
        service.stop().unwrap();
        let ended = service.0.verifications.jobs.lock().values().all(|running| !running.job.is_running());
        assert!(ended);
        assert_eq!(service.start_verification(&by, "acme").unwrap_err().code, ErrorCode::Busy);
    }
}
