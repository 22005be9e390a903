//! What each step does to the world: look whether it is done → change → done; the semantics of `plan::steps`.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::device;
use super::guard::Use;
use super::wire::Want;
use super::world::{Inside, SimDisk, SimDomain, SimHost, World};
use crate::execute::{Done, StepError};
use crate::model::{
    Acceleration, Bytes, CloneMethod, DiskPhase, DiskStamp, ImageFile, ImageNote, Name, PlacementRecord, Power,
    RootUse, Shape, ShapeDisk, ShapeNic, Source, Stamp, StopPolicy, TOKEN_FILE, Timestamp,
};
use crate::plan::{DiskFrom, DomainDisk, DomainNic, DomainSpec, Edit, NewDisk, Op, Step};

type Outcome = Result<Done, StepError>;

/// What a file of the image store takes: a small cloud image.
const IMAGE_USED: Bytes = Bytes::mib(500);
/// The size that a guest of an image sees.
const IMAGE_SIZE: Bytes = Bytes::gib(2);
/// What a new overlay or an empty qcow2 takes.
const OVERLAY_USED: Bytes = Bytes::mib(1);

impl World {
    /// Carries out one step, without faults and without time; notes every promise that it breaks.
    ///
    /// # Errors
    /// As the step's description says, and Unknown when the host does not answer.
    pub fn change(&mut self, step: &Step) -> Outcome {
        if matches!(step.op, Op::Fence { .. }) {
            return self.fence(step);
        }
        let before = Use::of(self.host(&step.host)?);
        self.touches_ours(step)?;
        self.busy(step)?;
        let outcome = self.dispatch(step);
        self.mirror(&step.host);
        if outcome == Ok(Done::Changed) {
            self.log.push(Self::step_name(step));
        }
        if !self.unguarded {
            self.guard(step, before);
        }
        outcome
    }

    fn dispatch(&mut self, step: &Step) -> Outcome {
        match &step.op {
            Op::PutImage { file, path, note } => self.put_image(step, file, path, note.as_ref()),
            Op::MarkImage { path, unneeded, .. } => self.mark_image(step, path, *unneeded),
            Op::DropImage { path, .. } => self.drop_image(step, path),
            Op::MakeBridge { bridge, address, address6, fleet, uplink, border } => {
                let addresses = address.iter().chain(address6).collect();
                let want = Want { bridge, addresses, uplink: uplink.as_ref(), border };
                self.make_bridge(step, fleet, &want)
            }
            Op::RemoveBridge { bridge, fleet, .. } => self.remove_bridge(step, bridge, fleet),
            Op::Record { vm, record } => write_record(self.host(&step.host)?, vm, record),
            Op::Unrecord { vm } => Ok(changed(self.host(&step.host)?.records.remove(vm).is_some())),
            Op::MakeDisk(disk) => self.make_disk(step, disk),
            Op::MakeSeed { path, stamp, replace, .. } => self.make_seed(step, path, stamp, *replace),
            Op::StampDisk { path, stamp } => stamp_disk(self.host(&step.host)?, path, stamp),
            Op::RetainDisk { path, until } => {
                let disk = stamped(self.host(&step.host)?, path)?;
                Ok(changed(disk.expires.replace(*until) != Some(*until)))
            }
            Op::DeleteDisk { path, vm } => self.delete_disk(step, path, vm),
            Op::Define { domain, stamp } => define(self.host(&step.host)?, domain, stamp),
            Op::Edit { uuid, edits, stamp, .. } => self.edit(step, *uuid, edits, stamp),
            Op::Unstamp { uuid, .. } => {
                let domain = domain(self.host(&step.host)?, *uuid)?;
                Ok(changed(domain.stamp.take().is_some()))
            }
            Op::Start { vm, uuid } => self.start(step, vm, *uuid),
            Op::AwaitReady { vm, uuid, probe, .. } => self.await_ready(step, vm, *uuid, probe.is_some()),
            Op::StayReady { vm, uuid, probe, .. } => self.await_ready(step, vm, *uuid, probe.is_some()),
            Op::Stop { vm, uuid, policy } => self.stop(step, vm, *uuid, *policy),
            Op::Suspend { vm, uuid } => self.suspend(step, vm, *uuid),
            Op::SetMemory { vm, uuid, memory } => self.set_memory(step, vm, *uuid, *memory),
            Op::SetCpus { vm, uuid, cpus } => self.set_cpus(step, vm, *uuid, *cpus),
            Op::GrowDisk { path, size, .. } => grow_disk(self.host(&step.host)?, path, *size),
            Op::AttachDevice { vm, uuid, device } => self.attach(step, vm, *uuid, device),
            Op::DetachDevice { vm, uuid, device } => self.detach(step, vm, *uuid, device),
            Op::Undefine { vm, uuid, drop_save } => self.undefine(step, vm, *uuid, *drop_save),
            Op::Migrate { vm, uuid, to, how } => self.migrate(step, vm, *uuid, to, how),
            Op::AbortJob { vm, uuid, .. } => self.abort_job(step, vm, *uuid),
            Op::CopyDisk { from, path, stamp } => self.copy_disk(step, from, path, stamp),
            Op::CopyImage { from, path, digest } => self.copy_image(step, from, path, digest),
            Op::CopySave { vm, uuid, from } => self.copy_save(step, vm, *uuid, from),
            Op::DefineFrom { vm, uuid, from, stamp } => self.define_from(step, vm, *uuid, from, stamp),
            Op::RetireDisk { path, to, stamp } => self.retire_disk(step, path, to, stamp),
            Op::DropRemnant { vm, uuid } => self.drop_remnant(step, vm, *uuid),
            Op::SetRules { rules } => self.set_rules(step, rules),
            Op::Generalise { vm, uuid, management, .. } => self.generalise(step, vm, *uuid, management),
            Op::Capture { .. } => self.capture(step),
            Op::Fence { .. } => self.fence(step),
            Op::Announce { vm, uuid } => self.announce(step, vm, *uuid),
            Op::GuestRun { vm, uuid, command, .. } => self.guest_run(step, (vm, *uuid), command),
            Op::GuestFile { vm, uuid, path, content, mode } => {
                self.guest_file(step, (vm, *uuid), path, (content, *mode))
            }
        }
    }

