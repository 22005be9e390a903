//! How an image is made in the fleet: from what, what is done to it, and what has to be true of it before it is captured.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::build::{level, reference};
use super::check::user_data;
use super::leaf::Int;
use super::node::{Kind, Node};
use super::read::{Loc, Read, not, spec, words};
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::{GuestStepSpec, ImageSpec, PlacementSpec, Text};
use super::steps;
use super::vm::{LEAST_MEMORY, probe_of};
use crate::model::{
    Bytes, CloudInit, Configure, Desired, Digest, Display, Firmware, Identity, Image, ImageFile, ImageFormat, Layer,
    Made, Name, Nic, Origins, Placement, Probe, ProbeKind, Protection, Recipe, RecipeFrom, Relocatable, Source, Span,
    StopPolicy, USUAL_MACHINE, UpdatePolicy, VmSpec, image_group, image_vm,
};

/// What a package manager of a distribution needs to unpack and configure what it installs: apt takes 0.5 GiB on Debian 12.
const MEMORY: Bytes = Bytes::gib(2);
/// A cloud image under software emulation takes about 90 s to its first login; its packages are upgraded at that boot, too.
const AGENT_WITHIN: Span = Span::secs(600);
/// A guest that has just installed packages shuts their services down in order.
const STOP_DEADLINE: Span = Span::secs(180);

spec! {
    /// What an image is made from: one of both.
    FromSpec("from") {
        /// The current generation of another image: a VM is made of it.
        "image" image: Loc<Name>;
        /// A VM of a module or service: it becomes the management instance, and reverts afterwards.
        "vm" vm: Loc<Name>;
    }
}

spec! {
    /// What is done in the management instance.
    StepsSpec("configure") {
        /// What cloud-init is given at its first boot: a `#cloud-config`, or a script that begins with `#!`.
        "userData" user_data: Text;
        /// What is done then, through the guest agent.
        "steps" steps: Vec<GuestStepSpec>;
    }
}

spec! {
    /// What a management instance has.
    BuildSpec("build") {
        /// Processors (default 2).
        "cpus" cpus: Loc<Int<1, 512>>;
        /// Memory (default 2GiB).
        "memory" memory: Loc<Bytes>;
        /// Size of its root disk, when larger than that of the image that it is made from: the generation's size too.
        "rootSize" root_size: Loc<Bytes>;
        /// Networks that configuring needs (default: none at all).
        "networks" networks: Vec<Loc<Name>>;
        /// Where it may run.
        "placement" placement: PlacementSpec;
    }
}

/// What is taken out of a guest before it is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generalise {
    /// What tells one clone from another.
    Auto,
    /// Nothing.
    None,
}

words!(Generalise, "what is taken out of a guest" {
    "auto" => Self::Auto,
    "none" => Self::None,
});

/// `manual`, or what is done.
#[derive(Clone, Debug)]
pub(crate) enum ConfigureChoice {
    Manual(Mark),
    Steps(Box<StepsSpec>),
}

impl Read for ConfigureChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(s) if s.text == "manual" => Some(Self::Manual(node.at)),
            Kind::Map(_) => StepsSpec::read(node, sink).map(|spec| Self::Steps(Box::new(spec))),
            _ => not("`manual`, or a map with `userData` and `steps`", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"const": "manual"}, StepsSpec::schema(generator)]})
    }
}

/// Whether a document says that its image is made in the fleet; reports what does not go together.
pub(crate) fn is_made(doc: &Doc<Box<ImageSpec>>, sink: &mut Sink) -> bool {
    let spec = &doc.spec;
    let only_made = [
        ("revision", spec.revision.as_ref().map(|r| r.at)),
        (
            "configure",
            spec.configure.as_ref().map(|c| match c {
                ConfigureChoice::Manual(at) => *at,
                ConfigureChoice::Steps(steps) => steps.at,
            }),
        ),
        ("build", spec.build.as_ref().map(|b| b.at)),
        ("check", spec.check.as_ref().map(|c| c.at)),
        ("generalise", spec.generalise.as_ref().map(|g| g.at)),
    ];
    let Some(from) = &spec.from else {
        let failed = spec.failed.contains(&"from");
        for (field, at) in only_made.into_iter().filter(|_| !failed) {
            if let Some(at) = at {
                sink.report("E0480", at, format!("`{field}` is said of an image that is not made in the fleet"))
                    .help("say what it is made from: `from: {image: …}` or `from: {vm: …}`");
            }
        }
        return failed;
    };
    let elsewhere = [
        ("source", spec.source.as_ref().map(|s| s.at)),
        ("digest", spec.digest.as_ref().map(|d| d.at)),
        ("current", spec.current.as_ref().map(|c| c.at)),
        ("size", spec.size.as_ref().map(|s| s.at)),
        ("unpackedSize", spec.unpacked_size.as_ref().map(|s| s.at)),
        ("compression", spec.compression.as_ref().map(|s| s.at)),
        ("generations", spec.generations.as_ref().and_then(|g| g.entries.first()).map(|(name, _)| name.at)),
    ];
    for (field, at) in elsewhere.into_iter().filter_map(|(field, at)| Some((field, at?))) {
        sink.report("E0480", at, format!("`{field}` is said of an image that is made in the fleet"))
            .also(from.at, "made from this")
            .help("its generations are what is sealed: leave it out, or leave `from` out");
    }
    true
}

