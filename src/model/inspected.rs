//! What a machine that is not a host of the fleet yet says of itself.

use uuid::Uuid;

use super::desired::Acceleration;
use super::moving::{CpuObs, HostShell, Layer, MoveObs};
use super::quantity::Bytes;

/// What libvirt and the shell of a machine report: what its Host document is proposed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The URI that was asked.
    pub connection: String,
    /// How programs were run there; `None`: not at all.
    pub shell: Option<HostShell>,
    /// What it calls itself.
    pub hostname: String,
    /// libvirt's host UUID; `None` for an embedded root, which makes its own when it is first observed.
    pub uuid: Option<Uuid>,
    /// What runs guests.
    pub layer: Layer,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// Memory and number of processors of each NUMA cell.
    pub cells: Vec<(Bytes, usize)>,
    /// Versions of libvirt and QEMU, for people.
    pub versions: String,
    /// Processor models.
    pub cpu: Option<CpuObs>,
    /// The newest versioned machine types, newest first.
    pub machines: Vec<String>,
    /// Domains that are there.
    pub domains: Vec<String>,
    /// What the probe found; `None` where it could not be run.
    pub acceleration: Option<Acceleration>,
    /// Free bytes for images and slots, where the shell says so.
    pub free: Option<Bytes>,
    /// Bridges with their addresses.
    pub bridges: Vec<(String, Vec<String>)>,
    /// The interface of the default route.
    pub route: Option<String>,
    /// What it can do when VMs move.
    pub moving: Option<MoveObs>,
    /// What was not learnt, and why.
    pub missing: Vec<String>,
}