    /// While a VM moves libvirt refuses what would change it, or blocks (`virDomainSetMetadata`: 30 s, then an error).
    fn busy(&mut self, step: &Step) -> Result<(), StepError> {
        let Some(uuid) = super::guard::domain_of(&step.op) else { return Ok(()) };
        let waits = matches!(step.op, Op::Migrate { .. } | Op::AbortJob { .. } | Op::DropRemnant { .. });
        let waits = waits || step.op.only_waits();
        match self.see_job(&step.host, uuid) {
            Some(_) if !waits => Err(StepError::failed("a job runs on the domain: it moves")),
            _ => Ok(()),
        }
    }

    /// A step about a domain that carries no stamp is refused, and noted: only an adoption may touch one.
    pub(super) fn touches_ours(&mut self, step: &Step) -> Result<(), StepError> {
        let Some(uuid) = super::guard::domain_of(&step.op) else { return Ok(()) };
        let fleet = self.permit.fleet.clone();
        let host = self.host(&step.host)?;
        let ours = |d: &SimDomain| d.stamp.as_ref().is_some_and(|s| fleet.as_ref().is_none_or(|f| *f == s.fleet));
        let foreign = host.domains.get(&uuid).is_some_and(|d| !ours(d));
        let adopts = matches!(step.op, Op::Edit { .. }) && (!self.permit.bound || self.permit.adopted.contains(&uuid));
        let repeated = matches!(step.op, Op::Unstamp { .. });
        if foreign && !adopts && !repeated {
            self.violate(step, "a domain that is not ours is touched");
            return Err(StepError::Stale(format!("domain {uuid} does not carry our stamp")));
        }
        Ok(())
    }

