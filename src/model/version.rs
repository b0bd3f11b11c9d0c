//! Kernels whose behaviour is modelled, and the model that is like a given kernel.

use core::fmt;

/// A kernel whose behaviour is modelled. What differs between them has a name each.
///
/// Stable series backport fixes, so the series alone does not determine the behaviour:
///
/// ```
/// use spapr_iommu::model::KernelVersion;
/// let version = |release| KernelVersion::like(release).map(|(version, _)| version.to_string());
/// assert_eq!(version("7.2.6").as_deref(), Some("7.2.0"));
/// assert_eq!(version("7.2.13+deb14-powerpc64le").as_deref(), Some("7.2"));
/// assert_eq!(version("6.1.176"), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelVersion {
    /// Linux 6.12 before 6.12.112.
    #[default]
    V6_12,
    /// Linux 6.12.112 and newer of that series.
    V6_12_112,
    /// Linux 7.2 before 7.2.8.
    V7_2_0,
    /// Linux 7.2.8 and newer.
    V7_2,
}

/// How well a kernel is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The change log of its stable series was read, and kernels of it were compared with the
    /// model.
    Series,
    /// Nothing is known of its series; the model is the nearest one.
    Nearest,
}

/// The first versions of their stable series with the fix "powerpc/iommu: Fix the overflow
/// validation in iommu_tce_check_ioba", by the series' change logs.
const UNMAP_FIXED_6_12: u32 = 112;
const UNMAP_FIXED_7_2: u32 = 8;

impl KernelVersion {
    /// Returns whether UNMAP past a window's end is refused, with 1 (`iommu_tce_check_ioba`).
    pub const fn bounds_unmap(self) -> bool {
        matches!(self, Self::V6_12_112 | Self::V7_2)
    }

    /// Returns whether CREATE refuses a page shift above 63, rather than using its low seven bits
    /// (`tce_iommu_create_window`).
    pub const fn bounds_page_shift(self) -> bool {
        matches!(self, Self::V7_2_0 | Self::V7_2)
    }

    /// Returns whether the kernel fills the MSI-X table of a device on pseries each time MSI-X is
    /// enabled, rather than once for each binding to a driver (seen on 7.2.13).
    pub const fn refills_msix(self) -> bool {
        matches!(self, Self::V6_12 | Self::V6_12_112)
    }

    /// Returns the model that is like a kernel, by its release or version:
    /// `7.2.13+deb14-powerpc64le` or `7.2.6`.
    ///
    /// Returns `None` for kernels before 6.12, which no model is like, and for text that is no
    /// version. A series that is not modelled gets the nearest model that is: newer ones the
    /// newest, ones between 6.12 and 7.2 that of 7.2 before its fixes.
    pub fn like(release: &str) -> Option<(Self, Known)> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        let (major, minor) = (numbers.next()?, numbers.next()?);
        let patch = numbers.next().unwrap_or(0);
        match (major, minor) {
            (6, 12) if patch < UNMAP_FIXED_6_12 => Some((Self::V6_12, Known::Series)),
            (6, 12) => Some((Self::V6_12_112, Known::Series)),
            (7, 2) if patch < UNMAP_FIXED_7_2 => Some((Self::V7_2_0, Known::Series)),
            (7, 2) => Some((Self::V7_2, Known::Series)),
            series if series < (6, 12) => None,
            series if series < (7, 2) => Some((Self::V7_2_0, Known::Nearest)),
            _ => Some((Self::V7_2, Known::Nearest)),
        }
    }

    /// Reads what [`Display`](fmt::Display) shows, or an exact version of a kernel that a model is
    /// like.
    ///
    /// A series without a patch level names the kernels it is tested with: 6.12 is 6.12.107, 7.2 is
    /// 7.2.13.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "6.12" => return Some(Self::V6_12),
            "7.2" => return Some(Self::V7_2),
            _ => {}
        }
        let exact = word.split('.').count() == 3 && word.split('.').all(|number| number.parse::<u32>().is_ok());
        exact.then(|| Self::like(word))?.map(|(version, _)| version)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_12 => "6.12",
            Self::V6_12_112 => "6.12.112",
            Self::V7_2_0 => "7.2.0",
            Self::V7_2 => "7.2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::KernelVersion::{V6_12, V6_12_112, V7_2, V7_2_0};
    use super::*;

    #[test]
    fn each_stable_version_has_the_model_of_its_fixes() {
        for (release, version) in [
            ("6.12", V6_12),
            ("6.12.107+deb13-powerpc64le-64k", V6_12),
            ("6.12.111", V6_12),
            ("6.12.112", V6_12_112),
            ("6.12.117+deb13-powerpc64le", V6_12_112),
            ("7.2", V7_2_0),
            ("7.2.6", V7_2_0),
            ("7.2.7+deb14-powerpc64le", V7_2_0),
            ("7.2.8", V7_2),
            ("7.2.9", V7_2),
            ("7.2.13-1", V7_2),
        ] {
            assert_eq!(KernelVersion::like(release), Some((version, Known::Series)), "{release}");
        }
    }

    #[test]
    fn a_series_that_is_not_modelled_has_the_nearest_model_and_says_so() {
        for (release, version) in
            [("6.18.3", V7_2_0), ("7.1.8", V7_2_0), ("7.3.4", V7_2), ("8.0", V7_2), ("99.1.2", V7_2)]
        {
            assert_eq!(KernelVersion::like(release), Some((version, Known::Nearest)), "{release}");
        }
        for none in ["6.11.10", "6.1.176", "5.10", "", "x", "7", "7.x", "99999999999.1", "-7.2"] {
            assert_eq!(KernelVersion::like(none), None, "{none}");
        }
    }

    #[test]
    fn a_version_reads_back_as_it_is_shown() {
        for version in [V6_12, V6_12_112, V7_2_0, V7_2] {
            assert_eq!(KernelVersion::parse(&version.to_string()), Some(version));
        }
        assert_eq!(KernelVersion::parse("7.2.6"), Some(V7_2_0));
        assert_eq!(KernelVersion::parse("6.12.117"), Some(V6_12_112));
        for none in ["6.1", "7", "7.2.", "7.2.x", "7.2.6.1", "6.1.176", "4k", "7.2.6-rc1"] {
            assert_eq!(KernelVersion::parse(none), None, "{none}");
        }
    }

    #[test]
    fn fixes_are_told_apart() {
        let fixes = |version: KernelVersion| (version.bounds_unmap(), version.bounds_page_shift());
        assert_eq!([V6_12, V6_12_112].map(fixes), [(false, false), (true, false)]);
        assert_eq!([V7_2_0, V7_2].map(fixes), [(false, true), (true, true)]);
    }
}
