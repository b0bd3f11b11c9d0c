//! The PCI host bridge's node, with a node for each device: on pSeries, Linux looks for devices in
//! the tree and not on the bus.

use super::fdt::{Fdt, halves};
use super::function::{Function, MMIO, MMIO_OFFSET};
use super::machine::Machine;
use super::plug::SLOTS;
use super::rtas::DDW;

/// Bits of an address's first cell: memory with 32 or 64 address bits, not relocatable.
const MEMORY_32: u32 = 0x0200_0000;
const MEMORY_64: u32 = 0x0300_0000;
const FIXED: u32 = 0x8000_0000;
/// BAR 0 in configuration space.
const BAR_0: u32 = 0x10;

/// Writes the node.
pub(crate) fn node(tree: &mut Fdt, machine: &Machine) {
    let buid = machine.phb.config().buid;
    tree.node(&format!("pci@{buid:x}"), |tree| {
        tree.strings("device_type", &["pci"]);
        tree.strings("compatible", &["IBM,Logical_PHB"]);
        tree.cells("reg", &halves([buid, 0]));
        tree.cells("#address-cells", &[3]);
        tree.cells("#size-cells", &[2]);
        tree.cells("#interrupt-cells", &[1]);
        tree.cells("bus-range", &[0, 0xff]);
        tree.flag("used-by-rtas");
        tree.cells("ibm,pci-config-space-type", &[1]);
        let messages: u32 = machine.functions().map(|function| function.messages().max()).sum();
        tree.cells("ibm,pe-total-#msi", &[messages]);
        let (start, size) = MMIO;
        tree.cells("ranges", &[&[MEMORY_32], &halves([start, start + MMIO_OFFSET, size])[..]].concat());
        tree.bytes("ibm,drc-info", &connectors(machine.devices.len() as u32));
        for property in machine.phb.properties(&DDW) {
            tree.bytes(property.name, &property.value);
        }
        machine.functions().for_each(|function| device_node(tree, function));
    });
}

/// Returns the connectors of the bus: one run with its type, start of names, first index and
/// number, count, distance, and no power domain.
fn connectors(slots: u32) -> Vec<u8> {
    let text = b"SLOT\0Slot \0";
    let cells = [SLOTS, 1, slots, 1, u32::MAX].into_iter().flat_map(u32::to_be_bytes);
    1u32.to_be_bytes().into_iter().chain(*text).chain(cells).collect()
}

/// Writes the node of a device.
pub(crate) fn device_node(tree: &mut Fdt, device: &dyn Function) {
    let register = |at, size| device.read_config(at, size);
    tree.node(&format!("{}@{:x}", device.name(), device.place() >> 11), |tree| {
        let (at, size) = device.bar();
        let bar = device.place() | BAR_0;
        let own = [device.place(), 0, 0, 0, 0];
        tree.cells("reg", &[&own[..], &[MEMORY_64 | bar, 0, 0], &halves([size])].concat());
        tree.cells("assigned-addresses", &[&[FIXED | MEMORY_64 | bar], &halves([at, size])[..]].concat());
        tree.cells("vendor-id", &[register(0x00, 2)]);
        tree.cells("device-id", &[register(0x02, 2)]);
        tree.cells("revision-id", &[register(0x08, 1)]);
        tree.cells("class-code", &[register(0x08, 4) >> 8]);
        tree.cells("subsystem-vendor-id", &[register(0x2c, 2)]);
        tree.cells("subsystem-id", &[register(0x2e, 2)]);
        tree.cells("ibm,req#msi-x", &[device.messages().max()]);
        tree.cells("ibm,pci-config-space-type", &[1]);
        if let Some(connector) = device.connector() {
            tree.cells("ibm,my-drc-index", &[connector]);
        }
    });
}
