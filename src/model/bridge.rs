//! Bridges that are made for the fleet: the cable they have, and what their host does with packets that come from them.

use std::fmt;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cable of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// The host's interface.
    pub device: String,
    /// The VLAN of it (IEEE 802.1Q, 1 to 4094), when not all that passes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whether the interface's own addresses and routes go over to the bridge, as they must for the host to keep them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_over: bool,
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        if let Some(vlan) = self.vlan {
            write!(f, " VLAN {vlan}")?;
        }
        if self.takes_over { f.write_str(" with its addresses") } else { Ok(()) }
    }
}

/// What a host does with IP packets between a bridge and all else. What passes within the bridge is not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Border {
    /// As it does anyway.
    #[default]
    Open,
    /// Nothing passes.
    Closed,
    /// It forwards: it is the guests' router.
    Routed,
    /// It forwards what guests begin, under an address of its own.
    Nat {
        /// The guests' subnet.
        #[schemars(with = "String")]
        subnet: Ipv4Net,
        /// Subnets of other bridges of the fleet: their guests see who it is.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(with = "Vec<String>")]
        except: Vec<Ipv4Net>,
    },
}

impl Border {
    /// The word for it, in plans and in the bridge's alias.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "isolated",
            Self::Routed => "routed",
            Self::Nat { .. } => "nat",
        }
    }

    /// Whether the host must forward IPv4 packets for it (`net.ipv4.ip_forward`).
    pub const fn forwards(&self) -> bool {
        matches!(self, Self::Routed | Self::Nat { .. })
    }

    /// Whether it is as open as a bridge is of itself.
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

impl fmt::Display for Border {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nat { subnet, .. } => write!(f, "nat of {subnet}"),
            other => f.write_str(other.word()),
        }
    }
}

/// An interface of a host that a network has as its uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkObs {
    /// Whether it is up.
    pub up: bool,
    /// The host's addresses on it with prefix lengths, but link-local ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Whether one of them is on lease: what got it from a DHCP server or a router renews it on this interface alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
    /// The bridge or bond that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}
