//! Reads the device tree.

use fdt::Fdt;
use fdt::node::FdtNode;

/// Tokens of the calls for dynamic windows.
pub(super) struct Ddw {
    pub query: u32,
    pub create: u32,
    pub remove: u32,
}

/// Kind of the device on the PHB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Edu,
    Nvme,
}

/// The device on the PHB.
pub(super) struct Device {
    pub kind: Kind,
    /// Bus, device and function, as RTAS calls take them.
    pub config: u32,
    /// Real address of BAR 0.
    pub bar: u64,
}

/// The PHB.
pub(super) struct Phb {
    pub buid: u64,
    pub liobn: u64,
    /// The default window: start and bytes.
    pub window: (u64, u64),
    pub ddw: Ddw,
    pub device: Device,
}

/// The facts that this guest needs.
pub(super) struct Machine {
    /// Bytes of RAM, from address 0 on.
    pub ram: u64,
    pub phb: Phb,
}

fn cell(node: &FdtNode, name: &str, index: usize) -> Option<u32> {
    let bytes = node.property(name)?.value.get(4 * index..4 * index + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn pair(node: &FdtNode, name: &str, index: usize) -> Option<u64> {
    Some(u64::from(cell(node, name, index)?) << 32 | u64::from(cell(node, name, index + 1)?))
}

/// Reads the tree at `at`; the error names what is missing.
///
/// # Safety A device tree must lie there, and nothing may change it.
pub(super) unsafe fn machine(at: usize) -> Result<Machine, &'static str> {
    // SAFETY: the caller's promise.
    let tree = unsafe { Fdt::from_ptr(core::ptr::with_exposed_provenance(at)) }.map_err(|_| "no device tree")?;
    let memory = tree.find_node("/memory@0").ok_or("no memory")?;
    let ram = pair(&memory, "reg", 2).ok_or("no size of memory")?;
    let node = tree.find_compatible(&["IBM,Logical_PHB"]).ok_or("no PHB")?;
    if [cell(&node, "ibm,#dma-address-cells", 0), cell(&node, "ibm,#dma-size-cells", 0)] != [Some(2), Some(2)] {
        return Err("DMA windows with other cells than 2");
    }
    let cells = |index| cell(&node, "ibm,ddw-applicable", index).ok_or("no dynamic windows");
    let ddw = Ddw { query: cells(0)?, create: cells(1)?, remove: cells(2)? };
    if cell(&node, "ibm,ddw-extensions", 2) != Some(1) {
        return Err("no query with 6 results");
    }
    let child = node.children().next().ok_or("no device")?;
    let kind = match (cell(&child, "vendor-id", 0), cell(&child, "class-code", 0)) {
        (Some(0x1234), _) => Kind::Edu,
        (_, Some(0x01_0802)) => Kind::Nvme,
        _ => return Err("a device of another kind"),
    };
    let phb = Phb {
        buid: pair(&node, "reg", 0).ok_or("no BUID")?,
        liobn: cell(&node, "ibm,dma-window", 0).ok_or("no window")?.into(),
        window: pair(&node, "ibm,dma-window", 1).zip(pair(&node, "ibm,dma-window", 3)).ok_or("no window")?,
        ddw,
        device: Device {
            kind,
            // Returns bus, device and function of the first cell of `reg`.
            config: cell(&child, "reg", 0).ok_or("no place of the device")? & 0xff_ff00,
            bar: pair(&child, "assigned-addresses", 1).ok_or("no BAR")?,
        },
    };
    Ok(Machine { ram, phb })
}
