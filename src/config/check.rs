//! What only the whole can tell: cycles, rules of placement that no hosts can satisfy, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;

use super::node::{self, Kind};
use super::read::{Loc, nearest};
use super::repository::Repository;
use super::sink::{Mark, Sink};
use super::spec::CloudInitSpec;
use super::subnet::FixedAt;
use crate::model::{Group, Host, Layer, Name, Network, Origin, ProbeKind, VmSpec};

/// What the checks need of a group beside the group itself.
pub(crate) struct GroupInfo {
    /// Where the app or member was written.
    pub(crate) at: Mark,
    /// Where its rule of placement was written.
    pub(crate) rule: Option<Mark>,
    /// Its VMs' common part; `None` when it could not be made.
    pub(crate) spec: Option<Arc<VmSpec>>,
    /// Where fixed addresses were written, by interface.
    pub(crate) addresses: FixedAt,
}

/// Reports a group that is probed over a network of ours on which the host has no address: the probe would leave by the
/// default route, and ask somebody else.
pub(crate) fn probes(infos: &BTreeMap<Arc<str>, GroupInfo>, networks: &BTreeMap<Name, Network>, sink: &mut Sink) {
    let elsewhere = |n: &Network| n.cable.as_ref().is_some_and(|c| c.takes_over || !n.probes_from.is_empty());
    let deaf = |n: &&Network| n.create_bridge && n.host_addresses().next().is_none() && !elsewhere(n);
    for (key, info) in infos {
        let Some(spec) = &info.spec else { continue };
        let kind = spec.ready.as_ref().map(|p| &p.kind);
        if !matches!(kind, Some(ProbeKind::Tcp { .. } | ProbeKind::Http { .. })) {
            continue;
        }
        let first = spec.nics.values().next().and_then(|nic| networks.get(&nic.network));
        if let Some(network) = first.filter(deaf) {
            let message = format!("{key} is probed over network `{}`, on which the host has no address", network.name);
            let there = sink.mark_of(&network.origin);
            sink.report("E0422", info.at, message)
                .also(there, "this network")
                .help("give the network a `hostAddress`, or probe with `agent: {}`");
        }
    }
}

/// Reports every cycle of the start order, with its whole path.
pub(crate) fn cycles(groups: &BTreeMap<Arc<str>, Group>, infos: &BTreeMap<Arc<str>, GroupInfo>, sink: &mut Sink) {
    let mut graph: DiGraph<&Arc<str>, &Origin> = DiGraph::new();
    let nodes: BTreeMap<&Arc<str>, _> = groups.keys().map(|key| (key, graph.add_node(key))).collect();
    for (key, group) in groups {
        for (other, origin) in &group.depends_on {
            if let (Some(from), Some(to)) = (nodes.get(key), nodes.get(other)) {
                graph.add_edge(*from, *to, origin);
            }
        }
    }
    let mut said: BTreeSet<Vec<&Origin>> = BTreeSet::new();
    for component in tarjan_scc(&graph) {
        let members: BTreeSet<&str> = component.iter().map(|n| &**graph[*n]).collect();
        let Some(first) = members.first().copied() else {
            continue;
        };
        let path = shortest_cycle(first, &members, groups);
        // Instances of one module have the same cycle: said once, at the same lines.
        if path.is_empty() || !said.insert(path.iter().map(|(_, origin)| *origin).collect::<Vec<_>>()) {
            continue;
        }
        let names: Vec<_> = path.iter().map(|(key, _)| *key).chain([first]).collect();
        let message = format!("a cycle of `dependsOn`: {}", names.join(" → "));
        let mark = |origin: &Origin| sink.mark_of(origin);
        let marks: Vec<_> = path.iter().map(|(_, origin)| mark(origin)).collect();
        let at = marks.first().copied().or_else(|| infos.get(first).map(|i| i.at)).unwrap_or_default();
        let report = sink.report("E0305", at, message);
        for (index, mark) in marks.iter().enumerate().skip(1) {
            report.also(*mark, format!("`{}` waits for `{}`", names[index], names[index + 1]));
        }
        report.help("something has to start first: take one of these out");
    }
}

