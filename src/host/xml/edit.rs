//! Edits of a domain's inactive XML, in place: text is exchanged at the ranges of the elements that are ours, so that
//! every other byte survives.

use std::ops::Range;

use roxmltree::Node;

use super::read::{XmlError, bytes, child, children, hostdevs, mac_of, named_disks, parse, stamp_node};
use super::{escape, escape_text, lxc, ram, write};
use crate::model::{Acceleration, Firmware, Mac, Stamp};
use crate::plan::{DomainDevice, DomainDisk, DomainNic, Edit, KernelBoot};

/// Applies edits in their order. Applying them to their own result changes nothing.
/// [`Edit::Autostart`] is no part of the XML and is passed over.
///
/// # Errors
/// [`XmlError`] when an edit names a disk or interface that is not there, or would collide with what is.
pub fn apply(xml: &str, edits: &[Edit]) -> Result<String, XmlError> {
    edits.iter().try_fold(xml.to_owned(), |text, edit| one(&text, edit))
}

/// Exchanges or adds our stamp.
///
/// # Errors
/// [`XmlError::Syntax`], or no `<name>`.
pub fn restamp(xml: &str, stamp: &Stamp) -> Result<String, XmlError> {
    splice(xml, |root, out| {
        if let Some(node) = stamp_node(root) {
            // Only the text: the prefix and where it is bound stay as they are.
            out.set_text(node, &write::json(stamp));
        } else if let Some(metadata) = child(root, "metadata") {
            out.append(metadata, &write::stamp_element(stamp));
        } else {
            let after = child(root, "uuid").or_else(|| child(root, "name")).ok_or(XmlError::Missing("name"))?;
            out.after(after, &format!("<metadata>{}</metadata>", write::stamp_element(stamp)));
        }
        if let Some(node) = child(root, "on_reboot").filter(|_| stamp.root.is_some()) {
            out.set_text(node, write::on_reboot(stamp));
        }
        Ok(())
    })
}

/// Takes our stamp away, and `<metadata>` with it when nothing else is in it.
///
/// # Errors
/// [`XmlError::Syntax`].
pub fn unstamp(xml: &str) -> Result<String, XmlError> {
    splice(xml, |root, out| {
        if let (Some(node), Some(metadata)) = (stamp_node(root), child(root, "metadata")) {
            let alone = metadata.children().all(|n| n == node || (n.is_text() && blank(n)));
            out.remove(if alone { metadata } else { node });
        }
        Ok(())
    })
}

fn one(xml: &str, edit: &Edit) -> Result<String, XmlError> {
    splice(xml, |root, out| {
        let container = if lxc::is(root) { lxc::edit(root, out, edit) } else { None };
        container.unwrap_or_else(|| machine(root, out, edit))
    })
}

