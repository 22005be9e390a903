//! What documents may say of containers, and what only of virtual machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::marker::IdentityChoice;
use super::read::Loc;
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::{BootChoice, ImageSpec, InitSpec, VmPart};
use super::vm::Layers;
use crate::model::{Boot, CloneMethod, Identity, ImageFormat, Init, Layer, Name, RunState};

/// What runs the clones of an image that is written here.
pub(crate) fn layer(repo: &Repository, image: Option<&Name>) -> Layer {
    let format = image.and_then(|name| repo.images.get(name)).and_then(|doc| doc.spec.format.as_ref());
    if format.is_some_and(|f| f.value == ImageFormat::Rootfs) { Layer::Lxc } else { Layer::Qemu }
}

/// How an archive's containers begin, learn who they are, and are made; reports what only a disk has.
pub(crate) fn archive(doc: &Doc<Box<ImageSpec>>, sink: &mut Sink) -> (Boot, Identity, CloneMethod) {
    let spec = &doc.spec;
    let mut not = |at: Mark, what: &str, help: &str| {
        sink.report("E0440", at, format!("{what} is not for a container's archive")).help(help);
    };
    match &spec.boot {
        Some(BootChoice::Disk(at)) => not(*at, "`boot: disk`", "say its first program: `{init: /sbin/init}`"),
        Some(BootChoice::Kernel(kernel)) => {
            not(kernel.at, "a kernel", "a container has its host's; say its first program: `{init: /sbin/init}`");
        }
        Some(BootChoice::Init(_)) | None => {}
    }
    let seeded = |i: &&IdentityChoice| matches!(i.value, Identity::CloudInit | Identity::Marker);
    if let Some(identity) = spec.identity.as_ref().filter(seeded) {
        let help = "the host itself sets a container's name and addresses: `host`";
        let word = if identity.value == Identity::Marker {
            "`learnsAddressBy: {marker: …}`"
        } else {
            "`learnsAddressBy: cloud-init`"
        };
        not(identity.at, word, help);
    }
    if let Some(clone) = spec.clone.as_ref().filter(|c| c.value != CloneMethod::Copy) {
        let word = if clone.value == CloneMethod::Reflink { "`clone: reflink`" } else { "`clone: overlay`" };
        not(clone.at, word, "leave it out: an archive is unpacked");
    }
    let init = match &spec.boot {
        Some(BootChoice::Init(spec)) => init(spec, sink),
        _ => Init::default(),
    };
    (Boot::Init(init), spec.identity.as_ref().map_or(Identity::Host, |i| i.value), CloneMethod::Copy)
}

fn init(spec: &InitSpec, sink: &mut Sink) -> Init {
    let mut out = Init::default();
    if let Some(path) = &spec.init {
        path_in(path, "the first program", sink);
        out.path = path.value.clone();
    }
    out.arguments = spec.arguments.iter().flatten().map(|a| a.value.clone()).collect();
    for (name, value) in spec.environment.iter().flat_map(|e| &e.entries) {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
            let message = format!("`{name}` is not a name for a variable");
            sink.report("E0217", value.at, message).help("letters, digits and `_`, not beginning with a digit");
        }
        out.environment.insert(name.clone(), value.value.clone());
    }
    out
}

/// Reports what a disk's image says as if it were a container's.
pub(crate) fn disk_image(doc: &Doc<Box<ImageSpec>>, sink: &mut Sink) {
    let help = "write `format: rootfs` where the file is a tar archive of a root file system";
    if let Some(BootChoice::Init(init)) = &doc.spec.boot {
        sink.report("E0440", init.at, "a first program is a container's, and this image is a disk").help(help);
    }
    if let Some(identity) = doc.spec.identity.as_ref().filter(|i| i.value == Identity::Host) {
        let message = "`learnsAddressBy: host` is a container's, and this image is a disk";
        sink.report("E0440", identity.at, message).help(help);
    }
}

/// Reports a path that cannot be one inside a container.
fn path_in(path: &Loc<Arc<str>>, what: &str, sink: &mut Sink) -> bool {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let fits = path.value.strip_prefix('/').is_some_and(|rest| !rest.split('/').any(odd));
    if !fits {
        let message = format!("`{}` is not an absolute path for {what}", path.value);
        sink.report("E0421", path.at, message).help("a path inside the container, like `/srv/data`");
    }
    fits
}