/// An image that is made in the fleet: as far as its own document says it.
pub(crate) fn image(
    repo: &Repository,
    doc: &Doc<Box<ImageSpec>>,
    levels: &[Name],
    sink: &mut Sink,
) -> Option<(ImageFile, Option<Name>, Made)> {
    let spec = &doc.spec;
    let from = spec.from.as_ref()?;
    if spec.revision.is_none() && !spec.failed.contains(&"revision") {
        let help = "a number or a name, like `revision: 1`: another one makes another generation";
        sink.report("E0206", from.at, "`revision` is missing in an image that is made in the fleet").help(help);
    }
    let source = match (&from.image, &from.vm) {
        (Some(image), None) => {
            reference(repo, "Image", &repo.images, image, sink);
            Some(RecipeFrom::Image(image.value.clone()))
        }
        (None, Some(vm)) => Some(RecipeFrom::Vm(vm.value.clone())),
        (Some(image), Some(vm)) => {
            let message = "`image` and `vm` both say what it is made from";
            sink.report("E0218", vm.at, message).also(image.at, "`image`").help("write one of them");
            None
        }
        (None, None) => {
            if !from.flawed {
                sink.report("E0218", from.at, "neither `image` nor `vm` says what it is made from");
            }
            None
        }
    };
    if let Some(format) = spec.format.as_ref().filter(|f| f.value == ImageFormat::Rootfs) {
        let help = "it is made of the disk of a virtual machine: `qcow2` or `raw`";
        sink.report("E0480", format.at, "a container's archive is not made in the fleet").help(help);
    }
    let configure = configure(spec, sink);
    let check = spec.check.as_ref().map(probe_of);
    let generalise = spec.generalise.as_ref().is_none_or(|g| g.value == Generalise::Auto);
    let networks = spec.build.iter().flat_map(|b| b.networks.iter().flatten());
    let networks: Vec<Loc<Name>> = networks.cloned().collect();
    for network in &networks {
        reference(repo, "Network", &repo.networks, network, sink);
    }
    let revision = spec.revision.as_ref()?.value.0.clone();
    let (source, configure) = (source?, configure?);
    let check = match check {
        Some(None) => return None,
        Some(probe) => probe,
        None => None,
    };
    let over_network = matches!(check.as_ref().map(|p| &p.kind), Some(ProbeKind::Tcp { .. } | ProbeKind::Http { .. }));
    if over_network && networks.is_empty() && matches!(source, RecipeFrom::Image(_)) {
        let at = spec.check.as_ref().map_or(from.at, |c| c.at);
        sink.report("E0422", at, "the management instance is checked over the network but has no interface")
            .help("name a network in `build.networks`, or check with `exec` or `agent: {}`");
    }
    let mut recipe = Recipe {
        from: source,
        revision: revision.clone(),
        configure,
        check,
        generalise,
        vm: Arc::new(nothing()),
        networks: networks.iter().map(|n| n.value.clone()).collect(),
        origin: sink.origin(from.at),
    };
    recipe.vm = Arc::new(machine(repo, spec, &recipe, levels, sink)?);
    // Which content it will have nobody knows: until the planner has looked, it has none.
    let none = Digest::new(&format!("sha256:{}", "0".repeat(64))).ok()?;
    let name = format!("{}-{revision}.qcow2", doc.name.value);
    let disk = ImageFile::new(Source::Path(name.into()), none);
    Some((disk, Some(revision), Made::new(Arc::new(recipe))))
}