/// The shortest way from a group back to itself inside its component, as (group, where it says the next); empty when there is none.
fn shortest_cycle<'g>(
    start: &str,
    members: &BTreeSet<&str>,
    groups: &'g BTreeMap<Arc<str>, Group>,
) -> Vec<(&'g str, &'g Origin)> {
    let Some((start, _)) = groups.get_key_value(start) else {
        return Vec::new();
    };
    let mut came: BTreeMap<&str, (&str, &Origin)> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([&**start]);
    while let Some(at) = queue.pop_front() {
        for (next, origin) in groups.get(at).iter().flat_map(|g| &g.depends_on) {
            if **next == **start {
                let mut path = vec![(at, origin)];
                let mut here = at;
                while let Some((before, origin)) = came.get(here) {
                    path.push((before, origin));
                    here = before;
                }
                path.reverse();
                return path;
            }
            if members.contains(&**next) && !came.contains_key(&**next) {
                came.insert(next, (at, origin));
                queue.push_back(next);
            }
        }
    }
    Vec::new()
}

/// Reports rules of placement that the hosts written here cannot satisfy, however empty they are.
pub(crate) fn spreading(
    groups: &BTreeMap<Arc<str>, Group>,
    infos: &BTreeMap<Arc<str>, GroupInfo>,
    hosts: &BTreeMap<Name, Host>,
    levels: &[Name],
    repo: &Repository,
    sink: &mut Sink,
) {
    // With a Host document missing that could not be read, a count of hosts means nothing.
    if repo.may_be_lost_kind("Host") || hosts.len() != repo.hosts.len() {
        return;
    }
    let mut cache: Vec<(&VmSpec, Vec<&Name>)> = Vec::new();
    for (key, group) in groups {
        let Some((info, spec)) = infos.get(key).and_then(|i| Some((i, i.spec.as_ref()?))) else {
            continue;
        };
        if group.vms.is_empty() {
            continue;
        }
        // A device that no host has was reported where it is named.
        if !spec.devices.values().all(|device| hosts.values().any(|h| h.devices.contains_key(device))) {
            continue;
        }
        let at = info.rule.unwrap_or(info.at);
        let alike = |s: &VmSpec| s.placement == spec.placement && s.devices == spec.devices && s.layer == spec.layer;
        let eligible = match cache.iter().position(|(s, _)| alike(s)) {
            Some(index) => &cache[index].1,
            None => {
                cache.push((spec, eligible(spec, hosts)));
                &cache[cache.len() - 1].1
            }
        };
        let (vms, can) = (group.vms.len(), eligible.len());
        if can == 0 {
            let message = format!("no host may run `{key}`: {}", wanted(spec, hosts, levels));
            let help = if hosts.is_empty() {
                "there is no document of `kind: Host`"
            } else if spec.layer == Layer::Lxc && !hosts.values().any(|h| h.layer() == Layer::Lxc) {
                "containers run on hosts with libvirt's LXC driver: `connection: lxc:///system`"
            } else if !hosts.values().any(|h| h.layer() == spec.layer) {
                "virtual machines run on hosts with QEMU: `connection: qemu:///system`"
            } else {
                "compare `placement` and `devices` with the hosts' labels, security levels and devices"
            };
            sink.report("E0404", at, message).help(help);
            continue;
        }
        if group.min_hosts as usize > can {
            let message =
                format!("`{key}` wants {} hosts, but only {} may run it", group.min_hosts, count(can, "host"));
            sink.report("E0401", at, message).help("lower `minHosts`, or add hosts that its placement allows");
        } else if group.min_hosts as usize > vms {
            let message = format!("`{key}` wants {} hosts but has only {vms} VMs", group.min_hosts);
            sink.report("E0401", at, message).help("lower `minHosts`, or raise `replicas.min`");
        }
        if let Some(most) = group.max_per_host
            && (most as usize).saturating_mul(can) < vms
        {
            let message =
                format!("`{key}` has {vms} VMs, at most {most} on a host, and only {} may run it", count(can, "host"));
            sink.report("E0402", at, message).help("raise `maxPerHost`, lower `replicas.min`, or add hosts");
        }
    }
    separation(groups, infos, hosts, sink);
}

