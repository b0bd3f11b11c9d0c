//! Device models of a program's own: what the model does for them, and with them.

use spapr_iommu::addr::Iova;
use spapr_iommu::device::eeh::PeState;
use spapr_iommu::device::{AccessError, Bar, Device, DeviceError, Endian, Interrupt, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::host::{Errno, Host};
use spapr_iommu::model::pci::{Bus, BusError, Description, DescriptionError, DeviceFault, DeviceModel, Reset};
use spapr_iommu::model::{DmaDirection, Model, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::{Group, PciAddress};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const ADDRESS: &str = "0000:00:00.0";

// Registers of the probe, little endian.
const IOVA: u64 = 0x00;
const DATA: u64 = 0x08;
const ACTION: u64 = 0x10;
const ERROR: u64 = 0x14;
const RESETS: u64 = 0x18;
const WRITTEN: u64 = 0x20;

// Actions.
const READ: u32 = 1;
const WRITE: u32 = 2;
const MESSAGE: u32 = 3;
const PIN: u32 = 4;
const FREEZE: u32 = 5;
const PANIC: u32 = 6;
const REENTER: u32 = 7;
const CONFIG: u32 = 8;

/// Capability of a vendor; the low half of its second word is writable.
const VENDOR: u8 = 0x09;

/// A device whose registers make it act.
#[derive(Clone, Debug, Default)]
struct Probe {
    iova: u64,
    data: u64,
    error: u32,
    /// PCI function and bus.
    resets: [u32; 2],
    written: Range<u64>,
    /// The action of the next `step`.
    later: u32,
    model: Arc<OnceLock<Arc<Model>>>,
}

impl Probe {
    fn act(&mut self, action: u32, bus: &mut Bus<'_>) {
        let mut bytes = [0xee; 8];
        let result = match action {
            READ => {
                let result = bus.read(Iova(self.iova), &mut bytes);
                self.data = u64::from_le_bytes(bytes);
                result
            }
            WRITE => bus.write(Iova(self.iova), &self.data.to_le_bytes()),
            MESSAGE => {
                self.data = bus.message(self.data as u32).into();
                Ok(())
            }
            PIN => {
                bus.set_intx(self.data != 0);
                Ok(())
            }
            FREEZE => {
                self.data = bus.freeze().into();
                Ok(())
            }
            PANIC => panic!("the probe was told to"),
            REENTER => {
                let _ = self.model.get().map(|model| model.violations());
                Ok(())
            }
            CONFIG => {
                self.data = u64::from(bus.config(self.iova)) | u64::from(bus.set_config(self.iova, 0x5a)) << 8;
                Ok(())
            }
            _ => Ok(()),
        };
        self.error = match result {
            Ok(()) => 0,
            Err(BusError::NotMaster) => 1,
            Err(BusError::Stuck) => 2,
            Err(BusError::Frozen) => 3,
            Err(BusError::Refused { .. }) => 4,
            Err(_) => 5,
        };
    }
}

impl DeviceModel for Probe {
    fn description(&self) -> Description {
        let description = Description::new(0xabcd, 0x0001).class(0x12_0000).subsystem(1, 2).revision(3);
        let description = description.bar(0, 4096).bar64(2, 1 << 33).bar(5, 0x2000);
        let description = description.intx().msi(4).msix(8, 5, 0x1000, 0x1800).express();
        description.capability(VENDOR, &[8, 0, 0, 0, 0, 0], &[0, 0, 0xff, 0xff])
    }

    fn read_bar(&mut self, bar: u32, offset: u64, data: &mut [u8], _bus: &mut Bus<'_>) {
        let [function, by_bus] = self.resets;
        let value = match (bar, offset) {
            (0, DATA) => self.data,
            (0, ERROR) => self.error.into(),
            (0, RESETS) => u64::from(function) | u64::from(by_bus) << 32,
            (0, WRITTEN) => self.written.start | self.written.end << 32,
            (2, at) => at,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn write_bar(&mut self, _bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        match offset {
            IOVA => self.iova = value,
            DATA => self.data = value,
            // With the upper half set, `step` performs it.
            ACTION if value >> 16 != 0 => self.later = value as u32 & 0xffff,
            ACTION => self.act(value as u32, bus),
            _ => {}
        }
    }

    fn config_written(&mut self, bytes: Range<u64>, _bus: &mut Bus<'_>) {
        self.written = bytes;
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        let action = std::mem::take(&mut self.later);
        self.act(action, bus);
        action != 0
    }

    fn reset(&mut self, reset: Reset) {
        self.resets[usize::from(reset == Reset::Bus)] += 1;
    }

    fn fork(&self) -> Box<dyn DeviceModel> {
        Box::new(self.clone())
    }
}

/// The probe, open, with a buffer of eight bytes.
struct Rig {
    bar: Bar,
    device: Device,
    buffer: Buffer<u64>,
    dma: Dma,
    model: Arc<Model>,
}

impl Rig {
    fn new(preset: &str) -> Self {
        Self::with(Model::new(preset.parse().unwrap()).panic_on_violation())
    }

    fn with(model: Model) -> Self {
        let probe = Probe::default();
        let own = probe.model.clone();
        let model = Arc::new(model.with_device(Group(0), probe).unwrap());
        own.set(model.clone()).unwrap();
        let dma = Dma::new(model.clone());
        let device = dma.open(address(), DmaMask::ALL).unwrap();
        let bar = device.bar(0, Endian::Little).unwrap();
        let buffer = dma.buffer(1, Permission::ReadWrite).unwrap();
        Self { bar, device, buffer, dma, model }
    }

    /// Lets the device act, and returns the error and the data that it shows afterwards.
    fn act(&self, action: u32, iova: Iova, data: u64) -> (u32, u64) {
        self.bar.write(IOVA, iova.0).unwrap();
        self.bar.write(DATA, data).unwrap();
        self.bar.write(ACTION, action).unwrap();
        (self.bar.read(ERROR).unwrap(), self.bar.read(DATA).unwrap())
    }

    fn moves(&self) -> bool {
        self.buffer.write(0, 0x1122_3344).unwrap();
        self.act(READ, self.buffer.iova(), 0) == (0, 0x1122_3344)
    }
}

fn address() -> PciAddress {
    ADDRESS.parse().unwrap()
}

fn fired(interrupt: &Interrupt) -> bool {
    interrupt.wait(Some(Duration::ZERO)).unwrap()
}

const NOWHERE: Iova = Iova(0x1234_5000);

#[test]
fn a_device_is_what_it_describes() {
    let rig = Rig::new("pseries");
    assert_eq!(rig.device.id(), (0xabcd, 1));
    assert_eq!(rig.model.groups()[0].devices[0].id, (0xabcd, 1));
    let config = rig.device.config();
    assert_eq!((config.size(), config.read(8), config.read(0x2c)), (4096, Ok(0x1200_0003u32), Ok(0x0002_0001u32)));
    let bar = |index| rig.device.bar(index, Endian::Little).map(|bar| bar.size());
    assert_eq!([0, 2, 5].map(|index| bar(index).unwrap()), [4096, 1 << 33, 0x2000]);
    assert!(matches!(bar(3), Err(DeviceError::NoBar { index: 3, present, .. }) if present == [0, 2, 5]));
    let wide = rig.device.bar(2, Endian::Little).unwrap();
    assert_eq!(wide.read::<u64>(0x1_8765_4320), Ok(0x1_8765_4320));
    use InterruptKind::{Error, Intx, Msi, Msix, Request};
    let count = |kind| rig.device.interrupts(kind).map(|info| info.count).ok();
    assert_eq!([Intx, Msi, Msix, Error, Request].map(count), [Some(1), Some(4), Some(8), Some(1), Some(1)]);
}

#[test]
fn dma_goes_through_the_tables_and_says_what_is_wrong() {
    for (preset, freezes) in [("powernv9", true), ("pseries-4k", false)] {
        let rig = Rig::new(preset);
        let at = rig.buffer.iova();
        assert_eq!(rig.act(READ, at, 7), (1, 0xeeee_eeee_eeee_eeee), "off the bus");
        rig.device.start_dma().unwrap();
        assert!(rig.moves());
        assert_eq!(rig.act(WRITE, at, 0x99), (0, 0x99));
        assert_eq!(rig.buffer.read(0), Ok(0x99));
        assert!(rig.model.violations().is_empty());
        rig.bar.write(IOVA, NOWHERE.0).unwrap();
        rig.bar.write(ACTION, READ).unwrap();
        let device = ADDRESS.to_owned();
        assert_eq!(
            rig.model.violations(),
            [Violation::DeviceDma { device, at: NOWHERE, direction: DmaDirection::Read }]
        );
        if freezes {
            assert!(matches!(rig.bar.read::<u32>(ERROR), Err(AccessError::Frozen { state: PeState::Stopped, .. })));
            rig.device.eeh().recover().unwrap();
            rig.device.start_dma().unwrap();
        } else {
            assert_eq!((rig.bar.read(ERROR), rig.bar.read(DATA)), (Ok(4u32), Ok(0u64)));
        }
        assert!(rig.moves(), "{preset}");
    }
}

#[test]
fn a_freeze_on_purpose_is_detected_and_recovered() {
    let rig = Rig::new("powernv9-64k");
    rig.device.start_dma().unwrap();
    assert!(rig.moves());
    rig.bar.write(ACTION, FREEZE).unwrap();
    assert_eq!(
        rig.bar.read::<u32>(ERROR),
        Err(AccessError::Frozen { device: ADDRESS.into(), state: PeState::Stopped })
    );
    // Lost, like everything written until then.
    rig.bar.write(ACTION, PANIC).unwrap();
    rig.device.eeh().recover().unwrap();
    assert_eq!(rig.bar.read::<u64>(RESETS), Ok(1 << 32), "a reset of the bus");
    assert!(!rig.device.is_dma_on());
    rig.device.start_dma().unwrap();
    assert!(rig.moves() && rig.model.violations().is_empty());
    // Emulated devices of pseries have no EEH.
    let rig = Rig::new("pseries");
    assert_eq!(rig.act(FREEZE, NOWHERE, 7), (0, 0));
}

#[test]
fn a_function_is_reset_alone() {
    for preset in ["powernv9", "pseries"] {
        let rig = Rig::new(preset);
        rig.device.start_dma().unwrap();
        rig.device.reset().unwrap();
        assert_eq!(rig.bar.read::<u64>(RESETS), Ok(1));
        assert!(!rig.moves(), "off the bus");
    }
}

#[test]
fn each_kind_of_interrupt_arrives() {
    let rig = Rig::new("powernv9");
    let send = |vector: u64| rig.act(MESSAGE, NOWHERE, vector).1 == 1;
    rig.device.start_dma().unwrap();
    assert!(!send(0), "none is enabled");
    for (kind, count) in [(InterruptKind::Msi, 4), (InterruptKind::Msix, 8)] {
        let all = rig.device.enable_interrupts(kind, count - 1).unwrap();
        for (vector, interrupt) in (0..).zip(&all) {
            assert!(send(vector) && fired(interrupt) && !all.iter().any(fired), "{kind} {vector}");
        }
        assert!(!send(u64::from(count) - 1), "not enabled");
        rig.device.stop_dma().unwrap();
        assert!(!send(0) && !fired(&all[0]), "a message is a write");
        rig.device.start_dma().unwrap();
    }
    let pin = rig.device.enable_interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
    rig.act(PIN, NOWHERE, 1);
    assert!(fired(&pin) && !fired(&pin));
    pin.rearm().unwrap();
    assert!(fired(&pin), "still asserted");
    rig.act(PIN, NOWHERE, 0);
    pin.rearm().unwrap();
    assert!(!fired(&pin));
}

#[test]
fn the_msix_table_has_addresses_while_it_is_enabled() {
    let rig = Rig::new("powernv9");
    let table = rig.device.bar(5, Endian::Little).unwrap();
    let control = || rig.device.config().read::<u16>(rig.device.config().capability(0x11).unwrap() + 2).unwrap();
    let entry = |vector: u64| table.read::<u64>(0x1000 + 16 * vector).unwrap();
    assert_eq!((control(), entry(0), table.read::<u32>(0x100c)), (7, 0, Ok(1)));
    let enabled = rig.device.enable_interrupts(InterruptKind::Msix, 2).unwrap();
    assert_ne!((entry(0), entry(1)), (0, 0));
    assert_eq!((control(), entry(2), table.read::<u64>(0x1018)), (0x8007, 0, Ok(1)));
    table.write(0x1000, 0u64).unwrap();
    assert_ne!(entry(0), 0, "it is the kernel's");
    assert_eq!((table.read::<u64>(0x1800), table.read::<u64>(0x1808)), (Ok(0), Ok(0)));
    drop(enabled);
    assert_eq!((control(), entry(0)), (7, 0));
}

/// Linux 7.2 on pseries fills the table once per binding to a driver.
#[test]
fn messages_are_lost_where_the_kernel_loses_them() {
    for (preset, lost) in [("pseries-7.2", true), ("pseries", false), ("powernv9-7.2", false)] {
        let rig = Rig::new(preset);
        drop(rig.device.enable_interrupts(InterruptKind::Msix, 1).unwrap());
        rig.device.reset().unwrap();
        match rig.device.enable_interrupts(InterruptKind::Msix, 1) {
            Err(DeviceError::NoMessages { vector: 0, .. }) => assert!(lost, "{preset}"),
            Err(error) => panic!("{preset}: {error}"),
            Ok(_) => assert!(!lost, "{preset}"),
        }
    }
}

#[test]
fn a_capability_of_its_own_is_read_and_written_by_both_sides() {
    let rig = Rig::new("powernv9");
    let config = rig.device.config();
    let at = config.capability(VENDOR).unwrap();
    assert_eq!(config.read::<u64>(at), Ok(0x0008_0009));
    config.write(at + 4, 0xffff_ffffu32).unwrap();
    assert_eq!(config.read::<u32>(at + 4), Ok(0xffff));
    assert_eq!(rig.bar.read::<u64>(WRITTEN), Ok((at + 4) | ((at + 8) << 32)));
    assert_eq!(rig.act(CONFIG, Iova(at + 4), 0), (0, 0x1ff));
    assert_eq!(config.read::<u8>(at + 4), Ok(0x5a));
    // The model provides the header.
    assert_eq!(rig.act(CONFIG, Iova(0), 0), (0, 0xcd));
    assert_eq!(rig.act(CONFIG, Iova(4096), 0), (0, 0xff));
}

#[test]
fn work_that_waits_is_done_by_a_step() {
    let rig = Rig::new("powernv9");
    rig.device.start_dma().unwrap();
    assert!(!rig.model.step());
    rig.bar.write(IOVA, rig.buffer.iova().0).unwrap();
    rig.bar.write(DATA, 5u64).unwrap();
    rig.bar.write(ACTION, 1 << 16 | WRITE).unwrap();
    assert_eq!(rig.buffer.read(0), Ok(0));
    let fork = rig.model.fork();
    assert!(rig.model.step() && !rig.model.step());
    assert_eq!(rig.buffer.read(0), Ok(5));
    assert!(fork.step(), "the fork has its own work");
}

#[test]
fn faults_are_what_a_test_asks_for() {
    let rig = Rig::new("powernv9");
    rig.device.start_dma().unwrap();
    let fault = |fault| rig.model.set_fault(address(), fault).unwrap();
    fault(Some(DeviceFault::StuckDma));
    assert_eq!(rig.act(READ, rig.buffer.iova(), 0).0, 2);
    fault(Some(DeviceFault::AllOnes));
    rig.bar.write(DATA, 1u64).unwrap();
    // Nothing shows that these are not values.
    assert_eq!((rig.bar.read(DATA), rig.bar.read(ERROR)), (Ok(u64::MAX), Ok(u32::MAX)));
    fault(None);
    assert!(rig.moves());
    let msix = rig.device.enable_interrupts(InterruptKind::Msix, 2).unwrap();
    fault(Some(DeviceFault::InterruptStorm));
    for _ in 0..3 {
        rig.bar.read::<u32>(ERROR).unwrap();
        assert!(msix.iter().all(fired));
        rig.model.step();
        assert!(msix.iter().all(fired));
    }
    drop(msix);
    let pin = rig.device.enable_interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
    for _ in 0..3 {
        assert!(fired(&pin));
        pin.rearm().unwrap();
    }
    fault(None);
    assert!(fired(&pin));
    pin.rearm().unwrap();
    assert!(!fired(&pin));
    assert_eq!(rig.model.set_fault("0007:00:00.0".parse().unwrap(), None), Err(Errno::ENODEV));
}

#[test]
fn a_panic_in_a_device_ends_there() {
    for (action, text) in [(PANIC, "the probe was told to"), (REENTER, "a device model used a Model")] {
        let rig = Rig::with(Model::new("powernv9".parse().unwrap()).panic_on_violation());
        rig.device.start_dma().unwrap();
        rig.bar.write(ACTION, action).unwrap();
        match &rig.model.violations()[..] {
            [violation @ Violation::DevicePanicked { device, message }] => {
                assert!(device == ADDRESS && message.contains(text), "{message}");
                assert!(!violation.harms_kernel());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.bar.read::<u32>(ERROR), Err(AccessError::Gone { device: ADDRESS.into() }));
        assert!(!rig.model.step());
        // The machine goes on with the other device.
        let other = rig.dma.open("0001:00:00.0".parse().unwrap(), DmaMask::ALL).unwrap();
        assert_eq!(other.bar(0, Endian::Big).unwrap().read::<u32>(0), Ok(0x0100_00ed));
        let Rig { bar, device, buffer, dma, model } = rig;
        drop((bar, device, buffer, other, dma));
        assert_eq!(model.locked(), 0);
    }
}

#[test]
fn what_is_no_device_leaves_the_machine_as_it_was() {
    #[derive(Clone, Debug)]
    struct Wrong(Description);
    impl DeviceModel for Wrong {
        fn description(&self) -> Description {
            self.0.clone()
        }
        fn read_bar(&mut self, _: u32, _: u64, _: &mut [u8], _: &mut Bus<'_>) {}
        fn write_bar(&mut self, _: u32, _: u64, _: &[u8], _: &mut Bus<'_>) {}
        fn reset(&mut self, _: Reset) {}
        fn fork(&self) -> Box<dyn DeviceModel> {
            Box::new(self.clone())
        }
    }
    let model = || Model::new("powernv9".parse().unwrap());
    let wrong = || Wrong(Description::new(1, 2).bar(7, 4096));
    let error = model().with_device(Group(0), wrong()).unwrap_err();
    assert_eq!(error, DescriptionError::Bar { index: 7 });
    assert!(error.to_string().contains("BARs are 0 to 5"), "{error}");
    assert!(model().with_device_beside(Group(9), wrong()).is_err());
    // Next to another device, and in a group that did not exist.
    let right = || Wrong(Description::new(1, 2));
    let model = model().with_device_beside(Group(0), right()).unwrap().with_device_beside(Group(9), right()).unwrap();
    let devices: Vec<_> =
        model.groups().into_iter().flat_map(|group| group.devices).map(|device| device.address).collect();
    assert_eq!(devices, [ADDRESS, "0000:00:01.0", "0001:00:00.0", "0009:00:00.0"]);
}
