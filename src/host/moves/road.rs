//! How memory and disks travel: in QEMU's TLS, through SSH, or in clear where that was declared.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::fleet::RealHost;
use super::super::libvirt::MoveCall;
use super::super::shell::{Program, succeed};
use super::guard::host_of_uri;
use crate::execute::StepError;
use crate::model::Transport;
use crate::plan::MigrateHow;

/// How long SSH may take to be there.
const LAID: Duration = Duration::from_secs(15);

/// Starts a relay at the source, as the same user as libvirtd: sockets of its own that lead to those of the target. `$1` is the
/// folder of both, `$2` how long it lives at most; then the options of ssh(1) and where it goes. It outlives whoever started
/// it, as the move does, and ends by itself when the target is silent for 10 s.
const RELAY: &str = r#"
folder=$1 seconds=$2
shift 2
mkdir -m 0711 "$folder"
setsid --fork sh -c 'echo $$ >"$0/pid"; exec timeout "$@" 2>"$0/log" >/dev/null </dev/null' "$folder" "$seconds" \
  ssh -N -o BatchMode=yes -o ExitOnForwardFailure=yes -o ControlMaster=no -o ControlPath=none -o ConnectTimeout=10 \
  -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o StreamLocalBindMask=0111 -o StreamLocalBindUnlink=yes \
  -L "$folder/memory:$folder/memory" -L "$folder/disks:$folder/disks" "$@"
"#;

/// The way of one move.
pub(super) struct Road<'r> {
    call: MoveCall,
    relay: Option<Relay<'r>>,
}

struct Relay<'r> {
    source: &'r RealHost,
    target: &'r RealHost,
    folder: String,
}

impl Road<'_> {
    /// What libvirt is told of it.
    pub(super) fn call(&self) -> MoveCall {
        self.call.clone()
    }

    /// Takes up what was laid.
    pub(super) async fn end(&self) {
        let Some(Relay { source, target, folder }) = &self.relay else { return };
        let script = r#"[ ! -e "$1/pid" ] || kill "$(cat "$1/pid")"; rm -rf "$1""#;
        for host in [source, target] {
            let program = Program::new(["sh", "-c", script, "sh", folder]).limit(Duration::from_secs(10));
            if let Err(error) = succeed(host.shell.as_ref(), program).await {
                tracing::warn!("{}: {folder} stays behind: {error}", host.doc.name);
            }
        }
    }
}

/// Makes the way ready.
///
/// # Errors
/// A transport that cannot carry what has to travel, before anything is touched.
pub(super) async fn lay<'r>(
    source: &'r RealHost,
    target: &'r RealHost,
    how: &MigrateHow,
) -> Result<Road<'r>, StepError> {
    let address =
        how.address.as_deref().map(|a| if a.contains(':') { format!("tcp://[{a}]") } else { format!("tcp://{a}") });
    let plain = MoveCall { data: address, ..MoveCall::default() };
    match how.transport {
        Transport::Clear => Ok(Road { call: plain, relay: None }),
        Transport::Tls => {
            // A certificate names the host, and seldom an address that was declared for the data alone.
            let certificate = if how.address.is_some() { target.hypervisor.host_name().await.ok() } else { None };
            Ok(Road { call: MoveCall { tls: true, certificate, ..plain }, relay: None })
        }
        Transport::Tunnel => tunnel(source, target, how).await,
    }
}

async fn tunnel<'r>(source: &'r RealHost, target: &'r RealHost, how: &MigrateHow) -> Result<Road<'r>, StepError> {
    let scheme = how.uri.split("://").next().unwrap_or_default();
    match (scheme.split_once('+').map(|(_, way)| way), how.storage) {
        // libvirt's own tunnel carries memory alone: with disks it fails in the middle of QEMU's set-up.
        (Some("ssh" | "tls"), false) => {
            Ok(Road { call: MoveCall { tunnelled: true, ..MoveCall::default() }, relay: None })
        }
        (Some("ssh"), true) => {
            let relay = Relay { source, target, folder: format!("/run/stablehand-{}", Uuid::new_v4().simple()) };
            let socket = |name: &str| Some(format!("unix://{}/{name}", relay.folder));
            let call = MoveCall { data: socket("memory"), disks: socket("disks"), ..MoveCall::default() };
            let road = Road { call, relay: None };
            match relay.lay(how).await {
                Ok(()) => Ok(Road { relay: Some(relay), ..road }),
                Err(error) => {
                    Road { relay: Some(relay), ..road }.end().await;
                    Err(error)
                }
            }
        }
        (Some("tls"), true) => Err(StepError::Failed {
            what: format!("libvirt's tunnel to {} carries memory, not disks", target.doc.name),
            hint: Some(
                "write `transport: tls`, or a `migration: {uri: qemu+ssh://…}`, through which disks go too".to_owned(),
            ),
            detail: Vec::new(),
        }),
        _ => Err(StepError::Failed {
            what: format!("`{}` is no tunnel: what goes through it can be read on the way", how.uri),
            hint: Some("write a `migration: {uri: qemu+ssh://…}` or `qemu+tls://…`, or `transport: tls`".to_owned()),
            detail: Vec::new(),
        }),
    }
}

