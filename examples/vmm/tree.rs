//! Builds the guest's device tree: memory, RTAS calls, one PHB with one device.

use super::device::{BAR, Passed};
use spapr_iommu::guest::{DdwTokens, Phb};
use vm_fdt::{Error, FdtWriter};

/// RTAS tokens, chosen freely.
pub(crate) const TOKENS: DdwTokens = DdwTokens { query: 0x2001, create: 0x2002, remove: 0x2003, reset: 0x2004 };

/// Bus 0, device 1, function 0, as in `reg` of a PCI node.
const PLACE: u32 = 0x800;
/// BAR 0 of it: 64-bit memory, not relocatable.
const BAR_0: u32 = 0x8300_0010 | PLACE;

fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// Builds the flattened tree.
pub(crate) fn make(ram: u64, phb: &Phb, device: &Passed) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("device_type", "chrp")?;
    tree.property_string("model", "spapr-iommu example")?;

    let memory = tree.begin_node("memory@0")?;
    tree.property_string("device_type", "memory")?;
    let [high, low] = halves(ram);
    tree.property_array_u32("reg", &[0, 0, high, low])?;
    tree.end_node(memory)?;

    let rtas = tree.begin_node("rtas")?;
    for (name, token) in TOKENS.names() {
        tree.property_u32(name, token)?;
    }
    tree.end_node(rtas)?;

    let buid = phb.config().buid;
    let bridge = tree.begin_node(&format!("pci@{buid:x}"))?;
    tree.property_string("device_type", "pci")?;
    tree.property_string("compatible", "IBM,Logical_PHB")?;
    tree.property_u32("#address-cells", 3)?;
    tree.property_u32("#size-cells", 2)?;
    let [high, low] = halves(buid);
    tree.property_array_u32("reg", &[high, low, 0, 0])?;
    tree.property_array_u32("bus-range", &[0, 0xff])?;
    for property in phb.properties(&TOKENS) {
        tree.property(property.name, &property.value)?;
    }
    let (vendor, id, class) = device.kind.id();
    let node = tree.begin_node("device@1")?;
    tree.property_array_u32("reg", &[PLACE, 0, 0, 0, 0])?;
    tree.property_u32("vendor-id", vendor.into())?;
    tree.property_u32("device-id", id.into())?;
    tree.property_u32("class-code", class)?;
    let ([high, low], [size_high, size_low]) = (halves(BAR), halves(device.size()));
    tree.property_array_u32("assigned-addresses", &[BAR_0, high, low, size_high, size_low])?;
    tree.end_node(node)?;
    tree.end_node(bridge)?;
    tree.end_node(root)?;
    tree.finish()
}
