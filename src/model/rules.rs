//! Who may talk to whom: what documents allow, and the filter that one host has to apply for it (DESIGN section 6).
//!
//! [`Access`] is said of VMs and of the world outside, whatever host a VM is on. [`HostRules`] is what is left of it for the
//! interfaces of one host: addresses and ports. Two equal values mean the same filter, whatever text a packet filter has
//! for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Mac, Name};
use super::origin::Origin;

/// A kind of packets, as people write it: `any`, `icmp`, `tcp`, `tcp/443`, `udp/5000-5010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Traffic {
    /// Every IPv4 and IPv6 packet.
    Any,
    /// ICMP and ICMPv6 echo and errors; both ways.
    Icmp,
    /// TCP: whoever is named first opens the connection.
    Tcp(PortRange),
    /// UDP: both ways, without connection tracking.
    Udp(PortRange),
}

/// PortRange from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl PortRange {
    /// 0 to 65535.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
}

impl PortRange {
    /// The ports that are in both.
    pub fn meet(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

impl Traffic {
    /// The packets that are of both kinds.
    pub fn meet(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => Some(one),
            (Self::Icmp, Self::Icmp) => Some(Self::Icmp),
            (Self::Tcp(a), Self::Tcp(b)) => a.meet(b).map(Self::Tcp),
            (Self::Udp(a), Self::Udp(b)) => a.meet(b).map(Self::Udp),
            _ => None,
        }
    }
    /// Whether every packet of the other kind is of this one.
    pub fn covers(self, other: Self) -> bool {
        self.meet(other) == Some(other)
    }
    /// Whether a permit lets packets through both ways, whoever begins: UDP and ICMP, for which no connection is tracked.
    pub fn is_two_way(self) -> bool {
        !matches!(self, Self::Tcp(_))
    }
    /// The kinds without those that another one covers.
    pub fn tidy(kinds: &BTreeSet<Self>) -> BTreeSet<Self> {
        kinds.iter().filter(|k| !kinds.iter().any(|o| o != *k && o.covers(**k))).copied().collect()
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, ports) = match self {
            Self::Any => return f.pad("any"),
            Self::Icmp => return f.pad("icmp"),
            Self::Tcp(ports) => ("tcp", ports),
            Self::Udp(ports) => ("udp", ports),
        };
        let text = match ports {
            p if *p == PortRange::ALL => word.to_owned(),
            p if p.first == p.last => format!("{word}/{}", p.first),
            p => format!("{word}/{}-{}", p.first, p.last),
        };
        f.pad(&text)
    }
}

impl FromStr for Traffic {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is not `any`, `icmp`, `tcp`, `udp`, `tcp/443` or `udp/5000-5010`");
        let (word, ports) = match text.split_once('/') {
            None => (text, PortRange::ALL),
            Some((word, range)) => {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |s: &str| {
                    let plain =
                        !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
                    s.parse::<u16>().ok().filter(|_| plain).ok_or_else(hint)
                };
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("in `{text}` the first port is above the last"));
                }
                (word, PortRange { first, last })
            }
        };
        match word {
            "tcp" => Ok(Self::Tcp(ports)),
            "udp" => Ok(Self::Udp(ports)),
            "any" if !text.contains('/') => Ok(Self::Any),
            "icmp" if !text.contains('/') => Ok(Self::Icmp),
            _ => Err(hint()),
        }
    }
}
impl TryFrom<String> for Traffic {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Traffic> for String {
    fn from(traffic: Traffic) -> Self {
        traffic.to_string()
    }
}
impl JsonSchema for Traffic {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Traffic".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": super::schema::TRAFFIC,
        })
    }
}

/// One side of an [`Access`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// All VMs of a service, or of one of its apps.
    Service {
        /// The service.
        service: Name,
        /// Only this app.
        app: Option<Name>,
    },
    /// All VMs of all instances of a module, or in each of them one.
    Module {
        /// The module.
        module: Name,
        /// Only the VMs of this name in the module.
        member: Option<Name>,
    },
    /// All VMs of one instance of a module.
    Instance {
        /// The module.
        module: Name,
        /// The instance.
        instance: Name,
    },
    /// One VM.
    Vm(Name),
    /// A network: the interfaces of our VMs on it, and every other address of its subnet.
    Network(Name),
    /// Addresses, whoever has them. It opens nothing at a VM of ours that happens to have one: that is reached by name.
    Net(IpNet),
    /// Each VM's own host, by the addresses that it has on the VM's bridge.
    Host,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Service { service, app: None } => format!("service/{service}"),
            Self::Service { service, app: Some(app) } => format!("service/{service}/{app}"),
            Self::Module { module, member: None } => format!("module/{module}"),
            Self::Module { module, member: Some(member) } => format!("module/{module}/{member}"),
            Self::Instance { module, instance } => format!("module/{module} (instance {instance})"),
            Self::Vm(vm) => format!("vm/{vm}"),
            Self::Network(network) => format!("network/{network}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Self::Net(net) => net.to_string(),
            Self::Host => "its host".to_owned(),
        };
        f.pad(&text)
    }
}

/// Why something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// It is a system address of a network: gateway, name servers, the host that probes.
    System,
    /// They belong to one service or one module instance.
    Mates,
    /// A document says so.
    Declared,
}

/// Something that is allowed: `from` may begin `traffic` to `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Who begins.
    pub from: Party,
    /// Who is reached.
    pub to: Party,
    /// With what.
    pub traffic: BTreeSet<Traffic>,
    /// Why.
    pub grant: Grant,
    /// The rule's name in its document, for [`Grant::Declared`] and system addresses that are written down.
    pub rule: Option<Name>,
    /// Where it was written: the rule, or the document that makes mates of them.
    pub origin: Origin,
}

/// The filter of one host: what each interface of our VMs on it may send and be sent. What is not said here is dropped
/// for the fleet's interfaces (names that begin with [`tap_prefix`](super::ids::tap_prefix)); nothing else on the host is
/// touched. The default value, no
/// interface at all, stands for no table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostRules {
    /// By the tap's name on the host.
    pub taps: BTreeMap<String, TapRules>,
}

/// What names of taps of every fleet begin with ([`tap_name`](super::ids::tap_name)).
pub const TAP_PREFIX: &str = "sh";

/// The filter of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TapRules {
    /// The VM.
    pub vm: Name,
    /// Its interface.
    pub nic: Name,
    /// The only hardware address that it may send from.
    pub mac: Mac,
    /// The only addresses that it may send from, and be sent to.
    pub addresses: BTreeSet<IpAddr>,
    /// Its network gives it addresses: it may ask by DHCP (and IPv6 router solicitation), and as long as
    /// [`Self::addresses`] is empty it may send from any address. It never answers as a DHCP server or router.
    pub learns: bool,
    /// Whether the network's filter is off (`rules: open`): hardware address and spoofing are still checked, all else passes.
    pub open: bool,
    /// What passes.
    pub permits: BTreeSet<Permit>,
}

/// One thing that passes at one interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permit {
    /// Who begins.
    pub way: Way,
    /// The other side.
    #[schemars(with = "String")]
    pub peer: IpNet,
    /// With what.
    pub traffic: Traffic,
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The VM reaches its peer; replies come back.
    Out,
    /// The peer reaches the VM; replies go back.
    In,
}

/// What was found of our table on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FilterObs {
    /// It says this; no table at all is [`HostRules::default`].
    Table(HostRules),
    /// A table of our name is there and says something that is not ours: what is odd about it.
    Damaged(String),
    /// Rules cannot be set on this host: why, and what would mend it.
    Unable(String),
}
