//! Drift: a VM that exists against what it should be, field by field, in our own model.

use std::collections::BTreeSet;

use super::container;
use super::digest;
use super::impact::{self, When};
use super::steps::{Edit, Op};
use super::target::{Target, any_disk};
use super::types::{Class, DataEffect, DiskFate, FieldChange};
use super::world::World;
use crate::model::{Bytes, Field, Name, Power, RunState, Shape, VmObs};

/// Everything in which a VM is not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    /// Changes for people.
    pub(crate) fields: Vec<FieldChange>,
    /// Edits of its definition.
    pub(crate) edits: Vec<Edit>,
    /// Steps before the definition is edited: disks to make, seeds to exchange.
    pub(crate) before: Vec<Op>,
    /// Steps on the running guest.
    pub(crate) live: Vec<Op>,
    /// Steps after the definition was edited: disks to retain.
    pub(crate) after: Vec<Op>,
    /// Effects on data.
    pub(crate) data: Vec<DataEffect>,
    /// Devices of the host that come or go.
    pub(crate) devices: Vec<super::devices::Handing>,
    /// The image is another one.
    pub(crate) image: bool,
    /// What stands in its root disk instead of markers is not what should stand there.
    pub(crate) marks: bool,
    /// The stamp must be written again, though nothing else differs.
    pub(crate) restamp: bool,
    /// Its next start brings what differs only now: fields that wait for it.
    pub(crate) waiting: Vec<Field>,
    /// Fields of which only the definition differs: the running guest is as wanted.
    pub(crate) settled: BTreeSet<Field>,
    /// Disks that would have to shrink: name, now, wanted.
    pub(crate) shrinks: Vec<(String, Bytes, Bytes)>,
}

impl Diff {
    /// The worst class of all changes.
    pub(crate) fn class(&self) -> Class {
        self.fields.iter().map(|f| f.class).min().unwrap_or(Class::None)
    }
}

/// The state as the impact table sees it.
pub(crate) fn when(power: Power, growth: bool) -> When {
    match power {
        Power::Stopped | Power::Crashed => When::Stopped,
        Power::Suspended => When::Suspended,
        Power::Running | Power::Paused | Power::ShuttingDown if growth => When::RunningGrowth,
        Power::Running | Power::Paused | Power::ShuttingDown => When::Running,
    }
}

/// Compares a VM with its target.
pub(crate) fn diff(target: &Target<'_>, obs: &VmObs, host: &Name, world: &World<'_>, want: RunState) -> Diff {
    let mut out = Differ { target, obs, want, diff: Diff::default() };
    out.image();
    out.management();
    if !out.diff.image {
        out.kernel();
    }
    out.sizes();
    out.hardware();
    out.disks(host, world);
    out.nics();
    out.devices();
    out.container();
    out.seed();
    out.marks();
    out.ours();
    out.waiting();
    out.diff
}

pub(crate) struct Differ<'t, 'a> {
    pub(crate) target: &'t Target<'a>,
    pub(crate) obs: &'t VmObs,
    want: RunState,
    pub(crate) diff: Diff,
}

impl Differ<'_, '_> {
    pub(crate) fn change(
        &mut self,
        field: Field,
        path: &str,
        before: Option<String>,
        after: Option<String>,
        growth: bool,
    ) -> Class {
        let spec = &self.target.vm.spec;
        let when = when(self.obs.power, growth);
        let class = impact::with_policy(impact::class(field, when), field, when, spec.update);
        let origin = spec.origins.of(field).cloned();
        let keep = before.as_ref().filter(|_| field_is_scalar(field)).map(|b| format!("{path}: {b}"));
        self.diff.fields.push(FieldChange { field, path: path.to_owned(), before, after, class, origin, keep });
        class
    }

