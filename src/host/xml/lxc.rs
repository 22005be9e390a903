//! Domains of libvirt's LXC driver: what differs from a virtual machine's XML ("LXC container driver").
//!
//! The driver keeps no user aliases, so a disk is known by its file's name. Its processors are a quota of the host's
//! (`<cputune>`), since the kernel counts none for a container, and its memory is a limit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use roxmltree::Node;

use super::edit::Splices;
use super::read::{XmlError, child, children, mac_of};
use super::{escape, escape_text, write};
use crate::model::{
    CONTAINER_DISK, CONTAINER_SEED, Container, ContainerAddress, ContainerAddress6, Init, Mac, ShapeDisk, Stamp,
};
use crate::plan::{DomainDisk, DomainNic, DomainSpec, Edit};

/// Microseconds in which a quota of processor time is counted (cpu.max, Documentation/admin-guide/cgroup-v2.rst).
const PERIOD: u64 = 100_000;

/// Whether a domain is a container.
pub(super) fn is(root: Node<'_, '_>) -> bool {
    root.attribute("type") == Some("lxc")
}

/// The XML of a new container.
pub(super) fn domain(spec: &DomainSpec, stamp: &Stamp, container: &Container) -> String {
    let mut x = String::new();
    let _ = write!(
        x,
        "<domain type='lxc'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    {stamp}
  </metadata>
  <memory unit='KiB'>{max}</memory>
  <currentMemory unit='KiB'>{now}</currentMemory>
  <vcpu placement='static'>{max_cpus}</vcpu>
  <cputune>
    <period>{PERIOD}</period>
    <quota>{quota}</quota>
  </cputune>
  <os>
    <type arch='x86_64'>exe</type>
    {init}
  </os>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
",
        name = escape_text(&spec.domain),
        uuid = spec.uuid,
        stamp = write::stamp_element(stamp),
        max = spec.max_memory.kib_ceil(),
        now = spec.memory.kib_ceil(),
        max_cpus = spec.max_cpus,
        quota = quota(spec.cpus),
        init = init(&container.init),
    );
    for d in &spec.disks {
        let _ = writeln!(x, "    {}", disk(d));
    }
    for n in &spec.nics {
        let _ = writeln!(x, "    {}", nic(n, told_of(container, n.mac)));
    }
    // The driver has consoles of this type only; the host's shell writes down what comes out of it.
    x.push_str("    <console type='pty'/>\n  </devices>\n</domain>\n");
    x
}

/// Microseconds of processor time in a period.
pub(crate) fn quota(cpus: u32) -> u64 {
    u64::from(cpus) * PERIOD
}

fn init(init: &Init) -> String {
    let mut x = format!("<init>{}</init>", escape_text(&init.path));
    for argument in &init.arguments {
        let _ = write!(x, "<initarg>{}</initarg>", escape_text(argument));
    }
    for (name, value) in &init.environment {
        let _ = write!(x, "<initenv name='{}'>{}</initenv>", escape(name), escape_text(value));
    }
    x
}

/// A `<filesystem>` of ours: a file through a loop device, or the seed.
fn disk(d: &DomainDisk) -> String {
    let (path, target) = (escape(&d.path), escape(&d.target));
    if d.readonly {
        return format!(
            "<filesystem type='mount' accessmode='passthrough'><source dir='{path}'/><target dir='{target}'/><readonly/></filesystem>"
        );
    }
    format!(
        "<filesystem type='file' accessmode='passthrough'><driver type='loop' format='raw'/><source file='{path}'/>\
         <target dir='{target}'/></filesystem>"
    )
}

/// What the host gives an interface, in both families.
type Told<'a> = (Option<&'a ContainerAddress>, Option<&'a ContainerAddress6>);

fn told_of(container: &Container, mac: Mac) -> Told<'_> {
    (container.addresses.get(&mac), container.addresses6.get(&mac))
}

fn nic(n: &DomainNic, told: Told<'_>) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>{address}<target dev='{tap}'/></interface>",
        mac = n.mac,
        bridge = escape(&n.bridge),
        address = address(told),
        tap = escape(&n.tap),
    )
}

fn address((four, six): Told<'_>) -> String {
    let mut x = String::new();
    if let Some(told) = four {
        let _ = write!(x, "<ip address='{}' family='ipv4' prefix='{}'/>", told.address, told.prefix);
    }
    if let Some(told) = six {
        let _ = write!(x, "<ip address='{}' family='ipv6' prefix='{}'/>", told.address, told.prefix);
    }
    if let Some(gateway) = four.and_then(|told| told.gateway) {
        let _ = write!(x, "<route family='ipv4' address='0.0.0.0' prefix='0' gateway='{gateway}'/>");
    }
    if let Some(gateway) = six.and_then(|told| told.gateway) {
        let _ = write!(x, "<route family='ipv6' address='::' prefix='0' gateway='{gateway}'/>");
    }
    x
}

