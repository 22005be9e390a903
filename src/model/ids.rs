//! Names and identities. All of them are decided before anything is created: nothing is "known after apply".

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use smol_str::SmolStr;
use uuid::Uuid;

use super::rules::TAP_PREFIX;

/// A name of a document or of a part of one: an RFC 1123 label, 1 to 63 of `a-z`, `0-9` and `-`,
/// neither first nor last a `-`.
///
/// Up to 23 characters stand in place, not on the heap: a fleet's maps compare names millions of times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The empty text.
    #[error("a name is empty")]
    Empty,
    /// More than 63 characters.
    #[error("`{0}` is longer than 63 characters")]
    TooLong(String),
    /// A character that is not allowed, or a `-` at an end.
    #[error("`{0}` is not a name: use a-z, 0-9 and `-`, beginning and ending with a letter or digit")]
    Malformed(String),
}

impl Name {
    /// Checks and wraps a text.
    ///
    /// # Errors
    /// [`NameError`] when the text is not an RFC 1123 label.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 63 {
            return Err(NameError::TooLong(text.to_owned()));
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Malformed(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// What an action, a removal or a question is about: `vm/web-1`, `image/tiny`, `network/lan`, `host/here`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// The whole fleet.
    Fleet(Name),
    /// A host.
    Host(Name),
    /// An image.
    Image(Name),
    /// A network.
    Network(Name),
    /// A service.
    Service(Name),
    /// A module.
    Module(Name),
    /// One VM.
    Vm(Name),
    /// A task.
    Task(Name),
}

impl Address {
    /// The part before the `/`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fleet(_) => "fleet",
            Self::Host(_) => "host",
            Self::Image(_) => "image",
            Self::Network(_) => "network",
            Self::Service(_) => "service",
            Self::Module(_) => "module",
            Self::Vm(_) => "vm",
            Self::Task(_) => "task",
        }
    }
    /// The part after the `/`.
    pub fn name(&self) -> &Name {
        match self {
            Self::Fleet(n)
            | Self::Host(n)
            | Self::Image(n)
            | Self::Network(n)
            | Self::Service(n)
            | Self::Module(n)
            | Self::Vm(n)
            | Self::Task(n) => n,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.kind(), self.name()))
    }
}
impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text
            .split_once('/')
            .ok_or_else(|| format!("`{text}` is not an address: write kind/name, like vm/web-1"))?;
        let name = Name::new(name).map_err(|e| e.to_string())?;
        Ok(match kind {
            "fleet" => Self::Fleet(name),
            "host" => Self::Host(name),
            "image" => Self::Image(name),
            "network" => Self::Network(name),
            "service" => Self::Service(name),
            "module" => Self::Module(name),
            "vm" => Self::Vm(name),
            "task" => Self::Task(name),
            _ => {
                return Err(format!(
                    "`{kind}` is not a kind: fleet, host, image, network, service, module, vm or task"
                ));
            }
        })
    }
}
impl TryFrom<String> for Address {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
impl FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a MAC address");
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}
impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Namespace of our version 5 UUIDs (RFC 9562 section 5.5), itself made once at random.
pub(super) const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_0b0c_7c5e_4f0e_9a57_ab1e_4a4d_0001);

/// The UUID of a VM's domain: version 5 of fleet, name and incarnation.
pub fn domain_uuid(fleet: &Name, vm: &Name, incarnation: u32) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{fleet}/vm/{vm}/{incarnation}").as_bytes())
}

/// The libvirt name of a VM's domain: `<fleet>.<vm>`, so that two fleets can share a host (no name has a dot).
pub fn domain_name(fleet: &Name, vm: &Name) -> String {
    format!("{fleet}.{vm}")
}

/// The MAC of a VM's interface: locally administered unicast (IEEE 802, `x2`), 46 bits of a SHA-256
/// of fleet, VM and interface, so that it survives a recreate and 50,000 of them hardly ever collide.
pub fn nic_mac(fleet: &Name, vm: &Name, nic: &Name) -> Mac {
    let hash = Sha256::digest(format!("{fleet}/vm/{vm}/nic/{nic}").as_bytes());
    Mac([(hash[0] & 0xfc) | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]])
}

/// What the names of a fleet's taps begin with: `sh` and 4 hex digits of a SHA-256 of its name, so that a packet filter
/// tells them by their names alone from those of another fleet on the same host.
pub fn tap_prefix(fleet: &Name) -> String {
    let hash = Sha256::digest(format!("{fleet}/tap").as_bytes());
    format!("{TAP_PREFIX}{:02x}{:02x}", hash[0], hash[1])
}

/// The tap's name on the host: [`tap_prefix`] and 9 hex digits of a SHA-256 of VM and interface: IFNAMSIZ's 15 characters,
/// never beginning with `vnet`, which libvirt would take for its own. 36 bits: among 1,000 taps of a host two are the same
/// once in 140,000 hosts.
pub fn tap_name(fleet: &Name, vm: &Name, nic: &Name) -> String {
    let hash = Sha256::digest(format!("{fleet}/vm/{vm}/tap/{nic}").as_bytes());
    let hex: String = hash[..5].iter().map(|b| format!("{b:02x}")).collect();
    format!("{}{}", tap_prefix(fleet), &hex[..9])
}

/// The file name of a disk in a slot folder: `<fleet>.<vm>.<incarnation>.<disk>.<extension>`, where the disk
/// is `root`, `seed` or the data disk's name. A data disk keeps the incarnation in which it was made.
pub fn disk_file_name(fleet: &Name, vm: &Name, incarnation: u32, disk: &str, extension: &str) -> String {
    format!("{fleet}.{vm}.{incarnation}.{disk}.{extension}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_decided_and_stable() {
        let (fleet, vm, nic) = (Name::new("f").unwrap(), Name::new("web-1").unwrap(), Name::new("lan").unwrap());
        assert_eq!(domain_uuid(&fleet, &vm, 1), domain_uuid(&fleet, &vm, 1));
        assert_ne!(domain_uuid(&fleet, &vm, 1), domain_uuid(&fleet, &vm, 2));
        let mac = nic_mac(&fleet, &vm, &nic);
        assert_eq!(mac.0[0] & 0x03, 0x02, "locally administered, unicast");
        assert_eq!(mac.to_string().parse::<Mac>(), Ok(mac));
        let tap = tap_name(&fleet, &vm, &nic);
        assert_eq!(tap.len(), 15);
        assert!(tap.starts_with(&tap_prefix(&fleet)));
        assert_ne!(tap_prefix(&fleet), tap_prefix(&Name::new("g").unwrap()));
        assert!("vm/web-1".parse::<Address>().is_ok());
        assert!("web-1".parse::<Address>().is_err());
    }
}