    fn put_image(&mut self, step: &Step, file: &ImageFile, path: &str, note: Option<&ImageNote>) -> Outcome {
        let mut used = file.unpacked.or(file.size).unwrap_or(IMAGE_USED);
        if let Source::Host { host, path } = &file.source
            && self.generations.contains_key(&file.digest)
        {
            // What was made in the fleet cannot be had anywhere else.
            match self.peer(step, host)?.images.get(path.as_ref()) {
                Some((digest, there)) if *digest == file.digest => used = *there,
                _ => return Err(StepError::Stale(format!("image {path} is not at {host}"))),
            }
        }
        let host = self.host(&step.host)?;
        if let Some(note) = note {
            host.notes.entry(path.to_owned()).or_insert_with(|| note.clone());
        }
        if !host.images.contains_key(path) {
            needs_space(host, used)?;
            host.images.insert(path.to_owned(), (file.digest.clone(), used));
            self.mark_image(step, path, None)?;
            return Ok(Done::Changed);
        }
        self.mark_image(step, path, None)
    }

    /// Marks a file of the store for the fleet.
    pub(super) fn mark_image(&mut self, step: &Step, path: &str, unneeded: Option<Timestamp>) -> Outcome {
        let Some(fleet) = self.permit.fleet.clone() else { return Ok(Done::Already) };
        let host = self.host(&step.host)?;
        if !host.images.contains_key(path) {
            return Err(StepError::Stale(format!("image {path} is not in the store")));
        }
        let marks = host.marks.entry(path.to_owned()).or_default();
        Ok(changed(marks.insert(fleet, unneeded) != Some(unneeded)))
    }

    fn drop_image(&mut self, step: &Step, path: &str) -> Outcome {
        let host = self.host(&step.host)?;
        let backs = host.disks.values().any(|d| d.backing.as_deref() == Some(path));
        let kernel = |s: &Shape| s.kernel.as_deref() == Some(path) || s.initrd.as_deref() == Some(path);
        let boots = host.domains.values().any(|d| kernel(&d.config) || d.live.as_ref().is_some_and(kernel));
        if backs || boots {
            self.violate(step, &format!("image {path} is in use"));
            return Err(StepError::Stale(format!("image {path} is in use")));
        }
        let fleet = self.permit.fleet.clone();
        let host = self.host(&step.host)?;
        let marks = host.marks.entry(path.to_owned()).or_default();
        let mine = fleet.as_ref().is_some_and(|f| marks.remove(f).is_some());
        if !marks.is_empty() {
            return Ok(changed(mine));
        }
        host.marks.remove(path);
        Ok(changed(host.images.remove(path).is_some()))
    }

    fn make_disk(&mut self, step: &Step, new: &NewDisk) -> Outcome {
        let content = self.next_content + 1;
        let host = self.host(&step.host)?;
        if let Some(there) = host.disks.get(&new.path) {
            let same = |s: &DiskStamp| s.vm == new.stamp.vm && s.fleet == new.stamp.fleet && s.disk == new.stamp.disk;
            let incoming = |s: &&DiskStamp| same(s) && matches!(s.phase, DiskPhase::Incoming { .. });
            if there.stamp.as_ref().filter(incoming).is_some() {
                let has = |s: &Shape| s.disks.values().any(|d| d.path == new.path);
                if host.active().any(|(_, d)| d.live.as_ref().is_some_and(has)) {
                    return Err(StepError::failed(format!("{} is open", new.path)));
                }
            } else if there.stamp.as_ref().is_some_and(|s| unmarked(s) == unmarked(&new.stamp)) {
                return Ok(Done::Already);
            } else {
                self.violate(step, &format!("{} would be created over another disk", new.path));
                return Err(StepError::Stale(format!("{} exists with another stamp", new.path)));
            }
        }
        let (image_size, used, backing) = match &new.from {
            DiskFrom::Blank | DiskFrom::FileSystem => (Bytes(0), OVERLAY_USED, None),
            DiskFrom::Archive { path, .. } => {
                if !host.images.contains_key(path) {
                    return Err(StepError::failed(format!("archive {path} is not in the store")));
                }
                (IMAGE_SIZE, IMAGE_USED, None)
            }
            DiskFrom::Marked { path, .. } => {
                if !host.images.contains_key(path) {
                    return Err(StepError::failed(format!("image {path} is not in the store")));
                }
                (IMAGE_SIZE, IMAGE_USED, None)
            }
            DiskFrom::Image { path, method, .. } => {
                let Some((_, stored)) = host.images.get(path) else {
                    return Err(StepError::failed(format!("image {path} is not in the store")));
                };
                let overlay = *method == CloneMethod::Overlay;
                (IMAGE_SIZE, if overlay { OVERLAY_USED } else { *stored }, overlay.then(|| path.clone()))
            }
        };
        needs_space(host, used)?;
        let size = new.size.unwrap_or(image_size);
        let mut stamp = new.stamp.clone();
        if let (Some(marked), DiskFrom::Marked { markers, .. }) = (&mut stamp.marked, &new.from) {
            marked.replaced = markers.keys().map(|name| (name.clone(), 1)).collect();
        }
        let of = |path: &str| host.images.get(path).map(|(digest, _)| digest.clone());
        let image = new.from.image().and_then(of);
        let inside = image.and_then(|digest| self.generations.get(&digest).cloned()).unwrap_or_default();
        let carries = inside.files.contains_key(TOKEN_FILE);
        let disk = SimDisk { stamp: Some(stamp), size, used, backing, content, writes: 0, inside };
        self.host(&step.host)?.disks.insert(new.path.clone(), disk);
        self.next_content = content;
        if carries {
            self.violate(step, &format!("{} begins with the token of a management instance", new.path));
        }
        Ok(Done::Changed)
    }

