//! What a step should come to.

use super::code;
use crate::addr::PageShift;
use crate::host::Platform;
use core::fmt;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// What a step should come to on one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Success.
    #[default]
    Ok,
    /// The error of that code.
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

struct Word;

impl Visitor<'_> for Word {
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
        deserializer.deserialize_str(Word)
    }
}

/// A kind of host for which a step has an expectation of its own.
const KINDS: &[&str] = &["powernv", "pseries", "4k", "64k"];

/// What a step should come to, everywhere or by kind of host. Where no kind fits it is success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expect {
    everywhere: Verdict,
    by_kind: Vec<(&'static str, Verdict)>,
}

impl Expect {
    /// On a host of that platform and page.
    pub(super) fn on(&self, platform: Option<Platform>, page: PageShift) -> Verdict {
        let is = |kind: &str| match kind {
            "powernv" => platform == Some(Platform::Powernv),
            "pseries" => platform == Some(Platform::Pseries),
            "4k" => page == PageShift::P4K,
            _ => page == PageShift::P64K,
        };
        self.by_kind.iter().find(|(kind, _)| is(kind)).map_or(self.everywhere, |(_, verdict)| *verdict)
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Expect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ok\", an error code, or a table of these by powernv and pseries, or by 4k and 64k")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expect, E> {
                Ok(Expect { everywhere: Word.visit_str(text)?, by_kind: Vec::new() })
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Expect, M::Error> {
                let mut expect = Expect::default();
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
        deserializer.deserialize_any(Either)
    }
}
