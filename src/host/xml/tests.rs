//! Golden texts, foreign XML, and the property that an edit touches nothing that is not ours.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Acceleration, Bytes, DeviceAt, Digest, Display, Firmware, ImageFormat, Mac, Name, NicStamp, Ports, Protection,
    Shape, ShapeDisk, ShapeNic, Span, Stamp, StopPolicy,
};
use crate::plan::{DomainDevice, DomainDisk, DomainNic, DomainSpec, Edit, KernelBoot};

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub(super) fn stamp() -> Stamp {
    Stamp {
        fleet: name("shop"),
        vm: name("web-1"),
        incarnation: 2,
        protect: Protection::Destroy,
        spec: "ab]]>cd".to_owned(),
        image: Some(Digest::new(&format!("sha256:{}", "0".repeat(64))).unwrap()),
        image_name: Some(name("tiny")),
        rolled: None,
        management: None,
        seed: "<&'\">\n".to_owned(),
        nics: BTreeMap::from([(
            name("lan"),
            NicStamp { address: Some([10, 0, 0, 2].into()), ..NicStamp::new(mac(1)) },
        )]),
        group: "shop/web".into(),
        ready: None,
        guard: None,
        quarantine: None,
        stop: StopPolicy { deadline: Span::secs(20), power_off: true },
        persistent_root: false,
        root: None,
        after: Vec::new(),
        adopted: None,
        tasks: BTreeMap::new(),
        leased: None,
    }
}

fn disk(name: &str, target: &str, format: ImageFormat) -> DomainDisk {
    let path = format!("/slots/shop.web-1.2.{name}");
    DomainDisk { name: name.to_owned(), path, target: target.to_owned(), format, readonly: format == ImageFormat::Raw }
}

fn nic(n: &str, last: u8) -> DomainNic {
    DomainNic { name: name(n), mac: mac(last), bridge: "shq0".to_owned(), tap: format!("sh{last}") }
}

pub(super) fn spec() -> DomainSpec {
    DomainSpec {
        vm: name("web-1"),
        domain: "shop.web-1".to_owned(),
        uuid: uuid::Uuid::from_u128(7),
        cpus: 1,
        max_cpus: 2,
        memory: Bytes::mib(96),
        max_memory: Bytes::mib(192),
        machine: "pc-q35-7.2".to_owned(),
        firmware: Firmware::Bios,
        cpu_model: None,
        acceleration: Acceleration::Tcg,
        display: Display { width: 1024, height: 768 },
        kernel: Some(KernelBoot {
            kernel: "/images/k".to_owned(),
            initrd: Some("/images/i".to_owned()),
            command_line: "root=/dev/vda quiet a=\"b & c\"".to_owned(),
        }),
        disks: vec![
            disk("root", "vda", ImageFormat::Qcow2),
            disk("seed", "vdb", ImageFormat::Raw),
            disk("data", "vdc", ImageFormat::Qcow2),
        ],
        nics: vec![nic("lan", 1)],
        devices: Vec::new(),
        container: None,
        console: "/slots/shop.web-1.console".to_owned(),
    }
}

fn shape_of(spec: &DomainSpec) -> Shape {
    let kernel = spec.kernel.as_ref();
    let disk = |d: &DomainDisk| ShapeDisk { path: d.path.clone(), target: d.target.clone(), readonly: d.readonly };
    let nic = |n: &DomainNic| ShapeNic { bridge: n.bridge.clone(), tap: Some(n.tap.clone()) };
    Shape {
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: spec.memory,
        max_memory: spec.max_memory,
        machine: spec.machine.clone(),
        firmware: spec.firmware,
        acceleration: spec.acceleration,
        display: Some(spec.display),
        kernel: kernel.map(|k| k.kernel.clone()),
        initrd: kernel.and_then(|k| k.initrd.clone()),
        command_line: kernel.map(|k| k.command_line.clone()),
        disks: spec.disks.iter().map(|d| (d.name.clone(), disk(d))).collect(),
        nics: spec.nics.iter().map(|n| (n.mac, nic(n))).collect(),
        devices: BTreeMap::new(),
        ports: Ports::default(),
        container: spec.container.clone(),
    }
}

