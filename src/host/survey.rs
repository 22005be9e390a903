//! One look at one host: its domains by our stamps, disks, images, bridges, records.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream;
use uuid::Uuid;

use super::contact::{self, CONTACT};
use super::fleet::{RealHost, now};
use super::glance::{self, Glance, Interfaces};
use super::libvirt::{Seen, SeenJob, Survey};
use super::shell::{Program, ShellError, succeed};
use super::xml::{self, Reading};
use super::{facts, guard, learnt, ready, rules};
use crate::model::{
    Acceleration, Bytes, Desired, FilterObs, HostObs, JobKind, JobObs, Layer, Name, PauseCause, PlacementRecord, Power,
    Readiness, Shape, Stamp, Unmanaged, VmObs, domain_uuid,
};
use crate::observe::Look;

/// Probes run at once.
const AT_ONCE: usize = 32;

/// Placement records, by VM.
pub(super) type Records = BTreeMap<Name, PlacementRecord>;

/// What one look has in common on this machine.
#[derive(Default)]
pub(super) struct Here {
    interfaces: Interfaces,
    filter: tokio::sync::OnceCell<(Result<FilterObs, ShellError>, Option<rules::Kept>)>,
}

/// Observes one host, or says in words why it cannot; and its placement records, which can be read also while its libvirt
/// does not answer. `here` is what one look has in common on this machine.
pub(super) async fn observe(
    host: &RealHost,
    desired: &Desired,
    look: Look,
    here: &Here,
) -> (Result<HostObs, String>, Records) {
    let (there, glance) = contact(host, &here.interfaces).await;
    let records = glance.as_ref().map(|g| g.records.clone()).unwrap_or_default();
    let seen = match (there, glance) {
        (Ok(()), Ok(glance)) if host.hypervisor.is_remote() => {
            contact::while_it_answers(&host.doors.libvirt, examine(host, desired, look, glance, here)).await
        }
        (Ok(()), Ok(glance)) => examine(host, desired, look, glance, here).await,
        (Err(text), _) => Err(text),
        (Ok(()), Err(text)) if host.shell.is_remote() => Err(format!("libvirt answers, its shell does not: {text}")),
        (Ok(()), Err(text)) => Err(text),
    };
    (seen, records)
}

/// Asks both ways to a host at once whether it is there: one that is not must not keep the others waiting.
async fn contact(host: &RealHost, here: &Interfaces) -> (Result<(), String>, Result<Glance, String>) {
    let silent = |what: &str| format!("{what} of {} does not answer within {} s", host.doc.name, CONTACT.as_secs());
    let lock = host.lock_path();
    let glance = async {
        let glance = glance::at(host.shell.as_ref(), &host.folders, &lock, here);
        if !host.shell.is_remote() {
            return glance.await.map_err(|e| e.to_string());
        }
        contact::by_shell(&host.doors.shell, || silent("the shell"), glance).await
    };
    let ping = async {
        if !host.hypervisor.is_remote() {
            return Ok(());
        }
        host.doors.libvirt.pass(|| silent("the hypervisor")).await
    };
    tokio::join!(ping, glance)
}

/// The packet filter. Hosts that are this machine have one between them.
async fn filter(host: &RealHost, here: &Here) -> Result<FilterObs, ShellError> {
    let (shell, fleet) = (host.shell.as_ref(), &host.folders.fleet);
    let mut kept = host.filter.lock().await;
    if shell.is_remote() {
        return rules::observe(shell, fleet, &mut kept).await;
    }
    let look = async {
        let mut seen = kept.clone();
        let found = rules::observe(shell, fleet, &mut seen).await;
        (found, seen)
    };
    let (found, seen) = here.filter.get_or_init(|| look).await.clone();
    *kept = seen;
    found
}

