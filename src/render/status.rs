//! What runs now: one row a VM, one row a service.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{
    Demand, Desired, JobKind, Name, NicStamp, Observation, Observed, Owner, PauseCause, Power, Readiness, RunState,
    Unmanaged, Vm, VmObs,
};

use crate::plan::{SetTerm, TermPhase};

use super::paint::{Ink, Style};
use super::table::Table;

/// The state of a fleet for people: every VM that should be or is, and every service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// VMs by name.
    pub vms: Vec<VmRow>,
    /// Services and modules by name.
    pub services: Vec<ServiceRow>,
    /// Sets for a time, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<SetTerm>,
    /// Hosts by name.
    pub hosts: Vec<super::HostRow>,
    /// Domains on our hosts that are not ours.
    pub not_ours: Vec<ForeignRow>,
    /// Hosts that did not answer, and why.
    pub unknown_hosts: BTreeMap<Name, String>,
    /// Tasks by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<super::TaskRow>,
    /// Steps that are being carried out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<StepRow>,
}

/// A step that is being carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRow {
    /// Its action, `image/base@h1#fetch`.
    pub action: String,
    /// What it does.
    pub step: String,
    /// Where.
    pub host: Name,
    /// Bytes so far, of a step that moves some.
    pub done: Option<crate::model::Bytes>,
    /// Bytes in all, where that is known.
    pub total: Option<crate::model::Bytes>,
    /// Percent, where that is known.
    pub percent: Option<u64>,
}

impl StepRow {
    /// `45 %, 1.3GiB of 2.9GiB`, as far as it is known.
    pub fn progress(&self) -> String {
        let percent = self.percent.map(|p| format!("{p} %"));
        let bytes = match (self.done, self.total) {
            (Some(done), Some(total)) => Some(format!("{done} of {total}")),
            (Some(done), None) if done.0 > 0 => Some(done.to_string()),
            _ => None,
        };
        percent.into_iter().chain(bytes).collect::<Vec<_>>().join(", ")
    }
}

/// One domain that is not ours: never touched, counted against capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignRow {
    /// Its name in libvirt.
    pub domain: String,
    /// Where it is.
    pub host: Name,
    /// `running`, `stopped`, …
    pub state: String,
    /// Processors and memory that it was given.
    pub cpus: u32,
    /// In bytes.
    pub memory: crate::model::Bytes,
    /// The other fleet that it belongs to.
    pub fleet: Option<Name>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRow {
    /// Its name.
    pub vm: Name,
    /// Where it is; `None`: nowhere that was seen.
    pub host: Option<Name>,
    /// `running`, `stopped`, …, `missing`, `unknown`.
    pub state: String,
    /// Its first address.
    pub address: Option<String>,
    /// The IPv6 address of the same interface, where it has one beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// Where its screen is.
    pub screen: Option<String>,
    /// Name and first digits of the image it was made from: its generation.
    pub image: Option<String>,
    /// `yes`, `no: …`, or nothing when it was not probed.
    pub ready: Option<String>,
    /// What one would ask about: a hold, a pending restart, no YAML.
    pub remark: Option<String>,
}

/// One service, or one standing instance of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// `service/shop` or `module/desk/ann`.
    pub service: String,
    /// Whether all of its applications are: each has its wanted replicas ready. `None`: none is wanted, or one
    /// that is not seen may be on a host that did not answer.
    pub available: Option<bool>,
    /// Ready and wanted VMs of each application.
    pub apps: BTreeMap<Name, (u32, u32)>,
}

