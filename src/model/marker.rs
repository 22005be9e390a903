//! Markers: texts in an image that stand for what each clone is told.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text in an image, and what comes in its place in each clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// The text as it stands in the image: printable ASCII without blanks, 8 to 256 bytes.
    pub text: Arc<str>,
    /// What it stands for.
    pub value: MarkerValue,
    /// What fills the rest of its length.
    pub pad: Padding,
}

/// What a marker stands for: of the VM's first interface by name, where it is an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MarkerValue {
    /// Its address, as `10.83.0.10`.
    Address,
    /// Its address with prefix length, as `10.83.0.10/24`.
    Cidr,
    /// Its default route.
    Gateway,
    /// Its IPv6 address, as `fd00:83::a`.
    Address6,
    /// Its IPv6 address with prefix length, as `fd00:83::a/64`.
    Cidr6,
    /// Its default route in IPv6.
    Gateway6,
    /// The VM's name.
    Hostname,
}

impl MarkerValue {
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Cidr => "cidr",
            Self::Gateway => "gateway",
            Self::Address6 => "address6",
            Self::Cidr6 => "cidr6",
            Self::Gateway6 => "gateway6",
            Self::Hostname => "hostname",
        }
    }
    /// Bytes of the longest value there can be: four numbers of three digits with dots, and `/` and two more; of IPv6
    /// eight numbers of four digits with colons (RFC 5952), and `/` and three more; a name is an RFC 1123 label of at most 63, and those that there are may be shorter.
    pub const fn longest(self) -> usize {
        match self {
            Self::Address | Self::Gateway => 15,
            Self::Cidr => 18,
            Self::Address6 | Self::Gateway6 => 39,
            Self::Cidr6 => 43,
            Self::Hostname => 63,
        }
    }
}

/// What fills a marker's place behind its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Blanks.
    #[default]
    Space,
    /// NUL bytes: for values in the middle of a program's data.
    Nul,
    /// Ends of lines.
    Newline,
}

impl Padding {
    const fn character(self) -> char {
        match self {
            Self::Space => ' ',
            Self::Nul => '\0',
            Self::Newline => '\n',
        }
    }
}

impl Marker {
    /// A value filled up to the marker's length; `None` when it is longer.
    pub fn filled(&self, value: &str) -> Option<String> {
        let rest = self.text.len().checked_sub(value.len())?;
        Some(value.chars().chain(std::iter::repeat_n(self.pad.character(), rest)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_takes_exactly_the_place_of_its_marker() {
        let marker = |pad| Marker { text: "@@ADDRESS@@".into(), value: MarkerValue::Address, pad };
        assert_eq!(marker(Padding::Space).filled("10.0.0.1").as_deref(), Some("10.0.0.1   "));
        assert_eq!(marker(Padding::Nul).filled("10.0.0.1").as_deref(), Some("10.0.0.1\0\0\0"));
        assert_eq!(marker(Padding::Newline).filled("10.0.0.123").as_deref(), Some("10.0.0.123\n"));
        assert_eq!(marker(Padding::Space).filled("10.100.200.1"), None);
    }
}
