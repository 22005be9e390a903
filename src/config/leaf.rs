//! The scalars of the YAML: names, quantities with units, addresses, words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::read::{Accepts, Leaf, Wrong, nearest, words};
use crate::model::quantity::{BYTE_UNITS, SPAN_UNITS};
use crate::model::schema;
use crate::model::{
    Acceleration, Address, Bytes, CloneMethod, Compression, Digest, Fetch, Firmware, Identity, ImageFormat, Name,
    NetworkMode, OnUnknown, Others, Protection, QuantityError, Relocatable, RunState, Share, Span, Stores, Then,
    Timestamp, Traffic, Transport, UpdatePolicy,
};

impl Leaf for Arc<str> {
    const WHAT: &'static str = "text";
    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("E0217", "the text is empty"));
        }
        match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
            Some(c) => {
                Err(Wrong::new("E0217", format!("the control character U+{:04X} has no place here", u32::from(c))))
            }
            None => Ok(text.into()),
        }
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

impl Leaf for Name {
    const WHAT: &'static str = "a name";
    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::new(text).map_err(|error| {
            // A letter that only looks like one of ours is named; what it was meant for cannot be told.
            if let Some(c) = text.chars().find(|c| !c.is_ascii()) {
                let help =
                    format!("`{c}` is U+{:04X}: only ASCII is a name, since it is also a host name", u32::from(c));
                return Wrong::new("E0216", error.to_string()).help(help);
            }
            if text.contains(|c: char| c.is_control()) {
                return Wrong::new("E0216", error.to_string());
            }
            let tidy: String = text
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
                .collect::<String>()
                .trim_matches('-')
                .to_owned();
            let suggestion = Self::new(&tidy).is_ok().then_some(tidy);
            Wrong::new("E0216", error.to_string()).suggest(suggestion)
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::NAME})
    }
}

/// What is wrong with a quantity, with what was probably meant.
fn quantity(error: QuantityError, text: &str, units: &[(&str, u64)], usual: &str, what: &str) -> Wrong {
    match error {
        QuantityError::NoUnit(number) => {
            let meant = format!("{number}{usual}");
            Wrong::new("E0212", format!("`{number}` has no unit")).suggest(Some(meant))
        }
        QuantityError::UnknownUnit(unit) => {
            let number = text.strip_suffix(&*unit).unwrap_or_default();
            if let Some(wrong) = written_otherwise(text, number, &unit, units) {
                return wrong;
            }
            let names = units.iter().map(|(u, _)| *u);
            let word = unit.trim();
            // `8G` and `8Gi` are what other tools call GiB; `8GB` means something else and is not one of them.
            let binary = match word.trim_end_matches(['i', 'I', 'b', 'B']) {
                "k" | "K" => Some("KiB"),
                "m" | "M" => Some("MiB"),
                "g" | "G" => Some("GiB"),
                "t" | "T" => Some("TiB"),
                _ => None,
            };
            let span = match word {
                "sec" | "secs" | "second" | "seconds" => Some("s"),
                "min" | "mins" | "minute" | "minutes" => Some("m"),
                "hour" | "hours" | "hr" => Some("h"),
                "day" | "days" => Some("d"),
                _ => None,
            };
            let usual = if usual == "s" { span } else { binary }.map(str::to_owned);
            let meant = usual.or_else(|| nearest(word, names.clone())).map(|u| format!("{number}{u}"));
            let help = format!("units are {}", names.collect::<Vec<_>>().join(", "));
            Wrong::new("E0213", format!("unknown unit `{unit}`")).suggest(meant).help(help)
        }
        QuantityError::Malformed(text) => {
            let help =
                "a number and its unit without a space: no sign, at most 64 bits, and whole in the smallest unit";
            Wrong::new("E0214", format!("`{text}` is not {what}")).help(help)
        }
    }
}

