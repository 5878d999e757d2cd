//! What files of events become: `input` opens and bounds them, `jsonl` takes Varve's own events, `cloudtrail` maps
//! AWS CloudTrail.
//!
//! A reader hands each record to a sink as soon as it is read; memory holds one record, whatever the file's size.

pub(super) mod cloudtrail;
pub(super) mod input;
pub(super) mod jsonl;

use super::output::Failure;
use super::send::Origin;

/// An event as JSON text, or why the record is none.
pub(super) type Read<'r> = Result<(Origin, &'r str), (Origin, String)>;

/// Takes records; its failure ends the reading.
pub(super) type Sink<'a> = dyn FnMut(Read<'_>) -> Result<(), Failure> + 'a;

/// Why reading ended early.
pub(super) enum Fault {
    /// The file: what was read before it is good, other files may be.
    File(Failure),
    /// The sink: there is no use going on.
    Sink(Failure),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        match fault {
            Fault::File(failure) | Fault::Sink(failure) => failure,
        }
    }
}
