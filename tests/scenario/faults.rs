//! Every kernel call of every example fails once, in each way the kernel has for it: whatever the scenario comes to then,
//! no trap is met, and nothing is left behind.

use super::examples;
use spapr_iommu::host::Errno::{self, EFAULT, EINTR, EINVAL, ENODEV, ENOMEM, ENXIO, EPERM};
use spapr_iommu::host::faulty::Faulty;
use spapr_iommu::host::recording::Recording;
use spapr_iommu::scenario::{Machine, Scenario};
use std::sync::Arc;

/// What the kernel can answer instead of success.
fn failures(call: &str) -> &'static [Result<i32, Errno>] {
    match call {
        "VFIO_IOMMU_MAP_DMA" => &[Err(ENOMEM), Err(EINTR), Err(ENXIO), Ok(1)],
        "VFIO_IOMMU_UNMAP_DMA" => &[Err(ENOMEM), Err(ENXIO), Ok(1)],
        "VFIO_IOMMU_SPAPR_REGISTER_MEMORY" => &[Err(ENOMEM), Err(EFAULT), Err(EINVAL), Ok(80)],
        "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY" => &[Err(EPERM)],
        "VFIO_IOMMU_SPAPR_TCE_CREATE" => &[Err(ENOMEM), Err(EINVAL), Err(ENODEV)],
        "VFIO_IOMMU_SPAPR_TCE_REMOVE" => &[Err(EINVAL)],
        _ => &[Err(EPERM)],
    }
}

/// The names of the calls a scenario makes.
fn calls(scenario: &Scenario, preset: &str) -> Vec<&'static str> {
    let mut recording = None;
    let machine = Machine::wrapped(preset.parse().unwrap(), scenario.groups(), |model| {
        Arc::clone(recording.insert(Arc::new(Recording::new(model))))
    });
    assert!(scenario.run(&machine, &mut ()).unwrap().passed);
    recording.unwrap().take().iter().map(|record| record.call.name()).collect()
}

#[test]
fn any_call_may_fail_and_nothing_is_left_behind() {
    let mut failed = 0;
    for (name, text) in examples() {
        let scenario = Scenario::parse(&text).unwrap();
        for preset in ["powernv8-4k", "powernv9-64k", "pseries-4k", "pseries-64k-7.2"] {
            for (at, call) in calls(&scenario, preset).into_iter().enumerate() {
                for &result in failures(call) {
                    let machine = Machine::wrapped(preset.parse().unwrap(), scenario.groups(), |model| {
                        let faulty = Faulty::new(model);
                        faulty.arm(at as u32, 1, result);
                        Arc::new(faulty)
                    });
                    let Ok(report) = scenario.run(&machine, &mut ()) else { continue };
                    assert!(
                        report.end.is_clean(),
                        "{name} on {preset}, call {at} ({call}) gives {result:?}: {:?}",
                        report.end
                    );
                    failed += 1;
                }
            }
        }
    }
    assert!(failed > 1000, "{failed} failures were tried");
}