impl Status {
    /// Puts together what should be, what was asked for and what was seen.
    pub fn of(desired: &Desired, demand: &Demand, observed: &Observed) -> Self {
        let mut seen: BTreeMap<&Name, (&Name, &VmObs)> = BTreeMap::new();
        let mut unknown_hosts = BTreeMap::new();
        let mut not_ours = Vec::new();
        for (host, observation) in &observed.hosts {
            match observation {
                Observation::Known(obs) => {
                    for (vm, here) in &obs.vms {
                        let counts =
                            |host: &Name, o: &VmObs| rank(o, observed.records.get(vm).is_some_and(|r| r.host == *host));
                        if seen.get(vm).is_none_or(|(at, o)| counts(host, here) > counts(at, o)) {
                            seen.insert(vm, (host, here));
                        }
                    }
                    not_ours.extend(obs.unmanaged.iter().map(|found| foreign_row(host, found)));
                }
                Observation::Unknown(fault) => {
                    unknown_hosts.insert(host.clone(), fault.text.clone());
                }
                Observation::Absent => {}
            }
        }
        let mut names: Vec<&Name> = desired.vms.keys().chain(seen.keys().copied()).collect();
        names.sort();
        names.dedup();
        let missing = |vm: &Name| {
            let recorded = observed.records.get(vm).map(|r| &r.host);
            let blind = recorded.map_or(!unknown_hosts.is_empty(), |host| unknown_hosts.contains_key(host));
            if blind { "unknown" } else { "missing" }
        };
        let vms: Vec<VmRow> = names
            .into_iter()
            .map(|name| match seen.get(name) {
                Some((host, obs)) => seen_row(desired, demand, host, obs),
                None => VmRow { state: missing(name).to_owned(), ..empty_row(name, desired.vms.get(name), demand) },
            })
            .collect();
        not_ours.sort_by(|a, b| (&a.host, &a.domain).cmp(&(&b.host, &b.domain)));
        let hosts = super::hosts::rows(desired, demand, observed);
        let tasks = super::tasks::rows(desired, observed);
        let services = services(desired, &seen, &vms);
        Self { services, vms, terms: Vec::new(), hosts, not_ours, unknown_hosts, tasks, running: Vec::new() }
    }
}

impl Status {
    /// Says which guards fail now, and how often in a row.
    #[must_use]
    pub fn with_guards(mut self, failing: &BTreeMap<Name, u32>) -> Self {
        for row in &mut self.vms {
            let Some(times) = failing.get(&row.vm) else { continue };
            let text = format!("its guard fails, {times} in a row");
            row.remark = Some(row.remark.take().map_or(text.clone(), |said| format!("{said}, {text}")));
        }
        self
    }
    /// Says of each set for a time when it is wanted; VMs whose time is not now are not missing.
    #[must_use]
    pub fn with_terms(mut self, terms: &[SetTerm]) -> Self {
        self.terms = terms.to_vec();
        for term in terms.iter().filter(|term| term.phase != TermPhase::Wanted) {
            for row in self.vms.iter_mut().filter(|row| row.host.is_none() && term.vms.contains(&row.vm)) {
                term.phase.word().clone_into(&mut row.state);
            }
            for row in self.services.iter_mut().filter(|row| row.service == term.set) {
                row.available = None;
                row.apps.values_mut().for_each(|cell| cell.1 = 0);
            }
        }
        self
    }

    /// Says of each host what is so of its packet filter.
    #[must_use]
    pub fn with_filters(mut self, checks: &[crate::plan::FilterCheck]) -> Self {
        for row in self.hosts.iter_mut().filter(|row| row.state == "known") {
            row.filter = checks.iter().find(|check| check.host == row.host).map(|check| check.state.words());
        }
        self
    }
}

fn foreign_row(host: &Name, found: &Unmanaged) -> ForeignRow {
    ForeignRow {
        domain: found.domain.clone(),
        host: host.clone(),
        state: found.power.word().to_owned(),
        cpus: found.shape.cpus,
        memory: found.shape.memory,
        fleet: found.fleet.clone(),
    }
}

/// A row for a VM that was not seen.
fn empty_row(name: &Name, vm: Option<&Vm>, demand: &Demand) -> VmRow {
    VmRow {
        vm: name.clone(),
        host: None,
        state: String::new(),
        address: None,
        address6: None,
        screen: None,
        image: vm.and_then(|v| v.spec.image.as_ref()).map(ToString::to_string),
        ready: None,
        remark: hold(name, demand),
    }
}

/// What a person asked for by hand.
fn hold(name: &Name, demand: &Demand) -> Option<String> {
    demand.holds.get(name).map(|h| format!("{} by {}", run_word(h.run), h.who))
}

/// Why a VM is in quarantine, or goes into it or out of it.
fn quarantine(obs: &VmObs, demand: &Demand) -> Option<String> {
    let name = &obs.stamp.vm;
    if let Some(asked) = demand.quarantines.get(name).filter(|why| obs.stamp.quarantine.as_ref() != Some(why)) {
        return Some(format!("goes into quarantine {}", asked.sentence()));
    }
    let why = obs.stamp.quarantine.as_ref()?;
    let ends = demand.releases.get(name).map(|by| format!(", released by {}", by.who)).unwrap_or_default();
    Some(format!("in quarantine {}{ends}", why.sentence()))
}

