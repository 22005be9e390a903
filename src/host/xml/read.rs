//! Our fields out of any domain's XML.

use std::collections::BTreeMap;

use roxmltree::{Document, Node};
use uuid::Uuid;

use super::{DEVICE_ALIAS, DISK_ALIAS, STAMP_NS, lxc};
use crate::model::{
    Acceleration, AgentObs, Bytes, CONTAINER_DISK, DeviceAt, Display, Firmware, Mac, PciAddress, Ports, Shape,
    ShapeDisk, ShapeNic, Stamp,
};

/// What one XML says of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `<name>`.
    pub name: String,
    /// `<uuid>`.
    pub uuid: Uuid,
    /// Our stamp; an error text when there is one that cannot be read.
    pub stamp: Option<Result<Stamp, String>>,
    /// The fields that are ours.
    pub shape: Shape,
    /// The screen: a socket path or `host:port`. Only live XML has it.
    pub screen: Option<String>,
    /// How far a guest agent can be asked. Only live XML knows whether one is connected.
    pub agent: AgentObs,
    /// The balloon's driver period and such are not ours; whether there is a balloon at all is.
    pub balloon: bool,
    /// Path of the file that the serial console writes to.
    pub console: Option<String>,
    /// The named processor model (`<cpu><model>`), where it has one.
    pub cpu_model: Option<String>,
}

