//! Steps on a real host: each looks whether it is done, changes, and looks again.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::fleet::RealHost;
use super::libvirt::CallError;
use super::rules::{self, Guard};
use super::shell::{Program, succeed};
use super::xml::{self, Reading, XmlError};
use super::{accel, agent, bridge, capture, container, device, disk, generalise, images, moves, power, ready, seed};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Acceleration, Bytes, DiskPhase, HostRules, Layer, Name, Power, Stamp};
use crate::observe::Boxed;
use crate::plan::{DiskFrom, DomainSpec, Edit, KernelBoot, Op};

/// Carries out one step. `peer` is the other host of a step that concerns two ([`Op::peer`]).
pub(super) async fn perform(
    host: &RealHost,
    peer: Option<&RealHost>,
    op: &Op,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let (shell, folders) = (host.shell.as_ref(), &host.folders);
    match op {
        Op::PutImage { file, path, note } => {
            let _one = host.fetching.lock().await;
            let there = peer.map(|p| p.shell.as_ref());
            let put = images::Put {
                file,
                path,
                fleet: &folders.fleet,
                base: &host.base,
                peer: there,
                note: note.as_ref(),
                patience: images::USUAL,
            };
            let done = put.run(shell, progress).await?;
            if let Some(note) = note {
                images::note(shell, path, &file.digest, note).await?;
            }
            Ok(done)
        }
        Op::MarkImage { path, unneeded, .. } => images::mark(shell, path, &folders.fleet, *unneeded).await,
        Op::DropImage { path, .. } => {
            unused(host, path, None).await?;
            nothing_built_on(host, path).await?;
            images::drop(shell, path, &folders.fleet).await
        }
        Op::MakeBridge { bridge, address, address6, fleet, uplink, border } => {
            let addresses: Vec<&str> = address.iter().chain(address6).map(String::as_str).collect();
            let want = bridge::Want { bridge, addresses: &addresses, uplink: uplink.as_ref(), border };
            let reach = || -> Boxed<'_, Result<(), String>> { Box::pin(reached(host)) };
            bridge::make(host.shell.as_ref(), fleet, want, bridge_guard(host, &reach)).await
        }
        Op::RemoveBridge { bridge, fleet, .. } => {
            let reach = || -> Boxed<'_, Result<(), String>> { Box::pin(reached(host)) };
            bridge::remove(host.shell.as_ref(), fleet, bridge, bridge_guard(host, &reach)).await
        }
        Op::Record { vm, record } => disk::record(shell, folders, vm, record).await,
        Op::Unrecord { vm } => disk::unrecord(shell, folders, vm).await,
        Op::MakeDisk(new) => {
            reachable(host, &new.path).await?;
            if matches!(new.stamp.phase, DiskPhase::Incoming { .. }) && disk::is_incoming(shell, &new.path).await? {
                moves::clear_arrival(host, &new.stamp.vm).await?;
                unused(host, &new.path, Some(&new.stamp.vm)).await?;
            }
            if let DiskFrom::Image { path, .. } | DiskFrom::Marked { path, .. } | DiskFrom::Archive { path, .. } =
                &new.from
                && shell.size(path).await?.is_some()
            {
                // What a disk of this fleet stands on is this fleet's to keep, whoever fetched it.
                images::needed(shell, path, &folders.fleet).await?;
            }
            disk::make(shell, new, progress).await
        }
        Op::MakeSeed { path, stamp, seed, replace } => {
            let failed = |e: seed::SeedError| StepError::failed(e.to_string());
            let image = match host.doc.layer() {
                Layer::Qemu => seed::image(&seed::files(seed).map_err(failed)?).map_err(failed)?,
                Layer::Lxc => container::resolv_conf(seed),
            };
            disk::make_seed(shell, path, stamp, image, *replace).await
        }
        Op::StampDisk { path, stamp } => disk::stamp(shell, path, stamp).await,
        Op::RetainDisk { path, until } => disk::retain(shell, &folders.fleet, path, *until).await,
        Op::DeleteDisk { path, vm } => {
            unused(host, path, Some(vm)).await?;
            disk::delete(shell, &folders.fleet, vm, path).await
        }
        Op::Define { domain, stamp } => define(host, domain, stamp).await,
        Op::Edit { vm, uuid, edits, stamp } => edit(host, vm, *uuid, edits, stamp).await,
        Op::Unstamp { vm, uuid } => unstamp(host, vm, *uuid).await,
        Op::Start { vm, uuid } => power::start(host, vm, *uuid).await,
        Op::AwaitReady { vm, uuid, probe, address } => {
            ready::wait(host, vm, *uuid, probe.as_ref(), *address, progress).await
        }
        Op::StayReady { vm, uuid, probe, address, hold } => {
            ready::stay(host, vm, *uuid, (probe.as_ref(), *address), *hold, progress).await
        }
        Op::Stop { vm, uuid, policy } => power::stop(host, vm, *uuid, *policy, progress).await,
        Op::Suspend { vm, uuid } => power::suspend(host, vm, *uuid).await,
        Op::SetMemory { vm, uuid, memory } => power::set_memory(host, vm, *uuid, *memory, progress).await,
        Op::SetCpus { vm, uuid, cpus } => power::set_cpus(host, vm, *uuid, *cpus, progress).await,
        Op::GrowDisk { vm, uuid, path, size } => grow(host, vm, *uuid, path, *size).await,
        Op::AttachDevice { vm, uuid, device } => device::attach(host, vm, *uuid, device).await,
        Op::DetachDevice { vm, uuid, device } => device::detach(host, vm, *uuid, device, progress).await,
        Op::Undefine { vm, uuid, drop_save } => undefine(host, vm, *uuid, *drop_save).await,
        Op::Migrate { vm, uuid, how, .. } => moves::migrate(host, moves::other(peer)?, vm, *uuid, how, progress).await,
        Op::AbortJob { vm, uuid, .. } => moves::abort(host, moves::other(peer)?, vm, *uuid).await,
        Op::CopyDisk { path, stamp, .. } => {
            reachable(host, path).await?;
            moves::copy_disk(host, moves::other(peer)?, path, stamp, progress).await
        }
        Op::CopyImage { path, digest, .. } => {
            moves::copy_image(host, moves::other(peer)?, path, digest, progress).await
        }
        Op::CopySave { vm, uuid, .. } => moves::copy_save(host, moves::other(peer)?, vm, *uuid, progress).await,
        Op::DefineFrom { vm, uuid, stamp, .. } => moves::define_from(host, moves::other(peer)?, vm, *uuid, stamp).await,
        Op::RetireDisk { path, to, stamp } => moves::retire(host, path, to, stamp).await,
        Op::DropRemnant { vm, uuid } => moves::drop_remnant(host, vm, *uuid).await,
        Op::Announce { vm, uuid } => moves::announce(host, vm, *uuid).await,
        Op::SetRules { rules } => set_rules(host, rules).await,
        Op::GuestRun { vm, uuid, command, input, within, .. } => {
            ours(host, vm, *uuid).await?;
            agent::perform(host, *uuid, (command, input.as_deref()), within.duration(), progress).await
        }
        Op::GuestFile { vm, uuid, path, content, mode } => {
            ours(host, vm, *uuid).await?;
            Ok(agent::write(host, *uuid, path, content.as_bytes(), Some(*mode)).await?)
        }
        Op::Capture { .. } => capture::run(host, op, progress).await,
        Op::Generalise { vm, uuid, management, within } => {
            generalise::run(host, vm, *uuid, management, *within, progress).await
        }
        Op::Fence { .. } => Err(StepError::failed("moves come with the next commit")),
    }
}

