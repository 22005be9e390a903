//! The way a VM can go from one host to another, what stands in its way, and what it costs.

use super::draft::Draft;
use super::types::{MoveMode, Transfer};
use super::world::{Disk, HostView};
use crate::model::{
    Acceleration, Bytes, Digest, Host, ImageFormat, MoveObs, Name, Relocatable, Transport, Vm, VmObs, link_key,
};

/// Bytes a second over a link that nobody measured: a gigabit network.
const USUAL_RATE: u64 = 100_000_000;

/// A VM, where it is and where it may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trip<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) obs: &'a VmObs,
    pub(crate) from: &'a Host,
    pub(crate) to: &'a Host,
}

/// How it can go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) mode: MoveMode,
    pub(crate) why: String,
    pub(crate) transport: Transport,
    pub(crate) post_copy: bool,
}

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hurdle {
    pub(crate) text: String,
    pub(crate) unblock: String,
}

fn hurdle<T>(text: impl Into<String>, unblock: impl Into<String>) -> Result<T, Hurdle> {
    Err(Hurdle { text: text.into(), unblock: unblock.into() })
}

/// What keeps two hosts out of one group, whatever VM it is about.
///
/// # Errors
/// That.
pub(crate) fn between(from: &Host, to: &Host) -> Result<(), Hurdle> {
    if from.layer() != to.layer() {
        return hurdle(
            format!("{} runs {}, {} runs {}", from.name, from.layer().word(), to.name, to.layer().word()),
            "a VM moves between hosts of one kind",
        );
    }
    if from.site != to.site {
        return hurdle(format!("{} is at another site than {}", to.name, from.name), "VMs move within one site");
    }
    for (what, here, there) in [("slots", &from.slots_dir, &to.slots_dir), ("images", &from.images_dir, &to.images_dir)]
    {
        if here != there {
            return hurdle(
                format!("the folder of {what} is {here} on {} and {there} on {}", from.name, to.name),
                "give both Host documents the same folders",
            );
        }
    }
    Ok(())
}

/// How the memory of a VM that runs may travel to a host.
///
/// # Errors
/// Its document does not say where or how.
pub(crate) fn landing(to: &Host) -> Result<Transport, Hurdle> {
    if to.migration.uri.is_none() {
        return hurdle(
            format!("no other host reaches {} (no `migration.uri`)", to.name),
            format!("write `migration.uri` in the document of host/{}", to.name),
        );
    }
    let Some(transport) = to.migration.transport else {
        return hurdle(
            format!("nothing says how its memory may travel to {} (no `migration.transport`)", to.name),
            format!(
                "write `migration.transport` in the document of host/{}: tls, tunnel, or clear with its network",
                to.name
            ),
        );
    };
    Ok(transport)
}

/// What a host needs at either end of a transport, as far as it was looked at.
///
/// # Errors
/// It has it not.
pub(crate) fn encrypted(host: &Host, transport: Transport, seen: Option<MoveObs>) -> Result<(), Hurdle> {
    if transport == Transport::Tls && seen.is_some_and(|m| !m.tls) {
        return hurdle(
            format!("{} has no certificates for migration, and `transport` is `tls`", host.name),
            format!("put libvirt's certificates on {}, or declare another `transport`", host.name),
        );
    }
    Ok(())
}

/// A file behind a disk that a VM reads through: its image, its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base<'a> {
    pub(crate) path: &'a str,
    pub(crate) digest: &'a Digest,
}

/// What travels with a VM.
#[derive(Clone, Debug)]
pub(crate) struct Cargo<'a> {
    /// Its disks with their names, the seed included.
    pub(crate) disks: Vec<(&'a str, Disk<'a>)>,
    /// Files that must be at the same paths.
    pub(crate) bases: Vec<Base<'a>>,
}

