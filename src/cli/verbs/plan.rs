//! `plan`, `show`, `graph`, `why`, `explain-impact`, `observe`: questions that change nothing.

use crate::model::{Address, Demand, Name, Span};
use crate::observe::Look;
use crate::plan::{self, Plan, PlanInput, Policy};
use crate::render::{self, COMMENT_BUDGET, Table};

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::{DEMAND, Fleet, OBSERVED, Seen};

/// Makes a plan of a fleet that was loaded and seen.
pub(crate) fn make(fleet: &Fleet, base: Option<&Fleet>, seen: &Seen, policy: Policy) -> Plan {
    plan::plan(&PlanInput {
        base: base.map(|b| &b.desired),
        desired: &fleet.desired,
        demand: &seen.demand,
        observed: &seen.observed,
        source: &seen.source,
        now: Context::now(),
        policy,
    })
}

/// `plan`
pub(crate) async fn plan(context: &Context, args: &args::Plan) -> Outcome {
    let fleet = context.load(None)?;
    let base = args.base.as_deref().map(|revision| context.load(Some(revision))).transpose()?;
    let seen = context.seen(&fleet.desired, &args.seen.observed, Look::default()).await?;
    if seen.source == "live" && context.global.output == Form::Text {
        // A page of blocks that all say "Unknown" tells less than why no host answers.
        super::apply::answered(&seen.observed, "there is nothing to plan from")?;
    }
    let plan = make(&fleet, base.as_ref(), &seen, Policy::default());
    if let Some(file) = &args.out {
        context.write(file, render::json(&plan).as_bytes())?;
    }
    print(context, &plan, args.show_all);
    let stale = stale(&plan, args.seen.max_age);
    for line in &stale {
        context.console.note(line);
    }
    Ok(exit(&plan, !stale.is_empty(), args.detailed_exitcode))
}

/// What of the observed state is missing or older than allowed.
fn stale(plan: &Plan, most: Option<Span>) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.inputs.source == "none" {
        return lines;
    }
    if !plan.inputs.ages.is_empty() && plan.inputs.ages.values().all(Option::is_none) {
        lines.push("error: no host could be observed".to_owned());
    }
    for (host, age) in &plan.inputs.ages {
        if let (Some(most), Some(age)) = (most, age)
            && *age > most.as_secs()
        {
            lines.push(format!("error: what is known of host `{host}` is {age}s old; at most {most} was asked for"));
        }
    }
    lines
}

/// The exit code of a plan.
fn exit(plan: &Plan, stale: bool, detailed: bool) -> Exit {
    match (stale, detailed) {
        (true, _) => Exit::Stale,
        (_, true) if plan.counts().blocked > 0 => Exit::Blocked,
        (_, true) if !plan.is_empty() => Exit::Changes,
        _ => Exit::Ok,
    }
}

/// A plan in the form that was asked for.
pub(crate) fn print(context: &Context, plan: &Plan, show_all: bool) {
    let text = match context.global.output {
        Form::Json => render::json(plan),
        Form::Markdown | Form::Github => render::markdown(plan, COMMENT_BUDGET),
        Form::Text => render::text(plan, &context.style(show_all)),
    };
    context.console.out(&text);
}

/// Reads a saved plan.
pub(crate) fn saved(context: &Context, file: &std::path::Path) -> Result<Plan, Failure> {
    let wrong = |what: String| Failure::new(what).hint("write one with `stablehand plan --out FILE`");
    let text = context.read(file)?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Failure::caused(format!("`{}` is not a saved plan", file.display()), &e))?;
    let version = value.get("formatVersion").and_then(|v| v.as_str()).unwrap_or_default();
    let major = |v: &str| v.split('.').next().map(str::to_owned);
    if version.is_empty() || major(version) != major(plan::FORMAT_VERSION) {
        let what = format!(
            "`{}` is a plan of version `{version}`; this program reads {}",
            file.display(),
            plan::FORMAT_VERSION
        );
        return Err(wrong(what));
    }
    serde_json::from_value(value).map_err(|e| Failure::caused(format!("`{}` is not a saved plan", file.display()), &e))
}

/// `show`
pub(crate) fn show(context: &Context, args: &args::Show) -> Outcome {
    let plan = saved(context, &args.file)?;
    print(context, &plan, args.show_all);
    Ok(Exit::Ok)
}

/// `graph`
pub(crate) async fn graph(context: &Context, args: &args::Seen) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look::default()).await?;
    let plan = make(&fleet, None, &seen, Policy::default());
    match render::mermaid(&plan) {
        Some(chart) => context.console.out(&chart),
        None => context.console.note("no changes: nothing to draw"),
    }
    Ok(Exit::Ok)
}

/// `why`
pub(crate) async fn why(context: &Context, args: &args::Describe) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look::default()).await?;
    let plan = make(&fleet, None, &seen, Policy::default());
    let vms = vms_of(&fleet, &args.address);
    if vms.is_empty() && !about(&plan, &args.address, &[]) {
        return Err(unknown(&args.address));
    }
    let style = context.style(true);
    let mut out = String::new();
    for vm in &vms {
        let scores = plan::why(&input(&fleet, &seen), vm);
        if !scores.is_empty() {
            out.push_str(&format!("vm/{vm}\n"));
            out.push_str(&scores_table(&scores).render(&style, 1));
        }
    }
    out.push_str(&happens(&plan, &args.address, &vms));
    context.console.out(&out);
    Ok(Exit::Ok)
}

pub(super) fn input<'a>(fleet: &'a Fleet, seen: &'a Seen) -> PlanInput<'a> {
    PlanInput {
        base: None,
        desired: &fleet.desired,
        demand: &seen.demand,
        observed: &seen.observed,
        source: &seen.source,
        now: Context::now(),
        policy: Policy::default(),
    }
}

