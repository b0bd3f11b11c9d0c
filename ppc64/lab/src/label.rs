//! Which kernel a label such as `6.12-64k` stands for.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// A kernel series, or one version of it, and its page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    series: (u32, u32),
    /// The patch level, if only that one is wanted.
    patch: Option<u32>,
    large_pages: bool,
}

impl Label {
    /// Returns whether no other kernel will do. What it stands for never changes then.
    pub fn is_exact(&self) -> bool {
        self.patch.is_some()
    }

    /// Returns whether a release is of the series and the version that the label names.
    pub fn names(&self, release: &Release) -> bool {
        let (series, large_pages) = (release.series(), release.large_pages);
        large_pages == self.large_pages
            && series == self.series
            && self.patch.is_none_or(|patch| release.patch() == patch)
    }
}

impl FromStr for Label {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Label> {
        let (series, large_pages) = match text.strip_suffix("-64k") {
            Some(series) => (series, true),
            None => (text, false),
        };
        let wrong = || format!("{text} is not a kernel label; labels look like 6.12, 7.2-64k or 7.2.6");
        let numbers: Option<Vec<u32>> = series.split('.').map(|number| number.parse().ok()).collect();
        let (series, patch) = match numbers.with_context(wrong)?[..] {
            [major, minor] => ((major, minor), None),
            [major, minor, patch] => ((major, minor), Some(patch)),
            _ => bail!(wrong()),
        };
        Ok(Label { series, patch, large_pages })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = if self.large_pages { "-64k" } else { "" };
        let patch = self.patch.map(|patch| format!(".{patch}")).unwrap_or_default();
        write!(f, "{}.{}{patch}{pages}", self.series.0, self.series.1)
    }
}

/// A kernel as packages name it, `6.12.107+deb13-powerpc64le-64k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    numbers: Vec<u32>,
    large_pages: bool,
    name: String,
}

impl Release {
    /// Returns the whole name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first two numbers of the version.
    pub fn series(&self) -> (u32, u32) {
        (self.numbers[0], self.numbers[1])
    }

    /// Returns the third number; 0 without one.
    pub fn patch(&self) -> u32 {
        self.numbers.get(2).copied().unwrap_or(0)
    }

    /// Returns the version without the words of the package: `6.12.107`.
    pub fn version(&self) -> String {
        format!("{}.{}.{}", self.numbers[0], self.numbers[1], self.patch())
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Release> {
        let (version, large_pages) = if let Some(version) = name.strip_suffix("-powerpc64le-64k") {
            (version, true)
        } else if let Some(version) = name.strip_suffix("-powerpc64le") {
            (version, false)
        } else {
            bail!("{name} is not a kernel for 64-bit little-endian POWER");
        };
        let digits = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
        let numbers = version[..digits]
            .split('.')
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()
            .with_context(|| format!("{name} does not start with a version"))?;
        if numbers.len() < 2 {
            bail!("{name} does not start with a version");
        }
        Ok(Release { numbers, large_pages, name: name.to_owned() })
    }
}

/// How well a release matches a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is of the label's series.
    Series,
    /// The archive no longer has that series; this is the next newer one.
    Newer,
}

/// Kernels with which the table of docs/validation.md was made. They are preferred while the
/// archive has them: a newer one may behave in a way that the model does not know yet.
const SHOWN: [[u32; 3]; 2] = [[6, 12, 107], [7, 2, 13]];

