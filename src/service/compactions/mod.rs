//! Compaction: bodies whose time is up leave, layer by layer. One runs at a time.
//!
//! Reading order: `plan` (what is due), `quiet` (where nothing is, for a while), `run` (one layer, with its crash points),
//! this file (the job: clock, progress), `pace` (how fast), `view` (what callers see).

#![expect(clippy::disallowed_methods, reason = "its threads")]

mod pace;
mod plan;
mod quiet;
mod run;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

pub use pace::BYTES_PER_SECOND;
pub(super) use pace::{paced, yield_to_others};
pub use view::{CompactionPlan, CompactionView, CompactionsView, LayerPlan, LeavingView, StayingView};

use super::append::internal;
use super::{Error, ErrorCode, Principal, Service, random};
use crate::event::Micros;
use crate::event::catalog::Class;
use crate::store::layer_id::LayerId;
use pace::Brake;
use plan::{Scan, Staying, Wanted, class_name};
use quiet::Quiet;

/// How long the clock must have held before anything expires by it.
const CLOCK_HELD_MICROS: u64 = 24 * 3600 * 1_000_000;

/// How far the time that an operator names may be from the server's.
const CONFIRMED_WITHIN_MICROS: u64 = 10 * 60 * 1_000_000;

/// How far stamps may be ahead of the wall clock where nobody confirms it: entries stamped one after the other.
const MAX_AHEAD_MICROS: u64 = 5 * 60 * 1_000_000;

/// How often one who waits for a compaction hears how it stands.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Jobs that are remembered.
const MAX_KEPT: usize = 16;

/// Lines of a layer's plan that are listed.
const MAX_ROWS: usize = 1_000;

/// The jobs, oldest first.
pub(super) struct Compactions {
    jobs: Mutex<VecDeque<Running>>,
    brake: Arc<Brake>,
    bytes_per_second: u64,
    /// Held while a plan is made for somebody who waits for it.
    planning: Mutex<()>,
    /// Held while a layer is rewritten.
    pub(super) rewriting: Mutex<()>,
    quiet: Quiet,
    /// The boot clock when the service was opened, microseconds.
    opened_steady: u64,
}

struct Running {
    job: Arc<Job>,
    thread: Option<JoinHandle<()>>,
}

/// One compaction.
struct Job {
    id: String,
    layers: u64,
    looked_at: AtomicU64,
    rewritten: AtomicU64,
    bodies: AtomicU64,
    bytes_before: AtomicU64,
    bytes_after: AtomicU64,
    certificates: AtomicU64,
    outcome: Mutex<Option<Result<(), String>>>,
}

/// Whether an operator says what time it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfirmClock {
    /// Nothing is said: the clock must have held for 24 hours.
    No,
    /// The server's clock is right.
    Yes,
    /// It is this time, microseconds; the server's clock must be within ten minutes of it.
    At(u64),
}

impl Compactions {
    pub(super) fn new(bytes_per_second: u64, opened_steady: u64) -> Compactions {
        Compactions {
            jobs: Mutex::default(),
            brake: Arc::default(),
            bytes_per_second,
            planning: Mutex::default(),
            rewriting: Mutex::default(),
            quiet: Quiet::default(),
            opened_steady,
        }
    }

    /// Breaks off what runs, and waits for its threads: they read and write layers that are about to be closed.
    pub(super) fn stop(&self) {
        self.brake.stop();
        let threads: Vec<_> =
            self.jobs.lock().iter_mut().filter_map(|running| running.thread.take()).collect();
        threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(self.planning.lock());
    }
}

impl Job {
    fn is_running(&self) -> bool {
        self.outcome.lock().is_none()
    }

    fn view(&self, is_paused: bool) -> CompactionView {
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (state, detail) = match &*self.outcome.lock() {
            None => ("running", None),
            Some(Ok(())) => ("done", None),
            Some(Err(why)) => ("failed", Some(why.clone())),
        };
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let progress = if self.layers == 0 {
            1.0
        } else {
            (count(&self.looked_at) as f64 / self.layers as f64).min(1.0)
        };
        CompactionView {
            id: self.id.clone(),
            state: state.to_owned(),
            progress,
            layers_rewritten: count(&self.rewritten),
            bodies_left: count(&self.bodies),
            bytes_before: count(&self.bytes_before),
            bytes_after: count(&self.bytes_after),
            certificates: count(&self.certificates),
            paused: is_paused && state == "running",
            detail,
        }
    }
}

