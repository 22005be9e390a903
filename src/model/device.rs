//! Devices of a host that are handed over to VMs: how they are found there, and who may have them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::origin::Origin;

/// A device that a host has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// How it is found on the host.
    pub at: DeviceAt,
    /// Where it was written.
    pub origin: Origin,
}

/// How a device is found on its host: `usb 0529:0001`, `usb 1-4` or `pci 0000:65:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeviceAt {
    /// On a USB bus. One of the two is said at least; both must fit where both are said.
    Usb {
        /// Vendor and product, as `lsusb` prints them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<(u16, u16)>,
        /// Bus and number on it. The number changes each time that the device is plugged in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<(u16, u16)>,
    },
    /// On a PCI bus.
    Pci(PciAddress),
}

/// Address of a PCI function, `0000:65:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct PciAddress {
    /// Domain.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl DeviceAt {
    /// Whether it is plugged into a USB bus.
    pub const fn is_usb(self) -> bool {
        matches!(self, Self::Usb { .. })
    }
    /// Whether what was found is what is meant by `self`: all that `self` says is so there.
    pub fn fits(self, found: Self) -> bool {
        match (self, found) {
            (Self::Usb { id, place }, Self::Usb { id: found_id, place: found_place }) => {
                id.is_none_or(|id| found_id == Some(id)) && place.is_none_or(|place| found_place == Some(place))
            }
            (Self::Pci(a), Self::Pci(b)) => a == b,
            _ => false,
        }
    }
    /// Whether two ways of saying it mean, or may mean, one device of one host: nothing that both say differs, and there is
    /// something that both say.
    pub fn is_same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Usb { id: a, place: p }, Self::Usb { id: b, place: q }) => match ((a, b), (p, q)) {
                // One place is one device, whatever else is said of it.
                (_, (Some(p), Some(q))) => p == q,
                ((Some(a), Some(b)), _) => a == b,
                _ => false,
            },
            (Self::Pci(a), Self::Pci(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for DeviceAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usb { id, place } => {
                f.write_str("usb")?;
                if let Some((vendor, product)) = id {
                    write!(f, " {vendor:04x}:{product:04x}")?;
                }
                if let Some((bus, device)) = place {
                    write!(f, " {bus}-{device}")?;
                }
                Ok(())
            }
            Self::Pci(address) => write!(f, "pci {address}"),
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = String;
    /// `0000:65:00.0`, or `65:00.0` in domain 0, as `lspci` prints it.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a PCI address such as `0000:65:00.0`");
        let (rest, function) = text.rsplit_once('.').ok_or_else(wrong)?;
        let mut parts = rest.rsplit(':');
        let (slot, bus, domain) = (parts.next(), parts.next(), parts.next().unwrap_or("0000"));
        let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
            let plain = digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u16::from_str_radix(part, 16).map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let small = |part: Option<&str>, most: u8| {
            let value = u8::try_from(hex(part.ok_or_else(wrong)?, 1..=2)?).map_err(|_| wrong())?;
            if value <= most { Ok(value) } else { Err(wrong()) }
        };
        let address = Self {
            domain: hex(domain, 1..=4)?,
            bus: small(bus, u8::MAX)?,
            slot: small(slot, 31)?,
            function: small(Some(function), 7)?,
        };
        if parts.next().is_some() { Err(wrong()) } else { Ok(address) }
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usb(id: Option<(u16, u16)>, place: Option<(u16, u16)>) -> DeviceAt {
        DeviceAt::Usb { id, place }
    }

    #[test]
    fn pci_addresses_are_those_of_lspci() {
        let text = |t: &str| t.parse::<PciAddress>().map(|a| a.to_string());
        assert_eq!(text("0000:65:00.0").unwrap(), "0000:65:00.0");
        assert_eq!(text("65:1f.7").unwrap(), "0000:65:1f.7");
        for wrong in ["", "65", "65:00", "0000:65:20.0", "0000:65:00.8", "0:0:0:0.0", "g5:00.0", "+5:00.0", "65:00.0 "]
        {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_found_fits_what_is_meant_when_all_that_is_said_is_so() {
        let found = usb(Some((0x529, 1)), Some((1, 4)));
        assert!(usb(Some((0x529, 1)), None).fits(found) && usb(None, Some((1, 4))).fits(found));
        assert!(!usb(Some((0x529, 2)), None).fits(found) && !usb(Some((0x529, 1)), Some((1, 5))).fits(found));
        assert!(!usb(None, Some((1, 4))).fits(usb(Some((0x529, 1)), None)), "nothing says where it is");
    }

    #[test]
    fn two_dongles_of_one_kind_in_two_places_are_two_devices() {
        let (a, b) = (usb(Some((0x529, 1)), Some((1, 4))), usb(Some((0x529, 1)), Some((1, 5))));
        assert!(!a.is_same(b) && a.is_same(usb(Some((0x529, 1)), None)));
        assert!(!usb(Some((0x529, 1)), None).is_same(usb(None, Some((1, 4)))), "nobody can tell");
        assert_eq!(a.to_string(), "usb 0529:0001 1-4");
    }
}
