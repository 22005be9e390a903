//! Arguments, printing and wiring: the only room that prints.
//!
//! *Takes* a command line and the process's surroundings. *Gives* data on stdout, everything else on stderr, and an
//! exit code. *Never* decides about a VM: it loads, asks `plan`, hands to `reconcile`, and shows what came of it.

mod args;
mod console;
mod context;
mod failure;
mod fleet;
mod forward;
mod progress;
mod screen;
mod verbs;
mod watch;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::model::RunState;
use crate::observe::Boxed;

use args::{Arguments, Verb};
use console::Console;
use context::{Context, Surroundings};
use failure::{Exit, Failure, Outcome};
use verbs::hand::Asked;
use verbs::{apply, cases, doctor, drain, files, hand, image, inspect, look, plan, reach, texts, top, verify};

/// Runs the program with this process's arguments and streams.
pub fn main() -> ExitCode {
    // Before any thread.
    #[cfg(feature = "libvirt")]
    crate::host::prepare_process();
    let filter = tracing_subscriber::EnvFilter::try_from_env("STABLEHAND_LOG").unwrap_or_else(|_| "warn".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
    let arguments = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let console = Arc::new(Console::of_process());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            console.err(&Failure::caused("cannot begin", &error).render());
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(arguments, Surroundings::of_process(), console, None));
    // Calls of a hypervisor that does not answer are not waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Runs one command line; gives its exit code.
async fn run(
    arguments: Vec<String>,
    mut around: Surroundings,
    console: Arc<Console>,
    inside: Option<Arc<watch::Inside>>,
) -> u8 {
    let words = std::iter::once("stablehand".to_owned()).chain(arguments.iter().cloned());
    let mut parsed = match Arguments::try_parse_from(words) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            console.err(&error.render().to_string());
            return Exit::Usage as u8;
        }
        Err(help) => {
            console.out(&help.render().to_string());
            return Exit::Ok as u8;
        }
    };
    if let Some(fleet) = around.fleet.take() {
        parsed.global.fleet = fleet;
    }
    around.verb = verb_name(&parsed.verb).to_owned();
    let context = Context { global: parsed.global, around, console: console.clone(), inside };
    let result = match served(&context, &parsed.verb, &arguments).await {
        Some(Ok(code)) => return code,
        Some(Err(failure)) => Err(failure),
        None => dispatch(context, parsed.verb).await,
    };
    match result {
        Ok(exit) => exit as u8,
        Err(failure) => {
            console.err(&failure.render());
            failure.exit as u8
        }
    }
}

/// Runs one command line for a client of this process's `watch`. Boxed: a verb that serves verbs has no finite type.
fn run_inside(
    arguments: Vec<String>,
    around: Surroundings,
    console: Arc<Console>,
    inside: Arc<watch::Inside>,
) -> Boxed<'static, u8> {
    Box::pin(run(arguments, around, console, Some(inside)))
}

/// The verb's name, where locks show it to others.
fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Apply(_) => "apply",
        Verb::Watch(_) => "watch",
        Verb::Start(_) => "start",
        Verb::Stop(_) => "stop",
        Verb::Suspend(_) => "suspend",
        Verb::Restart(_) => "restart",
        Verb::Retry(_) => "retry",
        Verb::Drain(_) => "drain",
        Verb::Restore(_) => "restore",
        Verb::Quarantine(_) => "quarantine",
        Verb::Release(_) => "release",
        Verb::Image(_) => "image",
        _ => "a question",
    }
}

