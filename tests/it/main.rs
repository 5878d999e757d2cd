//! Tests of the whole, over a real store and a real socket.

mod cli;
mod http;
