//! The configuration space of a device: little endian, with the bits that a driver may write.

use super::description::{BarPlace, Description, DescriptionError, EXPRESS, MSI, MSIX};
use crate::host::Errno;
use core::ops::Range;

const CONVENTIONAL: usize = 256;
const EXTENDED: usize = 4096;

const COMMAND: usize = 4;
/// I/O space, memory space, bus master.
const COMMAND_WRITABLE: u8 = 0x07;
const MEMORY: u8 = 2;
const MASTER: u8 = 4;
const STATUS: usize = 6;
const HAS_CAPABILITIES: u8 = 0x10;
const BAR0: usize = 0x10;
/// In a BAR: the address has 64 bits.
const WIDE: u8 = 4;
const FIRST_CAPABILITY: usize = 0x34;
const PIN: usize = 0x3d;
const CAPABILITIES: usize = 0x40;

/// Device capabilities of PCI Express: reset of the function alone.
const EXPRESS_FLR: u32 = 1 << 28;

#[derive(Clone, Debug)]
pub(in crate::model) struct ConfigSpace {
    bytes: Box<[u8]>,
    /// Bits that a driver may change.
    writable: Box<[u8]>,
    /// The contents after power-on.
    initial: Box<[u8]>,
    /// Offsets of the control words of MSI and MSI-X.
    msi: Option<usize>,
    msix: Option<usize>,
    /// Offsets of the device's own capabilities.
    own: Range<usize>,
}

impl ConfigSpace {
    pub(super) fn new(description: &Description) -> Result<Self, DescriptionError> {
        description.check()?;
        let size = if description.express { EXTENDED } else { CONVENTIONAL };
        let mut space = Self {
            bytes: vec![0; size].into(),
            writable: vec![0; size].into(),
            initial: Box::default(),
            msi: None,
            msix: None,
            own: 0..0,
        };
        space.header(description);
        space.capabilities(description)?;
        space.initial = space.bytes.clone();
        Ok(space)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn header(&mut self, description: &Description) {
        self.put(0, &description.id.0.to_le_bytes());
        self.put(2, &description.id.1.to_le_bytes());
        self.writable[COMMAND] = COMMAND_WRITABLE;
        self.bytes[8] = description.revision;
        self.put(9, &description.class.to_le_bytes()[..3]);
        for &BarPlace { index, size, wide } in &description.bars {
            let at = BAR0 + 4 * index as usize;
            // The writable bits are those above the size, so that the BAR can be sized.
            let mask = (!(size - 1)).to_le_bytes();
            let len = if wide { 8 } else { 4 };
            self.writable[at..at + len].copy_from_slice(&mask[..len]);
            self.bytes[at] = if wide { WIDE } else { 0 };
        }
        self.put(0x2c, &description.subsystem.0.to_le_bytes());
        self.put(0x2e, &description.subsystem.1.to_le_bytes());
        self.bytes[PIN] = description.intx.into();
    }

    fn capabilities(&mut self, description: &Description) -> Result<(), DescriptionError> {
        let (none, mut list) = (Vec::new(), Vec::new());
        if description.msi > 0 {
            // Vectors as a power of two; addresses have 64 bits.
            let control = 0x80 | (description.msi.trailing_zeros() as u16) << 1;
            let mut bytes = vec![0; 12];
            bytes[..2].copy_from_slice(&control.to_le_bytes());
            list.push((MSI, bytes, &none));
        }
        if let Some(msix) = &description.msix {
            let mut bytes = (msix.vectors as u16 - 1).to_le_bytes().to_vec();
            // Offsets are multiples of 8; the BAR's number is in the bits below.
            bytes.extend((msix.table as u32 | msix.bar).to_le_bytes());
            bytes.extend((msix.pending as u32 | msix.bar).to_le_bytes());
            list.push((MSIX, bytes, &none));
        }
        if description.express {
            // Version 2 of the structure, an endpoint.
            let mut bytes = vec![0; 58];
            bytes[0] = 2;
            bytes[2..6].copy_from_slice(&EXPRESS_FLR.to_le_bytes());
            list.push((EXPRESS, bytes, &none));
        }
        let made = list.len();
        list.extend(description.capabilities.iter().map(|c| (c.id, c.bytes.clone(), &c.writable)));
        let length = |bytes: &Vec<u8>| (2 + bytes.len()).next_multiple_of(4);
        let all = list.iter().map(|(_, bytes, _)| length(bytes)).sum();
        if all > CONVENTIONAL - CAPABILITIES {
            return Err(DescriptionError::Capabilities { bytes: all });
        }
        let (mut link, mut at) = (FIRST_CAPABILITY, CAPABILITIES);
        for (number, (id, bytes, writable)) in list.iter().enumerate() {
            if number == made {
                self.own = at..CAPABILITIES + all;
            }
            self.bytes[STATUS] = HAS_CAPABILITIES;
            (self.bytes[link], self.bytes[at]) = (at as u8, *id);
            self.put(at + 2, bytes);
            let changing = writable.len().min(bytes.len());
            self.writable[at + 2..at + 2 + changing].copy_from_slice(&writable[..changing]);
            match *id {
                MSI => self.msi = Some(at + 2),
                MSIX => self.msix = Some(at + 2),
                _ => {}
            }
            (link, at) = (at + 1, at + length(bytes));
        }
        Ok(())
    }

    pub(in crate::model) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn span(&self, offset: u64, len: usize) -> Result<Range<usize>, Errno> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size()).ok_or(Errno::EINVAL)?;
        Ok(offset as usize..end as usize)
    }

    pub(in crate::model) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.copy_from_slice(&self.bytes[self.span(offset, data.len())?]);
        Ok(())
    }

    /// Writes the writable bits. Returns the bytes of the device's own capabilities among them.
    pub(in crate::model) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Option<Range<u64>>, Errno> {
        let span = self.span(offset, data.len())?;
        for (at, byte) in span.clone().zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
        }
        let own = span.start.max(self.own.start) as u64..span.end.min(self.own.end) as u64;
        Ok((!own.is_empty()).then_some(own))
    }

    /// Writes a byte of the device's own capability, on the device's behalf.
    pub(super) fn set_own(&mut self, offset: u64, byte: u8) -> bool {
        let at = usize::try_from(offset).ok().filter(|at| self.own.contains(at));
        at.map(|at| self.bytes[at] = byte).is_some()
    }

    /// Shows which messages the kernel has enabled.
    pub(super) fn show_messages(&mut self, msi: bool, msix: bool) {
        for (control, bit, on) in [(self.msi, 0x0001u16, msi), (self.msix, 0x8000, msix)] {
            let Some(at) = control else { continue };
            let before = u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
            self.put(at, &(if on { before | bit } else { before & !bit }).to_le_bytes());
        }
    }

    /// Returns whether memory decode is on.
    pub(super) fn decodes(&self) -> bool {
        self.bytes[COMMAND] & MEMORY != 0
    }

    /// Returns whether the device may use the bus.
    pub(in crate::model) fn is_master(&self) -> bool {
        self.bytes[COMMAND] & MASTER != 0
    }

    /// After a reset of the bus, the kernel restores BARs and memory decode.
    pub(super) fn drop_master(&mut self) {
        self.bytes[COMMAND] &= !MASTER;
    }

    pub(super) fn power_on(&mut self) {
        self.bytes.copy_from_slice(&self.initial);
    }
}

