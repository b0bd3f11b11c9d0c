//! A step in a file with its expected answer: read from TOML and written to it.

use super::super::expect::Expect;
use super::super::value::{Mistake, Offset, one_action, one_of, unexpected, unknown_key};
use super::fields::{self, Value};
use super::step::{Slot, Step};
use core::fmt;
use core::ops::Range;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::Preset;
use std::collections::BTreeMap;
use toml::Spanned;

/// A step and its expected result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the step, for messages.
    pub name: Option<String>,
    /// What the step shows.
    pub note: Option<String>,
    /// The step itself.
    pub step: Step,
    pub(in super::super) expect: Expect<Answer>,
    /// Fields of the call's structure after the kernel has written to it.
    pub gives: BTreeMap<String, u64>,
    /// Bytes locked since the scenario began.
    pub locked: Option<u64>,
}

impl Entry {
    /// Creates a step with the same `result` on every host.
    pub fn new(step: Step, result: Result<i32, Errno>) -> Self {
        let expect = Expect::everywhere(Answer(result));
        Self { name: None, note: None, step, expect, gives: BTreeMap::new(), locked: None }
    }
}

/// An entry and its position in the file.
#[derive(Debug)]
pub(in super::super) struct Line {
    pub entry: Entry,
    /// Position of the step's key.
    pub span: Range<usize>,
    pub number: usize,
    /// A key that is not allowed.
    pub mistake: Option<Mistake>,
}

/// The keys of an entry other than steps.
const ENTRY_KEYS: [&str; 5] = ["name", "note", "expect", "gives", "locked"];

fn keys() -> Vec<&'static str> {
    fields::blanks().iter().map(Step::key).collect()
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a raw step")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut name, mut note, mut expect, mut locked) = (None, None, None, None);
        let mut gives: BTreeMap<Spanned<String>, Offset> = BTreeMap::new();
        let (mut found, mut mistake): (Option<(Step, _)>, Option<Mistake>) = (None, None);
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let span = key.span();
            match key.get_ref().as_str() {
                "name" => name = Some(map.next_value()?),
                "note" => note = Some(map.next_value()?),
                "expect" => expect = Some(map.next_value()?),
                "gives" => gives = map.next_value()?,
                "locked" => locked = Some(map.next_value::<Offset>()?.0),
                key => match (fields::blanks().into_iter().find(|step| step.key() == key), &found) {
                    (Some(blank), None) => found = Some((map.next_value_seed(Arguments(blank))?, span)),
                    (Some(_), Some((first, _))) => {
                        map.next_value::<de::IgnoredAny>()?;
                        mistake.get_or_insert_with(|| (span, one_action(first.key(), key)));
                    }
                    (None, _) => {
                        map.next_value::<de::IgnoredAny>()?;
                        mistake.get_or_insert_with(|| (span, unknown_key(key, &keys(), &ENTRY_KEYS)));
                    }
                },
            }
        }
        let (step, span) = match (found, &mistake) {
            (Some(found), _) => found,
            // The unknown key may have been meant as the step.
            (None, Some((span, _))) => (Step::Open(Slot::Container(0)), span.clone()),
            (None, None) => {
                return Err(de::Error::custom(format_args!("this step does nothing, {}", one_of(&keys(), &[]))));
            }
        };
        mistake = mistake.or_else(|| unknown_gives(&step, &gives));
        let gives = gives.into_iter().map(|(name, number)| (name.into_inner(), number.0)).collect();
        let entry = Entry { name, note, step, expect: expect.unwrap_or_default(), gives, locked };
        Ok(Line { entry, span, number: 0, mistake })
    }
}

/// Finds a name that is not a field of the call.
fn unknown_gives(step: &Step, gives: &BTreeMap<Spanned<String>, Offset>) -> Option<Mistake> {
    let known: Vec<&str> = match step {
        Step::Call { call, .. } => fields::numbers(*call).into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    };
    let unknown = gives.keys().find(|name| !known.contains(&name.get_ref().as_str()))?;
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let (name, key) = (unknown.get_ref(), step.key());
    Some((unknown.span(), format!("the kernel returns no {name:?} from {key} (fields: {known})")))
}

/// Fills in the arguments of a step.
struct Arguments(Step);

