//! Bridges, through `ip` (ip-link(8), ip-address(8)). Ours carry the alias `stablehand:<fleet>`.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::shell::{Program, Shell, ShellError, succeed};
use crate::model::{BridgeObs, Name};

/// Every bridge of a host by name, with the alias that it carries.
pub type Bridges = BTreeMap<String, (BridgeObs, Option<String>)>;

#[derive(Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    master: Option<String>,
    ifalias: Option<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<Addr>,
}
#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}
#[derive(Deserialize)]
struct Addr {
    family: String,
    local: Option<std::net::IpAddr>,
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

/// The alias of a fleet's bridges.
pub fn alias(fleet: &Name) -> String {
    format!("stablehand:{fleet}")
}

/// Looks at every bridge, with one call of `ip`.
///
/// # Errors
/// [`ShellError`].
pub async fn observe(shell: &dyn Shell, fleet: &Name) -> Result<Bridges, ShellError> {
    read(&ask(shell).await?, fleet)
}

/// Asks for every interface; [`read`] reads the answer.
///
/// # Errors
/// [`ShellError`].
pub async fn ask(shell: &dyn Shell) -> Result<Vec<u8>, ShellError> {
    succeed(shell, Program::new(["ip", "-json", "-details", "address", "show"])).await
}

/// Reads what `ip -json -details address show` prints.
///
/// # Errors
/// When it is not that.
pub fn read(text: &[u8], fleet: &Name) -> Result<Bridges, ShellError> {
    let wrong = |e: serde_json::Error| ShellError::Failed {
        words: "ip -json -details address show".to_owned(),
        status: 0,
        complaint: format!("its answer cannot be read: {e}"),
    };
    // Interfaces without an address of the asked kind appear as empty objects in some versions of iproute2.
    let values: Vec<serde_json::Value> = serde_json::from_slice(text).map_err(wrong)?;
    let links: Vec<Link> = values.into_iter().filter_map(|v| serde_json::from_value(v).ok()).collect();
    let ours = alias(fleet);
    let mut out = Bridges::new();
    let is_bridge = |l: &&Link| l.linkinfo.as_ref().and_then(|i| i.info_kind.as_deref()) == Some("bridge");
    for link in links.iter().filter(is_bridge) {
        // Every interface that is up has a link-local one of IPv6.
        let counts = |a: &&Addr| a.family == "inet" || a.family == "inet6" && a.scope == "global";
        let inet = link.addr_info.iter().filter(counts);
        let addresses = inet.filter_map(|a| Some(format!("{}/{}", a.local?, a.prefixlen))).collect();
        let mut ports: Vec<String> =
            links.iter().filter(|l| l.master.as_deref() == Some(&link.ifname)).map(|l| l.ifname.clone()).collect();
        ports.sort();
        let observed = BridgeObs {
            ours: link.ifalias.as_deref() == Some(&ours),
            addresses,
            up: link.flags.iter().any(|f| f == "UP"),
            ports,
        };
        out.insert(link.ifname.clone(), (observed, link.ifalias.clone()));
    }
    Ok(out)
}

/// Makes a bridge that does not exist: under a name of the moment until it carries the alias, so that dying half-way leaves
/// no bridge that nobody knows.
///
/// # Errors
/// [`ShellError`].
pub async fn make(shell: &dyn Shell, bridge: &str, addresses: &[&str], fleet: &Name) -> Result<(), ShellError> {
    let hash = Sha256::digest(format!("{fleet}/{bridge}").as_bytes());
    let passing = format!("shtmp{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
    // Left by a predecessor that died; most often there is none.
    shell.run(Program::new(["ip", "link", "delete", "dev", &passing])).await?;
    let mut batch = format!(
        "link add name {passing} type bridge forward_delay 0 stp_state 0\nlink set dev {passing} alias {}\n\
         link set dev {passing} name {bridge}\n",
        alias(fleet)
    );
    batch.push_str(&settings(bridge, addresses));
    succeed(shell, Program::new(["ip", "-batch", "-"]).stdin(batch)).await.map(drop)
}

/// Gives a bridge of ours its addresses and brings it up.
///
/// # Errors
/// [`ShellError`].
pub async fn correct(shell: &dyn Shell, bridge: &str, addresses: &[&str]) -> Result<(), ShellError> {
    succeed(shell, Program::new(["ip", "-batch", "-"]).stdin(settings(bridge, addresses))).await.map(drop)
}

fn settings(bridge: &str, addresses: &[&str]) -> String {
    let mut batch = String::new();
    for address in addresses {
        // Nobody else has it, so nothing waits until that is found out (RFC 4862 section 5.4).
        let six = if address.contains(':') { " nodad" } else { "" };
        batch.push_str(&format!("address replace {address} dev {bridge}{six}\n"));
    }
    batch.push_str(&format!("link set dev {bridge} up\n"));
    batch
}

/// Removes a bridge.
///
/// # Errors
/// [`ShellError`].
pub async fn remove(shell: &dyn Shell, bridge: &str) -> Result<(), ShellError> {
    succeed(shell, Program::new(["ip", "link", "delete", "dev", bridge, "type", "bridge"])).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_are_read_with_their_ports_and_owner() {
        let text = br#"[{},{"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[]},
            {"ifname":"shq0","flags":["BROADCAST","UP"],"ifalias":"stablehand:shop","linkinfo":{"info_kind":"bridge"},
             "addr_info":[{"family":"inet","local":"10.83.0.1","prefixlen":24},{"family":"inet6","local":"fd00:83::1","prefixlen":64,"scope":"global"},
             {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
            {"ifname":"shabc","flags":[],"master":"shq0","linkinfo":{"info_kind":"tun"},"addr_info":[]},
            {"ifname":"br9","flags":[],"linkinfo":{"info_kind":"bridge"},"addr_info":[]}]"#;
        let bridges = read(text, &Name::new("shop").unwrap()).unwrap();
        let (shq0, _) = &bridges["shq0"];
        assert!(shq0.ours && shq0.up && shq0.ports == ["shabc"] && shq0.addresses == ["10.83.0.1/24", "fd00:83::1/64"]);
        assert!(!bridges["br9"].0.ours);
        assert_eq!(bridges.len(), 2);
    }
}
