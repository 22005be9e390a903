//! What a reviewer wants to know beside the actions: room on hosts, and risks by stable code.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;
use super::place::Need;
use super::steps::Op;
use super::types::{Class, DiskFate, HostRoom, Risk, Verb};
use super::world::HostView;
use crate::model::{Address, Bytes, Name, ProbeKind};

/// Every risk that a plan can flag: code, title, what it means. Codes are never given another meaning.
pub const RISKS: &[(&str, &str, &str)] = &[
    (
        "R101",
        "the only replica is away",
        "A VM that is stopped, rebooted or recreated is the only one of its group: what it serves is away meanwhile.",
    ),
    (
        "R102",
        "a placement rule is broken",
        "VMs that exist break a rule about their place, and stay so after this plan: they cannot move, or no host has room.",
    ),
    (
        "R103",
        "a cut link would lose a guest",
        "A VM is moved by post-copy where pre-copy does not end: while the last of its memory follows, a cut link loses what it held.",
    ),
    (
        "R104",
        "an emulated guest is moved while it runs",
        "Without KVM, QEMU before 9.0 misses pages that are written while memory travels, and the guest's kernel may fail soon after. VMs that we make are given memory of a size with which it does not; an adopted VM, or one made or started before that, may be damaged. `relocatable: cold` moves it stopped.",
    ),
    ("R201", "data is deleted", "A disk that holds data is deleted by this plan and cannot be had back."),
    (
        "R301",
        "opened to many",
        "A rule that this plan opens lets a wide range of addresses outside (IPv4 shorter than /16, IPv6 shorter than /32) begin something with VMs, or lets addresses outside begin anything at all with them.",
    ),
    (
        "R302",
        "a probe that cannot pass",
        "A VM starts whose readiness is probed over TCP or HTTP by its host, and its host has no address on that closed network's bridge: the probe comes from an address that nobody allows. `probesFrom` of the Network says from where it comes.",
    ),
    (
        "R401",
        "observed state is old",
        "A host was observed more than 30 minutes ago: what is planned for it may be out of date.",
    ),
    ("R402", "a host is Unknown", "A host did not answer. Its VMs stay its own: nothing of them is started elsewhere."),
    (
        "R403",
        "a connection in clear text",
        "The hypervisor is asked and told over a connection that is neither encrypted nor signed in to: whoever is on that network can read along and do the same. Only on networks that are trusted.",
    ),
    (
        "R502",
        "an image of unknown size",
        "Nobody knows how large an image is that a host with little room fetches: `size` and `unpackedSize` of the Image say it, and the plan then says whether it fits.",
    ),
    ("R501", "no room for a host's failure", "After this plan the other hosts could not take what runs on this one."),
];

/// Observed state older than this is flagged, in seconds.
const OLD: u64 = 30 * 60;

