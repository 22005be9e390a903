//! YAML → desired state, or everything that is wrong with it in one run.
//!
//! *Takes* a snapshot of files. *Gives* [`Desired`] with warnings, or diagnostics with codes, places and
//! suggestions; JSON Schemas; YAML of what was observed. *Never* does I/O, and never stops at the first error.
//!
//! The way of a document: `node` (text → tree with places) → `read` and `spec` (tree → what was written)
//! → `repository` (documents by kind and name) → `build` and `vm` (what it means) → `expand` (VMs and groups)
//! → `check` (what only the whole can tell).

mod access;
mod build;
mod cable;
mod check;
pub mod codes;
mod container;
mod device;
pub mod diagnostic;
mod expand;
pub mod explain;
pub mod export;
pub mod fmt;
mod generation;
mod guard;
mod host;
pub mod inspect;
mod leaf;
mod lease;
mod marker;
mod node;
mod read;
mod recipe;
mod repository;
pub mod schema;
mod sink;
mod spec;
mod steps;
mod subnet;
mod task;
mod vm;

use crate::model::{Desired, Snapshot};
pub use diagnostic::{Diagnostic, Place, Severity};

use repository::Repository;
use sink::Sink;

/// A repository that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub desired: Desired,
    /// What it hardly meant to say.
    pub warnings: Vec<Diagnostic>,
}

/// The values of a text's documents as JSON; `None` when anything in it is refused. For tests that hold our reading
/// of YAML against another crate's.
pub fn values(text: &str) -> Option<Vec<serde_json::Value>> {
    let mut sink = Sink::new(&Snapshot::default());
    let (documents, _) = node::documents(text, 0, &mut sink);
    let values: Option<Vec<_>> = documents.iter().map(node::Node::json).collect();
    values.filter(|_| sink.errors() == 0)
}

/// Reads a fleet's repository.
///
/// # Errors
/// Every error and warning of the repository, in order of place, when there is at least one error.
pub fn load(snapshot: &Snapshot) -> Result<Loaded, Vec<Diagnostic>> {
    let mut sink = Sink::new(snapshot);
    let repository = Repository::read(snapshot, &mut sink);
    let desired = build::desired(&repository, snapshot, &mut sink);
    let failed = sink.errors() > 0;
    let diagnostics = sink.finish(snapshot);
    match desired {
        Some(desired) if !failed => Ok(Loaded { desired, warnings: diagnostics }),
        _ => Err(diagnostics),
    }
}