/// Where a container finds each of its disks; `None` when that is not said of one, or twice the same.
pub(crate) fn mounts(layers: &Layers<'_>, layer: Layer, sink: &mut Sink) -> Option<BTreeMap<Name, Arc<str>>> {
    let mut out: BTreeMap<Name, Arc<str>> = BTreeMap::new();
    let mut places: BTreeMap<Arc<str>, Mark> = BTreeMap::new();
    let mut complete = true;
    for (name, said) in layers.merged(|p| p.disks.as_ref()) {
        let mount = said.iter().rev().find_map(|(_, disk, _)| disk.mount.as_ref());
        let Some((at, _, _)) = said.last() else { continue };
        match (layer, mount) {
            (Layer::Qemu, None) => {}
            (Layer::Qemu, Some(mount)) => {
                sink.report("E0440", mount.at, format!("disk `{name}` is a virtual machine's: its guest mounts it"))
                    .help("leave `mount` out; the guest finds it as `/dev/disk/by-id/virtio-<name>`");
            }
            (Layer::Lxc, None) => {
                complete = false;
                if !said.iter().any(|(_, disk, _)| disk.flawed) {
                    sink.report("E0206", *at, format!("`mount` is missing in disk `{name}` of a container"))
                        .help("the path at which the container finds it, like `mount: /srv/data`");
                }
            }
            (Layer::Lxc, Some(mount)) => {
                complete &= place(mount, name, &mut places, sink);
                out.insert(name.clone(), mount.value.clone());
            }
        }
    }
    complete.then_some(out)
}

/// Whether a disk may be mounted at a path; reports it when not.
fn place(mount: &Loc<Arc<str>>, name: &Name, places: &mut BTreeMap<Arc<str>, Mark>, sink: &mut Sink) -> bool {
    if !path_in(mount, &format!("disk `{name}`"), sink) {
        return false;
    }
    // libvirt mounts these itself, before and after ours.
    let taken = ["proc", "sys", "dev"].iter().find(|top| mount.value.split('/').nth(1) == Some(**top));
    if let Some(top) = taken {
        sink.report("E0413", mount.at, format!("disk `{name}` cannot be mounted below `/{top}`"))
            .help("that is the kernel's own");
        return false;
    }
    if let Some(first) = places.insert(mount.value.clone(), mount.at) {
        sink.report("E0102", mount.at, format!("two disks are mounted at `{}`", mount.value)).also(first, "the first");
        return false;
    }
    true
}

/// Reports what was asked for a container that only a virtual machine has. What the fleet's `defaults` say is meant for
/// those that can have it.
pub(crate) fn lacks(layers: &Layers<'_>, what: &str, run: RunState, sink: &mut Sink) {
    let mut not = |at: Mark, field: &str, help: &str| {
        sink.report("E0440", at, format!("{what} is a container: it has no `{field}`")).help(help);
    };
    let own = |get: fn(&VmPart) -> Option<Mark>| {
        layers.list.iter().filter(|l| &*l.name != "defaults").rev().find_map(|l| get(l.part))
    };
    type Where = fn(&VmPart) -> Option<Mark>;
    let hardware: [(&str, Where); 4] = [
        ("machine", |p| p.machine.as_ref().map(|m| m.at)),
        ("firmware", |p| p.firmware.as_ref().map(|f| f.at)),
        ("display", |p| p.display.as_ref().map(|d| d.at)),
        ("devices", |p| p.devices.as_ref()?.entries.first().map(|(name, _)| name.at)),
    ];
    for (field, get) in hardware {
        if let Some(at) = own(get) {
            not(at, field, "leave it out: a container has no hardware of its own");
        }
    }
    if let Some(at) = own(|p| p.cloud_init.as_ref().map(|c| c.at)) {
        let help = "the host sets its name and addresses; put the rest into the archive, or into the image's `boot.environment`";
        not(at, "cloudInit", help);
    }
    let agent = layers.list.iter().rev().find_map(|l| l.part.ready.as_ref()).and_then(|r| r.agent.as_ref());
    if let Some(agent) = agent {
        not(agent.at, "ready.agent", "probe with `tcp`, `http` or `exec`");
    }
    if run == RunState::Suspended {
        let said = layers.list.iter().rev().find_map(|l| l.part.run.as_ref()).map(|r| r.at);
        let said = said.or(layers.group_run.as_ref().map(|(run, _)| run.at));
        not(said.unwrap_or_default(), "run: suspended", "the memory of a container cannot be saved: `stopped`");
    }
}