    fn make_seed(&mut self, step: &Step, path: &str, stamp: &DiskStamp, replace: bool) -> Outcome {
        let host = self.host(&step.host)?;
        let same_vm = |s: &DiskStamp| s.vm == stamp.vm && s.fleet == stamp.fleet && s.disk == stamp.disk;
        match host.disks.get(path).map(|d| d.stamp.as_ref()) {
            Some(Some(there)) if there == stamp => return Ok(Done::Already),
            Some(Some(there)) if replace && same_vm(there) => {}
            Some(_) => {
                self.violate(step, &format!("{path} would be created over another disk"));
                return Err(StepError::Stale(format!("{path} exists with another stamp")));
            }
            None => {}
        }
        let used = Bytes(400 << 10);
        let seed = SimDisk {
            stamp: Some(stamp.clone()),
            size: used,
            used,
            backing: None,
            content: 0,
            writes: 0,
            inside: Inside::default(),
        };
        host.disks.insert(path.to_owned(), seed);
        Ok(Done::Changed)
    }

    fn delete_disk(&mut self, step: &Step, path: &str, vm: &Name) -> Outcome {
        let host = self.host(&step.host)?;
        let Some(disk) = host.disks.get(path) else { return Ok(Done::Already) };
        let Some(stamp) = disk.stamp.clone().filter(|s| s.vm == *vm) else {
            self.violate(step, "a disk of somebody else would be deleted");
            return Err(StepError::failed(format!("the stamp of {path} does not name {vm}")));
        };
        let has = |s: &Shape| s.disks.values().any(|d| d.path == path);
        let resets = |d: &SimDomain| {
            !d.power.is_active() && d.stamp.as_ref().is_some_and(|s| s.fleet == stamp.fleet && s.vm == *vm)
        };
        let users = host.domains.values().filter(|d| has(&d.config) || d.live.as_ref().is_some_and(has));
        let in_use = users.into_iter().find(|d| !resets(d));
        if let Some(domain) = in_use {
            return Err(StepError::failed(format!("domain {} has {path}", domain.name)));
        }
        let (content, writes) = (disk.content, disk.writes);
        host.disks.remove(path);
        self.mirror(&step.host);
        self.guard_data(step, &stamp, content, writes);
        Ok(Done::Changed)
    }

    fn edit(&mut self, step: &Step, uuid: Uuid, edits: &[Edit], stamp: &Stamp) -> Outcome {
        let acceleration = self.host(&step.host)?.acceleration;
        let domain = domain(self.host(&step.host)?, uuid)?;
        let old = domain.clone();
        for edit in edits {
            apply_edit(domain, edit, acceleration)?;
        }
        domain.stamp = Some(stamp.clone());
        Ok(changed(*domain != old))
    }

