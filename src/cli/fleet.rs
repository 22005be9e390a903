//! The fleet that a verb is about: its desired state, and what was seen of it.

use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::execute::Actuator;
use crate::model::{Demand, Desired, Name, Observed, Snapshot, Timestamp};
use crate::observe::{Look, Observer};
use crate::source::{self, Place};
use crate::store::Store;

use super::args::Form;
use super::context::Context;
use super::failure::{Exit, Failure};

/// The world, for real or simulated.
pub(crate) trait World: Observer + Actuator {}
impl<T: Observer + Actuator> World for T {}

/// A fleet that validates.
pub(crate) struct Fleet {
    /// What it says.
    pub(crate) desired: Desired,
    /// The files it was read from.
    pub(crate) snapshot: Snapshot,
}

/// Observed state with all that belongs to it.
pub(crate) struct Seen {
    /// What the hosts said.
    pub(crate) observed: Observed,
    /// What people asked for by hand.
    pub(crate) demand: Demand,
    /// `live`, `none` or the folder.
    pub(crate) source: String,
}

impl Context {
    /// Where the fleet is read from.
    pub(crate) fn place(&self, revision: Option<&str>) -> Place {
        let folder = self.path(&self.global.fleet);
        match revision.or(self.global.rev.as_deref()) {
            Some(revision) => Place::Commit { folder, revision: revision.to_owned() },
            None => Place::Folder(folder),
        }
    }

    /// Reads the files of a fleet.
    pub(crate) fn snapshot(&self, revision: Option<&str>) -> Result<Snapshot, Failure> {
        source::read(&self.place(revision)).map_err(|e| {
            let hint = match &e {
                source::SourceError::Revision { .. } => "name a branch, a tag or a commit of the fleet's repository",
                _ => "name its folder with --fleet DIR, or begin one with `stablehand init DIR`",
            };
            Failure::caused(format!("cannot read the fleet in `{}`", self.global.fleet.display()), &e).hint(hint)
        })
    }

    /// Reads a fleet. Its diagnostics, if there are errors, have been shown when this fails.
    pub(crate) fn load(&self, revision: Option<&str>) -> Result<Fleet, Failure> {
        let snapshot = self.snapshot(revision)?;
        match config::load(&snapshot) {
            Ok(loaded) => {
                if !loaded.warnings.is_empty() {
                    self.console.err(&config::diagnostic::text(&loaded.warnings));
                }
                Ok(Fleet { desired: loaded.desired, snapshot })
            }
            Err(diagnostics) => {
                match self.global.output {
                    Form::Json => self.console.out(&config::diagnostic::json(&diagnostics)),
                    _ => self.console.err(&config::diagnostic::text(&diagnostics)),
                }
                Err(Failure::said(Exit::Error))
            }
        }
    }

    /// Observes: `live`, `none`, or the folder of an earlier `observe --out`.
    pub(crate) async fn seen(&self, desired: &Desired, how: &str, look: Look) -> Result<Seen, Failure> {
        let now = Self::now();
        match how {
            "live" => {
                let store = self.store(&desired.fleet.name)?;
                let world = self.world(desired)?;
                let observed = observe(&*world, &store, desired, look, now).await?;
                Ok(Seen { observed, demand: store.demand()?, source: "live".to_owned() })
            }
            "none" => {
                let observed = Observed { format: 1, at: now, ..Observed::default() };
                Ok(Seen { observed, demand: Demand::default(), source: "none".to_owned() })
            }
            folder => {
                let (observed, demand) = self.recorded(Path::new(folder), &desired.fleet.name)?;
                Ok(Seen { observed, demand, source: folder.to_owned() })
            }
        }
    }

    /// Reads recorded observed state, and what people had asked for by hand then.
    pub(crate) fn recorded(&self, folder: &Path, fleet: &Name) -> Result<(Observed, Demand), Failure> {
        let file = folder.join(OBSERVED);
        let stale = |failure: Failure| {
            failure
                .exit(Exit::Stale)
                .hint("write it with `stablehand observe --out DIR`, or use --observed live or none")
        };
        let text = self.read(&file).map_err(stale)?;
        let observed: Observed = serde_json::from_str(&text)
            .map_err(|e| stale(Failure::caused(format!("`{}` is not recorded observed state", file.display()), &e)))?;
        if observed.format != 1 {
            let what = format!("`{}` has format {}; this program reads 1", file.display(), observed.format);
            return Err(stale(Failure::new(what)));
        }
        match &observed.fleet {
            Some(other) if other != fleet => {
                Err(stale(Failure::new(format!("`{}` was recorded of fleet `{other}`, not `{fleet}`", file.display()))))
            }
            _ => Ok((observed, self.recorded_demand(folder).map_err(stale)?)),
        }
    }

    /// The file is there when somebody held something.
    #[expect(clippy::disallowed_methods, reason = "files that a person names on the command line")]
    fn recorded_demand(&self, folder: &Path) -> Result<Demand, Failure> {
        let file = folder.join(DEMAND);
        if !self.path(&file).exists() {
            return Ok(Demand::default());
        }
        serde_json::from_str(&self.read(&file)?)
            .map_err(|e| Failure::caused(format!("`{}` is not recorded demand", file.display()), &e))
    }

    /// The real hosts of a fleet, or those that `watch` has open already.
    pub(crate) fn world(&self, desired: &Desired) -> Result<Arc<dyn World>, Failure> {
        if let Some(inside) = &self.inside {
            return inside.of(&desired.fleet.name).map(|inside| inside.world.clone());
        }
        super::world::open(desired, &self.path(&self.global.fleet), &self.around)
    }
}

/// The file of recorded observed state in its folder.
pub(crate) const OBSERVED: &str = "observed.json";
/// What people asked for by hand, beside it: a plan must not take it for drift.
pub(crate) const DEMAND: &str = "demand.json";

/// Observes live, and adds what the store knows of the past.
pub(crate) async fn observe(
    world: &dyn World,
    store: &Store,
    desired: &Desired,
    look: Look,
    now: Timestamp,
) -> Result<Observed, Failure> {
    let mut observed = world.observe(desired, look).await;
    let stamped = observed.hosts.values().filter_map(|h| h.known()).any(|h| !h.vms.is_empty());
    observed.store = store.state(stamped, now)?;
    let book = store.book()?;
    (observed.store.unready, observed.store.unmade) = (book.unready, book.unmade);
    if !look.probe && crate::plan::wants_probes(desired, &observed) {
        let past = std::mem::take(&mut observed.store);
        observed = world.observe(desired, Look { probe: true }).await;
        observed.store = past;
    }
    Ok(observed)
}
