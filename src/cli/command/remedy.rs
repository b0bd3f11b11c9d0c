//! Remedies on the command line. The library's errors name what a program can do.

use crate::NotHere;
use crate::replay::{ReplayError, TraceError};
use crate::scenario::StartError;
use spapr_iommu::guest::PhbError;

/// Returns an addition to the message of an obstacle with that code.
pub(super) fn of_obstacle(code: &str) -> &'static str {
    match code {
        "not-power" => " (`--host model:powernv9`), or run this under `ppc64/run`",
        "no-group" | "not-bound" | "not-viable" => " (`spapr-iommu bind ADDRESS --group`)",
        _ => "",
    }
}

fn of_host(error: &NotHere) -> &'static str {
    match error {
        NotHere::Obstacle(obstacle) => of_obstacle(obstacle.into()),
        NotHere::Groups { .. } => of_obstacle("no-group"),
    }
}

/// Returns an addition to the message of a scenario that cannot start.
pub(super) fn of_start(error: &StartError) -> &'static str {
    match error {
        StartError::NotHere(error) => of_host(error),
        StartError::Memory(_) => "",
    }
}

/// Returns an addition to the message of a trace that cannot be replayed.
pub(super) fn of_replay(error: &ReplayError) -> &'static str {
    match error {
        ReplayError::Memory { .. } | ReplayError::MemorySize { .. } => " (`--memory SIZE`)",
        ReplayError::DefaultWindow { .. } | ReplayError::Bridge(PhbError::Windows { .. }) => {
            " (`--default-window SIZE`)"
        }
        ReplayError::Trace(TraceError::TooMany { .. }) => " (`--max-events N`)",
        ReplayError::NotHere(error) => of_host(error),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_iommu::Group;
    use spapr_iommu::host::Obstacle;

    #[test]
    fn the_codes_are_those_of_obstacles() {
        let device = "0000:00:01.0".to_owned();
        for obstacle in [
            Obstacle::NotPower { arch: "x86_64".into() },
            Obstacle::NoGroup { group: Group(1), device: None, present: Vec::new() },
            Obstacle::NotBound { device: device.clone() },
            Obstacle::NotViable { group: Group(1), device, driver: "nvme".into() },
        ] {
            assert_ne!(of_obstacle((&obstacle).into()), "", "{obstacle}");
            assert!(!obstacle.to_string().contains("--"), "{obstacle}");
        }
    }
}