impl Relay<'_> {
    async fn lay(&self, how: &MigrateHow) -> Result<(), StepError> {
        // QEMU at the target makes its sockets there, as a user of its own.
        let make = Program::new(["mkdir", "-m", "1777", &self.folder]);
        succeed(self.target.shell.as_ref(), make).await?;
        let seconds = how.time_limit.duration().as_secs().saturating_add(120).to_string();
        let mut words = ["sh", "-c", RELAY, "sh", &self.folder, &seconds].map(str::to_owned).to_vec();
        words.extend(ssh_words(&how.uri));
        succeed(self.source.shell.as_ref(), Program::new(words).limit(LAID)).await?;
        let began = Instant::now();
        let wanted = ["disks", "memory"];
        while began.elapsed() < LAID {
            let there = self.source.shell.list(&self.folder).await?;
            if wanted.iter().all(|w| there.iter().any(|t| t == w)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = self.source.shell.read(&format!("{}/log", self.folder), 4096).await.unwrap_or_default();
        Err(StepError::Failed {
            what: format!("{} does not reach {} by ssh", self.source.doc.name, self.target.doc.name),
            hint: Some(format!(
                "root there must get in without a question: `ssh {} true`",
                ssh_words(&how.uri).join(" ")
            )),
            detail: String::from_utf8_lossy(&log).lines().map(str::to_owned).collect(),
        })
    }
}

/// What ssh(1) is told of a `qemu+ssh` URI, as libvirt tells it: port, user, key.
fn ssh_words(uri: &str) -> Vec<String> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let (authority, query) = (rest.split('/').next().unwrap_or_default(), rest.split_once('?').map_or("", |(_, q)| q));
    let host = host_of_uri(uri).unwrap_or_default();
    let mut words = Vec::new();
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    if let Some((_, port)) = after.rsplit_once(':') {
        words.extend(["-p".to_owned(), port.to_owned()]);
    }
    if let Some(key) = query.split('&').find_map(|p| p.strip_prefix("keyfile=")) {
        words.extend(["-i".to_owned(), key.to_owned()]);
    }
    words.push("--".to_owned());
    words.push(authority.rsplit_once('@').map_or(host.to_owned(), |(user, _)| format!("{user}@{host}")));
    words
}

/// Sees that both hosts have the same files, as their documents say: libvirt is told to believe it.
pub(super) async fn same_files(source: &RealHost, target: &RealHost) -> Result<(), StepError> {
    let (folder, token) = (&source.folders.slots, Uuid::new_v4().to_string());
    let path = format!("{folder}/.{}.{}.shared", source.folders.fleet, source.doc.name);
    source.shell.write(&path, token.clone().into_bytes(), 0o600).await?;
    let found = target.shell.read(&path, 64).await;
    source.shell.remove(&path).await?;
    if found.is_ok_and(|f| f == token.as_bytes()) {
        return Ok(());
    }
    let (from, to) = (&source.doc.name, &target.doc.name);
    Err(StepError::Failed {
        what: format!("{folder} is not the same folder at {from} and at {to}, as `shared` says"),
        hint: Some(
            "is it mounted on both? else take `shared` out of the host's document: disks then travel".to_owned(),
        ),
        detail: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_goes_where_libvirt_goes() {
        assert_eq!(
            ssh_words("qemu+ssh://root@h2:2222/system?keyfile=/k&no_tty=1"),
            ["-p", "2222", "-i", "/k", "--", "root@h2"]
        );
        assert_eq!(ssh_words("qemu+ssh://h2/system"), ["--", "h2"]);
        assert_eq!(ssh_words("qemu+ssh://root@[fd00::2]/system"), ["--", "root@fd00::2"]);
    }
}
