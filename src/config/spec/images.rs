//! Golden disks, where they come from, and how a VM boots from one.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::Text;
use super::vms::ReadySpec;
use crate::config::generation::{GenerationName, GenerationSpec, RolloutSpec};
use crate::config::leaf::Int;
use crate::config::marker::IdentityChoice;
use crate::config::node::{Kind, Node};
use crate::config::read::{Labels, Loc, Named, Read, not, spec};
use crate::config::recipe::{BuildSpec, ConfigureChoice, FromSpec, Generalise};
use crate::config::sink::{Mark, Sink};
use crate::model::{Bytes, CloneMethod, Compression, Digest, Fetch, ImageFormat, Name, Retire, Stores};

spec! {
    /// A golden disk by digest.
    ImageSpec("Image") {
        /// Where its disk comes from. Needed, unless `current` names a generation.
        "source" source: SourceSpec;
        /// What its disk must be, as it is fetched: `sha256:…` or `sha512:…`. Needed, unless `current` names a generation.
        "digest" digest: Loc<Digest>;
        /// Sealed versions by name or number, in place of `source` and `digest`.
        "generations" generations: Named<GenerationSpec>;
        /// Which of them VMs are made of. To name an older one is to roll back.
        "current" current: Loc<GenerationName>;
        /// How sets of VMs take a new generation.
        "rollout" rollout: RolloutSpec;
        /// Newest generations that stores keep, the current one among them (default 2).
        "keep" keep: Loc<Int<1, 1000>>;
        /// What happens to VMs of an older generation: `auto` (default) rolls them, `keep` leaves them as they are.
        "retire" retire: Loc<Retire>;
        /// How it is packed where it comes from: `auto` (default: what its first bytes say), `none`, `zstd`, `xz` or `gz`.
        /// Hosts unpack it.
        "compression" compression: Loc<Compression>;
        /// Its length as it is fetched: another one is refused, and plans know what it takes.
        "size" size: Loc<Bytes>;
        /// Its length when it is unpacked: a longer one is refused (default: as long as there is room).
        "unpackedSize" unpacked_size: Loc<Bytes>;
        /// `needed` (default): hosts get it when a VM needs it; `all`: every host of its kind has it before.
        "stores" stores: Loc<Stores>;
        /// `each` (default): each host asks the source; `once`: one does, and the others have it from that one, through the
        /// controller.
        "fetch" fetch: Loc<Fetch>;
        /// `qcow2`, `raw`, or `rootfs`: a tar archive (plain, gz, xz or zst) for containers.
        "format" format: Loc<ImageFormat>, required;
        /// `disk` (default; where it is made in the fleet: as what it is made from), a kernel that the host hands over, or of a
        /// container the first program (default `/sbin/init`).
        "boot" boot: BootChoice;
        /// How a clone learns its name and address: `cloud-init` (default), `host` (containers, whose default it is), `none`, or
        /// `{marker: {…}}`: texts in the image that are replaced while the disk is copied into the slot.
        "learnsAddressBy" identity: IdentityChoice;
        /// How a root disk is made: `overlay` (default), `reflink` (the file as it is, sharing blocks where the file system can,
        /// else a full copy) or `copy`; a container's is unpacked, one with markers copied.
        "clone" clone: Loc<CloneMethod>;
        /// It is made in the fleet, in place of `source` and `digest`: from another image, or from a VM.
        "from" from: FromSpec;
        /// The generation that is wanted, by name or number: another one is made, and the sets roll to it. With `from`.
        "revision" revision: Loc<GenerationName>;
        /// What is done in the management instance: `manual`, or a map. With `from`.
        "configure" configure: ConfigureChoice;
        /// What the management instance has. With `from: {image: …}`.
        "build" build: BuildSpec;
        /// What must succeed before it is captured. With `from`.
        "check" check: ReadySpec;
        /// `auto` (default): machine id, SSH host keys, cloud-init's state and logs are taken out of it by the guest agent before
        /// it is captured; `none`. With `from`.
        "generalise" generalise: Loc<Generalise>;
    }
}

spec! {
    /// Where a file comes from: a path or a URL.
    SourceSpec("source") {
        /// A path on the controller, relative to the document's file; with `host` an absolute one there.
        "path" path: Text;
        /// The host of the fleet that has it at `path`.
        "host" host: Loc<Name>;
        /// `https://`, `http://` or `file://`.
        "url" url: Text;
    }
    later { "instance": "is `from: {vm: …}` of the Image itself", }
}

spec! {
    /// A file with its digest.
    FileSpec("file") {
        /// A path on the controller, relative to the document's file; with `host` an absolute one there.
        "path" path: Text;
        /// The host of the fleet that has it at `path`.
        "host" host: Loc<Name>;
        /// `https://`, `http://` or `file://`.
        "url" url: Text;
        /// What it must be.
        "digest" digest: Loc<Digest>, required;
        /// Its length: another one is refused, and plans know what it takes.
        "size" size: Loc<Bytes>;
    }
}

spec! {
    /// A kernel that the host hands over.
    BootSpec("boot") {
        /// The kernel.
        "kernel" kernel: FileSpec, required;
        /// The initial RAM disk.
        "initrd" initrd: FileSpec;
        /// The kernel's command line.
        "commandLine" command_line: Text;
    }
}

spec! {
    /// The first program of a container.
    InitSpec("boot") {
        /// Its path in the container (default `/sbin/init`).
        "init" init: Text;
        /// Its arguments.
        "arguments" arguments: Vec<Text>;
        /// Its environment.
        "environment" environment: Labels;
    }
}

/// `disk`, a kernel, or a container's first program.
#[derive(Clone, Debug)]
pub(crate) enum BootChoice {
    Disk(Mark),
    Kernel(Box<BootSpec>),
    Init(Box<InitSpec>),
}

impl Read for BootChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(s) if s.text == "disk" => Some(Self::Disk(node.at)),
            Kind::Map(map) if map.iter().any(|(key, _)| ["init", "arguments", "environment"].contains(&&*key.text)) => {
                InitSpec::read(node, sink).map(|spec| Self::Init(Box::new(spec)))
            }
            Kind::Map(_) => BootSpec::read(node, sink).map(|spec| Self::Kernel(Box::new(spec))),
            _ => not("`disk`, or a map with a `kernel` or an `init`", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"const": "disk"}, BootSpec::schema(generator), InitSpec::schema(generator)]})
    }
}