impl<'de> de::DeserializeSeed<'de> for Arguments {
    type Value = Step;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Step, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Arguments {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table of the arguments of {}", self.0.key())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Step, M::Error> {
        let mut step = self.0;
        let names: Vec<&str> = step.arguments().iter().map(|argument| argument.name).collect();
        let mut given = vec![false; names.len()];
        while let Some(at) = map.next_key_seed(NameOf(&names))? {
            if let Some(argument) = step.arguments().get_mut(at) {
                map.next_value_seed(argument)?;
                given[at] = true;
            }
        }
        let missing = |(argument, given): &(fields::Argument<'_>, bool)| argument.required && !given;
        match step.arguments().into_iter().zip(given).find(missing) {
            Some((argument, _)) => Err(de::Error::missing_field(argument.name)),
            None => Ok(step),
        }
    }
}

/// Finds the index of a name.
struct NameOf<'a>(&'a [&'static str]);

impl<'de> de::DeserializeSeed<'de> for NameOf<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameOf<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of `{}`", self.0.join("`, `"))
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<usize, E> {
        let found = self.0.iter().position(|name| *name == key);
        found.ok_or_else(|| E::custom(unknown_key(key, self.0, &[])))
    }
}

/// Sets an argument.
impl<'de> de::DeserializeSeed<'de> for &mut fields::Argument<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for &mut fields::Argument<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field.expected())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let set = self.field.set(text);
        set.ok_or_else(|| E::invalid_value(de::Unexpected::Other(&unexpected(text)), &self.field.expected()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        let set = self.field.set(&value.to_string());
        set.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self.field.expected()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self.field.expected())),
        }
    }
}

impl Entry {
    /// Returns what a file says of it, in order.
    fn table(&self) -> toml::Table {
        let text = |text: &Option<String>| text.clone().map(toml::Value::from);
        let hex = |number: u64| toml::Value::from(format!("{number:#x}"));
        let arguments = Written(self.step).values().into_iter();
        let arguments: toml::Table = arguments.map(|(name, value)| (name.to_owned(), value.into())).collect();
        let gives: toml::Table = self.gives.iter().map(|(name, number)| (name.clone(), hex(*number))).collect();
        let all = [
            ("name", text(&self.name)),
            ("note", text(&self.note)),
            (self.step.key(), Some(arguments.into())),
            ("expect", (self.expect != Expect::default()).then(|| self.expect.value())),
            ("gives", (!gives.is_empty()).then_some(gives.into())),
            ("locked", self.locked.map(hex)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// The arguments of a step that differ from their defaults.
pub(super) struct Written(pub Step);

impl Written {
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let Self(mut step) = *self;
        let blank = fields::blanks().into_iter().find(|blank| blank.key() == step.key());
        let defaults: Vec<_> = blank
            .into_iter()
            .flat_map(|mut blank| {
                blank.arguments().iter().map(|argument| (argument.name, argument.field.get())).collect::<Vec<_>>()
            })
            .collect();
        let differing = step.arguments().into_iter().filter_map(|argument| {
            let value = (argument.name, argument.field.get()?);
            let is_default =
                defaults.iter().any(|(name, default)| (*name, default.as_ref()) == (value.0, Some(&value.1)));
            (argument.required || !is_default).then_some(value)
        });
        differing.collect()
    }
}

impl From<Value> for toml::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Number(number) => number.into(),
            Value::Text(text) => text.into(),
        }
    }
}

/// Displays a step as in a file.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(format!("{} {}", self.key(), arguments(*self)).trim_end())
    }
}

/// Returns the arguments in one line.
pub(super) fn arguments(step: Step) -> String {
    let values: Vec<_> = Written(step).values().iter().map(|(name, value)| format!("{name}={value}")).collect();
    values.join(" ")
}

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

struct AnswerVisitor;

impl Visitor<'_> for AnswerVisitor {
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
        deserializer.deserialize_any(AnswerVisitor)
    }
}

impl From<Answer> for toml::Value {
    fn from(answer: Answer) -> Self {
        match answer.0 {
            Ok(number) => number.into(),
            Err(_) => answer.to_string().into(),
        }
    }
}

/// Returns the text of a scenario of these steps; `model` is the machine whose answers they expect.
pub fn document(title: &str, about: Option<&str>, model: Option<Preset>, entries: &[Entry]) -> String {
    let mut text = String::new();
    let model = model.map(|model| model.to_string());
    for (key, value) in [("title", Some(title)), ("about", about), ("model", model.as_deref())] {
        if let Some(value) = value {
            text += &format!("{key} = {}\n", toml::Value::from(value));
        }
    }
    for entry in entries {
        text += "\n[[raw]]\n";
        for (key, value) in entry.table() {
            text += &format!("{key} = {value}\n");
        }
    }
    text
}

impl Entry {
    /// Expects the fields of the call's structure that `after` holds and that differ from what went
    /// in, or from `other`.
    pub fn giving(mut self, after: Option<&Call>, other: Option<&Call>) -> Self {
        let (Step::Call { call, .. }, Some(after)) = (self.step, after) else { return self };
        let (before, other) = (fields::numbers(call), fields::numbers(*other.unwrap_or(after)));
        let changed = fields::numbers(*after).into_iter().zip(before).zip(other);
        let changed = changed.filter(|((now, before), other)| now != before || now != other);
        self.gives = changed.map(|((now, _), _)| (now.0.to_owned(), now.1)).collect();
        self
    }
}