    /// The change of a field that the running guest has as it is wanted: somebody edited the definition only, and
    /// mending that disturbs nobody.
    pub(crate) fn has_it_already(&mut self, field: Field, same: impl Fn(&Shape) -> bool) {
        let Some(live) = self.obs.live.as_ref().filter(|_| self.obs.power.is_active()) else { return };
        if let Some(change) = self.diff.fields.last_mut().filter(|f| f.field == field && same(live)) {
            change.class = Class::None;
            self.diff.settled.insert(field);
        }
    }

    fn text<T: ToString + PartialEq>(&mut self, field: Field, before: T, after: T) -> bool {
        let differs = before != after;
        if differs {
            self.change(field, field.path(), Some(before.to_string()), Some(after.to_string()), false);
        }
        differs
    }

    fn image(&mut self) {
        let (old, new) = (&self.obs.stamp.image, &self.target.stamp.image);
        if new.is_none() || old == new {
            return;
        }
        let show = |digest: &Option<crate::model::Digest>, name: &Option<Name>| {
            digest.as_ref().map(|d| format!("{}@{}", name.as_ref().map_or("?", |n| n.as_str()), d.short()))
        };
        let before = show(old, &self.obs.stamp.image_name);
        let after = show(new, &self.target.stamp.image_name);
        self.change(Field::Image, "image", before, after, false);
        self.diff.image = true;
    }

    /// What was done in a management instance must not go on in what it is next: another one, or a VM like others. Where its
    /// root disk is data, it goes on as it was left.
    fn management(&mut self) {
        let (old, new) = (&self.obs.stamp.management, &self.target.stamp.management);
        let Some(old) = old else { return };
        let own = matches!(&self.target.vm.owner, crate::model::Owner::Image { image } if *self.target.vm.group == *crate::model::image_group(image));
        let over = match new {
            Some(new) => own && new.recipe != old.recipe,
            None => !self.obs.stamp.persistent_root && self.target.image.is_some(),
        };
        self.diff.image |= over;
    }

    fn kernel(&mut self) {
        let config = &self.obs.config;
        if self.target.image.is_none() {
            return;
        }
        let wanted = self.target.domain.kernel.as_ref();
        let same = match wanted {
            None => config.kernel.is_none(),
            Some(k) => {
                config.kernel.as_deref() == Some(&k.kernel)
                    && config.initrd == k.initrd
                    && config.command_line.as_deref().unwrap_or("") == k.command_line
            }
        };
        if !same {
            let before =
                config.kernel.as_ref().map(|k| format!("{k} {}", config.command_line.as_deref().unwrap_or("")));
            let after = wanted.map(|k| format!("{} {}", k.kernel, k.command_line));
            self.change(Field::Image, "image.boot", before, after, false);
            self.read_at_start();
            self.diff.edits.push(Edit::Kernel(wanted.cloned()));
        }
    }

