//! `watch`: the loop's work, and what it shares with the verbs that it runs for others.

mod guards;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::execute::{self, StopFlag};
use crate::model::Name;
use crate::model::stats::{self, History};
use crate::observe::Boxed;
use crate::plan::{Plan, Verb};
use crate::reconcile::{self, Approval, Passed};
use crate::render;
use crate::source::Place;
use crate::store::Store;
use crate::watch::machine::{Found, Notice, Outcome as Ended, PassEnd};
use crate::watch::socket::{self, Server};
use crate::watch::{Followed, Rhythm, Work, run};

use super::args;
use super::context::Context;
use super::failure::{Exit, Failure, Outcome};
use super::fleet::{Fleet, World};
use super::forward;
use super::progress::Board;
use super::verbs::apply::Troupe;

/// What verbs that run inside `watch` share with it.
pub(crate) struct Inside {
    /// The store.
    pub(crate) store: Arc<Store>,
    /// The hosts, as this process has them open.
    pub(crate) world: Arc<dyn World>,
    /// Where it reads the fleet from.
    pub(crate) place: Place,
    /// The fleet's name.
    pub(crate) fleet: Name,
    /// How busy hosts and VMs were in the last hour.
    pub(crate) history: Mutex<History>,
    /// Whoever acts holds this: a pass, or a verb of a client.
    pub(crate) acting: tokio::sync::Mutex<()>,
    /// What is carried out now.
    pub(crate) board: Arc<Board>,
    /// Stops the pass that runs.
    pub(crate) running: Mutex<Option<Arc<StopFlag>>>,
    /// Told when a pass is wanted that waits for nothing.
    pub(crate) urgent: Notify,
    /// Failures in a row of each guard that fails now.
    pub(crate) failing: Mutex<BTreeMap<Name, u32>>,
}

impl Inside {
    /// The statistics, for as long as it takes to look.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures in a row of each guard that fails now.
    pub(crate) fn failing(&self) -> MutexGuard<'_, BTreeMap<Name, u32>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the pass that runs, between its steps: somebody gives up what it does.
    pub(crate) fn give_up(&self) {
        if let Some(stop) = self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            stop.raise();
        }
    }

    /// This, for a verb about the same fleet.
    pub(crate) fn of(&self, fleet: &Name) -> Result<&Self, Failure> {
        if *fleet == self.fleet {
            return Ok(self);
        }
        Err(Failure::new(format!("this state folder belongs to fleet `{}`, not `{fleet}`", self.fleet))
            .hint("name another one with --state-dir"))
    }
}

/// `watch`
pub(crate) async fn watch(mut context: Context, args: &args::Watch) -> Outcome {
    let rhythm = Rhythm { resync: args.resync.duration(), debounce: args.debounce.duration() };
    // A fleet that has never been valid has no name, hence no state folder: it is waited for.
    let first = match first_good(&context).map_or_else(|| read(&context).ok(), Some) {
        Some(first) => first,
        None => match wait_for_good(&context, rhythm).await? {
            Some(first) => first,
            None => return Ok(Exit::Ok),
        },
    };
    let name = first.desired.fleet.name.clone();
    let folder = context.state_dir(&name)?;
    let store = context.store(&name)?;
    let world = context.world(&first.desired)?;
    let server = Server::listen(&folder).map_err(|e| {
        Failure::caused(format!("cannot serve other verbs in `{}`", folder.display()), &e)
            .hint("stop the other watch, or give this one another --state-dir")
    })?;
    for left in store.unfinished()? {
        let (what, when) = (render::clean(&left.what), render::moment(left.began));
        context.console.note(&format!("`{what}` of {} was begun at {when} and not ended: looking again", left.action));
    }
    store.close_unfinished()?;
    let inside = Arc::new(Inside {
        store,
        world,
        place: context.place(None),
        fleet: name.clone(),
        history: Mutex::default(),
        acting: tokio::sync::Mutex::new(()),
        board: Arc::default(),
        running: Mutex::new(None),
        urgent: Notify::new(),
        failing: Mutex::default(),
    });
    context.inside = Some(inside.clone());
    let followed = followed(&context);
    let what = context.global.rev.as_ref().map(|rev| format!("{rev} in ")).unwrap_or_default();
    let socket = folder.join(socket::FILE);
    context.console.note(&format!(
        "watching {what}{} (fleet {name}); other verbs are served at {}",
        context.global.fleet.display(),
        socket.display()
    ));
    let serving = tokio::spawn(forward::serve(server, inside, context.around.clone()));
    let work = Arc::new(Watching {
        context,
        good: Mutex::new(Arc::new(first)),
        said: Mutex::default(),
        warned: Mutex::default(),
    });
    let counting = tokio::spawn(keep_statistics(work.clone()));
    let guarding = tokio::spawn(guards::keep(work.clone()));
    let result = run(work, followed, rhythm).await;
    counting.abort();
    guarding.abort();
    serving.abort();
    // Waited for, so that the socket's file is gone when the process is.
    let _ = serving.await;
    result.map(|()| Exit::Ok).map_err(|e| Failure::caused("the watch ended", &e))
}

