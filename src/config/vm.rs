//! One VM from its layers: `defaults` < templates (`from:`) < app or member. Scalars replace, maps merge, lists replace.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::container;
use super::guard;
use super::leaf::Persistence;
use super::read::{Loc, Named};
use super::repository::Repository;
use super::sink::{Mark, Sink};
use super::spec::VmPart;
use super::subnet::FixedAt;
use crate::model::Layer::Lxc;
use crate::model::{
    Bytes, CloudInit, DataDisk, Display, Field, Name, Nic, OnRemove, OnUnknown, Origins, Placement, Probe, ProbeKind,
    Protection, RunState, Span, StopPolicy, USUAL_MACHINE, UpdatePolicy, VmSpec,
};

/// A guest that shuts down its services in order needs less; systemd itself kills them after 90 s each.
const STOP_DEADLINE: Span = Span::secs(60);
/// A first program that does not listen to SIGTERM never will: what container engines wait, too.
const CONTAINER_DEADLINE: Span = Span::secs(10);
/// A week: long enough to notice after a holiday that a disk was meant to stay.
pub(crate) const RETAIN: Span = Span::secs(7 * 86_400);
/// A cloud image under software emulation takes about 90 s to its first login.
pub(crate) const READY_WITHIN: Span = Span::secs(120);
/// Two tries a second: half of it is the mean delay that probing adds to a start.
const READY_EVERY: Span = Span(500);

/// One layer of a VM.
#[derive(Clone)]
pub(crate) struct Layer<'a> {
    pub(crate) part: &'a VmPart,
    pub(crate) name: Arc<str>,
}

/// The layers of a VM, the strongest last.
pub(crate) struct Layers<'a> {
    pub(crate) list: Vec<Layer<'a>>,
    /// `run:` of the service or module, between defaults and templates.
    pub(crate) group_run: Option<(Loc<RunState>, Arc<str>)>,
    /// A layer could not be found or read.
    pub(crate) incomplete: bool,
}

/// An entry of a map as one layer says it: where, what, and the layer's name.
type Said<'s, T> = (Mark, &'s T, &'s Arc<str>);

/// What only an app has, resolved with the rest.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) run: RunState,
    pub(crate) replicas: (u32, u32),
    /// While the host of a replica is Unknown.
    pub(crate) on_unknown: OnUnknown,
    pub(crate) min_hosts: Option<Loc<u32>>,
    pub(crate) max_per_host: Option<Loc<u32>>,
    /// Where fixed addresses were written, by interface.
    pub(crate) addresses: FixedAt,
}

/// Resolves levels and names that a VM mentions; what is unknown was reported where it was written.
pub(crate) struct Known<'a> {
    pub(crate) levels: &'a [Name],
    pub(crate) repo: &'a Repository,
}

