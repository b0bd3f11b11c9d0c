//! Every kernel call that the library makes for an example fails once, in each way in which the
//! kernel can fail it: whatever the scenario's outcome, no trap is met, library and kernel agree
//! after each step, and nothing is left.

use super::{examples, presets};
use spapr_iommu::host::Errno::{self, *};
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::model::{Faulty, Model, Recording, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::{Observer, RunState, Scenario};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Returns the names of the calls that a scenario makes.
fn calls(scenario: &Scenario, preset: &str) -> Vec<&'static str> {
    let mut recording = None;
    let machine = Machine::wrapped(preset.parse().unwrap(), scenario.groups(), |model| {
        Arc::clone(recording.insert(Arc::new(Recording::new(model))))
    });
    assert!(scenario.run(&machine, &mut ()).unwrap().passed);
    recording.unwrap().take().iter().map(|record| record.call.name()).collect()
}

/// Joins neighbours that continue each other: bus address, length, user address, permission.
type Runs = Vec<(u64, u64, u64, Permission)>;

fn joined(runs: impl Iterator<Item = (u64, u64, u64, Permission)>) -> Runs {
    let sorted: BTreeMap<_, _> = runs.map(|run| (run.0, run)).collect();
    let mut all = Runs::new();
    for run in sorted.into_values() {
        match all.last_mut() {
            Some(last) if (last.0 + last.1, last.2 + last.1, last.3) == (run.0, run.2, run.3) => last.1 += run.1,
            _ => all.push(run),
        }
    }
    all
}

/// Compares the spaces with the model after each step.
struct Agreement<'a> {
    model: &'a Model,
    /// A failed UNREGISTER leaves a region in the kernel that the library no longer knows.
    regions_known: bool,
    steps: u32,
}

impl Observer for Agreement<'_> {
    fn after_step(&mut self, state: &RunState<'_>) {
        self.steps += 1;
        assert!(!self.model.violations().iter().any(Violation::harms_kernel), "{:?}", self.model.violations());
        let powernv = self.model.platform() == Some(Platform::Powernv);
        let mut mapped = None;
        for (name, space) in state.spaces() {
            let seen = |permission| match permission {
                Permission::Write if powernv => Permission::ReadWrite,
                permission => permission,
            };
            let mappings = space.mappings();
            let recorded =
                joined(mappings.iter().map(|m| (m.iova.start().0, m.iova.len(), m.user.0, seen(m.permission))));
            let groups: Vec<_> = space.status().groups.iter().map(|status| status.group).collect();
            let mut containers = self.model.containers();
            containers.retain(|&fd| self.model.groups_in(fd).iter().any(|group| groups.contains(group)));
            assert_eq!(containers.is_empty(), groups.is_empty());
            for container in containers {
                let tables = self.model.tables(container);
                let entries = tables.iter().flat_map(|table| &table.entries);
                let entries = joined(entries.map(|e| (e.iova.start().0, e.iova.len(), e.user.0, e.permission)));
                assert_eq!(entries, recorded, "tables of space {name}");
            }
            let (bytes, regions) = mapped.unwrap_or((0, space.registry().regions()));
            mapped = Some((bytes + space.mapped().1, regions));
        }
        let Some((bytes, regions)) = mapped else { return };
        assert_eq!(regions.iter().map(|region| region.mapped).sum::<u64>(), bytes, "bytes mapped in regions");
        let held = regions.iter().filter(|region| region.containers > 0);
        let recorded: Vec<_> = held.map(|region| (region.range, region.containers as u64)).collect();
        let mut kernel: Vec<_> = self.model.regions().iter().map(|region| (region.range, region.used)).collect();
        kernel.sort_by_key(|(range, _)| *range);
        assert!(kernel == recorded || !self.regions_known, "kernel regions {kernel:?}, recorded {recorded:?}");
    }
}

/// Fails one call of a scenario.
fn fail(name: &str, scenario: &Scenario, preset: &str, (at, call): (usize, &str), result: Result<i32, Errno>) {
    let machine = Machine::wrapped(preset.parse().unwrap(), scenario.groups(), |model| {
        let faulty = Faulty::new(model);
        faulty.arm(at as u32, 1, result);
        Arc::new(faulty)
    });
    let Machine::Model { model, .. } = &machine else { unreachable!("it was made of a model") };
    let model = Arc::clone(model);
    let regions_known = call != "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY";
    let mut agreement = Agreement { model: &model, regions_known, steps: 0 };
    let context = || format!("{name} on {preset}, call {at} ({call}) gives {result:?}");
    let run = || scenario.run(&machine, &mut agreement);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(report)) => assert!(report.end.is_clean(), "{}: {:?}", context(), report.end),
        Ok(Err(error)) => panic!("{}: {error}", context()),
        Err(panic) => {
            eprintln!("{}", context());
            std::panic::resume_unwind(panic);
        }
    }
    assert!(agreement.steps > 0, "{}", context());
}

