//! What travels while the VM stands still: disks, images, saved memory, definitions.

use std::time::Instant;

use uuid::Uuid;

use super::super::act::ours;
use super::super::fleet::RealHost;
use super::super::shell::{Program, copy_between, succeed};
use super::super::{disk, images, xml};
use super::left::{clear_arrival, closed};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Bytes, Digest, DiskPhase, DiskStamp, Name, PastMove, PauseCause, Power, Stamp, link_key};

/// Copies a disk to the same path here: its stamp, then the file beside it, then its name.
pub(in crate::host) async fn copy_disk(
    host: &RealHost,
    from: &RealHost,
    path: &str,
    stamp: &DiskStamp,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let shell = host.shell.as_ref();
    let there = disk::read_stamp(from.shell.as_ref(), path).await?;
    match there {
        Some(s) if s.fleet == stamp.fleet && s.vm == stamp.vm && s.phase == DiskPhase::Valid => {}
        Some(_) => {
            return Err(StepError::Stale(format!("{path} at {} is not the disk of {}", from.doc.name, stamp.vm)));
        }
        None => return Err(StepError::Stale(format!("{path} at {} carries no stamp of ours", from.doc.name))),
    }
    if shell.size(path).await?.is_some() {
        if !disk::is_incoming(shell, path).await? {
            return Err(StepError::Stale(format!("{path} is there already, and is no copy that waits to be filled")));
        }
        clear_arrival(host, &stamp.vm).await?;
        closed(host, path).await?;
    }
    if stamp.disk != "seed" {
        // A seed is read-only, and may be open there.
        closed(from, path).await?;
    }
    disk::folder_of(shell, path).await?;
    // Whatever is there is worth nothing from here on, and its stamp says so.
    shell.remove(path).await?;
    disk::write_stamp(shell, path, stamp).await?;
    let partial = format!("{path}.partial");
    carry(host, from, path, &partial, progress).await?;
    succeed(shell, Program::new(["chmod", "0600", &partial])).await?;
    disk::publish(shell, &partial, path).await?;
    Ok(Done::Changed)
}

/// Puts a file of another host's image store into ours.
pub(in crate::host) async fn copy_image(
    host: &RealHost,
    from: &RealHost,
    path: &str,
    digest: &Digest,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let _one = host.fetching.lock().await;
    let (fleet, peer) = (&host.folders.fleet, from.shell.as_ref());
    let began = Instant::now();
    let done = images::Copy { digest, path, from: path, fleet, peer, peer_name: &from.doc.name }
        .run(host.shell.as_ref(), progress)
        .await?;
    if done == Done::Changed {
        travelled(host, from, path, began, progress).await?;
    }
    Ok(done)
}

/// Copies a file from the other host, and says what that took.
async fn carry(
    host: &RealHost,
    from: &RealHost,
    path: &str,
    partial: &str,
    progress: &dyn Progress,
) -> Result<(), StepError> {
    let began = Instant::now();
    host.shell.remove(partial).await?;
    copy_between(from.shell.as_ref(), path, host.shell.as_ref(), partial, progress).await?;
    travelled(host, from, partial, began, progress).await
}

/// Says what it took to bring a file from the other host.
async fn travelled(
    host: &RealHost,
    from: &RealHost,
    path: &str,
    began: Instant,
    progress: &dyn Progress,
) -> Result<(), StepError> {
    let used = host.shell.size(path).await?.map_or(0, |(_, used)| used);
    progress.moved(&PastMove {
        link: link_key(&from.doc.name, &host.doc.name),
        bytes: Bytes(used),
        millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        pause_millis: None,
    });
    Ok(())
}

/// Defines a domain here as the other host has it, with the stamp given.
pub(in crate::host) async fn define_from(
    host: &RealHost,
    from: &RealHost,
    vm: &Name,
    uuid: Uuid,
    stamp: &Stamp,
) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    if hypervisor.power(uuid).await?.is_some() {
        let (_, reading) = ours(host, vm, uuid).await?;
        return match reading.stamp {
            Some(Ok(found)) if found == *stamp => Ok(Done::Already),
            _ => Err(StepError::Stale(format!("{vm} is defined already with another stamp"))),
        };
    }
    let (text, _) = ours(from, vm, uuid).await?;
    let result = hypervisor.define(xml::restamp(&text, stamp)?).await;
    match ours(host, vm, uuid).await {
        Ok((_, reading)) if matches!(&reading.stamp, Some(Ok(found)) if found == stamp) => Ok(Done::Changed),
        Ok(_) => Err(StepError::failed(format!("{vm} has not the stamp that was written"))),
        Err(looked) => Err(result.map_or_else(StepError::from, |()| looked)),
    }
}

/// Brings the saved memory of a suspended domain.
///
/// libvirt takes a file in its folder for saved memory only when it starts (`qemuDomainManagedSaveLoad`): so the file is
/// restored without letting the guest go on (`VIR_DOMAIN_SAVE_PAUSED`), and saved again by libvirt itself.
pub(in crate::host) async fn copy_save(
    host: &RealHost,
    from: &RealHost,
    vm: &Name,
    uuid: Uuid,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let (shell, hypervisor) = (host.shell.as_ref(), &host.hypervisor);
    let (_, reading) = ours(host, vm, uuid).await?;
    let copy = format!("{}/{}.{vm}.save.partial", host.folders.slots, host.folders.fleet);
    let standing = hypervisor.standing(uuid).await?;
    let restored = match standing.as_ref().map(|s| (s.power, s.pause)) {
        Some((Power::Suspended, _)) => {
            shell.remove(&copy).await?;
            return Ok(Done::Already);
        }
        // Restored by us before, and never let go on: so it stands, and libvirt calls that a migration.
        Some((Power::Paused, Some(PauseCause::Migration | PauseCause::User))) => true,
        Some((Power::Stopped | Power::Crashed, _)) => false,
        Some((power, _)) => return Err(StepError::Stale(format!("{vm} is {} here", power.word()))),
        None => return Err(StepError::Stale(format!("{vm} has no domain here"))),
    };
    let there = from.hypervisor.power(uuid).await?;
    if there != Some(Power::Suspended) {
        return Err(StepError::Stale(format!("{vm} is not suspended at {}", from.doc.name)));
    }
    if !restored {
        let save = save_path(from, &reading.name);
        if from.shell.size(&save).await?.is_none() {
            return Err(StepError::failed(format!("the saved memory of {vm} is not at {save} of {}", from.doc.name)));
        }
        carry(host, from, &save, &copy, progress).await?;
        succeed(shell, Program::new(["chmod", "0600", &copy])).await?;
        let result = hypervisor.restore_paused(copy.clone()).await;
        if hypervisor.power(uuid).await? != Some(Power::Paused) {
            result?;
            return Err(StepError::failed(format!("{vm} was restored and yet is not there")));
        }
    }
    let result = hypervisor.managed_save(uuid).await;
    match hypervisor.power(uuid).await? {
        Some(Power::Suspended) => {
            shell.remove(&copy).await?;
            Ok(Done::Changed)
        }
        _ => {
            result?;
            Err(StepError::failed(format!("{vm} was saved and yet is not suspended")))
        }
    }
}

/// Where libvirt keeps the saved memory of a domain (`qemuDomainManagedSavePath`).
fn save_path(host: &RealHost, domain: &str) -> String {
    let root = host.hypervisor.embed_root().map_or("/var/lib/libvirt".to_owned(), |root| format!("{root}/lib"));
    format!("{root}/qemu/save/{domain}.save")
}
