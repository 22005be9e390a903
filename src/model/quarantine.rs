//! Quarantine: a VM that talks to nobody any more, because somebody asked for it or because its guard failed.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Timestamp;
use super::vm::Probe;

/// What happens to a VM in quarantine after its rules were closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// It runs on, and reaches nobody.
    Close,
    /// It is saved to disk: its memory is kept for whoever looks into it.
    #[default]
    Suspend,
    /// It is stopped; powered off if its guest does not shut down in time.
    Stop,
}

impl Then {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Close, Self::Suspend, Self::Stop];

    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Suspend => "suspend",
            Self::Stop => "stop",
        }
    }
}

/// A probe that must go on to succeed while a VM runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guard {
    /// What is tried, how often, and how long after its start failures do not count yet.
    pub probe: Probe,
    /// Failures in a row that put it into quarantine; at least 1.
    pub failures: u32,
    /// What happens to it then.
    pub then: Then,
}

/// Why and how a VM is in quarantine. Stamped on the VM itself: the store may be lost, and the YAML may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quarantine {
    /// Who asked: a person, or [`Self::GUARD`].
    pub who: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// What happened to it beside that its rules were closed.
    pub then: Then,
}

impl Quarantine {
    /// Who asked, when it was a failing guard.
    pub const GUARD: &'static str = "guard";

    /// Whether its guard failed.
    pub fn is_by_guard(&self) -> bool {
        *self.who == *Self::GUARD
    }

    /// `by ann: a key was stolen`, `by its guard: http 80 answers 500`.
    pub fn sentence(&self) -> String {
        let who = if self.is_by_guard() { "its guard" } else { &self.who };
        format!("by {who}: {}", self.reason)
    }
}