async fn examine(
    host: &RealHost,
    desired: &Desired,
    look: Look,
    glance: Glance,
    here: &Here,
) -> Result<HostObs, String> {
    let shell = host.shell.as_ref();
    let (survey, filter) = tokio::join!(host.hypervisor.survey(), filter(host, here));
    let mut survey = survey.map_err(|e| e.to_string())?;
    let filter = filter.map_err(|e| e.to_string())?;
    let uuid = host_uuid(host, &survey).await;
    let pinned = desired.hosts.get(&host.doc.name).map_or(host.doc.uuid, |doc| doc.uuid);
    if let Some(pinned) = pinned.filter(|p| *p != uuid) {
        return Err(format!("another machine answers there: its host UUID is {uuid}, not {pinned}"));
    }
    let (fleet, domains) = (host.folders.fleet.clone(), std::mem::take(&mut survey.domains));
    // Reading 50 domains takes some milliseconds, and other hosts answer meanwhile.
    let sorted = tokio::task::spawn_blocking(move || sort_domains(&fleet, &domains)).await;
    let (mut vms, unmanaged) = sorted.map_err(|e| e.to_string())?;
    name_jobs(host, &glance.records, &mut vms);
    *host.names() = vms.iter().map(|(name, vm)| (vm.uuid, name.clone())).collect();
    learnt::look(host, &mut vms).await;
    *host.running() = vms.iter().filter_map(|(name, vm)| Some((name.clone(), guard::Runs::of(vm)?))).collect();
    if look.probe {
        probe_all(host, &mut vms).await;
    }
    let acceleration = match host.doc.acceleration {
        Acceleration::Auto if host.doc.layer() == Layer::Qemu => Some(host.acceleration().await),
        _ => None,
    };
    let facts = facts::of(host, acceleration.unwrap_or(host.doc.acceleration)).await;
    let (qemu, machines) = emulator(host, &mut survey).await;
    let version = format!("{}, {qemu}", survey.facts.library);
    let mut disks = glance.disks;
    let placed = vms.values().flat_map(|v| v.config.disks.values()).map(|d| d.path.clone());
    let in_slots = |path: &String| path.rsplit_once('/').is_some_and(|(folder, _)| folder == host.folders.slots);
    let elsewhere = placed.filter(|p| p.starts_with('/') && !in_slots(p)).collect();
    let elsewhere = glance::at_disks(shell, &host.folders.fleet, elsewhere).await;
    disks.extend(elsewhere.map_err(|e| e.to_string())?);
    let named: BTreeSet<&str> = desired.networks.values().map(|n| n.bridge.as_ref()).collect();
    // Bridges that the fleet names, and ours whose YAML is gone.
    let bridges =
        glance.network.bridges.into_iter().filter(|(name, (seen, _))| seen.ours || named.contains(name.as_str()));
    let doc = desired.hosts.get(&host.doc.name).unwrap_or(&host.doc);
    let uplinks = desired.networks.values().filter_map(|n| n.cable.as_ref()).map(|c| doc.device_of(&c.name));
    let uplinks: BTreeSet<_> = uplinks.collect();
    let mut links = glance.network.links;
    links.retain(|name, _| uplinks.contains(name.as_str()));
    Ok(HostObs {
        uuid,
        at: now(),
        cpus: survey.facts.cpus,
        memory: survey.facts.memory,
        version,
        layer: host.doc.layer(),
        cpu: facts.cpu,
        moving: facts.moving,
        acceleration,
        machines,
        slots_free: glance.free.0,
        images_free: glance.free.1,
        reflink: super::clone::of(host, desired).await,
        disks,
        images: glance.images,
        bridges: bridges.map(|(name, (seen, _))| (name, seen)).collect(),
        links: (!uplinks.is_empty()).then_some(links),
        vms,
        filter: Some(filter),
        unmanaged,
        lock: if host.is_locked() { None } else { glance.lock },
    })
}