const fn run_word(run: RunState) -> &'static str {
    match run {
        RunState::Started => "held started",
        RunState::Stopped => "held stopped",
        RunState::Suspended => "held suspended",
    }
}

/// A row for a VM that was seen.
fn seen_row(desired: &Desired, demand: &Demand, host: &Name, obs: &VmObs) -> VmRow {
    let name = &obs.stamp.vm;
    let first = desired.vms.get(name).and_then(|v| v.spec.nics.keys().next());
    let mut named = first.and_then(|n| obs.stamp.nics.get(n)).into_iter().flat_map(NicStamp::addresses);
    let address = named.next().or_else(|| obs.probed_at());
    let address6 = named.next();
    let mut remarks: Vec<String> = quarantine(obs, demand).into_iter().chain(hold(name, demand)).collect();
    match &obs.stamp.management {
        Some(of) => remarks.push(format!("management instance of image/{}, revision {}", of.image, of.revision)),
        None if !desired.vms.contains_key(name) => remarks.push("not in the YAML any more".to_owned()),
        None => {}
    }
    if obs.live.as_ref().is_some_and(|live| restart_pending(live, &obs.config)) {
        remarks.push("restart pending".to_owned());
    }
    VmRow {
        vm: name.clone(),
        host: Some(host.clone()),
        state: state_word(obs),
        address: address.map(|a| a.to_string()),
        address6: address6.map(|a| a.to_string()),
        screen: obs.screen.clone(),
        image: generation(obs),
        ready: match (&obs.ready, obs.power) {
            (Readiness::Ready, Power::Running) => Some("yes".to_owned()),
            (Readiness::NotReady(why), Power::Running | Power::Paused) => Some(format!("no: {why}")),
            _ => None,
        },
        remark: if remarks.is_empty() { None } else { Some(remarks.join(", ")) },
    }
}

/// Of several hosts that show a VM, the one that counts most: where it runs, where it was handed over, where it is
/// recorded.
fn rank(obs: &VmObs, recorded: bool) -> (u8, bool) {
    let arrives = obs.job.as_ref().is_some_and(|j| j.kind == JobKind::MigrationIn) || obs.transient;
    let power = match obs.power {
        Power::Paused if arrives => 0,
        Power::Paused if obs.pause == Some(PauseCause::Migration) => 2,
        power if power.is_active() => 3,
        _ => 1,
    };
    (power, recorded)
}

/// `running`, `moving: 45 %, 1.3 of 2.9 GiB`, `handed over`, `arriving`.
fn state_word(obs: &VmObs) -> String {
    match (&obs.job, obs.power, obs.pause) {
        (Some(job), ..) if job.kind == JobKind::MigrationOut => format!("moving: {}", job.progress()),
        (Some(job), Power::Paused, _) if job.kind == JobKind::MigrationIn => "arriving".to_owned(),
        (_, Power::Paused, Some(PauseCause::Migration)) => "stranded at the hand-over".to_owned(),
        (_, Power::Paused, Some(PauseCause::PostCopyFailed)) => "stranded: a part of its memory is lost".to_owned(),
        (_, power, _) => power.word().to_owned(),
    }
}

/// `tiny 1f0c…`: the image's name and the first digits of its generation.
fn generation(obs: &VmObs) -> Option<String> {
    let (name, digest) = (obs.stamp.image_name.as_ref()?, obs.stamp.image.as_ref()?);
    Some(format!("{name} {}", digest.short()))
}

/// Whether the guest has something else now than it gets at its next start. Memory is compared by its maximum:
/// the balloon moves.
fn restart_pending(live: &crate::model::Shape, config: &crate::model::Shape) -> bool {
    let of = |s: &crate::model::Shape| {
        (s.max_cpus, s.max_memory, s.machine.clone(), s.firmware, s.display, s.kernel.clone(), s.command_line.clone())
    };
    of(live) != of(config) || !live.disks.keys().eq(config.disks.keys()) || !live.nics.keys().eq(config.nics.keys())
}

