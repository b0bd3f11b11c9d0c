//! Plans an address space before it exists: windows, locked memory and calls, from what is wanted
//! and the facts of a host. Nothing on the host changes.
//!
//! ```
//! use spapr_iommu_cli::plan::{PlanHost, Wanted, plan};
//!
//! let host = PlanHost::model("powernv9-64k".parse()?);
//! let plan = plan(&host, &Wanted::new(8 << 30))?;
//! // The memory, the 2 GiB default window with pages of 4 KiB, and 8 GiB with pages of 64 KiB.
//! assert_eq!(plan.chosen.as_ref().unwrap().locked.registered, 8 << 30);
//! assert_eq!(plan.chosen.as_ref().unwrap().locked.tables, (8 << 20) + (2 << 20));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod estimate;
mod host;
mod report;
#[cfg(test)]
mod tests;
mod wanted;

pub use host::{HostError, PlanHost};
pub use report::{
    Alternative, Estimate, Hypercalls, Ioctls, Locked, Note, NoteLevel, PlanDocument, Refused, Teardown, WantedRow,
    WindowRow,
};
pub use wanted::{Wanted, WantedError};

use estimate::Choice;

/// Plans for what is wanted, and its alternatives.
pub fn plan(host: &PlanHost, wanted: &Wanted) -> Result<PlanDocument, WantedError> {
    wanted.check(host)?;
    let devices = u32::try_from(wanted.devices.len()).unwrap_or(u32::MAX);
    let usual = Choice { containers: devices, page: None, drop_default: false };
    let chosen = estimate::estimate(host, wanted, usual);
    let mut alternatives: Vec<_> = estimate::choices(host, wanted, usual)
        .into_iter()
        .map(|(name, choice)| Alternative::new(name, estimate::estimate(host, wanted, choice)))
        .collect();
    if let Ok(chosen) = &chosen {
        let same = |other: &Alternative| other.estimate.as_ref().is_some_and(|other| other.same_windows(chosen));
        if let Some(there) = alternatives.iter_mut().find(|other| same(other)) {
            there.chosen = true;
        }
    }
    let notes = report::notes(host, wanted, chosen.as_ref().ok());
    let (chosen, refused) = match chosen {
        Ok(estimate) => (Some(estimate), None),
        Err(error) => (None, Some(Refused::new(&error))),
    };
    Ok(PlanDocument {
        host: host.note.clone(),
        platform: host.facts.platform.to_string(),
        host_page: host.facts.host_page.bytes(),
        wanted: WantedRow::new(wanted, host),
        chosen,
        refused,
        alternatives,
        notes,
    })
}
