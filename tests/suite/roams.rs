//! Promises over histories of fleets whose VMs move: hosts are drained and restored, links and hosts are cut, lose their
//! power and come back, we are ended and begin anew, somebody suspends and starts by hand, at any stage of any move.
//!
//! A history is a script of the simulator, so that one that fails reads as a scenario does, and can become one.
//! The same seeds every time; `PROPS=5000 cargo test roams` looks further.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stablehand::model::{Name, Snapshot};
use stablehand::plan::Block;
use stablehand::reconcile::Approval;
use stablehand::sim::Session;
use stablehand::sim::script::{Statement, parse};

use crate::lab;

/// Hosts of every fleet.
const HOSTS: usize = 3;
/// VMs that are there, and may be at any host.
const VMS: [&str; 4] = ["shop-api-1", "shop-web-1", "shop-web-2", "shop-web-3"];
const STAGES: [&str; 4] = ["storage", "memory", "hand-over", "arrival"];

/// What all histories of a fleet have in common.
#[derive(Clone, Copy, Debug)]
struct Fleet {
    shared: bool,
    fence: bool,
    slots: u32,
}

/// One line of a history, or several that belong together.
#[derive(Clone, Debug)]
enum Act {
    Drain(usize, usize),
    Restore(usize),
    Withdraw(usize),
    Apply,
    Crash(u64),
    Fault(usize, usize),
    Happens(Blow),
    /// At a stage of a VM's next move.
    At(usize, usize, Blow),
    Hand(usize, usize),
    Wait(u64),
}

/// What befalls hosts and links.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill(usize),
    /// All at once.
    Dark,
    Cut(usize),
    Revive(usize),
    CutLink(usize),
    HealLink(usize),
    Libvirtd(usize),
    Flush(usize),
    CrashUs,
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        3 => (0..HOSTS).prop_map(Blow::Kill),
        1 => Just(Blow::Dark),
        3 => (0..HOSTS).prop_map(Blow::Cut),
        3 => (0..HOSTS).prop_map(Blow::Revive),
        3 => (0..HOSTS).prop_map(Blow::CutLink),
        2 => (0..HOSTS).prop_map(Blow::HealLink),
        1 => (0..HOSTS).prop_map(Blow::Libvirtd),
        1 => (0..HOSTS).prop_map(Blow::Flush),
        2 => Just(Blow::CrashUs),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..HOSTS, 0..3usize).prop_map(|(host, how)| Act::Drain(host, how)),
        2 => (0..HOSTS).prop_map(Act::Restore),
        2 => (0..HOSTS).prop_map(Act::Withdraw),
        6 => Just(Act::Apply),
        3 => (0..25u64).prop_map(Act::Crash),
        1 => (0..OPS.len(), 0..3usize).prop_map(|(op, kind)| Act::Fault(op, kind)),
        3 => blow().prop_map(Act::Happens),
        5 => (0..STAGES.len(), 0..VMS.len(), blow()).prop_map(|(stage, vm, blow)| Act::At(stage, vm, blow)),
        2 => (0..6usize, 0..VMS.len()).prop_map(|(what, vm)| Act::Hand(what, vm)),
        2 => prop::sample::select(vec![10u64, 120, 600]).prop_map(Act::Wait),
    ]
}

const OPS: [&str; 9] =
    ["CopyDisk", "DefineFrom", "RetireDisk", "StampDisk", "DropRemnant", "Migrate", "Record", "Unrecord", "Undefine"];

impl Blow {
    fn lines(self) -> Vec<String> {
        let host = |n: usize| format!("h{}", n + 1);
        let link = |n: usize| format!("h{} h{}", n + 1, (n + 1) % HOSTS + 1);
        match self {
            Self::Kill(n) => vec![format!("kill host {}", host(n))],
            Self::Dark => (0..HOSTS).map(|n| format!("kill host {}", host(n))).collect(),
            Self::Cut(n) => vec![format!("cut host {}", host(n))],
            Self::Revive(n) => vec![format!("revive host {}", host(n))],
            Self::CutLink(n) => vec![format!("cut link {}", link(n))],
            Self::HealLink(n) => vec![format!("heal link {}", link(n))],
            Self::Libvirtd(n) => vec![format!("restart libvirtd on {}", host(n))],
            Self::Flush(n) => vec![format!("flush filter on {}", host(n))],
            Self::CrashUs => Vec::new(),
        }
    }
}

