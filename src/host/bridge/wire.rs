//! How a bridge gets its uplink and gives it back: lines for `ip -batch`, and the lines that undo them.
//!
//! *Takes* what there is. *Gives* text. *Never* does I/O.

use super::{Addr, Link, alias};
use crate::model::{Border, Mac, Name, Uplink};

/// What an interface has that goes over to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    addresses: Vec<Addr>,
    /// As `ip route show dev` prints them.
    routes: Vec<String>,
}

/// Words of a route that say how it is, and not what it is (ip-route(8)).
const STATES: [&str; 7] = ["dead", "linkdown", "offload", "trap", "rt_offload", "rt_trap", "unresolved"];

impl Load {
    /// The addresses of an interface, but `own`, and its routes, but those that the kernel makes of addresses itself and
    /// those that routers of the wire announce.
    ///
    /// # Errors
    /// A route that leaves by several interfaces at once.
    pub(super) fn of(link: &Link, own: &[&str], routes: &str) -> Result<Self, String> {
        let mut load = Self::default();
        let foreign = |a: &&Addr| a.with_prefix().is_none_or(|a| !own.contains(&a.as_str()));
        load.addresses.extend(link.carried().filter(foreign).cloned());
        for line in routes.lines().filter(|l| !l.trim().is_empty()) {
            if line.starts_with([' ', '\t']) {
                return Err(format!("a route by several interfaces cannot move to a bridge: {}", line.trim()));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let has = |key: &str, value: &str| words.windows(2).any(|pair| pair == [key, value]);
            if has("proto", "kernel") || has("proto", "ra") || has("table", "local") || words.contains(&"expires") {
                continue;
            }
            let kept: Vec<&str> = words.into_iter().filter(|w| !STATES.contains(w)).collect();
            load.routes.push(kept.join(" "));
        }
        Ok(load)
    }

    /// The routers that its routes lead to.
    pub(super) fn routers(&self) -> Vec<std::net::Ipv4Addr> {
        let via = |route: &String| {
            let mut words = route.split(' ').skip_while(|w| *w != "via").skip(1);
            words.next()?.parse().ok()
        };
        let mut all: Vec<_> = self.routes.iter().filter_map(via).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether nothing goes over.
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn give(&self, device: &str) -> String {
        let address = |a: &Addr| {
            let mut line = format!("address replace {}", a.with_prefix().unwrap_or_default());
            if let Some(broadcast) = &a.broadcast {
                line = format!("{line} broadcast {broadcast}");
            }
            if let Some(metric) = a.metric {
                line = format!("{line} metric {metric}");
            }
            if a.family == "inet6" {
                // It is the host's already: nobody else has it.
                line.push_str(" nodad");
            }
            let scope = if matches!(a.scope.as_str(), "" | "global") { "" } else { &a.scope };
            if !scope.is_empty() {
                line = format!("{line} scope {scope}");
            }
            line = format!("{line} dev {device}");
            if a.noprefixroute { format!("{line} noprefixroute\n") } else { format!("{line}\n") }
        };
        let routes = self.routes.iter().map(|r| format!("route replace {r} dev {device}\n"));
        self.addresses.iter().map(address).chain(routes).collect()
    }

    fn take(&self, device: &str) -> String {
        let with = self.addresses.iter().filter_map(Addr::with_prefix);
        with.map(|address| format!("address delete {address} dev {device}\n")).collect()
    }
}

/// Lines, and those that undo them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) lines: String,
    pub(super) back: String,
}

impl Change {
    fn add(&mut self, lines: &str, back: &str) {
        self.lines.push_str(lines);
        // What was done last is undone first.
        self.back = format!("{back}{}", self.back);
    }

    /// Makes a bridge, under a name of the moment until it carries its alias: dying half-way leaves none that nobody knows.
    /// It has a hardware address of its own: the kernel would give it the lowest of its ports, another one whenever VMs come
    /// and go, and guests would send to the old one for up to a minute.
    pub(super) fn make(&mut self, fleet: &Name, bridge: &str, mac: Mac, border: &Border, uplink: Option<&Uplink>) {
        let (passing, alias) = (alias::passing(fleet, bridge), alias::write(fleet, border, uplink));
        let lines = format!(
            "link add name {passing} address {mac} type bridge forward_delay 0 stp_state 0\nlink set dev {passing} alias {alias}\n\
             link set dev {passing} name {bridge}\n"
        );
        self.add(&lines, &format!("link delete dev {bridge} type bridge\n"));
    }

    /// Says anew how a bridge was made.
    pub(super) fn name(&mut self, old: &str, fleet: &Name, bridge: &str, border: &Border, uplink: Option<&Uplink>) {
        let alias = alias::write(fleet, border, uplink);
        self.add(&format!("link set dev {bridge} alias {alias}\n"), &format!("link set dev {bridge} alias {old}\n"));
    }

