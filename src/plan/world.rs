//! Observed state, indexed for the planner, with the rules about what may be believed applied.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Desired, DiskObs, HostObs, Layer, Name, Observation, Observed, PlacementRecord, VmObs};

/// What the planner may believe of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostView<'a> {
    /// Seen, and it is the host it should be.
    Known(&'a HostObs),
    /// Not asked (`--observed none`): planned from the documents alone, as if it were empty.
    Assumed,
    /// Not known; its VMs stay its own.
    Unknown,
    /// Declared lost by a HostLost document: it runs nothing any more.
    Lost,
}

impl<'a> HostView<'a> {
    /// The observation, when there is one.
    pub(crate) fn known(self) -> Option<&'a HostObs> {
        if let HostView::Known(host) = self { Some(host) } else { None }
    }
}

/// A disk of ours on a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk<'a> {
    /// Its path.
    pub(crate) path: &'a str,
    /// What is known of it.
    pub(crate) obs: &'a DiskObs,
}

/// The indexed world.
#[derive(Debug)]
pub(crate) struct World<'a> {
    /// Every host of the fleet's documents.
    pub(crate) hosts: BTreeMap<&'a Name, HostView<'a>>,
    /// Why a host is Unknown.
    pub(crate) faults: BTreeMap<&'a Name, String>,
    /// Where each stamped VM was seen; more than one place is a fault of its own.
    pub(crate) vms: BTreeMap<&'a Name, Vec<(&'a Name, &'a VmObs)>>,
    /// Stamped disks by VM and host.
    pub(crate) disks: BTreeMap<&'a Name, Vec<(&'a Name, Disk<'a>)>>,
    /// Placement records.
    pub(crate) records: &'a BTreeMap<Name, PlacementRecord>,
    /// Hosts on which a VM may be that was not seen: Unknown ones, and those that records name but no document does.
    pub(crate) dark: BTreeSet<&'a Name>,
    /// A host that is declared lost, if there is one.
    pub(crate) lost: Option<&'a Name>,
}

impl<'a> World<'a> {
    /// Indexes observed state against the fleet's documents.
    pub(crate) fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let mut world = Self {
            hosts: BTreeMap::new(),
            faults: BTreeMap::new(),
            vms: BTreeMap::new(),
            disks: BTreeMap::new(),
            records: &observed.records,
            dark: BTreeSet::new(),
            lost: None,
        };
        let nothing_asked = observed.fleet.is_none() && observed.hosts.is_empty();
        // A machine may have a document for virtual machines and one for containers.
        let mut by_uuid: BTreeMap<(uuid::Uuid, Layer), &Name> = BTreeMap::new();
        for (name, host) in &desired.hosts {
            let lost = desired.lost.iter().any(|l| l.host == *name);
            let view = match observed.hosts.get(name) {
                None if nothing_asked => HostView::Assumed,
                _ if lost && !matches!(observed.hosts.get(name), Some(Observation::Known(_))) => HostView::Lost,
                None | Some(Observation::Absent) => {
                    world.faults.insert(name, "it was not asked".to_owned());
                    HostView::Unknown
                }
                Some(Observation::Unknown(fault)) => {
                    world.faults.insert(name, fault.text.clone());
                    HostView::Unknown
                }
                Some(Observation::Known(seen)) => match (host.uuid, by_uuid.get(&(seen.uuid, host.layer()))) {
                    (Some(pinned), _) if pinned != seen.uuid => {
                        let text = format!("another machine answers: its UUID is {}, pinned is {pinned}", seen.uuid);
                        world.faults.insert(name, text);
                        HostView::Unknown
                    }
                    (_, Some(other)) => {
                        world
                            .faults
                            .insert(name, format!("it is the same machine as host/{other} (UUID {})", seen.uuid));
                        HostView::Unknown
                    }
                    _ => {
                        by_uuid.insert((seen.uuid, host.layer()), name);
                        HostView::Known(seen)
                    }
                },
            };
            if matches!(view, HostView::Lost) {
                world.lost.get_or_insert(name);
            }
            if matches!(view, HostView::Unknown) {
                world.dark.insert(name);
            }
            if let HostView::Known(seen) = view {
                world.index(name, seen);
            }
            world.hosts.insert(name, view);
        }
        for record in observed.records.values() {
            if !desired.hosts.contains_key(&record.host) {
                world.dark.insert(&record.host);
            }
        }
        world
    }

    fn index(&mut self, name: &'a Name, seen: &'a HostObs) {
        for (vm, obs) in &seen.vms {
            self.vms.entry(vm).or_default().push((name, obs));
        }
        // Paths are sorted, and begin with the VM's name: the disks of a VM mostly follow one another.
        let mut run: Option<(&'a Name, Vec<(&'a Name, Disk<'a>)>)> = None;
        for (path, obs) in &seen.disks {
            let disk = (name, Disk { path, obs });
            match &mut run {
                Some((vm, disks)) if **vm == obs.stamp.vm => disks.push(disk),
                _ => self.keep(run.replace((&obs.stamp.vm, vec![disk]))),
            }
        }
        self.keep(run);
    }

    fn keep(&mut self, run: Option<(&'a Name, Vec<(&'a Name, Disk<'a>)>)>) {
        if let Some((vm, mut disks)) = run {
            self.disks.entry(vm).or_default().append(&mut disks);
        }
    }

    /// The valid copy of a VM's disk on a host: the one with the highest epoch, then incarnation.
    pub(crate) fn disk(&self, vm: &Name, host: &Name, disk: &str) -> Option<Disk<'a>> {
        let all = self.disks.get(vm)?.iter();
        let mine = all.filter(|(h, d)| *h == host && d.obs.stamp.disk == disk).map(|(_, d)| *d);
        mine.max_by_key(|d| (d.obs.stamp.epoch, d.obs.stamp.incarnation))
    }

    /// The only place where a VM was seen.
    pub(crate) fn place(&self, vm: &Name) -> Option<(&'a Name, &'a VmObs)> {
        self.vms.get(vm).and_then(|all| all.first()).copied()
    }
}
