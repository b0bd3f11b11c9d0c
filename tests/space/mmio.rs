//! powernv's slots, and the bus addresses that its host bridge decodes as MMIO.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::{Errno, Host, Memory};
use spapr_iommu::model::{Faulty, Model, Violation};
use spapr_iommu::registry::Registry;
use spapr_iommu::space::{AddressSpace, MapError, WindowError};
use spapr_iommu::window::{PlanError, Reason, Step, WindowRequest};
use spapr_iommu_tests::by_address;
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const POWERNV: [&str; 4] = ["powernv8-64k", "powernv9-64k", "powernv9-4k", "powernv10-4k-7.2"];

fn refusal(result: Result<impl core::fmt::Debug, WindowError>) -> PlanError {
    match result.unwrap_err() {
        WindowError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn a_window_without_the_default_one_starts_at_2_to_the_59() {
    for preset in POWERNV {
        let fixture = Fixture::new(preset);
        fixture.space.drop_default_window().unwrap();
        let plan = fixture.space.plan(&WindowRequest::bytes(8 * G)).unwrap();
        assert!(matches!(plan.steps[..], [Step::HoldSlot { .. }, Step::Create { .. }, Step::FreeSlot]), "{plan:?}");
        assert!(plan.reasons.contains(&Reason::HoldsSlot) && plan.peak_bytes > plan.locked_bytes, "{plan:?}");
        let window = fixture.space.create_window(&WindowRequest::bytes(8 * G)).unwrap();
        assert_eq!(window.range, iova(BIG, 8 * G), "{preset}");
        assert_eq!(fixture.model.locked(), plan.locked_bytes, "what held the slot is gone");
        // The remaining window starts at 0 and ends below the MMIO.
        assert!(matches!(refusal(fixture.space.plan(&WindowRequest::bytes(4 * G))), PlanError::BelowMmio { .. }));
        assert_eq!(fixture.space.create_window(&WindowRequest::bytes(2 * G)).unwrap().range, iova(0, 2 * G));
        assert!(matches!(refusal(fixture.space.plan(&WindowRequest::bytes(G))), PlanError::NoFreeWindow { .. }));
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_group_that_joins_gets_the_window_at_2_to_the_59_without_the_default_one() {
    for preset in POWERNV {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.drop_default_window().unwrap();
        fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        let locked = fixture.model.locked();
        fixture.space.attach(Group(1)).unwrap();
        assert_eq!(fixture.model.locked() - locked, locked - M, "a table more, and no default window");
        fixture.agrees();
        fixture.space.detach(Group(0)).unwrap();
        fixture.agrees();
        fixture.space.unmap(iova(BIG, M)).unwrap();
        drop(lease);
        fixture.ends_clean();
    }
}

#[test]
fn a_window_on_demand_grows_where_it_is() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.drop_default_window().unwrap();
    for end in [M, 4 * G, 64 * G] {
        fixture.space.map(iova(BIG + end - M, M), at(ram, 0), RW).unwrap();
        fixture.agrees();
        fixture.space.unmap(iova(BIG + end - M, M)).unwrap();
    }
    // A window needed at 0 gets the other slot, in the same space.
    fixture.space.map(iova(M, M), at(ram, 0), RW).unwrap();
    assert_eq!(fixture.space.status().windows.len(), 2);
    fixture.agrees();
}

#[test]
fn nothing_is_mapped_over_the_mmio_of_a_window_at_0() {
    for preset in POWERNV {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.drop_default_window().unwrap();
        let over = |start, len| {
            let error = fixture.space.map(iova(start, len), at(ram, 0), RW).unwrap_err();
            assert!(matches!(error, MapError::NoWindow { why: PlanError::OverMmio { .. }, .. }), "{preset}: {error}");
            assert!(error.to_string().contains("MMIO"), "{error}");
        };
        over(2 * G, M);
        fixture.space.map(iova(5 * G, M), at(ram, 0), RW).unwrap();
        assert_eq!(fixture.space.status().windows[0].0.range.start(), Iova(0));
        [2 * G, 4 * G - M, 2 * G - M / 2, 4 * G - M / 2, 3 * G].iter().for_each(|start| over(*start, M));
        let asked = fixture.space.reserve(iova(3 * G, M));
        assert!(matches!(refusal(asked), PlanError::OverMmio { .. }));
        fixture.space.map(iova(2 * G - M, M), at(ram, 0), RW).unwrap();
        fixture.space.map(iova(4 * G, M), at(ram, 0), RW).unwrap();
        fixture.agrees();
        let mut seen = [0; 4];
        fixture.model.write(at(ram, 0), &[1, 2, 3, 4]).unwrap();
        fixture.model.device_read(fixture.model.containers()[0], Iova(2 * G - M), &mut seen);
        assert_eq!((seen, fixture.model.violations()), ([1, 2, 3, 4], vec![]));
        fixture.space.unmap(iova(0, 8 * G)).unwrap();
        drop(lease);
        fixture.ends_clean();
    }
}

#[test]
fn dma_over_the_mmio_does_not_reach_memory_and_is_a_violation() {
    use spapr_iommu::host::{Node, calls};
    use spapr_iommu::permission::Permission;
    let model = Model::new("powernv9-64k".parse().unwrap());
    let (container, group) = (model.open(Node::Container).unwrap(), model.open(Node::Group(Group(0))).unwrap());
    calls::group_set_container(&model, group, container).unwrap();
    calls::set_iommu(&model, container, spapr_iommu::uapi::spapr::TCE_V2_IOMMU).unwrap();
    let memory = model.allocate(M, PageShift::P64K).unwrap();
    model.write(memory.start(), &[7; 8]).unwrap();
    by_address::register_memory(&model, container, memory).unwrap();
    calls::tce_remove(&model, container, Iova(0)).unwrap();
    assert_eq!(calls::tce_create(&model, container, PageShift::P64K, 8 * G, 1), Ok(Iova(0)));
    for (start, reached) in [(2 * G - M, true), (2 * G, false), (4 * G - M, false), (4 * G, true)] {
        by_address::map_dma(&model, container, memory.start(), iova(start, M), Permission::ReadWrite).unwrap();
        let mut seen = [0xee; 8];
        model.device_read(container, Iova(start), &mut seen);
        assert_eq!(seen, if reached { [7; 8] } else { [0; 8] }, "{start:#x}");
    }
    let over = |at| Violation::DmaOverMmio { at: Iova(at) };
    assert_eq!(model.violations(), [over(2 * G), over(4 * G - M)]);
}

/// Whichever of its calls the kernel fails, once or twice in a row, the next attempt creates the
/// requested window.
#[test]
fn a_slot_that_could_not_be_held_or_freed_does_no_harm() {
    for failures in [1, 2] {
        for call in 0..4 {
            let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
            let host = Arc::new(Faulty::new(Arc::clone(&model)));
            let registry = Registry::new(host.clone());
            let space = AddressSpace::new(&registry);
            space.attach(Group(0)).unwrap();
            space.drop_default_window().unwrap();
            host.arm(call, failures, Err(Errno::EINTR));
            let first = space.create_window(&WindowRequest::bytes(G).page(PageShift::P64K));
            host.disarm();
            if first.is_err() {
                assert!(space.status().windows.is_empty(), "{call} {failures}");
            }
            // A refused request is not repeated; everything else is as if nothing had happened.
            match (&first, space.create_window(&WindowRequest::bytes(2 * G))) {
                (Ok(window), _) => assert_eq!(window.range.start(), Iova(BIG)),
                (Err(_), Ok(window)) => assert_eq!(window.range.start(), Iova(BIG), "{call} {failures}"),
                (Err(_), Err(WindowError::Refused(PlanError::RefusedBefore { .. }))) => assert!(call < 2),
                (Err(_), Err(error)) => panic!("{call} {failures}: {error}"),
            }
            let tables = model.tables(model.containers()[0]).len();
            assert_eq!(tables, space.status().windows.len(), "{call} {failures}");
            drop(space);
            assert_eq!((model.locked(), model.violations()), (0, vec![]));
        }
    }
}
