//! Generations of images: each sealed version by its digest, how a set takes a new one, and what is remembered of old ones.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::desired::{Boot, Digest, ImageFile, Share};
use super::ids::Name;
use super::management::Provenance;
use super::quantity::{Span, Timestamp};

/// How a set of VMs takes a new generation of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// VMs of the image that go first, one after the other (default 0).
    pub canary: Share,
    /// Most VMs of a set that are away at once because of the roll, at least 1 (default 1).
    pub max_unavailable: Share,
    /// How long a VM must stay ready before the next one goes (default 0 s).
    pub min_ready: Span,
    /// What happens when one does not get ready.
    pub on_failure: OnFailure,
    /// Whether the document says any of it: only a policy that was written and reviewed lifts the limit of a pass.
    pub written: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canary: Share::Count(0),
            max_unavailable: Share::Count(1),
            min_ready: Span(0),
            on_failure: OnFailure::Halt,
            written: false,
        }
    }
}

/// What happens when a VM does not get ready on a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The roll stands still: what was not rolled stays untouched.
    Halt,
    /// It stands still, and what was rolled goes back to the generation before.
    Rollback,
}

/// What happens to VMs of an older generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Retire {
    /// They are rolled to the new one.
    Auto,
    /// They are left as they are; only new VMs get the new one.
    Keep,
}

/// A generation that the document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its disk.
    pub disk: ImageFile,
    /// How it boots.
    pub boot: Boot,
}

/// The generations that a document names, by name or number.
pub type Generations = BTreeMap<Name, Generation>;

/// What is written beside an image in a host's store: a store tells its history by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageNote {
    /// The image that it is a generation of.
    pub image: Name,
    /// What its document calls the generation, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Name>,
    /// When it was planned for this store.
    pub since: Timestamp,
    /// How it was made, where that was in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Provenance>,
}

/// The generation that a VM had before it was rolled: where it goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rolled {
    /// Digest of its disk before.
    pub from: Digest,
    /// The kernel that it booted, where the host hands one over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<RolledKernel>,
    /// The generation on which it did not get ready and from which it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Digest>,
}

/// What a VM booted before it was rolled: files of the same store, by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolledKernel {
    /// The kernel.
    pub kernel: Digest,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Digest>,
    /// The kernel's command line.
    pub command_line: String,
}

/// A generation on which a VM did not get ready, as the controller saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unready {
    /// The generation.
    pub digest: Digest,
    /// When it was given up.
    pub at: Timestamp,
    /// Why.
    pub text: String,
}