impl Act {
    fn lines(&self) -> Vec<String> {
        let host = |n: usize| format!("h{}", n + 1);
        match self {
            Self::Drain(n, how) => vec![format!("drain {}{} by ann", host(*n), ["", " cold", " stop"][*how])],
            Self::Restore(n) => vec![format!("restore {} by ann", host(*n))],
            Self::Withdraw(n) => vec![format!("withdraw {}", host(*n))],
            Self::Apply => vec!["apply".to_owned()],
            Self::Crash(after) => vec![format!("apply crash after step {after}")],
            Self::Fault(op, kind) => vec![format!("{} step {} once", ["fail", "half", "mute"][*kind], OPS[*op])],
            Self::Happens(blow) => blow.lines(),
            Self::At(stage, vm, Blow::CrashUs) => {
                vec![format!("at {} of {} crash controller", STAGES[*stage], VMS[*vm])]
            }
            Self::At(stage, vm, blow) => {
                let at = format!("at {} of {}", STAGES[*stage], VMS[*vm]);
                blow.lines().iter().map(|line| format!("{at} {line}")).collect()
            }
            Self::Hand(what, vm) => {
                let vm = VMS[*vm];
                vec![match what {
                    0 => format!("hold {vm} suspended by ann"),
                    1 => format!("hold {vm} stopped by ann"),
                    2 => format!("withdraw {vm}"),
                    3 => format!("restart {vm} by ann"),
                    4 => format!("crash vm {vm}"),
                    _ => format!("guest {vm} never converges"),
                }]
            }
            Self::Wait(seconds) => vec![format!("advance {seconds}s")],
        }
    }
}

