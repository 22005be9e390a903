//! Quantities with units: a number without a unit is an error, never a guess.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a quantity could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// A bare number: the unit is missing.
    #[error("`{0}` has no unit")]
    NoUnit(String),
    /// A unit we do not know.
    #[error("unknown unit `{0}`")]
    UnknownUnit(String),
    /// Not a number before the unit, or too large.
    #[error("`{0}` is not a quantity")]
    Malformed(String),
}

/// A number of bytes, written `8GiB`, `512MiB`, `40GB` (binary and decimal units, case matters).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Units of [`Bytes`] that are accepted on input, largest first within each base.
pub const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// Whole kibibytes, rounded up: libvirt's unit for memory.
    pub const fn kib_ceil(self) -> u64 {
        self.0.div_ceil(1024)
    }
    /// A text that reads back as the same number of bytes, with the largest binary unit that is exact.
    pub fn exact(self) -> String {
        let unit = BYTE_UNITS[..4].iter().find(|(_, f)| self.0 >= *f && self.0.is_multiple_of(*f));
        unit.map_or_else(|| format!("{}B", self.0), |(u, f)| format!("{}{u}", self.0 / f))
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        quantity(text, &BYTE_UNITS).map(Self)
    }
}

/// For people: exact where a whole number of a unit is, else one decimal of the largest unit that fits.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in &BYTE_UNITS[..4] {
            if self.0 >= *factor {
                if self.0.is_multiple_of(*factor) {
                    return f.pad(&format!("{}{unit}", self.0 / factor));
                }
                let tenths = u128::from(self.0) * 10 / u128::from(*factor);
                return f.pad(&format!("{}.{}{unit}", tenths / 10, tenths % 10));
            }
        }
        f.pad(&format!("{}B", self.0))
    }
}

/// A length of time, written `30s`, `5m`, `2h`, `7d`, `250ms`; kept in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

/// Units of [`Span`] in milliseconds, largest first.
pub const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n * 1000)
    }
    /// As the standard library's duration.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }
    /// A text that reads back as the same span.
    pub fn exact(self) -> String {
        self.to_string()
    }
}

impl FromStr for Span {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        quantity(text, &SPAN_UNITS).map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SPAN_UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = unit.unwrap_or(&SPAN_UNITS[4]);
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

/// Reads `8GiB` or `1.5h` against a table of units; the value must come out whole and fit 64 bits.
fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned());
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(malformed());
    }
    if unit.is_empty() {
        return Err(QuantityError::NoUnit(text.to_owned()));
    }
    let factor = units.iter().find(|(u, _)| *u == unit).map(|(_, f)| *f);
    let factor = factor.ok_or_else(|| QuantityError::UnknownUnit(unit.to_owned()))?;
    scaled(number, factor).ok_or_else(malformed)
}

/// `1.5` × factor in whole units; `None` when it does not come out even, is malformed, or overflows.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.contains('.') && (fraction.is_empty() || fraction.len() > 9 || fraction.contains('.')) {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let scale = 10u64.pow(u32::try_from(fraction.len()).ok()?);
        let part = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
        if !part.is_multiple_of(scale) {
            return None;
        }
        value = value.checked_add(part / scale)?;
    }
    Some(value)
}

macro_rules! as_text {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.exact().serialize(s)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Bytes, Span);

/// Seconds since 1970-01-01T00:00:00Z. Pure rooms get it as an argument; they read no clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Seconds from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_need_a_unit_and_read_back() {
        assert_eq!("8GiB".parse::<Bytes>(), Ok(Bytes::gib(8)));
        assert_eq!("1.5GiB".parse::<Bytes>(), Ok(Bytes::mib(1536)));
        assert_eq!("8".parse::<Bytes>(), Err(QuantityError::NoUnit("8".into())));
        assert_eq!("8GIB".parse::<Bytes>(), Err(QuantityError::UnknownUnit("GIB".into())));
        assert_eq!("99999999999TiB".parse::<Bytes>(), Err(QuantityError::Malformed("99999999999TiB".into())));
        assert_eq!("90s".parse::<Span>(), Ok(Span::secs(90)));
        assert_eq!(Span::secs(90).to_string(), "90s");
        assert_eq!(Span::secs(120).to_string(), "2m");
        assert_eq!(Bytes(1_500_000_000).to_string(), "1.3GiB");
        for n in [0, 1, 1023, 1024, 1 << 20, 3 << 30, 12345] {
            assert_eq!(Bytes(n).exact().parse::<Bytes>(), Ok(Bytes(n)));
        }
    }
}
