//! Bridges of simulated hosts, with their uplinks and borders.

use super::change::changed;
use super::world::{SimHost, World};
use crate::execute::{Done, StepError};
use crate::model::{Border, BridgeObs, Desired, LinkObs, Name, Uplink};
use crate::plan::steps::Step;

/// A bridge as a step wants it.
pub(super) struct Want<'a> {
    pub(super) bridge: &'a str,
    pub(super) addresses: Vec<&'a String>,
    pub(super) uplink: Option<&'a Uplink>,
    pub(super) border: &'a Border,
}

/// What somebody does by hand to an interface or a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewire {
    /// A bridge is made.
    Bridge,
    /// A bridge is removed.
    LoseBridge,
    /// What stands at a bridge of ours is flushed.
    FlushBorder,
    /// A host has an interface, with an address.
    Interface(Option<String>),
    /// An interface is taken out.
    LoseInterface,
    /// An uplink is pulled out of its bridge.
    Unplug,
}

/// Lets it happen.
pub(super) fn rewire(host: &mut SimHost, what: &str, how: &Rewire) -> Result<(), String> {
    let missing = || format!("there is no {what}");
    let of = |bridge: &BridgeObs| bridge.uplink.as_ref().is_some_and(|u| u.device == what);
    match how {
        Rewire::Bridge => {
            let ports = vec!["eth0".to_owned()];
            host.bridges.insert(what.to_owned(), BridgeObs { up: true, ports, ..BridgeObs::default() });
        }
        Rewire::LoseBridge => {
            host.aliases.remove(what);
            host.bridges.remove(what).ok_or_else(missing)?;
        }
        Rewire::FlushBorder => {
            let bridge = host.bridges.get_mut(what).ok_or_else(missing)?;
            bridge.flaws.push("its packet filter is gone".to_owned());
        }
        Rewire::Interface(address) => {
            let addresses = address.iter().cloned().collect();
            host.links.insert(what.to_owned(), LinkObs { up: true, addresses, ..LinkObs::default() });
        }
        Rewire::LoseInterface => {
            host.lost_links.insert(what.to_owned());
            host.links.remove(what).ok_or_else(missing)?;
        }
        Rewire::Unplug => {
            let bridge = host.bridges.values_mut().find(|b| of(b)).ok_or_else(missing)?;
            bridge.flaws.push(format!("its uplink {what} is not plugged in"));
        }
    }
    Ok(())
}

/// The port by which an uplink is plugged in.
fn port(uplink: &Uplink) -> String {
    uplink.vlan.map_or_else(|| uplink.device.clone(), |vlan| format!("{}.{vlan}", uplink.device))
}

/// Plugs an uplink into a bridge.
fn plug(host: &mut SimHost, bridge: &mut BridgeObs, name: &str, uplink: &Uplink) -> Result<(), String> {
    let link = host.links.get_mut(&uplink.device).ok_or_else(|| format!("there is no interface {}", uplink.device))?;
    link.up = true;
    if uplink.vlan.is_none() {
        if link.master.as_ref().is_some_and(|m| m != name) {
            return Err(format!("{} is a port of another bridge", uplink.device));
        }
        if !link.addresses.is_empty() && !uplink.takes_over {
            return Err(format!("{} carries {}", uplink.device, link.addresses.join(", ")));
        }
        link.master = Some(name.to_owned());
        bridge.addresses.append(&mut link.addresses);
    }
    if !bridge.ports.contains(&port(uplink)) {
        bridge.ports.push(port(uplink));
    }
    bridge.uplink = Some(uplink.clone());
    Ok(())
}

/// Pulls a bridge's uplink out; addresses but the bridge's own go back.
fn pull(host: &mut SimHost, bridge: &mut BridgeObs, own: &[&String]) {
    let Some(uplink) = bridge.uplink.take() else { return };
    bridge.ports.retain(|p| *p != port(&uplink));
    let Some(link) = host.links.get_mut(&uplink.device).filter(|_| uplink.vlan.is_none()) else { return };
    link.master = None;
    if uplink.takes_over {
        let (kept, back) = std::mem::take(&mut bridge.addresses).into_iter().partition(|a| own.contains(&a));
        bridge.addresses = kept;
        link.addresses = back;
    }
}

impl World {
    /// Networks whose bridge is not ours to make need one that is there, and those with an uplink its interface.
    pub(super) fn lay_uplinks(&mut self, desired: &Desired) {
        for (name, host) in &mut self.hosts {
            let Some(document) = desired.hosts.get(name) else { continue };
            for network in desired.networks.values() {
                if let Some(cable) = &network.cable {
                    let device = document.device_of(&cable.name).as_ref().to_owned();
                    if !host.lost_links.contains(&device) {
                        host.links.entry(device).or_insert_with(|| LinkObs { up: true, ..LinkObs::default() });
                    }
                } else if !network.create_bridge {
                    host.bridges.entry(network.bridge.to_string()).or_insert_with(|| BridgeObs {
                        up: true,
                        ports: vec!["eth0".to_owned()],
                        ..BridgeObs::default()
                    });
                }
            }
        }
    }

    pub(super) fn make_bridge(&mut self, step: &Step, fleet: &Name, want: &Want<'_>) -> Result<Done, StepError> {
        let host = self.host(&step.host)?;
        let ours = host.aliases.get(want.bridge) == Some(fleet);
        let old = host.bridges.get(want.bridge).cloned();
        if old.is_some() && !ours {
            return Err(StepError::failed(format!("bridge {} exists and is not ours", want.bridge)));
        }
        let mut new = old.clone().unwrap_or_default();
        new.flaws.clear();
        if new.uplink.as_ref() != want.uplink {
            pull(host, &mut new, &want.addresses);
        }
        if let Some(uplink) = want.uplink
            && let Err(text) = plug(host, &mut new, want.bridge, uplink)
        {
            self.violate(step, "a host's own interface is taken");
            return Err(StepError::failed(text));
        }
        for address in &want.addresses {
            if !new.addresses.contains(address) {
                new.addresses.push((*address).clone());
            }
        }
        (new.ours, new.up, new.border) = (true, true, Some(want.border.clone()));
        host.aliases.insert(want.bridge.to_owned(), fleet.clone());
        host.bridges.insert(want.bridge.to_owned(), new.clone());
        Ok(changed(old != Some(new)))
    }

    pub(super) fn remove_bridge(&mut self, step: &Step, bridge: &str, fleet: &Name) -> Result<Done, StepError> {
        let host = self.host(&step.host)?;
        let Some(mut there) = host.bridges.get(bridge).cloned() else { return Ok(Done::Already) };
        if !there.ours || host.aliases.get(bridge) != Some(fleet) {
            self.violate(step, "a bridge that is not ours is touched");
            return Err(StepError::failed(format!("bridge {bridge} is not ours")));
        }
        let own = there.uplink.as_ref().map(port);
        if super::see::ports(host, bridge).into_iter().any(|p| Some(p) != own) {
            return Err(StepError::failed(format!("bridge {bridge} has ports")));
        }
        pull(host, &mut there, &[]);
        host.bridges.remove(bridge);
        host.aliases.remove(bridge);
        Ok(Done::Changed)
    }
}
