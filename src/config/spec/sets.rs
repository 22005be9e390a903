//! Sets of VMs: modules and services.

use super::access::{ModuleAccessSpec, ServiceAccessSpec};
use super::{Text, VmPart};
use crate::config::lease::{BeginSpec, LeaseSpec};
use crate::config::read::{Loc, Named, spec};
use crate::model::RunState;

spec! {
    /// VMs presented together to a person, and their standing instances.
    ModuleSpec("Module") {
        /// `started` (default), `stopped` or `suspended`: for every instance that does not say otherwise.
        "run" run: Loc<RunState>;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// Its VMs by name.
        "vms" vms: Named<VmPart>, required;
        /// Standing instances by name.
        "instances" instances: Named<InstanceSpec>;
        /// Lists of VMs of an instance no two of which may share a host.
        "separate" separate: Vec<Vec<Text>>;
        /// What its VMs may talk to, and be talked to by, beside those of their own instance: rules by name.
        "access" access: Named<ModuleAccessSpec>;
        /// For how long each instance that does not say otherwise is wanted; without one for as long as the document is there.
        "lease" lease: LeaseSpec;
        /// From when on each instance that does not say otherwise is wanted; without one at once.
        "from" from: BeginSpec;
    }
    later {
        "pool": "comes with sessions",
        "idle": "comes with sessions",
        "persistence": "comes with sessions",
        "sharedData": "comes with shared data",
    }
}

spec! {
    /// A standing instance of a module.
    InstanceSpec("instance") {
        /// `started`, `stopped` or `suspended`.
        "run" run: Loc<RunState>;
        /// For how long it is wanted; as its module says by default.
        "lease" lease: LeaseSpec;
        /// From when on it is wanted; as its module says by default.
        "from" from: BeginSpec;
    }
}

spec! {
    /// Applications in VMs, with start order, replicas and readiness.
    ServiceSpec("Service") {
        /// `started` (default), `stopped` or `suspended`: for every app that does not say otherwise.
        "run" run: Loc<RunState>;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// Its applications by name.
        "apps" apps: Named<VmPart>, required;
        /// Lists of apps (or `service/app`) no two of whose VMs may share a host.
        "separate" separate: Vec<Vec<Text>>;
        /// What its VMs may talk to, and be talked to by, beside those of the service: rules by name.
        "access" access: Named<ServiceAccessSpec>;
        /// For how long it is wanted; without one for as long as the document is there.
        "lease" lease: LeaseSpec;
        /// From when on it is wanted; without one at once.
        "from" from: BeginSpec;
    }
    later {
        "copyOf": "comes with scaling",
        "scale": "comes with scaling",
        "costLimit": "comes with costs",
    }
}
