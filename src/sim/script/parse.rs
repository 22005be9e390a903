//! Lines become statements, each with its number; an unknown word gets a suggestion.

use std::str::FromStr;

use crate::model::{Acceleration, Name, Others, RunState, Span, Then};
use crate::sim::faults::OPS;
use crate::sim::{Count, Event, Fault, FaultKind, Guest, HostSize, Rewire, Stage};

/// What is wrong in a script, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct ScriptError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// A machine, its size, what its acceleration probe finds, and its processor.
    Host(Name, HostSize, Option<Acceleration>, Option<String>),
    /// A fleet's folder becomes desired state.
    Load(String),
    /// Prints the plan.
    Plan,
    /// Plans and carries it out.
    Apply(Option<Crash>),
    /// A step that will go wrong.
    Fault(Fault),
    /// Something happens now.
    Event(Event),
    /// Something happens after this many steps of the next apply.
    At(u64, Event),
    /// Something happens at a stage of a VM's migration.
    AtStage(Name, Stage, Event),
    /// A host is to be emptied.
    Drain(Name, Others, String),
    /// The VMs of a host are to come back.
    Restore(Name, String),
    /// From now on another controller acts, with what it remembers.
    Controller(String),
    /// How a guest behaves from now on.
    Guest(Name, GuestChange),
    /// Whether VMs made of an image ever get ready: by the first digits of its digest.
    Image(String, bool),
    /// Somebody asks for a state.
    Hold(Name, RunState, String),
    /// Somebody asks for a restart.
    Restart(Name, String),
    /// Somebody, or with no name its guard, puts a VM into quarantine; what happens to it then, unless its guard says that.
    Quarantine(Name, Option<Then>, Option<String>),
    /// Somebody lets a VM out of quarantine.
    Release(Name, String),
    /// Somebody asks that a task be tried again where it failed.
    Retry(Name, String),
    /// What somebody asked for is withdrawn.
    Withdraw(Name),
    /// Something is said of an image that is made in the fleet.
    ImageSaid(Name, ImageWord, String),
    /// Something that must be so.
    Expect(Expect),
    /// Prints something.
    Show(Show),
}

/// Where an apply ends as with `kill -9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// After this many steps.
    pub after: u64,
}

/// A change of a guest's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestChange {
    /// Ready this long after its start.
    BootsIn(Span),
    /// Never ready.
    NeverBoots,
    /// Shuts down in this time.
    ShutsDownIn(Span),
    /// Ignores a shutdown.
    IgnoresShutdown,
    /// Writes to its memory as fast as a link carries.
    NeverConverges,
    /// Gives and takes nothing while it runs.
    KeepsItsMemory,
    /// No agent answers in it, or one does again.
    Agent(bool),
    /// Programs that are run in it fail, or work again.
    Refuses(bool),
    /// As guests are.
    Behaves,
}

impl GuestChange {
    /// The behaviour after the change.
    pub fn of(self, guest: Guest) -> Guest {
        match self {
            Self::BootsIn(span) => Guest { boot_millis: Some(span.0), ..guest },
            Self::NeverBoots => Guest { boot_millis: None, ..guest },
            Self::ShutsDownIn(span) => Guest { shutdown_millis: Some(span.0), ..guest },
            Self::IgnoresShutdown => Guest { shutdown_millis: None, ..guest },
            Self::NeverConverges => Guest { converges: false, ..guest },
            Self::KeepsItsMemory => Guest { cooperates: false, ..guest },
            Self::Agent(agent) => Guest { agent, ..guest },
            Self::Refuses(refuses) => Guest { refuses, ..guest },
            Self::Behaves => Guest::default(),
        }
    }
}

/// What is said of an image that is made in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageWord {
    /// It was configured by hand, and that is done.
    Seal,
    /// It is given up.
    Abandon,
    /// It is to be tried again.
    Retry,
}

