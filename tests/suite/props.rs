//! Promises over all fleets and histories that a generator can think of: small fleets, hands, faults and crashes.
//!
//! The same seeds every time, so that a red build is red again; `PROPS=5000 cargo test props` looks further.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stablehand::execute::Outcome;
use stablehand::model::{Address, Bytes, Desired, Name, Protection, RunState, Snapshot};
use stablehand::plan::{Action, Class, Op, Plan, Verb};
use stablehand::reconcile::Approval;
use stablehand::sim::{Count, Event, Fault, FaultKind, Guest, Session, World};

use crate::lab;

/// An app, as far as the properties care.
#[derive(Clone, Debug)]
struct App {
    replicas: u32,
    memory: u64,
    head_room: bool,
    data: Option<(u64, bool)>,
    protect: usize,
    depends: bool,
    run: usize,
    reboot: bool,
    persistent: bool,
    newer_image: bool,
    max_per_host: Option<u32>,
    nic: bool,
}

/// What a commit says; hosts are the same in all commits of a history.
#[derive(Clone, Debug)]
struct Commit {
    apps: Vec<App>,
    module: Option<(usize, usize)>,
    removal: Option<(usize, bool)>,
    wide_limits: bool,
}

#[derive(Clone, Debug)]
struct Hosts(Vec<(u32, u64)>);

#[derive(Clone, Debug)]
enum Act {
    Follow(Commit),
    Apply,
    Unattended,
    Crash(u64),
    Fault(FaultKind, usize, u32),
    Hand(usize, usize),
    Host(usize, usize),
    Guest(usize, usize),
    Hold(usize, usize),
    Withdraw,
    Later(u64),
    Foreign(usize),
    LoseStore,
}

fn app() -> impl Strategy<Value = App> {
    (
        (0..4u32, prop::sample::select(vec![1u64, 2, 4]), any::<bool>(), prop::option::of((1..5u64, any::<bool>()))),
        (
            prop::sample::select(vec![0usize, 0, 0, 0, 1, 2, 3]),
            any::<bool>(),
            prop::sample::select(vec![0usize, 0, 0, 0, 1, 2]),
        ),
        (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::weighted(0.2, 1..3u32), any::<bool>()),
    )
        .prop_map(|(size, rules, rest)| App {
            replicas: size.0,
            memory: size.1,
            head_room: size.2,
            data: size.3,
            protect: rules.0,
            depends: rules.1,
            run: rules.2,
            reboot: rest.0,
            persistent: rest.1,
            newer_image: rest.2,
            max_per_host: rest.3,
            nic: rest.4,
        })
}

fn commit() -> impl Strategy<Value = Commit> {
    (
        prop::collection::vec(app(), 0..3),
        prop::option::weighted(0.2, (0..3usize, 0..3usize)),
        prop::option::weighted(0.3, (0..4usize, any::<bool>())),
        any::<bool>(),
    )
        .prop_map(|(apps, module, removal, wide_limits)| Commit { apps, module, removal, wide_limits })
}

fn hosts() -> impl Strategy<Value = Hosts> {
    prop::collection::vec((2..7u32, prop::sample::select(vec![6u64, 12, 24])), 1..4).prop_map(Hosts)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => commit().prop_map(Act::Follow),
        5 => Just(Act::Apply),
        1 => Just(Act::Unattended),
        3 => (0..25u64).prop_map(Act::Crash),
        2 => (prop::sample::select(vec![FaultKind::Fail, FaultKind::Hang, FaultKind::HalfFail, FaultKind::HalfUnknown]),
              0..OPS.len(), 1..3u32).prop_map(|(kind, op, n)| Act::Fault(kind, op, n)),
        4 => (0..8usize, 0..12usize).prop_map(|(what, vm)| Act::Hand(what, vm)),
        2 => (0..4usize, 0..3usize).prop_map(|(what, host)| Act::Host(what, host)),
        1 => (0..5usize, 0..12usize).prop_map(|(what, vm)| Act::Guest(what, vm)),
        1 => (0..4usize, 0..12usize).prop_map(|(what, vm)| Act::Hold(what, vm)),
        1 => Just(Act::Withdraw),
        1 => prop::sample::select(vec![1u64, 30, 200]).prop_map(Act::Later),
        1 => (0..3usize).prop_map(Act::Foreign),
        1 => Just(Act::LoseStore),
    ]
}

