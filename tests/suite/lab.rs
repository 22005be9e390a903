//! Helpers of the tests that plan: fleets from texts and folders, on simulated hosts.

use std::fs;
use std::path::{Path, PathBuf};

use stablehand::config;
use stablehand::execute::Outcome;
use stablehand::model::{Desired, Snapshot};
use stablehand::plan::{Plan, Verb, check};
use stablehand::reconcile::Approval;
use stablehand::sim::{Applied, Session};

/// A folder below `tests/cases`.
pub fn cases(room: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(room);
    let entries = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path());
    // `CASE=word cargo test` runs only the cases with that word in their name.
    let only = std::env::var("CASE").unwrap_or_default();
    let is_case = |p: &PathBuf| p.is_dir() && !name(p).starts_with('_') && name(p).contains(&only);
    let mut folders: Vec<_> = entries.filter(is_case).collect();
    folders.sort();
    folders
}

pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Desired state from texts, or every diagnostic in the panic.
#[track_caller]
pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Desired {
    load_snapshot(&Snapshot::of_texts(files))
}

#[track_caller]
pub fn load_snapshot(snapshot: &Snapshot) -> Desired {
    match config::load(snapshot) {
        Ok(loaded) => loaded.desired,
        Err(found) => panic!("{}", config::diagnostic::text(&found)),
    }
}

/// A sound plan.
#[track_caller]
pub fn plan(session: &Session) -> Plan {
    let plan = session.plan().unwrap();
    let wrong = check::check(&plan);
    assert!(wrong.is_empty(), "the plan is not sound:\n{}\n{}", wrong.join("\n"), text(&plan));
    plan
}

pub fn text(plan: &Plan) -> String {
    stablehand::render::text(plan, &stablehand::render::Style::stable())
}

pub fn blocked(plan: &Plan) -> Vec<String> {
    plan.actions.iter().filter(|a| a.is_blocked()).map(|a| a.id.to_string()).collect()
}

pub fn open(plan: &Plan) -> Vec<String> {
    plan.actions.iter().filter(|a| !a.is_blocked()).map(|a| a.id.to_string()).collect()
}

/// Whether a host is fenced: what it blocks is open afterwards.
pub fn fences(plan: &Plan) -> bool {
    plan.actions.iter().any(|a| a.verb == Verb::Fence && !a.is_blocked())
}

/// One pass; every action must be done in one round and every promise kept.
#[track_caller]
pub fn apply(session: &mut Session) -> Applied {
    let applied = session.apply(&Approval::Everything).unwrap();
    let failed: Vec<_> = applied.outcomes().filter(|(_, o)| *o != Outcome::Done).collect();
    assert!(applied.is_complete(), "not done: {failed:#?} {:?}\n{}", applied.held(), text(&applied.passed.plan));
    // What ran on a host that was fenced is made elsewhere in a round of its own.
    let rounds = if fences(&applied.passed.plan) { 2 } else { 1 };
    assert_eq!(applied.passed.rounds.len(), rounds, "so many rounds are enough");
    kept(session);
    applied
}

/// Every promise was kept.
#[track_caller]
pub fn kept(session: &Session) {
    let broken = session.fleet.with(|world| world.violations.clone());
    assert!(broken.is_empty(), "promises were broken:\n{}", broken.join("\n"));
}

/// Runs each case and says which failed. A case with a file `open` is a promise that is not kept yet, and why: it is
/// known to fail, and fails here on the day it does not.
pub fn each_case(room: &str, run: impl Fn(&Path)) {
    each(cases(room), run);
}

/// As [`each_case`], for some of them.
pub fn each(folders: Vec<PathBuf>, run: impl Fn(&Path)) {
    let mut failed = Vec::new();
    for folder in folders {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&folder)));
        match (outcome.is_err(), is_open(&folder)) {
            (true, false) => failed.push(name(&folder)),
            (false, true) => failed.push(format!("{}: it is kept now: remove the file `open`", name(&folder))),
            _ => {}
        }
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

pub fn is_open(folder: &Path) -> bool {
    folder.join("open").exists()
}

/// A snapshot beside the case: `<folder>/<what>.snap`.
pub fn snapshot(folder: &Path, what: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(what, text));
}
