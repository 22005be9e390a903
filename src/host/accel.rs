//! Whether KVM really boots a guest here.
//!
//! `/dev/kvm` may exist, and `KVM_CREATE_VM` succeed, where no guest ever gets through its first page of kernel (a kernel
//! with KVM but no hardware support under it). So a boot sector is started, once; what it did is kept beside the slots.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::shell::{Program, Shell};
use crate::model::Acceleration;

/// A guest that boots says so within this time; by hardware it takes about 0.3 s.
const DEADLINE: Duration = Duration::from_secs(5);

/// QEMU's status when `isa-debug-exit` is written 0x10: twice that and one (QEMU, `hw/misc/debugexit.c`).
const BOOTED: i32 = 0x10 << 1 | 1;

/// What a probe found, and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    kernel: String,
    qemu: String,
    kvm: bool,
}

/// 16-bit code at 0x7c00: `mov dx,0xf4; mov al,0x10; out dx,al; hlt; jmp $-1`, and the signature of a boot sector.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0u8; 512];
    sector[..9].copy_from_slice(&[0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd]);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

/// How `/dev/kvm` is mended where it is [`kvm_is_half_open`]; what udev does on an ordinary machine.
pub const OPEN_KVM: &str = "chgrp kvm /dev/kvm && chmod 660 /dev/kvm";

/// Whether `/dev/kvm` can be opened by root and not by QEMU's own user. libvirt then finds KVM, finds it gone again, and
/// probes every QEMU anew at each question: minutes instead of seconds (seen in containers and machines without udev).
pub fn kvm_is_half_open() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Neither the group's nor everybody's read and write; QEMU's user is not in root's group.
    std::fs::metadata("/dev/kvm").is_ok_and(|m| {
        let group = m.mode() & 0o060 == 0o060 && m.gid() != 0;
        !group && m.mode() & 0o006 != 0o006
    })
}

/// KVM where a guest boots with it, else software emulation.
pub async fn probe(shell: &dyn Shell, folder: &str) -> Acceleration {
    if decide(shell, folder).await.unwrap_or(false) { Acceleration::Kvm } else { Acceleration::Tcg }
}

/// `None` when it cannot be found out, which counts as no.
async fn decide(shell: &dyn Shell, folder: &str) -> Option<bool> {
    // Without the processor's flag there is nothing to try.
    let processors = shell.read("/proc/cpuinfo", 1 << 16).await.ok()?;
    let processors = String::from_utf8_lossy(&processors).into_owned();
    let flags = processors.lines().find(|l| l.starts_with("flags"))?;
    if !flags.split_ascii_whitespace().any(|f| f == "vmx" || f == "svm") {
        return Some(false);
    }
    shell.size("/dev/kvm").await.ok()??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    let kernel = text(shell.read("/proc/sys/kernel/osrelease", 256).await.ok()?);
    let qemu = shell.run(Program::new(["qemu-system-x86_64", "-version"])).await.ok()?.stdout;
    let qemu = text(qemu).lines().next().unwrap_or_default().to_owned();
    let path = format!("{folder}/.acceleration.json");
    let kept = shell.read(&path, 1 << 16).await.ok();
    let kept: Option<Found> = kept.and_then(|b| serde_json::from_slice(&b).ok());
    if let Some(kept) = kept.filter(|k| k.kernel == kernel && k.qemu == qemu) {
        return Some(kept.kvm);
    }
    let kvm = boots(shell, "kvm", folder).await;
    let found = serde_json::to_vec(&Found { kernel, qemu, kvm }).ok()?;
    // Not being able to keep it costs a second next time.
    if Path::new(folder).is_absolute() && shell.make_folder(folder).await.is_ok() {
        let _ = shell.write(&path, found, 0o644).await;
    }
    Some(kvm)
}

/// Whether a boot sector runs with an accelerator (`kvm`, `tcg`).
pub async fn boots(shell: &dyn Shell, accelerator: &str, folder: &str) -> bool {
    let sector = format!("{folder}/.probe-{}.img", std::process::id());
    if shell.make_folder(folder).await.is_err() || shell.write(&sector, boot_sector(), 0o600).await.is_err() {
        return false;
    }
    let drive = format!("file={sector},format=raw,if=ide,readonly=off,snapshot=on");
    let words = [
        "qemu-system-x86_64",
        "-machine",
        "pc",
        "-accel",
        accelerator,
        "-m",
        "32",
        "-display",
        "none",
        "-nodefaults",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-drive",
        &drive,
        "-no-reboot",
    ];
    let ended = shell.run(Program::new(words).limit(DEADLINE)).await;
    let _ = shell.remove(&sector).await;
    ended.is_ok_and(|o| o.status == BOOTED)
}

#[cfg(test)]
mod tests {
    use super::super::shell::Local;
    use super::*;

    #[tokio::test]
    async fn the_boot_sector_boots_in_software() {
        if std::process::Command::new("qemu-system-x86_64").arg("-version").output().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        assert!(boots(&Local, "tcg", folder).await);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    }
}