fn machine(root: Node<'_, '_>, out: &mut Splices<'_>, edit: &Edit) -> Result<(), XmlError> {
    match edit {
        Edit::Cpus { cpus, max } => self::cpus(root, out, *cpus, *max),
        Edit::Memory { memory, max } => self::memory(root, out, memory.kib_ceil(), max.kib_ceil()),
        Edit::Machine(machine) => {
            let node = child(required(root, "os")?, "type").ok_or(XmlError::Missing("type"))?;
            out.set_attribute(node, "machine", machine);
            Ok(())
        }
        Edit::Firmware(firmware) => self::firmware(root, out, *firmware),
        Edit::Acceleration(acceleration) => {
            self::acceleration(root, out, *acceleration);
            Ok(())
        }
        Edit::Display(display) => {
            let devices = required(root, "devices")?;
            let model = child(devices, "video").and_then(|v| child(v, "model"));
            let model = model.ok_or_else(|| XmlError::Refused("the domain has no video device".to_owned()))?;
            if let Some(node) = child(model, "resolution") {
                out.set_attribute(node, "x", &display.width.to_string());
                out.set_attribute(node, "y", &display.height.to_string());
            } else {
                out.append(model, &format!("<resolution x='{}' y='{}'/>", display.width, display.height));
            }
            Ok(())
        }
        Edit::Kernel(kernel) => self::kernel(root, out, kernel.as_ref()),
        Edit::AddDisk(disk) => add_disk(root, out, disk),
        Edit::RemoveDisk(name) => {
            if let Some((_, node)) = named_disks(root).into_iter().find(|(n, _)| n == name) {
                out.remove(node);
            }
            Ok(())
        }
        Edit::DiskPath { name, path } => disk_path(root, out, name, path),
        Edit::AddNic(nic) => add_nic(root, out, nic),
        Edit::RemoveNic(mac) => {
            if let Some(node) = interface(root, *mac)? {
                out.remove(node);
            }
            Ok(())
        }
        Edit::NicBridge { mac, bridge, tap } => nic_bridge(root, out, *mac, bridge, tap),
        Edit::AddDevice(device) => add_device(root, out, device),
        Edit::RemoveDevice(name) => {
            for (_, _, node) in hostdevs(root).into_iter().filter(|(n, ..)| *n == Some(name.as_str())) {
                out.remove(node);
            }
            Ok(())
        }
        Edit::Container(_) => Err(XmlError::Refused("the domain is no container".to_owned())),
        Edit::Autostart(_) => Ok(()),
    }
}

fn cpus(root: Node<'_, '_>, out: &mut Splices<'_>, now: u32, max: u32) -> Result<(), XmlError> {
    let vcpu = required(root, "vcpu")?;
    if let Some(topology) = child(root, "cpu").and_then(|c| child(c, "topology")) {
        let number = |a| topology.attribute(a).and_then(|v| v.parse::<u32>().ok()).unwrap_or(1);
        let product = ["sockets", "dies", "clusters", "cores", "threads"].into_iter().map(number).product::<u32>();
        if product != max {
            return Err(XmlError::Refused(format!(
                "the domain's <topology> has {product} processors, so `maxCpus: {max}` cannot be set: edit it by hand"
            )));
        }
    }
    out.set_attribute(vcpu, "current", &now.to_string());
    out.set_text(vcpu, &max.to_string());
    // The list of single processors (a trace of hot-plugging) would contradict the new numbers.
    if let Some(list) = child(root, "vcpus") {
        out.remove(list);
    }
    Ok(())
}

fn memory(root: Node<'_, '_>, out: &mut Splices<'_>, now: u64, max: u64) -> Result<(), XmlError> {
    if child(root, "cpu").is_some_and(|c| child(c, "numa").is_some()) {
        return Err(XmlError::Refused(
            "the domain has NUMA cells, whose memory is not edited: do it by hand".to_owned(),
        ));
    }
    let node = required(root, "memory")?;
    out.set_attribute(node, "unit", "KiB");
    out.set_text(node, &max.to_string());
    if let Some(node) = child(root, "currentMemory") {
        out.set_attribute(node, "unit", "KiB");
        out.set_text(node, &now.to_string());
    } else {
        out.after(node, &format!("<currentMemory unit='KiB'>{now}</currentMemory>"));
    }
    ram::resize(root, out, max);
    Ok(())
}

fn firmware(root: Node<'_, '_>, out: &mut Splices<'_>, firmware: Firmware) -> Result<(), XmlError> {
    let os = required(root, "os")?;
    let pflash = child(os, "loader").is_some_and(|l| l.attribute("type") == Some("pflash"));
    let is_uefi = os.attribute("firmware") == Some("efi") || pflash;
    if is_uefi == (firmware == Firmware::Uefi) {
        return Ok(());
    }
    for name in ["loader", "nvram", "firmware"] {
        children(os, name).for_each(|node| out.remove(node));
    }
    match firmware {
        Firmware::Uefi => out.set_attribute(os, "firmware", "efi"),
        Firmware::Bios => out.remove_attribute(os, "firmware"),
    }
    Ok(())
}