    fn start(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Outcome {
        let (now, guest) = (self.millis, self.guest(vm));
        let bad = self.bad_images.clone();
        let host = self.host(&step.host)?;
        let processor = host.cpu.clone();
        let there = domain(host, uuid)?;
        let image = there.stamp.as_ref().and_then(|s| s.image.as_ref()).map(|d| d.hex().to_owned());
        let bad = image.is_some_and(|hex| bad.iter().any(|digits| hex.starts_with(digits.as_str())));
        match there.power {
            Power::Running => return Ok(Done::Already),
            Power::ShuttingDown => return Err(StepError::Stale(format!("{vm} is shutting down"))),
            Power::Paused => {
                (there.power, there.pause) = (Power::Running, None);
                self.guard_data_of(&Self::step_name(step), &step.host, uuid, false);
                return Ok(Done::Changed);
            }
            Power::Stopped | Power::Suspended | Power::Crashed => {}
        }
        let other = there.cpu.clone().filter(|cpu| there.saved.is_some() && *cpu != processor);
        if let Some(cpu) = other {
            return Err(StepError::failed(format!("its memory was saved on {cpu}, and this host has {processor}")));
        }
        let resumed = there.saved.take();
        let shape = resumed.clone().unwrap_or_else(|| there.config.clone());
        if let Err(missing) = bootable(host, uuid, &shape) {
            domain(host, uuid)?.saved = resumed;
            return Err(missing);
        }
        let boot = if resumed.is_some() { Some(500) } else { guest.boot_millis.filter(|_| !bad) };
        let slow = boot.map(|b| b * host.load_milli / 1000);
        let returns = domain(host, uuid)?.stamp.as_ref().is_some_and(|s| s.root.is_some());
        let used = shape.disks.get("root").and_then(|d| host.disks.get(&d.path)).is_some_and(|d| d.writes > 0);
        if returns && used && resumed.is_none() {
            self.violate(step, "it is started from a root disk that was used, and should be as its image");
        }
        let host = self.host(&step.host)?;
        domain(host, uuid)?.live = Some(shape.clone());
        self.guard_data_of(&Self::step_name(step), &step.host, uuid, false);
        let host = self.host(&step.host)?;
        for disk in shape.disks.values().filter(|d| !d.readonly) {
            if let Some(file) = host.disks.get_mut(&disk.path) {
                file.writes += 1;
            }
        }
        let there = domain(host, uuid)?;
        if let Some(stamp) = there.stamp.as_mut().filter(|_| resumed.is_none()) {
            there.began = stamp.root;
            stamp.root = stamp.root.map(|_| RootUse::Used);
        }
        there.boots += u64::from(resumed.is_none());
        there.cpu = Some(processor);
        (there.power, there.pause) = (Power::Running, None);
        there.ready_at = slow.map(|b| now + b);
        self.note_data(&step.host, uuid);
        Ok(Done::Changed)
    }

    fn await_ready(&mut self, step: &Step, vm: &Name, uuid: Uuid, probed: bool) -> Outcome {
        let now = self.millis;
        let frozen = self.is_frozen(&step.host, uuid);
        let domain = domain(self.host(&step.host)?, uuid)?;
        if domain.power != Power::Running {
            return Err(StepError::failed(format!("{vm} does not run")));
        }
        if !probed || (!frozen && domain.ready_at.is_some_and(|at| at <= now)) {
            return Ok(Done::Already);
        }
        let detail = vec![format!("{vm} login: "), "sim: the guest never becomes ready".to_owned()];
        Err(StepError::Failed { what: format!("{vm} does not answer its probe"), hint: None, detail })
    }

    fn stop(&mut self, step: &Step, vm: &Name, uuid: Uuid, policy: StopPolicy) -> Outcome {
        let guest = self.guest(vm);
        let there = domain(self.host(&step.host)?, uuid)?;
        if !there.power.is_active() {
            return Ok(Done::Already);
        }
        // A guest that stands still hears nothing: it is let run first.
        let hears = matches!(there.power, Power::Running | Power::Paused);
        let gentle = hears && guest.shutdown_millis.is_some_and(|t| t <= policy.deadline.0);
        if !gentle && !policy.power_off {
            return Err(StepError::Failed {
                what: format!("{vm} did not shut down within {}", policy.deadline),
                hint: Some("allow `stop: {powerOff: true}`".to_owned()),
                detail: Vec::new(),
            });
        }
        halt(there, Power::Stopped);
        self.guard_stop(step, vm);
        Ok(Done::Changed)
    }

    fn suspend(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Outcome {
        let there = domain(self.host(&step.host)?, uuid)?;
        if there.power == Power::Suspended {
            return Ok(Done::Already);
        }
        if !there.power.is_active() {
            return Err(StepError::Stale(format!("{vm} does not run")));
        }
        // qemuMigrationSrcIsAllowed, which libvirt asks for a save too.
        let pci = there.live.iter().flat_map(|l| l.devices.values()).find(|at| !at.is_usb());
        if let Some(at) = pci {
            return Err(StepError::failed(format!("cannot save: the domain has {at} of its host")));
        }
        there.saved = there.live.clone();
        let cpu = there.cpu.clone();
        halt(there, Power::Suspended);
        // What was saved is of the processor that it ran on.
        there.cpu = cpu;
        self.guard_stop(step, vm);
        Ok(Done::Changed)
    }

    fn set_memory(&mut self, step: &Step, vm: &Name, uuid: Uuid, memory: Bytes) -> Outcome {
        let cooperates = self.guest(vm).cooperates;
        let live = live(domain(self.host(&step.host)?, uuid)?, vm)?;
        if live.memory == memory {
            return Ok(Done::Already);
        }
        if memory > live.max_memory {
            return Err(StepError::failed(format!(
                "{memory} is more than the {} it was started with",
                live.max_memory
            )));
        }
        if !cooperates {
            return Err(StepError::failed(format!("the guest of {vm} stays at {}", live.memory)));
        }
        live.memory = memory;
        Ok(Done::Changed)
    }

    fn set_cpus(&mut self, step: &Step, vm: &Name, uuid: Uuid, cpus: u32) -> Outcome {
        let cooperates = self.guest(vm).cooperates;
        let live = live(domain(self.host(&step.host)?, uuid)?, vm)?;
        if live.cpus == cpus {
            return Ok(Done::Already);
        }
        if cpus > live.max_cpus {
            return Err(StepError::failed(format!("{cpus} is more than the {} it was started with", live.max_cpus)));
        }
        if !cooperates {
            return Err(StepError::failed(format!("the guest of {vm} stays at {} processors", live.cpus)));
        }
        live.cpus = cpus;
        Ok(Done::Changed)
    }

    fn undefine(&mut self, step: &Step, vm: &Name, uuid: Uuid, drop_save: bool) -> Outcome {
        let host = self.host(&step.host)?;
        let Some(domain) = host.domains.get(&uuid) else { return Ok(Done::Already) };
        if domain.power.is_active() {
            return Err(StepError::Stale(format!("{vm} runs")));
        }
        if domain.saved.is_some() && !drop_save {
            return Err(StepError::failed(format!("{vm} has a managed save")));
        }
        host.domains.remove(&uuid);
        Ok(Done::Changed)
    }
}

pub(super) const fn changed(yes: bool) -> Done {
    if yes { Done::Changed } else { Done::Already }
}

/// A stamp without how often markers were replaced, which nobody plans.
fn unmarked(stamp: &DiskStamp) -> DiskStamp {
    let mut stamp = stamp.clone();
    if let Some(marked) = &mut stamp.marked {
        marked.replaced.clear();
    }
    stamp
}

/// The domain, which the plan has seen.
pub(super) fn domain(host: &mut SimHost, uuid: Uuid) -> Result<&mut SimDomain, StepError> {
    host.domains.get_mut(&uuid).ok_or_else(|| StepError::Stale(format!("domain {uuid} is not there")))
}

fn live<'a>(domain: &'a mut SimDomain, vm: &Name) -> Result<&'a mut Shape, StepError> {
    domain.live.as_mut().ok_or_else(|| StepError::Stale(format!("{vm} does not run")))
}

