//! Scenarios: a script of the simulator and the fleets it loads → a transcript.
//!
//! `tests/cases/converge/<a sentence>/`: `script`, the folders that it loads, `transcript.snap`. With the line
//! `# crash: every` the script is run again for every step of every apply: there we end as with `kill -9`, a new process
//! applies once, and the script goes on. Every expectation must hold, every promise must be kept, and in the end the
//! world is the same. `# crash: differs`: the promises hold, and the world is another one, as when generations that came
//! and went meanwhile were never reached; `# crash: none`: histories of that kind are tried elsewhere.

use std::fs;
use std::path::Path;

use stablehand::sim::World;
use stablehand::sim::script::{Injected, Transcript, run, run_with};

use crate::lab;

#[test]
fn every_scenario_reads_as_it_did() {
    lab::each_case("converge", |folder| {
        let transcript = transcript(folder);
        lab::snapshot(folder, "transcript", &transcript.text);
    });
}

fn transcript(folder: &Path) -> Transcript {
    let text = fs::read_to_string(folder.join("script")).unwrap();
    run(&text, folder).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_same_script_gives_the_same_bytes() {
    let folders = lab::cases("converge");
    let Some(folder) = folders.first() else { return };
    assert_eq!(transcript(folder).text, transcript(folder).text);
}

#[test]
fn a_crash_at_any_step_of_any_scenario_ends_in_the_same_world() {
    let script = |folder: &Path| fs::read_to_string(folder.join("script")).unwrap();
    let mut folders = lab::cases("converge");
    folders.retain(|f| script(f).lines().any(|l| l == "# crash: every") && !lab::is_open(f));
    lab::each(folders, |folder| {
        let text = script(folder);
        crash_everywhere(&text, folder);
    });
}

/// Scenarios whose expectations count on what fails when: a crash moves that. Without their expectations, and with more
/// applies at the end, every promise must be kept all the same, and the world must be the same in the end: when jobs are over
/// that go on without us, and what failed too often is tried again.
#[test]
fn a_crash_in_a_scenario_of_faults_breaks_no_promise() {
    let script = |folder: &Path| fs::read_to_string(folder.join("script")).unwrap();
    let mut folders = lab::cases("converge");
    folders.retain(|f| !script(f).lines().any(|l| l == "# crash: every" || l == "# crash: none") && !lab::is_open(f));
    lab::each(folders, |folder| {
        let text = script(folder);
        let asks = |line: &&str| !line.trim_start().starts_with("expect");
        let text: String = text.lines().filter(asks).map(|line| format!("{line}\n")).collect();
        let text = format!("{text}apply\nadvance 61m\napply\napply\napply\nexpect no violation\n");
        crash_everywhere(&text, folder);
    });
}

/// Runs a script again for each step of each apply, crashed there: the world must be the same in the end.
fn crash_everywhere(text: &str, folder: &Path) {
    let whole = run(text, folder).unwrap();
    for (apply, steps) in whole.applies.iter().enumerate() {
        for after in 0..*steps {
            let crashed = run_with(text, folder, Some(Injected { apply, after }));
            let crashed = crashed.unwrap_or_else(|e| panic!("crash in apply {apply} after step {after}: {e}"));
            if text.lines().any(|l| l == "# crash: differs") {
                continue;
            }
            assert_eq!(
                essence(&crashed.world),
                essence(&whole.world),
                "crash in apply {apply} after step {after}:\n{}",
                crashed.text
            );
        }
    }
}

/// The path of an image; of one that was made in the fleet without its content's digits: a step that is done again after a
/// crash leaves other bytes.
fn made(host: &stablehand::sim::SimHost, path: &str) -> String {
    let recipe = host.notes.get(path).and_then(|note| note.made.as_ref()).map(|made| made.recipe.short().to_owned());
    let name = |path: &str| path.rsplit_once('/').and_then(|(_, file)| file.split_once('-')).map(|(_, n)| n.to_owned());
    recipe.map_or_else(|| path.to_owned(), |recipe| format!("{:?} of recipe {recipe}", name(path)))
}

/// What must be the same however often we crashed: not when, nor which boot.
fn essence(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, host) in &world.hosts {
        for (uuid, domain) in &host.domains {
            let stamp = domain.stamp.as_ref().map(|s| (s.vm.clone(), s.incarnation, s.spec.clone()));
            lines.push(format!(
                "{name} {uuid} {stamp:?} {:?} {:?} {:?} {}",
                domain.power, domain.live, domain.config, domain.autostart
            ));
        }
        // What moves left behind for a while, and how many they were, depends on how often one was tried.
        let stays = |disk: &&stablehand::sim::SimDisk| {
            !disk.stamp.as_ref().is_some_and(|s| matches!(s.phase, stablehand::model::DiskPhase::Moved { .. }))
        };
        for (path, disk) in host.disks.iter().filter(|(_, disk)| stays(disk)) {
            let stamp = disk.stamp.as_ref().map(|s| (&s.vm, &s.disk, s.incarnation, s.expires.is_some()));
            lines.push(format!("{name} {path} {stamp:?} {}", disk.size));
        }
        lines.extend(host.bridges.iter().map(|(bridge, b)| format!("{name} {bridge} {b:?}")));
        lines.extend(host.images.keys().map(|path| format!("{name} {}", made(host, path))));
        let record = |r: &stablehand::model::PlacementRecord| {
            (r.host.clone(), r.from.clone(), r.incarnation, r.addresses.clone())
        };
        lines.extend(host.records.iter().map(|(vm, r)| format!("{name} {vm} {:?}", record(r))));
        lines.extend(host.lock.iter().map(|l| format!("{name} is locked by {}", l.who)));
    }
    lines.sort();
    lines
}