fn acceleration(root: Node<'_, '_>, out: &mut Splices<'_>, acceleration: Acceleration) {
    let kvm = acceleration == Acceleration::Kvm;
    out.set_attribute(root, "type", if kvm { "kvm" } else { "qemu" });
    if kvm {
        ram::remove(root, out);
    } else if let Some(memory) = child(root, "memory").and_then(bytes) {
        ram::add(root, out, memory.kib_ceil());
    }
    let Some(cpu) = child(root, "cpu") else { return };
    let mode = cpu.attribute("mode").unwrap_or("custom");
    let ours = mode == "custom" && child(cpu, "model").and_then(|m| m.text()).map(str::trim) == Some("qemu64");
    // Emulation refuses the host's own processor; with KVM the emulated model would waste what the host has.
    // So would it refuse the model that the hosts of a group have in common.
    let shared = mode == "custom" && !ours && cpu.attribute("check") == Some("partial");
    if (kvm && ours) || (!kvm && (mode == "host-passthrough" || shared)) {
        out.replace(cpu.range(), write::cpu(acceleration, None));
    }
}

fn kernel(root: Node<'_, '_>, out: &mut Splices<'_>, kernel: Option<&KernelBoot>) -> Result<(), XmlError> {
    let os = required(root, "os")?;
    let kind = child(os, "type").ok_or(XmlError::Missing("type"))?;
    let wanted = [
        ("kernel", kernel.map(|k| k.kernel.as_str())),
        ("initrd", kernel.and_then(|k| k.initrd.as_deref())),
        ("cmdline", kernel.map(|k| k.command_line.as_str())),
    ];
    let mut missing = String::new();
    for (name, value) in wanted {
        match (child(os, name), value) {
            (Some(node), Some(value)) => out.set_text(node, value),
            (Some(node), None) => out.remove(node),
            (None, Some(value)) => missing.push_str(&format!("<{name}>{}</{name}>", escape_text(value))),
            (None, None) => {}
        }
    }
    if !missing.is_empty() {
        out.after(kind, &missing);
    }
    Ok(())
}

fn add_disk(root: Node<'_, '_>, out: &mut Splices<'_>, disk: &DomainDisk) -> Result<(), XmlError> {
    let devices = required(root, "devices")?;
    let disks = named_disks(root);
    if let Some((_, node)) = disks.iter().find(|(n, _)| *n == disk.name) {
        let path = child(*node, "source").and_then(|s| s.attribute("file"));
        if path == Some(disk.path.as_str()) {
            return Ok(());
        }
        return Err(XmlError::Refused(format!("the domain has another disk `{}`: {}", disk.name, path.unwrap_or("?"))));
    }
    let target = |n: &Node<'_, '_>| child(*n, "target").and_then(|t| t.attribute("dev")) == Some(disk.target.as_str());
    if disks.iter().any(|(_, n)| target(n)) {
        return Err(XmlError::Refused(format!("the domain has another disk at `{}`", disk.target)));
    }
    let element = write::disk(disk);
    match children(devices, "disk").last() {
        Some(last) => out.after(last, &element),
        None => out.append(devices, &element),
    }
    Ok(())
}

fn disk_path(root: Node<'_, '_>, out: &mut Splices<'_>, name: &str, path: &str) -> Result<(), XmlError> {
    let (_, node) = named_disks(root)
        .into_iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| XmlError::NoSuch { what: "disk", name: name.to_owned() })?;
    let source = child(node, "source").filter(|s| s.attribute("file").is_some());
    let source = source.ok_or_else(|| XmlError::Refused(format!("disk `{name}` is not a file")))?;
    if source.attribute("file") != Some(path) {
        out.set_attribute(source, "file", path);
        // What was recorded of the old file's backing chain is not true of the new one.
        children(node, "backingStore").for_each(|n| out.remove(n));
    }
    Ok(())
}

