//! Steps in guests: what they are in operations, in sentences, and in a digest. Tasks and images that are made share them.

use std::sync::Arc;

use uuid::Uuid;

use super::steps::{Errand, Op};
use crate::model::{GuestFile, GuestStep, GuestWork, Name, PackageWork, Span, Upgrade};

/// Brings packages to what its arguments ask for, by the package manager that is there: `+NAME` installed, `-NAME` removed,
/// `^NAME` upgraded, `^` all upgraded. What is so already stays as it is. Configuration files that a person changed stay.
const PACKAGES: &str = r#"set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
install= remove= upgrade= all=
for word; do
  name=${word#?}
  case $word in
    +*) install="$install $name" ;;
    -*) remove="$remove $name" ;;
    ^) all=yes ;;
    ^*) upgrade="$upgrade $name" ;;
  esac
done
has() { command -v "$1" >/dev/null 2>&1; }
there() { for name; do if installed "$name"; then echo "$name"; fi; done; }
if has apt-get; then
  installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
  manage() { apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"; }
  refresh() { manage update; }
  add() { manage install "$@"; }
  renew() { manage install --only-upgrade "$@"; }
  renew_all() { manage upgrade; }
  drop() { manage remove "$@"; }
elif has dnf; then
  installed() { rpm -q "$1" >/dev/null 2>&1; }
  refresh() { :; }
  add() { dnf -q -y install "$@"; }
  renew() { dnf -q -y upgrade "$@"; }
  renew_all() { dnf -q -y upgrade; }
  drop() { dnf -q -y remove "$@"; }
elif has apk; then
  installed() { apk info -e "$1" >/dev/null 2>&1; }
  refresh() { apk update; }
  add() { apk add "$@"; }
  renew() { apk add --upgrade "$@"; }
  renew_all() { apk upgrade; }
  drop() { apk del "$@"; }
else
  echo "the guest has none of apt-get, dnf and apk" >&2
  exit 69
fi
remove=$(there $remove)
upgrade=$(there $upgrade)
missing=
for name in $install; do installed "$name" || missing="$missing $name"; done
[ -z "$remove" ] || drop $remove
[ -z "$missing$upgrade$all" ] || refresh
[ -z "$all" ] || renew_all
[ -z "$upgrade" ] || renew $upgrade
[ -z "$missing" ] || add $missing
for name in $install; do
  installed "$name" || { echo "$name is not installed" >&2; exit 1; }
done"#;

/// The operations that carry out a step in a guest. A step that says nothing of its time may take `usual`.
pub fn op(step: &GuestStep, usual: Span, vm: &Name, uuid: Uuid, of: Option<&Errand>) -> Op {
    let run = |command: Vec<Arc<str>>| Op::GuestRun {
        vm: vm.clone(),
        uuid,
        command,
        input: None,
        within: step.within.unwrap_or(usual),
        of: of.cloned(),
    };
    match &step.work {
        GuestWork::Run(command) => run(command.clone()),
        GuestWork::Packages(packages) => {
            let shell = ["sh", "-c", PACKAGES, "sh"].into_iter().map(Arc::from);
            run(shell.chain(words(packages)).collect())
        }
        GuestWork::File(GuestFile { path, content, mode }) => {
            Op::GuestFile { vm: vm.clone(), uuid, path: path.clone(), content: content.clone(), mode: *mode }
        }
    }
}

/// The arguments of [`PACKAGES`].
fn words(packages: &PackageWork) -> Vec<Arc<str>> {
    let all = |mark: &'static str, names: &[Arc<str>]| -> Vec<Arc<str>> {
        names.iter().map(|name| format!("{mark}{name}").into()).collect()
    };
    let mut out = all("+", &packages.install);
    out.extend(all("-", &packages.remove));
    match &packages.upgrade {
        Upgrade::None => {}
        Upgrade::All => out.push("^".into()),
        Upgrade::These(names) => out.extend(all("^", names)),
    }
    out
}

/// A step as a sentence without subject: `run systemctl restart nginx`.
pub fn sentence(step: &GuestStep) -> String {
    match &step.work {
        GuestWork::Run(command) => told(command),
        GuestWork::File(GuestFile { path, content, mode }) => {
            format!("write {path} ({} B, mode {mode:04o})", content.len())
        }
        GuestWork::Packages(packages) => {
            format!("{} (apt-get, dnf or apk: what the guest has)", asked(&words(packages)))
        }
    }
}

/// What a command does: `run …`, or what becomes of packages.
pub(super) fn told(command: &[Arc<str>]) -> String {
    match command {
        [_, _, script, ..] if **script == *PACKAGES => shown(command),
        _ => format!("run {}", shown(command)),
    }
}

/// A command as people read it: words in quotes where a shell would need them, on one line, and not all of a long one.
pub fn shown(command: &[Arc<str>]) -> String {
    if let [_, _, script, _, words @ ..] = command
        && **script == *PACKAGES
    {
        return asked(words);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let word = |word: &Arc<str>| match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\n', "; ").replace('\'', r"'\''")),
    };
    let line = command.iter().map(word).collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LINE {
        return line;
    }
    line.chars().take(LINE - 1).chain(['…']).collect()
}

/// Characters of a command that are shown.
const LINE: usize = 100;

/// `install nginx and curl, remove telnet, upgrade all packages`.
fn asked(words: &[Arc<str>]) -> String {
    let of = |mark: char| -> Vec<&str> { words.iter().filter_map(|w| w.strip_prefix(mark)).collect() };
    let mut parts = Vec::new();
    for (verb, names) in [("install", of('+')), ("remove", of('-')), ("upgrade", of('^'))] {
        let named: Vec<&str> = names.iter().copied().filter(|n| !n.is_empty()).collect();
        if !named.is_empty() {
            parts.push(format!("{verb} {}", named.join(" ")));
        } else if !names.is_empty() {
            parts.push(format!("{verb} all packages"));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<Arc<str>> {
        words.iter().map(|w| Arc::from(*w)).collect()
    }

    #[test]
    fn steps_are_sentences() {
        let run = |words: &[&str]| GuestStep { work: GuestWork::Run(texts(words)), within: None };
        assert_eq!(sentence(&run(&["systemctl", "restart", "nginx"])), "run systemctl restart nginx");
        assert_eq!(sentence(&run(&["sh", "-c", "a; b"])), "run sh -c 'a; b'");
        assert_eq!(sentence(&run(&["echo", &"x".repeat(200)])).chars().count(), "run ".len() + LINE);
        let packages =
            PackageWork { install: texts(&["nginx", "curl"]), remove: texts(&["telnet"]), upgrade: Upgrade::All };
        let step = GuestStep { work: GuestWork::Packages(packages), within: None };
        let said = "install nginx curl, remove telnet, upgrade all packages";
        assert_eq!(sentence(&step), format!("{said} (apt-get, dnf or apk: what the guest has)"));
        let op = op(&step, Span::secs(60), &Name::new("web-1").unwrap(), Uuid::nil(), None);
        assert_eq!(op.describe(), said);
    }
}
