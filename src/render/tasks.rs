//! Tasks: how far they came on each VM, and what was said there.

use std::fmt::Write as _;

use serde::Serialize;

use super::paint::Style;
use super::table::Table;
use super::words::moment;
use crate::model::{Address, Demand, Desired, GuestOutput, Name, Observed, Power, Task, TaskResult, Timestamp, VmObs};
use crate::plan::{Plan, TaskRun, guest};

/// A task as it is: what it does, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskUse {
    /// Its name.
    pub task: Name,
    /// Where it was written.
    pub origin: String,
    /// Digest of its steps.
    pub digest: String,
    /// What is done in each VM, as sentences.
    pub steps: Vec<String>,
    /// Its VMs by name.
    pub vms: Vec<TaskVm>,
    /// Who asked that it be tried again, and when.
    pub retry: Option<String>,
    /// What the plan does of it.
    pub plan: Option<TaskRun>,
}

/// A task on one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskVm {
    /// The VM.
    pub vm: Name,
    /// `done`, `failed`, `begun`, `waits`, `not running`, `not seen`.
    pub state: &'static str,
    /// When it began.
    pub at: Option<Timestamp>,
    /// What was said the last time.
    pub said: Vec<SaidRow>,
}

/// What a step said in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SaidRow {
    /// What was done.
    pub what: String,
    /// When it ended.
    pub at: Timestamp,
    /// Exit status, where a program ran to its end.
    pub status: Option<i32>,
    /// The end of what it printed.
    pub stdout: String,
    /// The end of what it complained.
    pub stderr: String,
    /// Whether it said more.
    pub truncated: bool,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

impl SaidRow {
    /// What was kept of a step.
    pub fn new(what: &str, at: Timestamp, output: Option<&GuestOutput>, error: Option<&str>) -> Self {
        let said = output.cloned().unwrap_or_default();
        Self {
            what: what.to_owned(),
            at,
            status: output.map(|o| o.status),
            stdout: said.stdout,
            stderr: said.stderr,
            truncated: said.truncated,
            error: error.map(str::to_owned),
        }
    }
}

/// Counts of a task for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRow {
    /// Its name.
    pub task: Name,
    /// VMs that have it behind them, of how many.
    pub done: (u32, u32),
    /// VMs on which it failed.
    pub failed: Vec<Name>,
    /// VMs on which it began and did not end.
    pub begun: Vec<Name>,
    /// VMs that wait.
    pub waits: Vec<Name>,
}

fn seen<'o>(observed: &'o Observed, vm: &Name) -> Option<&'o VmObs> {
    observed.hosts.values().filter_map(|o| o.known()).find_map(|host| host.vms.get(vm))
}

fn state(task: &Task, obs: Option<&VmObs>) -> (&'static str, Option<Timestamp>) {
    let Some(obs) = obs else { return ("not seen", None) };
    let mark = obs.stamp.tasks.get(&task.name).filter(|mark| mark.digest == task.digest);
    match mark.map(|mark| (mark.result, mark.at)) {
        Some((TaskResult::Done, at)) => ("done", Some(at)),
        Some((TaskResult::Failed, at)) => ("failed", Some(at)),
        Some((TaskResult::Begun, at)) => ("begun", Some(at)),
        None if obs.power == Power::Running => ("waits", None),
        None => ("not running", None),
    }
}