    /// Gives a bridge of ours its addresses and brings it up.
    pub(super) fn settle(&mut self, bridge: &str, addresses: &[&str]) {
        for address in addresses {
            // Nobody else has it, so nothing waits until that is found out (RFC 4862 section 5.4).
            let six = if address.contains(':') { " nodad" } else { "" };
            self.add(&format!("address replace {address} dev {bridge}{six}\n"), "");
        }
        self.add(&format!("link set dev {bridge} up\n"), "");
    }

    /// Plugs an uplink in. `mac` is its hardware address, and `load` what goes over with it: the bridge stands for it then.
    pub(super) fn plug(&mut self, fleet: &Name, bridge: &str, uplink: &Uplink, mac: Option<&str>, load: &Load) {
        let device = &uplink.device;
        if let Some(vlan) = uplink.vlan {
            let tagged = alias::vlan_device(fleet, bridge);
            let lines = format!(
                "link add link {device} name {tagged} type vlan id {vlan}\nlink set dev {tagged} alias {}\n\
                 link set dev {tagged} master {bridge}\nlink set dev {tagged} up\n",
                alias::begin(fleet)
            );
            self.add(&lines, &format!("link delete dev {tagged}\n"));
            return;
        }
        if !uplink.takes_over {
            let lines = format!("link set dev {device} master {bridge}\nlink set dev {device} up\n");
            self.add(&lines, &format!("link set dev {device} nomaster\n"));
            return;
        }
        let mac = mac.map(|mac| format!("link set dev {bridge} address {mac}\n")).unwrap_or_default();
        let lines = format!(
            "{mac}{}link set dev {device} master {bridge}\nlink set dev {device} up\nlink set dev {bridge} up\n{}",
            load.take(device),
            load.give(bridge)
        );
        let back = format!("{}link set dev {device} nomaster\n{}", load.take(bridge), load.give(device));
        self.add(&lines, &back);
    }

    /// Pulls an uplink out; `load` is what goes back to it.
    pub(super) fn pull(&mut self, fleet: &Name, bridge: &str, uplink: &Uplink, load: &Load) {
        let device = &uplink.device;
        if let Some(vlan) = uplink.vlan {
            let tagged = alias::vlan_device(fleet, bridge);
            let back = format!(
                "link add link {device} name {tagged} type vlan id {vlan}\nlink set dev {tagged} alias {}\n\
                 link set dev {tagged} master {bridge}\nlink set dev {tagged} up\n",
                alias::begin(fleet)
            );
            self.add(&format!("link delete dev {tagged}\n"), &back);
            return;
        }
        let lines = format!("{}link set dev {device} nomaster\n{}", load.take(bridge), load.give(device));
        let back = format!("{}link set dev {device} master {bridge}\n{}", load.take(device), load.give(bridge));
        self.add(&lines, &back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth1() -> Link {
        serde_json::from_str(
            r#"{"ifname":"eth1","address":"52:54:00:00:00:01","addr_info":[
            {"family":"inet","local":"192.0.2.5","prefixlen":24,"broadcast":"192.0.2.255","scope":"global"},
            {"family":"inet6","local":"2001:db8::5","prefixlen":64,"scope":"global"},
            {"family":"inet6","local":"fe80::5","prefixlen":64,"scope":"link"}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn addresses_and_routes_go_over_and_come_back() {
        let routes = "default via 192.0.2.1 proto static metric 100 linkdown\n192.0.2.0/24 proto kernel scope link src 192.0.2.5\n\
                      10.0.0.0/8 via 192.0.2.9 table 100\n";
        let load = Load::of(&eth1(), &[], routes).unwrap();
        let shop = Name::new("shop").unwrap();
        let uplink = Uplink { device: "eth1".to_owned(), vlan: None, takes_over: true };
        let mut change = Change::default();
        change.make(&shop, "shq0", Mac([2, 0, 0, 0, 0, 1]), &Border::Open, Some(&uplink));
        change.plug(&shop, "shq0", &uplink, Some("52:54:00:00:00:01"), &load);
        let gained = "address replace 192.0.2.5/24 broadcast 192.0.2.255 dev DEV\naddress replace 2001:db8::5/64 nodad dev DEV\n\
                      route replace default via 192.0.2.1 proto static metric 100 dev DEV\nroute replace 10.0.0.0/8 via 192.0.2.9 table 100 dev DEV\n";
        let lost = "address delete 192.0.2.5/24 dev DEV\naddress delete 2001:db8::5/64 dev DEV\n";
        assert!(change.lines.contains("alias stablehand:shop,uplink=eth1,took\n"), "{}", change.lines);
        let (before, after) = (lost.replace("DEV", "eth1"), gained.replace("DEV", "shq0"));
        let order = [before.as_str(), "link set dev eth1 master shq0\n", "link set dev shq0 up\n", after.as_str()];
        let places: Vec<_> = order.iter().map(|part| change.lines.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{}", change.lines);
        let expected = format!(
            "{}link set dev eth1 nomaster\n{}link delete dev shq0 type bridge\n",
            lost.replace("DEV", "shq0"),
            gained.replace("DEV", "eth1")
        );
        assert_eq!(change.back, expected);
        assert!(Load::of(&eth1(), &[], "default\n\tnexthop via 192.0.2.1\n").is_err());
    }
}
