//! Bridges, through `ip` (ip-link(8), ip-address(8)) and nft. Ours carry an alias that begins `stablehand:<fleet>`.
//!
//! *Takes* what a bridge should be. *Gives* what there is ([`observe`]) and makes it so ([`make()`], [`remove`]). *Never* touches
//! an interface that is neither ours nor the uplink that a network names.

mod alias;
mod border;
mod make;
mod timer;
mod wire;

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) use self::border::LOOK;
pub use self::make::{Guard, Want, make, remove};
use super::shell::{Program, Shell, ShellError, succeed};
use crate::model::{Border, BridgeObs, LinkObs, Name, Uplink};

/// Every bridge of a host by name, with the alias that it carries.
pub type Bridges = BTreeMap<String, (BridgeObs, Option<String>)>;

/// What was seen of a host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its bridges.
    pub bridges: Bridges,
    /// Its other interfaces.
    pub links: BTreeMap<String, LinkObs>,
}

/// What a host answers, before it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// `ip -json -details address show`.
    pub ip: Vec<u8>,
    /// Whether it forwards IPv4 packets.
    pub forwards: Option<bool>,
    /// nft's listing of a fleet's tables, by bridge.
    pub borders: BTreeMap<String, Vec<u8>>,
}

impl Raw {
    /// Takes in a line that the script of [`LOOK`] prints, without its `!`; false when it is none.
    pub(super) fn take(&mut self, line: &[u8]) -> bool {
        if let Some(said) = line.strip_prefix(b"forward ") {
            self.forwards = Some(said == b"1");
        } else if let Some(said) = line.strip_prefix(b"border ") {
            let mut parts = said.splitn(2, |b| *b == b' ');
            let (bridge, listing) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            self.borders.insert(String::from_utf8_lossy(bridge).into_owned(), listing.to_vec());
        } else {
            return false;
        }
        true
    }
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    master: Option<String>,
    /// The interface below it.
    link: Option<String>,
    /// Its hardware address.
    address: Option<String>,
    ifalias: Option<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<Addr>,
}
#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
    info_data: Option<InfoData>,
}
#[derive(Deserialize)]
struct InfoData {
    id: Option<u16>,
}
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Addr {
    family: String,
    local: Option<std::net::IpAddr>,
    prefixlen: u8,
    broadcast: Option<String>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    dynamic: bool,
    #[serde(default)]
    noprefixroute: bool,
    metric: Option<u32>,
}

impl Link {
    fn is_bridge(&self) -> bool {
        self.linkinfo.as_ref().and_then(|i| i.info_kind.as_deref()) == Some("bridge")
    }

    fn is_up(&self) -> bool {
        self.flags.iter().any(|f| f == "UP")
    }

    fn vlan(&self) -> Option<u16> {
        self.linkinfo.as_ref()?.info_data.as_ref()?.id
    }

    /// The addresses that the host would miss.
    fn carried(&self) -> impl Iterator<Item = &Addr> {
        self.addr_info.iter().filter(|a| a.scope != "link" && a.local.is_some())
    }
}

impl Addr {
    fn with_prefix(&self) -> Option<String> {
        Some(format!("{}/{}", self.local?, self.prefixlen))
    }
}

/// Looks at every bridge.
///
/// # Errors
/// [`ShellError`].
pub async fn observe(shell: &dyn Shell, fleet: &Name) -> Result<Bridges, ShellError> {
    let (ip, borders) = tokio::join!(ask(shell), ask_borders(shell, fleet));
    Ok(read(&Raw { ip: ip?, ..borders? }, fleet)?.bridges)
}

/// Asks for every interface; [`read`] reads the answer.
///
/// # Errors
/// [`ShellError`].
pub async fn ask(shell: &dyn Shell) -> Result<Vec<u8>, ShellError> {
    succeed(shell, Program::new(["ip", "-json", "-details", "address", "show"])).await
}

/// Asks what the host does at its bridges.
///
/// # Errors
/// [`ShellError`].
pub async fn ask_borders(shell: &dyn Shell, fleet: &Name) -> Result<Raw, ShellError> {
    let script = format!("{LOOK}borders \"$1\"");
    let said = succeed(shell, Program::new(["sh", "-c", &script, "sh", fleet.as_str()])).await?;
    let mut raw = Raw::default();
    for line in said.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"!")) {
        raw.take(line);
    }
    Ok(raw)
}

