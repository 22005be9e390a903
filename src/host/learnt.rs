//! The addresses that networks gave to guests: what their agents say, else the neighbours that the host has.
//!
//! *Takes* VMs whose addresses nobody planned. *Gives* what was seen of them, by hardware address. *Never* trusts it: a guest
//! says what it likes of itself; what counts is the planner's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Deserialize;
use uuid::Uuid;

use super::fleet::RealHost;
use super::libvirt::Agent;
use super::shell::{Program, succeed};
use super::xml;
use crate::model::{Layer, Mac, Name, Power, VmObs};

/// Addresses by hardware address.
pub(super) type Learnt = BTreeMap<Mac, BTreeSet<IpAddr>>;

/// Agents that are asked at once.
const AT_ONCE: usize = 32;

/// How long a guest agent may take for its answer, in seconds.
const ANSWER: i32 = 3;

/// Most addresses of one interface that are told: one has a handful.
const MOST: usize = 8;

#[derive(Deserialize)]
struct Interface {
    #[serde(rename = "hardware-address")]
    mac: Option<String>,
    #[serde(rename = "ip-addresses", default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "ip-address")]
    address: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    interfaces: Vec<Interface>,
}

/// A line of `ip -json neighbour show`.
#[derive(Deserialize)]
struct Neighbour {
    dst: Option<IpAddr>,
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

/// Whether others can reach it by this address.
fn is_of_use(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn add(learnt: &mut Learnt, mac: Option<&str>, address: Option<IpAddr>) {
    let mac: Option<Mac> = mac.and_then(|m| m.to_ascii_lowercase().parse().ok());
    if let (Some(mac), Some(address)) = (mac, address.filter(is_of_use)) {
        let all = learnt.entry(mac).or_default();
        if all.len() < MOST {
            all.insert(address);
        }
    }
}

/// What an agent says (`guest-network-get-interfaces`); `None`: it says nothing that can be read.
fn said(answer: &str) -> Option<Learnt> {
    let answer: Answer = serde_json::from_str(answer).ok()?;
    let mut learnt = Learnt::new();
    for interface in &answer.interfaces {
        for one in &interface.addresses {
            add(&mut learnt, interface.mac.as_deref(), one.address.parse().ok());
        }
    }
    Some(learnt)
}

/// What `ip -json neighbour show` says.
fn neighbours(text: &[u8]) -> Learnt {
    let lines: Vec<Neighbour> = serde_json::from_slice(text).unwrap_or_default();
    let mut learnt = Learnt::new();
    for line in lines.iter().filter(|l| !l.state.iter().any(|s| s == "FAILED" || s == "INCOMPLETE")) {
        add(&mut learnt, line.lladdr.as_deref(), line.dst);
    }
    learnt
}

async fn ask_neighbours(host: &RealHost) -> Learnt {
    let said = succeed(host.shell.as_ref(), Program::new(["ip", "-json", "neighbour", "show"])).await;
    said.map(|text| neighbours(&text)).unwrap_or_default()
}

async fn ask_agent(host: &RealHost, uuid: Uuid) -> Option<Learnt> {
    if host.hypervisor.layer() == Layer::Lxc {
        return None;
    }
    let question = r#"{"execute":"guest-network-get-interfaces"}"#.to_owned();
    match host.hypervisor.agent(uuid, question, ANSWER).await {
        Ok(Agent::Answer(text)) => said(&text),
        Ok(Agent::Absent(_) | Agent::Silent(_)) | Err(_) => None,
    }
}

/// Writes into VMs that run what can be seen of the addresses that nobody planned. An agent that says nothing for once does
/// not take away what it said before.
pub(super) async fn look(host: &RealHost, vms: &mut BTreeMap<Name, VmObs>) {
    let asked = |vm: &VmObs| -> BTreeSet<Mac> {
        let unplanned = vm.stamp.nics.values().filter(|nic| nic.addresses().next().is_none());
        unplanned.map(|nic| nic.mac).filter(|mac| vm.live.as_ref().is_some_and(|l| l.nics.contains_key(mac))).collect()
    };
    let running = vms.iter().filter(|(_, vm)| vm.power == Power::Running);
    let all: Vec<(Name, Uuid, BTreeSet<Mac>)> =
        running.map(|(name, vm)| (name.clone(), vm.uuid, asked(vm))).filter(|(_, _, macs)| !macs.is_empty()).collect();
    let before = std::mem::take(&mut *host.learnt());
    if all.is_empty() {
        return;
    }
    let near = ask_neighbours(host).await;
    let each = all.into_iter().map(|(name, uuid, macs)| async move { (name, uuid, macs, ask_agent(host, uuid).await) });
    let answers: Vec<_> = stream::iter(each.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
    let mut kept = BTreeMap::new();
    for (name, uuid, macs, said) in answers {
        let old = before.get(&uuid);
        let mut found = match said {
            Some(said) => said,
            None => {
                let known = |mac: &Mac| near.get(mac).or_else(|| old?.get(mac)).map(|all| (*mac, all.clone()));
                macs.iter().filter_map(known).collect()
            }
        };
        found.retain(|mac, all| macs.contains(mac) && !all.is_empty());
        if let Some(vm) = vms.get_mut(&name) {
            vm.addresses.clone_from(&found);
        }
        kept.insert(uuid, found);
    }
    *host.learnt() = kept;
}

/// An address of a guest that runs, for a probe of one whose address nobody planned: of IPv4 where it has one.
pub(super) async fn address(host: &RealHost, uuid: Uuid) -> Option<IpAddr> {
    let text = host.hypervisor.live_xml(uuid).await.ok()?;
    let macs: Vec<Mac> = xml::read(&text).ok()?.shape.nics.into_keys().collect();
    let found = match ask_agent(host, uuid).await {
        Some(found) => found,
        None => ask_neighbours(host).await,
    };
    let all: BTreeSet<IpAddr> = macs.iter().filter_map(|mac| found.get(mac)).flatten().copied().collect();
    all.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_and_the_neighbours_say_is_told_by_hardware_address() {
        let agent = r#"{"return":[
            {"name":"lo","hardware-address":"00:00:00:00:00:00","ip-addresses":[{"ip-address":"127.0.0.1","ip-address-type":"ipv4","prefix":8}]},
            {"name":"eth0","hardware-address":"02:00:00:00:00:0A","ip-addresses":[
                {"ip-address":"192.168.7.33","ip-address-type":"ipv4","prefix":24},
                {"ip-address":"fe80::ff:fe00:a","ip-address-type":"ipv6","prefix":64},
                {"ip-address":"2001:db8::a","ip-address-type":"ipv6","prefix":64}]},
            {"name":"sit0"}]}"#;
        let mac: Mac = "02:00:00:00:00:0a".parse().unwrap();
        let both: BTreeSet<IpAddr> = ["192.168.7.33", "2001:db8::a"].map(|a| a.parse().unwrap()).into();
        assert_eq!(said(agent), Some(BTreeMap::from([(mac, both)])));
        assert_eq!(said(r#"{"error":{}}"#), None);
        let near = br#"[{"dst":"192.168.7.33","dev":"br0","lladdr":"02:00:00:00:00:0a","state":["STALE"]},
            {"dst":"192.168.7.34","dev":"br0","state":["FAILED"]},
            {"dst":"fe80::1","dev":"br0","lladdr":"02:00:00:00:00:0b","router":null,"state":["REACHABLE"]}]"#;
        assert_eq!(neighbours(near), BTreeMap::from([(mac, ["192.168.7.33".parse().unwrap()].into())]));
        assert!(neighbours(b"").is_empty());
    }
}