fn stamped<'a>(host: &'a mut SimHost, path: &str) -> Result<&'a mut DiskStamp, StepError> {
    let disk = host.disks.get_mut(path).ok_or_else(|| StepError::Stale(format!("disk {path} is not there")))?;
    disk.stamp.as_mut().ok_or_else(|| StepError::failed(format!("disk {path} is not ours")))
}

/// Ends a domain's QEMU process.
pub(super) fn halt(domain: &mut SimDomain, power: Power) {
    domain.power = power;
    domain.pause = None;
    domain.live = None;
    domain.cpu = None;
    domain.ready_at = None;
    domain.learnt.clear();
}

pub(super) fn needs_space(host: &SimHost, used: Bytes) -> Result<(), StepError> {
    if host.free() < used { Err(StepError::failed("no space left on device")) } else { Ok(()) }
}

fn write_record(host: &mut SimHost, vm: &Name, record: &PlacementRecord) -> Outcome {
    let old = host.records.insert(vm.clone(), record.clone());
    Ok(changed(old.as_ref() != Some(record)))
}

fn stamp_disk(host: &mut SimHost, path: &str, stamp: &DiskStamp) -> Outcome {
    let disk = host.disks.get_mut(path).ok_or_else(|| StepError::Stale(format!("disk {path} is not there")))?;
    if let Some(there) = disk.stamp.as_ref().filter(|s| s.vm != stamp.vm || s.fleet != stamp.fleet) {
        return Err(StepError::failed(format!("disk {path} belongs to {}", there.vm)));
    }
    let old = disk.stamp.replace(stamp.clone());
    Ok(changed(old.as_ref() != Some(stamp)))
}

