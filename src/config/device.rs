//! Devices: what hosts have to give, and what VMs are given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::check::{self, GroupInfo, eligible};
use super::expand::Expanded;
use super::leaf::Int;
use super::read::{Leaf, Loc, Wrong, listed, nearest, spec};
use super::repository::Repository;
use super::sink::{Mark, Sink};
use super::spec::{HostSpec, VmPart};
use crate::model::{Device, DeviceAt, Host, Name, PciAddress, RunState, VmSpec};

spec! {
    /// A device that a host has to give: by `usb` or by `pci`.
    HostDeviceSpec("device") {
        /// On a USB bus: by `vendor` and `product`, or by `bus` and `device`, or by all of them.
        "usb" usb: UsbSpec;
        /// On a PCI bus, as `lspci -D` prints it: `0000:65:00.0`.
        "pci" pci: Loc<PciAddress>;
    }
}

spec! {
    /// A device on a USB bus.
    UsbSpec("usb") {
        /// Four hexadecimal digits in quotes, as `lsusb` prints them: `"0529"`.
        "vendor" vendor: Loc<UsbId>;
        /// Four hexadecimal digits in quotes.
        "product" product: Loc<UsbId>;
        /// Number of the bus.
        "bus" bus: Loc<Int<1, 999>>;
        /// Number on the bus; another one each time that the device is plugged in.
        "device" device: Loc<Int<1, 127>>;
    }
}

spec! {
    /// A device that a VM is given.
    VmDeviceSpec("device") {
        /// The name under which hosts have it (default: the name it has here).
        "device" device: Loc<Name>;
    }
}

/// Half of a USB device's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsbId(pub(crate) u16);

impl Leaf for UsbId {
    const WHAT: &'static str = "four hexadecimal digits";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let whole = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let id = u16::from_str_radix(digits, 16).ok().filter(|_| whole && digits == text);
        id.map(Self).ok_or_else(|| {
            let meant = u16::from_str_radix(digits, 16).ok().filter(|_| digits != text && whole);
            Wrong::new("E0217", format!("`{text}` is not four hexadecimal digits"))
                .suggest(meant.map(|id| format!("\"{id:04x}\"")))
                .help("as `lsusb` prints them, in quotes: `\"0529\"`")
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F]{4}$"})
    }
}

impl Leaf for PciAddress {
    const WHAT: &'static str = "a PCI address";
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|message: String| Wrong::new("E0217", message).help("as `lspci -D` prints it"))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": "^([0-9a-fA-F]{1,4}:)?[0-9a-fA-F]{1,2}:[0-9a-fA-F]{1,2}\\.[0-7]$"})
    }
}

/// What a host has to give.
pub(crate) fn of_host(spec: &HostSpec, sink: &mut Sink) -> BTreeMap<Name, Device> {
    let mut out: BTreeMap<Name, Device> = BTreeMap::new();
    for (name, said) in spec.devices.iter().flat_map(|d| &d.entries) {
        let Some(at) = address(name, said, sink) else { continue };
        if let Some((other, first)) = out.iter().find(|(_, d)| d.at.is_same(at)) {
            let message = format!("`{}` and `{other}` are one device: {at}", name.value);
            let first = sink.mark_of(&first.origin);
            sink.report("E0430", name.at, message).also(first, format!("`{other}`")).help(if at.is_usb() {
                "two of one kind are told apart by `bus` and `device`"
            } else {
                "leave one out"
            });
            continue;
        }
        out.insert(name.value.clone(), Device { at, origin: sink.origin(name.at) });
    }
    out
}

fn address(name: &Loc<Name>, said: &HostDeviceSpec, sink: &mut Sink) -> Option<DeviceAt> {
    match (&said.usb, &said.pci) {
        (Some(usb), None) => usb_address(usb, sink),
        (None, Some(pci)) => Some(DeviceAt::Pci(pci.value)),
        (usb, _) => {
            if !said.flawed {
                let word = if usb.is_some() { "both" } else { "neither" };
                let message = format!("{word} `usb` and `pci` say where the device `{}` is", name.value);
                sink.report("E0218", said.at, message.replace("neither `usb` and", "neither `usb` nor"))
                    .help("like `usb: {vendor: \"0529\", product: \"0001\"}` or `pci: \"0000:65:00.0\"`");
            }
            None
        }
    }
}