/// Looks whether a host can be reached, by connections that are new.
async fn reached(host: &RealHost) -> Result<(), String> {
    if host.shell.is_remote() {
        host.shell.afresh().await.map_err(|e| e.to_string())?;
    }
    host.hypervisor.ping().await.map_err(|e| e.to_string())
}

fn bridge_guard<'a>(
    host: &'a RealHost,
    reach: &'a (dyn Fn() -> Boxed<'a, Result<(), String>> + Send + Sync),
) -> bridge::Guard<'a> {
    bridge::Guard { host: &host.doc.name, remote: host.shell.is_remote(), reach }
}

/// Makes the host's packet filter what it should be, and remembers that.
async fn set_rules(host: &RealHost, rules: &Arc<HostRules>) -> Result<Done, StepError> {
    let mut kept = host.filter.lock().await;
    // Nobody puts back what was, while it is not known what is.
    *host.good() = None;
    let done = guarded(host, rules, &mut kept).await?;
    *host.good() = Some(rules.clone());
    Ok(done)
}

/// Sets a host's packet filter. Over a way that the filter might cut it is confirmed through a new connection, or the host takes
/// it back.
pub(super) async fn guarded(
    host: &RealHost,
    rules: &HostRules,
    kept: &mut Option<rules::Kept>,
) -> Result<Done, StepError> {
    let reach = || -> Boxed<'_, Result<(), String>> { Box::pin(reached(host)) };
    let guard = match host.shell.is_remote() {
        true => Guard::Armed { host: &host.doc.name, reach: &reach },
        false => Guard::Sure,
    };
    rules::apply(host.shell.as_ref(), &host.folders.fleet, rules, kept, guard).await
}

