//! Digests: what was applied (in stamps), and what a plan does (the effects hash).

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::steps::Op;
use super::types::{Action, DiskFate, Plan};
use crate::model::{
    Boot, CloudInit, DataDisk, Desired, Display, Firmware, Guard, Image, Init, MadeState, Name, Nic, Owner, Placement,
    Probe, Protection, Relocatable, RunState, StopPolicy, UpdatePolicy, Vm, VmSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The part of a VM's specification that its stamp remembers. Places in files are not part of it.
#[derive(Serialize)]
struct SpecView<'a> {
    run: RunState,
    files: Vec<String>,
    command_line: Option<&'a str>,
    cpus: u32,
    max_cpus: u32,
    memory: u64,
    max_memory: u64,
    root_size: Option<u64>,
    persistent_root: bool,
    disks: &'a BTreeMap<Name, DataDisk>,
    nics: &'a BTreeMap<Name, Nic>,
    machine: &'a str,
    firmware: Firmware,
    display: Display,
    cloud_init: &'a CloudInit,
    after: Vec<&'a str>,
    ready: &'a Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: &'a Option<Guard>,
    stop: StopPolicy,
    update: UpdatePolicy,
    protect: Protection,
    placement: &'a Placement,
    // What was not there before it could be said is left out where nothing is said: stamps stay what they are.
    #[serde(skip_serializing_if = "Relocatable::is_live")]
    relocatable: Relocatable,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    post_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    devices: &'a BTreeMap<Name, Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<&'a Init>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mounts: &'a BTreeMap<Name, Arc<str>>,
    // A module's root disks always do, unless they are data.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resets: bool,
}

/// Digest of what a VM's document asks for, 32 hexadecimal digits. Equal digests in stamp and desired state mean
/// that a difference in the world is drift, not a change.
pub fn spec_digest(desired: &Desired, vm: &Vm) -> String {
    let spec: &VmSpec = &vm.spec;
    let image = desired.image_of(vm);
    let view = SpecView {
        run: vm.run,
        // What a file is, not where it comes from: another mirror changes no VM.
        files: image.map(files).unwrap_or_default(),
        command_line: image.and_then(|i| match &i.boot {
            Boot::Kernel { command_line, .. } => Some(&**command_line),
            Boot::Disk | Boot::Init(_) => None,
        }),
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: spec.memory.0,
        max_memory: spec.max_memory.0,
        root_size: spec.root_size.map(|s| s.0),
        persistent_root: spec.persistent_root,
        disks: &spec.disks,
        nics: &spec.nics,
        machine: &spec.machine,
        firmware: spec.firmware,
        display: spec.display,
        cloud_init: &spec.cloud_init,
        after: dependencies(desired, vm),
        ready: &spec.ready,
        guard: &spec.guard,
        stop: spec.stop,
        update: spec.update,
        protect: spec.protect,
        placement: &spec.placement,
        relocatable: spec.relocatable,
        post_copy: spec.post_copy,
        devices: &spec.devices,
        init: image.and_then(|i| match &i.boot {
            Boot::Init(init) => Some(init),
            Boot::Kernel { .. } | Boot::Disk => None,
        }),
        mounts: &spec.mounts,
        resets: spec.returns_root && matches!(vm.owner, Owner::Service { .. }),
    };
    of(&view)
}

/// What the files of an image are. A generation that is made in the fleet has no digest before it is sealed: it is what its
/// document calls it.
fn files(image: &Image) -> Vec<String> {
    let mut files: Vec<String> = image.files().into_iter().map(|f| f.digest.as_str().to_owned()).collect();
    // A VM that stays on another generation is pinned to it: then nothing is said of what its document asks for.
    let revision = image.made.as_ref().map(|made| match made.known.get(&image.disk.digest) {
        Some(known) => Some(&known.revision),
        None => (made.state == MadeState::Unknown || made.state == MadeState::Nothing).then_some(&made.recipe.revision),
    });
    if let (Some(Some(revision)), Some(disk)) = (revision, files.first_mut()) {
        *disk = format!("image/{} revision {revision}", image.name);
    }
    files
}