fn grow_disk(host: &mut SimHost, path: &str, size: Bytes) -> Outcome {
    let disk = host.disks.get_mut(path).ok_or_else(|| StepError::Stale(format!("disk {path} is not there")))?;
    if disk.size > size {
        return Err(StepError::failed(format!("{path} has {} already: disks are never shrunk", disk.size)));
    }
    let grew = disk.size < size;
    disk.size = size;
    Ok(changed(grew))
}

fn define(host: &mut SimHost, spec: &DomainSpec, stamp: &Stamp) -> Outcome {
    let config = shape_of(spec, host.acceleration);
    if let Some(there) = host.domains.get(&spec.uuid) {
        let same = there.stamp.as_ref() == Some(stamp) && there.config == config;
        let other = || StepError::Stale(format!("domain {} exists and is not as the plan saw it", spec.domain));
        return if same { Ok(Done::Already) } else { Err(other()) };
    }
    if host.domains.values().any(|d| d.name == spec.domain) {
        return Err(StepError::Stale(format!("a domain {} with another UUID exists", spec.domain)));
    }
    let domain = SimDomain {
        name: spec.domain.clone(),
        stamp: Some(stamp.clone()),
        power: Power::Stopped,
        pause: None,
        transient: false,
        live: None,
        config,
        saved: None,
        began: None,
        autostart: false,
        ready_at: None,
        cpu: None,
        announced: 0,
        learnt: BTreeMap::new(),
        boots: 0,
        foreign: "what libvirt adds".to_owned(),
    };
    host.domains.insert(spec.uuid, domain);
    Ok(Done::Changed)
}

/// What must be there before QEMU can start.
pub(super) fn bootable(host: &SimHost, uuid: Uuid, shape: &Shape) -> Result<(), StepError> {
    if let Some((other, at)) = device::taken(host, uuid, shape.devices.values().copied()) {
        return Err(StepError::failed(format!("cannot start: {at} is in use by {other}")));
    }
    let missing = |what: &str| Err(StepError::failed(format!("cannot start: {what} is not there")));
    for disk in shape.disks.values() {
        let Some(file) = host.disks.get(&disk.path) else { return missing(&disk.path) };
        if let Some(backing) = file.backing.as_ref().filter(|b| !host.images.contains_key(*b)) {
            return missing(backing);
        }
    }
    if let Some(file) = [&shape.kernel, &shape.initrd].into_iter().flatten().find(|f| !host.images.contains_key(*f)) {
        return missing(file);
    }
    match shape.nics.values().find(|n| !host.bridges.contains_key(&n.bridge)) {
        Some(nic) => missing(&format!("bridge {}", nic.bridge)),
        None => Ok(()),
    }
}

