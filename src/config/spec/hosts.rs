//! A machine with a hypervisor.

use uuid::Uuid;

use super::Text;
use crate::config::device::HostDeviceSpec;
use crate::config::host::{FenceSpec, MaintenanceChoice, MigrationSpec, ShellChoice};
use crate::config::leaf::{Int, Milli, ServerRole};
use crate::config::read::{Loc, Named, spec};
use crate::model::{Acceleration, Bytes, Name};

spec! {
    /// A machine with a hypervisor.
    HostSpec("Host") {
        /// libvirt connection URI, for example `qemu:///system` or `qemu:///embed?root=/var/lib/stablehand/lab`; `lxc:///system`
        /// for containers. A machine that runs both has a document for each.
        "connection" connection: Text, required;
        /// The host UUID that it must have.
        "uuid" uuid: Loc<Uuid>;
        /// How programs beside libvirt are run on it: `local`, `{ssh: {…}}` or `{command: […]}`. By default `local` for a local
        /// connection and SSH to the same machine for `qemu+ssh://`; the others say it.
        "shell" shell: ShellChoice;
        /// `server`.
        "role" role: Loc<ServerRole>;
        /// Its site.
        "site" site: Loc<Name>;
        /// How many VMs it has places for.
        "slots" slots: Loc<Int<0, 100_000>>, required;
        /// What to plan with, when not what libvirt reports.
        "capacity" capacity: ResourcesSpec;
        /// What is kept for the host itself.
        "reserve" reserve: ResourcesSpec;
        /// Virtual for each real one.
        "overcommit" overcommit: OvercommitSpec;
        /// Folders on the host.
        "storage" storage: StorageSpec;
        /// What it costs.
        "cost" cost: CostSpec;
        /// One of the fleet's security levels (default the lowest).
        "security" security: Loc<Name>;
        /// `auto` (default): KVM where a probe guest boots with it; `kvm`; `tcg`.
        "acceleration" acceleration: Loc<Acceleration>;
        /// Its interfaces by the names that networks give their uplinks (`bridge: {uplink: NAME}`), where hosts call them
        /// differently: `uplinks: {office: eth1}`.
        "uplinks" uplinks: Named<Text>;
        /// What it has to give to VMs, by name. Devices of one name on several hosts are equal.
        "devices" devices: Named<HostDeviceSpec>;
        /// `none` (default); `cordon`: no new VMs; `drain` or `{drain: {others: leave}}`: its VMs move away, too.
        "maintenance" maintenance: MaintenanceChoice;
        /// How VMs move to and from it.
        "migration" migration: MigrationSpec;
        /// How it is made certain to run nothing any more, once it was Unknown for a time.
        "fence" fence: FenceSpec;
    }
    later {
        "bridge": "is said by a Network (`spec.bridge`)",
    }
}

spec! {
    /// Processors and memory.
    ResourcesSpec("resources") {
        /// Processors.
        "cpus" cpus: Loc<Int<0, 100_000>>;
        /// Memory.
        "memory" memory: Loc<Bytes>;
    }
}

spec! {
    /// Virtual for each real one (default 1).
    OvercommitSpec("overcommit") {
        /// Processors.
        "cpu" cpu: Loc<Milli>;
        /// Memory.
        "memory" memory: Loc<Milli>;
    }
}

spec! {
    /// Folders on the host.
    StorageSpec("storage") {
        /// The image store (default `/var/lib/stablehand/images`; of containers `/var/lib/stablehand/archives`).
        "images" images: Text;
        /// The VMs' disks (default `/var/lib/stablehand/slots`; of containers `/var/lib/stablehand/containers`).
        "slots" slots: Text;
        /// Name of the storage on which the VMs' disks lie, when other hosts with this name have the same files there.
        "shared" shared: Loc<Name>;
    }
}

spec! {
    /// What a host costs, in the fleet's currency.
    CostSpec("cost") {
        /// A processor for an hour.
        "cpuHour" cpu_hour: Loc<Milli>;
    }
    later {
        "gibHour": "comes with costs",
        "storage": "comes with costs",
        "transfer": "comes with costs",
    }
}
