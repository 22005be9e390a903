//! Reviewed exceptions.

use uuid::Uuid;

use super::{Keep, Text};
use crate::config::read::{Loc, spec};
use crate::model::{Address, Name, Timestamp};

spec! {
    /// A reviewed permission to delete what it names.
    RemovalSpec("Removal") {
        /// What may go: `vm/NAME`, `service/NAME`, `module/NAME` or `fleet/NAME`.
        "target" target: Loc<Address>, required;
        /// What happens to data disks: `{retain: 7d}` (default) or `delete`.
        "data" data: Keep;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// A reviewed permission to take over a VM that exists.
    AdoptionSpec("Adoption") {
        /// The VM of the fleet that it becomes.
        "vm" vm: Loc<Name>, required;
        /// The UUID of the domain as it is now.
        "uuid" uuid: Loc<Uuid>, required;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// A host that will not come back with its VMs running.
    HostLostSpec("HostLost") {
        /// The host.
        "host" host: Loc<Name>, required;
        /// How it is known that nothing runs there any more: what was switched off, by whom.
        "evidence" evidence: Text, required;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// Nothing in its scope is changed until it ends.
    PauseSpec("Pause") {
        /// What is left alone: `vm/NAME`, `service/NAME`, `module/NAME`, `host/NAME` or `fleet/NAME`.
        "scope" scope: Loc<Address>, required;
        /// Who asked.
        "who" who: Text, required;
        /// Why.
        "reason" reason: Text, required;
        /// When it ends, for example `2026-12-01T18:00:00Z`.
        "until" until: Loc<Timestamp>, required;
    }
}
