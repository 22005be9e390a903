//! What the documents mean: hosts, images, networks and reviews; VMs come from `expand`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access;
use super::container;
use super::expand;
use super::generation;
use super::host::hosts;
use super::leaf::{Addressing, ApprovalPlacement, Rules};
use super::marker;
use super::read::{Loc, listed, nearest};
use super::recipe;
use super::repository::{Doc, Docs, Repository};
use super::sink::{Mark, Sink};
use super::spec::{BootChoice, FileSpec, FleetSpec, ImageSpec, NetworkSpec, WeightsSpec};
use super::subnet;
use super::task;
use super::vm::RETAIN;
use crate::model::{
    Address, Adoption, Boot, CloneMethod, Compression, Desired, Fetch, Field, Fleet, Generations, HostLost, Identity,
    Image, ImageFile, ImageFormat, Limits, Name, Network, NetworkMode, OnRemove, Pause, Removal, RemovalData, Retire,
    Share, Snapshot, Source, Span, Stores, Weights,
};

/// How long a file that nothing needs any more stays in a store, in seconds: a week, as data disks do.
const KEEP_IMAGES: u64 = 7 * 86_400;

/// Everything a repository means; `None` when there is no fleet at all. Whoever calls looks at the sink: with
/// errors in it, what is returned is not complete.
pub(crate) fn desired(repo: &Repository, snapshot: &Snapshot, sink: &mut Sink) -> Option<Desired> {
    let fleet_doc = repo.fleet.values().min_by_key(|doc| doc.name.at);
    let none = Vec::new();
    let levels = fleet_doc.and_then(|doc| doc.spec.security_levels.as_ref()).unwrap_or(&none);
    let levels: Vec<Name> = levels.iter().map(|level| level.value.clone()).collect();
    let hosts = hosts(repo, &levels, sink);
    let images =
        repo.images.iter().filter_map(|(name, doc)| Some((name.clone(), image(repo, doc, &levels, sink)?))).collect();
    let networks = networks(repo, sink);
    super::cable::apart(repo, &hosts, sink);
    let vms = expand::expand(repo, fleet_doc, &hosts, &networks, &levels, sink);
    let access = access::access(repo, &networks, &vms, sink);
    let mut out = Desired {
        revision: snapshot.revision.clone(),
        fleet: fleet(fleet_doc?, levels, sink),
        hosts,
        images,
        networks,
        services: vms.services,
        modules: vms.modules,
        groups: vms.groups,
        vms: vms.vms,
        pinned: BTreeMap::new(),
        management: BTreeMap::new(),
        leased: BTreeMap::new(),
        access,
        removals: Vec::new(),
        adoptions: Vec::new(),
        lost: Vec::new(),
        pauses: Vec::new(),
        tasks: BTreeMap::new(),
    };
    out.tasks = task::tasks(repo, &out, sink);
    reviews(repo, &mut out, sink);
    recipe::whole(repo, &mut out, sink);
    marker::vms(repo, &out, sink);
    Some(out)
}

fn fleet(doc: &Doc<Box<FleetSpec>>, security_levels: Vec<Name>, sink: &mut Sink) -> Fleet {
    if let Some(levels) = &doc.spec.security_levels {
        for (index, level) in levels.iter().enumerate() {
            if let Some(first) = levels[..index].iter().find(|l| l.value == level.value) {
                let message = format!("the security level `{}` stands here twice", level.value);
                sink.report("E0102", level.at, message).also(first.at, "first here");
            }
        }
    }
    let limits = doc.spec.limits.as_ref();
    let share = |loc: Option<&Loc<Share>>, default| loc.map_or(default, |l| l.value);
    Fleet {
        name: doc.name.value.clone(),
        security_levels,
        limits: Limits {
            destroy: share(limits.and_then(|l| l.destroy.as_ref()), Share::Count(3)),
            recreate: share(limits.and_then(|l| l.recreate.as_ref()), Share::Count(3)),
            reboot: share(limits.and_then(|l| l.reboot.as_ref()), Share::Percent(25)),
            actions_per_host: limits.and_then(|l| l.actions_per_host.as_ref()).map_or(4, |n| n.value.0),
            starts_per_host: limits.and_then(|l| l.starts_per_host.as_ref()).map_or(2, |n| n.value.0),
            moves: share(limits.and_then(|l| l.moves.as_ref()), Share::Percent(50)),
            moves_per_link: limits.and_then(|l| l.moves_per_link.as_ref()).map_or(1, |n| n.value.0),
        },
        weights: weights(doc.spec.placement.as_ref().and_then(|p| p.weights.as_ref())),
        keep_images: doc
            .spec
            .images
            .as_ref()
            .and_then(|i| i.keep.as_ref())
            .map_or(Span::secs(KEEP_IMAGES), |k| k.value),
        approval_any_host: doc
            .spec
            .approval
            .as_ref()
            .and_then(|a| a.placement.as_ref())
            .is_some_and(|p| p.value == ApprovalPlacement::Any),
        origin: sink.origin(doc.name.at),
    }
}

