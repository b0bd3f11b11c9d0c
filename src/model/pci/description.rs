//! What a device is: IDs, BARs, interrupts and capabilities.

use crate::error::classify;

/// Number of BARs.
pub(in crate::model) const BARS: usize = 6;
/// The smallest BAR of memory, bytes.
const MIN_BAR: u64 = 16;
/// The largest BAR in the low 4 GiB, bytes.
const MAX_BAR: u64 = 1 << 31;
/// Bytes in an entry of the MSI-X table.
pub(super) const MSIX_ENTRY: u64 = 16;

/// Describes a device: what its configuration space shows, and what VFIO says of it.
///
/// Starts out as a conventional PCI device without BARs, interrupts or capabilities. Wrong values
/// are reported when the device is put into a machine, by
/// [`Model::with_device`](crate::model::Model::with_device).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub(in crate::model) id: (u16, u16),
    pub(super) subsystem: (u16, u16),
    pub(super) class: u32,
    pub(super) revision: u8,
    pub(super) bars: Vec<BarPlace>,
    pub(super) intx: bool,
    pub(super) msi: u32,
    pub(super) msix: Option<Msix>,
    pub(in crate::model) express: bool,
    pub(super) capabilities: Vec<Capability>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarPlace {
    pub(super) index: u32,
    pub(super) size: u64,
    /// Whether its address has 64 bits, which takes the next BAR as well.
    pub(super) wide: bool,
}

/// Location of the MSI-X table and the pending bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msix {
    pub(super) vectors: u32,
    pub(super) bar: u32,
    pub(super) table: u64,
    pub(super) pending: u64,
}

impl Msix {
    /// Bytes of the table.
    pub(super) fn table_size(&self) -> u64 {
        u64::from(self.vectors) * MSIX_ENTRY
    }

    /// Bytes of the pending bits, in words of 64.
    pub(super) fn pending_size(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64) * 8
    }
}

/// A capability that the device itself defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Capability {
    pub(super) id: u8,
    /// Bytes after ID and link.
    pub(super) bytes: Vec<u8>,
    /// Bits of `bytes` that a driver may change.
    pub(super) writable: Vec<u8>,
}

/// Why a [`Description`] does not describe a device. The machine is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum DescriptionError {
    /// BARs are numbered 0 to 5, and a BAR with a 64-bit address takes two of them.
    #[error(
        "there is no room for BAR {index}: BARs are 0 to 5, each is used once, and a 64-bit one takes the next too"
    )]
    Bar { index: u32 },
    /// Sizes of BARs are powers of two.
    #[error(
        "BAR {index} has {size:#x} bytes: sizes are powers of two from {MIN_BAR}, up to {MAX_BAR:#x} with a 32-bit address"
    )]
    BarSize { index: u32, size: u64 },
    /// A class code has three bytes.
    #[error("class {class:#x} has more than 24 bits: it is base class, subclass and interface, a byte each")]
    Class { class: u32 },
    /// MSI has 1 to 32 vectors, a power of two, MSI-X up to 2048.
    #[error("{vectors} vectors: MSI has 1, 2, 4, 8, 16 or 32, MSI-X 1 to 2048")]
    Vectors { vectors: u32 },
    /// The MSI-X table or its pending bits lie outside of their BAR, or overlap.
    #[error(
        "the MSI-X table at {table:#x} or its pending bits at {pending:#x} do not fit BAR {bar}: each must begin on 8 \
         bytes, lie inside, and not over the other"
    )]
    MsixPlace { bar: u32, table: u64, pending: u64 },
    /// All capabilities together are too long.
    #[error("the capabilities take {bytes} bytes, the configuration space has 192 for them")]
    Capabilities { bytes: usize },
    /// The model itself provides these capabilities.
    #[error("capability {id:#04x} is made by the model: use `msi`, `msix` or `express`")]
    OwnCapability { id: u8 },
}

classify!(DescriptionError {
    Argument: Bar, BarSize, Class, Vectors, MsixPlace, Capabilities, OwnCapability;
});

/// IDs of capabilities that the model provides.
pub(super) const MSI: u8 = 0x05;
pub(super) const EXPRESS: u8 = 0x10;
pub(super) const MSIX: u8 = 0x11;

impl Description {
    /// Describes a device with these IDs.
    pub fn new(vendor: u16, device: u16) -> Self {
        Self {
            id: (vendor, device),
            subsystem: (0, 0),
            class: 0xff_0000,
            revision: 0,
            bars: Vec::new(),
            intx: false,
            msi: 0,
            msix: None,
            express: false,
            capabilities: Vec::new(),
        }
    }