/// The projection of a new domain.
fn shape_of(spec: &DomainSpec, host: Acceleration) -> Shape {
    let mut shape = Shape {
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: spec.memory,
        max_memory: spec.max_memory,
        machine: spec.machine.clone(),
        firmware: spec.firmware,
        acceleration: decided(spec.acceleration, host),
        display: Some(spec.display),
        kernel: None,
        initrd: None,
        command_line: None,
        disks: spec.disks.iter().map(|d| (d.name.clone(), shape_disk(d))).collect(),
        nics: spec.nics.iter().map(|n| (n.mac, shape_nic(n))).collect(),
        devices: spec.devices.iter().map(|d| (d.name.to_string(), d.at)).collect(),
        ports: device::ports(&spec.devices),
        container: spec.container.clone(),
    };
    set_kernel(&mut shape, spec.kernel.as_ref());
    shape
}

const fn decided(wanted: Acceleration, host: Acceleration) -> Acceleration {
    if matches!(wanted, Acceleration::Auto) { host } else { wanted }
}

fn shape_disk(disk: &DomainDisk) -> ShapeDisk {
    ShapeDisk { path: disk.path.clone(), target: disk.target.clone(), readonly: disk.readonly }
}

fn shape_nic(nic: &DomainNic) -> ShapeNic {
    ShapeNic { bridge: nic.bridge.clone(), tap: Some(nic.tap.clone()) }
}

fn set_kernel(shape: &mut Shape, kernel: Option<&crate::plan::KernelBoot>) {
    shape.kernel = kernel.map(|k| k.kernel.clone());
    shape.initrd = kernel.and_then(|k| k.initrd.clone());
    shape.command_line = kernel.map(|k| k.command_line.clone());
}

fn apply_edit(domain: &mut SimDomain, edit: &Edit, host: Acceleration) -> Result<(), StepError> {
    let stale = |text: String| Err(StepError::Stale(text));
    let shape = &mut domain.config;
    match edit {
        Edit::Cpus { cpus, max } => (shape.cpus, shape.max_cpus) = (*cpus, *max),
        Edit::Memory { memory, max } => (shape.memory, shape.max_memory) = (*memory, *max),
        Edit::Machine(machine) => shape.machine.clone_from(machine),
        Edit::Firmware(firmware) => shape.firmware = *firmware,
        Edit::Acceleration(acceleration) => shape.acceleration = decided(*acceleration, host),
        Edit::Display(display) => shape.display = Some(*display),
        Edit::Kernel(kernel) => set_kernel(shape, kernel.as_ref()),
        Edit::AddDisk(disk) => {
            let new = shape_disk(disk);
            match shape.disks.insert(disk.name.clone(), new.clone()) {
                Some(old) if old.path != new.path => return stale(format!("disk {} is there already", disk.name)),
                _ => {}
            }
        }
        Edit::RemoveDisk(name) => drop(shape.disks.remove(name)),
        Edit::DiskPath { name, path } => match shape.disks.get_mut(name) {
            Some(disk) => disk.path.clone_from(path),
            None => return stale(format!("disk {name} is not there")),
        },
        Edit::AddNic(nic) => drop(shape.nics.insert(nic.mac, shape_nic(nic))),
        Edit::RemoveNic(mac) => drop(shape.nics.remove(mac)),
        Edit::NicBridge { mac, bridge, tap } => match shape.nics.get_mut(mac) {
            Some(nic) => (nic.bridge, nic.tap) = (bridge.clone(), Some(tap.clone())),
            None => return stale(format!("interface {mac} is not there")),
        },
        Edit::AddDevice(device) => device::add(shape, device)?,
        Edit::RemoveDevice(name) => drop(shape.devices.remove(name.as_str())),
        Edit::Container(container) => shape.container = Some(container.clone()),
        Edit::Autostart(on) => domain.autostart = *on,
    }
    Ok(())
}