#[test]
fn any_call_may_fail_in_any_way_and_all_agrees_and_nothing_is_left_behind() {
    let of_one = |(name, scenario): &(String, Scenario)| {
        let mut failed = 0_u32;
        // Raw calls bypass the library.
        if scenario.is_raw() {
            return failed;
        }
        for preset in presets() {
            for call in calls(scenario, &preset).into_iter().enumerate() {
                for result in failures(call.1) {
                    fail(name, scenario, &preset, call, result);
                    failed += 1;
                }
            }
        }
        println!("{name}: {failed} failures");
        failed
    };
    let examples = examples().into_iter().map(|(name, text)| (name, Scenario::parse(&text).unwrap()));
    // Raw steps are not the library's, and stop at the first unexpected answer.
    let examples: Vec<_> = examples.filter(|(_, scenario)| !scenario.is_raw()).collect();
    let failed: u32 = std::thread::scope(|scope| {
        let running: Vec<_> = examples.iter().map(|example| scope.spawn(move || of_one(example))).collect();
        running.into_iter().map(|example| example.join().unwrap()).sum()
    });
    println!("{failed} failures were tried");
    assert!(failed > 10_000, "{failed} failures were tried");
}

/// Answers by call: `drivers/vfio/vfio_iommu_spapr_tce.c` and what it calls, codes of the
/// hypervisor and firmware that pass through as error numbers, and positive results.
pub(crate) fn failures(call: &str) -> Vec<Result<i32, Errno>> {
    let (errnos, positive): (&[Errno], &[i32]) = match call {
        // Of the hypervisor: H_HARDWARE, H_FUNCTION, H_PRIVILEGE, H_PARAMETER,
        // H_NOT_ENOUGH_RESOURCES; H_BUSY and H_LONG_BUSY pass unchanged. ENOMEM, EINVAL, ENODEV and
        // EPERM may also be the pending default window's.
        "VFIO_IOMMU_MAP_DMA" => {
            (&[EPERM, ENOENT, ESRCH, EINTR, ECHRNG, EFAULT, EINVAL, ENXIO, ENOMEM, ENODEV], &[1, 9900])
        }
        "VFIO_IOMMU_UNMAP_DMA" => (&[EPERM, EFAULT, EINVAL, ENXIO, ENOMEM, ENODEV, EINTR, ENOSPC], &[1]),
        // Results of pinning for device and file memory, and the number of pages pinned in a chunk
        // with a hole.
        "VFIO_IOMMU_SPAPR_REGISTER_MEMORY" => (&[EPERM, EFAULT, EINVAL, EBUSY, ENOMEM, EOPNOTSUPP], &[1, 80, 2 << 20]),
        "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY" => (&[EPERM, EFAULT, EINVAL, ENOENT], &[]),
        // Of OPAL: PARAMETER, BUSY, HARDWARE, UNSUPPORTED.
        "VFIO_IOMMU_SPAPR_TCE_CREATE" => (&[ENXIO, EFAULT, EINVAL, ENOSPC, ENOMEM, EPERM, ENODEV, ENOENT, E2BIG], &[1]),
        "VFIO_IOMMU_SPAPR_TCE_REMOVE" => (&[EPERM, ENXIO, EFAULT, EINVAL], &[]),
        "VFIO_IOMMU_SPAPR_TCE_GET_INFO" => (&[EPERM, ENXIO, EFAULT, EINVAL], &[]),
        // Another version, and no such driver.
        "VFIO_GET_API_VERSION" => (&[EINVAL], &[7]),
        "VFIO_CHECK_EXTENSION" => (&[EINVAL], &[0]),
        "VFIO_SET_IOMMU" => (&[EINVAL, ENODEV, EBUSY, EPERM, ENOMEM], &[]),
        "VFIO_GROUP_GET_STATUS" => (&[EFAULT, EINVAL], &[]),
        "VFIO_GROUP_SET_CONTAINER" => (&[EINVAL, EBADF, EBADFD, EPERM, EBUSY, ENODEV, ENOMEM], &[]),
        "VFIO_GROUP_UNSET_CONTAINER" => (&[EINVAL, EBUSY], &[]),
        "VFIO_DEVICE_GET_INFO" | "VFIO_DEVICE_GET_REGION_INFO" => (&[EFAULT, EINVAL, ENODEV], &[]),
        "VFIO_DEVICE_RESET" => (&[EINVAL, EIO, ENOTTY], &[]),
        other => panic!("no failures are known for {other}: write them down here"),
    };
    errnos.iter().map(|&errno| Err(errno)).chain(positive.iter().map(|&n| Ok(n))).collect()
}
