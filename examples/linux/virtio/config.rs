//! Configuration space of the disk: header, BAR 0 and capabilities (virtio 1.2, section 4.1.4).

use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

/// Structures in BAR 0, each in a page of 4 KiB, and the size of the BAR.
pub(super) const COMMON: u64 = 0x0000;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const TABLE: u64 = 0x4000;
pub(super) const PENDING: u64 = 0x5000;
pub(super) const BAR_SIZE: u64 = 0x8000;
/// Bytes of a structure.
const PAGE: u32 = 0x1000;

/// Messages: one for changes of the device, one for its queue.
pub(super) const VECTORS: u16 = 2;

/// Vendor of virtio devices; their device ID follows from this number and the type.
const VENDOR: u16 = 0x1af4;
const MODERN: u16 = 0x1040;
/// A mass storage controller, as in other monitors.
const CLASS: [u8; 3] = [0x00, 0x00, 0x01];

/// Registers of the header.
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR_0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Bits of the command register that a guest changes: memory, bus master, no INTx.
const COMMAND_BITS: u16 = 0x0406;
const MASTER: u8 = 4;
/// BAR 0 is memory with 64 address bits.
const MEMORY_64: u64 = 4;

/// IDs of capabilities: MSI-X, and vendor specific.
const MSIX: u8 = 0x11;
const VIRTIO: u8 = 0x09;
/// Offset of MSI-X's control register in its capability, and its two bits that a guest changes.
const CONTROL: usize = 2;
const CONTROL_BITS: u16 = 0xc000;

/// Kinds of virtio's capabilities (`VIRTIO_PCI_CAP_*`). The fifth, a window on the BAR in
/// configuration space for firmware, is left out: the guest has no firmware that needs it.
const KIND_COMMON: u8 = 1;
const KIND_NOTIFY: u8 = 2;
const KIND_ISR: u8 = 3;
const KIND_DEVICE: u8 = 4;

/// The configuration space.
pub(super) struct Space {
    bytes: [u8; 256],
    /// Bits that the guest can change.
    writable: [u8; 256],
    /// Place of the next capability, and of the pointer to it in the previous one.
    next: usize,
    pointer: usize,
    msix: usize,
}

impl Space {
    /// Creates it, with BAR 0 at a bus address.
    pub(super) fn new(bar: u64) -> Self {
        let mut space = Self { bytes: [0; 256], writable: [0; 256], next: 0x40, pointer: CAPABILITIES, msix: 0 };
        let device = MODERN + VIRTIO_ID_BLOCK as u16;
        for (at, id) in [(0x00, VENDOR), (0x02, device), (0x2c, VENDOR), (0x2e, device)] {
            space.put(at, &id.to_le_bytes());
        }
        space.put(0x08, &[1]);
        space.put(0x09, &CLASS);
        // There are capabilities.
        space.put(STATUS, &[1 << 4]);
        space.put(BAR_0, &(bar | MEMORY_64).to_le_bytes());
        space.allow(BAR_0, &(!(BAR_SIZE - 1)).to_le_bytes());
        space.allow(COMMAND, &COMMAND_BITS.to_le_bytes());

        let offsets = [TABLE as u32, PENDING as u32].map(u32::to_le_bytes).concat();
        space.msix = space.capability(MSIX, &[&(VECTORS - 1).to_le_bytes()[..], &offsets].concat());
        space.allow(space.msix + CONTROL, &CONTROL_BITS.to_le_bytes());
        for (kind, at) in [(KIND_COMMON, COMMON), (KIND_ISR, ISR), (KIND_DEVICE, DEVICE)] {
            space.virtio(kind, at, &[]);
        }
        // Notifications of the only queue go to the start: the multiplier of a queue's number.
        space.virtio(KIND_NOTIFY, NOTIFY, &0u32.to_le_bytes());
        space
    }

    /// Creates it with the registers that were saved.
    pub(super) fn restored(bar: u64, bytes: &[u8]) -> Option<Self> {
        let mut space = Self::new(bar);
        space.bytes = bytes.try_into().ok()?;
        Some(space)
    }

    /// Returns all registers.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Adds a capability and returns where it is.
    fn capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next;
        self.put(self.pointer, &[at as u8]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.pointer = at + 1;
        self.next = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Adds a `virtio_pci_cap`: its length, kind and BAR, the offset there and the size.
    fn virtio(&mut self, kind: u8, at: u64, more: &[u8]) {
        let len = 16 + more.len() as u8;
        let place = [at as u32, PAGE].map(u32::to_le_bytes).concat();
        self.capability(VIRTIO, &[&[len, kind, 0, 0, 0, 0][..], &place, more].concat());
    }

    /// Reads a register; all ones where there is none.
    pub(super) fn read(&self, at: u64, size: u32) -> u32 {
        let Some(bytes) = self.bytes.get(at as usize..(at as usize).saturating_add(size as usize)) else {
            return u32::MAX;
        };
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Writes the writable bits of a register.
    pub(super) fn write(&mut self, at: u64, size: u32, value: u32) {
        let places = at as usize..self.bytes.len();
        for (at, new) in places.zip(value.to_le_bytes()).take(size as usize) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
    }

    /// Returns whether the device may use the bus.
    pub(super) fn is_master(&self) -> bool {
        self.bytes[COMMAND] & MASTER != 0
    }

    /// Returns MSI-X's control register.
    pub(super) fn msix_control(&self) -> u16 {
        let at = self.msix + CONTROL;
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}
