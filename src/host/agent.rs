//! The guest agent: programs and files in guests (QEMU Guest Agent Protocol Reference). In a container, the host does the same
//! by entering its namespaces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::fleet::RealHost;
use super::inside;
use super::libvirt::{Agent, CallError};
use crate::execute::{Done, Progress, StepError};
use crate::model::{GUEST_OUTPUT, GuestOutput, Layer};

/// How long an agent may take for one answer: it does one thing at a time, and its guest may be busy.
const ANSWER: i32 = 10;
/// How long the work around a program may take, before it and after it.
const AROUND: Duration = Duration::from_secs(15);
/// How long a connection to the host may be away while a program runs in a guest, before we stop to wait for its end.
const AWAY: Duration = Duration::from_secs(30);
/// Bytes of a file in one message: 64 KiB in base64.
const PIECE: usize = 48 << 10;
/// The longest file that is read from a guest.
const LONGEST: usize = 16 << 20;
/// How long the programs around a file may take.
const FILE: Duration = Duration::from_secs(30);

/// `SECONDS PROGRAM [ARGUMENT…]`: runs a program, ends it when its time is over, and prints the end of what it said.
///
/// An answer with all that a program said may be larger than libvirt carries (4 MiB), and is lost then, its status with it;
/// and an agent that has the program's output in hand waits until everybody whom the program left behind has closed it.
const KEEP: &str = r#"PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}" HOME="${HOME:-/root}"
export PATH HOME
seconds=$1
shift
if timeout -k 5 9 true 2>/dev/null; then set -- timeout -k 5 "$seconds" "$@"
elif timeout 9 true 2>/dev/null; then set -- timeout "$seconds" "$@"; fi
said=$(umask 077; mktemp -d "${TMPDIR:-/tmp}/.stablehand.XXXXXX") || exec "$@"
"$@" >"$said/1" 2>"$said/2"
status=$?
tail -c LENGTH "$said/1"
tail -c LENGTH "$said/2" >&2
rm -rf "$said"
exit "$status""#;

/// What timeout(1) ends with when the time was over: that of coreutils with 124, that of busybox as the program does (128 + 15),
/// both with 128 + 9 when they had to kill.
const TIMED_OUT: [i32; 3] = [124, 137, 143];

/// Why nothing came of asking a guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AgentError {
    /// Nobody is there to be asked.
    #[error("the guest has no agent: {0}")]
    None(String),
    /// The agent does not do it.
    #[error("the guest's agent does not allow `{command}`")]
    Refused {
        /// The command of the agent's protocol.
        command: String,
    },
    /// A program did not end in time, and was killed.
    #[error("it did not end within {after} s and was killed")]
    TimedOut {
        /// How long it had, in seconds.
        after: u64,
        /// What it had said, where that is known.
        said: Option<Box<GuestOutput>>,
    },
    /// The agent says that it did not work.
    #[error("{text}")]
    Failed {
        /// Its words.
        text: String,
    },
    /// The host does not answer: what was asked may have been done or not.
    #[error("{0}")]
    Lost(CallError),
}

impl AgentError {
    fn failed(text: impl Into<String>) -> Self {
        Self::Failed { text: text.into() }
    }
    /// What to do about it, where we know.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::None(_) => Some(
                "install and start qemu-guest-agent in the guest; its VM needs a channel `org.qemu.guest_agent.0`, \
                 which VMs that Stablehand made have",
            ),
            Self::Refused { .. } => Some(
                "allow it in the guest: on Fedora and RHEL take it out of `--block-rpcs` (BLACKLIST_RPC) in \
                 /etc/sysconfig/qemu-ga and restart the agent",
            ),
            Self::TimedOut { .. } => Some("give it more time by `within`, or see what it waits for"),
            Self::Failed { .. } | Self::Lost(_) => None,
        }
    }
}

impl From<AgentError> for StepError {
    fn from(error: AgentError) -> Self {
        let (what, hint) = (error.to_string(), error.hint().map(str::to_owned));
        match error {
            AgentError::Lost(_) => Self::Unknown(what),
            AgentError::TimedOut { said, .. } => {
                Self::Failed { what, hint, detail: said.map(|s| s.last_lines(LINES)).unwrap_or_default() }
            }
            _ => Self::Failed { what, hint, detail: Vec::new() },
        }
    }
}

