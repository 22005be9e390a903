//! What is done inside VMs that run.

use super::{GuestStepSpec, ReadySpec};
use crate::config::read::{Labels, Loc, spec};
use crate::model::{Name, Share, Span};

spec! {
    /// Steps inside VMs that run, through their guest agents: once on each VM and for each content of the steps. When one fails,
    /// no other VM begins, until the steps are others or somebody asks for it (`stablehand retry`).
    TaskSpec("Task") {
        /// On which VMs: those for which all that is said is true.
        "select" select: SelectSpec, required;
        /// What is done, in order.
        "steps" steps: Vec<GuestStepSpec>, required;
        /// What must succeed after the steps, beside the VM's own probe: a probe as under `ready`.
        "check" check: ReadySpec;
        /// Most of its VMs that are worked on at once: a number or a percentage, rounded down, at least 1 (default 1). Each must
        /// be ready before the next one begins.
        "maxUnavailable" max_unavailable: Loc<Share>;
        /// How long a step may take that does not say so itself (default 10m).
        "within" within: Loc<Span>;
    }
}

spec! {
    /// VMs for which all that is said is true; `{}` is every VM of the fleet.
    SelectSpec("select") {
        /// Of this service.
        "service" service: Loc<Name>;
        /// Of this app of the service.
        "app" app: Loc<Name>;
        /// Of this module: all its instances.
        "module" module: Loc<Name>;
        /// Of this instance of the module.
        "instance" instance: Loc<Name>;
        /// One VM of the fleet; beside `module`, the VM of that name in each instance.
        "vm" vm: Loc<Name>;
        /// Made of this image.
        "image" image: Loc<Name>;
        /// Of services and modules with these labels in their `metadata`.
        "labels" labels: Labels;
    }
}
