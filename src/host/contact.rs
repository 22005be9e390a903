//! Whether a host is there, one way or the other: a host that is away keeps nobody waiting for long.
//!
//! ```text
//!   untried ──look: waits its whole time──▶ open ◀───────────┐
//!                 │                          │ a look failed │ it answers: whoever watches is stirred
//!                 └────── no answer ───────▶ shut ────────────┘
//!                                       tried again by itself; a look waits GRACE
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::libvirt::{Hypervisor, PING};
use super::shell::{Program, Shell, ShellError, succeed};
use crate::observe::Boxed;

/// How long a host may take to answer at all, when it was not seen to be away.
pub(super) const CONTACT: Duration = Duration::from_secs(15);

/// How long a look waits for a host whose last look failed.
const GRACE: Duration = Duration::from_secs(1);

/// The first pause between two tries, which doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause between two tries of a shell.
const SHELL_PAUSE: Duration = Duration::from_secs(4);

/// While a host is looked at, how often it is asked whether it is still there, and how long it may take to say so.
const BEAT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(9);

/// One try; what it says when there is no answer. It ends by itself, some time.
pub(super) type Knock = Arc<dyn Fn() -> Boxed<'static, Result<(), String>> + Send + Sync>;

/// What is known of a way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, or that it was open.
    Open,
    /// It is tried again by itself. What the last try said.
    Shut(String),
}

/// A way to a host: its libvirt, or its shell.
pub(super) struct Door {
    state: watch::Sender<State>,
    knock: Knock,
    /// The longest pause between two tries.
    longest: Duration,
    /// Called when it is open again.
    stirred: Arc<dyn Fn() + Send + Sync>,
}

impl Door {
    pub(super) fn new(knock: Knock, longest: Duration, stirred: Arc<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(State::Open), knock, longest, stirred })
    }

    /// Whether the last look failed, and nothing was heard since.
    pub(super) fn is_shut(&self) -> bool {
        matches!(*self.state.borrow(), State::Shut(_))
    }

    /// Sees whether the host answers this way: up to [`CONTACT`], or [`GRACE`] while it is known to be away.
    ///
    /// # Errors
    /// What the last try said.
    pub(super) async fn pass(self: &Arc<Self>, silent: impl FnOnce() -> String) -> Result<(), String> {
        self.not_shut().await?;
        let tried = tokio::time::timeout(CONTACT, (self.knock)()).await;
        let tried = tried.unwrap_or_else(|_| Err(silent()));
        tried.inspect_err(|text| self.shut(text))
    }

    /// Waits [`GRACE`] for a door that is shut.
    ///
    /// # Errors
    /// What the last try said.
    pub(super) async fn not_shut(&self) -> Result<(), String> {
        let mut state = self.state.subscribe();
        let open = tokio::time::timeout(GRACE, state.wait_for(|s| *s == State::Open)).await;
        if matches!(open, Ok(Ok(_))) {
            return Ok(());
        }
        drop(open);
        match &*self.state.borrow() {
            State::Open => Ok(()),
            State::Shut(text) => Err(text.clone()),
        }
    }

    /// The host did not answer this way: it is tried again until it does, or until nobody has this door any more.
    pub(super) fn shut(self: &Arc<Self>, text: &str) {
        let was = self.state.send_replace(State::Shut(text.to_owned()));
        if was != State::Open {
            return;
        }
        let door = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                let Some(knock) = door.upgrade().map(|d| d.knock.clone()) else { return };
                let answer = knock().await;
                let Some(door) = door.upgrade() else { return };
                match answer {
                    Ok(()) => {
                        door.state.send_replace(State::Open);
                        (door.stirred)();
                        return;
                    }
                    Err(text) => {
                        door.state.send_replace(State::Shut(text));
                    }
                }
                pause = (pause * 2).min(door.longest);
            }
        });
    }
}

/// Both ways to a host. One that is this machine is always open.
pub(super) struct Doors {
    pub(super) libvirt: Arc<Door>,
    pub(super) shell: Arc<Door>,
}

impl Doors {
    pub(super) fn of(
        hypervisor: &Arc<Hypervisor>,
        shell: &Arc<dyn Shell>,
        stirred: &Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (hypervisor, shell) = (hypervisor.clone(), shell.clone());
        let by_libvirt: Knock = Arc::new(move || {
            let hypervisor = hypervisor.clone();
            Box::pin(async move { hypervisor.ping().await.map_err(|e| e.to_string()) })
        });
        let by_shell: Knock = Arc::new(move || {
            let shell = shell.clone();
            Box::pin(async move {
                let asked = succeed(shell.as_ref(), Program::new(["true"]).limit(PING)).await;
                asked.map(drop).map_err(|e| e.to_string())
            })
        });
        Self {
            // It is tried only as often as the connection lets itself be opened.
            libvirt: Door::new(by_libvirt, PAUSE, stirred.clone()),
            shell: Door::new(by_shell, SHELL_PAUSE, stirred.clone()),
        }
    }
}

/// Does what a shell is needed for, within [`CONTACT`]; a shell that does not answer is away from then on.
///
/// # Errors
/// In words, also while it is known to be away.
pub(super) async fn by_shell<T>(
    door: &Arc<Door>,
    silent: impl FnOnce() -> String,
    work: impl Future<Output = Result<T, ShellError>>,
) -> Result<T, String> {
    door.not_shut().await?;
    match tokio::time::timeout(CONTACT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let text = error.to_string();
            // Whatever else it is, the shell said it.
            if error.is_unknown() {
                door.shut(&text);
            }
            Err(text)
        }
        Err(_) => {
            let text = silent();
            door.shut(&text);
            Err(text)
        }
    }
}

