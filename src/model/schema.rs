//! JSON Schemas of the nouns, draft-07: what editors' YAML servers read.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::desired::Digest;
use super::ids::{Address, Mac, Name};
use super::quantity::{Bytes, Span};

/// Pattern of a [`Name`].
pub const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// Pattern of an [`Address`].
pub const ADDRESS: &str = "^(fleet|host|image|network|service|module|vm)/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// Pattern of [`Bytes`].
pub const BYTES: &str = r"^[0-9]+(\.[0-9]{1,9})?([KMGT]i?B|B)$";
/// Pattern of a [`Span`].
pub const SPAN: &str = r"^[0-9]+(\.[0-9]{1,9})?(d|h|m|s|ms)$";
/// Pattern of a [`Digest`].
pub const DIGEST: &str = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$";
/// Pattern of a [`Mac`].
pub const MAC: &str = "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$";

macro_rules! patterns {
    ($($ty:ident $pattern:ident $doc:literal;)*) => {$(
        impl JsonSchema for $ty {
            fn schema_name() -> Cow<'static, str> {
                stringify!($ty).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "description": $doc})
            }
        }
    )*};
}
patterns! {
    Name NAME "An RFC 1123 label.";
    Address ADDRESS "`kind/name`, like `vm/shop-web-1`.";
    Bytes BYTES "A number of bytes with its unit.";
    Span SPAN "A length of time with its unit.";
    Digest DIGEST "`sha256:` or `sha512:` and hexadecimal digits.";
    Mac MAC "An Ethernet address.";
}

/// A generator of draft-07 schemas.
pub fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().into_generator()
}

/// The schema of a type that is written as JSON, as a file's text.
pub fn text<T: JsonSchema>() -> String {
    let schema = generator().into_root_schema_for::<T>();
    format!("{:#}\n", schema.to_value())
}

/// A kind of packets.
pub const TRAFFIC: &str = "^(any|icmp|(tcp|udp)(/[0-9]+(-[0-9]+)?)?)$";
