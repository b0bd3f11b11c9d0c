//! Calls other than those of v2: the VFIO core, GET_INFO, EEH, v1 containers.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node};
use spapr_iommu::model::MemoryKind;
use spapr_iommu::uapi::{eeh, spapr, vfio};
use spapr_iommu_tests::by_address::RunCall;

fn info(b: &Fixture, argsz: u32) -> Result<spapr::TceInfo, Errno> {
    let mut call = Call::TceGetInfo(spapr::TceInfo { argsz, ..Default::default() });
    b.model.run_call(b.container, &mut call)?;
    match call {
        Call::TceGetInfo(info) => Ok(info),
        _ => unreachable!(),
    }
}

#[test]
fn the_driver_says_yes_to_both_of_its_types() {
    let b = fixture("pseries");
    let answers = [1, 2, 3, 5, 7, 99].map(|n| b.call(Call::CheckExtension(n)));
    assert_eq!(answers, [OK, Ok(1), OK, OK, Ok(1), OK]);
    assert_eq!(fixture("powernv9").call(Call::CheckExtension(eeh::EXTENSION)), Ok(1));
    assert_eq!(b.call(Call::GetApiVersion), OK);
}

#[test]
fn set_iommu_wants_a_group_and_a_known_type_once() {
    let model = model("powernv9");
    let container = model.open(Node::Container).unwrap();
    assert_eq!(model.run_call(container, &mut Call::SetIommu(7)), Err(Errno::EINVAL));
    let group = model.open(Node::Group(Group(0))).unwrap();
    assert_eq!(model.run_call(group, &mut Call::GroupSetContainer(container)), OK);
    assert_eq!(model.run_call(container, &mut Call::Enable), Err(Errno::EINVAL));
    assert_eq!(model.run_call(container, &mut Call::SetIommu(1)), Err(Errno::ENODEV));
    assert_eq!(model.run_call(container, &mut Call::SetIommu(7)), OK);
    assert_eq!(model.run_call(container, &mut Call::SetIommu(7)), Err(Errno::EINVAL));
    assert_eq!(model.run_call(container, &mut Call::GroupUnsetContainer), Err(Errno::ENOTTY));
}

#[test]
fn eeh_is_an_extension_where_there_is_some_and_never_a_type() {
    for (preset, expected) in [("powernv8", Errno::EINVAL), ("pseries", Errno::ENODEV)] {
        let model = model(preset);
        let (container, group) = (model.open(Node::Container).unwrap(), model.open(Node::Group(Group(0))).unwrap());
        assert_eq!(model.run_call(group, &mut Call::GroupSetContainer(container)), OK);
        assert_eq!(model.run_call(container, &mut Call::SetIommu(eeh::EXTENSION)), Err(expected), "{preset}");
        assert_eq!(model.run_call(container, &mut Call::SetIommu(7)), OK);
    }
}

#[test]
fn an_unbound_container_knows_no_driver_call() {
    let model = model("powernv9");
    let container = model.open(Node::Container).unwrap();
    let call = &mut Call::RegisterMemory(register(0x10000, 0x10000));
    assert_eq!(model.run_call(container, call), Err(Errno::EINVAL));
    assert_eq!(model.run_call(Fd(1000), call), Err(Errno::EBADF));
}

#[test]
fn info_is_the_machines() {
    let cases = [
        ("pseries", 0x4000_0000, 0x121_1000, 2, 1),
        ("pseries-4k", 0x4000_0000, 0x121_1000, 2, 1),
        ("pseries-noddw", 0x4000_0000, 0x1000, u32::MAX, 0),
        ("pseries-1window", 0x4000_0000, 0x121_1000, 1, 1),
        ("pseries-pgsz=0x400010000", 0x4000_0000, 0x1_1000, 2, 1),
        ("powernv8", 0x8000_0000, 0x1101_1000, 2, 5),
        ("powernv9", 0x8000_0000, 0x4021_1000, 2, 5),
        ("powernv10", 0x8000_0000, 0x4021_1000, 2, 5),
    ];
    for (preset, size, pgsizes, max_dynamic_windows_supported, levels) in cases {
        let expected = spapr::TceInfo {
            argsz: 32,
            flags: spapr::INFO_DDW,
            dma32_window_start: 0,
            dma32_window_size: size,
            ddw: spapr::TceDdwInfo { pgsizes, max_dynamic_windows_supported, levels },
        };
        assert_eq!(info(&fixture(preset), 32), Ok(expected), "{preset}");
    }
}