/// Returns releases of the label's series, otherwise of the next newer series, the best first:
/// tested ones, then the newest. An exact label has no substitute.
pub fn choose(label: Label, releases: &[Release]) -> Option<(Match, Vec<&Release>)> {
    if label.is_exact() {
        let best: Vec<&Release> = releases.iter().filter(|release| label.names(release)).collect();
        return (!best.is_empty()).then_some((Match::Series, best));
    }
    let fitting = || releases.iter().filter(|r| r.large_pages == label.large_pages && r.series() >= label.series);
    let series = fitting().map(Release::series).min()?;
    let mut best: Vec<&Release> = fitting().filter(|r| r.series() == series).collect();
    let rank = |r: &Release| (SHOWN.iter().any(|shown| r.numbers == shown), r.numbers.clone(), r.name.clone());
    best.sort_by_cached_key(|r| core::cmp::Reverse(rank(r)));
    let how = if series == label.series { Match::Series } else { Match::Newer };
    Some((how, best))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHIVE: [&str; 8] = [
        "6.12.94+deb13-powerpc64le",
        "6.12.107+deb13-powerpc64le",
        "6.12.107+deb13-powerpc64le-64k",
        "7.2.9+deb13-powerpc64le-64k",
        "7.2.11+deb13-powerpc64le-64k",
        "7.4.1+deb13-powerpc64le-64k",
        "7.4.9+deb13-powerpc64le-64k",
        "7.4.11+deb13-powerpc64le-64k",
    ];

    fn chosen(label: &str) -> Option<(Match, String)> {
        let releases: Vec<Release> = ARCHIVE.iter().map(|name| name.parse().unwrap()).collect();
        choose(label.parse().unwrap(), &releases).map(|(how, best)| (how, best[0].name().to_owned()))
    }

    #[test]
    fn the_newest_of_the_series_by_number_not_by_text() {
        let expected = Some((Match::Series, ARCHIVE[7].into()));
        assert_eq!(chosen("7.4-64k"), expected);
        let expected = Some((Match::Series, ARCHIVE[4].into()));
        assert_eq!(chosen("7.2-64k"), expected);
    }

    #[test]
    fn a_kernel_that_was_shown_comes_before_newer_ones_and_these_before_older_ones() {
        let names = ["6.12.94+deb13-powerpc64le", "6.12.117+deb13-powerpc64le", "6.12.107+deb13-powerpc64le"];
        let releases: Vec<Release> = names.iter().map(|name| name.parse().unwrap()).collect();
        let (_, best) = choose("6.12".parse().unwrap(), &releases).unwrap();
        assert_eq!(best.iter().map(|r| r.name()).collect::<Vec<_>>(), [names[2], names[1], names[0]]);
    }

    #[test]
    fn the_next_newer_series_stands_in() {
        let expected = Some((Match::Newer, ARCHIVE[4].into()));
        assert_eq!(chosen("6.18-64k"), expected);
        let expected = Some((Match::Newer, ARCHIVE[7].into()));
        assert_eq!(chosen("7.3-64k"), expected);
    }

    #[test]
    fn never_an_older_series_or_another_page_size() {
        assert_eq!(chosen("7.5-64k"), None);
        assert_eq!(chosen("7.2"), None);
    }

    #[test]
    fn an_exact_version_has_no_substitute() {
        assert_eq!(chosen("7.2.9-64k"), Some((Match::Series, ARCHIVE[3].into())));
        assert_eq!(chosen("6.12.94"), Some((Match::Series, ARCHIVE[0].into())));
        for none in ["7.2.6-64k", "7.2.9", "7.3.0-64k"] {
            assert_eq!(chosen(none), None, "{none}");
        }
    }

    #[test]
    fn a_release_has_a_version_without_the_words_of_its_package() {
        let version = |name: &str| name.parse::<Release>().unwrap().version();
        assert_eq!(version(ARCHIVE[2]), "6.12.107");
        assert_eq!(version("7.3-powerpc64le"), "7.3.0");
    }

    #[test]
    fn labels_read_as_they_print() {
        for text in ["6.12", "6.12-64k", "7.2", "7.2-64k", "7.2.6", "6.12.107-64k"] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
        for text in ["", "6", "6.x", "6.12-4k", "-64k", "6.12.107+deb13", "6.12.1.2", "7.2."] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_kernels_to_boot_are_releases() {
        for name in [
            "powerpc64le",
            "6.12.107+deb13-powerpc64le-dbg",
            "6.12.107+deb13-powerpc64le-64k-dbg",
            "6-powerpc64le",
            "6.12.107+deb13-amd64",
        ] {
            assert!(name.parse::<Release>().is_err(), "{name}");
        }
    }
}
