//! The planner: desired against observed gives an immutable plan.
//!
//! *Takes* desired, demand and observed state, a policy and the moment. *Gives* a [`Plan`].
//! *Never* does I/O, reads a clock, uses randomness or depends on the order of a hash map:
//! the same inputs give the same bytes on every machine.

pub mod steps;
pub mod types;

pub use steps::{DiskFrom, DomainDisk, DomainNic, DomainSpec, Edit, KernelBoot, NewDisk, Op, Seed, SeedNic, Step};
pub use types::*;