fn configure(spec: &ImageSpec, sink: &mut Sink) -> Option<Configure> {
    match &spec.configure {
        None if spec.failed.contains(&"configure") => None,
        None => Some(Configure::Steps { user_data: None, steps: Vec::new() }),
        Some(ConfigureChoice::Manual(_)) => Some(Configure::Manual),
        Some(ConfigureChoice::Steps(said)) => {
            if let Some(text) = &said.user_data {
                user_data(text, sink);
                let vm = spec.from.as_ref().and_then(|f| f.vm.as_ref());
                if let Some(vm) = vm {
                    sink.report("E0480", text.at, "a VM that exists has had its first boot")
                        .also(vm.at, "made from this")
                        .help("say it as `steps`");
                }
            }
            let steps = steps::steps(said.steps.as_deref().unwrap_or_default(), sink)?;
            Some(Configure::Steps { user_data: said.user_data.as_ref().map(|t| t.value.clone()), steps })
        }
    }
}

/// The management instance of an image that is made from another one.
fn machine(repo: &Repository, spec: &ImageSpec, recipe: &Recipe, levels: &[Name], sink: &mut Sink) -> Option<VmSpec> {
    let build = spec.build.as_ref();
    let mut out = nothing();
    let RecipeFrom::Image(image) = &recipe.from else {
        let said = build.and_then(|b| {
            let cpus = b.cpus.as_ref().map(|c| ("cpus", c.at));
            let memory = b.memory.as_ref().map(|m| ("memory", m.at));
            let root = b.root_size.as_ref().map(|r| ("rootSize", r.at));
            cpus.or(memory).or(root).or(b.placement.as_ref().map(|p| ("placement", p.at)))
        });
        if let Some((field, at)) = said {
            sink.report("E0480", at, format!("the management instance is a VM that exists: it has its own `{field}`"))
                .help("leave it out; only `networks` has a meaning here");
        }
        return Some(out);
    };
    out.image = Some(image.clone());
    out.layer = super::container::layer(repo, Some(image));
    if out.layer == Layer::Lxc {
        let at = spec.from.as_ref().map_or(spec.at, |f| f.at);
        let help = "it is made of the disk of a virtual machine";
        sink.report("E0480", at, format!("image `{image}` is a container's archive")).help(help);
        return None;
    }
    out.cpus = build.and_then(|b| b.cpus.as_ref()).map_or(2, |c| c.value.0);
    out.memory = build.and_then(|b| b.memory.as_ref()).map_or(MEMORY, |m| m.value);
    if let Some(memory) = build.and_then(|b| b.memory.as_ref()).filter(|m| m.value < LEAST_MEMORY) {
        sink.report("E0413", memory.at, format!("{} of memory boot nothing", memory.value))
            .help(format!("at least {LEAST_MEMORY}"));
    }
    (out.max_cpus, out.max_memory) = (out.cpus, out.memory);
    out.root_size = build.and_then(|b| b.root_size.as_ref()).map(|r| r.value);
    out.nics = recipe
        .networks
        .iter()
        .map(|n| (n.clone(), Nic { network: n.clone(), address: None, address6: None }))
        .collect();
    if let Configure::Steps { user_data, .. } = &recipe.configure {
        out.cloud_init = CloudInit { user_data: user_data.clone(), ssh_keys: Vec::new() };
    }
    let agent = Probe { kind: ProbeKind::AgentPing, within: AGENT_WITHIN, every: Span(500) };
    out.ready = recipe.needs_agent().then_some(agent);
    if let Some(said) = build.and_then(|b| b.placement.as_ref()) {
        if let Some(host) = &said.host {
            reference(repo, "Host", &repo.hosts, host, sink);
        }
        let labels = said.labels.iter().flat_map(|l| &l.entries);
        out.placement = Placement {
            host: said.host.as_ref().map(|h| h.value.clone()),
            labels: labels.map(|(key, value)| (key.to_string(), value.value.to_string())).collect(),
            security: said.security.as_ref().and_then(|s| level(levels, s, repo, sink)).unwrap_or(0),
        };
    }
    Some(out)
}

/// A management instance of which nothing is said.
fn nothing() -> VmSpec {
    VmSpec {
        image: None,
        layer: Layer::Qemu,
        cpus: 2,
        max_cpus: 2,
        memory: MEMORY,
        max_memory: MEMORY,
        root_size: None,
        persistent_root: false,
        returns_root: false,
        disks: BTreeMap::new(),
        mounts: BTreeMap::new(),
        nics: BTreeMap::new(),
        devices: BTreeMap::new(),
        machine: USUAL_MACHINE.into(),
        firmware: Firmware::Bios,
        display: Display { width: 1024, height: 768 },
        cloud_init: CloudInit::default(),
        ready: None,
        guard: None,
        stop: StopPolicy { deadline: STOP_DEADLINE, power_off: false },
        update: UpdatePolicy::Staged,
        protect: Protection::None,
        placement: Placement::default(),
        relocatable: Relocatable::Live,
        post_copy: false,
        origins: Origins::default(),
    }
}

