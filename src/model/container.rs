//! Containers: what a host with libvirt's LXC driver runs in place of a virtual machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::desired::{Image, ImageFormat};
use super::ids::Mac;
use super::moving::Layer;
use super::quantity::Bytes;

/// Size of a container's root when nobody says: a file with holes, so what is not written takes no room.
pub const CONTAINER_ROOT: Bytes = Bytes::gib(4);

/// Ending of a container's disks: files with an ext4 file system that libvirt mounts through a loop device.
pub const CONTAINER_DISK: &str = "ext4";

/// Ending of a container's seed: the name servers, as resolv.conf(5) says them.
pub const CONTAINER_SEED: &str = "conf";

/// Where a container finds its seed.
pub const CONTAINER_SEED_AT: &str = "/etc/resolv.conf";

/// The first program of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Its path in the container.
    pub path: Arc<str>,
    /// Its arguments.
    pub arguments: Vec<Arc<str>>,
    /// Its environment, beside what libvirt puts there.
    pub environment: BTreeMap<Arc<str>, Arc<str>>,
}

impl Default for Init {
    fn default() -> Self {
        Self { path: "/sbin/init".into(), arguments: Vec::new(), environment: BTreeMap::new() }
    }
}

/// What a container's definition says beside what it has in common with a VM's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its first program.
    pub init: Init,
    /// What the host gives its interfaces before the first program runs, by MAC.
    pub addresses: BTreeMap<Mac, ContainerAddress>,
    /// The same in IPv6.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses6: BTreeMap<Mac, ContainerAddress6>,
}

/// What the host gives an interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerAddress {
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of its subnet's prefix.
    pub prefix: u8,
    /// The default route through it.
    pub gateway: Option<Ipv4Addr>,
}

/// What the host gives an interface of a container in IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerAddress6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// The length of its subnet's prefix.
    pub prefix: u8,
    /// The default route through it.
    pub gateway: Option<Ipv6Addr>,
}

impl Image {
    /// What runs its clones.
    pub const fn layer(&self) -> Layer {
        match self.format {
            ImageFormat::Rootfs => Layer::Lxc,
            ImageFormat::Qcow2 | ImageFormat::Raw => Layer::Qemu,
        }
    }
}
