//! What an observer sees of the world: the projection that `observe` promises.

use super::world::{SimDomain, SimHost, World};
use crate::model::{
    AgentObs, BridgeObs, CpuObs, Desired, DiskObs, Fault, HostObs, ImageObs, MoveObs, Name, Observation, Observed,
    Power, Readiness, Timestamp, Unmanaged, VmObs,
};
use crate::observe::Look;

impl World {
    /// Looks at every host that `desired` names.
    pub fn see(&self, desired: &Desired, look: Look) -> Observed {
        let fleet = &desired.fleet.name;
        let mut observed = Observed {
            format: 1,
            fleet: Some(fleet.clone()),
            at: self.now(),
            store: self.memory.state(self.millis),
            ..Observed::default()
        };
        let mut records = Vec::new();
        for name in desired.hosts.keys() {
            let seen = match self.hosts.get(name) {
                None => unknown("no such machine in the simulation"),
                Some(SimHost { away: Some(why), .. }) => unknown(why),
                Some(host) if host.hidden > 0 => unknown("libvirtd does not answer: connection refused"),
                Some(host) if desired.hosts.get(name).and_then(|h| h.uuid).is_some_and(|u| u != host.uuid) => {
                    unknown(&format!("another machine answers there: its host UUID is {}", host.uuid))
                }
                Some(host) => {
                    records.push((name, &host.records));
                    let layer = desired.hosts.get(name).map(crate::model::Host::layer).unwrap_or_default();
                    let doc = desired.hosts.get(name);
                    let uplinks = desired.networks.values().filter_map(|n| n.cable.as_ref());
                    let uplinks = uplinks.filter_map(|c| doc.map(|d| d.device_of(&c.name)));
                    let uplinks: std::collections::BTreeSet<_> = uplinks.collect();
                    let links = host.links.iter().filter(|(name, _)| uplinks.contains(name.as_str()));
                    let links = links.map(|(name, link)| (name.clone(), link.clone())).collect();
                    let links = (!uplinks.is_empty()).then_some(links);
                    Observation::Known(HostObs { layer, links, ..self.see_host(fleet, name, host, look) })
                }
            };
            observed.hosts.insert(name.clone(), seen);
        }
        observed.take_records(&records);
        observed
    }

    fn see_host(&self, fleet: &Name, name: &Name, host: &SimHost, look: Look) -> HostObs {
        let mut seen = HostObs {
            uuid: host.uuid,
            at: self.now(),
            cpus: host.size.cpus,
            memory: host.size.memory,
            version: "simulated".to_owned(),
            layer: crate::model::Layer::Qemu,
            cpu: Some(CpuObs { model: host.cpu.clone(), usable: vec![host.cpu.clone()] }),
            moving: Some(MoveObs { post_copy: true, tls: true }),
            acceleration: Some(host.acceleration),
            machines: host.machines.clone(),
            slots_free: host.free(),
            images_free: host.free(),
            reflink: host.reflink,
            vms: std::collections::BTreeMap::new(),
            disks: std::collections::BTreeMap::new(),
            images: std::collections::BTreeMap::new(),
            bridges: host.bridges.keys().map(|b| (b.clone(), see_bridge(host, b))).collect(),
            links: None,
            filter: Some(host.see_filter()),
            unmanaged: Vec::new(),
            lock: host.lock.clone().filter(|l| l.token.starts_with("foreign")),
        };
        for (uuid, domain) in &host.domains {
            match domain.stamp.as_ref().filter(|s| s.fleet == *fleet) {
                Some(stamp) => drop(seen.vms.insert(stamp.vm.clone(), self.see_vm((name, *uuid), domain, stamp, look))),
                None => seen.unmanaged.push(Unmanaged {
                    domain: domain.name.clone(),
                    uuid: *uuid,
                    power: domain.power,
                    shape: domain.live.clone().unwrap_or_else(|| domain.config.clone()),
                    fleet: domain.stamp.as_ref().map(|s| s.fleet.clone()),
                }),
            }
        }
        seen.unmanaged.sort_by(|a, b| a.domain.cmp(&b.domain));
        for (path, disk) in &host.disks {
            if let Some(stamp) = disk.stamp.as_ref().filter(|s| s.fleet == *fleet) {
                let disk =
                    DiskObs { stamp: stamp.clone(), size: disk.size, used: disk.used, backing: disk.backing.clone() };
                seen.disks.insert(path.clone(), disk);
            }
        }
        for (path, (digest, used)) in &host.images {
            seen.images.insert(
                digest.clone(),
                ImageObs {
                    path: path.clone(),
                    used: *used,
                    note: host.notes.get(path).cloned(),
                    marks: host.marks.get(path).cloned().unwrap_or_default(),
                },
            );
        }
        seen
    }

    fn see_vm(
        &self,
        (host, uuid): (&Name, uuid::Uuid),
        domain: &SimDomain,
        stamp: &crate::model::Stamp,
        look: Look,
    ) -> VmObs {
        let ready = match (look.probe, domain.power) {
            (false, _) => Readiness::NotProbed,
            (true, _) if self.is_frozen(host, uuid) => Readiness::NotReady("the guest does not answer".to_owned()),
            (true, Power::Running) if domain.ready_at.is_some_and(|at| at <= self.millis) => Readiness::Ready,
            (true, Power::Running) => Readiness::NotReady("connection refused".to_owned()),
            (true, _) => Readiness::NotReady("does not run".to_owned()),
        };
        VmObs {
            uuid,
            domain: domain.name.clone(),
            stamp: stamp.clone(),
            power: domain.power,
            live: domain.live.clone(),
            config: domain.config.clone(),
            began: domain.began.filter(|_| domain.power.is_active()),
            autostart: domain.autostart,
            transient: domain.transient,
            pause: domain.pause,
            job: self.see_job(host, uuid),
            cpu_model: domain.cpu.clone(),
            ready,
            addresses: domain.learnt.clone(),
            screen: domain.live.as_ref().map(|_| format!("/run/sim/{}.vnc", domain.name)),
            agent: domain.live.as_ref().filter(|l| l.container.is_none()).map(|_| self.see_agent(domain, &stamp.vm)),
        }
    }
}

impl World {
    fn see_agent(&self, domain: &SimDomain, vm: &Name) -> AgentObs {
        let up = domain.power == Power::Running && domain.ready_at.is_some_and(|at| at <= self.millis);
        if up && self.guest(vm).agent { AgentObs::Connected } else { AgentObs::Silent }
    }
}

fn unknown<T>(why: &str) -> Observation<T> {
    Observation::Unknown(Fault { text: why.to_owned(), since: None::<Timestamp> })
}

/// A bridge's uplinks, and the taps of active domains on it.
pub(super) fn ports(host: &SimHost, bridge: &str) -> Vec<String> {
    let uplinks = host.bridges.get(bridge).map(|b| b.ports.clone()).unwrap_or_default();
    let nics = host.active().flat_map(|(_, d)| d.live.iter()).flat_map(|l| l.nics.values());
    let taps = nics.filter(|n| n.bridge == bridge).map(|n| n.tap.clone().unwrap_or_else(|| "vnet".to_owned()));
    uplinks.into_iter().chain(taps).collect()
}

fn see_bridge(host: &SimHost, name: &str) -> BridgeObs {
    let bridge = host.bridges.get(name).cloned();
    BridgeObs { ports: ports(host, name), ..bridge.unwrap_or_default() }
}
