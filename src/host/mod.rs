//! Real hosts: domains through libvirt, everything else through the host's shell.
//!
//! *Takes* hosts of the desired state and the steps of a plan. *Gives* observed state and, as the
//! [`Actuator`](crate::execute::Actuator), the changes themselves. *Never* decides anything, touches what carries no stamp
//! of the fleet, or calls a thing done that it has not seen.
//!
//! `virt` is named in `libvirt/` alone, and `unsafe` stands in `libvirt/raw.rs` alone.
#![expect(clippy::disallowed_methods, reason = "this room is where files, programs, connections and clocks are")]

pub mod accel;
#[cfg(feature = "libvirt")]
mod act;
#[cfg(feature = "libvirt")]
mod agent;
pub mod bridge;
#[cfg(feature = "libvirt")]
mod capture;
#[cfg(feature = "libvirt")]
mod clone;
#[cfg(feature = "libvirt")]
mod contact;
mod container;
#[cfg(feature = "libvirt")]
mod device;
pub mod disk;
#[cfg(feature = "libvirt")]
mod facts;
pub mod fence;
#[cfg(feature = "libvirt")]
mod fleet;
#[cfg(feature = "libvirt")]
mod generalise;
#[cfg(feature = "libvirt")]
mod glance;
#[cfg(feature = "libvirt")]
mod guard;
#[cfg(feature = "libvirt")]
pub mod images;
#[cfg(feature = "libvirt")]
mod inside;
#[cfg(feature = "libvirt")]
mod inspect;
#[cfg(feature = "libvirt")]
mod learnt;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod lock;
mod marker;
#[cfg(feature = "libvirt")]
mod mend;
#[cfg(feature = "libvirt")]
mod moves;
#[cfg(feature = "libvirt")]
mod power;
pub mod probe;
#[cfg(feature = "libvirt")]
mod ready;
#[cfg(feature = "libvirt")]
pub mod rules;
pub mod seed;
pub mod shell;
#[cfg(feature = "libvirt")]
mod survey;
pub mod xml;

#[cfg(feature = "libvirt")]
pub use fleet::RealFleet;
#[cfg(feature = "libvirt")]
pub use inspect::inspect;
#[cfg(feature = "libvirt")]
pub use libvirt::prepare_process;
