//! Making a bridge as it should be, and removing it with all that was made for it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::border::{self, Held};
use super::wire::{Change, Load};
use super::{Link, Raw, Seen, alias, ask, ask_borders, links, read, timer};
use crate::execute::{Done, StepError};
use crate::host::shell::{Program, Shell, succeed};
use crate::model::{Border, BridgeObs, Mac, Name, Uplink};
use crate::observe::Boxed;

/// What a bridge should be.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    /// Its name.
    pub bridge: &'a str,
    /// The host's addresses on it, with prefix lengths.
    pub addresses: &'a [&'a str],
    /// Its cable.
    pub uplink: Option<&'a Uplink>,
    /// What passes between it and all else.
    pub border: &'a Border,
}

impl Want<'_> {
    fn is(&self, seen: &BridgeObs) -> bool {
        seen.ours
            && seen.up
            && seen.flaws.is_empty()
            && seen.uplink.as_ref() == self.uplink
            && seen.border.as_ref() == Some(self.border)
            && self.addresses.iter().all(|a| seen.addresses.iter().any(|x| x == a))
    }
}

/// How a change of an uplink is kept from cutting the way to its host.
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// The host's name: hosts may share a folder for what runs.
    pub host: &'a Name,
    /// Whether it is another machine.
    pub remote: bool,
    /// Looks whether the host can be reached, by connections that are new.
    pub reach: &'a (dyn Fn() -> Boxed<'a, Result<(), String>> + Send + Sync),
}

/// What there is, read and as it was said.
struct There {
    raw: Raw,
    links: Vec<Link>,
    seen: Seen,
}

impl There {
    async fn look(shell: &dyn Shell, fleet: &Name) -> Result<Self, StepError> {
        let (ip, borders) = tokio::join!(ask(shell), ask_borders(shell, fleet));
        let raw = Raw { ip: ip?, ..borders? };
        Ok(Self { links: links(&raw.ip)?, seen: read(&raw, fleet)?, raw })
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.ifname == name)
    }

    fn bridge(&self, name: &str) -> Option<&BridgeObs> {
        self.seen.bridges.get(name).map(|(seen, _)| seen)
    }

    /// The port by which an uplink is, or would be, plugged into a bridge.
    fn port(&self, fleet: &Name, bridge: &str, uplink: &Uplink) -> Option<&Link> {
        match uplink.vlan {
            Some(_) => self.link(&alias::vlan_device(fleet, bridge)),
            None => self.link(&uplink.device).filter(|l| l.master.as_deref() == Some(bridge)),
        }
    }

    /// What goes over from one interface to another.
    async fn load(&self, shell: &dyn Shell, from: &str, own: &[&str]) -> Result<Load, StepError> {
        let Some(link) = self.link(from) else { return Ok(Load::default()) };
        let mut routes = String::new();
        for family in ["-4", "-6"] {
            let words = ["ip", family, "route", "show", "table", "all", "dev", from];
            // A kernel without IPv6 has no routes of it.
            let said = shell.run(Program::new(words)).await?;
            routes.push_str(&String::from_utf8_lossy(&said.stdout));
        }
        Load::of(link, own, &routes).map_err(StepError::failed)
    }
}

/// Makes a bridge what it should be, or says that it is.
///
/// # Errors
/// [`StepError`]: the name is another's, the uplink cannot be had, or the host undid it because nobody reached it any more.
pub async fn make(shell: &dyn Shell, fleet: &Name, want: Want<'_>, guard: Guard<'_>) -> Result<Done, StepError> {
    let there = There::look(shell, fleet).await?;
    let old = there.bridge(want.bridge);
    if let Some((seen, alias)) = there.seen.bridges.get(want.bridge) {
        if want.is(seen) {
            return Ok(Done::Already);
        }
        if !seen.ours {
            let owner = alias.as_deref().unwrap_or("no alias");
            return Err(StepError::Failed {
                what: format!("the bridge {} exists and is not ours ({owner})", want.bridge),
                hint: Some("write `bridge: {create: false}` to use it as it is, or choose another name".to_owned()),
                detail: Vec::new(),
            });
        }
    }
    if let Some(uplink) = want.uplink {
        fit(&there, want.bridge, uplink)?;
        let took = old.and_then(|o| o.uplink.as_ref()).is_some_and(|o| o.takes_over && o.device == uplink.device);
        if took && !uplink.takes_over && uplink.vlan.is_none() {
            return Err(StepError::Stale(format!("the bridge has the addresses of {}", uplink.device)));
        }
    }
    if matches!(want.border, Border::Closed | Border::Nat { .. }) || there.raw.borders.contains_key(want.bridge) {
        border::set(shell, fleet, want.bridge, want.border).await?;
    }
    if let Some(uplink) = want.uplink {
        Held::Up(&uplink.device).hold(shell, fleet, want.bridge).await?;
    }
    let change = change(shell, fleet, &there, want).await?;
    if let Err(error) = carry_out(shell, fleet, &there, want, change, guard).await {
        // Nobody would see that a bridge which never was needed something.
        if let Some(uplink) = want.uplink.filter(|_| there.link(want.bridge).is_none()) {
            Held::Up(&uplink.device).release(shell, fleet, want.bridge).await?;
        }
        return Err(error);
    }
    let before = old.and_then(|o| o.uplink.as_ref()).map(|u| &u.device);
    if let Some(device) = before.filter(|device| want.uplink.is_none_or(|u| u.device != **device)) {
        Held::Up(device).release(shell, fleet, want.bridge).await?;
    }
    if want.border.forwards() {
        Held::Forward.hold(shell, fleet, want.bridge).await?;
    } else if old.is_some() {
        Held::Forward.release(shell, fleet, want.bridge).await?;
    }
    let there = There::look(shell, fleet).await?;
    match there.bridge(want.bridge) {
        Some(seen) if want.is(seen) => Ok(Done::Changed),
        seen => Err(StepError::Failed {
            what: format!("the bridge {} is not as it was made", want.bridge),
            hint: None,
            detail: seen.into_iter().flat_map(|s| s.flaws.clone()).collect(),
        }),
    }
}

