//! All domains of a host in a few calls: three lists, one of statistics, and each domain's XML.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::capabilities::Capabilities;
use super::{CALL, CallError, Hypervisor, domain, lxc, migrate, raw};
use crate::model::{Bytes, JobObs, Layer, PauseCause, Power};

/// What only QEMU itself knows of its domain.
const ASKED: u32 = sys::VIR_DOMAIN_STATS_BALLOON | sys::VIR_DOMAIN_STATS_VCPU;

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Host UUID of the capabilities; `None` when they were not asked for.
    pub uuid: Option<Uuid>,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// libvirt's version, for people.
    pub library: String,
    /// QEMU's version, for people; `None` when capabilities were not asked for.
    pub qemu: Option<String>,
    /// Machine types of x86_64 guests; empty when capabilities were not asked for.
    pub machines: Vec<String>,
}

/// One domain as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its UUID.
    pub uuid: Uuid,
    /// What it does.
    pub power: Power,
    /// libvirt's autostart.
    pub autostart: bool,
    /// Its inactive XML.
    pub config: String,
    /// Its live XML, when it is active.
    pub live: Option<String>,
    /// The balloon's actual value, when it is active and has one.
    pub balloon: Option<Bytes>,
    /// Processors now, when it is active.
    pub cpus: Option<u32>,
    /// It has no definition: it arrives from another host.
    pub transient: bool,
    /// Why it is paused, when it is.
    pub pause: Option<PauseCause>,
    /// What is done to it, when something is.
    pub job: Option<SeenJob>,
}

/// What is done to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenJob {
    /// This.
    Known(JobObs),
    /// Its QEMU did not answer: it waits for a disk, or for a link that was cut.
    Silent,
}

/// Everything seen in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The host.
    pub facts: HostFacts,
    /// Its domains.
    pub domains: Vec<Seen>,
}

impl Hypervisor {
    /// Looks at the host and all its domains. A domain that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn survey(&self) -> Result<Survey, CallError> {
        // Capabilities start every QEMU binary of the machine the first time (4 s for each where they are slow), the
        // domains' own lookups only the one that they use: an embedded root, which begins empty, goes without.
        let capabilities = if self.embed_root().is_none() { Some(self.capabilities().await?) } else { None };
        // About 1 ms for each domain, with room to spare.
        let layer = self.layer();
        let mut survey =
            self.call("observe the host", CALL * 2, move |connect| look(connect, layer, capabilities)).await?;
        if layer == Layer::Qemu {
            self.ask_emulators(&mut survey.domains).await;
        }
        Ok(survey)
    }

    /// What only QEMU knows. One that waits for a dead link does not answer, and with it nobody of this host: then the XML
    /// must do, and who did not answer is known.
    async fn ask_emulators(&self, domains: &mut [Seen]) {
        let active: Vec<Uuid> = domains.iter().filter(|d| d.live.is_some()).map(|d| d.uuid).collect();
        if active.is_empty() {
            return;
        }
        // One after the other: the first without an answer is the one that gives none.
        let jobs: Arc<Mutex<BTreeMap<Uuid, Option<JobObs>>>> = Arc::default();
        let (asked, answers) = (active.clone(), jobs.clone());
        let answered = self
            .ask_qemu(move |connect| {
                for uuid in asked {
                    // A driver without jobs (LXC, test) says so: it has none.
                    let job = connect.lookup_domain_by_uuid(uuid).and_then(|d| migrate::job(&d)).unwrap_or_default();
                    answers.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid, job);
                }
                raw::all_domain_stats(connect, ASKED)
            })
            .await;
        let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = active.iter().find(|uuid| answered.is_none() && !jobs.contains_key(uuid));
        let mut stats = answered.and_then(Result::ok).unwrap_or_default();
        for domain in domains.iter_mut().filter(|d| d.live.is_some()) {
            let numbers = stats.remove(&domain.uuid).unwrap_or_default();
            // A domain without a balloon device reports no current value; the XML's stands for it then.
            domain.balloon = numbers.get("balloon.current").map(|kib| Bytes(kib.saturating_mul(1024)));
            domain.cpus = numbers.get("vcpu.current").and_then(|n| u32::try_from(*n).ok());
            domain.job = match jobs.get(&domain.uuid) {
                Some(job) => job.clone().map(SeenJob::Known),
                None => (silent == Some(&domain.uuid)).then_some(SeenJob::Silent),
            };
        }
    }
}

fn look(connect: &Connect, layer: Layer, capabilities: Option<Capabilities>) -> Result<Survey, Error> {
    let uuids = |flags| -> Result<BTreeSet<Uuid>, Error> {
        Ok(connect.list_all_domains(flags)?.iter().filter_map(|d| d.uuid().ok()).collect())
    };
    let saved = uuids(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let autostart = uuids(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
    let transient = uuids(sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT)?;
    // libvirt knows this without asking any QEMU.
    let mut stats = lxc::stats(connect, layer, sys::VIR_DOMAIN_STATS_STATE)?;
    let mut domains = Vec::new();
    for handle in connect.list_all_domains(0)? {
        let Ok(uuid) = handle.uuid() else { continue };
        let numbers = stats.remove(&uuid).unwrap_or_default();
        let number = |name: &str| numbers.get(name).and_then(|s| u32::try_from(*s).ok());
        let reason = number("state.reason").unwrap_or_default();
        let saved = saved.contains(&uuid);
        let Some(power) = number("state.state").map(|s| domain::power(s, reason, saved)) else { continue };
        let Ok(config) = handle.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) else { continue };
        let live = if power.is_active() { handle.xml_desc(0).ok() } else { None };
        domains.push(Seen {
            uuid,
            power,
            autostart: autostart.contains(&uuid),
            config,
            live,
            balloon: None,
            cpus: None,
            transient: transient.contains(&uuid),
            pause: (power == Power::Paused).then(|| migrate::pause_cause(reason)),
            job: None,
        });
    }
    domains.sort_by_key(|d| d.uuid);
    Ok(Survey { facts: facts(connect, layer, capabilities)?, domains })
}

fn facts(connect: &Connect, layer: Layer, capabilities: Option<Capabilities>) -> Result<HostFacts, Error> {
    let node = connect.node_info()?;
    let said = capabilities.unwrap_or_default();
    let dotted = |v: u32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    Ok(HostFacts {
        uuid: said.uuid,
        cpus: node.cpus,
        memory: Bytes(node.memory.saturating_mul(1024)),
        library: format!("libvirt {}", connect.lib_version().map_or_else(|_| "?".to_owned(), dotted)),
        // The LXC driver gives its kernel's.
        qemu: said.version.map(|v| format!("{} {}", if layer == Layer::Lxc { "Linux" } else { "QEMU" }, dotted(v))),
        machines: said.machines,
    })
}
