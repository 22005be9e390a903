//! When to run a pass: the loop around `reconcile`, and the socket that lets other verbs use this process.
//!
//! *Takes* a [`Work`] that reads the desired state and runs a pass. *Gives* passes at the right moments. *Never*
//! learns why it woke: events are hints, content decides, and a timer looks again anyway.
#![expect(clippy::disallowed_methods, reason = "waits, listens on a socket of the state folder and looks at files")]

pub mod guard;
pub mod machine;
mod run;
pub mod socket;

pub use run::{Followed, Rhythm, WatchError, Work, run};
