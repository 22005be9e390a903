//! What goes on step by step, as a plan tells it: rolls and tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Bytes, Digest, Name};

/// VMs that go to another generation of their image, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Roll {
    /// The image.
    pub image: Name,
    /// Generations that VMs leave, the commonest first, with how many VMs have each.
    pub from: Vec<(Digest, u32)>,
    /// The generation that they go to.
    pub to: Digest,
    /// What the document calls it, when it does.
    pub generation: Option<Name>,
    /// Whether they go back, after one failed.
    pub back: bool,
    /// Who goes first, one after the other.
    pub canaries: Vec<Name>,
    /// Who goes in which step; the canaries are steps too. Each waits until all of the step before are ready.
    pub steps: Vec<Vec<Name>>,
    /// Milliseconds that each must stay ready before the next step.
    pub min_ready_millis: u64,
    /// Milliseconds that all of it takes, by past boots, else by the probes' patience.
    pub millis: u64,
    /// VMs that run now and are stopped for it.
    pub interrupted: Vec<Name>,
    /// Bytes that are fetched and copied for it, as far as sizes are known.
    pub bytes: Bytes,
    /// VMs that have the generation already.
    pub there: u32,
    /// VMs that cannot go now: each has a blocked action, or the roll stands still.
    pub later: u32,
    /// Why it stands still.
    pub halted: Option<Halted>,
}

/// Why a roll stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Halted {
    /// The VM that failed.
    pub vm: Name,
    /// How.
    pub text: String,
    /// What lets it go on.
    pub unblock: String,
}

/// A task that is carried out inside VMs, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRun {
    /// The task.
    pub task: Name,
    /// Digest of its steps.
    pub digest: String,
    /// What is done in each VM, as sentences.
    pub steps: Vec<String>,
    /// Who goes side by side; each waits until all of those before are ready.
    pub order: Vec<Vec<Name>>,
    /// VMs that have it behind them.
    pub done: u32,
    /// VMs that wait for a later plan: they do not run, or something else happens to them.
    pub waits: Vec<Name>,
    /// VMs that cannot go now: each has a blocked action, or the task stands still.
    pub cannot: Vec<Name>,
    /// Why it stands still.
    pub halted: Option<Halted>,
}
