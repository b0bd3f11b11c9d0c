//! Checks that library, kernel and twin agree.

use super::act::{Fixture, SPACES};
use super::twin::{Twin, joined};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::{Fd, Memory, Platform};
use spapr_iommu::model::TableView;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::AddressSpace;

/// Returns the containers of a space.
fn containers(fixture: &Fixture, space: &AddressSpace) -> Vec<Fd> {
    let groups: Vec<_> = space.status().groups.iter().map(|status| status.group).collect();
    let mut containers = fixture.model.containers();
    containers.retain(|&fd| fixture.model.groups_in(fd).iter().any(|group| groups.contains(group)));
    containers
}

/// Checks that library and kernel agree, and that no trap was met.
pub fn stands(fixture: &Fixture) {
    let model = &fixture.model;
    assert_eq!((model.violations(), model.leaks()), (vec![], vec![]));
    let powernv = fixture.setup.preset.platform() == Platform::Powernv;
    let seen = |permission| match permission {
        Permission::Write if powernv => Permission::ReadWrite,
        permission => permission,
    };
    let (mut bytes, mut open) = (0, 0);
    for space in (0..SPACES).map(|space| fixture.space(space)) {
        let mappings = space.mappings();
        let recorded = joined(mappings.iter().map(|m| (m.iova.start().0, m.iova.len(), m.user.0, seen(m.permission))));
        let sum: u64 = mappings.iter().map(|mapping| mapping.iova.len()).sum();
        assert_eq!(space.mapped(), (mappings.len(), sum));
        bytes += sum;
        let status = space.status();
        let of = containers(fixture, &space);
        let known = status.groups.iter().map(|group| group.container + 1).max().unwrap_or(0);
        assert_eq!(of.len(), known, "containers of {:?}", status.groups);
        open += of.len();
        for container in of {
            let tables = model.tables(container);
            // A live default window may still be pending in the kernel of a container that joined,
            // until it is needed.
            for TableView { range, page, .. } in &tables {
                let known = status.windows.iter().any(|(window, _)| (window.range, window.page) == (*range, *page));
                assert!(known, "{container} has a window at {range}, the space {:?}", status.windows);
            }
            let entries = tables.iter().flat_map(|table| &table.entries);
            let entries = joined(entries.map(|e| (e.iova.start().0, e.iova.len(), e.user.0, e.permission)));
            assert_eq!(entries, recorded, "the tables of {container}");
        }
    }
    assert_eq!(model.containers().len(), open, "open containers");
    regions_agree(fixture, bytes);
}

/// Checks that the registry's regions are the kernel's, and that all of them are needed.
fn regions_agree(fixture: &Fixture, bytes: u64) {
    let regions = fixture.registry.regions();
    assert_eq!(regions.iter().map(|region| region.mapped).sum::<u64>(), bytes, "bytes mapped in regions");
    assert!(regions.iter().all(|region| region.leases > 0 || region.mapped > 0), "{regions:?}");
    let held = regions.iter().filter(|region| region.containers > 0);
    let recorded: Vec<_> = held.map(|region| (region.range, region.containers as u64)).collect();
    let mut kernel: Vec<_> = fixture.model.regions().iter().map(|region| (region.range, region.used)).collect();
    kernel.sort_by_key(|(range, _)| *range);
    assert_eq!(kernel, recorded, "regions of the kernel");
}

/// Also checks that the twin agrees, and that devices see what the process sees.
pub fn agrees(fixture: &Fixture, twin: &Twin) {
    stands(fixture);
    for (space, expected) in (0..SPACES).map(|space| (fixture.space(space), &twin.spaces[space])) {
        let mappings = space.mappings();
        let recorded = joined(mappings.iter().map(|m| (m.iova.start().0, m.iova.len(), m.user.0, m.permission)));
        assert_eq!(recorded, expected.runs.joined(), "what is mapped");
        let groups: Vec<_> = expected.groups.keys().copied().map(Group).collect();
        let mut attached: Vec<_> = space.status().groups.iter().map(|status| status.group).collect();
        attached.sort_unstable();
        assert_eq!(attached, groups);
        for (iova, len, user, permission) in expected.runs.joined() {
            for offset in [0, len / 2, len - 1] {
                let found = space.translate(Iova(iova + offset)).map(|to| (to.user.0, to.permission));
                assert_eq!(found, Some((user + offset, permission)), "{:#x}", iova + offset);
            }
        }
        let whole = IovaRange::new(Iova(0), u64::MAX).unwrap();
        let gaps: u64 = space.gaps(whole).iter().map(|gap| gap.len()).sum();
        assert_eq!(gaps, u64::MAX - expected.runs.bytes());
        devices_see(fixture, twin, &space, expected);
    }
    let covered = |lease: &UserRange| {
        let regions = fixture.registry.regions();
        let inside: u64 =
            regions.iter().filter_map(|region| region.range.intersection(lease)).map(|part| part.len()).sum();
        inside == lease.len()
    };
    assert!(twin.leases.iter().all(covered), "a lease without a region under it");
}

/// Checks that devices read what the process reads, where the user left the memory unchanged.
fn devices_see(fixture: &Fixture, twin: &Twin, space: &AddressSpace, expected: &super::twin::Space) {
    for container in containers(fixture, space) {
        for run in expected.runs.0.iter().filter(|run| !run.stale && run.permission != Permission::Write) {
            for offset in (0..run.len).step_by(super::step::PAGE as usize).take(8) {
                let user = UserAddr(run.user + offset);
                let (mut device, mut process) = ([0; 8], [0; 8]);
                let breached = twin.breached.iter().any(|range| range.contains(user));
                if breached || fixture.model.read(user, &mut process).is_err() {
                    continue;
                }
                fixture.model.device_read(container, Iova(run.iova + offset), &mut device);
                assert_eq!(device, process, "a device reads at {:#x} what {user} holds", run.iova + offset);
            }
        }
    }
}