/// A domain's inactive XML, after seeing that the domain carries our stamp of this VM.
pub(super) async fn ours(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<(String, Reading), StepError> {
    let text = match host.hypervisor.config_xml(uuid).await {
        Ok(text) => text,
        Err(e) if e.is_missing() => return Err(StepError::Stale(format!("{vm} has no domain {uuid}"))),
        Err(e) => return Err(e.into()),
    };
    let reading = xml::read(&text)?;
    match &reading.stamp {
        Some(Ok(stamp)) if stamp.fleet == host.folders.fleet && stamp.vm == *vm => Ok((text, reading)),
        Some(Err(e)) => Err(StepError::failed(format!("the stamp of {} cannot be read: {e}", reading.name))),
        Some(Ok(other)) => Err(StepError::Stale(format!("{} is {}'s {}", reading.name, other.fleet, other.vm))),
        None => Err(StepError::Stale(format!("{} carries no stamp of ours: it is left alone", reading.name))),
    }
}

async fn define(host: &RealHost, spec: &DomainSpec, stamp: &Stamp) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    if hypervisor.power(spec.uuid).await?.is_some() {
        let (_, reading) = ours(host, &spec.vm, spec.uuid).await?;
        return match reading.stamp {
            Some(Ok(found)) if found == *stamp => Ok(Done::Already),
            _ => Err(StepError::Stale(format!("{} exists already with another stamp", spec.domain))),
        };
    }
    let mut spec = spec.clone();
    if let Some(KernelBoot { kernel, initrd, .. }) = &spec.kernel {
        for file in [Some(kernel), initrd.as_ref()].into_iter().flatten() {
            if file.starts_with(&host.folders.images) && host.shell.size(file).await?.is_some() {
                images::needed(host.shell.as_ref(), file, &host.folders.fleet).await?;
            }
        }
    }
    if spec.acceleration == Acceleration::Auto && spec.container.is_none() {
        spec.acceleration = accel::probe(host.shell.as_ref(), &host.folders.slots).await;
    }
    let agent = agent_socket(host, spec.uuid);
    if let Some((folder, _)) = agent.as_ref().and_then(|path| path.rsplit_once('/')) {
        host.shell.make_folder(folder).await?;
    }
    let result = hypervisor.define(xml::domain(&spec, stamp, agent.as_deref())).await;
    // What libvirt says matters less than what is there.
    match ours(host, &spec.vm, spec.uuid).await {
        Ok((_, reading)) if matches!(&reading.stamp, Some(Ok(found)) if found == stamp) => Ok(Done::Changed),
        Ok(_) => Err(StepError::failed(format!("{} has not the stamp that was written", spec.domain))),
        Err(looked) => Err(result.map_or_else(StepError::from, |()| looked)),
    }
}

/// Where the guest agent's socket of a new domain is. Below an embedded root libvirt would choose a path of 75 characters and
/// the domain's id, which grows with each start until the path no longer fits a socket; a hypervisor of the system has a
/// short root.
fn agent_socket(host: &RealHost, uuid: Uuid) -> Option<String> {
    let short: String = uuid.simple().to_string().chars().take(12).collect();
    host.hypervisor.embed_root().map(|root| format!("{root}/agent/{short}"))
}