/// Lines of a program's output that a failure shows.
const LINES: usize = 15;

/// Asks whether somebody answers in a guest (`guest-ping`).
///
/// # Errors
/// [`AgentError`].
pub(super) async fn ping(host: &RealHost, uuid: Uuid) -> Result<(), AgentError> {
    ask(host, uuid, "guest-ping", Value::Null).await.map(drop)
}

/// Runs a program in a guest to its end, whatever its status is, and gives the end of what it said. After `limit` it is killed.
///
/// # Errors
/// [`AgentError`].
pub(super) async fn exec(
    host: &RealHost,
    uuid: Uuid,
    command: &[Arc<str>],
    input: Option<&str>,
    limit: Duration,
) -> Result<GuestOutput, AgentError> {
    let words: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
    if words.is_empty() {
        return Err(AgentError::failed("there is no command"));
    }
    // A part of a second would be no time at all to some timeout(1).
    let seconds = limit.as_millis().div_ceil(1000).max(1).to_string();
    let keep = KEEP.replace("LENGTH", &(GUEST_OUTPUT + 1).to_string());
    let kept: Vec<&str> = ["/bin/sh", "-c", &keep, "sh", &seconds].into_iter().chain(words.iter().copied()).collect();
    let began = Instant::now();
    let input = input.unwrap_or_default().as_bytes();
    let said = match (host.hypervisor.layer(), run(host, uuid, &kept, input, limit + AROUND).await) {
        // A guest without a shell: what it says is small, or the agent gives up.
        (Layer::Qemu, Err(AgentError::Failed { text })) if text.contains("execute child process") => {
            run(host, uuid, &words, input, limit).await?
        }
        (_, said) => said?,
    };
    let said = capped(said);
    if TIMED_OUT.contains(&said.status) && began.elapsed() >= limit {
        return Err(AgentError::TimedOut { after: limit.as_secs(), said: Some(Box::new(said)) });
    }
    Ok(said)
}

/// [`exec`] as a step: a program that must end with 0, and whose output is told.
pub(super) async fn perform(
    host: &RealHost,
    uuid: Uuid,
    (command, input): (&[Arc<str>], Option<&str>),
    limit: Duration,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let said = exec(host, uuid, command, input, limit).await;
    match &said {
        Ok(said) => progress.ran(said),
        Err(AgentError::TimedOut { said: Some(said), .. }) => progress.ran(said),
        Err(_) => {}
    }
    let said = said?;
    if said.status == 0 {
        return Ok(Done::Changed);
    }
    let program = crate::plan::guest::shown(command);
    let what = format!("`{program}` in the guest {}", said.ended());
    Err(StepError::Failed { what, hint: None, detail: said.last_lines(LINES) })
}

/// Runs a program that must end with 0.
async fn succeed(host: &RealHost, uuid: Uuid, words: &[&str], input: &[u8]) -> Result<String, AgentError> {
    let said = capped(run(host, uuid, words, input, FILE).await?);
    if said.status == 0 {
        return Ok(said.stdout);
    }
    let complaint = said.last_lines(3).join("; ");
    Err(AgentError::failed(format!("{} in the guest", if complaint.is_empty() { said.ended() } else { complaint })))
}

