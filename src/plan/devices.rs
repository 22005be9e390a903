//! Devices of hosts: which VM should have which, and who gives one back before another gets it.
//!
//! ```text
//!   vm/a#detach ──▶ vm/b#attach        both run
//!   vm/a#stop ────▶ vm/b#start         what stops gives everything back, what starts takes what its definition names
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::diff::{Diff, Differ};
use super::draft::{Draft, action, on, reason};
use super::steps::{DomainDevice, Edit, Op, Step};
use super::target::Target;
use super::types::{Action, ActionId, Block, BlockedBy, Cause, Class, Downtime, FieldChange, Verb};
use crate::model::{DeviceAt, Field, Host, Name, Power, RunState, Shape, Vm, VmObs};

/// A device that a VM has and should not have so, or should have and has not.
#[derive(Clone, Debug)]
pub(crate) struct Handing {
    name: Name,
    /// What it has under that name, live or defined.
    back: Option<DeviceAt>,
    /// What it should have.
    wanted: Option<DomainDevice>,
    /// Whether a running guest can do it now.
    live: bool,
}

/// What changes hands while the guest runs.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    detach: (Vec<FieldChange>, Vec<Op>),
    attach: (Vec<FieldChange>, Vec<Op>),
    /// Something is exchanged: the host has under the same name what is another device, or is at another place.
    moved: bool,
}

impl Hands {
    /// Whether nothing does.
    pub(crate) const fn is_empty(&self) -> bool {
        self.detach.1.is_empty() && self.attach.1.is_empty()
    }
}

/// What a shape has of a wanted device: under our name, else what somebody else gave it.
fn found(shape: &Shape, device: &DomainDevice) -> Option<DeviceAt> {
    let foreign = |(key, at): &(&String, &DeviceAt)| Name::new(key).is_err() && device.at.fits(**at);
    let named = shape.devices.get(device.name.as_str());
    named.or_else(|| shape.devices.iter().find(foreign).map(|(_, at)| at)).copied()
}

/// A device that a VM's document names and its host does not have.
pub(crate) fn missing<'v>(vm: &'v Vm, host: &Host) -> Option<&'v Name> {
    vm.spec.devices.values().find(|device| !host.devices.contains_key(*device))
}

impl Differ<'_, '_> {
    /// Compares devices.
    pub(crate) fn devices(&mut self) {
        let config = &self.obs.config;
        let live = self.obs.live.as_ref().filter(|_| self.obs.power.is_active());
        let mut ports = live.map(|l| l.ports).unwrap_or_default();
        let wanted = &self.target.domain.devices;
        for device in wanted {
            let good = |at: Option<DeviceAt>| at.is_some_and(|at| device.at.fits(at));
            let (defined, there) = (found(config, device), live.map(|l| found(l, device)));
            let (is_defined, is_there) = (good(defined), there.is_none_or(good));
            if is_defined && is_there {
                continue;
            }
            let port = if device.at.is_usb() { ports.usb } else { ports.pci > 0 };
            let can = live.is_some() && (is_there || port);
            if is_defined && !can {
                // Written down already: it waits for a restart, which `waiting` says.
                continue;
            }
            if !is_there && can && !device.at.is_usb() {
                ports.pci -= 1;
            }
            let word = device.device.as_ref().unwrap_or(&device.name);
            let path = format!("devices.{}", device.name);
            let before = there.unwrap_or(defined).map(|at| at.to_string()).filter(|_| !is_there || live.is_none());
            self.change(Field::Devices, &path, before, Some(format!("{word} ({})", device.at)), can);
            if live.is_some() && is_there {
                // Somebody edited the definition only.
                self.has_it_already(Field::Devices, |_| true);
            }
            let back = there.flatten().or(defined).filter(|at| !device.at.fits(*at));
            let live = can && !is_there;
            self.diff.devices.push(Handing { name: device.name.clone(), back, wanted: Some(device.clone()), live });
        }
        // A device that its host has no document for any more stays where it is while the VM's document names it.
        let left = |name: &Name| !self.target.vm.spec.devices.contains_key(name);
        let mut gone: BTreeMap<Name, DeviceAt> = config.given().filter(|(name, _)| left(name)).collect();
        gone.extend(live.into_iter().flat_map(Shape::given).filter(|(name, _)| left(name)));
        for (name, at) in gone {
            self.change(Field::Devices, &format!("devices.{name}"), Some(at.to_string()), None, true);
            let live = live.is_some_and(|l| l.devices.contains_key(name.as_str()));
            if self.obs.power.is_active() && !live {
                self.has_it_already(Field::Devices, |_| true);
            }
            self.diff.devices.push(Handing { name, back: Some(at), wanted: None, live });
        }
    }
}

