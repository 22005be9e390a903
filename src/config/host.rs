//! Hosts: what their documents may say, and what it means.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::build::{beside, level};
use super::leaf::Int;
use super::node::{Kind as NodeKind, Node};
use super::read::{Loc, Read, choice, nearest, not, spec};
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::HostSpec;
use crate::model::{
    Acceleration, Bytes, Fence, Host, HostShell, Layer, Maintenance, Migration, Name, Others, Span, Transport,
};

type Text = Loc<Arc<str>>;

/// `local`, or how a shell is reached.
#[derive(Clone, Debug)]
pub(crate) enum ShellChoice {
    Local(Mark),
    Remote(Box<ShellSpec>),
}

spec! {
    /// How programs are run on a host: over SSH, or by a command.
    ShellSpec("shell") {
        /// By OpenSSH; one connection is shared by all.
        "ssh" ssh: SshSpec;
        /// By a command on the controller, to which program and arguments are added. A path is relative to this file.
        "command" command: Vec<Text>;
    }
}

spec! {
    /// Where OpenSSH connects to; what is not said here is ssh_config(5)'s.
    SshSpec("ssh") {
        /// The host (default: that of `connection`).
        "host" host: Text;
        /// The user.
        "user" user: Text;
        /// The port.
        "port" port: Loc<Int<1, 65_535>>;
        /// Path of the private key on the controller. It is given to ssh, never read by us.
        "identity" identity: Text;
    }
}

impl Read for ShellChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            NodeKind::Scalar(s) if s.text == "local" => Some(Self::Local(node.at)),
            NodeKind::Map(_) => ShellSpec::read(node, sink).map(|spec| Self::Remote(Box::new(spec))),
            _ => not("`local`, `{ssh: {…}}` or `{command: […]}`", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"const": "local"}, ShellSpec::schema(generator)]})
    }
}

/// `none`, `cordon`, `drain`, or a drain with a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaintenanceChoice {
    pub(crate) value: Maintenance,
}

spec! {
    /// A drain.
    DrainChoiceSpec("maintenance") {
        /// Its VMs move away.
        "drain" drain: DrainSpec, required;
    }
}

spec! {
    /// How a host is drained.
    DrainSpec("drain") {
        /// What happens to VMs that cannot move while they run: `leave` (default), `cold` (stopped, moved, started) or `stop`.
        "others" others: Loc<Others>;
    }
}

impl Read for MaintenanceChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let value = match &node.kind {
            NodeKind::Scalar(s) if s.text == "none" => Maintenance::None,
            NodeKind::Scalar(s) if s.text == "cordon" => Maintenance::Cordon,
            NodeKind::Scalar(s) if s.text == "drain" => Maintenance::Drain(Others::Leave),
            NodeKind::Map(_) => {
                let drain = DrainChoiceSpec::read(node, sink)?.drain?;
                Maintenance::Drain(drain.others.map(|o| o.value).unwrap_or_default())
            }
            NodeKind::Scalar(s) => {
                let words = ["none", "cordon", "drain"];
                let message = format!("`{}` is not a kind of maintenance", s.text);
                sink.report("E0215", node.at, message)
                    .suggest(nearest(&s.text, words.into_iter()))
                    .help("use `none`, `cordon`, `drain` or `{drain: {others: cold}}`");
                return None;
            }
            _ => return not("`none`, `cordon`, `drain` or `{drain: {others: cold}}`", node, sink),
        };
        Some(Self { value })
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"enum": ["none", "cordon", "drain"]}, DrainChoiceSpec::schema(generator)]})
    }
}

