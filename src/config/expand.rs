//! Services and modules become VMs and groups of like VMs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::build::{level, reference};
use super::check::{self, GroupInfo};
use super::read::{Loc, Named, nearest};
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::{FleetSpec, InstanceSpec, ModuleSpec, ServiceSpec, VmPart};
use super::subnet;
use super::vm::{Known, LEAST_MEMORY, Layer, Layers, Resolved};
use crate::model::{
    App, Field, Group, Host, Module, NEWEST_MACHINE, Name, Network, Owner, RunState, Service, Term, Vm, VmSpec,
};

/// Most VMs of a fleet: twice what the figures in the README go up to.
const MAX_VMS: usize = 100_000;

/// What the services and modules expand to.
#[derive(Default)]
pub(crate) struct Expanded {
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) modules: BTreeMap<Name, Module>,
    pub(crate) groups: BTreeMap<Arc<str>, Group>,
    pub(crate) vms: BTreeMap<Name, Vm>,
}

struct Expander<'a> {
    repo: &'a Repository,
    fleet: Option<&'a Doc<Box<FleetSpec>>>,
    known: Known<'a>,
    out: Expanded,
    infos: BTreeMap<Arc<str>, GroupInfo>,
    /// Where each VM's app or member was written, for collisions.
    named: BTreeMap<Name, Mark>,
}

/// Expands every service and module, and checks the whole.
pub(crate) fn expand(
    repo: &Repository,
    fleet: Option<&Doc<Box<FleetSpec>>>,
    hosts: &BTreeMap<Name, Host>,
    networks: &BTreeMap<Name, Network>,
    levels: &[Name],
    sink: &mut Sink,
) -> Expanded {
    let out = Expanded::default();
    let mut expander =
        Expander { repo, fleet, known: Known { levels, repo }, out, infos: BTreeMap::new(), named: BTreeMap::new() };
    if let Some(doc) = fleet {
        if let Some(defaults) = &doc.spec.defaults {
            expander.part(defaults, Place::Defaults, sink);
        }
        expander.templates(doc.spec.templates.as_ref(), None, sink);
    }
    for doc in repo.services.values() {
        expander.service(doc, sink);
    }
    for doc in repo.modules.values() {
        expander.module(doc, sink);
    }
    let Expander { out, infos, .. } = expander;
    check::cycles(&out.groups, &infos, sink);
    check::spreading(&out.groups, &infos, hosts, levels, repo, sink);
    subnet::addresses(repo, networks, &out, &infos, sink);
    check::probes(&infos, networks, sink);
    super::device::enough(&out, &infos, hosts, repo, sink);
    out
}

/// Where a part of a VM stands: not every field has a meaning everywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Defaults,
    Template,
    App,
    Member,
}

impl<'a> Expander<'a> {
    fn templates(&self, own: Option<&Named<VmPart>>, fleet: Option<&Named<VmPart>>, sink: &mut Sink) {
        for (name, part) in own.iter().flat_map(|t| &t.entries) {
            self.part(part, Place::Template, sink);
            if let Some((first, _)) = fleet.and_then(|f| f.get(name.value.as_str())) {
                let message = format!("a second template `{}`", name.value);
                sink.report("E0303", name.at, message).also(first.at, "the fleet's template of that name");
            }
        }
    }

    /// What can be said of one part of a VM alone: what it refers to, and values that are never right.
    fn part(&self, part: &VmPart, place: Place, sink: &mut Sink) {
        let repo = self.repo;
        if let Some(image) = &part.image
            && let Some(name) = &image.value.0
        {
            let name = Loc { at: image.at, value: name.clone() };
            reference(repo, "Image", &repo.images, &name, sink);
        }
        for (_, nic) in part.nics.iter().flat_map(|n| &n.entries) {
            if let Some(network) = &nic.network {
                reference(repo, "Network", &repo.networks, network, sink);
            }
        }
        if let Some(placement) = &part.placement {
            if let Some(host) = &placement.host {
                reference(repo, "Host", &repo.hosts, host, sink);
            }
            if let Some(security) = &placement.security {
                level(self.known.levels, security, repo, sink);
            }
        }
        super::device::references(part, repo, sink);
        self.misplaced(part, place, sink);
        values(part, sink);
    }

