//! An Ethernet controller, after Intel's 82574 GbE controller family datasheet, revision 3.4.

mod descriptor;
mod interrupts;
mod receive;
mod registers;
mod ring;
mod rss;
mod transmit;

use super::pci::{Bus, Description, DeviceModel, Reset};
use core::fmt;
use interrupts::Causes;
use registers::{Access, Registers};
use ring::Ring;
use transmit::Sender;

/// Number of transmit rings, and of receive rings.
const QUEUES: usize = 2;
/// Number of vectors of MSI-X: one for each ring, and one for the rest.
const VECTORS: u32 = 5;

const REGISTERS: u32 = 0;
const REGISTERS_SIZE: u64 = 0x2_0000;
/// Size of the BAR of the flash memory, which is absent.
const FLASH: u32 = 1;
const FLASH_SIZE: u64 = 0x2_0000;
const MSIX: u32 = 3;
const MSIX_SIZE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x2000;

/// The station's address unless [`E1000e::with_address`] says otherwise: QEMU's.
const ADDRESS: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// An Intel 82574L Ethernet controller, QEMU's `e1000e`, on a network without other stations: what
/// it sends arrives nowhere, except with loopback (RCTL.LBM), where it arrives at the controller
/// itself.
///
/// It has two transmit and two receive rings, with legacy and extended descriptors; packets in
/// several pieces and in several buffers, up to 16 KiB; receive queues by the hash of IPv4
/// addresses and TCP ports (RSS); filters by station address; counters of packets that were sent,
/// received and missed; and interrupts by MSI-X of five vectors, MSI or a pin. Registers that it
/// does not have read as zeros: those of the PHY, the NVM, offloads, VLANs, multicast filters and
/// interrupt moderation among them. Packets that ask for an offload are not sent.
///
/// Packets are sent and received in the write to a tail register, in order. If memory cannot be
/// reached, it does what the hardware does: a packet that cannot be read is not sent, and a ring
/// whose descriptors cannot be read stops. Work whose DMA [sticks](super::pci::DeviceFault) is done
/// in a later access or step.
///
/// ```
/// use spapr_iommu::model::{E1000e, Model};
/// use spapr_iommu::{Dma, DmaMask, Group, device::Endian};
/// use std::sync::Arc;
///
/// let model = Model::new("powernv9-64k".parse()?).with_device(Group(0), E1000e::new())?;
/// let dma = Dma::new(Arc::new(model));
/// let device = dma.open("0000:00:00.0".parse()?, DmaMask::ALL)?;
/// let registers = device.bar(0, Endian::Little)?;
/// assert_eq!(registers.read::<u32>(0x5400)?.to_le_bytes(), [0x52, 0x54, 0x00, 0x12]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct E1000e {
    address: [u8; 6],
    registers: Registers,
    causes: Causes,
    senders: [Sender; QUEUES],
}

impl Default for E1000e {
    fn default() -> Self {
        Self::new()
    }
}

impl E1000e {
    /// Creates a controller with the station address 52:54:00:12:34:56.
    pub fn new() -> Self {
        Self {
            address: ADDRESS,
            registers: Registers::new(ADDRESS),
            causes: Causes::default(),
            senders: Default::default(),
        }
    }

    /// Sets the station's address.
    pub fn with_address(self, address: [u8; 6]) -> Self {
        Self { address, registers: Registers::new(address), ..self }
    }

    fn power_on(&mut self) {
        *self = Self::new().with_address(self.address);
    }

    /// Sends pending packets, and interrupts. Returns whether anything was sent.
    fn work(&mut self, bus: &mut Bus<'_>) -> bool {
        let sent = (0..QUEUES).fold(false, |any, queue| any | self.transmit(queue, bus));
        self.causes.interrupt(&self.registers, bus);
        sent
    }

    fn read(&mut self, offset: u64, bus: &mut Bus<'_>) -> u32 {
        match Access::of(offset) {
            Access::Causes(register) => self.causes.read(register, interrupts::has_msix(bus)),
            Access::Counter => self.registers.take_count(offset),
            Access::Plain => self.registers.read(offset),
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match Access::of(offset) {
            Access::Causes(register) => self.causes.write(register, value),
            // Counters are read only.
            Access::Counter => {}
            Access::Plain => {
                if self.registers.write(offset, value) {
                    self.power_on();
                }
                // New descriptors restart a ring that had stopped.
                for (queue, sender) in self.senders.iter_mut().enumerate() {
                    sender.stopped &= offset != Ring::transmit(queue).tail_register();
                }
            }
        }
    }
}

impl DeviceModel for E1000e {
    fn description(&self) -> Description {
        let description = Description::new(0x8086, 0x10d3).subsystem(0x8086, 0).class(0x02_0000);
        let description = description.bar(REGISTERS, REGISTERS_SIZE).bar(FLASH, FLASH_SIZE).bar(MSIX, MSIX_SIZE);
        let description = description.intx().msi(1).msix(VECTORS, MSIX, 0, MSIX_PENDING).express();
        // Power management: version 2, initialised by the driver.
        description.capability(0x01, &[0x22, 0, 0, 0, 0, 0], &[0, 0, 3])
    }

    fn read_bar(&mut self, bar: u32, offset: u64, data: &mut [u8], bus: &mut Bus<'_>) {
        if bar != REGISTERS {
            return;
        }
        self.work(bus);
        // Registers have 32 bits; a narrower access is to a part of one.
        let word = offset & !3;
        for (at, part) in (word..).step_by(4).zip(data.chunks_mut(4)) {
            let value = self.read(at, bus).to_le_bytes();
            let skip = (offset - word) as usize;
            part.iter_mut().zip(&value[skip..]).for_each(|(byte, value)| *byte = *value);
        }
        // Reading the causes releases the pin.
        self.causes.interrupt(&self.registers, bus);
    }

    fn write_bar(&mut self, bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>) {
        if bar != REGISTERS {
            return;
        }
        for (at, value) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            self.write(at, u32::from_le_bytes(*value));
        }
        self.work(bus);
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        self.work(bus)
    }

    fn reset(&mut self, _reset: Reset) {
        self.power_on();
    }

    fn fork(&self) -> Box<dyn DeviceModel> {
        Box::new(self.clone())
    }
}

/// Without the registers and the packets under way.
impl fmt::Debug for E1000e {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E1000e({:02x?}, {:?})", self.address, self.causes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_shows_itself_in_a_line() {
        let mut controller = E1000e::new();
        for offset in (0..0x2_0000).step_by(4) {
            controller.registers.write(offset, !0);
        }
        let text = format!("{controller:?}");
        assert!(text.starts_with("E1000e([52, 54, 00") && text.len() < 250, "{text}");
    }
}