spec! {
    /// How VMs move to and from a host.
    MigrationSpec("migration") {
        /// libvirt URI at which the other hosts reach this one (default: `connection`, when it is not local).
        "uri" uri: Text;
        /// Address of this host for the data (default: what its name resolves to on the others).
        "address" address: Text;
        /// `tls` (default for `qemu+tls://`), `tunnel` (default for `qemu+ssh://`), or `clear`, with `network`.
        "transport" transport: Loc<Transport>;
        /// The network that is declared for clear text: trusted, and the way that the data takes.
        "network" network: Loc<ipnet::IpNet>;
        /// Moves in and out at once (default 2).
        "atOnce" at_once: Loc<Int<1, 1000>>;
        /// What a move may use of the link at most, in a second.
        "bandwidth" bandwidth: Loc<Bytes>;
        /// Whether a guest that writes faster than the link is slowed down (default true).
        "autoConverge" auto_converge: Loc<bool>;
        /// Whether memory may be fetched after the guest went on at the target (default false).
        "postCopy" post_copy: Loc<bool>;
        /// Longest pause of a guest at the end (default 300ms).
        "maxPause" max_pause: Loc<Span>;
        /// A move that takes longer is given up (default 30m).
        "timeLimit" time_limit: Loc<Span>;
        /// How long the source's copy of moved disks is kept (default 1h).
        "keepSource" keep_source: Loc<Span>;
    }
}

spec! {
    /// How a host is made certain to run nothing any more.
    FenceSpec("fence") {
        /// Program and arguments, run on the controller; `{host}` stands for the host's name. It ends with 0 only when the
        /// host certainly runs nothing: its power is off. A path is relative to this file.
        "command" command: Vec<Text>, required;
        /// How long the host must be Unknown before.
        "after" after: Loc<Span>, required;
        /// How long the command may take (default 60s).
        "within" within: Loc<Span>;
    }
}

pub(crate) fn hosts(repo: &Repository, levels: &[Name], sink: &mut Sink) -> BTreeMap<Name, Host> {
    let mut uuids: BTreeMap<(uuid::Uuid, Layer), Mark> = BTreeMap::new();
    let mut folders: BTreeMap<(uuid::Uuid, Arc<str>), Mark> = BTreeMap::new();
    let mut connections: BTreeMap<Arc<str>, Mark> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for doc in repo.hosts.values() {
        if let Some(uuid) = &doc.spec.uuid {
            // A machine may run virtual machines and containers: a document for each.
            let layer = doc.spec.connection.as_ref().map(|c| Layer::of(&c.value)).unwrap_or_default();
            if let Some(first) = uuids.get(&(uuid.value, layer)) {
                let message = format!("two hosts with the UUID `{}`: one machine, one document", uuid.value);
                sink.report("E0415", uuid.at, message).also(*first, "the first one");
            } else {
                uuids.insert((uuid.value, layer), uuid.at);
            }
        }
        if let Some(connection) = &doc.spec.connection {
            // libvirt's test driver makes a world of its own for each connection.
            let shared = !connection.value.starts_with("test:");
            if let Some(first) = connections.get(&connection.value).filter(|_| shared) {
                let message =
                    format!("two hosts with the connection `{}`: one machine, one document", connection.value);
                sink.report("E0415", connection.at, message).also(*first, "the first one");
            } else {
                connections.insert(connection.value.clone(), connection.at);
            }
        }
        if let Some(host) = host(doc, levels, repo, sink) {
            for folder in
                host.uuid.iter().flat_map(|uuid| [&host.slots_dir, &host.images_dir].map(|f| (*uuid, f.clone())))
            {
                let at = doc.spec.storage.as_ref().map_or(doc.name.at, |s| s.at);
                if let Some(first) = folders.insert(folder.clone(), at) {
                    let message = format!("two documents of one machine have the folder `{}`", folder.1);
                    sink.report("E0415", at, message)
                        .also(first, "the first one")
                        .help("what is found there is one host's: give each `storage` of its own");
                }
            }
            out.insert(doc.name.value.clone(), host);
        }
    }
    out
}

