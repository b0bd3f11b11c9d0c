//! Options of a driver's program: how it learns of completions, and by which interrupts.

use crate::driver::Wait;
use clap::ValueEnum;
use spapr_iommu::device::InterruptKind;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum How {
    Interrupts,
    Polling,
}

impl From<How> for Wait {
    fn from(how: How) -> Self {
        match how {
            How::Interrupts => Self::Interrupts,
            How::Polling => Self::Polling,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    Msix,
    Msi,
    Intx,
}

impl From<Kind> for InterruptKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Msix => Self::Msix,
            Kind::Msi => Self::Msi,
            Kind::Intx => Self::Intx,
        }
    }
}
