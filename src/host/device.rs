//! Devices of the host: given to a domain that runs, and taken back, each looked at in the live XML afterwards.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::act::ours;
use super::fleet::RealHost;
use super::xml::{self, Reading};
use crate::execute::{Done, Progress, StepError};
use crate::model::{DeviceAt, Name, Power};
use crate::plan::{DomainDevice, Edit};

/// How long a guest may take to give a device back: libvirt itself waits 5 s for `DEVICE_DELETED`, a guest that is busy with
/// the device, or that still boots, takes longer.
const GUEST: Duration = Duration::from_secs(60);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(200);

/// What a running domain has, live and at its next start.
struct Both {
    live: Reading,
    config: Reading,
    text: String,
}

async fn look(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Both, StepError> {
    let (text, config) = ours(host, vm, uuid).await?;
    if !host.hypervisor.power(uuid).await?.is_some_and(Power::is_active) {
        return Err(StepError::Stale(format!("{vm} does not run")));
    }
    let live = xml::read(&host.hypervisor.live_xml(uuid).await?)?;
    Ok(Both { live, config, text })
}

/// How a domain has a device, by the name that we gave it.
fn has(reading: &Reading, device: &DomainDevice) -> Option<DeviceAt> {
    reading.shape.devices.get(device.name.as_str()).copied()
}

/// Gives a device to a domain that runs.
pub(super) async fn attach(host: &RealHost, vm: &Name, uuid: Uuid, device: &DomainDevice) -> Result<Done, StepError> {
    let before = look(host, vm, uuid).await?;
    let (name, at) = (&device.name, device.at);
    let mut done = Done::Already;
    match has(&before.live, device) {
        Some(found) if at.fits(found) => {}
        Some(found) => return Err(StepError::Stale(format!("{vm} has another device `{name}`: {found}"))),
        None => {
            free(host, uuid, at).await?;
            let result = host.hypervisor.attach(uuid, xml::device(device)).await;
            // What libvirt says matters less than what is there.
            match has(&look(host, vm, uuid).await?.live, device) {
                Some(found) if at.fits(found) => {}
                _ => {
                    result?;
                    return Err(StepError::failed(format!("{at} was attached to {vm}, and is not there")));
                }
            }
            done = Done::Changed;
        }
    }
    if !has(&before.config, device).is_some_and(|found| at.fits(found)) {
        let edits = [Edit::RemoveDevice(name.clone()), Edit::AddDevice(device.clone())];
        host.hypervisor.define(xml::apply(&before.text, &edits)?).await?;
        done = Done::Changed;
    }
    let after = look(host, vm, uuid).await?;
    match [&after.live, &after.config].map(|r| has(r, device).is_some_and(|found| at.fits(found))) {
        [true, true] => Ok(done),
        _ => Err(StepError::failed(format!("{vm} has not kept {at}"))),
    }
}

/// Takes a device away from a domain that runs: out of its definition, then out of the guest, which must let it go.
pub(super) async fn detach(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    device: &DomainDevice,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let before = match look(host, vm, uuid).await {
        // A guest that ended meanwhile has nothing any more; its definition is mended by the next plan.
        Err(StepError::Stale(_)) if host.hypervisor.power(uuid).await?.is_some_and(|p| !p.is_active()) => {
            return Ok(Done::Already);
        }
        looked => looked?,
    };
    let mut done = Done::Already;
    if has(&before.config, device).is_some() {
        host.hypervisor.define(xml::apply(&before.text, &[Edit::RemoveDevice(device.name.clone())])?).await?;
        done = Done::Changed;
    }
    let Some(found) = has(&before.live, device) else { return Ok(done) };
    let named = DomainDevice { at: found, ..device.clone() };
    let result = host.hypervisor.detach(uuid, xml::device(&named)).await;
    let began = Instant::now();
    loop {
        if !host.hypervisor.power(uuid).await?.is_some_and(Power::is_active) {
            return Ok(Done::Changed);
        }
        let live = xml::read(&host.hypervisor.live_xml(uuid).await?)?;
        if has(&live, device).is_none() {
            return Ok(Done::Changed);
        }
        if began.elapsed() > GUEST {
            let error = result.err().map(|e| format!(": {e}")).unwrap_or_default();
            return Err(StepError::Failed {
                what: format!("{vm} still has {found}, {} s after it was asked for it{error}", GUEST.as_secs()),
                hint: Some("its guest does not let it go: end what uses it there, or stop the VM".to_owned()),
                detail: Vec::new(),
            });
        }
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        progress.advance(millis(began.elapsed()), millis(GUEST));
        tokio::time::sleep(LOOK).await;
    }
}

/// Sees that no other domain that runs has a device, whoever's domain it is.
async fn free(host: &RealHost, uuid: Uuid, at: DeviceAt) -> Result<(), StepError> {
    for text in host.hypervisor.active_xml().await? {
        let Ok(other) = xml::read(&text) else { continue };
        if other.uuid != uuid && other.shape.devices.values().any(|found| at.is_same(*found)) {
            return Err(StepError::Stale(format!("{} has {at}", other.name)));
        }
    }
    Ok(())
}