fn weights(spec: Option<&WeightsSpec>) -> Weights {
    // A weight has at most three decimals and seven digits: an f64 holds it exactly.
    #[expect(clippy::cast_precision_loss, reason = "at most 1_000_000_000, below 2^53")]
    let float = |milli: u64| milli as f64 / 1000.0;
    let of = |loc: Option<&Loc<super::leaf::Milli>>, default| loc.map_or(default, |m| float(m.value.0));
    Weights {
        memory: of(spec.and_then(|s| s.memory.as_ref()), 1.0),
        cpu: of(spec.and_then(|s| s.cpu.as_ref()), 1.0),
        slots: of(spec.and_then(|s| s.slots.as_ref()), 1.0),
        cost: of(spec.and_then(|s| s.cost.as_ref()), 0.0),
    }
}

/// Reports a name that no document of a kind has, unless it may be that of a document that could not be read.
pub(crate) fn reference<T>(repo: &Repository, kind: &str, docs: &Docs<T>, name: &Loc<Name>, sink: &mut Sink) {
    if docs.contains_key(&name.value) || repo.may_be_lost(kind, name.value.as_str()) {
        return;
    }
    let near = nearest(name.value.as_str(), docs.keys().map(Name::as_str));
    let none = near.is_none();
    let word = kind.to_lowercase();
    let report = sink.report("E0304", name.at, format!("no {word} `{}`", name.value)).suggest(near);
    if none {
        let names: Vec<_> = docs.keys().take(8).collect();
        report.help(if names.is_empty() {
            format!("there is no document of `kind: {kind}`")
        } else {
            let more = if docs.len() > 8 { " and more" } else { "" };
            format!("there {} {}{more}", if names.len() == 1 { "is" } else { "are" }, listed(&names))
        });
    }
}

/// The index of a security level; reports one that the fleet does not have.
pub(crate) fn level(levels: &[Name], name: &Loc<Name>, repo: &Repository, sink: &mut Sink) -> Option<u32> {
    if let Some(index) = levels.iter().position(|l| *l == name.value) {
        return u32::try_from(index).ok();
    }
    if !repo.fleet.is_empty() {
        let near = nearest(name.value.as_str(), levels.iter().map(Name::as_str));
        let message = format!("the fleet has no security level `{}`", name.value);
        sink.report("E0304", name.at, message)
            .suggest(near)
            .help("levels are the Fleet's `securityLevels`, lowest first");
    }
    None
}

/// Generations that stores keep where nothing is said: what runs, and what a revert brings back.
const KEEP: u32 = 2;