/// Reads the counters of all hosts every [`stats::EVERY`] seconds. A store that cannot keep their means is said by those
/// that keep more important things in it.
async fn keep_statistics(work: Arc<Watching>) {
    let mut times = tokio::time::interval(std::time::Duration::from_secs(stats::EVERY));
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let Some(inside) = &work.context.inside else { return };
        let read = inside.world.statistics(&work.good().desired).await;
        let now = Context::now();
        let means = inside.history().add(now, read);
        if !means.is_empty() {
            let (keeper, means) = (inside.clone(), means);
            let kept = tokio::task::spawn_blocking(move || keeper.store.keep_means(&means, now)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!("statistics are not kept: {error}");
            }
        }
    }
}

/// Ancestors of a bad commit that are tried for a good one.
const ANCESTORS: u32 = 20;

/// The newest commit of a followed branch that is valid: what is kept healthy beside a bad one.
fn first_good(context: &Context) -> Option<Fleet> {
    let branch = context.global.rev.as_deref()?;
    (0..=ANCESTORS).find_map(|n| {
        let snapshot = context.snapshot(Some(&format!("{branch}~{n}"))).ok()?;
        let desired = crate::config::load(&snapshot).ok()?.desired;
        Some(Fleet { desired, snapshot })
    })
}

/// Reads and validates the fleet, or says what is wrong with it.
fn read(context: &Context) -> Result<Fleet, Found> {
    let snapshot = context
        .snapshot(None)
        .map_err(|failure| Found::Bad { revision: "(unreadable)".to_owned(), why: failure.render() })?;
    match crate::config::load(&snapshot) {
        Ok(loaded) => Ok(Fleet { desired: loaded.desired, snapshot }),
        Err(diagnostics) => {
            let why = crate::config::diagnostic::text(&diagnostics);
            Err(Found::Bad { revision: snapshot.revision, why })
        }
    }
}

/// Says what is wrong and waits until the fleet is valid; `None`: asked to end before it was.
async fn wait_for_good(context: &Context, rhythm: Rhythm) -> Result<Option<Fleet>, Failure> {
    let work = Arc::new(Waiting { context: context.clone(), first: Mutex::new(None), is_there: Notify::new() });
    tokio::select! {
        ended = run(work.clone(), followed(context), rhythm) => {
            return ended.map(|()| None).map_err(|e| Failure::caused("the watch ended", &e));
        }
        () = work.is_there.notified() => {}
    }
    Ok(work.first.lock().unwrap_or_else(PoisonError::into_inner).take())
}

/// The loop's work before anything valid was seen: only to look.
struct Waiting {
    context: Context,
    first: Mutex<Option<Fleet>>,
    is_there: Notify,
}

impl Work for Waiting {
    fn known(&self) -> Option<String> {
        None
    }
    fn read(&self) -> Found {
        match read(&self.context) {
            Ok(fleet) => {
                let revision = fleet.desired.revision.clone();
                *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(fleet);
                Found::Good { revision }
            }
            Err(bad) => bad,
        }
    }
    fn pass(self: Arc<Self>, revision: String, _: Arc<StopFlag>) -> Boxed<'static, PassEnd> {
        Box::pin(async move {
            self.is_there.notify_one();
            PassEnd { revision, effects: String::new(), outcome: Ended::Settled, next: None }
        })
    }
    fn say(&self, notice: &Notice) {
        say(&self.context, notice);
    }
}

