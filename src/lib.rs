//! Varve: an append-only audit-log store that an auditor can check without trusting its operator.

pub mod event;
#[cfg(feature = "server")]
pub mod journal;
pub mod tlog;