fn doc(kind: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    format!("---\napiVersion: stablehand/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

impl Fleet {
    fn yaml(self) -> String {
        let mut text = doc(
            "Fleet",
            "lab",
            "limits: {destroy: 100%, recreate: 100%, reboot: 100%, move: 100%}\ndefaults: {machine: pc-q35-7.2, stop: {deadline: 20s, powerOff: true}}\n",
        );
        for n in 1..=HOSTS {
            let mut spec = format!("connection: qemu:///embed?root=/sim/h{n}\nslots: {}\n", self.slots);
            let _ = writeln!(
                spec,
                "migration: {{uri: \"qemu+tcp://h{n}/system\", transport: clear, network: 10.77.0.0/24}}"
            );
            if self.shared {
                spec += "storage: {shared: san}\n";
            }
            if self.fence {
                spec += "fence: {command: [tools/power-off, \"{host}\"], after: 2m}\n";
            }
            text += &doc("Host", &format!("h{n}"), &spec);
        }
        text += &doc(
            "Network",
            "lan",
            "bridge: {name: shl0, create: true}\nsubnet: 10.1.0.0/24\nrange: {from: 10.1.0.10, to: 10.1.0.60}\n",
        );
        let digest = "a1".repeat(32);
        text += &doc(
            "Image",
            "tiny",
            &format!("source: {{path: tiny.qcow2}}\ndigest: sha256:{digest}\nformat: qcow2\nlearnsAddressBy: none\n"),
        );
        text += &doc(
            "Service",
            "shop",
            "apps:\n  web: {image: tiny, memory: 1GiB, persistence: persistent, disks: {data: {size: 4GiB}}, nics: {lan: {network: lan}}, replicas: {min: 3}, spread: {minHosts: 1, maxPerHost: 3}}\n  api: {image: tiny, memory: 1GiB, relocatable: cold, disks: {data: {size: 2GiB}}, nics: {lan: {network: lan}}}\n",
        );
        text
    }
}

/// A history as it goes on, in the words of scripts.
struct Story {
    session: Session,
    text: String,
}

impl Story {
    fn new(fleet: Fleet) -> Self {
        let files = [("fleet.yaml", fleet.yaml())];
        let snapshot = Snapshot::of_texts(files.iter().map(|(p, t)| (*p, t.as_str())));
        let desired = stablehand::config::load(&snapshot).unwrap().desired;
        let mut session = Session::default();
        session.follow(desired);
        Self { session, text: String::new() }
    }

    /// A line of a script; what is about something that is not there is left out.
    fn line(&mut self, line: &str) {
        let statement = parse(line).unwrap().remove(0).1;
        match statement {
            Statement::Apply(crash) => {
                let _ = writeln!(self.text, "{line}");
                if let Some(crash) = crash {
                    self.session.fleet.crash_after(crash.after);
                }
                self.pass();
            }
            statement if self.session.happen(&statement).is_ok() => {
                let _ = writeln!(self.text, "{line}");
            }
            _ => {}
        }
    }

    /// One pass: every promise is kept.
    fn pass(&mut self) {
        let applied = self.session.apply(&Approval::Everything).unwrap();
        for (plan, report) in &applied.passed.rounds {
            let wrong = stablehand::plan::check::check(plan);
            assert!(wrong.is_empty(), "{wrong:?}\n{}", self.text);
            for (id, outcome) in &report.outcomes {
                let blocks = plan.action(id).map(|a| a.blocked.clone()).unwrap_or_default();
                let why = blocks.first().map(|b| b.text.clone()).unwrap_or_default();
                let _ = writeln!(self.text, "#   {id}: {outcome:?} {why}");
            }
        }
        self.kept();
    }

    fn kept(&self) {
        let broken = self.session.fleet.with(|world| world.violations.clone());
        assert!(broken.is_empty(), "promises were broken: {broken:#?}\n{}", self.text);
    }

    /// Everything is well again, and time enough passes that nothing is waited for.
    fn mend(&mut self) {
        self.session.fleet.with(|world| {
            world.faults.clear();
            world.guests.clear();
            world.scheduled.clear();
            world.at_stages.clear();
        });
        self.text += "# all is mended\n";
        for n in 0..HOSTS {
            Blow::HealLink(n).lines().iter().chain(&Blow::Revive(n).lines()).for_each(|line| self.line(line));
            self.line(&format!("withdraw h{}", n + 1));
        }
        VMS.iter().for_each(|vm| self.line(&format!("withdraw {vm}")));
        // Tries that failed are forgotten after an hour, and copies that were kept are over.
        for wait in ["5m", "5m", "5m", "61m", "1m"] {
            self.line("apply");
            self.line(&format!("advance {wait}"));
        }
        self.line("apply");
        self.kept();
    }

    /// Nothing is left to do, and nothing is left over.
    fn ended(&self) {
        let plan = self.session.plan().unwrap();
        // Which of two copies is the newer one is for a person to say.
        let asks = |b: &Block| b.text.contains("nobody can say which has the newer disks");
        if plan.actions.iter().any(|a| a.blocked.iter().any(asks)) {
            return;
        }
        let world = self.session.fleet.world();
        let seen = || format!("{}\n{}", lab::text(&plan), self.text);
        assert!(plan.actions.is_empty() && plan.under_way() == 0, "it does not converge:\n{}", seen());
        for vm in VMS {
            let vm = Name::new(vm).unwrap();
            let fleet = Name::new("lab").unwrap();
            let there = world.hosts.values().filter(|h| h.domain_of(&fleet, &vm).is_some()).count();
            assert_eq!((there, world.running(&fleet, &vm).len()), (1, 1), "{vm} is there, and runs, once:\n{}", seen());
            let records = world.hosts.values().filter_map(|h| h.records.get(&vm));
            let flying = records.filter(|r| r.from.is_some()).count();
            assert_eq!(flying, 0, "{vm} is on its way for ever:\n{}", seen());
        }
        let mut session = self.session.clone();
        let _ = session.apply(&Approval::Everything).unwrap();
        let broken = session.fleet.with(|world| world.violations.clone());
        assert!(broken.is_empty(), "promises were broken: {broken:#?}\n{}", seen());
        for (path, disk) in world.hosts.values().flat_map(|h| &h.disks) {
            let valid = disk.stamp.as_ref().is_some_and(|s| s.phase.is_valid());
            assert!(valid, "{path} is left over:\n{}", seen());
        }
    }
}

#[test]
fn every_history_of_moves_converges_and_keeps_every_promise() {
    let cases = std::env::var("PROPS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let fleet = (any::<bool>(), any::<bool>(), prop::sample::select(vec![3u32, 8]))
        .prop_map(|(shared, fence, slots)| Fleet { shared, fence, slots });
    let history = (fleet, prop::collection::vec(act(), 1..14));
    let result = runner.run(&history, |(fleet, acts)| {
        let mut story = Story::new(fleet);
        story.line("apply");
        acts.iter().flat_map(Act::lines).for_each(|line| story.line(&line));
        story.mend();
        story.ended();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
