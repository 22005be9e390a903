//! `doctor`: what this machine lacks, and the command that mends it. `init`: a fleet to start from.
#![expect(clippy::disallowed_methods, reason = "looks at this machine and writes the starter fleet")]

mod filter;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config;
use crate::model::{Bytes, Name};
use crate::render::Table;

use super::super::args::{Form, Init};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};

/// One thing that was looked at.
#[derive(Debug, serde::Serialize)]
struct Finding {
    /// What.
    what: &'static str,
    /// `ok`, `note` (works without) or `bad`.
    state: &'static str,
    /// What was found.
    found: String,
    /// The command or change that mends it.
    mend: Option<String>,
}

fn finding(what: &'static str, state: &'static str, found: impl Into<String>, mend: &str) -> Finding {
    let mend = if state == "ok" { None } else { Some(mend.to_owned()) };
    Finding { what, state, found: found.into(), mend }
}

/// Looks at this machine. Exit code 1 when something that is needed is missing.
pub(crate) fn doctor(context: &Context) -> Outcome {
    let path = context.around.get("PATH").unwrap_or("/usr/sbin:/usr/bin:/sbin:/bin");
    let program = |name: &str| {
        let places = path.split(':').chain(["/usr/sbin", "/sbin"]);
        places.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
    };
    let needed = |what: &'static str, name: &str, mend: &str| match program(name) {
        Some(file) => finding(what, "ok", file.display().to_string(), mend),
        None => finding(what, "bad", "not found", mend),
    };
    let mut findings = vec![
        needed("qemu", "qemu-system-x86_64", "apt-get install qemu-system-x86"),
        needed("qemu-img", "qemu-img", "apt-get install qemu-utils"),
        needed("ip", "ip", "apt-get install iproute2"),
        needed("curl (images by URL)", "curl", "apt-get install curl"),
        needed("zstd (packed images)", "zstd", "apt-get install zstd"),
        needed("xz (packed images)", "xz", "apt-get install xz-utils"),
        needed("gzip (packed images)", "gzip", "apt-get install gzip"),
        needed("flock (who writes a file)", "flock", "apt-get install util-linux"),
        libvirt(),
        kvm(),
    ];
    findings.push(if context.around.root {
        finding("permission", "ok", "root", "")
    } else {
        finding("permission", "note", "not root", "bridges and qemu:///embed need root: run through sudo")
    });
    let ours = Path::new("/var/lib/stablehand");
    findings.push(space(ours));
    findings.extend(daemon());
    findings.extend(filter::findings(context.around.root, program("nft").as_deref()));
    findings.extend(hosts(context));
    let bad = findings.iter().any(|f| f.state == "bad");
    if context.global.output == Form::Json {
        let text = serde_json::to_string_pretty(&findings).unwrap_or_default();
        context.console.out(&format!("{text}\n"));
    } else {
        let mut table = Table::new(&["WHAT", "", "FOUND", "MEND"]);
        for f in &findings {
            table.row(vec![f.what.into(), f.state.into(), f.found.clone(), f.mend.clone().unwrap_or_default()]);
        }
        context.console.out(&table.render(&context.style(false), 0));
    }
    if bad { Ok(Exit::Error) } else { Ok(Exit::Ok) }
}

/// libvirt's library and its QEMU driver, which `qemu:///embed` loads itself.
fn libvirt() -> Finding {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let driver = folders.iter().map(|f| Path::new(f).join("libvirt/connection-driver/libvirt_driver_qemu.so"));
    let mend = "apt-get install libvirt-daemon libvirt-daemon-driver-qemu";
    if cfg!(not(feature = "libvirt")) {
        return finding("libvirt", "note", "this program only plans", "build it with the feature `libvirt`");
    }
    match driver.into_iter().find(|file| file.exists()) {
        Some(file) => finding("libvirt", "ok", file.display().to_string(), mend),
        None => finding("libvirt", "bad", "no QEMU driver", mend),
    }
}

/// Whether `/dev/kvm` can be opened. That it boots a guest is proven by the probe of `acceleration: auto`.
fn kvm() -> Finding {
    let mend = "turn on virtualisation in the firmware; software emulation is used meanwhile";
    if crate::host::accel::kvm_is_half_open() {
        let found = "/dev/kvm is closed to QEMU's own user, which makes libvirt slow";
        return finding("kvm", "bad", found, crate::host::accel::OPEN_KVM);
    }
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => finding("kvm", "ok", "/dev/kvm opens; `acceleration: auto` proves it by booting", mend),
        Err(error) => finding("kvm", "note", error.to_string(), mend),
    }
}

/// Free space where fleets are kept by default.
fn space(folder: &Path) -> Finding {
    let there = folder.ancestors().find(|f| f.exists()).unwrap_or(Path::new("/"));
    let mend = "free some space, or point the hosts' storage elsewhere";
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
            let state = if free < Bytes::gib(2) { "bad" } else { "ok" };
            finding("free space", state, format!("{free} at {}", there.display()), mend)
        }
        Err(error) => finding("free space", "note", error.to_string(), mend),
    }
}

/// The socket of a libvirtd that listens: not needed for `qemu:///embed`, so only worth knowing.
fn daemon() -> Option<Finding> {
    let listens = |socket: &&&str| std::os::unix::net::UnixStream::connect(socket).is_ok();
    let socket = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"].iter().find(listens)?;
    Some(finding("libvirt daemon", "ok", format!("{socket} (for qemu:///system)"), ""))
}