#[test]
fn a_short_info_has_the_flag_without_the_data() {
    let b = fixture("powernv9");
    assert_eq!(info(&b, 15), Err(Errno::EINVAL));
    let short = info(&b, 31).unwrap();
    assert_eq!((short.flags, short.ddw), (spapr::INFO_DDW, Default::default()));
}

#[test]
fn v1_info_has_no_dynamic_windows() {
    let b = Fixture::on(model("powernv9"), &[0], spapr::TCE_IOMMU);
    let info = info(&b, 32).unwrap();
    assert_eq!((info.flags, info.ddw, info.dma32_window_size), (0, Default::default(), 0x8000_0000));
}

#[test]
fn short_arguments_and_flags_are_refused() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    let (vaddr, size) = (memory.start().0, 0x10000);
    let calls = [
        Call::RegisterMemory(spapr::RegisterMemory { argsz: 23, flags: 0, vaddr, size }),
        Call::RegisterMemory(spapr::RegisterMemory { argsz: 24, flags: 1, vaddr, size }),
        Call::UnregisterMemory(spapr::RegisterMemory { argsz: 24, flags: 1, vaddr, size }),
        Call::MapDma(vfio::DmaMap { argsz: 31, flags: RW, vaddr, iova: 0, size }),
        Call::MapDma(vfio::DmaMap { argsz: 32, flags: 4 | RW, vaddr, iova: 0, size }),
        Call::UnmapDma(vfio::DmaUnmap { argsz: 23, flags: 0, iova: 0, size }),
        Call::UnmapDma(vfio::DmaUnmap { argsz: 24, flags: 2, iova: 0, size }),
        Call::TceCreate(spapr::TceCreate { argsz: 39, page_shift: 16, ..Default::default() }),
        Call::TceRemove(spapr::TceRemove { argsz: 15, flags: 0, start_addr: 0 }),
    ];
    for call in calls {
        assert_eq!(b.call(call), Err(Errno::EINVAL), "{call:?}");
    }
    assert_eq!(b.model.tables(b.container), [], "none of them created the default window");
}

#[test]
fn larger_arguments_are_fine() {
    let b = fixture("powernv9");
    let memory = b.memory(0x10000);
    let args = spapr::RegisterMemory { argsz: 4096, flags: 0, vaddr: memory.start().0, size: memory.len() };
    assert_eq!(b.call(Call::RegisterMemory(args)), OK);
}

fn eeh_op(b: &Fixture, op: u32) -> Outcome {
    b.call(Call::EehPeOp(eeh::PeOp { argsz: 40, op, ..Default::default() }))
}

#[test]
fn eeh_is_absent_on_emulated_pseries_before_anything_is_read() {
    let b = fixture("pseries");
    assert_eq!(b.call(Call::EehPeOp(eeh::PeOp::default())), Err(Errno::ENODEV));
}

#[test]
fn eeh_on_powernv_answers_every_operation() {
    let b = fixture("powernv9");
    for op in [0, 1, 2, 3, 4, 8] {
        assert_eq!(eeh_op(&b, op), OK, "{op}");
    }
    assert_eq!(eeh_op(&b, 10), Err(Errno::EINVAL));
    let short = eeh::PeOp { argsz: 12, op: eeh::op::INJECT_ERR, ..Default::default() };
    assert_eq!(b.call(Call::EehPeOp(short)), Err(Errno::EINVAL));
    assert_eq!(b.call(Call::EehPeOp(eeh::PeOp { op: eeh::op::GET_STATE, ..short })), OK);
    assert_eq!(b.call(Call::EehPeOp(eeh::PeOp { argsz: 11, ..short })), Err(Errno::EINVAL));
    let func = eeh::PeErr { func: 20, ..Default::default() };
    assert_eq!(b.call(Call::EehPeOp(eeh::PeOp { argsz: 40, err: func, ..short })), Err(Errno::EINVAL));
}

