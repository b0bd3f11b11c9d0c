//! Checks whether user space can drive devices on a machine, and names the remedy for each fault.

mod kernel;
mod kvm;
mod memory;
mod offer;
mod place;
#[cfg(test)]
mod tests;
mod vfio;

pub(crate) use offer::info as window_info;
pub(crate) use place::Place;
pub(crate) use vfio::usable;

use serde::Serialize;

/// Level of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Level {
    /// No fault.
    Ok,
    /// Usable, with a limit that affects some programs.
    Warning,
    /// Prevents use.
    Wrong,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was checked.
    pub(crate) topic: &'static str,
    /// Stable name of the fault.
    pub(crate) code: Option<&'static str>,
    pub(crate) text: String,
    /// Remedy: a command if possible.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    fn ok(topic: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, topic, code: None, text: text.into(), remedy: None }
    }

    fn warning(topic: &'static str, code: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (text, remedy) = (text.into(), Some(remedy.into()));
        Self { level: Level::Warning, topic, code: Some(code), text, remedy }
    }

    fn wrong(topic: &'static str, code: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Wrong, ..Self::warning(topic, code, text, remedy) }
    }
}

/// Needs of a program or guest, as far as the user named them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Bytes to lock.
    pub(crate) memory: Option<u64>,
    /// IOMMU page, bytes.
    pub(crate) page: Option<u64>,
}

/// Runs all checks, in the order in which a user must fix the faults.
pub(crate) fn examine(place: &Place, needs: Needs) -> Vec<Finding> {
    let mut findings = kernel::check(place);
    if place.platform().is_some() {
        findings.extend(kernel::faults(place));
        findings.extend(vfio::check(place));
        findings.extend(offer::check(place, needs));
    }
    findings.extend(memory::check(place, needs));
    if place.platform().is_some() {
        findings.push(kvm::check(place));
    }
    findings
}

/// Returns the worst level.
pub(crate) fn verdict(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}
