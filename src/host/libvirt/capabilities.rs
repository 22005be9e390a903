//! What a host can do, in libvirt's words: capabilities of the host and of its domains.
//!
//! They are asked for once a connection and again every [`FRESH`]: libvirt looks at every QEMU binary for them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;

use super::{CALL, CallError, Hypervisor};
use crate::model::{Bytes, CpuObs};

/// How long an answer is good: a QEMU that was upgraded shows after ten minutes, or when the connection is opened again.
pub(in crate::host) const FRESH: Duration = Duration::from_secs(600);

/// What `virConnectGetCapabilities` and `virConnectGetVersion` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The host's UUID.
    pub uuid: Option<Uuid>,
    /// The model of its processors, `Skylake-Client-IBRS`.
    pub model: Option<String>,
    /// Machine types of x86_64 guests, sorted.
    pub machines: Vec<String>,
    /// Memory of each NUMA cell, and its processors.
    pub cells: Vec<(Bytes, usize)>,
    /// Version of the hypervisor: QEMU's, for its driver.
    pub version: Option<u32>,
}

impl Hypervisor {
    /// The capabilities, as last asked for.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn capabilities(&self) -> Result<Capabilities, CallError> {
        let live = self.open().await?;
        let mut kept = live.capabilities.lock().await;
        if let Some((at, kept)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            let _ = at;
            return Ok(kept.clone());
        }
        let asked = self.call("ask for the capabilities", CALL * 2, ask).await?;
        *kept = Some((Instant::now(), asked.clone()));
        Ok(asked)
    }

    /// What the machine calls itself.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn hostname(&self) -> Result<String, CallError> {
        self.call("ask for the name", CALL, Connect::hostname).await
    }

    /// What the host's processors are, and which named models a guest may have (`virttype`: `kvm`, or `qemu` for software
    /// emulation).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn cpu(&self, virttype: &'static str) -> Result<CpuObs, CallError> {
        let model = self.capabilities().await?.model.unwrap_or_default();
        let ask = move |c: &Connect| c.domain_capabilities(None, Some("x86_64"), None, Some(virttype), 0);
        let xml = self.call("ask for the processor models", CALL * 2, ask).await?;
        Ok(CpuObs { model, usable: usable_models(&xml) })
    }
}

fn ask(connect: &Connect) -> Result<Capabilities, Error> {
    Ok(Capabilities { version: connect.hyp_version().ok(), ..read(&connect.capabilities()?) })
}

/// Reads `<capabilities>` (libvirt, "Driver capabilities XML format").
fn read(xml: &str) -> Capabilities {
    let Ok(document) = roxmltree::Document::parse(xml) else { return Capabilities::default() };
    let under = |node: &roxmltree::Node<'_, '_>, name: &str| node.parent().is_some_and(|p| p.has_tag_name(name));
    let text = |node: roxmltree::Node<'_, '_>| node.text().map(|t| t.trim().to_owned());
    let all = || document.descendants();
    let mut machines = BTreeSet::new();
    for machine in all().filter(|n| n.has_tag_name("machine")) {
        let x86 = machine.ancestors().any(|a| a.has_tag_name("arch") && a.attribute("name") == Some("x86_64"));
        if let (true, Some(name)) = (x86, machine.text()) {
            machines.insert(name.to_owned());
        }
    }
    let cell = |cell: roxmltree::Node<'_, '_>| {
        let kib = cell.children().find(|n| n.has_tag_name("memory")).and_then(text);
        let kib = kib.and_then(|k| k.parse::<u64>().ok()).unwrap_or(0);
        (Bytes(kib.saturating_mul(1024)), cell.descendants().filter(|n| n.has_tag_name("cpu")).count())
    };
    let of_host =
        |node: &roxmltree::Node<'_, '_>| under(node, "cpu") && node.parent().is_some_and(|p| under(&p, "host"));
    Capabilities {
        uuid: all().find(|n| n.has_tag_name("uuid") && under(n, "host")).and_then(text).and_then(|t| t.parse().ok()),
        model: all().find(|n| n.has_tag_name("model") && of_host(n)).and_then(text),
        machines: machines.into_iter().collect(),
        cells: all().filter(|n| n.has_tag_name("cell") && under(n, "cells")).map(cell).collect(),
        version: None,
    }
}

/// The models of `<mode name='custom'>` that are usable (libvirt, "Domain capabilities XML format"), sorted.
fn usable_models(xml: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(xml) else { return Vec::new() };
    let custom = document.descendants().find(|n| n.has_tag_name("mode") && n.attribute("name") == Some("custom"));
    let models = custom.into_iter().flat_map(|m| m.children()).filter(|n| n.has_tag_name("model"));
    let usable = models.filter(|n| n.attribute("usable") == Some("yes")).filter_map(|n| n.text());
    usable.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_from_its_capabilities() {
        let xml = "<capabilities><host><uuid>0f1e2d3c-0000-4000-8000-000000000001</uuid><cpu><arch>x86_64</arch>\
            <model>Haswell</model><feature name='x'/></cpu><topology><cells num='2'>\
            <cell id='0'><memory unit='KiB'>1024</memory><cpus num='2'><cpu id='0'/><cpu id='1'/></cpus></cell>\
            <cell id='1'><memory unit='KiB'>2048</memory><cpus num='1'><cpu id='2'/></cpus></cell>\
            </cells></topology></host><guest><arch name='x86_64'><machine>pc-q35-7.2</machine>\
            <machine canonical='pc-q35-7.2'>q35</machine></arch></guest>\
            <guest><arch name='i686'><machine>isapc</machine></arch></guest></capabilities>";
        let read = read(xml);
        assert_eq!(read.uuid.unwrap().to_string(), "0f1e2d3c-0000-4000-8000-000000000001");
        assert_eq!(read.model.as_deref(), Some("Haswell"));
        assert_eq!(read.machines, ["pc-q35-7.2", "q35"]);
        assert_eq!(read.cells, [(Bytes(1 << 20), 2), (Bytes(2 << 20), 1)]);
    }

    #[test]
    fn only_usable_models_count() {
        let xml = "<domainCapabilities><cpu><mode name='host-model' supported='yes'><model>EPYC</model></mode>\
            <mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='no'>EPYC</model>\
            <model usable='yes'>Nehalem</model></mode></cpu></domainCapabilities>";
        assert_eq!(usable_models(xml), ["Nehalem", "qemu64"]);
    }
}