/// What a VM depends on, inside its own service or module without the owner's name: a renamed service is the same.
fn dependencies<'a>(desired: &'a Desired, vm: &Vm) -> Vec<&'a str> {
    let owner = vm.group.split('/').next().unwrap_or_default();
    let inside = |key: &'a str| key.strip_prefix(owner).and_then(|rest| rest.strip_prefix('/')).unwrap_or(key);
    desired.groups.get(&vm.group).into_iter().flat_map(|g| &g.depends_on).map(|(key, _)| inside(key)).collect()
}

/// SHA-256 of a value's JSON, first 32 hexadecimal digits.
pub(crate) fn of<T: Serialize>(value: &T) -> String {
    // Serialising plain data into memory cannot fail; an empty text would only cost a restamp.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(&text)[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// What an action does to whom, as a text: its key in an approval. Times, prices and line numbers are not part
/// of it; the host of a VM to be made is left out when the fleet says so. What is fetched counts by its digest, what
/// is defined by the digest of its specification and of its image: the same words with other contents are another key.
pub fn effect_key(action: &Action, any_host: bool) -> String {
    use std::fmt::Write as _;
    if action.is_filter() {
        return filter_key(action, any_host);
    }
    let mut key = format!("{}|{}|{}", action.id, action.verb.word(), action.impact.class.word());
    let place_counts = !(any_host && action.from.is_none());
    if let (true, Some(to)) = (place_counts, &action.to) {
        let _ = write!(key, "|to {to}");
    }
    for data in &action.impact.data {
        let fate = match data.effect {
            DiskFate::Keep => "keep".to_owned(),
            DiskFate::RetainUntil(_) => "retain".to_owned(),
            DiskFate::Delete => "delete".to_owned(),
            DiskFate::Make => "make".to_owned(),
            DiskFate::Remake => "remake".to_owned(),
            DiskFate::Reset => "reset".to_owned(),
            DiskFate::Grow(size) => format!("grow {}", size.0),
            DiskFate::Reattach => "reattach".to_owned(),
            DiskFate::Move(_) => "move".to_owned(),
        };
        let _ = write!(key, "|disk {} {fate}", data.disk);
    }
    for field in &action.fields {
        let _ = write!(key, "|{}={}", field.path, field.after.as_deref().unwrap_or("-"));
    }
    if let Some(transfer) = &action.transfer {
        let _ = write!(key, "|{} by {}", transfer.mode.word(), transfer.transport.word());
    }
    for step in &action.steps {
        match &step.op {
            Op::PutImage { file, .. } => {
                let _ = write!(key, "|fetch {}", file.digest.as_str());
            }
            Op::CopyImage { digest, .. } => {
                let _ = write!(key, "|fetch {}", digest.as_str());
            }
            Op::Capture { management, .. } => {
                let _ = write!(key, "|seal {} {}", management.image, management.recipe.as_str());
            }
            Op::DropImage { digest, .. } => {
                let _ = write!(key, "|drop {}", digest.as_str());
            }
            Op::MarkImage { digest, unneeded, .. } => {
                let word = if unneeded.is_some() { "unneeded" } else { "needed" };
                let _ = write!(key, "|{word} {}", digest.as_str());
            }
            Op::MakeBridge { bridge, address, address6, uplink, border, .. } => {
                let _ = write!(key, "|bridge {bridge} {}", address.as_deref().unwrap_or("-"));
                let _ = address6.as_deref().map_or(Ok(()), |six| write!(key, " {six}"));
                if let Some(uplink) = uplink {
                    let _ = write!(key, " on {uplink}");
                }
                // That nothing passes it needs no approval of its own.
                if border.forwards() {
                    let _ = write!(key, " {border}");
                }
            }
            Op::GuestRun { command, input, .. } => {
                let _ = write!(key, "|in guest {}", of(&(command, input)));
            }
            Op::GuestFile { path, content, mode, .. } => {
                let _ = write!(key, "|in guest {}", of(&(path, content, mode)));
            }
            Op::Fence { command, .. } => {
                let _ = write!(key, "|run {}", command.join(" "));
            }
            Op::Define { stamp, .. } | Op::Edit { stamp, .. } => {
                let image = stamp.image.as_ref().map_or("-", |d| d.as_str());
                let _ = write!(key, "|spec {} image {image}", stamp.spec);
                // Where its interfaces are plugged in and what they are called is the network's document's to say.
                for (name, nic) in &stamp.nics {
                    let address = nic.address.map_or_else(|| "-".to_owned(), |a| a.to_string());
                    let _ = write!(key, "|nic {name} {address}");
                    let _ = nic.address6.map_or(Ok(()), |six| write!(key, " {six}"));
                }
                if let Op::Define { domain, .. } = &step.op {
                    for nic in &domain.nics {
                        let _ = write!(key, "|on {}", nic.bridge);
                    }
                    for device in &domain.devices {
                        let _ = write!(key, "|device {} {}", device.name, device.at);
                    }
                }
            }
            _ => {}
        }
    }
    key
}

/// A key with generations that were made in the fleet by their names: in full, and by the digits that people read.
pub(crate) fn named(mut key: String, made: &BTreeMap<crate::model::Digest, String>) -> String {
    for (digest, name) in made {
        for text in [digest.as_str(), digest.short()] {
            if key.contains(text) {
                key = key.replace(text, name);
            }
        }
    }
    key
}

/// What a filter does is what it opens and closes; on which host counts only where placement does.
fn filter_key(action: &Action, any_host: bool) -> String {
    let place = if any_host { ANY_FILTER } else { &*action.id.0 };
    let opens = action.opens.iter().map(|s| format!("|open {s}"));
    let closes = action.closes.iter().map(|s| format!("|close {s}"));
    opens.chain(closes).fold(place.to_owned(), |key, part| key + &part)
}

/// How the keys of filters begin where placement does not count.
const ANY_FILTER: &str = "rules";

/// Whether an approval of these effects takes an action in. A filter needs no more than that its sentences were approved
/// where placement does not count: on which hosts they are needed was not said.
pub fn covered(keys: &BTreeSet<String>, action: &Action, any_host: bool) -> bool {
    if keys.contains(&effect_key(action, any_host)) {
        return true;
    }
    let parts = |key: &str| key.split('|').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let approved = || keys.iter().filter(|key| key.split('|').next() == Some(ANY_FILTER)).flat_map(|key| parts(key));
    action.is_filter() && any_host && {
        let approved: BTreeSet<String> = approved().collect();
        parts(&filter_key(action, true)).iter().all(|part| approved.contains(part))
    }
}

/// The effects hash of a plan: `vp1-` and 13 characters (65 bits of a SHA-256) over the sorted effect keys of
/// the actions that are not blocked.
pub(crate) fn effects_hash(plan: &Plan, any_host: bool) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz"; // Crockford's base 32, lower case
    let open = plan.actions.iter().filter(|a| !a.is_blocked()).map(|a| plan.key(a, any_host));
    let mut keys: Vec<String> = open.chain(plan.promised().map(|key| format!("then {key}"))).collect();
    keys.sort_unstable();
    if any_host {
        // Nor on how many.
        keys.dedup_by(|a, b| a == b && a.split('|').next() == Some(ANY_FILTER));
        keys.retain(|key| key != ANY_FILTER);
    }
    let mut hash = Sha256::new();
    for key in &keys {
        hash.update(key.as_bytes());
        hash.update(b"\n");
    }
    let hash = hash.finalize();
    let mut bits: u128 = 0;
    for byte in &hash[..9] {
        bits = (bits << 8) | u128::from(*byte);
    }
    let mut text = String::from("vp1-");
    for index in 0..13u32 {
        let digit = (bits >> (72 - 5 * (index + 1))) & 31;
        text.push(char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)]));
    }
    text
}
