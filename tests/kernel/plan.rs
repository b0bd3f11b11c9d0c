//! A plan for the running kernel matches what the kernel charges and which calls are made.

use crate::{RAM, groups, process};
use libtest_mimic::Failed;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Recording;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::WindowRequest;
use spapr_iommu_cli::plan::{Estimate, PlanHost, Wanted, plan};
use spapr_iommu_tests::machine::RealLimit;
use std::sync::Arc;

/// Carries out plans for one device and two, under exactly the limit that was planned.
pub(crate) fn a_plan_is_what_the_kernel_charges() -> Result<(), Failed> {
    for devices in [vec![64], vec![64, 64], vec![64, 32], vec![32]] {
        let mut wanted = Wanted::new(RAM);
        wanted.devices = devices;
        // A rounded length, for a window larger than the memory.
        wanted.max_memory = 3 << 30;
        let document = plan(&PlanHost::running()?, &wanted)?;
        let estimate = document.chosen.ok_or_else(|| format!("{:?}", document.refused))?;
        carry_out(&wanted, &estimate)?;
    }
    Ok(())
}

fn carry_out(wanted: &Wanted, planned: &Estimate) -> Result<(), Failed> {
    let vfio = Arc::new(Vfio::new());
    let groups = groups(&vfio)?;
    let host = Arc::new(Recording::new(Arc::clone(&vfio)));
    let memory = host.share(RAM, host.page_shift())?;
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    let before = process::locked()?;
    for group in groups.into_iter().take(wanted.devices.len()) {
        space.attach(group)?;
    }
    // Memory that is plugged in later is in the limit, but not in this test.
    let limit = (planned.locked.limit_kib << 10) - (wanted.max_memory - wanted.memory);
    let limited = RealLimit::new(before + limit)?;
    let lease = registry.register(&memory)?;
    for window in planned.windows.iter().filter(|window| window.mapped != 0) {
        let start = match window.name {
            "default" => Iova(window.start.ok_or("a default window has a start")?),
            _ => space.create_window(&WindowRequest::bytes(wanted.max_memory))?.range.start(),
        };
        space.map(IovaRange::new(start, window.mapped)?, memory.range().start(), Permission::ReadWrite)?;
    }
    let locked = process::locked()? - before;
    drop(limited);
    drop((space, lease, registry));
    let calls = host.take().len() as u64;
    if (locked, calls) != (planned.locked.start, planned.ioctls.all) {
        return Err(format!("{locked} bytes locked by {calls} ioctls, planned: {planned:?}").into());
    }
    match process::locked()? {
        after if after == before => Ok(()),
        after => Err(format!("{before} bytes locked before, {after} after").into()),
    }
}
