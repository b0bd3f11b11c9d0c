//! What a VMM needs of an open device: its file, its BAR as memory, its interrupts on eventfds; and
//! files opened by a launcher.

use crate::device::{Fixture, ensure};
use libtest_mimic::Failed;
use nix::sys::eventfd::{EfdFlags, EventFd};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::device::{Device, Endian, InterruptKind};
use spapr_iommu::host::vfio::{GivenFiles, Vfio};
use spapr_iommu::host::{Call, Host, Memory, Node};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu_tests::by_address::{ByAddress, RunCall};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(200);

fn fires(eventfd: &EventFd, within: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < within {
        if eventfd.read().is_ok() {
            return true;
        }
        sleep(Duration::from_millis(2));
    }
    false
}

/// Maps the BAR into the process, as for a memory slot of KVM.
pub(crate) fn a_bar_is_mapped() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let areas = fixture.device.bar_areas(0)?;
    let [area] = areas[..] else { return Err(format!("{areas:?}").into()) };
    ensure(area.offset == 0 && area.len == 1 << 20, format!("{area:?}"))?;
    let mapped = fixture.device.map_bar_area(0, area)?;
    ensure(mapped.as_ptr().addr().is_multiple_of(4096) && mapped.len() == 1 << 20, format!("{mapped:?}"))?;
    // SAFETY: a register of the live mapping; memory decode is on while the device is held.
    let id = u32::from_be(unsafe { mapped.as_ptr().cast::<u32>().read_volatile() });
    ensure(id == 0x0100_00ed, format!("{id:#x}"))?;
    ensure(fixture.device.bar_areas(1)?.is_empty(), "a BAR that is not there")?;
    ensure(fixture.device.file().is_some(), "the device has no file")
}

/// Unmasks INTx through an eventfd, as KVM does at the guest's end of interrupt.
pub(crate) fn interrupts_go_to_eventfds() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let (fired, done) = (EventFd::from_flags(flags)?, EventFd::from_flags(flags)?);
    let intx = fixture.device.forward_interrupts(InterruptKind::Intx, &[fired.as_fd()])?;
    intx.rearm_by(done.as_fd())?;
    fixture.bar.write(RAISE, 1u32)?;
    ensure(fires(&fired, TIMEOUT), "INTx does not arrive")?;
    ensure(!fires(&fired, SILENCE), "INTx arrives though masked")?;
    done.write(1)?;
    ensure(fires(&fired, TIMEOUT), "INTx that is still asserted does not arrive again")?;
    // After an eventfd rearmed it, it may fire once more, as seen on powernv9 under QEMU.
    fixture.bar.write(ACKNOWLEDGE, 1u32)?;
    drop(intx);
    while fired.read().is_ok() {}
    let msi = fixture.device.forward_interrupts(InterruptKind::Msi, &[fired.as_fd()])?;
    fixture.device.start_dma()?;
    fixture.bar.write(RAISE, 1u32)?;
    ensure(fires(&fired, TIMEOUT), "MSI does not arrive")?;
    ensure(msi.rearm_by(done.as_fd()).is_err(), "MSI is rearmed")
}

/// A BAR that does not answer gives an error, where the kernel would end the process.
pub(crate) fn a_bar_without_memory_decode_is_an_error() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let low = fixture.low()?;
    let config = low.region(7)?;
    ensure(config.write(4, &[0, 0]).is_err() && fixture.bar.read::<u32>(0).is_ok(), "behind the driver's back")?;
    let Fixture { bar, device, .. } = fixture;
    drop(device);
    let other = low.region(0)?;
    config.write(4, &[0, 0])?;
    ensure(bar.read::<u32>(0).is_err() && other.read(0, &mut [0; 4]).is_err(), "a BAR that is off was read")?;
    config.write(4, &[2, 0])?;
    ensure(bar.read::<u32>(0)? == 0x0100_00ed, "the BAR does not come back")
}

/// Passes files of a launcher: as they were opened, or with the device open.
pub(crate) fn files_are_handed_in() -> Result<(), Failed> {
    let (group, address) = Fixture::find()?;
    for prepared in [false, true] {
        let given = launcher(group, &address, prepared)?;
        let host = Arc::new(Vfio::with_files(given));
        let space = AddressSpace::new(&Registry::new(host.clone()));
        space.attach(group)?;
        let memory = host.allocate(1 << 20, host.page_shift())?;
        let lease = space.registry().lease(memory)?;
        space.map(IovaRange::new(Iova(1 << 20), 1 << 20)?, memory.start(), Permission::ReadWrite)?;
        let device = Device::open(&space, group, address.parse().unwrap())?;
        let bar = device.bar(0, Endian::Big)?;
        device.start_dma()?;
        host.write(memory.start(), b"handed in")?;
        crate::device::transfer(&bar, 1 << 20, crate::device::BUFFER, 9, 1)?;
        crate::device::transfer(&bar, crate::device::BUFFER, (1 << 20) + 0x800, 9, 3)?;
        let mut there = [0; 9];
        host.read(spapr_iommu::addr::UserAddr(memory.start().0 + 0x800), &mut there)?;
        ensure(&there == b"handed in", format!("no DMA, prepared {prepared}"))?;
        drop((bar, device, lease, space, host));
    }
    // All of it is closed: the group can be opened in the usual way.
    Fixture::new().map(drop)
}

/// The launcher closes its own descriptors; the files stay open.
fn launcher(group: Group, address: &str, prepared: bool) -> Result<GivenFiles, Failed> {
    let launcher = Vfio::new();
    let container = launcher.open(Node::Container)?;
    let file = launcher.open(Node::Group(group))?;
    let out = |fd| -> Result<OwnedFd, Failed> { Ok(launcher.file(fd).ok_or("no file")?) };
    let given = GivenFiles::new().with_container(out(container)?).with_group(group, out(file)?);
    if !prepared {
        return Ok(given);
    }
    launcher.run_call(file, &mut Call::GroupSetContainer(container))?;
    launcher.run_call(container, &mut Call::SetIommu(TCE_V2_IOMMU))?;
    let device = launcher.open(Node::Device { group: file, name: address })?;
    Ok(given.with_device(address, out(device)?))
}
