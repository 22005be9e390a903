//! A running container as its host sees it: its console, its name, commands in it.

use std::time::Duration;

use uuid::Uuid;

use super::agent::AgentError;
use super::fleet::RealHost;
use super::libvirt::CallError;
use super::shell::{Output, Program, ShellError, succeed};
use crate::execute::StepError;
use crate::model::{Bytes, Name, Power, domain_name};

/// How long it may take to give a container its name.
const EXEC: Duration = Duration::from_secs(10);

/// `STATE CONSOLE CAP KEEP`: writes down what a container prints. Its console is a pseudo-terminal, and one that nobody
/// reads fills up (64 KiB), and then the container waits at its next word.
///
/// It begins before the container does, follows it through reboots, and ends half a minute after it: libvirt's file on the
/// running container says where the terminal is. A second one for the same console ends at once. A file that grows too
/// large is cut to its end. It is no agent: it decides nothing, and goes with the container.
const READER: &str = r#"umask 077
exec 9>>"$2" </dev/null >/dev/null 2>&1
flock -n 9 || exit 0
left=300
while [ "$left" -gt 0 ] && [ "$2" -ef /proc/self/fd/9 ]; do
  left=$((left - 1))
  tty=$(sed -n "s|.*<console type='pty' tty='\([^']*\)'.*|\1|p" "$1" | head -n 1)
  while [ -c "$tty" ] && dd bs=4096 count=1024 <"$tty" >>"$2"; do
    left=300
    if [ "$(stat -c %s "$2")" -gt "$3" ]; then
      tail -c "$4" "$2" >"$2.partial"
      cat "$2.partial" >"$2"
      rm -f "$2.partial"
    fi
    [ -e "$1" ] || break
  done
  sleep 0.1
done"#;

/// Sets `$first` to the first program of the container whose keeper is `$1`.
const FIRST: &str = r#"first=
read -r first _ <"/proc/$1/task/$1/children" || first=$(pgrep -o -P "$1")
[ -n "$first" ] || exit 125
shift
"#;

/// Begins to write down what a container prints, unless somebody does.
pub(super) async fn listen(host: &RealHost, vm: &Name) -> Result<(), ShellError> {
    let state = format!("/run/libvirt/lxc/{}.xml", domain_name(&host.folders.fleet, vm));
    let console = host.folders.console(vm);
    let (cap, keep) = (super::power::CONSOLE_CAP.to_string(), (super::power::CONSOLE_CAP / 8).to_string());
    let words = ["setsid", "-f", "sh", "-c", READER, "sh", &state, &console, &cap, &keep];
    succeed(host.shell.as_ref(), Program::new(words)).await.map(drop)
}

async fn enter(
    host: &RealHost,
    uuid: Uuid,
    script: &str,
    words: &[&str],
    (input, limit): (&[u8], Duration),
) -> Result<Output, AgentError> {
    let keeper = host.hypervisor.keeper(uuid).await.map_err(AgentError::Lost)?;
    let keeper = keeper.ok_or_else(|| AgentError::None("it does not run".to_owned()))?.to_string();
    let script = format!("{FIRST}{script}");
    let all = ["sh", "-c", &script, "sh", &keeper].into_iter().chain(words.iter().copied());
    match host.shell.run(Program::new(all).stdin(input).limit(limit)).await {
        Ok(output) => Ok(output),
        Err(ShellError::TimedOut(_, after)) => Err(AgentError::TimedOut { after, said: None }),
        Err(error) if error.is_unknown() => Err(AgentError::Lost(CallError::Closed(error.to_string()))),
        Err(error) => Err(AgentError::Failed { text: error.to_string() }),
    }
}

/// Gives a container that has just begun its own name, and the memory that it is promised: libvirt calls it by its domain,
/// and lets it have its maximum.
pub(super) async fn begun(host: &RealHost, vm: &Name, uuid: Uuid, memory: Bytes) -> Result<(), StepError> {
    let script = r#"exec nsenter -t "$first" -u sh -c 'echo "$1" >/proc/sys/kernel/hostname' sh "$1""#;
    let named = enter(host, uuid, script, &[vm.as_str()], (&[], EXEC)).await;
    let limited = host.hypervisor.set_memory(uuid, memory).await;
    if host.hypervisor.power(uuid).await? != Some(Power::Running) {
        // It ended already: whoever waits for it says so.
        return Ok(());
    }
    match named {
        Ok(output) if output.status == 0 => Ok(limited?),
        Ok(output) => Err(StepError::failed(format!("{vm} cannot be given its name: {}", output.stderr.trim()))),
        Err(error) => Err(StepError::failed(format!("{vm} cannot be given its name: {error}"))),
    }
}

/// Runs a command in a container to its end.
pub(super) async fn run(
    host: &RealHost,
    uuid: Uuid,
    words: &[&str],
    input: &[u8],
    limit: Duration,
) -> Result<Output, AgentError> {
    // The environment of the host's shell is nothing that a container should see.
    let script = r#"exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  "$(command -v nsenter)" -t "$first" -m -u -i -n -p -- "$@""#;
    enter(host, uuid, script, words, (input, limit)).await
}

/// The end of what libvirt wrote about a container.
pub(super) async fn log(host: &RealHost, vm: &Name) -> String {
    let path = format!("/var/log/libvirt/lxc/{}.log", domain_name(&host.folders.fleet, vm));
    let bytes = host.shell.read_end(&path, 8192).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
