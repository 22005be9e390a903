//! What every verb needs: where it runs, which fleet it is about, and the store beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{Name, Timestamp};
use crate::render::Style;
use crate::source::Place;
use crate::store::Store;

use super::args::Global;
use super::console::Console;
use super::failure::Failure;

/// What the process is told by its surroundings. Given, so that tests and the control socket can give another one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// The folder that relative paths start from.
    pub(crate) folder: PathBuf,
    /// The fleet's folder, where whoever asks has named it already.
    pub(crate) fleet: Option<PathBuf>,
    /// `NO_COLOR`, `HOME`, `XDG_STATE_HOME`, `USER`, `PATH`, …
    pub(crate) variables: BTreeMap<String, String>,
    /// Whether we are root.
    pub(crate) root: bool,
    /// The verb that runs, for locks.
    pub(crate) verb: String,
}

impl Surroundings {
    /// This process's.
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    pub(crate) fn of_process() -> Self {
        let names = ["NO_COLOR", "HOME", "XDG_STATE_HOME", "SUDO_USER", "USER", "LOGNAME", "PATH", "HOSTNAME"];
        let variables = names.iter().filter_map(|n| Some(((*n).to_owned(), std::env::var(n).ok()?))).collect();
        Self {
            folder: std::env::current_dir().unwrap_or_default(),
            fleet: None,
            variables,
            root: rustix::process::geteuid().is_root(),
            verb: String::new(),
        }
    }

    /// A variable that is set to something.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Who acts, for locks: `ann@kvm1, process 123, apply`.
    pub(crate) fn process(&self) -> String {
        format!("{}, process {}, {}", self.who(), std::process::id(), self.verb)
    }

    /// Who acts, for holds and approvals: `ann@kvm1`.
    pub(crate) fn who(&self) -> String {
        let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|n| self.get(n)).map(str::to_owned);
        let number = || format!("uid {}", rustix::process::getuid().as_raw());
        let user = named.unwrap_or_else(|| if self.root { "root".to_owned() } else { number() });
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{user}@{machine}")
    }
}

/// A verb's surroundings, flags and streams.
#[derive(Clone)]
pub(crate) struct Context {
    /// Flags of every verb.
    pub(crate) global: Global,
    /// Where it runs.
    pub(crate) around: Surroundings,
    /// Where its words go.
    pub(crate) console: Arc<Console>,
    /// Set when the verb runs inside `watch`, which has the hosts open already.
    pub(crate) inside: Option<Arc<super::watch::Inside>>,
}

impl Context {
    /// Fails for a verb that acts from another place than the `watch` it runs in: the next pass would undo it.
    pub(crate) fn same_place(&self) -> Result<(), Failure> {
        let Some(inside) = &self.inside else { return Ok(()) };
        let real = |place: Place| match place {
            Place::Folder(f) => (real(&f), None),
            Place::Commit { folder, revision } => (real(&folder), Some(revision)),
        };
        let (ours, theirs) = (real(self.place(None)), real(inside.place.clone()));
        if ours == theirs {
            return Ok(());
        }
        let revision = theirs.1.map(|r| format!("{r} in ")).unwrap_or_default();
        Err(Failure::new(format!(
            "nothing was done: process {} watches this fleet, from {revision}{}, and would undo it",
            std::process::id(),
            theirs.0.display()
        ))
        .hint("make the change there, or stop that watch"))
    }

    /// Waits until no pass runs in this process: inside `watch`, a verb that acts takes turns with it.
    pub(crate) async fn acting(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match &self.inside {
            Some(inside) => Some(inside.acting.lock().await),
            None => None,
        }
    }

    /// A path that a person gave.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.around.folder.join(path)
    }

    /// How tables and plans look.
    pub(crate) fn style(&self, show_all: bool) -> Style {
        self.console.style(&self.global, self.around.get("NO_COLOR").is_some(), show_all)
    }

    /// The moment.
    #[expect(clippy::disallowed_methods, reason = "the moment is read here and given to the pure rooms")]
    pub(crate) fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| d.as_secs()))
    }

    /// The state folder of a fleet.
    pub(crate) fn state_dir(&self, fleet: &Name) -> Result<PathBuf, Failure> {
        if let Some(folder) = &self.global.state_dir {
            return Ok(self.path(folder));
        }
        if self.around.root {
            return Ok(Path::new("/var/lib/stablehand").join(fleet.as_str()));
        }
        let base = match (self.around.get("XDG_STATE_HOME"), self.around.get("HOME")) {
            (Some(state), _) => PathBuf::from(state),
            (None, Some(home)) => Path::new(home).join(".local/state"),
            (None, None) => {
                return Err(Failure::new("there is no place for the state folder").hint("set HOME, or use --state-dir"));
            }
        };
        Ok(base.join("stablehand").join(fleet.as_str()))
    }

    /// The store of a fleet.
    pub(crate) fn store(&self, fleet: &Name) -> Result<Arc<Store>, Failure> {
        if let Some(inside) = &self.inside {
            return inside.of(fleet).map(|inside| inside.store.clone());
        }
        Ok(Arc::new(Store::open(&self.state_dir(fleet)?)?))
    }

    /// Reads a file that a person named.
    #[expect(clippy::disallowed_methods, reason = "files that a person names on the command line")]
    pub(crate) fn read(&self, path: &Path) -> Result<String, Failure> {
        let full = self.path(path);
        std::fs::read_to_string(&full).map_err(|e| Failure::caused(format!("cannot read `{}`", path.display()), &e))
    }

    /// Removes a file beside one that a person named, if it is there.
    #[expect(clippy::disallowed_methods, reason = "files that a person names on the command line")]
    pub(crate) fn remove(&self, path: &Path) -> Result<(), Failure> {
        match std::fs::remove_file(self.path(path)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::caused(format!("cannot remove `{}`", path.display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// Writes a file that a person named, whole or not at all.
    #[expect(clippy::disallowed_methods, reason = "files that a person names on the command line")]
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let full = self.path(path);
        let folder = full.parent().unwrap_or(Path::new("."));
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.persist(&full).map(drop).map_err(|e| e.error)
        };
        write().map_err(|e: std::io::Error| Failure::caused(format!("cannot write `{}`", path.display()), &e))
    }
}

/// A path without links and dots, where it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
