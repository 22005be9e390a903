//! A whole domain from its specification: only ever for a domain that does not exist yet.

use std::fmt::Write as _;

use super::{DEVICE_ALIAS, DISK_ALIAS, NIC_ALIAS, STAMP_NS, STAMP_PREFIX, escape, escape_text, ram};
use crate::model::{Acceleration, DeviceAt, Firmware, ImageFormat, Stamp};
use crate::plan::{DomainDevice, DomainDisk, DomainNic, DomainSpec};

/// The `<sh:stamp>` element: the stamp as JSON text.
pub fn stamp_element(stamp: &Stamp) -> String {
    format!(
        "<{STAMP_PREFIX}:stamp xmlns:{STAMP_PREFIX}='{STAMP_NS}'>{}</{STAMP_PREFIX}:stamp>",
        escape_text(&json(stamp))
    )
}

/// The element that `virDomainSetMetadata` wants: it binds prefix and namespace itself.
pub fn stamp_content(stamp: &Stamp) -> String {
    format!("<stamp>{}</stamp>", escape_text(&json(stamp)))
}

/// The stamp as one line of JSON. A stamp holds nothing that JSON lacks, so the fallback is never taken.
pub(super) fn json(stamp: &Stamp) -> String {
    serde_json::to_string(stamp).unwrap_or_default()
}

/// The XML of a new domain (libvirt, "Domain XML format").
///
/// [`Acceleration::Auto`] is written as software emulation: whoever defines resolves it first. `agent` is the path of the
/// guest agent's socket, where libvirt's own choice may be too long for a socket.
pub fn domain(spec: &DomainSpec, stamp: &Stamp, agent: Option<&str>) -> String {
    if let Some(container) = &spec.container {
        return super::lxc::domain(spec, stamp, container);
    }
    let mut x = String::new();
    let kvm = spec.acceleration == Acceleration::Kvm;
    let _ = write!(
        x,
        "<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    {stamp}
  </metadata>
  <memory unit='KiB'>{max}</memory>
  <currentMemory unit='KiB'>{now}</currentMemory>
  <vcpu placement='static' current='{cpus}'>{max_cpus}</vcpu>
",
        kind = if kvm { "kvm" } else { "qemu" },
        name = escape_text(&spec.domain),
        uuid = spec.uuid,
        stamp = stamp_element(stamp),
        max = spec.max_memory.kib_ceil(),
        now = spec.memory.kib_ceil(),
        cpus = spec.cpus,
        max_cpus = spec.max_cpus,
    );
    os(&mut x, spec);
    let _ = write!(
        x,
        "  <features><acpi/><apic/></features>
  {cpu}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>{reboot}</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
",
        reboot = on_reboot(stamp),
        cpu = cpu(spec.acceleration, spec.cpu_model.as_deref()),
    );
    for d in &spec.disks {
        let _ = writeln!(x, "    {}", disk(d));
    }
    for n in &spec.nics {
        let _ = writeln!(x, "    {}", nic(n));
    }
    for d in &spec.devices {
        let _ = writeln!(x, "    {}", device(d));
    }
    // No USB but for VMs that are given a device there, and no sound: nothing of them is wanted, and each costs a guest
    // without KVM start-up time.
    // The screen is a UNIX socket, so that no host opens a TCP port; VGA because a kernel without a
    // graphics driver shows its text console there.
    let _ = write!(
        x,
        "    {usb}
    <serial type='file'>
      <source path='{console}' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <console type='file'>
      <source path='{console}' append='on'/>
      <target type='serial' port='0'/>
    </console>
    <channel type='unix'>{agent}
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc'>
      <listen type='socket'/>
    </graphics>
    <audio id='1' type='none'/>
    <video>
      <model type='vga' vram='16384' heads='1' primary='yes'>
        <resolution x='{width}' y='{height}'/>
      </model>
    </video>
    <memballoon model='virtio'>
      <stats period='5'/>
    </memballoon>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
{ram}</domain>
",
        ram = if kvm { String::new() } else { format!("  {}\n", ram::element(spec.max_memory.kib_ceil())) },
        usb = if spec.devices.iter().any(|d| d.at.is_usb()) { USB } else { "<controller type='usb' model='none'/>" },
        console = escape(&spec.console),
        agent = agent.map(|path| format!("\n      <source mode='bind' path='{}'/>", escape(path))).unwrap_or_default(),
        width = spec.display.width,
        height = spec.display.height,
    );
    x
}

/// What a guest's own restart does. Where the root disk returns to its image at each start, QEMU ends with it: it would go on
/// with what was written else.
pub(super) const fn on_reboot(stamp: &Stamp) -> &'static str {
    if stamp.root.is_some() { "destroy" } else { "restart" }
}

