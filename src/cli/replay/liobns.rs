//! QEMU's numbers of bridges and windows, and which window here stands for which of QEMU's.
//!
//! A VMM chooses the LIOBN of a window, and the guest takes what it is given. QEMU gives a free
//! one, which is that of the default window once the guest removed it; this library has one LIOBN
//! for the default window and one for the dynamic window. Where they differ, the guest would have
//! used the other number, so its calls are translated.

use std::collections::BTreeMap;

/// LIOBNs of QEMU's PCI host bridges: `0x80000000 | index << 8 | window`
/// (`include/hw/pci-host/spapr.h`).
const PCI_LIOBN: u32 = 0x8000_0000;
/// The bits of a LIOBN that number the windows of a bridge.
pub(super) const WINDOW_BITS: u64 = 0xff;
/// BUIDs are this plus the index of the bridge (`include/hw/pci-host/spapr.h`).
const BASE_BUID: u64 = 0x0800_0000_2000_0000;
/// Largest number of bridges in a machine, which are 1 TiB apart between 32 and 64 TiB
/// (`include/hw/pci-host/spapr.h`).
const MAX_BRIDGES: u32 = 31;
/// A LIOBN that no bridge has.
const NOWHERE: u64 = u32::MAX as u64;

/// A PCI host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) liobn: u32,
    pub(super) buid: u64,
}

impl Bridge {
    fn new(index: u64) -> Option<Self> {
        let index = u32::try_from(index).ok().filter(|index| *index < MAX_BRIDGES)?;
        Some(Self { liobn: PCI_LIOBN | index << 8, buid: BASE_BUID + u64::from(index) })
    }
}

/// Returns the bridge of a BUID.
pub(super) fn bridge_of(buid: u64) -> Option<Bridge> {
    Bridge::new(buid.checked_sub(BASE_BUID)?)
}

/// Returns the bridge whose windows have such a LIOBN.
pub(super) fn bridge_with(liobn: u64) -> Option<Bridge> {
    Bridge::new(liobn.checked_sub(PCI_LIOBN.into())? >> 8)
}

/// Returns the bridge whose default window has that LIOBN at the start.
pub(super) fn bridge_by_default(liobn: u64) -> Option<Bridge> {
    bridge_with(liobn).filter(|bridge| u64::from(bridge.liobn) == liobn)
}

/// A window as this library made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Here {
    liobn: u64,
    /// Added to a bus address of QEMU's window, modulo 2^64.
    offset: u64,
}

/// The windows here, by QEMU's LIOBN. Each window here stands for one of QEMU's, so there are at
/// most two for a bridge.
#[derive(Debug, Default)]
pub(super) struct Liobns(BTreeMap<u64, Here>);

impl Liobns {
    /// Starts with the default windows of bridges, given by LIOBN.
    pub(super) fn new(bridges: impl IntoIterator<Item = u64>) -> Self {
        let mut liobns = Self::default();
        bridges.into_iter().for_each(|liobn| liobns.reset(liobn));
        liobns
    }

    /// Leaves a bridge its default window and no other.
    pub(super) fn reset(&mut self, default: u64) {
        self.0.retain(|_, here| here.liobn & !WINDOW_BITS != default);
        self.0.insert(default, Here { liobn: default, offset: 0 });
    }

    /// Adds a window that both created: LIOBN and start.
    pub(super) fn made(&mut self, (liobn, start): (u64, u64), (here, start_here): (u64, u64)) {
        self.0.retain(|_, before| before.liobn != here);
        self.0.insert(liobn, Here { liobn: here, offset: start_here.wrapping_sub(start) });
    }

    /// Removes a window, and returns its LIOBN here.
    pub(super) fn removed(&mut self, liobn: u64) -> u64 {
        let (here, _) = self.here(liobn, 0);
        self.0.remove(&liobn);
        here
    }

    /// Returns the LIOBN and the bus address here. What is not a window of QEMU's is
    /// not one here either.
    pub(super) fn here(&self, liobn: u64, ioba: u64) -> (u64, u64) {
        match self.0.get(&liobn) {
            Some(here) => (here.liobn, ioba.wrapping_add(here.offset)),
            None if self.0.values().any(|here| here.liobn == liobn) => (NOWHERE, ioba),
            None => (liobn, ioba),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: u64 = 0x8000_0000;
    const DYNAMIC: u64 = 0x8000_0001;

    #[test]
    fn windows_are_the_same_until_they_are_made_otherwise() {
        let mut liobns = Liobns::new([DEFAULT, 0x8000_0100]);
        for liobn in [DEFAULT, DYNAMIC, 0x8000_0100, 7] {
            assert_eq!(liobns.here(liobn, 0x1000), (liobn, 0x1000));
        }
        liobns.made((DYNAMIC, 1 << 59), (DYNAMIC, 1 << 59));
        assert_eq!(liobns.here(DYNAMIC, 1 << 59), (DYNAMIC, 1 << 59));
    }

    #[test]
    fn a_window_with_the_number_of_the_removed_one_is_carried_over() {
        let mut liobns = Liobns::new([DEFAULT]);
        assert_eq!(liobns.removed(DEFAULT), DEFAULT);
        liobns.made((DEFAULT, 0), (DYNAMIC, 1 << 59));
        assert_eq!(liobns.here(DEFAULT, 0x1000), (DYNAMIC, (1 << 59) + 0x1000));
        assert_eq!(liobns.here(DYNAMIC, 0x1000), (NOWHERE, 0x1000), "QEMU has no such window");
        assert_eq!(liobns.removed(DEFAULT), DYNAMIC);
        assert_eq!(liobns.here(DEFAULT, 0), (DEFAULT, 0));
        liobns.made((DEFAULT, 0), (DYNAMIC, 0));
        liobns.reset(DEFAULT);
        assert_eq!((liobns.here(DEFAULT, 1), liobns.here(DYNAMIC, 1)), ((DEFAULT, 1), (DYNAMIC, 1)));
    }

    #[test]
    fn windows_never_pile_up() {
        let mut liobns = Liobns::new([DEFAULT]);
        for liobn in 0..10_000 {
            liobns.made((liobn, 0), (DYNAMIC, 0));
        }
        assert_eq!(liobns.0.len(), 2);
    }
}
