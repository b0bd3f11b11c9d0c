//! Values in a scenario and their syntax.

use core::fmt;
use core::ops::Range;
use core::str::FromStr;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use spapr_iommu::addr::{Bytes, PageShift};
use spapr_iommu::permission::Permission;
use std::marker::PhantomData;

/// Largest number of groups a scenario can use.
pub(super) const MAX_GROUPS: usize = 256;

/// Why a text is not a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NumberError {
    #[error("a size is a number of bytes, for example 512M, 1G or 0x10000")]
    Malformed,
    #[error("more than 64 bits can hold: the maximum is 0x{:x}", u64::MAX)]
    TooLarge,
}

/// Reads a number of bytes: `4096`, `64K`, `1G`, `0x10000`.
pub(crate) fn number(text: &str) -> Option<u64> {
    checked_number(text).ok()
}

/// Reads a number of bytes, or says why the text is not one.
pub(crate) fn checked_number(text: &str) -> Result<u64, NumberError> {
    let digits = |text: &str, radix: u32| {
        let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        // A text of digits can only be too large.
        plain.then(|| u64::from_str_radix(text, radix)).ok_or(NumberError::Malformed)?.or(Err(NumberError::TooLarge))
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16);
    }
    let (text, shift) = match text.strip_suffix(['K', 'M', 'G', 'T', 'P', 'E']) {
        Some(rest) => (rest, 10 * (1 + "KMGTPE".find(&text[rest.len()..]).ok_or(NumberError::Malformed)? as u32)),
        None => (text, 0),
    };
    digits(text, 10)?.checked_mul(1 << shift).ok_or(NumberError::TooLarge)
}

/// Describes a text that is not what was expected. A number that is too large is well-formed, so it
/// says that.
pub(super) fn unexpected(text: &str) -> String {
    let number = text.rsplit('+').next().unwrap_or(text);
    match checked_number(number.trim_start()) {
        Err(error @ NumberError::TooLarge) => format!("{text:?}, which is {error}"),
        _ => format!("string {text:?}"),
    }
}

/// A mistake and its position in bytes.
pub(super) type Mistake = (Range<usize>, String);

pub(super) fn one_of(actions: &[&str], more: &[&str]) -> String {
    format!("expected one of `{}`", [actions, more].concat().join("`, `"))
}

pub(super) fn unknown_key(key: &str, actions: &[&str], more: &[&str]) -> String {
    format!("unknown field `{key}`, {}", one_of(actions, more))
}

pub(super) fn one_action(first: &str, key: &str) -> String {
    format!("a step has one action, and this one has `{first}`: give `{key}` a step of its own")
}

/// Returns whether `text` is a valid name: letters, digits, `-` and `_`, a letter first.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Parses `name`, or `name+number`.
fn name_and_offset(text: &str) -> Option<(&str, u64)> {
    let (name, offset) = match text.split_once('+') {
        Some((name, offset)) => (name.trim_end(), number(offset.trim_start())?),
        None => (text, 0),
    };
    is_name(name).then_some((name, offset))
}

/// Implements parsing of a type from its text, or from a whole number instead.
macro_rules! from_text {
    ($name:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|()| E::invalid_value(de::Unexpected::Other(&unexpected(text)), &self))
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        match u64::try_from(number) {
                            Ok(number) => self.visit_str(&number.to_string()),
                            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                        }
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

/// A number of bytes, 0 or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset(pub u64);

impl FromStr for Offset {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        number(text).map(Self).ok_or(())
    }
}

from_text!(Offset, "a number of bytes such as \"64K\", \"0x10000\" or 4096");

/// A number of bytes, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub u64);

impl FromStr for Size {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        number(text).filter(|size| *size != 0).map(Self).ok_or(())
    }
}

from_text!(Size, "a number of bytes such as \"64K\", \"0x10000\" or 4096, at least one");

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

/// A page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page(pub PageShift);

impl FromStr for Page {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        number(text).and_then(PageShift::from_bytes).map(Self).ok_or(())
    }
}

from_text!(Page, "a page size: a power of two from \"4K\" to \"16G\"");

/// A group number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(pub usize);

impl FromStr for Index {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|index| *index < MAX_GROUPS).map(Self).ok_or(())
    }
}

from_text!(Index, "a group, counted from 0 to 255 among those with vfio-pci");

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bus address: relative to the start of a window, or absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name of the window.
    pub window: Option<String>,
    /// Offset from its start, or from 0.
    pub offset: u64,
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(offset) = number(text) {
            return Ok(Self { window: None, offset });
        }
        let (name, offset) = name_and_offset(text).ok_or(())?;
        Ok(Self { window: Some(name.into()), offset })
    }
}

from_text!(Place, "a bus address: \"WINDOW\", \"WINDOW+0x1000\", \"default+64K\" or \"0x1000\"");

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.window, self.offset) {
            (Some(window), 0) => f.write_str(window),
            (Some(window), offset) => write!(f, "{window}+{offset:#x}"),
            (None, offset) => write!(f, "{offset:#x}"),
        }
    }
}

/// Where a bus address should lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Nothing,
    Memory { name: String, offset: u64 },
}

impl FromStr for Target {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "nothing" {
            return Ok(Self::Nothing);
        }
        let (name, offset) = name_and_offset(text).ok_or(())?;
        Ok(Self::Memory { name: name.into(), offset })
    }
}

from_text!(Target, "\"nothing\", or a place in memory such as \"ram+0x1000\"");

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Memory { name, offset } => write!(f, "{name}+{offset:#x}"),
        }
    }
}

/// What a device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access(pub Permission);

impl Default for Access {
    fn default() -> Self {
        Self(Permission::ReadWrite)
    }
}

impl FromStr for Access {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "r" => Ok(Self(Permission::Read)),
            "w" => Ok(Self(Permission::Write)),
            "rw" => Ok(Self(Permission::ReadWrite)),
            _ => Err(()),
        }
    }
}

from_text!(Access, "what devices may do: \"r\", \"w\" or \"rw\"");

/// One value, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or a list of tables that is not empty")
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                if all.is_empty() { Err(de::Error::invalid_length(0, &self)) } else { Ok(OneOrMany(all)) }
            }
        }
        deserializer.deserialize_any(Tables(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_or_refused() {
        for (text, value) in [("0", 0), ("4096", 4096), ("64K", 65536), ("0x1f", 31), ("16E", 0), ("15E", 15 << 60)] {
            assert_eq!(number(text), (value != 0 || text == "0").then_some(value), "{text}");
        }
        for text in ["16E", "0x10000000000000000", "18446744073709551616", "99999999999999999999K"] {
            assert_eq!(checked_number(text), Err(NumberError::TooLarge), "{text}");
        }
        for text in ["", "K", "16F", "0xg"] {
            assert_eq!(checked_number(text), Err(NumberError::Malformed), "{text}");
        }
        for text in ["", "K", "+1", "-1", "1k", "1KK", "0x", "0x+1", "1.5G", "99999999999999999999", "1 K", "ＫK"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn places_read_back_as_they_are_shown() {
        for text in ["0x1000", "big", "big+0x10000", "default+0x40"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("big + 64K".parse::<Place>().unwrap().to_string(), "big+0x10000");
        for text in ["", "+1", "big+", "big+x", "b g", "-1", "0x"] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text}");
        }
    }
}