/// The host's UUID, as libvirt's capabilities say. An embedded root has its own: made from the machine's firmware or
/// `/etc/machine-id` (machine-id(5)), else at random, and kept in the root, since copies of a machine share the former.
async fn host_uuid(host: &RealHost, survey: &Survey) -> Uuid {
    let Some(root) = host.hypervisor.embed_root() else { return survey.facts.uuid.unwrap_or_default() };
    let path = format!("{root}/host.uuid");
    let text = async |path: &str| {
        let bytes = host.shell.read(path, 64).await.ok()?;
        String::from_utf8_lossy(&bytes).trim().parse::<Uuid>().ok().filter(|u| !u.is_nil() && !u.is_max())
    };
    if let Some(kept) = text(&path).await {
        return kept;
    }
    let mut found = Uuid::nil();
    for source in ["/sys/class/dmi/id/product_uuid", "/etc/machine-id", "/proc/sys/kernel/random/uuid"] {
        if let Some(uuid) = text(source).await {
            found = uuid;
            break;
        }
    }
    let _ = host.shell.write(&path, format!("{found}\n").into_bytes(), 0o644).await;
    found
}

/// QEMU's version and the machine types that it knows: from libvirt's capabilities, else asked of QEMU itself, once.
async fn emulator(host: &RealHost, survey: &mut Survey) -> (String, Vec<String>) {
    if let Some(version) = survey.facts.qemu.take() {
        return (version, std::mem::take(&mut survey.facts.machines));
    }
    let say = async |option: &[&str]| {
        let words = ["qemu-system-x86_64"].iter().chain(option).copied();
        let said = succeed(host.shell.as_ref(), Program::new(words)).await.unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    };
    let ask = async {
        // "QEMU emulator version 7.2.17 (Debian …)"
        let version = say(&["-version"]).await;
        let version = version.split_whitespace().nth(3).unwrap_or("?").to_owned();
        let help = say(&["-machine", "help"]).await;
        let first_words = help.lines().skip(1).filter_map(|l| l.split_whitespace().next());
        let mut names: Vec<String> = first_words.map(str::to_owned).collect();
        names.sort();
        (format!("QEMU {version}"), names)
    };
    host.emulator.get_or_init(|| ask).await.clone()
}

fn sort_domains(fleet: &Name, seen: &[Seen]) -> (BTreeMap<Name, VmObs>, Vec<Unmanaged>) {
    let mut vms: BTreeMap<Name, VmObs> = BTreeMap::new();
    let mut unmanaged = Vec::new();
    for domain in seen {
        // A domain whose XML we cannot read is none of ours, and cannot be shown either.
        let Ok(config) = xml::read(&domain.config) else { continue };
        let live = domain.live.as_deref().and_then(|x| xml::read(x).ok());
        match &config.stamp {
            Some(Ok(stamp))
                if stamp.fleet == *fleet && is_genuine(stamp, domain.uuid) && !vms.contains_key(&stamp.vm) =>
            {
                vms.insert(stamp.vm.clone(), vm(domain, &config, live, stamp.clone()));
            }
            stamp => unmanaged.push(Unmanaged {
                domain: config.name.clone(),
                uuid: domain.uuid,
                power: domain.power,
                fleet: stamp.as_ref().and_then(|s| s.as_ref().ok()).map(|s| s.fleet.clone()),
                shape: config.shape,
            }),
        }
    }
    (vms, unmanaged)
}

/// Whether a stamp is of the domain that carries it: a copy of one of ours has another UUID. Of an adopted VM we never chose it.
fn is_genuine(stamp: &Stamp, uuid: Uuid) -> bool {
    stamp.adopted.is_some() || uuid == domain_uuid(&stamp.fleet, &stamp.vm, stamp.incarnation)
}

