//! The request of a plan.

use super::PlanHost;
use spapr_iommu::addr::{Amount, PageShift};

/// Address bits with which a device reaches any window.
const ALL_BITS: u32 = 64;
/// Address bits from which on a device reaches the dynamic window, at 1 << 59.
const DYNAMIC_BITS: u32 = 60;

/// Memory, devices and a guest to plan for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wanted {
    /// Bytes of memory that devices reach at the start.
    pub memory: u64,
    /// Bytes once everything is plugged in; windows are created for these.
    pub max_memory: u64,
    /// Page size of the memory; `None` for the host's.
    pub backing: Option<PageShift>,
    /// Bits of the address mask of each device. Each has a group of its own.
    pub devices: Vec<u32>,
    /// IOMMU pages that a pseries guest is offered; none if no guest fills the tables.
    pub guest_pages: Vec<PageShift>,
    /// Whether KVM keeps the guest's tables and answers what it can.
    pub accelerated: bool,
}

impl Wanted {
    /// Requests `memory` bytes for one device with 64 address bits, and no guest.
    pub fn new(memory: u64) -> Self {
        let devices = vec![ALL_BITS];
        Self { memory, max_memory: memory, backing: None, devices, guest_pages: Vec::new(), accelerated: false }
    }

    /// Returns the page of the memory.
    pub(super) fn backing(&self, host: &PlanHost) -> PageShift {
        self.backing.unwrap_or(host.facts.host_page)
    }

    /// Returns whether a pseries guest fills the tables.
    pub(super) fn has_guest(&self) -> bool {
        !self.guest_pages.is_empty()
    }

    /// Returns whether a device reaches the dynamic window.
    pub(super) fn needs_dynamic(&self) -> bool {
        self.devices.iter().any(|&bits| bits >= DYNAMIC_BITS)
    }

    /// Returns the last bus address that every device reaches which does not reach the dynamic
    /// window; `None` if all of them reach it.
    pub(super) fn low_reach(&self) -> Option<u64> {
        let bits = self.devices.iter().filter(|&&bits| bits < DYNAMIC_BITS).min()?;
        Some((1 << bits) - 1)
    }

    pub(super) fn check(&self, host: &PlanHost) -> Result<(), WantedError> {
        let (backing, host_page) = (self.backing(host), host.facts.host_page);
        if backing < host_page {
            return Err(WantedError::BelowHostPage { backing, host_page });
        }
        if backing > host_page && !host.huge_pages.contains(&backing) {
            return Err(WantedError::NoSuchPages { backing, host_page, huge: host.huge_pages.clone() });
        }
        let (memory, max_memory) = (self.memory, self.max_memory);
        if max_memory < memory {
            return Err(WantedError::MaxBelowMemory { memory, max_memory });
        }
        if let Some(bytes) = [memory, max_memory].into_iter().find(|bytes| *bytes == 0 || bytes & backing.mask() != 0) {
            return Err(WantedError::NotWholePages { bytes, backing });
        }
        match self.devices.iter().find(|bits| !(12..=ALL_BITS).contains(*bits)) {
            Some(&bits) => Err(WantedError::Mask { bits }),
            None if self.devices.is_empty() => Err(WantedError::NoDevice),
            None if self.accelerated && !self.has_guest() => Err(WantedError::NoGuest),
            None => Ok(()),
        }
    }
}

/// Why no plan can be made for a request, on any kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum WantedError {
    /// Memory has at least the host's pages.
    #[error("memory has pages of {host_page} on this host: `--backing {backing}` is less")]
    BelowHostPage { backing: PageShift, host_page: PageShift },
    /// The machine has no such huge pages.
    #[error("this host has no pages of {backing}: `--backing` is one of {}", pages(*host_page, huge))]
    NoSuchPages { backing: PageShift, host_page: PageShift, huge: Vec<PageShift> },
    /// The maximum is less than the initial memory.
    #[error(
        "`--max-memory` is {}, less than `--memory`, {}: it is the memory with everything plugged in",
        Amount(*max_memory),
        Amount(*memory)
    )]
    MaxBelowMemory { memory: u64, max_memory: u64 },
    /// Memory is registered by whole pages.
    #[error("{} of memory is not a whole number of pages of {backing}: memory is registered by pages", Amount(*bytes))]
    NotWholePages { bytes: u64, backing: PageShift },
    /// No device has that many address bits.
    #[error("no device has {bits} address bits: they have from 12 to 64")]
    Mask { bits: u32 },
    /// Without a device there is no window.
    #[error("at least one device is needed: without one there is no window")]
    NoDevice,
    /// KVM keeps tables of guests.
    #[error("`--accel` is for a guest, whose tables KVM keeps: add `--guest-pages`")]
    NoGuest,
}

fn pages(host_page: PageShift, huge: &[PageShift]) -> String {
    let all: Vec<_> = [host_page].iter().chain(huge).map(PageShift::to_string).collect();
    all.join(", ")
}
