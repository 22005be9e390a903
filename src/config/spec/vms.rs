//! A VM, or a part of one.

use std::net::{Ipv4Addr, Ipv6Addr};

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::Text;
use crate::config::device::VmDeviceSpec;
use crate::config::leaf::{ImageName, Int, Persistence};
use crate::config::node::{Kind, Node};
use crate::config::read::{Labels, Leaf as _, Loc, Named, Read, not, spec};
use crate::config::sink::Sink;
use crate::model::{
    Bytes, Firmware, Name, OnRemove, OnUnknown, Protection, Relocatable, RunState, Span, Then, UpdatePolicy,
};

spec! {
    /// A VM, or a part of one: of defaults, of a template, of an app, of a module's member.
    VmPart("VM") {
        /// A template that gives what is not said here.
        "from" from: Loc<Name>;
        /// The image's name; `none` for a VM that is adopted with the disks it has.
        "image" image: Loc<ImageName>;
        /// Processors now.
        "cpus" cpus: Loc<Int<1, 288>>;
        /// Processors at most without a restart (default: `cpus`).
        "maxCpus" max_cpus: Loc<Int<1, 288>>;
        /// Memory now.
        "memory" memory: Loc<Bytes>;
        /// Memory at most without a restart (default: `memory`).
        "maxMemory" max_memory: Loc<Bytes>;
        /// Size of the root disk, when larger than the image's.
        "rootSize" root_size: Loc<Bytes>;
        /// `persistent`: the root disk is data, and the VM does not go without a Removal; `non-persistent` (default): it goes
        /// with the VM, and in a module returns to its image at every start; `reset`: so it does in a service, too.
        "persistence" persistence: Loc<Persistence>;
        /// Data disks by name: persistent, they outlive the VM.
        "disks" disks: Named<DiskSpec>;
        /// What happens to data disks when the VM goes (default `{retain: 7d}`).
        "onRemove" on_remove: Keep;
        /// Network interfaces by name; the first by name carries the default route and the probes.
        "nics" nics: Named<NicSpec>;
        /// Devices of its host that it is given, by the name that it calls them: it runs only where they are.
        "devices" devices: Named<VmDeviceSpec>;
        /// Versioned machine type (default `pc-q35-7.2`). `newest`: the newest that all hosts have among which it moves, when
        /// it is made; it keeps that.
        "machine" machine: Text;
        /// `bios` (default) or `uefi`.
        "firmware" firmware: Loc<Firmware>;
        /// Geometry of the display (default 1024 by 768).
        "display" display: DisplaySpec;
        /// What cloud-init is given beside hostname and addresses.
        "cloudInit" cloud_init: CloudInitSpec;
        /// How it is known to be ready; without it, running is ready.
        "ready" ready: ReadySpec;
        /// What must go on to succeed while it runs: a VM whose guard fails goes into quarantine.
        "guard" guard: GuardSpec;
        /// How it is stopped.
        "stop" stop: StopSpec;
        /// How a change that needs a restart is made: `staged` (default) or `reboot`.
        "update" update: Loc<UpdatePolicy>;
        /// What needs a Removal first: `none` (default), `destroy`, `recreate` or `all`.
        "protect" protect: Loc<Protection>;
        /// Where it may run.
        "placement" placement: PlacementSpec;
        /// How it may move to another host: `live` (default: while it runs, where that is possible), `cold`, or `never`.
        "relocatable" relocatable: Loc<Relocatable>;
        /// Whether a move may fetch its memory after it went on at the target (default false: a cable that is cut then loses
        /// the guest).
        "postCopy" post_copy: Loc<bool>;
        /// `started` (default), `stopped` or `suspended`.
        "run" run: Loc<RunState>;
        /// What must be ready first: apps of this service, members of this module, or `service/app`.
        "dependsOn" depends_on: Vec<Text>;
        /// How many VMs an app has.
        "replicas" replicas: ReplicasSpec;
        /// On how many hosts an app's VMs are spread.
        "spread" spread: SpreadSpec;
    }
    later {
        "tpm": "comes with desktop images",
        "video": "comes in a later version",
        "guarantees": "comes in a later version",
        "volumes": "comes with shared data",
        "scale": "comes with scaling",
        "costLimit": "comes with costs",
        "security": "is said by `placement.security`",
    }
}

spec! {
    /// A data disk.
    DiskSpec("disk") {
        /// Its size; grows, never shrinks.
        "size" size: Loc<Bytes>;
        /// What happens when the VM goes (default: the VM's `onRemove`).
        "onRemove" on_remove: Keep;
        /// Where a container finds it, an absolute path. A VM's guest mounts its disks by itself.
        "mount" mount: Text;
    }
}

/// `delete`, or `{retain: 7d}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) value: OnRemove,
}

spec! {
    /// How long data disks are kept.
    RetainSpec("the retention") {
        /// How long.
        "retain" retain: Loc<Span>, required;
    }
}

