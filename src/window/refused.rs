//! Windows that the kernel refused: what is asked again is lost again.
//!
//! Where memory was short the refusal ends once there is more.

use super::PlanError;
use crate::addr::PageShift;
use std::collections::BTreeMap;

/// Windows the kernel refused to create, by group. They hold for the process: a failed creation
/// leaks each time, and the firmware's refusal lasts until reboot.
#[derive(Clone, Debug, Default)]
pub struct RefusedWindows(BTreeMap<u32, Refused>);

#[derive(Clone, Debug, Default)]
struct Refused {
    /// Whether the firmware failed a window, after which the kernel creates none.
    poisoned: bool,
    /// Pages, each with the smallest size refused.
    sizes: BTreeMap<PageShift, u64>,
    /// Those for which the machine had no memory.
    short: Vec<Short>,
}

/// A window for whose table there was no memory.
#[derive(Clone, Copy, Debug)]
struct Short {
    page: PageShift,
    size: u64,
    /// It may be asked for again once the machine has so many bytes to spare.
    until: u64,
}

impl RefusedWindows {
    /// Records that the kernel refused a window, or, if it `poisons`, will refuse all.
    pub fn remember(&mut self, group: u32, page: PageShift, size: u64, poisons: bool) {
        let refused = self.0.entry(group).or_default();
        refused.poisoned |= poisons;
        let least = refused.sizes.entry(page).or_insert(size);
        *least = size.min(*least);
    }

    /// The kernel had no memory for a window's table. It is asked again once `until` bytes are to
    /// spare.
    pub fn remember_short(&mut self, group: u32, page: PageShift, size: u64, until: u64) {
        self.0.entry(group).or_default().short.push(Short { page, size, until });
    }

    /// Forgets what was refused when less memory was to spare than the `available` bytes there are
    /// now.
    pub fn forget_short(&mut self, available: Option<u64>) {
        let Some(available) = available else { return };
        self.0.values_mut().for_each(|refused| refused.short.retain(|short| available < short.until));
    }

    /// Whether such a window may be asked for a group.
    pub fn check(&self, group: u32, page: PageShift, size: u64) -> Result<(), PlanError> {
        match self.0.get(&group) {
            Some(refused) if refused.poisoned => Err(PlanError::Poisoned),
            Some(refused) if refused.sizes.get(&page).is_some_and(|&least| least <= size) => {
                Err(PlanError::RefusedBefore { size, page })
            }
            Some(refused) if refused.short.iter().any(|short| short.page == page && short.size <= size) => {
                Err(PlanError::RefusedBefore { size, page })
            }
            _ => Ok(()),
        }
    }
}