/// What a program said, as bytes.
struct Said {
    status: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn capped(said: Said) -> GuestOutput {
    let cut = |bytes: &[u8]| {
        let from = bytes.len().saturating_sub(GUEST_OUTPUT);
        (String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned(), from > 0)
    };
    let ((stdout, one), (stderr, other)) = (cut(&said.stdout), cut(&said.stderr));
    GuestOutput { status: said.status, stdout, stderr, truncated: one || other }
}

async fn run(host: &RealHost, uuid: Uuid, words: &[&str], input: &[u8], limit: Duration) -> Result<Said, AgentError> {
    if host.hypervisor.layer() == Layer::Lxc {
        let output = inside::run(host, uuid, words, input, limit).await?;
        return Ok(Said { status: output.status, stdout: output.stdout, stderr: output.stderr.into_bytes() });
    }
    let (program, arguments) = words.split_first().ok_or_else(|| AgentError::failed("there is no command"))?;
    let mut request = json!({"path": program, "arg": arguments, "capture-output": true});
    if !input.is_empty() {
        request["input-data"] = STANDARD.encode(input).into();
    }
    let answer = ask(host, uuid, "guest-exec", request).await?;
    let pid = answer.get("pid").and_then(Value::as_i64).ok_or_else(|| strange(&answer))?;
    let began = Instant::now();
    let mut pause = Duration::from_millis(20);
    let mut lost: Option<Instant> = None;
    loop {
        match ask(host, uuid, "guest-exec-status", json!({"pid": pid})).await {
            Ok(status) => {
                lost = None;
                if let Some(said) = ended(&status)? {
                    return Ok(said);
                }
            }
            // It goes on in the guest, whoever hears of it.
            Err(error @ AgentError::Lost(_)) if lost.get_or_insert_with(Instant::now).elapsed() >= AWAY => {
                return Err(error);
            }
            Err(AgentError::Lost(_)) => {}
            Err(AgentError::Failed { text }) => {
                let text = format!("{text} (the agent was restarted meanwhile, or the guest)");
                return Err(AgentError::Failed { text });
            }
            Err(error) => return Err(error),
        }
        if began.elapsed() >= limit {
            let kill = json!({"path": "kill", "arg": ["-9", pid.to_string()]});
            let _ = ask(host, uuid, "guest-exec", kill).await;
            return Err(AgentError::TimedOut { after: limit.as_secs(), said: None });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// What `guest-exec-status` says of a program that has ended; `None` while it runs.
fn ended(status: &Value) -> Result<Option<Said>, AgentError> {
    match status.get("exited").and_then(Value::as_bool) {
        Some(false) => return Ok(None),
        Some(true) => {}
        None => return Err(strange(status)),
    }
    let number = |key: &str| status.get(key).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let code = number("exitcode").or_else(|| number("signal").map(|signal| 128 + signal)).unwrap_or(-1);
    let bytes = |key: &str| -> Result<Vec<u8>, AgentError> { decoded(status.get(key)) };
    Ok(Some(Said { status: code, stdout: bytes("out-data")?, stderr: bytes("err-data")? }))
}

fn decoded(text: Option<&Value>) -> Result<Vec<u8>, AgentError> {
    let text = text.and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(text).map_err(|e| AgentError::failed(format!("the guest agent's answer is no base64: {e}")))
}

fn strange(answer: &Value) -> AgentError {
    AgentError::failed(format!("the guest agent answers {answer}"))
}

/// `PATH`: the folders above it, and an empty file of nobody else's beside it, whose name it prints.
const BESIDE: &str = r#"set -e
PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"; export PATH
mkdir -p -- "${1%/*}/"
umask 077
rm -f -- "$1.partial"
: >"$1.partial"
printf %s "$1.partial""#;

/// `PATH MODE`: what was written beside it takes its place.
const IN_PLACE: &str = r#"set -e
PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"; export PATH
chmod -- "$2" "$1.partial"
sync -- "$1.partial" 2>/dev/null || sync
mv -f -- "$1.partial" "$1""#;

/// `PATH`: its digest and its permissions.
const LOOK: &str = r#"PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"; export PATH
[ -f "$1" ] && [ ! -L "$1" ] || exit 0
sha256sum <"$1" && stat -c %a -- "$1""#;

/// Writes a file in a guest, whole or not at all, with the folders above it. [`Done::Already`] when it is there as it should
/// be. Without a mode it has 0644.
///
/// # Errors
/// [`AgentError`].
pub(super) async fn write(
    host: &RealHost,
    uuid: Uuid,
    path: &str,
    bytes: &[u8],
    mode: Option<u32>,
) -> Result<Done, AgentError> {
    let mode = mode.unwrap_or(0o644);
    let seen = succeed(host, uuid, &["/bin/sh", "-c", LOOK, "sh", path], &[]).await.unwrap_or_default();
    let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let is_mode = |line: &str| u32::from_str_radix(line.trim(), 8) == Ok(mode);
    if seen.starts_with(&digest) && seen.lines().nth(1).is_some_and(is_mode) {
        return Ok(Done::Already);
    }
    let partial = succeed(host, uuid, &["/bin/sh", "-c", BESIDE, "sh", path], &[]).await?;
    if host.hypervisor.layer() == Layer::Lxc {
        succeed(host, uuid, &["/bin/sh", "-c", r#"exec cat >"$1""#, "sh", &partial], bytes).await?;
    } else {
        fill(host, uuid, &partial, bytes).await?;
    }
    let mode = format!("{mode:o}");
    succeed(host, uuid, &["/bin/sh", "-c", IN_PLACE, "sh", path, &mode], &[]).await?;
    Ok(Done::Changed)
}

async fn fill(host: &RealHost, uuid: Uuid, path: &str, bytes: &[u8]) -> Result<(), AgentError> {
    let answer = ask(host, uuid, "guest-file-open", json!({"path": path, "mode": "w"})).await?;
    let handle = answer.as_i64().ok_or_else(|| strange(&answer))?;
    let mut written = Ok(());
    for piece in bytes.chunks(PIECE) {
        let mut rest = piece;
        while !rest.is_empty() && written.is_ok() {
            let request = json!({"handle": handle, "buf-b64": STANDARD.encode(rest)});
            written = match ask(host, uuid, "guest-file-write", request).await {
                Ok(answer) => match answer.get("count").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()) {
                    Some(count @ 1..) => {
                        rest = rest.get(count..).unwrap_or_default();
                        Ok(())
                    }
                    _ => Err(strange(&answer)),
                },
                Err(error) => Err(error),
            };
        }
    }
    if written.is_ok() {
        written = ask(host, uuid, "guest-file-flush", json!({"handle": handle})).await.map(drop);
    }
    // Files that stay open are the agent's until it ends.
    let closed = ask(host, uuid, "guest-file-close", json!({"handle": handle})).await;
    written.and(closed.map(drop))
}

/// Reads a file of a guest, 16 MiB of it at most.
///
/// # Errors
/// [`AgentError`], also for a longer file.
pub(super) async fn read(host: &RealHost, uuid: Uuid, path: &str) -> Result<Vec<u8>, AgentError> {
    if host.hypervisor.layer() == Layer::Lxc {
        let longest = (LONGEST + 1).to_string();
        let output = run(host, uuid, &["head", "-c", &longest, "--", path], &[], FILE).await?;
        return match (output.status, output.stdout.len()) {
            (0, ..=LONGEST) => Ok(output.stdout),
            (0, _) => Err(too_long(path)),
            _ => Err(AgentError::failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        };
    }
    let answer = ask(host, uuid, "guest-file-open", json!({"path": path, "mode": "r"})).await?;
    let handle = answer.as_i64().ok_or_else(|| strange(&answer))?;
    let mut bytes = Vec::new();
    let read = loop {
        let piece = match ask(host, uuid, "guest-file-read", json!({"handle": handle, "count": PIECE})).await {
            Ok(piece) => piece,
            Err(error) => break Err(error),
        };
        match decoded(piece.get("buf-b64")) {
            Ok(more) => bytes.extend(more),
            Err(error) => break Err(error),
        }
        if bytes.len() > LONGEST {
            break Err(too_long(path));
        }
        if piece.get("eof").and_then(Value::as_bool) != Some(false) {
            break Ok(());
        }
    };
    let closed = ask(host, uuid, "guest-file-close", json!({"handle": handle})).await;
    read.and(closed.map(|_| bytes))
}

fn too_long(path: &str) -> AgentError {
    AgentError::failed(format!("{path} in the guest is longer than {} MiB", LONGEST >> 20))
}

/// One command of the agent's protocol; what is in `return`.
async fn ask(host: &RealHost, uuid: Uuid, command: &str, arguments: Value) -> Result<Value, AgentError> {
    let mut request = json!({"execute": command});
    if !arguments.is_null() {
        request["arguments"] = arguments;
    }
    let answer = match host.hypervisor.agent(uuid, request.to_string(), ANSWER).await {
        Ok(Agent::Answer(text)) => text,
        Ok(Agent::Absent(text)) => return Err(AgentError::None(text)),
        Ok(Agent::Silent(text)) => return Err(silent(command, text)),
        Err(error) if error.is_missing() => return Err(AgentError::None(error.to_string())),
        Err(error) => return Err(AgentError::Lost(error)),
    };
    let mut value: Value = serde_json::from_str(&answer)
        .map_err(|e| AgentError::failed(format!("the guest agent answers no JSON: {e}")))?;
    match value.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(strange(&value)),
    }
}

/// What an error of the agent means. It has no codes for it: the words are those of QEMU's qga/ and qapi/qmp-dispatch.c
/// (`CommandNotFound` and `CommandDisabled`).
fn silent(command: &str, text: String) -> AgentError {
    let refused = ["has been disabled", "has not been found", "is not allowed", "not enabled", "is blocked"];
    if refused.iter().any(|words| text.contains(words)) {
        return AgentError::Refused { command: command.to_owned() };
    }
    let text = text.split_once(&format!("'{command}': ")).map_or(text.as_str(), |(_, words)| words).to_owned();
    AgentError::Failed { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_a_signal_and_a_program_that_runs() {
        assert!(ended(&json!({"exited": false})).unwrap().is_none());
        let said = ended(&json!({"exited": true, "exitcode": 3, "out-data": "aGVsbG8K"})).unwrap().unwrap();
        assert_eq!((said.status, said.stdout.as_slice()), (3, b"hello\n".as_slice()));
        let killed = capped(ended(&json!({"exited": true, "signal": 9})).unwrap().unwrap());
        assert_eq!(killed.ended(), "was killed by signal 9");
        assert!(ended(&json!({})).is_err() && ended(&json!({"exited": true, "out-data": "§"})).is_err());
    }

    #[test]
    fn only_the_end_of_what_was_said_is_kept() {
        let long = vec![b'x'; GUEST_OUTPUT + 1];
        let said = capped(Said { status: 0, stdout: long, stderr: b"a\n\nb\n".to_vec() });
        assert_eq!((said.stdout.len(), said.truncated), (GUEST_OUTPUT, true));
        assert_eq!(said.last_lines(1), ["b"]);
        assert!(!capped(Said { status: 0, stdout: vec![b'x'; GUEST_OUTPUT], stderr: Vec::new() }).truncated);
    }

    #[test]
    fn what_an_agent_does_not_allow_is_told_from_what_does_not_work() {
        let text = "unable to execute QEMU agent command 'guest-exec': Command guest-exec has been disabled";
        assert_eq!(silent("guest-exec", text.to_owned()), AgentError::Refused { command: "guest-exec".to_owned() });
        let text = "unable to execute QEMU agent command 'guest-file-open': No such file or directory";
        assert_eq!(silent("guest-file-open", text.to_owned()), AgentError::failed("No such file or directory"));
        assert!(AgentError::None("it is not connected".to_owned()).hint().is_some());
    }

    /// The scripts as they are carried out in a guest, here by the shell of this machine.
    #[test]
    fn a_program_is_kept_within_its_time_and_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let keep = KEEP.replace("LENGTH", "6");
        let run = |words: &[&str]| {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", &keep, "sh"]).args(words).env("TMPDIR", folder.path());
            command.output().unwrap()
        };
        let said = run(&["5", "sh", "-c", "echo 1234567; echo bad >&2; exit 7"]);
        assert_eq!((said.status.code(), said.stdout.as_slice()), (Some(7), b"34567\n".as_slice()));
        assert_eq!(said.stderr, b"bad\n");
        // What is left behind does not keep us waiting.
        let began = Instant::now();
        assert!(run(&["60", "sh", "-c", "sleep 20 & echo on"]).status.success());
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(TIMED_OUT.contains(&run(&["1", "sleep", "20"]).status.code().unwrap()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays in the guest");
    }
}