#[test]
fn a_new_domain_reads_back_as_what_was_asked() {
    let xml = domain(&spec(), &stamp(), Some("/r/agent/x"));
    let reading = read(&xml).unwrap();
    assert_eq!(reading.shape, shape_of(&spec()));
    assert_eq!(reading.stamp, Some(Ok(stamp())));
    assert_eq!(reading.uuid, spec().uuid);
    assert_eq!(reading.console.as_deref(), Some("/slots/shop.web-1.console"));
    let files = sources(&xml).unwrap();
    assert!(
        ["/images/k", "/images/i", "/slots/shop.web-1.2.data"].iter().all(|f| files.iter().any(|s| s == f)),
        "{files:?}"
    );
    assert_eq!(disk_format(&xml, "/slots/shop.web-1.2.seed").unwrap(), "raw");
    insta::with_settings!({snapshot_path => "../../../tests/cases/host", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("a_new_domain.xml", xml);
    });
}

/// QEMU before 9.0 loses written pages of emulated guests whose memory fills its words of 64 pages.
#[test]
fn the_memory_of_an_emulated_guest_never_fills_whole_words_of_pages() {
    let size = |xml: &str| -> Option<u64> {
        let (_, rest) = xml.split_once("id=stablehand.ram,size=")?;
        rest.split('\'').next()?.parse().ok()
    };
    let emulated = domain(&spec(), &stamp(), None);
    assert_eq!(size(&emulated), Some(Bytes::mib(192).0 + 8192));
    let memory = |kib: u64| [Edit::Memory { memory: Bytes::mib(96), max: Bytes(kib << 10) }];
    for (kib, mib) in [(262_144, 256), (262_145, 257)] {
        let larger = apply(&emulated, &memory(kib)).unwrap();
        assert_eq!(size(&larger), Some(Bytes::mib(mib).0 + 8192), "as libvirt rounds it");
        assert_eq!(apply(&larger, &memory(kib)).unwrap(), larger, "doing it twice does no harm");
        assert!(size(&larger).is_some_and(|s| s % (64 * 4096) != 0));
    }
    let kvm = apply(&emulated, &[Edit::Acceleration(Acceleration::Kvm)]).unwrap();
    assert!(!kvm.contains("qemu:"), "{kvm}");
    assert_eq!(domain(&DomainSpec { acceleration: Acceleration::Kvm, ..spec() }, &stamp(), None).find("qemu:"), None);
    let back = apply(&kvm, &[Edit::Acceleration(Acceleration::Tcg)]).unwrap();
    assert_eq!(size(&back), size(&emulated));
    // Arguments that somebody else gave are never ours, and ours are not put beside them.
    let foreign = apply(FOREIGN, &[Edit::Acceleration(Acceleration::Tcg)]).unwrap();
    assert_eq!(size(&foreign), None);
}

/// As another tool wrote it: units, comments, elements that we do not know, devices that are not ours.
const FOREIGN: &str = include_str!("../../../tests/cases/host/foreign.xml");

#[test]
fn a_foreign_domain_is_read() {
    let reading = read(FOREIGN).unwrap();
    assert_eq!(reading.stamp, None);
    assert_eq!((reading.shape.memory, reading.shape.max_memory), (Bytes::gib(1), Bytes::gib(2)));
    assert_eq!((reading.shape.cpus, reading.shape.max_cpus), (4, 4));
    assert_eq!(reading.shape.disks.keys().map(String::as_str).collect::<Vec<_>>(), ["sda", "vda"]);
    assert_eq!(reading.shape.firmware, Firmware::Uefi);
    assert_eq!(reading.shape.acceleration, Acceleration::Kvm);
}

/// Takes a foreign domain over and changes everything of it that is ours; a person reads the difference.
#[test]
fn adopting_a_foreign_domain_changes_only_what_is_ours() {
    let names = BTreeMap::from([("vda".to_owned(), "root".to_owned()), ("sda".to_owned(), "old".to_owned())]);
    let stamp = Stamp { adopted: Some(names), image: None, image_name: None, ..stamp() };
    let stamped = restamp(FOREIGN, &stamp).unwrap();
    let edits = [
        Edit::Memory { memory: Bytes::mib(512), max: Bytes::gib(4) },
        Edit::Cpus { cpus: 2, max: 8 },
        Edit::Machine("pc-q35-8.0".to_owned()),
        Edit::Acceleration(Acceleration::Tcg),
        Edit::Display(Display { width: 800, height: 600 }),
        Edit::AddDisk(disk("data", "vdb", ImageFormat::Qcow2)),
        Edit::RemoveDisk("old".to_owned()),
        Edit::DiskPath { name: "root".to_owned(), path: "/slots/new & old".to_owned() },
        Edit::NicBridge { mac: Mac([0x52, 0x54, 0, 1, 2, 3]), bridge: "shq0".to_owned(), tap: "shx".to_owned() },
        Edit::AddNic(nic("wan", 9)),
    ];
    let edited = apply(&stamped, &edits).unwrap();
    assert_eq!(apply(&edited, &edits).unwrap(), edited, "doing it twice does no harm");
    let shape = read(&edited).unwrap().shape;
    assert_eq!((shape.memory, shape.max_memory, shape.cpus, shape.max_cpus), (Bytes::mib(512), Bytes::gib(4), 2, 8));
    assert_eq!(shape.disks.keys().map(String::as_str).collect::<Vec<_>>(), ["data", "root"]);
    assert_eq!(shape.disks["root"].path, "/slots/new & old");
    assert_eq!(
        shape.nics[&Mac([0x52, 0x54, 0, 1, 2, 3])],
        ShapeNic { bridge: "shq0".to_owned(), tap: Some("shx".to_owned()) }
    );
    insta::with_settings!({snapshot_path => "../../../tests/cases/host", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("a_foreign_domain_adopted.xml", edited);
    });
}

