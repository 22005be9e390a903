//! Exit codes, and an error on its way out: printed once, with its causes, the hint last.

use std::error::Error;
use std::fmt::Write as _;

/// Exit codes (DESIGN section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// An error.
    Error = 1,
    /// `plan --detailed-exitcode`: there are changes.
    Changes = 2,
    /// `plan --detailed-exitcode`: there are changes of which some are blocked.
    Blocked = 3,
    /// Observed state is missing or too old.
    Stale = 4,
    /// Applied in part.
    Partial = 5,
    /// A command line that makes no sense.
    Usage = 64,
}

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What happened, then its causes; empty when all was said already.
    lines: Vec<String>,
    /// What to do about it.
    hint: Option<String>,
}

impl Failure {
    /// A failure in our own words.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Error, lines: vec![message.into()], hint: None }
    }
    /// A failure that has been explained on its way: only the exit code is left.
    pub(crate) fn said(exit: Exit) -> Self {
        Self { exit, lines: Vec::new(), hint: None }
    }
    /// An error of another room with what was being done.
    pub(crate) fn caused(message: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(message);
        failure.causes(Some(error));
        failure
    }
    /// With another exit code.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    fn causes(&mut self, mut error: Option<&dyn Error>) {
        while let Some(cause) = error {
            self.lines.push(cause.to_string());
            error = cause.source();
        }
    }
    /// `error: …`, each cause below it, `hint: …` last.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        for (i, line) in self.lines.iter().enumerate() {
            let label = if i == 0 { "error" } else { "  because" };
            let _ = writeln!(out, "{label}: {}", line.trim_end());
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "hint: {hint}");
        }
        out
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        let mut failure = Self { exit: Exit::Error, lines: Vec::new(), hint: Some(error.hint().to_owned()) };
        failure.causes(Some(&error));
        failure
    }
}

/// The result of a verb.
pub(crate) type Outcome = Result<Exit, Failure>;
