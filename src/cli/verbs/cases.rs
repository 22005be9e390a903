//! `test`: a team's own snapshot tests of plans. A case is a folder below `tests/` with a `case.yaml`:
//!
//! ```yaml
//! fleet: ..                      # relative to the fleet's folder; default: the fleet itself
//! base: old                      # optional: what causes are told against
//! observed: tests/full/state     # `none`, or a folder of `observe --out`; default: none
//! now: 2026-10-20T10:00:00Z      # default: when it was observed
//! expect: {destroy: 0, maxImpact: reboot}
//! ```
//!
//! The plan's text is compared with `plan.snap` beside it. Big snapshots get waved through; `expect` does not.
#![expect(clippy::disallowed_methods, reason = "walks the fleet's tests folder")]

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::{Demand, Observed, Snapshot, Timestamp};
use crate::plan::{self, Class, Plan, PlanInput, Policy, Verb};
use crate::render::{self, Style};
use crate::{config, source};

use super::super::args;
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};

/// `case.yaml`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    fleet: Option<PathBuf>,
    base: Option<PathBuf>,
    observed: Option<PathBuf>,
    now: Option<String>,
    #[serde(default)]
    expect: Expect,
}

/// What must hold of a plan, whatever its snapshot says. Blocked actions count as blocked alone.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expect {
    changes: Option<usize>,
    create: Option<usize>,
    destroy: Option<usize>,
    recreate: Option<usize>,
    reboot: Option<usize>,
    blocked: Option<usize>,
    /// No action is of a worse class than this one.
    max_impact: Option<Class>,
}

impl Expect {
    /// What does not hold.
    fn broken(&self, plan: &Plan) -> Vec<String> {
        let open: Vec<_> = plan.actions.iter().filter(|a| !a.is_blocked()).collect();
        let of = |verb: Verb| open.iter().filter(|a| a.verb == verb).count();
        let counts = [
            ("changes", self.changes, plan.actions.len()),
            ("create", self.create, of(Verb::Create)),
            ("destroy", self.destroy, of(Verb::Destroy)),
            ("recreate", self.recreate, of(Verb::Recreate)),
            ("reboot", self.reboot, of(Verb::Reboot)),
            ("blocked", self.blocked, plan.actions.len() - open.len()),
        ];
        let wrong = |(what, wanted, is): &(&str, Option<usize>, usize)| {
            wanted.filter(|w| w != is).map(|w| format!("expected {what}: {w}, but it is {is}"))
        };
        let mut broken: Vec<String> = counts.iter().filter_map(wrong).collect();
        if let Some(most) = self.max_impact {
            // What touches no guest (making a network, fetching an image) is never too much.
            let worse = open.iter().filter(|a| a.impact.class < most.min(Class::None));
            broken.extend(worse.map(|a| {
                format!("expected nothing worse than {}, but {} is {}", most.word(), a.id, a.impact.class.word())
            }));
        }
        broken
    }
}

/// `test`
pub(crate) fn test(context: &Context, args: &args::Test) -> Outcome {
    let fleet = context.path(&context.global.fleet);
    let mut cases = Vec::new();
    find(&fleet.join("tests"), &mut cases, 0);
    cases.retain(|c| args.filter.as_ref().is_none_or(|f| c.to_string_lossy().contains(f.as_str())));
    cases.sort();
    if cases.is_empty() {
        return Err(Failure::new(format!("there is no case.yaml below {}", fleet.join("tests").display()))
            .hint("a case is a folder with a case.yaml, for example {observed: none, expect: {destroy: 0}}"));
    }
    let mut failed = 0;
    for folder in &cases {
        let name = folder.strip_prefix(&fleet).unwrap_or(folder).display();
        let problems = match run(context, &fleet, folder, args.update) {
            Ok(problems) => problems,
            Err(failure) => vec![failure.render()],
        };
        let word = if problems.is_empty() { "ok" } else { "FAILED" };
        context.console.out(&format!("{word:8}{name}\n"));
        for line in problems.iter().flat_map(|p| p.lines()) {
            context.console.out(&format!("        {line}\n"));
        }
        failed += usize::from(!problems.is_empty());
    }
    context.console.out(&format!("{} of {} cases hold\n", cases.len() - failed, cases.len()));
    if failed == 0 { Ok(Exit::Ok) } else { Err(Failure::said(Exit::Error)) }
}

/// Folders with a `case.yaml`.
fn find(folder: &Path, cases: &mut Vec<PathBuf>, depth: usize) {
    if folder.join("case.yaml").is_file() {
        cases.push(folder.to_owned());
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| depth < 16 && e.file_type().is_ok_and(|t| t.is_dir())) {
        find(&entry.path(), cases, depth + 1);
    }
}

/// Runs one case; gives what is wrong with it.
fn run(context: &Context, fleet: &Path, folder: &Path, update: bool) -> Result<Vec<String>, Failure> {
    let text = context.read(&folder.join("case.yaml"))?;
    let case: Case = serde_yaml::from_str(&text).map_err(|e| Failure::caused("case.yaml is not a case", &e))?;
    let desired = load(&fleet.join(case.fleet.as_deref().unwrap_or(Path::new("."))))?;
    let base = case.base.as_ref().map(|b| load(&fleet.join(b))).transpose()?;
    let ((observed, demand), source) = match case.observed.as_deref() {
        Some(dir) if dir != Path::new("none") => {
            (context.recorded(&fleet.join(dir), &desired.desired.fleet.name)?, dir.display().to_string())
        }
        _ => ((Observed { format: 1, ..Observed::default() }, Demand::default()), "none".to_owned()),
    };
    let now = match &case.now {
        Some(text) => moment(text)?,
        None => observed.at,
    };
    let input = PlanInput {
        base: base.as_ref().map(|b| &b.desired),
        desired: &desired.desired,
        demand: &demand,
        observed: &observed,
        source: &source,
        now,
        policy: Policy::default(),
    };
    let mut plan = plan::plan(&input);
    let mut problems = case.expect.broken(&plan);
    // A snapshot that changes with every comment in the YAML would be updated without being read.
    plan.head = "tested".to_owned();
    plan.base = plan.base.map(|_| "base".to_owned());
    let page = render::text(&plan, &Style::stable());
    let file = folder.join("plan.snap");
    if update {
        context.write(&file, page.as_bytes())?;
    } else if file.is_file() {
        let known = context.read(&file)?;
        if known != page {
            let diff = render::line_diff(&known, &page).join("\n");
            problems.push(format!("the plan is not that of plan.snap (--update writes it):\n{diff}"));
        }
    } else {
        problems.push("there is no plan.snap yet: --update writes it".to_owned());
    }
    Ok(problems)
}

/// Reads and validates a fleet; its diagnostics are the failure.
fn load(folder: &Path) -> Result<config::Loaded, Failure> {
    let snapshot: Snapshot = source::folder(folder)
        .map_err(|e| Failure::caused(format!("cannot read the fleet in `{}`", folder.display()), &e))?;
    config::load(&snapshot)
        .map_err(|all| Failure::new(format!("the fleet is not valid\n{}", config::diagnostic::text(&all))))
}

/// A moment as RFC 3339 has it.
fn moment(text: &str) -> Result<Timestamp, Failure> {
    let parsed: jiff::Timestamp = text.parse().map_err(|e| {
        Failure::caused(format!("`{text}` is not a moment"), &e).hint("write it like 2026-10-20T10:00:00Z")
    })?;
    Ok(Timestamp(u64::try_from(parsed.as_second()).unwrap_or(0)))
}