impl<'a> Draft<'a> {
    /// What a VM takes with it.
    pub(crate) fn cargo(&self, obs: &'a VmObs, from: &'a Host) -> Result<Cargo<'a>, Hurdle> {
        let mut disks = Vec::new();
        let (mut bases, mut paths) = (Vec::new(), Vec::new());
        for (name, shape) in &obs.config.disks {
            let mine = self.world.disks_at(&obs.stamp.vm, &from.name).find(|d| d.path == shape.path);
            let Some(disk) = mine.filter(|d| d.obs.stamp.phase.is_valid()) else {
                return hurdle(
                    format!("its disk {name} ({}) is no disk of ours on {}", shape.path, from.name),
                    "move that disk by hand, or take it out of the VM",
                );
            };
            paths.extend(disk.obs.backing.as_deref().map(|path| (path, name.as_str())));
            disks.push((name.as_str(), disk));
        }
        paths.extend(obs.config.kernel.as_deref().map(|path| (path, "kernel")));
        paths.extend(obs.config.initrd.as_deref().map(|path| (path, "initrd")));
        let stored = self.world.view(&from.name).known().map(|k| &k.images);
        for (path, what) in paths {
            let found = stored.and_then(|images| images.iter().find(|(_, image)| image.path == path));
            let Some((digest, _)) = found else {
                return hurdle(
                    format!("its {what} stands on {path}, which is not in the image store of {}", from.name),
                    "put that file into the store, or move the VM by hand",
                );
            };
            bases.push(Base { path, digest });
        }
        Ok(Cargo { disks, bases })
    }

    /// The best way of a trip. `running`: whether its guest runs, or would. `may_stop`: whether it may be stopped for it.
    ///
    /// # Errors
    /// What stands in the way, and what would take that away.
    pub(crate) fn way(
        &self,
        trip: &Trip<'a>,
        cargo: &Result<Cargo<'a>, Hurdle>,
        running: bool,
        may_stop: bool,
    ) -> Result<Way, Hurdle> {
        let Trip { obs, from, to, .. } = *trip;
        self.any_way(trip)?;
        let cargo = cargo.as_ref().map_err(Clone::clone)?;
        let shared = self.shares_files(from, to);
        let stopped =
            |mode, why: &str| Way { mode, why: why.to_owned(), transport: Transport::Tunnel, post_copy: false };
        if !running {
            if obs.power == crate::model::Power::Suspended {
                self.same_processor(trip)?;
                return Ok(stopped(MoveMode::Saved, "it is suspended: its saved memory travels too"));
            }
            let why = if shared { "it does not run, and both hosts have its disks" } else { "it does not run" };
            return Ok(stopped(MoveMode::Cold, why));
        }
        match self.live(trip, cargo, shared) {
            Ok(way) => Ok(way),
            Err(live) if may_stop => {
                let why = format!("it cannot move while it runs: {}", live.text);
                Ok(Way { mode: MoveMode::StopCopyStart, why, transport: Transport::Tunnel, post_copy: false })
            }
            Err(live) => hurdle(format!("it cannot move while it runs: {}", live.text), live.unblock),
        }
    }

    /// Whether two hosts have the same storage under their slots.
    pub(crate) fn shares_files(&self, from: &Host, to: &Host) -> bool {
        from.shared.is_some() && from.shared == to.shared
    }

    /// What every way needs.
    fn any_way(&self, trip: &Trip<'a>) -> Result<(), Hurdle> {
        let Trip { vm, obs, from, to } = *trip;
        if vm.spec.relocatable == Relocatable::Never {
            return hurdle("its document says `relocatable: never`", "write `relocatable: live` or `cold`");
        }
        between(from, to)?;
        let shape = obs.live.as_ref().unwrap_or(&obs.config);
        if let Some((name, _)) = shape.given().chain(obs.config.given()).next() {
            return hurdle(
                format!("it has a device of {}: {name}", from.name),
                format!("take {name} out of its `devices` first"),
            );
        }
        if let HostView::Known(seen) = self.world.view(&to.name) {
            if !seen.machines.is_empty() && !seen.machines.contains(&shape.machine) {
                return hurdle(
                    format!("QEMU on {} has no machine type {}", to.name, shape.machine),
                    format!("update QEMU on {}, or give the VM an older machine type", to.name),
                );
            }
            let there = match to.acceleration {
                Acceleration::Auto => seen.acceleration.unwrap_or(Acceleration::Auto),
                fixed => fixed,
            };
            let word = |a| if a == Acceleration::Kvm { "kvm" } else { "tcg" };
            if ![there, shape.acceleration].contains(&Acceleration::Auto) && there != shape.acceleration {
                return hurdle(
                    format!("it runs with {} and {} has {}", word(shape.acceleration), to.name, word(there)),
                    "set `acceleration` alike in both Host documents",
                );
            }
        }
        Ok(())
    }

    /// What memory needs: it was made for a processor.
    pub(crate) fn same_processor(&self, trip: &Trip<'a>) -> Result<(), Hurdle> {
        let Trip { obs, to, .. } = *trip;
        let usable = self.world.view(&to.name).known().and_then(|k| k.cpu.as_ref()).map(|cpu| &cpu.usable);
        match (&obs.cpu_model, usable) {
            (Some(model), Some(usable)) if !usable.is_empty() && !usable.contains(model) => hurdle(
                format!("{} cannot give it the processor {model} that it was started with", to.name),
                "stop it first: it gets the processor of its new host",
            ),
            _ => Ok(()),
        }
    }

    /// What a guest that runs on needs.
    fn live(&self, trip: &Trip<'a>, cargo: &Cargo<'a>, shared: bool) -> Result<Way, Hurdle> {
        let Trip { vm, obs, from, to } = *trip;
        if trip.from.layer() == crate::model::Layer::Lxc {
            return hurdle("it is a container", "containers move stopped: write `relocatable: cold`");
        }
        if vm.spec.relocatable == Relocatable::Cold {
            return hurdle("its document says `relocatable: cold`", "write `relocatable: live`, or stop it");
        }
        let transport = landing(to)?;
        let moving = |host: &Host| self.world.view(&host.name).known().and_then(|k| k.moving);
        for host in [from, to] {
            encrypted(host, transport, moving(host))?;
        }
        self.same_processor(trip)?;
        if let Some(live) = &obs.live {
            let now: Vec<_> = live.disks.iter().map(|(n, d)| (n, &d.path)).collect();
            let next: Vec<_> = obs.config.disks.iter().map(|(n, d)| (n, &d.path)).collect();
            if now != next {
                return hurdle(
                    "a change of its disks waits for a restart",
                    format!("`stablehand restart vm/{}`", vm.name),
                );
            }
        }
        for (_, disk) in cargo.disks.iter().filter(|_| !shared) {
            if let Some(path) = disk.obs.backing.as_deref()
                && self.format_of(path, cargo).is_none()
            {
                return hurdle(
                    format!("no Image document says any more which format {path} has"),
                    "bring the Image document back",
                );
            }
        }
        let both = |host: &Host| moving(host).is_some_and(|m| m.post_copy);
        let post_copy = vm.spec.post_copy && to.migration.post_copy && both(from) && both(to);
        let (mode, why) = match (&from.shared, shared) {
            (Some(storage), true) => (MoveMode::Live, format!("both hosts have the storage {storage}")),
            _ => (MoveMode::LiveStorage, "the hosts share no storage, so its disks travel too".to_owned()),
        };
        Ok(Way { mode, why, transport, post_copy })
    }

    /// The format of an image's file: its document's, else what its name says.
    pub(crate) fn format_of(&self, path: &str, cargo: &Cargo<'_>) -> Option<ImageFormat> {
        let digest = cargo.bases.iter().find(|b| b.path == path).map(|b| b.digest)?;
        let documented = self.input.desired.images.values().find(|i| i.disk.digest == *digest);
        documented.map(|i| i.format).or(match path.rsplit('.').next() {
            Some("qcow2") => Some(ImageFormat::Qcow2),
            Some("raw") => Some(ImageFormat::Raw),
            _ => None,
        })
    }

    /// What a way costs.
    pub(crate) fn transfer(&self, trip: &Trip<'a>, cargo: &Cargo<'_>, way: &Way, boot_millis: u64) -> Transfer {
        let Trip { vm, obs, from, to } = *trip;
        let shared = self.shares_files(from, to);
        let disks: u64 = cargo.disks.iter().filter(|_| !shared).map(|(_, d)| d.obs.used.0).sum();
        let memory = obs.live.as_ref().unwrap_or(&obs.config).memory.0;
        let bytes = match way.mode {
            MoveMode::Live | MoveMode::LiveStorage | MoveMode::Saved => disks + memory,
            MoveMode::Cold | MoveMode::StopCopyStart => disks,
        };
        let past = self.input.observed.store.links.get(&link_key(&from.name, &to.name)).copied();
        let past = past.filter(|p| p.samples > 0 && p.bytes_per_second > 0);
        let limit = to.migration.bandwidth.map_or(u64::MAX, |b| b.0.max(1));
        let rate = past.map_or(USUAL_RATE, |p| p.bytes_per_second).min(limit);
        let copy = u64::try_from(u128::from(bytes) * 1000 / u128::from(rate)).unwrap_or(u64::MAX);
        let stop = vm.spec.stop.deadline.0.min(super::draft::USUAL_STOP_MILLIS);
        let measured = past.map(|p| p.pause_millis).filter(|millis| *millis > 0);
        let (pause_millis, millis) = match way.mode {
            MoveMode::Live | MoveMode::LiveStorage => (measured.unwrap_or(to.migration.max_pause.0), copy),
            MoveMode::StopCopyStart => (stop + copy + boot_millis, stop + copy + boot_millis),
            MoveMode::Cold | MoveMode::Saved => (0, copy),
        };
        Transfer {
            mode: way.mode,
            why: way.why.clone(),
            bytes: Bytes(bytes),
            pause_millis,
            millis,
            samples: past.map_or(0, |p| p.samples),
            transport: way.transport,
        }
    }

    /// Whether a VM could move while it runs to any host at all, had that room.
    pub(crate) fn could_go_live(&self, vm: &'a Vm, obs: &'a VmObs, from: &Name) -> bool {
        let hosts = &self.input.desired.hosts;
        let Some(from) = hosts.get(from) else { return false };
        let cargo = self.cargo(obs, from);
        let known = |h: &&Host| h.name != from.name && self.world.view(&h.name).known().is_some();
        hosts.values().filter(known).any(|to| {
            let trip = Trip { vm, obs, from, to };
            self.drain_of(&to.name).is_none() && self.way(&trip, &cargo, true, false).is_ok_and(|w| w.mode.is_live())
        })
    }
}
