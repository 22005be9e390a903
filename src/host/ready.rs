//! Readiness of a VM: one try of its probe, and waiting for one to succeed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::fleet::RealHost;
use super::{agent, inside, learnt, probe, survey};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Layer, Name, Power, Probe, ProbeKind, Span};

/// Lines of the console that a failure shows.
const CONSOLE_LINES: usize = 15;

/// How long a command of a probe may take.
const EXEC: Duration = Duration::from_secs(10);

/// Tries a probe once; in words, why it does not succeed.
pub(super) async fn once(host: &RealHost, uuid: Uuid, kind: &ProbeKind, address: Option<IpAddr>) -> Result<(), String> {
    // What its network gives it shows when the guest is up.
    let address = match kind {
        ProbeKind::Tcp { .. } | ProbeKind::Http { .. } if address.is_none() => learnt::address(host, uuid).await,
        _ => address,
    };
    // A network of the host's own ends at the host: from here nobody gets there.
    let inside = address.filter(|a| host.shell.is_remote() && host.has_inside(*a));
    if let (Some(address), ProbeKind::Tcp { port }) = (inside, kind) {
        return probe::tcp_from(host.shell.as_ref(), address, *port).await;
    }
    if let (Some(address), ProbeKind::Http { port, path, status }) = (inside, kind) {
        return probe::http_from(host.shell.as_ref(), address, *port, path, *status).await;
    }
    let there = || {
        address.ok_or_else(|| "the VM has no planned address to probe, and none can be seen yet: neither its agent nor a neighbour tells it".to_owned())
    };
    match kind {
        ProbeKind::Tcp { port } => probe::tcp(there()?, *port).await,
        ProbeKind::Http { port, path, status } => probe::http(there()?, *port, path, *status).await,
        ProbeKind::AgentPing => agent::ping(host, uuid).await.map_err(|e| e.to_string()),
        ProbeKind::AgentExec { command } => exec(host, uuid, command).await,
    }
}

/// A command in the guest that ends with 0.
async fn exec(host: &RealHost, uuid: Uuid, command: &[std::sync::Arc<str>]) -> Result<(), String> {
    let program = command.first().map(AsRef::as_ref).unwrap_or_default();
    let said = agent::exec(host, uuid, command, None, EXEC).await.map_err(|e| e.to_string())?;
    if said.status == 0 {
        return Ok(());
    }
    let words = said.last_lines(1).pop().map(|line| format!(": {line}")).unwrap_or_default();
    Err(format!("`{program}` in the guest {}{words}", said.ended()))
}

/// Waits until a VM is ready, or fails with the end of its console.
pub(super) async fn wait(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    probe: Option<&Probe>,
    address: Option<IpAddr>,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    if host.hypervisor.layer() == Layer::Lxc {
        // Whoever began to write its console down may have died since.
        inside::listen(host, vm).await?;
    }
    let began = Instant::now();
    // Without a probe, running is ready; a start that has only just returned may still show as paused.
    let within = probe.map_or(Duration::from_secs(30), |p| p.within.duration());
    let every = probe.map_or(Duration::from_millis(250), |p| p.every.duration().max(Duration::from_millis(50)));
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut last = "not tried".to_owned();
    loop {
        match host.hypervisor.power(uuid).await? {
            Some(Power::Running) => match probe {
                None => return Ok(Done::Already),
                Some(probe) => match once(host, uuid, &probe.kind, address).await {
                    Ok(()) => return Ok(Done::Already),
                    Err(text) => last = text,
                },
            },
            Some(Power::Paused | Power::ShuttingDown) => "it is paused".clone_into(&mut last),
            Some(power) => {
                let what = format!("{vm} stopped before it was ready ({})", power.word());
                return Err(failure(host, vm, what).await);
            }
            None => return Err(StepError::Stale(format!("{vm} has no domain"))),
        }
        let waited = began.elapsed();
        progress.advance(millis(waited), millis(within));
        if waited >= within {
            let what = format!("{vm} was not ready within {}: {last}", crate::model::Span(millis(within)));
            return Err(failure(host, vm, what).await);
        }
        tokio::time::sleep(every.min(within.saturating_sub(waited))).await;
    }
}

/// Watches that a VM stays ready, or fails with the end of its console.
pub(super) async fn stay(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    (probe, address): (Option<&Probe>, Option<IpAddr>),
    hold: Span,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let began = Instant::now();
    let every = probe.map_or(Duration::from_millis(250), |p| p.every.duration().max(Duration::from_millis(50)));
    loop {
        let trouble = match host.hypervisor.power(uuid).await? {
            Some(Power::Running) => match probe {
                None => None,
                Some(probe) => once(host, uuid, &probe.kind, address).await.err(),
            },
            Some(power) => Some(format!("it is {}", power.word())),
            None => return Err(StepError::Stale(format!("{vm} has no domain"))),
        };
        let waited = began.elapsed();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        if let Some(trouble) = trouble {
            let after = Span(millis(waited));
            return Err(failure(host, vm, format!("{vm} was ready, and not any more after {after}: {trouble}")).await);
        }
        progress.advance(millis(waited), hold.0);
        if waited >= hold.duration() {
            return Ok(Done::Already);
        }
        tokio::time::sleep(every.min(hold.duration().saturating_sub(waited))).await;
    }
}

async fn failure(host: &RealHost, vm: &Name, what: String) -> StepError {
    let mut detail = survey::console_tail(host, vm, CONSOLE_LINES).await;
    let hint = if detail.is_empty() {
        // Nothing on the console: QEMU's own log says why it could not run.
        detail = qemu_log(host, vm, CONSOLE_LINES).await;
        format!("its console is empty; its screen: stablehand console vm/{vm} --screenshot FILE")
    } else {
        format!("above are the last lines of its console; its screen: stablehand console vm/{vm} --screenshot FILE")
    };
    StepError::Failed { what, hint: Some(hint), detail }
}

/// The end of QEMU's log of a domain, for an embedded root (`<root>/log/qemu/<domain>.log`), and of a container's.
pub(super) async fn qemu_log(host: &RealHost, vm: &Name, lines: usize) -> Vec<String> {
    let text = match (host.hypervisor.layer(), host.hypervisor.embed_root()) {
        (Layer::Lxc, _) => inside::log(host, vm).await,
        (Layer::Qemu, None) => return Vec::new(),
        (Layer::Qemu, Some(root)) => {
            let domain = crate::model::domain_name(&host.folders.fleet, vm);
            let path = format!("{root}/log/qemu/{domain}.log");
            String::from_utf8_lossy(&host.shell.read_end(&path, 8192).await.unwrap_or_default()).into_owned()
        }
    };
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| (*l).to_owned()).collect()
}
