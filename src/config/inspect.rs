//! What a machine says of itself → the Host document that takes it into a fleet.

use std::fmt::Write as _;

use super::spec::API_VERSION;
use crate::model::{Acceleration, Bytes, HostShell, Inspected, Layer, Name};

/// Memory that a slot is proposed for: a small server VM.
const SLOT: Bytes = Bytes(2 << 30);
/// Most slots that are proposed: more are a decision.
const MOST_SLOTS: u64 = 64;

/// Proposes the Host document of a machine: every value that was found, in YAML that `validate` takes; what a person should
/// look at stands in comments.
pub fn host(found: &Inspected, name: &Name) -> String {
    let mut out = String::new();
    let head = |out: &mut String, text: &str| {
        let _ = writeln!(out, "# {}", super::diagnostic::shown(text));
    };
    head(&mut out, &format!("{} as it was found: {}, layer {}", found.hostname, found.versions, found.layer.word()));
    if let Some(cpu) = &found.cpu {
        head(&mut out, &format!("processors: {}; a guest may have: {}", cpu.model, cpu.usable.join(" ")));
    }
    for (i, (memory, cpus)) in found.cells.iter().enumerate() {
        head(&mut out, &format!("NUMA cell {i}: {memory}, {cpus} processors"));
    }
    if !found.machines.is_empty() {
        head(&mut out, &format!("newest machine types: {} (`machine` of the VMs)", found.machines.join(" ")));
    }
    for (bridge, addresses) in &found.bridges {
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") };
        head(&mut out, &format!("bridge {bridge}: {addresses} (`bridge` of a Network)"));
    }
    if let Some(route) = &found.route {
        head(&mut out, &format!("its default route goes through {route}"));
    }
    if !found.domains.is_empty() {
        let text = "there already, never touched unless adopted (`stablehand adopt`)";
        head(&mut out, &format!("{text}: {}", found.domains.join(" ")));
    }
    for missing in &found.missing {
        head(&mut out, &format!("LOOK: {missing}"));
    }
    let _ = writeln!(out, "apiVersion: {API_VERSION}\nkind: Host\nmetadata:\n  name: {name}\nspec:");
    let _ = writeln!(out, "  connection: {}", text(&found.connection));
    match found.uuid {
        Some(uuid) => {
            let _ = writeln!(out, "  uuid: {uuid}   # another machine at this address is never used");
        }
        None if found.connection.contains(":///embed?") => {
            out.push_str("  # uuid: an embedded root makes its own when it is first observed\n");
        }
        None => out.push_str("  # LOOK: it reports no UUID, so another machine at this address would not be noticed\n"),
    }
    shell(&mut out, found);
    storage_and_size(&mut out, found);
    migration(&mut out, found);
    out
}

fn shell(out: &mut String, found: &Inspected) {
    match &found.shell {
        Some(HostShell::Local) => out.push_str("  shell: local\n"),
        Some(HostShell::Ssh { target, port, identity }) => {
            let (user, machine) = target.split_once('@').map_or((None, &**target), |(u, m)| (Some(u), m));
            let mut parts = vec![format!("host: {}", text(machine))];
            parts.extend(user.map(|u| format!("user: {}", text(u))));
            parts.extend(port.map(|p| format!("port: {p}")));
            // The path only: what is in it stays where it is.
            parts.extend(identity.as_ref().map(|i| format!("identity: {}", text(i))));
            let _ = writeln!(out, "  shell: {{ssh: {{{}}}}}", parts.join(", "));
        }
        Some(HostShell::Command(words)) => {
            let words: Vec<String> = words.iter().map(|w| text(w)).collect();
            let _ = writeln!(out, "  shell: {{command: [{}]}}", words.join(", "));
        }
        None => out.push_str("  shell: {ssh: {user: root}}   # LOOK: not tried; say --shell to have it tried\n"),
    }
}

fn storage_and_size(out: &mut String, found: &Inspected) {
    // A sixteenth of the memory for the host itself, in steps of 256 MiB, at least two of them; a processor of four.
    let step = 256 << 20;
    let reserve = (found.memory.0 / 16 / step * step).max(2 * step);
    let slots = (found.memory.0.saturating_sub(reserve) / SLOT.0).clamp(1, MOST_SLOTS);
    let cpus = u32::from(found.cpus >= 4);
    let _ =
        writeln!(out, "  slots: {slots}   # {} of memory, {SLOT} for each; {} processors", found.memory, found.cpus);
    let _ = writeln!(out, "  reserve: {{cpus: {cpus}, memory: {}}}   # for the host itself", Bytes(reserve).exact());
    let free = found.free.map(|f| format!("   # {f} free there")).unwrap_or_default();
    let _ = writeln!(out, "  storage:{free}");
    out.push_str("    images: /var/lib/stablehand/images\n    slots: /var/lib/stablehand/slots\n");
    if found.layer == Layer::Qemu {
        out.push_str(match found.acceleration {
            Some(Acceleration::Kvm) => "  acceleration: auto   # KVM: a guest booted with it\n",
            Some(_) => "  acceleration: auto   # software emulation: no guest boots with KVM here\n",
            None => "  acceleration: auto   # not probed\n",
        });
    }
}

