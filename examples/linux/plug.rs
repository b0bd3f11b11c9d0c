//! What a connector stands for: a block of RAM, or a device of the host in a slot of the bus.

use super::fdt::Fdt;
use super::machine::Machine;
use super::memory::BLOCK;
use super::slot::Slot;
use super::{blocks, pci};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

/// Index of the first connector of each kind, given by the high bits.
pub(crate) const BLOCKS: u32 = 0x8000_0000;
pub(crate) const SLOTS: u32 = 0x4000_0000;

/// What a connector stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity {
    Block(u32),
    Slot(u32),
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(number) => write!(f, "block {number}"),
            Self::Slot(number) => write!(f, "slot {number}"),
        }
    }
}

impl Entity {
    /// Returns what the connector with an index stands for; `None` if there is none.
    pub(crate) fn of(machine: &Machine, index: u32) -> Option<Self> {
        match (index.checked_sub(BLOCKS), index.checked_sub(SLOTS)) {
            (Some(block), _) => (block < machine.ram.blocks()).then_some(Self::Block(block)),
            (None, Some(slot)) => ((slot as usize) < machine.devices.len()).then_some(Self::Slot(slot)),
            (None, None) => None,
        }
    }

    /// Returns whether the guest boots with it.
    pub(crate) fn is_there_at_boot(self) -> bool {
        matches!(self, Self::Slot(_))
    }

    /// Returns its nodes of the device tree.
    pub(crate) fn nodes(self, machine: &Machine) -> Fdt {
        let mut tree = Fdt::default();
        match self {
            Self::Block(block) => blocks::block(&mut tree, &machine.ram, block),
            Self::Slot(slot) => pci::device_node(&mut tree, &machine.devices[slot as usize]),
        }
        tree
    }

    /// Gives it to the guest. No processor may run.
    fn plug(self, machine: &Machine) -> Result<(), Box<dyn Error>> {
        let slot = match self {
            Self::Block(block) => return machine.ram.plug(&machine.vm, &machine.iommu, block),
            Self::Slot(slot) => &machine.devices[slot as usize],
        };
        let first = !is_attached(machine, slot);
        if first {
            machine.phb.attach(slot.group)?;
        }
        slot.plug(&machine.phb).inspect_err(|_| {
            // No device of the group is open.
            let _ = first.then(|| machine.phb.detach(slot.group));
        })
    }

    /// Takes it from the guest. No processor may run.
    fn unplug(self, machine: &Machine) -> Result<(), Box<dyn Error>> {
        let slot = match self {
            Self::Block(block) => return machine.ram.unplug(&machine.vm, &machine.iommu, block),
            Self::Slot(slot) => &machine.devices[slot as usize],
        };
        slot.unplug(&machine.vm)?;
        if !is_attached(machine, slot) {
            machine.phb.detach(slot.group).or_else(|error| {
                // The group stays attached, and the device stays the guest's.
                slot.plug(&machine.phb)?;
                Err(Box::<dyn Error>::from(error))
            })?;
        }
        Ok(())
    }
}

/// Returns whether the group of a slot has an open device.
fn is_attached(machine: &Machine, slot: &Slot) -> bool {
    machine.devices.iter().any(|other| other.group == slot.group && other.is_plugged())
}

/// What was plugged and unplugged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) plugged: u32,
    pub(crate) unplugged: u32,
    /// Where locked memory did not change as it should.
    pub(crate) wrong: Vec<String>,
    /// How much less was locked without a device.
    without: BTreeMap<Entity, u64>,
}

impl Tally {
    /// Plugs it, and checks how much more is locked.
    pub(crate) fn plug(&mut self, machine: &Machine, what: Entity) -> Result<(), Box<dyn Error>> {
        let before = machine.locked()?;
        let closed = machine.gate.close(&machine.cpus);
        what.plug(machine)?;
        drop(closed);
        self.plugged += 1;
        let wanted = match what {
            Entity::Block(_) => Some(BLOCK),
            Entity::Slot(_) => self.without.remove(&what),
        };
        self.compare(machine, &format!("plugged {what}: more"), machine.locked()?.saturating_sub(before), wanted);
        Ok(())
    }

    /// Unplugs it, and checks how much less is locked.
    pub(crate) fn unplug(&mut self, machine: &Machine, what: Entity) -> Result<(), Box<dyn Error>> {
        let before = machine.locked()?;
        let closed = machine.gate.close(&machine.cpus);
        what.unplug(machine)?;
        drop(closed);
        self.unplugged += 1;
        let less = before.saturating_sub(machine.locked()?);
        let wanted = match what {
            Entity::Block(_) => Some(BLOCK),
            Entity::Slot(_) => {
                self.without.insert(what, less);
                None
            }
        };
        self.compare(machine, &format!("unplugged {what}: less"), less, wanted);
        Ok(())
    }

    fn compare(&mut self, machine: &Machine, what: &str, bytes: u64, wanted: Option<u64>) {
        let line = format!("{what} locked by {bytes} bytes, {} TCEs", machine.tces());
        println!("{line}");
        if wanted.is_some_and(|wanted| wanted != bytes) {
            self.wrong.push(line);
        }
    }
}