impl Read for Keep {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(s) if s.text == "delete" => Some(Self { value: OnRemove::Delete }),
            Kind::Map(_) => {
                let retain = RetainSpec::read(node, sink)?.retain?;
                Some(Self { value: OnRemove::Retain(retain.value) })
            }
            Kind::Scalar(s) if s.text.parse::<Span>().is_ok() => {
                let meant = format!("{{retain: {}}}", s.text);
                sink.report("E0208", node.at, "expected `delete` or `{retain: 7d}`").suggest(Some(meant));
                None
            }
            _ => not("`delete` or `{retain: 7d}`", node, sink),
        }
    }
    fn schema(_: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [
            {"const": "delete"},
            {"type": "object", "additionalProperties": false, "required": ["retain"], "properties": {"retain": Span::leaf_schema()}},
        ]})
    }
}

spec! {
    /// A network interface.
    NicSpec("interface") {
        /// The network's name.
        "network" network: Loc<Name>;
        /// A fixed address.
        "address" address: Loc<Ipv4Addr>;
        /// A fixed IPv6 address.
        "address6" address6: Loc<Ipv6Addr>;
    }
}

spec! {
    /// Geometry of the display, in pixels.
    DisplaySpec("display") {
        /// Width.
        "width" width: Loc<Int<320, 8192>>;
        /// Height.
        "height" height: Loc<Int<200, 8192>>;
    }
}

spec! {
    /// What cloud-init is given.
    CloudInitSpec("cloudInit") {
        /// User data: a `#cloud-config`, parsed as YAML, or a script that begins with `#!`.
        "userData" user_data: Text;
        /// Public SSH keys.
        "sshKeys" ssh_keys: Vec<Text>;
    }
}

spec! {
    /// How a VM is known to be ready: one probe.
    ReadySpec("ready") {
        /// A TCP port accepts a connection.
        "tcp" tcp: TcpSpec;
        /// An HTTP GET answers with a status.
        "http" http: HttpSpec;
        /// The guest agent answers.
        "agent" agent: AgentSpec;
        /// A command in the guest (through the guest agent; in a container by the host) ends with 0.
        "exec" exec: ExecSpec;
        /// How long after its start it may take (default 2m).
        "within" within: Loc<Span>;
        /// Pause between tries (default 500ms).
        "every" every: Loc<Span>;
    }
}

spec! {
    /// What must go on to succeed while a VM runs: one probe, asked by `watch`. A VM whose guard fails goes into quarantine: its
    /// rules are closed, and it stays so until somebody releases it.
    GuardSpec("guard") {
        /// A TCP port accepts a connection.
        "tcp" tcp: TcpSpec;
        /// An HTTP GET answers with a status.
        "http" http: HttpSpec;
        /// The guest agent answers.
        "agent" agent: AgentSpec;
        /// A command in the guest (through the guest agent; in a container by the host) ends with 0.
        "exec" exec: ExecSpec;
        /// How long after its start failures do not count, unless it succeeded before (default 2m).
        "within" within: Loc<Span>;
        /// Pause between tries (default 10s).
        "every" every: Loc<Span>;
        /// Failures in a row that are too many (default 3).
        "failures" failures: Loc<Int<1, 1000>>;
        /// What happens after its rules were closed: `suspend` (default; of a container `stop`), `stop`, or `close`: nothing more.
        "then" then: Loc<Then>;
    }
}

spec! {
    /// A TCP probe.
    TcpSpec("tcp") {
        /// The port.
        "port" port: Loc<Int<1, 65535>>, required;
    }
}

spec! {
    /// An HTTP probe.
    HttpSpec("http") {
        /// The port (default 80).
        "port" port: Loc<Int<1, 65535>>;
        /// The path (default `/`).
        "path" path: Text;
        /// The status that counts as ready (default 200).
        "status" status: Loc<Int<100, 599>>;
    }
}

spec! {
    /// A probe of the guest agent: `agent: {}`.
    AgentSpec("agent") {}
}

spec! {
    /// A command in the guest.
    ExecSpec("exec") {
        /// Program and arguments.
        "command" command: Vec<Text>, required;
    }
}

spec! {
    /// How a VM is stopped.
    StopSpec("stop") {
        /// How long the guest may take to shut down (default 60s, a container 10s).
        "deadline" deadline: Loc<Span>;
        /// Whether it may then be powered off (default false, for a container true).
        "powerOff" power_off: Loc<bool>;
    }
}

spec! {
    /// Where a VM may run.
    PlacementSpec("placement") {
        /// On this host only.
        "host" host: Loc<Name>;
        /// On hosts with these labels.
        "labels" labels: Labels;
        /// On hosts of at least this security level.
        "security" security: Loc<Name>;
    }
}

spec! {
    /// How many VMs an app has.
    ReplicasSpec("replicas") {
        /// Now (default 1).
        "min" min: Loc<Int<0, 100_000>>;
        /// At most (default: `min`).
        "max" max: Loc<Int<0, 100_000>>;
        /// While the host of one is Unknown: `hold` (default: not replaced) or `surge` (new ones are made, up to `max`).
        "onUnknown" on_unknown: Loc<OnUnknown>;
    }
}

spec! {
    /// On how many hosts an app's VMs are spread.
    SpreadSpec("spread") {
        /// At least this many different hosts.
        "minHosts" min_hosts: Loc<Int<1, 100_000>>;
        /// At most this many on one host.
        "maxPerHost" max_per_host: Loc<Int<1, 100_000>>;
    }
}
