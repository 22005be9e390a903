//! Progress of an apply: bars on a terminal, plain lines elsewhere; and how long boots took, for later plans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::execute::{Done, Event, Listener, Outcome};
use crate::model::{Bytes, Desired, Name, PastMove};
use crate::plan::{Action, ActionId, Op};
use crate::render::{self, StepRow};
use crate::store::{self, Store};

use super::console::Console;
use super::context::Context;

/// The steps that this process carries out now: what `status` shows of them, asked over the control socket.
#[derive(Default)]
pub(crate) struct Board(Mutex<BTreeMap<ActionId, StepRow>>);

impl Board {
    /// The steps, by action.
    pub(crate) fn rows(&self) -> Vec<StepRow> {
        self.lock().values().cloned().collect()
    }
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ActionId, StepRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows and notes what happens.
pub(crate) struct Teller {
    board: Arc<Board>,
    console: Arc<Console>,
    store: Arc<Store>,
    images: BTreeMap<Name, String>,
    who: String,
    fatal: Option<u32>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Changes made so far, for [`Teller::fate`].
    changes: u32,
    all: Option<MultiProgress>,
    bars: BTreeMap<ActionId, ProgressBar>,
    /// When a plain line was last said of how far a step is, and which tenth it was then.
    told: BTreeMap<ActionId, (Instant, u64)>,
    started: BTreeMap<ActionId, Instant>,
}

/// Between two plain lines about one step: a log is no progress bar.
const TELL: Duration = Duration::from_secs(5);

/// What a step does, in a few words.
fn words(action: &Action, step: usize) -> String {
    action.steps.get(step).map(|s| s.op.describe()).unwrap_or_default()
}

impl Teller {
    /// Tells on this console; notes boots and the audit log in this store.
    pub(crate) fn new(
        console: Arc<Console>,
        store: Arc<Store>,
        desired: &Desired,
        who: String,
        board: Arc<Board>,
    ) -> Self {
        let digest = |vm: &crate::model::Vm| {
            let image = desired.images.get(vm.spec.image.as_ref()?)?;
            Some((vm.name.clone(), image.disk.digest.as_str().to_owned()))
        };
        let images = desired.vms.values().filter_map(digest).collect();
        let all = console.bars.then(MultiProgress::new);
        let fatal = fatal_change();
        Self { board, console, store, images, who, fatal, state: Mutex::new(State { all, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, action: &Action, step: usize) {
        if let Some(at) = action.steps.get(step) {
            let (name, step, host) = (action.id.to_string(), at.op.describe(), at.host.clone());
            let row = StepRow { action: name, step, host, done: None, total: None, percent: None };
            self.board.lock().insert(action.id.clone(), row);
        }
        let mut state = self.state();
        state.told.insert(action.id.clone(), (now(), 0));
        if matches!(action.steps.get(step).map(|s| &s.op), Some(Op::Start { .. })) {
            state.started.insert(action.id.clone(), now());
        }
        let Some(all) = state.all.clone() else {
            drop(state);
            if step == 0 {
                self.console.note(&format!("{}: {}", action.id, render::clean(&action.reason.text)));
            }
            return;
        };
        let steps = u64::try_from(action.steps.len()).unwrap_or(1);
        let bar = state.bars.entry(action.id.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(steps));
            let style = ProgressStyle::with_template("{prefix:32!} {bar:20} {pos:>2}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(action.id.to_string());
            bar
        });
        bar.set_position(u64::try_from(step).unwrap_or(0));
        bar.set_message(words(action, step));
    }

    fn advances(&self, action: &Action, step: usize, done: u64, total: u64) {
        let Some(op) = action.steps.get(step).map(|s| &s.op) else { return };
        let percent = done.saturating_mul(100).checked_div(total).map(|p| p.min(100));
        // Milliseconds of patience: a percentage of it would look like progress of the guest.
        let waits = op.only_waits();
        let mut how_far = String::new();
        if let Some(row) = self.board.lock().get_mut(&action.id) {
            if op.carries_bytes() {
                row.done = Some(Bytes(done));
                row.total = (total > 0).then_some(Bytes(total));
            }
            row.percent = percent.filter(|_| !waits);
            how_far = row.progress();
        }
        if waits {
            how_far = format!("{}s of at most {}s", done / 1000, total / 1000);
        }
        let mut state = self.state();
        if let Some(bar) = state.bars.get(&action.id) {
            let comma = if how_far.is_empty() { "" } else { ", " };
            bar.set_message(format!("{}{comma}{how_far}", op.describe()));
        } else if op.carries_bytes() && !how_far.is_empty() {
            let tenth = percent.map_or(u64::MAX, |p| p / 10);
            let due = |(at, last): &(Instant, u64)| at.elapsed() >= TELL && (tenth == u64::MAX || tenth > *last);
            if state.told.get(&action.id).is_some_and(due) {
                state.told.insert(action.id.clone(), (now(), tenth));
                drop(state);
                self.console.note(&format!("{}: {}, {how_far}", action.id, op.describe()));
            }
        }
    }

    /// A step is done: until the next one has its turn, the bar says that it waits.
    fn pauses(&self, action: &Action, step: usize) {
        self.board.lock().remove(&action.id);
        if let Some(bar) = self.state().bars.get(&action.id) {
            bar.set_position(u64::try_from(step + 1).unwrap_or(0));
            bar.set_message("waits for its turn");
        }
    }

    /// What a step says of itself.
    fn says(&self, action: &Action, text: &str) {
        let line = format!("{}: {}", action.id, render::clean(text));
        let all = self.state().all.clone();
        match all {
            Some(all) => drop(all.println(line)),
            None => self.console.note(&line),
        }
    }

    /// A VM that moved: how long that took, and how long its guest stood still.
    fn moved(&self, action: &Action, step: usize, past: &PastMove) {
        let Some(Op::Migrate { vm, to, .. }) = action.steps.get(step).map(|s| &s.op) else { return };
        let pause = past.pause_millis.map(|p| format!(", pause {p} ms")).unwrap_or_default();
        let (seconds, tenth) = (past.millis / 1000, past.millis % 1000 / 100);
        let line = format!("{vm} moved to {to} in {seconds}.{tenth} s, {}{pause}", past.bytes);
        let all = self.state().all.clone();
        match all {
            Some(all) => drop(all.println(line)),
            None => self.console.note(&line),
        }
    }

    /// Remembers the time from start to ready, for the estimates of later plans.
    fn booted(&self, action: &Action, step: usize) {
        let Some(Op::AwaitReady { vm, .. }) = action.steps.get(step).map(|s| &s.op) else { return };
        let started = self.state().started.remove(&action.id);
        if let (Some(started), Some(image)) = (started, self.images.get(vm)) {
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Err(error) = self.store.booted(image, millis) {
                tracing::warn!("{}", error.one_line());
            }
        }
    }

    /// For the tests that kill us at each step: with `STABLEHAND_KILL_AFTER_CHANGES=N` the process dies by SIGKILL
    /// when it made its N-th change, before anything is noted of it.
    fn fate(&self) {
        let Some(fatal) = self.fatal else { return };
        let mut state = self.state();
        state.changes += 1;
        if state.changes >= fatal {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    fn over(&self, action: &Action, outcome: &Outcome) {
        let (word, text) = match outcome {
            Outcome::Done => ("done", String::new()),
            Outcome::Failed { error, .. } => ("failed", format!(": {error}")),
            _ => ("not done", String::new()),
        };
        let line = format!("{}: {word}{}", action.id, render::clean(&text));
        let (all, bar) = {
            let mut state = self.state();
            state.told.remove(&action.id);
            (state.all.clone(), state.bars.remove(&action.id))
        };
        self.board.lock().remove(&action.id);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        match all {
            Some(all) => drop(all.println(line)),
            None => self.console.note(&line),
        }
        let event = store::Event {
            at: Context::now(),
            kind: word.to_owned(),
            subject: action.id.to_string(),
            text: format!("{} ({}), by {}{text}", action.reason.text, action.cause.word(), self.who),
        };
        if let Err(error) = self.store.log(&event) {
            tracing::warn!("{}", error.one_line());
        }
    }
}

/// After how many changes the tests want us dead.
#[expect(clippy::disallowed_methods, reason = "a switch for tests, nothing that a plan depends on")]
fn fatal_change() -> Option<u32> {
    std::env::var("STABLEHAND_KILL_AFTER_CHANGES").ok()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "measures how long a boot takes")]
fn now() -> Instant {
    Instant::now()
}

impl Listener for Teller {
    fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Begins { action, step } => self.begins(action, *step),
            Event::Advances { action, step, done, total } => self.advances(action, *step, *done, *total),
            Event::Moved { action, step, past } => self.moved(action, *step, past),
            Event::Says { action, text, .. } => self.says(action, text),
            Event::Ends { action, step, result: Ok(done) } => {
                if *done == Done::Changed {
                    self.fate();
                }
                self.booted(action, *step);
                self.pauses(action, *step);
            }
            Event::Ends { .. } => {}
            Event::Over { action, outcome } => self.over(action, outcome),
        }
    }
}
