//! One try of a VM's guard, between two looks.

use uuid::Uuid;

use super::fleet::RealHost;
use super::ready;
use crate::model::{Name, Power, Probe, VmObs};
use crate::observe::Tried;

/// A VM as it was last seen to run, outside of quarantine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    pub(super) uuid: Uuid,
    address: Option<std::net::IpAddr>,
}

impl Runs {
    /// What is kept of a VM: nothing of one that does not run, is in quarantine, or arrives from another host.
    pub(super) fn of(vm: &VmObs) -> Option<Self> {
        let runs = vm.power == Power::Running && vm.stamp.quarantine.is_none() && !vm.transient;
        let address = vm.probed_at();
        runs.then_some(Self { uuid: vm.uuid, address })
    }
}

/// Tries a probe once. What does not run says nothing, nor does a host that cannot be asked; and what ended or began anew while
/// it was asked did not fail.
pub(super) async fn try_once(host: &RealHost, vm: &Name, probe: &Probe) -> Option<Tried> {
    let Runs { uuid, address } = *host.running().get(vm)?;
    let run = host.hypervisor.run_number(uuid).await.ok()??;
    let answer = ready::once(host, uuid, &probe.kind, address).await;
    if answer.is_err() && host.hypervisor.run_number(uuid).await.ok()? != Some(run) {
        return None;
    }
    Some(Tried { run, answer })
}
