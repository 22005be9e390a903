//! Plans, a folder a case: what is wanted, what is there, and the text that a person reads.
//!
//! `tests/cases/plan/<a sentence>/`:
//!
//! | file | |
//! |---|---|
//! | `desired.yaml` | what is planned |
//! | `before.yaml`, `before-2.yaml`, … | what was applied before, in order; without one, hosts are empty |
//! | `happens` | statements of the simulator's script language, carried out before the plan |
//! | `observed.yaml` | recorded observed state, instead of `before.yaml` |
//! | `base.yaml` | what causes are told against |
//! | `plan.snap` | the plan |
//! | `open` | why the case is known to fail: a promise that is not kept yet |
//!
//! Documents of kinds that a file does not have come from `_common`. Each case ends with an apply, and planning again
//! must give nothing but what was blocked.

use std::fs;
use std::path::Path;

use stablehand::model::{Desired, Observed};
use stablehand::sim::script::parse;
use stablehand::sim::{Session, SimFleet, World};

use crate::lab;

/// A file's documents, and the common ones of kinds that it does not have.
fn read(folder: &Path, file: &str) -> Option<Desired> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    let mut files = vec![(file.to_owned(), text.clone())];
    for entry in fs::read_dir(folder.parent().unwrap().join("_common")).unwrap() {
        let path = entry.unwrap().path();
        let common = fs::read_to_string(&path).unwrap();
        let kind = common.lines().find(|l| l.starts_with("kind: ")).unwrap();
        if !text.lines().any(|l| l == kind) {
            files.push((format!("_common/{}", lab::name(&path)), common));
        }
    }
    Some(lab::load(files.iter().map(|(path, text)| (path.as_str(), text.as_str()))))
}

fn session(folder: &Path) -> Session {
    let mut session = Session::default();
    if let Ok(text) = fs::read_to_string(folder.join("observed.yaml")) {
        let observed: Observed = serde_yaml::from_str(&text).unwrap();
        session = Session::new(SimFleet::new(World::from_observed(&observed)));
    }
    for file in ["before.yaml", "before-2.yaml", "before-3.yaml"] {
        if let Some(before) = read(folder, file) {
            session.follow(before);
            lab::apply(&mut session);
        }
    }
    session.base = read(folder, "base.yaml");
    session.follow(read(folder, "desired.yaml").expect("desired.yaml is missing"));
    if let Ok(text) = fs::read_to_string(folder.join("happens")) {
        for (line, statement) in parse(&text).unwrap() {
            assert!(session.happen(&statement).unwrap(), "happens:{line}: this is for scripts");
        }
    }
    session
}

#[test]
fn every_plan_says_what_it_does_and_nothing_is_left_to_do() {
    lab::each_case("plan", |folder| {
        let mut session = session(folder);
        let plan = lab::plan(&session);
        let lost = session.fleet.with(|world| world.memory.lost);
        lab::snapshot(folder, "plan", &lab::text(&plan));
        lab::apply(&mut session);
        let again = lab::plan(&session);
        assert_eq!(lab::open(&again), [] as [&str; 0], "planned again:\n{}", lab::text(&again));
        // Who says yes to a fence says yes to what waits for it.
        // Who says yes to an apply says yes to what waited because the store was lost.
        if !lost && !lab::fences(&plan) {
            assert_eq!(lab::blocked(&again), lab::blocked(&plan), "planned again:\n{}", lab::text(&again));
        }
    });
}

#[test]
fn effects_are_what_is_done_and_not_how_it_is_written() {
    const FLEET: &str = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: lab}\nspec: {defaults: {machine: pc-q35-7.2}}\n---\n\
        apiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {name: h1}\nspec: {connection: 'qemu:///embed?root=/sim/h1', slots: 8}\n---\n\
        apiVersion: stablehand/v1alpha1\nkind: Network\nmetadata: {name: lan}\nspec:\n  bridge: {name: br0, create: true}\n  subnet: 10.0.0.0/24\n  range: {from: 10.0.0.10, to: 10.0.0.12}\n---\n\
        apiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {name: tiny}\nspec: {source: {path: t.qcow2}, digest: \"sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1\", format: qcow2, learnsAddressBy: none}\n---\n\
        apiVersion: stablehand/v1alpha1\nkind: Service\nmetadata: {name: shop}\nspec:\n  apps:\n    web: {image: tiny, memory: 1GiB, nics: {lan: {network: lan}}}\n";
    let effects = |path: &str, text: &str| {
        let mut session = Session::default();
        session.follow(lab::load([(path, text)]));
        lab::plan(&session).effects
    };
    let first = effects("fleet.yaml", FLEET);
    assert_eq!(effects("another-name.yaml", FLEET), first);
    assert_eq!(effects("fleet.yaml", &format!("# a remark\n\n{}", FLEET.replace("1GiB", "1024MiB"))), first);
    for (old, new) in
        [("1GiB", "2GiB"), ("br0", "br7"), ("10.0.0.", "10.9.0."), ("a1a1a1a1a1a1a1a1", "b2b2b2b2b2b2b2b2")]
    {
        assert_ne!(effects("fleet.yaml", &FLEET.replace(old, new)), first, "{old} -> {new} does something else");
    }
}
