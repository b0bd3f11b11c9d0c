//! Kinds of interrupt, and which of them are enabled.

use crate::uapi::vfio::{
    PCI_ERR_IRQ_INDEX, PCI_INTX_IRQ_INDEX, PCI_MSI_IRQ_INDEX, PCI_MSIX_IRQ_INDEX, PCI_REQ_IRQ_INDEX,
};

/// Kinds of interrupt. A device has one of INTx, MSI and MSI-X enabled at a time; the other two
/// come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display)]
pub enum InterruptKind {
    /// The interrupt pin. It masks itself when it fires: make the device deassert it, then call
    /// [`Interrupt::rearm`](super::Interrupt::rearm).
    #[strum(to_string = "INTx")]
    Intx,
    /// Messages. They are writes by the device, so none arrives while bus mastering is off.
    #[strum(to_string = "MSI")]
    Msi,
    /// Messages as with MSI, but more of them.
    #[strum(to_string = "MSI-X")]
    Msix,
    /// An uncorrected error of a PCI Express device.
    #[strum(to_string = "error interrupt")]
    Error,
    /// The host's request to give the device back: drop it.
    #[strum(to_string = "request interrupt")]
    Request,
}

impl InterruptKind {
    pub(super) const ALL: [Self; 5] = [Self::Intx, Self::Msi, Self::Msix, Self::Error, Self::Request];

    pub(super) fn index(self) -> u32 {
        match self {
            Self::Intx => PCI_INTX_IRQ_INDEX,
            Self::Msi => PCI_MSI_IRQ_INDEX,
            Self::Msix => PCI_MSIX_IRQ_INDEX,
            Self::Error => PCI_ERR_IRQ_INDEX,
            Self::Request => PCI_REQ_IRQ_INDEX,
        }
    }

    /// Returns whether it is one of the three kinds that exclude each other.
    pub(super) fn is_exclusive(self) -> bool {
        matches!(self, Self::Intx | Self::Msi | Self::Msix)
    }
}

/// The interrupts a device has of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptInfo {
    /// Kind of interrupt.
    pub kind: InterruptKind,
    /// Number of vectors, at least 1.
    pub count: u32,
}

/// The enabled kinds, each with the number of its owner.
#[derive(Debug, Default)]
pub(super) struct EnabledKinds {
    owners: [Option<u64>; 5],
    last: u64,
}

impl EnabledKinds {
    /// Returns the owner of a kind: `None` while it is disabled.
    pub(super) fn owner(&mut self, kind: InterruptKind) -> &mut Option<u64> {
        &mut self.owners[kind.index() as usize]
    }

    /// Marks a kind as enabled. Returns its owner's number, which was never used before.
    pub(super) fn enable(&mut self, kind: InterruptKind) -> u64 {
        self.last += 1;
        self.owners[kind.index() as usize] = Some(self.last);
        self.last
    }

    /// Marks a kind as disabled. Returns whether it was enabled.
    pub(super) fn take(&mut self, kind: InterruptKind) -> bool {
        self.owner(kind).take().is_some()
    }

    /// Returns the enabled one of the kinds that exclude each other.
    pub(super) fn exclusive(&self) -> Option<InterruptKind> {
        InterruptKind::ALL.into_iter().find(|kind| kind.is_exclusive() && self.owners[kind.index() as usize].is_some())
    }
}