fn links(text: &[u8]) -> Result<Vec<Link>, ShellError> {
    let wrong = |e: serde_json::Error| ShellError::Failed {
        words: "ip -json -details address show".to_owned(),
        status: 0,
        complaint: format!("its answer cannot be read: {e}"),
    };
    // Interfaces without an address of the asked kind appear as empty objects in some versions of iproute2.
    let values: Vec<serde_json::Value> = serde_json::from_slice(text).map_err(wrong)?;
    Ok(values.into_iter().filter_map(|v| serde_json::from_value(v).ok()).collect())
}

/// Reads what a host answered.
///
/// # Errors
/// When it cannot be read.
pub fn read(raw: &Raw, fleet: &Name) -> Result<Seen, ShellError> {
    let links = links(&raw.ip)?;
    let mut seen = Seen::default();
    for link in &links {
        if link.is_bridge() {
            seen.bridges.insert(link.ifname.clone(), (bridge(raw, fleet, &links, link), link.ifalias.clone()));
        } else {
            seen.links.insert(link.ifname.clone(), other(link));
        }
    }
    for (bridge, _) in raw.borders.iter().filter(|(bridge, _)| !links.iter().any(|l| l.ifname == **bridge)) {
        let flaws = vec!["it is gone, and its packet filter is not".to_owned()];
        seen.bridges.insert(bridge.clone(), (BridgeObs { ours: true, flaws, ..BridgeObs::default() }, None));
    }
    Ok(seen)
}

fn other(link: &Link) -> LinkObs {
    LinkObs {
        up: link.is_up(),
        addresses: link.carried().filter_map(Addr::with_prefix).collect(),
        leased: link.carried().any(|a| a.dynamic),
        master: link.master.clone(),
    }
}

fn bridge(raw: &Raw, fleet: &Name, links: &[Link], link: &Link) -> BridgeObs {
    // Every interface that is up has a link-local one of IPv6.
    let counts = |a: &&Addr| a.family == "inet" || a.family == "inet6" && a.scope == "global";
    let inet = link.addr_info.iter().filter(counts);
    let mut ports: Vec<String> =
        links.iter().filter(|l| l.master.as_deref() == Some(&link.ifname)).map(|l| l.ifname.clone()).collect();
    ports.sort();
    let mut seen = BridgeObs {
        addresses: inet.filter_map(Addr::with_prefix).collect(),
        up: link.is_up(),
        ports,
        ..BridgeObs::default()
    };
    let Some(made) = link.ifalias.as_deref().and_then(|alias| alias::read(fleet, alias)) else { return seen };
    seen.ours = true;
    seen.flaws.extend(made.uplink.as_ref().and_then(|uplink| unplugged(fleet, links, link, uplink)));
    seen.uplink = made.uplink;
    let table = raw.borders.get(&link.ifname).map(|listing| border::read(&link.ifname, listing));
    let (border, flaw) = standing(&made.border, table);
    seen.flaws.extend(flaw.map(str::to_owned));
    if border.as_ref().is_some_and(Border::forwards) && raw.forwards == Some(false) {
        seen.flaws.push("its host does not forward packets (net.ipv4.ip_forward)".to_owned());
    }
    seen.border = border;
    seen
}

/// What is at a bridge that was made with a border, and what is the matter with it.
fn standing(word: &str, table: Option<Result<Border, String>>) -> (Option<Border>, Option<&'static str>) {
    const CHANGED: &str = "its packet filter was changed";
    let plain = [Border::Open, Border::Routed, Border::Closed].into_iter().find(|b| b.word() == word);
    match (plain, table) {
        (Some(Border::Closed), Some(Ok(Border::Closed))) => (Some(Border::Closed), None),
        (Some(border @ (Border::Open | Border::Routed)), None) => (Some(border), None),
        (None, Some(Ok(border @ Border::Nat { .. }))) => (Some(border), None),
        (border, None) => (border, Some("its packet filter is gone")),
        (border, Some(_)) => (border, Some(CHANGED)),
    }
}

