//! What a bridge of ours says of itself, in its alias (ip-link(8), at most 255 bytes): it lives as long as the bridge, on the
//! host that has it, whoever looks.

use sha2::{Digest as _, Sha256};

use crate::model::{Border, Name, Uplink};

/// How we made a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// The word of its border.
    pub(super) border: String,
    pub(super) uplink: Option<Uplink>,
}

/// The alias of a fleet's bridges begins so; nothing or a comma follows.
pub(super) fn begin(fleet: &Name) -> String {
    format!("stablehand:{fleet}")
}

/// What a bridge is given. No interface has a comma in its name that we take as an uplink.
pub(super) fn write(fleet: &Name, border: &Border, uplink: Option<&Uplink>) -> String {
    let mut alias = begin(fleet);
    if !border.is_open() {
        alias = format!("{alias},{}", border.word());
    }
    if let Some(uplink) = uplink {
        alias = format!("{alias},uplink={}", uplink.device);
        if let Some(vlan) = uplink.vlan {
            alias = format!("{alias},vlan={vlan}");
        }
        if uplink.takes_over {
            alias.push_str(",took");
        }
    }
    alias
}

/// Reads it; `None` when the bridge is not the fleet's.
pub(super) fn read(fleet: &Name, alias: &str) -> Option<Made> {
    let rest = alias.strip_prefix(&begin(fleet))?;
    let mut made = Made { border: Border::Open.word().to_owned(), uplink: None };
    if rest.is_empty() {
        return Some(made);
    }
    for word in rest.strip_prefix(',')?.split(',') {
        match word.split_once('=') {
            Some(("uplink", device)) => {
                made.uplink = Some(Uplink { device: device.to_owned(), vlan: None, takes_over: false });
            }
            Some(("vlan", id)) => made.uplink.as_mut()?.vlan = Some(id.parse().ok()?),
            None if word == "took" => made.uplink.as_mut()?.takes_over = true,
            None => word.clone_into(&mut made.border),
            Some(_) => return None,
        }
    }
    Some(made)
}

fn short(fleet: &Name, bridge: &str) -> String {
    let hash = Sha256::digest(format!("{fleet}/{bridge}").as_bytes());
    hash[..4].iter().map(|b| format!("{b:02x}")).collect()
}

/// The name of a bridge until it has its alias.
pub(super) fn passing(fleet: &Name, bridge: &str) -> String {
    format!("shtmp{}", short(fleet, bridge))
}

/// The interface that is a bridge's VLAN of its uplink. Taps' names have a digit of a hash where it has the `v`.
pub(super) fn vlan_device(fleet: &Name, bridge: &str) -> String {
    format!("shv{}", short(fleet, bridge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_others_are_not_ours() {
        let shop = Name::new("shop").unwrap();
        let uplink = |vlan, takes_over| Some(Uplink { device: "eth1".to_owned(), vlan, takes_over });
        for (border, uplink) in [
            (Border::Open, None),
            (Border::Closed, uplink(Some(20), false)),
            (Border::Routed, uplink(None, true)),
            (Border::Nat { subnet: "10.0.0.0/24".parse().unwrap(), except: Vec::new() }, None),
        ] {
            let alias = write(&shop, &border, uplink.as_ref());
            assert_eq!(read(&shop, &alias), Some(Made { border: border.word().to_owned(), uplink }), "{alias}");
        }
        assert_eq!(write(&shop, &Border::Open, None), "stablehand:shop");
        for foreign in ["stablehand:shops", "stablehand:sho", "eth0", "stablehand:shop,vlan=3", "stablehand:shop,x=y"] {
            assert_eq!(read(&shop, foreign), None, "{foreign}");
        }
    }
}
