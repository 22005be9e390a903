//! Tests that need no root, in one binary: one module a room or promise.

mod config;
mod rooms;
mod sim;