impl Layers<'_> {
    /// The value of the strongest layer that says it; every layer that does is kept as an origin.
    fn pick<'s, T>(
        &'s self,
        field: Field,
        out: &mut Origins,
        sink: &Sink,
        get: impl Fn(&'s VmPart) -> Option<&'s Loc<T>>,
    ) -> Option<&'s Loc<T>> {
        let mut winner = None;
        for layer in &self.list {
            if let Some(loc) = get(layer.part) {
                out.layers.push((field, sink.origin(loc.at), layer.name.clone()));
                winner = Some(loc);
            }
        }
        winner
    }

    /// The entries of a map of all layers, each with what its layers say, the strongest last.
    pub(crate) fn merged<'s, T>(
        &'s self,
        get: impl Fn(&'s VmPart) -> Option<&'s Named<T>>,
    ) -> BTreeMap<&'s Name, Vec<Said<'s, T>>> {
        let mut out: BTreeMap<&Name, Vec<_>> = BTreeMap::new();
        for layer in &self.list {
            for (key, value) in get(layer.part).iter().flat_map(|named| &named.entries) {
                out.entry(&key.value).or_default().push((key.at, value, &layer.name));
            }
        }
        out
    }

    /// Makes the VM, or reports what is missing; `at` is where the app or member was written, `what` what it is.
    pub(crate) fn resolve(
        &self,
        at: Mark,
        what: &str,
        known: &Known<'_>,
        sink: &mut Sink,
    ) -> Option<(VmSpec, Resolved)> {
        let mut o = Origins::default();
        let run = self.run(&mut o, sink);
        let image = self.pick(Field::Image, &mut o, sink, |p| p.image.as_ref());
        let cpus = self.pick(Field::Cpus, &mut o, sink, |p| p.cpus.as_ref());
        let max_cpus = self.pick(Field::MaxCpus, &mut o, sink, |p| p.max_cpus.as_ref());
        let memory = self.pick(Field::Memory, &mut o, sink, |p| p.memory.as_ref());
        let max_memory = self.pick(Field::MaxMemory, &mut o, sink, |p| p.max_memory.as_ref());
        let root_size = self.pick(Field::RootSize, &mut o, sink, |p| p.root_size.as_ref());
        let persistence = self.last(|p| p.persistence.as_ref());
        let machine = self.pick(Field::Machine, &mut o, sink, |p| p.machine.as_ref());
        let firmware = self.pick(Field::Firmware, &mut o, sink, |p| p.firmware.as_ref());
        let protect = self.pick(Field::Protect, &mut o, sink, |p| p.protect.as_ref());
        let update = self.last(|p| p.update.as_ref());
        let relocatable = self.last(|p| p.relocatable.as_ref()).map(|r| r.value).unwrap_or_default();
        let post_copy = self.last(|p| p.post_copy.as_ref()).is_some_and(|p| p.value);
        let disks = self.disks(&mut o, sink);
        let nics = self.nics(&mut o, sink);
        let display = self.display(&mut o, sink);
        let cloud_init = self.cloud_init(&mut o, sink);
        let ready = self.ready(&mut o, sink);
        let placement = self.placement(known, &mut o, sink);
        let missing = [("image", image.is_none()), ("memory", memory.is_none())];
        for (field, _) in missing.iter().filter(|(field, missing)| *missing && !self.may_say(field)) {
            let help = "no layer says it: neither this, nor a template, nor the fleet's `defaults`";
            sink.report("E0206", at, format!("`{field}` is missing in {what}")).help(help);
        }
        let (image, memory) = (image?, memory?);
        let one = cpus.map_or(1, |c| c.value.0);
        if let Some(max) = max_cpus.filter(|max| max.value.0 < one) {
            let report =
                sink.report("E0412", max.at, format!("`maxCpus` {} is less than `cpus` {one} of {what}", max.value.0));
            if let Some(cpus) = cpus {
                report.also(cpus.at, "`cpus`");
            }
        }
        if let Some(max) = max_memory.filter(|max| max.value < memory.value) {
            let message = format!("`maxMemory` {} is less than `memory` {} of {what}", max.value, memory.value);
            sink.report("E0412", max.at, message).also(memory.at, "`memory`");
        }
        self.probe_reaches(at, what, ready.as_ref(), &nics, sink);
        let layer = container::layer(known.repo, image.value.0.as_ref());
        let mounts = container::mounts(self, layer, sink);
        if layer == Lxc {
            container::lacks(self, what, run, sink);
        }
        let spec = VmSpec {
            image: image.value.0.clone(),
            layer,
            cpus: one,
            max_cpus: max_cpus.map_or(one, |c| c.value.0),
            memory: memory.value,
            max_memory: max_memory.map_or(memory.value, |m| m.value),
            root_size: root_size.map(|s| s.value),
            persistent_root: persistence.is_some_and(|p| p.value == Persistence::Persistent),
            returns_root: persistence.is_some_and(|p| p.value == Persistence::Reset),
            disks: disks?,
            mounts: mounts?,
            nics: nics?,
            devices: if layer == Lxc { BTreeMap::new() } else { self.devices(&mut o, sink) },
            machine: machine.map_or_else(|| USUAL_MACHINE.into(), |m| m.value.clone()),
            firmware: firmware.map(|f| f.value).unwrap_or_default(),
            display,
            // What the fleet's defaults say of it is meant for virtual machines.
            cloud_init: if layer == Lxc { CloudInit::default() } else { cloud_init },
            ready,
            guard: self.guard(layer, &mut o, sink),
            stop: self.stop(layer),
            update: update.map_or(UpdatePolicy::Staged, |u| u.value),
            protect: protect.map_or(Protection::None, |p| p.value),
            placement: placement?,
            relocatable,
            post_copy,
            origins: o,
        };
        guard::check(self, what, &spec, sink);
        let min = self.last(|p| p.replicas.as_ref()?.min.as_ref()).map_or(1, |m| m.value.0);
        let max = self.last(|p| p.replicas.as_ref()?.max.as_ref());
        if let Some(max) = max.filter(|max| max.value.0 < min) {
            sink.report("E0412", max.at, format!("replicas: `max` {} is less than `min` {min}", max.value.0));
        }
        let number = |loc: &Loc<super::leaf::Int<1, 100_000>>| Loc { at: loc.at, value: loc.value.0 };
        let resolved = Resolved {
            run,
            replicas: (min, max.map_or(min, |m| m.value.0)),
            on_unknown: self.last(|p| p.replicas.as_ref()?.on_unknown.as_ref()).map(|o| o.value).unwrap_or_default(),
            min_hosts: self.last(|p| p.spread.as_ref()?.min_hosts.as_ref()).map(number),
            max_per_host: self.last(|p| p.spread.as_ref()?.max_per_host.as_ref()).map(number),
            addresses: self.addresses(),
        };
        Some((spec, resolved))
    }

    /// Whether a field may have been written where it could not be read.
    fn may_say(&self, field: &str) -> bool {
        self.incomplete || self.list.iter().any(|layer| layer.part.failed.iter().any(|f| *f == field || f.is_empty()))
    }

    fn last<'s, T: 's>(&'s self, get: impl Fn(&'s VmPart) -> Option<&'s T>) -> Option<&'s T> {
        self.list.iter().rev().find_map(|layer| get(layer.part))
    }

    fn run(&self, o: &mut Origins, sink: &Sink) -> RunState {
        let mut said = RunState::Started;
        for (index, layer) in self.list.iter().enumerate() {
            if index == 1
                && let Some((run, name)) = &self.group_run
            {
                o.layers.push((Field::Run, sink.origin(run.at), name.clone()));
                said = run.value;
            }
            if let Some(run) = &layer.part.run {
                o.layers.push((Field::Run, sink.origin(run.at), layer.name.clone()));
                said = run.value;
            }
        }
        said
    }

    fn disks(&self, o: &mut Origins, sink: &mut Sink) -> Option<BTreeMap<Name, DataDisk>> {
        let general = self.last(|p| p.on_remove.as_ref()).map_or(OnRemove::Retain(RETAIN), |keep| keep.value);
        let mut out = BTreeMap::new();
        let mut complete = true;
        for (name, said) in self.merged(|p| p.disks.as_ref()) {
            for (at, disk, layer) in &said {
                o.layers.push((Field::Disks, sink.origin(*at), Arc::clone(layer)));
                if let Some(size) = &disk.size {
                    o.layers.push((Field::DiskSize, sink.origin(size.at), Arc::clone(layer)));
                }
            }
            let on_remove = said.iter().rev().find_map(|(_, d, _)| d.on_remove.as_ref()).map_or(general, |k| k.value);
            let size = said.iter().rev().find_map(|(_, d, _)| d.size.as_ref());
            match size {
                Some(size) => drop(out.insert(name.clone(), DataDisk { size: size.value, on_remove })),
                None => {
                    complete = false;
                    if !self.incomplete
                        && !said.iter().any(|(_, disk, _)| disk.flawed)
                        && let Some((at, ..)) = said.last()
                    {
                        sink.report("E0206", *at, format!("`size` is missing in disk `{name}`"));
                    }
                }
            }
        }
        complete.then_some(out)
    }

    fn nics(&self, o: &mut Origins, sink: &mut Sink) -> Option<BTreeMap<Name, Nic>> {
        let mut out = BTreeMap::new();
        let mut complete = true;
        for (name, said) in self.merged(|p| p.nics.as_ref()) {
            for (at, _, layer) in &said {
                o.layers.push((Field::Nics, sink.origin(*at), Arc::clone(layer)));
            }
            let network = said.iter().rev().find_map(|(_, n, _)| n.network.as_ref());
            let address = said.iter().rev().find_map(|(_, n, _)| n.address.as_ref()).map(|a| a.value);
            let address6 = said.iter().rev().find_map(|(_, n, _)| n.address6.as_ref()).map(|a| a.value);
            match network {
                Some(network) => {
                    drop(out.insert(name.clone(), Nic { network: network.value.clone(), address, address6 }));
                }
                None => {
                    complete = false;
                    if !self.incomplete
                        && !said.iter().any(|(_, nic, _)| nic.flawed)
                        && let Some((at, ..)) = said.last()
                    {
                        sink.report("E0206", *at, format!("`network` is missing in interface `{name}`"));
                    }
                }
            }
        }
        complete.then_some(out)
    }

    fn devices(&self, o: &mut Origins, sink: &Sink) -> BTreeMap<Name, Name> {
        let mut out = BTreeMap::new();
        for (name, said) in self.merged(|p| p.devices.as_ref()) {
            for (at, _, layer) in &said {
                o.layers.push((Field::Devices, sink.origin(*at), Arc::clone(layer)));
            }
            let device = said.iter().rev().find_map(|(_, d, _)| d.device.as_ref()).map_or(name, |d| &d.value);
            out.insert(name.clone(), device.clone());
        }
        out
    }

    fn addresses(&self) -> FixedAt {
        let nics = || self.list.iter().flat_map(|layer| layer.part.nics.iter().flat_map(|nics| &nics.entries));
        let four = nics().filter_map(|(name, nic)| Some(((name.value.clone(), false), nic.address.as_ref()?.at)));
        let six = nics().filter_map(|(name, nic)| Some(((name.value.clone(), true), nic.address6.as_ref()?.at)));
        four.chain(six).collect()
    }

    fn display(&self, o: &mut Origins, sink: &Sink) -> Display {
        let width =
            self.pick(Field::Display, o, sink, |p| p.display.as_ref()?.width.as_ref()).map_or(1024, |w| w.value.0);
        let height =
            self.pick(Field::Display, o, sink, |p| p.display.as_ref()?.height.as_ref()).map_or(768, |h| h.value.0);
        Display { width, height }
    }

    fn cloud_init(&self, o: &mut Origins, sink: &Sink) -> CloudInit {
        let user_data = self.pick(Field::CloudInit, o, sink, |p| p.cloud_init.as_ref()?.user_data.as_ref());
        let keys = self.last(|p| p.cloud_init.as_ref()?.ssh_keys.as_ref());
        let ssh_keys = keys.into_iter().flatten().map(|key| key.value.clone()).collect();
        CloudInit { user_data: user_data.map(|u| u.value.clone()), ssh_keys }
    }

    fn ready(&self, o: &mut Origins, sink: &Sink) -> Option<Probe> {
        for layer in &self.list {
            if let Some(ready) = &layer.part.ready {
                o.layers.push((Field::Ready, sink.origin(ready.at), layer.name.clone()));
            }
        }
        let kind = self.list.iter().rev().find_map(|layer| probe(layer.part.ready.as_ref()?))?;
        let within = self.last(|p| p.ready.as_ref()?.within.as_ref()).map_or(READY_WITHIN, |w| w.value);
        let every = self.last(|p| p.ready.as_ref()?.every.as_ref()).map_or(READY_EVERY, |e| e.value);
        Some(Probe { kind, within, every })
    }

    fn stop(&self, layer: crate::model::Layer) -> StopPolicy {
        // A container that is killed leaves whole file systems behind: they are its host's.
        let (deadline, power_off) = if layer == Lxc { (CONTAINER_DEADLINE, true) } else { (STOP_DEADLINE, false) };
        StopPolicy {
            deadline: self.last(|p| p.stop.as_ref()?.deadline.as_ref()).map_or(deadline, |d| d.value),
            power_off: self.last(|p| p.stop.as_ref()?.power_off.as_ref()).map_or(power_off, |p| p.value),
        }
    }

    fn placement(&self, known: &Known<'_>, o: &mut Origins, sink: &Sink) -> Option<Placement> {
        let host = self.pick(Field::Placement, o, sink, |p| p.placement.as_ref()?.host.as_ref());
        let security = self.pick(Field::Placement, o, sink, |p| p.placement.as_ref()?.security.as_ref());
        let mut labels = BTreeMap::new();
        for layer in &self.list {
            let said = layer.part.placement.as_ref().and_then(|p| p.labels.as_ref());
            for (key, value) in said.iter().flat_map(|labels| &labels.entries) {
                o.layers.push((Field::Placement, sink.origin(value.at), layer.name.clone()));
                labels.insert(key.to_string(), value.value.to_string());
            }
        }
        let level = |name: &Loc<Name>| known.levels.iter().position(|l| *l == name.value);
        let security = match security {
            Some(name) => u32::try_from(level(name)?).ok()?,
            None => 0,
        };
        Some(Placement { host: host.map(|h| h.value.clone()), labels, security })
    }

    /// A probe over the network needs an interface.
    fn probe_reaches(
        &self,
        at: Mark,
        what: &str,
        ready: Option<&Probe>,
        nics: &Option<BTreeMap<Name, Nic>>,
        sink: &mut Sink,
    ) {
        let over_network = matches!(ready.map(|p| &p.kind), Some(ProbeKind::Tcp { .. } | ProbeKind::Http { .. }));
        if over_network && !self.may_say("nics") && nics.as_ref().is_some_and(BTreeMap::is_empty) {
            let at = self.last(|p| p.ready.as_ref()).map_or(at, |ready| ready.at);
            let message = format!("{what} is probed over the network but has no interface");
            sink.report("E0422", at, message).help("add one under `nics`, or probe with `agent: {}`");
        }
    }
}