/// What must be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Planning now gives nothing at all.
    NoChanges,
    /// Planning now gives this many actions that are not blocked.
    Changes(usize),
    /// Planning now gives this many blocked actions.
    Blocked(usize),
    /// Where a VM is: `running`, `moving`, `stopped`, `suspended`, `paused`, `crashed` or `absent`.
    Vm(Name, String, Option<Name>),
    /// Whether a promise was broken.
    Violation(bool),
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Hosts and what they hold.
    Hosts,
    /// Domains.
    Vms,
    /// Disks.
    Disks,
    /// Packet filters.
    Filters,
    /// What was done inside guests.
    Guests,
    /// Steps that changed the world since the last time.
    Log,
}

/// First words of statements, for suggestions.
const VERBS: [&str; 52] = [
    "quarantine",
    "release",
    "guard",
    "seal",
    "abandon",
    "flush",
    "damage",
    "filter",
    "heal",
    "swap",
    "take",
    "fence",
    "drain",
    "restore",
    "controller",
    "host",
    "load",
    "plan",
    "apply",
    "fail",
    "hang",
    "half",
    "mute",
    "at",
    "kill",
    "cut",
    "revive",
    "slow",
    "stop",
    "start",
    "pause",
    "crash",
    "undefine",
    "set",
    "define",
    "lose",
    "foreign",
    "bridge",
    "interface",
    "unplug",
    "lock",
    "unlock",
    "delete",
    "advance",
    "guest",
    "image",
    "hold",
    "restart",
    "retry",
    "withdraw",
    "expect",
    "show",
];

/// Reads a script: each statement with its line.
///
/// # Errors
/// The first line that is not a statement.
pub fn parse(text: &str) -> Result<Vec<(usize, Statement)>, ScriptError> {
    let mut statements = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let parsed = statement(&words).map_err(|text| ScriptError { line: index + 1, text })?;
        statements.push((index + 1, parsed));
    }
    Ok(statements)
}

fn statement(words: &[&str]) -> Result<Statement, String> {
    Ok(match words {
        ["host", name, rest @ ..] => host(name, rest)?,
        ["load", folder] => Statement::Load((*folder).to_owned()),
        ["plan"] => Statement::Plan,
        ["apply"] => Statement::Apply(None),
        ["apply", "crash", "after", "step", n] => Statement::Apply(Some(Crash { after: number(n)? })),
        ["apply", "crash", "before", "step", n] => {
            Statement::Apply(Some(Crash { after: number::<u64>(n)?.saturating_sub(1) }))
        }
        ["fail", "step", rest @ ..] => fault(FaultKind::Fail, rest)?,
        ["hang", "step", rest @ ..] => fault(FaultKind::Hang, rest)?,
        ["half", "step", rest @ ..] => fault(FaultKind::HalfFail, rest)?,
        ["mute", "step", rest @ ..] => fault(FaultKind::HalfUnknown, rest)?,
        ["at", "step", n, rest @ ..] => Statement::At(number(n)?, event(rest)?.ok_or("an event is missing")?),
        ["at", stage, "of", vm, rest @ ..] => {
            Statement::AtStage(name(vm)?, self::stage(stage)?, event(rest)?.ok_or("an event is missing")?)
        }
        ["drain", host, "by", who] => Statement::Drain(name(host)?, Others::Leave, (*who).to_owned()),
        ["drain", host, "cold", "by", who] => Statement::Drain(name(host)?, Others::Cold, (*who).to_owned()),
        ["drain", host, "stop", "by", who] => Statement::Drain(name(host)?, Others::Stop, (*who).to_owned()),
        ["restore", host, "by", who] => Statement::Restore(name(host)?, (*who).to_owned()),
        ["controller", who] => Statement::Controller((*who).to_owned()),
        ["guest", vm, rest @ ..] => Statement::Guest(name(vm)?, guest(rest)?),
        ["image", digits, "never", "boots"] => Statement::Image((*digits).to_owned(), false),
        ["image", digits, "boots"] => Statement::Image((*digits).to_owned(), true),
        ["hold", vm, state, "by", who] => Statement::Hold(name(vm)?, run_state(state)?, (*who).to_owned()),
        ["restart", vm, "by", who] => Statement::Restart(name(vm)?, (*who).to_owned()),
        ["quarantine", vm, "by", who] => Statement::Quarantine(name(vm)?, None, Some((*who).to_owned())),
        ["quarantine", vm, then, "by", who] => {
            let known = Then::ALL.into_iter().find(|t| t.word() == *then);
            let then = known.ok_or_else(|| format!("`{then}` is not close, suspend or stop"))?;
            Statement::Quarantine(name(vm)?, Some(then), Some((*who).to_owned()))
        }
        ["guard", "of", vm, "fails"] => Statement::Quarantine(name(vm)?, None, None),
        ["release", vm, "by", who] => Statement::Release(name(vm)?, (*who).to_owned()),
        ["retry", "task", task, "by", who] => Statement::Retry(name(task)?, (*who).to_owned()),
        ["withdraw", vm] => Statement::Withdraw(name(vm)?),
        ["seal", image, "by", who] => Statement::ImageSaid(name(image)?, ImageWord::Seal, (*who).to_owned()),
        ["abandon", image, "by", who] => Statement::ImageSaid(name(image)?, ImageWord::Abandon, (*who).to_owned()),
        ["retry", image, "by", who] => Statement::ImageSaid(name(image)?, ImageWord::Retry, (*who).to_owned()),
        ["expect", rest @ ..] => Statement::Expect(expect(rest)?),
        ["show", "hosts"] => Statement::Show(Show::Hosts),
        ["show", "vms"] => Statement::Show(Show::Vms),
        ["show", "disks"] => Statement::Show(Show::Disks),
        ["show", "filters"] => Statement::Show(Show::Filters),
        ["show", "guests"] => Statement::Show(Show::Guests),
        ["show", "log"] => Statement::Show(Show::Log),
        _ => match event(words)? {
            Some(event) => Statement::Event(event),
            None => return Err(unknown(words)),
        },
    })
}