fn vm(domain: &Seen, config: &Reading, live: Option<Reading>, stamp: Stamp) -> VmObs {
    let screen = live.as_ref().and_then(|l| l.screen.clone());
    let began = live.as_ref().and_then(|l| l.stamp.as_ref()?.as_ref().ok()?.root);
    let agent = live.as_ref().filter(|l| l.shape.container.is_none()).map(|l| l.agent);
    let live = live.map(|l| Shape {
        memory: domain.balloon.map_or(l.shape.memory, |now| now.min(l.shape.max_memory)),
        cpus: domain.cpus.unwrap_or(l.shape.cpus),
        ..l.shape
    });
    VmObs {
        uuid: domain.uuid,
        domain: config.name.clone(),
        stamp,
        power: domain.power,
        live,
        config: config.shape.clone(),
        began: began.filter(|_| domain.power.is_active()),
        autostart: domain.autostart,
        transient: domain.transient,
        pause: domain.pause,
        job: match &domain.job {
            Some(SeenJob::Known(job)) => Some(job.clone()),
            Some(SeenJob::Silent) => Some(SILENT),
            None => None,
        },
        cpu_model: config.cpu_model.clone(),
        ready: Readiness::NotProbed,
        addresses: BTreeMap::new(),
        screen,
        agent: agent.filter(|_| domain.power.is_active()),
    }
}

/// What stands for a job whose QEMU does not answer.
const SILENT: JobObs = JobObs { kind: JobKind::Other, done: Bytes(0), total: Bytes(0), millis: 0 };

/// A QEMU that does not answer does not say what it does either: one that arrives, or whose record says that it leaves, does
/// that.
fn name_jobs(host: &RealHost, records: &Records, vms: &mut BTreeMap<Name, VmObs>) {
    for (name, vm) in vms {
        if vm.job.as_ref() != Some(&SILENT) {
            continue;
        }
        let record = records.get(name);
        let kind = if vm.transient && vm.pause == Some(PauseCause::Migration) {
            JobKind::MigrationIn
        } else if record.is_some_and(|r| r.from.as_ref() == Some(&host.doc.name)) {
            JobKind::MigrationOut
        } else {
            continue;
        };
        vm.job = Some(JobObs { kind, ..SILENT });
    }
}

async fn probe_all(host: &RealHost, vms: &mut BTreeMap<Name, VmObs>) {
    let tries = vms.iter().map(|(name, vm)| {
        let (name, power, uuid, probe) = (name.clone(), vm.power, vm.uuid, vm.stamp.ready.clone());
        let address = vm.probed_at();
        async move {
            let ready = match (power, probe) {
                (Power::Running, None) => Readiness::Ready,
                (Power::Running, Some(probe)) => match ready::once(host, uuid, &probe.kind, address).await {
                    Ok(()) => Readiness::Ready,
                    Err(text) => Readiness::NotReady(text),
                },
                _ => Readiness::NotReady("it does not run".to_owned()),
            };
            (name, ready)
        }
    });
    let results: Vec<(Name, Readiness)> =
        stream::iter(tries.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
    for (name, ready) in results {
        if let Some(vm) = vms.get_mut(&name) {
            vm.ready = ready;
        }
    }
}

/// The last lines of a VM's console without escape sequences.
pub(super) async fn console_tail(host: &RealHost, vm: &Name, lines: usize) -> Vec<String> {
    // 300 bytes a line is more than any console prints.
    let cap = u64::try_from(lines).unwrap_or(100).saturating_mul(300).clamp(4096, 1 << 20);
    let bytes = host.shell.read_end(&host.folders.console(vm), cap).await.unwrap_or_default();
    let text = plain(&String::from_utf8_lossy(&bytes));
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| (*l).to_owned()).collect()
}

/// A console's text without ANSI escape sequences (ECMA-48 section 5.4) and control characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    // Parameters and intermediates, up to the final byte.
                    while chars.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {}
                }
            }
            '\n' | '\t' => out.push(c),
            // A carriage return inside a line begins it anew; at its end it means nothing.
            '\r' => {
                if chars.peek().is_some_and(|n| *n != '\n' && *n != '\r') {
                    out.push('\n');
                }
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_read_without_their_colours() {
        assert_eq!(plain("\u{1b}[1;32mok\u{1b}[0m done\r\nnext\u{7}\r\n"), "ok done\nnext\n");
        assert_eq!(plain("10%\r20%\r\n"), "10%\n20%\n");
    }
}