fn add_nic(root: Node<'_, '_>, out: &mut Splices<'_>, nic: &DomainNic) -> Result<(), XmlError> {
    if interface(root, nic.mac)?.is_some() {
        return nic_bridge(root, out, nic.mac, &nic.bridge, &nic.tap);
    }
    let devices = required(root, "devices")?;
    let last = children(devices, "interface").last().or_else(|| children(devices, "disk").last());
    match last {
        Some(last) => out.after(last, &write::nic(nic)),
        None => out.append(devices, &write::nic(nic)),
    }
    Ok(())
}

fn add_device(root: Node<'_, '_>, out: &mut Splices<'_>, device: &DomainDevice) -> Result<(), XmlError> {
    let devices = required(root, "devices")?;
    if let Some((_, at, _)) = hostdevs(root).into_iter().find(|(n, ..)| *n == Some(device.name.as_str())) {
        if device.at.fits(at) {
            return Ok(());
        }
        return Err(XmlError::Refused(format!("the domain has another device `{}`: {at}", device.name)));
    }
    // Our domains begin without USB; where no controller is named, libvirt adds one of its own choice.
    let none = |c: &Node<'_, '_>| c.attribute("type") == Some("usb") && c.attribute("model") == Some("none");
    if device.at.is_usb()
        && let Some(controller) = children(devices, "controller").find(none)
    {
        out.replace(controller.range(), write::USB.to_owned());
    }
    out.append(devices, &write::device(device));
    Ok(())
}

fn nic_bridge(root: Node<'_, '_>, out: &mut Splices<'_>, mac: Mac, bridge: &str, tap: &str) -> Result<(), XmlError> {
    let missing = || XmlError::NoSuch { what: "interface", name: mac.to_string() };
    let node = interface(root, mac)?.ok_or_else(missing)?;
    let source = child(node, "source");
    if node.attribute("type") == Some("bridge") {
        match source {
            Some(source) => out.set_attribute(source, "bridge", bridge),
            None => out.append(node, &format!("<source bridge='{}'/>", escape(bridge))),
        }
    } else {
        // A libvirt network, a direct device: from now on a bridge of the fleet.
        out.set_attribute(node, "type", "bridge");
        let element = format!("<source bridge='{}'/>", escape(bridge));
        match source {
            Some(source) => out.replace(source.range(), element),
            None => out.append(node, &element),
        }
    }
    match child(node, "target") {
        Some(target) => out.set_attribute(target, "dev", tap),
        None => match child(node, "mac") {
            Some(after) => out.after(after, &format!("<target dev='{}'/>", escape(tap))),
            None => out.append(node, &format!("<target dev='{}'/>", escape(tap))),
        },
    }
    Ok(())
}

fn interface<'a, 'i>(root: Node<'a, 'i>, mac: Mac) -> Result<Option<Node<'a, 'i>>, XmlError> {
    let devices = required(root, "devices")?;
    Ok(devices.children().filter(|n| n.has_tag_name("interface")).find(|n| mac_of(*n) == Some(mac)))
}

fn required<'a, 'i>(root: Node<'a, 'i>, name: &'static str) -> Result<Node<'a, 'i>, XmlError> {
    child(root, name).ok_or(XmlError::Missing(name))
}

fn blank(node: Node<'_, '_>) -> bool {
    node.text().is_none_or(|t| t.trim().is_empty())
}

/// Runs `f` over the document and applies the exchanges that it asked for.
fn splice(
    xml: &str,
    f: impl FnOnce(Node<'_, '_>, &mut Splices<'_>) -> Result<(), XmlError>,
) -> Result<String, XmlError> {
    let document = parse(xml)?;
    let mut splices = Splices { xml, list: Vec::new() };
    f(document.root_element(), &mut splices)?;
    let mut list = splices.list;
    // From the end, so that earlier ranges stay true; two insertions at one place keep their order.
    list.sort_by_key(|(range, _)| (range.start, range.end));
    let mut text = xml.to_owned();
    for (range, new) in list.into_iter().rev() {
        text.replace_range(range, &new);
    }
    Ok(text)
}

/// Exchanges of text, collected against one unchanged document.
pub(super) struct Splices<'x> {
    xml: &'x str,
    list: Vec<(Range<usize>, String)>,
}

