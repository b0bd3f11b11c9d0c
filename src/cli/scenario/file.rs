//! The contents of a scenario file, and its syntax.

use super::action::{Action, Name, Nothing, Protection};
use super::expect::{Expect, Verdict};
use super::raw::Line;
use super::value::{Mistake, Offset, Page, Size, one_action, one_of, unknown_key};
use crate::suggest;
use core::fmt;
use core::ops::Range;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use spapr_iommu::model::Preset;
use toml::Spanned;

/// A scenario: memory, and steps that use it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub(super) title: String,
    pub(super) about: Option<String>,
    model: Option<ModelName>,
    #[serde(default)]
    pub(super) memory: Vec<Memory>,
    #[serde(default, rename = "step")]
    pub(super) steps: Vec<Step>,
    /// Raw steps, in place of steps.
    #[serde(default)]
    pub(super) raw: Vec<Line>,
}

#[derive(Debug)]
struct ModelName(Preset);

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        suggest::preset(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// A piece of memory of the process.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub name: Name,
    pub size: Spanned<Size>,
    pub page: Option<Page>,
    #[serde(default)]
    pub holes: Vec<Spanned<Hole>>,
    #[serde(default)]
    pub protect: Vec<Spanned<Protected>>,
}

/// A part that is not mapped.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hole {
    pub offset: Offset,
    pub size: Size,
}

/// A part that the process may not write, or not access at all.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Protected {
    pub offset: Offset,
    pub size: Size,
    pub access: Protection,
}

/// A step of a scenario.
#[derive(Debug)]
pub(super) struct Step {
    pub name: Option<String>,
    pub note: Option<String>,
    pub expect: Expect<Verdict>,
    pub action: Action,
    /// Position of the action's key.
    pub span: Range<usize>,
    pub line: usize,
    /// A key that is not allowed.
    pub mistake: Option<Mistake>,
}

/// Keys of a step other than actions.
const STEP_KEYS: [&str; 3] = ["name", "note", "expect"];

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Step;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a step with one of {}", Action::KEYS.join(", "))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Step, M::Error> {
                let (mut name, mut note, mut expect, mut found, mut mistake) = (None, None, None, None, None);
                while let Some(key) = map.next_key::<Name>()? {
                    let span = key.span();
                    match key.get_ref().as_str() {
                        "name" => name = Some(map.next_value()?),
                        "note" => note = Some(map.next_value()?),
                        "expect" => expect = Some(map.next_value()?),
                        key => match (Action::read(key, &mut map)?, &found) {
                            (Some(action), None) => found = Some((action, span)),
                            (Some(_), Some((first, _))) => {
                                mistake.get_or_insert_with(|| (span, one_action(first.key(), key)));
                            }
                            (None, _) => {
                                map.next_value::<de::IgnoredAny>()?;
                                mistake.get_or_insert_with(|| (span, unknown_key(key, Action::KEYS, &STEP_KEYS)));
                            }
                        },
                    }
                }
                let (action, span) = match (found, &mistake) {
                    (Some(found), _) => found,
                    // The unknown key may have been meant as the action.
                    (None, Some((span, _))) => (Action::Show(Nothing {}), span.clone()),
                    (None, None) => {
                        return Err(de::Error::custom(format_args!(
                            "this step does nothing, {}",
                            one_of(Action::KEYS, &[])
                        )));
                    }
                };
                Ok(Step { name, note, expect: expect.unwrap_or_default(), action, span, line: 0, mistake })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// What is wrong with a scenario's text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{line}:{column}: {message}")]
pub struct FileError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what is allowed there.
    pub message: String,
    /// Text of the line.
    pub text: String,
}

impl FileError {
    pub(super) fn new(text: &str, at: usize, message: String) -> Self {
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let before = &text[..at];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        Self {
            line: 1 + before.matches('\n').count(),
            column: 1 + before[start..].chars().count(),
            message,
            text: line.to_owned(),
        }
    }
}

impl Scenario {
    /// Returns its title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns what it shows.
    pub fn about(&self) -> Option<&str> {
        self.about.as_deref()
    }

    /// Returns the machine it names.
    pub fn model(&self) -> Option<Preset> {
        self.model.as_ref().map(|model| model.0)
    }

    /// Returns whether its steps are raw calls, which may crash the running kernel.
    pub fn is_raw(&self) -> bool {
        !self.raw.is_empty()
    }

    /// Returns the number of its steps.
    pub fn len(&self) -> usize {
        self.steps.len() + self.raw.len()
    }

    /// Returns whether it has no steps.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of groups it needs.
    pub fn groups(&self) -> usize {
        let groups = self.steps.iter().filter_map(|step| match &step.action {
            Action::Attach(attach) => Some(1 + attach.group.0.max(attach.beside.map_or(0, |other| other.0))),
            _ => None,
        });
        let raw = self.raw.iter().filter_map(|line| line.entry.step.group()).map(|group| 1 + group);
        groups.chain(raw).max().unwrap_or(0)
    }
}
