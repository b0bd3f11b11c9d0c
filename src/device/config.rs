//! The configuration space of a device.

use super::error::AccessError;
use super::register::{Access, Endian, RegisterValue};
use core::ops::Range;
use parking_lot::Mutex;

const ID: u64 = 0;
const COMMAND: u64 = 4;
const STATUS: u64 = 6;
const CLASS: u64 = 8;
const BARS: Range<u64> = 0x10..0x28;
const ROM: Range<u64> = 0x30..0x34;
const FIRST_CAPABILITY: u64 = 0x34;

const MEMORY: u16 = 2;
const MASTER: u16 = 4;
const HAS_CAPABILITIES: u16 = 0x10;

/// IDs of the capabilities with guarded registers (PCI specification).
const POWER: u8 = 0x01;
const MSI: u8 = 0x05;
const EXPRESS: u8 = 0x10;
pub(super) const MSIX: u8 = 0x11;
const ADVANCED: u8 = 0x13;
/// Longest capability list: 192 bytes hold no more.
const MAX_CAPABILITIES: usize = 48;

/// A register that has its own method.
#[derive(Debug)]
struct Guard {
    span: Range<u64>,
    register: &'static str,
    method: &'static str,
}

/// The configuration space of a device, little endian as PCI has it.
///
/// While the device is open, this is the only way to write it: other handles only read. Writes are
/// refused to registers that would turn memory decode off (the kernel then ends a process that
/// touches a BAR with SIGBUS), move BARs, put the device to sleep, or set up DMA and interrupts
/// without the knowledge of [`Device`](super::Device).
///
/// vfio-pci answers for some of it itself (IDs, BARs, capability list), so these read normally even
/// after the device is gone.
pub struct Config {
    access: Access,
    guards: Vec<Guard>,
    capabilities: Vec<(u8, u64)>,
    /// The value the command register should hold.
    command: Mutex<u16>,
}

impl core::fmt::Debug for Config {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Config({:?}, command {:#06x})", self.access, *self.command.lock())
    }
}

impl Config {
    pub(super) fn open(access: Access) -> Result<Self, AccessError> {
        let capabilities = capabilities(&access)?;
        let guards = guards(&capabilities);
        Ok(Self { access, guards, capabilities, command: Mutex::default() })
    }

    /// Turns memory decode on and bus mastering off. Only for a device that answers: all ones would
    /// be taken for the register's value.
    pub(super) fn take_over(&self) -> Result<(), AccessError> {
        let mut command = self.command.lock();
        *command = (self.read::<u16>(COMMAND)? | MEMORY) & !MASTER;
        self.put(*command).map(drop)
    }

    /// Returns its size: 256 bytes, or 4096 for PCI Express.
    pub fn size(&self) -> u64 {
        self.access.region.size()
    }

    /// Reads a register in one access of its width.
    pub fn read<V: RegisterValue>(&self, offset: u64) -> Result<V, AccessError> {
        Ok(self.access.read(offset, Endian::Little)?.0)
    }

    /// Writes a register in one access of its width. Refused if [`Device`](super::Device) has a
    /// method for it.
    pub fn write<V: RegisterValue>(&self, offset: u64, value: V) -> Result<(), AccessError> {
        let span = offset..offset.saturating_add(V::WIDTH as u64);
        match self.guards.iter().find(|guard| guard.span.start < span.end && span.start < guard.span.end) {
            Some(Guard { register, method, .. }) => {
                let device = self.access.device.clone();
                Err(AccessError::Guarded { device, offset, width: V::WIDTH, register, method })
            }
            None => self.access.write(offset, value, Endian::Little),
        }
    }

    /// Returns the offset of the first capability with that ID (PCI specification, appendix H).
    pub fn capability(&self, id: u8) -> Option<u64> {
        self.capabilities.iter().find(|(found, _)| *found == id).map(|(_, at)| *at)
    }

    /// Returns vendor and device ID.
    pub(super) fn id(&self) -> Result<(u16, u16), AccessError> {
        Ok((self.read(ID)?, self.read(ID + 2)?))
    }

    /// Returns whether the device answers. The kernel itself answers for the vendor ID, but not for
    /// class and revision.
    pub(super) fn answers(&self) -> bool {
        self.read::<u32>(CLASS).is_ok_and(|class| class != u32::MAX)
    }

    /// Sets or clears the bus master bit. Returns what the register then reads, which waits for the
    /// write to arrive.
    pub(super) fn set_master(&self, on: bool) -> Result<u16, AccessError> {
        let mut command = self.command.lock();
        let wanted = if on { *command | MASTER } else { *command & !MASTER };
        let read = self.put(wanted)?;
        *command = wanted;
        Ok(read)
    }

    /// Writes the command register's intended value, after something has reset the device or
    /// dropped a write. With memory decode the kernel restores BARs that were lost
    /// (`vfio_basic_config_write`).
    pub(super) fn restore(&self) -> Result<u16, AccessError> {
        let command = self.command.lock();
        self.put(*command)
    }

    /// Clears the bus master bit in the intended value, for when writes arrive again.
    pub(super) fn forget_master(&self) {
        *self.command.lock() &= !MASTER;
    }

    fn put(&self, command: u16) -> Result<u16, AccessError> {
        self.access.write(COMMAND, command, Endian::Little)?;
        self.read(COMMAND)
    }
}

/// Returns whether a command register's value lets the device use the bus. All ones do not.
pub(super) fn is_master(command: u16) -> bool {
    command & MASTER != 0 && command != u16::MAX
}

/// Returns IDs and offsets, in the order of the list.
fn capabilities(access: &Access) -> Result<Vec<(u8, u64)>, AccessError> {
    let byte = |at: u64| access.read::<u8>(at, Endian::Little).map(|(byte, _)| byte);
    let (status, _) = access.read::<u16>(STATUS, Endian::Little)?;
    let mut found = Vec::new();
    if status & HAS_CAPABILITIES == 0 {
        return Ok(found);
    }
    let mut next = byte(FIRST_CAPABILITY)? & !3;
    while next >= 0x40 && found.len() < MAX_CAPABILITIES {
        let at = u64::from(next);
        found.push((byte(at)?, at));
        next = byte(at + 1)? & !3;
    }
    Ok(found)
}

fn guards(capabilities: &[(u8, u64)]) -> Vec<Guard> {
    let guard = |span, register, method| Guard { span, register, method };
    let mut all = vec![
        guard(COMMAND..COMMAND + 2, "the command register", "`Device::start_dma` and `stop_dma`"),
        guard(BARS, "a BAR", "`Device::bar`, which knows where the kernel put it"),
        guard(ROM, "the ROM's BAR", "the kernel's `rom` file in sysfs"),
    ];
    for &(id, at) in capabilities {
        let interrupts = "`Device::enable_interrupts`";
        all.extend(match id {
            POWER => {
                Some(guard(at + 4..at + 6, "the power state", "drop the device, then the kernel puts it to sleep"))
            }
            MSI => Some(guard(at + 2..at + 4, "MSI", interrupts)),
            MSIX => Some(guard(at + 2..at + 4, "MSI-X", interrupts)),
            // Bit 15 of device control and bit 0 of AF control reset the function.
            EXPRESS => Some(guard(at + 9..at + 10, "function level reset", "`Device::reset`")),
            ADVANCED => Some(guard(at + 4..at + 5, "function level reset", "`Device::reset`")),
            _ => None,
        });
    }
    all
}