fn count(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// Groups that must not share hosts need hosts of their own: a matching of needs to hosts.
fn separation(
    groups: &BTreeMap<Arc<str>, Group>,
    infos: &BTreeMap<Arc<str>, GroupInfo>,
    hosts: &BTreeMap<Name, Host>,
    sink: &mut Sink,
) {
    let mut said: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (key, group) in groups.iter().filter(|(_, g)| !g.separate_from.is_empty()) {
        // The largest set around this group all of whose pairs are separate: exact for the lists people write.
        let mut clique = vec![key];
        for other in &group.separate_from {
            let apart = |a: &Arc<str>, b: &Arc<str>| {
                groups.get(a).is_some_and(|g| g.separate_from.contains(b))
                    || groups.get(b).is_some_and(|g| g.separate_from.contains(a))
            };
            if clique.iter().all(|member| apart(member, other)) {
                clique.push(other);
            }
        }
        clique.sort();
        if !said.insert(clique.iter().map(|k| &***k).collect()) {
            continue;
        }
        let mut needs: Vec<(Vec<&Name>, usize)> = Vec::new();
        for member in &clique {
            let Some(spec) = infos.get(*member).and_then(|i| i.spec.as_ref()) else {
                return;
            };
            let Some(group) = groups.get(*member) else {
                return;
            };
            let vms = group.vms.len();
            let by_rule = group.max_per_host.map_or(1, |most| vms.div_ceil(most.max(1) as usize));
            let need = if vms == 0 { 0 } else { by_rule.max(group.min_hosts as usize).max(1) };
            needs.push((eligible(spec, hosts), need.min(hosts.len() + 1)));
        }
        if !can_match(&needs) {
            let at = infos.get(key).and_then(|i| i.rule).unwrap_or_default();
            let total: usize = needs.iter().map(|(_, need)| need).sum();
            let names: Vec<_> = clique.iter().map(|k| format!("`{k}`")).collect();
            let message = format!(
                "{} must not share a host: that takes {total} hosts of their own, which their placement does not give",
                names.join(", ")
            );
            sink.report("E0403", at, message).help("add hosts, loosen `placement`, or take one out of `separate`");
        }
    }
}

/// Whether every need gets that many hosts of its own (augmenting paths).
pub(crate) fn can_match(needs: &[(Vec<&Name>, usize)]) -> bool {
    fn place<'h>(
        slot: usize,
        slots: &[&Vec<&'h Name>],
        taken: &mut BTreeMap<&'h Name, usize>,
        seen: &mut BTreeSet<&'h Name>,
    ) -> bool {
        for host in slots[slot] {
            if !seen.insert(host) {
                continue;
            }
            let free = match taken.get(host) {
                None => true,
                Some(other) => place(*other, slots, taken, seen),
            };
            if free {
                taken.insert(host, slot);
                return true;
            }
        }
        false
    }
    let slots: Vec<&Vec<&Name>> = needs.iter().flat_map(|(hosts, need)| std::iter::repeat_n(hosts, *need)).collect();
    let mut taken = BTreeMap::new();
    (0..slots.len()).all(|slot| place(slot, &slots, &mut taken, &mut BTreeSet::new()))
}

/// The hosts that may run a VM, however full they are.
pub(crate) fn eligible<'h>(spec: &VmSpec, hosts: &'h BTreeMap<Name, Host>) -> Vec<&'h Name> {
    let placement = &spec.placement;
    let fits = |host: &Host| {
        host.layer() == spec.layer
            && placement.host.as_ref().is_none_or(|pinned| *pinned == host.name)
            && placement.labels.iter().all(|(key, value)| host.labels.get(key) == Some(value))
            && host.security >= placement.security
            && spec.devices.values().all(|device| host.devices.contains_key(device))
    };
    hosts.values().filter(|host| fits(host)).map(|host| &host.name).collect()
}

