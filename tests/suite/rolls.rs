//! Promises over histories of images that roll through sets: good and bad generations follow one another at any moment, we
//! are ended at any step, and begin anew.
//!
//! At every moment at most `maxUnavailable` of a set are away; what a halt spared is not touched by any later pass; and a
//! good generation at the end reaches everybody. The same seeds every time; `PROPS=2000 cargo test rolls` looks further.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stablehand::model::{Name, Power, Snapshot};
use stablehand::reconcile::Approval;
use stablehand::sim::script::parse;
use stablehand::sim::{Session, SimFleet, World};

use crate::lab;

/// Generations that a history goes through; every second one is bad where the history says so.
const GENERATIONS: [&str; 6] = ["a0", "b1", "c2", "d3", "e4", "f5"];

#[derive(Clone, Copy, Debug)]
struct Fleet {
    replicas: usize,
    canary: usize,
    at_once: usize,
    back: bool,
    hold: bool,
    /// Bits: which generations never get ready.
    bad: u8,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Commit(usize),
    Apply,
    Crash(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..GENERATIONS.len()).prop_map(Act::Commit),
        3 => Just(Act::Apply),
        3 => (0..60u64).prop_map(Act::Crash),
    ]
}

impl Fleet {
    fn yaml(self, generation: usize) -> String {
        let doc = |kind: &str, name: &str, spec: &str| {
            let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
            format!("---\napiVersion: stablehand/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
        };
        let mut text = doc(
            "Fleet",
            "lab",
            "limits: {recreate: 500}\ndefaults: {machine: pc-q35-7.2, stop: {deadline: 20s, powerOff: true}}\n",
        );
        for n in 1..=2 {
            text += &doc("Host", &format!("h{n}"), &format!("connection: qemu:///embed?root=/sim/h{n}\nslots: 8\n"));
        }
        let name = GENERATIONS[generation];
        let (failure, hold) = (if self.back { "rollback" } else { "halt" }, if self.hold { "20s" } else { "0s" });
        let rollout = format!(
            "{{canary: {}, maxUnavailable: {}, minReady: {hold}, onFailure: {failure}}}",
            self.canary, self.at_once
        );
        text += &doc(
            "Image",
            "desk",
            &format!(
                "source: {{path: desk-{name}.qcow2}}\ndigest: sha256:{}\nformat: qcow2\nlearnsAddressBy: none\nrollout: {rollout}\n",
                name.repeat(32)
            ),
        );
        text += &doc(
            "Network",
            "lan",
            "bridge: {name: shl0, create: true}\nsubnet: 10.1.0.0/24\nhostAddress: 10.1.0.1\nrange: {from: 10.1.0.10, to: 10.1.0.40}\n",
        );
        text += &doc(
            "Service",
            "shop",
            &format!(
                "apps:\n  web: {{image: desk, memory: 1GiB, replicas: {{min: {}}}, nics: {{lan: {{network: lan}}}}, ready: {{http: {{}}, within: 60s}}}}\n",
                self.replicas
            ),
        );
        text
    }

    fn is_bad(self, generation: usize) -> bool {
        generation > 0 && self.bad & (1 << generation) != 0
    }
}

/// VMs of the set that do not answer now.
fn away(world: &World, replicas: usize) -> usize {
    let fleet = Name::new("lab").unwrap();
    let ready = |n: usize| {
        let vm = Name::new(&format!("shop-web-{n}")).unwrap();
        let found = world.hosts.values().find_map(|h| h.domain_of(&fleet, &vm));
        found.is_some_and(|(_, d)| d.power == Power::Running && d.ready_at.is_some_and(|at| at <= world.millis))
    };
    (1..=replicas).filter(|n| !ready(*n)).count()
}

struct Story {
    fleet: Fleet,
    session: Session,
    goal: usize,
    text: String,
}

impl Story {
    fn new(fleet: Fleet) -> Self {
        let mut story = Self { fleet, session: Session::default(), goal: 0, text: format!("{fleet:?}\n") };
        for (number, digits) in GENERATIONS.iter().enumerate() {
            if fleet.is_bad(number) {
                story.session.fleet.with(|world| world.bad_images.insert((*digits).to_owned()));
            }
        }
        story.commit(0);
        story.apply(None);
        story
    }