impl Diff {
    /// Takes out what changes hands now, where the guest runs and goes on; the rest becomes edits of the definition.
    pub(crate) fn hands(&mut self, now: bool, vm: &Name, obs: &VmObs) -> Hands {
        let mut hands = Hands::default();
        for handing in std::mem::take(&mut self.devices) {
            let Handing { name, back, wanted, live } = handing;
            if !(now && live) {
                if back.is_some() || obs.config.devices.contains_key(name.as_str()) {
                    self.edits.push(Edit::RemoveDevice(name));
                }
                self.edits.extend(wanted.map(Edit::AddDevice));
                continue;
            }
            let path = format!("devices.{name}");
            let at = self.fields.iter().position(|f| f.field == Field::Devices && f.path == path);
            let field = at.map(|at| self.fields.remove(at));
            hands.moved |= back.is_some() && wanted.is_some();
            if let Some(at) = back {
                let device = DomainDevice { name, device: None, at };
                hands.detach.1.push(Op::DetachDevice { vm: vm.clone(), uuid: obs.uuid, device });
                hands.detach.0.extend(field.clone().map(|f| FieldChange { after: None, ..f }));
            }
            if let Some(device) = wanted {
                hands.attach.1.push(Op::AttachDevice { vm: vm.clone(), uuid: obs.uuid, device });
                hands.attach.0.extend(field.map(|f| FieldChange { before: None, ..f }));
            }
        }
        hands
    }
}

/// What an action does to devices of a host.
#[derive(Debug, Default)]
struct Effect {
    gives: Vec<DeviceAt>,
    takes: Vec<DeviceAt>,
}

/// Who has a device now.
struct Holder<'a> {
    host: &'a Name,
    at: DeviceAt,
    /// The VM of the fleet; else the name of a domain that is not ours.
    who: Result<&'a Name, &'a str>,
}

impl<'a> Draft<'a> {
    /// The actions in which a VM that runs gives devices back and is given others: first the one, then what else is done
    /// to it (`main`), then the other. The last of them writes the stamp.
    pub(crate) fn hand(
        &mut self,
        target: &Target<'a>,
        obs: &VmObs,
        hands: Hands,
        cause: Cause,
        main: Option<&mut Action>,
    ) -> Option<Action> {
        let (vm, host, moved) = (target.vm, &target.host.name, hands.moved);
        let cause = if moved { Cause::Change } else { cause };
        let stamp = Op::Edit { vm: vm.name.clone(), uuid: obs.uuid, edits: Vec::new(), stamp: target.stamp.clone() };
        let make = |verb, text: &str, (fields, ops): (Vec<FieldChange>, Vec<Op>)| {
            let origin = vm.spec.origins.of(Field::Devices).cloned().unwrap_or_else(|| vm.origin.clone());
            let mut act =
                action(&vm.name, verb, cause, reason("device", text, Some(origin)), Class::Live, Downtime::None);
            act.from = Some(host.clone());
            act.to = Some(host.clone());
            act.fields = super::present::keep_only_drift(fields, cause);
            act.steps = on(host, ops);
            act
        };
        let mut detach = (!hands.detach.1.is_empty()).then(|| {
            let text = match moved {
                true => "the running guest gives it back: its host has another device of that name now",
                false => "the running guest gives it back: its document does not name it so",
            };
            make(Verb::Detach, text, hands.detach)
        });
        let mut attach = (!hands.attach.1.is_empty()).then(|| {
            let text = match cause {
                Cause::Drift => "its document names it, and it was taken away",
                _ => "its document names it: the running guest is given it",
            };
            make(Verb::Attach, text, hands.attach)
        });
        let resumes = main.as_ref().is_some_and(|m| m.verb == Verb::Resume);
        let pause = self.pause(&vm.name, &vm.group);
        for act in [&mut detach, &mut attach].into_iter().flatten() {
            act.blocked.extend(pause.clone());
        }
        let id = |act: &Option<Action>| act.as_ref().map(|a| a.id.clone());
        let (detach_id, main_id) = (id(&detach), main.as_ref().map(|m| m.id.clone()));
        if let Some(attach) = &mut attach {
            attach.after.extend(detach_id.iter().chain(&main_id).cloned());
        }
        match main {
            // A guest that stands still gives nothing back.
            Some(main) if resumes => {
                if let Some(detach) = &mut detach {
                    detach.after.push(main.id.clone());
                }
            }
            Some(main) => main.after.extend(detach_id),
            None => {
                if let Some(last) = attach.as_mut().or(detach.as_mut()) {
                    last.steps.extend(on(host, [stamp]));
                }
            }
        }
        if let Some(detach) = detach {
            self.push(detach, []);
        }
        attach
    }

