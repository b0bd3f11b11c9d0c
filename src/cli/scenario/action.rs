//! The actions of a step, as they are written in a file.

use super::value::{Access, Index, Offset, OneOrMany, Page, Place, Size, Target};
use core::fmt;
use serde::Deserialize;
use serde::de::MapAccess;
use toml::Spanned;

/// The space of steps that do not name one.
pub(super) const MAIN: &str = "main";

/// A name with its position in the file.
pub(super) type Name = Spanned<String>;

macro_rules! actions {
    ($($key:literal $variant:ident($arguments:ty),)*) => {
        /// The action of a step.
        #[derive(Debug)]
        pub(super) enum Action {
            $($variant($arguments),)*
        }

        impl Action {
            /// The keys of all actions, as they are written.
            pub(super) const KEYS: &[&str] = &[$($key),*];

            /// Returns the action's key.
            pub(super) fn key(&self) -> &'static str {
                match self { $(Self::$variant(_) => $key,)* }
            }

            /// Reads the arguments of `key`; `None` if there is no such action.
            pub(super) fn read<'de, M: MapAccess<'de>>(key: &str, map: &mut M) -> Result<Option<Self>, M::Error> {
                Ok(Some(match key {
                    $($key => Self::$variant(map.next_value()?),)*
                    _ => return Ok(None),
                }))
            }
        }
    };
}

actions! {
    "attach" Attach(Attach),
    "detach" Detach(Detach),
    "register" Register(OneOrMany<Register>),
    "release" Release(Release),
    "window" Window(WindowArguments),
    "plan" Plan(WindowArguments),
    "remove-window" RemoveWindow(At),
    "drop-default" DropDefault(OfSpace),
    "reserve" Reserve(Reserve),
    "unreserve" Unreserve(Stretch),
    "trim" Trim(OfSpace),
    "map" Map(OneOrMany<Map>),
    "unmap" Unmap(Stretch),
    "translate" Translate(Translate),
    "fill" Fill(Fill),
    "check" Check(Check),
    "dma" Dma(Dma),
    "punch" Punch(Part),
    "protect" Protect(Protect),
    "show" Show(Nothing),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attach {
    pub group: Index,
    pub beside: Option<Index>,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detach {
    pub group: Index,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
    pub lease: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    pub lease: Name,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowArguments {
    pub name: Option<Name>,
    pub size: Option<Size>,
    pub cover: Option<Cover>,
    pub page: Option<Page>,
    pub max_iommu_page: Option<Page>,
    pub reach: Option<Offset>,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cover {
    pub at: Spanned<Place>,
    pub size: Size,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct At {
    pub at: Spanned<Place>,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSpace {
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reserve {
    pub name: Option<Name>,
    pub at: Spanned<Place>,
    pub size: Size,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stretch {
    pub at: Spanned<Place>,
    pub size: Size,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Map {
    pub at: Spanned<Place>,
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
    #[serde(default)]
    pub access: Access,
    #[serde(default)]
    pub replace: bool,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Translate {
    pub at: Spanned<Place>,
    pub gives: Spanned<Target>,
    pub access: Option<Access>,
    pub space: Option<Name>,
}

/// A part of a memory; everything from `offset` on if no size is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fill {
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
    pub pattern: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Check {
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
    pub pattern: Option<u32>,
    pub not_pattern: Option<u32>,
    #[serde(default)]
    pub zero: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dma {
    pub device: Index,
    pub from: Spanned<Place>,
    pub to: Spanned<Place>,
    pub size: Size,
    pub space: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Protect {
    pub memory: Name,
    #[serde(default)]
    pub offset: Offset,
    pub size: Option<Size>,
    pub access: Protection,
}

/// Access of the process itself to its memory.
#[derive(Clone, Copy, Debug, Deserialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(super) enum Protection {
    None,
    R,
    Rw,
}

/// Displays `memory+offset size`, without what is not given.
struct Piece<'a>(&'a Name, Offset, Option<Size>);

impl fmt::Display for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, Offset(offset), size) = self;
        write!(f, "{}", name.get_ref())?;
        if *offset != 0 || size.is_some() {
            write!(f, "+{offset:#x}")?;
        }
        size.map_or(Ok(()), |size| write!(f, " {size}"))
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = T>) -> fmt::Result {
    for (i, item) in items.enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = Piece(&self.memory, self.offset, self.size);
        let replace = if self.replace { " (replace)" } else { "" };
        write!(f, "{} -> {piece} {}{replace}", self.at.get_ref(), self.access.0)
    }
}

impl fmt::Display for WindowArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{}: ", name.get_ref())?;
        }
        if let Some(size) = self.size {
            write!(f, "{size}")?;
        }
        if let Some(cover) = &self.cover {
            write!(f, "around {} {}", cover.at.get_ref(), cover.size)?;
        }
        if let Some(Page(page)) = self.page {
            write!(f, ", {page} pages")?;
        }
        if let Some(Page(page)) = self.max_iommu_page {
            write!(f, ", memory up to {page} pages")?;
        }
        self.reach.map_or(Ok(()), |Offset(reach)| write!(f, ", device reaches {reach:#x}"))
    }
}

/// Displays the arguments in one line.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(Attach { group, beside: Some(other), .. }) => write!(f, "group {group} beside group {other}"),
            Self::Attach(Attach { group, .. }) | Self::Detach(Detach { group, .. }) => write!(f, "group {group}"),
            Self::Register(OneOrMany(parts)) => {
                list(f, parts.iter().map(|part| Piece(&part.memory, part.offset, part.size)))
            }
            Self::Release(release) => write!(f, "lease {}", release.lease.get_ref()),
            Self::Window(window) | Self::Plan(window) => window.fmt(f),
            Self::RemoveWindow(at) => write!(f, "{}", at.at.get_ref()),
            Self::DropDefault(_) | Self::Trim(_) | Self::Show(_) => Ok(()),
            Self::Reserve(reserve) => write!(f, "{} {}", reserve.at.get_ref(), reserve.size),
            Self::Unreserve(stretch) | Self::Unmap(stretch) => write!(f, "{} {}", stretch.at.get_ref(), stretch.size),
            Self::Map(OneOrMany(maps)) => list(f, maps.iter()),
            Self::Translate(translate) => write!(f, "{}", translate.at.get_ref()),
            Self::Fill(fill) => {
                write!(f, "{} with pattern {}", Piece(&fill.memory, fill.offset, fill.size), fill.pattern)
            }
            Self::Check(check) => {
                write!(f, "{}", Piece(&check.memory, check.offset, check.size))?;
                match (check.pattern, check.not_pattern) {
                    (Some(pattern), _) => write!(f, " is pattern {pattern}"),
                    (None, Some(pattern)) => write!(f, " is not pattern {pattern}"),
                    (None, None) => f.write_str(" is zero"),
                }
            }
            Self::Dma(dma) => {
                write!(f, "device of group {}: {} -> {} {}", dma.device, dma.from.get_ref(), dma.to.get_ref(), dma.size)
            }
            Self::Punch(part) => write!(f, "{}", Piece(&part.memory, part.offset, part.size)),
            Self::Protect(protect) => {
                let piece = Piece(&protect.memory, protect.offset, protect.size);
                write!(f, "{piece} {}", protect.access)
            }
        }
    }
}