    fn misplaced(&self, part: &VmPart, place: Place, sink: &mut Sink) {
        let first = |list: &Option<Vec<Loc<Arc<str>>>>| list.as_ref().map(|l| l.first().map_or(part.at, |d| d.at));
        let fields = [
            ("from", part.from.as_ref().map(|f| f.at), place == Place::Defaults),
            ("dependsOn", first(&part.depends_on), matches!(place, Place::Defaults | Place::Template)),
            ("replicas", part.replicas.as_ref().map(|r| r.at), matches!(place, Place::Defaults | Place::Member)),
            ("spread", part.spread.as_ref().map(|s| s.at), matches!(place, Place::Defaults | Place::Member)),
        ];
        for (field, at, wrong) in fields {
            if let (Some(at), true) = (at, wrong) {
                let place = match place {
                    Place::Defaults => "the fleet's defaults",
                    Place::Template => "a template",
                    Place::App => "an app",
                    Place::Member => "a module's VM",
                };
                sink.report("E0310", at, format!("`{field}` has no meaning in {place}"));
            }
        }
    }

    /// The layers of an app or member: the fleet's defaults, the templates that `from:` leads to, and itself.
    fn layers(&self, own: Option<&'a Named<VmPart>>, part: &'a VmPart, name: Arc<str>, sink: &mut Sink) -> Layers<'a> {
        let fleet = self.fleet.and_then(|doc| doc.spec.templates.as_ref());
        let mut above = Vec::new();
        let mut incomplete = self.fleet.is_none();
        let mut from = part.from.as_ref();
        let mut visited: Vec<&str> = Vec::new();
        while let Some(wanted) = from {
            let text = wanted.value.as_str();
            let found = own.and_then(|t| t.get(text)).or_else(|| fleet.and_then(|t| t.get(text)));
            let Some((template_name, template)) = found else {
                incomplete = true;
                let names = own.iter().flat_map(|t| t.names()).chain(fleet.iter().flat_map(|t| t.names()));
                let near = nearest(text, names);
                let help = "templates stand under `templates:` of the Fleet, or of the same Service or Module";
                sink.report("E0304", wanted.at, format!("no template `{text}`")).suggest(near).help(help);
                break;
            };
            if visited.contains(&text) {
                incomplete = true;
                let message = format!("template `{text}` is made from itself: {} → {text}", visited.join(" → "));
                sink.report("E0308", wanted.at, message).also(template_name.at, "the template");
                break;
            }
            visited.push(text);
            above.push(Layer { part: template, name: format!("from {text}").into() });
            from = template.from.as_ref();
        }
        let mut list: Vec<Layer<'a>> = Vec::with_capacity(above.len() + 2);
        if let Some(defaults) = self.fleet.and_then(|doc| doc.spec.defaults.as_ref()) {
            list.push(Layer { part: defaults, name: "defaults".into() });
        }
        list.extend(above.into_iter().rev());
        list.push(Layer { part, name });
        Layers { list, group_run: None, incomplete }
    }

    fn service(&mut self, doc: &'a Doc<Box<ServiceSpec>>, sink: &mut Sink) {
        let service = &doc.name.value;
        self.templates(doc.spec.templates.as_ref(), self.fleet.and_then(|f| f.spec.templates.as_ref()), sink);
        let mut apps = BTreeMap::new();
        for (app, part) in doc.spec.apps.iter().flat_map(|apps| &apps.entries) {
            self.part(part, Place::App, sink);
            let key: Arc<str> = format!("{service}/{}", app.value).into();
            let mut layers = self.layers(doc.spec.templates.as_ref(), part, format!("app {}", app.value).into(), sink);
            layers.group_run = doc.spec.run.as_ref().map(|run| (*run, format!("service {service}").into()));
            let resolved = layers.resolve(app.at, &format!("app `{}`", app.value), &self.known, sink);
            let depends_on = self.service_dependencies(doc, part, sink);
            let mut group = Group { depends_on, min_hosts: 1, ..Group::default() };
            let mut info = GroupInfo { at: app.at, rule: None, spec: None, addresses: BTreeMap::new() };
            if let Some((spec, resolved)) = resolved {
                let spec = Arc::new(spec);
                let (min, max) = resolved.replicas;
                apps.insert(app.value.clone(), App { group: key.clone(), min, max, on_unknown: resolved.on_unknown });
                spread(&mut group, &mut info, &resolved, sink);
                self.replicas(service, app, &key, &mut group, &spec, &resolved, sink);
                info.spec = Some(spec);
                info.addresses = resolved.addresses;
            }
            self.out.groups.insert(key.clone(), group);
            self.infos.insert(key, info);
        }
        self.separate_apps(doc, sink);
        let origin = sink.origin(doc.name.at);
        let term = super::lease::term(doc.spec.lease.as_ref(), doc.spec.from.as_ref(), sink);
        self.out.services.insert(service.clone(), Service { name: service.clone(), apps, term, origin });
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one group")]
    fn replicas(
        &mut self,
        service: &Name,
        app: &Loc<Name>,
        key: &Arc<str>,
        group: &mut Group,
        spec: &Arc<VmSpec>,
        resolved: &Resolved,
        sink: &mut Sink,
    ) {
        let origin = sink.origin(app.at);
        for ordinal in 1..=resolved.replicas.0 {
            let text = format!("{service}-{}-{ordinal}", app.value);
            let Some(name) = self.name(&text, app.at, sink) else {
                return;
            };
            let owner = Owner::Service { service: service.clone(), app: app.value.clone(), ordinal };
            group.vms.push(name.clone());
            let vm = Vm {
                name: name.clone(),
                owner,
                group: key.clone(),
                run: resolved.run,
                spec: spec.clone(),
                origin: origin.clone(),
            };
            self.out.vms.insert(name, vm);
        }
        // Ordinals sort as numbers, names as text: `web-10` before `web-2`.
        group.vms.sort();
    }

    /// A VM's name, when it is one and nobody has it; reports it when not.
    fn name(&mut self, text: &str, at: Mark, sink: &mut Sink) -> Option<Name> {
        let Ok(name) = Name::new(text) else {
            let message = format!("the VM's name `{text}` has {} characters", text.len());
            sink.report("E0307", at, message).help("at most 63: it is also the VM's host name (RFC 1123)");
            return None;
        };
        if let Some(first) = self.named.get(&name) {
            let message = format!("two VMs would be called `{name}`");
            sink.report("E0306", at, message)
                .also(*first, "the first one")
                .help("rename one of the apps, services or modules");
            return None;
        }
        if self.named.len() >= MAX_VMS {
            sink.report("E0315", at, format!("more than {MAX_VMS} VMs")).help("make several fleets of it");
            return None;
        }
        self.named.insert(name.clone(), at);
        Some(name)
    }

    /// The groups that an app waits for.
    fn service_dependencies(
        &self,
        doc: &Doc<Box<ServiceSpec>>,
        part: &VmPart,
        sink: &mut Sink,
    ) -> Vec<(Arc<str>, crate::model::Origin)> {
        let mut out: Vec<(Arc<str>, _)> = Vec::new();
        for wanted in part.depends_on.iter().flatten() {
            if let Some(key) = self.app_key(doc, wanted, sink)
                && !out.iter().any(|(k, _)| *k == key)
            {
                out.push((key, sink.origin(wanted.at)));
            }
        }
        out
    }

    /// The key of `app` or `service/app`; reports what does not exist.
    fn app_key(&self, doc: &Doc<Box<ServiceSpec>>, wanted: &Loc<Arc<str>>, sink: &mut Sink) -> Option<Arc<str>> {
        let (service, app) = match wanted.value.split_once('/') {
            Some((service, app)) => (service, app),
            None => (doc.name.value.as_str(), &*wanted.value),
        };
        let Some(other) = self.repo.services.get(service) else {
            if !self.repo.may_be_lost("Service", service) {
                let near = nearest(service, self.repo.services.keys().map(Name::as_str)).map(|s| format!("{s}/{app}"));
                sink.report("E0304", wanted.at, format!("no service `{service}`")).suggest(near);
            }
            return None;
        };
        let apps = other.spec.apps.as_ref()?;
        if apps.get(app).is_none() {
            let near = nearest(app, apps.names())
                .map(|app| if wanted.value.contains('/') { format!("{service}/{app}") } else { app });
            sink.report("E0304", wanted.at, format!("no app `{app}` in service `{service}`")).suggest(near);
            return None;
        }
        Some(format!("{service}/{app}").into())
    }

    fn separate_apps(&mut self, doc: &Doc<Box<ServiceSpec>>, sink: &mut Sink) {
        for list in doc.spec.separate.iter().flatten() {
            let keys: Vec<_> = list.iter().filter_map(|app| Some((self.app_key(doc, app, sink)?, app.at))).collect();
            self.separate(&keys, sink);
        }
    }

    /// No two of these groups may share a host.
    fn separate(&mut self, keys: &[(Arc<str>, Mark)], sink: &mut Sink) {
        for (index, (key, at)) in keys.iter().enumerate() {
            if let Some((_, first)) = keys[..index].iter().find(|(k, _)| k == key) {
                let help = "`spread: {maxPerHost: 1}` keeps an app's own VMs apart";
                sink.report("E0403", *at, format!("`{key}` cannot be separate from itself"))
                    .also(*first, "named here")
                    .help(help);
            }
            let others: Vec<_> = keys.iter().filter(|(k, _)| k != key).map(|(k, _)| k.clone()).collect();
            let origin = sink.origin(*at);
            if let Some(info) = self.infos.get_mut(key) {
                info.rule.get_or_insert(*at);
            }
            // A group of another service, read later, gets the rule from this side only: `check` and `plan` look at both.
            if let Some(group) = self.out.groups.get_mut(key) {
                let new = others.into_iter().filter(|o| !group.separate_from.contains(o)).collect::<Vec<_>>();
                group.separate_from.extend(new);
                group.rule_origin.get_or_insert(origin);
            }
        }
    }

    fn module(&mut self, doc: &'a Doc<Box<ModuleSpec>>, sink: &mut Sink) {
        let module = &doc.name.value;
        self.templates(doc.spec.templates.as_ref(), self.fleet.and_then(|f| f.spec.templates.as_ref()), sink);
        let (mut instances, mut terms) = (BTreeMap::new(), BTreeMap::new());
        // What every instance says for itself need not make sense in the module.
        let own = |spec: &InstanceSpec| spec.lease.is_some() || spec.from.is_some();
        let all = doc.spec.instances.iter().flat_map(|i| &i.entries);
        let usual = if all.clone().next().is_none() || all.clone().any(|(_, spec)| !own(spec)) {
            super::lease::term(doc.spec.lease.as_ref(), doc.spec.from.as_ref(), sink)
        } else {
            Term::default()
        };
        let mut resolved = Vec::new();
        let members: &'a [(Loc<Name>, VmPart)] = doc.spec.vms.as_ref().map_or(&[], |vms| &vms.entries);
        for (member, part) in members {
            self.part(part, Place::Member, sink);
            let mut layers =
                self.layers(doc.spec.templates.as_ref(), part, format!("vm {}", member.value).into(), sink);
            layers.group_run = doc.spec.run.as_ref().map(|run| (*run, format!("module {module}").into()));
            let made = layers.resolve(member.at, &format!("vm `{}`", member.value), &self.known, sink);
            let depends_on = member_dependencies(doc, part, sink);
            let made = made.map(|(mut spec, resolved)| {
                spec.returns_root = !spec.persistent_root;
                (Arc::new(spec), resolved)
            });
            resolved.push((member, made, depends_on));
        }
        for (instance, spec) in doc.spec.instances.iter().flat_map(|i| &i.entries) {
            let run = spec.run.as_ref().or(doc.spec.run.as_ref()).map_or(RunState::Started, |r| r.value);
            instances.insert(instance.value.clone(), run);
            let term = match (&spec.lease, &spec.from) {
                (None, None) => usual.clone(),
                (lease, from) => {
                    let (lease, from) =
                        (lease.as_ref().or(doc.spec.lease.as_ref()), from.as_ref().or(doc.spec.from.as_ref()));
                    super::lease::term(lease, from, sink)
                }
            };
            terms.insert(instance.value.clone(), term);
            if self.named.len() >= MAX_VMS {
                self.name("one-too-many", instance.at, sink);
                break;
            }
            for (member, made, depends_on) in &resolved {
                let key: Arc<str> = format!("{module}/{}/{}", instance.value, member.value).into();
                let prefix = format!("{module}/{}", instance.value);
                let depends_on =
                    depends_on.iter().map(|(m, origin)| (format!("{prefix}/{m}").into(), origin.clone())).collect();
                let mut group = Group { depends_on, min_hosts: 1, ..Group::default() };
                let mut info = GroupInfo { at: member.at, rule: None, spec: None, addresses: BTreeMap::new() };
                if let Some((shared, resolved)) = made {
                    let (shared, run) = instance_run(shared, resolved.run, instance, spec.run.as_ref(), sink);
                    info.spec = Some(shared.clone());
                    info.addresses.clone_from(&resolved.addresses);
                    self.member(doc, instance, member, &key, &mut group, shared, run, sink);
                }
                self.out.groups.insert(key.clone(), group);
                self.infos.insert(key, info);
            }
            self.separate_members(doc, &instance.value, sink);
        }
        let members = members.iter().map(|(member, _)| member.value.clone()).collect();
        let origin = sink.origin(doc.name.at);
        self.out.modules.insert(module.clone(), Module { name: module.clone(), members, instances, terms, origin });
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one VM")]
    fn member(
        &mut self,
        doc: &Doc<Box<ModuleSpec>>,
        instance: &Loc<Name>,
        member: &Loc<Name>,
        key: &Arc<str>,
        group: &mut Group,
        spec: Arc<VmSpec>,
        run: RunState,
        sink: &mut Sink,
    ) {
        let module = doc.name.value.clone();
        let text = format!("{module}-{}-{}", instance.value, member.value);
        let Some(name) = self.name(&text, instance.at, sink) else {
            return;
        };
        let owner = Owner::Module { module, instance: instance.value.clone(), member: member.value.clone() };
        group.vms.push(name.clone());
        let origin = sink.origin(member.at);
        self.out.vms.insert(name.clone(), Vm { name, owner, group: key.clone(), run, spec, origin });
    }

    fn separate_members(&mut self, doc: &Doc<Box<ModuleSpec>>, instance: &Name, sink: &mut Sink) {
        for list in doc.spec.separate.iter().flatten() {
            let keys: Vec<_> = list
                .iter()
                .filter_map(|member| {
                    member_exists(doc, member, sink)?;
                    Some((format!("{}/{instance}/{}", doc.name.value, member.value).into(), member.at))
                })
                .collect();
            self.separate(&keys, sink);
        }
    }
}

/// The member's shared spec, or a copy with the instance's `run` among its origins.
fn instance_run(
    shared: &Arc<VmSpec>,
    run: RunState,
    instance: &Loc<Name>,
    own: Option<&Loc<RunState>>,
    sink: &Sink,
) -> (Arc<VmSpec>, RunState) {
    let Some(own) = own else {
        return (shared.clone(), run);
    };
    let mut spec = VmSpec::clone(shared);
    let name = format!("instance {}", instance.value).into();
    spec.origins.layers.push((Field::Run, sink.origin(own.at), name));
    (Arc::new(spec), own.value)
}

fn member_exists(doc: &Doc<Box<ModuleSpec>>, wanted: &Loc<Arc<str>>, sink: &mut Sink) -> Option<()> {
    let vms = doc.spec.vms.as_ref()?;
    if vms.get(&wanted.value).is_some() {
        return Some(());
    }
    let near = nearest(&wanted.value, vms.names());
    sink.report("E0304", wanted.at, format!("no VM `{}` in module `{}`", wanted.value, doc.name.value)).suggest(near);
    None
}

fn member_dependencies(
    doc: &Doc<Box<ModuleSpec>>,
    part: &VmPart,
    sink: &mut Sink,
) -> Vec<(Arc<str>, crate::model::Origin)> {
    let mut seen = BTreeSet::new();
    let known = part
        .depends_on
        .iter()
        .flatten()
        .filter(|wanted| member_exists(doc, wanted, sink).is_some())
        .collect::<Vec<_>>();
    let fresh = known.into_iter().filter(|wanted| seen.insert(wanted.value.clone()));
    fresh.map(|wanted| (wanted.value.clone(), sink.origin(wanted.at))).collect()
}

fn spread(group: &mut Group, info: &mut GroupInfo, resolved: &Resolved, sink: &Sink) {
    if let Some(min) = resolved.min_hosts {
        group.min_hosts = min.value;
        info.rule = Some(min.at);
    }
    if let Some(max) = resolved.max_per_host {
        group.max_per_host = Some(max.value);
        info.rule = Some(max.at);
    }
    group.rule_origin = info.rule.map(|at| sink.origin(at));
}

/// Values of one part of a VM that are never right.
fn values(part: &VmPart, sink: &mut Sink) {
    for memory in [&part.memory, &part.max_memory].into_iter().flatten() {
        if memory.value < LEAST_MEMORY {
            let message = format!("{} is too little memory for a VM", memory.value);
            sink.report("E0413", memory.at, message).help(format!("at least {LEAST_MEMORY}"));
        }
    }
    let sizes = part.disks.iter().flat_map(|d| &d.entries).filter_map(|(_, disk)| disk.size.as_ref());
    for size in sizes.chain(&part.root_size) {
        // qcow2 and raw disks are used through 512-byte sectors; a mebibyte is what every guest's partition tool aligns to.
        if size.value.0 < 1 << 20 || !size.value.0.is_multiple_of(512) {
            let message = format!("{} is not a size for a disk", size.value);
            sink.report("E0413", size.at, message).help("at least 1MiB, in whole sectors of 512 bytes");
        }
    }
    for (name, _) in part.disks.iter().flat_map(|d| &d.entries) {
        if matches!(name.value.as_str(), "root" | "seed") {
            let message = format!("a data disk cannot be called `{}`", name.value);
            sink.report("E0311", name.at, message).help("`root` and `seed` are the VM's own disks");
        }
    }
    if let Some(machine) = &part.machine {
        machine_type(machine, sink);
    }
    if let Some(ready) = &part.ready {
        probes(ready, sink);
    }
    if let Some(guard) = &part.guard {
        probes(&guard.probe(), sink);
    }
    if let Some(cloud_init) = &part.cloud_init {
        check::cloud_init(cloud_init, sink);
    }
    if let Some(stop) = part.stop.as_ref().and_then(|s| s.deadline.as_ref())
        && stop.value.0 < 1000
    {
        sink.report("E0413", stop.at, format!("{} is too short for a guest to shut down", stop.value))
            .help("at least 1s");
    }
}

fn machine_type(machine: &Loc<Arc<str>>, sink: &mut Sink) {
    let family = ["pc-q35-", "pc-i440fx-"].iter().find_map(|family| machine.value.strip_prefix(family));
    let versioned = family.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()) && v.contains('.'));
    if !versioned && *machine.value != *NEWEST_MACHINE {
        let message = format!("`{}` is not a versioned machine type", machine.value);
        let help = "like `pc-q35-7.2`, or `newest`, which is settled when the VM is made: without a version, an upgrade of \
                    QEMU changes the guest's hardware";
        sink.report("E0312", machine.at, message).help(help);
    }
}