fn image(repo: &Repository, doc: &Doc<Box<ImageSpec>>, levels: &[Name], sink: &mut Sink) -> Option<Image> {
    let spec = &doc.spec;
    let format = spec.format.as_ref().map(|f| f.value);
    let boot = boot(repo, spec.boot.as_ref(), sink);
    let identity = spec.identity.as_ref().map_or(Identity::CloudInit, |i| i.value);
    let usual = if identity == Identity::Marker { CloneMethod::Copy } else { CloneMethod::Overlay };
    let clone = spec.clone.as_ref().map_or(usual, |c| c.value);
    let markers = marker::markers(spec, sink);
    let parts = match format {
        Some(ImageFormat::Rootfs) => Some(container::archive(doc, sink)),
        Some(ImageFormat::Qcow2 | ImageFormat::Raw) => {
            container::disk_image(doc, sink);
            boot.map(|boot| (boot, identity, clone))
        }
        None => None,
    };
    let usual = parts.as_ref().map_or(Boot::Disk, |(boot, ..)| boot.clone());
    if let Some(said) = spec.compression.as_ref().filter(|c| format == Some(ImageFormat::Rootfs) && !c.value.is_none())
    {
        let help = "leave `compression` out: an archive is unpacked when a container is made of it";
        sink.report("E0440", said.at, "`compression` is not for a container's archive").help(help);
    }
    // A container's archive is unpacked when a clone is made.
    let packed = if format == Some(ImageFormat::Rootfs) { Compression::None } else { Compression::Auto };
    let compression = spec.compression.as_ref().map_or(packed, |c| c.value);
    let (current, made) = if recipe::is_made(doc, sink) {
        let (disk, name, made) = recipe::image(repo, doc, levels, sink)?;
        let all = Generations::new();
        (Some(generation::Current { disk, boot: usual, name, all }), Some(made))
    } else {
        (generation::current(repo, doc, (usual, compression), sink), None)
    };
    let ((_, identity, clone), current) = (parts?, current?);
    Some(Image {
        name: doc.name.value.clone(),
        disk: current.disk,
        format: format?,
        boot: current.boot,
        identity,
        clone,
        generation: current.name,
        generations: current.all,
        rollout: generation::rollout(doc, sink),
        keep: spec.keep.as_ref().map_or(KEEP, |n| n.value.0),
        retire: spec.retire.as_ref().map_or(Retire::Auto, |r| r.value),
        stores: spec.stores.as_ref().map_or(Stores::Needed, |s| s.value),
        fetch: spec.fetch.as_ref().map_or(Fetch::Each, |f| f.value),
        markers: markers?,
        made,
        origin: sink.origin(doc.name.at),
    })
}

/// How an image boots.
pub(crate) fn boot(repo: &Repository, choice: Option<&BootChoice>, sink: &mut Sink) -> Option<Boot> {
    match choice {
        None | Some(BootChoice::Disk(_) | BootChoice::Init(_)) => Some(Boot::Disk),
        Some(BootChoice::Kernel(boot)) => {
            let kernel = boot.kernel.as_ref().and_then(|file| image_file(repo, file, sink));
            let initrd = boot.initrd.as_ref().map(|file| image_file(repo, file, sink));
            let command_line = boot.command_line.as_ref().map_or_else(|| "".into(), |c| c.value.clone());
            match (kernel, initrd) {
                (Some(kernel), Some(Some(initrd))) => Some(Boot::Kernel { kernel, initrd: Some(initrd), command_line }),
                (Some(kernel), None) => Some(Boot::Kernel { kernel, initrd: None, command_line }),
                _ => None,
            }
        }
    }
}

fn image_file(repo: &Repository, spec: &FileSpec, sink: &mut Sink) -> Option<ImageFile> {
    let at = Place { at: spec.at, path: spec.path.clone(), url: spec.url.clone(), host: spec.host.clone() };
    let source = source(repo, &at, spec.flawed, sink);
    let size = spec.size.as_ref().map(|b| b.value);
    Some(ImageFile { size, ..ImageFile::new(source?, spec.digest.as_ref()?.value.clone()) })
}

/// What a document says of where a file is.
pub(crate) struct Place {
    pub(crate) at: Mark,
    pub(crate) path: Option<Loc<Arc<str>>>,
    pub(crate) url: Option<Loc<Arc<str>>>,
    pub(crate) host: Option<Loc<Name>>,
}

/// A path, a path on a host, or a URL.
pub(crate) fn source(repo: &Repository, place: &Place, flawed: bool, sink: &mut Sink) -> Option<Source> {
    match (&place.path, &place.url, &place.host) {
        (Some(path), None, Some(host)) => {
            reference(repo, "Host", &repo.hosts, host, sink);
            if !path.value.starts_with('/') || path.value.ends_with('/') {
                let message = format!("`{}` is not the absolute path of a file", path.value);
                sink.report("E0217", path.at, message).help("with `host`, say where the file is on that host");
                return None;
            }
            Some(Source::Host { host: host.value.clone(), path: path.value.clone() })
        }
        (None, _, Some(host)) => {
            let help = "say where the file is on that host: `path: /…`";
            sink.report("E0218", host.at, "`host` goes with a `path` there").help(help);
            None
        }
        (Some(path), None, None) => Some(Source::Path(beside(&sink.path(path.at), &path.value))),
        (None, Some(url), None) => {
            let known = ["https://", "http://", "file://"].iter().any(|scheme| url.value.starts_with(scheme));
            if !known {
                let help = "use `https://`, `http://` or `file://`";
                sink.report("E0217", url.at, format!("`{}` is not a URL that can be fetched", url.value)).help(help);
            }
            known.then(|| Source::Url(url.value.clone()))
        }
        (Some(path), Some(url), _) => {
            let message = "`path` and `url` both say where the file is";
            sink.report("E0218", url.at, message).also(path.at, "`path`").help("write one of them");
            None
        }
        (None, None, None) => {
            if !flawed {
                sink.report("E0218", place.at, "neither `path` nor `url` says where the file is");
            }
            None
        }
    }
}

