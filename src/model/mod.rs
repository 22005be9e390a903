//! The nouns of Stablehand: what a fleet should be, what people ask of it, and what was seen of it.
//!
//! *Takes* nothing. *Gives* plain data that every other room speaks. *Never* does I/O, reads a clock,
//! or holds a secret.

pub mod bridge;
pub mod container;
pub mod demand;
pub mod desired;
pub mod device;
pub mod generation;
pub mod ids;
pub mod image;
pub mod inspected;
pub mod lease;
pub mod management;
pub mod marker;
pub mod moving;
pub mod network;
pub mod observed;
pub mod origin;
pub mod quantity;
pub mod quarantine;
pub mod recipe;
pub mod rules;
pub mod schema;
pub mod snapshot;
pub mod stats;
pub mod task;
pub mod vm;

pub use bridge::{Border, LinkObs, Uplink};
pub use container::*;
pub use demand::*;
pub use desired::*;
pub use device::{Device, DeviceAt, PciAddress};
pub use generation::*;
pub use ids::{Address, Mac, Name, NameError, disk_file_name, domain_name, domain_uuid, nic_mac, tap_name, tap_prefix};
pub use image::{Compression, Fetch, Stores};
pub use inspected::Inspected;
pub use lease::{Days, Every, Lease, LeaseEnd, Leased, Start, Term, When, moment_in};
pub use management::*;
pub use marker::{Marker, MarkerValue, Padding};
pub use moving::*;
pub use network::*;
pub use observed::*;
pub use origin::{Field, Origin, Origins};
pub use quantity::{Bytes, QuantityError, Span, Timestamp};
pub use quarantine::{Guard, Quarantine, Then};
pub use recipe::*;
pub use rules::*;
pub use snapshot::{Problem, ProblemKind, Snapshot, SourceFile};
pub use task::*;
pub use vm::*;