fn unknown(words: &[&str]) -> String {
    let first = words.first().copied().unwrap_or_default();
    let line = words.join(" ");
    if VERBS.contains(&first) {
        return format!("`{line}` is not a form of `{first}`: see the list of statements");
    }
    format!("`{first}` is not a statement{}", did_you_mean(first, &VERBS))
}

fn did_you_mean(word: &str, known: &[&str]) -> String {
    let best = known.iter().map(|k| (strsim::damerau_levenshtein(word, k), k)).min();
    best.filter(|(distance, _)| *distance <= 2).map(|(_, k)| format!(": did you mean `{k}`?")).unwrap_or_default()
}

fn event(words: &[&str]) -> Result<Option<Event>, String> {
    Ok(Some(match words {
        ["kill", "host", host] => Event::Kill(name(host)?),
        ["cut", "host", host] => Event::Partition(name(host)?),
        ["revive", "host", host] => Event::Revive(name(host)?),
        ["cut", "link", one, other] => Event::CutLink(name(one)?, name(other)?),
        ["heal", "link", one, other] => Event::HealLink(name(one)?, name(other)?),
        ["slow", "link", one, other, rate] => Event::SlowLink(name(one)?, name(other)?, quantity(rate)?),
        ["swap", "host", host] => Event::Swap(name(host)?),
        ["swap", "back", "host", host] => Event::SwapBack(name(host)?),
        ["restart", "libvirtd", "on", host] => Event::RestartDaemon(name(host)?),
        ["fence", "of", host, "fails"] => Event::Fencing(name(host)?, false),
        ["fence", "of", host, "works"] => Event::Fencing(name(host)?, true),
        ["slow", "host", host, times] => Event::Load(name(host)?, number::<u64>(times)?.saturating_mul(1000)),
        ["stop", "vm", vm] => Event::StopVm(name(vm)?),
        ["start", "vm", vm] => Event::StartVm(name(vm)?),
        ["pause", "vm", vm] => Event::PauseVm(name(vm)?),
        ["crash", "vm", vm] => Event::CrashVm(name(vm)?),
        ["undefine", "vm", vm] => Event::Undefine(name(vm)?),
        ["set", "vm", vm, "memory", memory] => Event::SetMemory(name(vm)?, quantity(memory)?),
        ["set", "vm", vm, "cpus", cpus] => Event::SetCpus(name(vm)?, number(cpus)?),
        ["define", "vm", vm, "cpus", cpus] => Event::DefineCpus(name(vm)?, number(cpus)?),
        ["set", "vm", vm, "address", address] => {
            let wrong = |_| format!("`{address}` is not an address");
            Event::GiveAddress(name(vm)?, address.parse().map_err(wrong)?)
        }
        ["set", "vm", vm, "autostart", on @ ("on" | "off")] => Event::Autostart(name(vm)?, *on == "on"),
        ["lose", "disk", disk, "of", vm] => Event::LoseDisk(name(vm)?, (*disk).to_owned()),
        ["take", "device", device, "from", vm] => Event::TakeDevice(name(vm)?, name(device)?),
        ["foreign", "vm", domain, "memory", memory, "on", host] => {
            Event::Foreign((*domain).to_owned(), name(host)?, quantity(memory)?)
        }
        ["bridge", bridge, "on", host] => Event::Rewire(name(host)?, (*bridge).to_owned(), Rewire::Bridge),
        ["lose", "bridge", bridge, "on", host] => Event::Rewire(name(host)?, (*bridge).to_owned(), Rewire::LoseBridge),
        ["flush", "border", bridge, "on", host] => {
            Event::Rewire(name(host)?, (*bridge).to_owned(), Rewire::FlushBorder)
        }
        ["interface", device, "on", host] => Event::Rewire(name(host)?, (*device).to_owned(), Rewire::Interface(None)),
        ["interface", device, "on", host, "with", address] => {
            Event::Rewire(name(host)?, (*device).to_owned(), Rewire::Interface(Some((*address).to_owned())))
        }
        ["lose", "interface", device, "on", host] => {
            Event::Rewire(name(host)?, (*device).to_owned(), Rewire::LoseInterface)
        }
        ["unplug", device, "on", host] => Event::Rewire(name(host)?, (*device).to_owned(), Rewire::Unplug),
        ["flush", "filter", "on", host] => Event::FlushFilter(name(host)?),
        ["damage", "filter", "on", host] => Event::DamageFilter(name(host)?),
        ["filter", "of", host, "fails"] => Event::Filtering(name(host)?, false),
        ["filter", "of", host, "works"] => Event::Filtering(name(host)?, true),
        ["lock", "host", host, "by", who] => Event::Lock(name(host)?, (*who).to_owned()),
        ["unlock", "host", host] => Event::Unlock(name(host)?),
        ["crash", "controller"] => Event::CrashUs,
        ["delete", "store"] => Event::DeleteStore,
        ["advance", span] => Event::Advance(quantity::<Span>(span)?.0),
        _ => return Ok(None),
    }))
}

