//! A device model in its machine: passes accesses to it, and handles everything that is not the
//! device's own.

use super::bus::{Bus, DeviceFault};
use super::config::ConfigSpace;
use super::description::{BARS, Description, DescriptionError, MSIX_ENTRY, Msix};
use super::{DeviceModel, Reset};
use crate::host::{Errno, Platform};
use crate::model::irq::{Enabled, Irqs};
use crate::model::spapr_tce::{Kernel, Result};
use crate::model::vfio::State;
use crate::model::violation::Violation;
use core::any::Any;
use core::cell::Cell;
use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Address of a message, as PHB4 decodes it (`PNV_PHB4_MSI`): drivers find it in the table.
const MESSAGE_ADDRESS: u64 = 1 << 60;
/// Vector control of an entry: masked.
const MASKED: u32 = 1;

#[derive(Debug)]
pub(in crate::model) struct Slot {
    /// `None` while it runs, and after it has panicked.
    model: Option<Box<dyn DeviceModel>>,
    pub(in crate::model) description: Description,
    pub(in crate::model) config: ConfigSpace,
    pub(in crate::model) irqs: Irqs,
    pub(in crate::model) fault: Option<DeviceFault>,
    /// Whether the device asserts its interrupt pin.
    pin: bool,
    /// Number of entries of the MSI-X table with an address, and whether it ever had any.
    filled: u32,
    filled_once: bool,
}

/// Copies the device for a fork of the machine.
impl Clone for Slot {
    fn clone(&self) -> Self {
        let fork = self.model.as_ref().map(|model| guarded(|| model.fork()));
        Self {
            // Without a copy, the device is gone in the fork.
            model: fork.and_then(core::result::Result::ok),
            description: self.description.clone(),
            config: self.config.clone(),
            irqs: self.irqs.clone(),
            ..*self
        }
    }
}

impl Slot {
    pub(in crate::model) fn new(model: Box<dyn DeviceModel>) -> core::result::Result<Self, DescriptionError> {
        let description = model.description();
        let config = ConfigSpace::new(&description)?;
        let msix = description.msix.map_or(0, |msix| msix.vectors);
        let irqs = Irqs::new([description.intx.into(), description.msi, msix, description.express.into(), 1]);
        Ok(Self {
            model: Some(model),
            description,
            config,
            irqs,
            fault: None,
            pin: false,
            filled: 0,
            filled_once: false,
        })
    }

    /// Returns whether its model has panicked.
    pub(in crate::model) fn failed(&self) -> bool {
        self.model.is_none()
    }

    /// Returns whether its interrupt pin is asserted.
    pub(in crate::model) fn line(&self) -> bool {
        self.pin || self.fault == Some(DeviceFault::InterruptStorm)
    }

    pub(super) fn set_pin(&mut self, asserted: bool) {
        self.pin = asserted;
        self.irqs.level(self.line());
    }

    pub(in crate::model) fn set_fault(&mut self, fault: Option<DeviceFault>) {
        self.fault = fault;
        self.irqs.level(self.line());
    }

    pub(super) fn message(&self, vector: u32) -> bool {
        (self.irqs.enabled != Enabled::Msix || vector < self.filled) && self.irqs.message(vector)
    }

    /// Follows a change of the enabled interrupts. The kernel fills the MSI-X table each time; some
    /// kernels do so only once.
    pub(in crate::model) fn interrupts_changed(&mut self, refills: bool) {
        let messages = self.irqs.messages();
        self.config.show_messages(self.irqs.enabled == Enabled::Msi, self.irqs.enabled == Enabled::Msix);
        if self.irqs.enabled == Enabled::Msix && (refills || !self.filled_once) {
            (self.filled, self.filled_once) = (messages, true);
        } else if self.irqs.enabled != Enabled::Msix && refills {
            self.filled = 0;
        }
    }