/// What only the whole can tell of images that are made: what they take over from what they are made from, cycles, names
/// that are taken, and VMs that there are not.
pub(crate) fn whole(repo: &Repository, out: &mut Desired, sink: &mut Sink) {
    let made: Vec<(Name, Arc<Recipe>)> =
        out.images.values().filter_map(|i| Some((i.name.clone(), i.made.as_ref()?.recipe.clone()))).collect();
    for (name, recipe) in &made {
        let Some(doc) = repo.images.get(name) else { continue };
        let at = doc.spec.from.as_ref().map_or(doc.name.at, |f| f.at);
        match &recipe.from {
            RecipeFrom::Vm(vm) => member(out, vm, name, at, sink),
            RecipeFrom::Image(_) => names(out, name, recipe, doc.name.at, sink),
        }
        let mut seen = BTreeSet::from([name.clone()]);
        let mut base = Some(name.clone());
        while let Some(next) = base.as_ref().and_then(|n| source_of(out, n)) {
            if !seen.insert(next.clone()) {
                if next == *name {
                    sink.report("E0481", at, format!("image `{name}` is made from itself"))
                        .help("begin with an image that has a `source`");
                }
                base = None;
                break;
            }
            base = Some(next);
        }
        let Some(base) = base.filter(|b| b != name).and_then(|b| out.images.get(&b)).cloned() else { continue };
        inherit(out, name, &base, doc, sink);
    }
}

/// The image that another one is made from, directly or as the image of a VM.
fn source_of(out: &Desired, image: &Name) -> Option<Name> {
    match &out.images.get(image)?.made.as_ref()?.recipe.from {
        RecipeFrom::Image(name) => Some(name.clone()),
        // A VM may well be one of the image itself: of a generation that was sealed before.
        RecipeFrom::Vm(vm) => out.vms.get(vm)?.spec.image.clone().filter(|name| name != image),
    }
}

/// What was not said is as at the image at the bottom.
fn inherit(out: &mut Desired, name: &Name, base: &Image, doc: &Doc<Box<ImageSpec>>, sink: &mut Sink) {
    let Some(image) = out.images.get_mut(name) else { return };
    if doc.spec.boot.is_none() {
        image.boot = base.boot.clone();
    }
    if doc.spec.identity.is_none() {
        image.identity = base.identity;
    }
    if image.identity == Identity::Marker || base.identity == Identity::Marker {
        let at = doc.spec.identity.as_ref().map_or(doc.name.at, |i| i.at);
        sink.report(
            "E0480",
            at,
            format!("image `{name}` has no markers any more: the management instance's address is in it"),
        )
        .help("`learnsAddressBy: cloud-init`, from an image that learns it so too");
    }
}

fn member(out: &Desired, vm: &Name, image: &Name, at: Mark, sink: &mut Sink) {
    let Some(found) = out.vms.get(vm) else {
        if sink.errors() == 0 {
            let near = super::read::nearest(vm.as_str(), out.vms.keys().map(Name::as_str));
            sink.report("E0304", at, format!("no VM `{vm}` in this fleet"))
                .suggest(near)
                .help("a VM's name is `<service>-<app>-<ordinal>` or `<module>-<instance>-<vm>`");
        }
        return;
    };
    if found.spec.layer == Layer::Lxc {
        let help = "it is made of the disk of a virtual machine";
        sink.report("E0480", at, format!("vm `{vm}` is a container")).help(help);
    }
    let others = out.images.values().filter(|i| i.name < *image);
    let promotes = |i: &&Image| i.made.as_ref().and_then(|m| m.recipe.promotes()) == Some(vm);
    if let Some(other) = others.into_iter().find(promotes) {
        let there = sink.mark_of(&other.origin);
        sink.report("E0480", at, format!("two images are made from vm `{vm}`")).also(there, "the other one");
    }
}

/// The names of a management instance and its group must be free.
fn names(out: &Desired, image: &Name, recipe: &Recipe, at: Mark, sink: &mut Sink) {
    let Some(vm) = image_vm(image, &recipe.revision) else {
        let message = format!("its management instance would be called `image-{image}-{}`", recipe.revision);
        sink.report("E0307", at, message).help("at most 63 characters: it is also the VM's host name (RFC 1123)");
        return;
    };
    if let Some(taken) = out.vms.get(&vm) {
        let there = sink.mark_of(&taken.origin);
        sink.report("E0306", at, format!("its management instance would be called `{vm}`, as a VM is"))
            .also(there, "the VM")
            .help("rename one of them");
    } else if out.groups.contains_key(&*image_group(image)) {
        sink.report("E0306", at, format!("its management instance would be one of `{}`", image_group(image)))
            .help("rename the service, or the image");
    }
}