    fn commit(&mut self, generation: usize) {
        let _ = writeln!(self.text, "commit {generation}{}", if self.fleet.is_bad(generation) { " (bad)" } else { "" });
        let text = self.fleet.yaml(generation);
        let snapshot = Snapshot::of_texts([("fleet.yaml", text.as_str())]);
        self.session.follow(stablehand::config::load(&snapshot).unwrap().desired);
        self.goal = generation;
    }

    /// VMs that have another generation than the committed one, as they are.
    fn old(&self) -> BTreeMap<uuid::Uuid, u64> {
        let goal = GENERATIONS[self.goal];
        let world = self.session.fleet.world();
        let all = world.hosts.values().flat_map(|h| &h.domains);
        let is_old = |image: &str| !image.starts_with(goal);
        let image = |d: &stablehand::sim::SimDomain| d.stamp.as_ref()?.image.as_ref().map(|i| i.hex().to_owned());
        all.filter(|(_, d)| image(d).is_some_and(|i| is_old(&i))).map(|(uuid, d)| (*uuid, d.boots)).collect()
    }

    fn apply(&mut self, crash: Option<u64>) {
        let _ = writeln!(self.text, "apply {crash:?}");
        if let Some(after) = crash {
            self.session.fleet.crash_after(after);
        }
        let halted = self.session.plan().is_some_and(|p| p.rolls.iter().any(|r| r.halted.is_some()));
        let back = self.session.plan().is_some_and(|p| p.rolls.iter().any(|r| r.back));
        let before = self.old();
        let applied = self.session.apply(&Approval::Everything).unwrap();
        for (plan, report) in &applied.passed.rounds {
            let wrong = stablehand::plan::check::check(plan);
            assert!(wrong.is_empty(), "{wrong:?}\n{}", self.text);
            for (id, outcome) in &report.outcomes {
                let _ = writeln!(self.text, "#   {id}: {outcome:?}");
            }
        }
        let world = self.session.fleet.world();
        assert!(world.violations.is_empty(), "{:#?}\n{}", world.violations, self.text);
        if self.goal > 0 || self.text.lines().filter(|l| l.starts_with("commit")).count() > 1 {
            let most = self.fleet.at_once.max(1);
            let gone = away(&world, self.fleet.replicas);
            assert!(gone <= most, "{gone} of a set are away, at most {most} may be:\n{}", self.text);
        }
        if halted && !back {
            // Whoever came back meanwhile is old too, and more than before.
            let after = self.old();
            let spared = before.iter().all(|(uuid, boots)| after.get(uuid) == Some(boots));
            assert!(spared, "a roll that was halted touched an old VM:\n{}", self.text);
        }
    }

    fn ended(&mut self) {
        let good = (0..GENERATIONS.len()).find(|g| !self.fleet.is_bad(*g)).unwrap_or(0);
        self.commit(good);
        for _ in 0..6 {
            self.apply(None);
            self.session.happen(&parse("advance 2m").unwrap()[0].1).unwrap();
        }
        let plan = self.session.plan().unwrap();
        assert!(plan.is_empty(), "it does not converge:\n{}\n{}", lab::text(&plan), self.text);
        assert!(self.old().is_empty(), "not everybody has it:\n{}", self.text);
        assert_eq!(away(&self.session.fleet.world(), self.fleet.replicas), 0, "{}", self.text);
    }

    /// The same pass, ended at some of its steps: at none of them are too many away.
    fn look_into(&self, crash: u64) {
        let mut copy = Self {
            fleet: self.fleet,
            session: Session { fleet: SimFleet::new(self.session.fleet.world()), ..self.session.clone() },
            goal: self.goal,
            text: self.text.clone(),
        };
        copy.apply(Some(crash));
    }
}

#[test]
fn every_history_of_rolls_keeps_sets_up_and_ends_at_a_good_generation() {
    let cases = std::env::var("PROPS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let fleet = (2..7usize, 0..3usize, 1..4usize, any::<bool>(), any::<bool>(), any::<u8>())
        .prop_map(|(replicas, canary, at_once, back, hold, bad)| Fleet { replicas, canary, at_once, back, hold, bad });
    let history = (fleet, prop::collection::vec(act(), 1..10));
    let result = runner.run(&history, |(fleet, acts)| {
        let mut story = Story::new(fleet);
        for act in acts {
            match act {
                Act::Commit(generation) => story.commit(generation),
                Act::Apply => {
                    [3, 11, 19, 27, 43].into_iter().for_each(|step| story.look_into(step));
                    story.apply(None);
                }
                Act::Crash(after) => story.apply(Some(after)),
            }
        }
        story.ended();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
