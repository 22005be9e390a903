//! Carries out a script and writes its transcript.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::show::show;
use super::{Crash, Expect, ScriptError, Show, Statement, parse};
use crate::config::{self, diagnostic};
use crate::execute::Outcome;
use crate::model::{Desired, Name};
use crate::plan::{ActionId, Plan};
use crate::reconcile::Approval;
use crate::render::{self, Style};
use crate::sim::{Applied, Session, SimFleet, World};
use crate::source;

/// What a script did.
#[derive(Clone, Debug)]
#[must_use]
pub struct Transcript {
    /// Each statement after `> `, and what it printed.
    pub text: String,
    /// Steps that ended in each `apply`, in order.
    pub applies: Vec<u64>,
    /// Promises broken.
    pub violations: Vec<String>,
    /// The world at the end.
    pub world: World,
}

/// Ends one `apply` of a script early, as with `kill -9`, and applies again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Which `apply`, from 0.
    pub apply: usize,
    /// After how many steps.
    pub after: u64,
}

/// Runs a script; folders in it are relative to `base`.
///
/// # Errors
/// The first line that is not a statement, cannot be carried out, or expects what is not so.
pub fn run(text: &str, base: &Path) -> Result<Transcript, ScriptError> {
    run_with(text, base, None)
}

/// Runs a script with a crash of ours in one of its applies.
///
/// # Errors
/// As [`run`].
pub fn run_with(text: &str, base: &Path, crash: Option<Injected>) -> Result<Transcript, ScriptError> {
    let statements = parse(text)?;
    let mut script = Script {
        base: base.to_owned(),
        session: Session::new(SimFleet::default()),
        out: String::new(),
        applies: Vec::new(),
        crash,
        expects_violation: false,
    };
    let lines: Vec<&str> = text.lines().collect();
    for (line, statement) in statements {
        let said = lines.get(line - 1).map(|l| l.split('#').next().unwrap_or_default().trim()).unwrap_or_default();
        let _ = writeln!(script.out, "> {said}");
        script.statement(statement).map_err(|text| ScriptError { line, text })?;
    }
    let world = script.session.fleet.world();
    if !script.expects_violation && !world.violations.is_empty() {
        let text = format!("promises were broken:\n{}", world.violations.join("\n"));
        return Err(ScriptError { line: lines.len(), text });
    }
    Ok(Transcript { text: script.out, applies: script.applies, violations: world.violations.clone(), world })
}

struct Script {
    base: PathBuf,
    session: Session,
    out: String,
    applies: Vec<u64>,
    crash: Option<Injected>,
    expects_violation: bool,
}

