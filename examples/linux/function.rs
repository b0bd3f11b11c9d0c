//! Functions on the guest's bus: devices of the host, and devices that the monitor emulates.

use super::kvm::Vm;
use super::messages::Messages;
use std::error::Error;

/// Memory of the guest's bus: bus addresses, and their distance from the processor's addresses.
pub(crate) const MMIO: (u64, u64) = (0x8000_0000, 0x7000_0000);
pub(crate) const MMIO_OFFSET: u64 = 0x2000_0000_0000;
/// Distance of devices' BARs: a page of the guest's kernel, or the largest BAR here.
const STEP: u64 = 0x10_0000;

/// Returns the configuration address of a slot of the bus: bus, device and function.
pub(crate) fn place(slot: u32) -> u32 {
    (slot + 1) << 11
}

/// Returns the bus address of a slot's BAR 0.
pub(crate) fn bar_address(slot: u32) -> u64 {
    MMIO.0 + STEP * u64::from(slot + 1)
}

/// A device with one BAR and messages.
pub(crate) trait Function: Send + Sync {
    /// Name of its node in the device tree.
    fn name(&self) -> &'static str;

    /// Connector by which it leaves and returns.
    fn connector(&self) -> Option<u32> {
        None
    }

    /// Bus, device and function, as in a configuration address.
    fn place(&self) -> u32;

    /// Bus address and size of BAR 0.
    fn bar(&self) -> (u64, u64);

    /// Reads a register of the configuration space, of 1, 2 or 4 bytes.
    fn read_config(&self, at: u64, size: u32) -> u32;

    /// Writes a register of the configuration space, of 1, 2 or 4 bytes.
    fn write_config(&self, at: u64, size: u32, value: u32);

    /// Called after writes: the guest may have moved BAR 0.
    fn follow_bar(&self, _: &Vm) {}

    /// Performs a load from BAR 0.
    fn load(&self, at: u64, len: usize) -> Vec<u8>;

    /// Performs a store to BAR 0.
    fn store(&self, at: u64, data: &[u8]);

    /// Returns its messages.
    fn messages(&self) -> &Messages;

    /// Resets it to the state in which the guest found it.
    fn reset(&self, vm: &Vm) -> Result<(), Box<dyn Error>>;
}

/// Returns the function at a real address of the guest, and the offset in its BAR.
fn at<'a>(functions: impl Iterator<Item = &'a dyn Function>, address: u64) -> Option<(&'a dyn Function, u64)> {
    let offset = |function: &dyn Function| {
        let (at, size) = function.bar();
        address.checked_sub(at + MMIO_OFFSET).filter(|offset| *offset < size)
    };
    functions.into_iter().find_map(|function| Some((function, offset(function)?)))
}

/// Returns the result of a load of the guest.
pub(crate) fn load<'a>(functions: impl Iterator<Item = &'a dyn Function>, address: u64, len: usize) -> Vec<u8> {
    at(functions, address).map_or_else(|| vec![0xff; len], |(function, offset)| function.load(offset, len))
}

/// Performs a store of the guest.
pub(crate) fn store<'a>(functions: impl Iterator<Item = &'a dyn Function>, address: u64, data: &[u8]) {
    if let Some((function, offset)) = at(functions, address) {
        function.store(offset, data);
    }
}