/// The folder, or the references of its repository.
fn followed(context: &Context) -> Followed {
    let folder = context.path(&context.global.fleet);
    if context.global.rev.is_none() {
        return Followed::Folder(folder);
    }
    let repository = git2::Repository::discover(&folder).ok();
    Followed::References(repository.map_or(folder, |r| PathBuf::from(r.commondir())))
}

/// The loop's work.
struct Watching {
    context: Context,
    good: Mutex<Arc<Fleet>>,
    /// What was said last of a pass: a state that stays is said once.
    said: Mutex<String>,
    /// Leases of which it was said that they end soon.
    warned: Mutex<BTreeSet<String>>,
}

impl Watching {
    fn good(&self) -> Arc<Fleet> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn one_pass(&self, fleet: &Fleet, stop: Arc<StopFlag>) -> Result<Passed, Failure> {
        let _acting = self.context.acting().await;
        if let Some(inside) = &self.context.inside {
            *inside.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop.clone());
        }
        let troupe = Troupe::of(&self.context, fleet, stop)?;
        let pass = reconcile::apply(&troupe.cast(), &fleet.desired, None, &Approval::Unattended).await;
        pass.map_err(Failure::new)
    }

    /// Says what a pass did.
    fn tell(&self, passed: &Passed) {
        let style = self.context.style(false);
        let text = match &passed.held {
            Some((host, error)) => {
                format!("nothing was done on host `{host}`: {}\n", render::clean(&error.to_string()))
            }
            None if passed.rounds.iter().all(|(plan, _)| plan.is_empty()) => render::text(&passed.left, &style),
            None => render::report_text(&passed.rounds, Some(&passed.left), &style),
        };
        match &passed.held {
            Some(_) => self.once(text),
            // How far a move is, and how long until a next try, is no news at every look: `status` shows it.
            None => self.unless_known(matter(passed), &text),
        }
    }

    /// Says of each lease that it ends soon; once for each end.
    fn warn(&self, plan: &Plan) {
        let ending: BTreeSet<String> = render::ending(plan).into_iter().collect();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for line in ending.difference(&warned) {
            self.context.console.note(&render::clean(line));
        }
        *warned = ending;
    }

    fn once(&self, text: String) {
        self.unless_known(Some(text.clone()), &text);
    }

    /// Says a text, unless it is of the same matter as the last one.
    fn unless_known(&self, matter: Option<String>, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if matter.as_ref() != Some(&*said) {
            self.context.console.err(text);
            *said = matter.unwrap_or_default();
        }
    }
}

/// What a pass that did nothing found, without what only counts: percentages, bytes and times. `None`: it did something.
fn matter(passed: &Passed) -> Option<String> {
    let idle = |(_, outcome): &(_, execute::Outcome)| {
        matches!(outcome, execute::Outcome::Blocked | execute::Outcome::NotApproved | execute::Outcome::Waits(_))
    };
    if !passed.rounds.iter().all(|(_, report)| report.outcomes.iter().all(idle)) {
        return None;
    }
    let left = &passed.left;
    let mut lines = vec![format!("{} {}", left.head, left.unchanged)];
    for action in &left.actions {
        let blocked = action.blocked.iter().map(|block| uncounted(&block.text));
        lines.push(format!("{} {}", action.id, blocked.collect::<Vec<_>>().join("; ")));
    }
    lines.extend(left.notes.iter().map(|note| format!("{} {:?} {}", note.subject, note.kind, uncounted(&note.text))));
    lines.extend(left.risks.iter().map(|risk| format!("{} {}", risk.code, risk.subject)));
    Some(lines.join("\n"))
}

/// A sentence without its quantities: words that begin with a digit, and the units behind them.
fn uncounted(text: &str) -> String {
    let units = ["%", "B", "KiB", "MiB", "GiB", "TiB", "s", "ms", "min", "h", "d"];
    let bare = |word: &str| word.trim_end_matches([',', ';', ':', '.']).to_owned();
    let counts = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) || units.contains(&&*bare(word));
    text.split_whitespace().filter(|word| !counts(word)).collect::<Vec<_>>().join(" ")
}