/// Every task of a fleet and how far it came.
pub(super) fn rows(desired: &Desired, observed: &Observed) -> Vec<TaskRow> {
    let row = |task: &Task| {
        let states: Vec<(&Name, &str)> =
            task.select.of(desired).map(|vm| (&vm.name, state(task, seen(observed, &vm.name)).0)).collect();
        let of = |word: &[&str]| -> Vec<Name> {
            states.iter().filter(|(_, state)| word.contains(state)).map(|(vm, _)| (*vm).clone()).collect()
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        TaskRow {
            task: task.name.clone(),
            done: (count(of(&["done"]).len()), count(states.len())),
            failed: of(&["failed"]),
            begun: of(&["begun"]),
            waits: of(&["waits", "not running", "not seen"]),
        }
    };
    desired.tasks.values().map(row).collect()
}

/// The tasks of `status`.
pub(super) fn table(tasks: &[TaskRow], style: &Style) -> String {
    if tasks.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TASK", "DONE", "FAILED", "BEGUN", "WAITS"]);
    let names = |all: &[Name]| match all {
        [] => "-".to_owned(),
        all => super::words::few(all),
    };
    for task in tasks {
        let (done, of) = task.done;
        let done = format!("{done}/{of}");
        table.row(vec![task.task.to_string(), done, names(&task.failed), names(&task.begun), names(&task.waits)]);
    }
    format!("\n{}", table.render(style, 0))
}

impl TaskUse {
    /// A task of the fleet; `None` when there is none of that name. `said`: what was kept, by VM and step.
    pub fn of(
        desired: &Desired,
        demand: &Demand,
        observed: &Observed,
        plan: &Plan,
        (name, said): (&Name, &[(Name, SaidRow)]),
    ) -> Option<Self> {
        let task = desired.tasks.get(name)?;
        let vms = task.select.of(desired).map(|vm| {
            let (state, at) = state(task, seen(observed, &vm.name));
            let said = said.iter().filter(|(of, _)| *of == vm.name).map(|(_, row)| row.clone()).collect();
            TaskVm { vm: vm.name.clone(), state, at, said }
        });
        Some(Self {
            task: name.clone(),
            origin: task.origin.to_string(),
            digest: task.digest.clone(),
            steps: task.steps.iter().map(guest::sentence).collect(),
            vms: vms.collect(),
            retry: demand.task_retries.get(name).map(|asked| format!("{} at {}", asked.who, moment(asked.at))),
            plan: plan.tasks.iter().find(|run| run.task == *name).cloned(),
        })
    }

    /// Its address.
    pub fn address(&self) -> Address {
        Address::Task(self.task.clone())
    }
}

/// Lines of what a program said that are shown of one that went well, and of one that failed.
const SHOWN: (usize, usize) = (5, 40);

/// A task in full.
pub fn task_text(task: &TaskUse, style: &Style) -> String {
    let mut out = format!(" at    {}\n", task.origin);
    for (number, step) in task.steps.iter().enumerate() {
        let _ = writeln!(out, " {}  {}", if number == 0 { "does" } else { "then" }, style.clean(step));
    }
    if let Some(retry) = &task.retry {
        let _ = writeln!(out, " retry asked by {}", style.clean(retry));
    }
    let mut table = Table::new(&["VM", "STATE", "BEGAN"]);
    for vm in &task.vms {
        let at = vm.at.map_or_else(|| "-".to_owned(), moment);
        table.row(vec![vm.vm.to_string(), vm.state.to_owned(), at]);
    }
    out.push('\n');
    out.push_str(&table.render(style, 1));
    for vm in task.vms.iter().filter(|vm| !vm.said.is_empty()) {
        let _ = writeln!(out, "\n vm/{}", vm.vm);
        for said in &vm.said {
            let end = match (said.status, &said.error) {
                (Some(0), _) => "ok".to_owned(),
                (_, Some(error)) => error.clone(),
                (Some(status), None) => format!("ends with {status}"),
                (None, None) => String::new(),
            };
            let _ = writeln!(out, "   {} - {}", style.clean(&said.what), style.clean(&end));
            let most = if said.status == Some(0) { SHOWN.0 } else { SHOWN.1 };
            for (text, mark) in [(&said.stdout, "  "), (&said.stderr, "! ")] {
                let lines: Vec<&str> = text.lines().collect();
                let skipped = lines.len().saturating_sub(most);
                if skipped > 0 || (said.truncated && !lines.is_empty()) {
                    let _ = writeln!(out, "   {mark}… ({skipped} lines more are kept: --output json)");
                }
                for line in lines.iter().skip(skipped) {
                    let _ = writeln!(out, "   {mark}{}", style.clean(line));
                }
            }
        }
    }
    out
}
