//! How files get into the stores of hosts, and out of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a file is packed where it comes from. It is unpacked on the host; its digest is of the file as it is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// It is kept as it comes.
    #[default]
    None,
    /// Unpacked where its first bytes are those of a packed file.
    Auto,
    /// zstd (RFC 8878).
    Zstd,
    /// xz (The .xz File Format, 1.2.1).
    Xz,
    /// gzip (RFC 1952).
    Gzip,
}

impl Compression {
    /// Whether it is kept as it comes.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
    /// What the first bytes of a file say: the magic numbers of RFC 8878 section 3.1.1, .xz section 2.1.1.1, RFC 1952
    /// section 2.3.1.
    pub fn of_magic(bytes: &[u8]) -> Self {
        match bytes {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x1f, 0x8b, ..] => Self::Gzip,
            _ => Self::None,
        }
    }
    /// The program that unpacks it on a host; `None`: nothing to unpack, or not known before the file is there.
    pub const fn tool(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Auto => None,
            Self::Zstd => Some("zstd"),
            Self::Xz => Some("xz"),
            Self::Gzip => Some("gzip"),
        }
    }
}

/// Which hosts of its layer keep an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stores {
    /// Those with a VM that needs it.
    #[default]
    Needed,
    /// All, before a VM needs it; a host that joins late gets it.
    All,
}

/// Who asks the source of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fetch {
    /// Each host that needs it.
    #[default]
    Each,
    /// One host; the others have it from a host that has it, through the controller.
    Once,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_files_are_told_by_their_first_bytes() {
        assert_eq!(Compression::of_magic(&[0x28, 0xb5, 0x2f, 0xfd, 4]), Compression::Zstd);
        assert_eq!(Compression::of_magic(b"\xfd7zXZ\0\0"), Compression::Xz);
        assert_eq!(Compression::of_magic(&[0x1f, 0x8b, 8]), Compression::Gzip);
        for other in [&b"QFI\xfb\0\0\0\x03"[..], b"", &[0x1f], &[0xeb, 0x63, 0x90]] {
            assert_eq!(Compression::of_magic(other), Compression::None);
        }
    }
}
