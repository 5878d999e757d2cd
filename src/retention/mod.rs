//! Retention as far as it is arithmetic: what a policy says, when a body is due, what a certificate names
//! (docs/format/retention.md, holds.md, erasure.md). Pure: no store, no clock, no I/O.
//!
//! Reading order: months of the calendar (`months`), what is kept how long (`policy`), how that is changed (`change`),
//! what a log's policies say of one body (`history`), sets of indexes (`set`), what lets bodies go (`certificate`), what
//! keeps them all the same (`hold`), what lets a person's values go (`erasure`).

mod certificate;
mod change;
mod erasure;
mod facts;
mod history;
mod hold;
mod months;
mod policy;
mod set;

pub use certificate::Certificate;
pub use change::{MAX_CHANGE_BYTES, PolicyChange};
pub use erasure::{ErasureCertificate, MAX_DISCLOSURES_BYTES};
pub use history::{Due, History, is_exempt};
pub use hold::{Hold, HoldKind, MAX_HOLDS, PlacedHold, ReleasedHold, ResolvedHold};
pub use months::{
    MAX_MONTHS, MAX_PART, add_months, layer_code, layer_text, month_code, parse_layer, split_layer,
};
pub use policy::{
    ClassTerm, ClassView, MAX_CLASSES, MAX_POLICY_BYTES, MAX_RULES, Policy, PolicyView, Previous,
    RecordedPolicy, Rule, RuleView,
};
pub use set::{IndexSet, MAX_INDEX, MAX_SET_BYTES, Pushed, SetBuilder, SetsBuilder};

/// Why a policy, a certificate or a set is refused. Holds no contents of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", if pointer.is_empty() { "the whole" } else { pointer.as_str() })]
pub struct Refusal {
    /// The member concerned, as an RFC 6901 pointer; empty for the whole.
    pub pointer: String,
    /// What is wrong with it and what would be right.
    pub what: String,
}

impl Refusal {
    fn new(pointer: impl Into<String>, what: impl Into<String>) -> Refusal {
        Refusal { pointer: pointer.into(), what: what.into() }
    }
}
