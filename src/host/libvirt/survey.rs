//! All domains of a host in a few calls: three lists, one of statistics, and each domain's XML.

use std::collections::BTreeSet;

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::capabilities::Capabilities;
use super::{CALL, CallError, Hypervisor, domain, raw};
use crate::model::{Bytes, Power};

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
        self.call("observe the host", CALL * 2, move |connect| look(connect, capabilities)).await
    }
}

fn look(connect: &Connect, capabilities: Option<Capabilities>) -> Result<Survey, Error> {
    let uuids = |flags| -> Result<BTreeSet<Uuid>, Error> {
        Ok(connect.list_all_domains(flags)?.iter().filter_map(|d| d.uuid().ok()).collect())
    };
    let saved = uuids(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let autostart = uuids(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
    let groups = sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_BALLOON | sys::VIR_DOMAIN_STATS_VCPU;
    let mut stats = raw::all_domain_stats(connect, groups)?;
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
        // A domain without a balloon device reports no current value; the XML's stands for it then.
        let balloon = numbers.get("balloon.current").map(|kib| Bytes(kib.saturating_mul(1024)));
        let cpus = numbers.get("vcpu.current").and_then(|n| u32::try_from(*n).ok());
        let active = live.is_some();
        domains.push(Seen {
            uuid,
            power,
            autostart: autostart.contains(&uuid),
            config,
            live,
            balloon: balloon.filter(|_| active),
            cpus: cpus.filter(|_| active),
        });
    }
    domains.sort_by_key(|d| d.uuid);
    Ok(Survey { facts: facts(connect, capabilities)?, domains })
}

fn facts(connect: &Connect, capabilities: Option<Capabilities>) -> Result<HostFacts, Error> {
    let node = connect.node_info()?;
    let said = capabilities.unwrap_or_default();
    let dotted = |v: u32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    Ok(HostFacts {
        uuid: said.uuid,
        cpus: node.cpus,
        memory: Bytes(node.memory.saturating_mul(1024)),
        library: format!("libvirt {}", connect.lib_version().map_or_else(|_| "?".to_owned(), dotted)),
        qemu: said.version.map(|v| format!("QEMU {}", dotted(v))),
        machines: said.machines,
    })
}