    fn sizes(&mut self) {
        let (config, spec, vm) = (&self.obs.config, &self.target.vm.spec, &self.target.vm.name);
        let uuid = self.obs.uuid;
        let live = self.obs.live.as_ref().filter(|_| self.obs.power == Power::Running);
        // Processors
        let grows = live.is_some_and(|l| spec.cpus > l.cpus && spec.cpus <= l.max_cpus);
        let max_differs = self.text(Field::MaxCpus, config.max_cpus, spec.max_cpus);
        self.has_it_already(Field::MaxCpus, |l| l.max_cpus == spec.max_cpus);
        if config.cpus != spec.cpus {
            let (before, after) = (config.cpus.to_string(), spec.cpus.to_string());
            self.change(Field::Cpus, "cpus", Some(before), Some(after), grows && spec.cpus > config.cpus);
            self.has_it_already(Field::Cpus, |l| l.cpus == spec.cpus);
        } else if grows {
            let before = live.map(|l| l.cpus.to_string());
            self.change(Field::Cpus, "cpus", before, Some(spec.cpus.to_string()), true);
        }
        if config.cpus != spec.cpus || max_differs {
            self.diff.edits.push(Edit::Cpus { cpus: spec.cpus, max: spec.max_cpus });
        }
        if grows {
            self.diff.live.push(Op::SetCpus { vm: vm.clone(), uuid, cpus: spec.cpus });
        }
        // Memory
        let grows = live.is_some_and(|l| spec.memory > l.memory && spec.memory <= l.max_memory);
        let max_differs = self.text(Field::MaxMemory, config.max_memory.exact(), spec.max_memory.exact());
        self.has_it_already(Field::MaxMemory, |l| l.max_memory == spec.max_memory);
        if config.memory != spec.memory {
            // A guest that never gave its memory back to the balloon has what it is promised already.
            let roomy = live.is_some_and(|l| spec.memory <= l.max_memory);
            let growth = roomy && spec.memory > config.memory;
            let (before, after) = (config.memory.exact(), spec.memory.exact());
            self.change(Field::Memory, "memory", Some(before), Some(after), growth);
            self.has_it_already(Field::Memory, |l| l.memory == spec.memory);
        } else if grows {
            let before = live.map(|l| l.memory.exact());
            self.change(Field::Memory, "memory", before, Some(spec.memory.exact()), true);
        }
        if config.memory != spec.memory || max_differs {
            self.diff.edits.push(Edit::Memory { memory: spec.memory, max: spec.max_memory });
        }
        if grows {
            self.diff.live.push(Op::SetMemory { vm: vm.clone(), uuid, memory: spec.memory });
        }
    }

    fn hardware(&mut self) {
        let config = &self.obs.config;
        let domain = &self.target.domain;
        let adopted = self.target.stamp.adopted.is_some();
        if domain.container.is_some() {
            return;
        }
        if self.text(Field::Machine, config.machine.clone(), domain.machine.clone()) {
            self.diff.edits.push(Edit::Machine(domain.machine.clone()));
        }
        let firmware = |f| if f == crate::model::Firmware::Bios { "bios" } else { "uefi" };
        if self.text(Field::Firmware, firmware(config.firmware), firmware(domain.firmware)) {
            self.diff.edits.push(Edit::Firmware(domain.firmware));
        }
        let show =
            |d: Option<crate::model::Display>| d.map_or("default".to_owned(), |d| format!("{}x{}", d.width, d.height));
        let ours_to_say = !(adopted && config.display.is_none());
        if ours_to_say && self.text(Field::Display, show(config.display), show(Some(domain.display))) {
            self.diff.edits.push(Edit::Display(domain.display));
        }
        let word = |a| match a {
            crate::model::Acceleration::Auto => "auto",
            crate::model::Acceleration::Kvm => "kvm",
            crate::model::Acceleration::Tcg => "tcg",
        };
        let decided = domain.acceleration != crate::model::Acceleration::Auto && !adopted;
        if decided && self.text(Field::Acceleration, word(config.acceleration), word(domain.acceleration)) {
            self.diff.edits.push(Edit::Acceleration(domain.acceleration));
        }
    }