fn host(doc: &Doc<Box<HostSpec>>, levels: &[Name], repo: &Repository, sink: &mut Sink) -> Option<Host> {
    let spec = &doc.spec;
    let connection = spec.connection.as_ref().filter(|c| connection(c, sink));
    let cpus = |r: Option<&super::spec::ResourcesSpec>| r.and_then(|r| r.cpus.as_ref()).map(|c| c.value.0);
    let memory = |r: Option<&super::spec::ResourcesSpec>| r.and_then(|r| r.memory.as_ref()).map(|m| m.value);
    let milli = |loc: Option<&Loc<super::leaf::Milli>>, sink: &mut Sink| {
        let Some(loc) = loc else { return 1000 };
        if loc.value.0 == 0 {
            sink.report("E0413", loc.at, "an overcommit of 0 leaves no room at all").help("1 is no overcommit");
        }
        u32::try_from(loc.value.0).unwrap_or(u32::MAX)
    };
    let overcommit = spec.overcommit.as_ref();
    let overcommit_cpu_milli = milli(overcommit.and_then(|o| o.cpu.as_ref()), sink);
    let overcommit_memory_milli = milli(overcommit.and_then(|o| o.memory.as_ref()), sink);
    let storage = spec.storage.as_ref();
    // A machine may have a document for each layer: what is found in a folder is one of theirs.
    let (images, slots) = match spec.connection.as_ref().map(|c| Layer::of(&c.value)).unwrap_or_default() {
        Layer::Qemu => ("/var/lib/stablehand/images", "/var/lib/stablehand/slots"),
        Layer::Lxc => ("/var/lib/stablehand/archives", "/var/lib/stablehand/containers"),
    };
    let images_dir = absolute(storage.and_then(|s| s.images.as_ref()), images, sink);
    let slots_dir = absolute(storage.and_then(|s| s.slots.as_ref()), slots, sink);
    let security = match &spec.security {
        Some(name) => level(levels, name, repo, sink)?,
        None => 0,
    };
    Some(Host {
        name: doc.name.value.clone(),
        connection: connection?.value.clone(),
        uuid: spec.uuid.as_ref().map(|u| u.value),
        shell: shell(spec, sink)?,
        labels: doc.labels.clone(),
        site: spec.site.as_ref().map(|s| s.value.clone()),
        slots: spec.slots.as_ref()?.value.0,
        cpus: cpus(spec.capacity.as_ref()),
        memory: memory(spec.capacity.as_ref()),
        reserve_cpus: cpus(spec.reserve.as_ref()).unwrap_or(0),
        reserve_memory: memory(spec.reserve.as_ref()).unwrap_or(Bytes(0)),
        overcommit_cpu_milli,
        overcommit_memory_milli,
        images_dir,
        slots_dir,
        shared: storage.and_then(|s| s.shared.as_ref()).map(|s| s.value.clone()),
        migration: migration(spec, sink),
        fence: spec.fence.as_ref().and_then(|f| fence(f, sink)),
        security,
        cost_cpu_hour_milli: spec.cost.as_ref().and_then(|c| c.cpu_hour.as_ref()).map_or(0, |c| c.value.0),
        uplinks: super::cable::uplinks(spec, sink),
        devices: super::device::of_host(spec, sink),
        acceleration: spec.acceleration.as_ref().map_or(Acceleration::Auto, |a| a.value),
        maintenance: spec.maintenance.map_or(Maintenance::None, |m| m.value),
        origin: sink.origin(doc.name.at),
    })
}