/// Returns whether vfio-pci itself answers for a byte of the configuration space: IDs, BARs, the
/// head of the capability list, interrupt line and pin (`init_pci_cap_basic_perm` in
/// `drivers/vfio/pci/vfio_pci_config.c`).
pub(in crate::model) fn is_virtual(offset: u64) -> bool {
    matches!(offset, 0..4 | 0x10..0x28 | 0x30..0x35 | 0x3c..0x3e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(space: &ConfigSpace, at: u64) -> [u8; N] {
        let mut data = [0; N];
        space.read(at, &mut data).unwrap();
        data
    }

    #[test]
    fn bars_can_be_sized_and_the_rest_of_the_header_stays() {
        let description = Description::new(0x1234, 0x5678).bar(0, 1 << 20).bar64(2, 1 << 33).class(0x01_0802);
        let mut space = ConfigSpace::new(&description).unwrap();
        assert_eq!(space.write(0, &[0xff; 64]), Ok(None));
        assert_eq!(read(&space, 0x10), [0, 0, 0xf0, 0xff]);
        assert_eq!(read(&space, 0x14), [0; 4]);
        assert_eq!(read(&space, 0x18), [4, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(read(&space, 0), [0x34, 0x12, 0x78, 0x56, 7, 0, 0, 0, 0, 2, 8, 1]);
        space.power_on();
        assert_eq!((read(&space, 0x10), read(&space, 4)), ([0; 4], [0; 2]));
        assert_eq!(space.write(250, &[0; 8]), Err(Errno::EINVAL));
        assert_eq!(space.read(u64::MAX, &mut [0]), Err(Errno::EINVAL));
    }

    #[test]
    fn capabilities_are_a_list_and_only_the_device_s_own_are_its_business() {
        let description = Description::new(1, 2).bar(0, 4096).msi(4).msix(5, 0, 0x800, 0xc00).express().capability(
            0x09,
            &[8, 0, 0, 0, 0, 0],
            &[0, 0x0f],
        );
        let mut space = ConfigSpace::new(&description).unwrap();
        let (mut at, mut found) = (u64::from(read::<1>(&space, 0x34)[0]), Vec::new());
        while at != 0 {
            let [id, next] = read(&space, at);
            found.push((id, at));
            at = next.into();
        }
        assert_eq!(found, [(MSI, 0x40), (MSIX, 0x50), (EXPRESS, 0x5c), (0x09, 0x98)]);
        assert_eq!(read(&space, 0x42), [0x84, 0], "four vectors, 64-bit addresses");
        assert_eq!(read(&space, 0x52), [4, 0, 0, 8, 0, 0, 0, 0xc, 0, 0]);
        assert_eq!(space.size(), 4096);
        assert_eq!(space.write(0x50, &[0xff; 12]), Ok(None));
        assert_eq!(read(&space, 0x52), [4, 0], "the kernel enables MSI-X");
        space.show_messages(false, true);
        assert_eq!(read(&space, 0x52), [4, 0x80]);
        assert_eq!(space.write(0x94, &[0xff; 8]), Ok(Some(0x98..0x9c)));
        assert_eq!(read(&space, 0x98), [0x09, 0, 8, 0x0f]);
        assert!(space.set_own(0x9a, 7) && !space.set_own(0x40, 7));
        assert_eq!(read(&space, 0x9a), [7]);
    }

    #[test]
    fn too_many_capabilities_are_refused() {
        let description = Description::new(1, 2).express().capability(9, &[0; 131], &[]);
        assert_eq!(ConfigSpace::new(&description).unwrap_err(), DescriptionError::Capabilities { bytes: 196 });
    }
}
