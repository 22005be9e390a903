//! The loop: waits for hints, time and signals, asks the machine, does what it says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::machine::{Command, Event, Found, Machine, Notice, PassEnd};
use crate::execute::StopFlag;
use crate::observe::Boxed;

/// What the loop drives.
pub trait Work: Send + Sync + 'static {
    /// A revision that is known to be good before the first read.
    fn known(&self) -> Option<String>;
    /// Reads and validates the desired state. Called on a thread that may block.
    fn read(&self) -> Found;
    /// Runs a pass for the revision that [`Self::read`] last called good; looks at `stop` between steps.
    fn pass(self: Arc<Self>, revision: String, stop: Arc<StopFlag>) -> Boxed<'static, PassEnd>;
    /// Tells people.
    fn say(&self, notice: &Notice);
    /// Ends when something was asked that waits for nothing; by default never.
    fn urgent(&self) -> Boxed<'_, ()> {
        Box::pin(std::future::pending())
    }
    /// Ends when something has happened on a host since the last time it ended; by default never.
    fn stirred(&self) -> Boxed<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// How often to look.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Between passes when nothing is heard (default 30 s).
    pub resync: Duration,
    /// Quiet wanted after a hint (default 300 ms).
    pub debounce: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { resync: Duration::from_secs(30), debounce: Duration::from_millis(300) }
    }
}

/// What is followed for hints.
#[derive(Clone, Debug)]
pub enum Followed {
    /// Every file below a folder.
    Folder(PathBuf),
    /// The references of a Git repository (its `.git`, or the bare repository).
    References(PathBuf),
}

/// Why the loop could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Signals could not be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT: then the pass stops between steps; a second signal ends at once.
///
/// # Errors
/// [`WatchError`] when the process cannot hear signals. A folder that cannot be followed is no error: the timer
/// still looks.
pub async fn run<W: Work>(work: Arc<W>, followed: Followed, rhythm: Rhythm) -> Result<(), WatchError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(WatchError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(WatchError::Signals)?;
    let (events, mut inbox) = unbounded_channel();
    let start = Instant::now();
    let now = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let machine = Machine::new(millis(rhythm.resync), millis(rhythm.debounce));
    let mut machine = machine.healing(work.known());
    let mut ears = follow(&followed, &events);
    let mut stop = Arc::new(StopFlag::default());
    let _listening = Listening(tokio::spawn(listen(work.clone(), events.clone())));
    loop {
        let event = next(&machine, now(), &mut inbox, &mut terminate, &mut interrupt).await;
        // Removing the followed folder ends the listening; the next timer listens again.
        if matches!(event, Event::Tick) && ears.as_ref().is_none_or(|e| !e.is_alive()) {
            ears = follow(&followed, &events);
        }
        for command in machine.on(now(), event) {
            match command {
                Command::Read => {
                    let (work, events) = (work.clone(), events.clone());
                    tokio::task::spawn_blocking(move || events.send(Event::Read(work.read())));
                }
                Command::StartPass { revision } => {
                    stop = Arc::new(StopFlag::default());
                    let (pass, events) = (work.clone().pass(revision.clone(), stop.clone()), events.clone());
                    tokio::spawn(guarded(pass, revision, events));
                }
                Command::StopPass => stop.raise(),
                Command::Say(notice) => work.say(&notice),
                Command::Exit => return Ok(()),
            }
        }
    }
}