/// Whether a connection URI is of a driver that we know; reports it when not.
fn connection(uri: &Loc<Arc<str>>, sink: &mut Sink) -> bool {
    const DRIVERS: [&str; 10] =
        ["qemu", "qemu+unix", "qemu+ssh", "qemu+tls", "qemu+tcp", "lxc", "lxc+ssh", "lxc+tls", "lxc+tcp", "test"];
    let Some((scheme, rest)) = uri.value.split_once("://") else {
        let help = "like `qemu:///system`, or `qemu:///embed?root=/var/lib/stablehand/lab`";
        sink.report("E0217", uri.at, format!("`{}` is not a libvirt connection URI", uri.value)).help(help);
        return false;
    };
    if !DRIVERS.contains(&scheme) {
        let near = nearest(scheme, DRIVERS.into_iter()).map(|s| format!("{s}://{rest}"));
        let message = format!("`{scheme}` is not a libvirt driver that we use");
        sink.report("E0217", uri.at, message).suggest(near).help(format!("use {}", choice(&DRIVERS)));
        return false;
    }
    if let Some(embed) = rest.strip_prefix("/embed")
        && !embed.strip_prefix("?root=").is_some_and(|root| root.starts_with('/'))
    {
        let help = "like `qemu:///embed?root=/var/lib/stablehand/lab`";
        sink.report("E0421", uri.at, "an embedded connection names its root by an absolute path").help(help);
        return false;
    }
    true
}

fn absolute(path: Option<&Loc<Arc<str>>>, default: &str, sink: &mut Sink) -> Arc<str> {
    let Some(path) = path else {
        return default.into();
    };
    let upwards = path.value.split('/').any(|part| part == "..");
    if !path.value.starts_with('/') || upwards {
        let message = format!("`{}` is not an absolute path", path.value);
        sink.report("E0421", path.at, message).help("a folder on the host, beginning with `/` and without `..`");
    }
    path.value.trim_end_matches('/').into()
}

/// Where a URI's machine is: `user@host` and its port. `None` for one on this machine.
fn remote(uri: &str) -> Option<(String, Option<u16>)> {
    let (scheme, rest) = uri.split_once("://")?;
    if !["+ssh", "+tls", "+tcp"].iter().any(|t| scheme.ends_with(t)) {
        return None;
    }
    let machine = rest.split(['/', '?']).next().unwrap_or_default();
    // The port follows the last colon, unless that is inside an IPv6 address in brackets.
    let (machine, port) = match machine.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
        _ => (machine, None),
    };
    (!machine.is_empty()).then(|| (machine.replace(['[', ']'], ""), port))
}

fn shell(spec: &HostSpec, sink: &mut Sink) -> Option<HostShell> {
    let connection = spec.connection.as_ref()?;
    let there = remote(&connection.value);
    let over_ssh = connection.value.split("://").next().is_some_and(|scheme| scheme.ends_with("+ssh"));
    match &spec.shell {
        None => match there {
            None => Some(HostShell::Local),
            Some((target, port)) if over_ssh => {
                Some(HostShell::Ssh { target: target.as_str().into(), port, identity: None })
            }
            // What was written and could not be read was said already.
            Some(_) if spec.flawed => None,
            Some(_) => {
                sink.report("E0424", connection.at, "nothing says how programs are run on this host")
                    .help("add `shell: {ssh: {user: root}}` or `shell: {command: [...]}`");
                None
            }
        },
        Some(ShellChoice::Local(at)) => {
            if let Some((machine, _)) = there {
                let message = format!("`local` runs programs on the controller, and this host is {machine}");
                sink.report("E0424", *at, message).help("write `{ssh: {user: root}}` or `{command: [...]}`");
                return None;
            }
            Some(HostShell::Local)
        }
        Some(ShellChoice::Remote(choice)) => match (&choice.ssh, &choice.command) {
            (Some(ssh), None) => {
                let named = ssh.host.as_ref().map(|h| h.value.to_string());
                let (default, default_port) = there.unzip();
                let Some(machine) = named.or(default) else {
                    sink.report("E0424", ssh.at, "`connection` is local, so `ssh` needs a `host`");
                    return None;
                };
                let target = match &ssh.user {
                    Some(user) => format!("{}@{}", user.value, machine.rsplit('@').next().unwrap_or_default()),
                    None => machine,
                };
                if target.starts_with('-') {
                    // ssh(1) would read it as an option.
                    sink.report("E0217", ssh.at, format!("`{target}` is not the name of a machine"));
                    return None;
                }
                let port = ssh.port.as_ref().and_then(|p| u16::try_from(p.value.0).ok());
                Some(HostShell::Ssh {
                    target: target.as_str().into(),
                    port: port.or(default_port.flatten().filter(|_| over_ssh)),
                    identity: ssh.identity.as_ref().map(|i| beside(&sink.path(i.at), &i.value)),
                })
            }
            (None, Some(command)) => Some(HostShell::Command(program(command, sink)?)),
            _ => {
                if !choice.flawed {
                    let message = "a shell is one of `local`, `{ssh: {…}}` and `{command: […]}`";
                    sink.report("E0218", choice.at, message);
                }
                None
            }
        },
    }
}