/// Does a long piece of work at a host, for as long as its libvirt answers.
///
/// # Errors
/// Those of the work; that the host does not answer any more, at most [`BEAT`] and [`ANSWER`] after it was cut off.
pub(super) async fn while_it_answers<T>(
    door: &Arc<Door>,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let silence = async {
        loop {
            tokio::time::sleep(BEAT).await;
            match tokio::time::timeout(ANSWER, (door.knock)()).await {
                Ok(Ok(())) => {}
                Ok(Err(text)) => return text,
                Err(_) => return format!("it was cut off in the middle: no answer after {} s", ANSWER.as_secs()),
            }
        }
    };
    tokio::select! {
        done = work => done,
        text = silence => {
            door.shut(&text);
            Err(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    /// A host that answers when it is told to, and else after `slow` not.
    struct Fake {
        there: AtomicBool,
        tries: AtomicUsize,
        stirred: AtomicUsize,
    }

    fn fake(slow: Duration) -> (Arc<Fake>, Arc<Door>) {
        let there = AtomicBool::new(false);
        let fake = Arc::new(Fake { there, tries: AtomicUsize::new(0), stirred: AtomicUsize::new(0) });
        let (knocked, heard) = (fake.clone(), fake.clone());
        let knock: Knock = Arc::new(move || {
            let host = knocked.clone();
            Box::pin(async move {
                let number = host.tries.fetch_add(1, Ordering::Relaxed) + 1;
                if host.there.load(Ordering::Relaxed) {
                    return Ok(());
                }
                tokio::time::sleep(slow).await;
                Err(format!("try {number}"))
            })
        });
        let stirred = move || {
            heard.stirred.fetch_add(1, Ordering::Relaxed);
        };
        (fake, Door::new(knock, Duration::from_secs(1), Arc::new(stirred)))
    }

    #[tokio::test]
    async fn only_the_first_look_at_a_host_that_is_away_takes_long() {
        let (fake, door) = fake(Duration::from_secs(2));
        let began = Instant::now();
        assert_eq!(door.pass(String::new).await, Err("try 1".to_owned()));
        assert!(began.elapsed() >= Duration::from_secs(2) && door.is_shut());
        let began = Instant::now();
        assert_eq!(door.pass(String::new).await, Err("try 1".to_owned()));
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        // Two looks, one attempt after the first: looks make none of their own.
        assert!(fake.tries.load(Ordering::Relaxed) <= 2);
        assert_eq!(fake.stirred.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_host_that_is_back_is_heard_of_and_seen_at_once() {
        let (fake, door) = fake(Duration::from_millis(10));
        assert!(door.pass(String::new).await.is_err());
        fake.there.store(true, Ordering::Relaxed);
        // In the middle of a look's grace.
        assert_eq!(door.pass(String::new).await, Ok(()));
        assert_eq!(fake.stirred.load(Ordering::Relaxed), 1);
        let began = Instant::now();
        assert_eq!(door.pass(String::new).await, Ok(()));
        assert!(began.elapsed() < Duration::from_millis(500));
        // Away again, and back again.
        fake.there.store(false, Ordering::Relaxed);
        assert!(door.pass(String::new).await.is_err());
        fake.there.store(true, Ordering::Relaxed);
        assert_eq!(door.pass(String::new).await, Ok(()));
        assert_eq!(fake.stirred.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_look_ends_when_its_host_is_cut_off_in_the_middle() {
        let (fake, door) = fake(Duration::from_millis(10));
        let began = Instant::now();
        let looked: Result<(), String> = while_it_answers(&door, std::future::pending()).await;
        assert_eq!(looked, Err("try 1".to_owned()));
        assert!(began.elapsed() < BEAT + Duration::from_secs(2) && door.is_shut());
        fake.there.store(true, Ordering::Relaxed);
        assert_eq!(while_it_answers(&door, async { Ok(1) }).await, Ok(1));
    }

    #[tokio::test]
    async fn a_shell_that_complains_is_there() {
        let (_, door) = fake(Duration::from_millis(1));
        let complaint = ShellError::NoProgram("stat".to_owned());
        assert!(by_shell::<()>(&door, String::new, async { Err(complaint) }).await.is_err());
        assert!(!door.is_shut());
        let lost = ShellError::Lost { target: "ssh h1".to_owned(), text: "no route".to_owned() };
        assert!(by_shell::<()>(&door, String::new, async { Err(lost) }).await.is_err());
        assert!(door.is_shut());
        let unasked = by_shell(&door, String::new, async { Ok(()) }).await;
        assert_eq!(unasked, Err("try 1".to_owned()), "what its last try said");
    }

    #[tokio::test]
    async fn nobody_knocks_at_a_door_that_is_gone() {
        let (fake, door) = fake(Duration::from_millis(1));
        assert!(door.pass(String::new).await.is_err());
        drop(door);
        tokio::time::sleep(Duration::from_millis(600)).await;
        let tries = fake.tries.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(fake.tries.load(Ordering::Relaxed), tries);
    }
}
