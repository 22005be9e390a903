//! What a team writes: every kind of document with its fields. To add a kind, declare its spec here, give it
//! a line in [`KINDS`] and a place in [`Body`], and say in `build` what it means.

mod access;
mod guest;
mod hosts;
mod images;
mod networks;
mod reviews;
mod sets;
mod tasks;
mod vms;

use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::Value;

pub(crate) use access::{ModuleAccessSpec, PeerSpec, ServiceAccessSpec};
pub(crate) use guest::{GuestFileSpec, GuestStepSpec, PackagesSpec, UpgradeChoice};
pub(crate) use hosts::{HostSpec, ResourcesSpec};
pub(crate) use images::{BootChoice, FileSpec, ImageSpec, InitSpec};
pub(crate) use networks::{BridgeSpec, NetworkSpec};
pub(crate) use reviews::{AdoptionSpec, HostLostSpec, PauseSpec, RemovalSpec};
pub(crate) use sets::{InstanceSpec, ModuleSpec, ServiceSpec};
pub(crate) use tasks::{SelectSpec, TaskSpec};
pub(crate) use vms::{CloudInitSpec, GuardSpec, Keep, PlacementSpec, ReadySpec, VmPart};

use super::leaf::{ApprovalPlacement, Int, Milli};
use super::node::Node;
use super::read::{Labels, Loc, Named, Read, field, spec};
use super::sink::Sink;
use crate::model::{Name, Share, Span};

/// The API version that is read.
pub(crate) const API_VERSION: &str = "stablehand/v1alpha1";

pub(super) type Text = Loc<Arc<str>>;

macro_rules! kinds {
    ($($kind:ident: $spec:ty, $doc:literal;)*) => {
        /// The spec of a document.
        #[derive(Clone, Debug)]
        pub(crate) enum Body { $(#[doc = $doc] $kind(Box<$spec>),)* }

        /// A kind of document.
        pub(crate) struct Kind {
            pub(crate) name: &'static str,
            pub(crate) doc: &'static str,
            pub(crate) read: fn(&Node<'_>, &mut Sink) -> Option<Body>,
            pub(crate) schema: fn(&mut SchemaGenerator) -> Value,
        }

        /// Every kind that this version reads.
        pub(crate) const KINDS: &[Kind] = &[$(Kind {
            name: stringify!($kind),
            doc: $doc,
            read: |node, sink| field::<Box<$spec>>(&"spec", node, sink).map(Body::$kind),
            schema: <$spec as Read>::schema,
        },)*];
    };
}

kinds! {
    Fleet: FleetSpec, "The fleet: its id, defaults for every VM, limits. One in each repository.";
    Host: HostSpec, "A machine with a hypervisor.";
    Image: ImageSpec, "A golden disk by digest.";
    Network: NetworkSpec, "A network: a bridge on each host, and how VMs on it get addresses.";
    Module: ModuleSpec, "VMs presented together to a person, and their standing instances.";
    Service: ServiceSpec, "Applications in VMs, with start order, replicas and readiness.";
    Removal: RemovalSpec, "A reviewed permission to delete what it names.";
    Adoption: AdoptionSpec, "A reviewed permission to take over a VM that exists.";
    HostLost: HostLostSpec, "A host that will not come back with its VMs running.";
    Pause: PauseSpec, "Nothing in its scope is changed until it ends.";
    Task: TaskSpec, "Steps inside VMs that run: programs, files and packages, once on each.";
}

/// Kinds that a later version reads.
pub(crate) const LATER_KINDS: &[(&str, &str)] = &[
    ("Client", "comes with clients and the gateway"),
    ("User", "comes with sign-in"),
    ("Group", "comes with sign-in"),
    ("Tenant", "comes with tenants"),
];

spec! {
    /// What every document says of itself.
    MetadataSpec("metadata") {
        /// Its name, unique among the documents of its kind.
        "name" name: Loc<Name>, required;
        /// Labels; a host's are what placement selects by.
        "labels" labels: Labels;
        /// Notes for people and tools; nothing here reads them.
        "annotations" annotations: Labels;
    }
    later { "formerly": "comes with renaming", }
}

spec! {
    /// The fleet: its id (the document's name), defaults for every VM, limits of a pass.
    FleetSpec("Fleet") {
        /// Security levels, lowest first.
        "securityLevels" security_levels: Vec<Loc<Name>>;
        /// For every VM that does not say otherwise.
        "defaults" defaults: VmPart;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// How much one pass, and one day, may do.
        "limits" limits: LimitsSpec;
        /// How hosts are chosen.
        "placement" placement: FleetPlacementSpec;
        /// When an approval still holds.
        "approval" approval: ApprovalSpec;
        /// How long files stay in the hosts' stores.
        "images" images: FleetImagesSpec;
    }
    later {
        "networks": "comes with network rules",
        "gateway": "comes with the gateway",
        "windows": "comes with maintenance windows",
    }
}

spec! {
    /// Limits of a pass: a number of VMs, or a percentage of the fleet's.
    LimitsSpec("limits") {
        /// Most VMs destroyed (default 3).
        "destroy" destroy: Loc<Share>;
        /// Most VMs recreated (default 3).
        "recreate" recreate: Loc<Share>;
        /// Most VMs rebooted (default 25%).
        "reboot" reboot: Loc<Share>;
        /// Actions at once on one host (default 4).
        "actionsPerHost" actions_per_host: Loc<Int<1, 1000>>;
        /// VMs starting at once on one host (default 2).
        "startsPerHost" starts_per_host: Loc<Int<1, 1000>>;
        /// Most VMs moved (default 50%).
        "move" moves: Loc<Share>;
        /// VMs moving at once between two hosts (default 1).
        "movesPerLink" moves_per_link: Loc<Int<1, 1000>>;
    }
}

spec! {
    /// How hosts are chosen.
    FleetPlacementSpec("placement") {
        /// Weights of the score.
        "weights" weights: WeightsSpec;
    }
}

spec! {
    /// Weights of the placement score; 1 each by default, cost 0.
    WeightsSpec("weights") {
        /// Of free memory.
        "memory" memory: Loc<Milli>;
        /// Of free processors.
        "cpu" cpu: Loc<Milli>;
        /// Of free slots.
        "slots" slots: Loc<Milli>;
        /// Of cost: cheaper hosts first.
        "cost" cost: Loc<Milli>;
    }
}

spec! {
    /// How long files stay in the hosts' stores.
    FleetImagesSpec("images") {
        /// After nothing needs a file any more (default 7d).
        "keep" keep: Loc<Span>;
    }
}

spec! {
    /// When an approval still holds.
    ApprovalSpec("approval") {
        /// `exact` (default): on the approved hosts only; `any`: also when a new VM lands on another host.
        "placement" placement: Loc<ApprovalPlacement>;
    }
}