fn wanted(spec: &VmSpec, hosts: &BTreeMap<Name, Host>, levels: &[Name]) -> String {
    let placement = &spec.placement;
    let mut parts: Vec<String> =
        placement.labels.iter().map(|(key, value)| format!("label `{key}: {value}`")).collect();
    if let Some(host) = &placement.host {
        parts.insert(0, format!("host `{host}`"));
    }
    if placement.security > 0 {
        let level = levels.get(placement.security as usize).map_or("?", Name::as_str);
        parts.push(format!("security level `{level}` or above"));
    }
    parts.extend(spec.devices.values().map(|device| format!("device `{device}`")));
    // Said where it is what keeps it from a host.
    if hosts.values().any(|host| host.layer() != spec.layer) {
        parts.push(
            if spec.layer == Layer::Lxc { "a host for containers" } else { "a host for virtual machines" }.into(),
        );
    }
    if parts.is_empty() { "there is none".into() } else { format!("it wants {}", parts.join(", ")) }
}

/// Reports user data that the guest could not use: it would only show as a guest that is not set up (cloud-init, "User-data
/// formats").
pub(crate) fn user_data(text: &Loc<Arc<str>>, sink: &mut Sink) {
    let first = text.value.lines().next().unwrap_or_default();
    let mut not = |message: String, help: &str| {
        sink.report("E0223", text.at, message).help(help);
    };
    let said = first.trim_end();
    if text.value.contains('\r') {
        not("the user data has carriage returns in it".to_owned(), "lines end with a line feed alone in a guest");
    } else if said == "#cloud-config" {
        cloud_config(text, sink);
    } else if let Some(program) = said.strip_prefix("#!") {
        if !program.trim_start().starts_with('/') {
            not(format!("the script names no program: `{said}`"), "an absolute path, like `#!/bin/sh`");
        } else if text.value.lines().skip(1).all(|line| line.trim().is_empty()) {
            not("the script is empty".to_owned(), "leave `userData` out where there is nothing to do");
        }
    } else if ["content-type:", "mime-version:"].iter().any(|mime| said.to_ascii_lowercase().starts_with(mime)) {
        let help = "say all of it in one `#cloud-config`: `write_files` for files, `runcmd` for scripts";
        not("user data in parts (MIME) is not read".to_owned(), help);
    } else {
        let known = ["#include", "#include-once", "#cloud-boothook", "#part-handler", "#cloud-config-archive"];
        let other = known.contains(&said) || said.starts_with("## template:");
        let what = if other { "is not read" } else { "is no kind of user data" };
        let near = nearest(said, ["#cloud-config"].into_iter());
        let message = format!("user data that begins with `{said}` {what}");
        let help = "its first line is `#cloud-config`, or `#!` and the program of a script";
        sink.report("E0223", text.at, message).suggest(near.filter(|_| !other)).help(help);
    }
}

/// What says that it is YAML must be YAML.
fn cloud_config(text: &Loc<Arc<str>>, sink: &mut Sink) {
    let mut inner = sink.inner();
    let (documents, lost) = node::documents(&text.value, 0, &mut inner);
    let first = inner.first_message();
    let map = matches!(documents.as_slice(), [] | [node::Node { kind: Kind::Map(_), .. }]);
    if let Some((line, message)) = first.filter(|_| !lost.is_empty()) {
        let message = format!("line {line} of the cloud-config: {message}");
        sink.report("E0221", text.at, message).help("it begins with `#cloud-config`, so the guest reads it as YAML");
    } else if !map {
        sink.report("E0221", text.at, "the cloud-config is not a map").help("like `packages: [nginx]`");
    }
}

/// What cloud-init is given.
pub(crate) fn cloud_init(spec: &CloudInitSpec, sink: &mut Sink) {
    if let Some(text) = &spec.user_data {
        user_data(text, sink);
    }
    for key in spec.ssh_keys.iter().flatten() {
        let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
        let shaped =
            kinds.iter().any(|kind| key.value.starts_with(kind)) && key.value.split_whitespace().nth(1).is_some();
        if key.value.contains("PRIVATE KEY") {
            sink.report("E0217", key.at, "this is a private key")
                .help("take it out of Git and out of use; the `.pub` file is meant");
        } else if !shaped || key.value.contains('\n') {
            sink.report("E0217", key.at, "this is not a public SSH key")
                .help("one line of a `.pub` file, like `ssh-ed25519 AAAA… ann`");
        }
    }
}
