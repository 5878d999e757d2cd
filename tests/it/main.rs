//! Tests of the whole, over a real store and a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests own their threads, clocks and random numbers")]

mod cli;
mod client;
mod crash;
mod http;
mod query;
mod rot;
mod server;
mod snippets;