/// A quantity in the writing of other places: a decimal comma, an exponent, another base, several units in a row.
fn written_otherwise(text: &str, number: &str, unit: &str, units: &[(&str, u64)]) -> Option<Wrong> {
    let known = |name: &str| units.iter().any(|(u, _)| *u == name);
    let letters = unit.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    let wrong = |help: &str| Wrong::new("E0214", format!("`{text}` is not a number and a unit")).help(help);
    if let Some(rest) = unit.strip_prefix(',') {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (fraction, unit) = rest.split_at(end);
        // Three digits after a comma may be thousands: nothing is guessed.
        let meant = (!fraction.is_empty() && fraction.len() < 3 && known(unit.trim()))
            .then(|| format!("{number}.{fraction}{}", unit.trim()));
        return Some(wrong("decimals stand after a point").suggest(meant));
    }
    if unit.contains(|c: char| c.is_ascii_digit()) {
        let pieces = sum(text, units).map(|millis| Span(millis).exact());
        let meant = pieces.filter(|_| units.len() == SPAN_UNITS.len() && known("ms"));
        return Some(wrong("one decimal number, then one unit").suggest(meant));
    }
    (unit.starts_with(char::is_whitespace) && known(letters)).then(|| {
        let meant = format!("{number}{letters}");
        Wrong::new("E0214", format!("`{text}` has a space before its unit")).suggest(Some(meant))
    })
}

/// `1m30s` in the smallest unit.
fn sum(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0)?;
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let factor = units.iter().find(|(u, _)| *u == unit).map(|(_, f)| *f)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = tail;
    }
    Some(total)
}

impl Leaf for Bytes {
    const WHAT: &'static str = "a number of bytes, like 512MiB";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|e| quantity(e, text, &BYTE_UNITS, "MiB", Self::WHAT))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::BYTES})
    }
}

impl Leaf for Span {
    const WHAT: &'static str = "a length of time, like 30s";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|e| quantity(e, text, &SPAN_UNITS, "s", Self::WHAT))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::SPAN})
    }
}

/// A whole number between bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Leaf for Int<MIN, MAX> {
    const WHAT: &'static str = "a whole number";
    const ACCEPTS: Accepts = Accepts::Number;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let range = || format!("use a number from {MIN} to {MAX}");
        if !text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit()) {
            return Err(Wrong::new("E0210", format!("expected a whole number, found `{text}`")).help(range()));
        }
        let fits = text.parse::<u32>().ok().filter(|n| (MIN..=MAX).contains(n));
        fits.map(Self).ok_or_else(|| Wrong::new("E0211", format!("{text} is out of range")).help(range()))
    }
    fn leaf_schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A number from 0 to a million, kept in thousandths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Milli(pub(crate) u64);

impl Leaf for Milli {
    const WHAT: &'static str = "a number";
    const ACCEPTS: Accepts = Accepts::Number;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 3 {
            let help = "use a number from 0 to 1000000 with at most three decimals";
            return Err(Wrong::new("E0211", format!("`{text}` is out of range")).help(help));
        }
        let whole = whole.parse::<u64>().ok().filter(|n| *n <= 1_000_000);
        let whole =
            whole.ok_or_else(|| Wrong::new("E0211", format!("{text} is out of range")).help("at most 1000000"))?;
        let fraction = format!("{fraction:0<3}").parse::<u64>().unwrap_or(0);
        Ok(Self(whole * 1000 + fraction))
    }
    fn leaf_schema() -> Value {
        json!({"type": "number", "minimum": 0, "maximum": 1_000_000})
    }
}

impl Leaf for bool {
    const WHAT: &'static str = "true or false";
    const ACCEPTS: Accepts = Accepts::Bool;
    fn parse(text: &str) -> Result<Self, Wrong> {
        Ok(text == "true")
    }
    fn leaf_schema() -> Value {
        json!({"type": "boolean"})
    }
}

impl Leaf for Share {
    const WHAT: &'static str = "a number of VMs or a percentage, like 3 or 25%";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            let tight: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let spaced = tight != text && <Self as Leaf>::parse(&tight).is_ok();
            let wrong = Wrong::new("E0214", format!("`{text}` is not {}", Self::WHAT));
            wrong.suggest(spaced.then_some(tight)).help("a whole number, or 0% to 100% in whole percents")
        };
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<u8>() {
                Ok(percent) if percent <= 100 => Ok(Self::Percent(percent)),
                Ok(_) => Err(Wrong::new("E0211", format!("{text} is out of range")).help("from 0% to 100%")),
                Err(_) => Err(wrong()),
            },
            None => text.parse().map(Self::Count).map_err(|_| wrong()),
        }
    }
    fn leaf_schema() -> Value {
        json!({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"}]})
    }
}

impl Leaf for Address {
    const WHAT: &'static str = "an address, like vm/shop-web-1";
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|error| {
            let kinds = ["fleet", "host", "image", "network", "service", "module", "vm"];
            let near = text
                .split_once('/')
                .and_then(|(kind, name)| Some(format!("{}/{name}", nearest(kind, kinds.into_iter())?)));
            Wrong::new("E0217", error).suggest(near)
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::ADDRESS})
    }
}

