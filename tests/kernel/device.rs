//! A device as a driver has it, on a real kernel: `edu`, whose registers are big endian on these
//! machines.

use crate::BIG;
use libtest_mimic::Failed;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::device::eeh::{EehError, Injection, PeError, PeState};
use spapr_iommu::device::{AccessError, Bar, Device, DeviceError, Endian, Interrupt, InterruptKind};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Errno, Host, Memory, Platform};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;
use spapr_iommu_tests::machine;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const ID: (u16, u16) = (0x1234, 0x11e8);
const SIZE: u64 = 0x20000;
const AT: u64 = 0x10000;
pub(crate) const BUFFER: u64 = 0x40000;
const RAISE: u64 = 0x60;
const STATUS: u64 = 0x24;
const ACKNOWLEDGE: u64 = 0x64;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for an unwanted interrupt to arrive.
const SILENCE: Duration = Duration::from_millis(200);

pub(crate) fn ensure(is_so: bool, what: impl core::fmt::Display) -> Result<(), Failed> {
    if is_so { Ok(()) } else { Err(what.to_string().into()) }
}

/// An `edu` with memory that it can reach.
pub(crate) struct Fixture {
    // Dropped in this order.
    pub(crate) bar: Bar,
    pub(crate) device: Device,
    /// Where the memory is mapped.
    at: u64,
    space: AddressSpace,
    _lease: Lease,
    memory: UserRange,
    host: Arc<Vfio>,
}

impl Fixture {
    /// Returns the first `edu` and its group.
    pub(crate) fn find() -> Result<(Group, String), Failed> {
        let groups = machine::groups(&Vfio::new());
        let mut found =
            groups.into_iter().flat_map(|group| group.devices.into_iter().map(move |device| (group.number, device)));
        let edu = found.find(|(_, device)| device.id == ID);
        let (group, edu) = edu.ok_or("an edu with vfio-pci is needed")?;
        Ok((group, edu.address))
    }

    pub(crate) fn address() -> Result<String, Failed> {
        Ok(Self::find()?.1)
    }

    pub(crate) fn new() -> Result<Self, Failed> {
        Self::in_space(AT, |_| Ok(()))
    }

    /// Maps its memory from `at` on, in a space made for it.
    fn in_space(at: u64, ready: impl FnOnce(&AddressSpace) -> Result<(), Failed>) -> Result<Self, Failed> {
        let host = Arc::new(Vfio::new());
        let (group, address) = Self::find()?;
        let space = AddressSpace::new(&Registry::new(host.clone()));
        space.attach(group)?;
        ready(&space)?;
        let memory = host.allocate(SIZE, host.page_shift())?;
        let lease = space.registry().lease(memory)?;
        space.map(IovaRange::new(Iova(at), SIZE)?, memory.start(), Permission::ReadWrite)?;
        let device = Device::open(&space, group, address.parse().unwrap())?;
        let bar = device.bar(0, Endian::Big)?;
        Ok(Self { bar, device, at, space, _lease: lease, memory, host })
    }

    fn place(&self, offset: u64) -> UserAddr {
        UserAddr(self.memory.start().0 + offset)
    }

    /// Returns whether the device is moving memory.
    pub(crate) fn moves(&self) -> Result<bool, Failed> {
        let (text, mut there) = (*b"over the bus", [0; 12]);
        self.host.write(self.place(0), &text)?;
        self.host.write(self.place(0x1000), &there)?;
        transfer(&self.bar, self.at, BUFFER, 12, 1)?;
        transfer(&self.bar, BUFFER, self.at + 0x1000, 12, 3)?;
        self.host.read(self.place(0x1000), &mut there)?;
        Ok(there == text)
    }

    /// Opens another handle of the device.
    pub(crate) fn low(&self) -> Result<spapr_iommu::space::RawDevice, Failed> {
        Ok(self.space.device(self.device.group(), &self.device.address().to_string())?)
    }

    /// Has the device send its message.
    pub(crate) fn raise_and_wait(&self, msi: &Interrupt) -> Result<(), Failed> {
        self.bar.write(RAISE, 1u32)?;
        ensure(msi.wait(Some(TIMEOUT))?, "MSI does not arrive")?;
        Ok(self.bar.write(ACKNOWLEDGE, 1u32)?)
    }

    pub(crate) fn one(&self, kind: InterruptKind) -> Result<Interrupt, Failed> {
        let mut all = self.device.enable_interrupts(kind, 1)?;
        Ok(all.remove(0))
    }
}

