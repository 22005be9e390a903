//! `start`, `stop`, `suspend`, `restart`, `quarantine`, `release`: demand by hand. It joins desired state until it is withdrawn,
//! or what it asks for is stamped on the VM.

use crate::model::{Address, Asked as By, Hold, Layer, Name, Quarantine, RunState, Then};
use crate::plan::{Action, Verb};
use crate::store::{Event, Store};

use super::super::args::{self, ThenArg};
use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::super::fleet::Fleet;

/// What is asked by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// This state, until withdrawn.
    Run(RunState),
    /// A stop and a start, once.
    Restart,
}

/// A VM's name, with or without `vm/`.
pub(crate) fn vm_name(text: &str) -> Result<Name, Failure> {
    Name::new(text.strip_prefix("vm/").unwrap_or(text))
        .map_err(|e| Failure::caused(format!("`{text}` is not a VM"), &e))
}

/// Notes what is asked of some VMs, or takes it back, and says what comes of it.
pub(crate) async fn hand(context: &Context, asked: Asked, vms: &[String], withdraw: bool) -> Outcome {
    let fleet = context.load(None)?;
    let names = named(&fleet, vms)?;
    let store = context.store(&fleet.desired.fleet.name)?;
    for name in &names {
        let said = if withdraw { take_back(&store, asked, name)? } else { ask(context, &store, asked, name)? };
        context.console.note(&said);
    }
    // What was noted is demand; the pass that carries it out is an ordinary one, of these VMs' changes and any other.
    super::apply::after_demand(context, &fleet, &names).await
}

/// `retry`: a task that failed is tried again.
pub(crate) async fn retry(context: &Context, text: &str) -> Outcome {
    let fleet = context.load(None)?;
    let name = Name::new(text.strip_prefix("task/").unwrap_or(text))
        .map_err(|e| Failure::caused(format!("`{text}` is not a task"), &e))?;
    if !fleet.desired.tasks.contains_key(&name) {
        return Err(super::plan::unknown(&Address::Task(name)));
    }
    let store = context.store(&fleet.desired.fleet.name)?;
    let who = context.around.who();
    store.retry_task(&name, &By { who: who.as_str().into(), at: Context::now() })?;
    let text = format!("task/{name}: to be tried again where it failed");
    context.console.note(&text);
    let (kind, subject) = ("retried".to_owned(), format!("task/{name}"));
    store.log(&Event { at: Context::now(), kind, subject, text: format!("{text}, by {who}") })?;
    let ours = |a: &Action| a.verb == Verb::Run && a.task.as_ref() == Some(&name);
    super::apply::after_demand_of(context, &fleet, ours).await
}

/// VMs of the fleet, by their names.
fn named(fleet: &Fleet, vms: &[String]) -> Result<Vec<Name>, Failure> {
    let names = vms.iter().map(|text| vm_name(text)).collect::<Result<Vec<_>, _>>()?;
    match names.iter().find(|name| !fleet.desired.vms.contains_key(*name)) {
        Some(name) => Err(super::plan::unknown(&crate::model::Address::Vm(name.clone()))),
        None => Ok(names),
    }
}

/// `quarantine`: a pass that runs ends between its steps, so that this is first.
pub(crate) async fn quarantine(context: &Context, args: &args::Quarantine) -> Outcome {
    let fleet = context.load(None)?;
    let names = named(&fleet, &args.vms)?;
    let store = context.store(&fleet.desired.fleet.name)?;
    let (who, at) = (context.around.who(), Context::now());
    let said = args.then.map(|then| match then {
        ThenArg::Close => Then::Close,
        ThenArg::Suspend => Then::Suspend,
        ThenArg::Stop => Then::Stop,
    });
    for name in &names {
        let Some(vm) = fleet.desired.vms.get(name) else { continue };
        let then = said.or(vm.spec.guard.as_ref().map(|guard| guard.then)).unwrap_or(Then::Close);
        if then == Then::Suspend && vm.spec.layer == Layer::Lxc {
            let what = format!("vm/{name} is a container: its memory cannot be saved");
            return Err(Failure::new(what).hint("--then stop, or --then close"));
        }
        let why = Quarantine { who: who.as_str().into(), reason: args.reason.as_str().into(), at, then };
        store.quarantine(name, &why)?;
        let text = format!("in quarantine until released (stablehand release {name}): {}", args.reason);
        log(context, &store, "quarantined", name, &text)?;
        context.console.note(&format!("vm/{name}: {text}"));
    }
    if let Some(inside) = &context.inside {
        inside.give_up();
    }
    let done = super::apply::after_demand(context, &fleet, &names).await;
    if let Some(inside) = &context.inside {
        // What was stopped for it goes on.
        inside.urgent.notify_one();
    }
    done
}

/// `release`
pub(crate) async fn release(context: &Context, args: &args::Release) -> Outcome {
    let fleet = context.load(None)?;
    let names = named(&fleet, &args.vms)?;
    let store = context.store(&fleet.desired.fleet.name)?;
    for name in &names {
        store.release(name, &By { who: context.around.who().into(), at: Context::now() })?;
        log(context, &store, "released", name, "out of quarantine")?;
        context.console.note(&format!("vm/{name}: out of quarantine, its document decides again"));
    }
    super::apply::after_demand(context, &fleet, &names).await
}

fn ask(context: &Context, store: &Store, asked: Asked, name: &Name) -> Result<String, Failure> {
    let run = if let Asked::Run(run) = asked { run } else { RunState::Started };
    let hold = Hold { run, who: context.around.who().into(), at: Context::now() };
    let text = if asked == Asked::Restart {
        store.ask_restart(name, &hold)?;
        format!("vm/{name}: to be restarted once")
    } else {
        store.hold(name, &hold)?;
        format!("vm/{name}: held {} until withdrawn (stablehand {} {name} --withdraw)", run.word(), verb(run))
    };
    log(context, store, "held", name, &text)?;
    Ok(text)
}

fn take_back(store: &Store, asked: Asked, name: &Name) -> Result<String, Failure> {
    if asked == Asked::Restart {
        store.restarted(name)?;
        return Ok(format!("vm/{name}: no restart is asked for"));
    }
    Ok(if store.withdraw(name)? {
        format!("vm/{name}: the YAML decides again")
    } else {
        format!("vm/{name}: nothing was held")
    })
}

fn log(context: &Context, store: &Store, kind: &str, name: &Name, text: &str) -> Result<(), Failure> {
    let text = format!("{text}, by {}", context.around.who());
    store.log(&Event { at: Context::now(), kind: kind.to_owned(), subject: format!("vm/{name}"), text })?;
    Ok(())
}

const fn verb(run: RunState) -> &'static str {
    match run {
        RunState::Started => "start",
        RunState::Stopped => "stop",
        RunState::Suspended => "suspend",
    }
}