    fn disks(&mut self, host: &Name, world: &World<'_>) {
        let (config, target) = (&self.obs.config, self.target);
        let spec = &target.vm.spec;
        let mut number = u8::try_from(config.disks.len()).unwrap_or(u8::MAX);
        for name in spec.disks.keys() {
            if config.disks.contains_key(name.as_str()) {
                continue;
            }
            let found = world.disk(&target.vm.name, host, name.as_str());
            let (mut steps, effect) = target.data_disk(name, found);
            self.diff.before.append(&mut steps);
            let size = spec.disks.get(name).map(|d| d.size.exact());
            self.change(Field::Disks, &format!("disks.{name}"), None, size, false);
            self.diff.data.extend(effect);
            while config.disks.values().any(|d| d.target == super::target::target_device(number)) {
                number += 1;
            }
            let path = target.path(name.as_str()).unwrap_or_default().to_owned();
            self.diff.edits.push(Edit::AddDisk(any_disk(target.vm, name.as_str(), path, number)));
            number += 1;
        }
        for (name, shape) in &config.disks {
            let wanted = matches!(name.as_str(), "root" | "seed") || spec.disks.contains_key(name.as_str());
            if wanted {
                continue;
            }
            // Only a disk of ours may be taken away: one that somebody attached by hand is not ours to judge.
            let Some(disk) = world.disk(&target.vm.name, host, name) else { continue };
            if disk.path != shape.path {
                continue;
            }
            self.change(Field::Disks, &format!("disks.{name}"), Some(disk.obs.size.exact()), None, false);
            self.diff.edits.push(Edit::RemoveDisk(name.clone()));
            self.diff.data.push(DataEffect { disk: name.clone(), effect: DiskFate::Keep, bytes: disk.obs.size });
            self.diff.after.push(Op::RetainDisk { path: shape.path.clone(), until: crate::model::Timestamp(0) });
        }
        let sizes = spec.disks.iter().map(|(n, d)| (n.as_str(), d.size, Field::DiskSize));
        let root = spec.root_size.map(|s| ("root", s, Field::RootSize));
        for (name, size, field) in sizes.chain(root.filter(|_| !self.diff.image)) {
            let Some(shape) = config.disks.get(name) else { continue };
            let Some(disk) = world.disk(&target.vm.name, host, name).filter(|d| d.path == shape.path) else { continue };
            let now = disk.obs.size;
            if now < size && self.obs.power == Power::Suspended && self.want == RunState::Suspended {
                // Its memory was saved beside a disk of the old size: it grows when it is resumed.
                self.diff.waiting.push(field);
            } else if now < size {
                let path = if name == "root" { "rootSize".to_owned() } else { format!("disks.{name}.size") };
                self.change(field, &path, Some(now.exact()), Some(size.exact()), true);
                let (vm, uuid) = (target.vm.name.clone(), self.obs.uuid);
                self.diff.live.push(Op::GrowDisk { vm, uuid, path: shape.path.clone(), size });
                self.diff.data.push(DataEffect { disk: name.to_owned(), effect: DiskFate::Grow(size), bytes: now });
            } else if now > size {
                self.diff.shrinks.push((name.to_owned(), now, size));
            }
        }
    }

    fn nics(&mut self) {
        let config = &self.obs.config;
        for nic in &self.target.domain.nics {
            let path = format!("nics.{}", nic.name);
            match config.nics.get(&nic.mac) {
                None => {
                    self.change(Field::Nics, &path, None, Some(format!("on {}", nic.bridge)), false);
                    self.diff.edits.push(Edit::AddNic(nic.clone()));
                }
                Some(shape) if shape.bridge != nic.bridge => {
                    let (before, after) = (format!("on {}", shape.bridge), format!("on {}", nic.bridge));
                    self.change(Field::Nics, &path, Some(before), Some(after), false);
                    let (bridge, tap) = (nic.bridge.clone(), nic.tap.clone());
                    self.diff.edits.push(Edit::NicBridge { mac: nic.mac, bridge, tap });
                }
                Some(_) => {}
            }
        }
        for (name, nic) in &self.obs.stamp.nics {
            let gone = !self.target.stamp.nics.values().any(|n| n.mac == nic.mac);
            if gone && config.nics.contains_key(&nic.mac) {
                self.change(Field::Nics, &format!("nics.{name}"), Some(nic.mac.to_string()), None, false);
                self.diff.edits.push(Edit::RemoveNic(nic.mac));
            }
        }
        for (path, old, new) in self.target.readdressed(self.obs) {
            self.change(Field::Nics, &path, Some(old), Some(new), false);
        }
    }

