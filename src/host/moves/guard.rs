//! Dead links. A QEMU that writes to a disk at another host waits for it without end when the cable is cut, and its guest with
//! it: somebody on its host must close the socket (ss(8), `-K`).

use std::time::Duration;

use super::super::fleet::RealHost;
use super::super::shell::{Program, Shell, succeed};
use crate::execute::StepError;
use crate::model::Span;

/// Closes sockets of QEMU to the addresses `$2…`, each second until `$1` seconds are over or nobody has such a socket any more
/// for a minute. Only those whose last data was sent five times in vain: with Linux's retransmission times (200 ms, doubled
/// each time) that is a link dead for 6 s.
const WATCH: &str = r#"
exec >/dev/null 2>&1
end=$(($(date +%s) + $1)) idle=0
shift
while [ "$(date +%s)" -lt "$end" ] && [ $idle -lt 60 ]; do
  idle=$((idle + 1))
  for to; do
    sockets=$(ss -Htnop dst "$to" | grep qemu) || continue
    idle=0
    echo "$sockets" | while read -r _ _ _ from peer rest; do
      case $rest in *'timer:(on,'*,[5-9]')'* | *'timer:(on,'*,[1-9][0-9]')'*) ss -K -t src "$from" dst "$peer" ;; esac
    done
  done
  sleep 1
done
"#;

/// Closes every socket of QEMU to the addresses `$@`.
const CLOSE: &str = r#"
for to; do
  ss -Htnop dst "$to" | grep qemu | while read -r _ _ _ from peer _; do ss -K -t src "$from" dst "$peer"; done
done
"#;

/// Leaves a watch at the source of a move, which frees the guest also when we are dead or cut off from there.
pub(super) async fn watch(source: &RealHost, target: &[String], limit: Span) {
    let seconds = limit.duration().as_secs().saturating_add(60).to_string();
    let mut words = ["setsid", "--fork", "sh", "-c", WATCH, "stablehand-guard", &seconds].map(str::to_owned).to_vec();
    words.extend(target.iter().cloned());
    // Without it a cut link is noticed later: by us, when the figures of the job stop coming.
    if let Err(error) = succeed(source.shell.as_ref(), Program::new(words).limit(Duration::from_secs(10))).await {
        tracing::warn!("{}: no guard for dead links: {error}", source.doc.name);
    }
}

/// Closes the sockets of QEMU at the source to these addresses.
pub(super) async fn close(source: &RealHost, target: &[String]) -> Result<(), StepError> {
    let mut words = ["sh", "-c", CLOSE, "stablehand-guard"].map(str::to_owned).to_vec();
    words.extend(target.iter().cloned());
    succeed(source.shell.as_ref(), Program::new(words).limit(Duration::from_secs(10))).await?;
    Ok(())
}

/// Addresses of the target as the source knows them: of the name that it has itself, of the one in its URI, and what was
/// declared for the data.
pub(super) async fn addresses(source: &RealHost, target: &RealHost) -> Vec<String> {
    let mut names: Vec<String> = target.doc.migration.address.iter().map(ToString::to_string).collect();
    names.extend(target.doc.migration.uri.as_deref().and_then(host_of_uri).map(str::to_owned));
    names.extend(target.hypervisor.host_name().await.ok());
    let mut out: Vec<String> = Vec::new();
    for name in names {
        for address in resolve(source.shell.as_ref(), &name).await {
            if !out.contains(&address) {
                out.push(address);
            }
        }
    }
    out
}

async fn resolve(shell: &dyn Shell, name: &str) -> Vec<String> {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.parse::<std::net::IpAddr>().is_ok() {
        return vec![name.to_owned()];
    }
    let program = Program::new(["getent", "ahosts", name]).limit(Duration::from_secs(5));
    let said = succeed(shell, program).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&said).into_owned();
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

/// The host in a URI: `qemu+ssh://root@h2:22/system` is `h2`.
pub(super) fn host_of_uri(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(six) => six.split_once(']')?.0,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_uri_is_found() {
        for (uri, host) in [
            ("qemu+tcp://10.77.0.12/system", Some("10.77.0.12")),
            ("qemu+ssh://root@h2:2222/system?keyfile=/k", Some("h2")),
            ("qemu+tls://[fd00::2]:16514/system", Some("fd00::2")),
            ("qemu:///system", None),
        ] {
            assert_eq!(host_of_uri(uri), host, "{uri}");
        }
    }
}