/// Processors now: the quota of a period, rounded up.
pub(super) fn cpus(root: Node<'_, '_>) -> Option<u32> {
    let tune = child(root, "cputune")?;
    let number = |name| child(tune, name)?.text()?.trim().parse::<u64>().ok().filter(|n| *n > 0);
    u32::try_from(number("quota")?.div_ceil(number("period")?)).ok()
}

/// What only a container has.
pub(super) fn part(root: Node<'_, '_>) -> Option<Container> {
    let os = child(root, "os").filter(|_| is(root))?;
    let text = |node: Node<'_, '_>| std::sync::Arc::from(node.text().unwrap_or_default());
    let environment = children(os, "initenv").filter_map(|n| Some((n.attribute("name")?.into(), text(n)))).collect();
    let init = Init {
        path: child(os, "init").map(text).unwrap_or_default(),
        arguments: children(os, "initarg").map(text).collect(),
        environment,
    };
    let devices = child(root, "devices");
    let interfaces = devices.iter().flat_map(roxmltree::Node::children).filter(|n| n.has_tag_name("interface"));
    let interfaces: Vec<_> = interfaces.filter_map(|node| Some((mac_of(node)?, node))).collect();
    let addresses: BTreeMap<Mac, ContainerAddress> =
        interfaces.iter().filter_map(|(mac, node)| Some((*mac, told(*node)?))).collect();
    let addresses6: BTreeMap<Mac, ContainerAddress6> =
        interfaces.iter().filter_map(|(mac, node)| Some((*mac, told6(*node)?))).collect();
    Some(Container { init, addresses, addresses6 })
}

fn told(interface: Node<'_, '_>) -> Option<ContainerAddress> {
    let (address, prefix, gateway) = said(interface, "ipv4");
    let (address, prefix) = (address?.parse().ok()?, prefix.unwrap_or(32));
    Some(ContainerAddress { address, prefix, gateway: gateway.and_then(|g| g.parse().ok()) })
}

fn told6(interface: Node<'_, '_>) -> Option<ContainerAddress6> {
    let (address, prefix, gateway) = said(interface, "ipv6");
    let (address, prefix) = (address?.parse().ok()?, prefix.unwrap_or(128));
    Some(ContainerAddress6 { address, prefix, gateway: gateway.and_then(|g| g.parse().ok()) })
}

/// The first address of a family, its prefix, and the default route (libvirt, "Setting the IP configuration"; what does not
/// say its family is IPv4).
fn said<'a>(interface: Node<'a, '_>, family: &str) -> (Option<&'a str>, Option<u8>, Option<&'a str>) {
    let of = |node: &Node<'_, '_>| node.attribute("family").unwrap_or("ipv4") == family;
    let ip = children(interface, "ip").find(of);
    let route = children(interface, "route").filter(of).find(|r| r.attribute("prefix").is_none_or(|p| p == "0"));
    let prefix = ip.and_then(|ip| ip.attribute("prefix")).and_then(|p| p.parse().ok());
    (ip.and_then(|ip| ip.attribute("address")), prefix, route.and_then(|r| r.attribute("gateway")))
}

/// Every `<filesystem>` with the name by which we call it: the one before the ending of its file, else its place.
pub(super) fn named<'a, 'i>(root: Node<'a, 'i>) -> Vec<(String, Node<'a, 'i>)> {
    let devices = child(root, "devices");
    let all = devices.iter().flat_map(roxmltree::Node::children).filter(|n| n.has_tag_name("filesystem"));
    all.map(|node| {
        let file = path(node).and_then(|p| p.rsplit('/').next()).unwrap_or_default();
        let mut parts = file.rsplit('.');
        let name = match (parts.next(), parts.next(), parts.count()) {
            (Some(CONTAINER_DISK | CONTAINER_SEED), Some(name), 3) => name,
            _ => place(node).unwrap_or_default(),
        };
        (name.to_owned(), node)
    })
    .collect()
}

/// The disks of a container.
pub(super) fn disks(root: Node<'_, '_>) -> BTreeMap<String, ShapeDisk> {
    let shape = |node| ShapeDisk {
        path: path(node).unwrap_or_default().to_owned(),
        target: place(node).unwrap_or_default().to_owned(),
        readonly: child(node, "readonly").is_some(),
    };
    named(root).into_iter().map(|(name, node)| (name, shape(node))).collect()
}

/// The file behind a `<filesystem>`.
pub(super) fn path<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let source = child(node, "source")?;
    source.attribute("file").or(source.attribute("dir"))
}

fn place<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    child(node, "target")?.attribute("dir")
}