/// Ready and wanted VMs of each application of each service and module instance.
fn services(desired: &Desired, seen: &BTreeMap<&Name, (&Name, &VmObs)>, rows: &[VmRow]) -> Vec<ServiceRow> {
    let unknown: Vec<&Name> = rows.iter().filter(|r| r.state == "unknown").map(|r| &r.vm).collect();
    let mut services: BTreeMap<String, ServiceRow> = BTreeMap::new();
    let mut blind: Vec<String> = Vec::new();
    for vm in desired.vms.values() {
        let (service, app) = match &vm.owner {
            Owner::Service { service, app, .. } => (format!("service/{service}"), app),
            Owner::Module { module, instance, member } => (format!("module/{module}/{instance}"), member),
            // What is worked on serves nobody.
            Owner::Image { .. } => continue,
        };
        if unknown.binary_search(&&vm.name).is_ok() {
            blind.push(service.clone());
        }
        let empty = ServiceRow { service: service.clone(), available: None, apps: BTreeMap::new() };
        let cell = services.entry(service).or_insert(empty).apps.entry(app.clone()).or_default();
        let runs = |obs: &VmObs| obs.power == Power::Running && !matches!(obs.ready, Readiness::NotReady(_));
        if vm.run != RunState::Started {
            // It is as it should be when it serves nobody.
            continue;
        }
        cell.0 += u32::from(seen.get(&vm.name).is_some_and(|(_, obs)| runs(obs)));
        cell.1 += 1;
    }
    for row in services.values_mut() {
        let all = row.apps.values().all(|(ready, wanted)| ready >= wanted);
        row.available = (wanted(row) > 0 && (all || !blind.contains(&row.service))).then_some(all);
    }
    services.into_values().collect()
}

/// How many VMs of a service should run.
fn wanted(row: &ServiceRow) -> u32 {
    row.apps.values().map(|(_, wanted)| wanted).sum()
}

/// The status as tables: VMs, services, and what is not ours.
pub fn status_text(status: &Status, style: &Style) -> String {
    let dash = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
    let mut vms = Table::new(&["VM", "HOST", "STATE", "READY", "ADDRESS", "IMAGE", "", "SCREEN"]);
    for row in &status.vms {
        vms.row(vec![
            row.vm.to_string(),
            row.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            row.state.clone(),
            dash(&row.ready),
            [&row.address, &row.address6]
                .into_iter()
                .flatten()
                .cloned()
                .reduce(|a, b| format!("{a} {b}"))
                .unwrap_or_else(|| "-".to_owned()),
            dash(&row.image),
            row.remark.clone().unwrap_or_default(),
            dash(&row.screen),
        ]);
    }
    let mut out = if vms.is_empty() { "no VMs\n".to_owned() } else { vms.render(style, 0) };
    if !status.services.is_empty() {
        let mut services = Table::new(&["SERVICE", "AVAILABLE", "READY"]);
        for row in &status.services {
            let apps: Vec<String> = row.apps.iter().map(|(app, (n, of))| format!("{app} {n}/{of}")).collect();
            let available = match row.available {
                Some(true) => "yes",
                Some(false) => "NO",
                None if wanted(row) == 0 => "off",
                None => "unknown",
            };
            services.row(vec![row.service.clone(), available.to_owned(), apps.join(", ")]);
        }
        out.push('\n');
        out.push_str(&services.render(style, 0));
    }
    out.push_str(&super::terms::table(&status.terms, style));
    out.push_str(&super::hosts::table(&status.hosts, style));
    out.push_str(&super::tasks::table(&status.tasks, style));
    if !status.not_ours.is_empty() {
        let mut foreign = Table::new(&["NOT OURS", "HOST", "STATE", "CPUS", "MEMORY", ""]);
        for row in &status.not_ours {
            let fleet = row.fleet.as_ref().map(|f| format!("of fleet {f}")).unwrap_or_default();
            let (host, cpus, memory) = (row.host.to_string(), row.cpus.to_string(), row.memory.to_string());
            foreign.row(vec![row.domain.clone(), host, row.state.clone(), cpus, memory, fleet]);
        }
        out.push('\n');
        out.push_str(&foreign.render(style, 0));
    }
    if !status.running.is_empty() {
        let mut running = Table::new(&["RUNNING", "HOST", "STEP", "PROGRESS"]);
        for row in &status.running {
            running.row(vec![row.action.clone(), row.host.to_string(), row.step.clone(), row.progress()]);
        }
        out.push('\n');
        out.push_str(&running.render(style, 0));
    }
    for (host, why) in &status.unknown_hosts {
        let line = style.clean(&format!("host {host} is unknown: {why}"));
        out.push_str(&style.paint(Ink::Yellow, &line));
        out.push('\n');
    }
    out
}