/// Refuses what the host would miss: the plan has seen it, and it may have changed since.
fn fit(there: &There, bridge: &str, uplink: &Uplink) -> Result<(), StepError> {
    let device = &uplink.device;
    let Some(link) = there.seen.links.get(device) else {
        return Err(StepError::Stale(format!("there is no interface {device}")));
    };
    if uplink.vlan.is_some() {
        return Ok(());
    }
    if let Some(master) = link.master.as_ref().filter(|m| *m != bridge) {
        return Err(StepError::Stale(format!("{device} is a port of {master}")));
    }
    let carried = !link.addresses.is_empty();
    if carried && !uplink.takes_over {
        return Err(StepError::Stale(format!(
            "{device} carries {}: the host would lose it",
            link.addresses.join(", ")
        )));
    }
    if carried && link.leased {
        return Err(StepError::Stale(format!("{device} has its address on lease")));
    }
    Ok(())
}

/// What brings a bridge from what it is to what it should be; and whether the host's own addresses move.
async fn change(
    shell: &dyn Shell,
    fleet: &Name,
    there: &There,
    want: Want<'_>,
) -> Result<(Change, Option<(Load, String)>), StepError> {
    let bridge = want.bridge;
    let (mut change, mut moved) = (Change::default(), None);
    let link = there.link(bridge).filter(|l| l.is_bridge());
    let old = there.bridge(bridge).and_then(|o| o.uplink.as_ref());
    match link {
        None => change.make(fleet, bridge, own_mac(), want.border, want.uplink),
        Some(link) => {
            let alias = link.ifalias.as_deref().unwrap_or_default();
            if alias != alias::write(fleet, want.border, want.uplink) {
                change.name(alias, fleet, bridge, want.border, want.uplink);
            }
        }
    }
    let plugged =
        |uplink: &Uplink| there.port(fleet, bridge, uplink).is_some_and(|p| p.master.as_deref() == Some(bridge));
    if let Some(old) = old.filter(|o| want.uplink != Some(o) && there.port(fleet, bridge, o).is_some()) {
        let load = if old.takes_over { there.load(shell, bridge, want.addresses).await? } else { Load::default() };
        change.pull(fleet, bridge, old, &load);
        moved = Some((load, old.device.clone()));
    }
    // What is to be plugged in, unless it is.
    let whole =
        old == want.uplink && there.bridge(bridge).is_some_and(|b| b.flaws.iter().all(|f| !f.contains("uplink")));
    if let Some(uplink) = want.uplink.filter(|u| !(whole && plugged(u))) {
        if uplink.vlan.is_some() && old == want.uplink && there.port(fleet, bridge, uplink).is_some() {
            // Half made, or changed.
            change.pull(fleet, bridge, uplink, &Load::default());
        }
        let load = if uplink.takes_over { there.load(shell, &uplink.device, &[]).await? } else { Load::default() };
        let mac = there.link(&uplink.device).and_then(|l| l.address.as_deref()).filter(|_| !load.is_empty());
        change.plug(fleet, bridge, uplink, mac, &load);
        moved = Some((load, bridge.to_owned())).filter(|(load, _)| !load.is_empty()).or(moved);
    }
    change.settle(bridge, want.addresses);
    Ok((change, moved.filter(|(load, _)| !load.is_empty())))
}

/// A locally administered address (IEEE 802 section 8.4): at random, since two hosts on one wire must not share it.
fn own_mac() -> Mac {
    let random = uuid::Uuid::new_v4().into_bytes();
    Mac([2, random[0], random[1], random[2], random[3], random[4]])
}