impl Service {
    /// What a compaction would do now. Reads the closed layers at the pace of a compaction, as far as something can be due in
    /// them; one plan at a time.
    ///
    /// # Errors
    /// `busy` while another is made; `read_only` when the server stops meanwhile.
    pub fn plan_compaction(&self, by: &Principal) -> Result<CompactionPlan, Error> {
        self.demand_operator(by)?;
        self.plan_now()
    }

    /// Has compactions and erasures wait at the next page that they read or write, or go on. Certificates that are being
    /// written are finished. What is half rewritten stays beside its layer meanwhile. Not remembered over a restart.
    pub fn pause_compactions(&self, by: &Principal, is_paused: bool) -> Result<(), Error> {
        self.demand_operator(by)?;
        self.0.compactions.brake.pause(is_paused);
        tracing::info!(is_paused, "compactions were told to wait or to go on");
        Ok(())
    }

    /// On a thread of its own: a priority cannot be taken back from one that others use.
    pub(super) fn plan_now(&self) -> Result<CompactionPlan, Error> {
        let all = &self.0.compactions;
        let _one = all.planning.try_lock().ok_or_else(|| {
            let detail = "another plan is being made; nothing was changed, ask again once it is answered";
            Error::new(ErrorCode::Busy, detail)
        })?;
        thread::scope(|scope| {
            let plan = || {
                yield_to_others();
                self.make_plan()
            };
            let thread = thread::Builder::new().name("varve-plan".to_owned()).spawn_scoped(scope, plan);
            let thread = thread.map_err(|error| internal(&error))?;
            thread.join().unwrap_or_else(|_| {
                let detail = "the plan ended in a defect; see the server's log. Nothing was changed.";
                Err(Error::new(ErrorCode::Internal, detail))
            })
        })
    }

    fn make_plan(&self) -> Result<CompactionPlan, Error> {
        let now = self.expiry_time();
        let mut plan = CompactionPlan {
            at: Micros(now).to_string(),
            clock_held: self.clock_held(),
            layers: Vec::new(),
            layers_untouched: 0,
            bodies_leaving: 0,
            bytes_leaving: 0,
            bytes_before: 0,
        };
        let mut step = pace::paced_reading(self);
        let grounds = self.grounds();
        for layer in self.closed_layers() {
            // Of a layer of which nothing leaves the plan says no more than that.
            if self.is_quiet(layer, now, &grounds) {
                plan.layers_untouched += 1;
                continue;
            }
            let dir = self.dir_of(layer);
            let scan = self.scan_layer(layer, now, Wanted::WhatStaysToo, &mut step)?;
            if scan.leaving.is_empty() {
                self.note_quiet(&scan, dir, &grounds);
                plan.layers_untouched += 1;
                continue;
            }
            let bytes_before = self.0.store.layers.disk_bytes(layer).map_err(|error| internal(&error))?;
            plan.bodies_leaving += scan.leaving.values().map(|leaving| leaving.bodies).sum::<u64>();
            plan.bytes_leaving += scan.leaving.values().map(|leaving| leaving.bytes).sum::<u64>();
            plan.bytes_before += bytes_before;
            plan.layers.push(self.layer_plan(&scan, bytes_before)?);
        }
        Ok(plan)
    }

    /// Begins a compaction, or answers the one that runs.
    ///
    /// # Errors
    /// `bad_request` where the clock has not held for 24 hours and is not confirmed, or is confirmed wrongly.
    pub fn start_compaction(&self, by: &Principal, confirm: ConfirmClock) -> Result<CompactionView, Error> {
        self.demand_operator(by)?;
        let confirmed = self.confirmed_clock(confirm)?;
        self.begin_compaction(confirmed)
    }

    /// How a compaction stands.
    pub fn compaction(&self, by: &Principal, id: &str) -> Result<CompactionView, Error> {
        self.demand_operator(by)?;
        let jobs = self.0.compactions.jobs.lock();
        let found = jobs.iter().find(|running| running.job.id == id);
        let found = found.ok_or_else(|| {
            let detail =
                format!("no compaction of this id; the last {MAX_KEPT} are kept until the server stops");
            Error::new(ErrorCode::NotFound, detail)
        })?;
        Ok(found.job.view(self.0.compactions.brake.is_paused()))
    }

    /// Runs a compaction on a store that nobody serves, and answers when it has ended.
    pub(super) fn compact_now(
        &self,
        confirm: ConfirmClock,
        stands: &mut dyn FnMut(&CompactionView),
    ) -> Result<CompactionView, Error> {
        let view = self.begin_compaction(self.confirmed_clock(confirm)?)?;
        let running = {
            let mut jobs = self.0.compactions.jobs.lock();
            jobs.back_mut().map(|running| (running.job.clone(), running.thread.take()))
        };
        if let Some((job, Some(thread))) = running {
            while !thread.is_finished() {
                stands(&job.view(false));
                thread::sleep(LOOKS_EVERY);
            }
            let _ = thread.join();
        }
        let jobs = self.0.compactions.jobs.lock();
        Ok(jobs
            .iter()
            .find(|running| running.job.id == view.id)
            .map_or(view, |running| running.job.view(false)))
    }

