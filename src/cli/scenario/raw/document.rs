//! Writes raw steps as a scenario file.

use super::entry::Entry;
use super::fields::numbers;
use super::step::Step;
use spapr_iommu::host::Call;
use spapr_iommu::model::Preset;

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
        // Everything in an entry can be written in TOML.
        for (key, value) in toml::Table::try_from(entry).unwrap_or_default() {
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
        let (before, other) = (numbers(call), numbers(*other.unwrap_or(after)));
        let changed = numbers(*after).into_iter().zip(before).zip(other);
        let changed = changed.filter(|((now, before), other)| now != before || now != other);
        self.gives = changed.map(|((now, _), _)| (now.0.to_owned(), now.1)).collect();
        self
    }
}