#[test]
fn a_frozen_pe_is_brought_back_step_by_step() {
    let b = fixture("powernv9");
    b.model.set_eeh_state(Group(0), eeh::state::STOPPED);
    let states =
        [eeh::op::UNFREEZE_IO, eeh::op::UNFREEZE_DMA, eeh::op::RESET_HOT, eeh::op::RESET_DEACTIVATE].map(|op| {
            let before = eeh_op(&b, eeh::op::GET_STATE).unwrap();
            assert_eq!(eeh_op(&b, op), OK);
            before
        });
    // During a requested reset the PE counts as working.
    assert_eq!(states, [eeh::state::STOPPED, eeh::state::STOPPED_DMA, eeh::state::NORMAL, eeh::state::NORMAL]);
    assert_eq!(eeh_op(&b, eeh::op::GET_STATE), OK);
}

#[test]
fn errors_are_injected_as_the_phb_knows_them() {
    let inject = |preset, kind, func| {
        let err = eeh::PeErr { kind, func, ..Default::default() };
        fixture(preset).call(Call::EehPeOp(eeh::PeOp { argsz: 40, op: eeh::op::INJECT_ERR, err, flags: 0 }))
    };
    for (preset, known) in [("powernv8", &[0, 1, 4, 5, 6, 7, 10, 11][..]), ("powernv9", &[4, 5, 10, 11])] {
        for func in 0..20 {
            let expected = if known.contains(&func) { OK } else { Err(Errno::EIO) };
            assert_eq!([inject(preset, 0, func), inject(preset, 1, func)], [expected; 2], "{preset} {func}");
            assert_eq!(inject(preset, 2, func), Err(Errno::ERANGE), "{preset} {func}");
        }
        assert_eq!(inject(preset, 2, 20), Err(Errno::EINVAL));
    }
}

fn v1(preset: &str) -> Fixture {
    Fixture::on(model(preset), &[0], spapr::TCE_IOMMU)
}

#[test]
fn v1_and_v2_do_not_know_each_others_calls() {
    let (one, two) = (v1("powernv9"), fixture("powernv9"));
    assert_eq!([two.call(Call::Enable), two.call(Call::Disable)], [Err(Errno::ENOTTY); 2]);
    let range = one.memory(0x10000);
    assert_eq!([one.register(range), one.unregister(range), one.remove(0)], [Err(Errno::ENOTTY); 3]);
    assert_eq!(one.create(16, 1 << 30, 1), Err(Errno::ENOTTY));
}

#[test]
fn enable_charges_the_whole_window() {
    let b = v1("pseries");
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.call(Call::Enable), OK);
    assert_eq!(b.model.locked(), 1 << 30);
    assert_eq!(b.call(Call::Enable), Err(Errno::EBUSY));
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.model.locked(), 0);
    let poor = Fixture::on(model("powernv9").with_memlock(Some((2 << 30) - 1)), &[0], spapr::TCE_IOMMU);
    assert_eq!(poor.call(Call::Enable), Err(Errno::ENOMEM));
}

#[test]
fn a_v1_container_takes_one_group() {
    let b = v1("powernv9");
    let other = spapr_iommu::host::Host::open(&b.model, spapr_iommu::host::Node::Group(Group(1))).unwrap();
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(b.container)), Err(Errno::EBUSY));
}

#[test]
fn a_v1_map_pins_whatever_is_there_now() {
    let b = v1("powernv9");
    let memory = b.memory(0x40000);
    assert_eq!(b.map(memory.start(), 0, 0x40000), Err(Errno::EPERM));
    b.call(Call::Enable).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x40000), OK);
    b.model.protect(user(memory.start().0 + 0x20000, 0x10000), Protection::Read).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x40000), Err(Errno::EFAULT));
    let left = [(0x20000, 0x20000, memory.start().0 + 0x20000)];
    assert_eq!(b.entries(0), left, "the pages before the bad one were cleared, the others stay");
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.unmap(0, 0x40000), Err(Errno::EPERM));
    assert_eq!(b.entries(0), left, "disabled, but still mapped");
    b.close_all();
    assert_eq!((b.model.locked(), b.violations()), (0, vec![]));
}

#[test]
fn a_v1_map_of_nothing_is_efault() {
    let b = v1("pseries");
    b.call(Call::Enable).unwrap();
    let memory = b.memory(0x10000);
    b.model.declare(memory, MemoryKind::Hole).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x10000), Err(Errno::EFAULT));
}