pub(crate) fn probes(ready: &super::spec::ReadySpec, sink: &mut Sink) {
    let said = [
        ready.tcp.as_ref().map(|p| ("tcp", p.at)),
        ready.http.as_ref().map(|p| ("http", p.at)),
        ready.agent.as_ref().map(|p| ("agent", p.at)),
        ready.exec.as_ref().map(|p| ("exec", p.at)),
    ];
    let said: Vec<_> = said.into_iter().flatten().collect();
    if let [(first, first_at), (second, at), ..] = said.as_slice() {
        let message = format!("two probes: `{first}` and `{second}`");
        sink.report("E0218", *at, message).also(*first_at, format!("`{first}`")).help("write one of them");
    }
    if let Some(path) = ready.http.as_ref().and_then(|h| h.path.as_ref())
        && (!path.value.starts_with('/') || path.value.contains(char::is_whitespace))
    {
        let meant = (!path.value.starts_with('/')).then(|| format!("/{}", path.value));
        sink.report("E0217", path.at, format!("`{}` is not a path of a URL", path.value)).suggest(meant);
    }
    if let Some(command) = ready.exec.as_ref().and_then(|e| e.command.as_ref())
        && command.is_empty()
    {
        let at = ready.exec.as_ref().map_or(ready.at, |e| e.at);
        sink.report("E0413", at, "the command is empty");
    }
    for span in [&ready.within, &ready.every].into_iter().flatten() {
        if span.value.0 == 0 {
            sink.report("E0413", span.at, "a probe needs some time").help("like 500ms or 2m");
        }
    }
}
