//! Containers: written, read back, edited.

use std::collections::BTreeMap;

use super::tests::{mac, name, spec, stamp};
use super::*;
use crate::model::{Bytes, Container, ContainerAddress, ContainerAddress6, ImageFormat, Init, Mac};
use crate::plan::{DomainDisk, DomainNic, DomainSpec, Edit};

fn disk(name: &str, at: &str) -> DomainDisk {
    let readonly = name == "seed";
    let ending = if readonly { "conf" } else { "ext4" };
    let path = format!("/containers/shop.web-1.2.{name}.{ending}");
    DomainDisk { name: name.to_owned(), path, target: at.to_owned(), format: ImageFormat::Raw, readonly }
}

fn nic(n: &str, last: u8) -> DomainNic {
    DomainNic { name: name(n), mac: mac(last), bridge: "shq0".to_owned(), tap: format!("sh{last}") }
}

fn told(last: u8) -> (Mac, ContainerAddress) {
    let gateway = (last == 1).then_some([10, 0, 0, 254].into());
    (mac(last), ContainerAddress { address: [10, 0, 0, last].into(), prefix: 24, gateway })
}

fn told6(last: u8) -> (Mac, ContainerAddress6) {
    let gateway = (last == 1).then_some("fe80::1".parse().unwrap());
    (mac(last), ContainerAddress6 { address: format!("fd00::{last}").parse().unwrap(), prefix: 64, gateway })
}

fn container() -> Container {
    let environment = BTreeMap::from([("A".into(), "b & 'c' <d>".into()), ("LANG".into(), "C".into())]);
    let init = Init { path: "/bin/serve".into(), arguments: vec!["--port".into(), "a \"b\"".into()], environment };
    Container { init, addresses: BTreeMap::from([told(1)]), addresses6: BTreeMap::from([told6(1)]) }
}

fn box_spec() -> DomainSpec {
    DomainSpec {
        kernel: None,
        disks: vec![disk("root", "/"), disk("seed", "/etc/resolv.conf"), disk("data", "/srv/data")],
        nics: vec![nic("lan", 1), nic("wan", 2)],
        container: Some(container()),
        ..spec()
    }
}

#[test]
fn a_new_container_reads_back_as_what_was_asked() {
    let spec = box_spec();
    let xml = domain(&spec, &stamp(), None);
    let reading = read(&xml).unwrap();
    assert_eq!(reading.stamp, Some(Ok(stamp())));
    let shape = &reading.shape;
    assert_eq!((shape.cpus, shape.max_cpus), (1, 2));
    assert_eq!((shape.memory, shape.max_memory), (Bytes::mib(96), Bytes::mib(192)));
    assert_eq!(shape.container, spec.container);
    assert_eq!(shape.disks.keys().collect::<Vec<_>>(), ["data", "root", "seed"]);
    for d in &spec.disks {
        let seen = &shape.disks[&d.name];
        assert_eq!((&seen.path, &seen.target, seen.readonly), (&d.path, &d.target, d.readonly));
        assert!(sources(&xml).unwrap().contains(&d.path));
    }
    assert_eq!(shape.nics[&mac(1)].tap.as_deref(), Some("sh1"));
    assert_eq!(disk_format(&xml, "/containers/shop.web-1.2.data.ext4").as_deref(), Ok("ext4"));
    insta::with_settings!({snapshot_path => "../../../tests/cases/host", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("a_new_container.xml", xml);
    });
}

#[test]
fn a_container_is_edited_in_place() {
    let xml = domain(&box_spec(), &stamp(), None).replace("<clock", "<features><privnet/></features>\n  <clock");
    let mut wanted = container();
    wanted.init.arguments.clear();
    wanted.addresses = BTreeMap::from([told(2), told(3)]);
    wanted.addresses6 = BTreeMap::from([told6(3)]);
    let edits = [
        Edit::Cpus { cpus: 2, max: 4 },
        Edit::Memory { memory: Bytes::mib(64), max: Bytes::mib(64) },
        Edit::RemoveDisk("data".to_owned()),
        Edit::AddDisk(disk("data", "/srv/elsewhere")),
        Edit::AddDisk(disk("log", "/var/log")),
        Edit::AddNic(nic("dmz", 3)),
        Edit::RemoveNic(mac(1)),
        Edit::NicBridge { mac: mac(2), bridge: "br9".to_owned(), tap: "sh2".to_owned() },
        Edit::Container(wanted.clone()),
    ];
    let once = apply(&xml, &edits).unwrap();
    let shape = read(&once).unwrap().shape;
    assert_eq!((shape.cpus, shape.max_cpus, shape.memory), (2, 4, Bytes::mib(64)));
    assert_eq!(shape.container, Some(wanted));
    assert_eq!(shape.disks["data"].target, "/srv/elsewhere");
    assert_eq!(shape.disks["log"].target, "/var/log");
    assert_eq!(shape.nics.keys().copied().collect::<Vec<_>>(), [mac(2), mac(3)]);
    assert_eq!(shape.nics[&mac(2)].bridge, "br9");
    assert!(once.contains("<features><privnet/></features>"), "what is not ours stays");
    let twice = apply(&once, &edits[..2]).and_then(|x| apply(&x, &edits[4..])).unwrap();
    assert_eq!(twice, once, "a second time changes nothing");
}

#[test]
fn what_a_container_cannot_have_is_refused() {
    let xml = domain(&box_spec(), &stamp(), None);
    for edit in [
        Edit::Machine("pc-q35-7.2".to_owned()),
        Edit::AddDisk(disk("other", "/srv/data")),
        Edit::AddDisk(disk("data", "/srv/other")),
    ] {
        assert!(apply(&xml, std::slice::from_ref(&edit)).is_err(), "{edit:?}");
    }
    assert!(apply(&domain(&spec(), &stamp(), None), &[Edit::Container(container())]).is_err());
}
