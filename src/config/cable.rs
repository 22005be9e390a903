//! How bridges that are made for the fleet reach further: by an uplink, or over their host.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::read::Loc;
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::{BridgeSpec, HostSpec, NetworkSpec};
use crate::model::{Cable, Host, Name, NetworkMode};

/// A host's interfaces by the names that networks give them.
pub(crate) fn uplinks(spec: &HostSpec, sink: &mut Sink) -> BTreeMap<Name, Arc<str>> {
    let entries = spec.uplinks.iter().flat_map(|named| &named.entries);
    entries.filter(|(_, device)| interface(device, sink)).map(|(k, d)| (k.value.clone(), d.value.clone())).collect()
}

/// Whether Linux takes it as the name of an interface (`dev_valid_name`); reports it when not.
fn interface(name: &Loc<Arc<str>>, sink: &mut Sink) -> bool {
    let text = &*name.value;
    let odd = text.is_empty()
        || text == "."
        || text == ".."
        || text.contains(|c: char| !c.is_ascii_graphic() || "/:,\"'\\%".contains(c));
    if odd || text.len() > 15 {
        sink.report("E0426", name.at, format!("`{text}` is not a name of an interface"))
            .help("as `ip link` shows it: at most 15 characters");
        return false;
    }
    true
}

/// The cable that a bridge of ours has.
pub(crate) fn cable(bridge: &BridgeSpec, create: bool, sink: &mut Sink) -> Option<Cable> {
    let takes_over = bridge.take_over.as_ref().filter(|t| t.value);
    let Some(uplink) = &bridge.uplink else {
        for (word, at) in [("vlan", bridge.vlan.as_ref().map(|v| v.at)), ("takeOver", takes_over.map(|t| t.at))] {
            if let Some(at) = at {
                sink.report("E0426", at, format!("`{word}` without an `uplink`"))
                    .help("`uplink` names the interface of the host that it is about");
            }
        }
        return None;
    };
    if !create {
        sink.report("E0426", uplink.at, "an `uplink` of a bridge that is not ours to make")
            .help("add `create: true`, or give the bridge its uplink where it is made");
    }
    if let (Some(takes_over), Some(vlan)) = (takes_over, &bridge.vlan) {
        sink.report("E0426", takes_over.at, "`takeOver` of one VLAN of an uplink")
            .also(vlan.at, "the uplink keeps its own addresses beside it")
            .help("leave `takeOver` out");
    }
    let vlan = bridge.vlan.as_ref().and_then(|v| u16::try_from(v.value.0).ok());
    let cable = Cable { name: uplink.value.clone(), vlan, takes_over: takes_over.is_some() };
    interface(uplink, sink).then_some(cable)
}

/// How far a network reaches; reports NAT without what it needs.
pub(crate) fn mode(doc: &Doc<Box<NetworkSpec>>, create: bool, sink: &mut Sink) -> NetworkMode {
    let spec = &doc.spec;
    let default = if create { NetworkMode::Isolated } else { NetworkMode::Routed };
    let Some(mode) = &spec.mode else { return default };
    if mode.value != NetworkMode::Nat || doc.flawed {
        return mode.value;
    }
    if !create {
        sink.report("E0427", mode.at, "`mode: nat` on a bridge that is not ours to make")
            .help("add `create: true` to the bridge; what an existing one does is its owner's");
    }
    let uplink = spec.bridge.as_ref().and_then(|b| b.uplink.as_ref());
    if let Some(uplink) = uplink {
        sink.report("E0427", mode.at, "`mode: nat` on a bridge with an uplink")
            .also(uplink.at, "behind it others see the guests' own addresses")
            .help("leave the uplink out: packets leave by the host's own routes");
    }
    for (word, missing) in [("subnet", spec.subnet.is_none()), ("hostAddress", spec.host_address.is_none())] {
        if missing {
            sink.report("E0427", mode.at, format!("`mode: nat` needs a `{word}`"))
                .help("the host is the router of the guests' subnet");
        }
    }
    if let (Some(gateway), Some(host)) = (&spec.gateway, &spec.host_address)
        && gateway.value != host.value
    {
        sink.report("E0427", gateway.at, "behind NAT the guests' gateway is their host")
            .also(host.at, "its address")
            .help("leave `gateway` out");
    }
    mode.value
}

/// Reports networks that would be one: they have one uplink and VLAN. And a host's address that several hosts would have on
/// one wire.
pub(crate) fn apart(repo: &Repository, hosts: &BTreeMap<Name, Host>, sink: &mut Sink) {
    let mut wires: BTreeMap<(Arc<str>, Option<u32>), Mark> = BTreeMap::new();
    for doc in repo.networks.values() {
        let Some(bridge) = &doc.spec.bridge else { continue };
        let Some(uplink) = &bridge.uplink else { continue };
        let vlan = bridge.vlan.as_ref().map(|v| v.value.0);
        let mut devices: Vec<Arc<str>> = hosts.values().map(|h| h.device_of(&uplink.value)).collect();
        devices.push(uplink.value.clone());
        devices.sort();
        devices.dedup();
        let taken = devices.iter().find_map(|d| wires.get(&(d.clone(), vlan)));
        if let Some(first) = taken {
            let message = format!("a second network on the uplink `{}`", uplink.value);
            sink.report("E0428", uplink.at, message)
                .also(*first, "the first one")
                .help("networks on one uplink have a `vlan` each");
        }
        wires.extend(devices.into_iter().map(|d| ((d, vlan), uplink.at)));
        if let Some(address) = doc.spec.host_address.as_ref() {
            let takes = bridge.take_over.as_ref().filter(|t| t.value);
            let text = match takes {
                Some(_) => "a `hostAddress` beside the addresses that `takeOver` brings",
                None if hosts.len() > 1 => "several hosts would have one address on one wire",
                None => continue,
            };
            sink.report("E0426", address.at, text)
                .also(takes.map_or(uplink.at, |t| t.at), "the bridge's uplink")
                .help("leave `hostAddress` out: guests are probed by `agent`, or from where `probesFrom` says");
        }
    }
}
