//! A device that copies: it reads memory and writes memory, by bus addresses.

use super::edu::Edu;
use super::nvme::Nvme;
use super::tree::Kind;

/// Bytes of a copy.
pub(super) const LEN: u64 = 4096;

/// The device, of either kind.
pub(super) enum Copier {
    Edu(Edu),
    Nvme(Nvme),
}

impl Copier {
    /// The device with its BAR 0 there, if it answers.
    pub(super) fn new(kind: Kind, bar: u64) -> Option<Self> {
        match kind {
            Kind::Edu => Edu::new(bar).map(Self::Edu),
            Kind::Nvme => Nvme::new(bar).map(Self::Nvme),
        }
    }

    /// Copies `LEN` bytes from one bus address to another. `queues` is where the device finds
    /// `nvme::QUEUES` on the bus.
    pub(super) fn copy(&self, from: u64, to: u64, queues: u64) -> bool {
        match self {
            Self::Edu(edu) => edu.copy(from, to, LEN),
            Self::Nvme(nvme) => nvme.copy(from, to, queues),
        }
    }
}
