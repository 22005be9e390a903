//! Observed state, indexed for the planner, with the rules about what may be believed applied.

use std::collections::{BTreeMap, BTreeSet};

use super::places::Standing;
use super::types::Flight;
use crate::model::{Desired, DiskObs, HostObs, Layer, Name, Observation, Observed, Origin, PlacementRecord, VmObs};

/// What the planner may believe of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostView<'a> {
    /// Seen, and it is the host it should be.
    Known(&'a HostObs),
    /// Not asked (`--observed none`): planned from the documents alone, as if it were empty.
    Assumed,
    /// Not known; its VMs stay its own.
    Unknown,
    /// Declared lost by a HostLost document, or fenced: it runs nothing any more.
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
    /// Where each stamped VM was seen: first the place that counts, then what moves and lost hosts left behind.
    pub(crate) vms: BTreeMap<&'a Name, Vec<(&'a Name, &'a VmObs)>>,
    /// Stamped disks by VM and host.
    pub(crate) disks: BTreeMap<&'a Name, Vec<(&'a Name, Disk<'a>)>>,
    /// Placement records.
    pub(crate) records: &'a BTreeMap<Name, PlacementRecord>,
    /// Hosts that have a record of an earlier move of a VM.
    pub(crate) strays: &'a BTreeMap<Name, BTreeSet<Name>>,
    /// Hosts on which a VM may be that was not seen: Unknown ones, and those that records name but no document does.
    pub(crate) dark: BTreeSet<&'a Name>,
    /// Hosts that certainly run nothing any more, and how that is known.
    pub(crate) losses: BTreeMap<&'a Name, Loss<'a>>,
    /// VMs that are not simply somewhere.
    pub(crate) standings: BTreeMap<&'a Name, Standing<'a>>,
    /// VMs of which a move, or a host that came back, left something behind.
    pub(crate) unsettled: BTreeSet<&'a Name>,
    /// Moves that run.
    pub(crate) flights: Vec<Flight>,
    /// The host under whose name the files of a host are indexed, where several have the same storage.
    shares: BTreeMap<&'a Name, &'a Name>,
    /// The storage that each host's document names, whether or not the host answers.
    storages: BTreeMap<&'a Name, &'a Name>,
}

/// How it is known that a host runs nothing any more.
#[derive(Clone, Debug)]
pub(crate) struct Loss<'a> {
    /// `is declared lost`, `was fenced`.
    pub(crate) word: &'static str,
    /// The reason of the document, the command that fenced it.
    pub(crate) reason: &'a str,
    /// The document.
    pub(crate) origin: Option<&'a Origin>,
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
            strays: &observed.strays,
            dark: BTreeSet::new(),
            losses: BTreeMap::new(),
            standings: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            flights: Vec::new(),
            shares: BTreeMap::new(),
            storages: desired.hosts.iter().filter_map(|(n, h)| Some((n, h.shared.as_ref()?))).collect(),
        };
        let nothing_asked = observed.fleet.is_none() && observed.hosts.is_empty();
        // A machine may have a document for virtual machines and one for containers.
        let mut by_uuid: BTreeMap<(uuid::Uuid, Layer), &Name> = BTreeMap::new();
        for (name, host) in &desired.hosts {
            let declared = desired.lost.iter().find(|l| l.host == *name);
            let declared =
                declared.map(|l| Loss { word: "is declared lost", reason: &l.reason, origin: Some(&l.origin) });
            let fenced = observed.store.fenced.get(name);
            let fenced = fenced.map(|f| Loss { word: "was fenced", reason: &f.evidence, origin: None });
            let lost = declared.or(fenced);
            let view = match observed.hosts.get(name) {
                None if nothing_asked => HostView::Assumed,
                _ if lost.is_some() && !matches!(observed.hosts.get(name), Some(Observation::Known(_))) => {
                    HostView::Lost
                }
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
            if let (HostView::Lost, Some(loss)) = (view, lost) {
                world.losses.insert(name, loss);
            }
            if matches!(view, HostView::Unknown) {
                world.dark.insert(name);
            }
            if let HostView::Known(seen) = view {
                world.share(desired, name);
                world.index(name, seen);
            }
            world.hosts.insert(name, view);
        }
        for place in observed.records.values().flat_map(PlacementRecord::places) {
            if !desired.hosts.contains_key(place) {
                world.dark.insert(place);
            }
        }
        world.resolve();
        world.flights = world.seen_flying();
        world
    }

    /// The first host of a storage speaks for it: the same file seen on two hosts is one file.
    fn share(&mut self, desired: &'a Desired, name: &'a Name) {
        let storage = |host: &Name| desired.hosts.get(host).and_then(|h| h.shared.as_ref());
        let Some(mine) = storage(name) else { return };
        let first = self.hosts.keys().find(|h| storage(h) == Some(mine) && self.hosts[*h].known().is_some());
        self.shares.insert(name, first.copied().unwrap_or(name));
    }

    /// The host under whose name a host's files are indexed.
    pub(crate) fn files<'n>(&self, host: &'n Name) -> &'n Name
    where
        'a: 'n,
    {
        self.shares.get(host).copied().unwrap_or(host)
    }

    /// Whether two hosts see the same files.
    pub(crate) fn same_files(&self, a: &Name, b: &Name) -> bool {
        self.files(a) == self.files(b)
    }

    /// Whether two hosts have the same storage by their documents.
    pub(crate) fn same_storage(&self, a: &Name, b: &Name) -> bool {
        self.storages.get(a).is_some_and(|storage| self.storages.get(b) == Some(storage))
    }

    fn index(&mut self, name: &'a Name, seen: &'a HostObs) {
        for (vm, obs) in &seen.vms {
            self.vms.entry(vm).or_default().push((name, obs));
        }
        // Paths are sorted, and begin with the VM's name: the disks of a VM mostly follow one another.
        let mut run: Option<(&'a Name, Vec<(&'a Name, Disk<'a>)>)> = None;
        if self.files(name) != name {
            return;
        }
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

    /// The valid copy of a VM's disk on a host: the one with the highest epoch, then incarnation. What is on its way, and
    /// what a move left behind, is no disk.
    pub(crate) fn disk(&self, vm: &Name, host: &Name, disk: &str) -> Option<Disk<'a>> {
        let mine = self.disks_at(vm, host).filter(|d| d.obs.stamp.disk == disk && d.obs.stamp.phase.is_valid());
        mine.max_by_key(|d| (d.obs.stamp.epoch, d.obs.stamp.incarnation))
    }

    /// All disks of a VM that a host sees, whatever they are worth.
    pub(crate) fn disks_at(&self, vm: &Name, host: &Name) -> impl Iterator<Item = Disk<'a>> {
        let all = self.disks.get(vm).map(Vec::as_slice).unwrap_or_default();
        let files = self.files(host).clone();
        all.iter().filter(move |(h, _)| **h == files).map(|(_, d)| *d)
    }

    /// What is believed of a host; one without a document cannot be asked.
    pub(crate) fn view(&self, host: &Name) -> HostView<'a> {
        self.hosts.get(host).copied().unwrap_or(HostView::Unknown)
    }

    /// Why a host is not known, for people.
    pub(crate) fn fault(&self, host: &Name) -> String {
        let fault = self.faults.get(host).map(|fault| format!("is Unknown ({fault})"));
        fault.unwrap_or_else(|| "has no document any more, and cannot be asked".to_owned())
    }

    /// The place of a VM that counts.
    pub(crate) fn place(&self, vm: &Name) -> Option<(&'a Name, &'a VmObs)> {
        self.vms.get(vm).and_then(|all| all.first()).copied()
    }
}