pub(crate) fn transfer(bar: &Bar, source: u64, destination: u64, count: u64, command: u64) -> Result<(), Failed> {
    for (register, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
        bar.write(register, value)?;
    }
    let began = Instant::now();
    while bar.read::<u64>(0x98)? & 1 != 0 {
        ensure(began.elapsed() < TIMEOUT, "a transfer does not end")?;
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Checks what a driver sees of a device that it has just opened.
pub(crate) fn a_device_is_opened_for_a_driver() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let (device, config) = (&fixture.device, fixture.device.config());
    ensure(device.id() == ID, format!("{:x?}", device.id()))?;
    ensure(fixture.bar.read::<u32>(0)? == 0x0100_00ed, "the register of its id")?;
    ensure(config.capability(5) == Some(0x40), format!("MSI at {:x?}", config.capability(5)))?;
    ensure(config.read::<u32>(0x40)? & 0xff00_00ff == 5, "the capability's head")?;
    let command = config.read::<u16>(4)?;
    ensure(command & 6 == 2, format!("command {command:#x}: not just memory decode"))?;
    ensure(matches!(config.write(4, 0u16), Err(AccessError::Guarded { .. })), "the command register was written")?;
    ensure(fixture.bar.read::<u32>(0x100)? == u32::MAX, "all ones where there is no register are a value")?;
    use InterruptKind::{Error, Intx, Msi, Msix, Request};
    let counts = [Intx, Msi, Msix, Error, Request].map(|kind| device.interrupts(kind).map(|info| info.count).ok());
    ensure(counts == [Some(1), Some(1), None, None, Some(1)], format!("{counts:?}"))?;
    ensure(!fixture.moves()?, "DMA before it was started")?;
    device.start_dma()?;
    ensure(fixture.moves()?, "no DMA after it was started")?;
    device.stop_dma()?;
    ensure(!fixture.moves()?, "DMA after it was stopped")
}

/// The window is at 1 << 59, and the small one that occupied the first slot is gone.
pub(crate) fn edu_moves_memory_without_the_default_window() -> Result<(), Failed> {
    let fixture = Fixture::in_space(BIG, |space| {
        space.drop_default_window()?;
        let window = space.create_window(&WindowRequest::bytes(8 << 30))?;
        ensure(window.range.start() == Iova(BIG), format!("{window:?}"))
    })?;
    fixture.device.start_dma()?;
    ensure(fixture.moves()?, "no DMA through the window")?;
    ensure(fixture.space.status().windows.len() == 1, "one window")
}

pub(crate) fn intx_arrives_masked_until_rearmed() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let intx = fixture.one(InterruptKind::Intx)?;
    ensure(!intx.wait(Some(SILENCE))?, "an interrupt nobody raised")?;
    fixture.bar.write(RAISE, 1u32)?;
    ensure(intx.wait(Some(TIMEOUT))?, "INTx does not arrive")?;
    ensure(!intx.wait(Some(SILENCE))?, "INTx arrives again though masked")?;
    intx.rearm()?;
    ensure(intx.wait(Some(TIMEOUT))?, "INTx that is still asserted does not arrive again")?;
    ensure(fixture.bar.read::<u32>(STATUS)? == 1, "the interrupt's status")?;
    fixture.bar.write(ACKNOWLEDGE, 1u32)?;
    intx.rearm()?;
    ensure(!intx.wait(Some(SILENCE))?, "INTx that was acknowledged arrives")?;
    let refused = fixture.device.enable_interrupts(InterruptKind::Msi, 1);
    ensure(matches!(refused, Err(DeviceError::OtherKind { .. })), "MSI beside INTx")?;
    // Computes the factorial of 5, with an interrupt at the end.
    fixture.bar.write(0x20, 0x80u32)?;
    fixture.bar.write(0x08, 5u32)?;
    ensure(intx.wait(Some(TIMEOUT))?, "the factorial's interrupt does not arrive")?;
    ensure(fixture.bar.read::<u32>(0x08)? == 120, "the factorial of 5")?;
    Ok(fixture.bar.write(ACKNOWLEDGE, 1u32)?)
}

pub(crate) fn msi_arrives_while_the_device_has_the_bus() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let msi = fixture.one(InterruptKind::Msi)?;
    fixture.bar.write(RAISE, 1u32)?;
    ensure(!msi.wait(Some(SILENCE))?, "MSI from a device off the bus")?;
    fixture.device.start_dma()?;
    for _ in 0..3 {
        fixture.bar.write(RAISE, 1u32)?;
        ensure(msi.wait(Some(TIMEOUT))?, "MSI does not arrive")?;
        fixture.bar.write(ACKNOWLEDGE, 1u32)?;
        msi.rearm()?;
        ensure(!msi.wait(Some(SILENCE))?, "MSI arrives twice")?;
    }
    fixture.bar.write(0x90, 4u64)?;
    transfer(&fixture.bar, AT, BUFFER, 4, 5)?;
    ensure(msi.wait(Some(TIMEOUT))?, "MSI at the end of a transfer does not arrive")?;
    ensure(fixture.bar.read::<u32>(STATUS)? == 0x100, "the status after a transfer")?;
    drop(msi);
    drop(fixture.one(InterruptKind::Intx)?);
    drop(fixture.one(InterruptKind::Msi)?);
    drop(fixture.one(InterruptKind::Request)?);
    Ok(())
}