/// A command: its program, when it is a path, is relative to the file that says it.
fn program(words: &[Text], sink: &mut Sink) -> Option<Vec<Arc<str>>> {
    let first = words.first()?;
    let whole =
        if first.value.contains('/') { beside(&sink.path(first.at), &first.value) } else { first.value.clone() };
    Some(std::iter::once(whole).chain(words[1..].iter().map(|w| w.value.clone())).collect())
}

fn migration(spec: &HostSpec, sink: &mut Sink) -> Migration {
    let usual = Migration::default();
    let connection = spec.connection.as_ref().map(|c| c.value.clone());
    let said = spec.migration.as_ref();
    let uri = said.and_then(|m| m.uri.as_ref()).map(|u| u.value.clone());
    let uri = uri.or_else(|| connection.filter(|c| remote(c).is_some()));
    let scheme = uri.as_deref().and_then(|u| u.split("://").next()).unwrap_or_default();
    let usual_transport = if scheme.ends_with("+tls") {
        Some(Transport::Tls)
    } else if scheme.ends_with("+ssh") {
        Some(Transport::Tunnel)
    } else {
        None
    };
    let Some(m) = said else { return Migration { uri, transport: usual_transport, ..usual } };
    let transport = m.transport.as_ref().map(|t| t.value).or(usual_transport);
    match (m.transport.as_ref().filter(|t| t.value == Transport::Clear), &m.network) {
        (Some(clear), None) => {
            sink.report("E0425", clear.at, "clear text travels only on a network that is declared for it")
                .help("add `network: 10.77.0.0/24`, the trusted network that the data takes");
        }
        (None, Some(network)) => {
            sink.report("E0425", network.at, "`network` declares clear text, and `transport` is not `clear`");
        }
        _ => {}
    }
    if let (Some(address), Some(network)) = (&m.address, &m.network) {
        match address.value.parse::<std::net::IpAddr>() {
            Ok(ip) if !network.value.contains(&ip) => {
                let message = format!("{ip} is not in the network that is declared for clear text");
                sink.report("E0425", address.at, message).also(network.at, "this network");
            }
            _ => {}
        }
    }
    Migration {
        uri,
        address: m.address.as_ref().map(|a| a.value.clone()),
        transport,
        clear_network: m.network.as_ref().map(|n| n.value),
        at_once: m.at_once.as_ref().map_or(usual.at_once, |n| n.value.0),
        bandwidth: m.bandwidth.as_ref().map(|b| b.value),
        auto_converge: m.auto_converge.as_ref().map_or(usual.auto_converge, |b| b.value),
        post_copy: m.post_copy.as_ref().map_or(usual.post_copy, |b| b.value),
        max_pause: m.max_pause.as_ref().map_or(usual.max_pause, |s| s.value),
        time_limit: m.time_limit.as_ref().map_or(usual.time_limit, |s| s.value),
        keep_source: m.keep_source.as_ref().map_or(usual.keep_source, |s| s.value),
    }
}

fn fence(spec: &FenceSpec, sink: &mut Sink) -> Option<Fence> {
    let command = program(spec.command.as_deref()?, sink)?;
    let within = spec.within.as_ref().map_or(Span::secs(60), |w| w.value);
    Some(Fence { command, after: spec.after.as_ref()?.value, within })
}