/// Why the uplink that a bridge was given is not plugged in.
fn unplugged(fleet: &Name, links: &[Link], bridge: &Link, uplink: &Uplink) -> Option<String> {
    let find = |name: &str| links.iter().find(|l| l.ifname == name);
    let device = &uplink.device;
    let Some(below) = find(device) else { return Some(format!("its uplink {device} is gone")) };
    if !below.is_up() {
        return Some(format!("its uplink {device} is down"));
    }
    let port = match uplink.vlan {
        None => Some(below),
        Some(vlan) => {
            let tagged = find(&alias::vlan_device(fleet, &bridge.ifname));
            tagged.filter(|l| l.is_up() && l.vlan() == Some(vlan) && l.link.as_ref() == Some(device))
        }
    };
    let plugged = port.is_some_and(|p| p.master.as_deref() == Some(&bridge.ifname));
    (!plugged).then(|| format!("its uplink {uplink} is not plugged in"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str, raw: Raw) -> Seen {
        read(&Raw { ip: text.as_bytes().to_vec(), ..raw }, &Name::new("shop").unwrap()).unwrap()
    }

    #[test]
    fn bridges_are_read_with_their_ports_and_owner() {
        let text = r#"[{},{"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[]},
            {"ifname":"shq0","flags":["BROADCAST","UP"],"ifalias":"stablehand:shop","linkinfo":{"info_kind":"bridge"},
             "addr_info":[{"family":"inet","local":"10.83.0.1","prefixlen":24},{"family":"inet6","local":"fd00:83::1","prefixlen":64,"scope":"global"},
             {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
            {"ifname":"shabc","flags":[],"master":"shq0","linkinfo":{"info_kind":"tun"},"addr_info":[]},
            {"ifname":"br9","flags":[],"linkinfo":{"info_kind":"bridge"},"addr_info":[]}]"#;
        let bridges = seen(text, Raw::default()).bridges;
        let (shq0, _) = &bridges["shq0"];
        assert!(shq0.ours && shq0.up && shq0.ports == ["shabc"] && shq0.addresses == ["10.83.0.1/24", "fd00:83::1/64"]);
        assert_eq!((&shq0.border, shq0.flaws.len()), (&Some(Border::Open), 0));
        assert!(!bridges["br9"].0.ours);
        assert_eq!(bridges.len(), 2);
    }

    #[test]
    fn an_uplink_that_somebody_pulled_out_is_a_flaw() {
        let text = |master: &str, up: &str| {
            format!(
                r#"[{{"ifname":"eth1","flags":[{up}],"addr_info":[{{"family":"inet","local":"192.0.2.5","prefixlen":24,
                 "scope":"global","dynamic":true}},{{"family":"inet6","local":"fe80::2","prefixlen":64,"scope":"link"}}]}},
                 {{"ifname":"shq0","flags":["UP"],"ifalias":"stablehand:shop,uplink=eth1,vlan=20",
                 "linkinfo":{{"info_kind":"bridge"}},"addr_info":[]}},
                 {{"ifname":"shvfdd1c8a4","link":"eth1","flags":["UP"],{master}
                 "linkinfo":{{"info_kind":"vlan","info_data":{{"protocol":"802.1Q","id":20}}}},"addr_info":[]}}]"#
            )
        };
        let device = alias::vlan_device(&Name::new("shop").unwrap(), "shq0");
        let look = |master, up| seen(&text(master, up).replace("shvfdd1c8a4", &device), Raw::default());
        let whole = look(r#""master":"shq0","#, "\"UP\"");
        let uplink = Uplink { device: "eth1".to_owned(), vlan: Some(20), takes_over: false };
        assert_eq!((&whole.bridges["shq0"].0.uplink, &whole.bridges["shq0"].0.flaws), (&Some(uplink), &Vec::new()));
        let eth1 = LinkObs { up: true, addresses: vec!["192.0.2.5/24".to_owned()], leased: true, master: None };
        assert_eq!(whole.links["eth1"], eth1);
        assert_eq!(look("", "\"UP\"").bridges["shq0"].0.flaws, ["its uplink eth1 VLAN 20 is not plugged in"]);
        assert_eq!(look("", "").bridges["shq0"].0.flaws, ["its uplink eth1 is down"]);
    }

    #[test]
    fn a_border_whose_table_somebody_flushed_is_a_flaw() {
        let text = r#"[{"ifname":"shq0","flags":["UP"],"ifalias":"stablehand:shop,routed",
            "linkinfo":{"info_kind":"bridge"},"addr_info":[]}]"#;
        let routed =
            |forwards| seen(text, Raw { forwards: Some(forwards), ..Raw::default() }).bridges["shq0"].0.clone();
        assert_eq!((routed(true).border, routed(true).flaws.len()), (Some(Border::Routed), 0));
        assert_eq!(routed(false).flaws.len(), 1);
        assert_eq!(standing("isolated", None), (Some(Border::Closed), Some("its packet filter is gone")));
        assert_eq!(standing("nat", Some(Ok(Border::Closed))), (None, Some("its packet filter was changed")));
        assert!(standing("open", Some(Ok(Border::Closed))).1.is_some());
    }
}
