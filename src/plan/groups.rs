//! Groups of hosts that migrate among themselves: of one site and layer, with their stores at equal paths. What a new VM is
//! given there is what every one of them has: a processor model and a machine type that it can take along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::way::{Hurdle, between, encrypted, landing};
use crate::model::{Acceleration, Desired, Host, HostObs, Layer, Name, Observed};

/// Named processor models of libvirt (its `cpu_map/index.xml`), worse ones first: by age within a maker; AMD's newer ones
/// after Intel's, as no host has both. Of what all hosts of a group can give, the last one is the best.
const MODELS: [&str; 55] = [
    "qemu32",
    "kvm32",
    "qemu64",
    "kvm64",
    "coreduo",
    "core2duo",
    "Conroe",
    "Opteron_G1",
    "Opteron_G2",
    "Penryn",
    "Opteron_G3",
    "Nehalem",
    "Nehalem-IBRS",
    "Westmere",
    "Westmere-IBRS",
    "Opteron_G4",
    "Opteron_G5",
    "SandyBridge",
    "SandyBridge-IBRS",
    "IvyBridge",
    "IvyBridge-IBRS",
    "Haswell-noTSX",
    "Haswell-noTSX-IBRS",
    "Haswell",
    "Haswell-IBRS",
    "Broadwell-noTSX",
    "Broadwell-noTSX-IBRS",
    "Broadwell",
    "Broadwell-IBRS",
    "Skylake-Client-noTSX-IBRS",
    "Skylake-Client",
    "Skylake-Client-IBRS",
    "Icelake-Client-noTSX",
    "Icelake-Client",
    "Skylake-Server-noTSX-IBRS",
    "Skylake-Server",
    "Skylake-Server-IBRS",
    "Cascadelake-Server-noTSX",
    "Cascadelake-Server",
    "Cooperlake",
    "Snowridge",
    "Icelake-Server-noTSX",
    "Icelake-Server",
    "SapphireRapids",
    "GraniteRapids",
    "SierraForest",
    "EPYC",
    "EPYC-IBPB",
    "Dhyana",
    "EPYC-Rome",
    "EPYC-Milan",
    "EPYC-Milan-v2",
    "EPYC-Genoa",
    "EPYC-Turin",
    "EPYC-Bergamo",
];

/// What a group of hosts has in common. Hosts that did not answer are not asked: what they lack shows when a VM is to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostGroup {
    /// Its hosts, in order.
    pub hosts: Vec<Name>,
    /// The best named processor model that all can give a guest; `None`: none, or nobody said.
    pub cpu: Option<String>,
    /// The newest versioned machine type that all have.
    pub machine: Option<String>,
}

/// The groups of a fleet's hosts, by their first host.
pub fn host_groups(desired: &Desired, observed: &Observed) -> Vec<HostGroup> {
    type Key<'a> = (Option<&'a Name>, Layer, &'a Arc<str>, &'a Arc<str>);
    let mut members: BTreeMap<Key<'_>, Vec<&Host>> = BTreeMap::new();
    for host in desired.hosts.values() {
        let key = (host.site.as_ref(), host.layer(), &host.slots_dir, &host.images_dir);
        members.entry(key).or_default().push(host);
    }
    let group = |hosts: Vec<&Host>| {
        let seen: Vec<&HostObs> = hosts.iter().filter_map(|host| known(host, observed)).collect();
        let cpus = seen.iter().filter_map(|h| h.cpu.as_ref()).map(|cpu| cpu.usable.as_slice());
        let machines = seen.iter().map(|h| h.machines.as_slice());
        HostGroup {
            cpu: common(cpus)
                .into_iter()
                .filter_map(|model| Some((rank(model)?, model)))
                .max()
                .map(|(_, m)| m.to_owned()),
            machine: common(machines)
                .into_iter()
                .filter_map(|m| Some((version(m)?, m)))
                .max()
                .map(|(_, m)| m.to_owned()),
            hosts: hosts.into_iter().map(|h| h.name.clone()).collect(),
        }
    };
    let mut groups: Vec<HostGroup> = members.into_values().map(group).collect();
    groups.sort_by(|a, b| a.hosts.cmp(&b.hosts));
    groups
}

/// A host among the others: the group that it is in, and what keeps VMs from moving between it and each other host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Its group, itself included.
    #[serde(flatten)]
    pub group: HostGroup,
    /// Hosts of the group that did not answer: what they have is not counted.
    pub silent: Vec<Name>,
    /// Hosts of the group to which no VM that runs can move now, it itself first. Those that are stopped can.
    pub closed: Vec<Apart>,
    /// Hosts that are not in the group.
    pub apart: Vec<Apart>,
}

/// Hosts that one thing keeps apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Apart {
    /// These hosts.
    pub hosts: Vec<Name>,
    /// What it is.
    pub why: String,
    /// What would take it away.
    pub unblock: String,
}

