//! The kernel's answer to a call.

use core::fmt;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use spapr_iommu::host::Errno;

/// The expected or actual result of a step: 0, a positive number, or an error number by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Answer(pub Result<i32, Errno>);

/// No machine of Linux has a named error number above this.
const LAST_ERRNO: i32 = 200;

impl Default for Answer {
    fn default() -> Self {
        Self(Ok(0))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(number) => number.fmt(f),
            Err(errno) => fmt::Debug::fmt(&errno, f),
        }
    }
}

fn by_name(text: &str) -> Option<Errno> {
    (0..=LAST_ERRNO).map(Errno::from_raw).find(|errno| format!("{errno:?}") == text)
}

struct Either;

impl Visitor<'_> for Either {
    type Value = Answer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0, a positive number, or the name of an error number such as \"EINVAL\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Answer, E> {
        let found = by_name(text).map(|errno| Answer(Err(errno)));
        found.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Answer, E> {
        let found = i32::try_from(number).ok().filter(|number| *number >= 0).map(|number| Answer(Ok(number)));
        found.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Ok(number) => serializer.serialize_i32(number),
            Err(_) => serializer.serialize_str(&self.to_string()),
        }
    }
}