    /// The compactions that are remembered, oldest first, and whether they are paused.
    pub fn compactions(&self, by: &Principal) -> Result<CompactionsView, Error> {
        self.demand_operator(by)?;
        let all = &self.0.compactions;
        let is_paused = all.brake.is_paused();
        let compactions = all.jobs.lock().iter().map(|running| running.job.view(is_paused)).collect();
        Ok(CompactionsView { paused: is_paused, compactions })
    }

    /// Whether the clock has held for 24 hours: expiry by itself needs that.
    pub(super) fn clock_held(&self) -> bool {
        let steady = self.0.stamps.clock().steady_micros();
        let held = steady.saturating_sub(self.0.compactions.opened_steady);
        let ahead = self.0.stamps.newest().saturating_sub(self.0.stamps.clock().wall_micros());
        self.0.stamps.anomaly().is_none() && held >= CLOCK_HELD_MICROS && ahead <= MAX_AHEAD_MICROS
    }

    /// The time that bodies are due by. Stamps never go back, so after a clock that ran ahead they are in the future;
    /// nothing expires by that, nor by a wall clock that was stepped forward.
    fn expiry_time(&self) -> u64 {
        self.0.stamps.now().min(self.0.stamps.clock().wall_micros())
    }

    /// The time that the certificates name as confirmed; `None` where the clock has held by itself.
    fn confirmed_clock(&self, confirm: ConfirmClock) -> Result<Option<u64>, Error> {
        let now = self.expiry_time();
        let refused = |detail: String| Err(Error::new(ErrorCode::BadRequest, detail).at("/confirm_clock"));
        match confirm {
            ConfirmClock::Yes => Ok(Some(now)),
            ConfirmClock::At(said) if said.abs_diff(now) <= CONFIRMED_WITHIN_MICROS => Ok(Some(said)),
            ConfirmClock::At(_) => refused(format!(
                "the server's clock says {}, over ten minutes from the time that was named; nothing was changed. Set the \
                 clock right first.",
                Micros(now)
            )),
            ConfirmClock::No if self.clock_held() => Ok(None),
            ConfirmClock::No => refused(format!(
                "the clock says {} and has not held for 24 hours since the start; nothing was changed. If it is right, \
                 say so with `confirm_clock`.",
                Micros(now)
            )),
        }
    }

    pub(super) fn begin_compaction(&self, confirmed: Option<u64>) -> Result<CompactionView, Error> {
        let all = &self.0.compactions;
        let mut jobs = all.jobs.lock();
        if let Some(running) = jobs.iter().find(|running| running.job.is_running()) {
            return Ok(running.job.view(all.brake.is_paused()));
        }
        if all.brake.is_stopping() {
            return Err(Error::new(ErrorCode::ReadOnly, "the server is stopping; nothing was changed"));
        }
        let mut id = [0; 8];
        random(&mut id);
        let layers = self.closed_layers();
        let job = Arc::new(Job {
            id: format!("{:016x}", u64::from_be_bytes(id)),
            layers: layers.len() as u64,
            looked_at: AtomicU64::new(0),
            rewritten: AtomicU64::new(0),
            bodies: AtomicU64::new(0),
            bytes_before: AtomicU64::new(0),
            bytes_after: AtomicU64::new(0),
            certificates: AtomicU64::new(0),
            outcome: Mutex::new(None),
        });
        let body = {
            let (service, job) = (Arc::downgrade(&self.0), job.clone());
            move || {
                // Held for as long as it runs: `stop` waits for it.
                let Some(inner) = service.upgrade() else { return };
                yield_to_others();
                compact(&Service(inner), &job, &layers, confirmed);
            }
        };
        let thread = thread::Builder::new().name("varve-compaction".to_owned()).spawn(body);
        let thread = thread.map_err(|error| internal(&error))?;
        let view = job.view(all.brake.is_paused());
        if jobs.len() >= MAX_KEPT {
            jobs.pop_front();
        }
        jobs.push_back(Running { job, thread: Some(thread) });
        Ok(view)
    }

