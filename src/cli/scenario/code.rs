//! Stable names of errors: the code of the innermost typed error.

use spapr_iommu::addr::RangeError;
use spapr_iommu::host::calls::CallError;
use spapr_iommu::host::{Errno, MemlockError, Obstacle};
use spapr_iommu::registry::{PinError, RegisterError, ReleaseError};
use spapr_iommu::space::{AttachError, MapError, NotRestored, UnmapError, WindowError};
use spapr_iommu::window::PlanError;
use strum::VariantNames;

/// Code of a failed comparison.
pub(super) const MISMATCH: &str = "mismatch";
/// Code of a name that no earlier step defined.
pub(super) const UNKNOWN_NAME: &str = "unknown-name";
/// Code of a group without an `edu` device.
pub(super) const NO_EDU: &str = "no-edu";
/// Code of a device that did not finish, or is gone.
pub(super) const DMA_FAILED: &str = "dma-failed";

const STILL_MAPPED: &str = "still-mapped";
const NOT_RESTORED: &str = "not-restored";
const CALL: &str = "call-failed";
const ERRNO: &str = "errno";
const OWN: [&str; 8] = [MISMATCH, UNKNOWN_NAME, NO_EDU, DMA_FAILED, STILL_MAPPED, NOT_RESTORED, CALL, ERRNO];
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
        &OWN,
    ];
    let mut codes: Vec<_> = lists.concat().into_iter().filter(|code| !WRAPPERS.contains(code)).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

impl Code for RangeError {
    fn code(&self) -> &'static str {
        self.into()
    }
}

impl Code for CallError {
    fn code(&self) -> &'static str {
        CALL
    }
}

impl Code for Errno {
    fn code(&self) -> &'static str {
        ERRNO
    }
}

impl Code for NotRestored {
    fn code(&self) -> &'static str {
        NOT_RESTORED
    }
}

impl Code for ReleaseError {
    fn code(&self) -> &'static str {
        STILL_MAPPED
    }
}

impl Code for MemlockError {
    fn code(&self) -> &'static str {
        self.into()
    }
}

impl Code for PlanError {
    fn code(&self) -> &'static str {
        match self {
            Self::Memlock(error) => error.code(),
            other => other.into(),
        }
    }
}

impl Code for WindowError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused(why) => why.code(),
            Self::Call { error, .. } => error.code(),
            other => other.into(),
        }
    }
}

impl Code for RegisterError {
    fn code(&self) -> &'static str {
        match self {
            Self::Memlock(error) => error.code(),
            Self::Call(error) => error.code(),
            other => other.into(),
        }
    }
}

impl Code for PinError {
    fn code(&self) -> &'static str {
        match self {
            Self::Register(error) => error.code(),
            other => other.into(),
        }
    }
}

impl Code for MapError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoWindow { why, .. } => why.code(),
            Self::Memory(error) => error.code(),
            Self::Window(error) => error.code(),
            Self::Refused(error) => error.code(),
            Self::NotRestored(error) => error.code(),
            other => other.into(),
        }
    }
}

impl Code for UnmapError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.code(),
            Self::NotRestored(error) => error.code(),
            other => other.into(),
        }
    }
}

impl Code for AttachError {
    fn code(&self) -> &'static str {
        match self {
            Self::Obstacle(obstacle) => obstacle.into(),
            Self::Windows { why, .. } => why.code(),
            Self::Register(error) => error.code(),
            Self::Call(error) => error.code(),
            Self::NotRestored(error) => error.code(),
            other => other.into(),
        }
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
