//! Varve: an append-only audit-log store that an auditor can check without trusting its operator.

pub mod tlog;

pub mod event;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod telemetry;

#[cfg(feature = "server")]
pub mod process;

#[cfg(feature = "server")]
pub mod retention;

#[cfg(feature = "server")]
pub mod journal;

#[cfg(feature = "server")]
pub mod store;

#[cfg(feature = "server")]
pub mod ingest;

#[cfg(feature = "server")]
pub mod query;

#[cfg(feature = "server")]
pub mod verify;

#[cfg(feature = "server")]
pub mod access;

#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod service;

#[cfg(feature = "server")]
pub mod http;

#[cfg(feature = "server")]
pub mod cli;
