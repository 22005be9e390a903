//! The links of a running domain's interfaces, down and up.

use super::XmlError;
use super::read::{child, children, parse};

/// Every interface of a live XML whose link is up, as `virDomainUpdateDeviceFlags` wants it: once with its link down, once
/// with its link up. All else of the element stays as libvirt gave it.
///
/// # Errors
/// [`XmlError::Syntax`].
pub fn links(xml: &str) -> Result<Vec<(String, String)>, XmlError> {
    let document = parse(xml)?;
    let Some(devices) = child(document.root_element(), "devices") else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for node in children(devices, "interface") {
        let link = child(node, "link");
        if link.is_some_and(|l| l.attribute("state") == Some("down")) {
            continue;
        }
        let whole = &xml[node.range()];
        let mut rest = whole.to_owned();
        if let Some(link) = link {
            let start = node.range().start;
            rest.replace_range(link.range().start - start..link.range().end - start, "");
        }
        let Some(at) = rest.rfind("</") else { continue };
        let with = |state: &str| format!("{}<link state='{state}'/>{}", &rest[..at], &rest[at..]);
        out.push((with("down"), with("up")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_go_down_and_up_and_those_that_are_down_stay_so() {
        let xml = "<domain><devices><interface type='bridge'><mac address='a'/><link state='up'/></interface>\
                   <interface type='bridge'><link state='down'/></interface></devices></domain>";
        let found = links(xml).unwrap();
        let with = |state| format!("<interface type='bridge'><mac address='a'/><link state='{state}'/></interface>");
        assert_eq!(found, [(with("down"), with("up"))]);
    }
}
