//! The device: a model of it, for machines that do not have one.

use spapr_iommu::Iova;
use spapr_iommu::model::pci::{Bus, BusError, Description, DeviceModel, Reset};

/// A device that adds up bytes of memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdderModel {
    address: u64,
    count: u32,
    status: u32,
    sum: u64,
}

/// Bits of the status register.
const BUSY: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 4;

impl AdderModel {
    /// Adds up, if started. A transfer that sticks leaves the device busy.
    fn work(&mut self, bus: &mut Bus<'_>) -> bool {
        if self.status & BUSY == 0 {
            return false;
        }
        let mut data = vec![0; self.count as usize];
        let end = match bus.read(Iova(self.address), &mut data) {
            Ok(()) => DONE,
            Err(BusError::Stuck) => return false,
            Err(_) => FAILED,
        };
        self.sum = data.iter().map(|byte| u64::from(*byte)).sum();
        self.status = end;
        self.interrupt(bus);
        true
    }

    /// Interrupts by a message if the driver has enabled messages, otherwise by the pin.
    fn interrupt(&self, bus: &mut Bus<'_>) {
        let ended = self.status & (DONE | FAILED) != 0;
        bus.set_intx(ended && bus.messages() == 0);
        if ended {
            bus.message(0);
        }
    }
}

impl DeviceModel for AdderModel {
    fn description(&self) -> Description {
        Description::new(0x1234, 0xadd0).class(0x12_0000).bar(0, 4096).intx().msi(1).express()
    }

    fn read_bar(&mut self, _bar: u32, offset: u64, data: &mut [u8], _bus: &mut Bus<'_>) {
        let value = match offset {
            0x00 => 0xadd_e400,
            0x18 => self.status.into(),
            0x20 => self.sum,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn write_bar(&mut self, _bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        match offset {
            0x08 => self.address = value,
            // A length of at most 64 KiB.
            0x10 => self.count = value.min(0x1_0000) as u32,
            0x14 => self.status = BUSY,
            0x18 => {
                self.status &= !(value as u32);
                self.interrupt(bus);
            }
            _ => {}
        }
        self.work(bus);
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        self.work(bus)
    }

    fn reset(&mut self, _reset: Reset) {
        *self = Self::default();
    }

    fn fork(&self) -> Box<dyn DeviceModel> {
        Box::new(self.clone())
    }
}
