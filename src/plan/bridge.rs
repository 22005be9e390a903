//! Bridges under VMs: the ones that we make, with their uplinks and borders, and the ones that must be there.

use std::collections::BTreeSet;

use super::draft::{Draft, reason};
use super::fabric::plain;
use super::steps::Op;
use super::types::{Action, ActionId, Block, BlockedBy, Cause, Verb};
use super::world::HostView;
use crate::model::{Address, Border, BridgeObs, Desired, Host, Name, Network, NetworkMode, Uplink};

/// A bridge as it should be on a host.
struct Wanted {
    address: Option<String>,
    address6: Option<String>,
    uplink: Option<Uplink>,
    border: Border,
}

impl Wanted {
    fn of(desired: &Desired, network: &Network, host: &Host) -> Self {
        let (address, address6) = network.ground(&host.name).host_prefixes();
        let cable = network.cable.as_ref();
        Self {
            address,
            address6,
            uplink: cable.map(|c| Uplink {
                device: host.device_of(&c.name).as_ref().to_owned(),
                vlan: c.vlan,
                takes_over: c.takes_over,
            }),
            border: border(desired, network),
        }
    }

    /// What of it a bridge has not, as sentences.
    fn lacks(&self, seen: &BridgeObs) -> Vec<String> {
        let mut lacks = Vec::new();
        if !seen.up {
            lacks.push("it is down".to_owned());
        }
        for address in self.address.iter().chain(&self.address6).filter(|a| !seen.addresses.contains(a)) {
            lacks.push(format!("the host has not {address} on it"));
        }
        let said = |uplink: Option<&Uplink>| uplink.map_or_else(|| "no uplink".to_owned(), ToString::to_string);
        if seen.uplink != self.uplink {
            lacks.push(format!("{} -> {}", said(seen.uplink.as_ref()), said(self.uplink.as_ref())));
        }
        if let Some(border) = seen.border.as_ref().filter(|b| **b != self.border) {
            lacks.push(format!("{border} -> {}", self.border));
        }
        lacks.extend(seen.flaws.iter().cloned());
        lacks
    }
}

/// What hosts do with packets between a network's bridge of ours and all else.
fn border(desired: &Desired, network: &Network) -> Border {
    let routes = network.host_address.is_some() && network.gateway == network.host_address;
    match (network.mode, network.subnet) {
        (NetworkMode::Isolated, _) => Border::Closed,
        (NetworkMode::Nat, Some(subnet)) => {
            // Guests of the same host: what is out on a wire could not answer.
            let behind = |n: &&Network| n.create_bridge && n.cable.is_none() && n.host_address.is_some();
            let others = desired.networks.values().filter(behind).filter(|n| n.name != network.name);
            let mut except: Vec<_> = others.filter_map(|n| Some(n.subnet?.trunc())).collect();
            except.sort();
            Border::Nat { subnet: subnet.trunc(), except: ipnet::Ipv4Net::aggregate(&except) }
        }
        (NetworkMode::Routed | NetworkMode::Nat, _) if routes => Border::Routed,
        (NetworkMode::Routed | NetworkMode::Nat, _) => Border::Open,
    }
}

/// What it means to a host to have a border, where that is more than a bridge.
fn means(host: &Name, border: &Border) -> Option<String> {
    let forwards = format!("{host} forwards packets (net.ipv4.ip_forward), as before when nothing needs it any more");
    match border {
        Border::Open | Border::Closed => None,
        Border::Routed => Some(format!("for its guests {forwards}")),
        Border::Nat { subnet, .. } => {
            Some(format!("what {subnet} begins leaves under an address of {host}, for which {forwards}"))
        }
    }
}

/// Why a bridge ends.
pub(super) fn gone(host: &Name, bridge: &str, seen: &BridgeObs) -> String {
    let back = match &seen.uplink {
        Some(Uplink { device, takes_over: true, .. }) => format!("; its addresses go back to {device}"),
        Some(uplink) => format!("; {uplink} is free again"),
        None => String::new(),
    };
    format!("no VM needs bridge {bridge} on {host} any more{back}")
}

impl<'a> Draft<'a> {
    /// Lets actions wait for a network's bridge on a host, or blocks them where there is none and it is not ours to make.
    pub(crate) fn connect(&mut self, network: &'a Network, host: &'a Host, needed_by: &[usize]) {
        let Some(view) = self.world.hosts.get(&host.name).copied() else { return };
        let bridge = view.known().and_then(|k| k.bridges.get(network.bridge.as_ref()));
        if !network.create_bridge {
            if bridge.is_none() && matches!(view, HostView::Known(_)) {
                let text =
                    format!("bridge {} of network/{} is not on host/{}", network.bridge, network.name, host.name);
                let unblock = "make the bridge on the host, or set `bridge: {create: true}`".to_owned();
                self.refuse(needed_by, &Block { by: BlockedBy::Policy, text, unblock });
            }
            return;
        }
        let Some(act) = self.make_bridge(network, host, needed_by) else { return };
        if let Some(block) = act.blocked.first() {
            self.refuse(needed_by, block);
        } else {
            self.let_wait(needed_by, &act.id);
        }
        self.push(act, []);
    }

    fn refuse(&mut self, needed_by: &[usize], block: &Block) {
        for number in needed_by {
            self.actions[*number].blocked.push(block.clone());
        }
    }

