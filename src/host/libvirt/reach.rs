//! Hosts that are reached over a network: which addresses are served, and how often one that is away is tried.

use std::time::{Duration, Instant};

use super::CallError;

/// How long a host may take to be connected to.
pub(super) const OPEN: Duration = Duration::from_secs(8);

/// Seconds between two signs of life, and how many may be missing, before a connection counts as broken
/// (`virConnectSetKeepAlive`). Tests break many.
pub(super) const KEEP_ALIVE: (i32, u32) = if cfg!(test) { (1, 2) } else { (10, 3) };

/// Whether a connection leads to another machine.
pub(super) fn is_remote(uri: &str) -> bool {
    let scheme = uri.split("://").next().unwrap_or_default();
    ["+ssh", "+tls", "+tcp"].iter().any(|transport| scheme.ends_with(transport))
}

/// # Errors
/// [`CallError::Closed`] for a driver that is not ours.
pub(super) fn is_served(uri: &str) -> Result<(), CallError> {
    let driver = uri.split(['+', ':']).next().unwrap_or_default();
    if ["qemu", "lxc", "test"].contains(&driver) {
        return Ok(());
    }
    Err(CallError::Closed(format!(
        "`{uri}` is not served: use qemu:///system, qemu+ssh://…, qemu+tls://…, or lxc:///system"
    )))
}

/// An address at which nobody is asked for a password: libvirt's ssh would open the terminal for it (libvirt, "Remote URI
/// extra parameters", `no_tty`). Keys and certificates are found as ever.
pub(super) fn without_questions(uri: &str) -> String {
    let scheme = uri.split("://").next().unwrap_or_default();
    if !scheme.ends_with("+ssh") || uri.contains("no_tty=") {
        return uri.to_owned();
    }
    let mark = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{mark}no_tty=1")
}

/// When a host that was away may be tried again: after 1 s, 2 s, 4 s … 60 s.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    not_before: Option<Instant>,
    last: String,
}

impl Patience {
    /// The longest pause between two tries.
    const LONGEST: Duration = Duration::from_secs(60);

    /// # Errors
    /// [`CallError::Away`] while it is too early.
    pub(super) fn check(&self) -> Result<(), CallError> {
        let left = self.not_before.and_then(|at| at.checked_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => Err(CallError::Away {
                last: self.last.clone(),
                again: u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX),
            }),
            None => Ok(()),
        }
    }

    /// A try failed.
    pub(super) fn silent(&mut self, error: &CallError) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
        self.last = error.to_string();
    }

    /// A try succeeded.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute_and_the_last_error_is_shown() {
        let mut patience = Patience::default();
        assert!(patience.check().is_ok(), "the first try is made at once");
        let error = CallError::TimedOut { what: "open".to_owned(), after: 10 };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            patience.silent(&error);
            match patience.check() {
                Err(CallError::Away { last, again }) => {
                    assert_eq!(last, "open: no answer after 10 s");
                    pauses.push(again);
                }
                other => unreachable!("{other:?}"),
            }
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        patience.answered();
        assert!(patience.check().is_ok());
    }

    #[test]
    fn nobody_is_asked_for_a_password() {
        assert_eq!(without_questions("qemu+ssh://root@h1/system"), "qemu+ssh://root@h1/system?no_tty=1");
        let with_key = "qemu+ssh://h1/system?keyfile=/k";
        assert_eq!(without_questions(with_key), format!("{with_key}&no_tty=1"));
        for uri in ["qemu+tcp://h1/system", "qemu:///embed?root=/r", "qemu+ssh://h/system?no_tty=0"] {
            assert_eq!(without_questions(uri), uri);
        }
        assert!(is_remote("lxc+tls://h/system") && !is_remote("qemu:///system"));
    }
}
