//! Impact: which change of which field, in which state of the VM, costs what. The planner and
//! `stablehand explain-impact` read the same table.

use super::types::Class;
use crate::model::{Field, UpdatePolicy};

/// The state of a VM as far as the price of a change depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// No QEMU process (stopped or crashed).
    Stopped,
    /// It runs, and the value grows within what it was started with.
    RunningGrowth,
    /// It runs; any other change.
    Running,
    /// Saved: the change takes effect after it was resumed and shut down.
    Suspended,
}

impl When {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Stopped, Self::RunningGrowth, Self::Running, Self::Suspended];
    /// What people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::RunningGrowth => "running, grows within its maximum",
            Self::Running => "running",
            Self::Suspended => "suspended",
        }
    }
}

/// The class of a change. `Staged` stands for "staged, or reboot where `update: reboot` says so".
pub const fn class(field: Field, when: When) -> Class {
    match (field, when) {
        (Field::Image, _) => Class::Recreate,
        // Never cost anything: they are ours alone, or only concern the next decision.
        (Field::Protect | Field::Ready | Field::Guard | Field::DependsOn | Field::Placement | Field::Autostart, _) => {
            Class::None
        }
        (Field::Whole | Field::Run, _) => Class::None,
        (_, When::Stopped) => Class::None,
        (_, When::Suspended) => Class::Staged,
        // QEMU's balloon and processor hot-plug reach the maximum it was started with, never beyond.
        (Field::Memory | Field::Cpus, When::RunningGrowth) => Class::Live,
        // virDomainBlockResize grows a disk under a running guest.
        (Field::DiskSize | Field::RootSize, When::RunningGrowth | When::Running) => Class::Live,
        // USB and PCIe are made for it, where a port is free.
        (Field::Devices, When::RunningGrowth) => Class::Live,
        (_, When::RunningGrowth | When::Running) => Class::Staged,
    }
}

/// The class after the VM's own policy: what needs a restart is staged, or a reboot now. Changed user data never
/// reboots a VM: cloud-init reads it on a new instance only.
pub const fn with_policy(class: Class, field: Field, when: When, update: UpdatePolicy) -> Class {
    match (class, field, update) {
        (Class::Staged, Field::CloudInit, _) => Class::Staged,
        // A saved guest is not rebooted: it is not there.
        (Class::Staged, _, UpdatePolicy::Reboot) if !matches!(when, When::Suspended) => Class::Reboot,
        _ => class,
    }
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImpactRow {
    /// The field.
    pub field: Field,
    /// The class in each state, in the order of [`When::ALL`], under `update: staged`.
    pub staged: [Class; 4],
    /// The same under `update: reboot`.
    pub reboot: [Class; 4],
    /// Why.
    pub why: &'static str,
}

/// The whole table, a row a field.
pub fn table() -> Vec<ImpactRow> {
    Field::ALL.iter().filter(|f| !matches!(f, Field::Whole | Field::Run)).map(|field| row(*field)).collect()
}

fn row(field: Field) -> ImpactRow {
    let mut staged = [Class::None; 4];
    let mut reboot = [Class::None; 4];
    for (index, when) in When::ALL.into_iter().enumerate() {
        let class = class(field, when);
        staged[index] = with_policy(class, field, when, UpdatePolicy::Staged);
        reboot[index] = with_policy(class, field, when, UpdatePolicy::Reboot);
    }
    ImpactRow { field, staged, reboot, why: why(field) }
}

/// Why a change costs what it costs, in the words for this change alone.
pub(crate) const fn why_class(field: Field, class: Class) -> &'static str {
    match (field, class) {
        (Field::Memory, Class::Live) => "the balloon grows live, without a restart",
        (Field::Memory, Class::Staged | Class::Reboot) => "none is taken from a running guest: it waits for a restart",
        (Field::Cpus, Class::Live) => "processors are plugged in live, without a restart",
        (Field::Cpus, Class::Staged | Class::Reboot) => "none is taken from a running guest: it waits for a restart",
        (Field::Devices, Class::Live) => "the running guest is given it, or gives it back, without a restart",
        (Field::Devices, Class::Staged | Class::Reboot) => {
            "no port of the running guest is free for it: it waits for a restart"
        }
        (Field::DiskSize | Field::RootSize, Class::Live) => "the disk grows under the running guest",
        (Field::Protect | Field::Ready | Field::Guard | Field::DependsOn | Field::Placement | Field::Autostart, _) => {
            why(field)
        }
        (_, Class::None) => "it is stopped: nobody notices",
        _ => why(field),
    }
}

/// Why a field costs what it costs.
pub const fn why(field: Field) -> &'static str {
    match field {
        Field::Image => {
            "the root disk is a clone of the image: another image is another root disk; data disks are kept"
        }
        Field::Cpus => "processors are hot-plugged up to `maxCpus`; QEMU takes none away from a running guest",
        Field::MaxCpus | Field::MaxMemory => "QEMU fixes the maximum when it starts",
        Field::Memory => "the balloon grows up to `maxMemory`; memory is not taken from a running guest",
        Field::DiskSize | Field::RootSize => "disks grow under a running guest and are never shrunk",
        Field::Disks => "a disk comes or goes with the definition that QEMU starts with",
        Field::Devices => {
            "a device is plugged in while a VM runs, where it has a USB controller or a free PCIe port; taking it away needs none"
        }
        Field::Nics => "interfaces and planned addresses are read at start",
        Field::Machine | Field::Firmware | Field::Display | Field::Acceleration => {
            "virtual hardware is fixed when QEMU starts"
        }
        Field::CloudInit => "cloud-init runs user data on a new instance only: a running VM sees it after a recreate",
        Field::Protect => "only our own stamp is written",
        Field::Ready | Field::Guard | Field::DependsOn => "asked from outside; the guest is not touched",
        Field::Placement => "only the next placement reads it",
        Field::Autostart => "libvirt's autostart is always off: the reconciler starts VMs",
        Field::Whole | Field::Run => "",
    }
}