async fn edit(host: &RealHost, vm: &Name, uuid: Uuid, edits: &[Edit], stamp: &Stamp) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    let old = match hypervisor.config_xml(uuid).await {
        Ok(text) => text,
        Err(e) if e.is_missing() => return Err(StepError::Stale(format!("{vm} has no domain {uuid}"))),
        Err(e) => return Err(e.into()),
    };
    // Without a stamp it is an adoption; with somebody else's it is none of ours.
    match xml::read(&old)?.stamp {
        Some(Ok(other)) if other.fleet != host.folders.fleet || other.vm != *vm => {
            return Err(StepError::Stale(format!("the domain is {}'s {}", other.fleet, other.vm)));
        }
        _ => {}
    }
    let mut edits = edits.to_vec();
    for edit in &mut edits {
        if let Edit::Acceleration(acceleration @ Acceleration::Auto) = edit {
            *acceleration = accel::probe(host.shell.as_ref(), &host.folders.slots).await;
        }
    }
    // The stamp first: that of an adopted VM names the disks which the edits are about.
    let new = xml::apply(&xml::restamp(&old, stamp)?, &edits)?;
    let mut done = Done::Already;
    if new != old {
        hypervisor.define(new.clone()).await?;
        let (mut wanted, found) = (xml::read(&new)?, xml::read(&hypervisor.config_xml(uuid).await?)?);
        // libvirt adds the ports that new devices need.
        wanted.shape.ports = found.shape.ports;
        if wanted.shape != found.shape || wanted.stamp != found.stamp {
            return Err(StepError::failed(format!(
                "libvirt did not keep the new definition of {vm} as it was written"
            )));
        }
        done = Done::Changed;
    }
    for edit in &edits {
        if let Edit::Autostart(on) = edit {
            hypervisor.set_autostart(uuid, *on).await?;
        }
    }
    if hypervisor.power(uuid).await?.is_some_and(Power::is_active) {
        let live = xml::read(&hypervisor.live_xml(uuid).await?)?;
        // What the root disk was at its start only that start knew.
        let began = live.stamp.as_ref().and_then(|s| s.as_ref().ok()?.root);
        let wanted = Stamp { root: began, ..stamp.clone() };
        if live.stamp != Some(Ok(wanted.clone())) {
            hypervisor.set_live_metadata(uuid, Some(xml::stamp_content(&wanted))).await?;
            done = Done::Changed;
        }
    }
    Ok(done)
}

async fn unstamp(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    let old = hypervisor.config_xml(uuid).await?;
    if xml::read(&old)?.stamp.is_none() {
        return Ok(Done::Already);
    }
    let (old, _) = ours(host, vm, uuid).await?;
    if hypervisor.power(uuid).await?.is_some_and(Power::is_active) {
        hypervisor.set_live_metadata(uuid, None).await?;
    }
    hypervisor.define(xml::unstamp(&old)?).await?;
    match xml::read(&hypervisor.config_xml(uuid).await?)?.stamp {
        None => Ok(Done::Changed),
        Some(_) => Err(StepError::failed(format!("the stamp of {vm} is still there"))),
    }
}

async fn undefine(host: &RealHost, vm: &Name, uuid: Uuid, drop_save: bool) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    match hypervisor.power(uuid).await? {
        None => Ok(Done::Already),
        Some(power) if power.is_active() => Err(StepError::Stale(format!("{vm} runs: stop it first"))),
        Some(power) => {
            ours(host, vm, uuid).await?;
            if power == Power::Suspended && !drop_save {
                return Err(StepError::Failed {
                    what: format!("{vm} has saved memory, which would be lost"),
                    hint: Some("start and stop it, or remove it with a Removal".to_owned()),
                    detail: Vec::new(),
                });
            }
            let result = hypervisor.undefine(uuid, drop_save).await;
            if hypervisor.power(uuid).await?.is_some() {
                result?;
                return Err(StepError::failed(format!("{vm} is still defined")));
            }
            if let Some(socket) = agent_socket(host, uuid) {
                host.shell.remove(&socket).await?;
            }
            Ok(Done::Changed)
        }
    }
}

async fn grow(host: &RealHost, vm: &Name, uuid: Uuid, path: &str, to: Bytes) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    let (text, reading) = ours(host, vm, uuid).await?;
    match hypervisor.power(uuid).await? {
        Some(Power::Suspended) => Err(StepError::Failed {
            what: format!("{vm} has saved memory that knows the disk's old size"),
            hint: Some("start it first: its disk then grows while it runs".to_owned()),
            detail: Vec::new(),
        }),
        // The host's own kernel has its disks mounted, and grows them.
        Some(power) if power.is_active() && reading.shape.container.is_some() => {
            disk::grow(host.shell.as_ref(), path, &xml::disk_format(&text, path)?, to).await
        }
        Some(power) if power.is_active() => {
            let live = xml::read(&hypervisor.live_xml(uuid).await?)?;
            let target = live.shape.disks.values().find(|d| d.path == path).map(|d| d.target.clone());
            let Some(target) = target else {
                // Attached at the next start; until then it is a file like any other.
                return disk::grow(host.shell.as_ref(), path, &xml::disk_format(&text, path)?, to).await;
            };
            let now = hypervisor.disk_size(uuid, target.clone()).await?;
            if !disk::grows(path, now, to)? {
                return Ok(Done::Already);
            }
            let result = hypervisor.resize_disk(uuid, target.clone(), to).await;
            let now = hypervisor.disk_size(uuid, target).await?;
            if now == to {
                return Ok(Done::Changed);
            }
            result?;
            Err(StepError::failed(format!("{path} is {now} after growing it to {to}")))
        }
        Some(_) => {
            if !reading.shape.disks.values().any(|d| d.path == path) {
                return Err(StepError::Stale(format!("{vm} has no disk {path}")));
            }
            disk::grow(host.shell.as_ref(), path, &xml::disk_format(&text, path)?, to).await
        }
        None => Err(StepError::Stale(format!("{vm} has no domain"))),
    }
}