    /// Sets the IDs of the subsystem, 0 by default.
    pub fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.subsystem = (vendor, device);
        self
    }

    /// Sets the class: base class, subclass and interface, such as 0x010802 for NVMe; 0xff0000 by
    /// default, which is none of the known ones.
    pub fn class(mut self, class: u32) -> Self {
        self.class = class;
        self
    }

    /// Sets the revision, 0 by default.
    pub fn revision(mut self, revision: u8) -> Self {
        self.revision = revision;
        self
    }

    /// Adds BAR `index`, 0 to 5, of `size` bytes of memory, with a 32-bit address.
    pub fn bar(mut self, index: u32, size: u64) -> Self {
        self.bars.push(BarPlace { index, size, wide: false });
        self
    }

    /// Adds BAR `index`, 0 to 4, with a 64-bit address, whose upper half is BAR `index + 1`.
    pub fn bar64(mut self, index: u32, size: u64) -> Self {
        self.bars.push(BarPlace { index, size, wide: true });
        self
    }

    /// Gives it an interrupt pin (INTx).
    pub fn intx(mut self) -> Self {
        self.intx = true;
        self
    }

    /// Gives it MSI with that many vectors: 1, 2, 4, 8, 16 or 32.
    pub fn msi(mut self, vectors: u32) -> Self {
        self.msi = vectors;
        self
    }

    /// Gives it MSI-X of 1 to 2048 vectors, whose table and pending bits lie in a BAR at these
    /// offsets, in bytes. The model answers for both.
    pub fn msix(mut self, vectors: u32, bar: u32, table: u64, pending: u64) -> Self {
        self.msix = Some(Msix { vectors, bar, table, pending });
        self
    }

    /// Makes it a PCI Express device: with 4096 bytes of configuration space, an error interrupt,
    /// and a reset of the function alone, which a conventional device on pseries does not have.
    pub fn express(mut self) -> Self {
        self.express = true;
        self
    }

    /// Adds a capability of the device's own, such as 0x09 for a vendor's: `bytes` follow its ID
    /// and link, and `writable` has the bits of them that a driver may change (none where it is
    /// shorter). Capabilities lie from offset 0x40 on in the order they are added, on multiples of
    /// 4, after MSI, MSI-X and PCI Express.
    pub fn capability(mut self, id: u8, bytes: &[u8], writable: &[u8]) -> Self {
        self.capabilities.push(Capability { id, bytes: bytes.into(), writable: writable.into() });
        self
    }

    pub(super) fn check(&self) -> Result<(), DescriptionError> {
        if self.class >> 24 != 0 {
            return Err(DescriptionError::Class { class: self.class });
        }
        let mut used = [false; BARS];
        for &BarPlace { index, size, wide } in &self.bars {
            let limit = if wide { 1 << 63 } else { MAX_BAR };
            for at in index..=index.saturating_add(wide.into()) {
                let free = used.get_mut(at as usize).filter(|used| !**used);
                *free.ok_or(DescriptionError::Bar { index })? = true;
            }
            if !size.is_power_of_two() || !(MIN_BAR..=limit).contains(&size) {
                return Err(DescriptionError::BarSize { index, size });
            }
        }
        if !matches!(self.msi, 0 | 1 | 2 | 4 | 8 | 16 | 32) {
            return Err(DescriptionError::Vectors { vectors: self.msi });
        }
        if let Some(msix) = &self.msix {
            if !(1..=2048).contains(&msix.vectors) {
                return Err(DescriptionError::Vectors { vectors: msix.vectors });
            }
            if !self.holds(msix) {
                let Msix { bar, table, pending, .. } = *msix;
                return Err(DescriptionError::MsixPlace { bar, table, pending });
            }
        }
        match self.capabilities.iter().find(|capability| matches!(capability.id, MSI | MSIX | EXPRESS)) {
            Some(Capability { id, .. }) => Err(DescriptionError::OwnCapability { id: *id }),
            None => Ok(()),
        }
    }

    /// Returns whether table and pending bits lie in their BAR.
    fn holds(&self, msix: &Msix) -> bool {
        // Offsets share a 32-bit word with the number of the BAR.
        let limit = self.bar_size(msix.bar).min(1 << 32);
        let end = |at: u64, size: u64| at.checked_add(size).filter(|end| *end <= limit && at.is_multiple_of(8));
        let table = end(msix.table, msix.table_size());
        let pending = end(msix.pending, msix.pending_size());
        let (Some(table), Some(pending)) = (table, pending) else { return false };
        table <= msix.pending || pending <= msix.table
    }

    /// Returns the size of a BAR; 0 if the device does not have it.
    pub(in crate::model) fn bar_size(&self, index: u32) -> u64 {
        self.bars.iter().find(|bar| bar.index == index).map_or(0, |bar| bar.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Description {
        Description::new(1, 2)
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        let code = |description: Description| description.check().map_err(|error| error.code());
        assert_eq!(code(plain().bar(0, 4096).bar64(1, 1 << 40).bar(3, 16).intx().msi(8).class(0xff_ffff)), Ok(()));
        assert_eq!(code(plain().bar64(0, 0x4000).msix(65, 0, 0x2000, 0x3000)), Ok(()));
        for description in [plain().bar(6, 16), plain().bar64(5, 16), plain().bar64(0, 16).bar(1, 16)] {
            assert_eq!(code(description), Err("bar"));
        }
        for description in [plain().bar(0, 8), plain().bar(0, 0), plain().bar(0, 48), plain().bar(0, 1 << 32)] {
            assert_eq!(code(description), Err("bar-size"));
        }
        assert_eq!(code(plain().class(1 << 24)), Err("class"));
        assert_eq!(code(plain().msi(3)), Err("vectors"));
        let bar = || plain().bar(0, 4096);
        assert_eq!(code(bar().msix(0, 0, 0, 2048)), Err("vectors"));
        assert_eq!(code(bar().msix(2049, 0, 0, 2048)), Err("vectors"));
        for (vectors, table, pending) in [(129, 0, 2048), (128, 4, 2056), (1, 4096, 0), (1, 0, 4096), (1, u64::MAX, 0)]
        {
            assert_eq!(code(bar().msix(vectors, 0, table, pending)), Err("msix-place"));
        }
        assert_eq!(code(bar().msix(1, 1, 0, 16)), Err("msix-place"), "there is no such BAR");
        assert_eq!(code(plain().capability(MSIX, &[], &[])), Err("own-capability"));
    }
}
