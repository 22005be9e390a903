//! Steps in guests: from what was written to what is meant.

use std::sync::Arc;

use super::read::Loc;
use super::sink::Sink;
use super::spec::{GuestFileSpec, GuestStepSpec, PackagesSpec, UpgradeChoice};
use crate::model::{GuestFile, GuestStep, GuestWork, PackageWork, Upgrade};

/// The longest file of a step: it is in each plan that carries it.
const LONGEST: usize = 1 << 20;

/// What a list of steps means; `None` when something in it is wrong, which was reported.
pub(crate) fn steps(list: &[GuestStepSpec], sink: &mut Sink) -> Option<Vec<GuestStep>> {
    let before = sink.errors();
    let steps: Vec<GuestStep> = list.iter().filter_map(|spec| step(spec, sink)).collect();
    (sink.errors() == before && steps.len() == list.len()).then_some(steps)
}

fn step(spec: &GuestStepSpec, sink: &mut Sink) -> Option<GuestStep> {
    let said = [
        spec.run.as_ref().map(|_| "run"),
        spec.file.as_ref().map(|_| "file"),
        spec.packages.as_ref().map(|_| "packages"),
    ];
    let said: Vec<&str> = said.into_iter().flatten().collect();
    if let [first, second, ..] = said.as_slice() {
        let message = format!("two things in one step: `{first}` and `{second}`");
        sink.report("E0218", spec.at, message).help("give each a step of its own: their order matters");
        return None;
    }
    if said.is_empty() && !spec.flawed {
        sink.report("E0206", spec.at, "the step says nothing to do").help("write one of `run`, `file` and `packages`");
    }
    if let Some(within) = spec.within.as_ref().filter(|within| within.value.0 < 1000) {
        sink.report("E0413", within.at, "a step needs some time").help("at least 1s, like 30s or 10m");
    }
    let work = if let Some(run) = &spec.run {
        command(spec, run, sink)?
    } else if let Some(file) = &spec.file {
        GuestWork::File(self::file(file, sink)?)
    } else {
        GuestWork::Packages(packages(spec.packages.as_ref()?, sink)?)
    };
    Some(GuestStep { work, within: spec.within.as_ref().map(|w| w.value) })
}

fn command(spec: &GuestStepSpec, run: &[Loc<Arc<str>>], sink: &mut Sink) -> Option<GuestWork> {
    let words: Vec<Arc<str>> = run.iter().map(|word| word.value.clone()).collect();
    match words.first() {
        Some(program) if !program.trim().is_empty() => {}
        // What was written of it could not be read.
        None if spec.flawed => return None,
        _ => {
            sink.report("E0413", run.first().map_or(spec.at, |word| word.at), "the command is empty");
            return None;
        }
    }
    if let [only] = run
        && only.value.contains(char::is_whitespace)
    {
        let meant: Vec<&str> = only.value.split_whitespace().collect();
        sink.report("E0413", only.at, format!("`{}` is not the name of a program", only.value))
            .help(format!("a word for each: `[{}]`; or `[sh, -c, \"…\"]` for a shell", meant.join(", ")));
        return None;
    }
    Some(GuestWork::Run(words))
}

fn file(spec: &GuestFileSpec, sink: &mut Sink) -> Option<GuestFile> {
    let path = spec.path.as_ref()?;
    let parts_are_names = path.value.split('/').skip(1).all(|part| !["", ".", ".."].contains(&part));
    if !path.value.starts_with('/') || !parts_are_names || path.value.contains(char::is_control) {
        sink.report("E0421", path.at, format!("`{}` is not the absolute path of a file", path.value))
            .help("like /etc/motd, without `.` and `..`");
    }
    let content = spec.content.as_ref()?;
    if content.value.len() > LONGEST {
        let message = format!("{} bytes are too much for a step", content.value.len());
        sink.report("E0413", content.at, message)
            .help("at most 1 MiB: let the guest fetch what is larger, or put it into the image");
    }
    let mode = match &spec.mode {
        None => 0o644,
        Some(said) => match u32::from_str_radix(&said.value, 8) {
            Ok(mode) if mode <= 0o7777 && said.value.len() >= 3 => mode,
            _ => {
                sink.report("E0413", said.at, format!("`{}` are no permissions", said.value))
                    .help("three or four octal digits in quotes, like \"0644\" or \"755\"");
                return None;
            }
        },
    };
    Some(GuestFile { path: path.value.clone(), content: content.value.clone(), mode })
}

fn packages(spec: &PackagesSpec, sink: &mut Sink) -> Option<PackageWork> {
    let mut names = |list: Option<&Vec<Loc<Arc<str>>>>| -> Vec<Arc<str>> {
        let all = list.map(Vec::as_slice).unwrap_or_default();
        for name in all {
            // What Debian, Fedora and Alpine call packages, with an architecture or a version behind the name.
            let plain = |c: char| c.is_ascii_alphanumeric() || "+-._:~=@".contains(c);
            if !name.value.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.value.chars().all(plain) {
                sink.report("E0413", name.at, format!("`{}` is not the name of a package", name.value))
                    .help("letters, digits and `+-._:~=@`, beginning with a letter or a digit");
            }
        }
        all.iter().map(|name| name.value.clone()).collect()
    };
    let install = names(spec.install.as_ref());
    let remove = names(spec.remove.as_ref());
    let upgrade = match &spec.upgrade {
        None => Upgrade::None,
        Some(UpgradeChoice::All) => Upgrade::All,
        Some(UpgradeChoice::These(list)) if list.is_empty() => Upgrade::None,
        Some(UpgradeChoice::These(list)) => Upgrade::These(names(Some(list))),
    };
    if let Some(both) = remove.iter().find(|name| install.contains(name)) {
        sink.report("E0413", spec.at, format!("`{both}` is to be installed and removed"));
    }
    if install.is_empty() && remove.is_empty() && upgrade == Upgrade::None && !spec.flawed {
        sink.report("E0206", spec.at, "no package is named").help("write `install`, `remove` or `upgrade`");
    }
    Some(PackageWork { install, remove, upgrade })
}
