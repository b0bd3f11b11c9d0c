//! Codes of errors, as a file expects them: the library's, and a few of scenarios themselves.

use crate::edu::EduError;
use spapr_iommu::addr::RangeError;
use spapr_iommu::host::{Errno, MemlockError, Obstacle};
use spapr_iommu::registry::{PinError, RegisterError, ReleaseError};
use spapr_iommu::space::{AttachError, MapError, UnmapError, WindowError};
use spapr_iommu::window::PlanError;
use strum::VariantNames;

/// Code of a failed comparison.
pub(super) const MISMATCH: &str = "mismatch";
/// Code of a name that no earlier step defined.
pub(super) const UNKNOWN_NAME: &str = "unknown-name";

const ERRNO: &str = "errno";
/// Codes of errors that are not enums.
const OTHERS: [&str; 6] = [MISMATCH, UNKNOWN_NAME, ERRNO, "still-mapped", "not-restored", "call-failed"];
/// Variants that only wrap another error, whose code counts.
const WRAPPERS: [&str; 8] = ["memory", "memlock", "window", "windows", "refused", "register", "call", "obstacle"];

/// An error with a stable code.
pub(super) trait Code: std::fmt::Display {
    fn code(&self) -> &'static str;

    /// Returns whether it is an obstacle for the user rather than a refusal.
    fn is_obstacle(&self) -> bool {
        false
    }
}

/// Returns all codes, in order.
pub(super) fn all() -> Vec<&'static str> {
    let lists = [
        RangeError::VARIANTS,
        MapError::VARIANTS,
        UnmapError::VARIANTS,
        WindowError::VARIANTS,
        PlanError::VARIANTS,
        AttachError::VARIANTS,
        RegisterError::VARIANTS,
        PinError::VARIANTS,
        MemlockError::VARIANTS,
        Obstacle::VARIANTS,
        &OTHERS,
        &EduError::CODES,
    ];
    let mut codes: Vec<_> = lists.concat().into_iter().filter(|code| !WRAPPERS.contains(code)).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Takes the code from the error itself.
macro_rules! own_code {
    ($($error:ty),*) => {
        $(impl Code for $error {
            fn code(&self) -> &'static str {
                // The inherent method, which takes precedence.
                <$error>::code(self)
            }
        })*
    };
}

own_code!(RangeError, WindowError, PlanError, RegisterError, PinError, ReleaseError, MapError, UnmapError, EduError);

impl Code for Errno {
    fn code(&self) -> &'static str {
        ERRNO
    }
}

impl Code for AttachError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }

    fn is_obstacle(&self) -> bool {
        matches!(self, Self::Obstacle(_) | Self::NoPlatform | Self::NoV2 | Self::Version { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_iommu::addr::{Iova, IovaRange};

    #[test]
    fn the_innermost_error_names_it() {
        let asked = IovaRange::new(Iova(0), 4096).unwrap();
        let error = MapError::NoWindow { asked, why: PlanError::PastEnd { asked, window: asked } };
        assert_eq!(error.code(), "past-end");
        assert_eq!(AttachError::NoV2.code(), "no-v2");
    }

    #[test]
    fn wrappers_are_no_codes() {
        let codes = all();
        assert!(codes.contains(&"past-end") && codes.contains(&"one-group") && codes.contains(&"mismatch"));
        assert!(WRAPPERS.iter().all(|wrapper| !codes.contains(wrapper)));
    }
}