/// Where and how VMs may come, as far as the URI and the machine's files say.
fn migration(out: &mut String, found: &Inspected) {
    if found.layer != Layer::Qemu {
        return;
    }
    let scheme = found.connection.split("://").next().unwrap_or_default();
    let tls = found.moving.is_some_and(|m| m.tls);
    let post_copy = found.moving.is_some_and(|m| m.post_copy);
    let comment =
        if post_copy { "  #   postCopy: true   # this machine could; a cut link then loses the guest\n" } else { "" };
    match scheme {
        "qemu+ssh" => out.push_str("  migration: {transport: tunnel}   # memory and disks travel through SSH\n"),
        "qemu+tls" => {
            out.push_str(
                "  # certificates of the controller: /etc/pki/CA/cacert.pem, /etc/pki/libvirt/clientcert.pem and\n",
            );
            out.push_str("  # /etc/pki/libvirt/private/clientkey.pem, or the folder of ?pkipath= in the URI\n");
            out.push_str(if tls {
                "  migration: {transport: tls}   # certificates for migration are there\n"
            } else {
                "  # LOOK: no certificates for migration in /etc/pki/libvirt-migrate or /etc/pki/qemu: running VMs cannot come\n  \
                 migration: {transport: tls}\n"
            });
        }
        "qemu+tcp" if tls => out.push_str("  migration: {transport: tls}   # certificates for migration are there\n"),
        "qemu+tcp" => {
            out.push_str(
                "  # LOOK: the connection is clear text, for networks that you trust. VMs that run can move when you\n",
            );
            out.push_str("  # declare such a network, the one that the data takes, or make certificates:\n");
            out.push_str("  # migration:\n  #   transport: clear\n  #   network: 10.0.0.0/24\n");
        }
        _ => {
            out.push_str(
                "  # a local connection: other hosts cannot reach it, so VMs cannot move here while they run. With\n",
            );
            out.push_str("  # `migration: {uri: qemu+ssh://…, transport: tunnel}` they can\n");
        }
    }
    out.push_str(comment);
}

/// A scalar that reads back as this text.
fn text(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@+".contains(c);
    let wordy = value.chars().any(|c| c.is_ascii_alphabetic())
        && value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let uri =
        value.contains("://") && !value.contains(char::is_whitespace) && !value.contains(['#', ',', '{', '[', '"']);
    let reserved =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&value.to_lowercase().as_str());
    if uri || (wordy && !reserved && value.chars().all(plain)) {
        value.to_owned()
    } else {
        serde_json::Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MoveObs, Snapshot};

    const FLEET: &str = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec: {}\n";

    fn found(connection: &str, shell: Option<HostShell>) -> Inspected {
        Inspected {
            connection: connection.into(),
            shell,
            hostname: "kvm1.example".into(),
            uuid: "b2e6252a-cbb2-409d-878d-fa2f054b683e".parse().ok(),
            layer: Layer::of(connection),
            cpus: 8,
            memory: Bytes::gib(64),
            cells: vec![(Bytes::gib(32), 4), (Bytes::gib(32), 4)],
            versions: "libvirt 9.0.0, QEMU 7.2.22".into(),
            cpu: None,
            machines: vec!["pc-q35-7.2".into()],
            domains: vec!["old\nspec: {}".into()],
            acceleration: Some(Acceleration::Kvm),
            free: Some(Bytes::gib(100)),
            bridges: vec![("br0".into(), vec!["10.0.0.1/24".into()])],
            route: Some("eth0".into()),
            moving: Some(MoveObs { post_copy: true, tls: true }),
            missing: vec!["something".into()],
        }
    }

    #[test]
    fn a_proposal_is_valid_and_pins_the_machine() {
        let ssh = HostShell::Ssh { target: "root@kvm1".into(), port: Some(2222), identity: Some("/keys/id 1".into()) };
        let command = HostShell::Command(vec!["/lab/lab".into(), "shell".into(), "no".into(), "a, b".into()]);
        for (uri, shell) in [
            ("qemu:///system", Some(HostShell::Local)),
            ("qemu:///embed?root=/var/lib/stablehand/lab", Some(HostShell::Local)),
            ("qemu+ssh://root@kvm1:2222/system?keyfile=/keys/id", Some(ssh)),
            ("qemu+tls://kvm1/system", None),
            ("qemu+tcp://10.0.0.11/system", Some(command)),
            ("lxc+ssh://root@kvm1/", None),
            ("test:///default", Some(HostShell::Local)),
        ] {
            let machine = found(uri, shell.clone());
            let yaml = host(&machine, &Name::new("kvm1").unwrap());
            let snapshot = Snapshot::of_texts([("fleet.yaml", FLEET), ("host.yaml", yaml.as_str())]);
            let loaded = crate::config::load(&snapshot);
            let desired =
                loaded.map_err(|d| format!("{yaml}\n{}", crate::config::diagnostic::text(&d))).unwrap().desired;
            let read = &desired.hosts["kvm1"];
            assert_eq!((&*read.connection, read.uuid, read.slots), (uri, machine.uuid, 30), "{yaml}");
            if let Some(shell) = shell {
                assert_eq!(read.shell, shell, "{yaml}");
            }
        }
    }
}