impl Splices<'_> {
    pub(super) fn replace(&mut self, range: Range<usize>, text: String) {
        if self.xml[range.clone()] != text {
            self.list.push((range, text));
        }
    }

    /// Removes an element, and the white space before it.
    pub(super) fn remove(&mut self, node: Node<'_, '_>) {
        let range = node.range();
        let before = &self.xml[..range.start];
        let start = before.trim_end().len();
        // Only when an element ends there: text of a mixed element is not ours to join.
        let start = if before[..start].ends_with('>') { start } else { range.start };
        self.list.push((start..range.end, String::new()));
    }

    /// Inserts after an element, on a line of its own where that element has one.
    pub(super) fn after(&mut self, node: Node<'_, '_>, text: &str) {
        let range = node.range();
        let before = &self.xml[..range.start];
        let indent = &before[before.trim_end().len()..];
        self.list.push((range.end..range.end, format!("{indent}{text}")));
    }

    /// Inserts as the last child.
    pub(super) fn append(&mut self, parent: Node<'_, '_>, text: &str) {
        let range = parent.range();
        let whole = &self.xml[range.clone()];
        if let Some(last) = parent.last_element_child() {
            self.after(last, text);
        } else if whole.ends_with("/>") {
            let name = self.tag(parent);
            self.list.push((range.end - 2..range.end, format!(">{text}</{name}>")));
        } else {
            let at = range.start + whole.rfind("</").unwrap_or(whole.len());
            self.list.push((at..at, text.to_owned()));
        }
    }

    /// Inserts as the first child of an element that has some.
    pub(super) fn prepend(&mut self, parent: Node<'_, '_>, text: &str) {
        match parent.first_element_child() {
            Some(first) => self.list.push((first.range().start..first.range().start, text.to_owned())),
            None => self.append(parent, text),
        }
    }

    /// Makes `text` the only content of an element.
    pub(super) fn set_text(&mut self, node: Node<'_, '_>, text: &str) {
        if node.text().map(str::trim) == Some(text) && node.first_element_child().is_none() {
            return;
        }
        let range = node.range();
        let whole = &self.xml[range.clone()];
        match (node.first_child(), node.last_child()) {
            (Some(first), Some(last)) => {
                self.list.push((first.range().start..last.range().end, escape_text(text)));
            }
            _ if whole.ends_with("/>") => {
                let name = self.tag(node);
                self.list.push((range.end - 2..range.end, format!(">{}</{name}>", escape_text(text))));
            }
            _ => {
                let at = range.start + whole.rfind("</").unwrap_or(whole.len());
                self.list.push((at..at, escape_text(text)));
            }
        }
    }

    pub(super) fn set_attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        match node.attribute_node(name) {
            Some(attribute) if attribute.value() == value => {}
            Some(attribute) => self.list.push((attribute.range_value(), escape(value))),
            None => {
                let at = node.range().start + 1 + self.tag(node).len();
                self.list.push((at..at, format!(" {name}='{}'", escape(value))));
            }
        }
    }

    fn remove_attribute(&mut self, node: Node<'_, '_>, name: &str) {
        if let Some(attribute) = node.attribute_node(name) {
            let range = attribute.range();
            let start = self.xml[..range.start].trim_end().len();
            self.list.push((start..range.end, String::new()));
        }
    }

    /// The tag as written, prefix included.
    fn tag(&self, node: Node<'_, '_>) -> String {
        let whole = &self.xml[node.range()][1..];
        let end = whole.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap_or(whole.len());
        whole[..end].to_owned()
    }
}