impl Script {
    fn statement(&mut self, statement: Statement) -> Result<(), String> {
        if self.session.happen(&statement)? {
            return Ok(());
        }
        match statement {
            Statement::Load(folder) => {
                let desired = self.read(&folder)?;
                let (vms, hosts) = (desired.vms.len(), desired.hosts.len());
                self.say(&format!("fleet {}: {vms} VMs, {hosts} hosts", desired.fleet.name));
                self.session.follow(desired);
            }
            Statement::Plan => {
                let text = render::text(&self.plan()?, &Style::stable());
                self.say(&text);
            }
            Statement::Apply(crash) => self.apply(crash)?,
            Statement::Expect(expect) => self.expect(&expect)?,
            Statement::Show(what) => {
                let lines = self.session.fleet.with(|world| {
                    let lines = show(world, what);
                    if what == Show::Log {
                        world.log.clear();
                    }
                    lines
                });
                self.say(&if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") });
            }
            _ => return Err("this statement is not carried out".to_owned()),
        }
        Ok(())
    }

    /// Prints with an indentation of two.
    fn say(&mut self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.out, "{}", format!("  {line}").trim_end());
        }
    }

    fn read(&self, folder: &str) -> Result<Desired, String> {
        let snapshot = source::folder(&self.base.join(folder)).map_err(|e| e.to_string())?;
        let loaded = config::load(&snapshot).map_err(|found| diagnostic::text(&found))?;
        Ok(loaded.desired)
    }

    fn plan(&self) -> Result<Plan, String> {
        self.session.plan().ok_or_else(|| "load a fleet first".to_owned())
    }

    fn apply(&mut self, crash: Option<Crash>) -> Result<(), String> {
        let injected = self.crash.filter(|i| i.apply == self.applies.len()).map(|i| Crash { after: i.after });
        if let Some(crash) = crash.or(injected) {
            self.session.fleet.crash_after(crash.after);
        }
        let applied = self.session.apply(&Approval::Everything)?;
        self.report(&applied);
        self.applies.push(applied.steps);
        if injected.is_some() {
            self.crash = None;
            let applied = self.session.apply(&Approval::Everything)?;
            self.report(&applied);
        }
        Ok(())
    }

    fn report(&mut self, applied: &Applied) {
        if let Some(who) = applied.held() {
            return self.say(&format!("nothing done: {who}"));
        }
        if let Some(why) = &applied.passed.refused {
            return self.say(&format!("nothing done: {why}"));
        }
        for (number, (plan, report)) in applied.passed.rounds.iter().enumerate() {
            if number > 0 {
                self.say("looked again:");
            }
            for (id, outcome) in &report.outcomes {
                self.say(&outcome_line(plan, id, outcome));
            }
        }
        let goes_on = |n: &&crate::plan::Note| n.kind == crate::plan::NoteKind::UnderWay && !applied.crashed;
        for note in applied.passed.left.notes.iter().filter(goes_on) {
            self.say(&format!("{:11} {}: {}", "goes on", note.subject, note.text));
        }
        let end = if applied.crashed { "; and then we crashed" } else { "" };
        let tenths = applied.millis / 100;
        self.say(&format!("{} steps in {}.{}s{end}", applied.steps, tenths / 10, tenths % 10));
    }

    fn expect(&mut self, expect: &Expect) -> Result<(), String> {
        match expect {
            Expect::NoChanges => self.expect_count(|p| p.actions.len() + p.under_way(), 0, "no changes"),
            Expect::Changes(n) => {
                self.expect_count(|p| p.actions.iter().filter(|a| !a.is_blocked()).count(), *n, "changes")
            }
            Expect::Blocked(n) => {
                self.expect_count(|p| p.actions.iter().filter(|a| a.is_blocked()).count(), *n, "blocked actions")
            }
            Expect::Violation(wanted) => {
                self.expects_violation |= wanted;
                let found = self.session.fleet.with(|world| world.violations.clone());
                match (wanted, found.is_empty()) {
                    (true, true) => Err("expected a broken promise; all were kept".to_owned()),
                    (false, false) => Err(format!("promises were broken:\n{}", found.join("\n"))),
                    _ => Ok(()),
                }
            }
            Expect::Vm(vm, state, host) => self.expect_vm(vm, state, host.as_ref()),
        }
    }

    fn expect_count(&self, count: impl Fn(&Plan) -> usize, wanted: usize, what: &str) -> Result<(), String> {
        let plan = self.plan()?;
        let found = count(&plan);
        if found == wanted {
            return Ok(());
        }
        Err(format!("expected {wanted} {what}, found {found}:\n{}", render::text(&plan, &Style::stable())))
    }

    fn expect_vm(&self, vm: &Name, state: &str, host: Option<&Name>) -> Result<(), String> {
        let found = self.session.fleet.with(|world| {
            let (host, uuid) = world.place(vm).ok()?;
            let power = world.hosts.get(&host)?.domains.get(&uuid)?.power;
            let moving = state == "moving" && world.jobs.iter().any(|j| j.uuid == uuid && !j.source_over);
            Some((if moving { "moving" } else { power.word() }, host))
        });
        let same = match &found {
            None => state == "absent",
            Some((power, there)) => *power == state && host.is_none_or(|h| h == there),
        };
        let found = found.map_or_else(|| "absent".to_owned(), |(power, host)| format!("{power} on {host}"));
        if same { Ok(()) } else { Err(format!("expected {vm} {state}, found it {found}")) }
    }
}

fn outcome_line(plan: &Plan, id: &ActionId, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => format!("done        {id}"),
        Outcome::Failed { error, .. } => format!("failed      {id}: {error}"),
        Outcome::Waits(other) => format!("not tried   {id}: {other} was not done"),
        Outcome::Crowded(vm) => format!("not tried   {id}: the move of {vm} may go on"),
        Outcome::NotApproved => format!("not approved {id}"),
        Outcome::Stopped { steps } => format!("stopped     {id} after {steps} steps"),
        Outcome::Blocked => {
            let why: Vec<&str> = plan.action(id).iter().flat_map(|a| &a.blocked).map(|b| b.text.as_str()).collect();
            format!("blocked     {id}: {}", why.join("; "))
        }
    }
}
