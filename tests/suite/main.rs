//! Tests that need no root, in one binary: one module a room or promise.

mod cli;
mod config;
mod converge;
mod lab;
mod plan;
mod props;
mod rooms;
mod sim;