const OPS: [&str; 13] = [
    "PutImage",
    "MakeBridge",
    "Record",
    "MakeDisk",
    "MakeSeed",
    "Define",
    "Start",
    "Edit",
    "Stop",
    "Undefine",
    "DeleteDisk",
    "AwaitReady",
    "StayReady",
];

fn doc(kind: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    format!("apiVersion: stablehand/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

fn image(name: &str, byte: &str) -> String {
    let digest = byte.repeat(32);
    let spec = format!("source: {{path: {name}.qcow2}}\ndigest: sha256:{digest}\nformat: qcow2\n");
    doc("Image", name, &spec)
}

fn app_spec(app: &App, earlier: Option<&str>) -> String {
    let mut spec = format!("replicas: {{min: {}}}\nmemory: {}GiB\n", app.replicas, app.memory);
    spec += if app.newer_image { "image: newer\n" } else { "image: older\n" };
    if app.head_room {
        let _ = writeln!(spec, "maxMemory: {}GiB", app.memory * 2);
    }
    if let Some((size, delete)) = app.data {
        let fate = if delete { "delete" } else { "{retain: 2d}" };
        let _ = writeln!(spec, "disks: {{data: {{size: {size}GiB, onRemove: {fate}}}}}");
    }
    let _ = writeln!(spec, "protect: {}", ["none", "destroy", "recreate", "all"][app.protect]);
    let _ = writeln!(spec, "run: {}", ["started", "stopped", "suspended"][app.run]);
    let _ = writeln!(spec, "update: {}", if app.reboot { "reboot" } else { "staged" });
    if app.persistent {
        spec += "persistence: persistent\n";
    }
    if let (true, Some(earlier)) = (app.depends, earlier) {
        let _ = writeln!(spec, "dependsOn: [{earlier}]");
    }
    if let Some(n) = app.max_per_host {
        let _ = writeln!(spec, "spread: {{maxPerHost: {n}}}");
    }
    if app.nic {
        spec += "nics: {lan: {network: lan}}\n";
    }
    spec + "stop: {deadline: 20s, powerOff: true}\nready: {agent: {}, within: 30s}\n"
}

impl Commit {
    fn files(&self, hosts: &Hosts) -> Vec<(String, String)> {
        let limits = "limits: {destroy: 100%, recreate: 100%, reboot: 100%}\n";
        let fleet = if self.wide_limits { limits } else { "limits: {destroy: 3}\n" };
        let mut files = vec![("fleet.yaml".to_owned(), doc("Fleet", "lab", fleet))];
        for (n, (slots, memory)) in hosts.0.iter().enumerate() {
            let name = format!("h{}", n + 1);
            let spec = format!(
                "connection: qemu:///embed?root=/sim/{name}\nslots: {slots}\ncapacity: {{memory: {memory}GiB}}\n"
            );
            files.push((format!("hosts/{name}.yaml"), doc("Host", &name, &spec)));
        }
        files.push(("older.yaml".to_owned(), image("older", "a1")));
        files.push(("newer.yaml".to_owned(), image("newer", "b2")));
        let lan = "bridge: {name: shl0, create: true}\nsubnet: 10.1.0.0/24\nhostAddress: 10.1.0.1\nrange: {from: 10.1.0.10, to: 10.1.0.60}\n";
        files.push(("lan.yaml".to_owned(), doc("Network", "lan", lan)));
        for (n, app) in self.apps.iter().enumerate() {
            // Two apps of one service, so that they can wait for one another; then another service.
            let earlier = (n > 0).then_some("s0/web");
            let spec: String = app_spec(app, earlier).lines().map(|l| format!("    {l}\n")).collect();
            files.push((format!("s{n}.yaml"), doc("Service", &format!("s{n}"), &format!("apps:\n  web:\n{spec}"))));
        }
        if let Some((ann, bob)) = self.module {
            let run = ["started", "stopped", "suspended"];
            let spec = format!(
                "vms:\n  a: {{image: older, memory: 1GiB}}\n  b: {{image: older, memory: 1GiB, dependsOn: [a]}}\ninstances: {{ann: {{run: {}}}, bob: {{run: {}}}}}\n",
                run[ann], run[bob]
            );
            files.push(("course.yaml".to_owned(), doc("Module", "course", &spec)));
        }
        if let Some((target, delete)) = self.removal {
            let target = ["vm/s0-web-1", "service/s0", "service/s1", "fleet/lab"][target];
            let data = if delete { "delete" } else { "{retain: 1d}" };
            let spec = format!("target: {target}\ndata: {data}\nreason: a property\n");
            files.push(("removal.yaml".to_owned(), doc("Removal", "away", &spec)));
        }
        files
    }

    fn desired(&self, hosts: &Hosts) -> Option<Desired> {
        let files = self.files(hosts);
        let snapshot = Snapshot::of_texts(files.iter().map(|(p, t)| (p.as_str(), t.as_str())));
        // What the generator cannot know (spreading over too few hosts) is not a history.
        stablehand::config::load(&snapshot).ok().map(|l| l.desired)
    }
}

/// VMs that exist or should, in order.
fn names(session: &Session) -> Vec<Name> {
    let mut names: BTreeSet<Name> = session.desired.iter().flat_map(|d| d.vms.keys().cloned()).collect();
    session
        .fleet
        .with(|w| names.extend(w.hosts.values().flat_map(|h| h.domains.values()).filter_map(|d| d.vm().cloned())));
    names.into_iter().collect()
}

fn perform(session: &mut Session, hosts: &Hosts, act: &Act) {
    let names = names(session);
    let pick = |n: usize| (!names.is_empty()).then(|| names[n % names.len()].clone());
    let host = |n: usize| Name::new(&format!("h{}", n % hosts.0.len() + 1)).unwrap();
    // What hands do to a VM that is not there is nothing.
    let happen = |session: &Session, event: Event| session.fleet.with(|w| drop(w.happen(&event)));
    match act {
        Act::Follow(commit) => {
            if let Some(desired) = commit.desired(hosts) {
                session.follow(desired);
            }
        }
        Act::Apply => pass(session, &Approval::Everything, None),
        Act::Unattended => pass(session, &Approval::Unattended, None),
        Act::Crash(after) => pass(session, &Approval::Everything, Some(*after)),
        Act::Fault(kind, op, times) => session.fleet.with(|w| {
            let count = Count::Times(*times);
            w.faults.push(Fault { kind: *kind, op: OPS[*op].to_owned(), subject: None, host: None, count });
        }),
        Act::Hand(what, vm) => {
            let Some(vm) = pick(*vm) else { return };
            let event = match what {
                0 => Event::StopVm(vm),
                1 => Event::PauseVm(vm),
                2 => Event::CrashVm(vm),
                3 => Event::Undefine(vm),
                4 => Event::SetMemory(vm, Bytes::gib(1)),
                5 => Event::SetMemory(vm, Bytes::gib(3)),
                6 => Event::SetCpus(vm, 2),
                _ => Event::Autostart(vm, true),
            };
            happen(session, event);
        }
        Act::Host(what, n) => {
            happen(session, [Event::Kill, Event::Partition, Event::Revive, Event::FlushFilter][*what](host(*n)));
        }
        Act::Guest(what, vm) => {
            let Some(vm) = pick(*vm) else { return };
            let usual = Guest::default();
            let guest = match what {
                0 => Guest { boot_millis: None, ..usual },
                1 => Guest { shutdown_millis: None, ..usual },
                2 => Guest { cooperates: false, ..usual },
                3 => Guest { boot_millis: Some(29_000), ..usual },
                _ => usual,
            };
            session.fleet.with(|w| w.guests.insert(vm, guest));
        }
        Act::Hold(what, vm) => {
            let Some(vm) = pick(*vm) else { return };
            let run = [RunState::Started, RunState::Stopped, RunState::Suspended];
            session.fleet.with(|w| {
                let who = stablehand::model::Hold { run: run[*what % 3], who: "ann".into(), at: w.now() };
                let demand = &mut w.memory.demand;
                if *what == 3 {
                    demand.restarts.insert(vm, who)
                } else {
                    demand.holds.insert(vm, who)
                };
            });
        }
        Act::Withdraw => session.fleet.with(|w| w.memory.demand = stablehand::model::Demand::default()),
        Act::Later(hours) => happen(session, Event::Advance(hours * 3_600_000)),
        Act::Foreign(n) => happen(session, Event::Foreign(format!("old-{n}"), host(*n), Bytes::gib(1))),
        Act::LoseStore => happen(session, Event::DeleteStore),
    }
}

/// One pass; everything that must hold of its plan and of what it did.
fn pass(session: &mut Session, approval: &Approval, crash: Option<u64>) {
    let Some(plan) = session.plan() else { return };
    let before = session.fleet.world();
    sound(&plan, session, &before, |_| true);
    if let Some(after) = crash {
        session.fleet.crash_after(after);
    }
    let applied = session.apply(approval).unwrap();
    for (plan, report) in &applied.passed.rounds {
        // A later round sees what an earlier one changed: what it does is still held to the world as it was.
        let begun = |o: &Outcome| matches!(o, Outcome::Done | Outcome::Failed { .. });
        let done: BTreeSet<_> = report.outcomes.iter().filter(|(_, o)| begun(o)).map(|(id, _)| id.clone()).collect();
        sound(plan, session, &before, |action| done.contains(&action.id));
    }
    lab::kept(session);
    let quiet = session.fleet.with(|w| w.hosts.values().all(|h| h.away.is_none()) && w.guests.is_empty());
    if *approval == Approval::Everything && applied.is_complete() && quiet {
        let again = lab::plan(session);
        // What was blocked may be open now: there is room, or a protection was lowered first.
        let was_blocked: BTreeSet<&Address> = blocked(&applied.passed.plan).chain(blocked(&plan)).collect();
        let open = again.actions.iter().filter(|a| !a.is_blocked() && !was_blocked.contains(&a.subject));
        let new: Vec<_> = open.filter(|a| a.subject.kind() == "vm" || was_blocked.is_empty()).map(|a| &a.id).collect();
        assert!(new.is_empty(), "planned again:\n{}\nfirst:\n{}", lab::text(&again), lab::text(&plan));
    }
}

fn blocked(plan: &Plan) -> impl Iterator<Item = &Address> {
    plan.actions.iter().filter(|a| a.is_blocked()).map(|a| &a.subject)
}

/// What must hold of every plan, told from the world as it was before the pass.
fn sound(plan: &Plan, session: &Session, before: &World, counts: impl Fn(&Action) -> bool) {
    let wrong = stablehand::plan::check::check(plan);
    assert!(wrong.is_empty(), "{wrong:?}\n{}", lab::text(plan));
    let desired = session.desired.as_ref().unwrap();
    for action in plan.actions.iter().filter(|a| !a.is_blocked() && counts(a)) {
        for step in &action.steps {
            if let Op::Define { domain, .. } = &step.op {
                let dark = before.hosts.iter().filter(|(n, h)| h.away.is_some() && **n != step.host);
                let there = dark.filter(|(_, h)| h.domain_of(&desired.fleet.name, &domain.vm).is_some()).count();
                assert_eq!(there, 0, "{} is made while it may run on a host that does not answer", domain.vm);
            }
        }
        let Address::Vm(vm) = &action.subject else { continue };
        let stamps = before.hosts.values().filter_map(|h| h.domain_of(&desired.fleet.name, vm));
        let protect = stamps.filter_map(|(_, d)| d.stamp.as_ref()).map(|s| s.protect).max().unwrap_or_default();
        let removed = desired.removals.iter().any(|r| r.target == action.subject);
        let harm = match action.impact.class {
            // A disk that left the YAML by itself goes by its own `onRemove`; protection is of the VM.
            _ if action.verb == Verb::Expire => false,
            Class::DestroyData | Class::DestroyKeep => protect >= Protection::Destroy,
            Class::Recreate | Class::RecreateData => protect >= Protection::Recreate,
            Class::Reboot | Class::Cold => protect == Protection::All,
            _ => false,
        };
        assert!(!harm || removed, "{} is protected ({protect:?}):\n{}", action.subject, lab::text(plan));
    }
}

/// All faults end; a few passes later nothing is left but what is blocked, and what should run does, once.
fn converges(session: &mut Session) {
    session.fleet.with(|w| {
        w.faults.clear();
        w.guests.clear();
        w.scheduled.clear();
        for host in w.hosts.values_mut() {
            host.away = None;
        }
    });
    for _ in 0..4 {
        pass(session, &Approval::Everything, None);
        if lab::open(&lab::plan(session)).is_empty() {
            return settled(session);
        }
    }
    panic!("it does not converge:\n{}", lab::text(&lab::plan(session)));
}

fn settled(session: &Session) {
    let plan = lab::plan(session);
    let desired = session.desired.as_ref().unwrap();
    let quiet: BTreeSet<Address> = plan.actions.iter().map(|a| a.subject.clone()).collect();
    let world = session.fleet.world();
    // Where a document and a Removal speak of the same VM, the Removal wins.
    let removed = |n: &Name| {
        let owner = desired.vms[n].owner.address();
        let covers = |t: &Address| *t == Address::Vm(n.clone()) || *t == owner || matches!(t, Address::Fleet(_));
        desired.removals.iter().any(|r| covers(&r.target))
    };
    for (name, vm) in desired.vms.iter().filter(|(n, _)| !quiet.contains(&Address::Vm((*n).clone())) && !removed(n)) {
        let held = world.memory.demand.holds.get(name).map_or(vm.run, |h| h.run);
        let running = world.running(&desired.fleet.name, name).len();
        assert_eq!(running, usize::from(held == RunState::Started), "{name} should be {held:?}\n{}", lab::text(&plan));
    }
}

fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let cases = std::env::var("PROPS").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    if let Err(error) = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    }) {
        panic!("{error}");
    }
}