impl Leaf for Digest {
    const WHAT: &'static str = "a digest, like sha256:…";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::new(text).map_err(|error| {
            let lower = text.to_ascii_lowercase();
            let meant = [lower.clone(), format!("sha256:{lower}")].into_iter().find(|t| Self::new(t).is_ok());
            Wrong::new("E0222", error).suggest(meant).help("`sha256sum FILE` prints the digits")
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::DIGEST})
    }
}

impl Leaf for Uuid {
    const WHAT: &'static str = "a UUID";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let hyphenated = text.len() == 36;
        Self::try_parse(text).ok().filter(|_| hyphenated).ok_or_else(|| {
            Wrong::new("E0217", format!("`{text}` is not a UUID")).help("`virsh domuuid NAME` prints one")
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"})
    }
}

impl Leaf for Ipv4Addr {
    const WHAT: &'static str = "an IPv4 address";
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new("E0217", format!("`{text}` is not an IPv4 address")).help("like 10.83.0.10"))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "format": "ipv4"})
    }
}

impl Leaf for ipnet::Ipv4Net {
    const WHAT: &'static str = "a subnet, like 10.83.0.0/24";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let net: Self = text.parse().map_err(|_| Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT)))?;
        if net.network() != net.addr() {
            let meant = net.trunc().to_string();
            return Err(
                Wrong::new("E0217", format!("`{text}` is an address with a prefix, not a subnet")).suggest(Some(meant))
            );
        }
        Ok(net)
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": r"^([0-9]{1,3}\.){3}[0-9]{1,3}/(3[0-2]|[12]?[0-9])$"})
    }
}

impl Leaf for Ipv6Addr {
    const WHAT: &'static str = "an IPv6 address";
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new("E0217", format!("`{text}` is not an IPv6 address")).help("like fd00:83::a"))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "format": "ipv6"})
    }
}

impl Leaf for IpAddr {
    const WHAT: &'static str = "an IPv4 or IPv6 address";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong =
            || Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT)).help("like 10.83.0.10 or fd00:83::a");
        text.parse().map_err(|_| wrong())
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
    }
}

impl Leaf for ipnet::Ipv6Net {
    const WHAT: &'static str = "an IPv6 subnet, like fd00:83::/64";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let net: Self = text.parse().map_err(|_| Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT)))?;
        if net.network() != net.addr() {
            let meant = net.trunc().to_string();
            return Err(
                Wrong::new("E0217", format!("`{text}` is an address with a prefix, not a subnet")).suggest(Some(meant))
            );
        }
        Ok(net)
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": r"^[0-9a-fA-F:.]+/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$"})
    }
}

impl Leaf for Timestamp {
    const WHAT: &'static str = "a moment, like 2026-12-01T18:00:00Z";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT))
                .help("date, time and zone, as RFC 3339 has it")
        };
        let moment: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        u64::try_from(moment.as_second()).map(Self).map_err(|_| wrong())
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "format": "date-time"})
    }
}

words!(RunState, "a run state" {
    "started" => Self::Started,
    "stopped" => Self::Stopped,
    "suspended" => Self::Suspended,
});
words!(Acceleration, "an acceleration" {
    "auto" => Self::Auto,
    "kvm" => Self::Kvm,
    "tcg" => Self::Tcg,
});
words!(ImageFormat, "an image format" {
    "qcow2" => Self::Qcow2,
    "raw" => Self::Raw,
    "rootfs" => Self::Rootfs,
});
words!(Compression, "a compression" {
    "auto" => Self::Auto,
    "none" => Self::None,
    "zstd" => Self::Zstd,
    "xz" => Self::Xz,
    "gz" => Self::Gzip,
});
words!(Stores, "`needed` or `all`" {
    "needed" => Self::Needed,
    "all" => Self::All,
});
words!(Fetch, "`each` or `once`" {
    "each" => Self::Each,
    "once" => Self::Once,
});
words!(Identity, "a way to learn an address" {
    "cloud-init" => Self::CloudInit,
    "host" => Self::Host,
    "none" => Self::None,
});
words!(CloneMethod, "a way to clone" {
    "overlay" => Self::Overlay,
    "reflink" => Self::Reflink,
    "copy" => Self::Copy,
});
words!(NetworkMode, "a network mode" {
    "isolated" => Self::Isolated,
    "routed" => Self::Routed,
    "nat" => Self::Nat,
});
words!(Protection, "a protection" {
    "none" => Self::None,
    "destroy" => Self::Destroy,
    "recreate" => Self::Recreate,
    "all" => Self::All,
});
words!(Firmware, "a firmware" {
    "bios" => Self::Bios,
    "uefi" => Self::Uefi,
} later {
    "secure" : "comes in a later version",
});
words!(UpdatePolicy, "an update policy" {
    "staged" => Self::Staged,
    "reboot" => Self::Reboot,
});

