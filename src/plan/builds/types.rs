//! What a plan says of generations that are made in the fleet, and how approvals call them.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Bytes, Digest, Name, Phase};
use crate::plan::digest;
use crate::plan::types::{Action, Plan, Roll};

/// A generation of an image that is made in the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// The image.
    pub image: Name,
    /// What its document calls the generation.
    pub revision: Name,
    /// Digest of its recipe; `None`: what it is made from is still to be made itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
    /// What it is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its management instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// Where that is, or will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// How far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What is done in it, and with it, a sentence each.
    pub steps: Vec<String>,
    /// Milliseconds that it takes at least: what steps in its guest take nobody knows.
    pub millis: u64,
    /// Bytes that are captured, as far as sizes are known.
    pub bytes: Bytes,
    /// VMs that run now and serve nobody meanwhile.
    pub interrupted: Vec<Name>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Whether it waits for a person who configures it by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_seal: bool,
    /// VMs that are made of it then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub makes: Vec<Name>,
    /// The roll that comes after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Roll>,
    /// Keys of the effects that come after it: an approval of the plan takes them in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub promised: BTreeSet<String>,
}

impl Plan {
    /// The key of an action in an approval: as [`effect_key`](digest::effect_key) says, with generations that were
    /// made in the fleet by the names that they had before they were sealed.
    pub fn key(&self, action: &Action, any_host: bool) -> String {
        digest::named(digest::effect_key(action, any_host), &self.made)
    }
    /// Whether an approval of these effects takes an action in.
    pub fn covers(&self, keys: &BTreeSet<String>, action: &Action, any_host: bool) -> bool {
        keys.contains(&self.key(action, any_host)) || digest::covered(keys, action, any_host)
    }
    /// The keys of all that an approval of it takes in.
    pub fn keys(&self, any_host: bool) -> BTreeSet<String> {
        let open = self.actions.iter().filter(|a| !a.is_blocked()).map(|a| self.key(a, any_host));
        open.chain(self.promised()).collect()
    }
    /// The keys of what comes after its builds.
    pub fn promised(&self) -> impl Iterator<Item = String> + '_ {
        let open = |b: &&Build| b.waits.is_none();
        self.builds.iter().filter(open).flat_map(|b| b.promised.iter().cloned())
    }
}
