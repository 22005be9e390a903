//! What a host is, beyond what runs on it: its processors, and what it can do when VMs move.
//!
//! It costs libvirt a look at every QEMU binary and the shell some files, and hardly ever changes: asked for once a
//! connection, and again every ten minutes.

use std::time::Instant;

use super::fleet::RealHost;
use super::libvirt::FRESH;
use super::shell::Shell;
use crate::model::{Acceleration, CpuObs, Layer, MoveObs};

/// Longest configuration file that is read.
const CONF_CAP: u64 = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its processors.
    pub(super) cpu: Option<CpuObs>,
    /// What it can do when VMs move.
    pub(super) moving: Option<MoveObs>,
}

/// Facts as they were found over one connection.
pub(super) struct Kept {
    connection: u64,
    acceleration: Acceleration,
    at: Instant,
    facts: Facts,
}

/// The facts of a host. None for an embedded root, where capabilities start every QEMU binary of the machine; none for
/// libvirt's test driver, and none for containers, whose processors are the host's.
pub(super) async fn of(host: &RealHost, acceleration: Acceleration) -> Facts {
    let real = host.hypervisor.embed_root().is_none() && !host.doc.connection.starts_with("test:");
    if !real || host.doc.layer() == Layer::Lxc {
        return Facts::default();
    }
    let connection = host.hypervisor.opened();
    let mut kept = host.facts.lock().await;
    let same = |k: &&Kept| k.connection == connection && k.acceleration == acceleration && k.at.elapsed() < FRESH;
    if let Some(kept) = kept.as_ref().filter(same) {
        return kept.facts.clone();
    }
    let virttype = if acceleration == Acceleration::Kvm { "kvm" } else { "qemu" };
    // A host that does not say keeps everything else that it said.
    let cpu = host.hypervisor.cpu(virttype).await.ok();
    let facts = Facts { cpu, moving: Some(moving(host.shell.as_ref()).await) };
    if facts.cpu.is_some() {
        *kept = Some(Kept { connection, acceleration, at: Instant::now(), facts: facts.clone() });
    }
    facts
}

/// What the host can do when VMs move, from its files. What cannot be read is not there.
pub(super) async fn moving(shell: &dyn Shell) -> MoveObs {
    let text = async |path: &str| {
        let bytes = shell.read(path, CONF_CAP).await.unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let conf = text("/etc/libvirt/qemu.conf").await;
    // userfaultfd(2): without CAP_SYS_PTRACE a process handles faults of the kernel only where this is 1.
    let allowed = text("/proc/sys/vm/unprivileged_userfaultfd").await.trim() == "1";
    let root = setting(&conf, "user").is_some_and(|user| ["root", "+0", "0"].contains(&user));
    let mut folders = certificate_folders(&conf);
    let mut names = Vec::new();
    // The first folder that is there is the one that libvirt uses.
    while names.is_empty() && !folders.is_empty() {
        names = shell.list(&folders.remove(0)).await.unwrap_or_default();
    }
    MoveObs { post_copy: allowed || root, tls: has_certificates(&names, &conf) }
}

/// A setting of a libvirt configuration file, `key = "value"`, unless it is commented out.
fn setting<'c>(conf: &'c str, key: &str) -> Option<&'c str> {
    conf.lines().rev().find_map(|line| {
        let value = line.trim_start().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
        Some(value.trim_matches('"'))
    })
}

/// Where libvirt looks for certificates for migration, first choice first (qemu.conf, `migrate_tls_x509_cert_dir`; libvirt,
/// `virQEMUDriverConfigSetDefaults`).
pub(super) fn certificate_folders(conf: &str) -> Vec<String> {
    if let Some(said) = setting(conf, "migrate_tls_x509_cert_dir") {
        return vec![said.to_owned()];
    }
    let general = setting(conf, "default_tls_x509_cert_dir").unwrap_or("/etc/pki/qemu");
    vec!["/etc/pki/libvirt-migrate".to_owned(), general.to_owned()]
}

/// Whether a folder's files are enough to send and to receive: a host does both. The client's certificate may be missing
/// where nobody verifies it.
fn has_certificates(names: &[String], conf: &str) -> bool {
    let has = |name: &str| names.iter().any(|n| n == name);
    let verify = setting(conf, "migrate_tls_x509_verify").or_else(|| setting(conf, "default_tls_x509_verify"));
    let client = verify == Some("0") || (has("client-cert.pem") && has("client-key.pem"));
    has("ca-cert.pem") && has("server-cert.pem") && has("server-key.pem") && client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_unless_they_are_commented_out() {
        let conf = "#user = \"root\"\nuser_x = 1\nmigrate_tls_x509_cert_dir = \"/etc/pki/move\"\n";
        assert_eq!(setting(conf, "user"), None);
        assert_eq!(certificate_folders(conf), ["/etc/pki/move"]);
        assert_eq!(certificate_folders(""), ["/etc/pki/libvirt-migrate", "/etc/pki/qemu"]);
    }

    #[test]
    fn a_host_that_moves_by_tls_can_send_and_receive() {
        let names = |n: &[&str]| n.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let server = names(&["ca-cert.pem", "server-cert.pem", "server-key.pem"]);
        assert!(!has_certificates(&server, ""));
        assert!(has_certificates(&server, "migrate_tls_x509_verify = 0\n"));
        let mut both = server;
        both.extend(names(&["client-cert.pem", "client-key.pem"]));
        assert!(has_certificates(&both, ""));
    }
}