    /// First program, addresses and mounts of a container.
    fn container(&mut self) {
        let (wanted, has) = (&self.target.domain.container, &self.obs.config.container);
        let Some(wanted) = wanted else { return };
        for (name, before, after) in container::moved_mounts(self.target, self.obs, &mut self.diff) {
            self.change(Field::Disks, &format!("disks.{name}.mount"), Some(before), Some(after), false);
        }
        if has.as_ref() == Some(wanted) {
            return;
        }
        self.diff.edits.push(Edit::Container(wanted.clone()));
        if !self.diff.image && has.as_ref().is_none_or(|has| has.init != wanted.init) {
            let (before, after) = container::inits(has.as_ref(), wanted);
            self.change(Field::Image, "image.boot", before, Some(after), false);
            self.read_at_start();
        } else if !self.diff.fields.iter().any(|f| f.field == Field::Nics) && !self.diff.image {
            let before = has.as_ref().map(container::addresses);
            self.change(Field::Nics, "nics", before, Some(container::addresses(wanted)), false);
            if let Some(field) = self.diff.fields.last_mut() {
                field.keep = None;
            }
        }
    }

    /// What was just noted is read at start: it costs a restart, not the root disk.
    fn read_at_start(&mut self) {
        let when = when(self.obs.power, false);
        let class = impact::class(Field::Machine, when);
        let class = impact::with_policy(class, Field::Machine, when, self.target.vm.spec.update);
        if let Some(field) = self.diff.fields.last_mut() {
            field.class = class;
            field.keep = None;
        }
    }

    fn seed(&mut self) {
        let (old, new) = (&self.obs.stamp.seed, &self.target.stamp.seed);
        if old == new || self.diff.image || self.target.seed.is_none() {
            return;
        }
        if !self.diff.fields.iter().any(|f| f.field == Field::Nics) {
            let short = |d: &String| {
                Some(if d.is_empty() { "none".to_owned() } else { format!("seed {}", &d[..8.min(d.len())]) })
            };
            // A container reads what its networks say at each start.
            let (field, path) = match self.target.domain.container {
                Some(_) => (Field::Nics, "nics.dns"),
                None => (Field::CloudInit, "cloudInit"),
            };
            self.change(field, path, short(old), short(new), false);
            if let Some(field) = self.diff.fields.last_mut() {
                field.keep = None;
            }
        }
        self.diff.before.extend(self.target.make_seed());
        if !self.obs.config.disks.contains_key("seed")
            && let Some(path) = self.target.path("seed")
        {
            let number = u8::try_from(self.obs.config.disks.len()).unwrap_or(u8::MAX);
            self.diff.edits.push(Edit::AddDisk(any_disk(self.target.vm, "seed", path.to_owned(), number)));
        }
    }

    /// What was written into the root disk while it was copied. Each start of a VM whose root returns to its image writes it
    /// again, once its disk is one that can be written so.
    fn marks(&mut self) {
        let (old, new) = (&self.obs.stamp.seed, &self.target.stamp.seed);
        if self.target.marks.is_none() || old == new || self.diff.image {
            return;
        }
        if !self.diff.fields.iter().any(|f| f.field == Field::Nics) {
            self.change(Field::Nics, "image.learnsAddressBy", None, Some("other markers".to_owned()), false);
            if let Some(field) = self.diff.fields.last_mut() {
                field.keep = None;
            }
        }
        let ending = |path: Option<&str>| path.and_then(|p| p.rsplit('.').next().map(str::to_owned));
        let fits =
            ending(self.obs.config.disks.get("root").map(|d| d.path.as_str())) == ending(self.target.path("root"));
        self.diff.marks = !(fits && self.target.returns_root());
    }