/// What the fleet in `--fleet` needs of this machine; nothing where there is no valid fleet.
fn hosts(context: &Context) -> Vec<Finding> {
    let loaded = context.snapshot(None).ok().and_then(|snapshot| config::load(&snapshot).ok());
    let hosts = loaded.map(|l| l.desired.hosts).unwrap_or_default();
    let qemu = std::fs::read_to_string("/etc/passwd").ok().and_then(|users| qemu_user(&users));
    let mut found = Vec::new();
    let mut closed = BTreeSet::new();
    for host in hosts.values().filter(|h| h.connection.starts_with("qemu:///")) {
        if host.connection.starts_with("qemu:///system") && daemon().is_none() {
            let text = format!("host/{} is qemu:///system, and no libvirtd listens", host.name);
            found.push(finding(
                "libvirt daemon",
                "bad",
                text,
                "systemctl start libvirtd (or: virtlogd -d; libvirtd -d)",
            ));
        }
        found.extend(filter::unreadable(Path::new(host.images_dir.as_ref()), qemu));
        for folder in [&host.images_dir, &host.slots_dir] {
            closed.extend(Path::new(folder.as_ref()).ancestors().filter(|f| shuts_out(f, qemu)).map(Path::to_owned));
        }
    }
    found.extend(closed.iter().map(|folder| {
        let text = format!("{} is closed to QEMU's own user, whose disks are below it", folder.display());
        finding("folders", "bad", text, &format!("chmod o+x {}", folder.display()))
    }));
    if found.is_empty() && !hosts.is_empty() {
        found.push(finding("folders", "ok", "QEMU's own user can reach the hosts' storage", ""));
    }
    found
}

/// The numbers of the user and the group that libvirt runs QEMU as.
fn qemu_user(passwd: &str) -> Option<(u32, u32)> {
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|parts| matches!(parts.first(), Some(&("libvirt-qemu" | "qemu"))))?;
    Some((line.get(2)?.parse().ok()?, line.get(3)?.parse().ok()?))
}

/// Whether a folder that exists does not let QEMU's user through.
fn shuts_out(folder: &Path, qemu: Option<(u32, u32)>) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(folder).is_ok_and(|m| {
        let bit = match qemu {
            Some((user, _)) if m.uid() == user => 0o100,
            Some((_, group)) if m.gid() == group => 0o010,
            _ => 0o001,
        };
        m.is_dir() && m.mode() & bit == 0
    })
}

/// The starter fleet: the example with a stock cloud image, which the tests validate.
const STARTER: [(&str, &str); 3] = [
    ("fleet.yaml", include_str!("../../../examples/cloud-image/fleet/fleet.yaml")),
    ("host.yaml", include_str!("../../../examples/cloud-image/fleet/host.yaml")),
    ("shop.yaml", include_str!("../../../examples/cloud-image/fleet/shop.yaml")),
];

/// Writes a small fleet into an empty folder, named after it.
pub(crate) fn init(context: &Context, init: &Init) -> Outcome {
    let folder: PathBuf = context.path(init.folder.as_deref().unwrap_or(&context.global.fleet));
    std::fs::create_dir_all(&folder).map_err(|e| Failure::caused(format!("cannot make `{}`", folder.display()), &e))?;
    let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    let name = fleet_name(&real)?;
    for (file, _) in STARTER {
        if folder.join(file).exists() {
            return Err(Failure::new(format!("`{}` is there already", folder.join(file).display()))
                .hint("name an empty folder: stablehand init DIR"));
        }
    }
    for (file, text) in STARTER {
        context.write(&folder.join(file), starter(text, &name).as_bytes())?;
        context.console.out(&format!("{}\n", folder.join(file).display()));
    }
    let shown = init.folder.as_deref().unwrap_or(&context.global.fleet).display();
    context.console.note(&format!(
        "a fleet `{name}` with one host (this machine) and one service\n\
         next: stablehand --fleet {shown} validate\n      \
         stablehand --fleet {shown} plan --observed none"
    ));
    Ok(Exit::Ok)
}

/// The starter with the fleet's own name, folders and bridge.
fn starter(text: &str, name: &Name) -> String {
    let short: String = name.as_str().chars().filter(|c| *c != '-').take(10).collect();
    text.replace("name: cloud-image", &format!("name: {name}"))
        .replace("/var/lib/stablehand/cloud-store", &format!("/var/lib/stablehand/{name}-store"))
        .replace("/var/lib/stablehand/cloud", &format!("/var/lib/stablehand/{name}"))
        .replace("shc0", &format!("sh-{short}"))
}

/// A name made of the folder's.
fn fleet_name(folder: &Path) -> Result<Name, Failure> {
    let text = folder.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let text: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    Name::new(text.trim_matches('-'))
        .map_err(|e| Failure::caused("the folder's name does not make a fleet's name", &e).hint("name another folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_root_alone_shuts_qemu_out() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |bits| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(bits)).unwrap();
        let qemu = qemu_user("root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:994::/:/bin/false\n");
        assert_eq!(qemu, Some((64055, 994)));
        mode(0o700);
        assert!(shuts_out(folder.path(), qemu));
        mode(0o711);
        assert!(!shuts_out(folder.path(), qemu));
        assert!(!shuts_out(&folder.path().join("not-there"), qemu));
    }
}
