//! Demand: what people ask for at run time. It joins desired state; it never edits Git.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::desired::Digest;
use super::ids::Name;
use super::moving::{Asked, Drain};
use super::quantity::Timestamp;
use super::quarantine::Quarantine;
use super::vm::RunState;

/// All demand at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// VMs started, stopped or suspended by hand, until withdrawn.
    pub holds: BTreeMap<Name, Hold>,
    /// VMs to be stopped and started once, with what asked for it; withdrawn when it was done.
    pub restarts: BTreeMap<Name, Hold>,
    /// Hosts to be emptied, until withdrawn.
    pub drains: BTreeMap<Name, Drain>,
    /// Hosts whose VMs should come back, until they did.
    pub restores: BTreeMap<Name, Asked>,
    /// VMs that go into quarantine, until their stamps say so.
    pub quarantines: BTreeMap<Name, Quarantine>,
    /// VMs that come out of it, until their stamps say so.
    pub releases: BTreeMap<Name, Asked>,
    /// Images whose management instance was configured by hand, and is done: by image.
    pub seals: BTreeMap<Name, ImageWish>,
    /// Images whose present recipe was given up, until it changes or that is withdrawn: by image.
    pub abandoned: BTreeMap<Name, ImageWish>,
    /// Images of which a generation could not be made and is to be tried again: by image.
    pub retries: BTreeMap<Name, ImageWish>,
    /// Tasks that failed and are to be tried again, with when that was asked.
    #[serde(default)]
    pub task_retries: BTreeMap<Name, Asked>,
    /// VMs that were at a host when its drain began, until they came back or their home changed.
    pub homes: BTreeMap<Name, Name>,
}

/// What was said of an image that is made: it holds for the recipe that it was said of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageWish {
    /// [`Provenance::recipe`](super::management::Provenance::recipe).
    pub recipe: Digest,
    /// Who said it.
    pub who: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// A state asked for by hand: healing respects it until it is withdrawn (`stablehand start --withdraw`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What was asked.
    pub run: RunState,
    /// Who asked.
    pub who: Arc<str>,
    /// When.
    pub at: Timestamp,
}
