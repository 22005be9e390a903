//! Demand: what people ask for at run time. It joins desired state; it never edits Git.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::Name;
use super::quantity::Timestamp;
use super::vm::RunState;

/// All demand at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// VMs started, stopped or suspended by hand, until withdrawn.
    pub holds: BTreeMap<Name, Hold>,
    /// VMs to be stopped and started once, with what asked for it; withdrawn when it was done.
    pub restarts: BTreeMap<Name, Hold>,
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