/// The group of a host, and what keeps others out of it; `None` when there is no such host.
pub fn membership(desired: &Desired, observed: &Observed, name: &Name) -> Option<Membership> {
    let host = desired.hosts.get(name)?;
    let (own, others): (Vec<_>, Vec<_>) =
        host_groups(desired, observed).into_iter().partition(|g| g.hosts.contains(name));
    let group = own.into_iter().next()?;
    let silent = |n: &&Name| desired.hosts.get(*n).is_some_and(|h| known(h, observed).is_none());
    let silent = group.hosts.iter().filter(silent).cloned().collect();
    let mut closed = Vec::new();
    // Containers move stopped, wherever they go.
    if group.hosts.len() > 1 && host.layer() == Layer::Qemu {
        let members = group.hosts.iter().filter(|n| *n != name).filter_map(|n| desired.hosts.get(n));
        for to in std::iter::once(host).chain(members) {
            let looked = known(to, observed).and_then(|seen| seen.moving);
            let hurdle = landing(to).and_then(|transport| encrypted(to, transport, looked)).err();
            closed.extend(hurdle.map(|hurdle| Apart::of(vec![to.name.clone()], hurdle)));
        }
    }
    let apart = |other: HostGroup| {
        // What keeps one of them out keeps all of them out: they are alike in it.
        let first = desired.hosts.get(other.hosts.first()?)?;
        Some(Apart::of(other.hosts, between(host, first).err()?))
    };
    let apart = others.into_iter().filter_map(apart).collect();
    Some(Membership { group, silent, closed, apart })
}

impl Apart {
    fn of(hosts: Vec<Name>, hurdle: Hurdle) -> Self {
        Self { hosts, why: hurdle.text, unblock: hurdle.unblock }
    }
}

/// What was seen of a host, if it is the machine that its document means.
fn known<'o>(host: &Host, observed: &'o Observed) -> Option<&'o HostObs> {
    let seen = observed.hosts.get(&host.name)?.known()?;
    host.uuid.is_none_or(|pinned| pinned == seen.uuid).then_some(seen)
}

impl HostGroup {
    /// The processor model of a new guest: emulation has its own everywhere, and one host alone gives what it has.
    pub(crate) fn cpu_for(&self, acceleration: Acceleration) -> Option<String> {
        self.cpu.clone().filter(|_| acceleration == Acceleration::Kvm && self.hosts.len() > 1)
    }
}

/// What is in every list that says anything.
fn common<'a>(lists: impl Iterator<Item = &'a [String]>) -> BTreeSet<&'a str> {
    let sets =
        lists.filter(|list| !list.is_empty()).map(|list| list.iter().map(String::as_str).collect::<BTreeSet<_>>());
    sets.reduce(|all, one| all.intersection(&one).copied().collect()).unwrap_or_default()
}

/// How good a processor model is; one that is not known is not chosen.
fn rank(model: &str) -> Option<usize> {
    MODELS.iter().position(|m| *m == model)
}

/// `7.2` of `pc-q35-7.2`. Others (`pc-i440fx-7.2`, a distribution's own `pc-q35-rhel9.2.0`) are not chosen.
fn version(machine: &str) -> Option<(u32, u32)> {
    let (major, minor) = machine.strip_prefix("pc-q35-")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(lists: &[&[&str]]) -> Vec<Vec<String>> {
        lists.iter().map(|l| l.iter().map(|t| (*t).to_owned()).collect()).collect()
    }

    fn best(all: &[&[&str]]) -> Option<String> {
        let all = lists(all);
        let models = common(all.iter().map(Vec::as_slice));
        models.into_iter().filter_map(|m| Some((rank(m)?, m))).max().map(|(_, m)| m.to_owned())
    }

    fn newest(all: &[&[&str]]) -> Option<String> {
        let all = lists(all);
        let machines = common(all.iter().map(Vec::as_slice));
        machines.into_iter().filter_map(|m| Some((version(m)?, m))).max().map(|(_, m)| m.to_owned())
    }

    #[test]
    fn the_best_model_that_all_have_is_the_baseline() {
        let old: &[&str] = &["Haswell-noTSX", "Nehalem", "qemu64"];
        let new: &[&str] = &["Cascadelake-Server", "Haswell-noTSX", "Haswell", "Nehalem", "qemu64", "SomeNewOne"];
        assert_eq!(best(&[old, new]).as_deref(), Some("Haswell-noTSX"));
        assert_eq!(best(&[new]).as_deref(), Some("Cascadelake-Server"));
        assert_eq!(best(&[&["EPYC", "Nehalem", "qemu64"], old]).as_deref(), Some("Nehalem"), "of two makers");
        assert_eq!(best(&[old, &[]]).as_deref(), Some("Haswell-noTSX"), "who does not say does not count");
        assert_eq!(best(&[&["Haswell"], &["EPYC"]]), None);
        assert_eq!(best(&[]), None);
        let distinct: BTreeSet<&str> = MODELS.into_iter().collect();
        assert_eq!(distinct.len(), MODELS.len());
    }

    #[test]
    fn the_newest_machine_type_is_the_newest_by_number() {
        let all: &[&str] = &["pc-q35-10.0", "pc-q35-7.2", "pc-q35-9.1", "q35", "pc-i440fx-10.1", "pc-q35-rhel9.2.0"];
        assert_eq!(newest(&[all]).as_deref(), Some("pc-q35-10.0"));
        assert_eq!(newest(&[all, &["pc-q35-7.2", "pc-q35-9.1"]]).as_deref(), Some("pc-q35-9.1"));
        assert_eq!(newest(&[&["pc"]]), None);
    }
}
