//! Varve: an append-only audit-log store that an auditor can check without trusting its operator.

pub mod event;
pub mod tlog;