    /// What only our stamp knows.
    fn ours(&mut self) {
        let (old, new) = (&self.obs.stamp, &self.target.stamp);
        self.text(Field::Protect, old.protect.word(), new.protect.word());
        if digest::of(&old.ready) != digest::of(&new.ready) {
            let show = |p: &Option<crate::model::Probe>| Some(p.as_ref().map_or("none".to_owned(), probe_text));
            self.change(Field::Ready, "ready", show(&old.ready), show(&new.ready), false);
        }
        if old.guard != new.guard {
            let show = |g: &Option<crate::model::Guard>| Some(g.as_ref().map_or("none".to_owned(), guard_text));
            self.change(Field::Guard, "guard", show(&old.guard), show(&new.guard), false);
        }
        if old.after != new.after {
            let show = |groups: &[std::sync::Arc<str>]| {
                Some(if groups.is_empty() { "none".to_owned() } else { groups.join(", ") })
            };
            self.change(Field::DependsOn, "dependsOn", show(&old.after), show(&new.after), false);
        }
        if self.obs.autostart {
            self.change(Field::Autostart, "autostart", Some("on".to_owned()), Some("off".to_owned()), false);
            self.diff.edits.push(Edit::Autostart(false));
        }
        self.diff.restamp = old != new;
    }

    /// Fields whose new value is defined already and waits for the next start.
    fn waiting(&mut self) {
        let Some(live) = self.obs.live.as_ref().filter(|_| self.obs.power.is_active()) else { return };
        let (config, adopted) = (&self.obs.config, self.target.stamp.adopted.is_some());
        let mut note = |field: Field, differs: bool| {
            if differs && !self.diff.fields.iter().any(|f| f.field == field) {
                self.diff.waiting.push(field);
            }
        };
        note(Field::Cpus, live.cpus > config.cpus);
        note(Field::MaxCpus, live.max_cpus != config.max_cpus);
        note(Field::MaxMemory, live.max_memory != config.max_memory);
        // A balloon above the promise is a guest without a driver, or one that still boots: not a change that waits,
        // unless the promise could not have been larger before.
        note(Field::Machine, live.machine != config.machine && !adopted);
        note(Field::Firmware, live.firmware != config.firmware);
        note(Field::Display, live.display != config.display && !adopted);
        note(Field::Acceleration, live.acceleration != config.acceleration);
        note(
            Field::Image,
            (&live.kernel, &live.initrd, &live.command_line) != (&config.kernel, &config.initrd, &config.command_line),
        );
        note(Field::Disks, !live.disks.keys().eq(config.disks.keys()));
        if let (Some(now), Some(then)) = (&live.container, &config.container) {
            note(Field::Image, now.init != then.init);
            note(Field::Nics, now.addresses != then.addresses);
            let places = |s: &Shape| s.disks.values().map(|d| d.target.clone()).collect::<Vec<_>>();
            note(Field::Disks, places(live) != places(config));
        }
        note(Field::Nics, !same_nics(live, config));
        note(Field::Devices, !live.given().map(|(n, _)| n).eq(config.given().map(|(n, _)| n)));
    }
}

fn same_nics(live: &Shape, config: &Shape) -> bool {
    let pairs = |s: &Shape| s.nics.iter().map(|(mac, nic)| (*mac, nic.bridge.clone())).collect::<Vec<_>>();
    pairs(live) == pairs(config)
}

/// Whether the YAML that keeps a value is simply `field: value`.
fn field_is_scalar(field: Field) -> bool {
    matches!(
        field,
        Field::Cpus | Field::MaxCpus | Field::Memory | Field::MaxMemory | Field::Machine | Field::Firmware | Field::Run
    )
}

/// A guard in a few words.
pub(crate) fn guard_text(guard: &crate::model::Guard) -> String {
    let (probe, every) = (probe_text(&guard.probe), guard.probe.every);
    format!("{probe}, every {every}, {} failures: {}", guard.failures, guard.then.word())
}

/// A probe in a few words.
pub(crate) fn probe_text(probe: &crate::model::Probe) -> String {
    use crate::model::ProbeKind;
    let what = match &probe.kind {
        ProbeKind::Tcp { port } => format!("tcp {port}"),
        ProbeKind::Http { port, path, status } => format!("http {port} {path} {status}"),
        ProbeKind::AgentPing => "guest agent ping".to_owned(),
        ProbeKind::AgentExec { command } => format!("guest agent exec {}", command.join(" ")),
    };
    format!("{what} within {}", probe.within)
}
