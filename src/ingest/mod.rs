//! The write path, in order: an event is prepared, queued, planned, signed, committed, applied.
//!
//! Three words for three states of a record: *assigned* (it has an index, in the sequencer), *durable* (its
//! frame is synced), *published* (readers see it). Nothing is visible before it is durable.

pub mod clock;
pub mod prepare;
pub mod progress;
pub mod queue;

mod apply;
mod commit;
mod pipeline;
pub mod plan;
mod sequencer;

pub use apply::Pace;
pub use pipeline::{Pipeline, PipelineError};