fn host(host: &str, rest: &[&str]) -> Result<Statement, String> {
    let mut size = HostSize::default();
    let mut acceleration = None;
    let mut cpu = None;
    for pair in rest.chunks(2) {
        match pair {
            ["cpus", n] => size.cpus = number(n)?,
            ["memory", bytes] => size.memory = quantity(bytes)?,
            ["disk", bytes] => size.disk = quantity(bytes)?,
            ["acceleration", "kvm"] => acceleration = Some(Acceleration::Kvm),
            ["acceleration", "tcg"] => acceleration = Some(Acceleration::Tcg),
            ["cpu", model] => cpu = Some((*model).to_owned()),
            other => return Err(format!("`{}` is not something of a host", other.join(" "))),
        }
    }
    Ok(Statement::Host(name(host)?, size, acceleration, cpu))
}

/// `OP [of SUBJECT] [on HOST] [once | twice | N times | always]`; once when it is not said.
fn fault(kind: FaultKind, words: &[&str]) -> Result<Statement, String> {
    let (op, mut rest) = words.split_first().ok_or("which step?")?;
    if !OPS.contains(op) {
        return Err(format!("`{op}` is not a step{}", did_you_mean(op, &OPS)));
    }
    let mut fault = Fault { kind, op: (*op).to_owned(), subject: None, host: None, count: Count::Times(1) };
    loop {
        rest = match rest {
            [] => return Ok(Statement::Fault(fault)),
            ["of", subject, more @ ..] => {
                fault.subject = Some((*subject).to_owned());
                more
            }
            ["on", host, more @ ..] => {
                fault.host = Some(name(host)?);
                more
            }
            ["once", more @ ..] => more,
            ["twice", more @ ..] => {
                fault.count = Count::Times(2);
                more
            }
            [n, "times", more @ ..] => {
                fault.count = Count::Times(number(n)?);
                more
            }
            ["always", more @ ..] => {
                fault.count = Count::Always;
                more
            }
            other => return Err(format!("`{}` says nothing about a step", other.join(" "))),
        };
    }
}

