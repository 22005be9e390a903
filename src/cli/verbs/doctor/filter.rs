//! What packet filters and disks of guests need of this machine.

use std::path::Path;
use std::process::Command;

use super::{Finding, finding};

/// What a program of this machine prints; `Err` with what it complains.
fn said(words: &[&str]) -> Result<String, String> {
    let [program, arguments @ ..] = words else { return Err(String::new()) };
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Looks at nft, its kernel, and what else filters here.
pub(super) fn findings(root: bool, nft: Option<&Path>) -> Vec<Finding> {
    let mut found = Vec::new();
    let install = "apt-get install nftables";
    match nft {
        None => found.push(finding("nft", "bad", "not found: no VM on a closed network can start", install)),
        Some(nft) if !root => {
            found.push(finding("nft", "note", nft.display().to_string(), "packet filters need root: run through sudo"));
        }
        // Checked by nft and the kernel, and not carried out.
        Some(nft) => {
            found.push(bridge_family(said(&[&nft.display().to_string(), "-c", "add table bridge stablehand-doctor"])));
        }
    }
    let sysctl = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/bridge/{name}")).ok();
    let calls =
        ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].map(|n| sysctl(n).is_some_and(|t| t.trim() == "1"));
    let policy = if root { said(&["iptables", "-S", "FORWARD"]).ok() } else { None };
    found.extend(forwarding(calls.contains(&true), policy.as_deref().is_some_and(drops)));
    let enabled = ["sysinit.target.wants", "multi-user.target.wants"];
    let enabled = enabled.iter().any(|w| Path::new("/etc/systemd/system").join(w).join("nftables.service").exists());
    let flushes = std::fs::read_to_string("/etc/nftables.conf").is_ok_and(|text| flushes(&text));
    found.extend(reload(enabled, flushes));
    found.extend(apparmor());
    found
}

fn bridge_family(tried: Result<String, String>) -> Finding {
    match tried {
        Ok(_) => finding("nft", "ok", "the kernel takes tables of bridges", ""),
        Err(text) => {
            let line = text.lines().next().unwrap_or_default();
            let mend = "modprobe nf_tables, with a kernel that has CONFIG_NF_TABLES_BRIDGE";
            finding("nft", "bad", format!("the kernel takes no table of bridges ({line})"), mend)
        }
    }
}

/// Whether iptables drops what no rule of it accepts, as docker sets it.
fn drops(rules: &str) -> bool {
    rules.lines().any(|line| line.trim() == "-P FORWARD DROP")
}

/// `calls`: packets that only pass a bridge go through iptables too (`br_netfilter`).
fn forwarding(calls: bool, drops: bool) -> Option<Finding> {
    let mend = "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 (keep it in /etc/sysctl.d)";
    match (calls, drops) {
        (true, true) => {
            let text = "br_netfilter hands guests' packets to iptables, whose FORWARD policy drops them";
            Some(finding("forwarding", "bad", text, mend))
        }
        (true, false) => {
            Some(finding("forwarding", "note", "br_netfilter hands guests' packets to iptables as well", mend))
        }
        (false, true) => {
            let text = "iptables drops what is forwarded: guests behind NAT reach nobody outside";
            Some(finding(
                "forwarding",
                "note",
                text,
                "iptables -I FORWARD -i BRIDGE -j ACCEPT; iptables -I FORWARD -o BRIDGE -j ACCEPT",
            ))
        }
        (false, false) => None,
    }
}

/// Whether a configuration of nft begins by removing everybody's rules.
fn flushes(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "flush ruleset")
}

fn reload(enabled: bool, flushes: bool) -> Option<Finding> {
    let text = "a reload of /etc/nftables.conf removes all rules, ours too, until `watch` has set them again";
    let mend = "write `table inet filter` and `delete table inet filter` there in the place of `flush ruleset`";
    (enabled && flushes).then(|| finding("nftables.service", "note", text, mend))
}

/// AppArmor confines QEMU by profiles that libvirt makes of each domain's disks; without its helper nothing starts.
fn apparmor() -> Option<Finding> {
    let on = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.trim() == "Y");
    let template = Path::new("/etc/apparmor.d/libvirt/TEMPLATE.qemu").exists();
    let helper =
        ["/usr/lib/libvirt/virt-aa-helper", "/usr/libexec/virt-aa-helper"].iter().any(|p| Path::new(p).exists());
    let profiles = Path::new("/etc/apparmor.d/usr.sbin.libvirtd").exists();
    if !on || (template && helper) {
        return None;
    }
    let text = "AppArmor is on, and libvirt's profiles are not whole: guests are refused their disks";
    let state = if profiles { "bad" } else { "note" };
    Some(finding("apparmor", state, text, "apt-get install --reinstall libvirt-daemon-system apparmor"))
}

/// Images that QEMU's own user cannot read.
pub(super) fn unreadable(folder: &Path, qemu: Option<(u32, u32)>) -> Vec<Finding> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<_> = entries.filter_map(|e| Some((e.path(), e.metadata().ok()?))).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let closed = files.into_iter().filter(|(path, m)| {
        let bit = match qemu {
            Some((user, _)) if m.uid() == user => 0o400,
            Some((_, group)) if m.gid() == group => 0o040,
            _ => 0o004,
        };
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        m.is_file() && !hidden && m.mode() & bit == 0
    });
    closed
        .map(|(path, _)| {
            let text = format!("{} cannot be read by QEMU's own user", path.display());
            finding("images", "bad", text, &format!("chmod o+r {}", path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_filters_is_said_with_what_mends_it() {
        assert!(drops("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"));
        assert!(!drops("-P FORWARD ACCEPT\n"));
        let state = |calls, drops| forwarding(calls, drops).map(|f| f.state);
        assert_eq!(
            [state(true, true), state(true, false), state(false, true)],
            [Some("bad"), Some("note"), Some("note")]
        );
        assert!(forwarding(false, false).is_none());
        assert!(flushes("#!/usr/sbin/nft -f\n\nflush ruleset\n") && !flushes("# flush ruleset\n"));
        assert!(reload(true, true).is_some() && reload(false, true).is_none());
        let odd = bridge_family(Err("Error: Could not process rule: Operation not supported\nadd".to_owned()));
        assert!(odd.state == "bad" && odd.found.ends_with("Operation not supported)"), "{odd:?}");
    }

    #[test]
    fn an_image_of_root_alone_is_found() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("a.qcow2", 0o600), ("b.qcow2", 0o644), (".c", 0o600)] {
            let path = folder.path().join(name);
            std::fs::write(&path, "x").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = unreadable(folder.path(), Some((64055, 994)));
        assert_eq!(found.len(), 1);
        assert!(found[0].mend.as_deref().is_some_and(|m| m.ends_with("/a.qcow2")), "{found:?}");
    }
}
