//! What a plan says of sets for a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Name, Timestamp};

/// A set for a time: a module's instance, or a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetTerm {
    /// `module/course/ann` or `service/shop`.
    pub set: String,
    /// Where it stands.
    pub phase: TermPhase,
    /// When it begins, or began.
    pub from: Option<Timestamp>,
    /// When it ends, or ended; `None`: with a Task, or never.
    pub until: Option<Timestamp>,
    /// The Task that ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Name>,
    /// When it begins again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Timestamp>,
    /// The zone of its time of day, where it begins again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its VMs.
    pub vms: Vec<Name>,
    /// When its VMs are made for its next beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Timestamp>,
    /// Whether its end is so near that people are told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soon: bool,
    /// Hosts with room for its next beginning, as it is promised now; others may be taken then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Name>,
    /// Why its room cannot be promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short: Option<String>,
}

/// Where a set for a time stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TermPhase {
    /// Its time has not come.
    Reserved,
    /// It is wanted, or is made ready.
    Wanted,
    /// Its time is over.
    Over,
}

impl TermPhase {
    /// The word people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Wanted => "wanted",
            Self::Over => "over",
        }
    }
}