    /// Resets the device. Returns the message of a panic.
    fn reset(&mut self, reset: Reset, refills: bool) -> Option<String> {
        if reset == Reset::Bus {
            self.config.drop_master();
        }
        self.set_pin(false);
        if !refills {
            self.filled = 0;
        }
        let mut model = self.model.take()?;
        match guarded(|| model.reset(reset)) {
            Ok(()) => {
                self.model = Some(model);
                None
            }
            Err(message) => {
                // Dropping a device that panicked may panic as well.
                let _ = guarded(|| drop(model));
                Some(message)
            }
        }
    }

    /// Returns an entry of the MSI-X table, or zeros for the pending bits; `None` for an offset in
    /// neither.
    fn msix(&self, bar: u32, offset: u64, len: usize) -> Option<[u8; 8]> {
        let msix = self.description.msix.as_ref().filter(|msix| msix.bar == bar)?;
        let Msix { table, pending, .. } = *msix;
        let inside = |range: Range<u64>| range.contains(&offset) && offset + len as u64 <= range.end;
        if inside(pending..pending + msix.pending_size()) {
            return Some([0; 8]);
        }
        if !inside(table..table + msix.table_size()) {
            return None;
        }
        let vector = (offset - table) / MSIX_ENTRY;
        let mut entry = [0; MSIX_ENTRY as usize];
        if vector < self.filled.into() {
            entry[..8].copy_from_slice(&MESSAGE_ADDRESS.to_le_bytes());
            entry[8..12].copy_from_slice(&(vector as u32).to_le_bytes());
        } else {
            entry[12..].copy_from_slice(&MASKED.to_le_bytes());
        }
        let at = ((offset - table) % MSIX_ENTRY) as usize;
        let mut data = [0; 8];
        data[..len].copy_from_slice(entry.get(at..at + len)?);
        Some(data)
    }
}