    /// Tells the placer who has which device after this plan.
    pub(crate) fn devices_taken(&mut self) {
        let stuck: BTreeSet<&Name> = self.actions.iter().filter(|a| a.is_blocked()).map(|a| a.subject.name()).collect();
        let mut taken: Vec<(&'a Name, &'a Name, String)> = Vec::new();
        for holder in self.holders() {
            let Some(doc) = self.input.desired.hosts.get(holder.host) else { continue };
            let keeps = match holder.who {
                Ok(vm) => !self.wanted.contains_key(vm) && stuck.contains(vm),
                Err(_) => true,
            };
            let names = doc.devices.iter().filter(|(_, d)| keeps && d.at.is_same(holder.at));
            taken.extend(names.map(|(name, _)| (holder.host, name, who(holder.who))));
        }
        for (name, vm) in &self.wanted {
            let Some((host, _)) = self.world.place(name) else { continue };
            if self.effective_run(vm).0 == RunState::Started {
                taken.extend(vm.spec.devices.values().map(|device| (host, device, format!("vm/{name}"))));
            }
        }
        for (host, device, who) in taken {
            self.placer.give(host, device, who);
        }
    }

    /// Who has which device of which host now.
    fn holders(&self) -> Vec<Holder<'a>> {
        let mut out = Vec::new();
        for (host, view) in &self.world.hosts {
            let Some(seen) = view.known() else { continue };
            for (name, vm) in &seen.vms {
                out.extend(vm.holds().map(|at| Holder { host, at, who: Ok(name) }));
            }
            for other in seen.unmanaged.iter().filter(|u| u.power.is_active()) {
                let who = Err(other.domain.as_str());
                out.extend(other.shape.devices.values().map(|at| Holder { host, at: *at, who }));
            }
        }
        out
    }

    /// A VM that comes from another host is defined as it was there: here its devices may be elsewhere.
    fn rehome(&mut self) {
        for number in 0..self.actions.len() {
            let act = &self.actions[number];
            let come = act.steps.iter().position(|s| matches!(s.op, Op::DefineFrom { .. }));
            let Some((at, vm)) = come.zip(self.wanted.get(act.subject.name()).copied()) else { continue };
            let Step { host, op: Op::DefineFrom { uuid, stamp, .. } } = &act.steps[at] else { continue };
            let (Some(doc), Some((_, obs))) = (self.input.desired.hosts.get(host), self.world.place(&vm.name)) else {
                continue;
            };
            let mut edits = Vec::new();
            for (name, device) in &vm.spec.devices {
                let Some(here) = doc.devices.get(device) else { continue };
                if obs.config.devices.get(name.as_str()).is_some_and(|there| here.at.fits(*there)) {
                    continue;
                }
                edits.push(Edit::RemoveDevice(name.clone()));
                let (name, device) = (name.clone(), Some(device.clone()));
                edits.push(Edit::AddDevice(DomainDevice { name, device, at: here.at }));
            }
            if edits.is_empty() {
                continue;
            }
            let saved = act.steps.iter().any(|s| matches!(s.op, Op::CopySave { .. }));
            let op = Op::Edit { vm: vm.name.clone(), uuid: *uuid, edits, stamp: stamp.clone() };
            let step = Step { host: host.clone(), op };
            let block = saved.then(|| Block {
                by: BlockedBy::Policy,
                text: format!("its saved memory has devices of its host, which are elsewhere on {host}"),
                unblock: "resume it first".to_owned(),
            });
            let act = &mut self.actions[number];
            act.blocked.extend(block);
            act.steps.insert(at + 1, step);
        }
    }

    /// Who is given a device waits for who gives it back; where nobody does, it is not given.
    pub(crate) fn hand_over(&mut self) {
        self.rehome();
        let holders = self.holders();
        let effects: Vec<BTreeMap<Name, Effect>> = self.actions.iter().map(|act| self.effects(act)).collect();
        if effects.iter().all(BTreeMap::is_empty) {
            return;
        }
        let mut promised: Vec<(Name, DeviceAt, Name)> = Vec::new();
        let mut order: Vec<usize> = (0..self.actions.len()).filter(|n| !self.actions[*n].is_blocked()).collect();
        order.sort_by(|a, b| self.actions[*a].id.cmp(&self.actions[*b].id));
        for number in order {
            let vm = self.actions[number].subject.name().clone();
            for (host, effect) in &effects[number] {
                for at in &effect.takes {
                    let word = self.device_word(host, *at);
                    let rival = promised.iter().find(|(h, p, other)| h == host && p.is_same(*at) && *other != vm);
                    if let Some((.., other)) = rival {
                        let text = format!("{word} goes to vm/{other}");
                        self.actions[number]
                            .blocked
                            .push(not_free(text, &format!("stop vm/{other}, or take it out of its document")));
                        continue;
                    }
                    promised.push((host.clone(), *at, vm.clone()));
                    let held = |h: &&Holder<'_>| h.host == host && h.at.is_same(*at) && h.who != Ok(&vm);
                    let Some(holder) = holders.iter().find(held) else { continue };
                    self.wait_for_holder(number, holder, &word, &effects);
                }
            }
        }
    }

    fn wait_for_holder(&mut self, taker: usize, holder: &Holder<'_>, word: &str, effects: &[BTreeMap<Name, Effect>]) {
        let gives = |n: &usize| {
            let gives = effects[*n].get(holder.host).map(|e| e.gives.as_slice()).unwrap_or_default();
            Ok(self.actions[*n].subject.name()) == holder.who && gives.iter().any(|at| at.is_same(holder.at))
        };
        let Some(giver) = (0..self.actions.len()).find(gives) else {
            let text = format!("{word} is given to {}", who(holder.who));
            let unblock = match holder.who {
                Ok(vm) => format!("stop vm/{vm}, or take it out of its document"),
                Err(domain) => format!("stop `{domain}`, or take it away from it"),
            };
            self.actions[taker].blocked.push(not_free(text, &unblock));
            return;
        };
        let id = self.actions[giver].id.clone();
        if self.comes_after(giver, &self.actions[taker].id.clone()) {
            let text = format!("{word} is given back by {id}, which waits for this one: they exchange devices");
            self.actions[taker].blocked.push(not_free(text, "stop one of the two first"));
            return;
        }
        let act = &mut self.actions[taker];
        act.after.push(id.clone());
        if act.verb == Verb::Attach {
            act.reason.text = format!("{}, when {} has given it back", act.reason.text, who(holder.who));
        }
        act.reason.trigger.get_or_insert(id);
    }

    /// Whether an action waits, over others too, for `other`.
    fn comes_after(&self, act: usize, other: &ActionId) -> bool {
        let numbers: BTreeMap<&ActionId, usize> = self.actions.iter().enumerate().map(|(n, a)| (&a.id, n)).collect();
        let mut open = vec![act];
        let mut seen = BTreeSet::new();
        while let Some(number) = open.pop() {
            if self.actions[number].id == *other {
                return true;
            }
            if seen.insert(number) {
                open.extend(self.actions[number].after.iter().filter_map(|id| numbers.get(id)));
            }
        }
        false
    }

    /// What an action gives back and takes, by host.
    fn effects(&self, act: &Action) -> BTreeMap<Name, Effect> {
        let mut out: BTreeMap<Name, Effect> = BTreeMap::new();
        if act.subject.kind() != "vm" {
            return out;
        }
        let seen = self.world.place(act.subject.name());
        let here = |host: &Name| seen.filter(|(h, _)| *h == host).map(|(_, obs)| obs);
        let mut defined: BTreeMap<&Name, BTreeMap<String, DeviceAt>> = BTreeMap::new();
        for step in &act.steps {
            let host = &step.host;
            let now = || here(host).map(|obs| obs.config.devices.clone()).unwrap_or_default();
            match &step.op {
                Op::AttachDevice { device, .. } => out.entry(host.clone()).or_default().takes.push(device.at),
                Op::DetachDevice { device, .. } => out.entry(host.clone()).or_default().gives.push(device.at),
                Op::Edit { edits, .. } => {
                    let devices = defined.entry(host).or_insert_with(now);
                    for edit in edits {
                        match edit {
                            Edit::AddDevice(d) => drop(devices.insert(d.name.to_string(), d.at)),
                            Edit::RemoveDevice(name) => drop(devices.remove(name.as_str())),
                            _ => {}
                        }
                    }
                }
                Op::DefineFrom { .. } => {
                    let devices = seen.map(|(_, obs)| obs.config.devices.clone()).unwrap_or_default();
                    defined.insert(host, devices);
                }
                Op::Define { domain, .. } => {
                    let devices = domain.devices.iter().map(|d| (d.name.to_string(), d.at)).collect();
                    defined.insert(host, devices);
                }
                Op::Start { .. } => {
                    let devices = defined.entry(host).or_insert_with(now);
                    // One that stands still has what it has.
                    if !here(host).is_some_and(|obs| obs.power == Power::Paused) && !devices.is_empty() {
                        let effect = out.entry(host.clone()).or_default();
                        effect.takes.extend(devices.values().copied());
                    }
                }
                Op::Stop { .. } | Op::Suspend { .. } => {
                    let held: Vec<DeviceAt> = here(host).into_iter().flat_map(VmObs::holds).collect();
                    if !held.is_empty() {
                        out.entry(host.clone()).or_default().gives.extend(held);
                    }
                }
                _ => {}
            }
        }
        // What it has again afterwards was never anybody else's.
        for effect in out.values_mut() {
            let Effect { gives, takes } = effect;
            gives.retain(|at| !takes.iter().any(|t| t.is_same(*at)));
        }
        out.retain(|_, e| !e.gives.is_empty() || !e.takes.is_empty());
        out
    }

    /// A device in a sentence: its host's name for it, and what it is.
    fn device_word(&self, host: &Name, at: DeviceAt) -> String {
        let doc = self.input.desired.hosts.get(host);
        let name = doc.and_then(|h| h.devices.iter().find(|(_, d)| d.at.is_same(at))).map(|(name, _)| name);
        name.map_or_else(|| at.to_string(), |name| format!("{name} ({at})"))
    }
}

fn who(who: Result<&Name, &str>) -> String {
    match who {
        Ok(vm) => format!("vm/{vm}"),
        Err(domain) => format!("`{domain}`, which is not ours"),
    }
}

fn not_free(text: String, unblock: &str) -> Block {
    Block { by: BlockedBy::MissingCapacity, text, unblock: unblock.to_owned() }
}