    /// Layers whose month is over, or that were closed before it was, and that are sealed: nothing is written into them any
    /// more.
    fn closed_layers(&self) -> Vec<LayerId> {
        let mut dirs = self.0.store.layers.dirs();
        dirs.pop();
        dirs.into_iter()
            .filter(|(_, dir)| dir.join(crate::store::seal::SEAL_FILE).exists())
            .map(|(id, _)| id)
            .collect()
    }

    fn demand_operator(&self, by: &Principal) -> Result<(), Error> {
        if by.is_operator() {
            return Ok(());
        }
        Err(Error::new(ErrorCode::Forbidden, "compaction is the operator's; nothing was done"))
    }

    fn layer_plan(&self, scan: &Scan, bytes_before: u64) -> Result<LayerPlan, Error> {
        let mut plan = LayerPlan {
            layer: scan.layer.to_string(),
            bytes_before,
            leaves: Vec::new(),
            stays: Vec::new(),
            more: 0,
        };
        for (&(number, class), leaving) in &scan.leaving {
            let Some(log) = self.0.store.log(number) else { continue };
            if plan.leaves.len() >= MAX_ROWS {
                plan.more += 1;
                continue;
            }
            plan.leaves.push(LeavingView {
                tenant: log.identity.tenant.clone(),
                class: class_name(self.history(&log)?.as_deref(), class),
                bodies: leaving.bodies,
                bytes: leaving.bytes,
                months: leaving.months,
                policy: log.policy(),
            });
        }
        let why = |class, staying: &Staying| match staying.until {
            Some(_) => "not due",
            None if class == Class::Permanent.code() => "permanent",
            None => "no policy",
        };
        let staying = scan.staying.iter().map(|(place, staying)| (place, staying, why(place.1, staying)));
        let held = scan.held.iter().map(|(place, held)| (place, held, "held"));
        let asking = scan.asking.iter().map(|(place, asking)| (place, asking, "erasure open"));
        for (&(number, class), staying, why) in staying.chain(held).chain(asking) {
            let Some(log) = self.0.store.log(number) else { continue };
            if plan.stays.len() >= MAX_ROWS {
                plan.more += 1;
                continue;
            }
            plan.stays.push(StayingView {
                tenant: log.identity.tenant.clone(),
                class: class_name(self.history(&log)?.as_deref(), class),
                bodies: staying.bodies,
                bytes: staying.bytes,
                why: why.to_owned(),
                until: staying.until.map(|at| Micros(at).to_string()),
            });
        }
        Ok(plan)
    }
}

fn compact(service: &Service, job: &Arc<Job>, layers: &[LayerId], confirmed: Option<u64>) {
    /// A panic is an outcome too: nobody waits for ever.
    struct Panicked(Arc<Job>);
    impl Drop for Panicked {
        fn drop(&mut self) {
            let why = "the compaction ended in a defect; see the server's log".to_owned();
            self.0.outcome.lock().get_or_insert(Err(why));
        }
    }
    let alarm = Panicked(job.clone());
    // A hold whose members are not listed yet, as after a kill, would keep everything in front of it.
    if let Err(error) = service.resolve_holds() {
        tracing::warn!(%error, "the members of a hold are not listed; what was there when it was placed stays");
    }
    let mut step = paced(service);
    let grounds = service.grounds();
    let mut outcome = Ok(());
    for layer in layers {
        match service.compact_layer(*layer, confirmed, &grounds, &mut step) {
            Ok(done) => {
                job.rewritten.fetch_add(u64::from(done.is_rewritten), Ordering::Relaxed);
                job.bodies.fetch_add(done.bodies, Ordering::Relaxed);
                job.bytes_before.fetch_add(done.bytes_before, Ordering::Relaxed);
                job.bytes_after.fetch_add(done.bytes_after, Ordering::Relaxed);
                job.certificates.fetch_add(done.certificates, Ordering::Relaxed);
                service.0.telemetry.write().compacted(
                    done.is_rewritten,
                    done.bodies,
                    done.bytes_before.saturating_sub(done.bytes_after),
                );
                if done.is_rewritten {
                    let (bodies, certificates) = (done.bodies, done.certificates);
                    tracing::info!(%layer, bodies, certificates, "bodies left the layer");
                }
            }
            Err(error) => {
                tracing::error!(%layer, %error, "the layer was not compacted");
                if outcome.is_ok() {
                    outcome = Err(format!("layer {layer}: {error}"));
                }
                // One layer's fault is not another's; a store that has stopped is everybody's.
                let has_stopped = service.0.store.poison.reason().is_some();
                if has_stopped || service.0.compactions.brake.is_stopping() {
                    break;
                }
            }
        }
        job.looked_at.fetch_add(1, Ordering::Relaxed);
    }
    alarm.0.outcome.lock().get_or_insert(outcome);
}