fn guest(words: &[&str]) -> Result<GuestChange, String> {
    Ok(match words {
        ["boots", "in", span] => GuestChange::BootsIn(quantity(span)?),
        ["never", "boots"] => GuestChange::NeverBoots,
        ["shuts", "down", "in", span] => GuestChange::ShutsDownIn(quantity(span)?),
        ["ignores", "shutdown"] => GuestChange::IgnoresShutdown,
        ["never", "converges"] => GuestChange::NeverConverges,
        ["keeps", "its", "memory"] => GuestChange::KeepsItsMemory,
        ["has", "no", "agent"] => GuestChange::Agent(false),
        ["has", "an", "agent"] => GuestChange::Agent(true),
        ["fails", "programs"] => GuestChange::Refuses(true),
        ["runs", "programs"] => GuestChange::Refuses(false),
        ["behaves"] => GuestChange::Behaves,
        other => return Err(format!("a guest does not `{}`", other.join(" "))),
    })
}

fn expect(words: &[&str]) -> Result<Expect, String> {
    Ok(match words {
        ["no", "changes"] => Expect::NoChanges,
        ["changes", n] => Expect::Changes(number(n)?),
        ["blocked", n] => Expect::Blocked(number(n)?),
        ["no", "violation"] => Expect::Violation(false),
        ["violation"] => Expect::Violation(true),
        ["vm", vm, state] => Expect::Vm(name(vm)?, power(state)?, None),
        ["vm", vm, state, "on", host] => Expect::Vm(name(vm)?, power(state)?, Some(name(host)?)),
        other => return Err(format!("`{}` cannot be expected", other.join(" "))),
    })
}

fn power(word: &str) -> Result<String, String> {
    const WORDS: [&str; 7] = ["running", "moving", "stopped", "suspended", "paused", "crashed", "absent"];
    let known = WORDS.contains(&word).then(|| word.to_owned());
    known.ok_or_else(|| format!("`{word}` is not a state{}", did_you_mean(word, &WORDS)))
}

fn stage(word: &str) -> Result<Stage, String> {
    match word {
        "storage" => Ok(Stage::Storage),
        "memory" => Ok(Stage::Memory),
        "hand-over" => Ok(Stage::HandOver),
        "arrival" => Ok(Stage::Arrived),
        _ => Err(format!("`{word}` is not storage, memory, hand-over or arrival")),
    }
}

fn run_state(word: &str) -> Result<RunState, String> {
    match word {
        "started" => Ok(RunState::Started),
        "stopped" => Ok(RunState::Stopped),
        "suspended" => Ok(RunState::Suspended),
        _ => Err(format!("`{word}` is not started, stopped or suspended")),
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|e| e.to_string())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn quantity<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_the_line_and_what_was_meant() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("plan\n\nplna"), "line 3: `plna` is not a statement: did you mean `plan`?");
        assert_eq!(error("fail step Strat of web-1"), "line 1: `Strat` is not a step: did you mean `Start`?");
        assert_eq!(error("host h1 memory 16"), "line 1: `16` has no unit");
        assert_eq!(error("kill h2"), "line 1: `kill h2` is not a form of `kill`: see the list of statements");
        assert_eq!(error("expect vm a runing"), "line 1: `runing` is not a state: did you mean `running`?");
    }

    #[test]
    fn faults_are_about_a_step_a_subject_a_host_and_a_count() {
        let parsed = parse("hang step Start of web-1 on h2 3 times # a comment").unwrap();
        let fault = Fault {
            kind: FaultKind::Hang,
            op: "Start".to_owned(),
            subject: Some("web-1".to_owned()),
            host: Some(Name::new("h2").unwrap()),
            count: Count::Times(3),
        };
        assert_eq!(parsed, [(1, Statement::Fault(fault))]);
        assert_eq!(parse("at step 5 cut host h2").unwrap().len(), 1);
    }
}
