//! A machine that is not a host yet: what libvirt and its shell say of it.

use std::path::Path;

use super::libvirt::Hypervisor;
use super::shell::{self, Program, Shell, succeed};
use super::{accel, bridge, facts};
use crate::model::{Acceleration, Bytes, HostShell, Inspected, Layer, Name};

/// Where a host's folders are proposed.
const STORE: &str = "/var/lib/stablehand";
/// Where the probe's boot sector stands for a moment: nothing of ours stays on a machine that was only looked at.
const SCRATCH: &str = "/var/tmp";

/// Asks a machine what it is. What the shell does not say is among [`Inspected::missing`].
///
/// # Errors
/// A sentence, when libvirt does not answer.
pub async fn inspect(uri: &str, reach: Option<&HostShell>, base: &Path, who: &str) -> Result<Inspected, String> {
    let hypervisor = Hypervisor::new(uri, who);
    let survey = hypervisor.survey().await.map_err(|e| e.to_string())?;
    let embedded = hypervisor.embed_root().is_some();
    let said =
        if embedded { Default::default() } else { hypervisor.capabilities().await.map_err(|e| e.to_string())? };
    let mut found = Inspected {
        connection: uri.to_owned(),
        shell: reach.cloned(),
        hostname: hypervisor.hostname().await.unwrap_or_default(),
        uuid: survey.facts.uuid,
        layer: Layer::of(uri),
        cpus: survey.facts.cpus,
        memory: survey.facts.memory,
        cells: said.cells,
        versions: std::iter::once(survey.facts.library).chain(survey.facts.qemu).collect::<Vec<_>>().join(", "),
        cpu: None,
        machines: newest(&said.machines),
        domains: survey.domains.iter().filter_map(|d| super::xml::read(&d.config).ok()).map(|r| r.name).collect(),
        acceleration: None,
        free: None,
        bridges: Vec::new(),
        route: None,
        moving: None,
        missing: Vec::new(),
    };
    match reach {
        Some(reach) => by_shell(&mut found, shell::of(reach, base).as_ref()).await,
        None => found.missing.push("no shell was tried: storage, network and acceleration are not known".to_owned()),
    }
    if found.layer == Layer::Qemu && !embedded && !uri.starts_with("test:") {
        let virttype = if found.acceleration == Some(Acceleration::Kvm) { "kvm" } else { "qemu" };
        match hypervisor.cpu(virttype).await {
            Ok(cpu) => found.cpu = Some(cpu),
            Err(error) => found.missing.push(error.to_string()),
        }
    }
    Ok(found)
}

async fn by_shell(found: &mut Inspected, shell: &dyn Shell) {
    match shell.free(STORE).await {
        Ok(free) => found.free = Some(Bytes(free)),
        Err(error) => {
            found.missing.push(format!("the shell does not answer: {error}"));
            return;
        }
    }
    // Whose bridges they are does not matter yet.
    let nobody = Name::new("nobody").ok();
    if let Some(nobody) = nobody {
        match bridge::observe(shell, &nobody).await {
            Ok(all) => found.bridges = all.into_iter().map(|(name, (seen, _))| (name, seen.addresses)).collect(),
            Err(error) => found.missing.push(error.to_string()),
        }
    }
    // ip-route(8): [{"dst":"default","gateway":"…","dev":"eth0",…}]
    let route = succeed(shell, Program::new(["ip", "-json", "route", "show", "default"])).await.unwrap_or_default();
    let route: Option<serde_json::Value> = serde_json::from_slice(&route).ok();
    found.route = route.and_then(|r| Some(r.get(0)?.get("dev")?.as_str()?.to_owned()));
    if found.layer == Layer::Qemu {
        found.acceleration = Some(acceleration(shell).await);
        found.moving = Some(facts::moving(shell).await);
    }
    let images = succeed(shell, Program::new(["qemu-img", "--version"])).await;
    if let (Layer::Qemu, Err(error)) = (found.layer, images) {
        found.missing.push(format!("{error}: install qemu-utils"));
    }
}

async fn acceleration(shell: &dyn Shell) -> Acceleration {
    let processors = shell.read("/proc/cpuinfo", 1 << 16).await.unwrap_or_default();
    let processors = String::from_utf8_lossy(&processors).into_owned();
    let can = processors.split_ascii_whitespace().any(|word| word == "vmx" || word == "svm");
    if can && accel::boots(shell, "kvm", SCRATCH).await { Acceleration::Kvm } else { Acceleration::Tcg }
}

/// The newest versioned type of each family, `pc-q35-7.2` before `pc-i440fx-7.2`.
fn newest(machines: &[String]) -> Vec<String> {
    let version = |name: &str| -> Option<Vec<u32>> { name.split('.').map(|n| n.parse().ok()).collect() };
    let of_family = |family: &str| {
        let versioned = machines.iter().filter_map(|m| Some((version(m.strip_prefix(family)?)?, m)));
        versioned.max().map(|(_, m)| m.clone())
    };
    ["pc-q35-", "pc-i440fx-"].into_iter().filter_map(of_family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_is_newer_than_nine() {
        let names = ["pc", "pc-i440fx-6.2", "pc-q35-10.0", "pc-q35-9.2", "q35"].map(str::to_owned);
        assert_eq!(newest(&names), ["pc-q35-10.0", "pc-i440fx-6.2"]);
    }

    #[tokio::test]
    async fn the_test_driver_is_inspected() {
        let found = inspect("test:///default", None, Path::new("/"), "a test").await.unwrap();
        assert_eq!(found.domains, ["test"]);
        // Its capabilities name no host, unlike those of a real driver.
        assert_eq!(found.uuid, None);
        assert!(found.cpus > 0);
    }
}