/// Whether a verb asks hosts, so that a running `watch` has to run it.
fn asks_hosts(verb: &Verb) -> bool {
    match verb {
        Verb::Plan(a) => a.seen.observed == "live",
        Verb::Graph(a) => a.observed == "live",
        Verb::Status(a) | Verb::Verify(a) => a.observed == "live",
        Verb::Images(a) => a.observed == "live",
        Verb::Describe(a) | Verb::Why(a) => a.observed == "live",
        Verb::Reach(a) => a.observed == "live",
        Verb::Matrix(a) => a.observed == "live",
        Verb::Drain(_)
        | Verb::Restore(_)
        | Verb::Quarantine(_)
        | Verb::Release(_)
        | Verb::Image(_)
        | Verb::Retry(_) => true,
        Verb::Apply(_) | Verb::Start(_) | Verb::Stop(_) | Verb::Suspend(_) | Verb::Restart(_) => true,
        Verb::Console(_) | Verb::Observe(_) | Verb::Export(_) | Verb::Adopt(_) | Verb::Top(_) => true,
        _ => false,
    }
}

/// Lets a running `watch` of the same fleet run a verb, when there is one.
async fn served(context: &Context, verb: &Verb, arguments: &[String]) -> Option<Result<u8, Failure>> {
    if context.inside.is_some() || !asks_hosts(verb) {
        return None;
    }
    // The state folder is called after the fleet. A fleet that does not validate has its errors shown by the verb.
    let snapshot = context.snapshot(None).ok()?;
    let name = crate::config::load(&snapshot).ok()?.desired.fleet.name;
    let folder = context.state_dir(&name).ok()?;
    forward::forward(&folder, context, arguments).await
}

async fn dispatch(context: Context, verb: Verb) -> Outcome {
    let c = &context;
    match verb {
        Verb::Init(a) => doctor::init(c, &a),
        Verb::Validate => texts::validate(c),
        Verb::Plan(a) => plan::plan(c, &a).await,
        Verb::Show(a) => plan::show(c, &a),
        Verb::Graph(a) => plan::graph(c, &a).await,
        Verb::Apply(a) => apply::apply(c, &a).await,
        Verb::Watch(a) => watch::watch(context, &a).await,
        Verb::Status(a) => look::status(c, &a).await,
        Verb::Images(a) => look::images(c, &a).await,
        Verb::Verify(a) => verify::verify(c, &a).await,
        Verb::Top(a) => top::top(c, &a).await,
        Verb::Get(a) => look::get(c, &a),
        Verb::Describe(a) => look::describe(c, &a).await,
        Verb::Why(a) => plan::why(c, &a).await,
        Verb::Reach(a) => reach::reach(c, &a).await,
        Verb::Matrix(a) => reach::matrix(c, &a).await,
        Verb::Explain(a) => texts::explain(c, &a),
        Verb::ExplainImpact => plan::explain_impact(c),
        Verb::Start(a) => hand::hand(c, Asked::Run(RunState::Started), &a.vms, a.withdraw).await,
        Verb::Stop(a) => hand::hand(c, Asked::Run(RunState::Stopped), &a.vms, a.withdraw).await,
        Verb::Suspend(a) => hand::hand(c, Asked::Run(RunState::Suspended), &a.vms, a.withdraw).await,
        Verb::Restart(a) => hand::hand(c, Asked::Restart, &a.vms, a.withdraw).await,
        Verb::Retry(a) => hand::retry(c, &a.task).await,
        Verb::Drain(a) => drain::drain(c, &a).await,
        Verb::Restore(a) => drain::restore(c, &a).await,
        Verb::Quarantine(a) => hand::quarantine(c, &a).await,
        Verb::Release(a) => hand::release(c, &a).await,
        Verb::Image(a) => image::image(c, &a).await,
        Verb::Console(a) => look::console(c, &a).await,
        Verb::Host(args::HostVerb::Inspect(a)) => inspect::inspect(c, &a).await,
        Verb::Observe(a) => plan::observe(c, &a).await,
        Verb::Doctor => doctor::doctor(c),
        Verb::Version => texts::version(c),
        Verb::Fmt(a) => files::format(c, &a),
        Verb::Export(a) => files::export(c, &a).await,
        Verb::Adopt(a) => files::adopt(c, &a).await,
        Verb::Test(a) => cases::test(c, &a),
        Verb::Sim(a) => files::simulate(c, &a),
        Verb::Schema(a) => files::schemas(c, &a),
    }
}

#[cfg(test)]
mod tests;
