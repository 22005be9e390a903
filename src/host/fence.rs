//! Fencing: a command on this machine that makes a host certain to run nothing any more.
//!
//! Only its end with 0 counts. Anything else, a command that is too slow included, leaves the host as it was taken to be:
//! Unknown, with its VMs its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::shell::{Local, Program, Shell as _, ShellError};
use crate::execute::{Done, StepError};
use crate::model::{Name, Span};

/// Lines of what the command printed that an error shows.
const LINES: usize = 8;

/// Runs the command. `base` is the folder to which a relative path of its program belongs.
///
/// # Errors
/// The command is not there, ended with another status than 0, or did not end in time.
pub async fn fence(base: &Path, host: &Name, command: &[Arc<str>], within: Span) -> Result<Done, StepError> {
    let mut words: Vec<String> = command.iter().map(|word| word.replace("{host}", host.as_str())).collect();
    let Some(program) = words.first_mut() else { return Err(StepError::failed("the fence has no command")) };
    // As execvp(3) has it: without a `/` it is a program of the search path.
    if program.contains('/') {
        *program = base.join(&*program).to_string_lossy().into_owned();
    }
    let hint =
        Some(format!("host/{host} stays Unknown: run the command by hand, or fence it and write a HostLost document"));
    let failed = |what: String, detail: Vec<String>| Err(StepError::Failed { what, hint, detail });
    match Local.run(Program::new(words.clone()).limit(Duration::from_millis(within.0))).await {
        Ok(output) if output.status == 0 => Ok(Done::Changed),
        Ok(output) => {
            let printed = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), output.stderr);
            let lines: Vec<String> =
                printed.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
            let last = lines[lines.len().saturating_sub(LINES)..].to_vec();
            failed(format!("`{}` ended with {}: the host is not fenced", words.join(" "), output.status), last)
        }
        Err(ShellError::NoProgram(program)) => {
            failed(format!("`{program}` is not there: the host is not fenced"), Vec::new())
        }
        Err(error) => failed(format!("{error}: the host is not fenced"), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(base: &Path, command: &[&str], within: u64) -> Result<Done, StepError> {
        let command: Vec<Arc<str>> = command.iter().map(|w| Arc::from(*w)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fence(base, &Name::new("h2").unwrap(), &command, Span(within)))
    }

    #[test]
    fn only_a_command_that_ends_with_0_fences() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("off");
        std::fs::write(
            &script,
            "#!/bin/sh\necho \"cutting $1\"\necho 'no answer' >&2\n[ \"$1\" = h2 ] && exit \"$2\"\n",
        )
        .unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(run(folder.path(), &["./off", "{host}", "0"], 9_000), Ok(Done::Changed));
        let Err(StepError::Failed { what, detail, hint: Some(_) }) =
            run(folder.path(), &["./off", "{host}", "3"], 9_000)
        else {
            unreachable!("3 is no success");
        };
        assert!(what.ends_with("off h2 3` ended with 3: the host is not fenced"), "{what}");
        assert_eq!(detail, ["cutting h2", "no answer"]);
    }

    #[test]
    fn a_command_that_is_slow_or_missing_fences_nothing() {
        let slow = run(Path::new("/"), &["sleep", "9"], 50).unwrap_err();
        assert!(slow.to_string().contains("did not end"), "{slow}");
        let missing = run(Path::new("/nowhere"), &["./off"], 9_000).unwrap_err();
        assert!(missing.to_string().contains("`/nowhere/./off` is not there"), "{missing}");
        assert!(!slow.retry() && !missing.retry());
    }
}