/// Passes on that hosts have stirred, and what is urgent, as long as anybody wants to know.
async fn listen<W: Work>(work: Arc<W>, events: UnboundedSender<Event>) {
    loop {
        let event = tokio::select! {
            () = work.stirred() => Event::Stirred,
            () = work.urgent() => Event::Urgent,
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// Ends a task when it is dropped.
struct Listening(tokio::task::JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a pass; one that panics has failed, and the loop goes on.
async fn guarded(pass: Boxed<'static, PassEnd>, revision: String, events: UnboundedSender<Event>) {
    let lost = PassEnd { revision, effects: String::new(), outcome: super::machine::Outcome::Failed, next: None };
    let end = tokio::spawn(pass).await.unwrap_or(lost);
    let _ = events.send(Event::PassEnded(end));
}

/// The next event: a signal, something heard, or the time the machine asked for.
async fn next(
    machine: &Machine,
    now: u64,
    inbox: &mut UnboundedReceiver<Event>,
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) -> Event {
    let wait = machine.wake().map(|at| Duration::from_millis(at.saturating_sub(now)));
    let alarm = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => Event::Stop,
        _ = interrupt.recv() => Event::Stop,
        Some(event) = inbox.recv() => event,
        () = alarm => Event::Tick,
    }
}

/// A running listener.
struct Ears {
    _watcher: notify::RecommendedWatcher,
    root: PathBuf,
    inode: Option<u64>,
}

impl Ears {
    /// Whether the folder that is listened to is still the one at that path.
    fn is_alive(&self) -> bool {
        inode(&self.root).is_some() && inode(&self.root) == self.inode
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|m| m.ino())
}

/// Listens for changes. Reading a file is an event too ([`EventKind::Access`]): listening to our own reads would
/// never end.
fn follow(followed: &Followed, events: &UnboundedSender<Event>) -> Option<Ears> {
    let (root, references) = match followed {
        Followed::Folder(root) => (root.clone(), false),
        Followed::References(root) => (root.clone(), true),
    };
    let (sender, base) = (events.clone(), root.clone());
    let hear = move |event: notify::Result<notify::Event>| {
        let matters = match &event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
            Ok(event) => event.paths.is_empty() || event.paths.iter().any(|path| concerns(&base, path, references)),
            // Overflow or worse: something was lost, so look.
            Err(_) => true,
        };
        if matters {
            let _ = sender.send(Event::Hint);
        }
    };
    let inode = inode(&root);
    let mut watcher = notify::recommended_watcher(hear).ok()?;
    watcher.watch(&root, RecursiveMode::Recursive).ok()?;
    Some(Ears { _watcher: watcher, root, inode })
}

/// Whether a change of `path` can change the desired state.
fn concerns(base: &Path, path: &Path, references: bool) -> bool {
    let Ok(inside) = path.strip_prefix(base) else { return true };
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    match first.as_deref() {
        Some("refs" | "packed-refs" | "HEAD") => true,
        Some(".git") => references,
        _ => !references,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::machine::Outcome;
    use std::sync::Mutex;

    /// Reads one file; a pass notes what it was for.
    struct Notes {
        file: PathBuf,
        passes: Mutex<Vec<String>>,
        done: tokio::sync::Notify,
    }
    impl Work for Notes {
        fn known(&self) -> Option<String> {
            None
        }
        fn read(&self) -> Found {
            let revision = std::fs::read_to_string(&self.file).unwrap_or_default();
            if revision.starts_with("bad") {
                Found::Bad { revision, why: "bad".into() }
            } else {
                Found::Good { revision }
            }
        }
        fn pass(self: Arc<Self>, revision: String, _: Arc<StopFlag>) -> Boxed<'static, PassEnd> {
            Box::pin(async move {
                self.passes.lock().unwrap().push(revision.clone());
                self.done.notify_one();
                PassEnd { revision, effects: String::new(), outcome: Outcome::Settled, next: None }
            })
        }
        fn say(&self, _: &Notice) {}
    }

    #[tokio::test]
    async fn a_changed_file_leads_to_a_pass_long_before_the_timer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "one").unwrap();
        let notes = Arc::new(Notes { file: file.clone(), passes: Mutex::default(), done: tokio::sync::Notify::new() });
        let rhythm = Rhythm { resync: Duration::from_secs(600), debounce: Duration::from_millis(20) };
        let task = tokio::spawn(run(notes.clone(), Followed::Folder(folder.path().to_owned()), rhythm));
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, notes.done.notified()).await.unwrap();
        std::fs::write(&file, "two").unwrap();
        tokio::time::timeout(limit, notes.done.notified()).await.unwrap();
        task.abort();
        assert_eq!(*notes.passes.lock().unwrap(), ["one", "two"]);
    }

    #[test]
    fn git_s_own_files_are_no_change_of_a_folder() {
        let base = Path::new("/f");
        assert!(!concerns(base, Path::new("/f/.git/index.lock"), false));
        assert!(concerns(base, Path::new("/f/web.yaml"), false));
        assert!(concerns(base, Path::new("/f/refs/heads/main"), true));
        assert!(!concerns(base, Path::new("/f/objects/ab/cd"), true));
    }
}