/// A path as a file of the fleet writes it (beside itself), from the fleet's folder; an absolute one as it is.
pub(crate) fn beside(file: &str, path: &str) -> Arc<str> {
    if path.starts_with('/') {
        return path.into();
    }
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/").into()
}

fn networks(repo: &Repository, sink: &mut Sink) -> BTreeMap<Name, Network> {
    let mut bridges: BTreeMap<Arc<str>, Mark> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for doc in repo.networks.values() {
        if let Some(name) = doc.spec.bridge.as_ref().and_then(|b| b.name.as_ref()) {
            if let Some(first) = bridges.get(&name.value) {
                let message = format!("two networks on the bridge `{}`", name.value);
                sink.report("E0411", name.at, message).also(*first, "the first one");
            } else {
                bridges.insert(name.value.clone(), name.at);
            }
        }
        if let Some(network) = network(doc, sink) {
            out.insert(doc.name.value.clone(), network);
        }
    }
    out
}

fn network(doc: &Doc<Box<NetworkSpec>>, sink: &mut Sink) -> Option<Network> {
    let spec = &doc.spec;
    let bridge = spec.bridge.as_ref();
    let name = bridge.and_then(|b| b.name.as_ref());
    if let Some(name) = name {
        bridge_name(name, sink);
    }
    let create_bridge = bridge.and_then(|b| b.create.as_ref()).is_some_and(|c| c.value);
    let mode = super::cable::mode(doc, create_bridge, sink);
    let range = addresses(doc, sink);
    let host_address = spec.host_address.as_ref().map(|a| a.value);
    Some(Network {
        name: doc.name.value.clone(),
        bridge: name?.value.clone(),
        create_bridge,
        cable: bridge.and_then(|b| super::cable::cable(b, create_bridge, sink)),
        mode,
        subnet: spec.subnet.as_ref().map(|s| s.value),
        host_address,
        // Behind NAT there is no other way out.
        gateway: spec.gateway.as_ref().map(|a| a.value).or(host_address.filter(|_| mode == NetworkMode::Nat)),
        dns: spec.dns.iter().flatten().map(|a| a.value).collect(),
        range,
        six: subnet::six(doc, sink),
        closed: spec.rules.as_ref().is_none_or(|rules| rules.value == Rules::Closed),
        probes_from: spec.probes_from.iter().flatten().map(|net| net.value.0).collect(),
        origin: sink.origin(doc.name.at),
    })
}

