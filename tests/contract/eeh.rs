//! EEH_PE_OP, which address spaces do not use.

use crate::fixture::{Fixture, K4, K64, iova};
use crate::raw::{Outcome, Raw};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;
use spapr_iommu::uapi::eeh::{PeErr, PeOp, op, state};
use spapr_iommu::uapi::spapr::{TCE_IOMMU, TCE_V2_IOMMU};

/// Argument of an operation that needs only its number.
fn short(op: u32) -> PeOp {
    PeOp { argsz: 12, op, ..Default::default() }
}

fn call(raw: &Raw<'_>, args: PeOp) -> Outcome {
    raw.call(Call::EehPeOp(args))
}

/// Attaching, mapping and teardown do not need it.
fn library_does_without(fixture: &Fixture) {
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), Permission::ReadWrite).unwrap();
    library.space.unmap(iova(0, K4)).unwrap();
    library.space.detach(fixture.groups[0].0).unwrap();
    let calls = library.calls();
    assert!(calls.contains(&"VFIO_IOMMU_MAP_DMA") && !calls.contains(&"VFIO_EEH_PE_OP"), "{calls:?}");
}

/// Emulated devices have no PE there, which is checked before the argument.
pub(crate) fn eeh_gives_enodev_without_a_pe_on_pseries(fixture: &Fixture) {
    for kind in [TCE_IOMMU, TCE_V2_IOMMU] {
        let raw = fixture.container(kind, &[0]);
        for args in (0..=10).map(short).chain([PeOp::default(), PeOp { flags: 1, ..short(4) }]) {
            assert_eq!(call(&raw, args), Err(Errno::ENODEV), "{args:?}");
        }
    }
    library_does_without(fixture);
}

/// v1 or v2, with nothing enabled, registered or mapped.
pub(crate) fn eeh_operations_give_0_on_a_sound_pe_on_powernv(fixture: &Fixture) {
    let show = |raw: Raw<'_>| {
        for op in [op::DISABLE, op::ENABLE, op::UNFREEZE_IO, op::UNFREEZE_DMA, op::GET_STATE, op::CONFIGURE] {
            assert_eq!(call(&raw, short(op)), Ok(0), "{op}");
        }
        for reset in [op::RESET_HOT, op::RESET_FUNDAMENTAL] {
            for op in [reset, op::GET_STATE, op::RESET_DEACTIVATE, op::GET_STATE] {
                assert_eq!(call(&raw, short(op)), Ok(0), "{op} after {reset}");
            }
        }
    };
    show(fixture.v1());
    show(fixture.v2());
    assert_eq!(fixture.locked(), 0);
    library_does_without(fixture);
}

pub(crate) fn eeh_checks_its_argument_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let state = short(op::GET_STATE);
    let wrong = [PeOp { argsz: 11, ..state }, PeOp { flags: 1, ..state }, short(10), short(u32::MAX)];
    for args in wrong {
        assert_eq!(call(&raw, args), Err(Errno::EINVAL), "{args:?}");
    }
    assert_eq!(call(&raw, PeOp { argsz: 40, ..state }), Ok(0));
    drop(raw);
    library_does_without(fixture);
}

/// The firmware of the emulated machines injects errors of configuration space, not of I/O ports.
pub(crate) fn eeh_injection_checks_function_then_type_then_firmware_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let inject = |argsz, kind, func| {
        let err = PeErr { kind, func, addr: 0, mask: 0 };
        call(&raw, PeOp { argsz, op: op::INJECT_ERR, err, ..Default::default() })
    };
    assert_eq!(inject(39, 0, 2), Err(Errno::EINVAL));
    assert_eq!(inject(40, 0, 20), Err(Errno::EINVAL));
    assert_eq!(inject(40, 2, 20), Err(Errno::EINVAL));
    assert_eq!(inject(40, 2, 2), Err(Errno::ERANGE));
    assert_eq!(inject(40, 0, 2), Err(Errno::EIO));
    drop(raw);
    library_does_without(fixture);
}

/// The newest group that has a PE answers for all.
pub(crate) fn eeh_state_is_a_positive_result_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.attach(1), Ok(0));
    for (place, stopped) in [(0, state::STOPPED), (1, state::STOPPED_DMA)] {
        let group = fixture.groups[place].0;
        fixture.on_model(|model| model.set_eeh_state(group, stopped));
        assert_eq!(call(&raw, short(op::GET_STATE)), Ok(stopped), "{place}");
    }
    assert_eq!(call(&raw, short(op::ENABLE)), Ok(0), "which thaws all groups");
    assert_eq!(call(&raw, short(op::GET_STATE)), Ok(state::NORMAL));
    drop(raw);
    library_does_without(fixture);
}