/// Sees that no domain has a file, whoever's domain it is; but for the one of `own`, when it is not active.
async fn unused(host: &RealHost, path: &str, own: Option<&Name>) -> Result<(), StepError> {
    for text in host.hypervisor.all_config_xml().await? {
        if !xml::sources(&text)?.iter().any(|s| s == path) {
            continue;
        }
        let reading = xml::read(&text)?;
        let stamp = reading.stamp.as_ref().and_then(|s| s.as_ref().ok());
        let mine = stamp.is_some_and(|s| s.fleet == host.folders.fleet && Some(&s.vm) == own);
        let off = |power: Option<Power>| power.is_some_and(|power| !power.is_active());
        if !(mine && off(host.hypervisor.power(reading.uuid).await?)) {
            return Err(StepError::Stale(format!("{} has {path}", reading.name)));
        }
    }
    Ok(())
}

/// Sees that no domain's disk is an overlay of a file, or of an overlay of it, whoever's domain it is.
async fn nothing_built_on(host: &RealHost, path: &str) -> Result<(), StepError> {
    let mut seen = BTreeSet::new();
    for text in host.hypervisor.all_config_xml().await? {
        for source in xml::sources(&text)? {
            if !source.starts_with('/') || !seen.insert(source.clone()) {
                continue;
            }
            let words = ["qemu-img", "info", "--force-share", "--backing-chain", "--output=json", "--", &source];
            let said = host.shell.run(Program::new(words)).await?;
            if stands_on(&said.stdout, path) {
                let name = xml::read(&text)?.name;
                return Err(StepError::Stale(format!("{source}, a disk of {name}, is built on {path}")));
            }
        }
    }
    Ok(())
}

/// Whether qemu-img(1) says that a disk, or one under it, is built on a file. What is no disk stands on nothing.
fn stands_on(said: &[u8], path: &str) -> bool {
    let chain: Vec<serde_json::Value> = serde_json::from_slice(said).unwrap_or_default();
    let names = ["backing-filename", "full-backing-filename"];
    chain.iter().any(|link| names.iter().any(|key| link.get(key).and_then(serde_json::Value::as_str) == Some(path)))
}

/// Sees that QEMU's own user can get to a file: every folder above it must let others through.
async fn reachable(host: &RealHost, path: &str) -> Result<(), StepError> {
    if let Some((folder, _)) = path.rsplit_once('/') {
        host.shell.make_folder(folder).await?;
    }
    if host.doc.layer() == Layer::Lxc {
        // Opened by root.
        return Ok(());
    }
    let above = std::path::Path::new(path).ancestors().skip(1).filter_map(std::path::Path::to_str);
    let words = ["stat", "-L", "-c", "%a %n", "--"].into_iter().chain(above);
    let said = succeed(host.shell.as_ref(), Program::new(words)).await?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let closed = said.lines().filter_map(|line| line.split_once(' ')).find_map(|(mode, folder)| {
        let mode = u32::from_str_radix(mode, 8).ok()?;
        (mode & 0o001 == 0).then_some(folder)
    });
    let Some(folder) = closed else { return Ok(()) };
    Err(StepError::Failed {
        what: format!("QEMU's user cannot get to {path}: the folder {folder} is closed to others"),
        hint: Some(format!("`chmod o+x {folder}`, or choose another storage folder")),
        detail: Vec::new(),
    })
}

impl From<CallError> for StepError {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::TimedOut { .. } | CallError::Away { .. } => Self::Unknown(error.to_string()),
            CallError::Libvirt { code: super::libvirt::Code::Connection, .. } => Self::Unknown(error.to_string()),
            CallError::Libvirt { .. } | CallError::Closed(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<XmlError> for StepError {
    fn from(error: XmlError) -> Self {
        match &error {
            XmlError::NoSuch { .. } => Self::Stale(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