/// Whether a pass did anything that is better done more slowly when it breaks over and over. Filters are not: while one is
/// away, everybody reaches everybody.
fn mended(passed: &Passed) -> bool {
    passed.rounds.iter().any(|(plan, report)| {
        let filters = |id| plan.action(id).is_some_and(|a| matches!(a.verb, Verb::Filter | Verb::Close));
        report.outcomes.iter().any(|(id, outcome)| *outcome == execute::Outcome::Done && !filters(id))
    })
}

impl Work for Watching {
    fn known(&self) -> Option<String> {
        Some(self.good().desired.revision.clone())
    }

    fn read(&self) -> Found {
        let fleet = match read(&self.context) {
            Ok(fleet) => fleet,
            Err(bad) => return bad,
        };
        let revision = fleet.desired.revision.clone();
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (&good.desired.fleet.name, &fleet.desired.fleet.name);
        if before != now {
            let why = format!("the fleet is called `{now}` now; this watch is of `{before}`: start another one\n");
            return Found::Bad { revision, why };
        }
        *good = Arc::new(fleet);
        Found::Good { revision }
    }

    fn pass(self: Arc<Self>, revision: String, stop: Arc<StopFlag>) -> Boxed<'static, PassEnd> {
        Box::pin(async move {
            // The newest good one; `revision` says which one the machine knows of.
            let fleet = self.good();
            let result = self.one_pass(&fleet, stop.clone()).await;
            let (effects, outcome) = match &result {
                Err(failure) => {
                    self.once(failure.render());
                    (String::new(), Ended::Failed)
                }
                Ok(passed) => {
                    self.tell(passed);
                    if passed.rounds.iter().any(|(plan, _)| !plan.is_empty()) {
                        self.warn(&passed.left);
                    }
                    let failed = passed.rounds.last().is_some_and(|(_, report)| report.has_failures());
                    let outcome = match (stop.is_raised(), failed || passed.held.is_some()) {
                        (true, _) => Ended::Stopped,
                        (_, true) => Ended::Failed,
                        _ if passed.left.under_way() > 0 => Ended::GoesOn,
                        _ => Ended::Settled,
                    };
                    let effects = if failed || mended(passed) { passed.plan.effects.clone() } else { String::new() };
                    (effects, outcome)
                }
            };
            let next = result.as_ref().ok().and_then(|passed| passed.left.next);
            let next = next.map(|at| at.since(Context::now()).saturating_mul(1_000));
            PassEnd { revision, effects, outcome, next }
        })
    }

    fn say(&self, notice: &Notice) {
        say(&self.context, notice);
    }

    fn urgent(&self) -> Boxed<'_, ()> {
        match &self.context.inside {
            Some(inside) => Box::pin(inside.urgent.notified()),
            None => Box::pin(std::future::pending()),
        }
    }

    fn stirred(&self) -> Boxed<'_, ()> {
        match &self.context.inside {
            Some(inside) => inside.world.stirred(),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// Tells people what the loop has noticed.
fn say(context: &Context, notice: &Notice) {
    let console = &context.console;
    match notice {
        Notice::Revision(revision) => console.note(&format!("revision {}", render::short_revision(revision))),
        Notice::Bad { revision, why, healing } => {
            console.err(why);
            let healing = healing.as_deref().map_or_else(
                || "waiting for one that is valid".to_owned(),
                |good| format!("{} is kept healthy meanwhile", render::short_revision(good)),
            );
            console.note(&format!("revision {} is not used: {healing}", render::short_revision(revision)));
        }
        Notice::BackOff { wait, tries } => {
            let wait = crate::model::Span(*wait);
            console.note(&format!("failed ({tries} in a row): again in {wait}, or when the fleet changes"));
        }
        Notice::Mended { wait, times } => {
            let wait = crate::model::Span(*wait);
            console.note(&format!("the same was mended {times} times, so it keeps breaking: next look in {wait}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::uncounted;

    #[test]
    fn how_far_something_is_makes_no_other_sentence_of_it() {
        let at = |percent: u32, gib: &str| uncounted(&format!("moves to h2: {percent} %, {gib} of 2.9 GiB"));
        assert_eq!(at(45, "1.3"), at(46, "1.4"));
        assert_ne!(at(45, "1.3"), uncounted("moves to h3: 45 %, 1.3 of 2.9 GiB"));
        assert_eq!(uncounted("it is tried again in 59 min"), uncounted("it is tried again in 3 min"));
        assert_ne!(uncounted("no slots left"), uncounted("no memory left"));
    }
}
