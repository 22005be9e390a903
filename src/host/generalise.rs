//! The guest of a management instance forgets who it is, and tells what is in it.

use std::sync::Arc;

use uuid::Uuid;

use super::agent;
use super::capture::{manages, packages};
use super::fleet::RealHost;
use crate::execute::{Done, Progress, StepError};
use crate::model::{Management, Name, Power, Span, TOKEN_FILE};

/// What is run in the guest.
const SCRIPT: &str = include_str!("generalise.sh");

/// Where the guest puts its list of packages: on most systems no part of a disk.
const LIST: &str = "/run/stablehand-packages";

/// Takes out of a guest what tells it from others of its image.
pub(super) async fn run(
    host: &RealHost,
    vm: &Name,
    uuid: Uuid,
    management: &Management,
    within: Span,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    manages(host, vm, uuid, management).await?;
    match host.hypervisor.power(uuid).await? {
        Some(Power::Running) => {}
        Some(power) => return Err(StepError::Stale(format!("{vm} is {}", power.word()))),
        None => return Err(StepError::Stale(format!("{vm} has no domain"))),
    }
    let kept = host.folders.packages(vm);
    host.shell.remove(&kept).await?;
    let token = management.token.to_string();
    let command = ["/bin/sh", "-c", SCRIPT, "sh", TOKEN_FILE, &token, LIST].map(Arc::from);
    let said = agent::exec(host, uuid, &command, None, within.duration()).await?;
    if said.status != 0 {
        let what = format!("{vm} cannot be made like others of its image: the script in its guest {}", said.ended());
        return Err(StepError::Failed { what, hint: None, detail: said.last_lines(5) });
    }
    let line = |key: &str| said.stdout.lines().any(|line| line == key);
    if line("packages") {
        let list = agent::read(host, uuid, LIST).await?;
        if let Some(packages) = packages(&list) {
            progress.says(&format!("{} packages by {}", packages.count, packages.manager));
            host.shell.write(&kept, list, 0o644).await?;
        }
    }
    Ok(Done::Changed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    const TOKEN: &str = "7f3c0f7e-0000-5000-8000-000000000001";

    /// A root file system with busybox in it, as much as a small guest has.
    struct Root(tempfile::TempDir);

    impl Root {
        fn new() -> Option<Self> {
            let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|p| Path::new(p).exists())?;
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let root = Self(tempfile::tempdir().unwrap());
            for folder in
                ["bin", "dev", "run", "tmp", "root", "etc/ssh", "var/log/journal/x", "var/lib/cloud/instances/i"]
            {
                std::fs::create_dir_all(root.at(folder)).unwrap();
            }
            std::fs::create_dir_all(root.at("var/lib/cloud/seed")).unwrap();
            std::fs::create_dir_all(root.at("var/lib/dbus")).unwrap();
            std::fs::copy(busybox, root.at("bin/busybox")).unwrap();
            let list = Command::new(busybox).arg("--list").output().unwrap();
            // Trimming would trim this machine's disk, and packages would be asked of nobody.
            let left_out = ["busybox", "fstrim", "rpm", "dpkg", "dpkg-deb"];
            for name in String::from_utf8_lossy(&list.stdout).lines().filter(|n| !left_out.contains(n)) {
                let _ = std::os::unix::fs::symlink("busybox", root.at(&format!("bin/{name}")));
            }
            assert!(Command::new("mknod").arg(root.at("dev/null")).args(["c", "1", "3"]).status().unwrap().success());
            assert!(Command::new("mknod").arg(root.at("dev/zero")).args(["c", "1", "5"]).status().unwrap().success());
            Some(root)
        }
        fn at(&self, path: &str) -> std::path::PathBuf {
            self.0.path().join(path)
        }
        fn put(&self, path: &str, text: &str) {
            std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            std::fs::write(self.at(path), text).unwrap();
        }
        fn program(&self, name: &str, script: &str) {
            use std::os::unix::fs::PermissionsExt as _;
            self.put(&format!("bin/{name}"), script);
            std::fs::set_permissions(self.at(&format!("bin/{name}")), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        fn run(&self) -> Output {
            let mut command = Command::new("chroot");
            command.arg(self.0.path()).args(["/bin/sh", "-c", SCRIPT, "sh", TOKEN_FILE, TOKEN, LIST]);
            command.env_clear().env("PATH", "/bin:/usr/sbin:/sbin:/usr/bin").output().unwrap()
        }
        fn has(&self, path: &str) -> bool {
            self.at(path).exists()
        }
    }

    fn text(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    #[test]
    fn a_guest_forgets_who_it_is_and_keeps_what_it_was_given() {
        let Some(root) = Root::new() else {
            println!("SKIPPED: not root, or no busybox");
            return;
        };
        let token = format!("image=desk\ntoken={TOKEN}\n");
        root.put("etc/stablehand-management", &token);
        for (path, text) in [
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("etc/ssh/ssh_host_ed25519_key", "secret"),
            ("etc/ssh/ssh_host_ed25519_key.pub", "public"),
            ("etc/ssh/sshd_config", "kept"),
            ("var/lib/cloud/instances/i/user-data.txt", "password: secret"),
            ("var/lib/cloud/instance-id", "i"),
            ("var/lib/cloud/seed/nocloud/user-data", "kept"),
            ("var/lib/systemd/random-seed", "noise"),
            ("var/lib/dhcp/dhclient.leases", "lease"),
            ("root/.ash_history", "passwd"),
            ("var/log/messages", "a line\n"),
            ("var/log/messages.1", "an old line\n"),
            ("var/log/journal/x/system.journal", "j"),
            ("tmp/left", "x"),
            ("srv/what was configured", "kept"),
            ("home/ann/.bash_history", "cd"),
        ] {
            root.put(path, text);
        }
        root.program("dpkg-query", "#!/bin/sh\nprintf 'sed 4\\nbash 5\\n'\n");
        // A second name of a secret's file shows what is left in its blocks.
        let blocks = root.at("srv/blocks");
        std::fs::hard_link(root.at("etc/ssh/ssh_host_ed25519_key"), &blocks).unwrap();
        for again in [false, true] {
            let said = root.run();
            assert!(said.status.success(), "{}", text(&said));
            let lines = String::from_utf8_lossy(&said.stdout).into_owned();
            assert_eq!(lines, format!("packages\nkeys {}\n", u8::from(!again)));
            for gone in [
                "etc/stablehand-management",
                "etc/machine-id",
                "var/lib/dbus/machine-id",
                "etc/ssh/ssh_host_ed25519_key",
                "etc/ssh/ssh_host_ed25519_key.pub",
                "var/lib/cloud/instances",
                "var/lib/cloud/instance-id",
                "var/lib/systemd/random-seed",
                "var/lib/dhcp/dhclient.leases",
                "root/.ash_history",
                "home/ann/.bash_history",
                "var/log/messages.1",
                "var/log/journal/x",
                "tmp/left",
            ] {
                // A link of D-Bus to an id that is not there is no id.
                assert!(!root.has(gone), "{gone} is still there");
            }
            for kept in ["etc/ssh/sshd_config", "var/lib/cloud/seed/nocloud/user-data", "srv/what was configured"] {
                assert_eq!(std::fs::read_to_string(root.at(kept)).unwrap(), "kept");
            }
            assert_eq!(std::fs::read_to_string(root.at("var/log/messages")).unwrap(), "");
            let list = std::fs::read(root.at(LIST.trim_start_matches('/'))).unwrap();
            assert_eq!(list, b"# dpkg\nbash 5\nsed 4\n");
            let packages = packages(&list).unwrap();
            assert_eq!((packages.manager.as_str(), packages.count), ("dpkg", 2));
        }
        assert!(std::fs::read(blocks).unwrap().iter().all(|b| *b == 0), "it was written over first");
    }

    #[test]
    fn where_systemd_is_the_id_is_empty_and_not_gone() {
        let Some(root) = Root::new() else { return };
        root.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        root.put("usr/lib/systemd/systemd", "");
        root.put("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n");
        let said = root.run();
        assert!(said.status.success(), "{}", text(&said));
        assert_eq!(std::fs::read(root.at("etc/machine-id")).unwrap(), b"");
        assert_eq!(std::fs::read_link(root.at("var/lib/dbus/machine-id")).unwrap(), Path::new("/etc/machine-id"));
        assert_eq!(String::from_utf8_lossy(&said.stdout), "keys 0\n", "nobody lists packages");
        assert!(packages(b"").is_none() && packages(b"# dpkg").is_none());
    }

    #[test]
    fn another_management_instance_is_left_as_it_is() {
        let Some(root) = Root::new() else { return };
        root.put("etc/stablehand-management", "token=another\n");
        root.put("etc/machine-id", "id\n");
        let said = root.run();
        assert_eq!(said.status.code(), Some(3), "{}", text(&said));
        assert!(root.has("etc/machine-id") && root.has("etc/stablehand-management"));
    }
}
