//! Tests that need no root, in one binary: one module a room or promise.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests read their cases, and a panic is how they fail"
)]

mod bytes;
mod cli;
mod config;
mod converge;
mod lab;
mod moves;
mod plan;
mod props;
mod roams;
mod rolls;
mod rooms;
mod rules;
mod sim;