/// Why a domain's XML could not be read or edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not XML.
    #[error("the domain's XML cannot be read: {0}")]
    Syntax(String),
    /// XML, but an element that every domain has is missing or malformed.
    #[error("the domain's XML has no usable <{0}>")]
    Missing(&'static str),
    /// An edit names something that is not there.
    #[error("the domain has no {what} `{name}`")]
    NoSuch {
        /// `disk` or `interface`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An edit would collide with something that is there.
    #[error("{0}")]
    Refused(String),
}

/// Reads our fields.
///
/// # Errors
/// [`XmlError`] when the text is not XML or lacks name, uuid, memory, vcpu or os type.
pub fn read(xml: &str) -> Result<Reading, XmlError> {
    let document = parse(xml)?;
    let root = document.root_element();
    let devices = child(root, "devices");
    let graphics = devices.and_then(|d| children(d, "graphics").find(|g| g.attribute("type") == Some("vnc")));
    let console = devices.and_then(|d| children(d, "serial").find(|s| s.attribute("type") == Some("file")));
    let stamp = read_stamp(root);
    let adopted = stamp.as_ref().and_then(|s| s.as_ref().ok()?.adopted.as_ref());
    Ok(Reading {
        name: text(root, "name").ok_or(XmlError::Missing("name"))?.to_owned(),
        uuid: text(root, "uuid").and_then(|t| t.parse().ok()).ok_or(XmlError::Missing("uuid"))?,
        shape: shape(root, adopted)?,
        screen: graphics.and_then(screen),
        agent: agent(devices),
        balloon: devices
            .and_then(|d| child(d, "memballoon"))
            .is_some_and(|b| b.attribute("model").is_some_and(|m| m != "none")),
        console: console.and_then(|s| child(s, "source")?.attribute("path")).map(str::to_owned),
        cpu_model: child(root, "cpu").and_then(|c| text(c, "model")).map(str::to_owned),
        stamp,
    })
}

/// The state of the guest agent's channel (libvirt, "Domain XML format", `<channel>`, `state`).
fn agent(devices: Option<Node<'_, '_>>) -> AgentObs {
    let targets = devices.into_iter().flat_map(|d| children(d, "channel")).filter_map(|c| child(c, "target"));
    match targets.into_iter().find(|t| t.attribute("name") == Some("org.qemu.guest_agent.0")) {
        None => AgentObs::NoChannel,
        Some(target) if target.attribute("state") == Some("connected") => AgentObs::Connected,
        Some(_) => AgentObs::Silent,
    }
}

/// Every file or device that the domain has open when it runs: disks of any kind, their backing files where the XML
/// names them, kernel, initial RAM disk, firmware variables.
///
/// # Errors
/// [`XmlError::Syntax`].
pub fn sources(xml: &str) -> Result<Vec<String>, XmlError> {
    let document = parse(xml)?;
    let mut out = Vec::new();
    for node in document.descendants().filter(Node::is_element) {
        match node.tag_name().name() {
            "source" => {
                out.extend(["file", "dev", "path", "dir"].iter().filter_map(|a| node.attribute(*a)).map(str::to_owned));
            }
            "kernel" | "initrd" | "nvram" | "loader" => {
                out.extend(node.text().map(str::trim).filter(|t| t.starts_with('/')).map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The format of a domain's disk file as its definition says (never guessed from what a guest can write); `raw` where it
/// says nothing.
///
/// # Errors
/// [`XmlError`], when the domain has no such disk.
pub fn disk_format(xml: &str, path: &str) -> Result<String, XmlError> {
    let document = parse(xml)?;
    let root = document.root_element();
    if lxc::is(root) {
        let has = lxc::named(root).iter().any(|(_, node)| lxc::path(*node) == Some(path));
        let missing = || XmlError::NoSuch { what: "disk", name: path.to_owned() };
        return if has { Ok(CONTAINER_DISK.to_owned()) } else { Err(missing()) };
    }
    let (_, node) = named_disks(root)
        .into_iter()
        .find(|(_, node)| child(*node, "source").and_then(source_path) == Some(path))
        .ok_or_else(|| XmlError::NoSuch { what: "disk", name: path.to_owned() })?;
    Ok(child(node, "driver").and_then(|d| d.attribute("type")).unwrap_or("raw").to_owned())
}

fn shape(root: Node<'_, '_>, adopted: Option<&BTreeMap<String, String>>) -> Result<Shape, XmlError> {
    let memory = child(root, "memory").and_then(bytes).ok_or(XmlError::Missing("memory"))?;
    let vcpu = child(root, "vcpu").ok_or(XmlError::Missing("vcpu"))?;
    let max_cpus = vcpu.text().and_then(|t| t.trim().parse().ok()).ok_or(XmlError::Missing("vcpu"))?;
    let os = child(root, "os").ok_or(XmlError::Missing("os"))?;
    let kind = child(os, "type").ok_or(XmlError::Missing("type"))?;
    let uefi = os.attribute("firmware") == Some("efi")
        || child(os, "loader").is_some_and(|l| l.attribute("type") == Some("pflash"));
    let mut disks = BTreeMap::new();
    let mut nics = BTreeMap::new();
    if let Some(devices) = child(root, "devices") {
        for (name, node) in disks_named(root, adopted) {
            let Some(target) = child(node, "target").and_then(|t| t.attribute("dev")) else { continue };
            let path = child(node, "source").and_then(source_path).unwrap_or_default().to_owned();
            let readonly = child(node, "readonly").is_some();
            disks.insert(name, ShapeDisk { path, target: target.to_owned(), readonly });
        }
        for node in children(devices, "interface") {
            let Some(mac) = mac_of(node) else { continue };
            let source = child(node, "source");
            let bridge = source.and_then(|s| s.attribute("bridge").or(s.attribute("network")).or(s.attribute("dev")));
            let tap = child(node, "target").and_then(|t| t.attribute("dev")).map(str::to_owned);
            nics.insert(mac, ShapeNic { bridge: bridge.unwrap_or_default().to_owned(), tap });
        }
    }
    let element = |name| text(os, name).map(str::to_owned);
    let quota = if lxc::is(root) { lxc::cpus(root) } else { None };
    Ok(Shape {
        cpus: vcpu.attribute("current").and_then(|c| c.parse().ok()).or(quota).unwrap_or(max_cpus),
        max_cpus,
        // What `ram` gives an emulated guest beyond that is nobody's wish.
        memory: child(root, "currentMemory").and_then(bytes).map_or(memory, |now| now.min(memory)),
        max_memory: memory,
        machine: kind.attribute("machine").unwrap_or_default().to_owned(),
        firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
        acceleration: match root.attribute("type") {
            Some("kvm") => Acceleration::Kvm,
            _ => Acceleration::Tcg,
        },
        display: display(root),
        kernel: element("kernel"),
        initrd: element("initrd"),
        command_line: element("cmdline"),
        disks: if lxc::is(root) { lxc::disks(root) } else { disks },
        nics,
        devices: devices(root),
        ports: ports(root),
        container: lxc::part(root),
    })
}

/// Devices of the host that the domain has: ours by name, others by what they are.
fn devices(root: Node<'_, '_>) -> BTreeMap<String, DeviceAt> {
    let mut out = BTreeMap::new();
    for (alias, at, _) in hostdevs(root) {
        out.insert(alias.map_or_else(|| at.to_string(), str::to_owned), at);
    }
    out
}

/// Every `<hostdev>` of USB and PCI: our name for it, and what it is.
pub(super) fn hostdevs<'a, 'i>(root: Node<'a, 'i>) -> Vec<(Option<&'a str>, DeviceAt, Node<'a, 'i>)> {
    let Some(devices) = child(root, "devices") else { return Vec::new() };
    let mut out = Vec::new();
    for node in devices.children().filter(|n| is(*n, "hostdev")) {
        let Some(source) = child(node, "source") else { continue };
        let at = match node.attribute("type") {
            Some("usb") => usb(source),
            Some("pci") => pci(source),
            _ => None,
        };
        let alias = child(node, "alias").and_then(|a| a.attribute("name")?.strip_prefix(DEVICE_ALIAS));
        out.extend(at.map(|at| (alias, at, node)));
    }
    out
}

fn usb(source: Node<'_, '_>) -> Option<DeviceAt> {
    let id = |name| number(child(source, name)?.attribute("id")?);
    let address = child(source, "address");
    let part = |name| number(address?.attribute(name)?);
    let (id, place) = (id("vendor").zip(id("product")), part("bus").zip(part("device")));
    (id.is_some() || place.is_some()).then_some(DeviceAt::Usb { id, place })
}

fn pci(source: Node<'_, '_>) -> Option<DeviceAt> {
    let address = child(source, "address")?;
    let part = |name| address.attribute(name).and_then(number);
    let small = |name| part(name).and_then(|n| u8::try_from(n).ok());
    let (domain, bus) = (part("domain").unwrap_or(0), small("bus")?);
    Some(DeviceAt::Pci(PciAddress { domain, bus, slot: small("slot")?, function: small("function")? }))
}

/// `0x0529`, or a decimal number.
fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Where devices can be plugged in while it runs: a USB controller, and PCIe root ports whose bus no device is on.
fn ports(root: Node<'_, '_>) -> Ports {
    let Some(devices) = child(root, "devices") else { return Ports::default() };
    let controllers = |kind| children(devices, "controller").filter(move |c| c.attribute("type") == Some(kind));
    let usb = controllers("usb").any(|c| c.attribute("model") != Some("none"));
    let address = |n: Node<'_, '_>| {
        let address = child(n, "address").filter(|a| a.attribute("type") == Some("pci"))?;
        number(address.attribute("bus")?)
    };
    let taken: Vec<u16> = devices.children().filter(Node::is_element).filter_map(address).collect();
    let root_ports = controllers("pci").filter(|c| c.attribute("model") == Some("pcie-root-port"));
    let free = root_ports.filter_map(|c| number(c.attribute("index")?)).filter(|bus| !taken.contains(bus)).count();
    Ports { usb, pci: u32::try_from(free).unwrap_or(u32::MAX) }
}

fn display(root: Node<'_, '_>) -> Option<Display> {
    let model = child(child(child(root, "devices")?, "video")?, "model")?;
    let resolution = child(model, "resolution")?;
    let number = |name| resolution.attribute(name).and_then(|v| v.parse().ok());
    Some(Display { width: number("x")?, height: number("y")? })
}

fn screen(graphics: Node<'_, '_>) -> Option<String> {
    let listen = child(graphics, "listen");
    let socket = graphics.attribute("socket").or_else(|| listen.and_then(|l| l.attribute("socket")));
    if let Some(path) = socket {
        return Some(path.to_owned());
    }
    let port = graphics.attribute("port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0)?;
    let host = graphics.attribute("listen").or_else(|| listen.and_then(|l| l.attribute("address")))?;
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Parses a document.
pub(super) fn parse(xml: &str) -> Result<Document<'_>, XmlError> {
    Document::parse(xml).map_err(|e| XmlError::Syntax(e.to_string()))
}

/// The first child element of this name, outside any namespace.
pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| is(*n, name))
}

/// All child elements of this name.
pub(super) fn children<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'a str) -> impl Iterator<Item = Node<'a, 'i>> + 'a {
    node.children().filter(move |n| is(*n, name))
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim).filter(|t| !t.is_empty())
}

/// Our stamp element, if the domain has one.
pub(super) fn stamp_node<'a, 'i>(root: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    child(root, "metadata")?
        .children()
        .find(|n| n.is_element() && n.tag_name().namespace() == Some(STAMP_NS) && n.tag_name().name() == "stamp")
}

/// Every `<disk device='disk'>` with the name by which we call it: what our alias says, else what the stamp of an adopted
/// VM calls its target, else the target. CD-ROM and floppy drives are not ours.
pub(super) fn named_disks<'a, 'i>(root: Node<'a, 'i>) -> Vec<(String, Node<'a, 'i>)> {
    let adopted = read_stamp(root).and_then(Result::ok).and_then(|s| s.adopted);
    disks_named(root, adopted.as_ref())
}

fn disks_named<'a, 'i>(root: Node<'a, 'i>, adopted: Option<&BTreeMap<String, String>>) -> Vec<(String, Node<'a, 'i>)> {
    let Some(devices) = child(root, "devices") else { return Vec::new() };
    let mut out: Vec<(String, Node<'a, 'i>)> = Vec::new();
    for node in devices.children().filter(|n| is(*n, "disk")) {
        if !matches!(node.attribute("device"), None | Some("disk")) {
            continue;
        }
        let alias = child(node, "alias").and_then(|a| a.attribute("name")?.strip_prefix(DISK_ALIAS));
        let target = child(node, "target").and_then(|t| t.attribute("dev")).unwrap_or_default();
        let stamped = adopted.and_then(|a| a.get(target)).map(String::as_str);
        out.push((alias.or(stamped).unwrap_or(target).to_owned(), node));
    }
    out
}

/// Our stamp, if the domain has one.
fn read_stamp(root: Node<'_, '_>) -> Option<Result<Stamp, String>> {
    let text: String = stamp_node(root)?.children().filter_map(|n| n.text()).collect();
    Some(serde_json::from_str(text.trim()).map_err(|e| e.to_string()))
}

/// The MAC of an interface.
pub(super) fn mac_of(node: Node<'_, '_>) -> Option<Mac> {
    child(node, "mac")?.attribute("address")?.to_ascii_lowercase().parse().ok()
}

fn source_path<'a>(source: Node<'a, '_>) -> Option<&'a str> {
    ["file", "dev", "name", "dir", "volume"].iter().find_map(|a| source.attribute(*a))
}

/// An element such as `<memory unit='KiB'>`; the units are those of virScaleInteger ("Memory Allocation", formatdomain).
pub(super) fn bytes(node: Node<'_, '_>) -> Option<Bytes> {
    let number: u64 = node.text()?.trim().parse().ok()?;
    let factor: u64 = match node.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor).map(Bytes)
}