#[test]
fn a_stamp_comes_and_goes_without_a_trace() {
    let stamped = restamp(FOREIGN, &stamp()).unwrap();
    assert_eq!(read(&stamped).unwrap().stamp, Some(Ok(stamp())));
    assert_eq!(restamp(&stamped, &stamp()).unwrap(), stamped);
    assert_eq!(unstamp(&stamped).unwrap(), FOREIGN);
    let other = Stamp { incarnation: 9, ..stamp() };
    assert_eq!(read(&restamp(&stamped, &other).unwrap()).unwrap().stamp, Some(Ok(other)));
}

#[test]
fn what_cannot_be_edited_is_said() {
    let missing = apply(FOREIGN, &[Edit::DiskPath { name: "nope".to_owned(), path: "/x".to_owned() }]);
    assert_eq!(missing.unwrap_err().to_string(), "the domain has no disk `nope`");
    let numa =
        FOREIGN.replace("<cpu mode='host-passthrough'", "<cpu mode='host-passthrough'><numa/></cpu><cpu mode='x'");
    assert!(apply(&numa, &[Edit::Memory { memory: Bytes::gib(1), max: Bytes::gib(1) }]).is_err());
    let taken = apply(FOREIGN, &[Edit::AddDisk(disk("data", "sda", ImageFormat::Qcow2))]);
    assert!(taken.unwrap_err().to_string().contains("another disk at `sda`"));
    assert!(read("<domain>").is_err());
    assert!(read("<domain/>").is_err());
}

fn dongle(name_of_it: &str, place: Option<(u16, u16)>) -> DomainDevice {
    DomainDevice { name: name(name_of_it), device: None, at: DeviceAt::Usb { id: Some((0x0529, 1)), place } }
}

fn gpu() -> DomainDevice {
    let at = DeviceAt::Pci("0000:65:1f.7".parse().unwrap());
    DomainDevice { name: name("gpu"), device: Some(name("card")), at }
}

#[test]
fn devices_of_the_host_read_back_and_bring_their_controller() {
    let spec = DomainSpec { devices: vec![dongle("licence", None), gpu()], ..spec() };
    let text = domain(&spec, &stamp(), None);
    let shape = read(&text).unwrap().shape;
    let wanted = [("gpu", gpu().at), ("licence", dongle("x", None).at)];
    assert_eq!(shape.devices, wanted.map(|(n, at)| (n.to_owned(), at)).into());
    assert!(shape.ports.usb && text.contains("qemu-xhci") && !text.contains("model='none'/>\n    <serial"));
}

#[test]
fn the_first_usb_device_brings_a_controller_and_leaves_it() {
    let bare = domain(&spec(), &stamp(), None);
    assert!(!read(&bare).unwrap().shape.ports.usb);
    let add = [Edit::AddDevice(dongle("licence", Some((1, 4)))), Edit::AddDevice(gpu())];
    let with = apply(&bare, &add).unwrap();
    assert_eq!(apply(&with, &add).unwrap(), with, "doing it twice does no harm");
    let shape = read(&with).unwrap().shape;
    assert!(shape.ports.usb && shape.devices.len() == 2, "{with}");
    assert_eq!(shape.devices["licence"].to_string(), "usb 0529:0001 1-4");
    let other = apply(&with, &[Edit::AddDevice(dongle("licence", Some((1, 5))))]);
    assert!(other.unwrap_err().to_string().contains("another device `licence`"));
    let without = apply(&with, &[Edit::RemoveDevice(name("licence")), Edit::RemoveDevice(name("gpu"))]).unwrap();
    let shape = read(&without).unwrap().shape;
    assert!(shape.ports.usb && shape.devices.is_empty());
}

