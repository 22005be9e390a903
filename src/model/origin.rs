//! Where a value was written: every action of a plan points back to a line a person wrote.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place in the fleet's repository, shown as `file:line:col`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// Path relative to the fleet's folder, with `/`.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub col: u32,
}

impl Origin {
    /// Makes an origin from its parts.
    pub fn new(file: impl Into<Arc<str>>, line: u32, col: u32) -> Self {
        Self { file: file.into(), line, col }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.col)
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $path:literal,)*) => {
        /// The fields of a VM that a plan can change, in the order in which they are shown.
        ///
        /// `stablehand explain-impact` prints, for each of them, what a change costs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub enum Field { $($(#[$doc])* $variant,)* }

        impl Field {
            /// Every field, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The path that a person would type, for example `memory`.
            pub const fn path(self) -> &'static str {
                match self { $(Self::$variant => $path,)* }
            }
        }
    };
}

fields! {
    /// The whole document.
    Whole = "",
    /// Started, stopped or suspended.
    Run = "run",
    /// The golden disk (and kernel) by digest.
    Image = "image",
    /// Processors now.
    Cpus = "cpus",
    /// Processors it can grow to while it runs.
    MaxCpus = "maxCpus",
    /// Memory now.
    Memory = "memory",
    /// Memory it can grow to while it runs.
    MaxMemory = "maxMemory",
    /// A data disk added or left out.
    Disks = "disks",
    /// The size of a data disk.
    DiskSize = "disks.size",
    /// The size of the root disk.
    RootSize = "rootSize",
    /// Network interfaces.
    Nics = "nics",
    /// Devices of its host that it is given.
    Devices = "devices",
    /// The versioned machine type.
    Machine = "machine",
    /// BIOS or UEFI.
    Firmware = "firmware",
    /// Video and its geometry.
    Display = "display",
    /// KVM or software emulation, as the host decided.
    Acceleration = "acceleration",
    /// What cloud-init is given.
    CloudInit = "cloudInit",
    /// What may not be done to it.
    Protect = "protect",
    /// The readiness probe.
    Ready = "ready",
    /// What must go on to succeed while it runs.
    Guard = "guard",
    /// What must be ready first.
    DependsOn = "dependsOn",
    /// Where it may run.
    Placement = "placement",
    /// libvirt's autostart, which is always off.
    Autostart = "autostart",
}

/// The layers that gave a VM's fields their values: the last one of a field won.
///
/// Shared between the VMs that one app or module member expands to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Field, place and the layer's name (`defaults`, `from base`, `app web`, …), in the order of layering.
    pub layers: Vec<(Field, Origin, Arc<str>)>,
}

impl Origins {
    /// The place that won for `field`, if it was written anywhere.
    pub fn of(&self, field: Field) -> Option<&Origin> {
        self.layers.iter().rev().find(|(f, _, _)| *f == field).map(|(_, o, _)| o)
    }
}
