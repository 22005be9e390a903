//! A fleet in memory, with time, load and faults, behind the same traits as real hosts; and a script language for it.
//!
//! *Takes* steps and questions, as real hosts do, and things that happen to a world: hands, faults, power cuts.
//! *Gives* observed state, and a list of broken promises ([`World::violations`]): what must hold at every step,
//! whoever asked. *Never* does I/O but for the scripts' `load`, reads a clock, or depends on the order of a hash map.
//!
//! ```text
//!   script ──▶ SimFleet (Observer + Actuator, virtual time) ──▶ World: look → change → look again
//!                 │ faults: a step fails, hangs, half-succeeds            │ guard: promises broken
//!                 └ crash: nothing after step n                           └ happen: hands, power, hosts
//! ```

mod capture;
mod change;
mod device;
mod faults;
mod filter;
mod fleet;
mod guard;
mod happen;
mod inside;
mod jobs;
mod ledger;
mod moving;
pub mod script;
mod see;
mod session;
mod wire;
mod world;

pub use faults::{Count, Fault, FaultKind};
pub use filter::{Explained, FilterState};
pub use fleet::SimFleet;
pub use guard::Permit;
pub use happen::Event;
pub use jobs::{MoveJob, Stage};
pub use ledger::Memory;
pub use session::{Applied, Session};
pub use wire::Rewire;
pub use world::{EPOCH, Guest, HostSize, Inside, SimDisk, SimDomain, SimHost, World};