/// Edits that differ from a virtual machine's; `None`: this one does not.
pub(super) fn edit(root: Node<'_, '_>, out: &mut Splices<'_>, edit: &Edit) -> Option<Result<(), XmlError>> {
    Some(match edit {
        Edit::Cpus { cpus, max } => set_cpus(root, out, *cpus, *max),
        Edit::AddDisk(wanted) => add_disk(root, out, wanted),
        Edit::RemoveDisk(name) => {
            if let Some((_, node)) = named(root).into_iter().find(|(n, _)| n == name) {
                out.remove(node);
            }
            Ok(())
        }
        Edit::DiskPath { name, path } => {
            let found = named(root).into_iter().find(|(n, _)| n == name).and_then(|(_, node)| child(node, "source"));
            match found {
                Some(source) if source.attribute("file").is_some() => out.set_attribute(source, "file", path),
                Some(source) => out.set_attribute(source, "dir", path),
                None => return Some(Err(XmlError::NoSuch { what: "disk", name: name.clone() })),
            }
            Ok(())
        }
        Edit::AddNic(wanted) => {
            let devices = child(root, "devices")?;
            let there = children(devices, "interface").any(|n| mac_of(n) == Some(wanted.mac));
            if there {
                return None;
            }
            let last = children(devices, "interface").last().or_else(|| children(devices, "filesystem").last());
            match last {
                Some(last) => out.after(last, &nic(wanted, (None, None))),
                None => out.append(devices, &nic(wanted, (None, None))),
            }
            Ok(())
        }
        Edit::Container(wanted) => container(root, out, wanted),
        Edit::Machine(_)
        | Edit::Firmware(_)
        | Edit::Acceleration(_)
        | Edit::Display(_)
        | Edit::Kernel(_)
        | Edit::AddDevice(_)
        | Edit::RemoveDevice(_) => {
            Err(XmlError::Refused("a container has no hardware and no kernel of its own".to_owned()))
        }
        Edit::Memory { .. } | Edit::RemoveNic(_) | Edit::NicBridge { .. } | Edit::Autostart(_) => return None,
    })
}

fn set_cpus(root: Node<'_, '_>, out: &mut Splices<'_>, cpus: u32, max: u32) -> Result<(), XmlError> {
    let vcpu = child(root, "vcpu").ok_or(XmlError::Missing("vcpu"))?;
    out.set_text(vcpu, &max.to_string());
    if self::cpus(root) == Some(cpus) {
        return Ok(());
    }
    let both = format!("<period>{PERIOD}</period><quota>{}</quota>", quota(cpus));
    match child(root, "cputune") {
        None => out.after(vcpu, &format!("<cputune>{both}</cputune>")),
        Some(tune) => {
            let old = ["period", "quota"].into_iter().filter_map(|name| child(tune, name));
            old.for_each(|node| out.remove(node));
            out.prepend(tune, &both);
        }
    }
    Ok(())
}

fn add_disk(root: Node<'_, '_>, out: &mut Splices<'_>, wanted: &DomainDisk) -> Result<(), XmlError> {
    let devices = child(root, "devices").ok_or(XmlError::Missing("devices"))?;
    let there = named(root);
    if let Some((_, node)) = there.iter().find(|(n, _)| *n == wanted.name) {
        let same = path(*node) == Some(&wanted.path) && place(*node) == Some(&wanted.target);
        let other = || XmlError::Refused(format!("the container has another disk `{}`", wanted.name));
        return if same { Ok(()) } else { Err(other()) };
    }
    if there.iter().any(|(_, node)| place(*node) == Some(&wanted.target)) {
        return Err(XmlError::Refused(format!("the container has another disk at `{}`", wanted.target)));
    }
    match there.last() {
        Some((_, last)) => out.after(*last, &disk(wanted)),
        None => out.append(devices, &disk(wanted)),
    }
    Ok(())
}

/// First program and addresses.
fn container(root: Node<'_, '_>, out: &mut Splices<'_>, wanted: &Container) -> Result<(), XmlError> {
    let os = child(root, "os").ok_or(XmlError::Missing("os"))?;
    let kind = child(os, "type").ok_or(XmlError::Missing("type"))?;
    if part(root).is_none_or(|now| now.init != wanted.init) {
        for name in ["init", "initarg", "initenv"] {
            children(os, name).for_each(|node| out.remove(node));
        }
        out.after(kind, &init(&wanted.init));
    }
    let devices = child(root, "devices").ok_or(XmlError::Missing("devices"))?;
    for node in children(devices, "interface") {
        let wanted = mac_of(node).map_or((None, None), |mac| told_of(wanted, mac));
        if (told(node).as_ref(), told6(node).as_ref()) == wanted {
            continue;
        }
        for name in ["ip", "route"] {
            children(node, name).for_each(|old| out.remove(old));
        }
        let after = child(node, "source").or_else(|| child(node, "mac"));
        if let Some(after) = after.filter(|_| wanted != (None, None)) {
            out.after(after, &address(wanted));
        }
    }
    Ok(())
}