pub(crate) fn a_panic_takes_the_device_off_the_bus() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    fixture.device.start_dma()?;
    ensure(fixture.moves()?, "no DMA")?;
    let Fixture { device, bar, space, .. } = &fixture;
    let low = space.device(device.group(), &device.address().to_string())?;
    let (bar, config) = (device.bar(0, bar.endian())?, low.region(PCI_CONFIG_REGION_INDEX)?);
    let Fixture { device, memory, host, .. } = fixture;
    let result = catch_unwind(AssertUnwindSafe(move || {
        let _device = device;
        std::panic::resume_unwind(Box::new("the driver has a bug"));
    }));
    let Err(panic) = result;
    ensure(panic.downcast_ref::<&str>() == Some(&"the driver has a bug"), "another panic")?;
    let mut command = [0; 2];
    config.read(4, &mut command)?;
    ensure(command[0] & 6 == 2, format!("command {command:x?} after a panic"))?;
    host.write(UserAddr(memory.start().0 + 0x1000), &[0; 4])?;
    transfer(&bar, BUFFER, AT + 0x1000, 4, 3)?;
    let mut there = [7; 4];
    host.read(UserAddr(memory.start().0 + 0x1000), &mut there)?;
    ensure(there == [0; 4], "DMA after a panic")
}

/// Resets the device if the kernel can, and recovers its PE if there is one: DMA works before and
/// after.
pub(crate) fn a_device_is_reset_and_recovered() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let (device, eeh) = (&fixture.device, fixture.device.eeh());
    let powernv = fixture.host.platform() == Some(Platform::Powernv);
    device.start_dma()?;
    ensure(fixture.moves()?, "no DMA before")?;
    match device.reset() {
        Ok(()) if powernv => {
            ensure(!device.is_dma_on() && !fixture.moves()?, "DMA after a reset")?;
            device.start_dma()?;
        }
        Err(DeviceError::NoReset { .. }) if !powernv => {}
        other => return Err(format!("reset: {other:?}").into()),
    }
    ensure(fixture.moves()?, "no DMA after a reset")?;
    if !powernv {
        let none = EehError::from(PeError::NoPe { group: device.group() });
        ensure(eeh.state() == Err(none.clone()) && eeh.recover() == Err(none), "a PE on pseries")?;
        return ensure(device.is_dma_on() && fixture.moves()?, "no DMA without a PE");
    }
    for _ in 0..2 {
        let msi = fixture.one(InterruptKind::Msi)?;
        ensure(eeh.state()? == PeState::Normal, "not normal before")?;
        eeh.recover()?;
        ensure(eeh.state()? == PeState::Normal, "not normal after")?;
        ensure(fixture.bar.read::<u32>(0)? == 0x0100_00ed, "the register of its id after recovery")?;
        ensure(!device.is_dma_on() && !fixture.moves()?, "DMA after recovery")?;
        ensure(matches!(msi.rearm(), Err(DeviceError::Disabled { .. })), "interrupts after recovery")?;
        let msi = fixture.one(InterruptKind::Msi)?;
        device.start_dma()?;
        ensure(fixture.moves()?, "no DMA after recovery")?;
        fixture.bar.write(RAISE, 1u32)?;
        ensure(msi.wait(Some(TIMEOUT))?, "no MSI after recovery")?;
        fixture.bar.write(ACKNOWLEDGE, 1u32)?;
    }
    Ok(())
}

/// What the firmware of these machines injects: errors of loads and stores, by the BAR's address,
/// and of DMA, by memory's. None was seen to freeze a PE; one that does is recovered.
pub(crate) fn errors_are_injected_where_the_platform_can() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    let (device, eeh) = (&fixture.device, fixture.device.eeh());
    if fixture.host.platform() != Some(Platform::Powernv) {
        let refused = eeh.inject(Injection::default());
        return ensure(refused == Err(PeError::NoPe { group: device.group() }.into()), format!("{refused:?}"));
    }
    device.start_dma()?;
    for function in 0..=20 {
        let bar = u64::from(device.config().read::<u32>(0x10)? & !0xf);
        let address = if function < 12 { bar } else { AT };
        match (function, eeh.inject(Injection { wide: false, function, address, mask: 0xffff_f000 })) {
            (20.., Err(EehError::NotInjected { errno: Errno::EINVAL, .. })) => {}
            (0..20, Ok(()) | Err(EehError::NotInjected { errno: Errno::EIO, .. })) => {}
            (_, other) => return Err(format!("function {function}: {other:?}").into()),
        }
        let moved = fixture.bar.read::<u32>(0).map_err(Failed::from).and_then(|_| fixture.moves());
        if eeh.state()? != PeState::Normal {
            ensure(
                matches!(fixture.bar.read::<u32>(0), Err(AccessError::Frozen { .. })),
                "a freeze that no read reports",
            )?;
            eeh.recover()?;
            device.start_dma()?;
        } else {
            ensure(moved?, format!("no DMA after function {function}"))?;
        }
    }
    ensure(fixture.bar.read::<u32>(0)? == 0x0100_00ed && fixture.moves()?, "the device afterwards")
}
