//! What callers see of a compaction.

use schemars::JsonSchema;
use serde::Serialize;

/// All compactions since the start.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CompactionsView {
    /// Whether they wait, that of now and those to come; a restart ends it.
    pub paused: bool,
    /// The last 16, oldest first.
    pub compactions: Vec<CompactionView>,
}

/// What a compaction would do now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CompactionPlan {
    /// The time it was made for.
    pub at: String,
    /// Whether the clock has held for 24 hours; otherwise a run asks for `confirm_clock`.
    pub clock_held: bool,
    /// Layers in which something is due.
    pub layers: Vec<LayerPlan>,
    /// Layers that are closed and hold nothing that is due.
    pub layers_untouched: u64,
    /// Bodies that are due, in all layers.
    pub bodies_leaving: u64,
    /// Bytes of these, before they were packed.
    pub bytes_leaving: u64,
    /// Bytes on disk of the layers that would be rewritten.
    pub bytes_before: u64,
}

/// One layer of a plan.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LayerPlan {
    /// The month, `2026-10`, or a part of one that was closed before its end, `2026-11.p2`.
    pub layer: String,
    /// Bytes on disk.
    pub bytes_before: u64,
    /// What leaves, by tenant and class; the first 1,000.
    pub leaves: Vec<LeavingView>,
    /// What stays, by tenant and class; the first 1,000.
    pub stays: Vec<StayingView>,
    /// Lines that are not listed.
    pub more: u64,
}

/// Bodies that leave.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LeavingView {
    /// Whose.
    pub tenant: String,
    /// Their retention class.
    pub class: String,
    /// How many.
    pub bodies: u64,
    /// Their bytes, before they were packed.
    pub bytes: u64,
    /// How many months they were kept for; the most of any of them.
    pub months: u16,
    /// Index of the policy in force.
    pub policy: Option<u64>,
}

/// Bodies that stay.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StayingView {
    /// Whose.
    pub tenant: String,
    /// Their retention class.
    pub class: String,
    /// How many.
    pub bodies: u64,
    /// Their bytes, before they were packed.
    pub bytes: u64,
    /// `not due`; `no policy`, where none is set or it does not say so of these; `permanent`; `held`, which is due and under a
    /// legal hold; `erasure open`, which is due and asks for an erasure that is not done.
    pub why: String,
    /// When the last of them is due.
    pub until: Option<String>,
}

/// How a compaction stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CompactionView {
    /// Names the job.
    pub id: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Share of the closed layers that were looked at, 0 to 1.
    pub progress: f64,
    /// Layers that were rewritten.
    pub layers_rewritten: u64,
    /// Bodies that left.
    pub bodies_left: u64,
    /// Bytes on disk of the rewritten layers before.
    pub bytes_before: u64,
    /// Bytes on disk of the same layers after.
    pub bytes_after: u64,
    /// Certificates that were written.
    pub certificates: u64,
    /// Whether it runs and waits, because compactions are paused.
    pub paused: bool,
    /// Why it failed, and what was done nevertheless.
    pub detail: Option<String>,
}
