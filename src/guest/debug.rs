//! What a guest's objects look like in a log: a few lines, whatever is in their tables.

use super::GuestIommu;
use super::phb::Phb;
use super::ram::GuestRam;
use super::table::TceTable;
use core::fmt::{self, Debug, Formatter};

/// The most PHBs that are shown.
const MAX_SHOWN: usize = 4;

impl Debug for TceTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let in_kernel = if self.is_in_kernel() { ", in_kernel by the kernel" } else { "" };
        write!(f, "TceTable({}, {}, pages of {}{in_kernel})", self.liobn(), self.window(), self.page())
    }
}

impl Debug for Phb {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Phb");
        shown.field("buid", &format_args!("{:#x}", self.config().buid)).field("windows", &self.tables());
        match self.groups.try_lock() {
            Some(groups) => shown.field("groups", &groups.len()),
            None => shown.field("groups", &format_args!("changing")),
        };
        shown.finish_non_exhaustive()
    }
}

impl Debug for GuestRam {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ram = self.snapshot();
        write!(f, "GuestRam({:#x} bytes in {} slots)", ram.bytes(), self.slots().len())
    }
}

impl Debug for GuestIommu {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("GuestIommu");
        shown.field("ram", &self.ram).field("accelerated", &self.kvm.is_some());
        if let Some(phbs) = self.phbs.try_lock() {
            shown.field("phbs", &phbs.len());
            phbs.iter().take(MAX_SHOWN).for_each(|phb| {
                shown.field("phb", phb);
            });
        }
        shown.finish_non_exhaustive()
    }
}