#[test]
fn every_history_converges_and_keeps_every_promise() {
    check(300, (hosts(), commit(), prop::collection::vec(act(), 1..10), commit()), |(hosts, first, acts, last)| {
        let mut session = Session::default();
        let Some(desired) = first.desired(&hosts) else { return };
        session.follow(desired);
        for act in &acts {
            perform(&mut session, &hosts, act);
        }
        converges(&mut session);
        perform(&mut session, &hosts, &Act::Follow(last));
        converges(&mut session);
    });
}

#[test]
fn a_crash_after_any_prefix_of_any_change_converges_in_one_pass() {
    check(25, (hosts(), commit(), commit()), |(hosts, first, second)| {
        let (Some(first), Some(second)) = (first.desired(&hosts), second.desired(&hosts)) else { return };
        let mut whole = Session::default();
        whole.follow(first);
        whole.apply(&Approval::Everything).unwrap();
        let start = whole.fleet.world();
        whole.follow(second.clone());
        let steps = whole.apply(&Approval::Everything).unwrap().steps;
        let usual = lab::open(&lab::plan(&whole));
        for after in 0..steps {
            let mut session = Session::new(stablehand::sim::SimFleet::new(start.clone()));
            session.follow(second.clone());
            pass(&mut session, &Approval::Everything, Some(after));
            pass(&mut session, &Approval::Everything, None);
            let left = lab::plan(&session);
            // What a lowered protection had blocked follows in a second pass, crash or not.
            let new: Vec<_> = lab::open(&left).into_iter().filter(|id| !usual.contains(id)).collect();
            assert!(new.is_empty(), "after {after} steps {new:?}:\n{}", lab::text(&left));
            settled(&session);
        }
    });
}

#[test]
fn shuffled_files_give_the_same_bytes() {
    let seeds = prop::collection::vec(any::<prop::sample::Index>(), 12);
    check(100, (hosts(), commit(), seeds), |(hosts, commit, seeds)| {
        let files = commit.files(&hosts);
        let snapshot = Snapshot::of_texts(files.iter().map(|(p, t)| (p.as_str(), t.as_str())));
        let mut shuffled = snapshot.clone();
        for (n, seed) in seeds.iter().enumerate() {
            let (len, n) = (shuffled.files.len(), n % shuffled.files.len());
            shuffled.files.swap(n, seed.index(len));
        }
        let bytes = |snapshot: &Snapshot| {
            let mut session = Session::default();
            session.follow(stablehand::config::load(snapshot).ok()?.desired);
            Some(stablehand::render::json(&session.plan()?))
        };
        assert_eq!(bytes(&snapshot), bytes(&shuffled));
    });
}
