//! Commit-confirm for uplinks, as for packet filters: what could cut the way to a host is undone by the host itself, unless
//! somebody who can still reach it says that it may stay.
//!
//! ```text
//!   write what undoes it ─▶ arm ─▶ ip -batch ─▶ is it still there? ─▶ disarm     it stays
//!                            └──▶ 15 s without it, whoever is dead ─▶ undone
//! ```

use super::wire::Change;
use crate::execute::StepError;
use crate::host::shell::{Program, Shell, ShellError};
use crate::model::Name;
use crate::observe::Boxed;

/// Seconds until it is undone: a connection that is new takes up to 8 s (`ConnectTimeout` of the ssh link).
const SECONDS: &str = "15";

/// Writes what undoes a change, arms the timer, makes the change; undoes it at once where a line of it fails. An older timer
/// goes: somebody has reached the host.
const ARM: &str = r#"folder=$1 seconds=$2
umask 077; mkdir -p -- "$folder" || exit 1
for old in "$folder"/armed.*; do [ ! -e "$old" ] || mv -f -- "$old" "$folder/over" || exit 1; done
armed=$folder/armed.$$
printf '%s' "$3" >"$folder/new" && mv -f -- "$folder/new" "$armed" || exit 1
wait='trap "" HUP; i=0
while [ $i -lt "$2" ]; do sleep 1; [ -e "$1" ] || exit 0; i=$((i + 1)); done
mv -f -- "$1" "$1.fired" && ip -force -batch "$1.fired" 2>/dev/null; mv -f -- "$1.fired" "${1%/*}/fired"'
if command -v setsid >/dev/null 2>&1; then setsid sh -c "$wait" sh "$armed" "$seconds" </dev/null >/dev/null 2>&1 &
else sh -c "$wait" sh "$armed" "$seconds" </dev/null >/dev/null 2>&1 & fi
ip -batch - ; status=$?
if [ $status = 0 ]; then echo "$armed"
elif mv -- "$armed" "$folder/failed"; then ip -force -batch "$folder/failed" 2>/dev/null; rm -rf -- "$folder"; fi
exit $status"#;

/// Disarms. Renaming is what only one of both can do.
const DISARM: &str = r#"mv -- "$1" "$1.kept" 2>/dev/null || { echo late; exit 0; }
rm -rf -- "${1%/*}"; echo kept"#;

/// Makes a change that is undone unless `reach` finds the host where it was.
pub(super) async fn run<'a>(
    shell: &dyn Shell,
    (fleet, host): (&Name, &Name),
    change: &Change,
    reach: &(dyn Fn() -> Boxed<'a, Result<(), String>> + Send + Sync),
) -> Result<(), StepError> {
    let folder = format!("/run/stablehand/links-{fleet}-{host}");
    let program = Program::new(["sh", "-c", ARM, "sh", &folder, SECONDS, &change.back]);
    // A line that says what failed, and not the script.
    let failed = |e: ShellError| match e {
        ShellError::TimedOut(_, after) => StepError::Unknown(format!("ip did not end in {after} s")),
        other => other.into(),
    };
    let output = shell.run(program.stdin(change.lines.clone())).await.map_err(failed)?;
    if output.status != 0 {
        return Err(refused(&output.stderr));
    }
    let armed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    reach().await.map_err(|text| {
        let back = "the host undoes it by itself";
        StepError::Unknown(format!("{host} cannot be reached with its new bridge, {back}: {text}"))
    })?;
    let output = shell.run(Program::new(["sh", "-c", DISARM, "sh", &armed])).await?;
    match output.stdout.trim_ascii() {
        b"kept" => Ok(()),
        _ => Err(StepError::Unknown(format!("{host} undid its new bridge: nobody confirmed in time"))),
    }
}

/// What ip complains of.
pub(super) fn refused(complaint: &str) -> StepError {
    let line = complaint.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no reason given");
    let hint = if line.contains("Unknown device type") || line.contains("Operation not supported") {
        Some("its kernel lacks a part: `modprobe bridge 8021q`".to_owned())
    } else {
        None
    };
    StepError::Failed { what: format!("ip refuses: {line}"), hint, detail: Vec::new() }
}
