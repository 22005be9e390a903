//! Starting, stopping, suspending, and what a running guest has: success is what is seen afterwards.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::act::ours;
use super::fleet::RealHost;
use super::libvirt::CallError;
use super::{inside, ready, xml};
use crate::execute::{Done, Progress, StepError};
use crate::model::{AgentObs, Bytes, Layer, Name, Power, RootUse, Stamp, StopPolicy};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(150);

/// How long a guest may take to give memory back or to take a processor.
const GUEST: Duration = Duration::from_secs(20);

/// A console file larger than this is cut at a start: a guest can fill a disk by printing.
pub(super) const CONSOLE_CAP: u64 = 4 << 20;

/// Starts a domain, or resumes its managed save or its pause.
pub(super) async fn start(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Done, StepError> {
    let (_, reading) = ours(host, vm, uuid).await?;
    let power = host.hypervisor.power(uuid).await?;
    let result = match power {
        None => return Err(StepError::Stale(format!("{vm} has no domain"))),
        Some(Power::Running) => {
            began(host, vm, uuid).await?;
            return Ok(Done::Already);
        }
        Some(Power::Paused) => host.hypervisor.resume(uuid).await,
        Some(Power::ShuttingDown) => return Err(StepError::Stale(format!("{vm} is shutting down"))),
        Some(Power::Stopped | Power::Suspended | Power::Crashed) => {
            if let Some(console) = &reading.console {
                trim_console(host, console).await?;
            }
            if reading.shape.container.is_some() {
                inside::listen(host, vm).await?;
            }
            host.hypervisor.start(uuid).await
        }
    };
    match wait_for(host, uuid, Duration::from_secs(5), |p| p == Some(Power::Running)).await? {
        Some(_) => {
            began(host, vm, uuid).await?;
            if reading.shape.container.is_some() {
                inside::begun(host, vm, uuid, reading.shape.memory).await?;
            }
            Ok(Done::Changed)
        }
        // A controller that dies while its own libvirt starts a guest leaves it `paused`, without a process; the next libvirt
        // looks for that for 30 s (QEMU_DEFAULT_MONITOR_WAIT) and then says that it is off.
        None if power == Some(Power::Paused) && wait_for(host, uuid, CUT, is_off).await?.is_some() => {
            Err(StepError::Stale(format!("the start of {vm} was cut before its guest ran: it is stopped")))
        }
        None => Err(not_started(host, vm, result).await),
    }
}

/// How long after a resume in vain a domain may take to be off: 45 s after its libvirt was opened it was seen not to be, on a
/// busy host.
const CUT: Duration = Duration::from_secs(60);

/// Writes into the definition of a domain that was just started that its root disk is used from now on: the guest that runs
/// keeps saying that it was fresh, and the next start by anybody else does not.
async fn began(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<(), StepError> {
    let (text, reading) = ours(host, vm, uuid).await?;
    if let Some(Ok(stamp)) = reading.stamp.filter(|s| s.as_ref().is_ok_and(|s| s.root == Some(RootUse::Fresh))) {
        let used = Stamp { root: Some(RootUse::Used), ..stamp };
        host.hypervisor.define(xml::restamp(&text, &used)?).await?;
    }
    Ok(())
}

async fn not_started(host: &RealHost, vm: &Name, result: Result<(), CallError>) -> StepError {
    let what = match result {
        Err(error @ CallError::TimedOut { .. }) => return error.into(),
        Err(error) => format!("{vm}: {error}"),
        Ok(()) => format!("{vm} was started and does not run"),
    };
    let hint = if what.contains("Permission denied") {
        Some("QEMU runs as its own user: every folder above its disks must let others through (chmod o+x)".to_owned())
    } else if what.contains("memory") && what.contains("allocate") {
        Some("the host has not enough free memory".to_owned())
    } else {
        None
    };
    StepError::Failed { what, hint, detail: ready::qemu_log(host, vm, 8).await }
}

/// Makes the console file, and cuts a large one to its end.
async fn trim_console(host: &RealHost, path: &str) -> Result<(), StepError> {
    match host.shell.size(path).await? {
        Some((length, _)) if length > CONSOLE_CAP => {
            let end = host.shell.read_end(path, CONSOLE_CAP / 8).await?;
            Ok(host.shell.write(path, end, 0o600).await?)
        }
        _ => Ok(()),
    }
}

/// Asks the guest to shut down, waits, and powers it off only where the policy allows.
pub(super) async fn stop(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    policy: StopPolicy,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    let power = match hypervisor.power(uuid).await? {
        None => return Err(StepError::Stale(format!("{vm} has no domain"))),
        Some(power) if !power.is_active() => return Ok(Done::Already),
        Some(power) => power,
    };
    ours(host, vm, uuid).await?;
    if power == Power::Paused {
        // A guest that stands still hears nothing. One that cannot go on (a full disk) is powered off below.
        let _ = hypervisor.resume(uuid).await;
    }
    if ask_to_stop(host, uuid, policy.deadline.duration(), progress).await? {
        return Ok(Done::Changed);
    }
    if !policy.power_off {
        return Err(StepError::Failed {
            what: format!("{vm} did not shut down within {}", policy.deadline),
            hint: Some("allow `stop: {powerOff: true}`, or give it a longer `stop.deadline`".to_owned()),
            detail: super::survey::console_tail(host, vm, 5).await,
        });
    }
    let mut result = Ok(());
    for gently in [true, false] {
        // Just after opening an embedded root this fails and yet works: what is seen counts.
        result = hypervisor.power_off(uuid, gently).await;
        if wait_for(host, uuid, Duration::from_secs(10), is_off).await?.is_some() {
            return Ok(Done::Changed);
        }
    }
    result?;
    Err(StepError::failed(format!("{vm} still runs after it was powered off")))
}

fn is_off(power: Option<Power>) -> bool {
    power.is_none_or(|p| !p.is_active())
}

/// Asks through the agent where one is connected, and through the power button, again at each third of the time: a guest
/// that is still booting does not hear the first.
async fn ask_to_stop(
    host: &RealHost,
    uuid: Uuid,
    deadline: Duration,
    progress: &dyn Progress,
) -> Result<bool, StepError> {
    let hypervisor = &host.hypervisor;
    let began = Instant::now();
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    for round in 1..=3u32 {
        let live = hypervisor.live_xml(uuid).await;
        let agent = live.is_ok_and(|x| xml::read(&x).is_ok_and(|r| r.agent == AgentObs::Connected));
        let asked = agent && hypervisor.shutdown(uuid, true).await.is_ok();
        if !asked {
            // Refused when it has just gone; the look below tells.
            let _ = hypervisor.shutdown(uuid, false).await;
        }
        let until = deadline * round / 3;
        loop {
            if is_off(hypervisor.power(uuid).await?) {
                return Ok(true);
            }
            let waited = began.elapsed();
            progress.advance(millis(waited), millis(deadline));
            if waited >= until {
                break;
            }
            tokio::time::sleep(LOOK.min(until.saturating_sub(waited))).await;
        }
    }
    Ok(false)
}

/// Saves a running domain.
pub(super) async fn suspend(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<Done, StepError> {
    match host.hypervisor.power(uuid).await? {
        Some(Power::Suspended) => return Ok(Done::Already),
        Some(power) if power.is_active() => {}
        _ => return Err(StepError::Stale(format!("{vm} does not run"))),
    }
    ours(host, vm, uuid).await?;
    let result = host.hypervisor.managed_save(uuid).await;
    match wait_for(host, uuid, Duration::from_secs(2), |p| p == Some(Power::Suspended)).await? {
        Some(_) => Ok(Done::Changed),
        None => {
            result?;
            Err(StepError::failed(format!("{vm} was saved and yet is not suspended")))
        }
    }
}

/// Grows the memory of a running domain: it has at least as much afterwards, and is never given less.
pub(super) async fn set_memory(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    memory: Bytes,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    ours(host, vm, uuid).await?;
    let live = xml::read(&running(host, vm, uuid).await?)?;
    if memory > live.shape.max_memory {
        return Err(StepError::Failed {
            what: format!("{vm} was started with at most {}, less than {memory}", live.shape.max_memory),
            hint: Some("restart it: the new maximum takes effect then".to_owned()),
            detail: Vec::new(),
        });
    }
    if memory_now(host, uuid).await? >= memory {
        return Ok(Done::Already);
    }
    hypervisor.set_memory(uuid, memory).await?;
    let began = Instant::now();
    loop {
        let now = memory_now(host, uuid).await?;
        if now >= memory {
            return Ok(Done::Changed);
        }
        if began.elapsed() > GUEST {
            return Err(StepError::Failed {
                what: format!("{vm} has {now} of memory, not {memory}, {} s after it was asked", GUEST.as_secs()),
                hint: Some(
                    "its guest does not co-operate: is the virtio_balloon driver loaded, and enough memory free?"
                        .to_owned(),
                ),
                detail: Vec::new(),
            });
        }
        advance(progress, began.elapsed());
        tokio::time::sleep(LOOK).await;
    }
}

/// What a running guest has: what the balloon says and what libvirt has heard of it, whichever is less. libvirt hears up to
/// a second later (QEMU sends `BALLOON_CHANGE` at most once a second), and an observation says what libvirt has heard.
async fn memory_now(host: &RealHost, uuid: Uuid) -> Result<Bytes, StepError> {
    let heard = xml::read(&host.hypervisor.live_xml(uuid).await?)?.shape.memory;
    let actual = host.hypervisor.balloon(uuid).await?;
    Ok(actual.map_or(heard, |actual| actual.min(heard)))
}

/// Adds processors to a running domain.
pub(super) async fn set_cpus(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    cpus: u32,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let hypervisor = &host.hypervisor;
    ours(host, vm, uuid).await?;
    let live = xml::read(&running(host, vm, uuid).await?)?;
    if cpus > live.shape.max_cpus {
        return Err(StepError::Failed {
            what: format!("{vm} was started with at most {} processors, less than {cpus}", live.shape.max_cpus),
            hint: Some("restart it: the new maximum takes effect then".to_owned()),
            detail: Vec::new(),
        });
    }
    if live.shape.cpus >= cpus {
        return Ok(Done::Already);
    }
    let result = match hypervisor.layer() {
        Layer::Qemu => hypervisor.set_cpus(uuid, cpus).await,
        Layer::Lxc => hypervisor.set_quota(uuid, xml::lxc::quota(cpus)).await,
    };
    let began = Instant::now();
    loop {
        let now = xml::read(&hypervisor.live_xml(uuid).await?)?.shape.cpus;
        if now >= cpus {
            return Ok(Done::Changed);
        }
        if began.elapsed() > GUEST {
            let error = result.err().map(|e| format!(": {e}")).unwrap_or_default();
            return Err(StepError::Failed {
                what: format!("{vm} has {now} processors, not {cpus}, {} s after it was asked{error}", GUEST.as_secs()),
                hint: Some("its guest does not co-operate: restart it to change the number".to_owned()),
                detail: Vec::new(),
            });
        }
        advance(progress, began.elapsed());
        tokio::time::sleep(LOOK).await;
    }
}

fn advance(progress: &dyn Progress, waited: Duration) {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    progress.advance(millis(waited), millis(GUEST));
}

async fn running(host: &RealHost, vm: &Name, uuid: Uuid) -> Result<String, StepError> {
    match host.hypervisor.power(uuid).await? {
        Some(power) if power.is_active() => Ok(host.hypervisor.live_xml(uuid).await?),
        _ => Err(StepError::Stale(format!("{vm} does not run"))),
    }
}

/// Looks until the power state is as wanted; `None` when it is not within `patience`.
async fn wait_for(
    host: &RealHost,
    uuid: Uuid,
    patience: Duration,
    wanted: impl Fn(Option<Power>) -> bool,
) -> Result<Option<()>, StepError> {
    let began = Instant::now();
    loop {
        if wanted(host.hypervisor.power(uuid).await?) {
            return Ok(Some(()));
        }
        if began.elapsed() >= patience {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}
