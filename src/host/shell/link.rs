//! How a command line gets to another machine: by OpenSSH, or by a command that somebody gave.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

/// The way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The program and its arguments; what is to be run follows them as arguments.
    Command(Vec<String>),
    /// OpenSSH.
    Ssh(Ssh),
}

/// What OpenSSH is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ssh {
    target: String,
    port: Option<u16>,
    identity: Option<String>,
}

/// A path of a document, below the fleet's folder when it is relative.
fn below(base: &Path, path: &str) -> String {
    base.join(path).to_string_lossy().into_owned()
}

impl Link {
    pub(super) fn command<'a>(words: impl Iterator<Item = &'a str>, base: &Path) -> Self {
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        // As execvp(3) has it: without a `/` it is a program of the search path.
        if let Some(program) = words.first_mut().filter(|w| w.contains('/')) {
            *program = below(base, program);
        }
        Self::Command(words)
    }

    pub(super) fn ssh(target: &str, port: Option<u16>, identity: Option<&str>, base: &Path) -> Self {
        Self::Ssh(Ssh { target: target.to_owned(), port, identity: identity.map(|i| below(base, i)) })
    }

    /// How people call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Command(words) => format!("`{}`", words.join(" ")),
            Self::Ssh(ssh) => match ssh.port {
                Some(port) => format!("ssh {}, port {port}", ssh.target),
                None => format!("ssh {}", ssh.target),
            },
        }
    }

    /// The program that must be there on this machine.
    pub(super) fn program(&self) -> &str {
        match self {
            Self::Command(words) => words.first().map(String::as_str).unwrap_or_default(),
            Self::Ssh(_) => "ssh",
        }
    }

    /// The process that runs `words` on the host.
    pub(super) fn to_run(&self, words: &[String]) -> Command {
        self.to_run_over(words, |ssh| ssh.options(Some("no")))
    }

    /// The same by a connection of its own.
    pub(super) fn to_run_alone(&self, words: &[String]) -> Command {
        self.to_run_over(words, |ssh| ssh.options(None))
    }

    fn to_run_over(&self, words: &[String], options: impl FnOnce(&Ssh) -> Vec<String>) -> Command {
        let mut command = Command::new(self.program());
        match self {
            Self::Command(own) => command.args(own.get(1..).unwrap_or_default()).args(words),
            Self::Ssh(ssh) => {
                let line: Vec<String> = words.iter().map(|w| quote(w)).collect();
                command.args(options(ssh)).arg("--").arg(&ssh.target).arg(line.join(" "))
            }
        };
        command
    }

    /// The process that opens a connection for all to share, where there is none. `None` when there is nothing to open.
    pub(super) fn to_open(&self) -> Option<Command> {
        let Self::Ssh(ssh) = self else { return None };
        // A socket that nobody listens on any more is left by a killed ssh.
        if UnixStream::connect(ssh.socket()?).is_ok() {
            return None;
        }
        let mut command = Command::new("ssh");
        command.args(ssh.options(Some("auto"))).arg("--").arg(&ssh.target).arg("true");
        Some(command)
    }
}

impl Ssh {
    /// ssh_config(5). A connection that is there is shared; `master` says whether one that is not there is made for others.
    /// `None`: one that nobody shares.
    fn options(&self, master: Option<&str>) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        // Nobody is there to answer a question; that a host is away is known within half a minute; nothing in a user's own
        // configuration changes what is run.
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=8",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
            "LogLevel=ERROR",
            "RequestTTY=no",
            "RemoteCommand=none",
            "PermitLocalCommand=no",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ControlPersist=60",
        ] {
            words.extend(["-o".to_owned(), option.to_owned()]);
        }
        match master.and_then(|master| Some((master, self.socket()?))) {
            Some((master, socket)) => {
                words.extend(["-o".to_owned(), format!("ControlMaster={master}")]);
                words.extend(["-o".to_owned(), format!("ControlPath={}", socket.display())]);
            }
            None => words.extend(["-o".to_owned(), "ControlPath=none".to_owned()]),
        }
        if let Some(port) = self.port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        if let Some(identity) = &self.identity {
            words.extend(["-i".to_owned(), identity.clone(), "-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
        }
        words
    }

    /// The socket of the shared connection, in a folder that is ours alone; short, since it has to fit `sun_path` (unix(7))
    /// with the 17 characters that ssh puts behind it while it makes it. `None`: no such folder, and so nothing is shared.
    fn socket(&self) -> Option<PathBuf> {
        let folder = private_folder()?;
        let mut hash = Sha256::new();
        hash.update(format!("{}\0{:?}\0{:?}", self.target, self.port, self.identity));
        let name: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Some(folder.join(name))
    }
}

/// A folder that only we can look into, kept from one process to the next, so that verbs run by hand share connections.
fn private_folder() -> Option<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let of_user = PathBuf::from(format!("/run/user/{uid}/stablehand"));
    let places = [of_user, "/run/stablehand".into(), format!("/tmp/stablehand-{uid}").into()];
    places.into_iter().find(|place| {
        let _ = DirBuilder::new().mode(0o700).create(place);
        // In /tmp somebody else may have been first, with a folder or a link of theirs.
        std::fs::symlink_metadata(place).is_ok_and(|m| {
            let closed =
                || m.mode() & 0o077 == 0 || std::fs::set_permissions(place, Permissions::from_mode(0o700)).is_ok();
            m.is_dir() && m.uid() == uid && closed()
        })
    })
}

/// A word as `sh` reads it back unchanged (POSIX.1-2017, XCU 2.2.2): in single quotes nothing has a meaning but `'` itself.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_read_back() {
        for word in ["", "a b", "it's", "$(id) `id` \\ \"", "-n", "new\nline", "'''", "*", "ä€"] {
            let line = format!("printf '%s|' {} {}", quote(word), quote("end"));
            let out = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{word}|end|"));
        }
    }

    #[test]
    fn relative_paths_are_below_the_fleets_folder() {
        let base = Path::new("/srv/fleet");
        let words = |link: Link| match link {
            Link::Command(words) => words,
            Link::Ssh(ssh) => ssh.options(Some("no")),
        };
        assert_eq!(words(Link::command(["tools/reach", "h1"].into_iter(), base)), ["/srv/fleet/tools/reach", "h1"]);
        assert_eq!(words(Link::command(["ip", "netns"].into_iter(), base)), ["ip", "netns"]);
        let options = words(Link::ssh("root@h1", Some(2222), Some("keys/id"), base));
        assert!(options.join(" ").contains("-p 2222 -i /srv/fleet/keys/id -o IdentitiesOnly=yes"), "{options:?}");
    }

    #[test]
    fn a_target_is_never_an_option() {
        let link = Link::ssh("-oProxyCommand=touch /tmp/owned", None, None, Path::new("/"));
        let command = link.to_run(&["id".to_owned()]);
        let words: Vec<_> = command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        let end = words.iter().position(|w| w == "--").unwrap();
        assert_eq!(words[end + 1..], ["-oProxyCommand=touch /tmp/owned".to_owned(), "'id'".to_owned()]);
    }
}
