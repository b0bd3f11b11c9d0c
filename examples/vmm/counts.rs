//! Counts hypercalls and maps, by phase of the guest's work.

use ppc64_guest::PHASE_MAPS;
use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};
use std::collections::BTreeMap;
use std::fmt;

/// Counts of one kind of hypercall in one phase.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    /// Number of calls that reached the monitor.
    reached: u64,
    /// Number of MAP ioctls they made, for each device.
    maps: usize,
    /// Largest number for one call.
    most: usize,
}

/// TCE hypercalls that reached the monitor, by phase and number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    phase: u64,
    calls: BTreeMap<(u64, u64), Calls>,
}

const NAMES: [(u64, &str); 4] = [
    (H_GET_TCE, "H_GET_TCE"),
    (H_PUT_TCE, "H_PUT_TCE"),
    (H_STUFF_TCE, "H_STUFF_TCE"),
    (H_PUT_TCE_INDIRECT, "H_PUT_TCE_INDIRECT"),
];

const PHASES: [&str; 3] = ["set-up", "maps", "hostile"];

impl Counts {
    /// Starts a phase, which the guest announced.
    pub(crate) fn enter(&mut self, phase: u64) {
        self.phase = phase;
    }

    /// Counts a hypercall that made `maps` MAP ioctls for each device.
    pub(crate) fn add(&mut self, number: u64, maps: usize) {
        if !NAMES.iter().any(|(known, _)| *known == number) {
            return;
        }
        let calls = self.calls.entry((self.phase, number)).or_default();
        calls.reached += 1;
        calls.maps += maps;
        calls.most = calls.most.max(maps);
    }

    /// Returns what is wrong: with acceleration nothing may reach the monitor while the guest maps;
    /// without it, an indirect call for contiguous memory must be one MAP.
    pub(crate) fn wrong(&self, accelerated: bool) -> Vec<String> {
        let maps = self.calls.iter().filter(|((phase, _), _)| *phase == PHASE_MAPS);
        let reached: u64 = maps.clone().map(|(_, calls)| calls.reached).sum();
        let indirect = self.calls.get(&(PHASE_MAPS, H_PUT_TCE_INDIRECT)).copied().unwrap_or_default();
        match accelerated {
            true if reached != 0 => {
                vec![format!("{reached} TCE hypercalls reached the monitor while the guest mapped")]
            }
            false if indirect.reached == 0 => vec!["no H_PUT_TCE_INDIRECT reached the monitor".into()],
            false if indirect.most != 1 => vec![format!("a H_PUT_TCE_INDIRECT became {} MAP ioctls", indirect.most)],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "TCE hypercalls that reached the monitor:")?;
        for ((phase, number), calls) in &self.calls {
            let phase = usize::try_from(*phase).ok().and_then(|phase| PHASES.get(phase)).unwrap_or(&"?");
            let name = NAMES.iter().find(|(known, _)| known == number).map_or("?", |(_, name)| name);
            let Calls { reached, maps, most } = calls;
            writeln!(f, "{phase}: {reached} {name}, {maps} MAP ioctls a device, {most} at most for one")?;
        }
        Ok(())
    }
}
