//! `host inspect`: a machine's Host document, proposed.

use crate::config;
use crate::model::{HostShell, Inspected, Name, Snapshot};

use super::super::args;
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};

/// A fleet around the proposal, so that it is checked like any other document.
const FLEET: &str = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: proposal}\nspec: {}\n";

/// `host inspect`: the document on stdout, nothing else.
pub(crate) async fn inspect(context: &Context, args: &args::Inspect) -> Outcome {
    let shell = shell(args)?;
    let found = look(context, args, shell.as_ref()).await?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&found.hostname)?,
    };
    let text = config::inspect::host(&found, &name);
    let snapshot = Snapshot::of_texts([("fleet.yaml", FLEET), ("proposal.yaml", text.as_str())]);
    if let Err(diagnostics) = config::load(&snapshot) {
        context.console.err(&config::diagnostic::text(&diagnostics));
        return Err(Failure::new("no valid document could be made for this machine").hint("say --shell or another URI"));
    }
    context.console.out(&text);
    context
        .console
        .note(&format!("write it into the fleet's folder as {name}.yaml, look at what it says, and commit it"));
    Ok(Exit::Ok)
}

#[cfg(feature = "libvirt")]
async fn look(context: &Context, args: &args::Inspect, shell: Option<&HostShell>) -> Result<Inspected, Failure> {
    let (base, who) = (&context.around.folder, context.around.process());
    crate::host::inspect(&args.uri, shell, base, &who).await.map_err(|error| {
        Failure::new(format!("cannot inspect `{}`: {error}", args.uri))
            .hint("try `virsh -c URI list`; a host on this machine: qemu:///system or qemu:///embed?root=/DIR")
    })
}

#[cfg(not(feature = "libvirt"))]
async fn look(_: &Context, _: &args::Inspect, _: Option<&HostShell>) -> Result<Inspected, Failure> {
    Err(Failure::new("this program was built to plan only: it cannot ask hosts")
        .hint("use a build with the feature `libvirt`"))
}

/// How programs are run there.
fn shell(args: &args::Inspect) -> Result<Option<HostShell>, Failure> {
    let (scheme, rest) = args.uri.split_once("://").unwrap_or(("", &args.uri));
    let (machine, query) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let key = || query.split(['?', '&']).find_map(|pair| pair.strip_prefix("keyfile=")).map(str::to_owned);
    let ssh = |machine: &str| {
        let (target, port) = match machine.rsplit_once(':') {
            Some((target, port)) if !port.contains(']') => (target, Some(port)),
            _ => (machine, None),
        };
        let target = target.replace(['[', ']'], "");
        let port =
            port.map(|p| p.parse().map_err(|_| Failure::new(format!("`{p}` is no port").as_str()))).transpose()?;
        if target.is_empty() || target.starts_with('-') {
            return Err(Failure::new(format!("`{target}` is not the name of a machine")).hint("--shell ssh:root@kvm1"));
        }
        let identity = args.identity.clone().or_else(key).map(Into::into);
        Ok(Some(HostShell::Ssh { target: target.as_str().into(), port, identity }))
    };
    match args.shell.as_deref() {
        Some("local") => Ok(Some(HostShell::Local)),
        Some(said) if said.starts_with("ssh:") => ssh(said.trim_start_matches("ssh:").trim_start_matches("//")),
        Some(said) if said.trim().is_empty() => Err(Failure::new("--shell says nothing").hint("--shell ssh:root@kvm1")),
        Some(said) => Ok(Some(HostShell::Command(said.split_whitespace().map(Into::into).collect()))),
        None if scheme.ends_with("+ssh") => ssh(machine),
        None if scheme.contains('+') && !scheme.ends_with("+unix") => Ok(None),
        None => Ok(Some(HostShell::Local)),
    }
}

/// The first label of a machine's name.
fn name_of(hostname: &str) -> Result<Name, Failure> {
    let first = hostname.split('.').next().unwrap_or_default().to_lowercase();
    let tidy: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let tidy = tidy.trim_matches('-');
    Name::new(if tidy.is_empty() { "host" } else { tidy })
        .map_err(|e| Failure::caused("the machine's name does not make a host's", &e).hint("say --name NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, shell: Option<&str>) -> Result<Option<HostShell>, Failure> {
        super::shell(&args::Inspect { uri: uri.into(), shell: shell.map(Into::into), identity: None, name: None })
    }

    #[test]
    fn the_shell_follows_the_connection() {
        let ssh = |target: &str, port, identity: Option<&str>| {
            Some(HostShell::Ssh { target: target.into(), port, identity: identity.map(Into::into) })
        };
        assert_eq!(of("qemu:///system", None).ok().unwrap(), Some(HostShell::Local));
        let seen = of("qemu+ssh://root@kvm1:22/system?keyfile=/k", None).ok().unwrap();
        assert_eq!(seen, ssh("root@kvm1", Some(22), Some("/k")));
        assert_eq!(of("qemu+tls://kvm1/system", None).ok().unwrap(), None);
        assert_eq!(of("qemu+tls://kvm1/system", Some("ssh:ann@kvm1")).ok().unwrap(), ssh("ann@kvm1", None, None));
        let words = Some(HostShell::Command(vec!["lab".into(), "shell".into(), "h1".into()]));
        assert_eq!(of("qemu+tcp://h1/system", Some("lab shell h1")).ok().unwrap(), words);
        assert!(of("qemu+tls://kvm1/system", Some("ssh:-oProxyCommand=x")).is_err());
    }
}
