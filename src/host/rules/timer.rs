//! Commit-confirm: what could cut the way to a host is taken back by the host itself, unless somebody who can still reach it
//! says that it may stay.
//!
//! ```text
//!   save the table ─▶ arm ─▶ nft -f - ─▶ a new connection ─▶ disarm          the new table stays
//!                      └──▶ 15 s without it, whoever is dead ─▶ the old table is back
//! ```
//!
//! *Takes* a transaction. *Gives* it to the host. *Never* leaves a program there that outlives its 15 s.

use crate::execute::StepError;
use crate::host::shell::{Output, Program, Shell, ShellError};
use crate::model::Name;
use crate::observe::Boxed;

use super::table::table_name;
use super::{LIMIT, Unable, answer, strange};

/// Seconds until the old table comes back: a connection that is new takes up to 8 s (`ConnectTimeout` of the ssh link).
const SECONDS: &str = "15";

/// Saves a table, arms the timer, hands standard input to nft. An older timer goes: somebody has reached the host.
const ARM: &str = r#"folder=$1 table=$2 seconds=$3
umask 077; mkdir -p -- "$folder" || exit 1
for old in "$folder"/armed.*; do [ ! -e "$old" ] || mv -f -- "$old" "$folder/over" || exit 1; done
armed=$folder/armed.$$
{ echo "table bridge $table"; echo "delete table bridge $table"; } >"$folder/new" || exit 1
if ! nft list table bridge "$table" >>"$folder/new" 2>"$folder/said"; then
  case $(cat -- "$folder/said") in *"No such file or directory"*) ;; *) cat -- "$folder/said" >&2; exit 1;; esac
fi
mv -f -- "$folder/new" "$armed" || exit 1
wait='trap "" HUP; i=0
while [ $i -lt "$2" ]; do sleep 1; [ -e "$1" ] || exit 0; i=$((i + 1)); done
mv -f -- "$1" "$1.fired" && nft -f "$1.fired"; mv -f -- "$1.fired" "${1%/*}/fired"'
if command -v setsid >/dev/null 2>&1; then setsid sh -c "$wait" sh "$armed" "$seconds" </dev/null >/dev/null 2>&1 &
else sh -c "$wait" sh "$armed" "$seconds" </dev/null >/dev/null 2>&1 & fi
nft -j -f - ; status=$?
if [ $status = 0 ]; then echo "$armed"; else rm -f -- "$armed"; fi
exit $status"#;

/// Disarms. Renaming is what only one of both can do.
const DISARM: &str = r#"mv -- "$1" "$1.kept" 2>/dev/null || { echo late; exit 0; }
rm -rf -- "${1%/*}"; echo kept"#;

/// What a transaction may do to the way to its host.
#[derive(Clone, Copy)]
pub enum Guard<'a> {
    /// Nothing: the host is this machine.
    Sure,
    /// It might cut it.
    Armed {
        /// The host's name: hosts may share a folder for what runs.
        host: &'a Name,
        /// Looks whether the host can be reached, by connections that are new.
        reach: &'a (dyn Fn() -> Boxed<'a, Result<(), String>> + Send + Sync),
    },
}

impl Guard<'_> {
    /// Hands a transaction to nft; in the inner result, why nft cannot or does not.
    pub(super) async fn run(
        &self,
        shell: &dyn Shell,
        fleet: &Name,
        batch: Vec<u8>,
    ) -> Result<Result<(), Unable>, StepError> {
        let Self::Armed { host, reach } = self else {
            let program = Program::new(["nft", "-j", "-f", "-"]).stdin(batch).limit(LIMIT);
            return Ok(taken(shell.run(program).await)?.map(drop));
        };
        let folder = format!("/run/stablehand/rules-{fleet}-{host}");
        let words = ["sh", "-c", ARM, "sh", &folder, &table_name(fleet), SECONDS];
        // A line that says what failed, and not the script.
        let failed = |e: ShellError| match e {
            ShellError::TimedOut(_, after) => StepError::Unknown(format!("nft did not end in {after} s")),
            other => other.into(),
        };
        let output = match taken(shell.run(Program::new(words).stdin(batch).limit(LIMIT)).await).map_err(failed)? {
            Ok(output) => output,
            Err(unable) => return Ok(Err(unable)),
        };
        let armed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        reach().await.map_err(|text| {
            let back = "the host puts the old filter back by itself";
            StepError::Unknown(format!("{host} cannot be reached with the new packet filter, {back}: {text}"))
        })?;
        let output = shell.run(Program::new(["sh", "-c", DISARM, "sh", &armed])).await?;
        match output.stdout.trim_ascii() {
            b"kept" => Ok(Ok(())),
            _ => Err(StepError::Unknown(format!("{host} took its old packet filter back: nobody confirmed in time"))),
        }
    }
}

fn taken(result: Result<Output, ShellError>) -> Result<Result<Output, Unable>, ShellError> {
    Ok(match answer(result)? {
        Ok(output) if output.status != 0 => Err(strange(&output)),
        other => other,
    })
}