fn usb_address(usb: &UsbSpec, sink: &mut Sink) -> Option<DeviceAt> {
    let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let id = usb.vendor.as_ref().zip(usb.product.as_ref()).map(|(v, p)| (v.value.0, p.value.0));
    let place = usb.bus.as_ref().zip(usb.device.as_ref()).map(|(b, d)| (number(b.value.0), number(d.value.0)));
    let half = usb.vendor.is_some() != usb.product.is_some() || usb.bus.is_some() != usb.device.is_some();
    if half || (id.is_none() && place.is_none()) {
        if !usb.flawed {
            let message = "a USB device is known by `vendor` and `product`, or by `bus` and `device`";
            sink.report("E0218", usb.at, message).help("like `{vendor: \"0529\", product: \"0001\"}`");
        }
        return None;
    }
    Some(DeviceAt::Usb { id, place })
}

/// Reports devices of a part of a VM that no host has.
pub(crate) fn references(part: &VmPart, repo: &Repository, sink: &mut Sink) {
    let known: BTreeSet<&str> =
        repo.hosts.values().flat_map(|doc| doc.spec.devices.iter().flat_map(super::read::Named::names)).collect();
    let unsure = repo.may_be_lost_kind("Host") || repo.hosts.values().any(|doc| doc.flawed);
    for (key, said) in part.devices.iter().flat_map(|d| &d.entries) {
        let name = said.device.as_ref().unwrap_or(key);
        if unsure || said.flawed || known.contains(name.value.as_str()) {
            continue;
        }
        let near = nearest(name.value.as_str(), known.iter().copied());
        let none = near.is_none();
        let report = sink.report("E0304", name.at, format!("no host has a device `{}`", name.value)).suggest(near);
        if none {
            let some: Vec<&str> = known.iter().copied().take(8).collect();
            report.help(match some.len() {
                0 => {
                    "a Host says what it has: `devices: {dongle: {usb: {vendor: \"0529\", product: \"0001\"}}}`".into()
                }
                1 => format!("hosts have {}", listed(&some)),
                _ => format!("hosts have {}{}", listed(&some), if known.len() > 8 { " and more" } else { "" }),
            });
        }
    }
}

/// Reports VMs that want more of a device than there are on hosts where they may run: each is in one VM at a time.
pub(crate) fn enough(
    out: &Expanded,
    infos: &BTreeMap<Arc<str>, GroupInfo>,
    hosts: &BTreeMap<Name, Host>,
    repo: &Repository,
    sink: &mut Sink,
) {
    if repo.may_be_lost_kind("Host") || hosts.len() != repo.hosts.len() {
        return;
    }
    let mut wanted: BTreeMap<&Name, Vec<(&str, Mark, &VmSpec, usize)>> = BTreeMap::new();
    for (key, group) in &out.groups {
        let Some((info, spec)) = infos.get(key).and_then(|i| Some((i, i.spec.as_deref()?))) else { continue };
        twice(key, info.at, spec, sink);
        let runs = |name: &&Name| out.vms.get(*name).is_some_and(|vm| vm.run == RunState::Started);
        let running = group.vms.iter().filter(runs).count();
        // Where no host may run it at all, that was said.
        if running == 0 || eligible(spec, hosts).is_empty() {
            continue;
        }
        for device in spec.devices.values().collect::<BTreeSet<_>>() {
            wanted.entry(device).or_default().push((key, info.at, spec, running));
        }
    }
    for (device, groups) in wanted {
        let needs: Vec<(Vec<&Name>, usize)> =
            groups.iter().map(|(.., spec, running)| (eligible(spec, hosts), (*running).min(hosts.len() + 1))).collect();
        if check::can_match(&needs) {
            continue;
        }
        let have: Vec<&str> =
            hosts.values().filter(|h| h.devices.contains_key(device)).map(|h| h.name.as_str()).collect();
        let vms: usize = groups.iter().map(|(.., running)| running).sum();
        let Some((_, at, ..)) = groups.last() else { continue };
        let who: Vec<&str> = groups.iter().map(|(key, ..)| *key).collect();
        let message = format!(
            "{vms} VMs of {} should run with a `{device}`, and {} has one: a device is in one VM at a time",
            listed(&who),
            if have.len() == 1 { format!("only host `{}`", have[0]) } else { format!("each of {}", listed(&have)) }
        );
        let report = sink.report("E0431", *at, message);
        for (key, at, ..) in &groups[..groups.len() - 1] {
            report.also(*at, format!("`{key}` wants it too"));
        }
        report.help("`run: stopped` for all but one, another device of that name on another host, or fewer replicas");
    }
}

/// Reports a VM that wants one device under two names.
fn twice(key: &str, at: Mark, spec: &VmSpec, sink: &mut Sink) {
    let mut seen: BTreeMap<&Name, &Name> = BTreeMap::new();
    for (name, device) in &spec.devices {
        if let Some(first) = seen.insert(device, name) {
            sink.report(
                "E0430",
                at,
                format!("`{key}` wants the device `{device}` twice: as `{first}` and as `{name}`"),
            )
            .help("a VM has a device once");
        }
    }
}