fn os(x: &mut String, spec: &DomainSpec) {
    let firmware = match spec.firmware {
        Firmware::Bios => "",
        Firmware::Uefi => " firmware='efi'",
    };
    let _ = writeln!(x, "  <os{firmware}>");
    let _ = writeln!(x, "    <type arch='x86_64' machine='{}'>hvm</type>", escape(&spec.machine));
    if let Some(kernel) = &spec.kernel {
        let _ = writeln!(x, "    <kernel>{}</kernel>", escape_text(&kernel.kernel));
        if let Some(initrd) = &kernel.initrd {
            let _ = writeln!(x, "    <initrd>{}</initrd>", escape_text(initrd));
        }
        let _ = writeln!(x, "    <cmdline>{}</cmdline>", escape_text(&kernel.command_line));
    }
    x.push_str("    <boot dev='hd'/>\n  </os>\n");
}

/// The `<cpu>` of an acceleration. Emulation gets a named model, so that a guest can move between hosts; with KVM that is the
/// one that all of them have, if there are several. libvirt looks at its start that the host has it (`check='partial'`).
pub(super) fn cpu(acceleration: Acceleration, model: Option<&str>) -> String {
    let named = |model: &str, check: &str| {
        let model = escape_text(model);
        format!("<cpu mode='custom' match='exact' check='{check}'><model fallback='forbid'>{model}</model></cpu>")
    };
    match (acceleration, model) {
        (Acceleration::Kvm, Some(model)) => named(model, "partial"),
        (Acceleration::Kvm, None) => "<cpu mode='host-passthrough' check='none' migratable='on'/>".to_owned(),
        (Acceleration::Auto | Acceleration::Tcg, _) => named("qemu64", "none"),
    }
}

/// A `<disk>` of ours. A guest knows it by its serial (`/dev/disk/by-id/virtio-<serial>`): the disk's name, and `cidata`
/// for the seed, as cloud-init calls it. The serial holds at most 20 characters (virtio-blk, `VIRTIO_BLK_ID_BYTES`).
pub(super) fn disk(d: &DomainDisk) -> String {
    let (format, options) = match d.format {
        ImageFormat::Qcow2 => ("qcow2", " discard='unmap'"),
        ImageFormat::Raw | ImageFormat::Rootfs => ("raw", ""),
    };
    let serial: String = if d.name == "seed" { "cidata".to_owned() } else { d.name.chars().take(20).collect() };
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'{options}/><source file='{path}'/>\
         <target dev='{target}' bus='virtio'/>{readonly}<serial>{serial}</serial><alias name='{DISK_ALIAS}{name}'/></disk>",
        path = escape(&d.path),
        target = escape(&d.target),
        readonly = if d.readonly { "<readonly/>" } else { "" },
        serial = escape(&serial),
        name = escape(&d.name),
    )
}

/// The USB controller of a VM that is given USB devices: USB 1 to 3, with 15 ports (the most that QEMU's `qemu-xhci` has).
pub(super) const USB: &str = "<controller type='usb' model='qemu-xhci' ports='15'/>";

/// A `<hostdev>` of ours. `managed`: libvirt takes a PCI device from the host's driver, and gives it back.
pub fn device(d: &DomainDevice) -> String {
    let mut source = String::new();
    let kind = match d.at {
        DeviceAt::Usb { id, place } => {
            if let Some((vendor, product)) = id {
                let _ = write!(source, "<vendor id='0x{vendor:04x}'/><product id='0x{product:04x}'/>");
            }
            if let Some((bus, device)) = place {
                let _ = write!(source, "<address bus='{bus}' device='{device}'/>");
            }
            "usb"
        }
        DeviceAt::Pci(at) => {
            let _ = write!(
                source,
                "<address domain='0x{:04x}' bus='0x{:02x}' slot='0x{:02x}' function='0x{:x}'/>",
                at.domain, at.bus, at.slot, at.function
            );
            "pci"
        }
    };
    format!(
        "<hostdev mode='subsystem' type='{kind}' managed='yes'><source>{source}</source>\
         <alias name='{DEVICE_ALIAS}{}'/></hostdev>",
        d.name
    )
}

/// An `<interface>` of ours, without an option ROM: a clone never boots from the network.
pub(super) fn nic(n: &DomainNic) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><target dev='{tap}'/>\
         <model type='virtio'/><rom enabled='no'/><alias name='{NIC_ALIAS}{name}'/></interface>",
        mac = n.mac,
        bridge = escape(&n.bridge),
        tap = escape(&n.tap),
        name = n.name,
    )
}
