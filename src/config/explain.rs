//! Which layer gave a VM's field its value, and which ones lost.

use std::fmt::Write as _;

use super::diagnostic::shown;
use super::read::nearest;
use crate::model::{Desired, Field, Name, Origin, Snapshot};

/// The layers of one field of a VM, or of all of them, the winner first, each with its place and its line.
///
/// `field` is a path as people type it: `memory`, `disks.size`, `/spec/memory`.
///
/// # Errors
/// A sentence when there is no such VM or field, with what was probably meant.
pub fn vm(desired: &Desired, snapshot: &Snapshot, name: &str, field: Option<&str>) -> Result<String, String> {
    let meant = |near: Option<String>| near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    let Some(vm) = desired.vms.get(name) else {
        let near = nearest(name, desired.vms.keys().map(Name::as_str));
        return Err(format!("no VM `{name}` in this fleet{}", meant(near)));
    };
    let fields: Vec<Field> = match field {
        None => Field::ALL.iter().copied().filter(|f| vm.spec.origins.of(*f).is_some()).collect(),
        Some(path) => vec![one(path).ok_or_else(|| {
            let near = nearest(path, Field::ALL.iter().map(|f| f.path()));
            format!("a VM has no field `{path}`{}", meant(near))
        })?],
    };
    let mut out = format!("vm/{name}, from {} ({})\n", vm.group, vm.origin);
    for field in fields {
        let layers: Vec<_> = vm.spec.origins.layers.iter().rev().filter(|(f, ..)| *f == field).collect();
        let _ = writeln!(out, "\n{}", field.path());
        if layers.is_empty() {
            let _ = writeln!(out, "  not written anywhere: the default of this version");
        }
        for (index, (_, origin, layer)) in layers.iter().enumerate() {
            let word = match (merges(field), index) {
                (true, _) => "says",
                (false, 0) => "won ",
                (false, _) => "lost",
            };
            let _ = writeln!(out, "  {word}  {layer}  {origin}  {}", line(snapshot, origin));
        }
    }
    Ok(out)
}

/// Maps of these fields merge: every layer has its say.
fn merges(field: Field) -> bool {
    use Field::{CloudInit, DiskSize, Disks, Display, Nics, Placement, Ready};
    matches!(field, CloudInit | DiskSize | Disks | Display | Nics | Placement | Ready)
}

fn one(path: &str) -> Option<Field> {
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("spec/").unwrap_or(path).replace('/', ".");
    let exact = Field::ALL.iter().copied().find(|f| !f.path().is_empty() && f.path() == path);
    // `disks.data.size` is a path of a plan: the disk's name in the middle is not part of the field's.
    let parts: Vec<&str> = path.split('.').collect();
    let outer = || match parts.as_slice() {
        [first, _, last] => Field::ALL.iter().copied().find(|f| f.path() == format!("{first}.{last}")),
        _ => None,
    };
    let first = || Field::ALL.iter().copied().find(|f| !f.path().is_empty() && Some(&f.path()) == parts.first());
    exact.or_else(outer).or_else(first)
}

/// The line of an origin, for people.
fn line(snapshot: &Snapshot, origin: &Origin) -> String {
    let text = snapshot.text(&origin.file).unwrap_or_default();
    let line = text.lines().nth(origin.line.saturating_sub(1) as usize).unwrap_or_default().trim();
    let short: String = line.chars().take(80).collect();
    shown(&short)
}
