//! Expected results of a step.

use super::code;
use core::fmt;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Platform;
use std::marker::PhantomData;

/// The expected result of a step on one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The step succeeds.
    #[default]
    Ok,
    /// The step fails with the error of that code.
    Refused(&'static str),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Refused(code) => code,
        })
    }
}

struct VerdictVisitor;

impl Visitor<'_> for VerdictVisitor {
    type Value = Verdict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"ok\" or an error code: {}", code::all().join(", "))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Verdict, E> {
        match code::all().into_iter().find(|code| *code == text) {
            Some(code) => Ok(Verdict::Refused(code)),
            None if text == "ok" => Ok(Verdict::Ok),
            None => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Verdict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(VerdictVisitor)
    }
}

/// Kinds of host for which a step can have its own expectation.
const KINDS: &[&str] = &["powernv", "pseries", "4k", "64k"];

/// The expected result of a step, for all hosts or by kind of host. Without a match it is the
/// default: success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expect<V> {
    everywhere: V,
    by_kind: Vec<(&'static str, V)>,
}

impl<V: Copy> Expect<V> {
    pub(super) fn everywhere(everywhere: V) -> Self {
        Self { everywhere, by_kind: Vec::new() }
    }

    #[cfg(test)]
    pub(super) fn by_kind<const N: usize>(by_kind: [(&'static str, V); N]) -> Self
    where
        V: Default,
    {
        Self { everywhere: V::default(), by_kind: by_kind.into() }
    }

    /// Returns the expectation on a host of that platform and page.
    pub(super) fn on(&self, platform: Option<Platform>, page: PageShift) -> V {
        let is = |kind: &str| match kind {
            "powernv" => platform == Some(Platform::Powernv),
            "pseries" => platform == Some(Platform::Pseries),
            "4k" => page == PageShift::P4K,
            _ => page == PageShift::P64K,
        };
        self.by_kind.iter().find(|(kind, _)| is(kind)).map_or(self.everywhere, |(_, verdict)| *verdict)
    }
}

impl<'de, V: Deserialize<'de> + Default + Copy> Deserialize<'de> for Expect<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectVisitor(PhantomData))
    }
}

struct ExpectVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de> + Default + Copy> Visitor<'de> for ExpectVisitor<V> {
    type Value = Expect<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the expected result, or a table of results by powernv and pseries, or by 4k and 64k")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Expect<V>, E> {
        V::deserialize(text.into_deserializer()).map(Expect::everywhere)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Expect<V>, E> {
        V::deserialize(number.into_deserializer()).map(Expect::everywhere)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Expect<V>, M::Error> {
        let mut expect = Expect::everywhere(V::default());
        while let Some(key) = map.next_key::<String>()? {
            let Some(kind) = KINDS.iter().find(|kind| **kind == key) else {
                return Err(de::Error::unknown_field(&key, KINDS));
            };
            let is_page = kind.ends_with('k');
            if expect.by_kind.first().is_some_and(|(first, _)| first.ends_with('k') != is_page) {
                return Err(de::Error::custom("expect by platform or by page, not by both"));
            }
            expect.by_kind.push((kind, map.next_value()?));
        }
        Ok(expect)
    }
}

impl<V: Copy + Into<toml::Value>> Expect<V> {
    /// Returns what a file says of it.
    pub(super) fn value(&self) -> toml::Value {
        if self.by_kind.is_empty() {
            return self.everywhere.into();
        }
        let by_kind: toml::Table =
            self.by_kind.iter().map(|(kind, verdict)| ((*kind).to_owned(), (*verdict).into())).collect();
        by_kind.into()
    }
}