/// The image of a VM: a name, or `none` for a VM that is adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName(pub(crate) Option<Name>);

impl Leaf for ImageName {
    const WHAT: &'static str = "the name of an image";
    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "none" { Ok(Self(None)) } else { <Name as Leaf>::parse(text).map(|name| Self(Some(name))) }
    }
    fn leaf_schema() -> Value {
        Name::leaf_schema()
    }
}

/// Whether the root disk is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Persistent,
    NonPersistent,
    /// As non-persistent, and it returns to its image at every start also where no session ends.
    Reset,
}
words!(Persistence, "a persistence" {
    "persistent" => Self::Persistent,
    "non-persistent" => Self::NonPersistent,
    "reset" => Self::Reset,
});

/// How a network's addresses are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// Planned by us, given to the clone by its seed.
    Static,
    /// Given by somebody else's DHCP.
    External,
}
words!(Addressing, "a way of addressing" {
    "static" => Self::Static,
    "external" => Self::External,
} later {
    "dhcp" : "comes with our own DHCP",
});

/// The role of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerRole;
words!(ServerRole, "a role" {
    "server" => Self,
} later {
    "client" : "comes with power clients",
});

/// Whether an approval holds when a new VM lands on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApprovalPlacement {
    Exact,
    Any,
}
words!(ApprovalPlacement, "a rule of approval" {
    "exact" => Self::Exact,
    "any" => Self::Any,
});

/// Whether a network's VMs are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Closed,
    Open,
}
// Not `off`, which is a boolean to some YAML parsers.
words!(Rules, "a way of filtering" {
    "closed" => Self::Closed,
    "open" => Self::Open,
});

impl Leaf for Traffic {
    const WHAT: &'static str = "a kind of packets, like tcp/443";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|error: String| {
            let lower = text.to_ascii_lowercase().replace([':', ' '], "/");
            let number = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            let guesses = [lower, format!("tcp/{text}")];
            let meant = guesses.into_iter().take(if number { 2 } else { 1 }).find(|t| t.parse::<Self>().is_ok());
            Wrong::new("E0217", error).suggest(meant)
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": schema::TRAFFIC})
    }
}

/// An address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr(pub(crate) ipnet::IpNet);

impl Leaf for Cidr {
    const WHAT: &'static str = "an address or a network, like 10.83.0.10 or 10.83.0.0/24";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self(address.into()));
        }
        let net = text.parse::<ipnet::IpNet>();
        let net = net.map_err(|_| Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT)))?;
        if net.trunc() != net {
            let wrong = Wrong::new("E0217", format!("`{text}` is an address with a prefix, not a network"));
            return Err(wrong
                .suggest(Some(net.trunc().to_string()))
                .help(format!("or `{}` for the one address", net.addr())));
        }
        Ok(Self(net))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]+)?$"})
    }
}

words!(Then, "what happens to a VM in quarantine" {
    "suspend" => Self::Suspend,
    "stop" => Self::Stop,
    "close" => Self::Close,
});
words!(Relocatable, "a way of moving" {
    "live" => Self::Live,
    "cold" => Self::Cold,
    "never" => Self::Never,
});

words!(OnUnknown, "a policy" {
    "hold" => Self::Hold,
    "surge" => Self::Surge,
});

words!(Transport, "a way for data" {
    "tls" => Self::Tls,
    "tunnel" => Self::Tunnel,
    "clear" => Self::Clear,
});

words!(Others, "a policy" {
    "leave" => Self::Leave,
    "cold" => Self::Cold,
    "stop" => Self::Stop,
});

impl Leaf for ipnet::IpNet {
    const WHAT: &'static str = "a network with its prefix length";
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            Wrong::new("E0217", format!("`{text}` is not a network")).help("like 10.77.0.0/24 or fd00:77::/64")
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"})
    }
}
