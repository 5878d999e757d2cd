//! Tests of the whole, over a real store and a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests own their threads, clocks and random numbers")]

mod away;
mod canary;
mod cli;
mod client;
mod config;
mod crash;
mod erasure;
mod faketime;
mod holds;
mod http;
mod isolation;
mod outcome;
mod packaging;
mod query;
mod refusals;
mod retention;
mod rot;
mod schedules;
mod server;
mod slow;
mod snippets;
mod telemetry;
mod world;
