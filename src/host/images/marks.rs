//! Whose a file of the store is, and since when nothing of a fleet needs it: several fleets may share a store.

use std::time::Duration;

use super::super::shell::{LIBRARY, Program, Shell, succeed};
use super::digest_path;
use crate::execute::{Done, StepError};
use crate::model::{Name, Timestamp};

/// The words of a mark.
const NEEDED: &str = "needed";
const UNNEEDED: &str = "unneeded since ";

/// `$1` the path, `$2` the fleet. Its mark goes last: as long as it is there, the next pass drops what is left.
const DROP: &str = r#"
command -v flock >/dev/null 2>&1 || fail "flock is not installed"
folder_of "$1"
there "$folder" || { echo already; exit 0; }
exec 9>>"$1.lock" || exit 1
flock -w 20 9 || fail "somebody else writes it"
for mark in "$1".for.*; do
  if [ -e "$mark" ] && [ "$mark" != "$1.for.$2" ]; then
    rm -f -- "$1.for.$2" "$1.lock" && settle "$folder" && echo given
    exit
  fi
done
said=already; if there "$1"; then said=dropped; fi
rm -f -- "$1" && settle "$folder" || exit 1
rm -f -- "$1.digest" "$1".partial "$1".partial.head "$1".partial.head.new "$1".unpacked "$1".packages "$1.for.$2" "$1.lock"
settle "$folder"; echo $said"#;

/// The mark of a fleet beside a file.
pub(in crate::host) fn mark_of(path: &str, fleet: &str) -> String {
    format!("{path}.for.{fleet}")
}

/// The fleet and its mark: the end of the name of the file that it is in, and that file's text.
pub(in crate::host) fn read_mark(name: &str, text: &[u8]) -> Option<(Name, Option<Timestamp>)> {
    let text = String::from_utf8_lossy(text);
    let since = text.trim().strip_prefix(UNNEEDED).and_then(|s| s.trim().parse().ok()).map(Timestamp);
    // Whatever else it says, somebody needs it.
    Some((Name::new(name).ok()?, since))
}

/// Marks a file as needed by a fleet.
///
/// # Errors
/// The mark cannot be written.
pub(in crate::host) async fn needed(shell: &dyn Shell, path: &str, fleet: &Name) -> Result<Done, StepError> {
    write(shell, path, fleet, NEEDED.to_owned()).await
}

/// Marks a file as needed, or as not needed since a moment.
///
/// # Errors
/// There is no such file, or the mark cannot be written.
pub(in crate::host) async fn mark(
    shell: &dyn Shell,
    path: &str,
    fleet: &Name,
    unneeded: Option<Timestamp>,
) -> Result<Done, StepError> {
    if shell.size(path).await?.is_none() {
        return Err(StepError::Stale(format!("{path} is not there any more")));
    }
    let text = unneeded.map_or_else(|| NEEDED.to_owned(), |since| format!("{UNNEEDED}{}", since.0));
    write(shell, path, fleet, text).await
}

async fn write(shell: &dyn Shell, path: &str, fleet: &Name, text: String) -> Result<Done, StepError> {
    let mark = mark_of(path, fleet.as_str());
    let text = format!("{text}\n").into_bytes();
    if shell.read(&mark, 1024).await.is_ok_and(|there| there == text) {
        return Ok(Done::Already);
    }
    shell.write(&mark, text, 0o644).await?;
    Ok(Done::Changed)
}

/// Takes a fleet's mark off a file, and removes the file when no other fleet's is on it. The caller has seen that nothing on
/// the host is built on it.
///
/// # Errors
/// [`ShellError`](super::super::shell::ShellError).
pub(in crate::host) async fn drop(shell: &dyn Shell, path: &str, fleet: &Name) -> Result<Done, StepError> {
    let script = format!("{LIBRARY}{DROP}");
    let there =
        shell.size(&mark_of(path, fleet.as_str())).await?.is_some() || shell.size(&digest_path(path)).await?.is_some();
    if !there && shell.size(path).await?.is_none() {
        return Ok(Done::Already);
    }
    let program = Program::new(["sh", "-c", &script, "sh", path, fleet.as_str()]).limit(Duration::from_secs(120));
    let said = match succeed(shell, program).await {
        Err(super::super::shell::ShellError::Failed { complaint, .. }) => {
            return Err(StepError::failed(format!("{path}: {complaint}")));
        }
        said => said?,
    };
    Ok(if said.starts_with(b"already") { Done::Already } else { Done::Changed })
}