    /// The action that makes a bridge as it should be, if it is not.
    fn make_bridge(&self, network: &Network, host: &Host, needed_by: &[usize]) -> Option<Action> {
        let known = self.world.hosts.get(&host.name)?.known();
        let seen = known.and_then(|k| k.bridges.get(network.bridge.as_ref()));
        let wanted = Wanted::of(self.input.desired, network, host);
        let (name, bridge) = (&host.name, &network.bridge);
        let mut text = match seen {
            Some(seen) => {
                let lacks = wanted.lacks(seen);
                if lacks.is_empty() {
                    return None;
                }
                if seen.up { format!("bridge {bridge} on {name}: {}", lacks.join("; ")) } else { String::new() }
            }
            None => String::new(),
        };
        if text.is_empty() {
            text = format!("bridge {bridge} is not up on {name}");
            if let Some(uplink) = &wanted.uplink {
                text = format!("{text}; its uplink is {uplink}");
            }
        }
        let plugged = seen.is_some_and(|s| s.uplink == wanted.uplink);
        if let Some(uplink) = wanted.uplink.as_ref().filter(|u| u.takes_over && !plugged) {
            let link = known.and_then(|k| k.links.as_ref()?.get(&uplink.device));
            let addresses = link.map(|l| l.addresses.join(", ")).filter(|a| !a.is_empty());
            let what = addresses.unwrap_or_else(|| "what the host has on it".to_owned());
            text = format!(
                "{text}; {what} goes from {} to it, and back by itself unless {name} answers then",
                uplink.device
            );
        }
        let stands = seen.and_then(|s| s.border.as_ref()) == Some(&wanted.border);
        if let Some(means) = means(name, &wanted.border).filter(|_| !stands) {
            text = format!("{text}; {means}");
        }
        let block = if plugged { None } else { self.unfit(&wanted, network, host) };
        let Wanted { address, address6, uplink, border } = wanted;
        let fleet = self.input.desired.fleet.name.clone();
        let op = Op::MakeBridge { bridge: bridge.as_ref().to_owned(), address, address6, fleet, uplink, border };
        let mut act = plain(Address::Network(network.name.clone()), Verb::Connect, name, [op]);
        act.reason = reason("bridge_missing", text, Some(network.origin.clone()));
        act.reason.trigger = needed_by.first().map(|n| self.actions[*n].id.clone());
        // What we made it to be, it says itself: where it is that, the document has changed.
        let moved = seen.is_none_or(|s| !s.up || !s.flaws.is_empty());
        act.cause = match needed_by {
            [] if moved => Cause::Drift,
            _ => self.cause_of(needed_by),
        };
        act.blocked.extend(block);
        Some(act)
    }

    /// Why an interface of a host cannot be the uplink of a bridge.
    fn unfit(&self, wanted: &Wanted, network: &Network, host: &Host) -> Option<Block> {
        let uplink = wanted.uplink.as_ref()?;
        let known = self.world.hosts.get(&host.name)?.known()?;
        let links = known.links.as_ref()?;
        let old = known.bridges.get(network.bridge.as_ref()).and_then(|b| b.uplink.as_ref());
        let took = old.is_some_and(|o| o.takes_over && o.device == uplink.device);
        let (name, device, of) = (&host.name, &uplink.device, &network.name);
        let (text, unblock) = match links.get(device) {
            None => (
                format!("{device}, the uplink of network/{of}, is not on host/{name}"),
                format!("say in host/{name} which interface it is: `uplinks: {{NAME: DEVICE}}`"),
            ),
            Some(link) if link.master.as_deref().is_some_and(|m| *m != *network.bridge) && uplink.vlan.is_none() => (
                format!("{device} of host/{name} is a port of {} already", link.master.as_deref().unwrap_or_default()),
                "use that as the network's bridge, or another interface as the uplink".to_owned(),
            ),
            Some(link) if uplink.takes_over && link.leased => (
                format!("{device} of host/{name} has its address on lease: a bridge could not renew it"),
                "give the host a fixed address there, or make the bridge where the host's network is configured"
                    .to_owned(),
            ),
            Some(link) if !uplink.takes_over && uplink.vlan.is_none() && !link.addresses.is_empty() => (
                format!("{device} of host/{name} carries {}: the host would lose it", link.addresses.join(", ")),
                "set `bridge: {takeOver: true}`, or use a `vlan` of it or another interface".to_owned(),
            ),
            Some(_) if !uplink.takes_over && uplink.vlan.is_none() && took => (
                format!(
                    "bridge {} has the addresses of {device} of host/{name}, which would lose them",
                    network.bridge
                ),
                "leave `takeOver` as it was, or use another interface".to_owned(),
            ),
            Some(_) => return None,
        };
        Some(Block { by: BlockedBy::Policy, text, unblock })
    }

    /// Bridges under running VMs that somebody took down or changed: made again.
    pub(crate) fn standing_bridges(&mut self) {
        let desired = self.input.desired;
        let connects = self.actions.iter().filter(|a| a.verb == Verb::Connect).map(|a| a.id.clone());
        let connects: BTreeSet<ActionId> = connects.collect();
        for (network, host) in self.needed_networks() {
            let (Some(network), Some(host)) = (desired.networks.get(network), desired.hosts.get(host)) else {
                continue;
            };
            let id = ActionId::new(&Address::Network(network.name.clone()), Verb::Connect, Some(&host.name));
            if !network.create_bridge || connects.contains(&id) {
                continue;
            }
            if let Some(act) = self.make_bridge(network, host, &[]) {
                self.push(act, []);
            }
        }
    }
}