/// A probe that stands alone, with the usual times where it says none.
pub(crate) fn probe_of(said: &super::spec::ReadySpec) -> Option<Probe> {
    let kind = probe(said)?;
    let within = said.within.as_ref().map_or(READY_WITHIN, |w| w.value);
    let every = said.every.as_ref().map_or(READY_EVERY, |e| e.value);
    Some(Probe { kind, within, every })
}

/// The probe that one layer asks for; two in one layer were reported.
pub(crate) fn probe(ready: &super::spec::ReadySpec) -> Option<ProbeKind> {
    let port = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    if let Some(tcp) = &ready.tcp {
        return Some(ProbeKind::Tcp { port: port(tcp.port.as_ref()?.value.0) });
    }
    if let Some(http) = &ready.http {
        return Some(ProbeKind::Http {
            port: http.port.as_ref().map_or(80, |p| port(p.value.0)),
            path: http.path.as_ref().map_or_else(|| "/".into(), |p| p.value.clone()),
            status: http.status.as_ref().map_or(200, |s| port(s.value.0)),
        });
    }
    if let Some(exec) = &ready.exec {
        let command = exec.command.as_ref()?;
        return Some(ProbeKind::AgentExec { command: command.iter().map(|c| c.value.clone()).collect() });
    }
    ready.agent.as_ref().map(|_| ProbeKind::AgentPing)
}

/// Least memory of a VM: less does not boot the smallest guest we know (Linux with a RAM disk of 4 MiB).
pub(crate) const LEAST_MEMORY: Bytes = Bytes::mib(16);