#[test]
fn a_root_port_with_nothing_in_it_is_free() {
    let port = |index: u8| {
        format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'>\
             <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x{index}'/></controller>"
        )
    };
    let taken = "<rng model='virtio'><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></rng>";
    let text =
        domain(&spec(), &stamp(), None).replace("</devices>", &format!("{}{}{taken}</devices>", port(1), port(2)));
    assert_eq!(read(&text).unwrap().shape.ports, Ports { usb: false, pci: 1 });
}

fn any_text() -> impl Strategy<Value = String> {
    "[ -~äß<>&'\"]{0,20}"
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (1u32..4, 4u32..9).prop_map(|(cpus, max)| Edit::Cpus { cpus, max }),
        (1u64..999, 1000u64..9999).prop_map(|(m, max)| Edit::Memory { memory: Bytes(m << 10), max: Bytes(max << 10) }),
        any_text().prop_map(Edit::Machine),
        Just(Edit::Firmware(Firmware::Bios)),
        Just(Edit::Firmware(Firmware::Uefi)),
        Just(Edit::Acceleration(Acceleration::Kvm)),
        Just(Edit::Acceleration(Acceleration::Tcg)),
        (1u32..4000, 1u32..4000).prop_map(|(width, height)| Edit::Display(Display { width, height })),
        Just(Edit::Kernel(None)),
        ("/[a-z&<]{1,9}", "[a-z&<= ]{1,9}[a-z]").prop_map(|(kernel, command_line)| {
            Edit::Kernel(Some(KernelBoot { kernel, initrd: None, command_line }))
        }),
        Just(Edit::AddDisk(disk("data", "vdb", ImageFormat::Qcow2))),
        Just(Edit::RemoveDisk("data".to_owned())),
        Just(Edit::RemoveDisk("sda".to_owned())),
        any_text().prop_map(|path| Edit::DiskPath { name: "vda".to_owned(), path }),
        Just(Edit::AddNic(nic("wan", 9))),
        Just(Edit::AddDevice(gpu())),
        Just(Edit::RemoveDevice(name("gpu"))),
        Just(Edit::RemoveNic(mac(9))),
        Just(Edit::NicBridge { mac: Mac([0x52, 0x54, 0, 1, 2, 3]), bridge: "b&".to_owned(), tap: "t".to_owned() }),
    ]
}

/// What is not ours in the foreign domain, each of which must survive byte for byte.
const TREASURES: [&str; 10] = [
    "<!-- made by hand, do not touch -->",
    "<libosinfo:os id=\"http://debian.org/debian/12\"/>",
    "<watchdog model='i6300esb' action='reset'/>",
    "<hostdev mode='subsystem' type='usb' managed='yes'>",
    "<address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>",
    "<feature policy='disable' name='vmx'/>",
    "<qemu:arg value='-device'/>",
    "<![CDATA[<not> & parsed]]>",
    "<timer name='rtc' tickpolicy='catchup'/>",
    "<suspend-to-mem   enabled = \"no\" />",
];

proptest! {
    #[test]
    fn edits_touch_nothing_that_is_not_ours(edits in proptest::collection::vec(any_edit(), 1..8)) {
        // Without the processor's own features when it may be exchanged whole.
        let changes_cpu = edits.iter().any(|e| matches!(e, Edit::Acceleration(_)));
        let edited = apply(FOREIGN, &edits).unwrap();
        for treasure in TREASURES {
            if !(changes_cpu && treasure.starts_with("<feature")) {
                prop_assert!(edited.contains(treasure), "lost {treasure} by {edits:?}");
            }
        }
        let shape = read(&edited).unwrap().shape;
        for edit in &edits {
            if let Edit::Machine(_) = edit {
                let last = edits.iter().rev().find_map(|e| if let Edit::Machine(m) = e { Some(m) } else { None });
                prop_assert_eq!(Some(&shape.machine), last);
            }
        }
        // The whole list once more: the same text, where no edit undoes another's ground.
        let again = apply(&edited, &edits).unwrap();
        prop_assert_eq!(read(&again).unwrap().shape, shape);
    }

    #[test]
    fn any_stamp_reads_back(spec in any_text(), seed in "\\PC{0,30}") {
        let stamp = Stamp { spec, seed, ..stamp() };
        let stamped = restamp(FOREIGN, &stamp).unwrap();
        prop_assert_eq!(read(&stamped).unwrap().stamp, Some(Ok(stamp.clone())));
        prop_assert_eq!(read(&domain(&super::tests::spec(), &stamp, None)).unwrap().stamp, Some(Ok(stamp)));
    }
}
