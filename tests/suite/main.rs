//! Tests that need no root, in one binary: one module a room or promise.

mod rooms;
mod sim;
