//! Generations that are made in the fleet, as people read them.

use crate::model::{Name, Phase};
use crate::plan::{Build, Roll};

use super::words;

/// What is made: `image/desk revision 4`.
pub(super) fn title(build: &Build) -> String {
    format!("image/{} revision {}", build.image, build.revision)
}

/// How far a management instance is.
pub(super) const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Fresh => "nothing was done in it yet",
        Phase::Configuring => "it is being configured",
        Phase::Configured => "it is configured, and its check succeeded",
        Phase::Generalised => "it is shut down, and ready to be captured",
    }
}

/// How it is made, line by line: a word and what it is about.
pub(super) fn lines(build: &Build, stable: bool) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(from) = &build.from {
        lines.push(("from", from.clone()));
    }
    if let Some(vm) = &build.vm {
        let host = build.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let phase = build.phase.map(|at| format!(": {}", phase(at))).unwrap_or_default();
        lines.push(("in", format!("vm/{vm}{host}{phase}")));
    }
    for (n, step) in build.steps.iter().enumerate() {
        lines.push((if n == 0 { "does" } else { "" }, format!("{}. {step}", n + 1)));
    }
    if !build.interrupted.is_empty() {
        let names: Vec<&str> = build.interrupted.iter().map(Name::as_str).collect();
        lines.push(("takes", format!("{} out of use meanwhile", names.join(", "))));
    }
    if build.bytes.0 > 0 {
        lines.push(("copies", words::rounded(build.bytes)));
    }
    if build.millis > 0 && !stable {
        lines.push(("lasts", format!("at least {}, and what its steps take", words::duration(build.millis))));
    }
    if let Some(waits) = &build.waits {
        lines.push(("waits", waits.clone()));
    }
    if !build.makes.is_empty() {
        lines.push((
            "then",
            format!(
                "{} of it: {}",
                words::count(build.makes.len(), "VM is made", "VMs are made"),
                words::few(&build.makes)
            ),
        ));
    }
    if let Some(roll) = &build.then {
        lines.extend(then(roll, stable));
    }
    lines
}

/// The roll that comes after it.
fn then(roll: &Roll, stable: bool) -> Vec<(&'static str, String)> {
    let mut lines = words::roll(roll, stable);
    lines.retain(|(label, _)| ["rolls", "order", "gate", "stops", "copies", "halted", "later"].contains(label));
    if let Some((label, _)) = lines.first_mut() {
        *label = "then";
    }
    lines
}