impl Draft<'_> {
    /// Hosts before and after.
    pub(crate) fn host_rooms(&self) -> Vec<HostRoom> {
        let before: Vec<Need> = self.placer.rooms.iter().map(|r| self.used_now(&r.host.name)).collect();
        let after = self.used_after(&before);
        let capacity: Vec<Need> = self.placer.rooms.iter().map(|r| r.capacity).collect();
        let (free_before, free_after) = (total_free(&capacity, &before), total_free(&capacity, &after));
        let mut rooms = Vec::with_capacity(after.len());
        for (number, room) in self.placer.rooms.iter().enumerate() {
            let view = self.world.hosts.get(&room.host.name).copied().unwrap_or(HostView::Assumed);
            let (cpus, memory_mib, slots) = room.triples(before[number], after[number]);
            let known = view.known();
            let holds = |used: &[Need], free: &Need| {
                used.len() > 1 && takes(minus(*free, free_of(capacity[number], used[number])), used[number])
            };
            rooms.push(HostRoom {
                host: room.host.name.clone(),
                known: !matches!(view, HostView::Unknown | HostView::Lost),
                cpus,
                memory_mib,
                slots,
                free: known.map_or(Bytes(0), |k| k.slots_free),
                n_plus_one: (holds(&before, &free_before), holds(&after, &free_after)),
                unmanaged: known.map_or(0, |k| u32::try_from(k.unmanaged.len()).unwrap_or(u32::MAX)),
            });
        }
        rooms
    }

    /// What each host will have promised: what blocked actions would take or give is not counted.
    fn used_after(&self, before: &[Need]) -> Vec<Need> {
        let mut after = before.to_vec();
        let index: BTreeMap<&Name, usize> =
            self.placer.rooms.iter().enumerate().map(|(number, room)| (&room.host.name, number)).collect();
        let open = self.footprints.iter().filter(|(n, _)| !self.actions[**n].is_blocked());
        for print in open.flat_map(|(_, prints)| prints) {
            let Some(used) = index.get(print.host).and_then(|number| after.get_mut(*number)) else { continue };
            used.cpus = (used.cpus + print.after.cpus).saturating_sub(print.before.cpus);
            used.memory = (used.memory + print.after.memory).saturating_sub(print.before.memory);
            used.slots = (used.slots + print.after.slots).saturating_sub(print.before.slots);
        }
        after
    }

    /// Networks on which VMs start whose filter drops the probes of their host.
    fn deaf(&self) -> BTreeSet<(Name, String)> {
        let desired = self.input.desired;
        let mut found = BTreeSet::new();
        for act in self.actions.iter().filter(|a| !a.is_blocked() && a.subject.kind() == "vm") {
            let Some(vm) = desired.vms.get(act.subject.name()) else { continue };
            let probed = vm.spec.ready.as_ref().map(|probe| &probe.kind);
            let Some(nic) = vm.spec.nics.values().next() else { continue };
            let Some(network) = desired.networks.get(&nic.network) else { continue };
            let said = network.host_addresses().next().is_some() || !network.probes_from.is_empty();
            if said || !network.closed || !matches!(probed, Some(ProbeKind::Tcp { .. } | ProbeKind::Http { .. })) {
                continue;
            }
            for step in act.steps.iter().filter(|step| matches!(step.op, Op::Start { .. })) {
                let bridge = self.world.view(&step.host).known().and_then(|host| host.bridges.get(&*network.bridge));
                if bridge.is_some_and(|bridge| bridge.addresses.is_empty()) {
                    let host = &step.host;
                    let text = format!(
                        "host/{host} has no address on {}, from which it probes: write `probesFrom`",
                        network.bridge
                    );
                    found.insert((network.name.clone(), text));
                }
            }
        }
        found
    }

    /// Flags risks.
    pub(crate) fn assess(&mut self, hosts: &[HostRoom]) {
        let mut risks = Vec::new();
        let mut flag = |code: &str, subject: Address, text: String| {
            risks.push(Risk { code: code.to_owned(), subject, text });
        };
        let desired = self.input.desired;
        for act in self.actions.iter().filter(|a| !a.is_blocked()) {
            let vm = desired.vms.get(act.subject.name()).filter(|_| act.subject.kind() == "vm");
            let alone = vm.and_then(|vm| desired.groups.get(&vm.group)).is_some_and(|g| g.vms.len() == 1);
            if alone && matches!(act.verb, Verb::Reboot | Verb::Recreate) {
                let group = vm.map_or("", |v| &v.group);
                flag("R101", act.subject.clone(), format!("it is the only one of {group}"));
            }
            // A root disk that can be made again from its image is no data: the class says which it is.
            let loses = matches!(act.impact.class, Class::DestroyData | Class::RecreateData);
            let deleted = act.impact.data.iter().find(|d| d.effect == DiskFate::Delete || d.effect == DiskFate::Remake);
            if let Some(data) = deleted.filter(|_| loses) {
                flag("R201", act.subject.clone(), format!("disk {} ({}) is lost for good", data.disk, data.bytes));
            }
        }
        for (network, text) in self.deaf() {
            flag("R302", Address::Network(network), text);
        }
        for (key, group) in &desired.groups {
            for text in self.placer.broken(key, group) {
                let owner = key.split('/').next().and_then(|n| Name::new(n).ok());
                let subject = match owner {
                    Some(name) if desired.modules.contains_key(&name) => Address::Module(name),
                    Some(name) => Address::Service(name),
                    None => continue,
                };
                flag("R102", subject, text);
            }
        }
        for (name, age) in super::ages(self.input) {
            match age {
                Some(age) if age > OLD => {
                    flag("R401", Address::Host(name), format!("observed {} min ago", age / 60));
                }
                Some(_) => {}
                None => {
                    let why = self.world.faults.get(&name).cloned().unwrap_or_else(|| {
                        let word = self.world.losses.get(&name).map_or("is declared lost", |l| l.word);
                        word.trim_start_matches("is ").to_owned()
                    });
                    flag("R402", Address::Host(name), why);
                }
            }
        }
        for (name, host) in &desired.hosts {
            if host.connection.split("://").next().is_some_and(|scheme| scheme.ends_with("+tcp")) {
                let text = format!("{} is clear text; qemu+ssh:// and qemu+tls:// are not", host.connection);
                flag("R403", Address::Host(name.clone()), text);
            }
        }
        for room in hosts {
            let worse = room.n_plus_one.0 && !room.n_plus_one.1;
            if worse {
                let text = format!("the others could take what runs on {} before, and cannot after", room.host);
                flag("R501", Address::Host(room.host.clone()), text);
            }
        }
        self.risks.append(&mut risks);
    }
}

/// Free room of one host.
fn free_of(capacity: Need, used: Need) -> Need {
    Need {
        cpus: capacity.cpus.saturating_sub(used.cpus),
        memory: capacity.memory.saturating_sub(used.memory),
        slots: capacity.slots.saturating_sub(used.slots),
    }
}

/// Free room of all hosts together. N+1 is judged on sums: what it says "no" to does certainly not fit.
fn total_free(capacity: &[Need], used: &[Need]) -> Need {
    capacity.iter().zip(used).fold(Need::default(), |sum, (c, u)| {
        let free = free_of(*c, *u);
        Need { cpus: sum.cpus + free.cpus, memory: sum.memory + free.memory, slots: sum.slots + free.slots }
    })
}

fn minus(a: Need, b: Need) -> Need {
    Need { cpus: a.cpus - b.cpus, memory: a.memory - b.memory, slots: a.slots - b.slots }
}

fn takes(free: Need, need: Need) -> bool {
    free.cpus >= need.cpus && free.memory >= need.memory && free.slots >= need.slots
}