/// Nothing of that name.
pub(crate) fn unknown(address: &Address) -> Failure {
    Failure::new(format!("there is no `{address}` in this fleet"))
        .hint(format!("stablehand get {}s lists them", address.kind()))
}

/// The VMs that an address stands for.
pub(crate) fn vms_of(fleet: &Fleet, address: &Address) -> Vec<Name> {
    let vms = fleet.desired.vms.values();
    let wanted = |vm: &&crate::model::Vm| match address {
        Address::Vm(name) => vm.name == *name,
        Address::Fleet(_) => true,
        Address::Service(_) | Address::Module(_) => vm.owner.address() == *address,
        Address::Image(name) => vm.spec.image.as_ref() == Some(name),
        Address::Network(name) => vm.spec.nics.values().any(|n| n.network == *name),
        Address::Task(task) => fleet.desired.tasks.get(task).is_some_and(|task| task.select.takes(vm)),
        Address::Host(_) => false,
    };
    vms.filter(wanted).map(|vm| vm.name.clone()).collect()
}

/// Whether a plan has a word about it.
fn about(plan: &Plan, address: &Address, vms: &[Name]) -> bool {
    !happens(plan, address, vms).is_empty()
}

/// The actions about an address. Of a host, everything that happens on it.
pub(crate) fn concerning<'p>(plan: &'p Plan, address: &Address, vms: &[Name]) -> Vec<&'p plan::Action> {
    let there = |a: &plan::Action| matches!(address, Address::Host(h) if a.to.as_ref().or(a.from.as_ref()) == Some(h));
    let of_task = |a: &plan::Action| matches!(address, Address::Task(task) if a.task.as_ref() == Some(task));
    plan.actions.iter().filter(|a| concerns(&a.subject, address, vms) || there(a) || of_task(a)).collect()
}

fn concerns(subject: &Address, address: &Address, vms: &[Name]) -> bool {
    subject == address || matches!(subject, Address::Vm(n) if vms.contains(n))
}

/// What the plan does to it, and why it does nothing.
pub(crate) fn happens(plan: &Plan, address: &Address, vms: &[Name]) -> String {
    let mut out = String::new();
    for action in concerning(plan, address, vms) {
        let origin = action.reason.origins.first().map(|o| format!("   {o}")).unwrap_or_default();
        out.push_str(&format!(
            "{}: {} ({}), because {}{origin}\n",
            action.id,
            action.impact.class.word(),
            action.cause.word(),
            render::clean(&action.reason.text)
        ));
        for block in &action.blocked {
            let (text, fix) = (render::clean(&block.text), render::clean(&block.unblock));
            out.push_str(&format!("  stopped by {}: {text}\n  fix: {fix}\n", block.by.word()));
        }
    }
    for note in plan.notes.iter().filter(|n| concerns(&n.subject, address, vms)) {
        out.push_str(&format!("{}: {}\n", note.subject, render::clean(&note.text)));
    }
    out
}

/// Each host's score, or why it was rejected.
fn scores_table(scores: &[plan::HostScore]) -> Table {
    let mut table = Table::new(&["host", "score", ""]).right(1);
    for score in scores {
        let (number, why) = match &score.verdict {
            plan::Verdict::Score(n) => {
                (n.to_string(), if score.chosen { "<- chosen".to_owned() } else { String::new() })
            }
            plan::Verdict::Rejected(why) if score.chosen => {
                ("-".to_owned(), format!("<- here; a new one would not fit: {why}"))
            }
            plan::Verdict::Rejected(why) => ("-".to_owned(), why.clone()),
        };
        table.row(vec![score.host.to_string(), number, why]);
    }
    table
}

/// `explain-impact`
pub(crate) fn explain_impact(context: &Context) -> Outcome {
    let rows = plan::impact::table();
    if context.global.output == Form::Json {
        let row = |r: &plan::impact::ImpactRow| serde_json::json!({"field": r.field.path(), "staged": r.staged, "reboot": r.reboot, "why": r.why});
        let all: Vec<_> = rows.iter().map(row).collect();
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["FIELD", "STOPPED", "RUNNING, GROWS", "RUNNING", "SUSPENDED", "WHY"]);
    for row in &rows {
        let cell = |i: usize| {
            let (staged, reboot) = (row.staged[i].word(), row.reboot[i].word());
            if staged == reboot { staged.to_owned() } else { format!("{staged} | {reboot}") }
        };
        table.row(vec![row.field.path().to_owned(), cell(0), cell(1), cell(2), cell(3), row.why.to_owned()]);
    }
    let text = table.render(&context.style(true), 0);
    context.console.out(&format!(
        "{text}\n\"a | b\": a with `update: staged`, b with `update: reboot`; \
        \"grows\": within `maxMemory` and `maxCpus`\n"
    ));
    Ok(Exit::Ok)
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::caused("cannot write it down", &e))?;
    Ok(text + "\n")
}

/// `observe`
pub(crate) async fn observe(context: &Context, args: &args::Observe) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, "live", Look { probe: true }).await?;
    let text = pretty(&seen.observed)?;
    match &args.out {
        Some(folder) => {
            context.write(&folder.join(OBSERVED), text.as_bytes())?;
            if seen.demand == Demand::default() {
                context.remove(&folder.join(DEMAND))?;
            } else {
                context.write(&folder.join(DEMAND), pretty(&seen.demand)?.as_bytes())?;
            }
        }
        None => context.console.out(&text),
    }
    let unknown = seen.observed.hosts.values().filter(|h| h.known().is_none()).count();
    if unknown > 0 {
        context.console.note(&format!("{unknown} of {} hosts did not answer", seen.observed.hosts.len()));
        return Ok(Exit::Stale);
    }
    Ok(Exit::Ok)
}
