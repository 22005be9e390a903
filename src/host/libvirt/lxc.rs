//! What libvirt's LXC driver answers otherwise than QEMU's, or not at all.

use std::collections::BTreeMap;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{SchedBandwidth, SchedulerInfo};
use virt::error::Error;
use virt_sys as sys;

use super::{CALL, CallError, Hypervisor, raw};
use crate::model::Layer;

impl Hypervisor {
    /// What runs guests there.
    pub fn layer(&self) -> Layer {
        Layer::of(&self.uri)
    }

    /// The process that holds a running container: its first program is that one's child (`virDomainGetID`).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn keeper(&self, uuid: Uuid) -> Result<Option<u32>, CallError> {
        self.call("ask for the container's process", CALL, move |c| Ok(c.lookup_domain_by_uuid(uuid)?.id())).await
    }

    /// How much processor time a running container may take in a period (`virDomainSetSchedulerParametersFlags`).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_quota(&self, uuid: Uuid, quota: u64) -> Result<(), CallError> {
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        self.call("set processors", CALL, move |c| {
            let wanted = SchedulerInfo {
                vcpu_bw: SchedBandwidth { quota: Some(quota), ..SchedBandwidth::default() },
                ..SchedulerInfo::default()
            };
            c.lookup_domain_by_uuid(uuid)?
                .set_scheduler_parameters_flags(&wanted, sys::VIR_DOMAIN_AFFECT_LIVE)
                .map(drop)
        })
        .await
    }
}

/// What `virConnectGetAllDomainStats`, which the driver has not, would say, under the same names.
pub(super) fn all_domain_stats(connect: &Connect) -> Result<BTreeMap<Uuid, raw::Numbers>, Error> {
    let mut out = BTreeMap::new();
    for domain in connect.list_all_domains(0)? {
        // One that vanishes meanwhile is left out.
        let (Ok(uuid), Ok((state, reason))) = (domain.uuid(), raw::state(&domain)) else { continue };
        let mut numbers = raw::Numbers::new();
        numbers.insert("state.state".to_owned(), u64::from(state));
        numbers.insert("state.reason".to_owned(), u64::from(reason));
        if let (Some(id), Ok(info)) = (domain.id(), domain.info()) {
            numbers.insert(raw::RUN.to_owned(), u64::from(id));
            numbers.insert("cpu.time".to_owned(), info.cpu_time);
            numbers.insert("vcpu.current".to_owned(), u64::from(info.nr_virt_cpu));
            // What it uses, and what it may use at most, in KiB.
            numbers.insert("balloon.rss".to_owned(), info.memory);
            numbers.insert("balloon.current".to_owned(), info.max_mem);
        }
        out.insert(uuid, numbers);
    }
    Ok(out)
}

/// The statistics of a connection's domains, whatever its driver.
pub(super) fn stats(connect: &Connect, layer: Layer, groups: u32) -> Result<BTreeMap<Uuid, raw::Numbers>, Error> {
    match layer {
        Layer::Qemu => raw::all_domain_stats(connect, groups),
        Layer::Lxc => all_domain_stats(connect),
    }
}