/// Tells `ip`; armed where the way to the host could be cut.
async fn carry_out(
    shell: &dyn Shell,
    fleet: &Name,
    there: &There,
    want: Want<'_>,
    (change, moved): (Change, Option<(Load, String)>),
    guard: Guard<'_>,
) -> Result<(), StepError> {
    let old = there.bridge(want.bridge).and_then(|o| o.uplink.as_ref());
    let rewired = want.uplink.is_some() || old.is_some();
    // Left by a predecessor that died; most often there is none.
    shell.run(Program::new(["ip", "link", "delete", "dev", &alias::passing(fleet, want.bridge)])).await?;
    tell(shell, fleet, &change, moved, rewired, guard).await
}

async fn tell(
    shell: &dyn Shell,
    fleet: &Name,
    change: &Change,
    moved: Option<(Load, String)>,
    rewired: bool,
    guard: Guard<'_>,
) -> Result<(), StepError> {
    if moved.is_none() && !(rewired && guard.remote) {
        let output = shell.run(Program::new(["ip", "-batch", "-"]).stdin(change.lines.clone())).await?;
        if output.status == 0 {
            return Ok(());
        }
        shell.run(Program::new(["ip", "-force", "-batch", "-"]).stdin(change.back.clone())).await?;
        return Err(timer::refused(&output.stderr));
    }
    let routers = match &moved {
        Some((load, _)) if !guard.remote => answering(shell, load).await,
        _ => Vec::new(),
    };
    let (routers, device) = (&routers, moved.as_ref().map(|(_, device)| device.as_str()).unwrap_or_default());
    let reach = || -> Boxed<'_, Result<(), String>> {
        Box::pin(async move {
            (guard.reach)().await?;
            for router in routers {
                if !hears(shell, *router, device).await {
                    return Err(format!("the router {router} does not answer behind {device}"));
                }
            }
            Ok(())
        })
    };
    timer::run(shell, (fleet, guard.host), change, &reach).await
}

/// Routers of this machine that answer now: they must do so afterwards.
async fn answering(shell: &dyn Shell, load: &Load) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    for router in load.routers() {
        if hears(shell, router, "").await {
            found.push(router);
        }
    }
    found
}

/// Whether an address of the wire answers this machine (ARP): it is asked for when something is sent there, here to the port
/// that throws away what it gets (RFC 863).
async fn hears(shell: &dyn Shell, router: Ipv4Addr, device: &str) -> bool {
    let text = router.to_string();
    for _ in 0..20 {
        if let Ok(socket) = tokio::net::UdpSocket::bind("0.0.0.0:0").await {
            let _ = socket.send_to(b"", (IpAddr::V4(router), 9)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut words = vec!["ip", "neighbour", "show", "to", &text];
        if !device.is_empty() {
            words.extend(["dev", device]);
        }
        if shell
            .run(Program::new(words))
            .await
            .is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(" lladdr "))
        {
            return true;
        }
    }
    false
}

/// Removes a bridge of ours that has no ports but its uplink, with all that was made for it: the bridge itself is the last to
/// go, so that what is cut short is seen.
///
/// # Errors
/// [`StepError`]: it is another's, or in use.
pub async fn remove(shell: &dyn Shell, fleet: &Name, bridge: &str, guard: Guard<'_>) -> Result<Done, StepError> {
    // A tap goes a moment after its QEMU.
    for _ in 0..20 {
        let there = There::look(shell, fleet).await?;
        let Some(seen) = there.bridge(bridge) else { return Ok(Done::Already) };
        if !seen.ours {
            return Err(StepError::failed(format!("the bridge {bridge} is not ours: it is left alone")));
        }
        let uplink = seen.uplink.as_ref();
        let port = uplink.and_then(|u| there.port(fleet, bridge, u));
        if seen.ports.iter().any(|p| port.is_none_or(|port| port.ifname != *p)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        if let (Some(uplink), Some(_)) = (uplink, port) {
            let load = if uplink.takes_over { there.load(shell, bridge, &[]).await? } else { Load::default() };
            let mut change = Change::default();
            change.pull(fleet, bridge, uplink, &load);
            let moved = Some((load, uplink.device.clone())).filter(|(load, _)| !load.is_empty());
            tell(shell, fleet, &change, moved, true, guard).await?;
        }
        if let Some(uplink) = uplink {
            Held::Up(&uplink.device).release(shell, fleet, bridge).await?;
        }
        Held::Forward.release(shell, fleet, bridge).await?;
        if there.raw.borders.contains_key(bridge) {
            border::set(shell, fleet, bridge, &Border::Open).await?;
        }
        if there.link(bridge).is_some() {
            succeed(shell, Program::new(["ip", "link", "delete", "dev", bridge, "type", "bridge"])).await?;
        }
        return Ok(Done::Changed);
    }
    Err(StepError::Stale(format!("the bridge {bridge} still has ports")))
}