thread_local! {
    /// Whether this thread runs a device model, which must not lock the machine.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread runs a device model, under the lock of its machine.
pub(in crate::model) fn is_inside() -> bool {
    INSIDE.get()
}

/// Runs code of a device model. A panic ends here; its message is returned.
fn guarded<T>(code: impl FnOnce() -> T) -> core::result::Result<T, String> {
    let before = INSIDE.replace(true);
    // State that it leaves half changed is never used again.
    let result = catch_unwind(AssertUnwindSafe(code));
    INSIDE.set(before);
    result.map_err(|payload| message(&*payload))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

impl Kernel {
    /// Returns whether the MSI-X table is filled each time MSI-X is enabled.
    pub(in crate::model) fn refills_msix(&self) -> bool {
        self.preset.platform() == Platform::Powernv || self.preset.kernel.refills_msix()
    }

    fn slot(&self, group: u32, index: usize) -> Option<&Slot> {
        Some(&self.groups.get(&group)?.devices.get(index)?.slot)
    }

    pub(in crate::model) fn slot_mut(&mut self, group: u32, index: usize) -> Option<&mut Slot> {
        Some(&mut self.groups.get_mut(&group)?.devices.get_mut(index)?.slot)
    }

    pub(in crate::model) fn reset_device(&mut self, group: u32, index: usize, reset: Reset) {
        let refills = self.refills_msix();
        let panicked = self.slot_mut(group, index).and_then(|slot| slot.reset(reset, refills));
        self.note_panic(group, index, panicked);
    }

    fn note_panic(&mut self, group: u32, index: usize, message: Option<String>) {
        let device = self.groups.get(&group).and_then(|group| group.devices.get(index));
        if let (Some(message), Some(device)) = (message, device) {
            let device = device.address.clone();
            self.violations.push(Violation::DevicePanicked { device, message });
        }
    }
}

impl State {
    /// Runs a device model; `None` after it has panicked.
    fn run_device<T>(
        &mut self,
        group: u32,
        index: usize,
        what: impl FnOnce(&mut dyn DeviceModel, &mut Bus<'_>) -> T,
    ) -> Option<T> {
        let mut model = self.kernel.slot_mut(group, index)?.model.take()?;
        let result = guarded(|| what(&mut *model, &mut Bus { state: self, group, index }));
        match result {
            Ok(value) => {
                self.kernel.slot_mut(group, index)?.model = Some(model);
                self.storm(group, index);
                Some(value)
            }
            Err(message) => {
                let _ = guarded(|| drop(model));
                if let Some(slot) = self.kernel.slot_mut(group, index) {
                    slot.set_pin(false);
                }
                self.kernel.note_panic(group, index, Some(message));
                None
            }
        }
    }

    /// Sends a message on every vector, if a test has requested that.
    fn storm(&mut self, group: u32, index: usize) {
        let Some(slot) = self.kernel.slot(group, index) else { return };
        if slot.fault == Some(DeviceFault::InterruptStorm) {
            let vectors = slot.irqs.messages();
            let mut bus = Bus { state: self, group, index };
            for vector in 0..vectors {
                bus.message(vector);
            }
        }
    }

    /// Reads one register. Returns ones if the device does not answer; `stopped` says that its PE
    /// does not.
    pub(in crate::model) fn bar_read(
        &mut self,
        (group, index): (u32, usize),
        bar: u32,
        offset: u64,
        data: &mut [u8],
        stopped: bool,
    ) -> Result<()> {
        let slot = self.kernel.slot(group, index).ok_or(Errno::ENODEV)?;
        if !slot.config.decodes() {
            return Err(Errno::EIO);
        }
        if stopped || slot.fault == Some(DeviceFault::AllOnes) {
            data.fill(0xff);
            return Ok(());
        }
        if let Some(found) = slot.msix(bar, offset, data.len()) {
            data.copy_from_slice(&found[..data.len()]);
            return Ok(());
        }
        data.fill(0);
        if self.run_device(group, index, |model, bus| model.read_bar(bar, offset, data, bus)).is_none() {
            data.fill(0xff);
        }
        Ok(())
    }

    /// Writes one register of a device that answers.
    pub(in crate::model) fn bar_write(
        &mut self,
        (group, index): (u32, usize),
        bar: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        let slot = self.kernel.slot(group, index).ok_or(Errno::ENODEV)?;
        if !slot.config.decodes() {
            return Err(Errno::EIO);
        }
        // The kernel owns the MSI-X table.
        if slot.fault == Some(DeviceFault::AllOnes) || slot.msix(bar, offset, data.len()).is_some() {
            return Ok(());
        }
        self.run_device(group, index, |model, bus| model.write_bar(bar, offset, data, bus));
        Ok(())
    }

    pub(in crate::model) fn config_read(&self, group: u32, index: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        self.kernel.slot(group, index).ok_or(Errno::ENODEV)?.config.read(offset, data)
    }

    pub(in crate::model) fn config_write(&mut self, group: u32, index: usize, offset: u64, data: &[u8]) -> Result<()> {
        let slot = self.kernel.slot_mut(group, index).ok_or(Errno::ENODEV)?;
        if let Some(own) = slot.config.write(offset, data)? {
            self.run_device(group, index, |model, bus| model.config_written(own, bus));
        }
        Ok(())
    }

    /// Lets every device that answers do pending work. Returns whether any did.
    pub(in crate::model) fn step(&mut self) -> bool {
        let all = self.kernel.groups.values().flat_map(|group| (0..group.devices.len()).map(|at| (group.number, at)));
        let all: Vec<_> = all.collect();
        all.into_iter().fold(false, |any, (group, index)| {
            let runs = !self.stopped(group, index);
            any | (runs && self.run_device(group, index, |model, bus| model.step(bus)).unwrap_or(false))
        })
    }

    /// Closes the last file of a device: the kernel resets it and takes it off the bus.
    pub(in crate::model) fn device_closed(&mut self, group: u32, index: usize) {
        let refills = self.kernel.refills_msix();
        if let Some(slot) = self.kernel.slot_mut(group, index) {
            slot.config.power_on();
            slot.irqs.disable_all();
            slot.interrupts_changed(refills);
        }
        self.kernel.reset_device(group, index, Reset::Function);
    }
}

/// Returns the size of a region of a device, if it can be opened.
pub(in crate::model) fn region_size(slot: &Slot, index: u32) -> u64 {
    if (index as usize) < BARS { slot.description.bar_size(index) } else { 0 }
}