fn bridge_name(name: &Loc<Arc<str>>, sink: &mut Sink) {
    if name.value.len() > 15 {
        let message = format!("the bridge name `{}` has {} characters", name.value, name.value.len());
        sink.report("E0420", name.at, message).help("Linux takes at most 15 (IFNAMSIZ)");
    } else if name.value.contains(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
        || &*name.value == "."
        || &*name.value == ".."
    {
        sink.report("E0420", name.at, format!("`{}` is not a name for a bridge", name.value))
            .help("use a-z, 0-9, `-`, `_` and `.`");
    }
}

/// The range that may be planned, when the network's addresses are; reports what contradicts the subnet.
fn addresses(doc: &Doc<Box<NetworkSpec>>, sink: &mut Sink) -> Option<(std::net::Ipv4Addr, std::net::Ipv4Addr)> {
    let spec = &doc.spec;
    let within = [
        ("hostAddress", spec.host_address.as_ref()),
        ("gateway", spec.gateway.as_ref()),
        ("range.from", spec.range.as_ref().and_then(|r| r.from.as_ref())),
        ("range.to", spec.range.as_ref().and_then(|r| r.to.as_ref())),
    ];
    if let Some(subnet) = &spec.subnet {
        for (field, address) in within.iter().filter_map(|(field, a)| a.map(|a| (field, a))) {
            let usable = subnet.value.prefix_len() >= 31
                || (address.value != subnet.value.network() && address.value != subnet.value.broadcast());
            if !subnet.value.contains(&address.value) || !usable {
                let message = format!("`{field}` {} is not a host's address in {}", address.value, subnet.value);
                sink.report("E0405", address.at, message).also(subnet.at, "the subnet");
            }
        }
    }
    let external = spec.addressing.as_ref().filter(|a| a.value == Addressing::External);
    if let (Some(external), Some(range)) = (external, &spec.range) {
        let message = "a range of planned addresses contradicts `addressing: external`";
        sink.report("E0409", range.at, message).also(external.at, "addresses are given by somebody else");
        return None;
    }
    let planned = spec.addressing.as_ref().filter(|a| a.value == Addressing::Static);
    // A network may be one of IPv6 alone.
    let six = spec.range6.is_some() && spec.range.is_none();
    for (field, missing) in [("range", spec.range.is_none()), ("subnet", spec.subnet.is_none())] {
        if let Some(planned) = planned.filter(|_| missing && !six && !doc.flawed) {
            let message = format!("`addressing: static` needs a `{field}`");
            sink.report("E0206", planned.at, message)
                .help("or `addressing: external`, when a DHCP server gives addresses");
        }
    }
    let range = spec.range.as_ref()?;
    if planned.is_none() && spec.subnet.is_none() && !doc.flawed {
        sink.report("E0206", range.at, "a `range` of planned addresses needs a `subnet`");
    }
    let (from, to) = (range.from.as_ref()?, range.to.as_ref()?);
    if from.value > to.value {
        let message = format!("the range ends at {} before it begins at {}", to.value, from.value);
        sink.report("E0408", to.at, message).also(from.at, "`from`");
        return None;
    }
    Some((from.value, to.value))
}

fn reviews(repo: &Repository, out: &mut Desired, sink: &mut Sink) {
    for doc in repo.removals.values() {
        let (Some(target), Some(reason)) = (&doc.spec.target, &doc.spec.reason) else {
            continue;
        };
        removal_target(repo, out, target, sink);
        let data = match doc.spec.data.as_ref().map_or(OnRemove::Retain(RETAIN), |keep| keep.value) {
            OnRemove::Retain(span) => RemovalData::Retain(span),
            OnRemove::Delete => RemovalData::Delete,
        };
        let (name, origin) = (doc.name.value.clone(), sink.origin(doc.name.at));
        out.removals.push(Removal { name, target: target.value.clone(), data, reason: reason.value.clone(), origin });
    }
    let mut adopted: BTreeMap<String, Mark> = BTreeMap::new();
    for doc in repo.adoptions.values() {
        let (Some(vm), Some(uuid), Some(reason)) = (&doc.spec.vm, &doc.spec.uuid, &doc.spec.reason) else {
            continue;
        };
        if !out.vms.contains_key(&vm.value) && sink.errors() == 0 {
            let near = nearest(vm.value.as_str(), out.vms.keys().map(Name::as_str));
            let message = format!("no VM `{}` in this fleet", vm.value);
            sink.report("E0304", vm.at, message)
                .suggest(near)
                .help("an adopted VM needs a Service or Module that describes it");
        }
        for (what, key, at) in [("VM", vm.value.to_string(), vm.at), ("domain", uuid.value.to_string(), uuid.at)] {
            match adopted.get(&key) {
                Some(first) => drop(
                    sink.report("E0417", at, format!("the {what} `{key}` is adopted twice")).also(*first, "first here"),
                ),
                None => drop(adopted.insert(key, at)),
            }
        }
        let (name, origin) = (doc.name.value.clone(), sink.origin(doc.name.at));
        let (vm, uuid) = (vm.value.clone(), uuid.value);
        out.adoptions.push(Adoption { name, vm, uuid, reason: reason.value.clone(), origin });
    }
    let adopted: std::collections::BTreeSet<&Name> = out.adoptions.iter().map(|a| &a.vm).collect();
    for vm in out.vms.values().filter(|vm| vm.spec.image.is_none() && !adopted.contains(&vm.name)) {
        if repo.may_be_lost_kind("Adoption") {
            break;
        }
        let at = sink.mark_of(vm.spec.origins.of(Field::Image).unwrap_or(&vm.origin));
        let help = "name an image, or write the Adoption of the domain that it is";
        sink.report("E0313", at, format!("VM `{}` has no image, and no Adoption names it", vm.name)).help(help);
    }
    for doc in repo.lost_hosts.values() {
        let spec = &doc.spec;
        let (Some(host), Some(evidence), Some(reason)) = (&spec.host, &spec.evidence, &spec.reason) else {
            continue;
        };
        reference(repo, "Host", &repo.hosts, host, sink);
        let (name, origin) = (doc.name.value.clone(), sink.origin(doc.name.at));
        let (host, evidence) = (host.value.clone(), evidence.value.clone());
        out.lost.push(HostLost { name, host, evidence, reason: reason.value.clone(), origin });
    }
    for doc in repo.pauses.values() {
        let spec = &doc.spec;
        let (Some(scope), Some(who), Some(reason), Some(until)) = (&spec.scope, &spec.who, &spec.reason, &spec.until)
        else {
            continue;
        };
        address_exists(repo, out, scope, sink);
        let (name, origin) = (doc.name.value.clone(), sink.origin(doc.name.at));
        let (who, reason) = (who.value.clone(), reason.value.clone());
        out.pauses.push(Pause { name, scope: scope.value.clone(), who, reason, until: until.value, origin });
    }
}

/// A Removal names what has left the YAML, so an unknown name is right; what still stands there is suspicious.
fn removal_target(repo: &Repository, out: &Desired, target: &Loc<Address>, sink: &mut Sink) {
    let name = target.value.name();
    let stands = match &target.value {
        Address::Vm(vm) => out.vms.contains_key(vm),
        Address::Service(service) => repo.services.contains_key(service),
        Address::Module(module) => repo.modules.contains_key(module),
        Address::Fleet(fleet) => {
            if *fleet != out.fleet.name {
                let meant = format!("fleet/{}", out.fleet.name);
                sink.report("E0304", target.at, format!("this is not the fleet `{fleet}`")).suggest(Some(meant));
            }
            false
        }
        Address::Host(_) | Address::Image(_) | Address::Network(_) | Address::Task(_) => {
            let message = format!("a Removal cannot name a {}", target.value.kind());
            sink.report("E0416", target.at, message).help("name a vm, service, module or fleet");
            false
        }
    };
    if stands {
        let message = format!("`{}` is still described here: the Removal of `{name}` wins, and it ends", target.value);
        sink.report("W0501", target.at, message)
            .help("take what describes it out of the YAML too, or the Removal back");
    }
}

/// Reports an address of a Pause that names nothing.
fn address_exists(repo: &Repository, out: &Desired, scope: &Loc<Address>, sink: &mut Sink) {
    let name = Loc { at: scope.at, value: scope.value.name().clone() };
    match &scope.value {
        Address::Host(_) => reference(repo, "Host", &repo.hosts, &name, sink),
        Address::Image(_) => reference(repo, "Image", &repo.images, &name, sink),
        Address::Network(_) => reference(repo, "Network", &repo.networks, &name, sink),
        Address::Service(_) => reference(repo, "Service", &repo.services, &name, sink),
        Address::Module(_) => reference(repo, "Module", &repo.modules, &name, sink),
        Address::Fleet(fleet) if *fleet == out.fleet.name => {}
        Address::Fleet(fleet) => {
            let meant = format!("fleet/{}", out.fleet.name);
            sink.report("E0304", scope.at, format!("this is not the fleet `{fleet}`")).suggest(Some(meant));
        }
        Address::Vm(vm) if sink.errors() == 0 && !out.vms.contains_key(vm) => {
            let near = nearest(vm.as_str(), out.vms.keys().map(Name::as_str)).map(|vm| format!("vm/{vm}"));
            sink.report("E0304", scope.at, format!("no VM `{vm}` in this fleet")).suggest(near);
        }
        Address::Vm(_) => {}
        Address::Task(_) => {
            sink.report("E0416", scope.at, "a Pause cannot name a task").help("name the VMs that it is about");
        }
    }
}
