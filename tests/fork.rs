//! A child of `fork` drops its copies of everything: the kernel gets no call, and no device is
//! touched.
//!
//! One test, so that nothing else runs in this process while it forks. `tests/kernel` does the same
//! on real kernels.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, IovaRange, Liobn, PageShift};
use spapr_iommu::device::InterruptKind;
use spapr_iommu::dma::{Dma, DmaConfig, DmaMask};
use spapr_iommu::guest::{GuestIommu, PhbConfig, Slots};
use spapr_iommu::host::{Host, Memory, call_counts};
use spapr_iommu::inspect::{Inspector, Query, fetch};
use spapr_iommu::kvm::model::KvmModel;
use spapr_iommu::kvm::{Acceleration, TableSpec};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;
use spapr_iommu_tests::by_address::ByAddress;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const RW: Permission = Permission::ReadWrite;

/// Runs `f` in a child, and returns whether it returned true there.
fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs code of this test alone, which needs no lock that another thread may
    // hold.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
            // SAFETY: ends the process at once, without running what the parent has set up to run
            // at its end.
            unsafe { libc::_exit(i32::from(!ok)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0),
    }
}

#[test]
fn a_child_that_drops_its_copies_changes_nothing() -> Result<(), Box<dyn Error>> {
    let model = Arc::new(Model::new("powernv9-64k".parse()?).with_groups(3).panic_on_violation());
    let calls = Arc::new(Recording::new(Arc::clone(&model)));
    let registry = Registry::new(calls.clone());
    let dma = Dma::with_registry(&registry, DmaConfig::default());
    let device = dma.open("0000:00:00.0".parse().unwrap(), DmaMask::ALL)?;
    device.start_dma()?;
    let interrupts = device.enable_interrupts(InterruptKind::Msi, 1)?;
    let large = dma.buffer::<u8>(1 << 20, RW)?;
    let small = dma.buffer::<u32>(4, RW)?;
    let pool = dma.pool::<u64>(4, RW)?;
    let block = pool.take()?;
    let memory = dma.memory(1 << 16)?;
    let stream = memory.map(0, 1 << 16, RW)?;
    large.write(7, 42)?;
    let space = AddressSpace::new(&registry);
    space.attach(Group(1))?;
    let ram = model.allocate(1 << 20, PageShift::P64K)?;
    let (lease, idle) = (registry.lease(ram)?, registry.lease(model.allocate(1 << 20, PageShift::P64K)?)?);
    space.map(IovaRange::new(Iova(0), 1 << 20)?, ram.start(), RW)?;
    let kvm = KvmModel::new();
    let window = IovaRange::new(Iova(0), 1 << 30)?;
    kvm.set_windows(Group(1), &[(window, PageShift::P4K)]);
    let acceleration = Acceleration::new(Arc::new(kvm.clone()))?;
    acceleration.add_group(space.group_file(Group(1))?)?;
    acceleration.add_table(TableSpec { liobn: Liobn(1), window, page: PageShift::P4K })?;
    let slots = Arc::new(Slots::new());
    slots.insert(GuestAddr(0), &model.share(1 << 20, PageShift::P64K)?)?;
    let guest = GuestIommu::new(&registry, slots);
    guest.add_memory()?;
    let phb = guest.add_phb(PhbConfig::new(1, Liobn(0x100))?)?;
    phb.attach(Group(2))?;
    guest.h_put_tce(Liobn(0x100), 0, 3)?;
    let low = dma.space().device(Group(0), "0000:00:00.0")?;
    let config = low.region(PCI_CONFIG_REGION_INDEX)?;
    let command = || {
        let mut command = [0; 2];
        config.read(4, &mut command).map(|()| command[0])
    };
    calls.take();
    kvm.take_log();
    let nothing_said = || calls.take().is_empty() && kvm.take_log().is_empty();
    // Of interrupts, too, which have a call of their own.
    let made = || call_counts().map(|count| count.calls).sum::<u64>();

    // The parent's objects are passed by reference: forgotten there, dropped in the child.
    let owned = (interrupts, device, large, small, block, pool, stream, memory, dma, (lease, idle), space);
    let mut everything = Some((owned, phb, guest));
    let mut acceleration = Some(acceleration);
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
    let mut server = Some(Inspector::new(&registry).listen_at(&folder.path().join("socket"))?);
    assert!(in_child(|| {
        let (parent, before) = (command(), made());
        let kept = everything.as_ref().is_some_and(|all| all.0.2.read(7) == Ok(42));
        drop((everything.take(), acceleration.take(), server.take()));
        kept && parent == Ok(6) && command() == Ok(6) && nothing_said() && made() == before
    }));
    // A grandchild, whose process ID may coincide with any.
    assert!(in_child(|| in_child(|| {
        drop((everything.take(), acceleration.take(), server.take()));
        command() == Ok(6) && nothing_said()
    })));
    // A child may open devices of its own, which it does close.
    assert!(in_child(|| {
        let own = Arc::new(Model::new("pseries".parse().unwrap()));
        let dma = Dma::new(own.clone());
        let device = dma.open("0000:00:00.0".parse().unwrap(), DmaMask::ALL).unwrap();
        drop((dma.buffer::<u8>(1 << 20, RW).unwrap(), device, dma));
        own.locked() == 0 && own.leaks().is_empty()
    }));

    // The parent is still inspected.
    let socket = server.as_ref().map(|server| server.path().to_owned()).ok_or("no server")?;
    fetch(&socket, &Query::default())?;

    // The parent releases everything.
    assert!(everything.as_ref().is_some_and(|all| all.0.1.is_dma_on()));
    drop((everything, acceleration, server));
    assert!(!socket.exists());
    assert!(!nothing_said());
    assert_eq!(command(), Ok(2));
    Ok(())
}
