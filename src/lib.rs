//! Stablehand keeps a fleet of virtual machines in the state that a Git repository describes.
//!
//! This page is the map. Read the rooms in the order in which data flows through them:
//!
//! ```text
//!   a folder or a commit                     people: start, stop, drain
//!          │                                          │
//!       source ──▶ config ──▶ model::Desired ─┐    store (holds, limits, journal)
//!                                             ├──▶ plan ──▶ Plan ──▶ render ──▶ text, Markdown, JSON, Mermaid
//!   host or sim ─▶ observe ─▶ model::Observed ┘              │
//!        ▲                                                   ▼
//!        └────────────── steps, one by one ────────────── execute ──▶ observed again: it is so, or it is said
//!
//!   reconcile: one pass over all of it      watch: when to run one      cli: arguments, printing, wiring
//! ```
//!
//! | room | job |
//! |---|---|
//! | [`model`] | the nouns: names, quantities, desired, demand, observed |
//! | [`source`] | a folder or a Git commit becomes a snapshot of files with a revision |
//! | [`config`] | YAML becomes desired state, or every diagnostic at once; schemas; observed state becomes YAML |
//! | [`observe`] | the trait that asks the world |
//! | [`plan`] | desired against observed: actions with reasons, impact, order and blocks |
//! | [`render`] | plans, diagnostics and status for people and programs |
//! | [`execute`] | the trait that changes the world; a plan carried out, step by step |
//! | [`store`] | what a controller remembers and may lose: holds, the day's limits, approvals, the journal |
//! | [`reconcile`] | one pass: read, observe, plan, lock, execute, look again |
//! | [`watch`] | when to run a pass |
//! | [`host`] | real hosts through libvirt and a shell |
//! | [`sim`] | a fleet in memory, with virtual time and faults, and its script language |
//! | [`cli`] | arguments, printing and wiring: the only room that prints |
//!
//! # What always holds
//!
//! - `model`, `config`, `plan` and `render` do no I/O, read no clock, know no thread and depend on no hash map's order:
//!   the same inputs give the same bytes on every machine. `clippy.toml` and `tests/suite/rooms.rs` keep it so.
//! - `plan` leaves no choice to `execute`: an `if` about policy in a step's implementation is in the wrong room.
//! - Unknown is not gone: what could not be observed is neither deleted nor made a second time.
//! - A VM is at one place at most. While it moves, records on both hosts, the phase of each copy of its disks, and what
//!   the hypervisors show say where it is (`plan::places`); where they cannot, nobody touches it and the plan says so.
//! - What does not carry our stamp is never touched; nothing is created over something that exists.
//! - A root disk that returns to its image is started from once: the domain says whether it is fresh, and the guest that runs
//!   what it was at its start, so whoever else starts it is seen.
//! - Every step looks, changes and looks again, and is safe to repeat; so a `kill -9` anywhere leaves nothing double
//!   and nothing lost, and the next pass ends what the last one began.
//! - The token of a management instance is gone before the first clone of what was made in it exists, and what was sealed is
//!   known by the digest of its content, with how it was made beside it in its store.
//! - A VM in quarantine is closed on every host before anything else is done to it, and stays so whoever forgets.
//! - No address is given twice, also while nobody can look at a host that may hold it.
//! - Planning again after apply gives nothing.
//! - There is no state file: everything that the next plan must know of the past is stamped on domains and disks.

pub mod cli;
pub mod config;
pub mod execute;
pub mod host;
pub mod model;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod render;
pub mod sim;
pub mod source;
pub mod store;
pub mod watch;
