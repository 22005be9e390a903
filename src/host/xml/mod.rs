//! Domain XML: writes it, reads our fields out of it, edits it in place.
//!
//! *Takes* a [`DomainSpec`](crate::plan::DomainSpec) and a [`Stamp`](crate::model::Stamp), or XML as libvirt gives it.
//! *Gives* XML, or a [`Shape`](crate::model::Shape) and a stamp. *Never* does I/O, and an edit never touches a byte of an
//! element that is not ours.

mod edit;
mod link;
pub(crate) mod lxc;
mod ram;
mod read;
mod write;

#[cfg(test)]
mod lxc_tests;
#[cfg(test)]
mod tests;

pub use edit::{apply, restamp, unstamp};
pub use link::links;
pub use read::{Reading, XmlError, disk_format, read, sources};
pub use write::{device, domain, stamp_content, stamp_element};

/// Namespace of our stamp in a domain's `<metadata>`.
pub const STAMP_NS: &str = "https://stablehand.dev/xmlns/stamp/1";

/// Prefix that we bind to [`STAMP_NS`]; readers go by the namespace alone.
pub const STAMP_PREFIX: &str = "sh";

/// User aliases of disks: `ua-` is what libvirt asks of aliases that are not its own ("Devices", formatdomain).
pub const DISK_ALIAS: &str = "ua-disk-";

/// User aliases of interfaces.
pub const NIC_ALIAS: &str = "ua-nic-";

/// User aliases of devices of the host.
pub const DEVICE_ALIAS: &str = "ua-dev-";

/// Escapes a text for the content of an element.
pub(crate) fn escape_text(text: &str) -> String {
    // Quotes mean nothing there, and JSON is full of them.
    escape(text).replace("&quot;", "\"").replace("&apos;", "'")
}

/// Escapes a text for an attribute between either quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 section 2.2 forbids the other control characters, even as references: they become U+FFFD.
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(c))),
            c if u32::from(c) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
