//! IDENTIFY and GET LOG PAGE: how a controller describes itself (NVM Express base specification
//! 2.0, sections 5.16 and 5.17; NVM command set specification 1.0, section 4.1.5).

use super::namespace::Namespace;

/// Size of each structure of IDENTIFY.
pub(super) const BYTES: usize = 4096;
/// The only namespace.
pub(super) const NAMESPACE: u32 = 1;
/// Largest transfer of a command, as a power of two of the smallest page.
pub(super) const MAX_TRANSFER: u8 = 7;
/// Largest number of asynchronous event requests in progress.
pub(super) const EVENTS: usize = 4;
/// Version 1.4 of the specification.
pub(super) const VERSION: u32 = 0x0001_0400;

/// As in QEMU's controller, so that drivers find either.
pub(super) const VENDOR: u16 = 0x1b36;
pub(super) const DEVICE: u16 = 0x0010;
pub(super) const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// Puts text into a field that is padded with spaces.
fn text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    field.iter_mut().zip(text.bytes()).for_each(|(byte, new)| *byte = new);
}

/// Data structure of the controller.
pub(super) fn controller(serial: &str) -> [u8; BYTES] {
    let mut data = [0; BYTES];
    data[0..2].copy_from_slice(&VENDOR.to_le_bytes());
    data[2..4].copy_from_slice(&SUBSYSTEM.0.to_le_bytes());
    text(&mut data[4..24], serial);
    text(&mut data[24..64], "NVMe controller of a model");
    text(&mut data[64..72], env!("CARGO_PKG_VERSION"));
    data[77] = MAX_TRANSFER;
    data[80..84].copy_from_slice(&VERSION.to_le_bytes());
    data[258] = 3; // four aborts at a time
    data[259] = EVENTS as u8 - 1;
    data[260] = 0x03; // one firmware slot, read only
    data[512] = 0x66; // commands of 2^6 bytes
    data[513] = 0x44; // completions of 2^4 bytes
    data[516..520].copy_from_slice(&NAMESPACE.to_le_bytes());
    data[525] = 0x07; // a volatile write cache, and a flush of all namespaces
    let name = b"nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001";
    data[768..768 + name.len()].copy_from_slice(name);
    data
}

/// Data structure of a namespace: one format, without metadata.
pub(super) fn namespace(namespace: &Namespace) -> [u8; BYTES] {
    let mut data = [0; BYTES];
    // Size, capacity, use.
    for field in [0, 8, 16] {
        data[field..field + 8].copy_from_slice(&namespace.blocks().to_le_bytes());
    }
    data[130] = namespace.shift();
    data
}

/// List of the active namespaces with a number above `after`.
pub(super) fn active(after: u32) -> [u8; BYTES] {
    let mut data = [0; BYTES];
    if after < NAMESPACE {
        data[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
    }
    data
}

/// Descriptors of the namespace: a UUID.
pub(super) fn descriptors() -> [u8; BYTES] {
    let mut data = [0; BYTES];
    (data[0], data[1]) = (3, 16);
    (data[4 + 6], data[4 + 8], data[4 + 15]) = (0x40, 0x80, 1);
    data
}

/// Health log: `[read, written]` in units of 512000 bytes, and commands of each kind.
pub(super) fn health(units: [u64; 2], commands: [u64; 2]) -> Vec<u8> {
    let mut data = vec![0; 512];
    data[1..3].copy_from_slice(&300u16.to_le_bytes()); // kelvin
    (data[3], data[4]) = (100, 10); // spare blocks and their threshold, percent
    for (field, value) in [(32, units[0]), (48, units[1]), (64, commands[0]), (80, commands[1])] {
        data[field..field + 8].copy_from_slice(&value.to_le_bytes());
    }
    data
}

/// Firmware log: one slot, in use.
pub(super) fn firmware() -> Vec<u8> {
    let mut data = vec![0; 512];
    data[0] = 1;
    text(&mut data[8..16], env!("CARGO_PKG_VERSION"));
    data
}
