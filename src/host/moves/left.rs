//! What a move leaves behind: copies of disks, domains that stand still, guests that do not know where they are.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::act::ours;
use super::super::disk;
use super::super::fleet::RealHost;
use super::super::shell::Shell;
use super::super::xml;
use super::{arrives, handed_over};
use crate::execute::{Done, StepError};
use crate::model::{DiskStamp, Name, Power};

/// How long libvirt keeps a domain whose source has gone: its keep-alive of five times 5 s, and some.
const FORGET: Duration = Duration::from_secs(45);

/// Renames a disk that a move left behind: its new stamp, its new name, the old stamp away.
pub(in crate::host) async fn retire(
    host: &RealHost,
    path: &str,
    to: &str,
    stamp: &DiskStamp,
) -> Result<Done, StepError> {
    let shell = host.shell.as_ref();
    if !is_there(shell, path).await? {
        if !is_there(shell, to).await? {
            return Err(StepError::Stale(format!("the disk {path} is not there")));
        }
        let stamped = disk::stamp(shell, to, stamp).await?;
        let removed = shell.remove(&disk::stamp_path(path)).await?;
        return Ok(if removed { Done::Changed } else { stamped });
    }
    match disk::read_stamp(shell, path).await? {
        Some(found) if found.fleet == stamp.fleet && found.vm == stamp.vm => {}
        Some(found) => return Err(StepError::failed(format!("{path} is a disk of {}'s {}", found.fleet, found.vm))),
        None => return Err(StepError::failed(format!("{path} carries no stamp of ours: it is left alone"))),
    }
    if is_there(shell, to).await? {
        return Err(StepError::Failed {
            what: format!("{to} is there already, and {path} too"),
            hint: Some("look at both: the one whose stamp says `moved` was left behind by an earlier move".to_owned()),
            detail: Vec::new(),
        });
    }
    closed(host, path).await?;
    disk::write_stamp(shell, to, stamp).await?;
    shell.rename(path, to).await?;
    shell.remove(&disk::stamp_path(path)).await?;
    Ok(Done::Changed)
}

async fn is_there(shell: &dyn Shell, path: &str) -> Result<bool, StepError> {
    Ok(shell.size(path).await?.is_some())
}

/// Sees that no domain of this host that is active has a file.
pub(super) async fn closed(host: &RealHost, path: &str) -> Result<(), StepError> {
    for text in host.hypervisor.all_config_xml().await? {
        let reading = xml::read(&text)?;
        if !host.hypervisor.power(reading.uuid).await?.is_some_and(Power::is_active) {
            continue;
        }
        let live = host.hypervisor.live_xml(reading.uuid).await?;
        if [&text, &live].into_iter().any(|x| xml::sources(x).is_ok_and(|s| s.iter().any(|f| f == path))) {
            return Err(StepError::Stale(format!("{} is active and has {path}", reading.name)));
        }
    }
    Ok(())
}

/// Ends what is left of a domain whose guest runs elsewhere.
pub(in crate::host) async fn drop_remnant(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    let Some(standing) = hypervisor.standing(uuid).await? else { return Ok(Done::Already) };
    ours(host, vm, uuid).await?;
    if standing.power.is_active() {
        if !handed_over(&standing) {
            return Err(StepError::Stale(format!(
                "{vm} is {} here, and was not left behind by a move: it is left alone",
                standing.power.word()
            )));
        }
        let result = hypervisor.power_off(uuid, false).await;
        match hypervisor.power(uuid).await? {
            Some(power) if power.is_active() => {
                result?;
                return Err(StepError::failed(format!("what is left of {vm} does not end")));
            }
            None => return Ok(Done::Changed),
            Some(_) => {}
        }
    }
    let result = hypervisor.undefine(uuid, true).await;
    match hypervisor.power(uuid).await? {
        None => Ok(Done::Changed),
        Some(_) => {
            result?;
            Err(StepError::failed(format!("{vm} is still defined")))
        }
    }
}

/// Waits until a VM that arrived in vain has gone from here by itself, as it does when libvirt misses its source.
pub(in crate::host) async fn clear_arrival(host: &RealHost, vm: &Name) -> Result<(), StepError> {
    let began = Instant::now();
    'look: loop {
        for text in host.hypervisor.all_config_xml().await? {
            let reading = xml::read(&text)?;
            let mine = matches!(&reading.stamp, Some(Ok(s)) if s.fleet == host.folders.fleet && s.vm == *vm);
            let standing = if mine { host.hypervisor.standing(reading.uuid).await? } else { None };
            if standing.as_ref().is_some_and(arrives) {
                if began.elapsed() > FORGET {
                    return Err(StepError::Stale(format!("{vm} still arrives here, from a move that did not end")));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue 'look;
            }
        }
        return Ok(());
    }
}

/// Ends a domain that arrived in vain. The caller has seen that its guest is elsewhere and that no job brings it here.
pub(super) async fn end_arrival(host: &RealHost, uuid: Uuid) -> Result<(), StepError> {
    let began = Instant::now();
    let mut ended = false;
    loop {
        match host.hypervisor.standing(uuid).await? {
            Some(standing) if arrives(&standing) => {}
            _ => return Ok(()),
        }
        // It goes by itself when libvirt has noticed; some seconds are soon over.
        if !ended && began.elapsed() > Duration::from_secs(3) {
            ended = true;
            let _ = host.hypervisor.power_off(uuid, false).await;
        }
        if began.elapsed() > FORGET {
            return Err(StepError::Stale(format!("{}: a domain that arrived in vain does not go", host.doc.name)));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Takes a guest's links down and up: it asks for its addresses and its neighbours anew.
pub(in crate::host) async fn announce(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Done, StepError> {
    ours(host, vm, uuid).await?;
    let live = host.hypervisor.live_xml(uuid).await?;
    if !host.hypervisor.power(uuid).await?.is_some_and(Power::is_active) {
        return Err(StepError::Stale(format!("{vm} does not run")));
    }
    let links = xml::links(&live)?;
    for (down, _) in &links {
        host.hypervisor.update_device(uuid, down.clone()).await?;
    }
    // Shorter than a guest needs to notice would be no notice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (_, up) in &links {
        host.hypervisor.update_device(uuid, up.clone()).await?;
    }
    Ok(if links.is_empty() { Done::Already } else { Done::Changed })
}
